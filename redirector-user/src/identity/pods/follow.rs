//! Says at once when a pod's cgroup comes or goes.

use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{PodCgroups, PodEvent};

/// Everything is read again at this interval, in case that events are lost.
const ROUND: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

/// The niceness of the thread.
const NICE: libc::c_int = -15;

/// After a failure.
const REST: Duration = Duration::from_secs(1);

/// Follows the cgroups in a thread of its own. First comes what is there now;
/// `send` is also told when it was seen, unless it may have been there for
/// long, and returns `false` to end the thread.
pub fn follow(
    mut pods: PodCgroups,
    mut send: impl FnMut(Vec<PodEvent>, Option<Instant>) -> bool + Send + 'static,
) -> io::Result<()> {
    let first = pods.rescan()?;
    thread::Builder::new().name("pods".into()).spawn(move || {
        hurry();
        let (mut events, mut seen) = (Ok(first), None);
        loop {
            match events {
                Ok(events) if events.is_empty() => {}
                Ok(events) => {
                    if !send(events, seen) {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!("the cgroups of pods: {error}");
                    thread::sleep(REST);
                }
            }
            let happened =
                poll(&mut [PollFd::from_borrowed_fd(pods.as_fd(), PollFlags::IN)], Some(&ROUND));
            (events, seen) = match happened {
                Ok(0) => (pods.rescan(), None),
                _ => {
                    let seen = Instant::now();
                    (pods.read(), Some(seen))
                }
            };
        }
    })?;
    Ok(())
}

/// Puts this thread before the others: it has little to do, and a pod waits for
/// it. Where that is not allowed it takes its turn.
fn hurry() {
    // SAFETY: no memory is involved; 0 is the calling thread alone.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    if result != 0 {
        let error = io::Error::last_os_error();
        tracing::debug!(%error, "the thread that follows pods has no priority");
    }
}
