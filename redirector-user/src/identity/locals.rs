//! Which workload a process of this machine is, for who has its socket's cgroup: the
//! rule of the kernel's table, the deepest known cgroup above, else the network
//! namespace.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use redirector_core::model::SourceId;

use crate::datapath::SourceKey;

/// Most cgroups of a workload that are looked through: who makes more of them is unknown in
/// those that lie deepest, and holds up nobody else.
const MOST_BELOW: usize = 1024;

/// Most answers that are remembered.
const MOST: usize = 4096;

/// A workload's place in the hierarchy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Local {
    /// What the kernel compares.
    pub key: SourceKey,
    /// The directories, of a cgroup's.
    pub directories: Vec<PathBuf>,
    /// Who that is.
    pub source: SourceId,
}

/// The workloads of this machine, shared by the control loop, which knows them, and by
/// who asks.
#[derive(Clone, Default, Debug)]
pub struct Locals(Arc<Mutex<Inner>>);

#[derive(Default, Debug)]
struct Inner {
    all: Arc<Vec<Local>>,
    /// What was found for cgroups: none moves.
    found: HashMap<u64, Option<SourceId>>,
}

impl Locals {
    /// These are there from now on; says whether that is a change.
    pub fn set(&self, all: Vec<Local>) -> bool {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = *inner.all != all;
        if changes {
            *inner = Inner { all: Arc::new(all), found: HashMap::new() };
        }
        changes
    }

    /// The workload whose processes are in the cgroup with this id, or below it, in the
    /// network namespace with this cookie.
    pub fn of(&self, cgroup: u64, netns: Option<u64>) -> Option<SourceId> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = {
            let inner = lock();
            if let Some(found) = inner.found.get(&cgroup) {
                return found.clone();
            }
            inner.all.clone()
        };
        // Directories are looked through while nobody waits for it.
        let found = find(&all, cgroup, netns).cloned();
        let mut inner = lock();
        if !Arc::ptr_eq(&inner.all, &all) {
            return found;
        }
        if inner.found.len() >= MOST {
            inner.found.clear();
        }
        inner.found.insert(cgroup, found.clone());
        found
    }
}

fn find(all: &[Local], cgroup: u64, netns: Option<u64>) -> Option<&SourceId> {
    let level = |local: &&Local| match local.key {
        SourceKey::Cgroup { level, .. } => level,
        SourceKey::Netns { .. } => 0,
    };
    let above = all.iter().filter(|local| match local.key {
        SourceKey::Cgroup { id, .. } if id == cgroup => true,
        SourceKey::Cgroup { .. } => local.directories.iter().any(|at| holds(at, cgroup)),
        SourceKey::Netns { .. } => false,
    });
    let named = || {
        all.iter()
            .find(|local| matches!(local.key, SourceKey::Netns { cookie } if Some(cookie) == netns))
    };
    above.max_by_key(level).or_else(named).map(|local| &local.source)
}

/// Whether the cgroup with this id is the one at a directory, or below it. The uppermost
/// [`MOST_BELOW`] are looked at.
fn holds(directory: &Path, id: u64) -> bool {
    if fs::metadata(directory).is_ok_and(|at| at.ino() == id) {
        return true;
    }
    let mut left = MOST_BELOW;
    let mut next = VecDeque::from([directory.to_owned()]);
    while let Some(directory) = next.pop_front() {
        let Ok(entries) = fs::read_dir(directory) else { continue };
        let is_directory = |one: &fs::DirEntry| one.file_type().is_ok_and(|kind| kind.is_dir());
        for child in entries.flatten().filter(is_directory) {
            if child.ino() == id {
                return true;
            }
            left -= 1;
            if left == 0 {
                return false;
            }
            next.push_back(child.path());
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_known_cgroup_above_says_who_it_is_and_else_the_namespace() {
        let root = tempfile::tempdir().unwrap();
        let make = |below: &str| {
            let path = root.path().join(below);
            fs::create_dir_all(&path).unwrap();
            let id = fs::metadata(&path).unwrap().ino();
            (path, id)
        };
        let source = |name: &str| SourceId { namespace: "n".into(), name: name.into() };
        let local = |name: &str, (path, id): (PathBuf, u64), level: u32| Local {
            key: SourceKey::Cgroup { id, level },
            directories: vec![path],
            source: source(name),
        };
        let (outer, inner) = (make("a"), make("a/b/c"));
        let netns = SourceKey::Netns { cookie: 7 };
        let locals = Locals::default();
        locals.set(vec![
            local("inner", inner.clone(), 3),
            local("outer", outer.clone(), 1),
            Local { key: netns, directories: Vec::new(), source: source("net") },
        ]);
        let of = |id, netns| locals.of(id, netns).map(|source| source.name.to_string());
        assert_eq!(of(make("a/b/c/d").1, None).as_deref(), Some("inner"));
        assert_eq!(of(inner.1, None).as_deref(), Some("inner"));
        assert_eq!(of(make("a/b").1, Some(7)).as_deref(), Some("outer"));
        assert_eq!(of(make("other").1, Some(7)).as_deref(), Some("net"));
        assert_eq!(of(make("another").1, Some(8)), None);
        // Of very many those that lie deepest are not looked for.
        (0..MOST_BELOW).for_each(|at| _ = make(&format!("a/b/c/{at}")));
        assert_eq!(of(make("a/b/c/0/deep").1, None).as_deref(), None);
        locals.set(vec![local("outer", outer, 1)]);
        assert_eq!(of(inner.1, None).as_deref(), Some("outer"), "what was found is asked anew");
    }
}
