//! Destinations that have lost their last endpoint: their share was served, and is
//! refused since.

use std::collections::BTreeMap;

use super::Layout;
use crate::plan::{DestinationId, Plan};

/// The destinations without an endpoint that had one, and the generation since which
/// they have none.
pub type Emptied = BTreeMap<DestinationId, u64>;

impl Layout {
    /// What is emptied once a Plan follows this Layout as a generation. `before` is
    /// what was until then.
    ///
    /// Where a destination is seen in another way than before, as when the name of a
    /// DestinationRule changes, it is another one; it then follows the one in whose
    /// place it stands.
    pub fn emptied(&self, before: &Emptied, plan: &Plan, generation: u64) -> Emptied {
        let since = |id: &DestinationId| {
            let had = || self.destinations.get(id).is_some_and(|placed| placed.count > 0);
            before.get(id).copied().or_else(|| had().then_some(generation))
        };
        let empty = plan.destinations.iter().filter(|(_, one)| one.endpoints.is_empty());
        let emptied = empty.filter_map(|(id, _)| {
            let since = match self.destinations.contains_key(id) {
                true => since(id),
                false => self
                    .same_but_for_view(id)
                    .filter(|other| !plan.destinations.contains_key(other))
                    .find_map(since),
            };
            Some((id.clone(), since?))
        });
        emptied.collect()
    }

    fn same_but_for_view<'l>(
        &'l self,
        id: &DestinationId,
    ) -> impl Iterator<Item = &'l DestinationId> {
        // The view is what destinations are ordered by last.
        let least = DestinationId { view: Vec::new(), ..id.clone() };
        let from = self.destinations.range(least.clone()..).map(|(other, _)| other);
        from.take_while(move |other| {
            let same = (&other.host, &other.subset, other.port, other.v6);
            same == (&least.host, &least.subset, least.port, least.v6)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::ROOMY;
    use crate::model::{Kind, ObjectRef};
    use crate::plan::{Destination, Endpoint};

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
            view: vec![view],
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
        let (mut layout, mut emptied) = (Layout::default(), Emptied::new());
        let steps = (1..).zip(plans).map(|(generation, plan)| {
            emptied = layout.emptied(&emptied, plan, generation);
            layout = layout.place(plan, &ROOMY).unwrap().0;
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
