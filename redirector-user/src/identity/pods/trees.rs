//! Where on this node the kubelet keeps its pods.

use std::io;
use std::path::{Path, PathBuf};

use super::layout::{Directory, classify, is_container};

/// How many levels a kubepods tree may lie below the mount: kind's, seen from
/// the machine, is at `system.slice/docker-ID.scope/kubelet.slice/...`, and a
/// kubelet may have a `cgroupRoot` of its own.
const MAX_DEPTH: usize = 6;

/// The topmost directories below a cgroup2 mount that hold pods. Those of nodes
/// that are themselves containers on this machine count only when there are no
/// others: then this is such a node's machine, and the node's own agent sees
/// them at the top.
pub fn trees(mount: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    // An unreadable mount is an error; what vanishes below it is not.
    std::fs::read_dir(mount)?;
    search(mount, Path::new(""), false, &mut found);
    if found.iter().any(|(_, nested)| !nested) {
        found.retain(|(_, nested)| !nested);
    }
    let mut trees: Vec<PathBuf> = found.into_iter().map(|(path, _)| path).collect();
    trees.sort();
    trees.dedup();
    Ok(trees)
}

fn search(mount: &Path, below: &Path, nested: bool, found: &mut Vec<(PathBuf, bool)>) {
    for name in subdirectories(&mount.join(below)) {
        let path = below.join(name);
        match classify(&path) {
            Directory::Pods => found.push((mount.join(path), nested)),
            // The odd leaf: its pods lie in the runtime's own cgroup.
            Directory::Pod(_) => found.push((mount.join(below), nested)),
            Directory::Other if path.components().count() < MAX_DEPTH => {
                let nested = nested || is_container(&path);
                search(mount, &path, nested, found);
            }
            Directory::Other => {}
        }
    }
}

/// The names of the directories in a directory; none when it is gone.
pub(super) fn subdirectories(path: &Path) -> Vec<std::ffi::OsString> {
    let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.file_name())
        .collect()
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
    fn a_machine_without_a_kubelet_has_none() {
        assert_eq!(found(&["system.slice/ssh.service", "user.slice"]), Vec::<String>::new());
        assert!(trees(Path::new("/nonexistent")).is_err());
    }
}
