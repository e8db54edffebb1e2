//! From accepting to the decision: the look at a ClientHello, where routes
//! depend on it, then the route, the destination and the endpoint.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::{Conn, NEVER, Side, Step, milliseconds};
use crate::proxy::decide::{Request, Verdict, decide};
use crate::proxy::io::Io;
use crate::proxy::loops::Trail;
use crate::proxy::snapshot::Snapshot;
use crate::proxy::sni::{self, Hello};
use crate::proxy::stats::{DestinationState, LegStats, RouteStats};
use crate::proxy::told::Became;
use crate::proxy::{listener, upstream};

/// What a connection needs until it is relayed.
pub(super) struct Setup {
    pub snapshot: Arc<Snapshot>,
    /// Our listeners that it has been through before.
    pub trail: Trail,
    /// The ClientHello is awaited.
    pub hello: bool,
    /// The endpoints that have failed, by place.
    pub tried: Vec<u32>,
    pub deadline: u64,
    /// No further endpoint is tried after this.
    pub give_up: u64,
    /// It waits for a descriptor rather than for an endpoint.
    pub starved: bool,
}

/// What was chosen for a connection.
pub(super) struct Target {
    pub route: Arc<RouteStats>,
    /// Place of the leg within the route.
    pub place: usize,
    /// Index of the destination within the snapshot.
    pub index: usize,
    pub destination: Arc<DestinationState>,
    /// Place of the endpoint within the destination.
    pub endpoint: usize,
}

impl Target {
    pub fn leg(&self) -> &LegStats {
        &self.route.legs[self.place]
    }
}

impl Conn {
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
        let Some(listener) = snapshot.listener(self.listener) else {
            return self.refuse(io);
        };
        let hello = listener.spec.sni;
        let setup = Setup {
            trail: io.shared.loops.trail(self.peer),
            snapshot,
            hello,
            tried: Vec::new(),
            deadline: io.now.saturating_add(milliseconds(io.shared.hello_timeout)),
            give_up: NEVER,
            starved: false,
        };
        if hello { self.peek(setup, io) } else { self.decide(setup, None, io) }
    }

    /// Handles an event while it is not yet relayed.
    pub(super) fn setup_event(
        &mut self,
        setup: Setup,
        side: Side,
        flags: EventFlags,
        io: &mut Io,
    ) -> Step {
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

    /// Decides, and draws.
    fn decide(&mut self, setup: Setup, sni: Option<&str>, io: &mut Io) -> Step {
        let snapshot = Arc::clone(&setup.snapshot);
        let Some(listener) = snapshot.listener(self.listener) else {
            return self.refuse(io);
        };
        let request = Request { client: self.peer, dialled: self.dialled, sni };
        let whose = &*io.shared.whose;
        let verdict = decide(&listener.spec, &snapshot.clients, &request, whose);
        let (route, announced) = match verdict {
            Verdict::Route(route) => (route, false),
            Verdict::Announced(route) => (route, true),
            Verdict::Refuse => return self.refuse(io),
        };
        let chosen =
            snapshot.tables.choose(&snapshot.destinations, route, self.peer.ip(), &mut io.random);
        let (Some(chosen), Some(route)) = (chosen, snapshot.routes.get(route)) else {
            return self.refuse(io);
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
            return self.refuse(io);
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
        self.tell(Became::Routed, io);
        self.idle_timeout = route.idle_timeout.map_or(NEVER, milliseconds);
        if let Some(most) = route.max_duration {
            self.end = self.end.min(self.started.saturating_add(milliseconds(most)));
        }
        if announced {
            self.up.held = upstream::proxy_header(self.peer, self.dialled);
        }
        self.attempt(setup, io)
    }

    /// No rule, no endpoint or no room for it.
    fn refuse(&mut self, io: &Io) -> Step {
        self.stats.refused.fetch_add(1, Relaxed);
        self.tell(Became::Refused, io);
        Step::Reset
    }
}
