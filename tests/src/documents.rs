//! Random configurations, as the documents that a user would write.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use redirector::source::parse;
use redirector_core::compile::compile;
use redirector_core::model::SourceId;
use redirector_core::plan::{Plan, Verdict};
use redirector_core::store::Store;
use redirector_core::world::{ServiceAddresses, Settings, World};

use crate::random::Random;

/// The ports that clients dial.
pub const PORTS: [u16; 3] = [80, 443, 19000];

/// Services of each configuration.
const SERVICES: u64 = 8;
const NAMESPACES: [&str; 3] = ["default", "foo", "bar"];
const VERSIONS: [&str; 3] = ["v1", "v2", "v3"];
/// Nested, around what is dialled.
const SUBNETS: [&str; 9] = [
    "10.96.0.0/16",
    "10.96.0.0/27",
    "10.96.0.8/29",
    "10.96.0.12/30",
    "10.96.0.16/28",
    "10.96.0.20/32",
    "fd96::/64",
    "fd96::/123",
    "fd96::10/126",
];

/// What a configuration is made from.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The local workloads, and the cgroup that each is known by.
    pub sources: Vec<(SourceId, String)>,
    /// The ports that endpoints listen on.
    pub endpoint_ports: Vec<u16>,
}

/// An address that clients dial: in a small range, so that networks nest.
pub fn dialled(random: &mut Random) -> SocketAddr {
    let port = *random.pick(&PORTS);
    SocketAddr::new(address(random.below(64), random.below(3) == 0), port)
}

fn address(host: u64, v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, host as u16).into()
    } else {
        Ipv4Addr::new(10, 96, 0, host as u8).into()
    }
}

fn endpoint(random: &mut Random, v6: bool) -> IpAddr {
    let host = 1 + random.below(250) as u8;
    if v6 {
        Ipv6Addr::new(0xfd97, 0, 0, 0, 0, 0, 0, u16::from(host)).into()
    } else {
        Ipv4Addr::new(127, 97, 0, host).into()
    }
}

/// The World of random documents, by the daemon's own way: text, documents, World.
///
/// # Panics
///
/// When one of the documents is refused: each is good.
pub fn world(random: &mut Random, shape: &Shape) -> World {
    let services = *random.pick(&[ServiceAddresses::Own, ServiceAddresses::Leave]);
    let text = text(random, shape);
    let mut store = Store::default();
    let file: Arc<str> = "random.yaml".into();
    store.put(&file, parse(&file, text.as_bytes()));
    let refused = store.rejected();
    assert!(refused.is_empty(), "{refused:?}\n{text}");
    let mut world = World::new(Settings { services, ..Settings::default() });
    for object in store.effective().into_values() {
        world.insert(object);
    }
    world
}

/// The Plan that random documents are compiled to, with frontends that refuse.
///
/// # Panics
///
/// When one of the documents is refused: each is good.
pub fn plan(random: &mut Random, shape: &Shape) -> Plan {
    let compiled = compile(&world(random, shape));
    assert!(compiled.rejected.is_empty(), "{:?}", compiled.rejected);
    let mut plan = compiled.plan;
    // A rule in which nothing has a weight would refuse; documents that hold
    // one are refused themselves.
    for frontend in plan.frontends.values_mut() {
        if random.below(16) == 0 {
            frontend.exceptions.retain(|_, verdict| *verdict != Verdict::Refuse);
            frontend.default = Verdict::Refuse;
        }
    }
    plan
}

/// Writes documents one after the other.
struct Writer<'a> {
    random: &'a mut Random,
    shape: &'a Shape,
    text: String,
}

/// Random documents.
pub fn text(random: &mut Random, shape: &Shape) -> String {
    let mut writer = Writer { random, shape, text: String::new() };
    for index in 0..shape.sources.len() {
        writer.source(index);
    }
    for index in 0..SERVICES {
        writer.service(index);
    }
    for index in 0..1 + writer.random.below(3) {
        writer.service_entry(index);
    }
    for index in 0..3 + writer.random.below(6) {
        writer.virtual_service(index);
    }
    writer.text
}

impl Writer<'_> {
    fn once_in(&mut self, times: u64) -> bool {
        self.random.below(times) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *self.random.pick(from)
    }

    /// A document; `spec` is in YAML's flow style.
    fn add(&mut self, api: &str, kind: &str, metadata: &str, spec: &str) {
        let _ = writeln!(
            self.text,
            "---\napiVersion: {api}\nkind: {kind}\nmetadata: {{{metadata}}}\nspec: {{{spec}}}"
        );
    }

    fn istio(&mut self, kind: &str, metadata: &str, spec: &str) {
        let version = self.pick(&["v1", "v1beta1", "v1alpha3"]);
        self.add(&format!("networking.istio.io/{version}"), kind, metadata, spec);
    }

    /// `app: client, tier: ...`, at random.
    fn client_labels(&mut self) -> String {
        let mut labels = Vec::new();
        for (key, values) in [("app", ["red", "blue"]), ("tier", ["web", "batch"])] {
            if !self.once_in(3) {
                labels.push(format!("{key}: {}", self.pick(&values)));
            }
        }
        labels.join(", ")
    }

    fn source(&mut self, index: usize) {
        let (id, cgroup) = &self.shape.sources[index];
        let metadata = format!(
            "name: {}, namespace: {}, annotations: {{redirector.io/cgroup: {cgroup}}}",
            id.name, id.namespace
        );
        let labels = self.client_labels();
        let spec = format!("address: 127.98.0.{}, labels: {{{labels}}}", index + 1);
        self.istio("WorkloadEntry", &metadata, &spec);
    }

    /// A Service, its endpoints, and mostly subsets of them.
    fn service(&mut self, index: u64) {
        let namespace = NAMESPACES[index as usize % 2];
        // Which families it has, and so its endpoints.
        let families = self.pick::<&[bool]>(&[&[false], &[true], &[false, true]]);
        let ips: Vec<String> = families
            .iter()
            .map(|v6| address(index * 8 + self.random.below(8), *v6).to_string())
            .collect();
        let target = self.pick(&self.shape.endpoint_ports.clone());
        let ports: Vec<String> = PORTS
            .iter()
            .map(|port| format!("{{name: tcp-{port}, port: {port}, targetPort: {target}}}"))
            .collect();
        self.add(
            "v1",
            "Service",
            &format!("name: s{index}, namespace: {namespace}"),
            &format!(
                "clusterIP: \"{}\", clusterIPs: [{}], selector: {{app: s{index}}}, ports: [{}]",
                ips[0],
                ips.iter().map(|ip| format!("\"{ip}\"")).collect::<Vec<_>>().join(", "),
                ports.join(", ")
            ),
        );
        for v6 in families {
            for entry in 0..self.pick(&[0, 1, 1, 2, 3, 7, 20]) {
                let (ip, weight) = (endpoint(self.random, *v6), 1 + self.random.below(9));
                let version = self.pick(&VERSIONS);
                self.istio(
                    "WorkloadEntry",
                    &format!("name: s{index}-{v6}-{entry}, namespace: {namespace}"),
                    &format!(
                        "address: \"{ip}\", weight: {weight}, \
                         labels: {{app: s{index}, version: {version}}}"
                    ),
                );
            }
        }
        let subsets: Vec<String> = VERSIONS
            .iter()
            .map(|version| format!("{{name: {version}, labels: {{version: {version}}}}}"))
            .collect();
        let policy = self.traffic_policy();
        self.istio(
            "DestinationRule",
            &format!("name: s{index}, namespace: {namespace}"),
            &format!("host: s{index}{policy}, subsets: [{}]", subsets.join(", ")),
        );
    }

    /// `, trafficPolicy: ...`, mostly: every way to choose, with limits and
    /// outlier detection on top.
    fn traffic_policy(&mut self) -> String {
        let mut settings = Vec::new();
        let balancer = self.pick(&[
            "",
            "simple: RANDOM",
            "simple: ROUND_ROBIN",
            "simple: LEAST_REQUEST",
            "consistentHash: {useSourceIp: true}",
        ]);
        if !balancer.is_empty() {
            settings.push(format!("loadBalancer: {{{balancer}}}"));
        }
        if self.once_in(3) {
            let most = 1 + self.random.below(4);
            settings.push(format!("connectionPool: {{tcp: {{maxConnections: {most}}}}}"));
        }
        if self.once_in(3) {
            let percent = self.pick(&[10, 50, 100]);
            settings.push(format!("outlierDetection: {{maxEjectionPercent: {percent}}}"));
        }
        if settings.is_empty() {
            return String::new();
        }
        format!(", trafficPolicy: {{{}}}", settings.join(", "))
    }

    /// A host whose addresses are a network.
    fn service_entry(&mut self, index: u64) {
        let network = self.pick(&SUBNETS[1..]);
        let ports: Vec<String> = PORTS
            .iter()
            .filter(|port| **port != 443)
            .map(|port| format!("{{name: tcp-{port}, number: {port}, protocol: TCP}}"))
            .collect();
        let target = self.pick(&self.shape.endpoint_ports.clone());
        let resolution = if self.once_in(3) {
            "resolution: NONE".to_owned()
        } else {
            let v6 = network.contains(':');
            let endpoints: Vec<String> = (0..self.random.below(4))
                .map(|_| {
                    let ip = endpoint(self.random, v6);
                    format!(
                        "{{address: \"{ip}\", ports: {{tcp-80: {target}, tcp-19000: {target}}}}}"
                    )
                })
                .collect();
            format!("resolution: STATIC, endpoints: [{}]", endpoints.join(", "))
        };
        self.istio(
            "ServiceEntry",
            &format!("name: entry-{index}, namespace: default"),
            &format!(
                "hosts: [entry-{index}.example.com], addresses: [\"{network}\"], ports: [{}], \
                 {resolution}",
                ports.join(", ")
            ),
        );
    }

    fn host(&mut self) -> String {
        let index = self.random.below(SERVICES);
        let namespace = NAMESPACES[index as usize % 2];
        format!("s{index}.{namespace}.svc.cluster.local")
    }

    fn one_match(&mut self) -> String {
        let mut fields = Vec::new();
        if self.once_in(2) {
            let subnets: Vec<String> =
                (0..1 + self.random.below(2)).map(|_| self.pick(&SUBNETS).to_owned()).collect();
            fields.push(format!("destinationSubnets: [\"{}\"]", subnets.join("\", \"")));
        }
        if self.once_in(2) {
            fields.push(format!("port: {}", self.pick(&PORTS)));
        }
        if self.once_in(3) {
            let labels = self.client_labels();
            fields.push(format!("sourceLabels: {{{labels}}}"));
        }
        if self.once_in(4) {
            fields.push(format!("sourceNamespace: {}", self.pick(&NAMESPACES)));
        }
        format!("{{{}}}", fields.join(", "))
    }

    /// Weights are relative, and zero now and then; one is not.
    fn route(&mut self) -> String {
        let legs = 1 + self.random.below(4);
        let destinations: Vec<String> = (0..legs)
            .map(|leg| {
                let weight = if leg == 0 { 1 } else { 0 } + self.random.below(100);
                let host = self.host();
                let subset = if self.once_in(2) {
                    format!(", subset: {}", self.pick(&VERSIONS))
                } else {
                    String::new()
                };
                let port = self.pick(&PORTS);
                format!(
                    "{{destination: {{host: {host}{subset}, port: {{number: {port}}}}}, \
                     weight: {weight}}}"
                )
            })
            .collect();
        format!("[{}]", destinations.join(", "))
    }

    fn virtual_service(&mut self, index: u64) {
        let mut hosts: Vec<String> = (0..1 + self.random.below(3))
            .map(|_| {
                if self.once_in(4) {
                    format!("entry-{}.example.com", self.random.below(2))
                } else {
                    self.host()
                }
            })
            .collect();
        hosts.sort();
        hosts.dedup();
        let rules: Vec<String> = (0..1 + self.random.below(4))
            .map(|_| {
                let matches: Vec<String> =
                    (0..1 + self.random.below(2)).map(|_| self.one_match()).collect();
                let route = self.route();
                format!("{{match: [{}], route: {route}}}", matches.join(", "))
            })
            .collect();
        let namespace = self.pick(&NAMESPACES);
        self.istio(
            "VirtualService",
            &format!("name: vs-{index}, namespace: {namespace}"),
            &format!("hosts: [{}], tcp: [{}]", hosts.join(", "), rules.join(", ")),
        );
    }
}
