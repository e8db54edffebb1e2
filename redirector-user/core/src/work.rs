//! How much was done for a change: it grows with the change, and not with the
//! configuration, and a test can hold it against what it had to be.

use std::ops::AddAssign;

/// What was made anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Work {
    /// Services, with their endpoints: each host of a ServiceEntry is one.
    pub services: usize,
    /// VirtualServices that were read.
    pub rules: usize,
    /// Hosts whose services were read.
    pub hosts: usize,
    /// Islands of frontends that were made.
    pub islands: usize,
    /// Whether what is served as a gateway was made.
    pub gateways: usize,
    /// Routes that came, went or are others.
    pub routes: usize,
    /// Destinations that were made.
    pub destinations: usize,
    /// Frontends, routes, destinations, classes and workloads that were placed.
    pub placed: usize,
    /// Entries of a side's tables that are written.
    pub written: usize,
    /// Bytes that are appended to the journal of the state directory.
    pub journal: usize,
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        let Self {
            services,
            rules,
            hosts,
            islands,
            gateways,
            routes,
            destinations,
            placed,
            written,
            journal,
        } = other;
        self.services += services;
        self.rules += rules;
        self.hosts += hosts;
        self.islands += islands;
        self.gateways += gateways;
        self.routes += routes;
        self.destinations += destinations;
        self.placed += placed;
        self.written += written;
        self.journal += journal;
    }
}
