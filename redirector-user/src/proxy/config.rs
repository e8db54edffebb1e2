//! What the gateways of this node serve: the proxy's input, which the daemon
//! makes out of the compiled gateway plan.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use redirector_core::plan::{Algorithm, DestinationId};

/// Everything that the gateways of this node serve.
pub struct Config {
    /// The addresses to listen on; each at most once.
    pub listeners: Vec<ListenerSpec>,
    /// The routes that a [`Verdict::Route`] names by index.
    pub routes: Vec<RouteSpec>,
    /// The destinations that the legs of routes name by index.
    pub destinations: Vec<DestinationSpec>,
    /// Which route a connection takes.
    pub router: Box<dyn Router>,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSpec {
    /// Address and port. A wildcard address never covers the other family.
    pub address: SocketAddr,
    /// The Gateway objects and servers it stands for, for people.
    pub name: Arc<str>,
    /// Whether the ClientHello is read before the router is asked.
    pub sni: bool,
}

/// A weighted set of destinations.
#[derive(Clone, Debug)]
pub struct RouteSpec {
    /// Names the route across snapshots: counters are kept by it.
    pub name: Arc<str>,
    /// Destinations (by index into [`Config::destinations`]) and their
    /// relative weights; zero is never drawn.
    pub legs: Vec<(usize, u64)>,
    /// Closed after this long without a byte in either direction.
    pub idle_timeout: Option<Duration>,
    /// Closed after this long, whatever happens on it.
    pub max_duration: Option<Duration>,
}

/// Names a destination across snapshots: counters are kept by it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DestinationName {
    /// Host and port: `db.shop.svc.cluster.local:5432`.
    pub to: Arc<str>,
    /// The subset, where there is one.
    pub subset: Option<Arc<str>>,
}

impl From<&DestinationId> for DestinationName {
    fn from(id: &DestinationId) -> Self {
        Self { to: format!("{}:{}", id.host, id.port).into(), subset: id.subset.clone() }
    }
}

impl From<&str> for DestinationName {
    /// Without a subset.
    fn from(to: &str) -> Self {
        Self { to: to.into(), subset: None }
    }
}

/// As `output::destination_name` writes it.
impl fmt::Display for DestinationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subset {
            Some(subset) => write!(f, "{}/{subset}", self.to),
            None => f.write_str(&self.to),
        }
    }
}

/// A set of endpoints.
#[derive(Clone, Debug)]
pub struct DestinationSpec {
    /// Names the destination across snapshots.
    pub name: DestinationName,
    /// How an endpoint is chosen.
    pub algorithm: Algorithm,
    /// Endpoints and their relative weights; zero stands by. None: refused. An
    /// unspecified address stands for the one dialled, and port 0 for its port.
    pub endpoints: Vec<(SocketAddr, u64)>,
    /// Longest wait for one endpoint to accept.
    pub connect_timeout: Duration,
    /// Keepalive probes on the connection to the endpoint.
    pub keepalive: Option<Keepalive>,
    /// Connections beyond this many are refused.
    pub max_connections: Option<u32>,
}

/// Keepalive probes; what is not set is the system's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// Unanswered probes before the connection is given up.
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
}

/// What is known of a connection when the router is asked.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who connects.
    pub client: SocketAddr,
    /// The address dialled.
    pub dialled: SocketAddr,
    /// The server name of the ClientHello, in lower case: only on listeners
    /// that read it, and only when the client sent one.
    pub sni: Option<&'a str>,
}

/// Which route a connection takes.
pub trait Router: Send + Sync {
    /// Decides for a connection on the listener with this index in
    /// [`Config::listeners`].
    fn decide(&self, listener: usize, request: &Request<'_>) -> Verdict;
}

/// What happens to a connection at a gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It takes this route: an index into [`Config::routes`].
    Route(usize),
    /// Likewise, and the endpoint is told the client first, by a PROXY protocol
    /// header, version 2.
    Announced(usize),
    /// No rule matches, or its traffic cannot be honoured: it is reset.
    Refuse,
}
