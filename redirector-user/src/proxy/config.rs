//! What the gateways of this node serve: what the daemon tells the proxy, made out of
//! the compiled gateway plan. It is data: it crosses to where connections are relayed,
//! which understands all of it or refuses it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use redirector_core::model::Accepting;
use redirector_core::plan::gateway::KnownClient;
use redirector_core::plan::{Algorithm, DestinationId};
use redirector_core::proxy_header::Version;
use redirector_core::rules::Block;
use serde::{Deserialize, Serialize};

/// Everything that the gateways of this node serve.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The addresses to listen on; each at most once.
    pub listeners: Vec<ListenerSpec>,
    /// The routes that rules name by index.
    pub routes: Vec<RouteSpec>,
    /// The destinations that the legs of routes name by index.
    pub destinations: Vec<DestinationSpec>,
    /// Who has which address, where a rule asks about the client.
    pub clients: BTreeMap<IpAddr, KnownClient>,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerSpec {
    /// Address and port. A wildcard address never covers the other family.
    pub address: SocketAddr,
    /// The Gateway objects and servers it stands for, for people.
    pub name: Arc<str>,
    /// Whether the ClientHello is read before it is decided.
    pub sni: bool,
    /// What is asked of those who connect.
    pub accepting: Accepting,
    /// The server's port, as rules see it.
    pub port: u16,
    /// The address that clients have dialled, as rules see it, when it is not the one
    /// that their connections were made to.
    pub dialled: Option<IpAddr>,
    /// The rules, in order. Where none holds, connections are reset.
    pub rules: Vec<RuleSpec>,
}

/// A rule of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleSpec {
    /// Any of these must hold; none: it always holds.
    pub conditions: Vec<Block>,
    /// The route, by index into [`Config::routes`]; `None` when it refuses.
    pub route: Option<usize>,
    /// Whether the endpoint is told the client first, by a PROXY protocol header,
    /// version 2, where the destination does not say which.
    pub announced: bool,
}

/// A weighted set of destinations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    /// Endpoints are told the client first, by a PROXY protocol header of this version.
    pub announced: Option<Version>,
}

/// Keepalive probes; what is not set is the system's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keepalive {
    /// Unanswered probes before the connection is given up.
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
}
