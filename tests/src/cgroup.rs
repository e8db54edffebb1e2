//! Cgroups of a test's own, below the root of the hierarchy, never the root.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use redirector::datapath::SourceKey;
use redirector::datapath::cgroup::Cgroup;

use crate::kernel::unique;

/// Where cgroup2 is mounted.
///
/// # Panics
///
/// When it is not.
pub fn mount() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
    mounts
        .lines()
        .find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let path = fields.next()?;
            (fields.next()? == "cgroup2").then(|| PathBuf::from(path))
        })
        .expect("cgroup2 is mounted")
}

/// A cgroup; its processes are killed and it is removed, with those below it,
/// when this is dropped.
#[derive(Debug)]
pub struct TestCgroup {
    path: PathBuf,
}

impl TestCgroup {
    /// Makes one.
    ///
    /// # Panics
    ///
    /// When it cannot.
    pub fn new(what: &str) -> Self {
        let path = mount().join(unique(what));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { path }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a cgroup below it, with those between.
    ///
    /// # Panics
    ///
    /// When it cannot.
    pub fn child(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        for _ in 0..100 {
            remove(&self.path);
            if !self.path.exists() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        eprintln!("{} could not be removed", self.path.display());
    }
}

/// Removes a cgroup and those below it, as far as nothing is in them.
pub fn remove(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

/// The source key of a cgroup.
///
/// # Panics
///
/// When it is none.
pub fn key(path: &Path) -> SourceKey {
    let Cgroup { id, level, .. } = Cgroup::open(path).unwrap_or_else(|error| panic!("{error}"));
    SourceKey::Cgroup { id, level }
}
