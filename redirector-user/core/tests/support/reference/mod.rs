//! The reference: the rules of the documentation, written down as plainly as
//! possible, for tests that compare the compiled tables with it.
//!
//! It looks at every object for every connection. Nothing is indexed, cached,
//! grouped or shared, and of the core only the objects and the forms of names
//! are used (`model`, `names`, `world`), so that a mistake in what compiles or
//! explains is not repeated here.

mod destination_rules;
mod gateways;
mod localities;
mod services;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use redirector_core::model::{
    Kind, L4Match, Labels, Object, ObjectRef, Resolution, RouteDestination, Subset, VirtualService,
};
use redirector_core::names::{complete_gateway, complete_host, hosts_match};
use redirector_core::world::{ServiceAddresses, World};

use destination_rules::{Merged, Policy, destination_rule};
use services::{Endpoint, Kindness, Port, Service, Speaks, services};

/// A connection of a local workload.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// The workload's namespace; `None` for a caller in no known workload.
    pub namespace: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// What becomes of it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Outcome {
    /// The rule that is taken: its object, the list that it stands in, and its
    /// place there. `None` where none matches.
    pub rule: Option<(ObjectRef, &'static str, usize)>,
    /// It is left as it is.
    pub passed: bool,
    /// The share of connections that each endpoint gets.
    pub endpoints: BTreeMap<SocketAddr, f64>,
    /// The share that is refused.
    pub refused: f64,
}

impl Outcome {
    /// No rule matches, and it is left as it is.
    pub fn pass() -> Self {
        Self { passed: true, ..Self::default() }
    }

    /// All of it is refused.
    pub fn refuse() -> Self {
        Self { refused: 1.0, ..Self::default() }
    }
}

/// Decides the connections of a World.
pub struct Reference<'w> {
    world: &'w World,
    services: Vec<Service<'w>>,
}

impl<'w> Reference<'w> {
    /// For a World.
    pub fn new(world: &'w World) -> Self {
        Self { world, services: services(world) }
    }

    /// Decides a connection that a local workload makes.
    pub fn decide(&self, from: &Connection, to: SocketAddr) -> Outcome {
        decide(self.world, &self.services, from, to)
    }

    /// Decides a connection, with the server name of its ClientHello, to an
    /// address and port of a gateway workload, which is a WorkloadEntry of this
    /// node.
    pub fn at_gateway(
        &self,
        workload: &Object,
        from: &Connection,
        to: SocketAddr,
        sni: Option<&str>,
    ) -> Outcome {
        gateways::decide(self.world, &self.services, workload, from, to, sni)
    }
}

fn decide(world: &World, services: &[Service<'_>], from: &Connection, to: SocketAddr) -> Outcome {
    // Which service owns the address, for this client: the longest prefix that
    // it sees; of several the oldest.
    let mut best: Option<(IpNet, &Service<'_>, &Port)> = None;
    for service in services {
        if !sees(from, &service.export_to, &service.object.meta.namespace) {
            continue;
        }
        for port in service.ports.iter().filter(|port| port.number == to.port()) {
            if port.speaks == Speaks::NotTcp {
                continue;
            }
            for prefix in prefixes(service, port) {
                let own =
                    service.kind == Kindness::Headless && from.addresses.contains(&prefix.addr());
                let everywhere = prefix.prefix_len() == 0 && service.addresses.is_empty();
                if !prefix.contains(&to.ip()) || own || (everywhere && is_at_home(to.ip())) {
                    continue;
                }
                let better = best.as_ref().is_none_or(|(other, older, _)| {
                    prefix.prefix_len() > other.prefix_len()
                        || (prefix.prefix_len() == other.prefix_len()
                            && age(service.object) < age(older.object))
                });
                if better {
                    best = Some((prefix, service, port));
                }
            }
        }
    }
    let Some((_, service, port)) = best else { return Outcome::pass() };
    // Who is bypassed goes as if no rule matched, and so does what a bypassed rule
    // would take: the next rule does not get it.
    let bypass = &world.settings.bypass;
    let bypassed = bypass.workloads.iter().any(|id| {
        from.namespace.as_deref() == Some(&id.namespace) && from.name.as_deref() == Some(&id.name)
    });
    let rules = if bypassed { Vec::new() } else { rules(world, from, service, to) };
    for rule in rules {
        let Rule { object, list, .. } = rule;
        let applies = match list {
            "tcp" => matches!(port.speaks, Speaks::Tcp | Speaks::Unknown),
            _ => {
                port.speaks == Speaks::Tcp
                    && rule.route.iter().all(|entry| {
                        entry.subset.is_none() || {
                            let found = find(world, services, from, object, entry, to.port());
                            found.is_ok_and(|found| found.subset.is_some())
                        }
                    })
            }
        };
        if applies && bypass.rules.contains(&object.reference()) {
            break;
        }
        if applies {
            let everywhere =
                matches!(service.kind, Kindness::Entry(_)) && service.addresses.is_empty();
            let leads = |v4| leads_anywhere(world, services, from, &rule, to.port(), v4);
            if everywhere && !leads(to.is_ipv4()) && leads(!to.is_ipv4()) {
                return Outcome::pass();
            }
            return take(world, services, from, &rule, &Dialled::of(to));
        }
    }
    let serves = !service.addresses.is_empty()
        && match &service.kind {
            Kindness::Cluster => world.settings.services == ServiceAddresses::Own,
            Kindness::Entry(Resolution::Static) => true,
            Kindness::Entry(Resolution::Dns | Resolution::DnsRoundRobin) => {
                !port.endpoints.is_empty()
            }
            _ => false,
        };
    if !serves {
        return Outcome::pass();
    }
    let rule = destination_rule(world, from, service);
    let found = Found { service, port: Some(port), rule, subset: None };
    match endpoints(world, &found, to.is_ipv4()) {
        Reached::Original(None) => Outcome::pass(),
        reached => {
            let mut outcome = Outcome::default();
            outcome.refused = share_out(&reached, 1.0, to, &mut outcome.endpoints);
            outcome
        }
    }
}

/// Age, then name, then namespace; then kind, so that it is total.
fn age(object: &Object) -> (Option<i64>, &str, &str, Kind) {
    let meta = &object.meta;
    (meta.created, &meta.name, &meta.namespace, object.reference().kind)
}

fn prefixes(service: &Service<'_>, port: &Port) -> Vec<IpNet> {
    match service.kind {
        Kindness::Headless => port.endpoints.iter().map(|one| IpNet::from(one.ip)).collect(),
        // Without addresses nothing but its port tells its connections apart. That
        // is taken where there is no other way, or where it is asked for.
        Kindness::Entry(resolution)
            if service.addresses.is_empty()
                && (resolution == Resolution::None
                    || (resolution != Resolution::DynamicDns && claims_port(service.object))) =>
        {
            vec![IpNet::V4(ipnet::Ipv4Net::default()), IpNet::V6(ipnet::Ipv6Net::default())]
        }
        _ => service.addresses.clone(),
    }
}

/// Whether a ServiceEntry asks for its ports at every address.
fn claims_port(object: &Object) -> bool {
    object.meta.annotations.get("redirector.io/claim-port").is_some_and(|value| value == "true")
}

/// Whether an address is the machine's own, or of its link: a claim to every
/// address is none to these.
fn is_at_home(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
    }
}

/// Whether a client sees an object of `home` with this exportTo.
fn sees(from: &Connection, export_to: &[String], home: &str) -> bool {
    let client = from.namespace.as_deref();
    export_to.is_empty()
        || export_to.iter().any(|entry| match entry.as_str() {
            "*" => true,
            "." => client == Some(home),
            name => client == Some(name),
        })
}

fn is_public(export_to: &[String]) -> bool {
    export_to.is_empty() || export_to.iter().any(|entry| entry == "*")
}

/// A rule: where it stands, and where it leads.
struct Rule<'w> {
    object: &'w Object,
    list: &'static str,
    index: usize,
    route: &'w [RouteDestination],
}

/// The rules that match, in order.
fn rules<'w>(
    world: &'w World,
    from: &Connection,
    service: &Service<'_>,
    to: SocketAddr,
) -> Vec<Rule<'w>> {
    let domain = &world.settings.cluster_domain;
    let mut found = Vec::new();
    for (object, spec) in bound(world, from, "mesh") {
        let home = &*object.meta.namespace;
        let mut hosts = spec.hosts.iter().map(|host| complete_host(host, home, domain));
        if !hosts.any(|host| hosts_match(&host, &service.host)) {
            continue;
        }
        let at = At { gateway: "mesh", ip: to.ip(), port: to.port() };
        for (index, rule) in spec.tcp.iter().enumerate() {
            let mut blocks = rule.matches.iter();
            if rule.matches.is_empty() || blocks.any(|block| holds(block, home, from, &at)) {
                found.push(Rule { object, list: "tcp", index, route: &rule.route });
            }
        }
        if let Some(rule) = spec.http.first()
            && spec.tcp.is_empty()
            && !rule.has_match
            && rule.l7_fields.is_empty()
            && !rule.route.is_empty()
        {
            found.push(Rule { object, list: "http", index: 0, route: &rule.route });
        }
    }
    found
}

/// The VirtualServices that are bound to a gateway, or to the mesh, and that a
/// client sees, in their order.
fn bound<'w>(
    world: &'w World,
    from: &Connection,
    gateway: &str,
) -> Vec<(&'w Object, &'w VirtualService)> {
    let mut objects: Vec<_> = world
        .virtual_services()
        .filter(|(object, spec)| {
            let home = &object.meta.namespace;
            let mut names = spec.gateways.iter().map(|name| complete_gateway(name, home));
            let there = match spec.gateways.is_empty() {
                true => gateway == "mesh",
                false => names.any(|name| name == gateway),
            };
            there && sees(from, &spec.export_to, home)
        })
        .map(|(object, spec)| (&**object, spec))
        .collect();
    objects.sort_by_key(|(object, spec)| {
        let own = from.namespace.as_deref() == Some(&*object.meta.namespace);
        let group = match is_public(&spec.export_to) {
            true => 2,
            false if own => 0,
            false => 1,
        };
        (group, age(object))
    });
    objects
}

/// What is dialled, and through what.
struct At<'a> {
    gateway: &'a str,
    ip: IpAddr,
    port: u16,
}

fn holds(block: &L4Match, home: &str, from: &Connection, at: &At<'_>) -> bool {
    let namespace = from.namespace.as_deref();
    let port = block.port.is_none_or(|port| port == 0 || port == at.port);
    let subnets = block.destination_subnets.is_empty()
        || block
            .destination_subnets
            .iter()
            .any(|subnet| subnet.contains(&at.ip) || subnet.to_string() == "0.0.0.0/0");
    let gateways = block.gateways.is_empty()
        || block.gateways.iter().any(|name| complete_gateway(name, home) == at.gateway);
    let labels = block.source_labels.is_empty()
        || (namespace.is_some()
            && block.source_labels.iter().all(|(key, value)| from.labels.get(key) == Some(value)));
    let in_namespace =
        block.source_namespace.is_empty() || namespace == Some(block.source_namespace.as_str());
    let source_subnet = block
        .source_subnet
        .is_none_or(|subnet| from.addresses.iter().any(|address| subnet.contains(address)));
    port && subnets && gateways && labels && in_namespace && source_subnet
}

/// A destination that exists.
struct Found<'a, 'w> {
    service: &'a Service<'w>,
    /// `None` when the service has no such port.
    port: Option<&'a Port>,
    rule: Option<Merged<'w>>,
    subset: Option<Subset>,
}

/// Where a destination leads.
enum Reached {
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
struct Dialled {
    to: SocketAddr,
    /// The port of destinations that have several and name none.
    port: u16,
    /// A proxy is between: it may cross address families, and has nothing behind
    /// the address dialled.
    relayed: bool,
}

impl Dialled {
    fn of(to: SocketAddr) -> Self {
        Self { to, port: to.port(), relayed: false }
    }
}

/// Whether a rule has somewhere to go in an address family.
fn leads_anywhere(
    world: &World,
    services: &[Service<'_>],
    from: &Connection,
    rule: &Rule<'_>,
    port: u16,
    v4: bool,
) -> bool {
    rule.route.iter().filter(|entry| rule.route.len() == 1 || entry.weight > 0).any(|entry| {
        let found = find(world, services, from, rule.object, entry, port);
        found.is_ok_and(|found| !endpoints(world, &found, v4).is_nowhere())
    })
}

fn take(
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
            Ok(found) => match endpoints(world, &found, dialled.to.is_ipv4()) {
                nowhere if dialled.relayed && nowhere.is_nowhere() => {
                    endpoints(world, &found, !dialled.to.is_ipv4())
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
fn share_out(
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
fn find<'a, 'w>(
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

/// The service with a host: of the client's own namespace, else a Service, else
/// a ServiceEntry; the oldest of each.
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
        let entry = foreign && matches!(service.kind, Kindness::Entry(_));
        (foreign, entry, age(service.object))
    });
    having.first().copied()
}

fn endpoints(world: &World, found: &Found<'_, '_>, v4: bool) -> Reached {
    let Found { service, port, rule, subset } = found;
    let Some(port) = port else { return Reached::nowhere() };
    let policy = Policy::of(rule.as_ref(), subset.as_ref(), port.number);
    if policy.changes_bytes {
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
    let usable: Vec<&Endpoint> = usable.collect();
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
