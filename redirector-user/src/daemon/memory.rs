//! Memory that was needed for a moment.

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
}

impl Spare {
    /// Something has come to its end that took memory for a while.
    pub fn note(&mut self) {
        self.is_due = true;
    }

    /// Gives the system back what reading, compiling and looking took, when it is time to.
    /// The allocator keeps it otherwise: after the first configuration that may be as much
    /// as is in use.
    pub fn give_back(&mut self) {
        let begun = Instant::now();
        if !self.is_due || self.until.is_some_and(|until| begun < until) {
            return;
        }
        // SAFETY: it concerns memory that nobody uses; it may be called at any time.
        #[cfg(target_env = "gnu")]
        unsafe {
            libc::malloc_trim(0);
        }
        let rest = (begun.elapsed() * REST).max(PAUSE);
        *self = Self { is_due: false, until: Some(begun + rest) };
    }
}
