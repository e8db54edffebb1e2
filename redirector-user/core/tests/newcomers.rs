//! Pods that come after the tables were made: the class that the tables in force
//! give them, and the number that they keep when they are compiled.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use redirector_core::compile::compile;
use redirector_core::layout::{Layout, Newcomers};
use redirector_core::model::{Meta, Object, Pod, SourceId, Spec};

use crate::support::random::Random;
use crate::support::reference::{Connection, Reference};
use crate::support::worlds::{NAMESPACES, PORTS, dials, random_world};
use crate::support::{LIMITS, shares, world_with};

/// A pod of this node that has no address yet.
fn pod(random: &mut Random, node: &str) -> Object {
    let pairs = [("app", "v1"), ("app", "v2"), ("version", "v1"), ("pod-template-hash", "x")];
    let labels = random.some(&pairs, 3);
    Object {
        meta: Meta {
            uid: "0f1e2d3c".into(),
            labels: labels.into_iter().collect(),
            ..Meta::new(*random.pick(&NAMESPACES), "newcomer")
        },
        spec: Spec::Pod(Pod { node: node.into(), ready: true, ..Pod::default() }),
    }
}

#[test]
fn what_the_tables_say_of_a_pod_is_what_compiling_it_gives() {
    let (mut known, mut unknown, mut routed) = (0, 0, 0);
    for index in 0..600_u64 {
        let mut random = Random::of_world(index);
        let mut world = random_world(&mut random);
        world.settings.node_name = Some("n1".to_owned());
        let newcomer = pod(&mut random, "n1");
        let id = SourceId {
            namespace: newcomer.meta.namespace.clone(),
            name: newcomer.meta.name.clone(),
        };
        if random.once_in(8) {
            world.settings.bypass.workloads.insert(id.clone());
        }
        let before = compile(&world);
        let spares = Newcomers { spares: 3, ..Newcomers::default() };
        let (layout, image) =
            Layout::default().place_with(&before.plan, &LIMITS, &spares).expect("there is room");
        let found = before.classifier.source(&newcomer);
        world.insert(newcomer.clone());
        let after = compile(&world);
        let Some((found_id, source)) = found else {
            unknown += 1;
            let class = after.plan.sources[&id].class;
            let alike = after.plan.sources.values().filter(|source| source.class == class);
            assert_eq!(alike.count(), 1, "world {index}: somebody else is in its class");
            continue;
        };
        known += 1;
        assert_eq!(found_id, id);
        let class = layout.classes_of(&before.plan)[&source.class];
        let number = layout.spares().iter().find(|(_, of)| **of == class).map(|(n, _)| *n);
        let number = number.unwrap_or_else(|| panic!("world {index}: class {class} has none left"));
        assert_eq!(image.class_of.get(&number).copied().unwrap_or(0), class);
        let given = Newcomers {
            given: BTreeMap::from([(id.clone(), number)]),
            spares: 3,
            ..Newcomers::default()
        };
        let (next, compiled) =
            layout.place_with(&after.plan, &LIMITS, &given).expect("there is room");
        assert_eq!(next.identity(&id), Some(number), "world {index}: it keeps its number");
        assert!(!next.spares().contains_key(&number));
        let class_after = compiled.class_of.get(&number).copied().unwrap_or(0);
        let from = Connection {
            namespace: Some(id.namespace.to_string()),
            name: Some(id.name.to_string()),
            labels: newcomer.meta.labels.clone(),
            addresses: Vec::new(),
        };
        let reference = Reference::new(&world);
        for (ip, port) in dials().into_iter().flat_map(|ip| PORTS.map(|port| (ip, port))) {
            let to = SocketAddr::new(ip, port);
            let (early, late) = (shares(&image, class, to), shares(&compiled, class_after, to));
            routed += u64::from(!late.passed);
            assert!(early.near(&late), "world {index}: to {to}: {early:?}, compiled {late:?}");
            let passes = reference.decide(&from, to).passed;
            assert_eq!(early.passed, passes, "world {index}: to {to}: the reference differs");
        }
    }
    assert!(known > 100 && unknown > 20 && routed > 1000, "{known} {unknown} {routed}");
}

#[test]
fn pods_of_other_nodes_and_finished_ones_are_nobody() {
    let mut random = Random::new(1);
    let mut world = random_world(&mut random);
    world.settings.node_name = Some("n1".to_owned());
    let classifier = compile(&world).classifier;
    assert_eq!(classifier.source(&pod(&mut random, "n2")), None);
    let mut finished = pod(&mut random, "n1");
    let Spec::Pod(one) = &mut finished.spec else { panic!("it is a pod") };
    one.finished = true;
    assert_eq!(classifier.source(&finished), None);
}

#[test]
fn every_class_has_spares_as_long_as_it_is_there_and_there_is_room() {
    let documents = |labels: &[&str]| {
        let mut yaml = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: \
                        10.96.0.1, ports: [{name: tcp, port: 80}]}\n"
            .to_owned();
        for label in labels {
            yaml.push_str(&format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {label}, uid: u-{label}, labels: \
                 {{app: {label}}}}}\nspec: {{nodeName: n1}}\n---\napiVersion: \
                 networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {label}}}\nspec: \
                 {{hosts: [s], tcp: [{{match: [{{sourceLabels: {{app: {label}}}}}], route: \
                 [{{destination: {{host: s}}}}]}}]}}\n"
            ));
        }
        let settings = redirector_core::world::Settings {
            node_name: Some("n1".to_owned()),
            ..Default::default()
        };
        compile(&world_with(&yaml, settings)).plan
    };
    let numbers = |layout: &Layout, class: u32| -> Vec<u32> {
        layout.spares().iter().filter(|(_, of)| **of == class).map(|(n, _)| *n).collect()
    };
    let (one, two) = (documents(&["a"]), documents(&["a", "b"]));
    let wanted = Newcomers { spares: 4, ..Newcomers::default() };
    let (layout, _) = Layout::default().place_with(&two, &LIMITS, &wanted).expect("room");
    for class in layout.classes_of(&two).into_values() {
        assert_eq!(numbers(&layout, class).len(), 4, "class {class}");
    }
    // The same again, of whoever looks without being the daemon.
    let (same, _) = layout.place(&two, &LIMITS).expect("room");
    assert_eq!(same.spares(), layout.spares());
    // Few gone: none are added. Half of them: they are.
    let class = layout.classes_of(&two)[&1];
    let gone = |gone: usize| {
        let spent = numbers(&layout, class).into_iter().take(gone).collect();
        Newcomers { spent, spares: 4, ..Newcomers::default() }
    };
    let (next, _) = layout.place_with(&two, &LIMITS, &gone(1)).expect("room");
    assert_eq!(numbers(&next, class).len(), 3);
    let (next, _) = layout.place_with(&two, &LIMITS, &gone(2)).expect("room");
    assert_eq!(numbers(&next, class).len(), 4);
    let again = numbers(&layout, class).iter().take(2).any(|n| numbers(&next, class).contains(n));
    assert!(!again, "what is given up is not given out in the same step");
    // The class goes, and so do they.
    let (next, image) = layout.place_with(&one, &LIMITS, &gone(0)).expect("room");
    assert_eq!(next.classes_of(&one).len(), 2);
    assert_eq!(next.spares().len(), 8);
    let classes = next.classes_of(&one);
    assert!(image.class_of.values().all(|class| classes.values().any(|of| of == class)));
    // A small table is for workloads.
    let limits = redirector_common::abi::Limits { identities: 16, ..LIMITS };
    let (layout, _) = Layout::default().place_with(&two, &limits, &wanted).expect("room");
    assert_eq!(layout.spares().len(), 0);
}
