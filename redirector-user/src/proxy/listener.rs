//! Listening sockets: how they are accepted from, and how that waits when
//! descriptors have run out.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::{self, Errno};
use rustix::net::{SocketFlags, acceptfrom_with, getsockname, sockopt};

use super::descriptors::is_exhaustion;

/// The first and the longest wait after descriptors have run out.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];

/// Most connections accepted in one round of the event loop.
const MOST_AT_ONCE: u32 = 32;

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
            Err(error) if is_exhaustion(error) => {
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
