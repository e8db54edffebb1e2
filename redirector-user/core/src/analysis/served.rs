//! Addresses that are served to everybody, and whom a policy refuses: read off
//! the [`Plan`](crate::plan::Plan).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::facts::Facts;
use super::refused::{COMPLETE, NOT_USABLE};
use super::{Finding, Report, dialled};
use crate::diag::Diagnostic;
use crate::diag::codes::{Code, differences};
use crate::model::{ISTIO_MUTUAL, Kind, ObjectRef, Policy};
use crate::plan::{ClassId, DestinationId, Endpoint, Frontend, FrontendId, Lacks, RouteId};
use crate::registry::{MergedRule, MergedSubset, Service, is_given};

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let plan = &facts.examined.plan;
    let mut told: BTreeSet<(&ObjectRef, &str)> = BTreeSet::new();
    let mut without: BTreeMap<(&ObjectRef, String, String), Without> = BTreeMap::new();
    let mut everywhere: BTreeMap<(&ObjectRef, u16), BTreeSet<&ObjectRef>> = BTreeMap::new();
    for (id, frontend) in &plan.frontends {
        if id.prefix.prefix_len() == 0 {
            let rules = frontend.routes().filter_map(|(_, route)| route.rule.as_ref());
            let rules = rules.map(|rule| &rule.object);
            let rules: Vec<&ObjectRef> = rules.collect();
            if !rules.is_empty() {
                everywhere.entry((&frontend.service, id.port)).or_default().extend(rules);
            }
        }
        let own = frontend.routes().find(|(_, route)| route.rule.is_none());
        let Some((_, own)) = own else { continue };
        if let Some(one) = without_endpoints(facts, id, frontend, own) {
            let key = (&frontend.service, one.because.clone(), one.whom.clone());
            let at = SocketAddr::new(id.prefix.addr(), id.port);
            without.entry(key).or_insert(one).at.push(at);
        }
        if let Some((path, diagnostic)) = spread(facts, id, frontend, own)
            && told.insert((&frontend.service, diagnostic.code))
        {
            Report::new(frontend.service.clone(), findings).add(path, diagnostic);
        }
    }
    for ((service, ..), one) in without {
        Report::new(service.clone(), findings).add(one.path, one.told());
    }
    for ((service, port), rules) in everywhere {
        let shown: Vec<String> = rules.iter().take(3).map(|rule| rule.to_string()).collect();
        let more = if rules.len() > shown.len() { ", ..." } else { "" };
        Report::new(service.clone(), findings).add(
            "spec.addresses",
            Diagnostic::new(
                &differences::CLAIMS_EVERY_ADDRESS,
                format!(
                    "port {port} of every address is claimed: each connection to that port, of every \
                     process of this machine and wherever to, goes by the rules of {}{more}",
                    shown.join(", ")
                ),
            )
            .help("add addresses: with the addresses that clients dial"),
        );
    }
    policies(facts, findings);
}

/// A service that nobody is behind.
struct Without {
    path: &'static str,
    code: &'static Code,
    because: String,
    /// Of which family that is, where that is why.
    family: &'static str,
    /// What clients dial.
    at: Vec<SocketAddr>,
    /// For whom, with a space before it; nothing for everybody.
    whom: String,
    help: Option<&'static str>,
}

impl Without {
    fn told(self) -> Diagnostic {
        let Self { code, because, family, at, whom, help, .. } = self;
        let shown: Vec<String> = at.iter().take(4).map(SocketAddr::to_string).collect();
        let more = match at.len() - shown.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let shown = shown.join(", ");
        let message = format!("{because}: connections to {family}{shown}{more} are refused{whom}");
        let finding = Diagnostic::new(code, message);
        Diagnostic { help: help.map(str::to_owned), ..finding }
    }
}

/// A service that nobody is behind, where clients dial it.
fn without_endpoints(
    facts: &Facts<'_>,
    id: &FrontendId,
    frontend: &Frontend,
    own: &RouteId,
) -> Option<Without> {
    let destination = facts.examined.plan.destinations.get(own.destinations.first()?)?;
    let service = &frontend.service;
    let lacks = destination.lacks?;
    let whom = takers([frontend]).get(own).and_then(|takers| facts.examined.takers(takers));
    let without = |path, code, because: String| Without {
        path,
        code,
        because,
        family: "",
        at: Vec::new(),
        whom: whom.map_or_else(String::new, |whom| format!(" for {whom}")),
        help: None,
    };
    let because = || destination.empty_because.clone().unwrap_or_default();
    Some(match lacks {
        Lacks::Family if facts.is_allocated(service, id.prefix.addr()) => return None,
        Lacks::Family => {
            let [family, other] = match id.prefix.addr().is_ipv6() {
                true => ["the IPv6 address ", "IPv4"],
                false => ["the IPv4 address ", "IPv6"],
            };
            let because = format!("all endpoints are {other}");
            let of = without(
                facts.place_of(service, id.prefix.addr()),
                &differences::OTHER_FAMILY,
                because,
            );
            Without { family, ..of }
        }
        Lacks::Node if !facts.knows_node() => return None,
        Lacks::Usable => {
            let because = "no endpoint of it is ready and reachable".to_owned();
            let of = without("spec", &differences::NO_ENDPOINTS, because);
            Without { help: Some(NOT_USABLE), ..of }
        }
        Lacks::Node => without("spec.internalTrafficPolicy", &differences::NO_ENDPOINTS, because()),
        Lacks::Locality => without("spec", &differences::NO_ENDPOINTS, because()),
        Lacks::Endpoints if facts.complete(service) => {
            let because = "it has no endpoint".to_owned();
            let of = without("spec", &differences::NO_ENDPOINTS, because);
            Without { help: Some(COMPLETE), ..of }
        }
        Lacks::Endpoints if !facts.lost_elsewhere(service) => {
            let because = "the documents have no endpoint of it".to_owned();
            without("spec", &differences::NO_KNOWN_ENDPOINT, because)
        }
        _ => return None,
    })
}

/// A ServiceEntry's address that rules were written for, for some, and that all
/// others are now sent from, too.
fn spread(
    facts: &Facts<'_>,
    id: &FrontendId,
    frontend: &Frontend,
    own: &RouteId,
) -> Option<(&'static str, Diagnostic)> {
    if frontend.service.kind != Kind::ServiceEntry {
        return None;
    }
    let destination = facts.examined.plan.destinations.get(own.destinations.first()?)?;
    let address = id.prefix.addr();
    let whole = id.prefix.prefix_len() == id.prefix.max_prefix_len();
    let stays = |endpoint: &Endpoint| whole && endpoint.address.ip() == address;
    // At an address that was made up for the entry nobody has been before; at this machine's
    // own there always is somebody.
    let own = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
    let in_use = facts.has_address_in(&id.prefix) || own.iter().any(|ip| id.prefix.contains(ip));
    if destination.endpoints.iter().all(stays) || !in_use {
        return None;
    }
    let to = match destination.endpoints.as_slice() {
        [one] if is_given(&one.address.ip()) => "go to what its name resolves to".to_owned(),
        [one] => format!("go to {}", one.address),
        several => format!("are spread over the {} endpoints", several.len()),
    };
    let at = dialled(&id.prefix, id.port);
    let rule = frontend.routes().find_map(|(_, route)| route.rule.as_ref());
    let rules = match rule {
        Some(rule) => {
            format!("{} decides for some clients only; the connections of all others", rule.object)
        }
        None => "the connections of all clients".to_owned(),
    };
    let message = format!("{at} is served here for everybody: {rules} {to}");
    let finding = Diagnostic::new(&differences::SERVED_FOR_ALL, message).help(
        "resolution: NONE leaves those alone whom no rule is for; give the other endpoints a \
         ServiceEntry of their own",
    );
    Some((facts.place_of(&frontend.service, address), finding))
}

/// How much is refused by policies that would change bytes on the wire.
fn policies(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let plan = &facts.examined.plan;
    if plan.destinations.values().all(|one| one.lacks != Some(Lacks::Bytes)) {
        return;
    }
    #[derive(Default)]
    struct Refused<'p> {
        why: &'p str,
        asks: Option<&'static str>,
        /// Those at gateways have endpoints.
        gateways_can: bool,
        /// Whose connections to services are refused; `None` is everybody.
        whom: BTreeSet<Option<ClassId>>,
        hosts: BTreeMap<&'p str, BTreeSet<u16>>,
        shares: BTreeSet<(&'p ObjectRef, usize)>,
    }
    // Merged rules by the oldest of their objects.
    let merged = facts.registry.rules.all().into_iter();
    let merged: HashMap<&ObjectRef, &MergedRule> =
        merged.filter_map(|rule| Some((rule.objects.first()?, rule))).collect();
    let mut by_policy: BTreeMap<(&ObjectRef, String), Refused<'_>> = BTreeMap::new();
    let takers = takers(plan.frontends.values());
    for route in plan.routes.keys() {
        for (place, id) in route.destinations.iter().enumerate() {
            let Some(destination) = plan.destinations.get(id) else { continue };
            // Those of gateways alone are served there.
            let gateways_can = !destination.at_gateways.is_empty();
            if destination.lacks != Some(Lacks::Bytes)
                || gateways_can && !takers.contains_key(&**route)
            {
                continue;
            }
            let rule = id.view.get(1).and_then(|oldest| merged.get(oldest));
            let Some(policy) = rule.and_then(|rule| asking(facts, rule, id)) else { continue };
            let refused = by_policy.entry(policy).or_default();
            refused.asks = destination.policy.changes_bytes();
            refused.gateways_can = gateways_can;
            refused.why = destination.empty_because.as_deref().unwrap_or_default();
            match &route.rule {
                Some(rule) => drop(refused.shares.insert((&rule.object, place))),
                None => {
                    refused.hosts.entry(&id.host).or_default().insert(id.port);
                    refused.whom.extend(takers.get(&**route).into_iter().flatten());
                }
            }
        }
    }
    for ((object, path), Refused { why, asks, gateways_can, whom, hosts, shares }) in by_policy {
        let mut what = Vec::new();
        let of =
            facts.examined.takers(&whom).map_or_else(String::new, |whom| format!(" of {whom}"));
        if let Some((first, ports)) = hosts.first_key_value() {
            let first = at_ports(facts, first, ports);
            what.push(match hosts.len() {
                1 => format!("all connections{of} to {first}"),
                count => format!("all connections{of} to {count} services, such as {first}"),
            });
        }
        if let Some((first, _)) = shares.first() {
            what.push(match shares.len() {
                1 => format!("a share of {first}"),
                count => format!("{count} shares of rules, such as of {first}"),
            });
        }
        let are = if hosts.is_empty() && shares.len() == 1 { "is" } else { "are" };
        let but = if gateways_can { " that do not come by a gateway" } else { "" };
        let message = format!("{why}: {}{but} {are} refused here", what.join(" and "));
        let mut finding = Diagnostic::new(&differences::POLICY_REFUSES, message);
        if asks == Some(ISTIO_MUTUAL) {
            finding = finding.help(
                "if the servers take connections without TLS too (PeerAuthentication PERMISSIVE), \
                 run with --istio-mutual=plain, or annotate the DestinationRule with \
                 redirector.io/istio-mutual: plain",
            );
        }
        Report::new(object.clone(), findings).add(path, finding);
    }
}

/// A host, with these ports of it where it has others.
fn at_ports(facts: &Facts<'_>, host: &str, ports: &BTreeSet<u16>) -> String {
    let has_others =
        |service: &Arc<Service>| service.tcp_ports().any(|port| !ports.contains(&port.number));
    if !facts.registry.named(host).iter().any(has_others) {
        return host.to_owned();
    }
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    let word = if ports.len() == 1 { "port" } else { "ports" };
    format!("{host}, {word} {}", ports.join(", "))
}

/// Who is sent along each route of these; `None` is everybody else.
fn takers<'p>(
    frontends: impl IntoIterator<Item = &'p Frontend>,
) -> HashMap<&'p RouteId, BTreeSet<Option<ClassId>>> {
    let mut takers: HashMap<&RouteId, BTreeSet<Option<ClassId>>> = HashMap::new();
    for (class, route) in frontends.into_iter().flat_map(Frontend::routes) {
        takers.entry(route).or_default().insert(class);
    }
    takers
}

/// The policy of a merged rule that refuses a destination: in which object it
/// stands, and where.
fn asking<'r>(
    facts: &Facts<'_>,
    rule: &'r MergedRule,
    id: &DestinationId,
) -> Option<(&'r ObjectRef, String)> {
    let asks = rule.policy(id.subset.as_deref(), id.port).changes_bytes();
    let spec = |object: &ObjectRef| facts.world.get(object)?.spec.destination_rule();
    let subset = rule.subsets.iter().find(|one| Some(&*one.subset.name) == id.subset.as_deref());
    if let Some(MergedSubset { subset, object }) = subset
        && Policy::effective(None, subset.traffic_policy.as_ref(), id.port).changes_bytes() == asks
    {
        let place = spec(object)?.subsets.iter().position(|one| one.name == subset.name)?;
        return Some((object, format!("spec.subsets[{place}].trafficPolicy")));
    }
    let object = rule
        .objects
        .iter()
        .find(|object| spec(object).is_some_and(|spec| spec.traffic_policy.is_some()))?;
    Some((object, "spec.trafficPolicy".to_owned()))
}
