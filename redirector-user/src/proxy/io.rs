//! What connections use of the worker that has them.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::event::epoll::{self, CreateFlags};
use rustix::io;

use super::access::AccessLog;
use super::config::Config;
use super::decide::Whose;
use super::descriptors::Descriptors;
use super::loops::Loops;
use super::pipes::Pipes;
use super::relay::BUFFER;
use super::snapshot::Snapshot;
use super::stats::Registry;
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

impl Shared {
    /// Nothing is served yet.
    pub fn new(hello_timeout: Duration, whose: Box<dyn Whose>, access: AccessLog) -> Self {
        let nothing = Snapshot::new(Config::default(), &mut Registry::default());
        Self {
            snapshot: ArcSwap::from_pointee(nothing),
            loops: Loops::default(),
            hello_timeout,
            descriptors: Descriptors::of_process(),
            whose,
            told: Told::default(),
            access,
        }
    }
}

impl Io {
    /// Of a worker that begins now.
    ///
    /// # Errors
    ///
    /// When descriptors have run out.
    pub fn new(shared: Arc<Shared>) -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            buffer: vec![0; BUFFER],
            pipes: Pipes::new(shared.descriptors.clone()),
            random: fastrand::Rng::new(),
            now: 0,
            shared,
            exhausted: false,
        })
    }
}
