//! Times between attempts.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::sync::watch;

/// How long things take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// The first wait after a failure; doubled by each further one.
    pub retry: Duration,
    /// The longest wait.
    pub retry_most: Duration,
    /// How often to look whether an absent kind is served by now.
    pub recheck: Duration,
    /// How long a kind that was there must be gone before its objects are let
    /// go, when the server did not delete them one by one.
    pub absent: Duration,
    /// How often to compare what is held with a fresh list.
    pub compare: Duration,
    /// How long a difference must last before everything is fetched anew, and a
    /// finding before it is told.
    pub settle: Duration,
    /// How long the right to write Events lasts when it is not renewed.
    pub lease: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            retry: Duration::from_millis(500),
            retry_most: Duration::from_secs(10),
            recheck: Duration::from_secs(30),
            absent: Duration::from_secs(10),
            compare: Duration::from_secs(600),
            settle: Duration::from_secs(10),
            lease: Duration::from_secs(60),
        }
    }
}

/// Tells all watches of an agent that one of them works again: what the others wait
/// for is over by that, as a rule.
#[derive(Clone, Debug, Default)]
pub struct Recovery(watch::Sender<()>);

impl Recovery {
    /// A watch works that did not.
    pub fn tell(&self) {
        self.0.send_replace(());
    }

    /// To be told.
    pub fn told(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}

/// Waits that grow, each drawn between half and all of its length, so that the
/// agents of a cluster do not all come back at one instant.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    /// A version had expired, and nothing has worked since.
    expired: bool,
    timing: Timing,
}

impl Backoff {
    /// Starts at the shortest wait.
    pub fn new(timing: Timing) -> Self {
        Self { next: timing.retry, expired: false, timing }
    }

    /// The next wait.
    pub fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.timing.retry_most);
        jitter(wait)
    }

    /// The wait before a fresh list, as the version to go on from has expired.
    ///
    /// An API server that starts knows no earlier version. It is there again,
    /// so that what it had to be waited for says nothing, the first time.
    pub fn wait_expired(&mut self) -> Duration {
        if !std::mem::replace(&mut self.expired, true) {
            self.next = self.timing.retry;
        }
        self.wait()
    }

    /// It worked: the next failure waits shortly again.
    pub fn reset(&mut self) {
        self.next = self.timing.retry;
        self.expired = false;
    }
}

/// Between half of a time and all of it.
pub fn jitter(time: Duration) -> Duration {
    // A fresh RandomState is the standard library's only source of chance.
    let half = time / 2;
    let random = RandomState::new().hash_one(0) % 1024;
    half + half * u32::try_from(random).unwrap_or(0) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_start_over() {
        let timing = Timing::default();
        let mut backoff = Backoff::new(timing);
        let waits: Vec<Duration> = (0..10).map(|_| backoff.wait()).collect();
        assert!(waits[0] >= timing.retry / 2 && waits[0] <= timing.retry, "{waits:?}");
        assert!(waits[9] >= timing.retry_most / 2 && waits[9] <= timing.retry_most, "{waits:?}");
        backoff.reset();
        assert!(backoff.wait() <= timing.retry);
    }

    #[test]
    fn a_server_that_is_back_and_forgot_everything_is_listed_soon() {
        let timing = Timing::default();
        let mut backoff = Backoff::new(timing);
        (0..10).for_each(|_| _ = backoff.wait());
        assert!(backoff.wait_expired() <= timing.retry, "the waits before are forgotten");
        let waits: Vec<Duration> = (0..10).map(|_| backoff.wait_expired()).collect();
        assert!(waits[9] >= timing.retry_most / 2, "it expires again and again: {waits:?}");
        (0..10).for_each(|_| _ = backoff.wait());
        backoff.reset();
        (0..10).for_each(|_| _ = backoff.wait());
        assert!(backoff.wait_expired() <= timing.retry, "it worked meanwhile");
    }
}
