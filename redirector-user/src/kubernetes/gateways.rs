//! The gateways of this node: Services that ask for it become what the core
//! knows as gateways of a machine.
//!
//! The core's gateway is a WorkloadEntry: labels that a Gateway's `selector`
//! selects, and an address where the proxy listens. Here, a Service with the
//! annotation `redirector.io/gateway: "true"` stands for one such entry per
//! address of it. Its labels are what the Service selects, and what all pods
//! that it selects have in common. Services without the annotation are left to
//! whoever serves them.

//!
//! A cluster IP that the node does not have itself cannot be listened on. For
//! clients on this node it is served all the same: the proxy listens at an
//! address of the node, on a port set aside for it, and a ServiceEntry has the
//! kernel send there what dials the cluster IP. Node ports are served there as
//! well, when the Service asks for it.

use std::collections::BTreeMap;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;
use std::sync::Arc;

use redirector_core::model::annotations::{GATEWAY, GATEWAY_FOR, GATEWAY_NODE_PORTS};
use redirector_core::model::{
    EntryPort, Gateway, Labels, Meta, Object, Resolution, Service, ServiceEntry, ServicePort, Spec,
    WorkloadEntry,
};
use redirector_core::registry::StandsFor;
use redirector_core::rules::relays;
use redirector_core::store::{Content, Document};

/// Where clients on this node reach the proxy when they dial a cluster IP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Near {
    /// Addresses of the node that its pods reach, one of a family; without one,
    /// such clients are left to whoever stands behind the Service.
    pub addresses: Vec<IpAddr>,
    /// Ports set aside, one for each cluster IP and port that is served.
    pub ports: RangeInclusive<u16>,
}

/// A cluster IP and port of a gateway.
type Frontend = (IpAddr, u16);

/// The ports that were given out.
#[derive(Debug)]
pub struct Ports {
    near: Near,
    given: BTreeMap<Frontend, u16>,
}

impl Ports {
    /// None yet.
    pub fn new(near: Near) -> Self {
        Self { near, given: BTreeMap::new() }
    }

    /// The node's address of the same family.
    fn address(&self, like: IpAddr) -> Option<IpAddr> {
        self.near.addresses.iter().find(|one| one.is_ipv4() == like.is_ipv4()).copied()
    }

    /// The port for a frontend: as before, or else one that nobody listens on.
    fn port(&mut self, frontend: Frontend, address: IpAddr) -> Option<u16> {
        if let Some(port) = self.given.get(&frontend) {
            return Some(*port);
        }
        let taken = |port: &u16| self.given.values().any(|given| given == port);
        let port = self
            .near
            .ports
            .clone()
            .find(|port| !taken(port) && TcpListener::bind((address, *port)).is_ok());
        match port {
            Some(port) => _ = self.given.insert(frontend, port),
            None => tracing::warn!(
                address = %frontend.0, port = frontend.1,
                "all of the ports of --gateway-ports are taken: clients on this node that dial \
                 this gateway are left to whoever stands behind its Service"
            ),
        }
        port
    }
}

/// Whether the node has this address itself.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// The Service that an object is, if it asks for this node's proxy. One without
/// selector says nothing of a workload.
pub fn asking(object: &Object) -> Option<&Service> {
    let service = object.spec.service()?;
    let asks = object.meta.switches_on(GATEWAY) && !service.selector.is_empty();
    asks.then_some(service)
}

/// What the Services ask for, in their order: gateways as WorkloadEntries, and
/// ServiceEntries that lead clients on this node to them.
pub fn served<'a>(
    services: impl Iterator<Item = &'a Arc<Object>>,
    pods: &[&Arc<Object>],
    gateways: &[&Gateway],
    ports: &mut Ports,
) -> Vec<Object> {
    let mut objects = Vec::new();
    let mut asked = Vec::new();
    for object in services {
        let Some(service) = asking(object) else { continue };
        let labels = labels(object, service, pods);
        for address in service.addresses() {
            let near = ports.address(address).filter(|_| service.cluster_ips.contains(&address));
            let Some(near) = near.filter(|_| !is_local(address)) else {
                objects.push(entry(object, labels.clone(), address));
                continue;
            };
            let relayed: BTreeMap<u16, u16> = relayed_ports(service, &labels, gateways)
                .inspect(|port| asked.push((address, port.port)))
                .filter_map(|port| Some((port.port, ports.port((address, port.port), near)?)))
                .collect();
            if !relayed.is_empty() {
                let stands_for = StandsFor { address, ports: relayed };
                objects.push(way(object, near, &stands_for));
                objects.push(stand_in(object, labels.clone(), near, &stands_for));
            }
        }
        if object.meta.switches_on(GATEWAY_NODE_PORTS) {
            let node_ports: BTreeMap<u16, u16> = relayed_ports(service, &labels, gateways)
                .filter_map(|port| Some((port.port, port.node_port?)))
                .collect();
            for &address in ports.near.addresses.iter().filter(|_| !node_ports.is_empty()) {
                let stands_for = StandsFor { address, ports: node_ports.clone() };
                let mut node = stand_in(object, labels.clone(), address, &stands_for);
                // The address may be one of the Service's external ones, too.
                node.meta.name = format!("{}:node:{address}", object.meta.name).into();
                objects.push(node);
            }
        }
    }
    ports.given.retain(|frontend, _| asked.contains(frontend));
    objects
}

/// The ports of a Service that some Gateway relays.
fn relayed_ports<'s>(
    service: &'s Service,
    labels: &Labels,
    gateways: &[&Gateway],
) -> impl Iterator<Item = &'s ServicePort> {
    service
        .ports
        .iter()
        .filter(|port| port.protocol == "TCP")
        .filter(|port| gateways.iter().any(|one| relays(one, labels, port.port)))
}

/// What the Service selects, and what all pods that it selects have in common.
fn labels(object: &Object, service: &Service, pods: &[&Arc<Object>]) -> Labels {
    let mut common: Option<Labels> = None;
    for pod in pods {
        let has = |(name, value): (&str, &str)| pod.meta.labels.get(name) == Some(value);
        if pod.meta.namespace != object.meta.namespace || !service.selector.iter().all(has) {
            continue;
        }
        let labels = &pod.meta.labels;
        common = Some(match common {
            None => labels.clone(),
            Some(common) => {
                let pairs = common.iter();
                pairs.filter(|(name, value)| labels.get(name) == Some(value)).collect()
            }
        });
    }
    let mut labels = common.unwrap_or_default();
    labels.extend(&service.selector);
    labels
}

/// A name that no other object can have: those of the API have no colon.
fn meta(service: &Object, address: IpAddr) -> Meta {
    let name = format!("{}:{address}", service.meta.name);
    Meta { created: service.meta.created, ..Meta::new(service.meta.namespace.clone(), name) }
}

/// The gateway, at this address.
fn entry(service: &Object, labels: Labels, address: IpAddr) -> Object {
    let mut meta = meta(service, address);
    meta.annotations.insert(GATEWAY, "true");
    let entry = WorkloadEntry {
        address: address.to_string(),
        labels,
        weight: 1,
        ..WorkloadEntry::default()
    };
    Object { meta, spec: Spec::WorkloadEntry(entry) }
}

/// The gateway at an address of the node, for what dials another.
fn stand_in(service: &Object, labels: Labels, near: IpAddr, stands_for: &StandsFor) -> Object {
    let mut object = entry(service, labels, near);
    object.meta.name = meta(service, stands_for.address).name;
    object.meta.annotations.insert(GATEWAY_FOR, &stands_for.to_string());
    object
}

/// Leads clients there.
fn way(service: &Object, near: IpAddr, stands_for: &StandsFor) -> Object {
    let meta = meta(service, stands_for.address);
    let address = stands_for.address.to_string().replace(['.', ':'], "-");
    let name = |port: u16| format!("tcp-{port}");
    let port = |(&number, _): (&u16, &u16)| EntryPort {
        number,
        name: name(number),
        protocol: "TCP".to_owned(),
        target_port: None,
    };
    let entry = ServiceEntry {
        hosts: vec![format!("{address}.{}.{}.gateway", service.meta.name, meta.namespace)],
        addresses: vec![stands_for.address.into()],
        ports: stands_for.ports.iter().map(port).collect(),
        resolution: Resolution::Static,
        leads_to_gateway: true,
        endpoints: vec![WorkloadEntry {
            address: near.to_string(),
            ports: stands_for.ports.iter().map(|(port, listen)| (name(*port), *listen)).collect(),
            weight: 1,
            ..WorkloadEntry::default()
        }],
        ..ServiceEntry::default()
    };
    Object { meta, spec: Spec::ServiceEntry(entry) }
}

/// One such entry as the store takes it.
pub fn content(object: Arc<Object>) -> Content {
    Content::Whole(vec![Document {
        reference: Some(object.reference()),
        object: Some(object),
        diagnostics: Vec::new(),
    }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use redirector_core::documents;
    use serde_json::{Value, json};

    fn object(value: &Value) -> Arc<Object> {
        let reading = documents::read_json(value);
        reading.objects[0].object.clone().unwrap_or_else(|| panic!("{:?}", reading.diagnostics))
    }

    fn service(annotations: &Value, selector: &Value) -> Arc<Object> {
        object(&json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": "ingress", "namespace": "edge", "annotations": annotations },
            "spec": {
                "clusterIP": "10.96.0.20", "externalIPs": ["192.0.2.7"], "selector": selector,
                "ports": [{ "port": 19000 }],
            },
            "status": { "loadBalancer": { "ingress": [{ "ip": "203.0.113.9" }] } },
        }))
    }

    fn pod(name: &str, namespace: &str, labels: &Value) -> Arc<Object> {
        object(&json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "namespace": namespace, "labels": labels },
            "spec": { "nodeName": "n", "containers": [{ "name": "c", "image": "i" }] },
        }))
    }

    fn ports(addresses: &[IpAddr]) -> Ports {
        Ports::new(Near { addresses: addresses.to_vec(), ports: 15400..=15499 })
    }

    fn entries(services: &[Arc<Object>], pods: &[Arc<Object>]) -> Vec<(String, Labels)> {
        let pods: Vec<_> = pods.iter().collect();
        let served = served(services.iter(), &pods, &[], &mut ports(&[]));
        served
            .into_iter()
            .map(|object| match object.spec {
                Spec::WorkloadEntry(entry) => (entry.address, entry.labels),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_service_that_asks_is_a_gateway_at_each_of_its_addresses() {
        let asks = json!({ "redirector.io/gateway": "true" });
        let found = entries(&[service(&asks, &json!({ "istio": "ingress" }))], &[]);
        let addresses: Vec<&str> = found.iter().map(|(address, _)| address.as_str()).collect();
        assert_eq!(addresses, ["10.96.0.20", "192.0.2.7", "203.0.113.9"]);
        assert!(found.iter().all(|(_, labels)| labels.get("istio") == Some("ingress")));
    }

    #[test]
    fn others_are_left_to_whoever_serves_them() {
        let selector = json!({ "istio": "ingress" });
        let no = json!({ "redirector.io/gateway": "false" });
        let yes = json!({ "redirector.io/gateway": "true" });
        for service in
            [service(&json!({}), &selector), service(&no, &selector), service(&yes, &json!({}))]
        {
            assert_eq!(entries(&[service], &[]), []);
        }
    }

    #[test]
    fn labels_that_all_selected_pods_share_count_as_well() {
        let asks = json!({ "redirector.io/gateway": "true" });
        let service = service(&asks, &json!({ "app": "gw" }));
        let pods = [
            pod("a", "edge", &json!({ "app": "gw", "istio": "ingress", "hash": "1" })),
            pod("b", "edge", &json!({ "app": "gw", "istio": "ingress", "hash": "2" })),
            pod("c", "other", &json!({ "app": "gw" })),
        ];
        let (_, labels) = entries(&[service], &pods).remove(0);
        let labels: Vec<&str> = labels.keys().collect();
        assert_eq!(labels, ["app", "istio"]);
    }

    #[test]
    fn a_cluster_ip_of_no_node_is_served_at_the_nodes_address_on_a_port_that_stays() {
        let asks = json!({ "redirector.io/gateway": "true" });
        let one = service(&asks, &json!({ "istio": "ingress" }));
        let gateway = object(&json!({
            "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
            "metadata": { "name": "g", "namespace": "edge" },
            "spec": {
                "selector": { "istio": "ingress" },
                "servers": [{
                    "port": { "number": 19000, "name": "tcp", "protocol": "TCP" }, "hosts": ["*"],
                }],
            },
        }));
        let Spec::Gateway(gateway) = &gateway.spec else { panic!("{gateway:?}") };
        let mut ports = ports(&["127.0.0.1".parse().expect("an address")]);
        // Somebody has the first port.
        let _taken = TcpListener::bind(("127.0.0.1", 15400));
        let first = served([&one].into_iter(), &[], &[gateway], &mut ports);
        let stands_for = first.iter().find_map(|object| match &object.spec {
            Spec::WorkloadEntry(entry) if entry.address == "127.0.0.1" => {
                object.meta.annotations.get(GATEWAY_FOR)?.parse::<StandsFor>().ok()
            }
            _ => None,
        });
        let stands_for = stands_for.unwrap_or_else(|| panic!("{first:?}"));
        assert_eq!(stands_for.address, "10.96.0.20".parse::<IpAddr>().expect("an address"));
        let listen = stands_for.ports[&19000];
        assert!((15401..=15499).contains(&listen), "{listen}");
        let way = first.iter().find_map(|object| match &object.spec {
            Spec::ServiceEntry(entry) => Some(entry),
            _ => None,
        });
        let way = way.expect("a way there");
        assert!(way.leads_to_gateway, "it goes before the Service itself");
        assert_eq!(way.endpoints[0].ports["tcp-19000"], listen);
        // The proxy has the port by now: it is not somebody else's.
        let _ours = TcpListener::bind(("127.0.0.1", listen));
        assert_eq!(served([&one].into_iter(), &[], &[gateway], &mut ports), first);
        // What no Gateway relays is left alone.
        let none = served([&one].into_iter(), &[], &[], &mut ports);
        assert!(none.iter().all(|object| !object.meta.name.contains("10.96.0.20")), "{none:?}");
    }
}
