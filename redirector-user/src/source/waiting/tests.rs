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
        "spec": { "hosts": ["a"], "tcp": [{ "route": [{ "destination": { "host": host } }] }] },
    })
}

fn subsets(namespace: &str, name: &str, host: &str) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": { "name": name, "namespace": namespace }, "spec": { "host": host },
    })
}

fn gone(namespace: &str, name: &str) -> Arrival {
    let mut arrival = arrival(Turn::New, &rule(namespace, name, "x"));
    arrival.change = Change::Removed(arrival.change.name().clone());
    arrival
}

fn put(waiting: &Waiting, arrival: Arrival) {
    waiting.put(Batch { arrivals: vec![arrival], together: false });
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

#[test]
fn a_single_change_is_in_the_next_slice_after_a_flood_came() {
    for (turn, namespace) in
        [(Turn::Changed, "default"), (Turn::New, "default"), (Turn::New, "other")]
    {
        let waiting = flooded();
        take(&waiting, 16);
        put(&waiting, arrival(turn, &rule(namespace, "single", "x")));
        assert!(take(&waiting, 16).contains(&"single".to_owned()), "{turn:?} {namespace}");
    }
}

#[test]
fn a_change_of_what_is_there_is_in_the_next_slice_while_a_flood_comes() {
    let waiting = flooded();
    put(&waiting, arrival(Turn::Changed, &rule("default", "single", "x")));
    for number in 0..100 {
        let name = format!("more-{number:03}");
        put(&waiting, arrival(Turn::New, &rule("default", &name, "x")));
    }
    assert!(take(&waiting, 16).contains(&"single".to_owned()));
}

#[test]
fn what_came_first_is_reached_whatever_comes_after_it() {
    let waiting = flooded();
    let slice = take(&waiting, 16);
    assert!(slice.contains(&"new-000".to_owned()), "{slice:?}");
    assert!(slice.contains(&"new-999".to_owned()), "{slice:?}");
    assert_eq!(slice.len(), 16);
    let mut all = slice;
    while !waiting.is_empty() {
        all.extend(take(&waiting, 100));
    }
    all.sort();
    assert_eq!(all, (0..1000).map(|number| format!("new-{number:03}")).collect::<Vec<_>>());
}

#[test]
fn a_flood_of_one_namespace_leaves_half_of_each_slice_to_another() {
    let waiting = flooded();
    for number in 0..20 {
        let name = format!("other-{number:02}");
        put(&waiting, arrival(Turn::New, &rule("other", &name, "x")));
    }
    let slice = take(&waiting, 16);
    assert_eq!(slice.iter().filter(|name| name.starts_with("other")).count(), 8, "{slice:?}");
}

#[test]
fn pods_of_the_node_are_in_the_next_slice_all_of_them() {
    let waiting = flooded();
    for name in ["one", "two", "three"] {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": "default" }, "spec": { "nodeName": "n" },
        });
        put(&waiting, arrival(Turn::Awaited, &pod));
    }
    assert_eq!(take(&waiting, 1), ["one", "two", "three"]);
}

#[test]
fn a_rule_takes_along_what_came_before_it_and_defines_where_it_sends() {
    let waiting = flooded();
    put(&waiting, arrival(Turn::New, &subsets("default", "subsets", "echo.default.svc.local")));
    put(&waiting, arrival(Turn::New, &subsets("default", "others", "another")));
    for number in 0..100 {
        let name = format!("more-{number:03}");
        put(&waiting, arrival(Turn::New, &rule("default", &name, "x")));
    }
    put(&waiting, arrival(Turn::Changed, &rule("default", "single", "echo")));
    assert_eq!(take(&waiting, 1), ["subsets", "single"]);
}

#[test]
fn what_goes_does_so_after_what_came_before_it() {
    let waiting = Waiting::default();
    put(&waiting, arrival(Turn::New, &rule("default", "successor", "x")));
    put(&waiting, arrival(Turn::New, &rule("default", "another", "x")));
    put(&waiting, gone("default", "predecessor"));
    let order: Vec<_> = (0..3).map(|_| take(&waiting, 1).remove(0)).collect();
    assert_eq!(order, ["successor", "another", "predecessor"]);
}

#[test]
fn of_one_object_only_the_newest_version_waits_since_the_first_came() {
    let waiting = flooded();
    let mut first = arrival(Turn::New, &rule("default", "again", "one"));
    first.since -= Duration::from_secs(60);
    let since = first.since;
    put(&waiting, first);
    put(&waiting, arrival(Turn::Changed, &rule("default", "again", "two")));
    assert_eq!(waiting.oldest(), Some((1001, since)));
    let mut batches = std::iter::from_fn(|| waiting.take(100));
    let all: Vec<_> = batches.by_ref().flat_map(|batch| batch.arrivals).collect();
    let again: Vec<_> = all
        .iter()
        .filter(|one| one.change.name().ends_with("again"))
        .map(|one| &one.change)
        .collect();
    let [Change::Put(_, content)] = again.as_slice() else { panic!("{again:?}") };
    assert!(format!("{content:?}").contains("\"two\""), "{content:?}");
    assert_eq!(waiting.oldest(), None);
}

#[test]
fn what_belongs_together_is_one_slice_and_comes_before_what_is_newer() {
    let waiting = Waiting::default();
    let all = |names: [&str; 3]| Batch {
        arrivals: names.map(|name| arrival(Turn::New, &rule("default", name, "x"))).into(),
        together: true,
    };
    assert!(waiting.put(all(["a", "b", "c"])), "nobody was told yet");
    put(&waiting, arrival(Turn::New, &rule("default", "single", "x")));
    assert!(!waiting.put(all(["d", "e", "f"])), "it was said already");
    assert_eq!(take(&waiting, 1), ["a", "b", "c", "d", "e", "f"]);
    assert_eq!(take(&waiting, 1), ["single"]);
    assert!(waiting.take(1).is_none());
    assert!(waiting.put(all(["g", "h", "i"])));
}
