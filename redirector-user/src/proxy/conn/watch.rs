//! What epoll is asked to tell about a connection's sockets.

use rustix::event::epoll::{self, EventFlags};
use rustix::io;

use super::{Conn, Side};
use crate::proxy::io::{Io, UPSTREAM};
use crate::proxy::relay::End;

impl Conn {
    /// Watches the client's socket, which has not been watched so far.
    pub(super) fn watch_client(&mut self, io: &Io) -> io::Result<()> {
        self.watched = true;
        let flags = EventFlags::IN | EventFlags::PRI | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&io.epoll, &self.client.fd, token_of(self.token, Side::Client), flags)
    }
}

/// Asks epoll to tell when `end` takes bytes again; it tells at once if it does
/// already.
pub(super) fn watch_for_room(end: &mut End, token: u64, side: Side, io: &Io) -> io::Result<()> {
    if end.watched_for_room {
        return Ok(());
    }
    end.watched_for_room = true;
    let flags =
        EventFlags::IN | EventFlags::OUT | EventFlags::PRI | EventFlags::RDHUP | EventFlags::ET;
    epoll::modify(&io.epoll, &end.fd, token_of(token, side), flags)
}

/// What epoll is to hand back for a socket.
pub(super) fn token_of(token: u64, side: Side) -> epoll::EventData {
    epoll::EventData::new_u64(match side {
        Side::Client => token,
        Side::Upstream => token | UPSTREAM,
    })
}
