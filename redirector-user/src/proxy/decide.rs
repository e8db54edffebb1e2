//! Which route a connection takes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use redirector_core::model::SourceId;
use redirector_core::plan::gateway::{Incoming, KnownClient, first_match};

use super::config::ListenerSpec;
use super::upstream::is_local;
use crate::datapath::{cgroup_of_socket, own_cookie};
use crate::identity::Locals;

/// What is known of a connection when it is decided.
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

/// What happens to a connection at a gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GatewayVerdict {
    /// It takes this route, by the rule at this place.
    Route {
        /// An index into [`Config::routes`](super::Config::routes).
        route: usize,
        /// An index into [`ListenerSpec::rules`].
        rule: usize,
    },
    /// No rule matches, or its traffic cannot be honoured: it is reset.
    Refuse,
}

/// Who knows which workload the processes of a cgroup are.
pub trait Whose: Send + Sync {
    /// The workload of the cgroup with this id, in this network namespace.
    fn of(&self, cgroup: u64) -> Option<SourceId>;
}

impl<W: Whose> Whose for std::sync::Arc<W> {
    fn of(&self, cgroup: u64) -> Option<SourceId> {
        (**self).of(cgroup)
    }
}

impl Whose for Locals {
    fn of(&self, cgroup: u64) -> Option<SourceId> {
        self.of(cgroup, own_cookie().ok())
    }
}

/// Decides for a connection to this listener.
pub fn decide(
    listener: &ListenerSpec,
    clients: &BTreeMap<IpAddr, KnownClient>,
    request: &Request<'_>,
    whose: &dyn Whose,
) -> GatewayVerdict {
    let client = request.client.ip().to_canonical();
    let known = client_of(clients, request, whose);
    let incoming = Incoming {
        client: known.map(|known| known.as_client(&client)).unwrap_or_default(),
        sni: request.sni,
    };
    let rules = listener.rules.iter().map(|rule| &*rule.conditions);
    let dialled = listener.dialled.unwrap_or(request.dialled.ip());
    let met = first_match(rules, listener.port, dialled, &incoming);
    let taken = met.and_then(|rule| Some((rule, listener.rules.get(rule)?.route?)));
    taken.map_or(GatewayVerdict::Refuse, |(rule, route)| GatewayVerdict::Route { route, rule })
}

/// The workload that connects, if it is a known one. A socket of this machine and
/// network namespace is known by its cgroup: it could have any address of this
/// namespace. All others are known by theirs.
pub(super) fn client_of<'c>(
    clients: &'c BTreeMap<IpAddr, KnownClient>,
    request: &Request<'_>,
    whose: &dyn Whose,
) -> Option<&'c KnownClient> {
    if clients.is_empty() {
        return None;
    }
    // A dual-stack socket shows IPv4 clients in their mapped form.
    let address = request.client.ip().to_canonical();
    let here = cgroup_of_socket(request.client, request.dialled).unwrap_or_else(|error| {
        tracing::debug!(%error, "whose a socket of this machine is cannot be asked");
        None
    });
    let Some(cgroup) = here else {
        // What is over already says nothing, wherever it came from.
        let is_ours = is_local(SocketAddr::new(address, 0));
        return if is_ours { None } else { clients.get(&address) };
    };
    let source = whose.of(cgroup)?;
    clients.values().find(|known| {
        known.workload.namespace == source.namespace && known.workload.name == source.name
    })
}
