//! How much was done for a change: what a test can hold against what it had to be.

use std::ops::AddAssign;

/// What was made anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Work {
    /// Services, with their endpoints: each host of a ServiceEntry is one.
    pub services: usize,
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        let Self { services } = other;
        self.services += services;
    }
}
