//! The proxy's configuration out of the compiled plan.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use redirector_core::model::TcpPool;
use redirector_core::plan::gateway::{GatewayPlan, Incoming, KnownClient, Mode};
use redirector_core::plan::{Destination, DestinationId, Plan, RouteId};

use super::config::{
    Config, DestinationSpec, Keepalive, ListenerSpec, Request, RouteSpec, Router, Verdict,
};
use super::upstream::is_local;
use crate::datapath::{cgroup_of_socket, own_cookie};
use crate::identity::Locals;
use crate::output::route_name;

/// Where no DestinationRule says otherwise, as in Istio.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

impl Config {
    /// What the gateways of this plan serve. `locals` are the workloads of this machine.
    pub fn of_plan(plan: &Plan, locals: &Locals) -> Self {
        let mut parts = Parts { plan, routes: BTreeMap::new(), destinations: BTreeMap::new() };
        let mut config = Self {
            listeners: Vec::new(),
            routes: Vec::new(),
            destinations: Vec::new(),
            router: Box::new(PlanRouter::default()),
        };
        let mut router = PlanRouter::default();
        for (address, listener) in &plan.gateways.listeners {
            if !listener.serves() {
                continue;
            }
            config.listeners.push(ListenerSpec {
                address: *address,
                name: format!("{} servers[{}]", listener.gateway, listener.server).into(),
                sni: listener.mode == Mode::Sni,
            });
            let routes = listener.rules.iter().map(|rule| {
                let route = rule.route.as_ref()?;
                Some(parts.route(route, &mut config))
            });
            router.listeners.push((*address, routes.collect()));
        }
        router.plan = plan.gateways.clone();
        router.locals = locals.clone();
        config.router = Box::new(router);
        config
    }
}

/// The routes and destinations met so far, and their indices.
struct Parts<'p> {
    plan: &'p Plan,
    routes: BTreeMap<&'p RouteId, usize>,
    destinations: BTreeMap<&'p DestinationId, usize>,
}

impl<'p> Parts<'p> {
    fn route(&mut self, id: &'p RouteId, config: &mut Config) -> usize {
        if let Some(index) = self.routes.get(id) {
            return *index;
        }
        let weights = self.plan.routes.get(id).map(Vec::as_slice).unwrap_or_default();
        let legs = id
            .destinations
            .iter()
            .zip(weights)
            .map(|(destination, leg)| (self.destination(destination, config), leg.weight))
            .collect();
        // With several destinations, the first one's policy counts, as in Istio.
        let first = id.destinations.first().and_then(|id| self.plan.destinations.get(id));
        let pool = first.and_then(pool).cloned().unwrap_or_default();
        let idle_timeout = match pool.idle_timeout_ms {
            Some(0) => None,
            Some(time) => Some(Duration::from_millis(time)),
            None => Some(IDLE_TIMEOUT),
        };
        config.routes.push(RouteSpec {
            name: route_name(id).into(),
            legs,
            idle_timeout,
            max_duration: pool.max_duration_ms.filter(|&time| time > 0).map(Duration::from_millis),
        });
        let index = config.routes.len() - 1;
        self.routes.insert(id, index);
        index
    }

    fn destination(&mut self, id: &'p DestinationId, config: &mut Config) -> usize {
        if let Some(index) = self.destinations.get(id) {
            return *index;
        }
        let nothing = Destination::default();
        let destination = self.plan.destinations.get(id).unwrap_or(&nothing);
        let pool = pool(destination).cloned().unwrap_or_default();
        config.destinations.push(DestinationSpec {
            name: id.into(),
            algorithm: destination.algorithm,
            endpoints: destination.endpoints.iter().map(|e| (e.address, e.weight)).collect(),
            connect_timeout: pool
                .connect_timeout_ms
                .filter(|&time| time > 0)
                .map_or(CONNECT_TIMEOUT, Duration::from_millis),
            keepalive: pool.keepalive.as_ref().map(|keepalive| Keepalive {
                probes: keepalive.probes,
                time: keepalive.time_ms.map(Duration::from_millis),
                interval: keepalive.interval_ms.map(Duration::from_millis),
            }),
            max_connections: pool.max_connections.filter(|&most| most > 0),
        });
        let index = config.destinations.len() - 1;
        self.destinations.insert(id, index);
        index
    }
}

fn pool(destination: &Destination) -> Option<&TcpPool> {
    destination.policy.settings.tcp_pool.as_ref()
}

/// Decides by the gateway plan.
#[derive(Default)]
struct PlanRouter {
    plan: GatewayPlan,
    /// As in the configuration: their addresses, and the routes of their rules.
    listeners: Vec<(SocketAddr, Vec<Option<usize>>)>,
    locals: Locals,
}

impl PlanRouter {
    /// The workload that connects, if it is a known one. A socket of this machine and
    /// network namespace is known by its cgroup: it could have any address of this
    /// namespace. All others are known by theirs.
    fn client(&self, request: &Request<'_>) -> Option<&KnownClient> {
        let clients = &self.plan.clients;
        if clients.is_empty() {
            return None;
        }
        let address = request.client.ip().to_canonical();
        let here = cgroup_of_socket(request.client, request.dialled).unwrap_or_else(|error| {
            tracing::debug!(%error, "whose a socket of this machine is cannot be asked");
            None
        });
        let Some(cgroup) = here else {
            // What is over already says nothing, wherever it came from.
            let is_ours = is_local(SocketAddr::new(address, 0));
            return if is_ours { None } else { self.plan.client(&address) };
        };
        let source = self.locals.of(cgroup, own_cookie().ok())?;
        clients.values().find(|known| {
            known.workload.namespace == source.namespace && known.workload.name == source.name
        })
    }
}

impl Router for PlanRouter {
    fn decide(&self, listener: usize, request: &Request<'_>) -> Verdict {
        let Some((address, routes)) = self.listeners.get(listener) else { return Verdict::Refuse };
        let Some(listener) = self.plan.listeners.get(address) else { return Verdict::Refuse };
        let client = request.client.ip().to_canonical();
        let known = self.client(request);
        let incoming = Incoming {
            client: known.map(|known| known.as_client(&client)).unwrap_or_default(),
            sni: request.sni,
        };
        let Some(place) = listener.matching(&incoming, request.dialled.ip()) else {
            return Verdict::Refuse;
        };
        match routes.get(place).copied().flatten() {
            Some(route) if listener.rules[place].proxy_protocol => Verdict::Announced(route),
            Some(route) => Verdict::Route(route),
            None => Verdict::Refuse,
        }
    }
}
