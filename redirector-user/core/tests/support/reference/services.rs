//! Services and endpoints, plainly.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use redirector_core::model::{
    EndpointSlice, Kind, Labels, Object, Pod, Resolution, ServiceType, Spec, TargetPort,
    TrafficDistribution, WorkloadEntry,
};
use redirector_core::world::{Answer, World};

/// A service.
pub(super) struct Service<'w> {
    pub(super) object: &'w Object,
    pub(super) host: String,
    pub(super) export_to: Vec<String>,
    pub(super) ports: Vec<Port>,
    pub(super) addresses: Vec<IpNet>,
    /// What its host resolves to, where that makes addresses.
    pub(super) resolves_to: Vec<IpAddr>,
    /// What it resolved to before.
    pub(super) resolved_to: Vec<IpAddr>,
    pub(super) kind: Kindness,
    pub(super) local_only: bool,
    pub(super) distribution: Option<TrafficDistribution>,
}

#[derive(Clone, PartialEq)]
pub(super) enum Kindness {
    Cluster,
    Headless,
    Alias(String),
    Entry(Resolution),
}

pub(super) struct Port {
    pub(super) number: u16,
    pub(super) speaks: Speaks,
    pub(super) target: Option<u16>,
    pub(super) endpoints: Vec<Endpoint>,
    /// They are written down or selected, and not what the host resolves to.
    pub(super) has_own: bool,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Speaks {
    Tcp,
    Unknown,
    SomethingElse,
    Tls,
    NotTcp,
}

#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) ip: IpAddr,
    pub(super) port: u16,
    pub(super) labels: Option<Labels>,
    pub(super) node: Option<String>,
    pub(super) weight: u32,
    /// Region, zone and subzone.
    pub(super) place: [String; 3],
    /// It is a unix socket, with some address.
    pub(super) socket: bool,
}

const PLACES: [&str; 3] =
    ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];

/// All services.
pub(super) fn services(world: &World) -> Vec<Service<'_>> {
    let domain = &world.settings.cluster_domain;
    let mut all = Vec::new();
    for (object, service) in world.services() {
        let (name, home) = (&object.meta.name, &object.meta.namespace);
        let kind = match service.service_type {
            ServiceType::ExternalName => Kindness::Alias(service.external_name.clone()),
            _ if service.headless => Kindness::Headless,
            _ => Kindness::Cluster,
        };
        let ports = service.ports.iter().map(|port| {
            let said = port.app_protocol.as_deref().unwrap_or(&port.name);
            let said = said.split('-').next().unwrap_or_default().to_ascii_lowercase();
            Port {
                number: port.port,
                speaks: if port.protocol == "UDP" || port.protocol == "SCTP" {
                    Speaks::NotTcp
                } else {
                    speaks(&said, port.port)
                },
                target: None,
                endpoints: service_endpoints(world, object, service, port, &kind),
                has_own: true,
            }
        });
        all.push(Service {
            object,
            host: format!("{name}.{home}.svc.{domain}"),
            export_to: (object.meta.annotations.get("networking.istio.io/exportTo"))
                .map(|list| {
                    let entries = list.split(',').map(str::trim).filter(|one| !one.is_empty());
                    entries.map(str::to_owned).collect()
                })
                .unwrap_or_default(),
            ports: ports.collect(),
            addresses: if kind == Kindness::Cluster {
                service.cluster_ips.iter().map(|ip| IpNet::from(*ip)).collect()
            } else {
                Vec::new()
            },
            resolves_to: Vec::new(),
            resolved_to: Vec::new(),
            kind,
            local_only: service.internal_local,
            distribution: service.distribution(&object.meta.annotations),
        });
    }
    for (object, entry) in world.service_entries() {
        for host in &entry.hosts {
            let ports = entry.ports.iter().map(|port| Port {
                number: port.number,
                speaks: speaks(&port.protocol.to_ascii_lowercase(), 0),
                target: port.target_port,
                endpoints: entry_endpoints(world, object, entry, host, port),
                has_own: !entry.endpoints.is_empty() || entry.workload_selector.is_some(),
            });
            all.push(Service {
                object,
                host: host.clone(),
                export_to: entry.export_to.clone(),
                ports: ports.collect(),
                addresses: match entry.addresses.is_empty() {
                    true => allocated(entry, host),
                    false => entry.addresses.clone(),
                },
                resolves_to: leads_to(world, entry, host, |known| &known.addresses),
                resolved_to: leads_to(world, entry, host, |known| &known.former),
                kind: Kindness::Entry(entry.resolution),
                local_only: false,
                distribution: None,
            });
        }
    }
    pool(all)
}

/// What a cluster allocated to a host.
fn allocated(entry: &redirector_core::model::ServiceEntry, host: &str) -> Vec<IpNet> {
    let for_host = entry.allocated.iter().filter(|(of, _)| match of {
        Some(of) => of == host,
        None => true,
    });
    for_host.map(|(_, ip)| IpNet::from(*ip)).collect()
}

/// The addresses that dialling a host leads to, if the entry has no others: of the network,
/// and neither the node's, nor a Service's, nor the API server's.
fn leads_to(
    world: &World,
    entry: &redirector_core::model::ServiceEntry,
    host: &str,
    which: fn(&Answer) -> &Vec<IpAddr>,
) -> Vec<IpAddr> {
    let dns = entry.resolution == Resolution::Dns || entry.resolution == Resolution::DnsRoundRobin;
    if !entry.addresses.is_empty() || !dns || host.contains('*') {
        return Vec::new();
    }
    let Some(known) = world.answer(host) else { return Vec::new() };
    let mut all = which(known).clone();
    all.retain(|ip| match ip {
        IpAddr::V4(v4) => {
            !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified() && !v4.is_multicast()
        }
        IpAddr::V6(v6) => {
            !v6.is_loopback()
                && !v6.is_unicast_link_local()
                && !v6.is_unspecified()
                && !v6.is_multicast()
        }
    });
    all.retain(|ip| {
        world.services().all(|(_, service)| service.headless || !service.cluster_ips.contains(ip))
    });
    all.retain(|ip| !world.settings.node_addresses.contains(ip));
    let servers = world.endpoint_slices().filter(|(object, slice)| {
        &*object.meta.namespace == "default" && &*slice.service == "kubernetes"
    });
    let servers: Vec<&IpAddr> =
        servers.flat_map(|(_, slice)| &slice.endpoints).flat_map(|one| &one.addresses).collect();
    all.retain(|ip| !servers.contains(&ip));
    all
}

/// ServiceEntries of one namespace with a host in common are one service for it, if
/// all but ports and addresses is alike; of two ports with one number the older
/// one's counts.
fn pool(mut all: Vec<Service<'_>>) -> Vec<Service<'_>> {
    all.sort_by_key(|service| super::age(service.object));
    let mut pooled: Vec<Service<'_>> = Vec::new();
    for service in all {
        let claims = |one: &Service<'_>| match one.kind {
            Kindness::Entry(Resolution::None) => one.addresses.is_empty(),
            Kindness::Entry(Resolution::DynamicDns) => false,
            _ => super::claims_port(one.object),
        };
        let seen = |one: &Service<'_>| {
            let home = one.object.meta.namespace.to_string();
            let mut names: Vec<String> = one.export_to.clone();
            if names.is_empty() || names.iter().any(|name| name == "*") {
                return vec!["*".to_owned()];
            }
            names.retain(|name| name != "~");
            names.iter_mut().filter(|name| *name == ".").for_each(|name| name.clone_from(&home));
            names.sort();
            names.dedup();
            names
        };
        let older = pooled.iter_mut().find(|older| {
            matches!(older.kind, Kindness::Entry(_))
                && older.kind == service.kind
                && older.host == service.host
                && older.object.meta.namespace == service.object.meta.namespace
                && older.object.meta.name != service.object.meta.name
                && seen(older) == seen(&service)
                && claims(older) == claims(&service)
        });
        let Some(older) = older else {
            pooled.push(service);
            continue;
        };
        for port in service.ports {
            if older.ports.iter().all(|known| known.number != port.number) {
                older.ports.push(port);
            }
        }
        older.addresses.extend(service.addresses);
        older.resolves_to.extend(service.resolves_to);
        older.resolved_to.extend(service.resolved_to);
    }
    pooled
}

fn speaks(said: &str, number: u16) -> Speaks {
    match said {
        "tcp" | "mongo" | "redis" | "mysql" => Speaks::Tcp,
        "https" | "tls" => Speaks::Tls,
        "http" | "http2" | "grpc" => Speaks::SomethingElse,
        "udp" => Speaks::NotTcp,
        _ if [25, 53, 3306, 27017].contains(&number) => Speaks::Tcp,
        _ => Speaks::Unknown,
    }
}

/// The labels of a workload, with those of its place, its node and its network.
fn with_place(own: &Labels, place: &[String; 3], node: &str, network: &str) -> Labels {
    let mut labels = own.clone();
    let more = [("kubernetes.io/hostname", node), ("topology.istio.io/network", network)];
    let places = PLACES.iter().zip(place).map(|(name, value)| (*name, value.as_str()));
    for (name, value) in places.chain(more).filter(|(_, value)| !value.is_empty()) {
        labels.insert(name, value);
    }
    labels
}

/// `region/zone/subzone`, as far as it is written.
fn parts(text: &str) -> [String; 3] {
    let mut place: [String; 3] = Default::default();
    for (part, text) in place.iter_mut().zip(text.splitn(3, '/')) {
        text.clone_into(part);
    }
    place
}

/// Where a workload's label says that it is.
fn said_place(labels: &Labels) -> Option<[String; 3]> {
    let said = labels.get("istio-locality")?;
    Some(parts(&if said.contains('/') { said.to_owned() } else { said.replace('.', "/") }))
}

pub(super) fn written_labels(object: &Object, entry: &WorkloadEntry) -> Labels {
    let mut labels = entry.labels.clone();
    labels.extend(&object.meta.labels);
    labels
}

/// Whether it listens for connections to another address, and so is nobody's
/// endpoint.
fn stands_in(object: &Object) -> bool {
    object.meta.annotations.contains_key("redirector.io/gateway-for")
}

fn carries(labels: &Labels, selector: &Labels) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The labels of a pod, with those of its place.
fn pod_labels(object: &Object, pod: &Pod, place: &[String; 3]) -> Labels {
    with_place(&object.meta.labels, place, &pod.node, "")
}

/// Where a pod is: where it says, or where its node is, or else in the zone that is
/// said of it as an endpoint.
fn place_of_pod(world: &World, object: &Object, pod: &Pod, zone: Option<&str>) -> [String; 3] {
    let place = said_place(&object.meta.labels).unwrap_or_else(|| place_of_node(world, &pod.node));
    match zone {
        Some(zone) if place.iter().all(String::is_empty) => {
            [String::new(), zone.to_owned(), String::new()]
        }
        _ => place,
    }
}

fn service_endpoints(
    world: &World,
    object: &Object,
    service: &redirector_core::model::Service,
    port: &redirector_core::model::ServicePort,
    kind: &Kindness,
) -> Vec<Endpoint> {
    if matches!(kind, Kindness::Alias(_)) {
        return Vec::new();
    }
    let home = &*object.meta.namespace;
    let mut found: BTreeMap<IpAddr, Endpoint> = BTreeMap::new();
    for (slice_object, slice) in world.endpoint_slices() {
        let of_service =
            &*slice_object.meta.namespace == home && *slice.service == *object.meta.name;
        let Some(number) = slice_port(slice, &port.name).filter(|_| of_service) else { continue };
        for endpoint in &slice.endpoints {
            let usable = if endpoint.terminating {
                endpoint.ready && service.publish_not_ready
            } else {
                endpoint.ready || service.publish_not_ready
            };
            let pod = match &endpoint.pod {
                Some((namespace, name)) => {
                    let pod = world.find(Kind::Pod, namespace, name).and_then(|pod| alive(pod));
                    if pod.is_none() || !usable {
                        continue;
                    }
                    pod
                }
                None if !usable => continue,
                None => None,
            };
            for ip in &endpoint.addresses {
                let pod = pod.or_else(|| {
                    world
                        .of_kind(Kind::Pod)
                        .filter(|pod| &*pod.meta.namespace == home)
                        .filter_map(|pod| alive(pod))
                        .find(|(_, pod)| pod.ips.contains(ip))
                });
                let place = pod
                    .map(|(object, pod)| place_of_pod(world, object, pod, endpoint.zone.as_deref()))
                    .unwrap_or_default();
                found.entry(*ip).or_insert_with(|| Endpoint {
                    ip: *ip,
                    port: number,
                    labels: pod.map(|(object, pod)| pod_labels(object, pod, &place)),
                    node: endpoint
                        .node
                        .clone()
                        .or(pod.map(|(_, pod)| pod.node.clone()))
                        .filter(|node| !node.is_empty())
                        .map(|node| node.to_string()),
                    weight: 1,
                    place,
                    socket: false,
                });
            }
        }
    }
    let mut all: Vec<Endpoint> = found.into_values().collect();
    for (other, entry) in world.workload_entries() {
        let labels = written_labels(other, entry);
        let selected = !stands_in(other) && carries(&labels, &service.selector);
        if &*other.meta.namespace != home || !selected {
            continue;
        }
        let number = match &port.target_port {
            TargetPort::Name(name) => entry.ports.get(name).copied(),
            TargetPort::Number(target) => {
                let target = if *target == 0 { port.port } else { *target };
                Some(entry.ports.get(&port.name).copied().unwrap_or(target))
            }
        };
        if let (Ok(ip), Some(number)) = (entry.address.parse(), number) {
            all.push(workload(entry, &labels, ip, number));
        }
    }
    all
}

fn alive(object: &Object) -> Option<(&Object, &Pod)> {
    match &object.spec {
        Spec::Pod(pod) if !pod.finished => Some((object, pod)),
        _ => None,
    }
}

fn slice_port(slice: &EndpointSlice, name: &str) -> Option<u16> {
    slice.ports.iter().find(|port| port.name == name).and_then(|port| port.port)
}

fn workload(entry: &WorkloadEntry, labels: &Labels, ip: IpAddr, port: u16) -> Endpoint {
    Endpoint {
        ip,
        port,
        labels: Some(with_place(labels, &place_of_entry(labels, entry), "", &entry.network)),
        node: None,
        weight: entry.weight.max(1),
        place: place_of_entry(labels, entry),
        socket: false,
    }
}

fn place_of_entry(labels: &Labels, entry: &WorkloadEntry) -> [String; 3] {
    match entry.locality.as_str() {
        "" => said_place(labels).unwrap_or_default(),
        said => parts(said),
    }
}

/// Where the clients are: where their node is, or else where all of the local
/// workloads say that they are.
pub(super) fn place_of_clients(world: &World) -> [String; 3] {
    let node = world.settings.node_name.as_deref().filter(|node| !node.is_empty());
    if let Some(node) = node
        && world.find(Kind::Node, "", node).is_some()
    {
        return place_of_node(world, node);
    }
    let of_entries = world.workload_entries().filter_map(|(object, entry)| {
        let annotations = &object.meta.annotations;
        let local = ["redirector.io/cgroup", "redirector.io/netns"];
        let local = local.iter().any(|name| annotations.contains_key(name));
        local.then(|| place_of_entry(&written_labels(object, entry), entry))
    });
    let of_pods = world.pods().filter_map(|(object, pod)| {
        let local = node == Some(&*pod.node) && !object.meta.uid.is_empty() && !pod.finished;
        local.then(|| said_place(&object.meta.labels).unwrap_or_default())
    });
    let mut said = of_entries.chain(of_pods);
    let first = said.next().unwrap_or_default();
    if said.all(|other| other == first) { first } else { Default::default() }
}

/// Where a node is.
pub(super) fn place_of_node(world: &World, node: &str) -> [String; 3] {
    let labels = world.find(Kind::Node, "", node).map(|node| &node.meta.labels);
    // The names that they had first, too.
    let old =
        ["failure-domain.beta.kubernetes.io/region", "failure-domain.beta.kubernetes.io/zone"];
    let label = |at: usize| {
        let found = labels?.get(PLACES[at]).or_else(|| labels?.get(old.get(at)?));
        found.map(str::to_owned)
    };
    [0, 1, 2].map(|at| label(at).unwrap_or_default())
}

fn entry_endpoints(
    world: &World,
    object: &Object,
    entry: &redirector_core::model::ServiceEntry,
    host: &str,
    port: &redirector_core::model::EntryPort,
) -> Vec<Endpoint> {
    if matches!(entry.resolution, Resolution::None | Resolution::DynamicDns) {
        return Vec::new();
    }
    let default = port.target_port.unwrap_or(port.number);
    let addresses = |name: &str| -> Vec<IpAddr> {
        if let Ok(ip) = name.parse() {
            return vec![ip];
        }
        let resolved = world.resolved(name).unwrap_or_default();
        match entry.resolution {
            Resolution::Dns => resolved.to_vec(),
            Resolution::DnsRoundRobin => {
                let (four, six): (Vec<IpAddr>, Vec<IpAddr>) =
                    resolved.iter().partition(|ip| ip.is_ipv4());
                four.into_iter().take(1).chain(six.into_iter().take(1)).collect()
            }
            _ => Vec::new(),
        }
    };
    let mut found: Vec<Endpoint> = Vec::new();
    let mut add = |one: &WorkloadEntry, labels: &Labels| {
        let number = one.ports.get(&port.name).copied().unwrap_or(default);
        let at = addresses(&one.address).into_iter();
        found.extend(at.map(|ip| workload(one, labels, ip, number)));
    };
    for one in &entry.endpoints {
        add(one, &one.labels);
    }
    if entry.endpoints.is_empty() && entry.workload_selector.is_none() {
        let host = WorkloadEntry { address: host.to_owned(), ..WorkloadEntry::default() };
        add(&host, &Labels::new());
    }
    if let Some(selector) = &entry.workload_selector {
        for (other, one) in world.workload_entries() {
            let labels = written_labels(other, one);
            let selected = !stands_in(other) && carries(&labels, selector);
            if other.meta.namespace == object.meta.namespace && selected {
                add(one, &labels);
            }
        }
        for (other, pod) in world.pods() {
            let usable = pod.ready && !pod.terminating && !pod.finished;
            if other.meta.namespace == object.meta.namespace
                && usable
                && carries(&other.meta.labels, selector)
            {
                for ip in &pod.ips {
                    let place = place_of_pod(world, other, pod, None);
                    found.push(Endpoint {
                        ip: *ip,
                        port: default,
                        labels: Some(pod_labels(other, pod, &place)),
                        node: None,
                        weight: 1,
                        place,
                        socket: false,
                    });
                }
            }
        }
    }
    let sockets = entry.endpoints.iter().filter(|one| one.address.starts_with("unix:"));
    let nowhere = IpAddr::from([0, 0, 0, 0]);
    let sockets = sockets
        .map(|one| Endpoint { socket: true, ..workload(one, &one.labels, nowhere, default) });
    found.into_iter().chain(sockets).collect()
}
