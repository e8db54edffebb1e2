//! Random Worlds, as the documents that people would write: everything in them
//! is admitted, and as much as possible meets.

mod istio;
mod kubernetes;

use std::net::IpAddr;

use redirector_core::diag::Severity;
use redirector_core::documents::{self, Reading};
use redirector_core::model::bypass::Bypass;
use redirector_core::model::{Labels, ObjectRef, SourceId};
use redirector_core::world::{Answer, ServiceAddresses, Settings, World};
use serde_json::{Value, json};

use super::random::Random;

pub const NAMESPACES: [&str; 4] = ["default", "foo", "bar", "istio-system"];
pub const PORTS: [u16; 4] = [80, 81, 82, 83];

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const PODS: [&str; 4] = ["p0", "p1", "p2", "p3"];
const CLUSTER: [&str; 8] = [
    "10.96.0.1",
    "10.96.0.2",
    "10.96.0.3",
    "10.96.0.9",
    "10.96.1.1",
    "fd00::1",
    "fd00::2",
    "fd00::100",
];
const ENDPOINTS: [&str; 7] = [
    "10.244.0.1",
    "10.244.0.2",
    "10.244.0.3",
    "10.244.0.4",
    "10.244.1.1",
    "fd00:244::1",
    "fd00:244::2",
];
const SUBNETS: [&str; 14] = [
    "10.96.0.0/16",
    "10.96.0.0/28",
    "10.96.0.0/29",
    "10.96.0.1",
    "10.96.0.2/32",
    "10.0.0.0/8",
    "0.0.0.0/0",
    "10.244.0.0/24",
    "10.244.0.0/31",
    "fd00::/16",
    "fd00::/120",
    "fd00::1",
    "fd00:244::/64",
    "::/0",
];

/// Where gateway workloads are reached.
const GATEWAYS: [&str; 3] = ["198.51.100.1", "198.51.100.2", "fd00:9::1"];

/// What the node may have: of an endpoint, of nobody, and what no machine lacks.
const NODE: [&str; 4] = ["192.0.2.7", "10.7.7.7", "fd00:244::1", "127.0.0.1"];

/// Names that a resolver knows, with what it says now and what it said before, and one
/// that it does not. Some of that is never taken, and some is of two names.
const RESOLVED: [(&str, &[&str], &[&str]); 2] = [
    (
        "db.example.com",
        &["192.0.2.1", "192.0.2.2", "fd00:192::1", "10.96.0.2", "127.0.0.1", "fe80::1"],
        &["10.7.7.7"],
    ),
    ("x.example.com", &["192.0.2.3", "192.0.2.2"], &["fd00:192::1"]),
];
const UNRESOLVED: &str = "nowhere.example.com";

/// Addresses worth dialling: all that anything can own, and neighbours.
pub fn dials() -> Vec<IpAddr> {
    let more = [
        "10.7.7.7",
        "192.0.2.1",
        "192.0.2.2",
        "192.0.2.3",
        "192.0.2.7",
        "127.0.0.1",
        "169.254.1.1",
        "fe80::1",
        "fd00:192::1",
        "240.240.0.1",
    ];
    CLUSTER.iter().chain(&ENDPOINTS).chain(&more).map(|one| address(one)).collect()
}

/// A World of random documents.
pub fn random_world(random: &mut Random) -> World {
    Documents::random(random).world()
}

/// Tells a World what its names resolve to.
pub fn resolve(world: &mut World) {
    for (name, addresses, former) in RESOLVED {
        let [addresses, former] =
            [addresses, former].map(|all| all.iter().map(|one| address(one)).collect());
        world.set_resolved(name, Answer { addresses, former });
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A client of a random World: namespace, name, labels, addresses.
#[derive(Clone, Debug)]
pub struct Source {
    pub namespace: String,
    pub name: String,
    pub labels: Labels,
    pub addresses: Vec<IpAddr>,
}

impl Source {
    pub fn id(&self) -> SourceId {
        SourceId { namespace: self.namespace.as_str().into(), name: self.name.as_str().into() }
    }
}

/// Documents, and what else decides what they mean.
#[derive(Clone, Debug)]
pub struct Documents {
    /// Each document as JSON, which is YAML.
    pub documents: Vec<Value>,
    pub settings: Settings,
    /// The local workloads.
    pub sources: Vec<Source>,
    /// The workloads that serve Gateways.
    pub gateways: Vec<Source>,
}

impl Documents {
    /// A few of everything, and local workloads.
    pub fn random(random: &mut Random) -> Self {
        let settings = Settings {
            node_name: random.pick(&[None, Some("n1".to_owned())]).clone(),
            services: *random.pick(&[ServiceAddresses::Own, ServiceAddresses::Leave]),
            ..Settings::default()
        };
        let mut made =
            Self { documents: Vec::new(), settings, sources: Vec::new(), gateways: Vec::new() };
        made.kubernetes(random);
        made.istio(random);
        made.sources(random);
        if random.once_in(3) {
            made.settings.bypass = made.bypass(random);
        }
        if made.settings.node_name.is_some() {
            made.settings.set_node_addresses(NODE.map(address));
        }
        made
    }

    /// As the text of a file.
    pub fn text(&self) -> String {
        self.documents.iter().map(|document| format!("---\n{document}\n")).collect()
    }

    /// What is read of them.
    pub fn reading(&self) -> Reading {
        documents::read(Some("random.yaml".into()), &self.text())
    }

    /// The World of them, its names resolved; nothing in it may be refused.
    pub fn world(&self) -> World {
        self.world_of(&self.reading())
    }

    /// As [`world`](Self::world), of what is read already.
    pub fn world_of(&self, reading: &Reading) -> World {
        let mut world = World::new(self.settings.clone());
        for read in &reading.objects {
            let Some(object) = &read.object else {
                let errors = reading.diagnostics.iter();
                let errors: Vec<_> =
                    errors.filter(|finding| finding.severity == Severity::Error).collect();
                panic!("{:?} is refused: {errors:#?}", read.reference)
            };
            world.insert(object.clone());
        }
        resolve(&mut world);
        world
    }

    /// The namespaces and names of a kind's objects.
    pub fn named(&self, kind: &str) -> Vec<(String, String)> {
        let of_kind = self.documents.iter().filter(|document| document["kind"] == kind);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        of_kind
            .map(|one| (text(&one["metadata"]["namespace"]), text(&one["metadata"]["name"])))
            .collect()
    }

    fn add(&mut self, random: &mut Random, kind: &str, name: &str, parts: Value) {
        let namespace = *random.pick(&NAMESPACES);
        self.add_to(random, kind, (namespace, name), parts);
    }

    /// A document; `parts` are its top-level fields but for those that all have.
    fn add_to(
        &mut self,
        random: &mut Random,
        kind: &str,
        (namespace, name): (&str, &str),
        parts: Value,
    ) {
        let version = match kind {
            "Service" | "Pod" | "Node" => "v1",
            "EndpointSlice" => "discovery.k8s.io/v1",
            _ => "networking.istio.io/v1",
        };
        let created = random.pick(&[None, Some(1), Some(1), Some(2), Some(3)]);
        let created = created.map(|second| format!("1970-01-01T00:00:0{second}Z"));
        let mut document = json!({
            "apiVersion": version,
            "kind": kind,
            "metadata": { "name": name, "namespace": namespace, "creationTimestamp": created },
        });
        merge(&mut document, parts);
        prune(&mut document);
        // The last of two with one name would count, and so only that one is kept.
        let same = |other: &Value| {
            ["name", "namespace"].iter().all(|part| {
                other["kind"] == kind && other["metadata"][part] == document["metadata"][part]
            })
        };
        self.documents.retain(|other| !same(other));
        self.documents.push(document);
    }

    /// Local workloads: of WorkloadEntries that name a cgroup, and of a Pod.
    fn sources(&mut self, random: &mut Random) {
        for index in 0..3 {
            let (namespace, name) = (*random.pick(&NAMESPACES), format!("client-{index}"));
            let (labels, more) = (labels(random, 2), labels(random, 1));
            let pod = index == 0 && self.settings.node_name.is_some();
            let addresses = random.some(&ENDPOINTS, if pod { 2 } else { 1 });
            let (of_pod, of_entry) = (json!({ "labels": labels }), json!({ "labels": more }));
            if pod {
                let ips: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
                let mut parts = json!({
                    "metadata": of_pod,
                    "spec": { "nodeName": "n1", "containers": [] },
                    "status": { "podIPs": ips, "conditions": kubernetes::ready(random) },
                });
                parts["metadata"]["uid"] = json!(format!("0f1e-{index}"));
                self.add_to(random, "Pod", (namespace, &name), parts);
            } else {
                let mut parts = json!({
                    "metadata": of_entry,
                    "spec": {
                        "address": addresses.first().unwrap_or(&"198.51.100.99"),
                        "labels": labels,
                        "locality": random.pick(&[None, None, Some("eu/eu-1")]),
                    },
                });
                let cgroup = format!("test/{namespace}/{name}");
                parts["metadata"]["annotations"] = json!({ "redirector.io/cgroup": cgroup });
                self.add_to(random, "WorkloadEntry", (namespace, &name), parts);
            }
            let addresses = match (addresses.is_empty(), pod) {
                (true, false) => vec![address("198.51.100.99")],
                _ => addresses.into_iter().map(address).collect(),
            };
            let mut carried = labels;
            if !pod {
                carried.extend(&more);
            }
            let namespace = namespace.to_owned();
            self.sources.push(Source { namespace, name, labels: carried, addresses });
        }
    }

    /// A workload, a rule or both that are left alone.
    fn bypass(&self, random: &mut Random) -> Bypass {
        let rules = self.named("VirtualService").into_iter().map(|(namespace, name)| ObjectRef {
            kind: redirector_core::model::Kind::VirtualService,
            namespace: namespace.into(),
            name: name.into(),
        });
        Bypass {
            workloads: self.sources.iter().map(Source::id).filter(|_| random.once_in(3)).collect(),
            rules: rules.filter(|_| random.once_in(3)).collect(),
        }
    }
}

/// Leaves out what is null: it was not said.
fn prune(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(prune);
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

/// Puts the fields of one map into another, maps within likewise.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn labels(random: &mut Random, most: u64) -> Labels {
    (0..random.below(most + 1))
        .map(|_| (*random.pick(&["app", "version"]), *random.pick(&["v1", "v2"])))
        .collect()
}

/// `exportTo` of an object of this namespace.
fn export_to(random: &mut Random, namespace: &str) -> Option<Vec<String>> {
    let list = match random.below(9) {
        0 => vec!["."],
        1 => vec!["*"],
        2 | 3 => {
            let others: Vec<&str> =
                NAMESPACES.into_iter().filter(|other| *other != namespace).collect();
            let mut list = random.some(&others, 2);
            if random.once_in(2) {
                list.push(if random.once_in(2) { "." } else { namespace });
            }
            list
        }
        _ => return None,
    };
    Some(list.into_iter().map(str::to_owned).collect())
}

/// Server names worth saying at a gateway, and none.
pub fn server_names() -> Vec<Option<String>> {
    istio::server_names()
}
