//! The routing samples, decided by the compiled tables: documents to World to
//! Plan to Image, and then the very decision that the kernel takes.

use std::collections::BTreeMap;

use crate::support::{Shares, compiled_shares, world};
use redirector_core::explain::{Query, QuerySource, VerdictWord, explain};
use redirector_core::model::Labels;
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    name: String,
    config: String,
    source: Option<Source>,
    gateway: Option<String>,
    destination: String,
    expect: Expect,
}

#[derive(Deserialize)]
struct Source {
    namespace: String,
    labels: Labels,
}

#[derive(Deserialize)]
struct Expect {
    endpoints: Option<BTreeMap<String, f64>>,
    #[serde(default)]
    passthrough: bool,
    #[serde(default)]
    default_endpoints: BTreeMap<String, f64>,
    #[serde(default)]
    reset: bool,
    #[serde(default)]
    reset_fraction: f64,
}

fn near(a: &BTreeMap<String, f64>, b: &BTreeMap<String, f64>) -> bool {
    a.len() == b.len()
        && a.iter().all(|(key, share)| b.get(key).is_some_and(|other| (share - other).abs() < 2e-6))
}

#[test]
fn the_samples_without_gateway_are_decided_right_by_the_compiled_tables() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/conformance/routing.jsonl");
    let text = std::fs::read_to_string(path).expect("the samples are readable");
    let mut tried = 0;
    for line in text.lines() {
        let case: Case = serde_json::from_str(line).expect("a sample");
        let (None, Some(source)) = (&case.gateway, &case.source) else { continue };
        tried += 1;
        let mut world = world(&case.config);
        let shares =
            compiled_shares(&mut world, &source.namespace, &source.labels, &case.destination);
        let Shares { endpoints, refused, passed } = &shares;
        let right = if case.expect.reset {
            *refused > 0.999_999
        } else if case.expect.passthrough {
            *passed || near(endpoints, &case.expect.default_endpoints)
        } else {
            let wanted = case.expect.endpoints.unwrap_or_default();
            !passed
                && near(endpoints, &wanted)
                && (refused - case.expect.reset_fraction).abs() < 2e-6
        };
        assert!(right, "{}: {shares:?}", case.name);
    }
    assert!(tried > 20, "only {tried} samples");
}

#[test]
fn the_samples_are_explained_right() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/conformance/routing.jsonl");
    let text = std::fs::read_to_string(path).expect("the samples are readable");
    for line in text.lines() {
        let case: Case = serde_json::from_str(line).expect("a sample");
        let source = match (&case.gateway, case.source) {
            (None, Some(Source { namespace, labels })) => {
                QuerySource::Described { namespace, labels, addresses: Vec::new() }
            }
            _ => QuerySource::Unknown,
        };
        let gateway = case.gateway.as_ref().map(|name| {
            let (namespace, name) = name.split_once('/').expect("namespace/name");
            (namespace.to_owned(), name.to_owned())
        });
        let destination = case.destination.parse().expect("an address");
        let query = Query { source, destination, gateway, sni: None };
        let answer = explain(&world(&case.config), &query).expect("an answer");
        let wanted = case.expect.endpoints.unwrap_or_default();
        let right = if case.expect.reset {
            answer.verdict == VerdictWord::Refuse
        } else if case.expect.passthrough {
            answer.verdict == VerdictWord::Passthrough
                || near(&answer.endpoints, &case.expect.default_endpoints)
        } else {
            answer.verdict == VerdictWord::Route
                && near(&answer.endpoints, &wanted)
                && (answer.refused_share - case.expect.reset_fraction).abs() < 2e-6
        };
        assert!(right, "{}: {answer:#?}", case.name);
    }
}
