//! The Kubernetes kinds.

use std::net::IpAddr;
use std::sync::Arc;

use super::cursor::{At, Fields};
use crate::diag::Diagnostic;
use crate::diag::codes::syntax;
use crate::model::{
    EndpointSlice, Pod, Service, ServicePort, ServiceType, SliceEndpoint, SlicePort, TargetPort,
    TrafficDistribution,
};
use crate::validate::subnets;

/// The most endpoints of one object.
pub(super) const MAX_ENDPOINTS: usize = 65_536;

/// An IP address; complains of anything else.
pub(super) fn address(at: &At<'_>) -> Option<IpAddr> {
    let text = at.string()?;
    let address = subnets::address(text);
    if address.is_none() {
        at.complain(&syntax::BAD_ADDRESS, format!("\"{text}\" is not an IP address"));
    }
    address
}

/// Reports a missing field.
pub(super) fn missing(fields: &Fields<'_>, name: &str, what: &str) {
    fields.place(name).report(
        Diagnostic::new(&syntax::MISSING_FIELD, format!("{what} is missing"))
            .help(format!("add {name}:")),
    );
}

/// The fields of a ServiceSpec.
const SERVICE: &[&str] = &[
    "type",
    "selector",
    "ports",
    "clusterIP",
    "clusterIPs",
    "externalIPs",
    "externalName",
    "internalTrafficPolicy",
    "externalTrafficPolicy",
    "trafficDistribution",
    "publishNotReadyAddresses",
    "sessionAffinity",
    "sessionAffinityConfig",
    "ipFamilies",
    "ipFamilyPolicy",
    "loadBalancerIP",
    "loadBalancerClass",
    "loadBalancerSourceRanges",
    "allocateLoadBalancerNodePorts",
    "healthCheckNodePort",
];

/// The fields of a ServicePort.
const SERVICE_PORT: &[&str] =
    &["name", "port", "targetPort", "protocol", "appProtocol", "nodePort"];

/// The fields of an Endpoint of an EndpointSlice.
const SLICE_ENDPOINT: &[&str] = &[
    "addresses",
    "conditions",
    "targetRef",
    "nodeName",
    "zone",
    "hostname",
    "hints",
    "deprecatedTopology",
];

/// `spec` of a Service.
pub(super) fn service(root: &Fields<'_>) -> Service {
    let mut service = Service::default();
    let Some(spec) = root.get("spec").and_then(|at| at.fields(SERVICE)) else {
        missing(root, "spec", "the spec of the Service");
        return service;
    };
    let types = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
    service.service_type = match spec.get("type").and_then(|at| at.one_of(&types)) {
        Some(1) => ServiceType::NodePort,
        Some(2) => ServiceType::LoadBalancer,
        Some(3) => ServiceType::ExternalName,
        _ => ServiceType::ClusterIp,
    };
    service.external_name = spec.text("externalName");
    if service.service_type == ServiceType::ExternalName && service.external_name.is_empty() {
        missing(&spec, "externalName", "the externalName of a Service of that type");
    }
    let mut written: Vec<At<'_>> = spec.items("clusterIPs");
    if written.is_empty() {
        written.extend(spec.get("clusterIP"));
    } else if let Some(single) = spec.string("clusterIP")
        && let Some(first) = written.first()
        && let Some(text) = first.string()
        && text != single
    {
        first.report(
            Diagnostic::new(
                &syntax::BAD_ADDRESS,
                format!("clusterIPs begins with {text}, clusterIP is {single}"),
            )
            .help("the first of clusterIPs and clusterIP must be equal"),
        );
    }
    for at in written {
        match at.string() {
            Some("None") => service.headless = true,
            Some("") | None => {}
            Some(_) => service.cluster_ips.extend(address(&at)),
        }
    }
    service.external_ips = spec.items("externalIPs").iter().filter_map(address).collect();
    service.load_balancer_ips = root
        .get("status")
        .and_then(|at| at.any_fields()?.get("loadBalancer")?.any_fields())
        .map(|balancer| balancer.items("ingress"))
        .unwrap_or_default()
        .iter()
        .filter_map(|at| at.any_fields()?.get("ip"))
        .filter_map(|at| address(&at))
        .collect();
    service.selector = spec.labels("selector");
    service.internal_local = spec
        .get("internalTrafficPolicy")
        .and_then(|at| at.one_of(&["Cluster", "Local"]))
        .is_some_and(|policy| policy == 1);
    service.publish_not_ready = spec.flag("publishNotReadyAddresses");
    let distributions = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    service.traffic_distribution = spec
        .get("trafficDistribution")
        .and_then(|at| at.one_of(&distributions))
        .map(|which| match which {
            0 => TrafficDistribution::Close,
            1 => TrafficDistribution::SameZone,
            _ => TrafficDistribution::SameNode,
        });
    service_ports(&spec, &mut service);
    service
}

fn service_ports(spec: &Fields<'_>, service: &mut Service) {
    let ports = spec.items("ports");
    if ports.is_empty() && service.service_type != ServiceType::ExternalName && !service.headless {
        missing(spec, "ports", "the list of the Service's ports");
    }
    for at in &ports {
        let Some(fields) = at.fields(SERVICE_PORT) else { continue };
        if fields.get("port").is_none() {
            missing(&fields, "port", "the number of the Service's port");
        }
        let Some(port) = fields.port("port") else { continue };
        let name = fields.text("name");
        if name.is_empty() && ports.len() > 1 {
            missing(&fields, "name", "the port's name (needed as there are several ports)");
        }
        let protocol = protocol(&fields);
        if let Some(twin) = service.ports.iter().find(|p| {
            (!name.is_empty() && p.name == name) || (p.port == port && p.protocol == protocol)
        }) {
            at.complain(
                &syntax::OUT_OF_RANGE,
                format!(
                    "port {port} \"{name}\" repeats port {} \"{}\": names and numbers must differ",
                    twin.port, twin.name
                ),
            );
        }
        let target_port = match fields.get("targetPort") {
            None => TargetPort::Number(port),
            Some(target) => match target.node.as_str() {
                Some(name) => TargetPort::Name(name.to_owned()),
                None => match target.integer_in(0, 65535, "port") {
                    Some(0) | None => TargetPort::Number(port),
                    Some(number) => TargetPort::Number(u16::try_from(number).unwrap_or(port)),
                },
            },
        };
        service.ports.push(ServicePort {
            name,
            port,
            protocol,
            app_protocol: fields.string("appProtocol").map(str::to_owned),
            target_port,
            node_port: match fields.get("nodePort").and_then(|at| at.integer()) {
                Some(0) | None => None,
                Some(_) => fields.port("nodePort"),
            },
        });
    }
}

/// `protocol`, in upper case; `TCP` when absent.
fn protocol(fields: &Fields<'_>) -> String {
    match fields.get("protocol").and_then(|at| at.one_of(&["TCP", "UDP", "SCTP"])) {
        Some(1) => "UDP".to_owned(),
        Some(2) => "SCTP".to_owned(),
        _ => "TCP".to_owned(),
    }
}

/// An EndpointSlice, which has no `spec`.
pub(super) fn endpoint_slice(
    root: &Fields<'_>,
    service: Option<&str>,
    namespace: &str,
) -> EndpointSlice {
    let mut slice =
        EndpointSlice { service: service.unwrap_or_default().into(), ..Default::default() };
    match root.get("addressType") {
        Some(at) => {
            at.one_of(&["IPv4", "IPv6", "FQDN"]);
            slice.address_type = at.string().unwrap_or_default().to_owned();
        }
        None => missing(root, "addressType", "the address type (IPv4, IPv6 or FQDN)"),
    }
    for at in root.items("ports") {
        let known = &["name", "protocol", "port", "appProtocol"];
        let Some(fields) = at.fields(known) else { continue };
        let port = fields.get("port").is_some().then(|| fields.port("port"));
        if port == Some(None) {
            continue;
        }
        slice.ports.push(SlicePort {
            name: fields.text("name"),
            port: port.flatten(),
            protocol: protocol(&fields),
        });
    }
    let endpoints = root.items("endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        root.place("endpoints").complain(
            &syntax::OVER_LIMIT,
            format!("{} endpoints: a destination has at most {MAX_ENDPOINTS}", endpoints.len()),
        );
        return slice;
    }
    for at in endpoints {
        let Some(fields) = at.fields(SLICE_ENDPOINT) else { continue };
        slice.endpoints.push(slice_endpoint(&fields, &slice.address_type, namespace));
    }
    slice
}

fn slice_endpoint(fields: &Fields<'_>, address_type: &str, namespace: &str) -> SliceEndpoint {
    let known = &["ready", "serving", "terminating"];
    let conditions = fields.get("conditions").and_then(|at| at.fields(known));
    let condition = |name: &str| conditions.as_ref().and_then(|c| c.get(name)?.bool());
    let ready = condition("ready").unwrap_or(true);
    let addresses = match address_type {
        "IPv4" | "IPv6" => fields
            .items("addresses")
            .iter()
            .filter_map(|at| {
                let parsed = address(at)?;
                if parsed.is_ipv4() == (address_type == "IPv4") {
                    return Some(parsed);
                }
                at.complain(
                    &syntax::BAD_ADDRESS,
                    format!("{parsed} is not of the slice's addressType {address_type}"),
                );
                None
            })
            .collect(),
        _ => Vec::new(),
    };
    let pod = fields.get("targetRef").and_then(|at| at.any_fields()).and_then(|target| {
        if target.string("kind") != Some("Pod") {
            return None;
        }
        let name = target.string("name")?;
        Some((target.string("namespace").unwrap_or(namespace).into(), name.into()))
    });
    SliceEndpoint {
        addresses,
        ready,
        serving: condition("serving").unwrap_or(ready),
        terminating: condition("terminating").unwrap_or(false),
        pod,
        node: fields.string("nodeName").map(Arc::from),
        zone: fields.string("zone").map(Arc::from),
    }
}

/// A Pod: its `spec` and `status`.
pub(super) fn pod(root: &Fields<'_>, terminating: bool) -> Pod {
    let mut pod = Pod { terminating, ..Pod::default() };
    if let Some(spec) = root.get("spec").and_then(|at| at.any_fields()) {
        pod.node = spec.text("nodeName").into();
        pod.host_network = spec.flag("hostNetwork");
        for list in ["containers", "initContainers"] {
            for container in spec.items(list).iter().filter_map(At::any_fields) {
                for port in container.items("ports").iter().filter_map(At::any_fields) {
                    if let Some(name) = port.string("name").filter(|name| !name.is_empty())
                        && let Some(number) = port.port("containerPort")
                    {
                        pod.ports.push((name.to_owned(), number));
                    }
                }
            }
        }
    }
    let Some(status) = root.get("status").and_then(|at| at.any_fields()) else { return pod };
    pod.finished = matches!(status.string("phase"), Some("Succeeded" | "Failed"));
    pod.ips = status
        .items("podIPs")
        .iter()
        .filter_map(|at| at.any_fields()?.get("ip"))
        .filter_map(|at| address(&at))
        .collect();
    if pod.ips.is_empty() {
        pod.ips.extend(status.get("podIP").and_then(|at| address(&at)));
    }
    pod.ready = status.items("conditions").iter().filter_map(At::any_fields).any(|condition| {
        condition.string("type") == Some("Ready") && condition.string("status") == Some("True")
    });
    pod
}
