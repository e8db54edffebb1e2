//! The proxy's configuration out of the compiled plan.

use std::collections::BTreeMap;
use std::time::Duration;

use redirector_core::model::TcpPool;
use redirector_core::plan::gateway::{GatewayRule, Mode};
use redirector_core::plan::{Destination, DestinationId, Plan, RouteId};
use redirector_core::rules::Block;

use super::config::{Config, DestinationSpec, Keepalive, ListenerSpec, RouteSpec, RuleSpec};
use crate::output::route_name;

/// Where no DestinationRule says otherwise, as in Istio.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

impl Config {
    /// What the gateways of this plan serve.
    pub fn of_plan(plan: &Plan) -> Self {
        let mut parts = Parts { plan, routes: BTreeMap::new(), destinations: BTreeMap::new() };
        let mut config = Self { clients: plan.gateways.clients.clone(), ..Self::default() };
        for (address, listener) in &plan.gateways.listeners {
            if !listener.serves() {
                continue;
            }
            let rules = listener.rules.iter().map(|rule| RuleSpec {
                conditions: rule.conditions.clone(),
                route: rule.route.as_ref().map(|route| parts.route(route, &mut config)),
                announced: rule.proxy_protocol,
            });
            let rules = rules.collect();
            config.listeners.push(ListenerSpec {
                address: *address,
                name: format!("{} servers[{}]", listener.gateway, listener.server).into(),
                sni: listener.mode == Mode::Sni && asks_names(&listener.rules),
                accepting: listener.accepting.clone(),
                port: listener.port,
                dialled: listener.dialled,
                rules,
            });
        }
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
            endpoints: destination
                .endpoints_at(true)
                .iter()
                .map(|e| (e.address, e.weight))
                .collect(),
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
            announced: destination.policy.proxy_protocol,
        });
        let index = config.destinations.len() - 1;
        self.destinations.insert(id, index);
        index
    }
}

/// Whether a server name can make a difference: whether any rule asks for one above the
/// first that takes all.
fn asks_names(rules: &[GatewayRule]) -> bool {
    let takes_all = |rule: &&GatewayRule| {
        rule.conditions.is_empty() || rule.conditions.iter().any(Block::always_holds)
    };
    let above = rules.iter().take_while(|rule| !takes_all(rule));
    above.flat_map(|rule| &rule.conditions).any(Block::asks_name)
}

fn pool(destination: &Destination) -> Option<&TcpPool> {
    destination.policy.settings.tcp_pool.as_ref()
}
