//! Memory that was needed for a moment.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Giving memory back looks at all that is free, which is not for every change: it rests for
/// so many times as long as it took, and for no less than this.
const REST: u32 = 199;
const PAUSE: Duration = Duration::from_secs(5);

/// Whether there is memory to give back, and until when that waits.
#[derive(Debug, Default)]
pub(super) struct Spare {
    is_due: bool,
    until: Option<Instant>,
    /// Who gives it back, and says how long that took.
    giving: Option<JoinHandle<Duration>>,
}

impl Spare {
    /// Something has come to its end that took memory for a while.
    pub fn note(&mut self) {
        self.is_due = true;
    }

    /// Gives the system back what reading, compiling and looking took, when it is time to.
    /// The allocator keeps it otherwise: after the first configuration that may be as much
    /// as is in use. A thread does it, of no lower priority than this one: it takes tens of
    /// milliseconds, which no change is to wait for.
    pub fn give_back(&mut self) {
        let now = Instant::now();
        if let Some(giving) = self.giving.take_if(|giving| giving.is_finished()) {
            let rest = giving.join().unwrap_or_default() * REST;
            self.until = Some(now + rest.max(PAUSE));
        }
        if self.is_due && self.giving.is_none() && self.until.is_none_or(|until| until <= now) {
            // Where there is no thread to be had it is tried again with the next turn.
            self.giving = thread::Builder::new().name("memory".into()).spawn(give_back).ok();
            self.is_due = self.giving.is_none();
        }
    }
}

/// How long it took.
fn give_back() -> Duration {
    let begun = Instant::now();
    // SAFETY: it concerns memory that nobody uses; it may be called at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
    begun.elapsed()
}
