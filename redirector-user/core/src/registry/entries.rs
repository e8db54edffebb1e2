//! The services of ServiceEntries.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::endpoints::{Backing, LabelsAndLocality, entry_endpoint, entry_place, in_order};
use super::frontends::{self, Owned};
use super::given::{self, is_given};
use super::protocol;
use super::service::{Port, Service, ServiceKind, Socket, Unresolved};
use super::visibility::ExportTo;
use crate::model::annotations;
use crate::model::{EntryPort, Object, Resolution, ServiceEntry, WorkloadEntry};
use crate::validate::subnets;
use crate::world::World;

/// The services of a ServiceEntry: one for each host.
pub(super) fn services(
    world: &World,
    (backing, owned): (&Backing, &Owned),
    object: &Object,
    entry: &ServiceEntry,
    names: &BTreeSet<Arc<str>>,
) -> Vec<Service> {
    let namespace = &object.meta.namespace;
    let found: Vec<Candidate> = candidates(world, backing, namespace, entry, names);
    let export = ExportTo::new(entry.export_to.iter().map(String::as_str), namespace);
    let kind = ServiceKind::Entry(entry.resolution);
    let service = |(place, host): (usize, &String)| {
        let mut found = found.clone();
        let are_the_host = !entry.has_own_endpoints() && resolves(entry);
        if are_the_host {
            // Where clients dial what it resolves to, nothing stands for that.
            let key = (namespace.clone(), host.as_str().into());
            let at_own = world.stand_ins.as_ref().is_some_and(|hosts| hosts.contains(&key));
            let addresses = match at_own {
                true => Vec::new(),
                false => resolve(world, names, host, entry.resolution),
            };
            if addresses.is_empty() {
                let unresolved = names.get(host.as_str()).cloned();
                found.push(Candidate { unresolved, ..Candidate::default() });
            }
            let at = |ip| Candidate { at: Some(ip), ..Candidate::default() };
            found.extend(addresses.into_iter().map(at));
        }
        let name: Arc<str> = host.as_str().into();
        let (learned, former) = frontends::by_host(world, owned, entry, host);
        Service {
            ports: entry.ports.iter().map(|one| port(one, &found, are_the_host)).collect(),
            addresses: frontends::addresses(owned, object, entry, &name),
            by_name: frontends::by_name(entry, host),
            learned,
            former,
            claims_port: entry.addresses.is_empty()
                && object.meta.switches_on(annotations::CLAIM_PORT),
            leads_to_gateway: entry.leads_to_gateway,
            ..Service::new(object, (place, name), export.clone(), kind.clone())
        }
    };
    entry.hosts.iter().enumerate().map(service).collect()
}

/// An endpoint, before its port is known; without address it cannot be used.
#[derive(Clone, Default)]
struct Candidate {
    at: Option<IpAddr>,
    /// It is a unix socket.
    socket: bool,
    /// Its name, when that is not resolved to any address.
    unresolved: Option<Arc<str>>,
    entry: WorkloadEntry,
    place: LabelsAndLocality,
}

pub(super) const fn resolves(entry: &ServiceEntry) -> bool {
    matches!(entry.resolution, Resolution::Dns | Resolution::DnsRoundRobin)
}

/// The endpoints that are written down or selected.
fn candidates(
    world: &World,
    backing: &Backing,
    namespace: &str,
    entry: &ServiceEntry,
    names: &BTreeSet<Arc<str>>,
) -> Vec<Candidate> {
    let mut found = Vec::new();
    if entry.resolution == Resolution::None || entry.resolution == Resolution::DynamicDns {
        return found;
    }
    // WorkloadEntries with the path of a socket are selected under DNS only.
    let mut add =
        |entry: &WorkloadEntry, place: &LabelsAndLocality, resolution: Resolution, own: bool| {
            let addresses = match subnets::address(&entry.address) {
                Some(ip) => vec![ip],
                None if resolution == Resolution::Static => Vec::new(),
                // A path of a socket is nothing that a connection could be sent to.
                None if entry.address.starts_with("unix:") => Vec::new(),
                None => resolve(world, names, &entry.address, resolution),
            };
            let all = addresses.iter().map(|ip| Some(*ip));
            let none = addresses.is_empty().then_some(None);
            for at in all.chain(none) {
                let socket = entry.address.starts_with("unix:")
                    && (own || matches!(resolution, Resolution::Dns | Resolution::DnsRoundRobin));
                let name = names.get(entry.address.as_str()).filter(|_| at.is_none());
                found.push(Candidate {
                    at,
                    socket,
                    unresolved: name.cloned(),
                    entry: entry.clone(),
                    place: place.clone(),
                });
            }
        };
    for endpoint in &entry.endpoints {
        let place = entry_place(&endpoint.labels, endpoint);
        add(endpoint, &place, entry.resolution, true);
    }
    if let Some(selector) = &entry.workload_selector {
        for known in backing.entries(namespace, selector) {
            let Some(entry_of) = known.object.spec.workload_entry() else { continue };
            add(entry_of, &known.place, entry.resolution, false);
        }
        for known in backing.pods(namespace, selector) {
            let Some(pod) = known.object.spec.pod() else { continue };
            let place = backing.place(known, None);
            if !pod.ready || pod.terminating {
                found.push(Candidate { place, ..Candidate::default() });
                continue;
            }
            for ip in &pod.ips {
                found.push(Candidate {
                    at: Some(*ip),
                    place: place.clone(),
                    ..Candidate::default()
                });
            }
        }
    }
    found
}

/// The names that the endpoints and addresses of a ServiceEntry are resolved from; one may
/// be there several times.
pub(super) fn names<'e>(
    backing: &'e Backing,
    namespace: &'e str,
    entry: &'e ServiceEntry,
) -> impl Iterator<Item = &'e str> {
    let entry = Some(entry).filter(|entry| resolves(entry)).into_iter();
    entry.flat_map(|entry| {
        let selector = entry.workload_selector.as_ref();
        let selected = selector.into_iter().flat_map(|one| backing.entries(namespace, one));
        let selected = selected.filter_map(|known| known.object.spec.workload_entry());
        let endpoints = entry.endpoints.iter().chain(selected).map(|one| &*one.address);
        let endpoints =
            endpoints.filter(|one| subnets::address(one).is_none() && !one.starts_with("unix:"));
        let alone = !entry.has_own_endpoints();
        let hosts = entry.hosts.iter().filter(move |host| alone || frontends::by_name(entry, host));
        let hosts = hosts.map(String::as_str);
        endpoints.chain(hosts).filter(|name| !name.is_empty() && !name.starts_with('*'))
    })
}

/// What a name resolves to, if it is one of these.
fn resolve(
    world: &World,
    names: &BTreeSet<Arc<str>>,
    name: &str,
    resolution: Resolution,
) -> Vec<IpAddr> {
    if !names.contains(name) {
        return Vec::new();
    }
    let addresses: Vec<&IpAddr> = usable(world, name).collect();
    if addresses.is_empty() && world.stand_ins.is_some() {
        return given::of_endpoint(name).to_vec();
    }
    let addresses = addresses.into_iter().map(IpAddr::to_canonical);
    if resolution != Resolution::DnsRoundRobin {
        return addresses.collect();
    }
    // One for clients of either family.
    let first = |v6| addresses.clone().find(|ip| ip.is_ipv6() == v6);
    [first(false), first(true)].into_iter().flatten().collect()
}

/// What a name resolves to and can be an endpoint.
fn usable<'w>(world: &'w World, name: &str) -> impl Iterator<Item = &'w IpAddr> {
    world.resolved(name).unwrap_or_default().iter().filter(|ip| !is_given(ip))
}

/// Whether an endpoint is an address, or a name that is resolved to one.
pub(super) fn is_resolved(world: &World, address: &str) -> bool {
    address.is_empty()
        || subnets::address(address).is_some()
        || address.starts_with("unix:")
        || address.starts_with('*')
        || usable(world, address).next().is_some()
}

fn port(declared: &EntryPort, found: &[Candidate], are_the_host: bool) -> Port {
    let mut endpoints = Vec::new();
    let (mut unusable, mut unresolved, mut sockets) = (Vec::new(), Vec::new(), Vec::new());
    for Candidate { at, socket, unresolved: name, entry, place } in found {
        let number = entry
            .ports
            .get(&declared.name)
            .copied()
            .or(declared.target_port)
            .unwrap_or(declared.number);
        match at {
            Some(ip) => endpoints.push(entry_endpoint(entry, place, *ip, number)),
            None => {
                let labels = place.0.clone();
                unusable.push(Some(labels.clone()));
                unresolved.extend(name.clone().map(|name| Unresolved { name, labels }));
                if *socket {
                    let (labels, weight) = (place.0.clone(), entry.weight.max(1));
                    sockets.push(Socket { labels, weight });
                }
            }
        }
    }
    Port {
        number: declared.number,
        name: declared.name.clone(),
        // Istio does not look at the names of a ServiceEntry's ports.
        protocol: protocol::parse(&declared.protocol),
        target: declared.target_port,
        endpoints: in_order(endpoints),
        unusable,
        unresolved,
        sockets,
        are_the_host,
    }
}
