//! How long a pod takes from the mkdir of its cgroup to its entry in the
//! kernel's table, as `cargo xtask bench pods` asks for it.
//!
//! One line is the memory that the agent uses, in bytes: that of its cgroup. After
//! it come the rows of a small configuration.
//!
//! To be run as root, beside the program that it measures. A real agent, the tests'
//! API server, imitated pods. Each line of the output is a row in JSON, times in
//! microseconds.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData};
use redirector::scheduling::take_short_turns;
use redirector_common::abi::Source;
use redirector_tests::agent::Agent;
use redirector_tests::apiserver::{ApiServer, objects};
use redirector_tests::cgroup::MemoryCgroup;
use redirector_tests::kernel::measure;
use redirector_tests::node::Node;
use serde_json::{Value, json};

/// How often the kernel's table is looked at: times are longer by up to this.
const LOOK: Duration = Duration::from_micros(20);

/// How long is waited for a pod.
const PATIENCE: Duration = Duration::from_secs(60);

/// Time between two pods at 200 a minute.
const PACE: Duration = Duration::from_millis(300);

/// What is asked for.
struct Scale {
    /// Pods of each row.
    pods: usize,
    /// Pods of another node.
    others: usize,
    /// Pods that run on this node already.
    running: usize,
    /// Services, each with a VirtualService.
    services: usize,
}

/// A configuration as most nodes have it, but for the pods of the measurement.
const SMALL: Scale = Scale { pods: 0, others: 100, running: 30, services: 10 };

fn main() -> ExitCode {
    measure("PODS OTHERS RUNNING SERVICES", |[pods, others, running, services]| {
        Bench::new(Scale { pods, others, running, services }).run();
        Bench::new(Scale { pods, ..SMALL }).run_small();
    })
}

struct Bench {
    // Before the node and the cgroup: it has to end first.
    agent: Agent,
    node: Node,
    memory: Option<MemoryCgroup>,
    server: ApiServer,
    scale: Scale,
    /// Pods so far.
    count: usize,
}

impl Bench {
    fn new(scale: Scale) -> Self {
        let server = first_come(ApiServer::start);
        let node = Node::new(&server, "node-a", &["kubepods"]);
        for class in ["burstable", "besteffort"] {
            node.cgroup(&format!("kubepods/{class}"));
        }
        for i in 0..scale.others {
            let labels = json!({ "app": "client" });
            let uid = format!("ffffffff-{i}");
            server.apply(objects::pod(&format!("other-{i}"), "node-b", &uid, &labels));
        }
        firsts(&server, scale.pods);
        for i in 0..scale.services {
            service(&server, i, 50);
        }
        let memory = MemoryCgroup::new("pods-memory");
        let agent = start(&node, memory.as_ref());
        // As finely as this can wait.
        // SAFETY: no memory is involved.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
        let mut bench = Self { agent, node, memory, server, scale, count: 0 };
        for _ in 0..bench.scale.running {
            let pod = bench.announce(Labels::Usual);
            bench.node.cgroup(&pod.cgroup);
        }
        bench.wait_for_gaps(0);
        bench
    }

    fn run(&mut self) {
        let mut times = Vec::new();
        for _ in 0..self.scale.pods {
            let pod = self.announce(Labels::Usual);
            self.wait_for_gaps(1);
            times.push(self.arrival(&pod));
            // Each step is waited for, so that none is taken for the next one.
            self.wait_for_gaps(0);
            fs::remove_dir(self.path(&pod)).expect("it is empty");
            self.wait_for_gaps(1);
            self.server.delete("Pod", "default", &pod.name);
            self.wait_for_gaps(0);
        }
        print("idle", &mut times, "");
        let usual = "200 pods a minute, the cgroup 100 ms after the object";
        self.churn(usual, 100, Labels::Usual, "");
        self.churn("told together with its cgroup, known class", 0, Labels::Usual, "");
        self.churn("told together with its cgroup, first of its class", 0, Labels::Own, "");
        self.changes();
        if let Some([now, most]) = self.memory.as_ref().and_then(MemoryCgroup::used) {
            println!("{}", json!({ "memory": now, "most": most }));
        }
    }

    /// The rows of a small configuration.
    fn run_small(&mut self) {
        let Scale { running, others, services, .. } = self.scale;
        let beside = format!("{running} pods run, {others} elsewhere, {services} Services");
        self.churn("told together with its cgroup, known class", 0, Labels::Usual, &beside);
        self.churn("told together with its cgroup, first of its class", 0, Labels::Own, &beside);
    }

    /// Pods come and go.
    fn churn(&mut self, name: &str, delay: u64, labels: Labels, note: &str) {
        let mut times = Vec::new();
        let mut before = Vec::new();
        for _ in 0..self.scale.pods {
            let next = Instant::now() + PACE;
            let pod = self.announce(labels);
            thread::sleep(Duration::from_millis(delay));
            times.push(self.arrival(&pod));
            before.push(pod);
            if before.len() > 3 {
                self.end(&before.remove(0));
            }
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        for pod in before {
            self.end(&pod);
        }
        self.wait_for_gaps(0);
        print(name, &mut times, note);
    }

    /// Pods come while the configuration changes all the time.
    fn changes(&mut self) {
        let pods: Vec<Pod> = (0..self.scale.pods).map(|_| self.announce(Labels::Usual)).collect();
        self.wait_for_gaps(pods.len());
        let stop = AtomicBool::new(false);
        let generation = self.generation();
        let begun = Instant::now();
        let mut times = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0.. {
                    for i in (0..self.scale.services).step_by(10) {
                        service(&self.server, i, 1 + round % 99);
                    }
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    thread::sleep(Duration::from_millis(50));
                }
            });
            for pod in &pods {
                times.push(self.arrival(pod));
                thread::sleep(Duration::from_millis(50));
            }
            stop.store(true, Ordering::Relaxed);
        });
        let changes = self.generation() - generation;
        let each = begun.elapsed().as_millis() as f64 / changes;
        print(
            "while the configuration changes",
            &mut times,
            &format!("one change every {each:.0} ms"),
        );
        for pod in &pods {
            self.end(pod);
        }
    }

    /// A pod of this node in the API.
    fn announce(&mut self, labels: Labels) -> Pod {
        let i = self.count;
        self.count += 1;
        let name = format!("pod-{i}");
        let uid = format!("0f1e2d3c-4b5a-6978-8796-{i:012x}");
        let labels = match labels {
            Labels::Usual => json!({ "app": "client" }),
            Labels::Own => json!({ "app": "client", "first": (i % self.scale.pods).to_string() }),
        };
        self.server.apply(objects::pod(&name, &self.node.name, &uid, &labels));
        let class = ["", "burstable/", "besteffort/"][i % 3];
        Pod { name, cgroup: format!("kubepods/{class}pod{uid}") }
    }

    /// Makes a pod's cgroup, and says when the kernel knows it.
    fn arrival(&self, pod: &Pod) -> Duration {
        let table = self.node.place.pins().join("current/CGROUP_SOURCES");
        let table = Map::HashMap(MapData::from_pin(table).expect("the table"));
        let table: HashMap<_, u64, Source> = table.try_into().expect("its type");
        let path = self.path(pod);
        let begun = Instant::now();
        fs::create_dir(&path).expect("a new cgroup");
        let id = fs::metadata(&path).expect("it is there").ino();
        while table.get(&id, 0).is_err() {
            assert!(begun.elapsed() < PATIENCE, "never known:\n{}", self.agent.log());
            thread::sleep(LOOK);
        }
        begun.elapsed()
    }

    fn end(&self, pod: &Pod) {
        fs::remove_dir(self.path(pod)).expect("it is empty");
        self.server.delete("Pod", "default", &pod.name);
    }

    fn path(&self, pod: &Pod) -> PathBuf {
        self.node.place.cgroup.path().join(&pod.cgroup)
    }

    fn wait_for_gaps(&mut self, gaps: usize) {
        self.agent.wait("the pods to be expected", |agent| {
            agent.metric("redirector_identity_gaps") == Some(gaps as f64)
        });
    }

    fn generation(&self) -> f64 {
        self.agent.metric("redirector_config_generation").expect("a metric")
    }
}

/// Starts threads that run whenever they have something to do: those of the API
/// server, which is on another machine, and waits for no agent there.
fn first_come<T: Send + 'static>(start: fn() -> T) -> T {
    let start = move || {
        take_short_turns();
        start()
    };
    thread::spawn(start).join().expect("it starts")
}

/// Starts the agent with tables of the usual sizes, in a cgroup that counts its
/// memory.
fn start(node: &Node, memory: Option<&MemoryCgroup>) -> Agent {
    let ours = ["--max-connections=", "--daemon-cgroup="];
    let usual = node.arguments().into_iter();
    let usual = usual.filter(|one| !ours.iter().any(|prefix| one.starts_with(prefix)));
    let arguments = usual.chain(["--daemon-cgroup=none".to_owned()]);
    let procs = memory.map(|memory| {
        fs::File::options().write(true).open(memory.procs()).expect("a cgroup's file")
    });
    let mut agent = Agent::start_as(node.directory.path(), arguments, |command| {
        let Some(mut procs) = procs else { return };
        // SAFETY: between fork and exec only a system call is made.
        unsafe { command.pre_exec(move || procs.write_all(b"0")) };
    });
    agent.wait_ready();
    agent
}

struct Pod {
    name: String,
    /// Below the node's.
    cgroup: String,
}

/// Which labels a pod has.
#[derive(Clone, Copy)]
enum Labels {
    /// Those that others have.
    Usual,
    /// One that a rule asks for, and that no other pod has.
    Own,
}

/// A rule that makes classes of their own of so many pods.
fn firsts(server: &ApiServer, pods: usize) {
    let matches: Vec<Value> =
        (0..pods).map(|i| json!({ "sourceLabels": { "first": i.to_string() } })).collect();
    server.apply(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": { "name": "firsts", "namespace": "default" },
        "spec": { "hosts": ["service-0.default.svc.cluster.local"], "tcp": [{
            "match": matches,
            "route": [{ "destination": { "host": "service-1.default.svc.cluster.local" } }],
        }] },
    }));
}

/// A Service with two endpoints and a rule that splits between its subsets.
fn service(server: &ApiServer, i: usize, weight: usize) {
    let (name, high, low) = (format!("service-{i}"), i / 250, i % 250);
    if server.get("Service", "default", &name).is_none() {
        server.apply(objects::service(&name, format_args!("10.96.{high}.{low}")));
        let endpoints = [1, 2].map(|n| objects::endpoint(format_args!("10.24{n}.{high}.{low}")));
        server.apply(objects::endpoint_slice(&name, "x", &endpoints));
    }
    let next = format!("service-{}.default.svc.cluster.local", i ^ 1);
    let own = format!("{name}.default.svc.cluster.local");
    server.apply(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "hosts": [own.clone()], "tcp": [{
            "match": [{ "sourceLabels": { "app": "client" } }],
            "route": [
                { "destination": { "host": own, "port": { "number": 19000 } }, "weight": weight },
                { "destination": { "host": next, "port": { "number": 19000 } }, "weight": 100 - weight },
            ],
        }] },
    }));
}

fn print(name: &str, times: &mut [Duration], note: &str) {
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_micros();
    println!(
        "{}",
        json!({
            "name": name, "pods": times.len(), "p50": at(50), "p90": at(90), "p99": at(99),
            "max": at(100), "note": note,
        })
    );
}
