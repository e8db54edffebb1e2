//! Network namespaces of a test's own.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kernel::unique;

/// A named network namespace with its loopback up; deleted when dropped.
#[derive(Debug)]
pub struct NetNs {
    name: String,
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("iproute2 is installed");
    assert!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}

impl NetNs {
    /// Makes one.
    ///
    /// # Panics
    ///
    /// When it cannot.
    pub fn new(what: &str) -> Self {
        let this = Self { name: unique(what) };
        ip(&["netns", "add", &this.name]);
        ip(&["-n", &this.name, "link", "set", "lo", "up"]);
        this
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that holds it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Moves the calling thread into it.
    ///
    /// # Panics
    ///
    /// When it cannot.
    pub fn enter(&self) {
        enter(&self.path());
    }

    /// Does something in it, on a thread of its own. Threads that are started
    /// by it, such as those of servers, are in it as well.
    ///
    /// # Panics
    ///
    /// When that does.
    pub fn within<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter();
                body()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `ip` with these arguments, in it.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn ip(&self, arguments: &str) {
        let all: Vec<&str> = ["-n", &self.name].into_iter().chain(arguments.split(' ')).collect();
        ip(&all);
    }
}

/// Moves the calling thread into the network namespace that a file holds.
///
/// # Panics
///
/// When it cannot.
pub fn enter(path: &Path) {
    use std::os::fd::AsRawFd;
    let file = std::fs::File::open(path).expect("the namespace exists");
    // SAFETY: the descriptor is open.
    let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "setns: {}", std::io::Error::last_os_error());
}

impl Drop for NetNs {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}
