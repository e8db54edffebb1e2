//! Connections that arrive at a gateway workload, plainly.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use redirector_core::model::{
    L4Match, Labels, Object, Server, ServerTls, Spec, TargetPort, WorkloadEntry,
};
use redirector_core::names::{complete_host, hosts_match};
use redirector_core::world::World;

use super::routes::{Dialled, take};
use super::services::{Service, written_labels};
use super::{At, Connection, Outcome, Rule, age, bound, holds};

/// What a server does with connections.
#[derive(Clone, Copy, PartialEq)]
enum Does {
    /// It relays them.
    Relay,
    /// It relays them by their server name.
    ByName,
    /// It is none that can be served here.
    Refuse,
}

pub(super) fn decide(
    world: &World,
    services: &[Service<'_>],
    workload: &Object,
    from: &Connection,
    to: SocketAddr,
    sni: Option<&str>,
) -> Outcome {
    let Spec::WorkloadEntry(entry) = &workload.spec else { return Outcome::refuse() };
    let labels = written_labels(workload, entry);
    let viewer = Connection {
        namespace: Some(workload.meta.namespace.to_string()),
        name: Some(workload.meta.name.to_string()),
        labels: labels.clone(),
        addresses: vec![to.ip()],
    };
    let domain = &world.settings.cluster_domain;
    for (gateway, server, does) in serving(world, workload, entry, &labels, to) {
        if does == Does::Refuse {
            break;
        }
        let name = format!("{}/{}", gateway.meta.namespace, gateway.meta.name);
        let at = At { gateway: &name, ip: to.ip(), port: server.port };
        for (object, spec) in bound(world, &viewer, &name) {
            let home = &*object.meta.namespace;
            let fits = server.hosts.iter().any(|wanted| {
                let (namespace, wanted) = wanted.split_once('/').unwrap_or(("*", wanted));
                let there = match namespace {
                    "*" => true,
                    "." => *home == *gateway.meta.namespace,
                    named => home == named,
                };
                let mut hosts = spec.hosts.iter().map(|host| complete_host(host, home, domain));
                there && hosts.any(|host| hosts_match(wanted, &host))
            });
            if !fits {
                continue;
            }
            let block = |l4: &L4Match| holds(l4, home, from, &at);
            let found =
                match does {
                    Does::ByName => spec.tls.iter().enumerate().find_map(|(index, rule)| {
                        let mut blocks = rule.matches.iter();
                        blocks.any(|one| block(&one.l4) && says(&one.sni_hosts, sni)).then_some(
                            Rule { object, list: "tls", index, route: &rule.route, open: false },
                        )
                    }),
                    _ => spec.tcp.iter().enumerate().find_map(|(index, rule)| {
                        (rule.matches.is_empty() || rule.matches.iter().any(block)).then_some(
                            Rule { object, list: "tcp", index, route: &rule.route, open: false },
                        )
                    }),
                };
            if let Some(rule) = found {
                let dialled = Dialled { to, port: server.port, relayed: true };
                return take(world, services, &viewer, &rule, &dialled);
            }
        }
    }
    Outcome::refuse()
}

/// Whether one of the names that a rule asks for is the one that was said.
fn says(hosts: &[String], sni: Option<&str>) -> bool {
    hosts.is_empty()
        || hosts.iter().any(|host| {
            host == "*"
                || sni.is_some_and(|sni| {
                    hosts_match(&host.to_ascii_lowercase(), &sni.to_ascii_lowercase())
                })
        })
}

/// The servers that have an address and port of a workload: that of the oldest
/// Gateway, and with it others only where all of them go by the server name.
fn serving<'w>(
    world: &'w World,
    workload: &Object,
    entry: &WorkloadEntry,
    labels: &Labels,
    to: SocketAddr,
) -> Vec<(&'w Object, &'w Server, Does)> {
    let carries =
        |wanted: &Labels| wanted.iter().all(|(key, value)| labels.get(key) == Some(value));
    let mut gateways: Vec<_> = world
        .gateways()
        .filter(|(_, gateway)| gateway.selector.as_ref().is_none_or(carries))
        .collect();
    gateways.sort_by_key(|(object, _)| age(object));
    let mut found: Vec<(&Object, &Server, Does)> = Vec::new();
    for (object, gateway) in gateways {
        for server in &gateway.servers {
            let bind = server.bind.as_deref().map(str::parse::<IpAddr>);
            let bound = match bind {
                None => true,
                Some(Ok(bind)) => bind.is_unspecified() || bind == to.ip(),
                Some(Err(_)) => false,
            };
            // A Service of the workload that has the port says where it listens.
            let mut listens = BTreeSet::new();
            for (other, service) in world.services() {
                let selects = other.meta.namespace == workload.meta.namespace
                    && !service.selector.is_empty()
                    && carries(&service.selector);
                let port = service.ports.iter().find(|port| port.port == server.port);
                if let Some(port) = port.filter(|_| selects) {
                    listens.extend(match &port.target_port {
                        TargetPort::Number(0) => Some(port.port),
                        TargetPort::Number(number) => Some(*number),
                        TargetPort::Name(name) => entry.ports.get(name).copied(),
                    });
                }
            }
            if listens.is_empty() {
                listens.insert(server.port);
            }
            if !bound || !listens.contains(&to.port()) {
                continue;
            }
            let does = match (server.protocol.as_str(), server.tls) {
                ("TCP" | "MONGO" | "REDIS" | "MYSQL", None) => Does::Relay,
                ("TLS" | "HTTPS", Some(ServerTls::Passthrough)) => Does::ByName,
                _ => Does::Refuse,
            };
            let by_name = |other: &(_, _, Does)| other.2 == Does::ByName;
            if found.is_empty() || does == Does::ByName && found.iter().all(by_name) {
                found.push((object, server, does));
            }
        }
    }
    found
}
