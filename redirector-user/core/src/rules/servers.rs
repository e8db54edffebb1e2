//! Servers of Gateways: which workload serves which, on which ports, with which
//! rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::book::{Rule, RuleBook, RuleSet, in_order};
use super::walk::Witness;
use crate::client::{Asker, Client, contains};
use crate::model::{
    Accepting, Gateway, Kind, Labels, Object, ObjectRef, Server, ServerTls, Service, TargetPort,
};
use crate::names::hosts_match;
use crate::registry::Workload;
use crate::world::World;

/// What is done with the connections of a server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Mode {
    /// Relays them as they are.
    Tcp,
    /// Reads the server name of the ClientHello first, and relays without
    /// touching a byte.
    Sni,
    /// Refuses them, for this reason: the server asks for what is not done here.
    Refuse(String),
}

/// A server of a Gateway, at one port of a workload.
#[derive(Clone, Debug)]
pub(crate) struct Serving {
    gateway: Arc<Object>,
    /// Its place in `servers`.
    pub index: usize,
    /// Where it listens.
    pub listen: u16,
    pub mode: Mode,
    /// The server's `port.number`.
    pub port: u16,
    /// What holds for those who connect there.
    pub accepting: Accepting,
}

/// A server that is not served: another has its port, or it listens nowhere.
pub(crate) struct Outdone {
    pub gateway: ObjectRef,
    /// Its place in `servers`.
    pub index: usize,
    pub reason: String,
}

impl Serving {
    /// Its Gateway.
    pub fn gateway(&self) -> &Object {
        &self.gateway
    }

    /// The full name that rules are bound to.
    pub fn name(&self) -> String {
        format!("{}/{}", self.gateway.meta.namespace, self.gateway.meta.name)
    }

    /// As written: names with an optional `namespace/` before them.
    pub fn hosts(&self) -> &[String] {
        let server = self.gateway.spec.gateway().and_then(|spec| spec.servers.get(self.index));
        server.map_or(&[], |server| &server.hosts)
    }

    /// Whether one of a set's hosts matches one of the server's, each of which
    /// may be limited to rules of a namespace.
    fn takes(&self, set: &RuleSet) -> bool {
        self.hosts().iter().any(|host| {
            let (namespace, host) = host.split_once('/').unwrap_or(("*", host));
            let of_namespace = match namespace {
                "*" => true,
                "." => set.namespace() == &*self.gateway.meta.namespace,
                name => set.namespace() == name,
            };
            of_namespace && set.hosts.iter().any(|wanted| hosts_match(host, wanted))
        })
    }

    /// The rules of a set that a server of this mode can use.
    fn rules_of<'s>(&self, set: &'s RuleSet) -> &'s [Rule] {
        match self.mode {
            Mode::Tcp => &set.tcp,
            Mode::Sni => &set.tls,
            Mode::Refuse(_) => &[],
        }
    }

    /// Shows all rules that connections to the server can meet to `look`, in
    /// their order, until it has enough. Those that the gateway workload, `who`,
    /// does not see, or that are for other hosts, are for the witness alone.
    pub fn rules<'q, W: Witness<'q>>(
        &self,
        book: &'q RuleBook,
        who: &Asker<'_, 'q>,
        witness: &mut W,
        mut look: impl FnMut(&'q RuleSet, &'q Rule, &mut W) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let sets = book.for_gateway(&self.name());
        let order = in_order(&sets, who);
        for &index in &order {
            let Some(&set) = sets.get(index) else { continue };
            let takes = self.takes(set);
            for rule in self.rules_of(set) {
                if takes {
                    look(set, rule, witness)?;
                    continue;
                }
                witness.compared(set, rule, || {
                    let (theirs, ours) = (set.hosts.join(", "), self.hosts().join(", "));
                    Err(format!("hosts: none of {theirs} is among the server's hosts {ours}"))
                });
            }
        }
        for (_, set) in sets.iter().enumerate().filter(|(index, _)| !order.contains(index)) {
            for rule in self.rules_of(set) {
                witness.compared(set, rule, || {
                    let there = who.client().namespace.unwrap_or_default();
                    let export = set.export.describe();
                    Err(format!("exportTo: it is {export}, and the gateway runs in {there}"))
                });
            }
        }
        ControlFlow::Continue(())
    }
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
pub(crate) fn mode(server: &Server) -> Mode {
    let refuse = |why: String| Mode::Refuse(why);
    match (server.protocol.as_str(), server.tls) {
        ("TCP" | "MONGO" | "REDIS" | "MYSQL", None) => Mode::Tcp,
        ("TLS" | "HTTPS", Some(ServerTls::Passthrough)) => Mode::Sni,
        (protocol, Some(ServerTls::AutoPassthrough)) => refuse(format!(
            "a {protocol} server with tls mode AUTO_PASSTHROUGH takes its destinations from the \
             server names that Istio's gateways write"
        )),
        (protocol, Some(tls)) => refuse(format!(
            "a {protocol} server with tls mode {} would have to end TLS itself",
            tls.as_str()
        )),
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

/// What holds for those who connect to a workload at a server: what its Gateway says; and where
/// that does not say who is believed, the Services that lead to where it listens do.
fn accepting(
    world: &World,
    workload: &Workload,
    gateway: &Object,
    (port, listen): (u16, u16),
) -> Accepting {
    let mut accepting = Accepting::of(&gateway.meta.annotations);
    if accepting.announced_by.is_empty() {
        let leading = services_of(world, workload)
            .filter(|(_, service)| leads_there(world, workload, service, (port, listen)));
        let said =
            leading.flat_map(|(object, _)| Accepting::of(&object.meta.annotations).announced_by);
        accepting.announced_by = said.collect();
        accepting.announced_by.sort_unstable();
        accepting.announced_by.dedup();
    }
    accepting
}

/// Whether a Service that selects a workload leads to where that listens for a server.
pub(crate) fn leads_there(
    world: &World,
    workload: &Workload,
    service: &Service,
    (port, listen): (u16, u16),
) -> bool {
    service.ports.iter().any(|one| match &workload.stands_for {
        // What dials that address, or a port of the node.
        Some(other) => {
            let there = service.addresses().any(|address| address == other.address);
            one.port == port && (there || one.node_port == Some(listen))
        }
        None => leads_to(world, workload, service, one.port) == Some(listen),
    })
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
    if let Some(object) = world.find(Kind::WorkloadEntry, namespace, name) {
        return object.spec.workload_entry()?.ports.get(wanted).copied();
    }
    let pod = world.find(Kind::Pod, namespace, name)?.spec.pod()?;
    pod.ports.iter().find(|(name, _)| name == wanted).map(|(_, port)| *port)
}

/// The servers that a workload serves at an address, by port: the oldest
/// Gateway keeps a port; only passthrough TLS servers share one.
pub(crate) fn servers(
    world: &World,
    workload: &Workload,
    address: Option<IpAddr>,
) -> (BTreeMap<u16, Vec<Serving>>, Vec<Outdone>) {
    let mut serving: BTreeMap<u16, Vec<Serving>> = BTreeMap::new();
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
                let shared = |other: &Serving| other.mode == Mode::Sni && mode == Mode::Sni;
                match there.iter().find(|other| !shared(other)) {
                    Some(other) => outdone.push(Outdone {
                        gateway: gateway.reference(),
                        index,
                        reason: format!(
                            "port {listen} of {} belongs to servers[{}] of {}",
                            workload.object,
                            other.index,
                            other.gateway.reference()
                        ),
                    }),
                    None => {
                        let (mode, port) = (mode.clone(), server.port);
                        let accepting = accepting(world, workload, gateway, (port, listen));
                        let gateway = gateway.clone();
                        there.push(Serving { gateway, index, listen, mode, port, accepting });
                    }
                }
            }
        }
    }
    serving.retain(|_, servers| !servers.is_empty());
    (serving, outdone)
}

/// Servers whose `bind` is an address of none of these workloads, of which some serve their
/// Gateway.
pub(crate) fn bound_elsewhere<'w>(
    world: &World,
    workloads: impl Iterator<Item = &'w Workload>,
) -> Vec<Outdone> {
    let workloads: Vec<&Workload> = workloads.collect();
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
            dropped.push(Outdone {
                gateway: gateway.reference(),
                index,
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

/// As the gateway workload, for what it sees.
pub(crate) fn as_client(workload: &Workload) -> Client<'_> {
    Client {
        namespace: Some(&workload.object.namespace),
        labels: Some(&workload.labels),
        addresses: &workload.addresses,
        bypassed: false,
    }
}
