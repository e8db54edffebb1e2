//! Descriptors that connections do not get: control, metrics and changes of the
//! configuration need some when clients have all others.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering::Relaxed;

use rustix::io::{self, Errno};
use rustix::process::{Resource, getrlimit};

/// How many are kept back, of many, beside one for a copy of each listening socket, which the
/// next daemon is given; of few it is a quarter.
const KEPT: u64 = 128;

/// Whether an error of making a socket or of accepting is about this machine's resources
/// rather than about whom it is to.
pub(super) fn is_exhaustion(error: Errno) -> bool {
    matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
}

/// The kernel gives the lowest number that is free: so a number tells how many are
/// left at least.
#[derive(Clone, Debug)]
pub(super) struct Descriptors {
    limit: Option<u64>,
    /// Numbers from here on are kept back.
    end: Arc<AtomicI32>,
}

impl Descriptors {
    /// By this process's limit, as it is now.
    pub fn of_process() -> Self {
        Self::below(getrlimit(Resource::Nofile).current)
    }

    fn below(limit: Option<u64>) -> Self {
        let this = Self { limit, end: Arc::new(AtomicI32::new(RawFd::MAX)) };
        this.keep_for(0);
        this
    }

    /// Keeps back what copies of so many listening sockets take.
    pub fn keep_for(&self, listening: usize) {
        let kept = KEPT.saturating_add(listening as u64);
        let end = self.limit.map(|limit| limit - kept.min(limit / 4));
        let end = end.and_then(|end| end.try_into().ok()).unwrap_or(RawFd::MAX);
        self.end.store(end, Relaxed);
    }

    /// A descriptor for a connection.
    ///
    /// # Errors
    ///
    /// `EMFILE` when it is one of those that are kept back: it is closed.
    pub fn take(&self, made: OwnedFd) -> io::Result<OwnedFd> {
        if self.has(&made) { Ok(made) } else { Err(Errno::MFILE) }
    }

    /// Whether connections may have this one.
    pub fn has(&self, made: &OwnedFd) -> bool {
        made.as_raw_fd() < self.end.load(Relaxed)
    }

    /// Whether there is one more, as a copy of this one shows.
    pub fn has_another(&self, any: &OwnedFd) -> bool {
        io::fcntl_dupfd_cloexec(any, 0).is_ok_and(|copy| self.has(&copy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_few_descriptors_is_kept_back_and_not_more_of_many() {
        let end = |limit, listening| {
            let descriptors = Descriptors::below(limit);
            descriptors.keep_for(listening);
            descriptors.end.load(Relaxed)
        };
        assert_eq!(end(Some(256), 1000), 192);
        assert_eq!(end(Some(1 << 20), 0), (1 << 20) - 128);
        assert_eq!(end(Some(1 << 20), 4000), (1 << 20) - 4128, "and a copy of each socket");
        assert_eq!(end(None, 1), RawFd::MAX);
        let until = |end| Descriptors { limit: None, end: Arc::new(AtomicI32::new(end)) };
        let pipe = rustix::pipe::pipe().unwrap().0;
        let number = pipe.as_raw_fd();
        assert!(until(number + 1).has(&pipe));
        assert!(!until(0).has_another(&pipe));
        assert_eq!(until(number).take(pipe).unwrap_err(), Errno::MFILE);
    }
}
