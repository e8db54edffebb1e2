//! Numbers that are given out and come back.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::stepped::Stepping;
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
    /// What takes this step back, in its order.
    #[serde(skip)]
    done: Vec<Done>,
}

/// What a step changes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct NumbersChange {
    next: u32,
    /// So many of those that had come back were taken.
    taken: usize,
    waiting: Vec<u32>,
    used: u64,
}

/// What was done in a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Done {
    /// So many were put behind those that came back before.
    Began(usize),
    /// One of those that came back was taken.
    Again(u32),
    /// One that was never given out was taken.
    New,
    /// One came back.
    Freed,
}

impl Numbers {
    pub(super) const fn from(first: u32) -> Self {
        Self { next: first, free: VecDeque::new(), waiting: Vec::new(), used: 0, done: Vec::new() }
    }

    /// What this step changes.
    pub(super) fn change(&self) -> NumbersChange {
        let taken = self.done.iter().filter(|done| matches!(done, Done::Again(_))).count();
        NumbersChange { next: self.next, taken, waiting: self.waiting.clone(), used: self.used }
    }

    /// Makes them what they were after a step that changed this.
    pub(super) fn follow(&mut self, change: NumbersChange) {
        self.free.extend(self.waiting.drain(..));
        self.free.drain(..change.taken.min(self.free.len()));
        (self.next, self.waiting, self.used) = (change.next, change.waiting, change.used);
    }

    /// Takes a number below `capacity`.
    pub(super) fn take(&mut self, capacity: u32, table: Table) -> Result<u32, Full> {
        // Never used ones come last, so that the tables stay dense.
        let number = match self.free.pop_front() {
            Some(number) => {
                self.done.push(Done::Again(number));
                number
            }
            None if self.next < capacity => {
                self.done.push(Done::New);
                self.next += 1;
                self.next - 1
            }
            None => return Err(Full { table, needed: self.used + 1, capacity }),
        };
        self.used += 1;
        Ok(number)
    }

    /// How many are given out.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// Whether some came back in this step, and can be taken in the next one.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn free(&mut self, number: u32) {
        self.used = self.used.saturating_sub(1);
        self.waiting.push(number);
        self.done.push(Done::Freed);
    }
}

impl Stepping for Numbers {
    fn begin_step(&mut self) {
        self.done.push(Done::Began(self.waiting.len()));
        self.free.extend(self.waiting.drain(..));
    }

    fn settle(&mut self) {
        // Not cleared: the step that places everything takes room as no other does.
        self.done = Vec::new();
    }

    fn take_back(&mut self) {
        while let Some(done) = self.done.pop() {
            match done {
                Done::Began(count) => {
                    let rest = self.free.len().saturating_sub(count);
                    self.waiting.extend(self.free.drain(rest..));
                }
                Done::Again(number) => {
                    self.free.push_front(number);
                    self.used = self.used.saturating_sub(1);
                }
                Done::New => {
                    self.next -= 1;
                    self.used = self.used.saturating_sub(1);
                }
                Done::Freed => {
                    self.waiting.pop();
                    self.used += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn a_step_that_is_taken_back_leaves_nothing(
            steps in prop::collection::vec(prop::collection::vec(any::<Option<u8>>(), 0..12), 1..20),
        ) {
            let mut numbers = Numbers::from(1);
            let mut used = Vec::new();
            let step = |numbers: &mut Numbers, edits: &[Option<u8>], used: &mut Vec<u32>| {
                numbers.begin_step();
                for edit in edits {
                    match edit {
                        Some(at) if !used.is_empty() => {
                            numbers.free(used.swap_remove(usize::from(*at) % used.len()));
                        }
                        _ => used.extend(numbers.take(30, Table::Routes)),
                    }
                }
            };
            for edits in steps {
                let before = numbers.clone();
                step(&mut numbers, &edits, &mut used.clone());
                numbers.take_back();
                prop_assert_eq!(&numbers, &before);
                step(&mut numbers, &edits, &mut used);
                numbers.settle();
            }
        }
    }
}
