//! Random numbers that are the same in every run, and a World made of them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use redirector_core::model::{
    DestinationRule, EndpointSlice, EntryPort, L4Match, Labels, LbAlgorithm, LoadBalancer,
    LocalitySetting, Meta, Object, Origin, OutlierDetection, Pod, Resolution, RouteDestination,
    Service, ServiceEntry, ServicePort, ServiceType, SliceEndpoint, SlicePort, Spec, Subset,
    TargetPort, TcpRule, TlsMode, TrafficPolicy, VirtualService, WorkloadEntry,
};
use redirector_core::world::{ServiceAddresses, Settings, World};

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }

    pub fn some<T: Clone>(&mut self, from: &[T], most: u64) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| self.pick(from)).collect()
    }
}

pub const NAMESPACES: [&str; 4] = ["default", "foo", "bar", "istio-system"];
pub const PORTS: [u16; 4] = [80, 81, 82, 83];
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const ENTRY_HOSTS: [&str; 4] =
    ["db.example.com", "x.example.com", "*.example.com", "a.default.svc.cluster.local"];
const SUBNETS: [&str; 12] = [
    "10.96.0.0/16",
    "10.96.0.0/28",
    "10.96.0.0/29",
    "10.96.0.1/32",
    "10.96.0.2/32",
    "10.0.0.0/8",
    "0.0.0.0/0",
    "10.244.0.0/24",
    "fd00::/16",
    "fd00::/120",
    "fd00::1/128",
    "::/0",
];
const ADDRESSES: [&str; 9] = [
    "10.96.0.1",
    "10.96.0.2",
    "10.96.0.3",
    "10.96.0.4",
    "10.96.0.9",
    "10.96.1.1",
    "fd00::1",
    "fd00::2",
    "fd00::100",
];

/// Addresses worth dialling: all that anything can own, and neighbours.
pub fn dials() -> Vec<IpAddr> {
    let more = ["10.244.0.1", "10.244.0.2", "10.244.0.3", "10.7.7.7", "192.0.2.7", "fd00:244::1"];
    ADDRESSES.iter().chain(&more).map(|one| one.parse().expect("an address")).collect()
}

fn meta(namespace: &str, name: &str, created: Option<i64>) -> Meta {
    Meta {
        name: name.into(),
        namespace: namespace.into(),
        uid: String::new(),
        labels: Labels::new(),
        annotations: Labels::new(),
        created,
        origin: Origin::default(),
    }
}

fn labels(random: &mut Random, most: u64) -> Labels {
    (0..random.below(most + 1))
        .map(|_| {
            (random.pick(&["app", "version"]).to_owned(), random.pick(&["v1", "v2"]).to_owned())
        })
        .collect()
}

fn export_to(random: &mut Random) -> Vec<String> {
    if !random.once_in(3) {
        return Vec::new();
    }
    random.some(&["*", ".", "foo", "bar", "default"], 2).into_iter().map(str::to_owned).collect()
}

fn created(random: &mut Random) -> Option<i64> {
    random.pick(&[None, Some(1), Some(1), Some(2), Some(3)])
}

fn pod_address(random: &mut Random) -> IpAddr {
    let pool =
        ["10.244.0.1", "10.244.0.2", "10.244.0.3", "10.244.0.4", "fd00:244::1", "fd00:244::2"];
    random.pick(&pool).parse().expect("an address")
}

fn service(random: &mut Random) -> Service {
    let headless = random.once_in(5);
    let cluster_ips = if headless { Vec::new() } else { random.some(&ADDRESSES, 2) };
    let names = ["tcp", "", "http-x", "tcp-b"];
    let ports = PORTS.iter().zip(names).filter(|_| !random.once_in(2));
    let ports = ports.map(|(port, name)| ServicePort {
        name: name.to_owned(),
        port: *port,
        protocol: "TCP".to_owned(),
        app_protocol: None,
        target_port: TargetPort::Number(9000),
        node_port: None,
    });
    let ports = ports.collect();
    let alias = random.once_in(12);
    Service {
        service_type: if alias { ServiceType::ExternalName } else { ServiceType::ClusterIp },
        external_name: if alias { "db.example.com".to_owned() } else { String::new() },
        cluster_ips: cluster_ips.iter().map(|one| one.parse().expect("an address")).collect(),
        headless: headless && !alias,
        ports,
        selector: labels(random, 1),
        internal_local: random.once_in(8),
        publish_not_ready: random.once_in(8),
        traffic_distribution: random.once_in(8).then(|| {
            use redirector_core::model::TrafficDistribution as Prefer;
            random.pick(&[Prefer::Close, Prefer::SameZone, Prefer::SameNode])
        }),
        ..Service::default()
    }
}

fn slice(random: &mut Random, service: &str) -> EndpointSlice {
    let ports = ["tcp", "", "http-x", "tcp-b"].iter().filter(|_| !random.once_in(5));
    let ports = ports.map(|name| SlicePort {
        name: (*name).to_owned(),
        port: Some(9000 + name.len() as u16),
        protocol: "TCP".to_owned(),
    });
    let ports = ports.collect();
    let endpoints = (0..random.below(4)).map(|_| SliceEndpoint {
        addresses: vec![pod_address(random)],
        ready: !random.once_in(5),
        serving: true,
        terminating: random.once_in(8),
        pod: random.once_in(3).then(|| ("default".to_owned(), random.pick(&NAMES).to_owned())),
        node: random.pick(&[None, Some("n1".to_owned()), Some("n2".to_owned())]),
        zone: None,
    });
    let endpoints = endpoints.collect();
    EndpointSlice { service: service.to_owned(), address_type: String::new(), ports, endpoints }
}

fn host(random: &mut Random) -> String {
    match random.below(6) {
        0 => random.pick(&NAMES).to_owned(),
        1..=3 => format!("{}.{}.svc.cluster.local", random.pick(&NAMES), random.pick(&NAMESPACES)),
        4 => random.pick(&ENTRY_HOSTS).to_owned(),
        _ => random.pick(&["*.default.svc.cluster.local", "*.cluster.local", "*.com"]).to_owned(),
    }
}

fn a_match(random: &mut Random) -> L4Match {
    let subnets = if random.once_in(2) { random.some(&SUBNETS, 2) } else { Vec::new() };
    L4Match {
        destination_subnets: subnets.iter().map(|one| one.parse().expect("a prefix")).collect(),
        port: random.once_in(3).then(|| random.pick(&PORTS)),
        source_labels: if random.once_in(3) { labels(random, 2) } else { Labels::new() },
        gateways: if random.once_in(6) {
            vec![random.pick(&["mesh", "foo/gw", "gw"]).to_owned()]
        } else {
            Vec::new()
        },
        source_namespace: if random.once_in(4) {
            random.pick(&NAMESPACES).to_owned()
        } else {
            String::new()
        },
        source_subnet: random.once_in(6).then(|| "10.244.0.0/31".parse().expect("a prefix")),
    }
}

fn destination(random: &mut Random) -> RouteDestination {
    RouteDestination {
        host: host(random),
        subset: random.once_in(3).then(|| random.pick(&["v1", "v2", "none"]).to_owned()),
        port: random.once_in(3).then(|| random.pick(&PORTS)),
        weight: random.below(4) as u32,
    }
}

fn virtual_service(random: &mut Random) -> VirtualService {
    let rules = (0..random.below(5)).map(|_| TcpRule {
        matches: (0..random.below(3)).map(|_| a_match(random)).collect(),
        route: (0..1 + random.below(3)).map(|_| destination(random)).collect(),
        line: 0,
    });
    let tcp: Vec<TcpRule> = rules.collect();
    let http = if tcp.is_empty() {
        let route = (0..1 + random.below(2)).map(|_| destination(random)).collect();
        let has_match = random.once_in(4);
        let rule = redirector_core::model::HttpRule { has_match, route, ..Default::default() };
        vec![rule]
    } else {
        Vec::new()
    };
    VirtualService {
        hosts: (0..1 + random.below(2)).map(|_| host(random)).collect(),
        gateways: random.some(&["mesh", "foo/gw"], 1).into_iter().map(str::to_owned).collect(),
        export_to: export_to(random),
        tcp,
        tls: Vec::new(),
        http,
    }
}

fn policy(random: &mut Random) -> Option<TrafficPolicy> {
    let mut policy = TrafficPolicy::default();
    match random.below(7) {
        5 => policy.settings.outlier = Some(OutlierDetection::default()),
        6 => {
            let locality = Some(locality(random));
            policy.settings.load_balancer = Some(LoadBalancer { algorithm: None, locality });
            policy.settings.outlier = (!random.once_in(4)).then(OutlierDetection::default);
        }
        0 => policy.settings.tls = Some(random.pick(&[TlsMode::Simple, TlsMode::Disable])),
        1 => {
            let algorithm = random.pick(&[LbAlgorithm::Passthrough, LbAlgorithm::RoundRobin]);
            policy.settings.load_balancer =
                Some(LoadBalancer { algorithm: Some(algorithm), locality: None });
        }
        2 => {
            let settings = redirector_core::model::PolicySettings {
                tls: Some(TlsMode::Simple),
                ..Default::default()
            };
            policy.port_level.insert(random.pick(&PORTS), settings);
        }
        _ => return None,
    }
    Some(policy)
}

fn locality(random: &mut Random) -> LocalitySetting {
    let mut setting = LocalitySetting {
        enabled: random.pick(&[None, None, Some(true), Some(false)]),
        ..LocalitySetting::default()
    };
    if random.once_in(3) {
        let to = random.pick(&[
            vec![("eu/eu-1", 70), ("us", 30)],
            vec![("eu/*", 100)],
            vec![("eu", 20), ("*", 80)],
        ]);
        let to = to.into_iter().map(|(to, share)| (to.to_owned(), share)).collect();
        setting.distribute.push((random.pick(&["eu", "*", "us/*"]).to_owned(), to));
        return setting;
    }
    if random.once_in(2) {
        setting.failover.push(("eu".to_owned(), random.pick(&["us", "asia"]).to_owned()));
    }
    let labels = ["version=v1", "app", "topology.kubernetes.io/region", "kubernetes.io/hostname"];
    setting.failover_priority = random.some(&labels, 2).into_iter().map(str::to_owned).collect();
    setting
}

fn destination_rule(random: &mut Random) -> DestinationRule {
    let subsets = ["v1", "v2"].iter().filter(|_| !random.once_in(4)).copied().collect::<Vec<_>>();
    let subsets = subsets.into_iter().map(|name| Subset {
        name: name.to_owned(),
        labels: if random.once_in(6) {
            Labels::new()
        } else {
            BTreeMap::from([("version".to_owned(), name.to_owned())])
        },
        traffic_policy: if random.once_in(3) { policy(random) } else { None },
    });
    let subsets = subsets.collect();
    DestinationRule {
        host: host(random),
        traffic_policy: policy(random),
        subsets,
        export_to: export_to(random),
        workload_selector: random.once_in(5).then(|| labels(random, 1)),
    }
}

fn workload_entry(random: &mut Random) -> WorkloadEntry {
    WorkloadEntry {
        address: pod_address(random).to_string(),
        ports: BTreeMap::new(),
        labels: labels(random, 2),
        network: String::new(),
        locality: random.pick(&["", "eu", "eu/eu-1", "us", "us/us-1/rack"]).to_owned(),
        weight: random.below(3) as u32,
    }
}

fn service_entry(random: &mut Random) -> ServiceEntry {
    let resolution =
        random.pick(&[Resolution::None, Resolution::Static, Resolution::Static, Resolution::Dns]);
    let prefixes = ["10.96.0.0/24", "10.96.0.0/28", "10.0.0.0/8", "10.96.0.2/32", "fd00::/64"];
    let endpoints = (resolution != Resolution::None && random.once_in(2))
        .then(|| (0..random.below(3)).map(|_| workload_entry(random)).collect());
    let selected = resolution == Resolution::Static && endpoints.is_none();
    let mut endpoints: Vec<WorkloadEntry> = endpoints.unwrap_or_default();
    if resolution == Resolution::Static {
        for endpoint in endpoints.iter_mut().filter(|_| random.once_in(6)) {
            endpoint.address = "unix:///run/db.sock".to_owned();
        }
    }
    let protocols = ["TCP", "", "HTTP", "TCP"];
    let ports: Vec<_> = PORTS.iter().zip(protocols).filter(|_| !random.once_in(2)).collect();
    let ports = ports.into_iter().map(|(port, protocol)| EntryPort {
        number: *port,
        name: format!("p{port}"),
        protocol: protocol.to_owned(),
        target_port: random.once_in(4).then_some(7000),
    });
    let ports = ports.collect();
    ServiceEntry {
        hosts: vec![random.pick(&ENTRY_HOSTS).to_owned()],
        addresses: random
            .some(&prefixes, 2)
            .iter()
            .map(|one| one.parse().expect("a prefix"))
            .collect(),
        ports,
        resolution,
        endpoints,
        workload_selector: selected.then(|| labels(random, 1)),
        export_to: export_to(random),
    }
}

/// A client of a random World: namespace, name, labels, addresses.
pub struct Source {
    pub namespace: String,
    pub name: String,
    pub labels: Labels,
    pub addresses: Vec<IpAddr>,
}

/// A World with a few of everything, and local workloads in it.
pub fn world(random: &mut Random) -> (World, Vec<Source>) {
    let settings = Settings {
        node_name: random.pick(&[None, Some("n1".to_owned())]),
        services: random.pick(&[ServiceAddresses::Own, ServiceAddresses::Leave]),
        ..Settings::default()
    };
    let mut world = World::new(settings);
    for (name, region, zone) in [("n1", "eu", "eu-1"), ("n2", "us", "us-1")] {
        if !random.once_in(4) {
            let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
            let mut node = meta("", name, None);
            node.labels = BTreeMap::from([
                label("topology.kubernetes.io/region", region),
                label("topology.kubernetes.io/zone", zone),
            ]);
            world.insert(Object { meta: node, spec: Spec::Node });
        }
    }
    let mut add = |random: &mut Random, name: &str, spec: Spec| {
        let mut meta = meta(random.pick(&NAMESPACES), name, created(random));
        if matches!(spec, Spec::Service(_)) && random.once_in(4) {
            let to = random.pick(&["*", ".", "foo", "bar, .", "~"]);
            meta.annotations.insert("networking.istio.io/exportTo".to_owned(), to.to_owned());
        }
        if matches!(spec, Spec::Pod(_)) {
            meta.labels = labels(random, 2);
        }
        world.insert(Object { meta, spec });
    };
    for _ in 0..1 + random.below(6) {
        let (name, spec) = (random.pick(&NAMES), service(random));
        add(random, name, Spec::Service(spec));
    }
    for index in 0..random.below(8) {
        let service = random.pick(&NAMES);
        let spec = slice(random, service);
        add(random, &format!("{service}-{index}"), Spec::EndpointSlice(spec));
    }
    for index in 0..random.below(5) {
        let spec = Pod {
            ips: vec![pod_address(random)],
            node: random.pick(&["n1", "n2", ""]).to_owned(),
            ready: !random.once_in(4),
            finished: random.once_in(8),
            terminating: random.once_in(8),
            ..Pod::default()
        };
        add(random, NAMES[index as usize % NAMES.len()], Spec::Pod(spec));
    }
    for index in 0..random.below(4) {
        let spec = workload_entry(random);
        add(random, &format!("we-{index}"), Spec::WorkloadEntry(spec));
    }
    for index in 0..random.below(4) {
        let spec = service_entry(random);
        add(random, &format!("se-{index}"), Spec::ServiceEntry(spec));
    }
    for index in 0..1 + random.below(4) {
        let spec = virtual_service(random);
        add(random, &format!("vs-{index}"), Spec::VirtualService(spec));
    }
    for index in 0..random.below(5) {
        let spec = destination_rule(random);
        add(random, &format!("dr-{index}"), Spec::DestinationRule(spec));
    }
    world.set_resolved("db.example.com", vec!["192.0.2.1".parse().expect("an address")]);
    let mut sources = Vec::new();
    for index in 0..3 {
        let (namespace, name) = (random.pick(&NAMESPACES), format!("client-{index}"));
        let (labels, address) = (labels(random, 2), pod_address(random));
        let object = super::client(namespace, &name, &labels, &address.to_string());
        world.insert(object);
        sources.push(Source {
            namespace: namespace.to_owned(),
            name,
            labels,
            addresses: vec![address],
        });
    }
    (world, sources)
}
