//! Pods that come together with their objects: those that the rules ask nothing
//! new of are known before they are compiled, and stay what they were taken for.

use std::fs;
use std::process::Child;
use std::time::{Duration, Instant};

use redirector::datapath::SourceKey;
use redirector_tests::agent::command;
use redirector_tests::cgroup::key;
use redirector_tests::kernel::privileged;
use redirector_tests::node::Node;
use serde_json::{Value, json};

use super::{Cluster, answered, node, uid};

fn number(node: &Node, key: SourceKey) -> Option<u32> {
    node.sources().into_iter().find(|(known, _)| *known == key).map(|(_, number)| number)
}

/// The cgroup comes first, so that nothing of the pod was expected.
#[test]
fn pods_of_a_known_class_are_known_before_they_are_compiled() {
    if !privileged() {
        return;
    }
    let cluster = Cluster::new();
    let node = node(&cluster, "node-a");
    // One that goes to `two`; who goes elsewhere is like an unknown caller.
    cluster.pod("first", "node-a", &uid(1), "two", &json!({}));
    node.cgroup(&format!("kubepods/burstable/pod{}", uid(1)));
    let mut agent = node.ready();
    agent.wait("the first one", |_| node.sources().len() == 1);
    assert_eq!(agent.metric("redirector_pods_foreseen_total"), Some(0.0));
    let goes = |i: u32| if i.is_multiple_of(2) { "two" } else { "one" };
    let mut seen = Vec::new();
    for i in 10..30 {
        let cgroup = node.cgroup(&format!("kubepods/besteffort/pod{}", uid(i)));
        let container = node.cgroup(&format!("kubepods/besteffort/pod{}/ab", uid(i)));
        cluster.pod(&format!("p{i}"), "node-a", &uid(i), goes(i), &json!({}));
        let key = key(&cgroup);
        agent.wait("the pod to be known", |_| number(&node, key).is_some());
        seen.push((i, key, number(&node, key), container));
        let (_, _, _, container) = seen.last().expect("just added");
        assert_eq!(answered(container, cluster.service()), goes(i), "{}", agent.log());
    }
    // Numbers of a class may run out while a change is compiled.
    let foreseen = agent.metric("redirector_pods_foreseen_total").expect("a metric");
    assert!(foreseen >= 15.0, "only {foreseen} of 20 were known before they were compiled");
    // All of them have been compiled by then.
    cluster.pod("last", "node-a", &uid(99), "three", &json!({}));
    agent.wait("the last one", |agent| agent.metric("redirector_identity_gaps") == Some(1.0));
    for (i, key, number_then, container) in &seen {
        assert_eq!(number(&node, *key), *number_then, "p{i} has another number");
        assert_eq!(answered(container, cluster.service()), goes(*i));
    }
    assert_eq!(agent.metric("redirector_drift_total"), Some(0.0));
    // What it is taken for changes with its labels, and ends with it.
    let (i, key, _, container) = &seen[0];
    cluster.pod(&format!("p{i}"), "node-a", &uid(*i), "one", &json!({}));
    agent.wait("its new label", |_| answered(container, cluster.service()) == "one");
    cluster.server.delete("Pod", "default", &format!("p{i}"));
    agent.wait("its end", |_| number(&node, *key).is_none());
    // The same name again, as a StatefulSet has it: the new one is another pod.
    let again = node.cgroup(&format!("kubepods/besteffort/pod{}/ab", uid(40)));
    cluster.pod(&format!("p{i}"), "node-a", &uid(40), "two", &json!({}));
    agent.wait("its successor", |_| answered(&again, cluster.service()) == "two");
}

/// What was given is there after the agent was killed at any time.
#[test]
fn pods_stay_known_when_the_agent_is_killed() {
    if !privileged() {
        return;
    }
    let cluster = Cluster::new();
    let node = node(&cluster, "node-a");
    cluster.pod("first", "node-a", &uid(1), "two", &json!({}));
    let first = node.cgroup(&format!("kubepods/burstable/pod{}/ab", uid(1)));
    let mut agent = node.ready();
    agent.wait("the first one", |_| node.sources().len() == 1);
    for round in 0..5 {
        let i = 10 + round;
        let pod = node.cgroup(&format!("kubepods/burstable/pod{}", uid(i)));
        let container = node.cgroup(&format!("kubepods/burstable/pod{}/ab", uid(i)));
        cluster.pod(&format!("p{i}"), "node-a", &uid(i), "two", &json!({}));
        let key = key(&pod);
        agent.wait("the pod to be known", |_| number(&node, key).is_some());
        drop(agent);
        assert_eq!(answered(&container, cluster.service()), "two", "no agent at all");
        agent = node.start();
        while !agent.is_ready() {
            assert_eq!(answered(&container, cluster.service()), "two", "{}", agent.log());
            assert_eq!(answered(&first, cluster.service()), "two", "{}", agent.log());
        }
        assert_eq!(answered(&container, cluster.service()), "two", "{}", agent.log());
    }
}

/// Ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One that connects before it is compiled has a name in what is told of it, and
/// `explain` knows it, though the tables did not change for it.
#[test]
fn pods_that_connect_before_they_are_compiled_have_names() {
    if !privileged() {
        return;
    }
    let cluster = Cluster::new();
    let node = node(&cluster, "node-a");
    cluster.pod("first", "node-a", &uid(1), "two", &json!({}));
    let first = node.cgroup(&format!("kubepods/burstable/pod{}/ab", uid(1)));
    let mut agent = node.start_with(&["--flows"]);
    agent.wait_ready();
    agent.wait("the first one", |_| node.sources().len() == 1);
    let place = [
        format!("--bpffs={}", node.place.pins().display()),
        format!("--state-dir={}", node.directory.path().join("state").display()),
        "--output=json".to_owned(),
    ];
    let tell = |what: &[&str]| {
        let mut tell = command(what);
        tell.args(&place);
        tell
    };
    let shown = node.directory.path().join("flows");
    let file = fs::File::create(&shown).expect("a file");
    let mut follow = tell(&["flows", "--follow"]);
    let _follower = Running(follow.stdout(file).spawn().expect("it runs"));
    let named = |container: &_, name: &str| {
        let begun = Instant::now();
        loop {
            assert_eq!(answered(container, cluster.service()), "two");
            let text = fs::read_to_string(&shown).expect("it can be read");
            // The last line may not be whole yet.
            let mut lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
            if lines.any(|line: Value| line["workload"] == format!("default/{name}")) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{name} has no name: {text}");
        }
    };
    named(&first, "first");
    let generation = agent.metric("redirector_config_generation");
    for i in 10..16 {
        let cgroup = node.cgroup(&format!("kubepods/besteffort/pod{}", uid(i)));
        let container = node.cgroup(&format!("kubepods/besteffort/pod{}/ab", uid(i)));
        let name = format!("p{i}");
        cluster.pod(&name, "node-a", &uid(i), "two", &json!({}));
        let key = key(&cgroup);
        agent.wait("the pod to be known", |_| number(&node, key).is_some());
        named(&container, &name);
        let to = cluster.service().to_string();
        let from = format!("--from-workload=default/{name}");
        agent.wait("it to be explained", |_| {
            let output = tell(&["explain", "--to", &to, &from]).output().expect("it runs");
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            answer["endpoints"][cluster.endpoint("two").to_string()] == 1.0
        });
    }
    assert_eq!(agent.metric("redirector_config_generation"), generation, "one of its own");
    assert_eq!(agent.metric("redirector_pods_foreseen_total"), Some(6.0), "{}", agent.log());
}
