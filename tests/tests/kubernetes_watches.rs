//! The agent's watches against the tests' own API server, with every fault that
//! a cluster has to offer.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod faults;
mod load;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redirector::identity::Direct;
use redirector::kubernetes::events::Incarnations;
use redirector::kubernetes::gateways::Near;
use redirector::kubernetes::trouble::Trouble as Why;
use redirector::kubernetes::{self, Health, Options, Resource as Watched, Timing, Watches};
use redirector::source::Batch;
use redirector::source::waiting::Waiting;
use redirector_core::model::{Kind, ObjectRef, Spec};
use redirector_core::store::Store;
use redirector_tests::apiserver::{ApiServer, Resource, TOKEN, Trouble};
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;

const NODE: &str = "node-a";

/// Short enough for tests, long enough for a busy machine.
fn timing() -> Timing {
    Timing {
        retry: Duration::from_millis(20),
        retry_most: Duration::from_millis(200),
        recheck: Duration::from_millis(100),
        absent: Duration::from_secs(3600),
        compare: Duration::from_secs(3600),
        settle: Duration::from_millis(100),
        lease: Duration::from_secs(3600),
    }
}

/// The watches, and a store that takes what they bring.
struct Agent {
    store: Arc<Mutex<(Store, usize)>>,
    watches: Receiver<Watches>,
    /// What came while it is held.
    waiting: Waiting,
    is_held: Arc<AtomicBool>,
    _runtime: tokio::runtime::Runtime,
    /// Where its kubeconfig is.
    directory: tempfile::TempDir,
}

impl Agent {
    fn start(server: &ApiServer) -> Self {
        Self::with(server, timing(), TOKEN, Store::default())
    }

    fn with(server: &ApiServer, timing: Timing, token: &str, store: Store) -> Self {
        Self::of_node(NODE, server, timing, token, store)
    }

    /// Without TLS, and so without HTTP/2.
    fn plain(server: &ApiServer) -> Self {
        let directory = tempfile::tempdir().unwrap();
        server.plain_kubeconfig(directory.path(), TOKEN);
        Self::configured(directory, NODE, timing(), Store::default())
    }

    fn of_node(node: &str, server: &ApiServer, timing: Timing, token: &str, store: Store) -> Self {
        let directory = tempfile::tempdir().unwrap();
        server.kubeconfig(directory.path(), token);
        Self::configured(directory, node, timing, store)
    }

    fn configured(directory: tempfile::TempDir, node: &str, timing: Timing, store: Store) -> Self {
        let path = directory.path().join("kubeconfig");
        let runtime = kubernetes::runtime().unwrap();
        let client = runtime.block_on(kubernetes::client::connect(Some(&path))).unwrap();
        let known: Vec<Arc<str>> = store.files().cloned().collect();
        let store = Arc::new(Mutex::new((store, 0)));
        let into = store.clone();
        let waiting = Waiting::default();
        let (held, is_held) = (waiting.clone(), Arc::new(AtomicBool::new(false)));
        let holds = is_held.clone();
        let send = move |batch: Batch| {
            if holds.load(Ordering::Acquire) {
                held.put(batch);
                return true;
            }
            let mut store = into.lock().unwrap();
            batch.put_into(&mut store.0);
            store.0.accept();
            store.1 += 1;
            true
        };
        let near = Near { addresses: Vec::new(), ports: 15400..=15499 };
        let options =
            Options { node: node.into(), gateways: Some(near), timing, pods: Direct::default() };
        let watches = kubernetes::follow(
            runtime.handle(),
            &client,
            &options,
            known,
            Incarnations::default(),
            send,
        );
        Self { store, watches, waiting, is_held, _runtime: runtime, directory }
    }

    /// From now on what comes waits, as while something else is put in force.
    fn hold(&self) {
        self.is_held.store(true, Ordering::Release);
    }

    /// The names of the objects in force, by kind.
    fn names(&self, kind: Kind) -> Vec<String> {
        let effective = self.store.lock().unwrap().0.effective();
        let of_kind = effective.keys().filter(|reference| reference.kind == kind);
        of_kind.map(|reference| reference.name.to_string()).collect()
    }

    fn spec(&self, kind: Kind, namespace: &str, name: &str) -> Option<Spec> {
        let effective = self.store.lock().unwrap().0.effective();
        let reference = ObjectRef { kind, namespace: namespace.into(), name: name.into() };
        effective.get(&reference).map(|object| object.spec.clone())
    }

    fn batches(&self) -> usize {
        self.store.lock().unwrap().1
    }

    fn health(&self, resource: Watched) -> Health {
        self.watches.borrow().health[&resource].clone()
    }

    fn wait_synced(&self) {
        wait("every watch to list", || self.watches.borrow().synced);
    }

    fn wait_names(&self, kind: Kind, names: &[&str]) {
        wait(&format!("{kind} {names:?}"), || self.names(kind) == names);
    }

    fn wait_health(&self, resource: Watched, wanted: impl Fn(&Health) -> bool) {
        wait(&format!("the health of {resource:?}"), || wanted(&self.health(resource)));
    }
}

/// Waits for something that is certain to come.
fn wait(what: &str, come: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !come() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn node() -> Value {
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": NODE } })
}

fn route(name: &str, host: &str) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "hosts": ["a.default.svc.cluster.local"], "tcp": [
            { "route": [{ "destination": { "host": host } }] },
        ] },
    })
}

fn service(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "clusterIP": address, "ports": [{ "name": "tcp", "port": 80 }] },
    })
}

fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": "default", "labels": { "app": "x" } },
        "spec": { "nodeName": node, "containers": [{ "name": "c", "image": "i" }] },
        "status": { "podIP": "10.244.0.9", "podIPs": [{ "ip": "10.244.0.9" }] },
    })
}

/// A server with a node and one route.
fn cluster() -> ApiServer {
    let server = ApiServer::start();
    server.apply(node());
    server.apply(route("echo", "one"));
    server
}

fn destination(agent: &Agent, name: &str) -> Option<String> {
    match agent.spec(Kind::VirtualService, "default", name) {
        Some(Spec::VirtualService(spec)) => Some(spec.tcp[0].route[0].host.to_string()),
        _ => None,
    }
}

#[test]
fn nothing_comes_before_every_watch_has_its_first_full_list() {
    let server = cluster();
    server.apply(service("a", "10.96.0.1"));
    server.order("", "endpointslices", 1, Trouble::Slow(Duration::from_millis(700)));
    let agent = Agent::start(&server);
    wait("the other lists", || {
        Watched::ALL.iter().filter(|r| agent.health(**r) == Health::Fine).count() == 10
    });
    assert_eq!(agent.batches(), 0);
    agent.wait_synced();
    assert_eq!(agent.batches(), 1, "everything at one instant");
    assert_eq!(agent.names(Kind::VirtualService), ["echo"]);
    assert_eq!(agent.names(Kind::Service), ["a"]);
    assert_eq!(agent.names(Kind::Node), [NODE]);
}

#[test]
fn changes_are_followed_and_those_that_say_nothing_are_dropped() {
    let server = cluster();
    let agent = Agent::start(&server);
    agent.wait_synced();
    server.apply(route("echo", "two"));
    wait("the change", || destination(&agent, "echo").as_deref() == Some("two"));
    server.apply(route("more", "one"));
    agent.wait_names(Kind::VirtualService, &["echo", "more"]);
    server.delete("VirtualService", "default", "echo");
    agent.wait_names(Kind::VirtualService, &["more"]);
    let batches = agent.batches();
    // Another resource version, and nothing in it that is read.
    let mut same = route("more", "one");
    same["metadata"]["annotations"] = json!({ "somebody.else/wrote": "this" });
    same["status"] = json!({ "validationMessages": [] });
    server.apply(same);
    server.apply(route("last", "one"));
    agent.wait_names(Kind::VirtualService, &["last", "more"]);
    assert_eq!(agent.batches(), batches + 1);
}

#[test]
fn a_cluster_without_istio_has_none_and_its_definitions_are_picked_up() {
    let server = ApiServer::with(Resource::builtins());
    server.apply(node());
    server.apply(service("a", "10.96.0.1"));
    let agent = Agent::start(&server);
    agent.wait_synced();
    assert_eq!(agent.names(Kind::Service), ["a"]);
    assert_eq!(agent.health(Watched::VirtualServices), Health::Absent);
    server.define(Resource::istio("virtualservices", "VirtualService"));
    server.apply(route("echo", "one"));
    agent.wait_names(Kind::VirtualService, &["echo"]);
    assert_eq!(agent.health(Watched::VirtualServices), Health::Fine);
    assert_eq!(agent.health(Watched::Gateways), Health::Absent, "still not defined");
}

#[test]
fn a_definition_that_is_deleted_takes_its_objects_along_and_may_come_again() {
    let server = cluster();
    let agent = Agent::start(&server);
    agent.wait_synced();
    server.undefine("virtualservices");
    agent.wait_names(Kind::VirtualService, &[]);
    agent.wait_health(Watched::VirtualServices, |health| *health == Health::Absent);
    server.define(Resource::istio("virtualservices", "VirtualService"));
    server.apply(route("again", "one"));
    agent.wait_names(Kind::VirtualService, &["again"]);
}

#[test]
fn one_bad_object_leaves_the_others_alone_and_itself_at_its_last_good_version() {
    let server = cluster();
    let agent = Agent::start(&server);
    agent.wait_synced();
    // What the server's schema admits and Istio's webhook would not.
    let mut bad = route("echo", "two");
    bad["spec"]["tcp"][0]["route"] = json!([
        { "destination": { "host": "two" }, "weight": -1 },
        { "destination": { "host": "three" }, "weight": 30 },
    ]);
    server.apply(bad);
    server.apply(route("good", "one"));
    agent.wait_names(Kind::VirtualService, &["echo", "good"]);
    assert_eq!(destination(&agent, "echo").as_deref(), Some("one"), "the last good version");
    let rejected = agent.store.lock().unwrap().0.rejected();
    assert_eq!(rejected.len(), 1, "{rejected:?}");
    assert!(rejected[0].kept);
    assert_eq!(&*rejected[0].file, "VirtualService/default/echo");
}

#[test]
fn pods_elsewhere_are_metadata_until_their_addresses_are_needed() {
    let server = cluster();
    server.apply(pod("mine", NODE));
    server.apply(pod("other", "node-b"));
    let agent = Agent::start(&server);
    agent.wait_synced();
    let addresses = |name| match agent.spec(Kind::Pod, "default", name) {
        Some(Spec::Pod(pod)) => pod.ips.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!((addresses("mine"), addresses("other")), (1, 0));
    let mut accepts = BTreeMap::new();
    for used in server.take_used() {
        accepts.insert(used.target.contains("%21%3D"), used.accept);
    }
    assert!(accepts[&true].contains("PartialObjectMetadata"), "{accepts:?}");
    server.apply(json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": { "name": "selects", "namespace": "default" },
        "spec": {
            "hosts": ["x.example"], "resolution": "STATIC",
            "ports": [{ "number": 80, "name": "tcp", "protocol": "TCP" }],
            "workloadSelector": { "labels": { "app": "x" } },
        },
    }));
    wait("the address", || addresses("other") == 1);
    server.delete("ServiceEntry", "default", "selects");
    wait("its end", || addresses("other") == 0);
}

#[test]
fn a_pod_that_moves_between_nodes_under_one_name_is_never_lost() {
    let server = cluster();
    server.apply(pod("web-0", NODE));
    let agent = Agent::start(&server);
    agent.wait_synced();
    let node_known = || match agent.spec(Kind::Pod, "default", "web-0") {
        Some(Spec::Pod(pod)) => Some(*pod.node == *NODE),
        _ => None,
    };
    for _ in 0..10 {
        server.delete("Pod", "default", "web-0");
        server.apply(pod("web-0", "node-b"));
        wait("it elsewhere", || node_known() == Some(false));
        server.delete("Pod", "default", "web-0");
        server.apply(pod("web-0", NODE));
        wait("it here", || node_known() == Some(true));
    }
}

#[test]
fn a_node_name_that_no_node_has_is_said() {
    let server = ApiServer::start();
    server.apply(pod("web-0", NODE));
    let agent = Agent::start(&server);
    let no_such = |health: &Health| *health == Health::Troubled(Why::NoSuchNode(NODE.into()));
    agent.wait_health(Watched::OwnNode, no_such);
    agent.wait_health(Watched::OwnPods, |health| *health == Health::Fine);
    server.apply(node());
    agent.wait_health(Watched::OwnNode, |health| *health == Health::Fine);
    agent.wait_synced();
    server.delete("Node", "", NODE);
    agent.wait_health(Watched::OwnNode, no_such);
    assert_eq!(agent.names(Kind::Pod), ["web-0"], "it runs on");
}

#[test]
fn under_a_name_that_no_node_has_no_pod_of_an_earlier_agent_is_forgotten() {
    let server = cluster();
    server.apply(pod("web-0", NODE));
    let agent = Agent::start(&server);
    agent.wait_synced();
    let store = agent.store.lock().unwrap().0.clone();
    drop(agent);
    let agent = Agent::of_node("no-such-node", &server, timing(), TOKEN, store);
    agent.wait_health(Watched::OwnNode, |health| matches!(health, Health::Troubled(_)));
    agent.wait_health(Watched::OwnPods, |health| *health == Health::Fine);
    // Nothing is put in force until there is such a Node.
    assert!(!agent.watches.borrow().synced);
    assert_eq!((agent.batches(), agent.names(Kind::Pod)), (0, vec!["web-0".to_owned()]));
}

#[test]
fn after_an_outage_the_first_watch_that_works_calls_the_others() {
    let mut server = cluster();
    // So that after some seconds each watch waits for some seconds.
    let (retry, retry_most) = (Duration::from_millis(100), Duration::from_secs(3600));
    let timing = Timing { retry, retry_most, ..timing() };
    let agent = Agent::with(&server, timing, TOKEN, Store::default());
    agent.wait_synced();
    server.stop();
    for resource in Watched::ALL {
        agent.wait_health(resource, |health| matches!(health, Health::Troubled(_)));
    }
    std::thread::sleep(Duration::from_secs(6));
    server.resume();
    let fine = |resource: &Watched| agent.health(*resource) == Health::Fine;
    wait("the first of them", || Watched::ALL.iter().any(fine));
    let first = Instant::now();
    wait("the others", || Watched::ALL.iter().all(fine));
    let took = first.elapsed();
    assert!(took < Duration::from_secs(2), "the last came {took:?} after the first");
}

#[test]
fn what_vanished_while_no_agent_ran_is_removed_by_the_first_batch() {
    let server = cluster();
    let agent = Agent::start(&server);
    agent.wait_synced();
    let store = agent.store.lock().unwrap().0.clone();
    drop(agent);
    server.delete("VirtualService", "default", "echo");
    server.apply(route("new", "one"));
    let agent = Agent::with(&server, timing(), TOKEN, store);
    assert_eq!(agent.names(Kind::VirtualService), ["echo"], "in force until then");
    agent.wait_synced();
    assert_eq!(agent.names(Kind::VirtualService), ["new"]);
}
