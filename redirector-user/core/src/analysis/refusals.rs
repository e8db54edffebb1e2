//! What a [`Plan`] says of refused shares: which, and for whom.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::model::{ObjectRef, RuleId};
use crate::plan::{ClassId, Destination, DestinationId, Lacks, Leg, Plan, RouteId};

/// A share of a rule that is refused, to all who meet the rule or to some.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The rule.
    pub rule: RuleId,
    /// The place of the share in the rule's `route`.
    pub destination: usize,
    /// What the destination lacks; `None` in a Plan of an older version.
    pub lacks: Option<Lacks>,
    /// The destination, as one of the clients sees it.
    pub id: DestinationId,
    /// Why, in words.
    pub because: String,
    /// Those to whom it is refused at some address.
    pub clients: Classes,
    /// Those who meet the rule at some address.
    pub met: Classes,
    /// The Gateways by way of which it is refused to whoever comes.
    pub gateways: BTreeSet<ObjectRef>,
}

/// A set of source classes, or all but these.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Classes {
    all_but: bool,
    these: BTreeSet<ClassId>,
}

impl Classes {
    /// Whether a class is one of them.
    pub fn contains(&self, class: ClassId) -> bool {
        self.these.contains(&class) != self.all_but
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        !self.all_but && self.these.is_empty()
    }

    fn add(&mut self, class: ClassId) {
        if self.all_but {
            self.these.remove(&class);
        } else {
            self.these.insert(class);
        }
    }

    fn add_all_but<'c>(
        &mut self,
        others: impl Fn(ClassId) -> bool,
        list: impl Iterator<Item = &'c ClassId>,
    ) {
        if self.all_but {
            self.these.retain(|class| others(*class));
        } else {
            let these = std::mem::take(&mut self.these);
            self.these = list.filter(|class| !these.contains(class)).copied().collect();
            self.all_but = true;
        }
    }
}

/// The shares that a Plan refuses, by rule and destination; to classes other than these.
pub fn refusals(plan: &Plan, others: &BTreeSet<ClassId>) -> Vec<Refusal> {
    let refused = refused_by_route(plan);
    if refused.is_empty() {
        return Vec::new();
    }
    let mut met: BTreeMap<&RuleId, Classes> = refused
        .keys()
        .filter_map(|route| Some((route.rule.as_ref()?, Classes::default())))
        .collect();
    let mut found: BTreeMap<(RuleId, usize, Option<Lacks>), Refusal> = BTreeMap::new();
    for (route, shares) in &refused {
        let Some(rule) = &route.rule else { continue };
        for Empty { destination, id, lacks, because, .. } in shares {
            found.entry((rule.clone(), *destination, *lacks)).or_insert_with(|| Refusal {
                rule: rule.clone(),
                destination: *destination,
                lacks: *lacks,
                id: DestinationId::clone(id),
                because: (*because).to_owned(),
                clients: Classes::default(),
                met: Classes::default(),
                gateways: BTreeSet::new(),
            });
        }
    }
    for frontend in plan.frontends.values() {
        let exceptions = &frontend.exceptions;
        for (class, route) in frontend.routes() {
            let Some(rule) = &route.rule else { continue };
            if class.is_some_and(|class| others.contains(&class)) {
                continue;
            }
            let Some(met) = met.get_mut(rule) else { continue };
            let add = |classes: &mut Classes| match class {
                Some(class) => classes.add(class),
                None => {
                    classes.add_all_but(|class| exceptions.contains_key(&class), exceptions.keys());
                }
            };
            add(met);
            for share in refused.get(route).into_iter().flatten() {
                let key = (rule.clone(), share.destination, share.lacks);
                if let Some(refusal) = found.get_mut(&key) {
                    add(&mut refusal.clients);
                }
            }
        }
    }
    for listener in plan.gateways.listeners.values() {
        for rule in &listener.rules {
            let Some(route) = &rule.route else { continue };
            let shares = refused.get(route).into_iter().flatten();
            for share in shares.filter(|share| !share.gateways_can) {
                let key = (rule.rule.clone(), share.destination, share.lacks);
                if let Some(refusal) = found.get_mut(&key) {
                    refusal.gateways.insert(listener.gateway.clone());
                }
            }
        }
    }
    let mut found: Vec<Refusal> = found
        .into_values()
        .filter(|refusal| !refusal.clients.is_empty() || !refusal.gateways.is_empty())
        .collect();
    for refusal in &mut found {
        refusal.met = met.get(&refusal.rule).cloned().unwrap_or_default();
    }
    found
}

/// A share without endpoints.
struct Empty<'p> {
    destination: usize,
    id: &'p DestinationId,
    lacks: Option<Lacks>,
    because: &'p str,
    /// Connections at gateways have endpoints.
    gateways_can: bool,
}

fn refused_by_route(plan: &Plan) -> HashMap<&Arc<RouteId>, Vec<Empty<'_>>> {
    let mut refused = HashMap::new();
    for (route, legs) in plan.routes.iter().filter(|(route, _)| route.rule.is_some()) {
        let empty = |share: &Share<'_>| share.weight > 0 && share.destination.endpoints.is_empty();
        let shares: Vec<Empty<'_>> = shares(plan, route, legs)
            .filter(empty)
            .map(|Share { place, id, destination, .. }| Empty {
                destination: place,
                id,
                lacks: destination.lacks,
                because: destination.empty_because.as_deref().unwrap_or("it has no endpoint"),
                gateways_can: !destination.at_gateways.is_empty(),
            })
            .collect();
        if !shares.is_empty() {
            refused.insert(route, shares);
        }
    }
    refused
}

/// A leg of a route, or the part that was cut off from one.
#[derive(Clone, Copy, Debug)]
pub struct Share<'p> {
    /// The place in the rule's `route`.
    pub place: usize,
    /// Which destination.
    pub id: &'p DestinationId,
    /// That destination.
    pub destination: &'p Destination,
    /// The leg's.
    pub weight: u64,
}

/// The shares of a route.
pub fn shares<'p>(
    plan: &'p Plan,
    route: &'p RouteId,
    legs: &'p [Leg],
) -> impl Iterator<Item = Share<'p>> {
    let mut next = 0;
    route.destinations.iter().zip(legs).filter_map(move |(id, leg)| {
        let destination = plan.destinations.get(id)?;
        let sockets = destination.lacks == Some(Lacks::Sockets);
        // A part that was cut off stands behind the share that it is of.
        let place = if sockets { next.max(1) - 1 } else { next };
        next = place + 1;
        Some(Share { place, id, destination, weight: leg.weight })
    })
}

/// Whether a share of a rule arrives, for somebody at some address.
pub(super) fn arrives(plan: &Plan, rule: &RuleId, destination: usize) -> bool {
    let first = RouteId { rule: Some(rule.clone()), destinations: Vec::new() };
    let routes = plan.routes.range(Arc::new(first)..);
    let mut routes = routes.take_while(|(route, _)| route.rule.as_ref() == Some(rule));
    routes.any(|(route, legs)| {
        shares(plan, route, legs)
            .any(|share| share.place == destination && !share.destination.endpoints.is_empty())
    })
}
