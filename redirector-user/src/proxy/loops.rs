//! Routes that lead back to the gateways themselves.
//!
//! An endpoint may be an address that this proxy listens on: one gateway in
//! front of another is fine, a circle is not. A connection to such an endpoint
//! leaves from a port that is noted beforehand, with the listeners it has been
//! through; when it arrives, it is known again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::{self, Errno};
use rustix::net::{bind, getsockname};

/// The listeners that a connection has been through.
pub(super) type Trail = Vec<SocketAddr>;

/// The connections from this proxy to itself.
#[derive(Default)]
pub(super) struct Loops {
    trails: Mutex<HashMap<SocketAddr, Trail>>,
    /// How many there are: nearly always none, which then costs nothing.
    count: AtomicUsize,
}

impl Loops {
    /// The listeners that a connection from this address has been through.
    pub fn trail(&self, client: SocketAddr) -> Trail {
        if self.count.load(Ordering::Acquire) == 0 {
            return Trail::new();
        }
        self.lock().get(&client).cloned().unwrap_or_default()
    }

    /// Gives a socket that is about to connect to `endpoint`, one of our own
    /// addresses, a port of its own, and notes its trail.
    ///
    /// # Errors
    ///
    /// When no port is left.
    pub fn note(
        &self,
        socket: &OwnedFd,
        endpoint: SocketAddr,
        trail: Trail,
    ) -> io::Result<SocketAddr> {
        bind(socket, &SocketAddr::new(endpoint.ip(), 0))?;
        let local = SocketAddr::try_from(getsockname(socket)?).map_err(|_| Errno::AFNOSUPPORT)?;
        let mut trails = self.lock();
        trails.insert(local, trail);
        self.count.store(trails.len(), Ordering::Release);
        Ok(local)
    }

    /// Forgets a connection that is closed.
    pub fn forget(&self, local: SocketAddr) {
        let mut trails = self.lock();
        trails.remove(&local);
        self.count.store(trails.len(), Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Trail>> {
        self.trails.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
