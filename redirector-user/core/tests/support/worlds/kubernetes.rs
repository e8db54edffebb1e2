//! Nodes, Services, EndpointSlices, Pods.

use serde_json::{Value, json};

use super::{CLUSTER, Documents, ENDPOINTS, NAMES, NAMESPACES, PODS, PORTS, export_to, labels};
use crate::support::random::Random;

/// The names of the ports of [`PORTS`], where a Service has several.
const PORT_NAMES: [&str; 4] = ["tcp", "db", "http-x", "tcp-b"];

impl Documents {
    pub(super) fn kubernetes(&mut self, random: &mut Random) {
        for (name, region, zone) in [("n1", "eu", "eu-1"), ("n2", "us", "us-1")] {
            if !random.once_in(4) {
                let labels = match random.below(3) {
                    0 => json!({
                        "failure-domain.beta.kubernetes.io/region": region,
                        "failure-domain.beta.kubernetes.io/zone": zone,
                    }),
                    _ => json!({
                        "topology.kubernetes.io/region": region,
                        "topology.kubernetes.io/zone": zone,
                    }),
                };
                let parts = json!({ "metadata": { "labels": labels } });
                self.add_to(random, "Node", ("", name), parts);
            }
        }
        for _ in 0..random.below(6) {
            let parts = pod(random);
            let name = *random.pick(&PODS);
            self.add(random, "Pod", name, parts);
        }
        for _ in 0..1 + random.below(6) {
            let (namespace, name) = (*random.pick(&NAMESPACES), *random.pick(&NAMES));
            let parts = service(random, namespace);
            let names: Vec<Value> = parts["spec"]["ports"]
                .as_array()
                .map(|ports| ports.iter().map(|port| port["name"].clone()).collect())
                .unwrap_or_default();
            self.add_to(random, "Service", (namespace, name), parts);
            for index in 0..random.below(3) {
                let parts = slice(random, name, &names);
                self.add_to(
                    random,
                    "EndpointSlice",
                    (namespace, &format!("{name}-{index}")),
                    parts,
                );
            }
        }
    }
}

pub(super) fn ready(random: &mut Random) -> Value {
    let status = if random.once_in(4) { "False" } else { "True" };
    json!([{ "type": "Ready", "status": status }])
}

fn pod(random: &mut Random) -> Value {
    let ips = random.some(&ENDPOINTS, 2);
    let ips: Vec<Value> = ips.into_iter().map(|ip| json!({ "ip": ip })).collect();
    let mut labels = labels(random, 2);
    if random.once_in(6) {
        labels.insert("istio-locality", "eu.eu-1.rack");
    }
    let deleted = random.once_in(8).then_some("1970-01-01T01:00:00Z");
    json!({
        "metadata": { "labels": labels, "deletionTimestamp": deleted },
        "spec": { "nodeName": random.pick(&["n1", "n2", "n3"]), "containers": [] },
        "status": {
            "podIPs": ips,
            "phase": if random.once_in(8) { "Succeeded" } else { "Running" },
            "conditions": ready(random),
        },
    })
}

fn service(random: &mut Random, namespace: &str) -> Value {
    let mut ports: Vec<Value> = Vec::new();
    let sole = random.once_in(4);
    for (port, name) in PORTS.iter().zip(PORT_NAMES) {
        if random.once_in(2) {
            continue;
        }
        ports.push(json!({
            "name": name,
            "port": port,
            "protocol": if random.once_in(12) { "UDP" } else { "TCP" },
            "appProtocol": random.pick(&[None, None, None, None, Some("tcp"), Some("https")]),
            "targetPort": random.pick(&[Value::Null, json!(9000), json!("named")]),
        }));
        if sole {
            break;
        }
    }
    if ports.is_empty() {
        ports.push(json!({ "port": PORTS[1] }));
    }
    if sole && random.once_in(2) {
        ports[0]["name"] = Value::Null;
    }
    let mut spec = json!({
        "ports": ports,
        "selector": labels(random, 1),
        "internalTrafficPolicy": random.once_in(8).then_some("Local"),
        "publishNotReadyAddresses": random.once_in(8),
        "trafficDistribution": random.once_in(8).then(|| {
            random.pick(&["PreferClose", "PreferSameZone", "PreferSameNode"])
        }),
    });
    match random.below(12) {
        0 => {
            spec["type"] = json!("ExternalName");
            let hosts = ["db.example.com", "a.default.svc.cluster.local", "nobody.example.com"];
            spec["externalName"] = json!(random.pick(&hosts));
            if random.once_in(3) {
                spec["ports"] = Value::Null;
            }
        }
        1 | 2 => spec["clusterIP"] = json!("None"),
        // A document without its addresses.
        3 => {}
        _ => {
            let (v4, v6): (Vec<&str>, Vec<&str>) = CLUSTER.iter().partition(|ip| ip.contains('.'));
            // One address, or one of each family.
            let family = if random.once_in(4) { &v6 } else { &v4 };
            let mut ips = vec![*random.pick(family)];
            if random.once_in(3) {
                let other = if ips[0].contains('.') { &v6 } else { &v4 };
                ips.push(*random.pick(other));
            }
            spec["clusterIP"] = json!(ips[0]);
            spec["clusterIPs"] = json!(ips);
        }
    }
    let export = match random.below(12) {
        0 => Some("~".to_owned()),
        _ => export_to(random, namespace).map(|list| list.join(", ")),
    };
    json!({
        "metadata": { "annotations": { "networking.istio.io/exportTo": export } },
        "spec": spec,
    })
}

fn slice(random: &mut Random, service: &str, names: &[Value]) -> Value {
    let v6 = random.once_in(4);
    let pool: Vec<&str> = ENDPOINTS.into_iter().filter(|ip| ip.contains('.') != v6).collect();
    let ports: Vec<Value> = names
        .iter()
        .filter(|_| !random.once_in(6))
        .enumerate()
        .map(|(index, name)| json!({ "name": name, "port": 9000 + index, "protocol": "TCP" }))
        .collect();
    let count = random.below(4);
    let endpoints: Vec<Value> = (0..count)
        .map(|_| {
            let pod = random.once_in(2).then(|| *random.pick(&PODS));
            json!({
                "addresses": [random.pick(&pool)],
                "conditions": {
                    "ready": !random.once_in(6),
                    "terminating": random.once_in(10),
                },
                "targetRef": pod.map(|name| json!({ "kind": "Pod", "name": name })),
                "nodeName": random.pick(&[None, Some("n1"), Some("n2")]),
                "zone": random.pick(&[None, None, Some("eu-1"), Some("us-1")]),
            })
        })
        .collect();
    json!({
        "metadata": { "labels": { "kubernetes.io/service-name": service } },
        "addressType": if v6 { "IPv6" } else { "IPv4" },
        "ports": ports,
        "endpoints": endpoints,
    })
}
