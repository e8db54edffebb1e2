//! The compiled tables, what a gateway would decide, and `explain`, against the
//! reference: over random Worlds, and over the documents of the samples.
//!
//! `REDIRECTOR_WORLDS=20000` is the long form; `REDIRECTOR_SEED` starts
//! elsewhere.

use std::net::SocketAddr;
use std::path::Path;

use redirector_core::documents;
use redirector_core::world::{ServiceAddresses, Settings, World};

use crate::support;
use crate::support::judged::Judged;
use crate::support::number;
use crate::support::random::Random;
use crate::support::reference::Connection;
use crate::support::worlds::{Documents, NAMESPACES, PORTS, dials, random_world, server_names};

/// How much was compared.
#[derive(Default)]
struct Count {
    compared: u64,
    routed: u64,
    explained: u64,
    at_gateways: u64,
    routed_at_gateways: u64,
    bypassed: u64,
}

/// Connections of all of its local workloads, of a caller in none, and of a source
/// that is in no document. Explaining is slower: a part of the dials will do.
fn in_the_mesh(judged: &Judged<'_>, random: &mut Random, count: &mut Count) {
    let dials: Vec<SocketAddr> =
        dials().into_iter().flat_map(|ip| PORTS.map(|port| SocketAddr::new(ip, port))).collect();
    let callers = judged.callers();
    for caller in &callers {
        for &to in &dials {
            let outcome = judged.decide(caller, to);
            count.compared += 1;
            count.routed += u64::from(!outcome.passed);
            if random.once_in(6) {
                count.explained += 1;
                judged.explain(&caller.connection, to);
            }
        }
    }
    let stranger = Connection {
        namespace: Some((*random.pick(&NAMESPACES)).to_owned()),
        name: None,
        ..callers[0].connection.clone()
    };
    for &to in dials.iter().filter(|_| random.once_in(6)) {
        count.explained += 1;
        judged.explain(&stranger, to);
    }
}

/// Connections from its workloads and from strangers to its gateways.
fn at_gateways(judged: &Judged<'_>, random: &mut Random, count: &mut Count) {
    for (workload, address) in judged.gateways() {
        for port in PORTS.into_iter().chain([15_000, 15_443]) {
            let to = SocketAddr::new(address.ip(), port);
            for caller in judged.callers() {
                for sni in server_names() {
                    if random.once_in(2) {
                        continue;
                    }
                    let outcome = judged.arrive(workload, &caller.connection, to, sni.as_deref());
                    count.at_gateways += 1;
                    count.routed_at_gateways += u64::from(outcome.rule.is_some());
                    if outcome.rule.is_some() || random.once_in(6) {
                        judged.explain_arrival(workload, &caller.connection, to, sni.as_deref());
                    }
                }
            }
        }
    }
}

#[test]
fn compiled_tables_and_explain_agree_with_the_reference() {
    let (worlds, seed) = (number("REDIRECTOR_WORLDS", 500), number("REDIRECTOR_SEED", 0));
    let mut count = Count::default();
    for index in seed..seed + worlds {
        let mut random = Random::of_world(index);
        let documents = Documents::random(&mut random);
        count.bypassed += u64::from(documents.settings.bypass != Default::default());
        let (name, world) = (format!("world {index}"), documents.world());
        let judged = Judged::new(&name, &world);
        in_the_mesh(&judged, &mut random, &mut count);
        at_gateways(&judged, &mut random, &mut count);
    }
    let Count { compared, routed, explained, at_gateways, routed_at_gateways, bypassed } = count;
    assert!(routed * 20 > compared, "{routed} of {compared} are too few to show anything");
    assert!(routed_at_gateways * 40 > at_gateways, "{routed_at_gateways} of {at_gateways}");
    assert!(worlds < 10 || bypassed > 0, "something is bypassed in some of them");
    eprintln!(
        "figure: {worlds} worlds from seed {seed}: {compared} decisions, of these {routed} not \
         passed, and {at_gateways} at gateways, of these {routed_at_gateways} by a rule, compared; \
         {explained} explained"
    );
}

/// Documents that were written by hand, for the samples and for people.
fn samples() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = Vec::new();
    for directory in ["tests/conformance/documents", "deploy/examples", "deploy/demo"] {
        let entries = std::fs::read_dir(root.join(directory)).expect("it is there");
        for path in entries.map(|entry| entry.expect("it is there").path()) {
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let text = std::fs::read_to_string(&path).expect("it is readable");
                found.push((path.display().to_string(), text));
            }
        }
    }
    let routing = root.join("tests/conformance/routing.jsonl");
    for line in std::fs::read_to_string(routing).expect("it is readable").lines() {
        let case: serde_json::Value = serde_json::from_str(line).expect("a sample");
        let text = |name: &str| case[name].as_str().expect("it has one").to_owned();
        found.push((text("name"), text("config")));
    }
    found.sort();
    found
}

#[test]
fn the_samples_are_decided_as_the_reference_says() {
    let (mut compared, mut routed) = (0, 0);
    for (name, text) in samples() {
        for services in [ServiceAddresses::Own, ServiceAddresses::Leave] {
            let mut world = World::new(Settings { services, ..Settings::default() });
            for object in
                documents::read(None, &text).objects.into_iter().filter_map(|read| read.object)
            {
                world.insert(object);
            }
            let (of_world, of_these) = Judged::new(&name, &world).compare(usize::MAX);
            compared += of_world;
            routed += of_these;
        }
    }
    assert!(compared > 200 && routed * 3 > compared, "{routed} of {compared}");
}

#[test]
fn every_local_workload_is_in_one_class_and_class_tables_hold_no_class_tables() {
    for index in 0..100 {
        let world = random_world(&mut Random::new(index));
        let judged = Judged::new("", &world);
        let plan = &judged.compiled.plan;
        for source in plan.sources.values() {
            assert!(plan.classes.contains_key(&source.class));
        }
        let image = &judged.image;
        let mut verdicts = image.class_verdicts.values().chain(image.class_defaults.values());
        assert!(!verdicts.any(|verdict| support::is_classes(*verdict)));
    }
}

#[test]
fn the_reference_uses_nothing_of_what_it_is_compared_with() {
    let sources = [
        include_str!("support/reference/mod.rs"),
        include_str!("support/reference/destination_rules.rs"),
        include_str!("support/reference/gateways.rs"),
        include_str!("support/reference/localities.rs"),
        include_str!("support/reference/routes.rs"),
        include_str!("support/reference/services.rs"),
    ];
    for used in sources.iter().flat_map(|source| source.split("redirector_core::").skip(1)) {
        let module = used.split(|c: char| !c.is_alphanumeric() && c != '_').next();
        assert!(matches!(module, Some("model" | "names" | "world")), "{module:?}");
    }
}
