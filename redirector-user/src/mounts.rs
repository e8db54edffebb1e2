//! Where file systems are mounted, from `/proc/self/mountinfo`.

use std::cmp::Reverse;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::shell::quoted;

/// A mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// The directory of the file system that is mounted; `/` for all of it.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
    /// The type of the file system: `cgroup2`, `bpf`.
    pub kind: String,
}

/// All mounts that this process sees.
pub fn mounts() -> std::io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// Whether the machine's first process sees a file system of this kind there, too; `true`
/// where that cannot be told, or it has the mounts of this process.
pub fn machine_has(kind: &str, point: &Path) -> bool {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let (own, first) = (namespace("self"), namespace("1"));
    if first.is_none() || own == first {
        return true;
    }
    let Ok(shown) = std::fs::read("/proc/1/mountinfo") else { return true };
    parse(&shown).iter().any(|mount| mount.kind == kind && mount.point == point)
}

/// The usual place of the bpffs.
pub const BPFFS: &str = "/sys/fs/bpf";

/// How it is mounted: without this, everybody may make directories in it.
pub const BPFFS_MODE: &str = "mode=0700";

/// How a directory of pins comes to be on a bpffs, where it is on none. It hides nothing.
pub fn bpffs_remedy(directory: &Path) -> String {
    let is_empty = |path: &Path| {
        !path.exists() || path.read_dir().is_ok_and(|mut entries| entries.next().is_none())
    };
    // Anywhere else it is mounted on the directory itself: on one above it would hide
    // what lies there, as it would on one with something in it.
    if directory.starts_with(BPFFS) {
        format!("mount one: mount -t bpf -o {BPFFS_MODE} bpf {BPFFS}")
    } else if is_empty(directory) {
        format!(
            "mount one: mkdir -p {0} && mount -t bpf -o {BPFFS_MODE} bpf {0}",
            quoted(directory)
        )
    } else {
        format!(
            "name another directory, such as --bpffs {BPFFS}/redirector: something else is in this \
             one, which a mount would hide"
        )
    }
}

/// The id of the root of the cgroup2 hierarchy.
const CGROUP2_ROOT: u64 = 1;

/// Where cgroup2 is mounted: whole rather than in part, and of several the
/// first. On a hybrid machine that is `/sys/fs/cgroup/unified`.
///
/// In a container with a cgroup namespace of its own, its own mount looks whole
/// and the machine's does not: the number of the directory tells. Where the
/// machine's is not there, as in a node that is itself a container, it is the
/// one that shows most: the node's lies above the container's own.
pub fn cgroup2() -> std::io::Result<Option<PathBuf>> {
    let mut mounts: Vec<_> = mounts()?.into_iter().filter(|m| m.kind == "cgroup2").collect();
    mounts.sort_by_key(|mount| {
        (!is_whole(&mount.point), Reverse(above(&mount.root)), mount.root != Path::new("/"))
    });
    Ok(mounts.into_iter().next().map(|mount| mount.point))
}

/// Whether a cgroup2 mount shows the whole hierarchy.
pub fn is_whole(mount: &Path) -> bool {
    inode(mount) == Some(CGROUP2_ROOT)
}

/// The root of this process's cgroup namespace, where it is mounted, and its
/// id; nothing in the machine's own namespace.
pub fn cgroup_namespace() -> std::io::Result<Option<(PathBuf, u64)>> {
    let own = mounts()?.into_iter().filter(|m| m.kind == "cgroup2" && m.root == Path::new("/"));
    let roots = own.filter_map(|mount| Some((inode(&mount.point)?, mount.point)));
    Ok(roots.filter(|(id, _)| *id != CGROUP2_ROOT).map(|(id, point)| (point, id)).next())
}

/// The cgroup of a process (`self` for this one) as /proc shows it: from the root
/// of this process's cgroup namespace on.
///
/// # Errors
///
/// `NotFound` when there is no such process; with the reason, when it is in no
/// cgroup2 hierarchy.
pub fn shown_cgroup(pid: &str) -> std::io::Result<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    let path =
        path.ok_or_else(|| std::io::Error::other("the process is in no cgroup of cgroup2"))?;
    // The kernel marks a cgroup that was removed below its process.
    Ok(path.strip_suffix(" (deleted)").unwrap_or(path).into())
}

/// The directory of a process's cgroup (`self` for this process's) below a
/// cgroup2 mount.
///
/// # Errors
///
/// `NotFound` when there is no such process; with the reason, when its cgroup
/// lies outside of what the mount shows, or is in no cgroup2 hierarchy.
pub fn cgroup_of(cgroup2: &Path, pid: &str) -> std::io::Result<PathBuf> {
    let path = shown_cgroup(pid)?;
    let mount = mounts()?.into_iter().rev().find(|mount| mount.point == cgroup2);
    let root = mount.map_or_else(|| PathBuf::from("/"), |mount| mount.root);
    let below = below(&root, &path, |depth| namespace_below(cgroup2, depth));
    below.map(|below| cgroup2.join(below)).ok_or_else(|| {
        std::io::Error::other(format!(
            "its cgroup ({} as seen from here) lies outside of what {} shows",
            path.display(),
            cgroup2.display()
        ))
    })
}

/// Where a cgroup lies below a mount. Both paths are what /proc shows: from the
/// root of this process's cgroup namespace on, with `..` for what lies above.
/// `namespace` is the way from the mount down to that root, so many levels.
fn below(
    root: &Path,
    path: &Path,
    namespace: impl FnOnce(usize) -> Option<PathBuf>,
) -> Option<PathBuf> {
    let (up, levels) = (above(path), above(root));
    if levels == 0 {
        let root = root.strip_prefix("/").unwrap_or(root);
        let path = path.strip_prefix("/").unwrap_or(path);
        return if up == 0 { path.strip_prefix(root).ok().map(Path::to_owned) } else { None };
    }
    let is_normal = |component: &Component<'_>| matches!(component, Component::Normal(_));
    if root.components().any(|component| is_normal(&component)) {
        // A cgroup beside the namespace's: it cannot be told what is below it.
        return None;
    }
    let shared = levels.checked_sub(up)?;
    let mut below = PathBuf::new();
    if shared > 0 {
        below.extend(namespace(levels)?.components().take(shared));
    }
    below.extend(path.components().filter(is_normal));
    Some(below)
}

/// Where the root of this process's cgroup namespace lies below a mount, so many
/// levels deep.
fn namespace_below(cgroup2: &Path, depth: usize) -> Option<PathBuf> {
    fn find(at: &Path, depth: usize, id: u64) -> Option<PathBuf> {
        if depth == 0 {
            return (inode(at) == Some(id)).then(|| at.to_owned());
        }
        let entries = std::fs::read_dir(at).ok()?.flatten();
        let directories = entries.filter(|one| one.file_type().is_ok_and(|kind| kind.is_dir()));
        directories.map(|one| one.path()).find_map(|path| find(&path, depth - 1, id))
    }
    let (_, id) = cgroup_namespace().ok()??;
    find(cgroup2, depth, id)?.strip_prefix(cgroup2).ok().map(Path::to_owned)
}

/// How far above the root of this process's cgroup namespace a directory lies:
/// `/../..` is what the kernel shows then.
fn above(root: &Path) -> usize {
    root.components().filter(|component| *component == Component::ParentDir).count()
}

fn inode(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|metadata| metadata.ino())
}

/// Lines look like `36 35 98:0 /root /point options optional... - type source
/// options`, with blanks in paths written as `\040`.
fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
            let dash = fields.iter().position(|field| *field == b"-")?;
            Some(Mount {
                root: unescape(fields.get(3)?),
                point: unescape(fields.get(4)?),
                kind: String::from_utf8_lossy(fields.get(dash + 1)?).into_owned(),
            })
        })
        .collect()
}

fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|digits| *first == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        if let Some(digits) = octal {
            let value =
                digits.iter().fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0'));
            bytes.push(value as u8);
            rest = &after[3..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_with_optional_fields_and_escapes() {
        let text =
            b"29 24 0:26 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n\
                     40 29 0:31 /a /mnt/with\\040blank rw - bpf none rw,mode=700\n\
                     nonsense\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].point, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(mounts[0].kind, "cgroup2");
        assert_eq!(mounts[1].point, Path::new("/mnt/with blank"));
        assert_eq!(mounts[1].root, Path::new("/a"));
    }

    #[test]
    fn a_cgroup_is_found_below_any_mount_that_shows_it() {
        let in_a = |root: &str, path: &str| {
            let own = |depth| (depth == 2).then(|| PathBuf::from("kubepods/pod7"));
            below(Path::new(root), Path::new(path), own)
        };
        let found = |path: &str| Some(PathBuf::from(path));
        // The machine's own namespace, with the whole hierarchy and a part.
        assert_eq!(in_a("/", "/kubepods/pod1/c"), found("kubepods/pod1/c"));
        assert_eq!(in_a("/", "/"), found(""));
        assert_eq!(in_a("/kubepods", "/kubepods/pod1/c"), found("pod1/c"));
        assert_eq!(in_a("/kubepods", "/system.slice/a"), None);
        // A namespace of its own, two levels below the machine's mount.
        assert_eq!(in_a("/../..", "/"), found("kubepods/pod7"));
        assert_eq!(in_a("/../..", "/c"), found("kubepods/pod7/c"));
        assert_eq!(in_a("/../..", "/../pod1/c"), found("kubepods/pod1/c"));
        assert_eq!(in_a("/../..", "/../../system.slice/a"), found("system.slice/a"));
        assert_eq!(in_a("/../..", "/../../.."), None, "above what is mounted");
        // The container's own mount shows only what is below.
        assert_eq!(in_a("/", "/c"), found("c"));
        assert_eq!(in_a("/", "/../pod1/c"), None);
        assert_eq!(in_a("/../pod1", "/../pod1/c"), None);
    }

    #[test]
    fn of_two_parts_of_the_hierarchy_the_nodes_lies_above_the_containers_own() {
        assert_eq!(above(Path::new("/")), 0);
        assert_eq!(above(Path::new("/..")), 1);
        assert_eq!(above(Path::new("/../../../..")), 4);
    }
}
