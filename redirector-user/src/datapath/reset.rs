//! Resetting connections: `SOCK_DESTROY` of sock_diag(7), in the network
//! namespace of each socket.
//!
//! The socket's owner gets ECONNABORTED, and the peer a RST. Needs a kernel with
//! CONFIG_INET_DIAG_DESTROY (4.5), CAP_NET_ADMIN in each namespace, and
//! CAP_SYS_ADMIN to enter it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;

use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6};
use netlink_packet_sock_diag::inet::SocketId;

use super::diag::{self, Diag, cookie};

/// Why connections could not be reset.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// The kernel was built without it.
    #[error(
        "this kernel cannot reset a connection from outside: it takes one with \
         CONFIG_INET_DIAG_DESTROY (and the module tcp_diag)"
    )]
    Kernel,
    /// The kernel refuses it to this process.
    #[error(
        "the kernel refused it to reset a connection: {0}. It takes CAP_NET_ADMIN, and \
         CAP_SYS_ADMIN for those in other network namespaces"
    )]
    Privilege(#[source] io::Error),
    /// The system refused something that it should not have.
    #[error("{0}: {1}")]
    System(String, #[source] io::Error),
}

impl ResetError {
    fn of(what: impl Into<String>, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Privilege(error),
            Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT) => Self::Kernel,
            _ => Self::System(what.into(), error),
        }
    }
}

/// Sockets by cookie, and where the connection of each was sent.
pub type Connections = BTreeMap<u64, SocketAddr>;

/// The connections that are to be reset.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// Those that are known.
    pub known: Connections,
    /// Sockets of which only the cookie is known: those of them that are connected to
    /// one of the endpoints.
    pub others: BTreeSet<u64>,
    /// These endpoints.
    pub endpoints: BTreeSet<SocketAddr>,
}

impl Wanted {
    /// Where this socket was sent, if it is one of them.
    fn endpoint(&self, socket: &SocketId) -> Option<SocketAddr> {
        let cookie = cookie(socket);
        // A v4-mapped address is an endpoint of IPv4.
        let ip = socket.destination_address.to_canonical();
        let peer = SocketAddr::new(ip, socket.destination_port);
        // A socket that was connected anew since is another connection.
        if self.known.get(&cookie) == Some(&peer) {
            return Some(peer);
        }
        (self.others.contains(&cookie) && self.endpoints.contains(&peer)).then_some(peer)
    }
}

/// Resets connections. Returns those that were found and reset; the others are at
/// their end, or in a network namespace that /proc does not show.
///
/// Call it on a thread of its own: it goes from namespace to namespace.
///
/// # Errors
///
/// The first thing that went wrong; what could be reset is.
pub fn reset(wanted: &Wanted) -> Result<Connections, (Connections, ResetError)> {
    let mut done = Connections::new();
    let mut failed = None;
    let entered = diag::everywhere(|| {
        if let Err(error) = reset_here(wanted, &mut done) {
            failed.get_or_insert(error);
        }
        !wanted.others.is_empty() || done.len() < wanted.known.len()
    });
    let entered = entered.map_err(|(what, error)| ResetError::of(what, error));
    match failed.map_or(entered, Err) {
        Err(error) => Err((done, error)),
        Ok(()) => Ok(done),
    }
}

/// Whether this kernel can do it: asked for a socket that cannot be.
///
/// # Errors
///
/// When it cannot be told.
pub(super) fn is_possible() -> io::Result<bool> {
    let diag = Diag::open()?;
    match diag.sockets(AF_INET, 1, false, |_| {}) {
        Ok(()) => {}
        // Nobody answers for TCP.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    match diag.destroy(AF_INET, SocketId::new_v4()) {
        Ok(()) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT) => Ok(true),
            Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT) => Ok(false),
            _ => Err(error),
        },
    }
}

/// Resets those that are in this thread's namespace.
fn reset_here(wanted: &Wanted, done: &mut Connections) -> Result<(), ResetError> {
    let unasked = |error: io::Error| match error.kind() {
        // Nobody answers for TCP.
        io::ErrorKind::NotFound => ResetError::Kernel,
        _ => ResetError::of("asking sock_diag", error),
    };
    let diag = Diag::open().map_err(unasked)?;
    let endpoints = wanted.known.values().chain(&wanted.endpoints);
    let ports: BTreeSet<u16> = endpoints.map(SocketAddr::port).collect();
    let mut here = Vec::new();
    for family in [AF_INET, AF_INET6] {
        for port in &ports {
            diag.sockets(family, *port, false, |found| {
                let id = found.header.socket_id;
                if let Some(endpoint) = wanted.endpoint(&id) {
                    here.push((family, id, endpoint));
                }
            })
            .map_err(unasked)?;
        }
    }
    let mut failed = None;
    for (family, id, endpoint) in here {
        let cookie = cookie(&id);
        match diag.destroy(family, id) {
            Ok(()) => drop(done.insert(cookie, endpoint)),
            // It has come to its end meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let error = ResetError::of("resetting a connection", error);
                match error {
                    // The same would come of all others.
                    ResetError::Privilege(_) | ResetError::Kernel => return Err(error),
                    ResetError::System(..) => drop(failed.get_or_insert(error)),
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}
