//! The relay of one direction: bytes from one socket to the other.
//!
//! A direction starts as a copy through the worker's buffer: two system calls
//! for a short message, and no memory of its own while it waits. Once reads
//! have come back full for a while it moves to `splice(2)` through a pooled
//! pipe, and back when its portions become small. Both sockets are watched
//! edge-triggered, so an [`End`] remembers what it was last seen to be.
//!
//! Urgent data stays in its place: our sockets have it in the stream (`SO_OOBINLINE`),
//! reads stop before it, and the byte at the mark is sent on as an urgent one. So the
//! receiver has it as it wants it, as without us.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown, sockopt};
use rustix::pipe::{SpliceFlags, splice};

use super::near;
use super::pipes::{Pipe, Pipes};

/// Size of a worker's buffer, in bytes, and so the most that is held in user
/// space for a direction whose receiver does not read.
pub(super) const BUFFER: usize = 64 << 10;

/// Full reads, with no small one between them, that make a direction bulky.
const FULL_READS: u8 = 4;

/// How much one `splice` is asked to move, in bytes. More than the pipe's
/// nominal size: what counts there is its number of buffers, and one buffer can
/// be a compound page.
const PORTION: usize = 1 << 20;

/// Portions below this, in bytes, are cheaper copied.
const SMALL: usize = 16 << 10;

/// Small portions in a row that end splicing.
const SMALL_PORTIONS: u8 = 16;

/// Portions that one direction may move before others get their turn.
const TURN: u32 = 16;

/// How pipes are filled and emptied.
const MOVE: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

/// Bytes that are not urgent.
const IN_BAND: SendFlags = SendFlags::empty();

/// One of the two sockets of a connection.
pub(super) struct End {
    pub fd: OwnedFd,
    /// May have something to read: bytes, the end, or an error.
    pub readable: bool,
    /// May take bytes.
    pub writable: bool,
    /// The peer has sent its FIN: a short read is the last one.
    pub ended: bool,
    /// The connection was reset, or failed otherwise: behind what can still be
    /// read is an error, not the end.
    pub failed: bool,
    /// There may be urgent data: reads stop at its mark, and a short one tells
    /// nothing.
    pub urgent: bool,
    /// Whether epoll tells when it becomes writable.
    pub watched_for_room: bool,
    /// Whether Nagle's delay is off.
    pub immediate: bool,
}

impl End {
    pub fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            readable: true,
            writable: true,
            ended: false,
            failed: false,
            urgent: false,
            watched_for_room: false,
            immediate: false,
        }
    }

    /// Whether no more bytes will come than are there: the next read tells how
    /// it is over.
    fn over(&self) -> bool {
        self.ended || self.failed
    }
}

/// What a direction holds and how it moves.
#[derive(Default)]
pub(super) struct Flow {
    /// Bytes read (or made) that the receiver has not taken yet. Empty, and
    /// without allocation, nearly always.
    pub held: Vec<u8>,
    /// The pipe, while there is something in it.
    pipe: Option<Pipe>,
    /// An urgent byte that comes behind all of that.
    urgent: Option<u8>,
    /// Whether it splices rather than copies.
    bulky: bool,
    /// Full reads with no small one between them; while bulky, small portions
    /// in a row.
    run: u8,
    /// The sender has finished.
    pub ended: bool,
    /// The receiver has been told so.
    pub closed: bool,
    /// Bytes passed on.
    pub bytes: u64,
}

/// Why a direction stopped for now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rest {
    /// Nothing to read: an event will come.
    Empty,
    /// The receiver takes no more: an event will come, once epoll is asked.
    Full,
    /// It has had its turn; there may be more.
    Turn,
    /// All bytes and the end have been passed on.
    Done,
}

/// Which socket of a direction was reset, or failed otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Broken {
    /// The one that is read.
    Sender,
    /// The one that is written. Bytes read but not written are still held.
    Receiver,
}

impl Flow {
    /// Whether bytes wait for the receiver.
    pub fn holds(&self) -> bool {
        !self.held.is_empty() || self.pipe.is_some() || self.urgent.is_some()
    }

    /// Moves what can be moved now. `other_done` says that the other direction
    /// is done already: both sockets are then closed rather than shut down.
    ///
    /// # Errors
    ///
    /// When either socket was reset or timed out.
    pub fn pump(
        &mut self,
        from: &mut End,
        to: &mut End,
        other_done: bool,
        buffer: &mut [u8],
        pipes: &mut Pipes,
    ) -> Result<Rest, Broken> {
        for _ in 0..TURN {
            if !self.flush(to, pipes)? {
                return Ok(Rest::Full);
            }
            if self.ended {
                if !self.closed {
                    self.closed = true;
                    if !other_done {
                        finish(to)?;
                    }
                }
                return Ok(Rest::Done);
            }
            if !from.readable {
                return Ok(Rest::Empty);
            }
            // Without a pipe (descriptors have run out) it goes on as a copy, and where
            // there is a mark, at which splicing tells neither the end nor that there
            // is more.
            match if self.bulky && !from.urgent { pipes.take().ok() } else { None } {
                Some(pipe) => self.fill(pipe, from, pipes)?,
                None => self.copy(from, to, buffer)?,
            }
        }
        let more = self.ended || from.readable || self.holds();
        Ok(if more { Rest::Turn } else { Rest::Empty })
    }

    /// Reads what the sender has said already, before there is a receiver: how
    /// many bytes of the buffer it is.
    pub fn first(&mut self, from: &mut End, buffer: &mut [u8]) -> Result<usize, Broken> {
        if at_mark(from) {
            // It goes its own way once there is a receiver.
            from.urgent = true;
            return Ok(0);
        }
        match recv(&from.fd, &mut *buffer, RecvFlags::empty()) {
            Ok((_, 0)) => self.ended = true,
            Ok((_, count)) => {
                from.readable = count == buffer.len() || from.over() || from.urgent;
                return Ok(count);
            }
            Err(Errno::AGAIN) => from.readable = false,
            Err(Errno::INTR) => {}
            Err(_) => return Err(Broken::Sender),
        }
        Ok(0)
    }

    /// Writes what is held, or these bytes, to a receiver of which it is not
    /// known yet whether it is connected; so its end is never told. What it
    /// does not take is held.
    pub fn offer(&mut self, to: &mut End, bytes: &[u8]) -> Result<(), Broken> {
        if self.held.is_empty() {
            let written = if bytes.is_empty() { Ok(0) } else { write(to, bytes, false, IN_BAND) };
            let sent = written.unwrap_or(0);
            self.bytes += sent as u64;
            self.held.extend_from_slice(&bytes[sent..]);
            return written.map(drop);
        }
        self.held.extend_from_slice(bytes);
        let sent = write(to, &self.held, false, IN_BAND)?;
        self.bytes += sent as u64;
        self.held.drain(..sent);
        if self.held.is_empty() {
            self.held = Vec::new();
        }
        Ok(())
    }

    /// Reads once and writes once; what the receiver does not take is held.
    fn copy(&mut self, from: &mut End, to: &mut End, buffer: &mut [u8]) -> Result<(), Broken> {
        let urgent = from.urgent && at_mark(from);
        let most = if urgent { 1 } else { buffer.len() };
        let count = match recv(&from.fd, &mut buffer[..most], RecvFlags::empty()) {
            Ok((_, 0)) => {
                self.ended = true;
                return Ok(());
            }
            Ok((_, count)) => count,
            Err(Errno::AGAIN) => {
                from.readable = false;
                return Ok(());
            }
            Err(Errno::INTR) => return Ok(()),
            Err(_) => return Err(Broken::Sender),
        };
        if urgent {
            self.urgent = Some(buffer[0]);
            return Ok(());
        }
        if count < buffer.len() {
            if count < SMALL {
                self.run = 0;
            }
            // A short read has emptied the socket, but where there was a mark; if its
            // peer had finished before the read, then this was everything.
            if !from.urgent {
                self.ended = from.ended;
                from.readable = from.over();
            }
        } else {
            self.run += 1;
            if self.run >= FULL_READS {
                (self.bulky, self.run) = (true, 0);
                near::bound_send_buffer(&to.fd);
            }
        }
        let written = write(to, &buffer[..count], self.bytes > 0, IN_BAND);
        let sent = written.unwrap_or(0);
        self.bytes += sent as u64;
        if sent < count {
            self.held.extend_from_slice(&buffer[sent..count]);
        }
        written.map(drop)
    }

    /// Writes what is held; `false` when the receiver takes no more.
    fn flush(&mut self, to: &mut End, pipes: &mut Pipes) -> Result<bool, Broken> {
        if !self.held.is_empty() {
            if !to.writable {
                return Ok(false);
            }
            let sent = write(to, &self.held, self.bytes > 0, IN_BAND)?;
            self.bytes += sent as u64;
            if sent < self.held.len() {
                self.held.drain(..sent);
                return Ok(false);
            }
            self.held = Vec::new();
        }
        while let Some(pipe) = self.pipe.as_mut() {
            if !to.writable {
                return Ok(false);
            }
            match splice(&pipe.reader, None, &to.fd, None, pipe.held, MOVE) {
                Ok(0) => return Err(Broken::Receiver),
                Ok(count) => {
                    pipe.held -= count;
                    self.bytes += count as u64;
                    if pipe.held == 0 {
                        pipes.put(self.pipe.take());
                    }
                }
                Err(Errno::AGAIN) => to.writable = false,
                Err(Errno::INTR) => {}
                Err(_) => return Err(Broken::Receiver),
            }
        }
        while let Some(byte) = self.urgent {
            if !to.writable {
                return Ok(false);
            }
            if write(to, &[byte], self.bytes > 0, SendFlags::OOB)? == 1 {
                self.bytes += 1;
                self.urgent = None;
            }
        }
        Ok(true)
    }

    /// Moves one portion from the sender into an empty pipe.
    fn fill(&mut self, mut pipe: Pipe, from: &mut End, pipes: &mut Pipes) -> Result<(), Broken> {
        match splice(&from.fd, None, &pipe.writer, None, PORTION, MOVE) {
            // The end, or a mark that was not told of yet: reading tells.
            Ok(0) => (self.bulky, self.run) = (false, 0),
            Ok(count) => {
                pipe.held = count;
                self.pipe = Some(pipe);
                self.run = if count < SMALL { self.run + 1 } else { 0 };
                if self.run >= SMALL_PORTIONS {
                    (self.bulky, self.run) = (false, 0);
                }
                return Ok(());
            }
            Err(Errno::AGAIN) => from.readable = false,
            Err(Errno::INTR) => {}
            Err(_) => return Err(Broken::Sender),
        }
        pipes.put(Some(pipe));
        Ok(())
    }
}

/// Writes; how many bytes were taken, and `to.writable` accordingly.
fn write(to: &mut End, bytes: &[u8], again: bool, how: SendFlags) -> Result<usize, Broken> {
    if again && !to.immediate {
        // Nagle's delay concerns only what follows an unacknowledged segment:
        // a connection that writes once is spared the system call.
        to.immediate = true;
        let _ = sockopt::set_tcp_nodelay(&to.fd, true);
    }
    match send(&to.fd, bytes, how | SendFlags::NOSIGNAL) {
        Ok(count) => {
            to.writable = count == bytes.len();
            Ok(count)
        }
        Err(Errno::AGAIN) => {
            to.writable = false;
            Ok(0)
        }
        Err(Errno::INTR) => Ok(0),
        Err(_) => Err(Broken::Receiver),
    }
}

/// Whether the next byte is an urgent one.
fn at_mark(from: &End) -> bool {
    let mut at: libc::c_int = 0;
    // SAFETY: the descriptor is open, and the kernel writes one number.
    let told = unsafe { libc::ioctl(from.fd.as_raw_fd(), SIOCATMARK, &raw mut at) };
    told == 0 && at != 0
}

/// Of `sockios.h`; not in libc on every architecture.
const SIOCATMARK: libc::Ioctl = 0x8905;

/// Tells the receiver that no more bytes will come.
fn finish(to: &End) -> Result<(), Broken> {
    match shutdown(to.fd.as_fd(), Shutdown::Write) {
        // The peer has reset it meanwhile.
        Err(Errno::NOTCONN) => Err(Broken::Receiver),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::descriptors::Descriptors;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    /// A socket to write to (or read from), and the end that a direction has.
    fn pair() -> (OwnedFd, End) {
        let flags = SocketFlags::NONBLOCK;
        let (far, near) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .expect("a pair of sockets");
        (far, End::new(near))
    }

    #[test]
    fn whatever_the_portions_nothing_is_lost_and_nothing_held_at_rest() {
        let mut buffer = vec![0; BUFFER];
        let mut pipes = Pipes::new(Descriptors::of_process());
        for seed in 0..12 {
            let mut random = fastrand::Rng::with_seed(seed);
            let ((source, mut from), (sink, mut to)) = (pair(), pair());
            let mut flow = Flow::default();
            let mut sent = vec![0; 2 << 20];
            random.fill(&mut sent);
            let (mut written, mut received) = (0, Vec::new());
            let mut source = Some(source);
            loop {
                if let Some(socket) = &source {
                    let bits = random.u32(8..20);
                    let until = (written + random.usize(1..=1 << bits)).min(sent.len());
                    if let Ok(count) = send(socket, &sent[written..until], SendFlags::NOSIGNAL) {
                        written += count;
                    }
                    from.readable = true;
                    if written == sent.len() {
                        source = None;
                        from.ended = true;
                    }
                }
                if random.u8(..) < 100 || source.is_none() {
                    let mut back = vec![0; 1 << random.u32(1..20)];
                    while let Ok((_, count @ 1..)) = recv(&sink, &mut back[..], RecvFlags::empty())
                    {
                        received.extend_from_slice(&back[..count]);
                    }
                    to.writable = true;
                }
                let rest = flow
                    .pump(&mut from, &mut to, false, &mut buffer, &mut pipes)
                    .expect("both are fine");
                assert!(rest != Rest::Empty || !flow.holds(), "nobody would come back for it");
                if rest == Rest::Done {
                    break;
                }
            }
            let mut back = vec![0; BUFFER];
            while let Ok((_, count @ 1..)) = recv(&sink, &mut back[..], RecvFlags::empty()) {
                received.extend_from_slice(&back[..count]);
            }
            assert!(received == sent, "seed {seed}: {} of {} bytes", received.len(), sent.len());
            assert_eq!(flow.bytes, sent.len() as u64);
        }
    }
}
