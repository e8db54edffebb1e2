//! What connections use of the worker that has them.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::access::AccessLog;
use super::decide::Whose;
use super::descriptors::Descriptors;
use super::loops::Loops;
use super::pipes::Pipes;
use super::snapshot::Snapshot;
use super::told::Told;

/// Marks, in a token, the socket to the endpoint.
pub(super) const UPSTREAM: u64 = 1 << 31;

/// What all workers share.
pub(super) struct Shared {
    pub snapshot: ArcSwap<Snapshot>,
    pub loops: Loops,
    pub hello_timeout: Duration,
    pub descriptors: Descriptors,
    pub whose: Box<dyn Whose>,
    pub told: Told,
    pub access: AccessLog,
}

/// What a worker's connections use.
pub(super) struct Io {
    pub epoll: OwnedFd,
    pub buffer: Vec<u8>,
    pub pipes: Pipes,
    pub random: fastrand::Rng,
    /// Milliseconds since the worker started.
    pub now: u64,
    pub shared: Arc<Shared>,
    /// Descriptors have run out while a connection was set up.
    pub exhausted: bool,
}
