//! Where a route leads, plainly.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use redirector_core::model::{Object, Resolution, RouteDestination, Subset};
use redirector_core::names::complete_host;
use redirector_core::world::World;

use super::destination_rules::{Merged, Policy, destination_rule};
use super::services::{Endpoint, Kindness, Port, Service, Speaks};
use super::{Connection, Outcome, Rule, age, localities, sees};

/// A destination that exists.
pub(super) struct Found<'a, 'w> {
    pub(super) service: &'a Service<'w>,
    /// `None` when the service has no such port.
    pub(super) port: Option<&'a Port>,
    pub(super) rule: Option<Merged<'w>>,
    pub(super) subset: Option<Subset>,
}

/// Where a destination leads.
pub(super) enum Reached {
    /// To the address dialled, maybe with another port.
    Original(Option<u16>),
    /// To these endpoints, with their weights, but for a part that is refused;
    /// without any all of it is.
    Endpoints(Vec<(SocketAddr, f64)>, f64),
}

impl Reached {
    const fn nowhere() -> Self {
        Self::Endpoints(Vec::new(), 0.0)
    }

    fn is_nowhere(&self) -> bool {
        matches!(self, Self::Endpoints(endpoints, _) if endpoints.is_empty())
    }
}

/// The address that is dialled, as a route sees it.
pub(super) struct Dialled {
    pub(super) to: SocketAddr,
    /// The port of destinations that have several and name none.
    pub(super) port: u16,
    /// A proxy is between: it may cross address families, and has nothing behind
    /// the address dialled.
    pub(super) relayed: bool,
}

impl Dialled {
    pub(super) fn of(to: SocketAddr) -> Self {
        Self { to, port: to.port(), relayed: false }
    }
}

/// Whether a rule has somewhere to go in an address family.
pub(super) fn leads_anywhere(
    world: &World,
    services: &[Service<'_>],
    from: &Connection,
    rule: &Rule<'_>,
    port: u16,
    v4: bool,
) -> bool {
    rule.route.iter().filter(|entry| rule.route.len() == 1 || entry.weight > 0).any(|entry| {
        let found = find(world, services, from, rule.object, entry, port);
        found.is_ok_and(|found| !endpoints(world, &found, v4, false).is_nowhere())
    })
}

pub(super) fn take(
    world: &World,
    services: &[Service<'_>],
    from: &Connection,
    rule: &Rule<'_>,
    dialled: &Dialled,
) -> Outcome {
    let name = Some((rule.object.reference(), rule.list, rule.index));
    let route = rule.route;
    let weight = |entry: &RouteDestination| if route.len() == 1 { 1 } else { entry.weight };
    let sum: u64 = route.iter().map(|entry| u64::from(weight(entry))).sum();
    if sum == 0 {
        return Outcome { rule: name, ..Outcome::refuse() };
    }
    let mut outcome = Outcome { rule: name.clone(), ..Outcome::default() };
    let mut untouched = true;
    for entry in route.iter().filter(|entry| weight(entry) > 0) {
        let share = f64::from(weight(entry)) / sum as f64;
        let found = find(world, services, from, rule.object, entry, dialled.port);
        let reached = match found {
            Err(()) => Reached::nowhere(),
            Ok(found) => match endpoints(world, &found, dialled.to.is_ipv4(), dialled.relayed) {
                nowhere if dialled.relayed && nowhere.is_nowhere() => {
                    endpoints(world, &found, !dialled.to.is_ipv4(), true)
                }
                Reached::Original(_) if dialled.relayed => Reached::nowhere(),
                reached => reached,
            },
        };
        untouched &= matches!(reached, Reached::Original(None));
        outcome.refused += share_out(&reached, share, dialled.to, &mut outcome.endpoints);
    }
    if untouched { Outcome { rule: name, ..Outcome::pass() } } else { outcome }
}

/// Adds a share to those of the endpoints; returns what of it is refused.
pub(super) fn share_out(
    reached: &Reached,
    share: f64,
    to: SocketAddr,
    shares: &mut BTreeMap<SocketAddr, f64>,
) -> f64 {
    match reached {
        Reached::Original(port) => {
            let address = SocketAddr::new(to.ip(), port.unwrap_or(to.port()));
            *shares.entry(address).or_default() += share;
            0.0
        }
        Reached::Endpoints(endpoints, lost) => {
            let sum: f64 = endpoints.iter().map(|(_, weight)| weight).sum();
            for (address, weight) in endpoints {
                *shares.entry(*address).or_default() += share * (1.0 - lost) * weight / sum;
            }
            if endpoints.is_empty() { share } else { share * lost }
        }
    }
}

/// The service, port and subset that a route entry means; an error when one of
/// them does not exist for this client.
pub(super) fn find<'a, 'w>(
    world: &'w World,
    services: &'a [Service<'w>],
    from: &Connection,
    object: &Object,
    entry: &RouteDestination,
    dialled: u16,
) -> Result<Found<'a, 'w>, ()> {
    let domain = &world.settings.cluster_domain;
    let host = complete_host(&entry.host, &object.meta.namespace, domain);
    let named = by_host(services, from, &host).ok_or(())?;
    let number = match (entry.port, &named.ports[..]) {
        (Some(port), _) => port,
        (None, [only]) => only.number,
        (None, _) => dialled,
    };
    let service = match &named.kind {
        Kindness::Alias(target) => by_host(services, from, target)
            .filter(|service| !matches!(service.kind, Kindness::Alias(_)))
            .ok_or(())?,
        _ => named,
    };
    let port =
        service.ports.iter().find(|port| port.number == number && port.speaks != Speaks::NotTcp);
    let rule = destination_rule(world, from, service);
    let subset = match entry.subset.as_deref().filter(|subset| !subset.is_empty()) {
        None => None,
        Some(name) => {
            let rule = rule.as_ref().ok_or(())?;
            Some(rule.subsets.iter().find(|one| one.name == name).ok_or(())?.clone())
        }
    };
    Ok(Found { service, port, rule, subset })
}

/// The service with a host: of the client's own namespace before others, of each a
/// Service before a ServiceEntry; the oldest of these.
fn by_host<'a, 'w>(
    services: &'a [Service<'w>],
    from: &Connection,
    host: &str,
) -> Option<&'a Service<'w>> {
    let client = from.namespace.as_deref();
    let mut having: Vec<&Service<'_>> = services
        .iter()
        .filter(|service| {
            let home = &*service.object.meta.namespace;
            let to_nobody = service.export_to.iter().all(|entry| entry == "~");
            service.host == host
                && (sees(from, &service.export_to, home) || (client == Some(home) && !to_nobody))
        })
        .collect();
    having.sort_by_key(|service| {
        let foreign = client != Some(&*service.object.meta.namespace);
        let entry = matches!(service.kind, Kindness::Entry(_));
        (foreign, entry, age(service.object))
    });
    having.first().copied()
}

pub(super) fn endpoints(world: &World, found: &Found<'_, '_>, v4: bool, relayed: bool) -> Reached {
    let Found { service, port, rule, subset } = found;
    let Some(port) = port else { return Reached::nowhere() };
    let policy = Policy::of(rule.as_ref(), subset.as_ref(), port.number);
    if policy.changes_bytes || policy.announces && !relayed {
        return Reached::nowhere();
    }
    if service.kind == Kindness::Entry(Resolution::None) || policy.passthrough {
        return Reached::Original(port.target);
    }
    let node = world.settings.node_name.as_deref();
    let usable = port.endpoints.iter().filter(|endpoint| {
        let wanted = subset.as_ref().map(|subset| &subset.labels);
        let labelled = wanted.is_none_or(|wanted| {
            wanted.is_empty()
                || endpoint.labels.as_ref().is_some_and(|labels| {
                    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
                })
        });
        (endpoint.socket || endpoint.ip.is_ipv4() == v4)
            && (!service.local_only || endpoint.node.as_deref() == node)
            && labelled
    });
    // Who is said twice to be at an address and port is there once, as said first.
    let mut once: Vec<&Endpoint> = Vec::new();
    for one in usable {
        let same = |other: &&Endpoint| (other.ip, other.port) == (one.ip, one.port);
        if one.socket || !once.iter().any(same) {
            once.push(one);
        }
    }
    let usable = once;
    if usable.iter().all(|one| one.socket) {
        return Reached::nowhere();
    }
    let all: u32 = usable.iter().map(|one| one.weight).sum();
    let sockets: u32 = usable.iter().filter(|one| one.socket).map(|one| one.weight).sum();
    let lost = f64::from(sockets) / f64::from(all);
    let usable: Vec<&Endpoint> = usable.into_iter().filter(|one| !one.socket).collect();
    let drawn = localities::drawn(world, &usable, &policy, service.distribution);
    let with_address =
        |(one, weight): (&Endpoint, f64)| (SocketAddr::new(one.ip, one.port), weight);
    Reached::Endpoints(drawn.into_iter().map(with_address).collect(), lost)
}
