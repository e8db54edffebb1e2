//! Memory that was needed for a moment.

use std::time::{Duration, Instant};

/// Giving memory back looks at all that is free, which is not for every change.
const PAUSE: Duration = Duration::from_secs(30);

/// When memory was given back last.
#[derive(Debug, Default)]
pub(super) struct Spare(Option<Instant>);

impl Spare {
    /// Gives the system back what reading and compiling took, unless that was done
    /// a moment ago. The allocator keeps it otherwise: after the first
    /// configuration that may be as much as is in use.
    pub fn give_back(&mut self) {
        if self.0.is_some_and(|last| last.elapsed() < PAUSE) {
            return;
        }
        self.0 = Some(Instant::now());
        // SAFETY: it concerns memory that nobody uses; it may be called at any time.
        #[cfg(target_env = "gnu")]
        unsafe {
            libc::malloc_trim(0);
        }
    }
}
