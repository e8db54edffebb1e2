//! Child processes in a cgroup.
//!
//! A child is a fork of the test that moves itself into the cgroup and runs a
//! closure there: its connects are what the programs see. What the closure
//! returns, or its panic, comes back through a pipe.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A running child.
#[derive(Debug)]
pub struct Child<T> {
    pid: libc::pid_t,
    result: Option<fs::File>,
    value: std::marker::PhantomData<T>,
}

/// Set in children.
static IN_CHILD: AtomicBool = AtomicBool::new(false);

/// How long a child may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Keeps panics of children from being printed, which takes locks that another
/// thread of the parent may have held at the fork. The hook itself is set once
/// and in the parent, for the same reason.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IN_CHILD.load(Ordering::SeqCst) {
                usual(info);
            }
        }));
    });
}

/// Runs a closure in a cgroup, to its end.
///
/// # Panics
///
/// With what the closure panicked with.
pub fn run<T: Serialize + DeserializeOwned>(cgroup: &Path, body: impl FnOnce() -> T) -> T {
    spawn(cgroup, body).join()
}

/// Waits for a file that another process makes.
///
/// # Panics
///
/// When it never comes.
pub fn wait_for(path: &Path) {
    let begun = Instant::now();
    while !path.exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} never comes", path.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Starts a closure in a cgroup.
///
/// # Panics
///
/// When no process can be made.
pub fn spawn<T: Serialize + DeserializeOwned>(cgroup: &Path, body: impl FnOnce() -> T) -> Child<T> {
    quiet_panics();
    let mut ends = [0; 2];
    // SAFETY: the array has room for both descriptors.
    let result = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
    assert_eq!(result, 0, "pipe: {}", io::Error::last_os_error());
    // SAFETY: both descriptors were just made.
    let (read, mut write) =
        unsafe { (fs::File::from_raw_fd(ends[0]), fs::File::from_raw_fd(ends[1])) };
    // SAFETY: the child of a process with threads may only do what needs no lock that
    // another thread may have held at the fork. glibc keeps its allocator usable in
    // it; it prints nothing, panics included, and leaves by `_exit`, so that nothing
    // of the parent's is run or dropped twice.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", io::Error::last_os_error());
    if pid > 0 {
        drop(write);
        return Child { pid, result: Some(read), value: std::marker::PhantomData };
    }
    drop(read);
    IN_CHILD.store(true, Ordering::SeqCst);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        fs::write(cgroup.join("cgroup.procs"), "0").expect("moving into the cgroup");
        body()
    }));
    let outcome: Result<T, String> = outcome.map_err(|panic| {
        panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "a panic without a message".into())
    });
    let bytes = serde_json::to_vec(&outcome).unwrap_or_default();
    let _ = write.write_all(&bytes);
    drop(write);
    // SAFETY: ends this process at once.
    unsafe { libc::_exit(0) }
}

impl<T: DeserializeOwned> Child<T> {
    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits for its result.
    ///
    /// # Panics
    ///
    /// With what the closure panicked with.
    pub fn join(mut self) -> T {
        let mut bytes = Vec::new();
        if let Some(mut result) = self.result.take() {
            let deadline = Instant::now() + PATIENCE;
            loop {
                let mut poll =
                    libc::pollfd { fd: result.as_raw_fd(), events: libc::POLLIN, revents: 0 };
                let left = deadline.saturating_duration_since(Instant::now()).as_millis() as i32;
                // SAFETY: one structure, as said.
                let ready = unsafe { libc::poll(&raw mut poll, 1, left) };
                assert!(ready != 0, "the child takes more than {PATIENCE:?}");
                let mut buffer = [0; 4096];
                match result.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(got) => bytes.extend_from_slice(&buffer[..got]),
                    Err(error) => panic!("reading from the child: {error}"),
                }
            }
        }
        self.wait();
        let outcome: Result<T, String> =
            serde_json::from_slice(&bytes).expect("the child was killed");
        match outcome {
            Ok(value) => value,
            Err(panic) => panic!("in the child: {panic}"),
        }
    }

    /// Kills it with SIGKILL.
    pub fn kill(mut self) {
        self.end();
    }
}

impl<T> Child<T> {
    fn wait(&mut self) {
        if self.pid > 0 {
            // SAFETY: the child is ours, and was not waited for.
            unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
            self.pid = 0;
        }
    }

    fn end(&mut self) {
        if self.pid > 0 {
            // SAFETY: the child is ours, and was not waited for.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            self.wait();
        }
    }
}

impl<T> Drop for Child<T> {
    fn drop(&mut self) {
        self.end();
    }
}
