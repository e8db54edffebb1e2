//! Says when a workload's cgroup or namespace may have come or gone.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::inotify::Watches;

/// Mounting over a file causes no event, so namespaces are also looked for at
/// this interval.
pub const ROUND: Duration = Duration::from_secs(1);

/// Watches directories on behalf of the control loop.
#[derive(Debug)]
pub struct Watch {
    watches: Watches,
}

impl Watch {
    /// Starts the thread that calls `look` when something happened, and every
    /// [`ROUND`] anyway; `look` returns `false` to end it.
    pub fn start(look: impl FnMut() -> bool + Send + 'static) -> io::Result<Self> {
        let watches = Watches::new()?;
        let fd = watches.fd();
        thread::Builder::new().name("identity".into()).spawn(move || wait(&fd, look))?;
        Ok(Self { watches })
    }

    /// Watches what is needed to see these places come and go. Returns whether
    /// that is more than before, so that another look is due.
    pub fn set(&mut self, places: impl Iterator<Item = PathBuf>) -> bool {
        let mut directories: Vec<PathBuf> = places.filter_map(nearest_parent).collect();
        directories.sort();
        directories.dedup();
        self.watches.set(&directories)
    }
}

/// The directory in which the next step on the way to `place` appears.
fn nearest_parent(mut place: PathBuf) -> Option<PathBuf> {
    while place.pop() {
        if place.is_dir() {
            return Some(place);
        }
    }
    None
}

fn wait(fd: &Arc<OwnedFd>, mut look: impl FnMut() -> bool) {
    let round = Timespec { tv_sec: ROUND.as_secs() as i64, tv_nsec: 0 };
    let mut buffer = [0; 8 << 10];
    loop {
        let _ = poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&round));
        // Which one it was does not matter: a look costs a few stats.
        while rustix::io::read(fd, &mut buffer).is_ok_and(|read| read > 0) {}
        if !look() {
            return;
        }
    }
}
