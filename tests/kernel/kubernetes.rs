//! The real daemon on imitated nodes: objects from the tests' API server, pods'
//! cgroups as kubelets and runtimes make them, real processes in them, and real
//! connections.

mod capabilities;
mod gateways;
mod health;
mod image;
mod nested;
mod newcomers;
mod surge;
mod two_agents;

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use redirector::datapath::{Datapath, SourceKey};
use redirector_tests::agent::{Agent, command};
use redirector_tests::apiserver::{ApiServer, objects};
use redirector_tests::child;
use redirector_tests::figure;
use redirector_tests::forbid;
use redirector_tests::kernel::{privileged, soaking};
use redirector_tests::netns::NetNs;
use redirector_tests::node::Node;
use redirector_tests::server::Server;
use serde_json::{Value, json};

const HASH: &str = "16d7c2b0b1c84a6f9a8e7d6c5b4a3928";

/// The Services, and where in the net they lead.
const ECHO: [(&str, u32); 2] = [("one", 11), ("two", 12)];

/// An imitated cluster: a server, and two echo servers behind two Services.
struct Cluster {
    server: ApiServer,
    /// The net in 127.0.0.0/8 that nothing else on this machine uses.
    net: String,
    _echo: [Server; 2],
}

impl Cluster {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // Tests run beside one another, in this process or, more often, in others.
        let place = std::process::id().wrapping_add(count * 4099) % (100 * 256);
        let net = format!("127.{}.{}", 100 + place / 256, place % 256);
        let server = ApiServer::start();
        let echo = ECHO.map(|(name, last)| {
            let endpoint: SocketAddr = format!("{net}.{last}:9000").parse().expect("an address");
            server.apply(objects::service(name, format_args!("{net}.{}", last + 100)));
            let endpoints = [objects::endpoint(endpoint.ip())];
            server.apply(objects::endpoint_slice(name, "x", &endpoints));
            Server::start(name, endpoint)
        });
        // Clients of the label go to `two`, all others to `one`.
        server.apply(json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": { "name": "by-label", "namespace": "default" },
            "spec": { "hosts": ["one.default.svc.cluster.local"], "tcp": [
                {
                    "match": [{ "sourceLabels": { "goes": "two" } }],
                    "route": [{ "destination": { "host": "two.default.svc.cluster.local" } }],
                },
                { "route": [{ "destination": { "host": "one.default.svc.cluster.local" } }] },
            ] },
        }));
        Self { server, net, _echo: echo }
    }

    /// What pods dial.
    fn service(&self) -> SocketAddr {
        format!("{}.111:19000", self.net).parse().expect("an address")
    }

    /// What a Service leads to.
    fn endpoint(&self, name: &str) -> SocketAddr {
        let (_, last) = ECHO.into_iter().find(|(known, _)| *known == name).expect("it is one");
        format!("{}.{last}:9000", self.net).parse().expect("an address")
    }

    /// A pod on a node, and what goes beyond the usual into its metadata.
    fn pod(&self, name: &str, node: &str, uid: &str, goes: &str, annotations: &Value) {
        let labels = json!({ "app": "client", "goes": goes });
        let mut pod = objects::pod(name, node, uid, &labels);
        pod["metadata"]["annotations"] = annotations.clone();
        self.server.apply(pod);
    }
}

#[test]
fn how_long_changes_take_is_counted_by_kind_of_object() {
    if !privileged() {
        return;
    }
    let cluster = Cluster::new();
    let node = Node::new(&cluster.server, "node-a", &["kubepods"]);
    let mut agent = node.ready();
    let count = "redirector_change_seconds_count{kind=\"VirtualService\"}";
    assert_eq!(agent.metric(count), None, "what was there at the start is no change");
    let mut rules = cluster.server.get("VirtualService", "default", "by-label").expect("rules");
    rules["spec"]["tcp"] = json!([
        { "route": [{ "destination": { "host": "two.default.svc.cluster.local" } }] },
    ]);
    cluster.server.apply(rules);
    agent.wait("the change", |agent| agent.metric(count) == Some(1.0));
    assert_eq!(agent.metric("redirector_waiting_changes"), Some(0.0));
    assert_eq!(agent.metric("redirector_oldest_waiting_change_seconds"), Some(0.0));
    let pod = node.cgroup("kubepods/pod5d0c6b1e");
    assert_eq!(answered(&pod, cluster.service()), "two");
}

/// An agent that is killed when it enters a network namespace goes on, whatever
/// a WorkloadEntry names; one that is told by a file does enter it, and is killed.
#[test]
fn no_object_has_a_network_namespace_entered() {
    if !privileged() {
        return;
    }
    let cluster = Cluster::new();
    let node = Node::new(&cluster.server, "node-a", &["kubepods"]);
    let netns = NetNs::new("pod");
    let greedy = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry",
        "metadata": {
            "name": "greedy", "namespace": "default",
            "annotations": { "redirector.io/netns": netns.path() },
        },
        "spec": { "address": "127.0.0.2" },
    });
    cluster.server.apply(greedy.clone());
    let pod = node.cgroup("kubepods/pod5d0c6b1e");
    cluster.server.apply(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry",
        "metadata": {
            "name": "greedier", "namespace": "default",
            "annotations": { "redirector.io/cgroup": node.below_mount("kubepods/pod5d0c6b1e") },
        },
        "spec": { "address": "127.0.0.2", "labels": { "goes": "two" } },
    }));
    let agent = node.ready();
    assert_eq!(node.sources(), []);
    assert_eq!(answered(&pod, cluster.service()), "one");
    assert_eq!(agent.metric("redirector_identity_gaps"), Some(0.0), "{}", agent.log());
    agent.stop();
    let file = node.directory.path().join("greedy.json");
    std::fs::write(&file, greedy.to_string()).expect("a file");
    let of_files = ["--kubernetes", "--kubeconfig=", "--node-name="];
    let arguments = node.arguments().into_iter();
    let arguments = arguments.filter(|one| !of_files.iter().any(|flag| one.starts_with(flag)));
    let config = format!("--config={}", file.display());
    let agent = Agent::start_as(node.directory.path(), arguments.chain([config]), |command| {
        // SAFETY: between fork and exec only a system call is made.
        unsafe { command.pre_exec(|| forbid::system_call(libc::SYS_setns)) };
    });
    let status = agent.end();
    assert_eq!(status.signal(), Some(libc::SIGSYS), "{status}");
}

/// The trees of pods, whatever the kubelet's driver and root.
const TREES: [&str; 3] = ["kubepods.slice", "kubepods", "kubelet.slice"];

fn node(cluster: &Cluster, name: &str) -> Node {
    let node = Node::new(&cluster.server, name, &TREES);
    node.cgroup("kubelet.slice/kubelet-kubepods.slice");
    node
}

/// Who answers a process in a cgroup that dials an address.
fn answered(cgroup: &Path, address: SocketAddr) -> String {
    child::run(cgroup, move || {
        let mut text = String::new();
        match TcpStream::connect(address) {
            Ok(mut stream) => {
                let _ = std::io::Read::read_to_string(&mut stream, &mut text);
                text.split(' ').next().unwrap_or_default().to_owned()
            }
            Err(error) => error.to_string(),
        }
    })
}

fn uid(last: u32) -> String {
    format!("0f1e2d3c-4b5a-6978-8796-a5b4c3d{last:05x}")
}

#[test]
fn pods_of_every_layout_are_told_apart() {
    if !privileged() {
        return;
    }
    let cluster = Cluster::new();
    let mut node = node(&cluster, "node-a");
    let sliced = |last| uid(last).replace('-', "_");
    let mut layouts = vec![
        format!("kubepods.slice/kubepods-pod{}.slice/cri-containerd-ab.scope", sliced(0)),
        format!(
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice/crio-ab.scope/container",
            sliced(1)
        ),
        format!("kubepods/pod{}/ab", uid(2)),
        format!("kubepods/besteffort/pod{}/crio-ab/init.scope/deep/deeper", uid(3)),
        format!(
            "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{}.slice/docker-ab.scope",
            sliced(4)
        ),
        format!("containerd.service/kubepods-burstable-pod{}.slice:cri-containerd:ab", sliced(5)),
    ];
    // Half of them go to `two`, so that telling one from the next matters.
    let goes = |i: usize| if i.is_multiple_of(2) { "two" } else { "one" };
    for i in 0..layouts.len() {
        let uid = uid(u32::try_from(i).expect("few"));
        cluster.pod(&format!("p{i}"), "node-a", &uid, goes(i), &json!({}));
    }
    // Two that go different ways are in the node's network, where an address tells
    // nobody apart (as all are, in this test).
    for name in ["p0", "p1"] {
        let mut pod = cluster.server.get("Pod", "default", name).expect("it is there");
        pod["spec"]["hostNetwork"] = json!(true);
        pod["status"] = json!({ "podIP": "127.0.0.1", "podIPs": [{ "ip": "127.0.0.1" }] });
        cluster.server.apply(pod);
    }
    // A static pod: its mirror has another uid.
    let hash = json!({ "kubernetes.io/config.hash": HASH });
    cluster.pod("static", "node-a", &uid(99), goes(layouts.len()), &hash);
    layouts.push(format!("kubepods/burstable/pod{HASH}/ab"));
    node.tree("containerd.service");
    let mut agent = node.ready();
    let cgroups: Vec<PathBuf> = layouts.iter().map(|path| node.cgroup(path)).collect();
    agent.wait("all pods to be known", |_| node.sources().len() == layouts.len());
    for (i, cgroup) in cgroups.iter().enumerate() {
        assert_eq!(answered(cgroup, cluster.service()), goes(i), "{}", layouts[i]);
    }
    // A pod that nothing is known of: rules without a condition on the source.
    let stranger = node.cgroup(&format!("kubepods/besteffort/pod{}/ab", uid(1000)));
    assert_eq!(answered(&stranger, cluster.service()), "one");
}

#[test]
fn two_nodes_decide_each_for_its_own_pods() {
    if !privileged() {
        return;
    }
    let cluster = Cluster::new();
    let nodes = [node(&cluster, "node-a"), node(&cluster, "node-b")];
    cluster.pod("a", "node-a", &uid(1), "two", &json!({}));
    cluster.pod("b", "node-b", &uid(2), "one", &json!({}));
    let mut agents = [nodes[0].ready(), nodes[1].ready()];
    let cgroups = [
        nodes[0].cgroup(&format!("kubepods/burstable/pod{}", uid(1))),
        nodes[1].cgroup(&format!("kubepods/burstable/pod{}", uid(2))),
    ];
    for (node, agent) in nodes.iter().zip(&mut agents) {
        agent.wait("its pod", |_| node.sources().len() == 1);
    }
    assert_eq!(answered(&cgroups[0], cluster.service()), "two");
    assert_eq!(answered(&cgroups[1], cluster.service()), "one");
    // The rule changes once, for both.
    let mut rule =
        cluster.server.get("VirtualService", "default", "by-label").expect("it is there");
    rule["spec"]["tcp"][0]["match"][0]["sourceLabels"]["goes"] = json!("one");
    cluster.server.apply(rule);
    for (node, agent) in nodes.iter().zip(&mut agents) {
        let (cgroup, other) = match node.name.as_str() {
            "node-a" => (&cgroups[0], "one"),
            _ => (&cgroups[1], "two"),
        };
        agent.wait("the new rule", |_| answered(cgroup, cluster.service()) == other);
    }
}

#[test]
fn pods_that_come_and_go_are_known_and_forgotten() {
    if !privileged() {
        return;
    }
    let cluster = Cluster::new();
    let node = node(&cluster, "node-a");
    let mut agent = node.ready();
    let mut times = Vec::new();
    for i in 0..60 {
        let uid = uid(i);
        cluster.pod(&format!("p{i}"), "node-a", &uid, "two", &json!({}));
        // A kubelet makes the cgroup when it has read the pod; so has the agent.
        agent.wait("the pod to be expected", |agent| {
            agent.metric("redirector_identity_gaps") == Some(1.0)
        });
        let class = ["", "burstable/", "besteffort/"][i as usize % 3];
        let datapath = Datapath::open_read_only(&node.place.pins()).expect("it is loaded");
        let begun = Instant::now();
        let pod = node.cgroup(&format!("kubepods/{class}pod{uid}"));
        let id =
            std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&pod).expect("it is there"));
        let known = || {
            let sources = datapath.sources().expect("its sources can be read");
            sources
                .iter()
                .any(|(key, _)| matches!(key, SourceKey::Cgroup { id: known, .. } if *known == id))
        };
        while !known() {
            assert!(begun.elapsed() < Duration::from_secs(60), "never known:\n{}", agent.log());
        }
        times.push(begun.elapsed());
        if i % 10 == 0 {
            let container = node.cgroup(&format!("kubepods/{class}pod{uid}/ab"));
            assert_eq!(answered(&container, cluster.service()), "two");
            std::fs::remove_dir(container).expect("it is empty");
        }
        // The pod ends: first its cgroup, then its object, or the other way.
        if i % 2 == 0 {
            std::fs::remove_dir(&pod).expect("it is empty");
            cluster.server.delete("Pod", "default", &format!("p{i}"));
        } else {
            cluster.server.delete("Pod", "default", &format!("p{i}"));
            std::fs::remove_dir(&pod).expect("it is empty");
        }
    }
    agent.wait("all to be forgotten", |_| node.sources().is_empty());
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!("from mkdir to the kernel: p50 {:?}, p99 {:?}", at(50), at(99));
}

#[test]
fn pods_are_known_in_tables_that_have_grown() {
    if !privileged() {
        return;
    }
    let cluster = Cluster::new();
    let node = node(&cluster, "node-a");
    let mut agent = node.start_with(&["--max-workloads=8"]);
    agent.wait_ready();
    for i in 0..20 {
        cluster.pod(&format!("p{i}"), "node-a", &uid(i), "two", &json!({}));
    }
    agent.wait("the pods to be expected", |agent| {
        agent.metric("redirector_identity_gaps") == Some(20.0)
    });
    assert!(agent.log().contains("the tables have grown"), "{}", agent.log());
    let container = node.cgroup(&format!("kubepods/burstable/pod{}/ab", uid(0)));
    agent.wait("the pod to be known", |agent| {
        agent.metric("redirector_identity_gaps") == Some(19.0)
    });
    assert_eq!(answered(&container, cluster.service()), "two");
    let (_, text) = agent.page("/metrics").expect("metrics");
    let once = "redirector_pod_known_seconds_count{expected=\"true\"} 1\n";
    assert!(text.contains(once), "{text}");
    assert!(text.contains("redirector_drift_total 0\n"), "it did not have to be mended: {text}");
}

/// Time between two pods.
const PACE: Duration = Duration::from_millis(300);

/// From the cgroup of a pod to its first process: a sandbox and an image's
/// container take longer.
const SANDBOX: Duration = Duration::from_secs(1);

#[test]
fn of_200_pods_a_minute_none_is_unknown_and_none_left_behind() {
    if !privileged() {
        return;
    }
    let cluster = Cluster::new();
    let node = node(&cluster, "node-a");
    let mut agent = node.ready();
    let (begun, time) = (Instant::now(), soaking(Duration::from_secs(9)));
    let goes = |i: u32| if i.is_multiple_of(2) { "two" } else { "one" };
    let mut starting: VecDeque<(u32, PathBuf, Instant)> = VecDeque::new();
    let mut running: VecDeque<(u32, PathBuf, Instant)> = VecDeque::new();
    let (mut made, mut ended) = (0, 0);
    while ended < made || begun.elapsed() < time {
        let next = Instant::now() + PACE;
        if begun.elapsed() < time {
            let uid = uid(made);
            cluster.pod(&format!("p{made}"), "node-a", &uid, goes(made), &json!({}));
            let class = ["", "burstable/", "besteffort/"][made as usize % 3];
            let cgroup = node.cgroup(&format!("kubepods/{class}pod{uid}"));
            starting.push_back((made, cgroup, Instant::now()));
            made += 1;
        }
        while starting.front().is_some_and(|(_, _, since)| since.elapsed() >= SANDBOX) {
            let (i, cgroup, since) = starting.pop_front().expect("it is there");
            let container = cgroup.join("ab");
            std::fs::create_dir(&container).expect("a container");
            assert_eq!(answered(&container, cluster.service()), goes(i), "{}", agent.log());
            std::fs::remove_dir(&container).expect("it is empty");
            running.push_back((i, cgroup, since));
        }
        while running.front().is_some_and(|(_, _, since)| since.elapsed() >= SANDBOX * 2) {
            let (i, cgroup, _) = running.pop_front().expect("it is there");
            std::fs::remove_dir(&cgroup).expect("it is empty");
            assert!(cluster.server.delete("Pod", "default", &format!("p{i}")));
            ended += 1;
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    figure!(
        "{made} pods came and went in {} s, and each went where its labels say",
        begun.elapsed().as_secs()
    );
    agent.wait("all to be forgotten", |_| node.sources().is_empty());
    agent.wait("nothing to be missing", |agent| {
        let text = agent.page("/metrics").map(|(_, text)| text).unwrap_or_default();
        // Who connected was known each time, also where that made no difference.
        assert!(text.contains("redirector_unknown_source_total 0\n"), "{text}");
        text.contains("redirector_identity_gaps 0\n")
    });
}

#[test]
fn everything_stays_while_the_api_server_is_away() {
    if !privileged() {
        return;
    }
    let mut cluster = Cluster::new();
    let node = node(&cluster, "node-a");
    cluster.pod("a", "node-a", &uid(1), "two", &json!({}));
    let cgroup = node.cgroup(&format!("kubepods/burstable/pod{}", uid(1)));
    let mut agent = node.ready();
    agent.wait("its pod", |_| node.sources().len() == 1);
    let service = cluster.service();
    assert_eq!(answered(&cgroup, service), "two");
    cluster.server.stop();
    let troubled =
        |agent: &Agent| agent.metric("redirector_watch_up{resource=\"services\"}") == Some(0.0);
    agent.wait("it to notice", troubled);
    assert_eq!(answered(&cgroup, service), "two");
    // It ends and comes back, without ever reaching the server.
    assert!(agent.stop().success());
    assert_eq!(answered(&cgroup, service), "two", "no agent at all");
    let mut agent = node.start();
    agent.wait("it to try", troubled);
    assert!(!agent.is_ready());
    assert_eq!(answered(&cgroup, service), "two");
    assert_eq!(node.sources().len(), 1, "what was known stays known");
    cluster.server.resume();
    agent.wait_ready();
    assert_eq!(answered(&cgroup, service), "two");
    // It is said once, in the agent's words alone, and where nothing helps, nothing is advised.
    for words in ["failed with error", "eof in poll", "help=\n"] {
        assert!(!agent.log().contains(words), "{}", agent.log());
    }
}

#[test]
fn it_is_ready_only_when_all_is_in_force() {
    if !privileged() {
        return;
    }
    use redirector_tests::apiserver::Trouble;
    const TAINT: &str = "redirector.io/agent-not-ready";
    let cluster = Cluster::new();
    let node = node(&cluster, "node-a");
    cluster.server.apply(json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node-a" },
        "spec": { "taints": [
            { "key": TAINT, "effect": "NoSchedule" },
            { "key": "other", "effect": "NoSchedule" },
            { "key": TAINT, "effect": "NoExecute" },
        ] },
    }));
    cluster.server.order("", "endpointslices", usize::MAX, Trouble::Status(503));
    let mut agent = node.start_with(&[&format!("--startup-taint={TAINT}")]);
    agent.wait("it to be refused", |agent| agent.log().contains("503"));
    assert!(!agent.is_ready());
    agent.wait("it to say so", |agent| {
        agent.page("/readyz").is_some_and(|(status, _)| status == 503)
    });
    let taints = || {
        let node = cluster.server.get("Node", "", "node-a").expect("it is there");
        node["spec"]["taints"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(taints(), 3);
    // Somebody else writes to the node at the wrong moment.
    cluster.server.order("patch", "nodes", 2, Trouble::Status(409));
    cluster.server.behave();
    agent.wait_ready();
    agent.wait("the taint to go", |_| taints() == 1);
}

#[test]
fn without_a_way_to_the_api_server_it_says_so() {
    if !privileged() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let output = command(["run", "--kubernetes", "--kubeconfig=/no/such/kubeconfig"])
        .env_remove("KUBERNETES_SERVICE_HOST")
        .arg("--state-dir")
        .arg(directory.path())
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("/no/such/kubeconfig"), "{text}");
}
