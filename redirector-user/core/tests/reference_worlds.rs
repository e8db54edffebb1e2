//! The compiled tables and `explain`, against the reference, over generated
//! Worlds.
//!
//! `REDIRECTOR_WORLDS=100000` is the long form; `REDIRECTOR_SEED` starts
//! elsewhere.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use redirector_core::compile::compile_with;
use redirector_core::explain::{Query, QuerySource, VerdictWord, explain_with};
use redirector_core::layout::Layout;
use redirector_core::model::SourceId;
use redirector_core::model::bypass::Bypass;
use redirector_core::registry::Registry;
use redirector_core::world::World;

use crate::support::random::{PORTS, Random, Source, dials, world};
use crate::support::reference::{Connection, Outcome, decide};
use crate::support::{LIMITS, Shares, shares};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// What the reference says, in the same form.
fn expected(outcome: Outcome) -> Shares {
    match outcome {
        Outcome::Pass => Shares { passed: true, ..Shares::default() },
        Outcome::Decided(endpoints, refused) => Shares {
            endpoints: endpoints.into_iter().map(|(to, share)| (to.to_string(), share)).collect(),
            refused,
            passed: false,
        },
    }
}

/// A workload, a rule or both of a World.
fn bypass(random: &mut Random, world: &World, sources: &[Source]) -> Bypass {
    let workload = |source: &Source| SourceId {
        namespace: source.namespace.as_str().into(),
        name: source.name.as_str().into(),
    };
    let rules = world.virtual_services().map(|(object, _)| object.reference());
    let (mut workloads, mut rules): (Vec<_>, Vec<_>) =
        (sources.iter().map(workload).collect(), rules.collect());
    workloads.retain(|_| random.once_in(3));
    rules.retain(|_| random.once_in(3));
    Bypass { workloads: workloads.into_iter().collect(), rules: rules.into_iter().collect() }
}

#[test]
fn compiled_tables_and_explain_agree_with_the_reference() {
    let (worlds, seed) = (number("REDIRECTOR_WORLDS", 250), number("REDIRECTOR_SEED", 0));
    let (mut routed, mut compared, mut bypassed) = (0_u64, 0_u64, 0_u64);
    for index in seed..seed + worlds {
        let mut random = Random(index.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let (mut world, sources) = world(&mut random);
        if random.once_in(3) {
            world.settings.bypass = bypass(&mut random, &world, &sources);
            bypassed += 1;
        }
        let registry = Registry::new(&world);
        let compiled = compile_with(&world, &registry);
        let (layout, image) =
            Layout::default().place(&compiled.plan, &LIMITS).expect("there is room");
        let callers = sources.iter().map(Some).chain([None]);
        for caller in callers {
            let class = caller.map_or(0, |source| {
                let id = SourceId {
                    namespace: source.namespace.as_str().into(),
                    name: source.name.as_str().into(),
                };
                let identity = layout.identity(&id).expect("it is a source");
                image.class_of.get(&identity).copied().unwrap_or(0)
            });
            let from = caller.map_or_else(Connection::default, |source| Connection {
                namespace: Some(source.namespace.clone()),
                name: Some(source.name.clone()),
                labels: source.labels.clone(),
                addresses: source.addresses.clone(),
            });
            for (ip, port) in dials().into_iter().flat_map(|ip| PORTS.map(|port| (ip, port))) {
                let to = SocketAddr::new(ip, port);
                let wanted = expected(decide(&world, &from, to));
                let got = shares(&image, class, to);
                compared += 1;
                routed += u64::from(!wanted.passed);
                assert!(
                    wanted.near(&got),
                    "world {index}: from {from:?} to {to}:\nthe reference says {wanted:?}\n\
                     the tables say {got:?}\n{}",
                    serde_json::to_string_pretty(&world.objects().collect::<Vec<_>>())
                        .unwrap_or_default()
                );
                // Explaining is slower; a part of the dials will do.
                if random.once_in(8) {
                    let source =
                        caller.map_or(QuerySource::Unknown, |source| QuerySource::Workload {
                            namespace: source.namespace.clone(),
                            name: source.name.clone(),
                        });
                    let query = Query { source, destination: to, gateway: None, sni: None };
                    let answer =
                        explain_with(&world, &registry, &query).expect("the source is known");
                    let told = Shares {
                        endpoints: answer.endpoints.clone(),
                        refused: answer.refused_share,
                        passed: answer.verdict == VerdictWord::Passthrough,
                    };
                    assert!(
                        wanted.near(&told),
                        "world {index}: from {from:?} to {to}: {wanted:?} is explained as {answer:#?}"
                    );
                }
            }
        }
    }
    assert!(routed * 20 > compared, "{routed} of {compared} are too few to show anything");
    assert!(worlds < 10 || bypassed > 0, "something is bypassed in some of them");
    eprintln!("figure: {worlds} worlds from seed {seed}: {compared} decisions compared");
}

#[test]
fn every_local_workload_is_in_one_class_and_class_tables_hold_no_class_tables() {
    for index in 0..100 {
        let (world, _) = world(&mut Random(index));
        let plan = compile_with(&world, &Registry::new(&world)).plan;
        for source in plan.sources.values() {
            assert!((source.class as usize) < plan.classes.len());
        }
        let (_, image) = Layout::default().place(&plan, &LIMITS).expect("there is room");
        let mut verdicts = image.class_verdicts.values().chain(image.class_defaults.values());
        assert!(!verdicts.any(|verdict| crate::support::is_classes(*verdict)));
        let _: BTreeMap<_, _> = image.routes;
    }
}
