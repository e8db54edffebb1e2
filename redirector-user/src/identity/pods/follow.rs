//! Says at once when a pod's cgroup comes or goes.

use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{PodCgroups, PodEvent};
use crate::scheduling::hurry;

/// Everything is read again at this interval, in case that events are lost.
const ROUND: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

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
