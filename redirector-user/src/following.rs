//! Threads that follow something of the kernel's for as long as somebody wants it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::pipe::{PipeFlags, pipe_with};

/// Whoever has it wants it: the thread ends when this is dropped.
#[derive(Debug)]
pub struct Following {
    /// Nothing is ever written to it.
    _end: OwnedFd,
}

/// The thread's end.
#[derive(Debug)]
pub(crate) struct Wanted(OwnedFd);

/// What a wait came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waited {
    /// There is something to read.
    Ready,
    /// The time is over.
    Over,
    /// Nobody wants it any more.
    Unwanted,
}

/// Both ends.
///
/// # Errors
///
/// When descriptors have run out.
pub(crate) fn following() -> io::Result<(Following, Wanted)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((Following { _end: write }, Wanted(read)))
}

impl Wanted {
    /// Waits until there is something to read there, at most for so long.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn wait(&self, on: &impl AsFd, most: Option<Duration>) -> io::Result<Waited> {
        // What is too long to be said is for ever.
        let most = most.and_then(|most| Timespec::try_from(most).ok());
        let mut fds = [PollFd::new(self, PollFlags::empty()), PollFd::new(on, PollFlags::IN)];
        let ready = retry_on_intr(|| poll(&mut fds, most.as_ref()))?;
        Ok(match ready {
            0 => Waited::Over,
            _ if fds[0].revents().is_empty() => Waited::Ready,
            _ => Waited::Unwanted,
        })
    }
}

/// To be polled with other things: it hangs up when nobody wants it any more.
impl AsFd for Wanted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until whoever told something there has ended, and drops what comes before.
#[cfg(test)]
pub(crate) fn assert_ends<T>(told: &std::sync::mpsc::Receiver<T>) {
    let minute = Duration::from_secs(60);
    let ended = std::iter::repeat_with(|| told.recv_timeout(minute)).find_map(Result::err);
    assert_eq!(ended, Some(std::sync::mpsc::RecvTimeoutError::Disconnected));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_what_is_waited_for_the_time_or_the_wish() {
        let (following, wanted) = following().unwrap();
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        assert_eq!(wanted.wait(&read, Some(Duration::ZERO)).unwrap(), Waited::Over);
        rustix::io::write(&write, b"x").unwrap();
        assert_eq!(wanted.wait(&read, None).unwrap(), Waited::Ready);
        drop(following);
        assert_eq!(wanted.wait(&read, None).unwrap(), Waited::Unwanted);
    }
}
