//! Listening sockets: how they are bound, and how accepting waits when
//! descriptors have run out.
//!
//! Each worker has a socket of its own for each address (`SO_REUSEPORT`): the
//! kernel spreads connections over them, and no worker wakes for another's.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::{self, Errno};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, acceptfrom_with, bind, getsockname, ipproto, listen,
    socket_with, sockopt,
};

/// Length of the accept queue asked for; `net.core.somaxconn` bounds it.
const BACKLOG: i32 = 4096;

/// The first and the longest wait after descriptors have run out.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];

/// Most connections accepted in one round of the event loop.
const MOST_AT_ONCE: u32 = 32;

/// Binds one socket for each of `workers`, of whom some `have` one already.
///
/// # Errors
///
/// The kernel's, as they come: address in use, not on this machine, or a port
/// that needs `CAP_NET_BIND_SERVICE`.
pub(super) fn bind_all(
    address: SocketAddr,
    have: usize,
    workers: usize,
) -> io::Result<Vec<OwnedFd>> {
    (have..workers).map(|number| bind_one(address, number > 0)).collect()
}

/// `shared` says that a socket of ours has the address already. The first one
/// is bound without `SO_REUSEPORT`: with it, another program of the same user
/// that sets it too would get a part of the connections, and nobody an error.
fn bind_one(address: SocketAddr, shared: bool) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    // Not to wait for connections of a former process in TIME_WAIT.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if shared {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    // Accepted sockets inherit it, which saves a system call for each.
    sockopt::set_tcp_nodelay(&socket, true)?;
    urgent_in_place(&socket)?;
    bind(&socket, &address)?;
    if !shared {
        // It counts from listening on.
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Leaves urgent bytes in the stream, of which none is lost then. Accepted sockets
/// inherit it.
pub(super) fn urgent_in_place(socket: &OwnedFd) -> io::Result<()> {
    sockopt::set_socket_oobinline(socket, true)
}

/// The address that the client of an accepted socket has dialled.
pub(super) fn dialled(socket: &OwnedFd) -> io::Result<SocketAddr> {
    SocketAddr::try_from(getsockname(socket)?).map_err(|_| Errno::AFNOSUPPORT)
}

/// What came of accepting.
pub(super) enum Accepted {
    /// A connection, and who it is from.
    Connection(OwnedFd, SocketAddr),
    /// There is none.
    None,
    /// Descriptors or memory have run out.
    Exhausted(Errno),
}

/// Accepts one connection.
pub(super) fn accept(socket: &OwnedFd) -> Accepted {
    // Errors of a connection that failed while it waited are not ours.
    for _ in 0..MOST_AT_ONCE {
        match acceptfrom_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok((fd, peer)) => {
                if let Some(Ok(peer)) = peer.map(SocketAddr::try_from) {
                    return Accepted::Connection(fd, peer);
                }
            }
            Err(Errno::AGAIN) => return Accepted::None,
            Err(error) if super::upstream::is_exhaustion(error) => {
                return Accepted::Exhausted(error);
            }
            Err(_) => {}
        }
    }
    Accepted::None
}

/// How a worker's listening socket is doing.
#[derive(Default)]
pub(super) struct Pace {
    /// The last wait, while descriptors are short.
    pause: Option<Duration>,
    /// How many to accept in this round.
    burst: u32,
    /// The round of the event loop that it was last served in.
    round: u64,
}

impl Pace {
    /// How many connections to accept in this round: one as long as they come
    /// one at a time, more when rounds in a row have some waiting.
    pub fn burst(&mut self, round: u64) -> u32 {
        let in_a_row = round == self.round + 1;
        self.burst = if in_a_row { (self.burst * 2).clamp(1, MOST_AT_ONCE) } else { 1 };
        self.round = round;
        self.burst
    }

    /// There was none left.
    pub fn emptied(&mut self) {
        self.round = 0;
    }

    /// How long to wait now that descriptors have run out, and whether this is
    /// the first wait in a row.
    pub fn exhausted(&mut self) -> (Duration, bool) {
        let first = self.pause.is_none();
        let pause = self.pause.map_or(PAUSES[0], |last| (last * 2).min(PAUSES[1]));
        self.pause = Some(pause);
        (pause, first)
    }

    /// A connection was accepted and could be served.
    pub fn served(&mut self) {
        self.pause = None;
    }
}
