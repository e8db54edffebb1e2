//! Who is in charge of the node, and who may be again: locks on files, which end with the
//! process that holds them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use super::{StateDir, StateError, io_error};
use crate::rights;

/// The lock of the daemon.
pub(super) const LOCK: &str = "daemon.lock";

/// The lock of those who have handed over.
pub(super) const SUCCESSION: &str = "succession.lock";

/// How long what a killed daemon leaves behind may live.
const LEFTOVERS: Duration = Duration::from_secs(2);

/// The process id that a lock's file holds, and the name of its host where that is
/// not this one.
fn holder(text: &str) -> (&str, Option<&str>) {
    let mut words = text.split_whitespace();
    let pid = words.next().unwrap_or_default();
    (pid, words.next().filter(|host| *host != host_name()))
}

/// What this host is called; in a container, that.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn is_alive(pid: &str) -> bool {
    Path::new("/proc").join(pid).exists()
}

/// Held while the daemon lives.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Held by who has handed over, until somebody is in charge.
#[derive(Debug)]
pub struct Lingering {
    _file: File,
}

/// Opens the file of a lock, for its owner only: who could open it could hold it.
fn lock_file(path: &Path) -> Result<File, StateError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map_err(|source| io_error("cannot lock", path, source))
}

impl StateDir {
    /// Keeps other daemons away for as long as the result lives.
    pub fn lock(&self) -> Result<Lock, StateError> {
        let path = self.path.join(LOCK);
        let failed = |source| io_error("cannot lock", &path, source);
        let mut file = lock_file(&path)?;
        let mut text = String::new();
        let begun = Instant::now();
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(error) => return Err(failed(error.into())),
            }
            if text.is_empty() {
                let _ = file.read_to_string(&mut text);
            }
            let (pid, host) = holder(&text);
            // A probe of one that was killed may live a moment longer. A process of
            // another host is none of those seen here.
            let is_gone = host.is_some() || !is_alive(pid);
            if !pid.is_empty() && is_gone && begun.elapsed() < LEFTOVERS {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            let holder = match (pid, host) {
                ("", _) => "unknown".to_owned(),
                (pid, None) => pid.to_owned(),
                (pid, Some(host)) => format!("{pid} of {host}"),
            };
            return Err(StateError::Busy { path: self.path.clone(), holder });
        }
        file.set_len(0).map_err(failed)?;
        writeln!(file, "{} {}", std::process::id(), host_name()).map_err(failed)?;
        Ok(Lock { file })
    }

    /// Whether this lock is the one that others meet: nobody has removed it.
    pub fn is_locked_by(&self, lock: &Lock) -> bool {
        is_at(&lock.file, &self.path.join(LOCK))
    }

    /// The process id of the daemon that lives now; nothing when none does.
    pub fn daemon(&self) -> Option<u32> {
        let mut file = match File::open(self.path.join(LOCK)) {
            Ok(file) => file,
            // A reader knows it by who answers.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let link = UnixStream::connect(self.control_socket()).ok()?;
                return Some(rights::peer(&link).ok()?.pid.unsigned_abs());
            }
            Err(_) => return None,
        };
        // Whoever gets the lock, if only for reading, is alone with it.
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                file.read_to_string(&mut text).ok()?;
                holder(&text).0.parse().ok()
            }
            _ => None,
        }
    }

    /// Tells others that this process may be in charge again, for as long as the result lives.
    ///
    /// # Errors
    ///
    /// `Busy` when somebody looks at this moment; and the system's refusal.
    pub fn linger(&self) -> Result<Lingering, StateError> {
        let path = self.path.join(SUCCESSION);
        let file = lock_file(&path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(Lingering { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(StateError::Busy { path: self.path.clone(), holder: "unknown".to_owned() })
            }
            Err(error) => Err(io_error("cannot lock", &path, error.into())),
        }
    }

    /// Whether somebody [lingers](Self::linger).
    pub fn is_lingered(&self) -> bool {
        let Ok(file) = File::open(self.path.join(SUCCESSION)) else { return false };
        let alone = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        alone == Err(rustix::io::Errno::WOULDBLOCK)
    }
}

/// Whether a file that is open is the one at this path, as far as that can be told.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(file), Ok(there)) => (file.dev(), file.ino()) == (there.dev(), there.ino()),
        (_, there) => !there.is_err_and(|error| error.kind() == io::ErrorKind::NotFound),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::directory;
    use super::*;

    #[test]
    fn a_second_daemon_is_refused_and_told_the_first() {
        let (_root, state) = directory();
        assert_eq!(state.daemon(), None);
        let lock = state.lock().unwrap();
        let refused = state.lock().unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        assert_eq!(state.daemon(), Some(std::process::id()));
        drop(lock);
        assert_eq!(state.daemon(), None);
        state.lock().unwrap();
    }

    #[test]
    fn who_has_handed_over_is_known_until_the_last_of_them_does_no_more() {
        let (_root, state) = directory();
        assert!(!state.is_lingered());
        let (one, other) = (state.linger().unwrap(), state.linger().unwrap());
        drop(one);
        assert!(state.is_lingered());
        drop(other);
        assert!(!state.is_lingered());
        state.remove().unwrap();
        assert!(!state.path().exists());
    }

    #[test]
    fn a_daemon_of_another_pod_is_named_with_the_pod() {
        let (_root, state) = directory();
        let _lock = state.lock().unwrap();
        fs::write(state.path().join("daemon.lock"), "1 redirector-x7f2k\n").unwrap();
        let refused = state.lock().unwrap_err().to_string();
        assert!(refused.contains("process 1 of redirector-x7f2k"), "{refused}");
    }

    #[test]
    fn what_a_killed_daemon_leaves_behind_does_not_keep_the_next_one_away() {
        let (_root, state) = directory();
        let lock = state.lock().unwrap();
        // Nobody has this number: it is beyond what the kernel gives.
        fs::write(state.path().join("daemon.lock"), "4194305\n").unwrap();
        let ends = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            drop(lock);
        });
        state.lock().unwrap();
        ends.join().unwrap();
    }

    #[test]
    fn a_lock_whose_file_was_removed_keeps_nobody_away() {
        let (_root, state) = directory();
        let lock = state.lock().unwrap();
        assert!(state.is_locked_by(&lock));
        fs::remove_file(state.path().join("daemon.lock")).unwrap();
        assert!(!state.is_locked_by(&lock));
        let other = state.lock().unwrap();
        assert!(state.is_locked_by(&other) && !state.is_locked_by(&lock));
    }
}
