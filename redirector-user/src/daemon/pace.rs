//! How many changes are put in force at once, while more wait.
//!
//! Each time costs something by itself (a write that is synced, the flip) and something
//! for each change. Both are learnt from the last times, by least squares; a slice is
//! so large that its changes take about as long as [`AIM`], or as the time that is
//! spent anyway where that is longer: then a flood takes at most twice as long as it
//! would at once.

use std::time::Duration;

/// What comes meanwhile waits for about so long.
const AIM: f64 = 0.01;

/// The least that is taken.
const LEAST: f64 = 16.0;

/// A slice is at most this many times as large as those that were measured.
const GROWTH: f64 = 4.0;

/// What the last measurement but one counts, against the last.
const KEEP: f64 = 0.8;

/// What was measured: sums, weighted, of changes and of seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    weight: f64,
    changes: f64,
    seconds: f64,
    squares: f64,
    products: f64,
    largest: f64,
}

impl Pace {
    /// So many changes took so long.
    pub fn took(&mut self, changes: usize, time: Duration) {
        let (n, t) = (changes as f64, time.as_secs_f64());
        for sum in [
            &mut self.weight,
            &mut self.changes,
            &mut self.seconds,
            &mut self.squares,
            &mut self.products,
            &mut self.largest,
        ] {
            *sum *= KEEP;
        }
        self.weight += 1.0;
        self.changes += n;
        self.seconds += t;
        self.squares += n * n;
        self.products += n * t;
        self.largest = self.largest.max(n);
    }

    /// How many changes to take.
    pub fn slice(&self) -> usize {
        let most = (self.largest * GROWTH).max(LEAST);
        let (n, t) = (self.changes / self.weight, self.seconds / self.weight);
        let variance = self.squares / self.weight - n * n;
        let covariance = self.products / self.weight - n * t;
        let each = covariance / variance;
        let fixed = (t - each * n).max(0.0);
        let slice = match variance > n * n / 100.0 {
            true if each > 0.0 => fixed.max(AIM) / each,
            true => most,
            // From slices of one size nothing is learnt of others.
            false => n * 1.5,
        };
        slice.min(most).max(LEAST) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a flood; returns the slices, with the seconds that each took.
    fn flood(mut left: usize, fixed: f64, each: f64, pace: &mut Pace) -> Vec<(usize, f64)> {
        let mut slices = Vec::new();
        while left > 0 {
            let slice = pace.slice().min(left);
            let time = fixed + each * slice as f64;
            pace.took(slice, Duration::from_secs_f64(time));
            slices.push((slice, time));
            left -= slice;
        }
        slices
    }

    #[test]
    fn where_each_change_has_its_cost_no_slice_takes_long() {
        let mut pace = Pace::default();
        for _ in 0..2 {
            let slices = flood(100_000, 0.002, 15e-6, &mut pace);
            assert!(slices.iter().all(|(_, time)| *time < 0.02), "{slices:?}");
            let all: f64 = slices.iter().map(|(_, time)| time).sum();
            assert!(all < 2.0 * 100_000.0 * 15e-6, "{all}");
        }
    }

    #[test]
    fn where_each_time_costs_much_a_flood_is_made_in_few() {
        let mut pace = Pace::default();
        for _ in 0..30 {
            pace.took(1, Duration::from_millis(1000));
        }
        let slices = flood(100_000, 1.0, 10e-6, &mut pace);
        assert!(slices.len() < 10, "{slices:?}");
    }

    #[test]
    fn a_flood_that_comes_first_is_no_measure_for_the_next() {
        let mut pace = Pace::default();
        pace.took(100_000, Duration::from_secs(3));
        for _ in 0..3 {
            pace.took(1, Duration::from_millis(2));
        }
        let slices = flood(10_000, 0.002, 30e-6, &mut pace);
        assert!(slices.iter().all(|(_, time)| *time < 0.02), "{slices:?}");
    }
}
