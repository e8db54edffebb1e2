//! Events on objects that are refused or have no effect, and which of the
//! agents writes them.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redirector::identity::Direct;
use redirector::kubernetes::Timing;
use redirector::kubernetes::agent::{Agent, Setup};
use redirector::kubernetes::findings::Judged;
use redirector_core::in_force::InForce;
use redirector_core::store::Store;
use redirector_core::world::{Settings, World};
use redirector_tests::apiserver::{ApiServer, Rule, TOKEN, Trouble};
use serde_json::{Value, json};

/// Long enough for a busy machine to renew it in time.
const LEASE: Duration = Duration::from_secs(4);

fn timing() -> Timing {
    Timing {
        retry: Duration::from_millis(20),
        retry_most: Duration::from_millis(100),
        recheck: Duration::from_millis(100),
        absent: Duration::from_secs(3600),
        compare: Duration::from_secs(3600),
        settle: Duration::from_millis(100),
        lease: LEASE,
    }
}

/// An agent of a node: what its watches bring is judged as the daemon does.
struct Node(Arc<Mutex<Agent>>);

impl Node {
    fn start(server: &ApiServer, name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let setup = Setup {
            kubeconfig: Some(server.kubeconfig(directory.path(), TOKEN)),
            gateways: None,
            startup_taint: None,
            timing: timing(),
        };
        let agent = Arc::new(Mutex::new(Agent::new(setup, name.into()).unwrap()));
        let mut store = Store::default();
        let judge = Arc::downgrade(&agent);
        let (sender, batches) = std::sync::mpsc::channel::<redirector::source::Batch>();
        std::thread::spawn(move || {
            for batch in batches {
                let Some(agent) = judge.upgrade() else { return };
                batch.put_into(&mut store);
                let world = World::of(Settings::default(), store.effective());
                let in_force = InForce::new(&store, world);
                store.accept();
                let findings = in_force.findings();
                let judged = Judged::new(&in_force, findings, &[], &[]);
                agent.lock().unwrap().judge(judged);
            }
        });
        let send = move |batch| sender.send(batch).is_ok();
        agent.lock().unwrap().follow(Vec::new(), Direct::default(), send, || true);
        Self(agent)
    }

    /// Ends it, as a node that is switched off.
    fn end(self) {
        let Self(agent) = self;
        let end = Instant::now() + Duration::from_secs(60);
        let mut agent = agent;
        // The judging thread has it for a moment now and then.
        while let Err(busy) = Arc::try_unwrap(agent).map(drop) {
            assert!(Instant::now() < end);
            agent = busy;
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn wait(what: &str, come: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !come() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn rule(name: &str, tcp: &Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "hosts": [format!("{name}.example.com")], "tcp": tcp },
    })
}

/// A VirtualService with a port that the API server admits and Istio's webhook
/// would not.
fn bad(name: &str, port: u32) -> Value {
    let to = json!([{ "destination": { "host": "svc.default.svc.cluster.local" } }]);
    rule(name, &json!([{ "match": [{ "port": port }], "route": to }]))
}

fn cluster() -> ApiServer {
    let server = ApiServer::start();
    for node in ["node-a", "node-b"] {
        server.apply(json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node } }));
    }
    server.apply(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "svc", "namespace": "default" },
        "spec": { "clusterIP": "10.96.0.10", "ports": [{ "name": "tcp", "port": 19000 }] },
    }));
    server.apply(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "svc", "namespace": "default",
            "labels": { "kubernetes.io/service-name": "svc" },
        },
        "addressType": "IPv4", "ports": [{ "name": "tcp", "port": 19000 }],
        "endpoints": [{ "addresses": ["10.0.0.9"], "conditions": { "ready": true } }],
    }));
    server
}

fn events_about(server: &ApiServer, name: &str) -> Vec<Value> {
    let all = server.all("Event").into_iter();
    all.filter(|event| event["regarding"]["name"] == name).collect()
}

#[test]
fn what_is_refused_shadowed_or_leads_nowhere_has_an_event() {
    let server = cluster();
    let to = json!([{ "destination": { "host": "svc.default.svc.cluster.local" } }]);
    server.apply(bad("refused", 70000));
    server.apply(rule("fine", &json!([{ "route": to }])));
    server.apply(rule(
        "shadowed",
        &json!([
            { "match": [{ "port": 19000 }], "route": to },
            { "match": [{ "port": 19000, "sourceNamespace": "foo" }], "route": to },
        ]),
    ));
    let subset = json!([{ "destination": {
        "host": "svc.default.svc.cluster.local", "subset": "gray",
    } }]);
    server.apply(rule("nowhere", &json!([{ "route": subset }])));
    server.apply(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "nobody", "namespace": "default" },
        "spec": { "clusterIP": "10.96.0.11", "selector": { "app": "nobody" },
                  "ports": [{ "name": "tcp", "port": 19000 }] },
    }));
    let nobody = json!([{ "destination": { "host": "nobody.default.svc.cluster.local" } }]);
    let mut empty = rule("empty", &json!([{ "route": nobody }]));
    empty["spec"]["hosts"] = json!(["svc.default.svc.cluster.local"]);
    server.apply(empty);
    let named = |name: &str| json!({ "match": [{ "sniHosts": [name] }], "route": to });
    let mut wider = rule("wider", &json!([]));
    wider["spec"] = json!({
        "hosts": ["*.example.org"], "tls": [named("*.example.org"), named("a.example.org")],
    });
    server.apply(wider);
    let _node = Node::start(&server, "node-a");
    for (name, reason, why) in [
        ("refused", "Rejected", "spec.tcp[0].match[0].port"),
        ("shadowed", "Shadowed", "RD4004"),
        ("nowhere", "Unresolved", "gray"),
        ("empty", "Unresolved", "RD4015"),
        ("wider", "Shadowed", "RD4068"),
    ] {
        wait(name, || !events_about(&server, name).is_empty());
        let event = events_about(&server, name).remove(0);
        let object = server.get("VirtualService", "default", name).unwrap();
        assert_eq!(event["reason"], reason, "{event}");
        assert_eq!(event["type"], "Warning");
        assert!(event["note"].as_str().unwrap().contains(why), "{event}");
        assert_eq!(event["regarding"]["kind"], "VirtualService");
        assert_eq!(event["regarding"]["apiVersion"], "networking.istio.io/v1");
        assert_eq!(event["regarding"]["uid"], object["metadata"]["uid"]);
        assert_eq!(event["reportingInstance"], "node-a");
    }
    assert_eq!(events_about(&server, "fine"), Vec::<Value>::new());
    // A new version that is as wrong is said again; the last good one stays.
    server.apply(bad("fine", 70000));
    wait("an event", || events_about(&server, "fine").len() == 1);
    let note = events_about(&server, "fine")[0]["note"].as_str().unwrap().to_owned();
    assert!(note.contains("its last good version stays"), "{note}");
    server.apply(bad("fine", 70001));
    wait("another", || events_about(&server, "fine").len() == 2);
}

#[test]
fn an_annotation_that_is_for_plain_machines_has_an_event() {
    let server = cluster();
    server.apply(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry",
        "metadata": {
            "name": "greedy", "namespace": "default",
            "annotations": { "redirector.io/cgroup": "kubepods" },
        },
        "spec": { "address": "10.0.0.1" },
    }));
    let _node = Node::start(&server, "node-a");
    wait("an event", || !events_about(&server, "greedy").is_empty());
    let event = events_about(&server, "greedy").remove(0);
    assert_eq!(event["reason"], "Ignored", "{event}");
    let note = event["note"].as_str().unwrap();
    assert!(note.contains("metadata.annotations[redirector.io/cgroup]"), "{note}");
}

#[test]
fn one_agent_writes_events_and_another_takes_over_when_its_lease_runs_out() {
    let server = cluster();
    let first = Node::start(&server, "node-a");
    let holder = || {
        let lease = server.get("Lease", "redirector-system", "redirector-events")?;
        Some(lease["spec"]["holderIdentity"].as_str()?.to_owned())
    };
    wait("the first to have the lease", || holder().as_deref() == Some("node-a"));
    let second = Node::start(&server, "node-b");
    let writers = || -> BTreeSet<String> {
        let events = server.all("Event");
        events.iter().map(|e| e["reportingInstance"].as_str().unwrap().to_owned()).collect()
    };
    server.apply(bad("one", 70000));
    wait("an event", || events_about(&server, "one").len() == 1);
    // For more than two leases, in which it is renewed, the other is silent.
    let renewed = || server.used().contains(&used("leases", "update"));
    wait("the lease to be renewed", renewed);
    let end = Instant::now() + LEASE * 2;
    let mut wrong = 0;
    while Instant::now() < end {
        server.apply(bad("two", 70000 + wrong));
        wrong += 1;
        std::thread::sleep(LEASE / 4);
    }
    wait("them all", || !events_about(&server, "two").is_empty());
    assert_eq!(writers(), BTreeSet::from(["node-a".to_owned()]));
    assert_eq!(holder().as_deref(), Some("node-a"));
    first.end();
    let ended = Instant::now();
    server.apply(bad("three", 70000));
    wait("an event of the other", || events_about(&server, "three").len() == 1);
    // It was renewed at most a quarter before the end.
    assert!(ended.elapsed() > LEASE / 2, "the lease had not run out: {:?}", ended.elapsed());
    // One that lasts for a minute goes over within two; the rest is a busy machine's.
    assert!(ended.elapsed() < LEASE * 2 + LEASE / 4, "too late: {:?}", ended.elapsed());
    assert_eq!(events_about(&server, "three")[0]["reportingInstance"], "node-b");
    assert_eq!(holder().as_deref(), Some("node-b"));
    // What the first had told is not told twice.
    assert_eq!(events_about(&server, "one").len(), 1);
    let lease = server.get("Lease", "redirector-system", "redirector-events").unwrap();
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
    drop(second);
}

/// A kind of request, as the server counts them.
fn used(resource: &str, verb: &str) -> (String, String, String) {
    let group = if resource == "leases" { "coordination.k8s.io" } else { "events.k8s.io" };
    (group.to_owned(), resource.to_owned(), verb.to_owned())
}

#[test]
fn refused_events_are_tried_again() {
    let server = cluster();
    server.order("create", "events", 2, Trouble::Status(503));
    server.order("create", "leases", 1, Trouble::Hangup);
    server.apply(bad("one", 70000));
    let _node = Node::start(&server, "node-a");
    wait("the event", || events_about(&server, "one").len() == 1);
}

#[test]
fn a_namespace_that_is_going_has_no_events_and_holds_up_no_others() {
    let server = cluster();
    server.apply(json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": "a", "deletionTimestamp": "2026-11-26T02:06:51Z" },
    }));
    let mut going = bad("going", 70000);
    going["metadata"]["namespace"] = json!("a");
    server.apply(going);
    server.apply(bad("staying", 70000));
    let node = Node::start(&server, "node-a");
    wait("the other's Event", || !events_about(&server, "staying").is_empty());
    let tried = || {
        let used = server.take_used();
        used.iter().filter(|used| used.resource == "events" && used.namespace == "a").count()
    };
    wait("the attempt", || tried() == 1);
    assert_eq!(events_about(&server, "going"), Vec::<Value>::new());
    server.apply(bad("another", 70000));
    wait("one more Event", || !events_about(&server, "another").is_empty());
    assert_eq!(tried(), 0, "once is enough");
    node.end();
}

#[test]
fn without_the_permission_there_are_no_events_until_it_is_given() {
    let server = cluster();
    let all = |verbs: &[&str]| -> Vec<Rule> {
        let role = json!({ "rules": [
            { "apiGroups": ["networking.istio.io"], "verbs": ["list", "watch"], "resources": [
                "virtualservices", "destinationrules", "gateways", "serviceentries",
                "workloadentries",
            ] },
            { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"],
              "verbs": ["list", "watch"] },
            { "apiGroups": [""], "resources": ["services", "pods", "namespaces", "nodes"],
              "verbs": ["list", "watch"] },
            { "apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
              "verbs": ["create", "get", "update"] },
            { "apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": verbs },
        ] });
        Rule::of_role(&role)
    };
    server.allow_only(all(&[]));
    server.apply(bad("one", 70000));
    let node = Node::start(&server, "node-a");
    wait("it to try", || server.used().contains(&used("events", "create")));
    assert!(server.all("Event").is_empty());
    // Nothing else suffers from it.
    let watching = node.0.lock().unwrap().watching();
    assert!(watching.iter().all(|one| one.state == "fine"), "{watching:?}");
    server.allow_only(all(&["create"]));
    wait("the event", || events_about(&server, "one").len() == 1);
}
