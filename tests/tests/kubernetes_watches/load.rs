//! What the watches cost the API server: connections, requests, and who asks.

use std::time::Duration;

use redirector::kubernetes::{Resource as Watched, Timing};
use redirector_core::model::Kind;
use redirector_core::store::Store;
use redirector_tests::apiserver::{TOKEN, Trouble, Used, objects};
use serde_json::{Value, json};

use super::{Agent, NODE, cluster, destination, pod, route, service, timing, wait};

#[test]
fn all_watches_share_one_connection_and_say_who_asks() {
    let mut server = cluster();
    let agent = Agent::start(&server);
    agent.wait_synced();
    wait("all watches", || server.open_watches() == Watched::ALL.len());
    assert_eq!(server.most_connections(), 1);
    let version = concat!("redirector/", env!("CARGO_PKG_VERSION"));
    let used = server.take_used();
    assert!(used.iter().all(|used| used.user_agent == version), "{used:?}");
    // All of them come back at once.
    server.stop();
    server.resume();
    server.apply(route("echo", "two"));
    wait("the change", || destination(&agent, "echo").as_deref() == Some("two"));
    wait("all watches", || server.open_watches() == Watched::ALL.len());
    assert!(server.most_connections() <= 2, "{}", server.most_connections());
}

#[test]
fn a_server_that_speaks_no_http2_is_watched_all_the_same() {
    let server = cluster();
    let agent = Agent::plain(&server);
    agent.wait_synced();
    server.apply(route("echo", "two"));
    wait("the change", || destination(&agent, "echo").as_deref() == Some("two"));
}

/// The requests of a verb.
fn of(used: &[Used], verb: &str) -> Vec<String> {
    used.iter().filter(|used| used.verb == verb).map(|used| used.target.clone()).collect()
}

#[test]
fn a_start_takes_one_request_for_each_watch_where_the_server_streams_lists() {
    let server = cluster();
    for i in 0..3000 {
        server.apply(pod(&format!("p{i}"), if i % 50 == 0 { NODE } else { "node-b" }));
    }
    let agent = Agent::start(&server);
    agent.wait_synced();
    assert_eq!(agent.names(Kind::Pod).len(), 3000);
    let used = server.take_used();
    assert_eq!(of(&used, "list"), Vec::<String>::new());
    assert_eq!(of(&used, "watch").len(), Watched::ALL.len());
}

#[test]
fn a_streamed_list_that_breaks_is_listed_whole_and_all_others_are_streamed_on() {
    let server = cluster();
    server.order("watch", "/services?", 1, Trouble::ErrorEvent(500));
    let agent = Agent::start(&server);
    agent.wait_synced();
    let lists = of(&server.take_used(), "list");
    assert!(lists.len() == 1 && lists[0].contains("/services?"), "{lists:?}");
    // The next one of those that broke is streamed again.
    server.compact();
    server.order("watch", "/services?", 1, Trouble::ErrorEvent(410));
    server.cut_watches();
    server.apply(service("last", "10.96.9.9"));
    wait("the Service", || agent.names(Kind::Service).contains(&"last".to_owned()));
    let mut lists = of(&server.take_used(), "list");
    // A comparison meanwhile asks how many there are.
    lists.retain(|list| !list.ends_with("limit=1"));
    assert_eq!(lists, Vec::<String>::new());
}

#[test]
fn elsewhere_lists_are_of_what_the_server_has_in_memory() {
    let server = cluster();
    server.set_streaming_lists(false);
    for i in 0..1000 {
        server.apply(service(&format!("s{i}"), &format!("10.96.{}.{}", i / 250, i % 250 + 1)));
    }
    let agent = Agent::start(&server);
    agent.wait_synced();
    assert_eq!(agent.names(Kind::Service).len(), 1000);
    let used = server.take_used();
    let lists = of(&used, "list");
    assert_eq!(lists.len(), Watched::ALL.len(), "{lists:?}");
    assert!(lists.iter().all(|list| list.contains("resourceVersion=0")), "{lists:?}");
    assert!(lists.iter().all(|list| !list.contains("limit=")), "{lists:?}");
    // A list that is needed again is none of an earlier time than the watch was at.
    wait("all watches", || server.open_watches() == Watched::ALL.len());
    server.compact();
    server.order("watch", "/services?", 1, Trouble::ErrorEvent(410));
    server.cut_watches();
    server.apply(service("last", "10.96.9.9"));
    wait("the Service", || agent.names(Kind::Service).len() == 1001);
    let lists = of(&server.take_used(), "list");
    let again = |list: &String| list.contains("/services?") && list.contains("NotOlderThan");
    assert!(lists.iter().any(again), "{lists:?}");
    assert!(lists.iter().all(|list| !list.contains("resourceVersion=0")), "{lists:?}");
}

#[test]
fn a_comparison_counts_and_lists_nothing_but_what_is_of_this_node() {
    let server = cluster();
    server.apply(pod("mine", NODE));
    server.apply(pod("other", "node-b"));
    let timing = Timing { compare: Duration::from_millis(500), ..timing() };
    let agent = Agent::with(&server, timing, TOKEN, Store::default());
    agent.wait_synced();
    server.take_used();
    let mut lists = Vec::new();
    // Of each watch one comparison at least, and none of all versions.
    let counted = |lists: &[String], resource: Watched| {
        let path = format!("/{}?", resource.plural());
        lists.iter().any(|list| list.contains(&path) && list.contains("limit=1"))
    };
    while !Watched::ALL.into_iter().all(|resource| counted(&lists, resource)) {
        lists.extend(of(&server.take_used(), "list"));
        std::thread::sleep(Duration::from_millis(5));
    }
    let own = ["metadata.name%3D", "spec.nodeName%3D"];
    let is_cheap =
        |list: &String| list.contains("limit=1") || own.iter().any(|own| list.contains(own));
    assert!(lists.iter().all(is_cheap), "{lists:?}");
    assert_eq!(agent.watches.borrow().drifted, 0);
}

#[test]
fn what_says_nothing_new_is_no_change() {
    let server = cluster();
    server.apply(objects::endpoint_slice("a", "x", &[objects::endpoint("10.0.0.1")]));
    server.apply(pod("mine", NODE));
    server.apply(pod("other", "node-b"));
    let agent = Agent::start(&server);
    agent.wait_synced();
    agent.hold();
    for (kind, name) in [("EndpointSlice", "a-x"), ("Pod", "mine"), ("Pod", "other")] {
        let mut same: Value = server.get(kind, "default", name).unwrap();
        same["metadata"]["annotations"] = json!({ "somebody.else/wrote": "this" });
        same["metadata"]["managedFields"] = json!([{ "manager": "somebody" }]);
        if kind == "Pod" {
            same["status"]["containerStatuses"] = json!([{ "restartCount": 1 }]);
        }
        server.apply(same);
    }
    server.apply(objects::endpoint_slice("a", "x", &[objects::endpoint("10.0.0.2")]));
    server.apply(route("echo", "two"));
    wait("two changes", || agent.waiting.oldest().is_some_and(|(count, _)| count == 2));
    let batch = agent.waiting.take(10).unwrap();
    let names: Vec<&str> = batch.arrivals.iter().map(|one| &**one.change.name()).collect();
    assert!(names.contains(&"EndpointSlice/default/a-x"), "{names:?}");
    assert!(names.contains(&"VirtualService/default/echo"), "{names:?}");
}

#[test]
fn an_edit_is_made_before_a_bulk_load_that_came_earlier_is_finished() {
    let server = cluster();
    let agent = Agent::start(&server);
    agent.wait_synced();
    agent.hold();
    for i in 0..500 {
        let mut of_its_own = route(&format!("bulk-{i}"), "one");
        of_its_own["spec"]["hosts"] = json!([format!("bulk-{i}")]);
        server.apply(of_its_own);
        server.apply(service(&format!("bulk-{i}"), "10.96.0.1"));
    }
    wait("all of it", || agent.waiting.oldest().is_some_and(|(count, _)| count == 1000));
    server.apply(route("echo", "two"));
    wait("the change", || agent.waiting.oldest().is_some_and(|(count, _)| count == 1001));
    let slice = agent.waiting.take(16).unwrap();
    assert_eq!(&**slice.arrivals[0].change.name(), "VirtualService/default/echo");
    assert!(!agent.waiting.is_empty());
}
