//! One connection through the gateway: from the moment it is accepted to its
//! end.
//!
//! * [`setup`]: the look at its ClientHello, and the decision.
//! * [`attempt`]: connecting to the endpoint, and to the next one.
//! * [`watch`]: what epoll is asked to tell about its sockets.
//!
//! Here is what goes on while it is relayed, and what is common to all of it.

mod attempt;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod setup;
mod watch;

use std::fmt::Display;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustix::net::sockopt::socket_cookie;

use self::setup::{Setup, Target};
use self::watch::watch_for_room;
use super::access::Line;
use super::config::DestinationName;
use super::io::Io;
use super::relay::{Broken, End, Flow, Rest};
use super::stats::{ListenerStats, RouteStats};
use super::told::{Became, Through};
use super::upstream;

/// Why connections end.
const CLIENT_RESET: &str = "client reset";
const ENDPOINT_RESET: &str = "endpoint reset";

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
    /// How many the listener had before.
    before: u64,
    peer: SocketAddr,
    dialled: SocketAddr,
    target: Option<Target>,
    /// Where it has none although a rule took it: that, and the place of the leg drawn, if one
    /// has a weight.
    turned_away: Option<(Arc<RouteStats>, Option<usize>)>,
    /// Its own address, when the endpoint is one of our listeners.
    noted: Option<Box<SocketAddr>>,
    /// Whether epoll watches the client's socket.
    watched: bool,
    /// Whether it counts among those of its client's address.
    is_counted: bool,
    /// What is told of it when it has ended, where that is wanted.
    access: Option<Box<Access>>,
    /// Why it ends.
    pub why: &'static str,
    /// Whether it waits for its next turn.
    pub queued: bool,
    /// All times in milliseconds of the worker's clock.
    started: u64,
    active: u64,
    idle_timeout: u64,
    /// It is closed then, whatever happens.
    pub end: u64,
    /// Because its listener has gone.
    pub drains: bool,
    /// When its timer fires.
    pub armed: u64,
}

/// What is told of a connection, beside what it has anyhow.
#[derive(Default)]
struct Access {
    via: Option<SocketAddr>,
    sni: Option<String>,
    server: Option<Arc<str>>,
    attempts: u32,
}

/// Idle connections are many: what each costs in user space is this, its share
/// of the two small tables, and nothing else.
const _: () = assert!(size_of::<Conn>() <= 512);

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
        let before = stats.active.fetch_add(1, Relaxed);
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
            before,
            peer,
            dialled: listener,
            target: None,
            turned_away: None,
            noted: None,
            watched: false,
            is_counted: false,
            access: None,
            why: "",
            queued: false,
            started: now,
            active: now,
            idle_timeout: NEVER,
            end: NEVER,
            drains: false,
            armed: NEVER,
        }
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
        // A reset ends a connection too, and is not an end of what it said.
        end.ended |= over && !failed;
        end.failed |= failed;
        // All that has come by now is told of: whether a mark is before it, too.
        end.urgent = flags.contains(EventFlags::PRI);
        if let Some(setup) = self.setup.take() {
            return self.setup_event(*setup, side, flags, io);
        }
        self.active = io.now;
        let step = self.relay(side, flags.contains(EventFlags::OUT), io);
        if failed && step == Step::Wait {
            self.why = if side == Side::Client { CLIENT_RESET } else { ENDPOINT_RESET };
            return Step::Reset;
        }
        step
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
            Some(setup) => self.setup_timer(*setup, io),
            // What has not been passed on is lost: the peers must not take
            // that for an orderly end.
            None => {
                self.why = if io.now >= self.end { self.time_over() } else { "idle" };
                if self.up.holds() || self.down.holds() { Step::Reset } else { Step::Close }
            }
        }
    }

    /// What it is when it may not go on for longer.
    pub(super) fn time_over(&self) -> &'static str {
        if self.drains { "gateway removed" } else { "longest duration" }
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
        if self.is_counted {
            self.stats.dismiss(self.peer.ip());
        }
        if self.target.is_some() {
            self.tell(
                match (&self.upstream, reset) {
                    (None, _) => Became::Failed,
                    (Some(_), true) => Became::Reset,
                    (Some(_), false) => Became::Ended,
                },
                io,
            );
        }
        if let Some(local) = &self.noted {
            io.shared.loops.forget(**local);
        }
        if let Some(target) = &self.target {
            target.leg().active.fetch_sub(1, Relaxed);
            target.leg().sent.fetch_add(self.up.bytes, Relaxed);
            target.leg().received.fetch_add(self.down.bytes, Relaxed);
            target.destination.counters.dismiss();
            target.destination.endpoints[target.endpoint].active.fetch_sub(1, Relaxed);
        }
        let (Some(access), Some(format)) = (self.access.take(), io.shared.access.format()) else {
            return;
        };
        let (route, destination) = self.taken();
        let line = Line {
            client: self.peer,
            via: access.via,
            dialled: self.dialled,
            server: access.server.as_deref(),
            sni: access.sni.as_deref(),
            route: route.map(|name| &**name),
            destination: destination.map(|name| name as &dyn Display),
            endpoint: self.target.as_ref().and_then(Target::address),
            attempts: access.attempts,
            sent: self.up.bytes,
            received: self.down.bytes,
            milliseconds: io.now - self.started,
            ended: match (self.why, reset) {
                ("", true) => "reset",
                ("", false) => "closed",
                (why, _) => why,
            },
        };
        io.shared.access.write(format, &line);
    }

    /// The rule that took it and the destination that was drawn, as far as it came.
    fn taken(&self) -> (Option<&Arc<str>>, Option<&DestinationName>) {
        let (route, place) = match (&self.target, &self.turned_away) {
            (Some(target), _) => (&target.route, Some(target.place)),
            (None, Some((route, place))) => (route, *place),
            (None, None) => return (None, None),
        };
        let leg = place.and_then(|place| route.legs.get(place));
        (Some(&route.name), leg.map(|leg| &leg.destination))
    }

    /// Tells whoever follows what became of it.
    fn tell(&self, became: Became, io: &Io) {
        if !io.shared.told.is_wanted() {
            return;
        }
        let (route, destination) = self.taken();
        let snapshot = io.shared.snapshot.load();
        let is_over = !matches!(became, Became::Routed | Became::Refused);
        io.shared.told.tell(Through {
            number: 0,
            ago: Duration::ZERO,
            became,
            cookie: socket_cookie(&self.client.fd).unwrap_or(0),
            client: self.peer,
            dialled: self.dialled,
            gateway: snapshot.listener(self.listener).map(|one| one.spec.name.clone()),
            route: route.cloned(),
            destination: destination.cloned(),
            endpoint: self.target.as_ref().and_then(Target::address),
            sent: is_over.then_some(self.up.bytes),
            received: is_over.then_some(self.down.bytes),
            open: is_over.then(|| Duration::from_millis(io.now.saturating_sub(self.started))),
        });
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
                Err(broken) => {
                    self.why = match broken {
                        Broken::Sender => CLIENT_RESET,
                        Broken::Receiver => ENDPOINT_RESET,
                    };
                    return Step::Reset;
                }
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
                Err(broken) => {
                    self.why = match broken {
                        Broken::Sender => ENDPOINT_RESET,
                        Broken::Receiver => CLIENT_RESET,
                    };
                    return Step::Reset;
                }
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
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(NEVER)
}
