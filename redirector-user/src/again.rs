//! Attempts that failed, and when to make them again.

use std::time::{Duration, Instant};

/// The first wait after a failure; doubled by each further one.
const FIRST: Duration = Duration::from_millis(200);

/// The longest wait.
const MOST: Duration = Duration::from_secs(30);

/// When to try again what failed: soon, as a passing fault may be over, and ever later
/// while it goes on, as when a disk is full.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Again {
    at: Option<Instant>,
    wait: Duration,
    first: Duration,
    most: Duration,
}

impl Default for Again {
    fn default() -> Self {
        Self::between(FIRST, MOST)
    }
}

impl Again {
    /// With these as the first and the longest wait.
    pub(crate) const fn between(first: Duration, most: Duration) -> Self {
        Self { at: None, wait: first, first, most }
    }

    /// It failed.
    pub(crate) fn failed(&mut self) {
        self.at = Some(Instant::now() + self.wait);
        self.wait = (self.wait * 2).min(self.most);
    }

    /// It worked, or is of no interest any more.
    pub(crate) fn over(&mut self) {
        *self = Self::between(self.first, self.most);
    }

    /// When it is time; `None` when there is nothing to try again.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.at
    }

    /// How long until it is time, likewise.
    pub(crate) fn until(&self) -> Option<Duration> {
        Some(self.at?.saturating_duration_since(Instant::now()))
    }

    /// Whether it is time, once for each failure.
    pub(crate) fn is_due(&mut self) -> bool {
        let due = self.until() == Some(Duration::ZERO);
        if due {
            self.at = None;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_due_soon_and_later_each_time_until_it_works() {
        let mut again = Again::default();
        assert!(!again.is_due() && again.until().is_none());
        let waits: Vec<Duration> = (0..12)
            .map(|_| {
                again.failed();
                again.until().expect("something to try again")
            })
            .collect();
        // What has passed meanwhile is taken off each.
        let grow = waits.windows(2).all(|pair| pair[0] <= pair[1] + FIRST / 2);
        assert!(waits[0] <= FIRST && grow, "{waits:?}");
        assert!(waits[11] > MOST / 2 && waits[11] <= MOST, "{waits:?}");
        again.over();
        again.failed();
        assert!(again.until() <= Some(FIRST));
        again.at = Some(Instant::now());
        assert!(again.is_due() && !again.is_due());
    }
}
