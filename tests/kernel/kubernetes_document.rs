//! The reference document on two nodes of a cluster: two daemons, each in the
//! network namespace of its node, on its own cgroups; pods in network namespaces
//! of their own, joined by veth pairs and routes; echo servers in pods.
//!
//! The nodes are containers of the machine, as those of kind and of k3d are seen
//! from there, so that the pods' cgroups lie deep.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use redirector_tests::agent::Agent;
use redirector_tests::apiserver::{ApiServer, Resource, documents, objects};
use redirector_tests::child;
use redirector_tests::kernel::{privileged, scaled};
use redirector_tests::netns::NetNs;
use redirector_tests::node::Node;
use redirector_tests::server::Server;
use serde_json::{Value, json};

/// Where the API server listens, outside of the nodes.
const API: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);

/// The cluster IPs of the two Services.
const ECHO_SERVER: &str = "10.96.0.10";
const ECHO_SERVER_2: &str = "10.96.0.20";

/// External IPs of the two gateways, one on each node: an address of it.
const GATEWAYS: [&str; 2] = ["192.0.2.1", "192.0.2.2"];

/// What the pods of a node lie in, as seen from the machine: kind's nodes have
/// systemd's driver and a cgroup root of their own, k3d's have cgroupfs.
const TREES: [&str; 2] =
    ["system.slice/docker-5a1e.scope/kubelet.slice/kubelet-kubepods.slice", "docker/5a1f/kubepods"];

/// The cgroup of a container of a Burstable pod on a node.
fn container(node: usize, uid: &str) -> String {
    let tree = TREES[node];
    match node {
        0 => {
            let uid = uid.replace('-', "_");
            let class = "kubelet-kubepods-burstable";
            format!("{tree}/{class}.slice/{class}-pod{uid}.slice/cri-containerd-ab.scope")
        }
        _ => format!("{tree}/burstable/pod{uid}/ab"),
    }
}

/// A pod: a network namespace with one address, and a cgroup.
struct Pod {
    netns: NetNs,
    cgroup: PathBuf,
}

impl Pod {
    /// What a process in it gets as the answer of an address.
    fn dial(&self, address: SocketAddr) -> String {
        self.dial_often(address, 1).into_keys().next().unwrap_or_default()
    }

    /// The same of many connections: how often each answer came.
    fn dial_often(&self, address: SocketAddr, count: usize) -> BTreeMap<String, usize> {
        dial(&self.netns, &self.cgroup, address, count)
    }
}

fn dial(
    netns: &NetNs,
    cgroup: &Path,
    address: SocketAddr,
    count: usize,
) -> BTreeMap<String, usize> {
    child::run(cgroup, || {
        netns.enter();
        let mut answers = BTreeMap::new();
        for _ in 0..count {
            let mut text = String::new();
            let connected = TcpStream::connect_timeout(&address, Duration::from_secs(10));
            let answer = match connected.and_then(|mut stream| stream.read_to_string(&mut text)) {
                Ok(_) => text.split(' ').next().unwrap_or_default().to_owned(),
                Err(error) => error.to_string(),
            };
            *answers.entry(answer).or_default() += 1;
        }
        answers
    })
}

fn forwarding(netns: &NetNs) {
    netns.within(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("routers forward");
    });
}

/// Two nodes, what lies between them, and the API server.
///
/// Fields are dropped in their order: servers and pods before their nodes.
struct Cluster {
    /// Whoever serves the addresses of Services that no rule concerns, as
    /// kube-proxy does.
    _services: Vec<Server>,
    servers: Vec<Server>,
    pods: BTreeMap<String, Pod>,
    server: ApiServer,
    nodes: [Node; 2],
    /// The network between the nodes; clients from outside are in it.
    fabric: NetNs,
    uids: u32,
}

impl Cluster {
    fn new() -> Self {
        let fabric = NetNs::new("fabric");
        forwarding(&fabric);
        fabric.ip(&format!("addr add {API}/32 dev lo"));
        for address in [ECHO_SERVER, ECHO_SERVER_2] {
            fabric.ip(&format!("addr add {address}/32 dev lo"));
        }
        let server = fabric.within(|| {
            let mut resources = Resource::builtins();
            resources.extend(Resource::istios());
            ApiServer::at(API, resources)
        });
        let nodes = [0, 1].map(|i| {
            let mut node = Node::new(&server, ["node-a", "node-b"][i], &[TREES[i]]);
            let netns = NetNs::new("node");
            let (here, there) = (format!("172.31.{}.1", i + 1), format!("172.31.{}.2", i + 1));
            fabric.ip(&format!("link add node{i} type veth peer name eth0 netns {}", netns.name()));
            fabric.ip(&format!("addr add {here}/24 dev node{i}"));
            fabric.ip(&format!("link set node{i} up"));
            netns.ip(&format!("addr add {there}/24 dev eth0"));
            netns.ip("link set eth0 up");
            netns.ip(&format!("route add default via {here}"));
            netns.ip(&format!("addr add {}/32 dev lo", GATEWAYS[i]));
            fabric.ip(&format!("route add {}/32 via {there}", GATEWAYS[i]));
            fabric.ip(&format!("route add 10.244.{}.0/24 via {there}", i + 1));
            forwarding(&netns);
            node.netns = Some(netns);
            node
        });
        let services = [(ECHO_SERVER, "hello"), (ECHO_SERVER_2, "hello-2")];
        let services = services.map(|(address, greeting)| {
            let at: SocketAddr = format!("{address}:19000").parse().expect("an address");
            fabric.within(|| Server::start(greeting, at))
        });
        for (name, address) in [("echo-server", ECHO_SERVER), ("echo-server-2", ECHO_SERVER_2)] {
            server.apply(json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": { "name": name, "namespace": "default", "labels": { "app": name } },
                "spec": {
                    "clusterIP": address, "clusterIPs": [address], "type": "ClusterIP",
                    "selector": { "app": name },
                    "ports": [
                        { "name": "tcp", "protocol": "TCP", "port": 19000, "targetPort": 9000 },
                    ],
                },
            }));
        }
        for namespace in ["default", "foo", "istio-system"] {
            server.apply(json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace },
            }));
        }
        Self {
            _services: services.into(),
            servers: Vec::new(),
            pods: BTreeMap::new(),
            server,
            nodes,
            fabric,
            uids: 0,
        }
    }

    /// Starts a pod on a node, as its kubelet does, and reports its address.
    fn pod(&mut self, node: usize, namespace: &str, name: &str, labels: &Value) -> Ipv4Addr {
        self.uids += 1;
        let uid = format!("5d0c6b1e-7a2f-4e3d-9c8b-{:012x}", self.uids);
        let last = u8::try_from(self.uids).expect("few pods") + 9;
        let address = Ipv4Addr::new(10, 244, if node == 0 { 1 } else { 2 }, last);
        let name = self.named(node, name);
        let mut object = objects::pod(&name, &self.nodes[node].name, &uid, labels);
        object["metadata"]["namespace"] = json!(namespace);
        // It is bound to the node first; its address is known later.
        self.server.apply(object.clone());
        let cgroup = self.nodes[node].cgroup(&container(node, &uid));
        let netns = NetNs::new("pod");
        let host = self.nodes[node].netns.as_ref().expect("nodes have one");
        // As Calico does it: one address, and the node answers for its gateway.
        let veth = format!("cali{}", self.uids);
        host.ip(&format!("link add {veth} type veth peer name eth0 netns {}", netns.name()));
        host.ip(&format!("addr add 169.254.1.1/32 dev {veth}"));
        host.ip(&format!("link set {veth} up"));
        host.ip(&format!("route add {address}/32 dev {veth}"));
        netns.ip(&format!("addr add {address}/32 dev eth0"));
        netns.ip("link set eth0 up");
        netns.ip("route add 169.254.1.1 dev eth0 scope link");
        netns.ip("route add default via 169.254.1.1");
        object["status"] = json!({
            "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }],
        });
        self.server.apply(object);
        self.pods.insert(name, Pod { netns, cgroup });
        address
    }

    /// The name of a pod that has one of the same name on the other node.
    fn named(&self, node: usize, name: &str) -> String {
        format!("{name}-on-{}", self.nodes[node].name)
    }

    /// Starts an echo server in a pod, and makes it an endpoint of its Service.
    fn echo(&mut self, node: usize, name: &str, labels: &Value, greeting: &str) {
        let address = self.pod(node, "default", name, labels);
        let pod = &self.pods[&self.named(node, name)];
        let at = SocketAddr::from((address, 9000));
        let server = pod.netns.within(|| Server::start(greeting, at));
        self.servers.push(server);
        let service = labels["app"].as_str().expect("an app");
        let mut endpoint = objects::endpoint(address);
        endpoint["nodeName"] = json!(self.nodes[node].name);
        endpoint["targetRef"] =
            json!({ "kind": "Pod", "namespace": "default", "name": self.named(node, name) });
        self.server.apply(objects::endpoint_slice(service, name, &[endpoint]));
    }

    /// Takes all rules back and applies those of a file in deploy/demo.
    fn rules(&self, file: &str) {
        for kind in ["VirtualService", "DestinationRule", "Gateway"] {
            for object in self.server.all(kind) {
                let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
                self.server.delete(kind, text("namespace"), text("name"));
            }
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/demo").join(file);
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for object in documents(&text) {
            // In a cluster the gateways are Services, not WorkloadEntries.
            if object["kind"] != "WorkloadEntry" {
                self.server.apply(object);
            }
        }
    }
}

/// Who dials which Service, and the answer that has to come. On both nodes.
type Row = (&'static str, &'static str, &'static str);

const ONE: &str = "telnet-client";
const TWO: &str = "telnet-client-2";
const FOO: &str = "telnet-client-foo";
/// A pod that the API server has not told of.
const NOBODY: &str = "nobody";

/// The sections that decide by who dials what.
const SECTIONS: [(&str, &[Row]); 5] = [
    ("destination-subnets-as-printed.yaml", &[(ONE, ECHO_SERVER, "hello")]),
    (
        "destination-subnets.yaml",
        &[
            (ONE, ECHO_SERVER, "hello-2"),
            (TWO, ECHO_SERVER, "hello-2"),
            (ONE, ECHO_SERVER_2, "hello-2"),
        ],
    ),
    (
        "port.yaml",
        &[
            (ONE, ECHO_SERVER, "hello-2"),
            (FOO, ECHO_SERVER, "hello-2"),
            (NOBODY, ECHO_SERVER, "hello-2"),
        ],
    ),
    (
        "source-labels.yaml",
        &[
            (ONE, ECHO_SERVER, "hello-2"),
            (TWO, ECHO_SERVER, "hello"),
            (FOO, ECHO_SERVER, "hello"),
            (NOBODY, ECHO_SERVER, "hello"),
        ],
    ),
    (
        "source-namespace.yaml",
        &[
            (FOO, ECHO_SERVER, "hello-2"),
            (ONE, ECHO_SERVER, "hello"),
            (TWO, ECHO_SERVER, "hello"),
            (NOBODY, ECHO_SERVER, "hello"),
        ],
    ),
];

/// Those with the canary version of echo-server.
const WITH_CANARY: [(&str, &[Row]); 2] = [
    (
        "and-or-first-match.yaml",
        &[
            (ONE, ECHO_SERVER, "hello-gray"),
            (TWO, ECHO_SERVER, "hello-2"),
            (FOO, ECHO_SERVER, "hello-2"),
            (NOBODY, ECHO_SERVER, "hello-gray"),
        ],
    ),
    // The http rule of the printed example concerns no TCP port.
    (
        "weighted-subsets-as-printed.yaml",
        &[(ONE, ECHO_SERVER, "hello"), (TWO, ECHO_SERVER, "hello")],
    ),
];

fn service(address: &str) -> SocketAddr {
    format!("{address}:19000").parse().expect("an address")
}

#[test]
fn every_section_of_the_document_is_answered_right_on_two_nodes() {
    if !privileged() {
        return;
    }
    let mut cluster = Cluster::new();
    let prod = json!({ "app": "echo-server", "version": "prod" });
    cluster.echo(0, "echo-server-1", &prod, "hello");
    cluster.echo(1, "echo-server-2-1", &json!({ "app": "echo-server-2" }), "hello-2");
    let mut agents = [0, 1].map(|node| {
        let near = format!("--gateway-addresses={}", GATEWAYS[node]);
        cluster.nodes[node].start_with(&["--gateways", &near])
    });
    for (node, agent) in cluster.nodes.iter().zip(&mut agents) {
        within(node, || agent.wait_ready());
    }
    for node in [0, 1] {
        for (namespace, name) in [("default", ONE), ("default", TWO), ("foo", FOO)] {
            cluster.pod(node, namespace, name, &json!({ "app": name }));
        }
        cluster.pod(node, "default", NOBODY, &json!({ "app": ONE }));
        assert!(cluster.server.delete("Pod", "default", &cluster.named(node, NOBODY)));
    }
    sections(&cluster, &mut agents, &SECTIONS);
    gateways(&cluster, &mut agents);
    let gray = json!({ "app": "echo-server", "version": "gray" });
    cluster.echo(1, "echo-server-gray-1", &gray, "hello-gray");
    sections(&cluster, &mut agents, &WITH_CANARY);
    weights(&cluster, &mut agents);
}

fn sections(cluster: &Cluster, agents: &mut [Agent; 2], sections: &[(&str, &[Row])]) {
    for (file, rows) in sections {
        let before = [0, 1].map(|node| rules_read(&agents[node]));
        cluster.rules(file);
        for (node, agent) in agents.iter_mut().enumerate() {
            within(&cluster.nodes[node], || {
                agent.wait("the rules to be read", |agent| rules_read(agent) > before[node]);
            });
        }
        for (node, agent) in cluster.nodes.iter().zip(agents.iter_mut()) {
            let wrong = || -> Vec<String> {
                let rows = rows.iter().filter_map(|(from, to, expected)| {
                    let pod = &cluster.pods[&format!("{from}-on-{}", node.name)];
                    let answer = pod.dial(service(to));
                    (answer != *expected).then(|| format!("{from} -> {to}: {answer}"))
                });
                rows.collect()
            };
            // Objects of a file come in force one after the other, and what is between two
            // of them may be right by chance.
            let right = |_: &Agent| (0..10).all(|_| wrong().is_empty());
            within(node, || agent.wait(&format!("{file} on {}", node.name), right));
            // And they stay so.
            assert_eq!(wrong(), [""; 0], "{file} on {}", node.name);
        }
    }
}

/// How many VirtualServices an agent has read so far.
fn rules_read(agent: &Agent) -> usize {
    agent.log().matches("read file=VirtualService/").count()
}

fn within<T: Send>(node: &Node, body: impl FnOnce() -> T + Send) -> T {
    node.netns.as_ref().expect("nodes have one").within(body)
}

/// 80 of 100 to prod, 20 to gray, whichever node the client is on.
fn weights(cluster: &Cluster, agents: &mut [Agent; 2]) {
    cluster.rules("weighted-subsets.yaml");
    for (node, agent) in cluster.nodes.iter().zip(agents) {
        let pod = &cluster.pods[&format!("{TWO}-on-{}", node.name)];
        within(node, || {
            agent.wait("the split", |_| {
                pod.dial_often(service(ECHO_SERVER), 20).contains_key("hello-gray")
            });
        });
        let count = scaled(500).max(100);
        let answers = pod.dial_often(service(ECHO_SERVER), count);
        let share = |name: &str| answers.get(name).copied().unwrap_or(0) as f64 / count as f64;
        // Six standard deviations.
        let near = 6.0 * (0.8 * 0.2 / count as f64).sqrt();
        assert!((share("hello-gray") - 0.2).abs() < near, "{answers:?} on {}", node.name);
        assert!((share("hello") - 0.8).abs() < near, "{answers:?} on {}", node.name);
    }
}

/// The cluster IP of a gateway's Service, which nobody has.
fn cluster_ip(gateway: usize) -> String {
    format!("10.96.1.{}", gateway + 1)
}

/// Its node port.
fn node_port(gateway: usize) -> u16 {
    30900 + gateway as u16
}

/// Each gateway at its node's address, from outside and from pods; at its cluster
/// IP, at the proxy of each pod's own node; and at its node port, on every node.
fn gateways(cluster: &Cluster, agents: &mut [Agent; 2]) {
    cluster.rules("gateways.yaml");
    for (i, address) in GATEWAYS.iter().enumerate() {
        let name = format!("ingressgateway-{}", i + 1);
        cluster.server.apply(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": name, "namespace": "istio-system",
                "annotations": {
                    "redirector.io/gateway": "true",
                    "redirector.io/gateway-node-ports": "true",
                },
            },
            "spec": {
                "clusterIP": cluster_ip(i), "externalIPs": [address],
                "selector": { "istio": name },
                "ports": [{ "name": "tcp", "port": 19000, "nodePort": node_port(i) }],
            },
        }));
    }
    let outside = cluster.nodes[0].cgroup("outside");
    for (i, (address, expected)) in GATEWAYS.iter().zip(["hello", "hello-2"]).enumerate() {
        let reach = || dial(&cluster.fabric, &outside, service(address), 1);
        within(&cluster.nodes[i], || {
            agents[i].wait("the gateway", |_| reach().contains_key(expected));
        });
        for (node, agent) in cluster.nodes.iter().zip(agents.iter_mut()) {
            let pod = &cluster.pods[&format!("{ONE}-on-{}", node.name)];
            let dialled = service(&cluster_ip(i));
            within(node, || agent.wait("its cluster IP", |_| pod.dial(dialled) == expected));
        }
        for node in GATEWAYS {
            let dialled = format!("{node}:{}", node_port(i)).parse().expect("an address");
            let answers = dial(&cluster.fabric, &outside, dialled, 1);
            assert!(answers.contains_key(expected), "{dialled} gave {answers:?}");
        }
        for node in &cluster.nodes {
            let pod = &cluster.pods[&format!("{ONE}-on-{}", node.name)];
            assert_eq!(pod.dial(service(address)), expected, "{address} from {}", node.name);
            // Connections between workloads are not concerned.
            assert_eq!(pod.dial(service(ECHO_SERVER)), "hello");
        }
    }
}
