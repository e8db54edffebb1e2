//! Descriptors that connections do not get: control, metrics and changes of the
//! configuration need some when clients have all others.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::io::{self, Errno};
use rustix::process::{Resource, getrlimit};

/// How many are kept back, of many; of few it is a quarter.
const KEPT: u64 = 128;

/// The kernel gives the lowest number that is free: so a number tells how many are
/// left at least.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptors {
    /// Numbers from here on are kept back.
    end: RawFd,
}

impl Descriptors {
    /// By this process's limit, as it is now.
    pub fn of_process() -> Self {
        Self::below(getrlimit(Resource::Nofile).current)
    }

    fn below(limit: Option<u64>) -> Self {
        let end = limit.map(|limit| limit - KEPT.min(limit / 4));
        Self { end: end.and_then(|end| end.try_into().ok()).unwrap_or(RawFd::MAX) }
    }

    /// A descriptor for a connection.
    ///
    /// # Errors
    ///
    /// `EMFILE` when it is one of those that are kept back: it is closed.
    pub fn take(self, made: OwnedFd) -> io::Result<OwnedFd> {
        if self.has(&made) { Ok(made) } else { Err(Errno::MFILE) }
    }

    /// Whether connections may have this one.
    pub fn has(self, made: &OwnedFd) -> bool {
        made.as_raw_fd() < self.end
    }

    /// Whether there is one more, as a copy of this one shows.
    pub fn has_another(self, any: &OwnedFd) -> bool {
        io::fcntl_dupfd_cloexec(any, 0).is_ok_and(|copy| self.has(&copy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_few_descriptors_is_kept_back_and_not_more_of_many() {
        assert_eq!(Descriptors::below(Some(256)).end, 192);
        assert_eq!(Descriptors::below(Some(1 << 20)).end, (1 << 20) - 128);
        assert_eq!(Descriptors::below(None).end, RawFd::MAX);
        let pipe = rustix::pipe::pipe().unwrap().0;
        let number = pipe.as_raw_fd();
        assert!(Descriptors { end: number + 1 }.has(&pipe));
        assert!(!Descriptors { end: 0 }.has_another(&pipe));
        assert_eq!(Descriptors { end: number }.take(pipe).unwrap_err(), Errno::MFILE);
    }
}
