//! The metrics of a running daemon, and what is made of them: the dashboard and
//! the alerts in deploy/ name nothing that the daemon does not export.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use redirector_tests::scene::{Scene, free, scrape};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");

fn deploy(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of all series with those of their labels, a histogram's three
/// among them. What has no sample at the moment has no label that is known.
fn exported(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut names = BTreeMap::new();
    for line in page.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').expect("a name and a kind");
            let parts: &[&str] =
                if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            for part in parts {
                names.entry(format!("{name}{part}")).or_insert_with(BTreeSet::new);
            }
        } else if line.starts_with("redirector_") {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            let labels = line.split_once('{').map_or("", |(_, rest)| rest);
            let known = names.get_mut(name).unwrap_or_else(|| panic!("{name} has no TYPE"));
            known.extend(labels.split(',').filter_map(|one| Some(one.split_once('=')?.0.into())));
        }
    }
    names
}

/// The names of series in an expression.
fn named(expression: &str) -> Vec<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = expression.split(|c| !word(c));
    words.filter(|word| word.starts_with("redirector_")).map(str::to_owned).collect()
}

/// Every expression that stands anywhere below.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if ["expr", "query", "definition"].contains(&&**name) => {
                        found.push(text.to_owned());
                    }
                    _ => expressions(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_and_the_alerts_name_only_what_is_exported() {
    let Some(scene) = Scene::new("metrics", PROGRAM) else { return };
    let address = free([127, 0, 0, 1]);
    let at = address.to_string();
    let daemon = scene.redirector.start_with(&["--metrics-address", &at, "--accounting"]);
    assert_eq!(scene.answer(&scene.client()), "one");
    let exported = exported(&scrape(address));
    let labels = &exported["redirector_connections_total"];
    assert!(labels.contains("route") && labels.contains("subset"), "{exported:#?}");

    let dashboard: Value = serde_json::from_str(&deploy("grafana/redirector.json")).expect("JSON");
    let rules: Value = serde_saphyr::from_str(&deploy("prometheus/rules.yaml")).expect("YAML");
    for (file, document) in [("dashboard", dashboard), ("rules", rules)] {
        let mut all = Vec::new();
        expressions(&document, &mut all);
        let names: Vec<_> = all.iter().flat_map(|expression| named(expression)).collect();
        assert!(names.len() > 8, "the {file} names {names:?}");
        let unknown: Vec<_> = names.iter().filter(|name| !exported.contains_key(*name)).collect();
        assert!(unknown.is_empty(), "the {file} names {unknown:?}, which nobody exports");
    }
    drop(daemon);
}
