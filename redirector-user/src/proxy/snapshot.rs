//! What the gateways of this node serve, at one moment: a [`Config`] with the
//! selection tables built and joined to the counters, which live on from one
//! snapshot to the next by name.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use redirector_core::plan::gateway::KnownClient;

use super::config::{Config, ListenerSpec};
use super::select::Tables;
use super::stats::{DestinationState, ListenerStats, Registry, RouteStats};
use super::upstream::is_local;

/// A [`Config`] in force.
pub(super) struct Snapshot {
    pub listeners: Vec<Listener>,
    by_address: HashMap<SocketAddr, usize>,
    pub routes: Vec<Route>,
    pub legs: Vec<Leg>,
    pub destinations: Vec<Arc<DestinationState>>,
    pub tables: Tables,
    pub clients: BTreeMap<IpAddr, KnownClient>,
}

pub(super) struct Listener {
    pub spec: ListenerSpec,
    pub stats: Arc<ListenerStats>,
}

pub(super) struct Route {
    pub idle_timeout: Option<Duration>,
    pub max_duration: Option<Duration>,
    pub stats: Arc<RouteStats>,
}

/// A leg of the tables: by the index that a choice names.
pub(super) struct Leg {
    pub destination: usize,
    /// Its place within its route.
    pub place: usize,
}

impl Snapshot {
    /// Builds the tables; counters come from `registry`, which forgets what no
    /// longer has a name.
    pub fn new(config: Config, registry: &mut Registry) -> Self {
        let Config { listeners, routes, destinations, clients } = config;
        let tables = Tables::new(&routes, &destinations);
        let legs = routes
            .iter()
            .flat_map(|route| {
                let legs = route.legs.iter().enumerate();
                legs.map(|(place, &(destination, _))| Leg { destination, place })
            })
            .collect();
        let snapshot = Self {
            by_address: listeners.iter().enumerate().map(|(i, l)| (l.address, i)).collect(),
            routes: routes
                .iter()
                .map(|route| Route {
                    idle_timeout: route.idle_timeout,
                    max_duration: route.max_duration,
                    stats: registry.route(route, &destinations),
                })
                .collect(),
            legs,
            destinations: destinations.into_iter().map(|spec| registry.destination(spec)).collect(),
            listeners: listeners
                .into_iter()
                .map(|spec| Listener { stats: registry.listener(&spec), spec })
                .collect(),
            tables,
            clients,
        };
        registry.sweep();
        snapshot
    }

    /// The listener with this address.
    pub fn listener(&self, address: SocketAddr) -> Option<&Listener> {
        self.listeners.get(*self.by_address.get(&address)?)
    }

    /// The listener that a connection to `endpoint` arrives at, if any.
    pub fn leads_to(&self, endpoint: SocketAddr) -> Option<SocketAddr> {
        if self.by_address.contains_key(&endpoint) {
            return Some(endpoint);
        }
        let any: IpAddr = match endpoint {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let any = SocketAddr::new(any, endpoint.port());
        (self.by_address.contains_key(&any) && is_local(endpoint).unwrap_or(false)).then_some(any)
    }
}
