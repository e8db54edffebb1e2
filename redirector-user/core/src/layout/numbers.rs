//! Numbers that are given out and come back.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{Full, Table};

/// Gives out numbers. One that comes back waits for the next step, and then
/// behind all others that came back before.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Numbers {
    /// Everything from here on was never given out.
    next: u32,
    /// Came back in earlier steps, the earliest first.
    free: VecDeque<u32>,
    /// Came back in this step.
    waiting: Vec<u32>,
    /// How many are given out.
    used: u64,
}

impl Numbers {
    pub(super) const fn from(first: u32) -> Self {
        Self { next: first, free: VecDeque::new(), waiting: Vec::new(), used: 0 }
    }

    pub(super) fn begin_step(&mut self) {
        self.free.extend(self.waiting.drain(..));
    }

    /// Takes a number below `capacity`.
    pub(super) fn take(&mut self, capacity: u32, table: Table) -> Result<u32, Full> {
        // Never used ones come last, so that the tables stay dense.
        let number = match self.free.pop_front() {
            Some(number) => number,
            None if self.next < capacity => {
                self.next += 1;
                self.next - 1
            }
            None => return Err(Full { table, needed: self.used + 1, capacity }),
        };
        self.used += 1;
        Ok(number)
    }

    pub(super) fn free(&mut self, number: u32) {
        self.used = self.used.saturating_sub(1);
        self.waiting.push(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_comes_again_in_a_later_step_only() {
        let mut numbers = Numbers::from(0);
        let take = |numbers: &mut Numbers| numbers.take(3, Table::Routes).ok();
        assert_eq!([take(&mut numbers), take(&mut numbers)], [Some(0), Some(1)]);
        numbers.begin_step();
        numbers.free(0);
        assert_eq!(take(&mut numbers), Some(2));
        assert_eq!(take(&mut numbers), None, "0 waits for the next step");
        numbers.begin_step();
        assert_eq!(take(&mut numbers), Some(0));
    }
}
