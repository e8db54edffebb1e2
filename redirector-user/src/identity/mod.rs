//! Who connects: from processes to workloads.

pub mod pods;
