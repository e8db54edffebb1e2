//! From a selector to what the kernel compares.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use redirector_core::model::SourceSelector;

use super::pods::{PodEvent, PodUid};
use crate::datapath::cgroup::Cgroup;
use crate::datapath::{Error, Netns, NotOpened, SourceKey, says_gone};

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
    /// The system does not say whether it is there: what is known of it stays.
    #[error("whether {} is there cannot be told: {why}", .path.display())]
    Unknown {
        /// Where it would be.
        path: PathBuf,
        /// The system's answer: descriptors, memory or permission are lacking.
        why: String,
    },
}

/// What is said of a workload that is [another](Resolver::is_another) than the kernel knows.
pub const OF_ANOTHER: &str = "its cgroup, or namespace, is another one than the kernel knows, \
                              which was made anew while no daemon followed";

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

    /// Whether a workload's cgroup or namespace is there, and is none of these, which the
    /// kernel takes for it: it was made anew. Those of pods are not looked for.
    pub fn is_another<'a>(
        &mut self,
        selector: &SourceSelector,
        known: impl IntoIterator<Item = &'a SourceKey>,
    ) -> bool {
        // How deep a cgroup lies, a container may not see.
        let number = |key: &SourceKey| match *key {
            SourceKey::Cgroup { id, .. } => (true, id),
            SourceKey::Netns { cookie } => (false, cookie),
        };
        match self.resolve(selector).as_deref() {
            Ok([key]) => known.into_iter().all(|one| number(one) != number(key)),
            _ => false,
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

    /// The cgroups that a selector stands for, with their directories.
    pub fn directories(&self, selector: &SourceSelector) -> Vec<PathBuf> {
        match selector {
            SourceSelector::PodUid(uid) => {
                let keys = self.pods.get(&PodUid::new(uid));
                keys.map(|keys| keys.keys().cloned().collect()).unwrap_or_default()
            }
            SourceSelector::Cgroup(_) => self.place(selector).into_iter().collect(),
            SourceSelector::Netns(_) => Vec::new(),
        }
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
        let is_gone = |path: &Path| fs::metadata(path).is_err_and(|error| says_gone(&error));
        match Cgroup::open(&path) {
            Ok(cgroup) => Ok(SourceKey::Cgroup { id: cgroup.id, level: cgroup.level }),
            Err(_) if is_gone(&path) => Err(Missing::NoCgroup(path)),
            Err(error @ Error::Path { .. }) => {
                Err(Missing::NotCgroup { path, why: error.to_string() })
            }
            Err(error) => Err(Missing::Unknown { path, why: error.to_string() }),
        }
    }

    fn netns(&mut self, path: &Path) -> Result<SourceKey, Missing> {
        let unknown = |error: io::Error| {
            let (path, why) = (path.to_owned(), error.to_string());
            Missing::Unknown { path, why }
        };
        let not_netns = |why: String| Missing::NotNetns { path: path.to_owned(), why };
        let netns = Netns::trusted(path).map_err(|why| match why {
            NotOpened::Gone => Missing::NoNetns(path.to_owned()),
            NotOpened::Refused(why) => not_netns(why),
            NotOpened::Unknown(error) => unknown(error),
        })?;
        let file = netns.key().map_err(unknown)?;
        if let Some(cookie) = self.cookies.get(&file) {
            return Ok(SourceKey::Netns { cookie: *cookie });
        }
        let cookie = netns.cookie().map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => not_netns("it is a namespace of another kind".to_owned()),
            _ => unknown(error),
        })?;
        self.cookies.insert(file, cookie);
        Ok(SourceKey::Netns { cookie })
    }

    /// Forgets what was remembered, so that it does not pile up.
    pub fn forget(&mut self) {
        self.cookies.clear();
    }
}
