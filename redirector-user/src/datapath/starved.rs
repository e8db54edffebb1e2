//! Programs that are waited for by other means than their counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::sys;

/// So long programs are counted before it is asked whether those that were counted at first
/// have come to their end: that takes no count, but more time.
pub const STARVES: Duration = Duration::from_secs(5);

/// A wait for programs that were there when counts did not come to zero.
#[derive(Debug)]
pub struct Starved {
    /// The epoch that all programs read which begin since.
    epoch: u64,
    since: Instant,
    /// One of these: it goes on, is over, or the kernel has refused it.
    state: Arc<AtomicU8>,
}

const WAITS: u8 = 0;
const OVER: u8 = 1;
const REFUSED: u8 = 2;

impl Starved {
    /// Begins to wait, on a thread of its own: a program whose task is preempted takes its
    /// time, and the control loop has other things to do.
    pub fn begin(epoch: u64) -> Option<Self> {
        let state = Arc::new(AtomicU8::new(WAITS));
        let tell = Arc::clone(&state);
        let wait = move || {
            let state = if sys::wait_for_programs().is_ok() { OVER } else { REFUSED };
            tell.store(state, Ordering::SeqCst);
        };
        thread::Builder::new().name("programs".into()).spawn(wait).ok()?;
        Some(Self { epoch, since: Instant::now(), state })
    }

    /// Whether it is of this epoch, and not to be begun again.
    pub fn counts_for(&self, epoch: u64) -> bool {
        self.epoch == epoch && self.state.load(Ordering::SeqCst) != REFUSED
    }

    /// Whether they have come to their end, after as long as counts are waited for.
    pub fn is_over(&self) -> bool {
        self.since.elapsed() >= STARVES && self.state.load(Ordering::SeqCst) == OVER
    }
}
