//! Which routes and destinations are met, and by how many parts of the Plan: what
//! nobody meets any more goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::readers::{Reason, Trace};
use crate::model::RuleId;
use crate::plan::{Delta, Destination, DestinationId, Leg, Plan, RouteId, Verdict};
use crate::work::Work;

/// What is met, from step to step.
#[derive(Debug, Default)]
pub(super) struct Met {
    routes: FxHashMap<Arc<RouteId>, KnownRoute>,
    destinations: FxHashMap<DestinationId, Known>,
    /// Routes that were met or left in this step.
    touched: Vec<Arc<RouteId>>,
    /// Destinations that were left, or lack something else, in this step.
    left: FxHashSet<DestinationId>,
    /// How many endpoints the destinations of the objects of a namespace have.
    endpoints: FxHashMap<Arc<str>, u64>,
    /// Some were not made in this step, since there would be far more than there may be.
    cut: bool,
    step: u64,
}

/// A route.
#[derive(Debug)]
struct KnownRoute {
    legs: Box<[Leg]>,
    way: Way,
    /// How many parts of the Plan meet it.
    users: usize,
    /// When this was made.
    step: u64,
}

/// What the verdict of a route is: it, or what stands for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    Pass,
    Route,
    Refuse,
}

impl Way {
    fn of(self, route: &Arc<RouteId>) -> Verdict {
        match self {
            Self::Pass => Verdict::Pass,
            Self::Route => Verdict::Route(route.clone()),
            Self::Refuse => Verdict::Refuse,
        }
    }
}

/// A destination.
#[derive(Debug, Default)]
struct Known {
    /// How often it is in a route, or met beside one.
    users: usize,
    /// What those who meet it find it lacks. They may find different things; the
    /// first one in their order is told.
    reasons: BTreeMap<Reason, usize>,
}

impl Destination {
    pub(super) fn lacking((lacks, why): &Reason) -> Self {
        let (lacks, empty_because) = (Some(*lacks), Some(why.clone()));
        Self { lacks, empty_because, ..Self::default() }
    }
}

impl Met {
    /// From now on nothing is known to be as it was.
    pub fn begin_step(&mut self) {
        self.step += 1;
        self.cut = false;
    }

    /// Some destinations were not made in this step, or would not have been in another order.
    pub fn cut(&mut self) {
        self.cut = true;
    }

    /// Whether there was such a one.
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// How many endpoints the destinations of the objects of a namespace have.
    pub fn endpoints_of(&self, namespace: &str) -> u64 {
        self.endpoints.get(namespace).copied().unwrap_or_default()
    }

    /// The most that those of one namespace have.
    pub fn most_endpoints(&self) -> u64 {
        self.endpoints.values().copied().max().unwrap_or_default()
    }

    fn count_endpoints(&mut self, namespace: &Arc<str>, before: u64, after: u64) {
        let count = self.endpoints_of(namespace) + after - before;
        match count {
            0 => _ = self.endpoints.remove(namespace),
            _ => _ = self.endpoints.insert(namespace.clone(), count),
        }
    }

    /// A route as it is in this step.
    pub fn route(&self, route: &RouteId) -> Option<(Arc<RouteId>, Verdict)> {
        let (route, known) = self.routes.get_key_value(route)?;
        (known.step == self.step).then(|| (route.clone(), known.way.of(route)))
    }

    /// The legs of a route that is known.
    pub fn legs(&self, route: &RouteId) -> &[Leg] {
        self.routes.get(route).map_or(&[], |known| &known.legs)
    }

    /// The rules of routes, in no order.
    pub fn rules(&self) -> impl Iterator<Item = &RuleId> {
        self.routes.keys().filter_map(|route| route.rule.as_ref())
    }

    /// Says what a route is in this step.
    pub fn put(&mut self, route: RouteId, legs: Vec<Leg>, way: Way) -> (Arc<RouteId>, Verdict) {
        let id = match self.routes.get_key_value(&route) {
            Some((id, _)) => id.clone(),
            None => {
                for destination in &route.destinations {
                    self.destinations.entry(destination.clone()).or_default().users += 1;
                }
                Arc::new(route)
            }
        };
        let nothing = || KnownRoute { legs: Box::default(), way, users: 0, step: 0 };
        let known = self.routes.entry(id.clone()).or_insert_with(nothing);
        (known.legs, known.way, known.step) = (legs.into(), way, self.step);
        self.touched.push(id.clone());
        let verdict = way.of(&id);
        (id, verdict)
    }

    /// Gives a route other weights that lead to the same verdict.
    pub fn reweigh(&mut self, route: &Arc<RouteId>, legs: Vec<Leg>) {
        if let Some(known) = self.routes.get_mut(route) {
            known.legs = legs.into();
            self.touched.push(route.clone());
        }
    }

    /// A part of the Plan was made, and has met this.
    pub fn hold(&mut self, trace: &Trace) {
        for route in &trace.routes {
            if let Some(known) = self.routes.get_mut(route) {
                known.users += 1;
            }
        }
        for destination in &trace.beside {
            self.destinations.entry(destination.clone()).or_default().users += 1;
        }
        for (destination, reason) in &trace.lacking {
            let known = self.destinations.entry(destination.clone()).or_default();
            *known.reasons.entry(reason.clone()).or_default() += 1;
            self.left.insert(destination.clone());
        }
    }

    /// The same part is no more.
    pub fn release(&mut self, trace: &Trace) {
        for route in &trace.routes {
            if let Some(known) = self.routes.get_mut(route) {
                known.users -= 1;
                self.touched.push(route.clone());
            }
        }
        for destination in &trace.beside {
            self.leave(destination);
        }
        for (destination, reason) in &trace.lacking {
            let Some(known) = self.destinations.get_mut(destination) else { continue };
            if let Some(count) = known.reasons.get_mut(reason) {
                *count -= 1;
                if *count == 0 {
                    known.reasons.remove(reason);
                }
            }
            self.left.insert(destination.clone());
        }
    }

    fn leave(&mut self, destination: &DestinationId) {
        if let Some(known) = self.destinations.get_mut(destination) {
            known.users -= 1;
            self.left.insert(destination.clone());
        }
    }

    /// Whether a destination has no endpoints whatever its service has.
    pub fn lacks(&self, destination: &DestinationId) -> bool {
        self.destinations.get(destination).is_some_and(|known| !known.reasons.is_empty())
    }

    /// Brings what was met in this step into the Plan, with the destinations that
    /// were made in it, and forgets what nobody meets.
    pub fn settle(
        &mut self,
        mut made: FxHashMap<DestinationId, Destination>,
        root: &str,
        plan: &mut Plan,
        delta: &mut Delta,
        work: &mut Work,
    ) {
        for route in std::mem::take(&mut self.touched) {
            let unused = self.routes.get(&route).is_some_and(|known| known.users == 0);
            if unused {
                self.routes.remove(&route);
                for destination in &route.destinations {
                    self.leave(destination);
                }
            }
            let known = self.routes.get(&route);
            let taken = known.filter(|known| known.way == Way::Route);
            let legs = taken.map(|known| &*known.legs);
            if plan.routes.get(&route).map(Vec::as_slice) != legs {
                work.routes += 1;
                set(&mut plan.routes, &mut delta.routes, route, legs.map(<[Leg]>::to_vec));
            }
        }
        let mut wanted = BTreeMap::new();
        for destination in std::mem::take(&mut self.left) {
            let Some(known) = self.destinations.get(&destination) else { continue };
            if known.users == 0 {
                self.destinations.remove(&destination);
                made.remove(&destination);
                wanted.insert(destination, None);
            } else if let Some((reason, _)) = known.reasons.first_key_value() {
                made.remove(&destination);
                wanted.insert(destination, Some(Destination::lacking(reason)));
            }
        }
        wanted.extend(made.into_iter().map(|(id, destination)| (id, Some(destination))));
        for (id, destination) in wanted {
            let before = plan.destinations.get(&id);
            if before != destination.as_ref() {
                let count = |one: Option<&Destination>| one.map_or(0, |one| one.endpoints.len());
                let (before, after) = (count(before) as u64, count(destination.as_ref()) as u64);
                if let Some(owner) = id.owner(root) {
                    self.count_endpoints(&owner.namespace, before, after);
                }
                set(&mut plan.destinations, &mut delta.destinations, id, destination);
            }
        }
    }

    /// How many routes and destinations are known.
    pub fn count(&self) -> (usize, usize) {
        (self.routes.len(), self.destinations.len())
    }
}

/// Puts a value in a part of the Plan, or takes it out, and says so.
pub(super) fn set<K: Ord + Clone, V: Clone>(
    map: &mut BTreeMap<K, V>,
    changes: &mut BTreeMap<K, Option<V>>,
    key: K,
    value: Option<V>,
) {
    match &value {
        Some(value) => _ = map.insert(key.clone(), value.clone()),
        None => _ = map.remove(&key),
    }
    changes.insert(key, value);
}
