//! From a selector to what the kernel compares.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use redirector_core::model::SourceSelector;

use super::pods::{PodEvent, PodUid};
use crate::datapath::cgroup::Cgroup;
use crate::datapath::{SourceKey, netns_cookie};

/// Why a selector stands for nothing at the moment.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Missing {
    /// No such directory.
    #[error("the cgroup {} does not exist", .0.display())]
    NoCgroup(PathBuf),
    /// No such file.
    #[error("the network namespace {} does not exist", .0.display())]
    NoNetns(PathBuf),
    /// A file, and not a namespace (yet: `ip netns add` makes the file first).
    #[error("{} is not a network namespace: {why}", .path.display())]
    NotNetns {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        why: String,
    },
    /// A path that leads out of the cgroup2 mount, or is no cgroup.
    #[error("{} is not a cgroup below the cgroup2 mount: {why}", .path.display())]
    NotCgroup {
        /// The path.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Another workload has it.
    #[error("it is already {0}, and the processes of a cgroup or namespace are one workload")]
    Taken(String),
    /// The kubelet has not made the pod's cgroup yet, or has removed it.
    #[error("the kubelet has no cgroup for it at the moment")]
    NoPod,
}

/// Resolves selectors, remembering what costs a thread to find out.
#[derive(Debug, Default)]
pub struct Resolver {
    cgroup2: PathBuf,
    /// Cookies by what tells one namespace's file from the next with the same
    /// number: device, inode, and when it was made.
    cookies: BTreeMap<(u64, u64, i64, i64), u64>,
    /// The cgroups of pods, by directory.
    pods: BTreeMap<PodUid, BTreeMap<PathBuf, SourceKey>>,
}

impl Resolver {
    /// Cgroup paths are below this mount.
    pub fn new(cgroup2: PathBuf) -> Self {
        Self { cgroup2, ..Self::default() }
    }

    /// The mount.
    pub fn cgroup2(&self) -> &Path {
        &self.cgroup2
    }

    /// What the kernel compares: more than one only for a pod whose containers
    /// have a cgroup each.
    pub fn resolve(&mut self, selector: &SourceSelector) -> Result<Vec<SourceKey>, Missing> {
        match selector {
            SourceSelector::Cgroup(path) => self.cgroup(path).map(|key| vec![key]),
            SourceSelector::Netns(path) => self.netns(Path::new(&**path)).map(|key| vec![key]),
            SourceSelector::PodUid(uid) => match self.pods.get(&PodUid::new(uid)) {
                Some(keys) => Ok(keys.values().copied().collect()),
                None => Err(Missing::NoPod),
            },
        }
    }

    /// A pod's cgroup came or went.
    pub fn pod(&mut self, event: PodEvent) {
        match event {
            PodEvent::Appeared(pod) => {
                let key = SourceKey::Cgroup { id: pod.id, level: pod.level };
                self.pods.entry(pod.uid).or_default().insert(pod.path, key);
            }
            PodEvent::Gone(pod) => {
                let Some(keys) = self.pods.get_mut(&pod.uid) else { return };
                keys.remove(&pod.path);
                if keys.is_empty() {
                    self.pods.remove(&pod.uid);
                }
            }
        }
    }

    /// The cgroups of a pod that are there.
    pub fn pod_keys(&self, pod: &PodUid) -> impl Iterator<Item = SourceKey> + use<'_> {
        self.pods.get(pod).into_iter().flat_map(|keys| keys.values().copied())
    }

    /// Whether this is a pod's cgroup that is there.
    pub fn has_pod(&self, key: &SourceKey) -> bool {
        self.pods.values().any(|keys| keys.values().any(|known| known == key))
    }

    /// Where the thing itself would be found.
    pub fn place(&self, selector: &SourceSelector) -> Option<PathBuf> {
        match selector {
            SourceSelector::Cgroup(path) => Some(self.cgroup2.join(path.trim_start_matches('/'))),
            SourceSelector::Netns(path) => Some(PathBuf::from(&**path)),
            SourceSelector::PodUid(_) => None,
        }
    }

    fn cgroup(&self, below: &str) -> Result<SourceKey, Missing> {
        let below = Path::new(below.trim_start_matches('/'));
        let path = self.cgroup2.join(below);
        // A `..` could name what is outside, or the same cgroup twice.
        let plain = below.components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || below.as_os_str().is_empty() {
            let why = "it must be a path below the mount, without . and ..".to_owned();
            return Err(Missing::NotCgroup { path, why });
        }
        if !path.exists() {
            return Err(Missing::NoCgroup(path));
        }
        match Cgroup::open(&path) {
            Ok(cgroup) => Ok(SourceKey::Cgroup { id: cgroup.id, level: cgroup.level }),
            Err(_) if !path.exists() => Err(Missing::NoCgroup(path)),
            Err(error) => Err(Missing::NotCgroup { path, why: error.to_string() }),
        }
    }

    fn netns(&mut self, path: &Path) -> Result<SourceKey, Missing> {
        let Ok(metadata) = fs::metadata(path) else {
            return Err(Missing::NoNetns(path.to_owned()));
        };
        let file = (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec());
        if let Some(cookie) = self.cookies.get(&file) {
            return Ok(SourceKey::Netns { cookie: *cookie });
        }
        match netns_cookie(path) {
            Ok(cookie) => {
                self.cookies.insert(file, cookie);
                Ok(SourceKey::Netns { cookie })
            }
            Err(error) => Err(Missing::NotNetns { path: path.to_owned(), why: error.to_string() }),
        }
    }

    /// Forgets what was remembered, so that it does not pile up.
    pub fn forget(&mut self) {
        self.cookies.clear();
    }
}
