//! Gateways: selectors that select something, ports that a Service has, servers
//! that do not take each other's place.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use super::facts::Facts;
use super::refusals::{Share, shares};
use super::virtual_services::{Unfit, Why};
use super::{Finding, Report};
use crate::client::Client;
use crate::diag::Diagnostic;
use crate::diag::codes::{differences, l7, references};
use crate::model::{Gateway, Labels, Object, ObjectRef, Server, Service, TargetPort};
use crate::names::hosts_match;
use crate::plan::Plan;
use crate::plan::gateway::{Dropped, GatewayPlan, GatewayRule, Incoming};
use crate::rules::{Block, Mode, Outdone, RuleSet, bound_elsewhere, mode};

/// Servers by Gateway, for each selector and port.
type Servers<'w> = HashMap<(&'w Labels, u16), BTreeMap<String, &'w Server>>;

pub(super) fn analyze(facts: &Facts<'_>, unfit: &Unfit, findings: &mut Vec<Finding>) {
    let none = Labels::new();
    let mut servers: Servers<'_> = HashMap::new();
    let mut services: HashMap<&str, Vec<&Service>> = HashMap::new();
    for (object, service) in facts.world.services() {
        services.entry(&object.meta.namespace).or_default().push(service);
    }
    for (object, gateway) in facts.world.gateways() {
        let selector = gateway.selector.as_ref().unwrap_or(&none);
        for server in &gateway.servers {
            servers
                .entry((selector, server.port))
                .or_default()
                .insert(object.reference().to_string(), server);
        }
    }
    for (object, gateway) in facts.world.gateways() {
        let selector = gateway.selector.as_ref().unwrap_or(&none);
        let mut report = Report::new(object.reference(), findings);
        workloads(facts, selector, gateway, &services, &mut report);
        conflicts(facts, &servers, selector, object, gateway, &mut report);
        for (i, server) in gateway.servers.iter().enumerate() {
            if is_unix(server) {
                report.add(
                    format!("spec.servers[{i}].bind"),
                    Diagnostic::new(
                        &l7::UNIX_SERVER,
                        "the server is left out: a gateway here listens on addresses only",
                    ),
                );
            }
        }
    }
    loops(facts, findings);
    without_rules(facts, unfit, findings);
    ports_taken(facts, findings);
    hosts_at_one_port(facts, findings);
    // Whatever it is here, a Pod with the Gateway's labels serves it where it runs.
    let all = facts.registry.workloads.all();
    for Outdone { gateway, index, reason } in bound_elsewhere(facts.world, all) {
        let spec = facts.world.get(&gateway).and_then(|object| object.spec.gateway());
        let server = spec.and_then(|spec| spec.servers.get(index));
        if server.is_some_and(|server| !is_unix(server)) {
            Report::new(gateway, findings).add(
                format!("spec.servers[{index}].bind"),
                Diagnostic::new(&differences::GATEWAY_BIND, reason),
            );
        }
    }
}

/// Servers whose port on a workload is another's, and of which that is not told by their numbers:
/// Services lead both to one port.
fn ports_taken(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    for Dropped { gateway, server, reason } in &facts.examined.plan.gateways.dropped {
        let spec = facts.world.get(gateway).and_then(|object| object.spec.gateway());
        let written = spec.and_then(|spec| spec.servers.get(*server as usize));
        let path = format!("spec.servers[{server}]");
        let is_told = |one: &Finding| one.object == *gateway && one.path.starts_with(&path);
        if written.is_none_or(|one| uses(one).is_none()) || findings.iter().any(is_told) {
            continue;
        }
        let message = format!("{reason}: this server is not served there");
        let finding = Diagnostic::new(&differences::GATEWAY_PORT_TAKEN, message)
            .help("use a port that the gateway's Service leads elsewhere");
        Report::new(gateway.clone(), findings).add(format!("{path}.port.number"), finding);
    }
}

/// TCP servers with rules of two VirtualServices for other hosts, of which one takes what is
/// the other's.
fn hosts_at_one_port(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let mut told = BTreeSet::new();
    let rules = facts.book.sets().flat_map(|set| set.tcp.iter().map(move |rule| (set, rule)));
    for (set, rule) in rules.filter(|_| facts.examined.left_out == 0) {
        for (gateway, by) in facts.examined.before(&rule.id) {
            let others = facts.book.get(&by.object).filter(|other| {
                !set.hosts.iter().any(|a| other.hosts.iter().any(|b| hosts_match(a, b)))
            });
            let Some(other) = others.filter(|_| facts.spend(set.namespace(), set.hosts.len()))
            else {
                continue;
            };
            let Some((object, spec)) = facts.gateway(gateway) else { continue };
            for (i, server) in spec.servers.iter().enumerate() {
                if mode(server) == Mode::Tcp
                    && rule.left_over(gateway, server.port).is_some()
                    && told.insert((gateway, i, &set.reference))
                {
                    Report::new(object.reference(), findings).add(
                        format!("spec.servers[{i}].port.number"),
                        one_port(other, set, server),
                    );
                }
            }
        }
    }
}

/// That the rules of one VirtualService take what is for another's hosts, at a server.
fn one_port(takes: &RuleSet, set: &RuleSet, server: &Server) -> Diagnostic {
    let message = format!(
        "{} and {} share port {}, on which nothing tells which is meant: {} is compared first, \
         and takes what is for {}",
        takes.hosts.join(", "),
        set.hosts.join(", "),
        server.port,
        takes.reference,
        set.reference
    );
    Diagnostic::new(&differences::HOSTS_SHARE_GATEWAY_PORT, message).help(A_PORT_EACH)
}

/// What to do about TCP hosts with one port.
const A_PORT_EACH: &str = "give each a port of its own, and let the rule for the mesh lead to \
                           that; or use TLS with PASSTHROUGH, where the server name tells";

/// Servers at which no rule can match, which refuse everything; but where it is told already
/// why rules that are bound to their Gateway have nothing to do with it, or were refused.
fn without_rules(facts: &Facts<'_>, unfit: &Unfit, findings: &mut Vec<Finding>) {
    let mut reached: BTreeMap<(&ObjectRef, u32), bool> = BTreeMap::new();
    for listener in facts.examined.plan.gateways.listeners.values() {
        let somebody = !listener.rules.is_empty() || matches!(listener.mode, Mode::Refuse(_));
        *reached.entry((&listener.gateway, listener.server)).or_default() |= somebody;
    }
    for ((gateway, index), _) in reached.into_iter().filter(|(_, reached)| !reached) {
        let spec = facts.world.get(gateway).and_then(|object| object.spec.gateway());
        let Some(server) = spec.and_then(|spec| spec.servers.get(index as usize)) else { continue };
        let name = format!("{}/{}", gateway.namespace, gateway.name);
        let bound = facts.book.for_gateway(&name);
        let is_for_it = |set: &RuleSet| {
            let mut rules = set.tcp.iter().chain(&set.tls);
            rules.any(|rule| rule.left_over(&name, server.port).is_some())
        };
        let is_unfit = |set: &&RuleSet| {
            let why = unfit.get(&(set.reference.clone(), name.clone()));
            // One whose rules are for other ports would not match here if it were seen.
            why.is_some_and(|why| *why == Why::Unserved || is_for_it(set))
        };
        if bound.iter().any(is_unfit) || facts.refused_rules_at(&name) {
            continue;
        }
        let refused = format!("connections to port {} are refused", server.port);
        let finding = match bound.is_empty() {
            true => Diagnostic::new(
                &differences::NO_RULE_FOR_GATEWAY,
                format!("no rule of the documents is bound to the Gateway: {refused}"),
            ),
            false => Diagnostic::new(
                &differences::NO_RULE_AT_SERVER,
                format!("no rule that is bound to the Gateway can match here: {refused}"),
            )
            .help(format!(
                "add a {} rule for the port, or remove the server",
                uses(server).unwrap_or("tcp")
            )),
        };
        let path = format!("spec.servers[{index}].port.number");
        Report::new(gateway.clone(), findings).add(path, finding);
    }
}

/// Rules of gateways that lead back to where they are, maybe by way of others.
fn loops(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let listeners = &facts.examined.plan.gateways.listeners;
    let mut told = BTreeSet::new();
    for (at, listener) in listeners {
        for (place, rule) in listener.rules.iter().enumerate() {
            let names = rule.conditions.iter().flat_map(Block::server_names);
            let mut names: Vec<_> = names.map(|name| Some(name.replacen('*', "any", 1))).collect();
            let open = |block: &Block| !block.asks_name();
            if rule.conditions.is_empty() || rule.conditions.iter().any(open) {
                names.push(None);
            }
            // Who goes round asks for the same name everywhere.
            let rounds = names.iter().flat_map(|name| round(facts, (at, place), name.as_deref()));
            for ((at, place), share, (to, _)) in rounds {
                let (Some(listener), Some(next)) = (listeners.get(at), listeners.get(to)) else {
                    continue;
                };
                let Some(GatewayRule { rule, .. }) = listener.rules.get(place) else { continue };
                if !told.insert((rule, share.place)) {
                    continue;
                }
                let of = match share.destination.endpoints_at(true).len() {
                    1 => String::new(),
                    of => format!(", one of {of} endpoints,"),
                };
                let there = match to == at {
                    true => String::new(),
                    false => format!("{} listens, and on from there to {at}, where ", next.gateway),
                };
                let message = format!(
                    "{}:{} leads to {to}{of} where {there}{} itself listens: connections come back \
                     to this rule until there are no more",
                    share.id.host, share.id.port, listener.gateway
                );
                let finding = Diagnostic::new(&differences::LEADS_BACK, message)
                    .help("name the service that is behind the gateway");
                Report::new(rule.object.clone(), findings)
                    .add(format!("{}.host", rule.destination_path(share.place)), finding);
            }
        }
    }
}

/// A rule, by its place, of what listens at an address.
type Stop<'p> = (&'p SocketAddr, usize);

/// The rules of gateways that connections which ask for this server name meet when they go
/// on from one.
fn onward<'p>(
    plan: &'p Plan,
    (at, place): Stop<'p>,
    sni: Option<&str>,
) -> Vec<(Share<'p>, Stop<'p>)> {
    let GatewayPlan { listeners, clients, .. } = &plan.gateways;
    let rule = listeners.get(at).and_then(|listener| listener.rules.get(place));
    let route = rule.and_then(|rule| rule.route.as_ref());
    let legs = route.and_then(|route| Some((route, plan.routes.get(route)?)));
    let ip = at.ip();
    let own = Client { addresses: std::slice::from_ref(&ip), ..Client::default() };
    let client = clients.get(&ip).map_or(own, |known| known.as_client(&ip));
    let shares = legs.into_iter().flat_map(|(route, legs)| shares(plan, route, legs));
    let ends = shares.filter(|share| share.weight > 0).flat_map(|share| {
        let endpoints = share.destination.endpoints_at(true).iter();
        endpoints.map(move |endpoint| (share, endpoint.address))
    });
    ends.filter_map(|(share, address)| {
        let (to, listener) = listeners.get_key_value(&address)?;
        Some((share, (to, listener.matching(&Incoming { client, sni }, to.ip())?)))
    })
    .collect()
}

/// From which rules to which, by which shares, connections that ask for this server name go
/// round by way of one.
fn round<'f>(
    facts: &'f Facts<'_>,
    start: Stop<'f>,
    sni: Option<&str>,
) -> Vec<(Stop<'f>, Share<'f>, Stop<'f>)> {
    let (mut queue, mut seen, mut hops) = (vec![start], BTreeSet::from([start]), Vec::new());
    let listener = facts.examined.plan.gateways.listeners.get(start.0);
    let owner = listener.map_or("", |listener| &listener.gateway.namespace);
    while let Some(stop) = queue.pop().filter(|_| facts.spend(owner, 1)) {
        for (share, next) in onward(&facts.examined.plan, stop, sni) {
            hops.push((stop, share, next));
            queue.extend(seen.insert(next).then_some(next));
        }
    }
    let mut leading = BTreeSet::from([start]);
    while let Some((stop, ..)) =
        hops.iter().find(|(stop, _, next)| leading.contains(next) && !leading.contains(stop))
    {
        leading.insert(*stop);
    }
    hops.retain(|(.., next)| leading.contains(next));
    hops
}

fn workloads(
    facts: &Facts<'_>,
    selector: &Labels,
    gateway: &Gateway,
    services: &HashMap<&str, Vec<&Service>>,
    report: &mut Report<'_>,
) {
    let pods = facts.pods().selected(selector);
    if pods.is_empty() {
        // On a plain machine a gateway is a WorkloadEntry and needs no Service.
        if !facts.entries().any(selector) {
            let wanted: Vec<String> = selector.iter().map(|(k, v)| format!("{k}: {v}")).collect();
            report.add(
                "spec.selector",
                Diagnostic::new(
                    &references::UNKNOWN_SELECTOR,
                    if wanted.is_empty() {
                        "there is no workload that could serve the Gateway".to_owned()
                    } else {
                        format!("no workload has the labels {}", wanted.join(", "))
                    },
                )
                .help("a Pod, or on a plain machine a WorkloadEntry, with these labels serves it"),
            );
        }
        return;
    }
    let mut ports = BTreeSet::new();
    for (namespace, labels) in &pods {
        for service in services.get(&**namespace).into_iter().flatten() {
            // Istio counts a Service without selector as selecting everything.
            if service.selector.iter().all(|(key, value)| labels.get(key) == Some(value)) {
                // A server names the port of the Service, or the one that its workloads
                // listen on.
                for port in service.ports.iter().filter(|port| port.protocol == "TCP") {
                    ports.insert(port.port);
                    if let TargetPort::Number(target @ 1..) = port.target_port {
                        ports.insert(target);
                    }
                }
            }
        }
    }
    for (i, server) in gateway.servers.iter().enumerate() {
        // Port 0 is that of a unix socket: no Service leads there.
        if server.port == 0 || ports.contains(&server.port) {
            continue;
        }
        let known: Vec<String> = ports.iter().map(u16::to_string).collect();
        report.add(
            format!("spec.servers[{i}].port.number"),
            Diagnostic::new(
                &references::GATEWAY_PORT_NOT_ON_SERVICE,
                format!(
                    "no Service of the gateway's workloads has port {}{}",
                    server.port,
                    if known.is_empty() {
                        String::new()
                    } else {
                        format!(", they have {}", known.join(", "))
                    }
                ),
            )
            .help("write the port of the Service, or its targetPort"),
        );
    }
}

fn conflicts(
    facts: &Facts<'_>,
    servers: &Servers<'_>,
    selector: &Labels,
    object: &Object,
    gateway: &Gateway,
    report: &mut Report<'_>,
) {
    let own = object.reference().to_string();
    for (i, server) in gateway.servers.iter().enumerate() {
        let Some(others) = servers.get(&(selector, server.port)) else { continue };
        // At different addresses neither takes anything from the other.
        let others: BTreeMap<_, _> = others
            .iter()
            .filter(|(name, other)| **name != own && binds_meet(server, other))
            .collect();
        let theirs: usize = others.values().map(|other| other.hosts.len()).sum();
        if !facts.spend(&object.meta.namespace, server.hosts.len().saturating_mul(theirs)) {
            return;
        }
        let conflicting: Vec<_> = others
            .iter()
            .filter(|(_, other)| {
                // Istio's analysis compares `bind` as it is written.
                server.bind == other.bind
                    && server.hosts.iter().any(|a| other.hosts.iter().any(|b| hosts_match(a, b)))
            })
            .take(10)
            .collect();
        if !conflicting.is_empty() {
            let names: Vec<&str> = conflicting.iter().map(|(name, _)| name.as_str()).collect();
            let passes_on = |server: &Server| mode(server) == Mode::Sni;
            let shared = passes_on(server) && conflicting.iter().all(|(_, other)| passes_on(other));
            report.add(
                format!("spec.servers[{i}]"),
                Diagnostic::new(
                    &references::GATEWAY_CONFLICT,
                    format!(
                        "port {} with these hosts is served by {} too, with the same selector: \
                         {}",
                        server.port,
                        names.join(", "),
                        if shared {
                            "they share the port, and the older one's rules come first"
                        } else {
                            "the older one keeps the port"
                        }
                    ),
                ),
            );
        } else if let Some(other) = others.keys().next()
            && mode(server) == Mode::Tcp
        {
            report.add(
                format!("spec.servers[{i}].port.number"),
                Diagnostic::new(
                    &differences::GATEWAY_PORT_TAKEN,
                    format!(
                        "{other} has a server on port {} too, with the same selector: the older \
                         one keeps the port, whatever the hosts are",
                        server.port
                    ),
                )
                .help("use another port"),
            );
        } else if mode(server) == Mode::Tcp
            && let Some(other) =
                rival(facts, servers, selector, server, (&object.meta.namespace, &own))
        {
            report.add(
                format!("spec.servers[{i}].port.number"),
                Diagnostic::new(
                    &differences::GATEWAY_PORT_TAKEN,
                    format!(
                        "{other} has a server on port {} too, and a workload that both select: \
                         the older one keeps the port there, whatever the hosts are",
                        server.port
                    ),
                )
                .help("use another port, or selectors that have no workload in common"),
            );
        }
        let first = gateway.servers.iter().take(i).position(|first| {
            first.port == server.port
                && [first, server].map(mode) == [Mode::Tcp, Mode::Tcp]
                && binds_meet(first, server)
        });
        if let Some(first) = first {
            let theirs = gateway.servers.get(first).map_or(&[][..], |first| &first.hosts);
            report.add(
                format!("spec.servers[{i}].port.number"),
                Diagnostic::new(
                    &differences::HOSTS_SHARE_GATEWAY_PORT,
                    format!(
                        "{} and {} share port {}, on which nothing tells which is meant: \
                         servers[{first}] has the port, and this one is not served",
                        server.hosts.join(", "),
                        theirs.join(", "),
                        server.port
                    ),
                )
                .help(A_PORT_EACH),
            );
        }
        l7_server(facts, i, server, report);
    }
}

/// A Gateway with another selector and the same port, where some workload is
/// selected by both.
fn rival(
    facts: &Facts<'_>,
    servers: &Servers<'_>,
    selector: &Labels,
    server: &Server,
    (namespace, own): (&str, &str),
) -> Option<String> {
    let mut rivals: Vec<&String> = Vec::new();
    for ((other, at), gateways) in servers {
        if *at != server.port || *other == selector || !facts.spend(namespace, 1) {
            continue;
        }
        if have_a_workload(facts, selector, other) {
            let there =
                |(name, other): &(&String, &&Server)| *name != own && binds_meet(server, other);
            rivals.extend(gateways.iter().filter(there).map(|(name, _)| name));
        }
    }
    // The same one whatever the order of the table.
    rivals.into_iter().min().cloned()
}

/// Whether a workload has the labels of both selectors.
fn have_a_workload(facts: &Facts<'_>, a: &Labels, b: &Labels) -> bool {
    let mut both = a.clone();
    both.extend(b);
    let agree = a.iter().all(|(key, value)| both.get(key) == Some(value));
    agree && (!facts.pods().selected(&both).is_empty() || facts.entries().any(&both))
}

/// Whether both Gateways are, or may come to be, on one workload.
pub(super) fn both_select(facts: &Facts<'_>, a: &Gateway, b: &Gateway) -> bool {
    let none = Labels::new();
    let [a, b] = [a, b].map(|gateway| gateway.selector.as_ref().unwrap_or(&none));
    a == b || have_a_workload(facts, a, b)
}

fn is_unix(server: &Server) -> bool {
    server.bind.as_ref().is_some_and(|bind| bind.starts_with("unix://"))
}

/// Whether two servers listen at one address of a workload that has them all.
pub(super) fn binds_meet(a: &Server, b: &Server) -> bool {
    let bind = |server: &Server| -> Option<String> {
        let bind = server.bind.as_deref().filter(|bind| !bind.is_empty())?;
        let everywhere = bind.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified());
        (!everywhere).then(|| bind.to_owned())
    };
    match (bind(a), bind(b)) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    }
}

/// Which rules a server uses, as they are written in a VirtualService; `None`
/// when it cannot be served here.
pub(super) fn uses(server: &Server) -> Option<&'static str> {
    match mode(server) {
        _ if is_unix(server) => None,
        Mode::Tcp => Some("tcp"),
        Mode::Sni => Some("tls"),
        Mode::Refuse(_) => None,
    }
}

/// Servers that a relay of bytes cannot be.
fn l7_server(facts: &Facts<'_>, index: usize, server: &Server, report: &mut Report<'_>) {
    let Mode::Refuse(why) = mode(server) else { return };
    let gateway = format!("{}/{}", report.object.namespace, report.object.name);
    let bound = |rule: &crate::rules::Rule| rule.may_match_at(&gateway);
    let by_name = facts.book.sets().any(|set| set.tls.iter().any(bound));
    report.add(
        format!("spec.servers[{index}].port.protocol"),
        Diagnostic::new(
            &l7::L7_SERVER,
            format!("{why}: connections to port {} are refused here", server.port),
        )
        .help(match by_name {
            true => {
                "write protocol: TLS and tls: {mode: PASSTHROUGH} at the server: the tls rules that \
                 are bound to the Gateway are for that; or leave it to a gateway that speaks the \
                 protocol"
            }
            false => {
                "declare the port TCP, without tls:, or leave it to a gateway that speaks the \
                 protocol"
            }
        }),
    );
}
