//! From accepting to the decision: the PROXY protocol header of a load balancer, the look
//! at a ClientHello where routes depend on it, then the route, the destination and the
//! endpoint.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use redirector_core::proxy_header::{self, Fault, Header, Version};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::{Access, CLIENT_RESET, Conn, NEVER, Side, Step, milliseconds};
use crate::datapath::canonical;
use crate::proxy::decide::{GatewayVerdict, Request, client_of, decide};
use crate::proxy::io::Io;
use crate::proxy::loops::Trail;
use crate::proxy::message::{Failed, Refused};
use crate::proxy::snapshot::Snapshot;
use crate::proxy::sni::{self, Hello};
use crate::proxy::stats::{DestinationState, LegStats, RouteStats};
use crate::proxy::told::Became;
use crate::proxy::{listener, upstream};

/// How long a client that says nothing is waited for where a rule takes it without a
/// name: it may be one that waits for the server. A ClientHello comes with the
/// handshake's last packet, or, when that is lost, within three round trips.
const FIRST_WORD: Duration = Duration::from_secs(1);

/// What a connection needs until it is relayed.
pub(super) struct Setup {
    pub snapshot: Arc<Snapshot>,
    /// Our listeners that it has been through before.
    pub trail: Trail,
    /// What is awaited from the client.
    pub awaits: Awaits,
    /// When that has to be there.
    pub patience: u64,
    /// Further fields of the PROXY protocol header that it came with.
    pub fields: Vec<u8>,
    /// The endpoints that have failed, by place.
    pub tried: Vec<u32>,
    pub deadline: u64,
    /// No further endpoint is tried after this.
    pub give_up: u64,
    /// It waits for a descriptor rather than for an endpoint.
    pub starved: bool,
}

/// What is awaited from the client before it can be decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Awaits {
    Nothing,
    /// For whom it connects.
    Header,
    /// A ClientHello, or whatever else it says first.
    Hello,
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

    /// The endpoint, as it is written.
    pub fn address(&self) -> Option<SocketAddr> {
        self.destination.spec.endpoints.get(self.endpoint).map(|(address, _)| *address)
    }
}

impl Conn {
    /// Decides where it goes and begins to connect; or waits for what the decision
    /// depends on.
    pub fn begin(&mut self, io: &mut Io) -> Step {
        if self.listener.ip().is_unspecified() {
            match listener::dialled(&self.client.fd) {
                Ok(dialled) => self.dialled = dialled,
                Err(_) => return Step::Reset,
            }
        }
        let snapshot = io.shared.snapshot.load_full();
        let Some(listener) = snapshot.listener(self.listener) else {
            return self.refuse(Refused::Unmatched, io);
        };
        if io.shared.access.format().is_some() {
            let server = Some(Arc::clone(&listener.spec.name));
            self.access = Some(Box::new(Access { server, ..Access::default() }));
        }
        let accepting = &listener.spec.accepting;
        if accepting.most.is_some_and(|most| self.before >= u64::from(most)) {
            return self.refuse(Refused::ServerFull, io);
        }
        let announced = accepting.is_announced_by(self.peer.ip());
        let patience = io.now.saturating_add(milliseconds(io.shared.hello_timeout));
        let setup = Setup {
            trail: io.shared.loops.trail(self.peer),
            snapshot,
            awaits: if announced { Awaits::Header } else { Awaits::Nothing },
            patience,
            fields: Vec::new(),
            tried: Vec::new(),
            deadline: patience,
            give_up: NEVER,
            starved: false,
        };
        if announced { self.hear_header(setup, io) } else { self.known(setup, io) }
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
        match (side, setup.awaits) {
            // A client that has reset the connection needs no backend.
            (Side::Client, _) if gone => {
                self.why = CLIENT_RESET;
                Step::Reset
            }
            (Side::Client, Awaits::Header) => self.hear_header(setup, io),
            (Side::Client, Awaits::Hello) => self.hear_hello(setup, io),
            (Side::Upstream, _) if gone => {
                let why = self.upstream.as_ref().map(|end| upstream::why_failed(&end.fd));
                self.retry(setup, why.unwrap_or(Failed::Other), io)
            }
            (Side::Upstream, _) if flags.contains(EventFlags::OUT) => {
                drop(setup);
                self.active = io.now;
                self.again(io)
            }
            (Side::Client, Awaits::Nothing) | (Side::Upstream, _) => self.wait(setup),
        }
    }

    /// Handles its timer.
    pub(super) fn setup_timer(&mut self, mut setup: Setup, io: &mut Io) -> Step {
        match setup.awaits {
            _ if io.now >= self.end => {
                self.why = self.time_over();
                Step::Reset
            }
            Awaits::Nothing if setup.starved => {
                setup.starved = false;
                self.attempt(setup, io)
            }
            Awaits::Nothing => self.retry(setup, Failed::Timeout, io),
            Awaits::Header => self.misled(io, Refused::Silent, &"it sends none in time"),
            Awaits::Hello if self.takes_nameless(&setup, io) => self.decide(setup, None, io),
            Awaits::Hello if io.now >= setup.patience => {
                if self.refuses(Refused::Silent, io) {
                    tracing::warn!(
                        client = %self.peer,
                        listener = %self.listener,
                        "a client that sends no whole ClientHello in time is refused"
                    );
                }
                Step::Reset
            }
            Awaits::Hello => {
                setup.deadline = setup.patience;
                self.wait(setup)
            }
        }
    }

    fn wait(&mut self, setup: Setup) -> Step {
        self.setup = Some(Box::new(setup));
        Step::Wait
    }

    /// Looks at the bytes that have come so far; `None` when there are none yet.
    fn look<'b>(&self, most: usize, io: &'b mut Io) -> Result<Option<&'b [u8]>, Step> {
        match recv(&self.client.fd, &mut io.buffer[..most], RecvFlags::PEEK) {
            // Gone without having said anything.
            Ok((_, 0)) => Err(Step::Close),
            Ok((_, count)) => Ok(Some(&io.buffer[..count])),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(_) => Err(Step::Reset),
        }
    }

    /// Reads for whom it connects. Not a byte more is taken: what follows is the client's.
    fn hear_header(&mut self, mut setup: Setup, io: &mut Io) -> Step {
        if !self.watched && self.watch_client(io).is_err() {
            return Step::Reset;
        }
        let read = match self.look(proxy_header::LIMIT, io) {
            Err(step) => return step,
            Ok(bytes) => proxy_header::read(bytes.unwrap_or_default()),
        };
        let header = match read {
            Ok(Some(header)) => header,
            Ok(None) if self.client.ended => {
                return self.mistaken(io, Fault::Malformed("it ends before its header does"));
            }
            Ok(None) => return self.wait(setup),
            Err(fault) => return self.mistaken(io, fault),
        };
        let Header { length, between, fields } = header;
        match recv(&self.client.fd, &mut io.buffer[..length], RecvFlags::empty()) {
            Ok((_, count)) if count == length => {}
            _ => return self.mistaken(io, Fault::Malformed("it is cut by urgent data")),
        }
        if let Some(between) = between {
            // Who is known by himself would be taken for whomever he names.
            let itself = Request { client: self.peer, dialled: self.dialled, sni: None };
            let why = match client_of(&setup.snapshot.clients, &itself, &*io.shared.whose) {
                Ok(None) => None,
                Ok(Some(known)) => {
                    Some(format!("it is {}, which speaks for itself only", known.workload))
                }
                Err(error) => Some(format!("whether it is a workload cannot be told: {error}")),
            };
            if let Some(why) = why {
                return self.misled(io, Refused::BadHeader, &why);
            }
            // Otherwise one address would be two: for limits, conditions and workloads.
            let (client, dialled) = (canonical(between.0), canonical(between.1));
            if let Some(access) = &mut self.access {
                access.via = Some(self.peer);
            }
            (self.peer, self.dialled) = (client, dialled);
            setup.fields = fields;
        }
        self.known(setup, io)
    }

    /// Who connects for others does not say for whom, or says it wrongly.
    fn mistaken(&mut self, io: &Io, fault: Fault) -> Step {
        let why = if fault == Fault::Absent { Refused::NoHeader } else { Refused::BadHeader };
        self.misled(io, why, &fault)
    }

    /// Who connects for others is refused.
    fn misled(&mut self, io: &Io, why: Refused, fault: &dyn Display) -> Step {
        if self.refuses(why, io) {
            tracing::warn!(
                peer = %self.peer,
                listener = %self.listener,
                "a connection of one that is to say for whom it connects is refused: {fault}; \
                 have it send PROXY protocol headers, or leave its address out of \
                 redirector.io/accept-proxy-protocol"
            );
        }
        Step::Reset
    }

    /// It is known who connects: goes on to the ClientHello, where the decision depends on
    /// it.
    fn known(&mut self, mut setup: Setup, io: &mut Io) -> Step {
        let snapshot = Arc::clone(&setup.snapshot);
        let Some(listener) = snapshot.listener(self.listener) else {
            return self.refuse(Refused::Unmatched, io);
        };
        if let Some(most) = listener.spec.accepting.most_of_client {
            self.is_counted = self.stats.admit(self.peer.ip(), most);
            if !self.is_counted {
                return self.refuse(Refused::ClientFull, io);
            }
        }
        if !listener.spec.sni {
            return self.decide(setup, None, io);
        }
        setup.awaits = Awaits::Hello;
        let first = io.now.saturating_add(milliseconds(FIRST_WORD));
        setup.deadline = first.min(setup.patience);
        self.hear_hello(setup, io)
    }

    /// Looks at the ClientHello.
    fn hear_hello(&mut self, mut setup: Setup, io: &mut Io) -> Step {
        if !self.watched && self.watch_client(io).is_err() {
            return Step::Reset;
        }
        let (hello, is_silent) = match self.look(sni::LIMIT, io) {
            Err(step) => return step,
            Ok(None) => (Hello::Partial, true),
            Ok(Some(bytes)) => (sni::inspect(bytes), false),
        };
        let name = match hello {
            // The rest will never come.
            Hello::Partial if self.client.ended => None,
            Hello::Partial => {
                if !is_silent {
                    setup.deadline = setup.patience;
                }
                return self.wait(setup);
            }
            Hello::Tls(name) => name,
            Hello::Other => None,
        };
        self.decide(setup, name.as_deref(), io)
    }

    /// Whether the client has said nothing, and a rule takes it without a name.
    fn takes_nameless(&self, setup: &Setup, io: &mut Io) -> bool {
        matches!(self.look(1, io), Ok(None))
            && matches!(self.verdict(setup, None, io), GatewayVerdict::Route { .. })
    }

    fn verdict(&self, setup: &Setup, sni: Option<&str>, io: &Io) -> GatewayVerdict {
        let Some(listener) = setup.snapshot.listener(self.listener) else {
            return GatewayVerdict::Refuse;
        };
        let request = Request { client: self.peer, dialled: self.dialled, sni };
        decide(&listener.spec, &setup.snapshot.clients, &request, &*io.shared.whose)
    }

    /// Decides, and draws.
    fn decide(&mut self, mut setup: Setup, sni: Option<&str>, io: &mut Io) -> Step {
        setup.awaits = Awaits::Nothing;
        if let Some(access) = &mut self.access {
            access.sni = sni.map(str::to_owned);
        }
        let GatewayVerdict::Route { route, rule } = self.verdict(&setup, sni, io) else {
            return self.refuse(Refused::Unmatched, io);
        };
        let snapshot = Arc::clone(&setup.snapshot);
        let chosen =
            snapshot.tables.choose(&snapshot.destinations, route, self.peer.ip(), &mut io.random);
        let Some(route) = snapshot.routes.get(route) else {
            return self.refuse(Refused::NoEndpoint, io);
        };
        let Some(chosen) = chosen else {
            self.turned_away = Some((Arc::clone(&route.stats), None));
            return self.refuse(Refused::NoEndpoint, io);
        };
        let leg = &snapshot.legs[chosen.0];
        let destination = &snapshot.destinations[leg.destination];
        let counts = &route.stats.legs[leg.place];
        counts.taken.fetch_add(1, Relaxed);
        let turned_away = || Some((Arc::clone(&route.stats), Some(leg.place)));
        let Some(endpoint) = chosen.1 else {
            self.turned_away = turned_away();
            counts.fail(Failed::NoEndpoint);
            return self.refuse(Refused::NoEndpoint, io);
        };
        if !destination.counters.admit(destination.spec.max_connections) {
            self.turned_away = turned_away();
            counts.fail(Failed::Full);
            return self.refuse(Refused::DestinationFull, io);
        }
        counts.active.fetch_add(1, Relaxed);
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
        let listener = snapshot.listener(self.listener);
        let rule = listener.and_then(|listener| listener.spec.rules.get(rule));
        let wanted = rule.filter(|rule| rule.announced).map(|_| Version::V2);
        if let Some(version) = destination.spec.announced.or(wanted) {
            let fields = std::mem::take(&mut setup.fields);
            self.up.held = proxy_header::write(version, self.peer, self.dialled, &fields);
        }
        self.attempt(setup, io)
    }

    /// Counts it as refused.
    fn refuse(&mut self, why: Refused, io: &Io) -> Step {
        self.refuses(why, io);
        Step::Reset
    }

    /// The same; says whether it is the first for this reason.
    fn refuses(&mut self, why: Refused, io: &Io) -> bool {
        self.why = why.reason();
        self.tell(Became::Refused, io);
        self.stats.refuse(why)
    }
}
