//! Endpoints that go away: how long connections to them may go on.
//!
//! Without the annotation they go on for as long as they like. With it, they
//! are reset when an endpoint has been out of its service for that long. The
//! time counts from the moment that no service has the endpoint any more: one
//! that moves between subsets, or loses its weight, has not gone away.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::model::{Object, annotations};
use crate::names::{HostIndex, complete_host};
use crate::registry::Registry;
use crate::validate::durations;
use crate::world::World;

/// All endpoints of all services, and how long, in milliseconds, connections to
/// them may go on when they have gone. Empty when no object says anything about
/// it.
pub type Endpoints = BTreeMap<SocketAddr, Option<u64>>;

/// Endpoints that have gone, and when, in milliseconds since 1970, connections
/// to them are reset.
pub type Draining = BTreeMap<SocketAddr, u64>;

/// What an object's annotation says.
///
/// # Errors
///
/// What is wrong with it.
pub fn time(object: &Object) -> Result<Option<u64>, String> {
    match object.meta.annotations.get(annotations::DRAIN) {
        None => Ok(None),
        Some(text) => durations::milliseconds(text, true).map(Some),
    }
}

/// Whether an object says how long connections may go on.
pub fn says(object: &Object) -> bool {
    time(object).is_ok_and(|time| time.is_some())
}

/// The endpoints of a World: wanted where some object says anything about draining.
pub fn endpoints(world: &World, registry: &Registry) -> Endpoints {
    let said = |object: &Arc<Object>| time(object).ok().flatten();
    let mut rules: HostIndex<u64> = HostIndex::default();
    for (object, rule) in world.destination_rules() {
        if let Some(time) = said(object) {
            let domain = &world.settings.cluster_domain;
            rules.insert(&complete_host(&rule.host, &object.meta.namespace, domain), time);
        }
    }
    let mut endpoints = Endpoints::new();
    for service in registry.services() {
        let own = world.get(&service.object).and_then(said);
        // What the service itself says counts; of several rules the shortest.
        let time = own.or_else(|| rules.matching(&service.host).into_iter().min().copied());
        for endpoint in service.ports.iter().flat_map(|port| &port.endpoints) {
            let of = endpoints.entry(SocketAddr::new(endpoint.ip, endpoint.port)).or_default();
            *of = (*of).into_iter().chain(time).min();
        }
    }
    endpoints
}

/// What drains after a change that comes in force at `now`, in milliseconds
/// since 1970.
pub fn after(draining: &Draining, old: &Endpoints, new: &Endpoints, now: u64) -> Draining {
    let mut after = draining.clone();
    for (address, time) in old {
        if let Some(time) = time
            && !new.contains_key(address)
        {
            after.entry(*address).or_insert(now.saturating_add(*time));
        }
    }
    // One that has come back is an endpoint like any other.
    after.retain(|address, _| !new.contains_key(address));
    after
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use crate::world::Settings;

    const SERVICES: &str = "
Service echo: {clusterIP: 10.96.0.10, selector: {app: echo}, ports: [{name: tcp, port: 80}]}
Service both {annotations: {redirector.io/drain: 5s}}: {clusterIP: 10.96.0.11, selector: {team: a}, ports: [{name: tcp, port: 80}]}
WorkloadEntry one: {address: 10.0.0.1, labels: {app: echo}}
WorkloadEntry two: {address: 10.0.0.2, labels: {app: echo, team: a}}
";

    const RULE: &str = "
DestinationRule echo {annotations: {redirector.io/drain: 30s}}: {host: echo}
";

    fn of(text: &str) -> Endpoints {
        let world = testing::world(Settings::default(), text);
        endpoints(&world, &Registry::new(&world))
    }

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    #[test]
    fn a_service_or_a_rule_for_its_host_says_how_long() {
        let endpoints = of(&format!("{SERVICES}{RULE}"));
        assert_eq!(endpoints[&address(1)], Some(30_000));
        assert_eq!(endpoints[&address(2)], Some(5_000), "the shortest of its services");
        assert_eq!(of(SERVICES)[&address(1)], None);
        let nothing = SERVICES.replace("redirector.io/drain", "other");
        assert!(of(&nothing).values().all(Option::is_none));
        let says = |text: &str| {
            let world = testing::world(Settings::default(), text);
            world.objects().filter(|object| says(object)).count()
        };
        assert_eq!([SERVICES, RULE, &nothing].map(says), [1, 1, 0]);
    }

    #[test]
    fn one_that_has_gone_drains_until_it_comes_back() {
        let old = Endpoints::from([(address(1), Some(30_000)), (address(2), None)]);
        let new = Endpoints::from([(address(3), Some(30_000))]);
        let draining = after(&Draining::new(), &old, &new, 1_000);
        assert_eq!(draining, Draining::from([(address(1), 31_000)]), "without a time it stays");
        // It goes on as it began, whatever changes meanwhile.
        assert_eq!(after(&draining, &new, &new, 2_000), draining);
        let back = after(&draining, &new, &old, 3_000);
        assert_eq!(back, Draining::from([(address(3), 33_000)]));
    }
}
