//! The gateway plane: what the proxy listens on, and where each connection
//! goes.
//!
//! A connection that arrives from elsewhere is seen by no connect hook, so the
//! rules that are bound to a gateway are decided here, per connection, with
//! the same conditions as everywhere: all of a block hold, the first rule in
//! order wins, and when none matches the connection is refused. The routes are
//! those of the [`Plan`](crate::plan::Plan), and an endpoint is drawn out of
//! the same tables as in the kernel.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::client::{Client, contains};
use crate::compile::covers;
use crate::model::{Labels, ObjectRef, RuleId};
use crate::names::hosts_match;
use crate::pairs;
use crate::plan::RouteId;

/// Everything that the proxy serves.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct GatewayPlan {
    /// By the address and port to listen on.
    #[serde(with = "pairs")]
    pub listeners: BTreeMap<SocketAddr, Listener>,
    /// Who has which address, of the workloads that share theirs with no
    /// other. Empty while no rule asks about the client.
    #[serde(with = "pairs")]
    pub clients: BTreeMap<IpAddr, KnownClient>,
    /// Servers that are not served, because another has their port or because
    /// they cannot be.
    pub dropped: Vec<Dropped>,
}

/// A workload, as a client of a gateway.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KnownClient {
    /// Which.
    pub workload: ObjectRef,
    /// Its labels.
    pub labels: Arc<Labels>,
}

/// A server that is not served.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Dropped {
    /// The Gateway.
    pub gateway: ObjectRef,
    /// Its place in `servers`.
    pub server: u32,
    /// Why.
    pub reason: String,
}

/// One address and port that the proxy listens on.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Listener {
    /// The workload whose address it is.
    pub workload: ObjectRef,
    /// The Gateway whose server it is; of several that share it by server
    /// name, the oldest.
    pub gateway: ObjectRef,
    /// The server's place in `servers`.
    pub server: u32,
    /// The server's `port.number`, which is what `match.port` is compared with,
    /// and the port of destinations that have several and name none.
    pub port: u16,
    /// The address that clients have dialled, when it is not the listener's: their
    /// connections were sent here.
    #[serde(default)]
    pub dialled: Option<IpAddr>,
    /// What is done with connections.
    pub mode: Mode,
    /// The rules that may match, in order. When there are none, nothing listens.
    pub rules: Vec<GatewayRule>,
}

/// What a listener does with connections.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Mode {
    /// Relays them as they are.
    Tcp,
    /// Reads the server name of the ClientHello first, and relays without
    /// touching a byte.
    Sni,
    /// Refuses them, for this reason: the server asks for what is not done here.
    Refuse(String),
}

/// A rule at a listener.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GatewayRule {
    /// Which.
    pub rule: RuleId,
    /// Any of these must hold; none means that the rule always matches.
    pub conditions: Vec<Conditions>,
    /// Its route; `None` when it refuses.
    pub route: Option<Arc<RouteId>>,
    /// Whether backends are sent a PROXY protocol header: what the Gateway asks
    /// for by way of which the rule is at this listener.
    #[serde(default)]
    pub proxy_protocol: bool,
}

/// What is left of a match block when port and gateway are settled.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Conditions {
    /// Any of these must contain the address dialled; empty: any address.
    pub destination_subnets: Vec<IpNet>,
    /// The client's namespace; empty: any.
    pub source_namespace: String,
    /// Labels that the client carries.
    pub source_labels: Labels,
    /// Holds an address of the client.
    pub source_subnet: Option<IpNet>,
    /// Any of these must cover the server name; empty: any, also none.
    pub sni_hosts: Vec<String>,
}

/// Where a connection to a listener goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GatewayVerdict<'l> {
    /// Along this route, because of this rule.
    Route(&'l RuleId, &'l RouteId),
    /// Nowhere, because of this rule, or because none matches.
    Refuse(Option<&'l RuleId>),
}

/// A connection at a gateway.
#[derive(Clone, Copy, Debug, Default)]
pub struct Incoming<'c> {
    /// The client; unknown unless it is a known workload.
    pub client: Client<'c>,
    /// The server name of its ClientHello, if one was read.
    pub sni: Option<&'c str>,
}

impl GatewayPlan {
    /// The client with this address, for [`Incoming`].
    pub fn client(&self, address: &IpAddr) -> Option<&KnownClient> {
        // A dual-stack socket shows IPv4 clients in their mapped form.
        self.clients.get(&address.to_canonical())
    }
}

impl KnownClient {
    /// As rules see it.
    pub fn as_client<'c>(&'c self, address: &'c IpAddr) -> Client<'c> {
        Client {
            namespace: Some(&self.workload.namespace),
            labels: Some(&self.labels),
            addresses: std::slice::from_ref(address),
            bypassed: false,
        }
    }
}

impl Listener {
    /// Whether anything is to listen here. Where only the client could decide
    /// that nothing matches, connections are accepted and then reset.
    pub fn serves(&self) -> bool {
        !self.rules.is_empty() && !matches!(self.mode, Mode::Refuse(_))
    }

    /// The place, among the rules, of the one that a connection to `dialled`
    /// meets.
    pub fn matching(&self, incoming: &Incoming<'_>, dialled: IpAddr) -> Option<usize> {
        if matches!(self.mode, Mode::Refuse(_)) {
            return None;
        }
        let dialled = IpNet::from(self.dialled.unwrap_or(dialled).to_canonical());
        self.rules.iter().position(|rule| {
            rule.conditions.is_empty()
                || rule.conditions.iter().any(|conditions| conditions.hold(incoming, &dialled))
        })
    }

    /// Decides where a connection to `dialled` goes.
    pub fn decide(&self, incoming: &Incoming<'_>, dialled: IpAddr) -> GatewayVerdict<'_> {
        match self.matching(incoming, dialled).map(|place| &self.rules[place]) {
            Some(GatewayRule { rule, route: Some(route), .. }) => {
                GatewayVerdict::Route(rule, route)
            }
            Some(GatewayRule { rule, route: None, .. }) => GatewayVerdict::Refuse(Some(rule)),
            None => GatewayVerdict::Refuse(None),
        }
    }
}

impl Conditions {
    /// Whether they hold for every connection.
    pub fn are_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether anything about the client is asked.
    pub fn ask_client(&self) -> bool {
        !self.source_namespace.is_empty()
            || !self.source_labels.is_empty()
            || self.source_subnet.is_some()
    }

    fn hold(&self, incoming: &Incoming<'_>, dialled: &IpNet) -> bool {
        let client = &incoming.client;
        let subnets = &self.destination_subnets;
        (subnets.is_empty() || subnets.iter().any(|subnet| covers(subnet, dialled)))
            && (self.source_namespace.is_empty()
                || client.namespace == Some(self.source_namespace.as_str()))
            && (self.source_labels.is_empty()
                || client.labels.is_some_and(|labels| contains(labels, &self.source_labels)))
            && self.source_subnet.is_none_or(|subnet| {
                client.addresses.iter().any(|address| subnet.contains(address))
            })
            && sni_matches(&self.sni_hosts, incoming.sni)
    }
}

/// Whether one of the hosts covers a server name. A bare `*` covers also
/// connections without one.
pub fn sni_matches(hosts: &[String], sni: Option<&str>) -> bool {
    let sni = sni.map(str::to_ascii_lowercase);
    hosts.is_empty()
        || hosts.iter().any(|host| {
            host == "*"
                || sni.as_ref().is_some_and(|sni| hosts_match(&host.to_ascii_lowercase(), sni))
        })
}
