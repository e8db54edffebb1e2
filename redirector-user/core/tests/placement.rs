//! Placing what changes is placing everything, but for the numbers: over lives of
//! random Plans.

use std::collections::{BTreeMap, BTreeSet};

use redirector_common::abi::{self, Limits, VerdictKind, policy};
use redirector_core::compile::compile;
use redirector_core::image::Image;
use redirector_core::layout::{Layout, Newcomers, Placement};
use redirector_core::model::SourceId;
use redirector_core::plan::{self, DestinationId, Plan, RouteId};

use crate::support::LIMITS;
use crate::support::random::Random;
use crate::support::worlds::random_world;

/// A life of Plans that share much.
fn plans(seed: u64) -> impl Iterator<Item = Plan> {
    let mut random = Random::new(seed);
    (0..12_u64).map(move |step| {
        let mut world = random_world(&mut Random::new(seed * 100 + step / 5));
        let all: Vec<_> = world.objects().map(|object| object.reference()).collect();
        for reference in all.iter().filter(|_| random.once_in(6)) {
            world.remove(reference);
        }
        let mut plan = compile(&world).plan;
        // What no World would do, and a Plan may.
        plan.frontends.retain(|_, _| !random.once_in(9));
        for destination in plan.destinations.values_mut() {
            if random.once_in(9) {
                destination.endpoints.iter_mut().for_each(|endpoint| endpoint.weight = 0);
            }
        }
        plan
    })
}

/// What tables say, by name.
#[derive(PartialEq, Debug)]
struct Named {
    frontends: Vec<(String, Said)>,
    routes: BTreeMap<RouteId, Vec<(u32, u32, Option<DestinationId>)>>,
    destinations: BTreeMap<DestinationId, (abi::Destination, Vec<abi::Backend>)>,
    /// How many entries each table has: none is left over.
    entries: [usize; 8],
}

/// What an entry says to all, and to those of some classes.
#[derive(PartialEq, Debug)]
struct Said(String, BTreeMap<BTreeSet<SourceId>, String>);

fn named(layout: &Layout, image: &Image) -> Named {
    let names = layout.names();
    let mut members: BTreeMap<u32, BTreeSet<SourceId>> = BTreeMap::new();
    for (id, number) in layout.identities() {
        let class = image.class_of.get(&number).copied().unwrap_or(0);
        members.entry(class).or_default().insert(id.clone());
    }
    let word = |verdict: abi::Verdict| match verdict.kind() {
        VerdictKind::Route(number) => format!("{:?}", names.routes[&number]),
        kind => format!("{kind:?}"),
    };
    let said = |verdict: abi::Verdict| match verdict.kind() {
        VerdictKind::Classes(table) => {
            let default = image.class_defaults.get(&table).copied().unwrap_or_default();
            let of = image.class_verdicts.range((table, 0)..=(table, u32::MAX));
            let of = of.map(|((_, class), verdict)| {
                (members.get(class).cloned().unwrap_or_default(), word(*verdict))
            });
            Said(word(default), of.collect())
        }
        _ => Said(word(verdict), BTreeMap::new()),
    };
    let exact = image.frontends.iter().map(|(at, verdict)| (format!("{at:?}"), said(*verdict)));
    let wide = image.prefixes.iter().map(|(at, verdict)| (format!("{at:?}"), said(*verdict)));
    let routes = names.routes.iter().map(|(number, id)| {
        let route = image.routes.get(number).copied().unwrap_or_default();
        let legs = (route.first..route.first + route.count).map(|index| {
            let leg = image.legs.get(&index).copied().unwrap_or_default();
            let to = names.destinations.get(&leg.destination).map(|id| (*id).clone());
            (leg.threshold, leg.alias, to)
        });
        ((*id).clone(), legs.collect())
    });
    let destinations = names.destinations.iter().map(|(number, id)| {
        let mut entry = image.destinations.get(number).copied().unwrap_or_default();
        let backends = (entry.first..entry.first + entry.count).map(|index| {
            let mut backend = image.backends.get(&index).copied().unwrap_or_default();
            backend.live = backend.live.min(1);
            backend
        });
        let backends = backends.collect();
        (entry.first, entry.live) = (0, entry.live.min(1));
        ((*id).clone(), (entry, backends))
    });
    Named {
        frontends: exact.chain(wide).collect(),
        routes: routes.collect(),
        destinations: destinations.collect(),
        entries: [
            image.frontends.len(),
            image.prefixes.len(),
            image.class_verdicts.len(),
            // A table that passes by default has no entry for that.
            names.tables.len(),
            image.class_of.len(),
            names.routes.len(),
            names.destinations.len(),
            image.backends.len(),
        ],
    }
}

/// The numbers that are in use: of routes, destinations, class tables, workloads, and
/// entries of `LIVE`; legs and backends.
fn numbers(layout: &Layout) -> [BTreeMap<u32, String>; 7] {
    fn all<K: std::fmt::Debug>(of: impl Iterator<Item = (u32, K)>) -> BTreeMap<u32, String> {
        of.map(|(number, what)| (number, format!("{what:?}"))).collect()
    }
    let names = layout.names();
    [
        all(names.routes.iter().map(|(number, id)| (*number, id))),
        all(names.destinations.iter().map(|(number, id)| (*number, id))),
        all(names.tables.keys().map(|number| (*number, ()))),
        all(layout.identities().map(|(id, number)| (number, id))),
        all(names.lives.iter().map(|(number, id)| (*number, id))),
        all(names.legs.iter().map(|(number, (route, leg, _))| (*number, (route, leg)))),
        all(names.backends.iter().map(|(number, id)| (*number, id))),
    ]
}

/// Between two steps: who is there still has the number that it had, and nobody has the
/// number of one that goes. Legs and backends move as one, so that of them only the
/// second is said.
fn assert_kept(before: &Layout, after: &Layout, plan: &Plan) {
    for id in plan.routes.keys().filter(|id| before.route(id).is_some()) {
        assert_eq!(before.route(id), after.route(id), "{id:?}");
    }
    for id in plan.destinations.keys().filter(|id| before.destination(id).is_some()) {
        assert_eq!(before.destination(id), after.destination(id), "{id:?}");
    }
    for (id, number) in before.identities().filter(|(id, _)| plan.sources.contains_key(*id)) {
        assert_eq!(after.identity(id), Some(number), "{id:?}");
    }
    let kinds = numbers(before).into_iter().zip(numbers(after)).enumerate();
    for (kind, (before, after)) in kinds.filter(|(kind, _)| *kind != 2) {
        for (number, what) in &after {
            let had = before.get(number).is_none_or(|had| had == what);
            assert!(had, "number {number} of kind {kind} was {before:?}, and is {what}");
        }
    }
}

fn step(placement: &mut Placement, delta: &plan::Delta, limits: &Limits) -> bool {
    placement.place(delta, limits, &Newcomers::default()).is_ok()
}

#[test]
fn what_changes_placed_step_by_step_is_what_the_whole_is_but_for_numbers_that_are_kept() {
    let (mut writes, mut entries, mut refused) = (0, 0, 0);
    for seed in 0..24 {
        let mut random = Random::new(seed);
        let mut placement = Placement::of(Layout::default());
        let (mut before, mut image) = (Plan::default(), Image::default());
        for (index, plan) in plans(seed).enumerate() {
            let at = format!("seed {seed}, step {index}");
            let delta = before.difference(&plan);
            let was = placement.clone();
            // Nothing is changed by what does not fit, or is taken back.
            let tight = Limits {
                routes: random.below(20) as u32,
                backends: random.below(60) as u32,
                class_tables: random.below(8) as u32,
                ..LIMITS
            };
            refused += u32::from(!step(&mut placement, &delta, &tight));
            placement.take_back();
            assert_eq!(placement.layout(), was.layout(), "{at}");
            assert_eq!(placement.image(), was.image(), "{at}");

            let (changes, work) = placement
                .place(&delta, &LIMITS, &Newcomers::default())
                .unwrap_or_else(|full| panic!("{at}: {full}"));
            image.apply(&changes);
            assert_eq!(placement.image(), &image, "{at}");
            assert_eq!(was.image().diff(&image), changes, "{at}");
            (writes, entries) = (writes + work.written, entries + work.placed);
            let of_routes: BTreeSet<u32> = (image.routes.values())
                .flat_map(|route| route.first..route.first + route.count)
                .collect();
            assert!(image.legs.keys().all(|leg| of_routes.contains(leg)), "{at}: nobody's legs");
            let ejects = |one: &abi::Destination| one.policy & policy::EJECTING != 0;
            assert_eq!(placement.follows_connections(), image.destinations.values().any(ejects));
            let written = serde_json::to_string(&placement.difference()).expect("written");
            let difference = serde_json::from_str(&written).expect("read");
            placement.settle();
            let followed = was.layout().clone().with(difference);
            assert_eq!(&followed, placement.layout(), "{at}");

            let (layout, whole) = Layout::default().place(&plan, &LIMITS).expect("there is room");
            assert_eq!(named(placement.layout(), &image), named(&layout, &whole), "{at}");
            assert_kept(was.layout(), placement.layout(), &plan);

            // Another daemon goes on with what was written down.
            if random.once_in(4) {
                let written = serde_json::to_string(placement.layout()).expect("written");
                let read: Layout = serde_json::from_str(&written).expect("read");
                assert_eq!(&read, placement.layout(), "{at}");
                let mut delta = read.removal();
                delta.then(Plan::default().difference(&plan));
                let mut other = Placement::of(read);
                assert!(step(&mut other, &delta, &LIMITS), "{at}");
                other.settle();
                assert_eq!(other.image(), &image, "{at}: by the numbers that it found");
                placement = other;
            }
            before = plan;
        }
    }
    assert!(writes > 1000 && entries > 1000 && refused > 20, "{writes} {entries} {refused}");
}

#[test]
fn several_changes_at_once_are_placed_as_one() {
    for seed in 0..30 {
        let mut placement = Placement::of(Layout::default());
        let (mut before, mut pending) = (Plan::default(), plan::Delta::default());
        for (index, plan) in plans(seed).enumerate() {
            pending.then(before.difference(&plan));
            if index % 3 == 2 {
                assert!(step(&mut placement, &std::mem::take(&mut pending), &LIMITS));
                let (layout, whole) = Layout::default().place(&plan, &LIMITS).expect("room");
                let now = named(placement.layout(), placement.image());
                assert_eq!(now, named(&layout, &whole), "seed {seed}, step {index}");
            }
            before = plan;
        }
    }
}
