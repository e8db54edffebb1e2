//! What is shown of watches that do not work: by `status` (text, JSON, exit code),
//! `/readyz` and the metrics. Nothing that is wrong shows as healthy.

use std::time::{Duration, Instant};

use redirector_tests::agent::{Agent, command};
use redirector_tests::apiserver::Trouble;
use redirector_tests::kernel::privileged;
use redirector_tests::node::Node;
use serde_json::{Value, json};

use super::{Cluster, answered, node, uid};

/// What `status` answers: its exit code, text and JSON. It is asked twice, until it
/// answers alike.
fn status(node: &Node) -> (Option<i32>, String, Value) {
    let place = |argument: &String| {
        argument.starts_with("--bpffs=") || argument.starts_with("--state-dir=")
    };
    let ask = |more: &str| {
        let args = node.arguments().into_iter().filter(place);
        let all = ["status".to_owned(), format!("--output={more}")].into_iter().chain(args);
        command(all).output().expect("it runs")
    };
    let alike = || {
        let (text, json) = (ask("text"), ask("json"));
        (text.status == json.status).then_some((text, json))
    };
    let (text, json) = loop {
        if let Some(both) = alike() {
            break both;
        }
    };
    let exit = text.status.code();
    let both = [text.stdout, text.stderr].concat();
    let words = String::from_utf8_lossy(&both).split_whitespace().collect::<Vec<_>>().join(" ");
    (exit, words, serde_json::from_slice(&json.stdout).unwrap_or_default())
}

/// Waits until `status` calls these problems, and nothing healthy.
fn is_unhealthy(node: &Node, problems: &[&str]) -> Value {
    let begun = Instant::now();
    loop {
        let (exit, text, json) = status(node);
        let told = |one: &str| {
            text.contains(&format!("problem: {one}"))
                && json["problems"].to_string().contains(json!(one).to_string().trim_matches('"'))
        };
        let all = problems.iter().all(|one| told(one));
        if exit == Some(1) && json["healthy"] == false && all {
            return json;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{exit:?} {text}\n{json:#}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn is_healthy(node: &Node) {
    let begun = Instant::now();
    while status(node).0 != Some(0) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:#?}", status(node));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The watches, by what they watch.
fn watch<'j>(json: &'j Value, resource: &str) -> &'j Value {
    let watches = json["watches"].as_array().map(Vec::as_slice).unwrap_or_default();
    watches.iter().find(|watch| watch["resource"] == resource).unwrap_or(&Value::Null)
}

#[test]
fn a_first_start_says_what_it_waits_for() {
    if !privileged() {
        return;
    }
    const RULES: &str = "virtualservices.networking.istio.io";
    let cluster = Cluster::new();
    let node = node(&cluster, "node-a");
    cluster.server.order("", "virtualservices", usize::MAX, Trouble::Status(403));
    let mut agent = node.start();
    agent.wait("it to be refused", |agent| agent.log().contains("(403)"));
    let words = format!("{RULES} is not watched: the API server refuses (403)");
    let json = is_unhealthy(&node, &["no configuration was ever put in force", &words]);
    let waits = watch(&json, RULES);
    assert_eq!(waits["state"], "troubled", "{json:#}");
    assert!(waits["since"].as_u64().is_some_and(|since| since > 1_500_000_000), "{json:#}");
    assert!(waits["help"].as_str().is_some_and(|help| help.contains("ClusterRole")), "{json:#}");
    let (_, text, _) = status(&node);
    assert!(!text.contains("nothing is loaded") && !text.contains("Start `redirector"), "{text}");
    let (code, page) = agent.page("/readyz").expect("a page");
    assert!(code == 503 && page.contains(&words) && page.contains(", since 20"), "{code}: {page}");
    cluster.server.behave();
    agent.wait_ready();
    is_healthy(&node);
}

/// What is shown when all watches are down; and when they work again.
fn all_are_down(node: &Node, agent: &mut Agent, why: &str) {
    for resource in ["services", "pods of this node", "virtualservices.networking.istio.io"] {
        let words = format!("{resource} is not watched: {why}");
        let json = is_unhealthy(node, &[&words]);
        assert_eq!(watch(&json, resource)["state"], "troubled", "{json:#}");
        let (code, page) = agent.page("/readyz").expect("a page");
        assert!(code == 200 && page.contains(&words), "connections are decided: {code}: {page}");
        let up = format!("redirector_watch_up{{resource=\"{resource}\"}}");
        assert_eq!(agent.metric(&up), Some(0.0));
    }
}

#[test]
fn an_outage_and_refused_credentials_are_shown() {
    if !privileged() {
        return;
    }
    let mut cluster = Cluster::new();
    let node = node(&cluster, "node-a");
    let mut agent = node.ready();
    is_healthy(&node);
    cluster.server.stop();
    all_are_down(&node, &mut agent, "the API server gives no answer");
    cluster.server.resume();
    is_healthy(&node);
    cluster.server.accept_tokens(&["another"]);
    cluster.server.cut_watches();
    all_are_down(&node, &mut agent, "the API server does not know who we are (401)");
    cluster.server.accept_tokens(&[redirector_tests::apiserver::TOKEN]);
    is_healthy(&node);
    assert_eq!(agent.page("/readyz"), Some((200, "ready\n".to_owned())));
}

#[test]
fn a_wrong_node_name_forgets_no_pod() {
    if !privileged() {
        return;
    }
    let cluster = Cluster::new();
    let mut node = node(&cluster, "node-a");
    cluster.pod("a", "node-a", &uid(1), "two", &json!({}));
    let cgroup = node.cgroup(&format!("kubepods/burstable/pod{}", uid(1)));
    let mut agent = node.ready();
    agent.wait("its pod", |_| node.sources().len() == 1);
    assert!(agent.stop().success());
    node.name = "no-such-node".to_owned();
    let mut agent = node.start();
    let words = "this node is not watched: the cluster has no Node named no-such-node";
    is_unhealthy(&node, &[words]);
    assert!(!agent.is_ready(), "{}", agent.log());
    assert_eq!(node.sources().len(), 1, "{}", agent.log());
    assert_eq!(answered(&cgroup, cluster.service()), "two");
    assert!(agent.stop().success());
    node.name = "node-a".to_owned();
    agent = node.ready();
    is_healthy(&node);
    assert!(agent.stop().success());
}

#[test]
fn refused_objects_and_lost_endpoints_are_told_by_status_and_events() {
    if !privileged() {
        return;
    }
    let cluster = Cluster::new();
    let node = node(&cluster, "node-a");
    // A node without such a pod has no use for the rule.
    cluster.pod("a", "node-a", &uid(1), "two", &json!({}));
    let mut agent = node.ready();
    is_healthy(&node);
    let reason = |name: &str, reason: &str, words: &str| {
        let events = cluster.server.all("Event").into_iter();
        let mut of = events.filter(|event| event["regarding"]["name"] == name);
        of.any(|event| {
            event["reason"] == reason
                && event["note"].as_str().is_some_and(|note| note.contains(words))
        })
    };
    // The endpoints of what a rule leads to go.
    let slice = cluster.server.get("EndpointSlice", "default", "two-x").expect("it is there");
    let mut without = slice.clone();
    without["endpoints"] = json!([]);
    cluster.server.apply(without);
    let words = "lost its last endpoint";
    let json = is_unhealthy(
        &node,
        &["VirtualService/default/by-label tcp[0]: 100.00% of its connections are refused: \
         two.default.svc.cluster.local:19000 lost its last endpoint"],
    );
    assert_eq!(json["config"]["emptied"][0]["object"], "VirtualService/default/by-label");
    assert_eq!(agent.metric("redirector_emptied_shares"), Some(1.0));
    agent.wait("the event", |_| reason("by-label", "Unresolved", words));
    cluster.server.apply(slice);
    is_healthy(&node);

    let mut rule =
        cluster.server.get("VirtualService", "default", "by-label").expect("it is there");
    rule["spec"]["tcp"][0]["match"][0]["port"] = json!(70000);
    cluster.server.apply(rule);
    is_unhealthy(
        &node,
        &["VirtualService/default/by-label: VirtualService/default/by-label is refused, its last \
         good version stays"],
    );
    assert_eq!(agent.metric("redirector_rejected_documents"), Some(1.0));
    let words = "on agents that have seen one";
    agent.wait("the event", |_| reason("by-label", "Rejected", words));
}
