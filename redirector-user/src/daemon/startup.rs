//! What has to be right before anything is touched, and what is said when it is
//! not.

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FsWord, statfs};
use rustix::mount::{MountFlags, mount};

use super::Options;
use crate::datapath::{Attached, Hook};
use crate::failure::{Exit, Failure};
use crate::identity::pods::trees;
use crate::mounts::{self, BPFFS, BPFFS_MODE};
use crate::shell::quoted;

/// `BPF_FS_MAGIC`.
const MAGIC: FsWord = 0xcafe_4a11;

/// How often to look for a kubelet that is not there yet.
const KUBELET: Duration = Duration::from_millis(500);

/// Where cgroup2 is mounted.
pub fn cgroup2() -> Result<PathBuf, Failure> {
    let found = mounts::cgroup2()
        .map_err(|error| Failure::new(Exit::Unable, format!("/proc/self/mountinfo: {error}")))?;
    found.ok_or_else(|| {
        Failure::new(
            Exit::Unable,
            "no cgroup2 hierarchy is mounted, and connections are decided by cgroup",
        )
        .help(format!("mount one: {}", mount_of_cgroup2(Path::new("/sys/fs/cgroup"))))
    })
}

/// How to mount cgroup2 so that it hides nothing: where version 1 is, beside it.
fn mount_of_cgroup2(usual: &Path) -> String {
    let free = std::fs::read_dir(usual).is_ok_and(|mut entries| entries.next().is_none());
    let place = if free { usual.to_owned() } else { usual.join("unified") };
    format!("mkdir -p {0} && mount -t cgroup2 none {0}", quoted(&place))
}

/// The cgroups to attach to, all of them there. A kubelet's are waited for if it `waits`.
pub fn cgroups(
    given: &[PathBuf],
    kubernetes: bool,
    cgroup2: &Path,
    waits: bool,
) -> Result<Vec<PathBuf>, Failure> {
    if given.is_empty() {
        return match kubernetes {
            true => pods(cgroup2, waits),
            false => Ok(vec![cgroup2.to_owned()]),
        };
    }
    let mut cgroups = Vec::new();
    for given in given {
        // A whole path, or one below the mount as in documents.
        let path = if given.starts_with(cgroup2) {
            given.clone()
        } else {
            cgroup2.join(given.strip_prefix("/").unwrap_or(given))
        };
        if !path.join("cgroup.procs").exists() {
            return Err(Failure::input(format!("the cgroup {} does not exist", path.display()))
                .help(format!(
                    "make it (mkdir -p {}), or name one that is below {}",
                    quoted(&path),
                    cgroup2.display()
                )));
        }
        cgroups.push(path);
    }
    // One that lies below another is covered by it.
    let all = cgroups.clone();
    cgroups.retain(|path| !all.iter().any(|other| path != other && path.starts_with(other)));
    cgroups.sort();
    cgroups.dedup();
    Ok(cgroups)
}

/// Says what is about to be attached to, and who is served there: nobody is to find out
/// afterwards that it was the whole machine.
pub fn announce(options: &Options, cgroups: &[PathBuf]) {
    let whole = options.kubernetes.is_none() && options.cgroups.is_empty();
    tracing::info!("{}", announcement(whole, cgroups));
}

fn announcement(whole: bool, cgroups: &[PathBuf]) -> String {
    let all: Vec<_> = cgroups.iter().map(|cgroup| cgroup.display().to_string()).collect();
    let all = all.join(", ");
    match whole {
        true => format!(
            "attaching to {all}, the root of the hierarchy: every process of this machine is \
             served; --cgroup names a part of it"
        ),
        false => format!("attaching to {all}: every process below is served"),
    }
}

/// The trees in which the kubelet makes the cgroups of pods. One that starts
/// with the machine may be there before the kubelet has made them.
fn pods(cgroup2: &Path, waits: bool) -> Result<Vec<PathBuf>, Failure> {
    let mut waiting = false;
    loop {
        let trees = trees(cgroup2).map_err(|error| {
            Failure::new(Exit::Unable, format!("{}: {error}", cgroup2.display()))
        })?;
        if !trees.is_empty() {
            return Ok(trees);
        }
        let part = match mounts::is_whole(cgroup2) {
            true => "",
            false => " (a part of the hierarchy: the node's mount is to be shown to the agent)",
        };
        let none = format!("no cgroup of a kubelet (kubepods) below {}{part}", cgroup2.display());
        let others = "other cgroups are named with --cgroup";
        if !waits {
            return Err(Failure::new(Exit::Unable, none).help(others));
        }
        if !std::mem::replace(&mut waiting, true) {
            tracing::warn!("{none}: waiting for one; {others}");
        }
        std::thread::sleep(KUBELET);
    }
}

/// Whether a directory of pins lies on a bpffs, or will when it is made.
pub fn is_on_bpffs(directory: &Path) -> Result<bool, Failure> {
    let nearest = nearest(directory);
    match statfs(nearest) {
        Ok(stat) => Ok(stat.f_type == MAGIC),
        Err(error) => {
            let why = format!("{}: {}", nearest.display(), io::Error::from(error));
            Err(Failure::new(Exit::Unable, why))
        }
    }
}

/// The nearest directory that is there.
fn nearest(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

/// What is said of a directory of pins that is on no bpffs.
pub fn not_on_bpffs(directory: &Path, why: &str) -> Failure {
    let help = mounts::bpffs_remedy(directory);
    let directory = directory.display();
    let message = format!("{directory} is not on a bpffs, where maps can be pinned{why}");
    Failure::new(Exit::Unable, message).help(help)
}

/// Whether `run` mounts the bpffs itself: where every init system does, when nobody
/// has chosen another place.
pub fn mounts_bpffs(directory: &Path, is_default: bool) -> bool {
    is_default && nearest(directory) == Path::new(BPFFS)
}

/// Sees to it that the pins' directory lies on a bpffs. The usual place is
/// mounted when it is not, as every init system does; a place that the user
/// chose is the user's to mount.
pub fn bpffs(directory: &Path, is_default: bool) -> Result<(), Failure> {
    if is_on_bpffs(directory)? {
        return Ok(());
    }
    let failure = |why: &str| not_on_bpffs(directory, why);
    if !mounts_bpffs(directory, is_default) {
        return Err(failure(""));
    }
    let usual = Path::new(BPFFS);
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let mode = CString::new(BPFFS_MODE).unwrap_or_default();
    mount("bpf", usual, "bpf", flags, &*mode)
        .map_err(|error| failure(&format!("; mounting it: {}", io::Error::from(error))))?;
    if !mounts::machine_has("bpf", usual) {
        // It would end with this process, and everything that is pinned there.
        let _ = rustix::mount::unmount(usual, rustix::mount::UnmountFlags::empty());
        return Err(failure(", and mounted by this process it would be there for nobody else"));
    }
    tracing::info!("mounted a bpffs at {BPFFS}");
    Ok(())
}

/// Refuses to be one of several that rewrite addresses at the root, unless the
/// user chose the place.
pub fn nobody_else(kubernetes: bool, chosen: bool, attached: &[Attached]) -> Result<(), Failure> {
    if kubernetes {
        return no_other_agent(attached);
    }
    if chosen {
        return Ok(());
    }
    let foreign = attached
        .iter()
        .find(|program| !program.ours && matches!(program.hook, Hook::Connect4 | Hook::Connect6));
    let Some(foreign) = foreign else { return Ok(()) };
    Err(Failure::input(format!(
        "the program {} (id {}) already decides connections at {}",
        foreign.name,
        foreign.program_id,
        foreign.cgroup.display()
    ))
    .help(
        "choose the cgroups to attach to: programs of a child run before those of its parents, so \
         for example --cgroup system.slice --cgroup user.slice; or --cgroup / to share the root",
    ))
}

/// Refuses to decide beside another agent of the node whose pins and state lie
/// elsewhere, so that no lock tells. Who may not see the names of programs does not
/// find it.
fn no_other_agent(attached: &[Attached]) -> Result<(), Failure> {
    let is_same = |other: &Attached| {
        !other.ours
            && matches!(other.hook, Hook::Connect4 | Hook::Connect6)
            && other.at == other.cgroup
            && other.name == other.hook.program()
    };
    let Some(other) = attached.iter().find(|one| is_same(one)) else { return Ok(()) };
    Err(Failure::new(
        Exit::No,
        format!(
            "another redirector, with its pins elsewhere, already decides connections at {} \
             (program {}, id {})",
            other.cgroup.display(),
            other.name,
            other.program_id
        ),
    )
    .help(
        "a node has one agent: end the other release; if it has ended, remove what it left with \
         redirector unload --yes --bpffs DIRECTORY, the directory of its pins",
    ))
}

/// Refuses PATHs that are not there, when nothing of an earlier run says that
/// they once were.
pub fn paths<'a>(
    paths: &[PathBuf],
    mut known: impl Iterator<Item = &'a std::sync::Arc<str>>,
) -> Result<(), Failure> {
    for path in paths {
        let Err(error) = path.metadata() else { continue };
        if known.any(|name| Path::new(&**name).starts_with(path)) {
            continue;
        }
        return Err(Failure::input(format!("{} cannot be read: {error}", path.display()))
            .help("name a file, a directory, or - for standard input"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_the_whole_machine_is_served_is_said_where_no_cgroup_was_named() {
        let cgroup = [PathBuf::from("/sys/fs/cgroup")];
        let whole = announcement(true, &cgroup);
        assert!(
            whole.contains("/sys/fs/cgroup") && whole.contains("every process of this machine")
        );
        assert!(whole.contains("--cgroup"), "{whole}");
        let part = announcement(false, &["/cg/a".into(), "/cg/b".into()]);
        assert_eq!(part, "attaching to /cg/a, /cg/b: every process below is served");
    }

    #[test]
    fn a_kubelet_is_not_waited_for_where_nothing_else_would_be_heard_meanwhile() {
        let root = tempfile::tempdir().unwrap();
        let failure = cgroups(&[], true, root.path(), false).unwrap_err();
        assert!(failure.message.starts_with("no cgroup of a kubelet"), "{failure}");
        std::fs::create_dir(root.path().join("kubepods")).unwrap();
        let found = cgroups(&[], true, root.path(), false).unwrap();
        assert_eq!(found, [root.path().join("kubepods")]);
    }

    #[test]
    fn no_mount_that_is_advised_hides_anything() {
        let root = tempfile::tempdir().unwrap();
        let help = |path: &Path| not_on_bpffs(path, "").help.unwrap_or_default();
        let absent = root.path().join("a b/pins");
        assert!(help(&absent).contains(&format!("bpf '{}'", absent.display())), "one word");
        std::fs::write(root.path().join("file"), "").unwrap();
        assert!(help(root.path()).contains("--bpffs /sys/fs/bpf/redirector"));
        assert!(!help(root.path()).contains("mount -t"), "{}", help(root.path()));
        let advice = mount_of_cgroup2(root.path());
        assert!(advice.ends_with(&format!("{}/unified", root.path().display())), "{advice}");
        std::fs::remove_file(root.path().join("file")).unwrap();
        assert!(mount_of_cgroup2(root.path()).ends_with(&*root.path().to_string_lossy()));
    }

    #[test]
    fn a_missing_path_is_refused_unless_it_was_there_before() {
        let missing = vec![PathBuf::from("/no/such/rules")];
        let failure = paths(&missing, std::iter::empty()).unwrap_err();
        assert_eq!(failure.exit, Exit::No);
        assert!(failure.message.starts_with("/no/such/rules cannot be read"), "{failure}");
        let known = ["/no/such/rules/a.yaml".into()];
        paths(&missing, known.iter()).unwrap();
    }
}
