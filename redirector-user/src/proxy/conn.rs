//! One connection through the gateway: from the moment it is accepted, through
//! the look at its ClientHello, the decision and the attempts to connect, to
//! the relay and its end.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rustix::event::epoll;
use rustix::event::epoll::EventFlags;
use rustix::io::{self, Errno};
use rustix::net::{RecvFlags, recv};

use super::loops::Trail;
use super::relay::{End, Flow, Rest};
use super::select::DestinationState;
use super::snapshot::{Request, Snapshot, Verdict};
use super::sni::{self, Hello};
use super::stats::{LegStats, ListenerStats, RouteStats};
use super::worker::Io;
use super::{listener, upstream};

/// Most endpoints that are tried for one connection.
const ATTEMPTS: usize = 16;

/// No deadline.
pub(super) const NEVER: u64 = u64::MAX;

/// What is to become of a connection after it has been looked after.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(super) enum Step {
    /// An event or a timer will come.
    Wait,
    /// It has had its turn, and there is more to do.
    Again,
    /// Close both sockets.
    Close,
    /// Reset both sockets.
    Reset,
}

/// Which of a connection's sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Client,
    Upstream,
}

/// A connection.
pub(super) struct Conn {
    /// Names it, and its socket, among the events: see [`super::worker`].
    pub token: u64,
    client: End,
    upstream: Option<End>,
    /// From the client to the endpoint, and back.
    up: Flow,
    down: Flow,
    /// While it is not yet relayed.
    setup: Option<Box<Setup>>,
    pub listener: SocketAddr,
    stats: Arc<ListenerStats>,
    peer: SocketAddr,
    dialled: SocketAddr,
    target: Option<Target>,
    /// Its own address, when the endpoint is one of our listeners.
    noted: Option<Box<SocketAddr>>,
    /// Whether epoll watches the client's socket.
    watched: bool,
    /// Whether it waits for its next turn.
    pub queued: bool,
    /// All times in milliseconds of the worker's clock.
    started: u64,
    active: u64,
    idle_timeout: u64,
    /// It is closed then, whatever happens.
    pub end: u64,
    /// When its timer fires.
    pub armed: u64,
}

/// Idle connections are many: what each costs in user space is this, its share
/// of the two small tables, and nothing else.
const _: () = assert!(size_of::<Conn>() <= 512);

/// What a connection needs until it is relayed.
struct Setup {
    snapshot: Arc<Snapshot>,
    /// Our listeners that it has been through before.
    trail: Trail,
    /// The ClientHello is awaited.
    hello: bool,
    /// The endpoints that have failed, by place.
    tried: Vec<u32>,
    deadline: u64,
    /// No further endpoint is tried after this.
    give_up: u64,
}

/// What was chosen for a connection.
struct Target {
    route: Arc<RouteStats>,
    /// Place of the leg within the route.
    place: usize,
    /// Index of the destination within the snapshot.
    index: usize,
    destination: Arc<DestinationState>,
    /// Place of the endpoint within the destination.
    endpoint: usize,
}

impl Target {
    fn leg(&self) -> &LegStats {
        &self.route.legs[self.place]
    }
}

impl Conn {
    /// A connection that was just accepted on `listener`.
    pub fn new(
        token: u64,
        fd: OwnedFd,
        peer: SocketAddr,
        listener: SocketAddr,
        stats: Arc<ListenerStats>,
        now: u64,
    ) -> Self {
        stats.accepted.fetch_add(1, Relaxed);
        stats.active.fetch_add(1, Relaxed);
        let mut client = End::new(fd);
        // Inherited from the listening socket.
        client.immediate = true;
        Self {
            token,
            client,
            upstream: None,
            up: Flow::default(),
            down: Flow::default(),
            setup: None,
            listener,
            stats,
            peer,
            dialled: listener,
            target: None,
            noted: None,
            watched: false,
            queued: false,
            started: now,
            active: now,
            idle_timeout: NEVER,
            end: NEVER,
            armed: NEVER,
        }
    }

    /// Decides where it goes and begins to connect; or waits for its
    /// ClientHello, where the decision depends on it.
    pub fn begin(&mut self, io: &mut Io) -> Step {
        if self.listener.ip().is_unspecified() {
            match listener::dialled(&self.client.fd) {
                Ok(dialled) => self.dialled = dialled,
                Err(_) => return Step::Reset,
            }
        }
        let snapshot = io.shared.snapshot.load_full();
        let Some((_, listener)) = snapshot.listener(self.listener) else {
            return self.refuse();
        };
        let hello = listener.spec.sni;
        let setup = Setup {
            trail: io.shared.loops.trail(self.peer),
            snapshot,
            hello,
            tried: Vec::new(),
            deadline: io.now.saturating_add(milliseconds(io.shared.hello_timeout)),
            give_up: NEVER,
        };
        if hello { self.peek(setup, io) } else { self.decide(setup, None, io) }
    }

    /// Handles what epoll says about one of its sockets.
    pub fn event(&mut self, side: Side, flags: EventFlags, io: &mut Io) -> Step {
        let failed = flags.contains(EventFlags::ERR);
        let over = flags.intersects(EventFlags::ERR | EventFlags::HUP | EventFlags::RDHUP);
        let end = match side {
            Side::Client => &mut self.client,
            Side::Upstream => match self.upstream.as_mut() {
                Some(end) => end,
                None => return Step::Wait,
            },
        };
        end.readable |= over || flags.contains(EventFlags::IN);
        end.writable |= flags.contains(EventFlags::OUT);
        end.ended |= over;
        if let Some(setup) = self.setup.take() {
            return self.setup_event(*setup, side, flags, io);
        }
        self.active = io.now;
        let step = self.relay(side, flags.contains(EventFlags::OUT), io);
        if failed && step == Step::Wait { Step::Reset } else { step }
    }

    /// Goes on where a turn ended.
    pub fn again(&mut self, io: &mut Io) -> Step {
        if self.setup.is_some() || self.upstream.is_none() {
            return Step::Wait;
        }
        match self.relay(Side::Client, false, io) {
            Step::Close => Step::Close,
            Step::Reset => Step::Reset,
            first => match self.relay(Side::Upstream, false, io) {
                Step::Wait => first,
                second => second,
            },
        }
    }

    /// Handles its timer.
    pub fn timer(&mut self, io: &mut Io) -> Step {
        if io.now < self.deadline() {
            return Step::Wait;
        }
        match self.setup.take() {
            Some(setup) if io.now < self.end && !setup.hello => self.retry(*setup, io),
            Some(_) => Step::Reset,
            // What has not been passed on is lost: the peers must not take
            // that for an orderly end.
            None if self.up.holds() || self.down.holds() => Step::Reset,
            None => Step::Close,
        }
    }

    /// When something has to happen.
    pub fn deadline(&self) -> u64 {
        let next = match &self.setup {
            Some(setup) => setup.deadline,
            None => self.active.saturating_add(self.idle_timeout),
        };
        next.min(self.end)
    }

    /// Closes it.
    pub fn finish(mut self, reset: bool, io: &mut Io) {
        if reset {
            upstream::reset_on_close(&self.client.fd);
            if let Some(upstream) = &self.upstream {
                upstream::reset_on_close(&upstream.fd);
            }
        }
        self.stats.active.fetch_sub(1, Relaxed);
        if let Some(local) = &self.noted {
            io.shared.loops.forget(**local);
        }
        let target = self.target.take();
        if let Some(target) = &target {
            target.leg().active.fetch_sub(1, Relaxed);
            target.leg().sent.fetch_add(self.up.bytes, Relaxed);
            target.leg().received.fetch_add(self.down.bytes, Relaxed);
            target.destination.counters.active.fetch_sub(1, Relaxed);
            target.destination.endpoints[target.endpoint].active.fetch_sub(1, Relaxed);
        }
        tracing::debug!(
            target: "redirector::access",
            client = %self.peer,
            dialled = %self.dialled,
            route = target.as_ref().map(|target| &*target.route.name),
            destination = target.as_ref().map(|target| &*target.leg().destination),
            endpoint = target
                .as_ref()
                .and_then(|target| target.destination.spec.endpoints.get(target.endpoint))
                .map(|endpoint| tracing::field::display(endpoint.0)),
            sent = self.up.bytes,
            received = self.down.bytes,
            milliseconds = io.now - self.started,
            reset,
            "closed"
        );
    }

    /// Handles an event while it is not yet relayed.
    fn setup_event(&mut self, setup: Setup, side: Side, flags: EventFlags, io: &mut Io) -> Step {
        let gone = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        match side {
            // A client that has reset the connection needs no backend.
            Side::Client if gone => Step::Reset,
            Side::Client if setup.hello => self.peek(setup, io),
            Side::Client => {
                self.setup = Some(Box::new(setup));
                Step::Wait
            }
            Side::Upstream if gone => self.retry(setup, io),
            Side::Upstream if flags.contains(EventFlags::OUT) => {
                drop(setup);
                self.active = io.now;
                self.again(io)
            }
            Side::Upstream => {
                self.setup = Some(Box::new(setup));
                Step::Wait
            }
        }
    }

    /// Looks at the bytes that have come so far.
    fn peek(&mut self, mut setup: Setup, io: &mut Io) -> Step {
        if !self.watched && self.watch_client(io).is_err() {
            return Step::Reset;
        }
        let seen = recv(&self.client.fd, &mut io.buffer[..sni::LIMIT], RecvFlags::PEEK);
        let hello = match seen {
            // Gone without having said anything.
            Ok((_, 0)) => return Step::Close,
            Ok((_, count)) => sni::inspect(&io.buffer[..count]),
            Err(Errno::AGAIN | Errno::INTR) => Hello::Partial,
            Err(_) => return Step::Reset,
        };
        let name = match hello {
            // The rest will never come.
            Hello::Partial if self.client.ended => None,
            Hello::Partial => {
                self.setup = Some(Box::new(setup));
                return Step::Wait;
            }
            Hello::Tls(name) => name,
            Hello::Other => None,
        };
        setup.hello = false;
        self.decide(setup, name.as_deref(), io)
    }

    /// Asks the router, and draws.
    fn decide(&mut self, setup: Setup, sni: Option<&str>, io: &mut Io) -> Step {
        let snapshot = Arc::clone(&setup.snapshot);
        let Some((index, listener)) = snapshot.listener(self.listener) else {
            return self.refuse();
        };
        let request = Request { client: self.peer, dialled: self.dialled, sni };
        let Verdict::Route(route) = snapshot.router.decide(index, &request) else {
            return self.refuse();
        };
        let chosen = snapshot.tables.choose(&snapshot, route, self.peer.ip(), &mut io.random);
        let (Some(chosen), Some(route)) = (chosen, snapshot.routes.get(route)) else {
            return self.refuse();
        };
        let leg = &snapshot.legs[chosen.0];
        let destination = &snapshot.destinations[leg.destination];
        let counts = &route.stats.legs[leg.place];
        counts.taken.fetch_add(1, Relaxed);
        let full = destination
            .spec
            .max_connections
            .is_some_and(|most| destination.counters.active.load(Relaxed) >= most);
        let Some(endpoint) = chosen.1.filter(|_| !full) else {
            counts.failed.fetch_add(1, Relaxed);
            return self.refuse();
        };
        counts.active.fetch_add(1, Relaxed);
        destination.counters.active.fetch_add(1, Relaxed);
        destination.endpoints[endpoint].active.fetch_add(1, Relaxed);
        self.target = Some(Target {
            route: Arc::clone(&route.stats),
            place: leg.place,
            index: leg.destination,
            destination: Arc::clone(destination),
            endpoint,
        });
        self.idle_timeout = route.idle_timeout.map_or(NEVER, milliseconds);
        if let Some(most) = route.max_duration {
            self.end = self.end.min(self.started.saturating_add(milliseconds(most)));
        }
        if listener.spec.proxy_protocol {
            self.up.held = upstream::proxy_header(self.peer, self.dialled);
        }
        self.attempt(setup, io)
    }

    /// Begins to connect to the chosen endpoint, and to the next when that
    /// fails at once. What the client has sent already goes along: where the
    /// connection stands at once, as on loopback, that is all there is to do.
    fn attempt(&mut self, mut setup: Setup, io: &mut Io) -> Step {
        let mut first = 0;
        if !self.up.holds() && !self.up.ended && self.client.readable {
            match self.up.first(&mut self.client, &mut io.buffer) {
                Ok(count) => first = count,
                Err(_) => return Step::Reset,
            }
        }
        loop {
            let opened = match self.open(&setup, first > 0 || self.up.holds(), io) {
                Ok(opened) => opened,
                Err(Refusal::Exhausted) => {
                    io.exhausted = true;
                    return self.fail();
                }
                Err(Refusal::Loop) => {
                    self.stats.looped.fetch_add(1, Relaxed);
                    return Step::Reset;
                }
                Err(Refusal::Unreachable) => None,
            };
            let first = std::mem::take(&mut first);
            let bytes = &io.buffer[..first];
            if let Some(mut upstream) = opened {
                match self.up.offer(&mut upstream, bytes) {
                    Ok(()) => return self.opened(setup, upstream, io),
                    Err(_) if self.up.bytes > 0 => return Step::Reset,
                    Err(_) => {}
                }
            } else {
                self.up.held.extend_from_slice(bytes);
            }
            if !self.next_endpoint(&mut setup, io) {
                return self.fail();
            }
        }
    }

    /// Watches a connection that is being (or has been) established.
    fn opened(&mut self, mut setup: Setup, mut upstream: End, io: &mut Io) -> Step {
        // Bytes are only taken once the handshake is over.
        let established = self.up.bytes > 0;
        let mut flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        if !established || self.up.holds() {
            flags |= EventFlags::OUT;
            upstream.watched_for_room = true;
        }
        // epoll says at once what there is to read.
        upstream.readable = false;
        let upstream = self.upstream.insert(upstream);
        let data = token_of(self.token, Side::Upstream);
        if epoll::add(&io.epoll, &upstream.fd, data, flags).is_err()
            || (!self.watched && self.watch_client(io).is_err())
        {
            return Step::Reset;
        }
        if established {
            self.active = io.now;
            if self.up.ended || self.client.readable {
                return self.relay(Side::Client, false, io);
            }
        } else if let Some(target) = &self.target {
            let timeout = milliseconds(target.destination.spec.connect_timeout);
            setup.deadline = io.now.saturating_add(timeout);
            if setup.give_up == NEVER {
                setup.give_up = setup.deadline.saturating_add(timeout);
            }
            self.setup = Some(Box::new(setup));
        }
        Step::Wait
    }

    /// The endpoint has refused, or not answered in time.
    fn retry(&mut self, mut setup: Setup, io: &mut Io) -> Step {
        if self.next_endpoint(&mut setup, io) { self.attempt(setup, io) } else { self.fail() }
    }

    /// Moves on to another endpoint of the destination, if there is one left.
    fn next_endpoint(&mut self, setup: &mut Setup, io: &mut Io) -> bool {
        self.upstream = None;
        if let Some(local) = self.noted.take() {
            io.shared.loops.forget(*local);
        }
        let Some(target) = self.target.as_mut() else { return false };
        setup.tried.push(target.endpoint as u32);
        if setup.tried.len() >= ATTEMPTS || io.now >= setup.give_up {
            return false;
        }
        let tables = &setup.snapshot.tables;
        let next = tables.another(target.index, &target.destination, &setup.tried, &mut io.random);
        let Some(next) = next else { return false };
        target.destination.endpoints[target.endpoint].active.fetch_sub(1, Relaxed);
        target.destination.endpoints[next].active.fetch_add(1, Relaxed);
        target.endpoint = next;
        true
    }

    /// A socket that connects to the chosen endpoint.
    fn open(&mut self, setup: &Setup, has_data: bool, io: &mut Io) -> Result<Option<End>, Refusal> {
        let Some(target) = &self.target else { return Err(Refusal::Unreachable) };
        let spec = &target.destination.spec;
        let endpoint = self.resolved(spec.endpoints[target.endpoint].0);
        let ours = setup.snapshot.leads_to(endpoint);
        if ours.is_some_and(|ours| ours == self.listener || setup.trail.contains(&ours)) {
            return Err(Refusal::Loop);
        }
        let classify = |error: Errno| {
            if upstream::is_exhaustion(error) { Refusal::Exhausted } else { Refusal::Unreachable }
        };
        let keepalive = spec.keepalive.as_ref();
        let socket = match upstream::socket(endpoint, keepalive) {
            Err(error) if upstream::is_exhaustion(error) => {
                io.pipes.release();
                upstream::socket(endpoint, keepalive)
            }
            socket => socket,
        }
        .map_err(classify)?;
        if ours.is_some() {
            let trail = setup.trail.iter().copied().chain([self.listener]).collect();
            let local = io.shared.loops.note(&socket, endpoint, trail).map_err(classify)?;
            self.noted = Some(Box::new(local));
        }
        if has_data {
            upstream::acknowledge_with_data(&socket);
        }
        Ok(upstream::begin(&socket, endpoint).ok().map(|()| End::new(socket)))
    }

    /// The endpoint's address; where it is unspecified, the address dialled.
    fn resolved(&self, mut endpoint: SocketAddr) -> SocketAddr {
        if endpoint.ip().is_unspecified() {
            endpoint.set_ip(self.dialled.ip());
        }
        if endpoint.port() == 0 {
            endpoint.set_port(self.dialled.port());
        }
        endpoint
    }

    /// Relays what there is to relay from one side, and, when that side has
    /// room again, to it.
    fn relay(&mut self, side: Side, room: bool, io: &mut Io) -> Step {
        let Some(upstream) = self.upstream.as_mut() else { return Step::Reset };
        let (client, buffer, pipes) = (&mut self.client, &mut io.buffer[..], &mut io.pipes);
        let (up, down) = (&mut self.up, &mut self.down);
        let (forth, back) = match side {
            Side::Client => (true, room),
            Side::Upstream => (room, true),
        };
        let mut turn = false;
        if forth && !up.closed {
            match up.pump(client, upstream, down.closed, buffer, pipes) {
                Err(_) => return Step::Reset,
                Ok(Rest::Full) => {
                    if watch_for_room(upstream, self.token, Side::Upstream, io).is_err() {
                        return Step::Reset;
                    }
                }
                Ok(rest) => turn |= rest == Rest::Turn,
            }
        }
        let (buffer, pipes) = (&mut io.buffer[..], &mut io.pipes);
        if back && !down.closed {
            match down.pump(upstream, client, up.closed, buffer, pipes) {
                Err(_) => return Step::Reset,
                Ok(Rest::Full) => {
                    if watch_for_room(client, self.token, Side::Client, io).is_err() {
                        return Step::Reset;
                    }
                }
                Ok(rest) => turn |= rest == Rest::Turn,
            }
        }
        if up.closed && down.closed {
            Step::Close
        } else if turn {
            Step::Again
        } else {
            Step::Wait
        }
    }

    /// No rule, no endpoint or no room for it.
    fn refuse(&mut self) -> Step {
        self.stats.refused.fetch_add(1, Relaxed);
        Step::Reset
    }

    /// No endpoint could be reached.
    fn fail(&mut self) -> Step {
        self.stats.failed.fetch_add(1, Relaxed);
        if let Some(target) = &self.target {
            target.leg().failed.fetch_add(1, Relaxed);
        }
        Step::Reset
    }

    fn watch_client(&mut self, io: &Io) -> io::Result<()> {
        self.watched = true;
        let flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&io.epoll, &self.client.fd, token_of(self.token, Side::Client), flags)
    }
}

/// Why there is no connection to an endpoint.
enum Refusal {
    /// It cannot be reached.
    Unreachable,
    /// Descriptors or memory have run out.
    Exhausted,
    /// It leads back here.
    Loop,
}

/// Asks epoll to tell when `end` takes bytes again; it tells at once if it does
/// already.
fn watch_for_room(end: &mut End, token: u64, side: Side, io: &Io) -> io::Result<()> {
    if end.watched_for_room {
        return Ok(());
    }
    end.watched_for_room = true;
    let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
    epoll::modify(&io.epoll, &end.fd, token_of(token, side), flags)
}

/// What epoll is to hand back for a socket.
fn token_of(token: u64, side: Side) -> epoll::EventData {
    epoll::EventData::new_u64(match side {
        Side::Client => token,
        Side::Upstream => token | super::worker::UPSTREAM,
    })
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(NEVER)
}
