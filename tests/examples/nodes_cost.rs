//! What a cluster costs one of its nodes and the API server, as `cargo xtask bench
//! nodes` asks for it.
//!
//! To be run as root, beside the program that it measures. A real agent with all its
//! watches, the tests' API server, objects of so many nodes. Each line of the output is
//! a row in JSON.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use redirector_tests::agent::Agent;
use redirector_tests::apiserver::{ApiServer, objects};
use redirector_tests::kernel::measure;
use redirector_tests::node::Node;
use serde_json::{Value, json};

/// Changes a second, of each row that changes something.
const RATE: u32 = 100;

/// One of so many Services has a rule.
const ROUTED: usize = 10;

fn main() -> ExitCode {
    measure("SERVICES NODES PODS SECONDS", |[services, nodes, pods, seconds]| {
        Bench::new(Scale { services, nodes, pods, seconds }).run();
    })
}

/// What is asked for.
#[derive(Clone, Copy)]
struct Scale {
    services: usize,
    nodes: usize,
    /// On all nodes together.
    pods: usize,
    /// How long each row takes.
    seconds: usize,
}

struct Bench {
    // Before the node: it has to end first.
    agent: Agent,
    _node: Node,
    server: ApiServer,
    scale: Scale,
}

/// What was used up to some moment.
struct Used {
    at: Instant,
    /// The agent's time on a processor, in seconds.
    cpu: f64,
    bytes: u64,
    generation: f64,
}

impl Bench {
    fn new(scale: Scale) -> Self {
        let server = ApiServer::start();
        let node = Node::new(&server, "node-0", &["kubepods"]);
        for i in 1..scale.nodes {
            let name = format!("node-{i}");
            let labels = json!({ "topology.kubernetes.io/zone": format!("zone-{}", i % 3) });
            let metadata = json!({ "name": name, "labels": labels });
            server.apply(json!({ "apiVersion": "v1", "kind": "Node", "metadata": metadata }));
        }
        for i in 0..scale.pods {
            server.apply(pod(i, &scale, 0));
        }
        for i in 0..scale.services {
            server.apply(objects::service(&name(i), address(96, i)));
            server.apply(slice(i, &scale, 0));
            if i % ROUTED == 0 {
                server.apply(rule(i));
            }
        }
        server.take_used();
        let before = server.bytes_sent();
        let begun = Instant::now();
        // It logs what an agent does that nobody watches.
        let arguments = node.arguments().into_iter().filter(|one| !one.starts_with("--log-level"));
        let mut agent = Agent::start(node.directory.path(), arguments);
        agent.wait_ready();
        let bench = Self { agent, _node: node, server, scale };
        let used = Used { at: begun, cpu: 0.0, bytes: before, generation: 0.0 };
        bench.print("from its start until it is ready", 0, &used);
        bench
    }

    fn run(&self) {
        // What a start leaves to be done is not a row's.
        thread::sleep(Duration::from_secs(10));
        self.row("nothing changes", 0, |_| {});
        let endpoint = |service: usize| {
            move |bench: &Self, round: usize| {
                bench.server.apply(slice(service, &bench.scale, round));
            }
        };
        let (routed, other) = (endpoint(0), endpoint(1));
        self.row("an endpoint of a service with a rule comes or goes", RATE, |round| {
            routed(self, round);
        });
        self.row("an endpoint of a service without a rule comes or goes", RATE, |round| {
            other(self, round);
        });
        self.row("endpoints of all services, one after the other", RATE, |round| {
            let service = round * 7919 % self.scale.services;
            self.server.apply(slice(service, &self.scale, round));
        });
        self.row("the status of a pod of another node", RATE, |round| {
            let i = 1 + round * 7919 % (self.scale.pods - 1);
            let mut pod = pod(i, &self.scale, 0);
            pod["status"]["containerStatuses"] = json!([{ "restartCount": round }]);
            self.server.apply(pod);
        });
        self.row("the labels of a pod of another node", RATE, |round| {
            let i = 1 + round * 7919 % (self.scale.pods - 1);
            self.server.apply(pod(i, &self.scale, 1 + round));
        });
    }

    /// Does something so often for a row's time.
    fn row(&self, name: &str, rate: u32, change: impl Fn(usize)) {
        self.server.take_used();
        let used = self.used();
        let end = used.at + Duration::from_secs(self.scale.seconds as u64);
        let mut round = 0_u32;
        while Instant::now() < end {
            if rate == 0 {
                thread::sleep(end.saturating_duration_since(Instant::now()));
                break;
            }
            change(1 + round as usize);
            round += 1;
            let next = used.at + Duration::from_secs(1) * round / rate;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        self.print(name, round, &used);
    }

    fn used(&self) -> Used {
        Used {
            at: Instant::now(),
            cpu: cpu(self.agent.pid()),
            bytes: self.server.bytes_sent(),
            generation: self.agent.metric("redirector_config_generation").unwrap_or(0.0),
        }
    }

    fn print(&self, name: &str, changes: u32, before: &Used) {
        let after = self.used();
        println!(
            "{}",
            json!({
                "name": name,
                "changes": changes,
                "seconds": (after.at - before.at).as_secs_f64(),
                "cpu": after.cpu - before.cpu,
                "resident": resident(self.agent.pid()),
                "bytes": after.bytes - before.bytes,
                "requests": self.server.take_used().len(),
                "generations": after.generation - before.generation,
            })
        );
    }
}

fn name(service: usize) -> String {
    format!("service-{service}")
}

fn address(second: usize, i: usize) -> String {
    format!("10.{}.{}.{}", second + i / 62_500, i / 250 % 250, 1 + i % 250)
}

/// A pod as a kubelet leaves it; each fifth one is of a labelled version.
fn pod(i: usize, scale: &Scale, change: usize) -> Value {
    let node = format!("node-{}", i % scale.nodes);
    let labels = json!({ "app": name(i % scale.services), "change": change.to_string() });
    let mut pod = objects::pod(&format!("pod-{i}"), &node, &format!("uid-{i}"), &labels);
    pod["metadata"]["managedFields"] = json!([
        { "manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
          "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": { "f:metadata": {
              "f:generateName": {}, "f:labels": { ".": {}, "f:app": {} },
              "f:ownerReferences": { ".": {}, "k:{\"uid\":\"u\"}": {} } },
            "f:spec": { "f:containers": { "k:{\"name\":\"c\"}": { ".": {}, "f:image": {},
              "f:imagePullPolicy": {}, "f:name": {}, "f:resources": {} } } } } },
        { "manager": "kubelet", "operation": "Update", "apiVersion": "v1", "subresource": "status",
          "time": "2026-01-01T00:00:01Z", "fieldsType": "FieldsV1", "fieldsV1": { "f:status": {
              "f:conditions": { "k:{\"type\":\"Ready\"}": { ".": {}, "f:status": {} } },
              "f:containerStatuses": {}, "f:phase": {}, "f:podIPs": {} } } },
    ]);
    pod
}

/// The endpoints of a service, of which one comes or goes with each round.
fn slice(service: usize, scale: &Scale, round: usize) -> Value {
    let each = (scale.pods / scale.services).max(1) + round % 2;
    let endpoints = (0..each).map(|n| address(128, service + n * scale.services));
    let endpoints: Vec<Value> = endpoints.map(objects::endpoint).collect();
    objects::endpoint_slice(&name(service), "x", &endpoints)
}

fn rule(service: usize) -> Value {
    let host = |i: usize| format!("{}.default.svc.cluster.local", name(i));
    let leg = |i: usize, weight: u32| json!({ "destination": { "host": host(i), "port": { "number": 19000 } }, "weight": weight });
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": { "name": name(service), "namespace": "default" },
        "spec": { "hosts": [host(service)], "tcp": [{
            "route": [leg(service, 90), leg(service + 2, 10)],
        }] },
    })
}

/// A process's time on a processor, in seconds.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields = stat.rsplit_once(')').expect("a name").1;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: f64 = ticks.map(|text| text.parse::<f64>().expect("a number")).sum();
    // SAFETY: no memory is involved.
    ticks / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64
}

/// Its resident memory, in bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
}
