//! Cgroups of a test's own, below the root of the hierarchy, never the root.

use std::fs;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
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

/// A cgroup that counts the memory of its processes, what the kernel holds for
/// them included; removed when this is dropped.
#[derive(Debug)]
pub struct MemoryCgroup {
    path: PathBuf,
    /// The files of the version that it is of: what is used now, and at most so far.
    files: [&'static str; 2],
}

impl MemoryCgroup {
    /// Makes one, where this machine counts memory by cgroup.
    pub fn new(what: &str) -> Option<Self> {
        let two = mount();
        let enabled = fs::read_to_string(two.join("cgroup.subtree_control")).unwrap_or_default();
        let (parent, files) = if enabled.split_whitespace().any(|name| name == "memory") {
            (two, ["memory.current", "memory.peak"])
        } else {
            let one = PathBuf::from("/sys/fs/cgroup/memory");
            (one, ["memory.usage_in_bytes", "memory.max_usage_in_bytes"])
        };
        let path = parent.join(unique(what));
        fs::create_dir(&path).ok()?;
        Some(Self { path, files })
    }

    /// The file that a process is moved into it by.
    pub fn procs(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// How many bytes are used now, and how many were at most.
    pub fn used(&self) -> Option<[u64; 2]> {
        let read = |file| fs::read_to_string(self.path.join(file)).ok()?.trim().parse().ok();
        Some([read(self.files[0])?, read(self.files[1])?])
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        for _ in 0..100 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        eprintln!("{} could not be removed", self.path.display());
    }
}

/// Has the command begin in that cgroup.
///
/// # Panics
///
/// When there is no such cgroup.
pub fn enter(command: &mut Command, cgroup: &Path) {
    let procs = fs::File::options().write(true).open(cgroup.join("cgroup.procs"));
    let procs = procs.unwrap_or_else(|error| panic!("{}: {error}", cgroup.display()));
    // SAFETY: between fork and exec the closure makes one system call, on a descriptor
    // that it owns.
    unsafe {
        command.pre_exec(move || (&procs).write_all(b"0").map_err(|_| io::Error::last_os_error()));
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
