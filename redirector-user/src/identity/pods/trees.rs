//! Where on this node the kubelet keeps its pods.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::layout::{Directory, classify, is_container};
use crate::datapath::says_gone;

/// How many levels a kubepods tree may lie below the mount: kind's, seen from
/// the machine, is at `system.slice/docker-ID.scope/kubelet.slice/...`, and a
/// kubelet may have a `cgroupRoot` of its own.
const MAX_DEPTH: usize = 6;

/// The topmost directories below a cgroup2 mount that hold pods. Those of nodes
/// that are themselves containers on this machine count only when there are no
/// others: then this is such a node's machine, and the node's own agent sees
/// them at the top. What lies in a directory that is not root's, to whom the mount
/// belongs, was made by who has it.
pub fn trees(mount: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    // A mount that is not there is an error; what vanishes below it is not.
    std::fs::read_dir(mount)?;
    let root = std::fs::metadata(mount)?.uid();
    search(mount, root, Path::new(""), false, &mut found)?;
    if found.iter().any(|(_, nested)| !nested) {
        found.retain(|(_, nested)| !nested);
    }
    let mut trees: Vec<PathBuf> = found.into_iter().map(|(path, _)| path).collect();
    trees.sort();
    trees.dedup();
    Ok(trees)
}

fn search(
    mount: &Path,
    root: u32,
    below: &Path,
    nested: bool,
    found: &mut Vec<(PathBuf, bool)>,
) -> io::Result<()> {
    for name in subdirectories(&mount.join(below))? {
        let path = below.join(name);
        let owner = match std::fs::symlink_metadata(mount.join(&path)) {
            Err(error) if says_gone(&error) => continue,
            of => of?.uid(),
        };
        if owner != root {
            continue;
        }
        match classify(&path) {
            Directory::Pods => found.push((mount.join(path), nested)),
            // The odd leaf: its pods lie in the runtime's own cgroup.
            Directory::Pod(_) => found.push((mount.join(below), nested)),
            Directory::Other if path.components().count() < MAX_DEPTH => {
                let nested = nested || is_container(&path);
                search(mount, root, &path, nested, found)?;
            }
            Directory::Other => {}
        }
    }
    Ok(())
}

/// The names of the directories in a directory; none when it is gone.
///
/// # Errors
///
/// When it cannot be read, so that nothing is known.
pub(super) fn subdirectories(path: &Path) -> io::Result<Vec<OsString>> {
    let names = std::fs::read_dir(path).and_then(|entries| {
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                names.push(entry.file_name());
            }
        }
        Ok(names)
    });
    match names {
        Err(error) if says_gone(&error) => Ok(Vec::new()),
        // It went while it was read.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(Vec::new()),
        names => names,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(directories: &[&str]) -> Vec<String> {
        let mount = tempfile::tempdir().unwrap();
        for directory in directories {
            std::fs::create_dir_all(mount.path().join(directory)).unwrap();
        }
        let trees = trees(mount.path()).unwrap();
        trees
            .iter()
            .map(|tree| tree.strip_prefix(mount.path()).unwrap().display().to_string())
            .collect()
    }

    #[test]
    fn the_tree_of_either_driver_is_found() {
        let systemd = ["system.slice/ssh.service", "kubepods.slice/kubepods-burstable.slice"];
        assert_eq!(found(&systemd), ["kubepods.slice"]);
        assert_eq!(found(&["kubepods/burstable/poda", "init"]), ["kubepods"]);
        let kind = ["kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice"];
        assert_eq!(found(&kind), ["kubelet.slice/kubelet-kubepods.slice"]);
        assert_eq!(found(&["kubelet/kubepods"]), ["kubelet/kubepods"]);
    }

    #[test]
    fn nodes_in_containers_count_only_where_there_is_no_node() {
        let kind = "system.slice/docker-0123abcd.scope/kubelet.slice/kubelet-kubepods.slice";
        assert_eq!(found(&[kind, "kubepods.slice"]), ["kubepods.slice"]);
        assert_eq!(found(&[kind]), [kind]);
    }

    #[test]
    fn odd_leaves_make_the_runtimes_own_cgroup_a_tree() {
        let odd = "system.slice/containerd.service/kubepods-podx_1.slice:cri-containerd:abc";
        assert_eq!(
            found(&[odd, "kubepods.slice"]),
            ["kubepods.slice", "system.slice/containerd.service"]
        );
    }

    #[test]
    fn what_is_made_in_a_directory_of_a_user_is_no_kubelets() {
        let mount = tempfile::tempdir().unwrap();
        let made = mount.path().join("user.slice/kubepods");
        std::fs::create_dir_all(made.join("pod0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0")).unwrap();
        assert_eq!(trees(mount.path()).unwrap(), std::slice::from_ref(&made));
        let user = Some(65534);
        if std::os::unix::fs::chown(made.parent().unwrap(), user, user).is_ok() {
            assert!(trees(mount.path()).unwrap().is_empty());
            std::os::unix::fs::chown(made.parent().unwrap(), Some(0), Some(0)).unwrap();
            std::os::unix::fs::chown(&made, user, user).unwrap();
            assert!(trees(mount.path()).unwrap().is_empty());
        }
    }

    #[test]
    fn a_machine_without_a_kubelet_has_none() {
        assert_eq!(found(&["system.slice/ssh.service", "user.slice"]), Vec::<String>::new());
        assert!(trees(Path::new("/nonexistent")).is_err());
    }
}
