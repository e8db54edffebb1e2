//! How long pods take from their cgroup to the kernel's table.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::datapath::SourceKey;

/// The upper bounds of the histogram's buckets, in microseconds; what took
/// longer is in one bucket more.
const BOUNDS: [u64; 14] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000,
    5_000_000,
];

/// How many times were how long.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Histogram {
    buckets: [u64; BOUNDS.len() + 1],
    sum: Duration,
}

impl Histogram {
    /// Adds one.
    pub fn add(&mut self, time: Duration) {
        let bucket = BOUNDS.partition_point(|bound| Duration::from_micros(*bound) < time);
        self.buckets[bucket] += 1;
        self.sum += time;
    }

    /// Each bucket's bound, which belongs to it, with how many times were within
    /// it or an earlier one; the last has none.
    pub fn cumulative(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let bounds = BOUNDS.iter().map(|bound| Some(Duration::from_micros(*bound)));
        bounds.chain([None]).zip(self.buckets).scan(0, |sum, (bound, count)| {
            *sum += count;
            Some((bound, *sum))
        })
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// All of them together.
    pub fn sum(&self) -> Duration {
        self.sum
    }
}

/// The times from seeing a pod's new cgroup to its entry in the kernel's table.
/// What was there before anybody looked has none.
#[derive(Clone, Debug, Default)]
pub struct Arrivals {
    expected: Histogram,
    other: Histogram,
    foreseen: u64,
    /// Seen, and not known in the kernel.
    waiting: HashMap<SourceKey, Instant>,
}

impl Arrivals {
    /// Of pods that the API server had told of before their cgroup came.
    pub fn expected_times(&self) -> &Histogram {
        &self.expected
    }

    /// Of pods that it told of afterwards, or that had to be compiled first.
    pub fn other_times(&self) -> &Histogram {
        &self.other
    }

    /// How many pods had a number before they were compiled.
    pub fn foreseen_pods(&self) -> u64 {
        self.foreseen
    }

    /// A pod has a number, and is not compiled yet.
    pub(super) fn foreseen(&mut self) {
        self.foreseen += 1;
    }

    /// An expected pod is known now.
    pub(super) fn expected(&mut self, seen: Option<Instant>) {
        if let Some(seen) = seen {
            self.expected.add(seen.elapsed());
        }
    }

    /// A pod has to wait for the control loop.
    pub(super) fn waits(&mut self, key: SourceKey, seen: Option<Instant>) {
        if let Some(seen) = seen {
            self.waiting.insert(key, seen);
        }
    }

    /// It is known now.
    pub(super) fn known(&mut self, key: SourceKey) {
        if let Some(seen) = self.waiting.remove(&key) {
            self.other.add(seen.elapsed());
        }
    }

    /// Its cgroup is gone.
    pub(super) fn gone(&mut self, key: SourceKey) {
        self.waiting.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_bucket_that_its_bound_closes() {
        let mut times = Histogram::default();
        for micros in [50, 51, 5_000, 9_000_000] {
            times.add(Duration::from_micros(micros));
        }
        let counts: Vec<_> = times.cumulative().map(|(_, count)| count).collect();
        assert_eq!(counts, [1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 4]);
        assert_eq!(times.cumulative().last(), Some((None, times.count())));
        assert_eq!(times.sum(), Duration::from_micros(9_005_101));
    }
}
