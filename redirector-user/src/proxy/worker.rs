//! A worker: a thread with an event loop, its share of every listening socket,
//! and the connections that it has accepted.
//!
//! Sockets are watched edge-triggered, listening sockets level-triggered. What
//! epoll hands back for a socket names its connection by place and generation,
//! so that an event for a connection that was closed a moment ago is told from
//! one for its successor.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use slab::Slab;

use super::conn::{Conn, NEVER, Side, Step};
use super::io::{Io, Shared, UPSTREAM};
use super::listener::{Accepted, Pace, accept};
use super::opened::BACKLOG;
use super::timer::Wheel;
use super::upstream::reset_on_close;

/// Tokens above this are not of connections.
const LISTENER: u64 = 1 << 63;
const WAKE: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;
/// Generations wrap here.
const GENERATIONS: u64 = 1 << 31;

/// Events taken in one round.
const EVENTS: usize = 256;

/// What a worker is told.
pub(super) enum Command {
    /// Accept from this socket.
    Listen(SocketAddr, OwnedFd),
    /// Serve what waits in the socket of this address, close it, say so, and
    /// give its connections this long.
    Unlisten(SocketAddr, Duration, Sender<()>),
    /// Give copies of all listening sockets.
    Share(Sender<std::io::Result<Vec<OwnedFd>>>),
    /// End once all connections are closed, at the latest after this long.
    Stop(Duration),
}

/// The other end of a worker.
#[derive(Clone)]
pub(super) struct Mailbox {
    commands: Arc<Mutex<Vec<Command>>>,
    wake: Arc<OwnedFd>,
}

impl Mailbox {
    pub fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { commands: Arc::default(), wake: Arc::new(wake) })
    }

    pub fn send(&self, command: Command) {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).push(command);
        // Fails only when the counter is full, and then it is awake.
        let _ = io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn take(&self) -> Vec<Command> {
        let _ = io::read(&self.wake, &mut [0; 8]);
        std::mem::take(&mut self.commands.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A listening socket of a worker.
struct Listening {
    address: SocketAddr,
    socket: OwnedFd,
    pace: Pace,
}

/// A worker.
pub(super) struct Worker {
    mailbox: Mailbox,
    started: Instant,
    io: Io,
    listeners: Slab<Listening>,
    conns: Slab<Conn>,
    generation: u64,
    /// Connections whose turn has ended, each once.
    ready: VecDeque<usize>,
    wheel: Wheel,
    /// Wakes for the wheel. A timeout of the wait itself would cost a timer of
    /// the kernel for every wait; this is set only when a deadline comes nearer.
    timer: OwnedFd,
    /// When it fires.
    timer_at: u64,
    round: u64,
    /// The connection that was accepted last has one of the descriptors that are kept
    /// back.
    scarce: bool,
    /// When it ends, once it was told to.
    stop: Option<u64>,
}

impl Worker {
    /// A worker that is not running yet.
    ///
    /// # Errors
    ///
    /// When descriptors have run out.
    pub fn new(mailbox: Mailbox, shared: Arc<Shared>) -> io::Result<Self> {
        let io = Io::new(shared)?;
        epoll::add(&io.epoll, mailbox.wake.as_fd(), EventData::new_u64(WAKE), EventFlags::IN)?;
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&io.epoll, &timer, EventData::new_u64(TIMER), flags)?;
        Ok(Self {
            mailbox,
            started: Instant::now(),
            io,
            listeners: Slab::new(),
            conns: Slab::new(),
            generation: 0,
            ready: VecDeque::new(),
            wheel: Wheel::new(),
            timer,
            timer_at: NEVER,
            round: 1,
            scarce: false,
            stop: None,
        })
    }

    /// Runs until it is told to stop, in a thread with [`block_sigpipe`].
    pub fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        let mut fired = Vec::new();
        loop {
            let timeout = self.timeout();
            events.clear();
            match epoll::wait(&self.io.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "waiting for events failed");
                    return;
                }
            }
            self.round += 1;
            self.io.now = self.started.elapsed().as_millis() as u64;
            for event in &events {
                self.event(event.data.u64(), event.flags);
            }
            for _ in 0..self.ready.len() {
                if let Some(key) = self.ready.pop_front() {
                    self.with(key, |conn, io| {
                        conn.queued = false;
                        conn.again(io)
                    });
                }
            }
            self.wheel.expire(self.io.now, &mut fired);
            for timer in fired.drain(..) {
                self.timer(timer);
            }
            if self.stop.is_some_and(|at| self.conns.is_empty() || self.io.now >= at) {
                for mut conn in self.conns.drain() {
                    conn.why = "the relay ends";
                    conn.finish(true, &mut self.io);
                }
                return;
            }
        }
    }

    /// How long to wait for events: until there is one, as a rule. Sees to it
    /// that the next deadline is one.
    fn timeout(&mut self) -> Option<Timespec> {
        let next = self.wheel.next().into_iter().chain(self.stop).min().unwrap_or(NEVER);
        if next < self.timer_at {
            let wait = next.saturating_sub(self.io.now).max(1);
            let it_value =
                Timespec { tv_sec: (wait / 1000) as i64, tv_nsec: (wait % 1000 * 1_000_000) as _ };
            let it_interval = Timespec::default();
            let time = Itimerspec { it_interval, it_value };
            if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &time) {
                tracing::error!(%error, "cannot set a timer");
                return Some(it_value);
            }
            self.timer_at = next;
        }
        (!self.ready.is_empty()).then(Timespec::default)
    }

    fn event(&mut self, token: u64, flags: EventFlags) {
        if token == WAKE {
            for command in self.mailbox.take() {
                self.command(command);
            }
        } else if token == TIMER {
            // Edge-triggered, so it need not be read.
            self.timer_at = NEVER;
        } else if token & LISTENER != 0 {
            self.accept((token & !LISTENER) as usize);
        } else {
            let side = if token & UPSTREAM == 0 { Side::Client } else { Side::Upstream };
            let key = (token & (UPSTREAM - 1)) as usize;
            if self.conns.get(key).is_some_and(|conn| conn.token == token & !UPSTREAM) {
                self.with(key, |conn, io| conn.event(side, flags, io));
            }
        }
    }

    /// Looks after a connection, and does what that comes to.
    fn with(&mut self, key: usize, look: impl FnOnce(&mut Conn, &mut Io) -> Step) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let step = look(conn, &mut self.io);
        match step {
            Step::Wait | Step::Again => {
                let deadline = conn.deadline();
                // A deadline that moves away is found out when the timer fires.
                if deadline < conn.armed {
                    conn.armed = deadline;
                    self.wheel.set(key as u32 * 2, deadline);
                }
                if step == Step::Again && !conn.queued {
                    conn.queued = true;
                    self.ready.push_back(key);
                }
            }
            Step::Close | Step::Reset => {
                let conn = self.conns.remove(key);
                if conn.armed != NEVER {
                    self.wheel.cancel(key as u32 * 2);
                }
                conn.finish(step == Step::Reset, &mut self.io);
            }
        }
    }

    fn timer(&mut self, timer: u32) {
        let key = timer as usize / 2;
        if timer % 2 == 1 {
            // A pause of a listener is over.
            self.watch(key);
        } else if let Some(conn) = self.conns.get_mut(key) {
            conn.armed = NEVER;
            self.with(key, |conn, io| conn.timer(io));
        }
    }

    /// Accepts what waits in a listening socket.
    fn accept(&mut self, index: usize) {
        let Some(listening) = self.listeners.get_mut(index) else { return };
        for _ in 0..listening.pace.burst(self.round) {
            if !self.accept_one(index) {
                return;
            }
        }
    }

    /// Accepts one connection; `false` when there is no point in trying again.
    fn accept_one(&mut self, index: usize) -> bool {
        let Some(listening) = self.listeners.get_mut(index) else { return false };
        let descriptors = self.io.shared.descriptors.clone();
        let accepted = match self.scarce && !descriptors.has_another(&listening.socket) {
            true => Accepted::Exhausted(io::Errno::MFILE),
            false => accept(&listening.socket),
        };
        match accepted {
            Accepted::Connection(fd, peer) => {
                self.scarce = !descriptors.has(&fd);
                let address = listening.address;
                self.admit(fd, peer, address);
                if std::mem::take(&mut self.io.exhausted) {
                    self.pause(index, io::Errno::MFILE);
                    return false;
                }
                if let Some(listening) = self.listeners.get_mut(index) {
                    listening.pace.served();
                }
                true
            }
            Accepted::None => {
                listening.pace.emptied();
                false
            }
            Accepted::Exhausted(error) => {
                self.io.pipes.release();
                self.pause(index, error);
                false
            }
        }
    }

    /// Takes a connection on.
    fn admit(&mut self, fd: OwnedFd, peer: SocketAddr, address: SocketAddr) {
        let stats = {
            let snapshot = self.io.shared.snapshot.load();
            snapshot.listener(address).map(|listener| Arc::clone(&listener.stats))
        };
        let entry = self.conns.vacant_entry();
        let key = entry.key();
        let Some(stats) = stats.filter(|_| (key as u64) < UPSTREAM) else {
            reset_on_close(&fd);
            return;
        };
        self.generation = (self.generation + 1) % GENERATIONS;
        let token = self.generation << 32 | key as u64;
        entry.insert(Conn::new(token, fd, peer, address, stats, self.io.now));
        self.with(key, Conn::begin);
    }

    /// Lets a listening socket rest: its clients wait in the queue.
    fn pause(&mut self, index: usize, error: io::Errno) {
        let Some(listening) = self.listeners.get_mut(index) else { return };
        let (pause, first) = listening.pace.exhausted();
        if let Some(listener) = self.io.shared.snapshot.load().listener(listening.address) {
            listener.stats.starved.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        if first {
            tracing::warn!(address = %listening.address, %error, "accepting pauses");
        }
        let data = EventData::new_u64(LISTENER | index as u64);
        let _ = epoll::modify(&self.io.epoll, &listening.socket, data, EventFlags::empty());
        self.wheel.set(index as u32 * 2 + 1, self.io.now + pause.as_millis() as u64);
    }

    /// Lets a listening socket be accepted from (again).
    fn watch(&mut self, index: usize) {
        if let Some(listening) = self.listeners.get(index) {
            let data = EventData::new_u64(LISTENER | index as u64);
            let _ = epoll::modify(&self.io.epoll, &listening.socket, data, EventFlags::IN);
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Listen(address, socket) => {
                let entry = self.listeners.vacant_entry();
                let data = EventData::new_u64(LISTENER | entry.key() as u64);
                if let Err(error) = epoll::add(&self.io.epoll, &socket, data, EventFlags::IN) {
                    tracing::error!(%address, %error, "cannot watch a listening socket");
                    return;
                }
                entry.insert(Listening { address, socket, pace: Pace::default() });
            }
            Command::Unlisten(address, drain, done) => {
                self.unlisten(|listening| listening.address == address);
                let end = self.io.now.saturating_add(drain.as_millis() as u64);
                for (key, conn) in &mut self.conns {
                    if conn.listener == address && end < conn.end {
                        (conn.end, conn.drains) = (end, true);
                        conn.armed = conn.armed.min(end);
                        self.wheel.set(key as u32 * 2, conn.armed);
                    }
                }
                let _ = done.send(());
            }
            Command::Share(reply) => {
                let copies = self.listeners.iter().map(|(_, l)| l.socket.try_clone());
                let _ = reply.send(copies.collect());
            }
            Command::Stop(drain) => {
                self.unlisten(|_| true);
                let end = self.io.now.saturating_add(drain.as_millis() as u64);
                self.stop = Some(end);
            }
        }
    }

    /// Serves what waits in some listening sockets, and closes them.
    fn unlisten(&mut self, which: impl Fn(&Listening) -> bool) {
        let keys: Vec<usize> =
            self.listeners.iter().filter(|(_, l)| which(l)).map(|(key, _)| key).collect();
        for key in keys {
            // As many as can have waited: whoever comes without end is not waited for.
            for _ in 0..BACKLOG {
                if !self.accept_one(key) {
                    break;
                }
            }
            self.wheel.cancel(key as u32 * 2 + 1);
            self.listeners.remove(key);
        }
    }
}

/// `splice` to a socket whose peer is gone raises SIGPIPE, with no flag against
/// it; this thread wants the error only.
pub(super) fn block_sigpipe() {
    // SAFETY: `set` is initialised by `sigemptyset` before it is read, lives for
    // all three calls, and the mask is the calling thread's own.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGPIPE);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}
