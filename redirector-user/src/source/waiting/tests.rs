use std::time::Duration;

use redirector_core::documents;
use serde_json::{Value, json};

use super::*;

fn arrival(turn: Turn, value: &Value) -> Arrival {
    let reading = documents::read_json(value);
    let of = reading.objects[0].reference.clone().expect("an object");
    let change = Change::Put(of.to_string().into(), reading.into());
    Arrival { change, of: Some(of), turn, since: Instant::now() }
}

fn rule(namespace: &str, name: &str, host: &str) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "hosts": [name], "tcp": [{ "route": [{ "destination": { "host": host } }] }] },
    })
}

fn subsets(namespace: &str, name: &str, host: &str) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": { "name": name, "namespace": namespace }, "spec": { "host": host },
    })
}

fn service(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "clusterIP": "10.96.0.1", "ports": [{ "name": "tcp", "port": 80 }] },
    })
}

fn endpoints(name: &str, service: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": name, "namespace": "default",
            "labels": { "kubernetes.io/service-name": service },
        },
        "endpoints": [{ "addresses": ["10.0.0.1"] }], "ports": [{ "port": 80 }],
    })
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "default" }, "spec": { "nodeName": "n" },
    })
}

fn gone(value: &Value) -> Arrival {
    let mut arrival = arrival(Turn::New, value);
    arrival.change = Change::Removed(arrival.change.name().clone());
    arrival
}

fn put(waiting: &Waiting, arrival: Arrival) {
    waiting.put(Batch { arrivals: vec![arrival] });
}

/// The names of a slice.
fn take(waiting: &Waiting, about: usize) -> Vec<String> {
    let batch = waiting.take(about).expect("something waits");
    let name = |arrival: &Arrival| match arrival.change.name().rsplit_once('/') {
        Some((_, name)) => name.to_owned(),
        None => arrival.change.name().to_string(),
    };
    batch.arrivals.iter().map(name).collect()
}

/// A thousand new rules of one namespace.
fn flooded() -> Waiting {
    let waiting = Waiting::default();
    for number in 0..1000 {
        let name = format!("new-{number:03}");
        put(&waiting, arrival(Turn::New, &rule("default", &name, "x")));
    }
    waiting
}

/// All that waits, in the order in which it is taken one by one.
fn order(waiting: &Waiting) -> Vec<String> {
    std::iter::from_fn(|| (!waiting.is_empty()).then(|| take(waiting, 1))).flatten().collect()
}

#[test]
fn what_waits_is_taken_in_the_order_of_its_arrival() {
    let waiting = flooded();
    put(&waiting, arrival(Turn::New, &rule("other", "last", "x")));
    assert_eq!(take(&waiting, 16).len(), 16);
    let mut wanted: Vec<_> = (16..1000).map(|number| format!("new-{number:03}")).collect();
    wanted.push("last".to_owned());
    assert_eq!(order(&waiting), wanted);
}

#[test]
fn a_changed_rule_is_in_the_next_slice_after_a_bulk_load_of_others_came() {
    for edit in [rule("default", "edit", "echo"), subsets("other", "edit", "echo")] {
        let waiting = flooded();
        put(&waiting, arrival(Turn::New, &service("default", "another")));
        put(&waiting, arrival(Turn::New, &endpoints("slice", "another")));
        take(&waiting, 16);
        put(&waiting, arrival(Turn::Changed, &edit));
        let slice = take(&waiting, 16);
        assert_eq!(slice[..2], ["edit", "new-016"], "{slice:?}");
    }
}

#[test]
fn a_changed_rule_goes_before_nothing_that_it_may_have_to_do_with() {
    let edit = rule("default", "edit", "echo.default.svc.cluster.local");
    for earlier in [
        arrival(Turn::New, &subsets("other", "earlier", "echo")),
        arrival(Turn::New, &service("default", "echo")),
        arrival(Turn::New, &endpoints("earlier", "echo")),
        arrival(Turn::New, &rule("default", "earlier", "echo")),
        arrival(Turn::New, &rule("default", "earlier", "edit")),
        arrival(Turn::New, &edit),
        arrival(Turn::New, &subsets("default", "earlier", "*.example.com")),
        arrival(Turn::New, &pod("earlier")),
        gone(&service("other", "earlier")),
    ] {
        let waiting = flooded();
        let name = earlier.change.name().rsplit_once('/').unwrap().1.to_owned();
        put(&waiting, earlier);
        put(&waiting, arrival(Turn::Changed, &edit));
        let order = order(&waiting);
        assert_eq!(order[1000..], [name, "edit".to_owned()]);
    }
}

#[test]
fn what_is_taken_holds_back_nothing_any_more() {
    let waiting = Waiting::default();
    put(&waiting, arrival(Turn::New, &service("default", "echo")));
    put(&waiting, gone(&service("default", "gone")));
    take(&waiting, 2);
    put(&waiting, arrival(Turn::New, &service("default", "another")));
    put(&waiting, arrival(Turn::Changed, &rule("default", "edit", "echo")));
    assert_eq!(take(&waiting, 1), ["edit", "another"]);
}

#[test]
fn changes_without_end_leave_its_turn_to_what_came_before_them() {
    let waiting = flooded();
    let mut taken = Vec::new();
    for round in 0..50 {
        for number in 0..20 {
            let name = format!("changed-{round}-{number}");
            put(&waiting, arrival(Turn::Changed, &rule("default", &name, "y")));
        }
        taken.extend(take(&waiting, 1).into_iter().filter(|name| name.starts_with("new")));
    }
    assert_eq!(taken, (0..50).map(|number| format!("new-{number:03}")).collect::<Vec<_>>());
}

#[test]
fn subsets_lose_one_after_the_rule_that_sent_to_it_was_changed() {
    let waiting = flooded();
    put(&waiting, arrival(Turn::New, &service("default", "echo")));
    put(&waiting, arrival(Turn::Changed, &rule("default", "rule", "echo")));
    put(&waiting, arrival(Turn::Changed, &subsets("default", "subsets", "echo")));
    assert_eq!(order(&waiting)[1001..], ["rule", "subsets"]);
}

#[test]
fn what_goes_does_so_after_what_came_before_it_in_any_namespace() {
    let waiting = flooded();
    put(&waiting, arrival(Turn::New, &rule("default", "successor", "x")));
    put(&waiting, arrival(Turn::Changed, &rule("b", "new-001", "x")));
    put(&waiting, gone(&service("a", "predecessor")));
    assert_eq!(order(&waiting)[1000..], ["successor", "new-001", "predecessor"]);
}

#[test]
fn endpoints_that_move_to_another_slice_are_there_before_they_leave_the_first() {
    let waiting = flooded();
    put(&waiting, arrival(Turn::New, &endpoints("second", "echo")));
    put(&waiting, arrival(Turn::Changed, &endpoints("first", "echo")));
    assert_eq!(order(&waiting)[1000..], ["second", "first"]);
}

#[test]
fn pods_of_the_node_are_in_the_next_slice_all_of_them() {
    let waiting = flooded();
    for name in ["one", "two", "three"] {
        put(&waiting, arrival(Turn::Awaited, &pod(name)));
    }
    assert_eq!(take(&waiting, 1), ["one", "two", "three", "new-000"]);
}

#[test]
fn a_pod_that_is_there_again_is_not_removed_after_it() {
    let waiting = flooded();
    put(&waiting, gone(&pod("again")));
    put(&waiting, arrival(Turn::Awaited, &pod("again")));
    put(&waiting, arrival(Turn::Changed, &rule("default", "edit", "echo")));
    let order = order(&waiting);
    assert_eq!(order[..2], ["again", "edit"]);
    assert_eq!(order.iter().filter(|name| *name == "again").count(), 1);
}

#[test]
fn each_version_of_an_object_comes_after_what_was_there_before_it() {
    let waiting = flooded();
    put(&waiting, arrival(Turn::New, &rule("default", "rule", "one")));
    put(&waiting, arrival(Turn::New, &subsets("default", "subsets", "two")));
    put(&waiting, arrival(Turn::Changed, &rule("default", "rule", "two")));
    let all = waiting.take(2000).expect("something waits").arrivals;
    let last: Vec<_> = all[1000..].iter().map(|arrival| format!("{:?}", arrival.change)).collect();
    assert!(last[0].contains("\"one\""), "{last:?}");
    assert!(last[1].contains("subsets"), "{last:?}");
    assert!(last[2].contains("host: \"two\""), "{last:?}");
    assert_eq!(last.len(), 3);
}

#[test]
fn what_was_read_at_once_is_taken_at_once() {
    let waiting = Waiting::default();
    let all = |names: [&str; 3]| Batch {
        arrivals: names.map(|name| arrival(Turn::New, &rule("default", name, "x"))).into(),
    };
    assert!(waiting.put(all(["a", "b", "c"])), "nobody was told yet");
    put(&waiting, arrival(Turn::New, &rule("default", "single", "x")));
    assert!(!waiting.put(all(["d", "e", "f"])), "it was said already");
    assert_eq!(take(&waiting, 1), ["a", "b", "c"]);
    assert!(waiting.is_cut(), "more waited");
    assert_eq!(take(&waiting, 2), ["single", "d", "e", "f"]);
    assert!(!waiting.is_cut());
    assert!(waiting.take(1).is_none());
    assert!(waiting.put(all(["g", "h", "i"])));
}

#[test]
fn an_edit_during_a_flood_of_endpoints_is_whole() {
    let waiting = Waiting::default();
    let pods = ["a", "b", "c"].map(|name| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "uid": name },
            "spec": { "containers": [] },
        })
    });
    pods.iter().for_each(|pod| _ = waiting.put(Batch { arrivals: vec![arrival(Turn::New, pod)] }));
    put(&waiting, arrival(Turn::New, &rule("default", "edit", "x")));
    put(&waiting, arrival(Turn::New, &pods[0]));
    assert_eq!(take(&waiting, 1), ["a"]);
    assert!(waiting.is_cut(), "the rule waits");
    assert_eq!(take(&waiting, 3), ["b", "c", "edit"]);
    assert!(!waiting.is_cut(), "all that waits comes and goes by itself");
}

#[test]
fn rules_that_were_changed_at_once_go_before_others_only_all_together() {
    let rules = |names: &[&str]| Batch {
        arrivals: names
            .iter()
            .map(|name| arrival(Turn::Changed, &rule("default", name, "y")))
            .collect(),
    };
    let waiting = flooded();
    waiting.put(rules(&["a", "b"]));
    // One of them has to do with what waits.
    waiting.put(rules(&["c", "new-999"]));
    assert_eq!(take(&waiting, 1), ["a", "b", "new-000"]);
    let order = order(&waiting);
    assert_eq!(order[999..], ["c", "new-999"]);
}

#[test]
fn the_oldest_waits_since_it_came_and_nothing_is_a_batch_too() {
    let waiting = flooded();
    let mut first = arrival(Turn::New, &rule("default", "first", "x"));
    first.since -= Duration::from_secs(60);
    let since = first.since;
    put(&waiting, first);
    assert_eq!(waiting.oldest(), Some((1001, since)));
    waiting.take(usize::MAX);
    assert_eq!(waiting.oldest(), None);
    waiting.put(Batch::default());
    assert!(waiting.take(1).is_some_and(|batch| batch.arrivals.is_empty()));
}
