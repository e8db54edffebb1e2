//! Which directory of the cgroup tree belongs to which pod: a pure function of
//! its name and of the names above it.
//!
//! The kubelet names a pod's cgroup after the pod's uid, before the pod has any
//! process. Where it lies differs by the cgroup driver, by the QoS class and by
//! the kubelet's `cgroupRoot`, at differing depths:
//!
//! ```text
//!              Guaranteed                          Burstable, BestEffort (Q)
//! systemd      kubepods.slice/                     kubepods.slice/kubepods-Q.slice/
//!                kubepods-podU.slice                 kubepods-Q-podU.slice
//! cgroupfs     kubepods/podU                       kubepods/Q/podU
//! with a root  the same below R.slice/R-kubepods.slice or R/kubepods
//! ```
//!
//! containerd without `SystemdCgroup` under a kubelet with the systemd driver
//! makes neither: its containers land in one odd directory each,
//! `kubepods-Q-podU.slice:cri-containerd:ID`, beside its own processes.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// A pod's uid, in the one spelling that directory names and the API can be
/// compared in: the systemd driver writes `_` for `-`.
///
/// Static pods have 32 hex digits without dashes here: the hash of their
/// configuration, which the API has in the annotation
/// `kubernetes.io/config.hash` (the mirror pod's own uid is another).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PodUid(Arc<str>);

impl PodUid {
    /// A uid as the API or a directory name has it.
    pub fn new(uid: &str) -> Self {
        Self(uid.replace('_', "-").into())
    }

    /// Its spelling with dashes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a directory of the cgroup tree is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Directory {
    /// A pod's: everything below it is the pod.
    Pod(PodUid),
    /// One that the kubelet makes pods' directories in: `kubepods` and its QoS
    /// classes.
    Pods,
    /// Any other.
    Other,
}

/// What the directory at `path` is. Only names are looked at; the last one and
/// up to two above it.
pub fn classify(path: &Path) -> Directory {
    let mut names = path.components().rev().map(|component| component.as_os_str());
    let Some(name) = names.next().and_then(OsStr::to_str) else { return Directory::Other };
    if let Some(stem) = name.strip_suffix(".slice") {
        return classify_slice(stem);
    }
    if let Some((slice, _container)) = name.split_once(":").filter(|(_, rest)| rest.contains(':')) {
        // The odd leaf. What it belongs to is told by the slice it names.
        return match slice.strip_suffix(".slice").map(classify_slice) {
            Some(pod @ Directory::Pod(_)) => pod,
            _ => Directory::Other,
        };
    }
    if name == "kubepods" {
        return Directory::Pods;
    }
    let mut above = || names.next().and_then(OsStr::to_str).unwrap_or_default();
    let parent = above();
    let in_pods = parent == "kubepods" || (is_qos(parent) && above() == "kubepods");
    match name.strip_prefix("pod") {
        Some(uid) if in_pods && is_uid(uid) => Directory::Pod(PodUid::new(uid)),
        _ if is_qos(name) && parent == "kubepods" => Directory::Pods,
        _ => Directory::Other,
    }
}

/// A slice by its name without `.slice`. systemd spells the whole path in the
/// name: `a-b-c.slice` lies in `a-b.slice`, so that whatever root the kubelet
/// was given stands before `kubepods`.
fn classify_slice(stem: &str) -> Directory {
    let parts: Vec<&str> = stem.split('-').collect();
    let Some(at) = parts.iter().rposition(|part| *part == "kubepods") else {
        return Directory::Other;
    };
    let last = match &parts[at + 1..] {
        [] => return Directory::Pods,
        [qos] if is_qos(qos) => return Directory::Pods,
        [last] => last,
        [qos, last] if is_qos(qos) => last,
        _ => return Directory::Other,
    };
    match last.strip_prefix("pod") {
        Some(uid) if is_uid(uid) => Directory::Pod(PodUid::new(uid)),
        _ => Directory::Other,
    }
}

/// Guaranteed pods have no level of their own.
fn is_qos(name: &str) -> bool {
    matches!(name, "burstable" | "besteffort")
}

/// A pod file may set any `metadata.uid`; the API server makes UUIDs.
fn is_uid(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// Whether a directory is a container of a container engine, so that a kubepods
/// tree below it is that of another node: one of kind's or k3d's, seen from the
/// machine that carries it.
pub fn is_container(path: &Path) -> bool {
    let mut names = path.components().rev().map(|component| component.as_os_str());
    let Some(name) = names.next().and_then(OsStr::to_str) else { return false };
    let parent = names.next().and_then(OsStr::to_str);
    let scope = name.strip_suffix(".scope").unwrap_or(name);
    let engine = ["docker-", "libpod-", "cri-containerd-", "crio-", "nerdctl-", "lxc.payload."];
    engine.iter().any(|prefix| scope.starts_with(prefix))
        || matches!(parent, Some("docker" | "libpod_parent" | "lxc"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const UID: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
    const SLICED: &str = "0f1e2d3c_4b5a_6978_8796_a5b4c3d2e1f0";
    const HASH: &str = "16d7c2b0b1c84a6f9a8e7d6c5b4a3928";
    const ID: &str = "8c7b6a5f4e3d2c1b0a998877665544332211ffeeddccbbaa0123456789abcdef";

    /// Fills in the uid (`U`, `S` as in a slice), the hash (`H`) and the
    /// container's id (`I`), each written in braces.
    fn fill(path: &str) -> PathBuf {
        path.replace("{U}", UID)
            .replace("{S}", SLICED)
            .replace("{H}", HASH)
            .replace("{I}", ID)
            .into()
    }

    /// The pod that a cgroup at any depth belongs to: the pod's own directory and
    /// its uid. Pods of a cluster that runs inside a pod belong to that pod.
    fn pod(path: &str) -> Option<(String, String)> {
        let mut directory = PathBuf::new();
        fill(path).components().find_map(|component| {
            directory.push(component);
            match classify(&directory) {
                Directory::Pod(uid) => Some((directory.display().to_string(), uid.to_string())),
                _ => None,
            }
        })
    }

    /// The pod's directory in every layout, without a leading slash.
    const PODS: [&str; 14] = [
        "kubepods.slice/kubepods-pod{S}.slice",
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{S}.slice",
        "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{S}.slice",
        "kubepods/pod{U}",
        "kubepods/burstable/pod{U}",
        "kubepods/besteffort/pod{U}",
        "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{S}.slice",
        "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{S}.slice",
        "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{S}.slice",
        "kubelet/kubepods/burstable/pod{U}",
        "system.slice/docker-{I}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{S}.slice",
        "docker/{I}/kubepods/besteffort/pod{U}",
        "system.slice/docker-{I}.scope/kubepods/pod{U}",
        "my.slice/my-own.slice/my-own-kubepods.slice/my-own-kubepods-pod{S}.slice",
    ];

    /// What runtimes put below a pod's directory.
    const LEAVES: [&str; 9] = [
        "cri-containerd-{I}.scope",
        "crio-{I}.scope",
        "crio-{I}.scope/container",
        "crio-conmon-{I}.scope",
        "docker-{I}.scope",
        "{I}",
        "crio-{I}",
        "{I}/init.scope",
        "cri-containerd-{I}.scope/system.slice/deep.slice/deeper.service",
    ];

    #[test]
    fn a_pod_is_found_in_every_layout() {
        for path in PODS {
            let found = pod(path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!(found, (fill(path).display().to_string(), UID.to_owned()));
        }
    }

    #[test]
    fn tasks_at_any_depth_below_a_pod_are_the_pod() {
        for path in PODS {
            for leaf in LEAVES {
                let found =
                    pod(&format!("{path}/{leaf}")).unwrap_or_else(|| panic!("{path}/{leaf}"));
                assert_eq!(found, (fill(path).display().to_string(), UID.to_owned()));
            }
        }
    }

    #[test]
    fn static_pods_are_known_by_the_hash_of_their_configuration() {
        for path in [
            "kubepods/burstable/pod{H}",
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{H}.slice",
            "kubepods.slice/kubepods-pod{H}.slice",
        ] {
            assert_eq!(pod(path).map(|(_, uid)| uid), Some(HASH.to_owned()), "{path}");
        }
    }

    #[test]
    fn a_uid_that_a_pod_file_sets_may_be_any_name() {
        assert_eq!(pod("kubepods/podmy.pod-1").map(|p| p.1), Some("my.pod-1".to_owned()));
        let sliced = pod("kubepods.slice/kubepods-podmy.pod_1.slice").map(|p| p.1);
        assert_eq!(sliced, Some("my.pod-1".to_owned()));
        assert_eq!(PodUid::new("my.pod_1"), PodUid::new("my.pod-1"), "no difference in a slice");
    }

    #[test]
    fn the_odd_leaf_of_containerd_names_its_pod() {
        for (path, uid) in [
            (
                "system.slice/containerd.service/kubepods-burstable-pod{S}.slice:cri-containerd:{I}",
                UID,
            ),
            ("system.slice/containerd.service/kubepods-pod{S}.slice:cri-containerd:{I}", UID),
            (
                "system.slice/containerd.service/kubepods-besteffort-pod{H}.slice:cri-containerd:{I}",
                HASH,
            ),
        ] {
            let found = pod(path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!(found, (fill(path).display().to_string(), uid.to_owned()));
        }
    }

    #[test]
    fn pods_appear_in_kubepods_and_its_qos_classes() {
        for path in [
            "kubepods",
            "kubepods/burstable",
            "kubelet/kubepods/besteffort",
            "kubepods.slice",
            "kubepods.slice/kubepods-burstable.slice",
            "kubelet.slice/kubelet-kubepods.slice",
            "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice",
        ] {
            assert_eq!(classify(Path::new(path)), Directory::Pods, "{path}");
        }
    }

    #[test]
    fn what_only_looks_like_a_pod_is_none() {
        for path in [
            "",
            "podman",
            "pod{U}",
            "burstable",
            "burstable/pod{U}",
            "machine.slice/machine-libpod_pod_{I}.slice",
            "machine.slice/libpod-{I}.scope/container",
            "kubepods/podium of/x",
            "kubepods/pod",
            "kubepods.slice/kubepods-pod.slice",
            "kubepods.slice/kubepods-guaranteed-pod{S}.slice",
            "kubepods.slice/kubepods-burstable-x-pod{S}.slice",
            "kubelet.slice/kubelet.service",
            "system.slice/pod{S}.slice",
            "user.slice/a:b:c",
        ] {
            assert_eq!(pod(path), None, "{path}");
        }
    }

    #[test]
    fn pods_of_a_cluster_inside_a_pod_belong_to_that_pod() {
        let inner = "kubepods/besteffort/pod{U}/{I}/kubepods/burstable/podffff-1";
        assert_eq!(pod(inner).map(|p| p.1), Some(UID.to_owned()));
    }

    #[test]
    fn nodes_that_are_containers_are_told_from_the_machine() {
        for path in
            ["system.slice/docker-{I}.scope", "docker/{I}", "machine.slice/libpod-{I}.scope"]
        {
            assert!(is_container(&fill(path)), "{path}");
        }
        for path in ["kubepods.slice", "system.slice/docker.service", "kubelet.slice", ""] {
            assert!(!is_container(&fill(path)), "{path}");
        }
    }
}
