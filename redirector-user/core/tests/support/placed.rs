//! What is placed, by name: what it comes to is compared without its numbers, and these
//! with those before.

use std::collections::{BTreeMap, BTreeSet};

use redirector_common::abi::{self, VerdictKind};
use redirector_core::image::Image;
use redirector_core::layout::Layout;
use redirector_core::model::SourceId;
use redirector_core::plan::{DestinationId, Plan, RouteId};

/// What tables say, by name.
#[derive(PartialEq, Debug)]
pub struct Named {
    frontends: Vec<(String, Said)>,
    routes: BTreeMap<RouteId, Vec<(u32, u32, Option<DestinationId>)>>,
    destinations: BTreeMap<DestinationId, (abi::Destination, Vec<abi::Backend>)>,
    /// How many entries each table has: none is left over.
    entries: [usize; 8],
}

/// What an entry says to all, and to those of some classes.
#[derive(PartialEq, Debug)]
pub struct Said(String, BTreeMap<BTreeSet<SourceId>, String>);

/// What they say by the names of this Layout.
pub fn named(layout: &Layout, image: &Image) -> Named {
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
        let mut all = BTreeMap::new();
        for (number, what) in of {
            let two = all.insert(number, format!("{what:?}"));
            assert_eq!(two, None, "{number} is also that of {what:?}");
        }
        all
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
pub fn assert_kept(before: &Layout, after: &Layout, plan: &Plan) {
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
