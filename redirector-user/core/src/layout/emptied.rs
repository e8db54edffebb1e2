//! Destinations that have lost their last endpoint: their share was served, and is
//! refused since.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Placement;
use crate::plan::{self, DestinationId};

/// The destinations without an endpoint that had one, and the generation since which
/// they have none.
pub type Emptied = BTreeMap<DestinationId, u64>;

impl Placement {
    /// What a step that was placed, and that is not settled, changes about what is emptied
    /// as it comes in force as a generation: since when, or `None` where nothing is any
    /// more. `before` is what was until then.
    ///
    /// Where a destination is seen in another way than before, as when the name of a
    /// DestinationRule changes, it is another one; it then follows the one in whose
    /// place it stands.
    pub fn emptied(
        &self,
        before: &Emptied,
        delta: &plan::Delta,
        generation: u64,
    ) -> BTreeMap<DestinationId, Option<u64>> {
        let destinations = &self.layout.destinations;
        let since = |id: &DestinationId| {
            let had = || destinations.was(id).is_some_and(|placed| placed.count > 0);
            before.get(id).copied().or_else(|| had().then_some(generation))
        };
        let changed = delta.destinations.iter().map(|(id, destination)| {
            let is_empty = destination.as_ref().is_some_and(|one| one.endpoints.is_empty());
            let since = match (is_empty, destinations.was(id).is_some()) {
                (false, _) => None,
                (true, true) => since(id),
                (true, false) => self.gone_in_place_of(id).find_map(since),
            };
            (id.clone(), since)
        });
        changed.filter(|(id, since)| before.get(id) != since.as_ref()).collect()
    }

    /// The destinations that go with this step, and that are the same but for how they are
    /// seen.
    fn gone_in_place_of<'l>(
        &'l self,
        id: &DestinationId,
    ) -> impl Iterator<Item = &'l DestinationId> {
        // The view is what destinations are ordered by last.
        let least = DestinationId { view: Arc::default(), ..id.clone() };
        let destinations = &self.layout.destinations;
        let from = destinations.touched().range(least.clone()..);
        let alike = from.take_while(move |(other, _)| {
            let same = (&other.host, &other.subset, other.port, other.v6);
            same == (&least.host, &least.subset, least.port, least.v6)
        });
        let gone = |id, before: &Option<_>| before.is_some() && !destinations.contains_key(id);
        alike.filter(move |(other, before)| gone(other, before)).map(|(other, _)| other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Layout, Newcomers, ROOMY};
    use crate::model::{Kind, ObjectRef};
    use crate::plan::{Destination, Endpoint, Plan};

    /// A destination, as clients see it by a DestinationRule of this name.
    fn id(host: &str, rule: &str) -> DestinationId {
        let view = ObjectRef {
            kind: Kind::DestinationRule,
            namespace: "default".into(),
            name: rule.into(),
        };
        DestinationId {
            host: host.into(),
            subset: Some("v1".into()),
            port: 80,
            v6: false,
            view: [view].into(),
        }
    }

    fn plan(destinations: &[(&DestinationId, usize)]) -> Plan {
        let endpoints = |count| {
            let address = |n: usize| ([127, 0, 0, u8::try_from(n).unwrap()], 80).into();
            (0..count).map(|n| Endpoint { address: address(n), weight: 1 }).collect()
        };
        let destinations = destinations.iter().map(|(id, count)| {
            let endpoints = endpoints(*count);
            ((*id).clone(), Destination { endpoints, ..Destination::default() })
        });
        Plan { destinations: destinations.collect(), ..Plan::default() }
    }

    /// What is emptied after each of these Plans, one after another.
    fn after(plans: &[Plan]) -> Vec<Vec<(DestinationId, u64)>> {
        let mut placement = Placement::of(Layout::default());
        let (mut before, mut emptied) = (Plan::default(), Emptied::new());
        let steps = (1..).zip(plans).map(|(generation, plan)| {
            let delta = before.difference(plan);
            placement.place(&delta, &ROOMY, &Newcomers::default()).unwrap();
            for (id, since) in placement.emptied(&emptied, &delta, generation) {
                match since {
                    Some(since) => emptied.insert(id, since),
                    None => emptied.remove(&id),
                };
            }
            placement.settle();
            before.clone_from(plan);
            emptied.clone().into_iter().collect()
        });
        steps.collect()
    }

    #[test]
    fn a_destination_is_emptied_from_losing_its_last_endpoint_until_it_has_one() {
        let (a, never) = (id("a", "x"), id("b", "x"));
        let plans = [2, 1, 0, 0, 1, 0].map(|count| plan(&[(&a, count), (&never, 0)]));
        let since = |generation| vec![(a.clone(), generation)];
        let none = Vec::new;
        assert_eq!(after(&plans), [none(), none(), since(3), since(3), none(), since(6)]);
    }

    #[test]
    fn one_that_nobody_names_any_more_is_forgotten() {
        let a = id("a", "x");
        let plans = [plan(&[(&a, 1)]), plan(&[(&a, 0)]), plan(&[]), plan(&[(&a, 0)])];
        assert_eq!(after(&plans)[1..], [vec![(a, 2)], Vec::new(), Vec::new()]);
    }

    #[test]
    fn one_that_is_seen_in_another_way_follows_the_one_that_it_stands_for() {
        let (old, new, newest) = (id("a", "x"), id("a", "y"), id("a", "z"));
        let plans = [plan(&[(&old, 1)]), plan(&[(&new, 0)]), plan(&[(&newest, 0)])];
        assert_eq!(after(&plans)[1..], [vec![(new.clone(), 2)], vec![(newest, 2)]]);
        // Beside the one that others still see it is one of its own.
        let plans = [plan(&[(&old, 1)]), plan(&[(&old, 1), (&new, 0)])];
        assert_eq!(after(&plans)[1], Vec::new());
    }
}
