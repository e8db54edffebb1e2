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
mod routes;
mod services;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use redirector_core::model::{
    Kind, L4Match, Labels, Object, ObjectRef, Resolution, RouteDestination, VirtualService,
};
use redirector_core::names::{complete_gateway, complete_host, hosts_match};
use redirector_core::world::{ServiceAddresses, World};

use destination_rules::{destination_rule, in_force};
use routes::{Dialled, Found, Reached, endpoints, find, leads_anywhere, share_out, take};
use services::{Kindness, Port, Service, Speaks, services};

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

/// What was given to a Service is not a ServiceEntry's, however old that is.
fn precedence<'s>(service: &'s Service<'_>) -> (bool, (Option<i64>, &'s str, &'s str, Kind)) {
    (service.kind != Kindness::Cluster, age(service.object))
}

/// A service that has what is dialled.
#[derive(Clone, Copy)]
struct Owner<'s, 'w> {
    prefix: IpNet,
    service: &'s Service<'w>,
    port: &'s Port,
    /// It has the port of every address.
    everywhere: bool,
    /// Whether it does because of its host.
    by_name: ByName,
}

/// Whether a service has an address because of its host; which goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ByName {
    No,
    ResolvesToIt,
    ResolvedToIt,
}

/// What a connection comes to.
enum ComesTo<'w> {
    Rule(Rule<'w>),
    /// The service's own endpoints.
    Own,
    Nothing,
}

fn decide(world: &World, services: &[Service<'_>], from: &Connection, to: SocketAddr) -> Outcome {
    // Which service owns the address, for this client: the longest prefix that
    // it sees; of several one that says so itself, then one that was given it, and the
    // oldest.
    let mut owners: Vec<Owner<'_, '_>> = Vec::new();
    for service in services {
        if !sees(from, &service.export_to, &service.object.meta.namespace) {
            continue;
        }
        for port in service.ports.iter().filter(|port| port.number == to.port()) {
            if port.speaks == Speaks::NotTcp {
                continue;
            }
            let said = prefixes(service, port).into_iter().map(|prefix| (prefix, false));
            for (prefix, everywhere) in said.chain(everywhere(service)) {
                let own =
                    service.kind == Kindness::Headless && from.addresses.contains(&prefix.addr());
                if prefix.contains(&to.ip()) && !own && !(everywhere && is_at_home(world, to.ip()))
                {
                    let by_name = ByName::No;
                    owners.push(Owner { prefix, service, port, everywhere, by_name });
                }
            }
            let by_name = if service.resolves_to.contains(&to.ip()) {
                ByName::ResolvesToIt
            } else if service.resolved_to.contains(&to.ip()) {
                ByName::ResolvedToIt
            } else {
                continue;
            };
            let prefix = to.ip().into();
            owners.push(Owner { prefix, service, port, everywhere: false, by_name });
        }
    }
    owners.sort_by(|one, other| {
        let longest = other.prefix.prefix_len().cmp(&one.prefix.prefix_len());
        let said = one.by_name.cmp(&other.by_name);
        longest.then(said).then_with(|| precedence(one.service).cmp(&precedence(other.service)))
    });
    // What somebody says goes before what a name leads to, however wide it is.
    let said = owners.iter().position(|one| one.by_name == ByName::No && !one.everywhere);
    let by_name = owners.first().is_some_and(|first| first.by_name != ByName::No);
    owners.drain(..said.filter(|_| by_name).unwrap_or(0));
    let Some((owner, others)) = owners.split_first() else { return Outcome::pass() };
    let mut found = comes_to(world, services, from, owner, to);
    if owner.by_name != ByName::No {
        let others = others
            .iter()
            .filter(|other| other.prefix == owner.prefix && other.by_name == owner.by_name);
        for other in others.filter(|other| other.service.host != owner.service.host) {
            let ruled = |one: &Owner<'_, '_>| {
                world.destination_rules().any(|(object, rule)| {
                    let home = &object.meta.namespace;
                    let host = complete_host(&rule.host, home, &world.settings.cluster_domain);
                    hosts_match(&host, &one.service.host)
                })
            };
            let alike = match (&found, comes_to(world, services, from, other, to)) {
                (ComesTo::Rule(one), ComesTo::Rule(other)) => {
                    leads(world, services, from, one, to)
                        == leads(world, services, from, &other, to)
                }
                (ComesTo::Own, ComesTo::Own) => {
                    let object = |one: &Owner<'_, '_>| one.service.object.reference();
                    object(owner) == object(other) && !ruled(owner) && !ruled(other)
                }
                (ComesTo::Nothing, ComesTo::Nothing) => true,
                _ => false,
            };
            if !alike {
                return Outcome::pass();
            }
        }
    }
    // What is written is the oldest's; but of one namespace several hosts with one address are
    // told apart by the server name only, which nobody has said yet.
    let told_apart = |other: &&Owner<'_, '_>| {
        owner.by_name == ByName::No
            && owner.port.speaks == Speaks::Tls
            && ![owner, *other].iter().any(|one| one.service.kind == Kindness::Headless)
            && (other.prefix, other.by_name, other.everywhere)
                == (owner.prefix, ByName::No, owner.everywhere)
            && other.service.object.meta.namespace == owner.service.object.meta.namespace
            && other.service.host != owner.service.host
    };
    for other in others.iter().filter(told_apart) {
        let to_what = |comes_to: &ComesTo<'_>| match comes_to {
            ComesTo::Rule(rule) => Some(leads(world, services, from, rule, to)),
            _ => None,
        };
        if to_what(&found) != to_what(&comes_to(world, services, from, other, to)) {
            found = without_rule(world, owner);
            break;
        }
    }
    let Owner { service, port, everywhere, .. } = *owner;
    match found {
        ComesTo::Nothing => Outcome::pass(),
        ComesTo::Rule(rule) => {
            let leads = |v4| leads_anywhere(world, services, from, &rule, to.port(), v4);
            if everywhere && !leads(to.is_ipv4()) && leads(!to.is_ipv4()) {
                return Outcome::pass();
            }
            take(world, services, from, &rule, &Dialled::of(to))
        }
        ComesTo::Own => {
            let rule = destination_rule(world, from, service);
            let found = Found { service, port: Some(port), rule, subset: None };
            match endpoints(world, &found, to.is_ipv4(), false) {
                Reached::Original(None) => Outcome::pass(),
                reached => {
                    let mut outcome = Outcome::default();
                    outcome.refused = share_out(&reached, 1.0, to, &mut outcome.endpoints);
                    outcome
                }
            }
        }
    }
}

/// Where a rule leads, with the part of all that goes there, in parts of all weights: services
/// by host and port with labels and policy, or nowhere.
type Leads = Vec<(Option<(String, u16, Labels, String)>, (u64, u64))>;

fn leads(
    world: &World,
    services: &[Service<'_>],
    from: &Connection,
    rule: &Rule<'_>,
    to: SocketAddr,
) -> Leads {
    let mut parts = BTreeMap::<_, u64>::new();
    let mut all = 0;
    for entry in rule.route {
        let weight = if rule.route.len() == 1 { 1 } else { u64::from(entry.weight) };
        if weight == 0 {
            continue;
        }
        let found = find(world, services, from, rule.object, entry, to.port()).ok();
        let there = found.and_then(|Found { service, port, rule, subset }| {
            let port = port?.number;
            let policy = in_force(rule.as_ref(), subset.as_ref(), port);
            let labels = subset.map(|subset| subset.labels).unwrap_or_default();
            Some((service.host.clone(), port, labels, format!("{policy:?}")))
        });
        *parts.entry(there).or_default() += weight;
        all += weight;
    }
    let reduced = |part: u64| {
        let (mut one, mut other) = (part, all);
        while other > 0 {
            (one, other) = (other, one % other);
        }
        (part / one, all / one)
    };
    parts.into_iter().map(|(there, part)| (there, reduced(part))).collect()
}

fn comes_to<'w>(
    world: &'w World,
    services: &[Service<'w>],
    from: &Connection,
    owner: &Owner<'_, '_>,
    to: SocketAddr,
) -> ComesTo<'w> {
    let port = owner.port;
    // Who is bypassed goes as if no rule matched, and so does what a bypassed rule
    // would take: the next rule does not get it.
    let bypass = &world.settings.bypass;
    let bypassed = bypass.workloads.iter().any(|id| {
        from.namespace.as_deref() == Some(&id.namespace) && from.name.as_deref() == Some(&id.name)
    });
    let rules = if bypassed { Vec::new() } else { rules(world, from, owner, to) };
    for rule in rules {
        let Rule { object, list, .. } = rule;
        let applies = match list {
            "tcp" => matches!(port.speaks, Speaks::Tcp | Speaks::Unknown),
            "tls" => port.speaks == Speaks::Tls,
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
        if applies && (rule.open || bypass.rules.contains(&object.reference())) {
            break;
        }
        if applies {
            return ComesTo::Rule(rule);
        }
    }
    without_rule(world, owner)
}

/// What a connection comes to when no rule takes it.
fn without_rule<'w>(world: &World, owner: &Owner<'_, '_>) -> ComesTo<'w> {
    let Owner { service, port, everywhere, by_name, .. } = *owner;
    let serves = match &service.kind {
        // What a name leads to needs nobody else, unless it is said where to go.
        Kindness::Entry(_) if by_name != ByName::No => port.has_own && !port.endpoints.is_empty(),
        _ if everywhere || service.addresses.is_empty() => false,
        Kindness::Cluster => world.settings.services == ServiceAddresses::Own,
        Kindness::Entry(Resolution::Static) => true,
        Kindness::Entry(Resolution::Dns | Resolution::DnsRoundRobin) => !port.endpoints.is_empty(),
        _ => false,
    };
    if serves { ComesTo::Own } else { ComesTo::Nothing }
}

/// Age, then name, then namespace; then kind, so that it is total.
fn age(object: &Object) -> (Option<i64>, &str, &str, Kind) {
    let meta = &object.meta;
    (meta.created, &meta.name, &meta.namespace, object.reference().kind)
}

fn prefixes(service: &Service<'_>, port: &Port) -> Vec<IpNet> {
    match service.kind {
        Kindness::Headless => port.endpoints.iter().map(|one| IpNet::from(one.ip)).collect(),
        _ => service.addresses.clone(),
    }
}

/// Without addresses nothing but its port tells the connections of a ServiceEntry apart. That
/// is taken where there is no other way, or where it is asked for.
fn everywhere(service: &Service<'_>) -> Vec<(IpNet, bool)> {
    let takes = match service.kind {
        Kindness::Entry(Resolution::None) => service.addresses.is_empty(),
        Kindness::Entry(Resolution::DynamicDns) => false,
        Kindness::Entry(_) => claims_port(service.object),
        _ => false,
    };
    let all = [IpNet::V4(ipnet::Ipv4Net::default()), IpNet::V6(ipnet::Ipv6Net::default())];
    all.into_iter().filter(|_| takes).map(|prefix| (prefix, true)).collect()
}

/// Whether a ServiceEntry asks for its ports at every address, and names none.
fn claims_port(object: &Object) -> bool {
    let entry = object.spec.service_entry();
    entry.is_some_and(|entry| entry.addresses.is_empty())
        && object
            .meta
            .annotations
            .get("redirector.io/claim-port")
            .is_some_and(|value| value == "true")
}

/// Whether an address is the machine's own, or of its link: a claim to every
/// address is none to these.
fn is_at_home(world: &World, ip: IpAddr) -> bool {
    match ip {
        _ if world.settings.node_addresses.contains(&ip) => true,
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

/// A rule that matches, or may: where it stands, and where it leads.
struct Rule<'w> {
    object: &'w Object,
    list: &'static str,
    index: usize,
    route: &'w [RouteDestination],
    /// Whether it matches is not known before the server name is.
    open: bool,
}

/// Whether what is dialled is asked for by one of these server names: all of it, a part,
/// or none.
fn named(hosts: &[String], host: Option<&str>) -> Option<bool> {
    let is_all = |wanted: &String| {
        wanted == "*"
            || host.is_some_and(|host| match (wanted.strip_prefix('*'), host.strip_prefix('*')) {
                (None, None) => wanted.eq_ignore_ascii_case(host),
                (None, Some(_)) => false,
                (Some(wanted), host_of) => host_of.unwrap_or(host).ends_with(wanted),
            })
    };
    if hosts.iter().any(is_all) {
        return Some(true);
    }
    let meets = host.is_none_or(|host| hosts.iter().any(|wanted| hosts_match(wanted, host)));
    (!meets).then_some(false)
}

/// The rules that match, or may, in order.
fn rules<'w>(
    world: &'w World,
    from: &Connection,
    owner: &Owner<'_, '_>,
    to: SocketAddr,
) -> Vec<Rule<'w>> {
    let service = owner.service;
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
                let open = false;
                found.push(Rule { object, list: "tcp", index, route: &rule.route, open });
            }
        }
        // No name is said yet: whoever dials an address means the host that has it.
        let meant = (!owner.everywhere).then_some(&*service.host);
        for (index, rule) in spec.tls.iter().enumerate() {
            let blocks = rule.matches.iter().filter(|one| holds(&one.l4, home, from, &at));
            let answers: Vec<_> = blocks.map(|one| named(&one.sni_hosts, meant)).collect();
            if answers.iter().any(|answer| *answer != Some(false)) {
                let open = !answers.contains(&Some(true));
                found.push(Rule { object, list: "tls", index, route: &rule.route, open });
            }
        }
        if let Some(rule) = spec.http.first()
            && spec.tcp.is_empty()
            && !rule.has_match
            && rule.l7_fields.is_empty()
            && !rule.route.is_empty()
        {
            let open = false;
            found.push(Rule { object, list: "http", index: 0, route: &rule.route, open });
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
