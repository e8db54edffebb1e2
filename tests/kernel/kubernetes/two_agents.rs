//! Two agents on one node: the second one says so and ends, and nothing of the
//! first is lost.

use redirector::datapath::Datapath;
use redirector_tests::agent::command;
use redirector_tests::kernel::privileged;
use redirector_tests::node::Node;
use serde_json::json;

use super::{Cluster, answered, node, uid};

/// How a second agent ends that was started with these arguments.
fn refused(node: &Node, change: impl Fn(String) -> String) -> String {
    let arguments = node.arguments().into_iter().map(change);
    let output = command(["run".to_owned()].into_iter().chain(arguments)).output();
    let output = output.expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    text
}

#[test]
fn of_two_agents_the_second_names_the_first() {
    if !privileged() {
        return;
    }
    let cluster = Cluster::new();
    let node = node(&cluster, "node-a");
    cluster.pod("a", "node-a", &uid(1), "two", &json!({}));
    let container = node.cgroup(&format!("kubepods/burstable/pod{}/ab", uid(1)));
    let mut agent = node.ready();
    agent.wait("its pod", |_| node.sources().len() == 1);
    let pid = format!("process {}", agent.pid());
    // As another pod of the same DaemonSet has it.
    let said = refused(&node, |argument| argument);
    assert!(said.contains(&pid) && said.contains("another redirector"), "{said}");
    // As that of another release: a state directory of its own, the same pins; and
    // pins of its own, too, so that no lock is shared.
    let state = format!("--state-dir={}", node.directory.path().join("other").display());
    let pins = format!("--bpffs={}", node.place.bpffs.path().join("other").display());
    let with = |own: &[&String]| {
        refused(&node, |argument| {
            let name = argument.split('=').next().unwrap_or_default();
            let own = own.iter().find(|own| own.split('=').next() == Some(name));
            own.map_or(argument.clone(), |own| (*own).clone())
        })
    };
    let said = with(&[&state]);
    assert!(said.contains(&pid) && said.contains("another redirector"), "{said}");
    let agents = "--daemon-cgroup=none".to_owned();
    let said = with(&[&state, &pins, &agents]);
    assert!(said.contains("with its pins elsewhere"), "{said}");
    let programs = Datapath::open_read_only(&node.place.pins()).expect("it is loaded");
    let programs = programs.attachments().expect("its programs");
    let others: Vec<_> = programs.iter().filter(|one| !one.ours && one.at == one.cgroup).collect();
    assert!(others.is_empty(), "the other one has left something: {others:?}");
    // The first one goes on as if nothing had been.
    assert_eq!(answered(&container, cluster.service()), "two");
    cluster.pod("b", "node-a", &uid(2), "two", &json!({}));
    let second = node.cgroup(&format!("kubepods/burstable/pod{}/ab", uid(2)));
    agent.wait("another pod", |_| answered(&second, cluster.service()) == "two");
    let (_, text) = agent.page("/metrics").expect("metrics");
    assert!(text.contains("redirector_drift_total 0\n"), "nothing was touched: {text}");
    // When it has ended, another one takes over.
    assert!(agent.stop().success());
    let mut agent = node.ready();
    agent.wait("its pods", |_| node.sources().len() == 2);
    assert_eq!(answered(&second, cluster.service()), "two");
}
