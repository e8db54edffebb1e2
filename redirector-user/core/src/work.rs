//! How much was done for a change: it grows with the change, and not with the
//! configuration, and a test can hold it against what it had to be.

use std::ops::AddAssign;

/// What was made anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Work {
    /// Services, with their endpoints: each host of a ServiceEntry is one.
    pub services: usize,
    /// Frontends, routes, destinations, classes and workloads that were placed.
    pub placed: usize,
    /// Entries of a side's tables that are written.
    pub written: usize,
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        let Self { services, placed, written } = other;
        self.services += services;
        self.placed += placed;
        self.written += written;
    }
}
