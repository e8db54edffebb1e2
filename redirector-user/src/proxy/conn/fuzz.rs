//! A connection that is relayed, and all that may happen at its two ends, in whatever order.
//!
//! The sockets are TCP ones of the loopback interface; between them is what a worker has,
//! without its thread, so that the schedule says when it looks.

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redirector_core::model::SourceId;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventFlags};
use rustix::net::{SendFlags, send, sockopt};

use super::super::access::AccessLog;
use super::super::decide::Whose;
use super::super::io::{Io, Shared, UPSTREAM};
use super::super::listener::urgent_in_place;
use super::super::relay::End;
use super::super::upstream::reset_on_close;
use super::super::worker::block_sigpipe;
use super::watch::token_of;
use super::{Conn, Side, Step};

/// So many steps have bytes enough to fill all buffers on the way.
const STEPS: usize = 200;

/// One that is not over by then never is.
const STUCK: Duration = Duration::from_secs(5);

/// So many connections have one address before another is taken: their ports rest for a minute.
const OF_ONE_ADDRESS: u32 = 10_000;

/// Whoever it is.
struct Nobody;

impl Whose for Nobody {
    fn of(&self, _: u64) -> Option<SourceId> {
        None
    }
}

/// A client or an endpoint.
struct Peer {
    /// Until it is reset.
    socket: Option<TcpStream>,
    /// How many bytes it has said; which ones is known by that.
    said: u64,
    heard: u64,
    /// It has said that it says no more.
    is_finished: bool,
    /// It has heard that: in order, or by a reset.
    ended: Option<bool>,
}

/// The byte at a place of what a peer says.
fn byte(place: u64) -> u8 {
    (place ^ place >> 8 ^ place >> 13) as u8
}

impl Peer {
    fn new(socket: TcpStream, is_narrow: bool) -> Self {
        socket.set_nonblocking(true).expect("it does not block");
        // None is lost by the order in which it is read.
        sockopt::set_socket_oobinline(&socket, true).expect("urgent bytes are in their place");
        if is_narrow {
            sockopt::set_socket_recv_buffer_size(&socket, 4096).expect("room");
            sockopt::set_socket_send_buffer_size(&socket, 4096).expect("room");
        }
        Self { socket: Some(socket), said: 0, heard: 0, is_finished: false, ended: None }
    }

    /// Says so many bytes, or as many as there is room for.
    fn say(&mut self, count: usize, urgent: bool) {
        let says = !self.is_finished && self.ended != Some(false);
        let Some(mut socket) = self.socket.as_ref().filter(|_| says) else { return };
        let bytes: Vec<u8> = (self.said..).take(count).map(byte).collect();
        let taken = match urgent {
            true => send(socket, &bytes[..1], SendFlags::OOB | SendFlags::NOSIGNAL)
                .map_err(std::io::Error::from),
            false => socket.write(&bytes),
        };
        match taken {
            Ok(count) => self.said += count as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // That it was reset is told once: reading tells an end afterwards.
            Err(_) => self.ended = Some(false),
        }
    }

    fn finish(&mut self) {
        if let Some(socket) = self.socket.as_ref().filter(|_| !self.is_finished) {
            // Refused where the connection was reset.
            self.is_finished = socket.shutdown(Shutdown::Write).is_ok();
        }
    }

    fn reset(&mut self) {
        if let Some(socket) = self.socket.take() {
            reset_on_close(socket);
        }
    }

    /// Hears up to so many bytes, of all that the other one has said; whether there were any.
    fn hear(&mut self, most: usize) -> bool {
        let Some(mut socket) = self.socket.as_ref().filter(|_| self.ended.is_none()) else {
            return false;
        };
        let mut bytes = vec![0; most.max(1)];
        match socket.read(&mut bytes) {
            Ok(0) => self.ended = Some(true),
            Ok(count) => {
                let expected = (self.heard..).map(byte);
                assert!(bytes[..count].iter().copied().eq(expected.take(count)), "other bytes");
                self.heard += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(_) => self.ended = Some(false),
        }
        true
    }
}

/// The connection as its worker has it.
struct Worker {
    io: Io,
    conn: Option<Conn>,
    /// It is to have another turn.
    again: bool,
    /// It was reset.
    is_reset: bool,
}

impl Worker {
    fn new(client: TcpStream, upstream: TcpStream) -> Self {
        let shared = Shared::new(Duration::ZERO, Box::new(Nobody), AccessLog::new().0);
        let mut io = Io::new(Arc::new(shared)).expect("descriptors");
        let here = client.local_addr().expect("an address");
        for socket in [&client, &upstream] {
            socket.set_nonblocking(true).expect("it does not block");
        }
        let (client, upstream) = (client.into(), upstream.into());
        urgent_in_place(&client).and_then(|()| urgent_in_place(&upstream)).expect("TCP");
        let mut conn = Conn::new(0, client, here, here, Arc::default(), 0);
        let flags = EventFlags::IN | EventFlags::PRI | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&io.epoll, &upstream, token_of(0, Side::Upstream), flags).expect("watched");
        conn.upstream = Some(End::new(upstream));
        conn.watch_client(&io).expect("watched");
        io.now = 1;
        Self { io, conn: Some(conn), again: false, is_reset: false }
    }

    /// Handles up to so many events, and a turn that is due; whether there was anything.
    fn look(&mut self, most: usize, wait: Duration) -> bool {
        let mut events = Vec::with_capacity(most.max(1));
        let wait = Timespec { tv_sec: 0, tv_nsec: wait.as_nanos() as _ };
        let _ = epoll::wait(&self.io.epoll, spare_capacity(&mut events), Some(&wait));
        let again = std::mem::take(&mut self.again);
        for event in &events {
            let is_upstream = event.data.u64() & UPSTREAM != 0;
            let side = if is_upstream { Side::Upstream } else { Side::Client };
            self.with(|conn, io| conn.event(side, event.flags, io));
        }
        if again {
            self.with(Conn::again);
        }
        again || !events.is_empty()
    }

    fn with(&mut self, look: impl FnOnce(&mut Conn, &mut Io) -> Step) {
        let Some(mut conn) = self.conn.take() else { return };
        match look(&mut conn, &mut self.io) {
            Step::Wait => self.conn = Some(conn),
            Step::Again => (self.conn, self.again) = (Some(conn), true),
            step => {
                self.is_reset = step == Step::Reset;
                conn.finish(self.is_reset, &mut self.io);
            }
        }
    }
}

/// Both ends of a connection.
fn pair() -> (TcpStream, TcpStream) {
    thread_local! {
        static AT: RefCell<(Option<TcpListener>, u32)> = const { RefCell::new((None, 0)) };
    }
    AT.with_borrow_mut(|(listener, count)| {
        *count += 1;
        if *count % OF_ONE_ADDRESS == 1 {
            let [.., high, low] = (1 + *count / OF_ONE_ADDRESS).to_be_bytes();
            let address = Ipv4Addr::new(127, 1, high, low);
            *listener = Some(TcpListener::bind((address, 0)).expect("an address of loopback"));
        }
        let listener = listener.as_ref().expect("it was made before");
        let address = listener.local_addr().expect("its address");
        let far = TcpStream::connect(address).expect("it is accepted");
        (far, listener.accept().expect("it has come").0)
    })
}

/// Does what the bytes say, and then lets both peers say and hear all: whatever the portions,
/// half closes and urgent marks, all bytes arrive, in order, and then the end; and where one of
/// the two resets it, the other never takes that for the end of what was said.
pub fn relay(bytes: &[u8]) {
    let Some((narrow, schedule)) = bytes.split_first() else { return };
    block_sigpipe();
    let ((client, accepted), (connected, endpoint)) = (pair(), pair());
    let mut worker = Worker::new(accepted, connected);
    let narrow = [narrow & 1 != 0, narrow & 2 != 0];
    let mut peers = [Peer::new(client, narrow[0]), Peer::new(endpoint, narrow[1])];
    for step in schedule.chunks_exact(2).take(STEPS) {
        let [what, amount] = [step[0], step[1]];
        let peer = &mut peers[usize::from(what >> 3 & 1)];
        let count = (1 << (amount & 15)) + usize::from(amount >> 4);
        match what & 7 {
            0 | 1 => peer.say(count, false),
            2 => peer.say(1, true),
            3 => drop(peer.hear(count)),
            // Rarely: nothing comes after them.
            4 if amount & 3 == 0 => peer.finish(),
            5 if amount & 7 == 0 => peer.reset(),
            _ => drop(worker.look(count, Duration::ZERO)),
        }
    }
    peers.iter_mut().for_each(Peer::finish);
    let begun = Instant::now();
    let is_over = |peer: &Peer| peer.socket.is_none() || peer.ended.is_some();
    while worker.conn.is_some() || !peers.iter().all(is_over) {
        assert!(begun.elapsed() < STUCK, "it is stuck");
        let heard = peers.each_mut().map(|peer| peer.hear(1 << 16));
        let wait = if heard.contains(&true) { Duration::ZERO } else { Duration::from_millis(1) };
        worker.look(4, wait);
    }
    let is_reset = peers.iter().any(|peer| peer.socket.is_none());
    assert!(is_reset || !worker.is_reset, "nobody has reset it");
    for (peer, other) in [(0, 1), (1, 0)].map(|(one, other)| (&peers[one], &peers[other])) {
        if peer.ended == Some(true) {
            assert!(other.is_finished, "an end that nobody has said");
            assert_eq!(peer.heard, other.said, "an end before all was heard");
        }
        assert!(is_reset || peer.ended == Some(true), "cut, and nobody has reset it");
    }
}
