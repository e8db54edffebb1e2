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

use crate::client::{Asker, Client};
use crate::model::{Accepting, Labels, ObjectRef, RuleId};
use crate::pairs;
use crate::plan::RouteId;
pub use crate::rules::Mode;
use crate::rules::{Block, Dial, ServerName};

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
    pub labels: Labels,
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
    /// What its Gateway says of those who connect.
    #[serde(default)]
    pub accepting: Accepting,
    /// The rules that may match, in order. When there are none, nothing listens.
    pub rules: Vec<GatewayRule>,
}

/// A rule at a listener.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GatewayRule {
    /// Which.
    pub rule: RuleId,
    /// What is left of its match blocks where gateway and port are settled: any of
    /// these must hold; none means that the rule always matches.
    pub conditions: Vec<Block>,
    /// Its route; `None` when it refuses.
    pub route: Option<Arc<RouteId>>,
    /// Whether backends are sent a PROXY protocol header: what the Gateway asks
    /// for by way of which the rule is at this listener.
    #[serde(default)]
    pub proxy_protocol: bool,
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
        let rules = self.rules.iter().map(|rule| &*rule.conditions);
        first_match(rules, self.port, self.dialled.unwrap_or(dialled), incoming)
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

/// The place of the first rule that a connection to this address, and the server's
/// `port`, meets: of each its conditions, of which any must hold.
pub fn first_match<'r>(
    mut rules: impl Iterator<Item = &'r [Block]>,
    port: u16,
    address: IpAddr,
    incoming: &Incoming<'_>,
) -> Option<usize> {
    let dial = Dial {
        address: IpNet::from(address.to_canonical()),
        port,
        // What depends on it is settled.
        gateway: "",
        sni: ServerName::Read(incoming.sni),
    };
    let who = Asker::new(incoming.client);
    rules.position(|conditions| {
        let mut blocks = conditions.iter();
        conditions.is_empty() || blocks.any(|block| block.failing(&dial, &who).is_none())
    })
}
