//! ServiceEntries, WorkloadEntries, DestinationRules, VirtualServices, Gateways.

use redirector_core::names::hosts_match;
use serde_json::{Map, Value, json};

use super::{
    Documents, ENDPOINTS, GATEWAYS, NAMES, NAMESPACES, PORTS, SUBNETS, Source, UNRESOLVED, address,
    export_to, labels,
};
use crate::support::random::Random;

const ENTRY_HOSTS: [&str; 5] =
    ["db.example.com", "x.example.com", UNRESOLVED, "a.default.svc.cluster.local", "*.example.com"];
const BLOCKS: [&str; 6] =
    ["10.96.0.0/24", "10.96.0.0/28", "10.0.0.0/8", "10.96.0.2", "fd00::/64", "fd00::2"];
const LOCALITIES: [&str; 5] = ["", "eu", "eu/eu-1", "us", "us/us-1/rack"];
/// The Gateways that there may be, as rules name them.
const GATEWAY_NAMES: [&str; 2] = ["foo/gw", "default/gw"];
/// Server names that rules of hosts ask for.
const SNI_LABEL: &str = "sni";

/// A host as a rule names it, in some namespace: mostly one that there is.
fn host(random: &mut Random, known: &[String]) -> String {
    if !known.is_empty() && !random.once_in(3) {
        return random.pick(known).clone();
    }
    match random.below(6) {
        0 => (*random.pick(&NAMES)).to_owned(),
        1..=3 => format!("{}.{}.svc.cluster.local", random.pick(&NAMES), random.pick(&NAMESPACES)),
        4 => (*random.pick(&ENTRY_HOSTS)).to_owned(),
        _ => {
            let wild = ["*.default.svc.cluster.local", "*.cluster.local", "*.com"];
            (*random.pick(&wild)).to_owned()
        }
    }
}

fn port(random: &mut Random, times: u64) -> Option<u16> {
    random.once_in(times).then(|| *random.pick(&PORTS))
}

impl Documents {
    pub(super) fn istio(&mut self, random: &mut Random) {
        for index in 0..random.below(4) {
            let parts = json!({
                "metadata": { "labels": labels(random, 1) },
                "spec": workload(random, &["tcp", "named", "p80"], false),
            });
            self.add(random, "WorkloadEntry", &format!("we-{index}"), parts);
        }
        for index in 0..random.below(5) {
            let namespace = *random.pick(&NAMESPACES);
            let parts = service_entry(random, namespace);
            self.add_to(random, "ServiceEntry", (namespace, &format!("se-{index}")), parts);
        }
        let known = self.hosts();
        for index in 0..random.below(6) {
            let namespace = *random.pick(&NAMESPACES);
            let parts = destination_rule(random, namespace, &known);
            self.add_to(random, "DestinationRule", (namespace, &format!("dr-{index}")), parts);
        }
        if random.once_in(2) {
            self.gateways(random);
        }
        for index in 0..1 + random.below(4) {
            let namespace = *random.pick(&NAMESPACES);
            let parts = virtual_service(random, namespace, !self.gateways.is_empty(), &known);
            self.add_to(random, "VirtualService", (namespace, &format!("vs-{index}")), parts);
        }
    }

    /// The hosts of the Services and ServiceEntries so far.
    fn hosts(&self) -> Vec<String> {
        let services = self.named("Service").into_iter();
        let services =
            services.map(|(namespace, name)| format!("{name}.{namespace}.svc.cluster.local"));
        let entries = self.documents.iter().filter(|one| one["kind"] == "ServiceEntry");
        let hosts = entries.flat_map(|one| one["spec"]["hosts"].as_array().into_iter().flatten());
        services.chain(hosts.filter_map(|host| host.as_str().map(str::to_owned))).collect()
    }

    /// Gateways, what serves them, and a Service that maps their ports.
    fn gateways(&mut self, random: &mut Random) {
        for (index, at) in random.some(&GATEWAYS, 2).into_iter().enumerate() {
            let (namespace, name) = (*random.pick(&NAMESPACES), format!("edge-{index}"));
            let mut carried = labels(random, 2);
            carried.insert("istio", "edge");
            let parts = json!({
                "metadata": { "annotations": { "redirector.io/gateway": "true" } },
                "spec": { "address": at, "labels": carried, "ports": { "named": 15_443 } },
            });
            self.add_to(random, "WorkloadEntry", (namespace, &name), parts);
            if random.once_in(3) {
                let ports = random.some(&PORTS, 2);
                let target = random.pick(&[json!(15_000), json!("named")]).clone();
                let ports: Vec<Value> = ports
                    .into_iter()
                    .take(1)
                    .map(|port| json!({ "name": "tcp", "port": port, "targetPort": target }))
                    .collect();
                if !ports.is_empty() {
                    let parts = json!({
                        "spec": { "selector": { "istio": "edge" }, "ports": ports },
                    });
                    self.add_to(random, "Service", (namespace, "edge"), parts);
                }
            }
            self.gateways.push(Source {
                namespace: namespace.to_owned(),
                name,
                labels: carried,
                addresses: vec![address(at)],
            });
        }
        for full in GATEWAY_NAMES {
            let Some((namespace, name)) = full.split_once('/') else { continue };
            if random.once_in(5) {
                continue;
            }
            let servers: Vec<Value> =
                (0..1 + random.below(3)).map(|index| server(random, index)).collect();
            let selector = match random.below(4) {
                0 => Value::Null,
                1 => json!({ "istio": "edge", "app": "v1" }),
                _ => json!({ "istio": "edge" }),
            };
            let parts = json!({ "spec": { "selector": selector, "servers": servers } });
            self.add_to(random, "Gateway", (namespace, name), parts);
        }
    }
}

fn server(random: &mut Random, index: u64) -> Value {
    let (protocol, tls) = match random.below(8) {
        0 => ("TLS", json!({ "mode": "SIMPLE", "credentialName": "c" })),
        1..=3 => ("TLS", json!({ "mode": "PASSTHROUGH" })),
        4 => ("HTTP", Value::Null),
        _ => ("TCP", Value::Null),
    };
    let hosts = [
        "*",
        "*.example.com",
        "a.default.svc.cluster.local",
        "./*",
        "foo/*",
        "*/x.example.com",
        "foo/*.cluster.local",
    ];
    let hosts = random.some(&hosts, 2);
    let all = hosts.is_empty() || random.once_in(2);
    json!({
        "port": {
            "number": random.pick(&PORTS),
            "name": format!("server-{index}"),
            "protocol": protocol,
        },
        "bind": random.pick(&[None, None, None, Some(GATEWAYS[0]), Some("0.0.0.0")]),
        "hosts": if all { vec!["*"] } else { hosts },
        "tls": tls,
    })
}

/// A workload: `ports` are the names that it may give numbers to.
fn workload(random: &mut Random, ports: &[&str], names: bool) -> Value {
    let given = random.some(ports, 1);
    let number = *random.pick(&[7001, 7002]);
    let given: Map<String, Value> =
        given.into_iter().map(|name| (name.to_owned(), json!(number))).collect();
    let name = names && random.once_in(2);
    let address = if name {
        *random.pick(&["db.example.com", "x.example.com", UNRESOLVED])
    } else if random.once_in(3) {
        // Several on one machine, which their ports tell apart.
        ENDPOINTS[0]
    } else {
        *random.pick(&ENDPOINTS)
    };
    json!({
        "address": address,
        "ports": given,
        "labels": labels(random, 2),
        "locality": random.pick(&LOCALITIES),
        "network": random.pick(&[None, None, None, Some("net")]),
        "weight": random.pick(&[None, Some(0), Some(1), Some(2), Some(3)]),
    })
}

fn service_entry(random: &mut Random, namespace: &str) -> Value {
    let resolution =
        *random.pick(&["NONE", "STATIC", "STATIC", "STATIC", "DNS", "DNS", "DNS_ROUND_ROBIN"]);
    let (dns, round_robin) = (resolution.starts_with("DNS"), resolution == "DNS_ROUND_ROBIN");
    let mut host = *random.pick(&ENTRY_HOSTS);
    // What says where its endpoints are: itself, others, or a selector.
    let by_itself = dns && random.once_in(2);
    if by_itself && host.starts_with('*') {
        host = "db.example.com";
    }
    let mut ports: Vec<Value> = Vec::new();
    let sole = random.once_in(3);
    for number in PORTS {
        if random.once_in(2) && !(sole && ports.is_empty()) {
            continue;
        }
        let target = resolution != "NONE" && random.once_in(4);
        ports.push(json!({
            "number": number,
            "name": format!("p{number}"),
            "protocol": random.pick(&["TCP", "TCP", "TCP", "HTTP", "TLS", "TLS", "UDP"]),
            "targetPort": target.then_some(7000),
        }));
        if sole {
            break;
        }
    }
    if ports.is_empty() {
        ports.push(json!({ "number": 80, "name": "p80" }));
    }
    let names: Vec<String> =
        ports.iter().filter_map(|port| port["name"].as_str().map(str::to_owned)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let selected = resolution == "STATIC" && random.once_in(3);
    let most = if round_robin { 1 } else { 3 };
    let count = match () {
        () if resolution == "NONE" || by_itself || selected => 0,
        // A wildcard is no name to resolve.
        () if dns => 1 + random.below(most),
        () => random.below(most + 1),
    };
    let endpoints: Vec<Value> = (0..count)
        .map(|_| {
            if resolution == "STATIC" && ports.len() == 1 && random.once_in(5) {
                return json!({ "address": "unix:///run/db.sock", "labels": labels(random, 1) });
            }
            workload(random, &names, dns)
        })
        .collect();
    let mut addresses = random.some(&BLOCKS, 2);
    if dns {
        addresses.retain(|one| !one.contains('/'));
    }
    let export =
        if random.once_in(12) { Some(vec!["~".to_owned()]) } else { export_to(random, namespace) };
    let selector = selected.then(|| {
        let mut labels = labels(random, 1);
        if !labels.contains_key("version") {
            labels.insert("version", "v1");
        }
        json!({ "labels": labels })
    });
    let allocated = random.once_in(4).then(|| {
        let host = random.once_in(2).then_some(host);
        json!({ "addresses": [{ "host": host, "value": "240.240.0.1" }] })
    });
    let claims = if random.once_in(2) { "true" } else { "false" };
    json!({
        "metadata": { "annotations": { "redirector.io/claim-port": claims } },
        "status": allocated,
        "spec": {
            "hosts": [host],
            "addresses": addresses,
            "ports": ports,
            "resolution": resolution,
            "endpoints": if endpoints.is_empty() { Value::Null } else { json!(endpoints) },
            "workloadSelector": selector,
            "exportTo": export,
        },
    })
}

fn destination_rule(random: &mut Random, namespace: &str, known: &[String]) -> Value {
    let mut subsets = Vec::new();
    for name in ["v1", "v2"] {
        if random.once_in(4) {
            continue;
        }
        let labels = if random.once_in(6) { json!({}) } else { json!({ "version": name }) };
        let policy = if random.once_in(3) { policy(random) } else { Value::Null };
        subsets.push(json!({ "name": name, "labels": labels, "trafficPolicy": policy }));
    }
    let selector = random.once_in(4).then(|| {
        let mut labels = labels(random, 1);
        if !labels.contains_key("app") {
            labels.insert("app", "v1");
        }
        json!({ "matchLabels": labels })
    });
    let export = match &selector {
        Some(_) => random.once_in(2).then(|| vec![".".to_owned()]),
        None => export_to(random, namespace),
    };
    json!({
        "spec": {
            "host": host(random, known),
            "trafficPolicy": policy(random),
            "subsets": subsets,
            "exportTo": export,
            "workloadSelector": selector,
        },
    })
}

fn policy(random: &mut Random) -> Value {
    let outlier = json!({ "consecutive5xxErrors": 3 });
    match random.below(16) {
        0 => json!({ "tls": { "mode": random.pick(&["SIMPLE", "DISABLE", "ISTIO_MUTUAL"]) } }),
        1 => json!({ "loadBalancer": { "simple": "PASSTHROUGH" } }),
        2 => {
            let balancers = [
                json!({ "simple": "ROUND_ROBIN" }),
                json!({ "simple": "RANDOM" }),
                json!({ "simple": "LEAST_REQUEST" }),
                json!({ "consistentHash": { "useSourceIp": true } }),
            ];
            json!({ "loadBalancer": random.pick(&balancers) })
        }
        3 => {
            let setting = match random.below(3) {
                0 => json!({ "tls": { "mode": "SIMPLE" } }),
                1 => json!({ "tls": { "mode": "DISABLE" } }),
                _ => json!({ "loadBalancer": { "simple": "PASSTHROUGH" } }),
            };
            let mut setting = setting;
            setting["port"] = json!({ "number": random.pick(&PORTS) });
            let mut policy = json!({ "portLevelSettings": [setting] });
            if random.once_in(2) {
                policy["proxyProtocol"] = json!({ "version": "V2" });
            }
            policy
        }
        4 => json!({ "outlierDetection": outlier }),
        5 => json!({
            "loadBalancer": { "localityLbSetting": distribution(random) },
            "outlierDetection": if random.once_in(2) { outlier } else { Value::Null },
        }),
        6 | 7 => json!({
            "loadBalancer": { "localityLbSetting": failover(random) },
            "outlierDetection": outlier,
        }),
        8 => {
            let tunnel = json!({ "targetHost": "db.example.com", "targetPort": 80 });
            match random.below(2) {
                0 => json!({ "tunnel": tunnel }),
                _ => json!({ "proxyProtocol": { "version": "V2" } }),
            }
        }
        9 => json!({ "connectionPool": { "tcp": { "maxConnections": 3 } } }),
        _ => Value::Null,
    }
}

fn distribution(random: &mut Random) -> Value {
    let to = [
        json!({ "eu/eu-1": 70, "us": 30 }),
        json!({ "eu/*": 100 }),
        json!({ "eu": 20, "us/*": 80 }),
    ];
    let from = *random.pick(&["eu", "*", "us/*"]);
    json!({ "distribute": [{ "from": from, "to": random.pick(&to) }] })
}

fn failover(random: &mut Random) -> Value {
    let to = json!({ "from": "eu", "to": random.pick(&["us", "asia"]) });
    let failover = random.once_in(2);
    let mut by =
        vec!["version=v1", "app=v2", "kubernetes.io/hostname", "topology.istio.io/network=net"];
    if !failover {
        by.push("topology.kubernetes.io/region");
    }
    json!({
        "enabled": random.pick(&[None, None, Some(true), Some(false)]),
        "failover": if failover { json!([to]) } else { Value::Null },
        "failoverPriority": random.some(&by, 2),
    })
}

fn virtual_service(
    random: &mut Random,
    namespace: &str,
    gateways: bool,
    known: &[String],
) -> Value {
    // Most are for gateways where there are any.
    let bound: Vec<&str> = match random.below(if gateways { 8 } else { 20 }) {
        0 | 1 => vec!["foo/gw"],
        2 => vec!["foo/gw", "mesh"],
        3 => vec!["default/gw"],
        4 => vec!["default/gw", "foo/gw"],
        5 => vec!["mesh", "gw"],
        _ => Vec::new(),
    };
    let in_mesh = bound.is_empty() || bound.contains(&"mesh");
    let mut hosts = vec![host(random, known)];
    if random.once_in(3) {
        let other = host(random, known);
        if !hosts_match(&hosts[0], &other) {
            hosts.push(other);
        }
    }
    if !in_mesh && !random.once_in(3) {
        hosts = vec!["*".to_owned()];
    }
    let mut spec = json!({
        "hosts": hosts,
        "gateways": bound,
        "exportTo": export_to(random, namespace),
    });
    let tcp: Vec<Value> = (0..random.below(5)).map(|_| tcp_rule(random, known)).collect();
    let tls: Vec<Value> = match random.below(if in_mesh { 3 } else { 2 }) {
        0 => (0..1 + random.below(3)).map(|_| tls_rule(random, &hosts, known)).collect(),
        _ => Vec::new(),
    };
    let http: Vec<Value> = if tcp.is_empty() && tls.is_empty() || random.once_in(8) {
        (0..1 + random.below(2)).map(|_| http_rule(random, known)).collect()
    } else {
        Vec::new()
    };
    for (list, rules) in [("tcp", tcp), ("tls", tls), ("http", http)] {
        if !rules.is_empty() {
            spec[list] = json!(rules);
        }
    }
    json!({ "spec": spec })
}

fn tcp_rule(random: &mut Random, known: &[String]) -> Value {
    let blocks: Vec<Value> = (0..random.below(3))
        .map(|_| {
            let mut block = conditions(random);
            if random.once_in(6) {
                block["sourceSubnet"] = json!(random.pick(&["10.244.0.0/31", "fd00:244::/64"]));
            }
            block
        })
        .collect();
    json!({ "match": blocks, "route": route(random, known) })
}

fn tls_rule(random: &mut Random, hosts: &[String], known: &[String]) -> Value {
    let blocks: Vec<Value> = (0..1 + random.below(2))
        .map(|_| {
            let mut block = conditions(random);
            let host = random.pick(hosts);
            let under = |suffix: &str| format!("{SNI_LABEL}{suffix}");
            block["sniHosts"] = json!(match host.strip_prefix('*') {
                Some("") => vec![format!("{SNI_LABEL}.example.com")],
                Some(suffix) if random.once_in(2) => vec![under(suffix)],
                _ => vec![host.clone()],
            });
            block
        })
        .collect();
    json!({ "match": blocks, "route": route(random, known) })
}

fn http_rule(random: &mut Random, known: &[String]) -> Value {
    let matches = random.once_in(4).then(|| json!([{ "uri": { "prefix": "/" } }]));
    let timeout = random.once_in(8).then_some("5s");
    json!({ "match": matches, "timeout": timeout, "route": route(random, known) })
}

fn conditions(random: &mut Random) -> Value {
    let mut block = json!({});
    if random.once_in(2) {
        block["destinationSubnets"] = json!(random.some(&SUBNETS, 2));
    }
    block["port"] = json!(port(random, 3));
    if random.once_in(3) {
        block["sourceLabels"] = json!(labels(random, 2));
    }
    if random.once_in(6) {
        block["gateways"] = json!([random.pick(&["mesh", "foo/gw", "gw"])]);
    }
    if random.once_in(4) {
        block["sourceNamespace"] = json!(random.pick(&NAMESPACES));
    }
    block
}

fn route(random: &mut Random, known: &[String]) -> Value {
    let count = 1 + random.below(3);
    let mut total = 0;
    let mut entries: Vec<Value> = Vec::new();
    for index in 0..count {
        let mut weight = random.below(4);
        if index + 1 == count && total + weight == 0 && count > 1 {
            weight = 1;
        }
        total += weight;
        let number = port(random, 3).map(|number| json!({ "number": number }));
        let host = host(random, known);
        entries.push(json!({
            "destination": {
                "host": host,
                "subset": random.pick(&[None, None, None, Some("v1"), Some("v2"), Some("none")]),
                "port": number,
            },
            "weight": weight,
        }));
    }
    json!(entries)
}

/// Server names worth saying at a gateway.
pub(super) fn server_names() -> Vec<Option<String>> {
    let mut names = vec![None, Some("db.example.com".to_owned())];
    for suffix in [".example.com", ".default.svc.cluster.local", ".com"] {
        names.push(Some(format!("{SNI_LABEL}{suffix}")));
    }
    names.push(Some("a.default.svc.cluster.local".to_owned()));
    names
}
