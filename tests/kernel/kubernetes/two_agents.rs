//! Two agents on one node: the second one says so and ends, and nothing of the
//! first is lost.

use std::net::TcpListener;

use redirector::datapath::{Datapath, Error};
use redirector_tests::agent::{Agent, command};
use redirector_tests::kernel::privileged;
use redirector_tests::node::Node;
use serde_json::{Value, json};

use super::{Cluster, answered, node, uid};

/// Arguments of the node's agent, with these in place of those of their names.
fn with(node: &Node, own: &[&String]) -> Vec<String> {
    let name = |argument: &String| argument.split('=').next().map(ToOwned::to_owned);
    let replaced = node.arguments().into_iter().map(|argument| {
        let own = own.iter().find(|own| name(own) == name(&argument));
        own.map_or(argument, |own| (*own).clone())
    });
    replaced.collect()
}

/// How a second agent ends that was started with these arguments.
fn refused(arguments: Vec<String>) -> String {
    // Others that run beside this test may have the usual port.
    let own = ["run", "--metrics-address=none"].map(ToOwned::to_owned);
    let output = command(own.into_iter().chain(arguments)).output();
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
    let said = refused(node.arguments());
    assert!(said.contains(&pid) && said.contains("another redirector"), "{said}");
    // As that of another release: a state directory of its own, the same pins; and
    // pins of its own, too, so that no lock is shared.
    let state = format!("--state-dir={}", node.directory.path().join("other").display());
    let pins = format!("--bpffs={}", node.place.bpffs.path().join("other").display());
    let said = refused(with(&node, &[&state]));
    assert!(said.contains(&pid) && said.contains("another redirector"), "{said}");
    let agents = "--daemon-cgroup=none".to_owned();
    let said = refused(with(&node, &[&state, &pins, &agents]));
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

/// The first of another release waits for its API server, and so has attached nothing yet.
#[test]
fn a_successor_of_one_that_waits_does_not_decide_beside_another_agent() {
    if !privileged() {
        return;
    }
    let cluster = Cluster::new();
    let node = node(&cluster, "node-a");
    let mut first = node.ready();
    let other = node.directory.path().join("other");
    std::fs::create_dir(&other).expect("a directory");
    let nowhere = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let kubeconfig = std::fs::read_to_string(node.directory.path().join("kubeconfig"));
    let mut kubeconfig: Value = kubeconfig.expect("read").parse().expect("JSON");
    let server = format!("https://{}", nowhere.local_addr().expect("its address"));
    kubeconfig["clusters"][0]["cluster"]["server"] = server.into();
    let waits_for = other.join("kubeconfig");
    std::fs::write(&waits_for, kubeconfig.to_string()).expect("written");
    let pins = node.place.bpffs.path().join("other");
    let own = [
        format!("--state-dir={}", other.join("state").display()),
        format!("--bpffs={}", pins.display()),
        "--daemon-cgroup=none".to_owned(),
    ];
    let waiting = format!("--kubeconfig={}", waits_for.display());
    let own: Vec<_> = own.iter().collect();
    let mut waiting = Agent::start(&other, with(&node, &[own.as_slice(), &[&waiting]].concat()));
    waiting.wait("it to wait", |agent| agent.page("/readyz").is_some());
    let mut arguments = with(&node, &own);
    arguments.push("--replace".to_owned());
    let said = refused(arguments);
    assert!(said.contains("with its pins elsewhere"), "{said}");
    let programs = Datapath::open_read_only(&node.place.pins()).expect("it is loaded");
    let programs = programs.attachments().expect("its programs");
    let others: Vec<_> = programs.iter().filter(|one| !one.ours && one.at == one.cgroup).collect();
    assert!(others.is_empty(), "the other one has left something: {others:?}");
    let own = Datapath::open_read_only(&pins).map(|_| ());
    assert!(matches!(own, Err(Error::NotLoaded { .. })), "nothing is in force: {own:?}");
    waiting.wait("it to wait again", |agent| {
        agent.log().contains("taking over again") && agent.page("/readyz").is_some()
    });
    assert!(first.is_ready());
    assert!(waiting.stop().success());
    first.wait("its state", Agent::is_ready);
}
