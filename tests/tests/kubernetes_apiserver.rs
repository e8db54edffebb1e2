//! The tests' own API server, held to what a kube-apiserver 1.36.2 answered:
//! every recorded exchange is replayed.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use redirector_tests::apiserver::{ApiServer, Resource, Rule, TOKEN};
use serde_json::{Value, json};

/// Exchanges that are not imitated, and why.
const NOT_IMITATED: [(&str, &str); 2] = [
    ("invalid-create.txt", "the agent creates no custom resources: no schemas"),
    ("unknown-field-create.txt", "the agent creates no custom resources: no pruning"),
];

/// A recorded exchange.
#[derive(Debug)]
struct Exchange {
    method: String,
    target: String,
    content_type: String,
    body: String,
    answers: Vec<Answer>,
}

/// An answer, recorded or received.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

fn transcript(name: &str) -> Exchange {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let asked: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("> ")).collect();
    let (method, target) = asked[0].split_once(' ').unwrap();
    let content_type = asked.iter().find_map(|line| line.strip_prefix("Content-Type: "));
    let body = asked.iter().skip(1).find(|line| line.starts_with('{'));
    let starts: Vec<usize> = text.match_indices("HTTP/1.1 ").map(|(at, _)| at).collect();
    let answers = starts.iter().enumerate().map(|(i, start)| {
        let end = starts.get(i + 1).copied().unwrap_or(text.len());
        parse_answer(&text[*start..end])
    });
    Exchange {
        method: method.to_owned(),
        target: target.to_owned(),
        content_type: content_type.unwrap_or("application/json").to_owned(),
        body: body.map(|body| (*body).to_owned()).unwrap_or_default(),
        answers: answers.collect(),
    }
}

fn parse_answer(text: &str) -> Answer {
    let text = text.replace("\r\n", "\n");
    let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    Answer { status, headers, body: body.to_owned() }
}

/// Sends a request and reads the whole answer.
fn ask(address: SocketAddr, token: &str, exchange: &Exchange) -> Answer {
    read_whole(send(address, token, exchange))
}

fn send(address: SocketAddr, token: &str, exchange: &Exchange) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let Exchange { method, target, content_type, body, .. } = exchange;
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: tests\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

fn read_whole(mut stream: TcpStream) -> Answer {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let mut answer = parse_answer(&text);
    if answer.headers.get("transfer-encoding").is_some_and(|v| v == "chunked") {
        answer.body = chunks(&answer.body);
    }
    answer
}

fn chunks(text: &str) -> String {
    let mut rest = text;
    let mut whole = String::new();
    while let Some((length, after)) = rest.split_once('\n') {
        let length = usize::from_str_radix(length.trim(), 16).unwrap();
        whole.push_str(&after[..length]);
        rest = after[length..].trim_start_matches('\n');
        if length == 0 {
            break;
        }
    }
    whole
}

/// Takes out what no two servers have in common.
fn settle(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("managedFields");
            for (name, value) in fields.iter_mut() {
                if matches!(name.as_str(), "uid" | "creationTimestamp" | "resourceVersion") {
                    *value = json!("*");
                } else {
                    settle(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(settle),
        _ => {}
    }
}

fn same_head(name: &str, recorded: &Answer, received: &Answer) {
    assert_eq!(received.status, recorded.status, "{name}: {}", received.body);
    for header in ["content-type", "cache-control", "x-content-type-options"] {
        assert_eq!(received.headers.get(header), recorded.headers.get(header), "{name}: {header}");
    }
    assert_eq!(
        received.headers.contains_key("audit-id"),
        recorded.headers.contains_key("audit-id"),
        "{name}"
    );
}

/// Replays an exchange; `exact` when uids, times and versions must agree too.
fn replay(server: &ApiServer, name: &str, exact: bool) {
    replay_as(server, name, TOKEN, exact);
}

fn replay_as(server: &ApiServer, name: &str, token: &str, exact: bool) {
    let exchange = transcript(name);
    let received = ask(server.address(), token, &exchange);
    let recorded = &exchange.answers[0];
    same_head(name, recorded, &received);
    if !recorded.headers["content-type"].starts_with("application/json") {
        assert_eq!(received.body.trim(), recorded.body.trim(), "{name}");
        return;
    }
    let mut expected: Value = serde_json::from_str(&recorded.body).unwrap();
    let mut found: Value = serde_json::from_str(&received.body).unwrap();
    if !exact {
        settle(&mut expected);
        settle(&mut found);
    }
    assert_eq!(found, expected, "{name}");
}

/// The items of a recorded list, with their kind.
fn items(name: &str, kind: &str, api_version: &str) -> Vec<Value> {
    let mut list: Value = serde_json::from_str(&transcript(name).answers[0].body).unwrap();
    let items = list["items"].as_array_mut().unwrap();
    for item in items.iter_mut() {
        item["kind"] = json!(kind);
        item["apiVersion"] = json!(api_version);
    }
    items.clone()
}

const ISTIO: &str = "networking.istio.io/v1";

/// A server in the state in which the lists were recorded.
fn as_recorded() -> ApiServer {
    let server = ApiServer::start();
    for object in items("list-vs.txt", "VirtualService", ISTIO) {
        server.restore(object);
    }
    for object in items("list-slices.txt", "EndpointSlice", "discovery.k8s.io/v1") {
        server.restore(object);
    }
    let pods = items("list-pods-node.txt", "Pod", "v1");
    // The list was cut at two of them.
    let mut third = pods[1].clone();
    third["metadata"]["name"] = json!("zzz");
    pods.into_iter().chain([third]).for_each(|pod| server.restore(pod));
    server.set_version(585, 291);
    server
}

#[test]
fn lists_are_what_was_recorded() {
    let server = as_recorded();
    for name in [
        "list-vs.txt",
        "list-vs-limit1.txt",
        "list-vs-v1alpha3.txt",
        "list-slices.txt",
        "list-pods-node.txt",
        "list-bad-continue.txt",
        "list-exact-too-old.txt",
        "notfound.txt",
        "unknown-group.txt",
        "unknown-kind.txt",
    ] {
        replay(&server, name, true);
    }
}

#[test]
fn who_may_not_is_told_in_the_servers_words() {
    let server = as_recorded();
    replay_as(&server, "unauthorized.txt", "no-such-token", true);
    server.allow_only(vec![Rule {
        namespace: String::new(),
        group: String::new(),
        resource: "pods".into(),
        verb: "list".into(),
        name: String::new(),
    }]);
    replay(&server, "forbidden.txt", true);
    replay(&server, "list-pods-node.txt", true);
}

#[test]
fn discovery_says_the_same_of_every_kind_that_is_served() {
    let server = as_recorded();
    let body = |name: &str| -> (Value, Value) {
        let exchange = transcript(name);
        let received = ask(server.address(), TOKEN, &exchange);
        same_head(name, &exchange.answers[0], &received);
        let recorded = serde_json::from_str(&exchange.answers[0].body).unwrap();
        (serde_json::from_str(&received.body).unwrap(), recorded)
    };
    let named = |list: &Value, name: &Value| -> Value {
        list.as_array().unwrap().iter().find(|entry| entry["name"] == *name).unwrap().clone()
    };
    let (found, recorded) = body("discovery-apis.txt");
    for group in found["groups"].as_array().unwrap() {
        assert_eq!(*group, named(&recorded["groups"], &group["name"]));
    }
    for name in ["discovery-core.txt", "discovery-istio-v1.txt"] {
        let (found, recorded) = body(name);
        assert_eq!(found["groupVersion"], recorded["groupVersion"]);
        for entry in found["resources"].as_array().unwrap() {
            let expected = named(&recorded["resources"], &entry["name"]);
            for field in ["name", "singularName", "namespaced", "kind"] {
                assert_eq!(entry[field], expected[field], "{entry}");
            }
            for verb in expected["verbs"].as_array().unwrap() {
                assert!(entry["verbs"].as_array().unwrap().contains(verb), "{entry}");
            }
        }
    }
    let (found, recorded) = body("version.txt");
    assert_eq!((&found["major"], &found["minor"]), (&recorded["major"], &recorded["minor"]));
}

fn unk() -> Value {
    json!({
        "apiVersion": ISTIO,
        "kind": "VirtualService",
        "metadata": { "name": "unk", "namespace": "default" },
        "spec": { "hosts": ["a"], "tcp": [
            { "match": [{ "port": 1 }], "route": [{ "destination": { "host": "x" } }] },
        ] },
    })
}

#[test]
fn writes_are_what_was_recorded() {
    let server = as_recorded();
    server.apply(unk());
    replay(&server, "already-exists.txt", false);
    replay(&server, "conflict.txt", false);
    replay(&server, "ssa.txt", false);
    replay(&server, "merge-patch.txt", false);
    replay(&server, "delete.txt", false);
}

#[test]
fn objects_that_are_not_valid_are_refused() {
    let server = ApiServer::start();
    let send = |method: &str, target: &str, content_type: &str, body: &Value| {
        let exchange = Exchange {
            method: method.into(),
            target: target.into(),
            content_type: content_type.into(),
            body: body.to_string(),
            answers: Vec::new(),
        };
        let answer = ask(server.address(), TOKEN, &exchange);
        let status: Value = serde_json::from_str(&answer.body).unwrap();
        (answer.status, status["message"].as_str().unwrap_or_default().to_owned())
    };
    let changed = |object: &Value, path: &str, value: Value| {
        let mut object = object.clone();
        *object.pointer_mut(path).unwrap() = value;
        object
    };
    let refused = |method: &str, target: &str, object: &Value, code: u16, words: &str| {
        let (status, message) = send(method, target, "application/json", object);
        assert_eq!(status, code, "{message}");
        assert!(message.contains(words), "{message}");
    };

    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    let event = json!({
        "metadata": { "name": "e", "namespace": "default" },
        "eventTime": "2026-11-26T02:06:51.341911Z", "type": "Warning", "action": "Apply",
        "reason": "Rejected", "note": "why", "reportingController": "a/b",
        "reportingInstance": "node", "series": null,
        "regarding": { "kind": "Service", "namespace": "default", "name": "x" },
    });
    for (path, value, code, words) in [
        ("/eventTime", json!("2026-11-26T02:06:51Z"), 400, "Event in version \"v1\" cannot"),
        ("/eventTime", json!("2026-11-26T02:06:51.341911123Z"), 400, ".000000Z07:00"),
        ("/eventTime", json!(null), 422, "\"e\" is invalid: eventTime: Required value"),
        ("/note", json!(7), 400, "cannot unmarshal number into Go struct field Event.note"),
        ("/note", json!("x".repeat(1025)), 422, "message: Invalid value: \"\": can have at most"),
        ("/type", json!("Odd"), 422, "type: Invalid value: \"\": has invalid value: Odd"),
        ("/action", json!(""), 422, "action: Required value"),
        ("/reason", json!("x".repeat(129)), 422, "reason: Invalid value"),
        ("/reportingController", json!("a b"), 422, "name part must consist of"),
        ("/reportingInstance", json!(""), 422, "reportingInstance: Required value"),
        ("/series", json!({ "count": 1 }), 422, "[series.count: Invalid value"),
        ("/regarding/namespace", json!("other"), 422, "does not match event.namespace"),
        ("/metadata/namespace", json!("other"), 400, "does not match the namespace sent"),
        ("/metadata/name", json!("E_x"), 422, "a lowercase RFC 1123 subdomain must"),
    ] {
        refused("POST", events, &changed(&event, path, value), code, words);
    }
    assert_eq!(send("POST", events, "application/json", &event).0, 201);

    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let lease = json!({
        "metadata": { "name": "l", "resourceVersion": null },
        "spec": {
            "holderIdentity": "x", "leaseDurationSeconds": 60, "leaseTransitions": 0,
            "renewTime": "2026-11-26T02:06:51.341911Z",
        },
    });
    for (path, value, code, words) in [
        ("/spec/leaseDurationSeconds", json!(0), 422, "Invalid value: 0: must be greater than 0"),
        ("/spec/leaseTransitions", json!(-1), 422, "Invalid value: -1: must be greater than or"),
        ("/spec/renewTime", json!("2026-11-26T02:06:51Z"), 400, "Lease in version \"v1\""),
    ] {
        refused("POST", leases, &changed(&lease, path, value), code, words);
    }
    assert_eq!(send("POST", leases, "application/json", &lease).0, 201);
    let one = format!("{leases}/l");
    let words = "leases.coordination.k8s.io \"l\" is invalid: metadata.resourceVersion: Invalid \
                 value: 0: must be specified for an update";
    refused("PUT", &one, &lease, 422, words);
    let old = changed(&lease, "/metadata/resourceVersion", json!("1"));
    refused("PUT", &one, &old, 409, "the object has been modified");
    let now = server.get("Lease", "default", "l").unwrap();
    assert_eq!(send("PUT", &one, "application/json", &now).0, 200);
    refused("PATCH", &one, &json!({}), 415, "415: Unsupported Media Type");

    server.apply(json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": "default", "deletionTimestamp": "2026-11-26T02:06:51Z" },
    }));
    let late = changed(&event, "/metadata/name", json!("late"));
    let words = "events.events.k8s.io \"late\" is forbidden: unable to create new content in \
                 namespace default because it is being terminated";
    refused("POST", events, &late, 403, words);
}

#[test]
fn objects_are_selected_by_the_fields_of_their_kind_alone() {
    let server = ApiServer::start();
    let status = |target: &str| {
        let exchange = Exchange {
            method: "GET".into(),
            target: target.into(),
            content_type: String::new(),
            body: String::new(),
            answers: Vec::new(),
        };
        ask(server.address(), TOKEN, &exchange).status
    };
    assert_eq!(status("/api/v1/pods?fieldSelector=spec.nodeName%21%3Da"), 200);
    assert_eq!(status("/api/v1/nodes?fieldSelector=metadata.name%3Da"), 200);
    assert_eq!(status("/api/v1/nodes?fieldSelector=spec.nodeName%3Da"), 400);
    assert_eq!(status("/apis/discovery.k8s.io/v1/endpointslices?fieldSelector=spec.a%3Db"), 400);
}

/// The events of a watch, with its recorded time replaced by one second.
fn watch(server: &ApiServer, name: &str) -> (Vec<Value>, Vec<Value>) {
    let mut exchange = transcript(name);
    let (target, _) = exchange.target.split_once("&timeoutSeconds=").unwrap();
    exchange.target = format!("{target}&timeoutSeconds=1");
    let received = ask(server.address(), TOKEN, &exchange);
    same_head(name, &exchange.answers[0], &received);
    (events(&received.body), events(&exchange.answers[0].body))
}

fn events(body: &str) -> Vec<Value> {
    let lines = body.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn watches_begin_as_recorded() {
    let server = as_recorded();
    for name in ["watch-rv0.txt", "watch-too-old.txt", "watch-future-rv.txt"] {
        let (found, recorded) = watch(&server, name);
        assert_eq!(found, recorded, "{name}");
    }
    server.set_version(590, 291);
    let (mut found, recorded) = watch(&server, "watch-list-streaming.txt");
    // Recorded over a shorter time than it takes to bring the last bookmarks.
    found.truncate(recorded.len());
    assert_eq!(found, recorded);
    server.set_streaming_lists(false);
    let (found, _) = watch(&server, "watch-list-streaming.txt");
    assert_eq!((found.len(), &found[0]["object"]["code"]), (1, &json!(500)));
}

#[test]
fn a_watch_tells_changes_and_ends_with_bookmarks() {
    let server = as_recorded();
    assert_eq!(server.apply(unk())["metadata"]["resourceVersion"], "586");
    let mut exchange = transcript("watch-from-list.txt");
    exchange.target = exchange.target.replace("timeoutSeconds=5", "timeoutSeconds=2");
    let stream = send(server.address(), TOKEN, &exchange);
    for name in ["ssa.txt", "merge-patch.txt", "delete.txt"] {
        replay(&server, name, false);
    }
    let received = read_whole(stream);
    same_head("watch-from-list.txt", &exchange.answers[0], &received);
    let settled = |mut events: Vec<Value>| {
        events.iter_mut().for_each(settle);
        events
    };
    let found = events(&received.body);
    assert_eq!(settled(found.clone()), settled(events(&exchange.answers[0].body)));
    let versions: Vec<&Value> =
        found.iter().map(|event| &event["object"]["metadata"]["resourceVersion"]).collect();
    assert_eq!(versions, ["587", "588", "589", "589", "589"]);
}

#[test]
fn a_definition_deleted_under_a_watch_deletes_its_objects_and_ends_it() {
    let exchange = transcript("watch-crd-deleted.txt");
    let recorded = events(&exchange.answers[0].body);
    let server = ApiServer::start();
    let mut thing = Resource::istio("things", "Thing");
    thing.group = "t.example".into();
    thing.versions = vec!["v1".into()];
    server.define(thing);
    server.restore(recorded[0]["object"].clone());
    let asked = Exchange {
        method: "GET".into(),
        target: "/apis/t.example/v1/things?watch=1".into(),
        content_type: String::new(),
        body: String::new(),
        answers: Vec::new(),
    };
    let mut reader = BufReader::new(send(server.address(), TOKEN, &asked));
    let mut text = String::new();
    while !text.contains("ADDED") {
        assert_ne!(reader.read_line(&mut text).unwrap(), 0, "{text}");
    }
    server.undefine("things");
    reader.read_to_string(&mut text).unwrap();
    let received = parse_answer(&text);
    same_head("watch-crd-deleted.txt", &exchange.answers[0], &received);
    let brief = |events: &[Value]| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        events.iter().map(|e| (text(&e["type"]), text(&e["object"]["metadata"]["name"]))).collect()
    };
    assert_eq!(brief(&events(&chunks(&received.body))), brief(&recorded));
    let gone = ask(server.address(), TOKEN, &asked);
    same_head("watch-crd-deleted.txt", &exchange.answers[1], &gone);
    assert_eq!(gone.body.trim(), exchange.answers[1].body.trim());
}

#[test]
fn every_recorded_exchange_is_replayed_or_said_not_to_be() {
    let source = include_str!("kubernetes_apiserver.rs");
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts");
    for entry in std::fs::read_dir(directory).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let named = source.contains(&format!("\"{name}\""));
        assert!(named, "{name} is not replayed");
    }
    assert!(NOT_IMITATED.iter().all(|(_, why)| !why.is_empty()));
}
