//! Which servers a gateway workload serves, on which ports, with which rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::destinations::{Destinations, Family};
use super::rules::{Block, Rule, RuleBook, Sheet, in_order, is_everything};
use crate::client::{Asker, Client, contains};
use crate::model::{
    Gateway, Kind, Labels, Object, Server, ServerTls, Service, Spec, TargetPort,
    speaks_proxy_protocol,
};
use crate::names::hosts_match;
use crate::plan::Verdict;
use crate::plan::gateway::{
    Conditions, Dropped, GatewayPlan, GatewayRule, KnownClient, Listener, Mode,
};
use crate::registry::{Registry, Workload};
use crate::world::World;

/// A server of a Gateway, at one port of a workload.
#[derive(Clone, Debug)]
pub(crate) struct Serving<'w> {
    pub gateway: &'w Arc<Object>,
    pub index: usize,
    pub server: &'w Server,
    /// Where it listens.
    pub listen: u16,
    pub mode: Mode,
}

/// A server that does not get its port.
pub(crate) struct Outdone<'w> {
    pub gateway: &'w Arc<Object>,
    pub index: usize,
    pub reason: String,
}

/// The Gateways, the oldest first.
pub(crate) fn by_age(world: &World) -> Vec<(&Arc<Object>, &Gateway)> {
    let mut gateways: Vec<_> = world.gateways().collect();
    gateways.sort_by(|(a, _), (b, _)| {
        (a.meta.created, &a.meta.name, &a.meta.namespace).cmp(&(
            b.meta.created,
            &b.meta.name,
            &b.meta.namespace,
        ))
    });
    gateways
}

/// Whether a Gateway is for a workload. Without selector it is for every
/// gateway workload.
pub(crate) fn selects(gateway: &Gateway, labels: &Labels, is_gateway: bool) -> bool {
    match gateway.selector.as_ref().filter(|selector| !selector.is_empty()) {
        Some(selector) => contains(labels, selector),
        None => is_gateway,
    }
}

/// What is done with the connections of a server.
fn mode(server: &Server) -> Mode {
    let refuse = |why: String| Mode::Refuse(why);
    match (server.protocol.as_str(), server.tls) {
        ("TCP" | "MONGO" | "REDIS" | "MYSQL", None) => Mode::Tcp,
        ("TLS" | "HTTPS", Some(ServerTls::Passthrough)) => Mode::Sni,
        (protocol, Some(ServerTls::AutoPassthrough)) => refuse(format!(
            "a {protocol} server with tls mode AUTO_PASSTHROUGH takes its destinations from the \
             server names that Istio's gateways write"
        )),
        (protocol, Some(tls)) => {
            let tls = format!("{tls:?}").to_ascii_uppercase();
            refuse(format!("a {protocol} server with tls mode {tls} would have to end TLS itself"))
        }
        (protocol @ ("TLS" | "HTTPS"), None) => refuse(format!("a {protocol} server needs tls")),
        (protocol, None) => refuse(format!("a {protocol} server would have to speak {protocol}")),
    }
}

/// The ports on which a workload listens for a server: where a Service that
/// selects it has the server's port, the port that the Service leads to.
fn listen_ports(world: &World, workload: &Workload, number: u16) -> BTreeSet<u16> {
    if let Some(stands_for) = &workload.stands_for {
        return stands_for.ports.get(&number).copied().into_iter().collect();
    }
    let mut ports: BTreeSet<u16> = services_of(world, workload)
        .filter_map(|(_, service)| leads_to(world, workload, service, number))
        .collect();
    if ports.is_empty() {
        ports.insert(number);
    }
    ports
}

/// The Services that select a workload.
pub(crate) fn services_of<'w>(
    world: &'w World,
    workload: &Workload,
) -> impl Iterator<Item = (&'w Arc<Object>, &'w Service)> {
    world.services().filter(|(object, service)| {
        object.meta.namespace == workload.object.namespace
            && !service.selector.is_empty()
            && contains(&workload.labels, &service.selector)
    })
}

/// The port of a workload that a Service's port leads to.
pub(crate) fn leads_to(
    world: &World,
    workload: &Workload,
    service: &Service,
    number: u16,
) -> Option<u16> {
    let port = service.ports.iter().find(|port| port.port == number)?;
    match &port.target_port {
        TargetPort::Number(0) => Some(port.port),
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(wanted) => {
            named_port(world, &workload.object.namespace, &workload.object.name, wanted)
        }
    }
}

fn named_port(world: &World, namespace: &str, name: &str, wanted: &str) -> Option<u16> {
    if let Some(object) = world.find(Kind::WorkloadEntry, namespace, name)
        && let Spec::WorkloadEntry(entry) = &object.spec
    {
        return entry.ports.get(wanted).copied();
    }
    let Spec::Pod(pod) = &world.find(Kind::Pod, namespace, name)?.spec else { return None };
    pod.ports.iter().find(|(name, _)| name == wanted).map(|(_, port)| *port)
}

/// The servers that a workload serves at an address, by port: the oldest
/// Gateway keeps a port; only passthrough TLS servers share one.
pub(crate) fn servers<'w>(
    world: &'w World,
    workload: &Workload,
    address: Option<IpAddr>,
) -> (BTreeMap<u16, Vec<Serving<'w>>>, Vec<Outdone<'w>>) {
    let mut serving: BTreeMap<u16, Vec<Serving<'w>>> = BTreeMap::new();
    let mut outdone = Vec::new();
    for (gateway, spec) in by_age(world) {
        if !selects(spec, &workload.labels, workload.gateway) {
            continue;
        }
        for (index, server) in spec.servers.iter().enumerate() {
            // `bind` is about the address that clients dial.
            let dialled = workload.stands_for.as_ref().map(|other| other.address);
            if !binds(server, dialled.or(address)) {
                continue;
            }
            let mode = mode(server);
            for listen in listen_ports(world, workload, server.port) {
                let there = serving.entry(listen).or_default();
                let shared = |other: &Serving<'_>| other.mode == Mode::Sni && mode == Mode::Sni;
                match there.iter().find(|other| !shared(other)) {
                    Some(other) => outdone.push(Outdone {
                        gateway,
                        index,
                        reason: format!(
                            "port {listen} of {} belongs to {}",
                            workload.object,
                            other.gateway.reference()
                        ),
                    }),
                    None => {
                        let mode = mode.clone();
                        there.push(Serving { gateway, index, server, listen, mode });
                    }
                }
            }
        }
    }
    serving.retain(|_, servers| !servers.is_empty());
    (serving, outdone)
}

/// Servers whose `bind` is an address of none of the workloads here that serve
/// their Gateway.
pub(crate) fn bound_elsewhere(world: &World, registry: &Registry) -> Vec<Dropped> {
    let workloads: Vec<&Workload> =
        registry.workloads.all().iter().filter(|workload| workload.gateway).collect();
    let mut dropped = Vec::new();
    for (gateway, spec) in by_age(world) {
        let serving: Vec<&&Workload> =
            workloads.iter().filter(|one| selects(spec, &one.labels, one.gateway)).collect();
        for (index, server) in spec.servers.iter().enumerate() {
            let reached = |one: &&&Workload| {
                let dialled = one.stands_for.iter().map(|other| &other.address);
                one.addresses.iter().chain(dialled).any(|address| binds(server, Some(*address)))
            };
            let Some(first) = serving.first().filter(|_| !serving.iter().any(reached)) else {
                continue;
            };
            let bind = server.bind.as_deref().unwrap_or_default();
            let addresses: Vec<String> =
                serving.iter().flat_map(|one| &one.addresses).map(IpAddr::to_string).collect();
            dropped.push(Dropped {
                gateway: gateway.reference(),
                server: number(index),
                reason: format!(
                    "bind {bind} is no address of {}{}, which has {}",
                    first.object,
                    if serving.len() > 1 { " or another workload of the Gateway" } else { "" },
                    if addresses.is_empty() { "none".to_owned() } else { addresses.join(", ") }
                ),
            });
        }
    }
    dropped
}

/// Whether a Gateway has a server for a port of a workload with these labels that
/// is relayed, and not refused.
pub fn relays(gateway: &Gateway, labels: &Labels, port: u16) -> bool {
    let relayed = |server: &Server| !matches!(mode(server), Mode::Refuse(_));
    selects(gateway, labels, true)
        && gateway.servers.iter().any(|server| server.port == port && relayed(server))
}

/// Whether a server listens on an address (on any, when none is asked for).
fn binds(server: &Server, address: Option<IpAddr>) -> bool {
    let Some(bind) = server.bind.as_deref().filter(|bind| !bind.is_empty()) else { return true };
    match bind.parse::<IpAddr>() {
        Ok(bind) if bind.is_unspecified() => true,
        Ok(bind) => address.is_none_or(|address| address == bind),
        // A unix socket: nothing that a TCP connection could reach.
        Err(_) => false,
    }
}

/// Whether one of the sheet's hosts matches one of the server's, each of which
/// may be limited to rules of a namespace.
pub(crate) fn eligible(sheet: &Sheet<'_>, gateway: &Object, server: &Server) -> bool {
    server.hosts.iter().any(|host| {
        let (namespace, host) = host.split_once('/').unwrap_or(("*", host));
        let of_namespace = match namespace {
            "*" => true,
            "." => sheet.namespace() == &*gateway.meta.namespace,
            name => sheet.namespace() == name,
        };
        of_namespace && sheet.hosts.iter().any(|wanted| hosts_match(host, wanted))
    })
}

/// The rules of a sheet that a server of this mode can use.
pub(crate) fn rules_for<'s, 'w>(sheet: &'s Sheet<'w>, mode: &Mode) -> &'s [Rule<'w>] {
    match mode {
        Mode::Tcp => &sheet.tcp,
        Mode::Sni => &sheet.tls,
        Mode::Refuse(_) => &[],
    }
}

/// As the gateway workload, for what it sees.
pub(crate) fn as_client(workload: &Workload) -> Client<'_> {
    Client {
        namespace: Some(&workload.object.namespace),
        labels: Some(&workload.labels),
        addresses: &workload.addresses,
        bypassed: false,
    }
}

/// The full name that rules are bound to.
pub(crate) fn full_name(gateway: &Object) -> String {
    format!("{}/{}", gateway.meta.namespace, gateway.meta.name)
}

/// Compiles what this node serves.
pub(super) fn compile<'b: 'q, 'q>(
    world: &'q World,
    registry: &'q Registry,
    book: &'b RuleBook<'q>,
    destinations: &mut Destinations<'q>,
) -> GatewayPlan {
    let mut plan = GatewayPlan::default();
    for workload in registry.workloads.all().iter().filter(|workload| workload.gateway) {
        for &address in &workload.addresses {
            let (serving, outdone) = servers(world, workload, Some(address));
            for Outdone { gateway, index, reason } in outdone {
                plan.dropped.push(Dropped {
                    gateway: gateway.reference(),
                    server: number(index),
                    reason,
                });
            }
            for (port, servers) in serving {
                let at = SocketAddr::new(address, port);
                let who = Asker::new(as_client(workload));
                let Some(listener) = listener(at, workload, &servers, book, &who, destinations)
                else {
                    continue;
                };
                if let Mode::Refuse(reason) = &listener.mode {
                    plan.dropped.push(Dropped {
                        gateway: listener.gateway.clone(),
                        server: listener.server,
                        reason: reason.clone(),
                    });
                }
                // The oldest workload of two with one address, in their order.
                plan.listeners.entry(at).or_insert(listener);
            }
        }
    }
    plan.dropped.extend(bound_elsewhere(world, registry));
    plan.dropped.dedup();
    let asks = plan
        .listeners
        .values()
        .flat_map(|listener| &listener.rules)
        .flat_map(|rule| &rule.conditions)
        .any(Conditions::ask_client);
    if asks {
        plan.clients = clients(registry);
    }
    plan
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// The workloads by address, those left out that share one.
fn clients(registry: &Registry) -> BTreeMap<IpAddr, KnownClient> {
    let mut having: BTreeMap<IpAddr, Option<KnownClient>> = BTreeMap::new();
    // What listens for another address has that of its node, which is not its own.
    let all = registry.workloads.all().iter().filter(|workload| workload.stands_for.is_none());
    for workload in all {
        for address in &workload.addresses {
            let client =
                KnownClient { workload: workload.object.clone(), labels: workload.labels.clone() };
            having.entry(*address).and_modify(|other| *other = None).or_insert(Some(client));
        }
    }
    having.into_iter().filter_map(|(address, client)| Some((address, client?))).collect()
}

fn listener<'b: 'q, 'q>(
    at: SocketAddr,
    workload: &Workload,
    servers: &[Serving<'q>],
    book: &'b RuleBook<'q>,
    who: &Asker<'_, 'q>,
    destinations: &mut Destinations<'q>,
) -> Option<Listener> {
    let first = servers.first()?;
    let mut listener = Listener {
        workload: workload.object.clone(),
        gateway: first.gateway.reference(),
        server: number(first.index),
        port: first.server.port,
        dialled: workload.stands_for.as_ref().map(|other| other.address),
        mode: first.mode.clone(),
        rules: Vec::new(),
    };
    for serving in servers {
        let name = full_name(serving.gateway);
        let proxy_protocol = speaks_proxy_protocol(&serving.gateway.meta.annotations);
        let sheets = book.for_gateway(&name);
        for sheet in in_order(&sheets, who).into_iter().filter_map(|index| sheets.get(index)) {
            if !eligible(sheet, serving.gateway, serving.server) {
                continue;
            }
            for rule in rules_for(sheet, &serving.mode) {
                let Some(conditions) = left_over(rule, &name, serving.server.port) else {
                    continue;
                };
                let family = Family::Preferred { v6: at.is_ipv6() };
                let (route, verdict) =
                    destinations.rule(who, sheet, rule, serving.server.port, family);
                let back = destinations.leads_back(&route);
                let always = conditions.is_empty();
                listener.rules.push(GatewayRule {
                    rule: rule.id.clone(),
                    conditions,
                    // The original destination of a connection to a gateway is
                    // the gateway itself: nowhere to go.
                    route: match verdict {
                        Verdict::Route(route) if !back => Some(route),
                        Verdict::Route(_) | Verdict::Pass | Verdict::Refuse => None,
                    },
                    proxy_protocol,
                });
                // Below a rule that always matches nothing is ever reached.
                if always {
                    return Some(listener);
                }
            }
        }
    }
    Some(listener)
}

/// What is left of a rule's blocks at this gateway and port; `None` when no
/// block can match here, empty when the rule always does.
fn left_over(rule: &Rule<'_>, gateway: &str, port: u16) -> Option<Vec<Conditions>> {
    if rule.blocks.is_empty() {
        return Some(Vec::new());
    }
    let possible = rule.blocks.iter().filter(|block| {
        (block.gateways.is_empty() || block.gateways.iter().any(|name| name == gateway))
            && block.l4.port.is_none_or(|wanted| wanted == 0 || wanted == port)
    });
    let conditions: Vec<Conditions> = possible.map(conditions).collect();
    if conditions.is_empty() {
        return None;
    }
    if conditions.iter().any(Conditions::are_none) {
        return Some(Vec::new());
    }
    Some(conditions)
}

fn conditions(block: &Block<'_>) -> Conditions {
    let l4 = block.l4;
    let everywhere = l4.destination_subnets.iter().any(is_everything);
    Conditions {
        destination_subnets: if everywhere { Vec::new() } else { l4.destination_subnets.clone() },
        source_namespace: l4.source_namespace.clone(),
        source_labels: l4.source_labels.clone(),
        source_subnet: l4.source_subnet,
        sni_hosts: block.sni.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::compile::compile;
    use crate::documents;
    use crate::plan::gateway::Incoming;
    use crate::world::{Settings, World};

    const DOCUMENTS: &str = "
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata:
  name: stand-in
  annotations: {redirector.io/gateway: 'true', redirector.io/gateway-for: 10.96.1.1 19000=15400}
spec: {address: 192.0.2.1, labels: {istio: edge}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: edge}
  servers:
    - {port: {number: 19000, name: tcp, protocol: TCP}, hosts: ['*']}
    - {port: {number: 19001, name: more, protocol: TCP}, hosts: ['*']}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec:
  hosts: ['*']
  gateways: [edge]
  tcp:
    - match: [{port: 19000, destinationSubnets: [10.96.1.1]}]
      route: [{destination: {host: nowhere.example.com}}]
";

    #[test]
    fn a_stand_in_listens_on_its_own_ports_and_rules_see_what_was_dialled() {
        let reading = documents::read(None, DOCUMENTS);
        let objects = reading.objects.iter().filter_map(|one| one.object.as_deref().cloned());
        let world = World::with_objects(Settings::default(), objects);
        let plan = compile(&world).plan.gateways;
        let listens: Vec<String> = plan.listeners.keys().map(SocketAddr::to_string).collect();
        assert_eq!(listens, ["192.0.2.1:15400"]);
        let listener = plan.listeners.values().next().expect("one");
        assert_eq!(listener.port, 19000);
        let incoming = Incoming { client: Client::default(), sni: None };
        let there = "192.0.2.1".parse().expect("an address");
        assert_eq!(listener.matching(&incoming, there), Some(0));
    }
}
