//! What the destinations of a rule mean to a client: which service, which port,
//! which DestinationRule, which endpoints.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use redirector_common::abi::MAX_LEGS;
use rustc_hash::{FxHashMap, FxHashSet};

use super::backed::{Backed, list};
use super::localities::{Home, common_multiple};
use super::met::{Met, Way};
use super::readers::{Reason, Trace, first_of};
use crate::client::Asker;
use crate::model::{RouteDestination, RuleId};
use crate::plan::{
    Algorithm, Destination, DestinationId, Lacks, Leg, Lost, RouteId, Verdict, view,
};
use crate::registry::{MergedRule, Port, Protocol, Registry, Service};
use crate::rules::{Arrival, ClaimKind, Named, Rule, RuleSet, named};

/// The routes and destinations met so far.
#[derive(Debug)]
pub(crate) struct Destinations<'q> {
    registry: &'q Registry,
    home: Home,
    met: Met,
    /// What was made in this step.
    made: FxHashMap<DestinationId, Destination>,
    /// What was made before it.
    before: Option<Before<'q>>,
    /// How many endpoints more those of a namespace have by it, that may still be left.
    more: FxHashMap<Arc<str>, i64>,
    log: Log,
}

/// What was made before this step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before<'q> {
    pub destinations: &'q BTreeMap<DestinationId, Destination>,
    /// Hosts whose destinations are to be made again.
    pub stale: &'q FxHashSet<Arc<str>>,
}

/// What was met since it was last taken.
#[derive(Debug, Default)]
struct Log {
    routes: Vec<Arc<RouteId>>,
    beside: FxHashSet<DestinationId>,
    lacking: FxHashSet<(DestinationId, Reason)>,
    peeked: RefCell<FxHashMap<DestinationId, bool>>,
}

/// What a destination means to the routes that it is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Shape {
    empty: bool,
    /// For connections at gateways.
    empty_there: bool,
    goes_on: bool,
    untouched: bool,
    lost: Lost,
}

/// What a destination loses; of nothing, nothing.
fn lost(destination: &Destination) -> Lost {
    Some(destination.lost).filter(|lost| lost.weight > 0).unwrap_or_default()
}

impl Shape {
    fn of(destination: &Destination) -> Self {
        let original = destination.algorithm == Algorithm::Original;
        let endpoints = &destination.endpoints;
        let goes_on = original && !endpoints.is_empty();
        Self {
            empty: endpoints.is_empty(),
            empty_there: destination.endpoints_at(true).is_empty(),
            goes_on,
            untouched: goes_on && endpoints.iter().all(|endpoint| endpoint.address.port() == 0),
            lost: lost(destination),
        }
    }
}

/// Which endpoints may be used, by address family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    /// Those of the frontend's family: the kernel cannot cross.
    Only {
        /// IPv6.
        v6: bool,
    },
    /// Those of this family, or the other's when it has none: a proxy can
    /// cross.
    Preferred {
        /// IPv6.
        v6: bool,
    },
}

/// What is known of a destination before its endpoints.
struct Resolved<'q> {
    id: DestinationId,
    found: Result<Backed<'q>, Reason>,
}

impl<'q> Destinations<'q> {
    /// Nothing met yet.
    pub fn new(registry: &'q Registry) -> Self {
        Self::resume(registry, Met::default(), None)
    }

    /// The next step.
    pub(super) fn resume(registry: &'q Registry, mut met: Met, before: Option<Before<'q>>) -> Self {
        met.begin_step();
        Self {
            registry,
            home: Home::new(registry.locality(), registry.settings.node_name.as_deref()),
            met,
            made: FxHashMap::default(),
            before,
            more: FxHashMap::default(),
            log: Log::default(),
        }
    }

    /// What is met, and the destinations that were made in this step.
    pub(super) fn finish(self) -> (Met, FxHashMap<DestinationId, Destination>) {
        (self.met, self.made)
    }

    /// What is met.
    pub(super) fn met(&mut self) -> &mut Met {
        &mut self.met
    }

    /// What was met since this was last asked.
    pub(super) fn trace(&mut self) -> Trace {
        let Log { mut routes, beside, lacking, peeked } = std::mem::take(&mut self.log);
        routes.sort_unstable_by_key(Arc::as_ptr);
        routes.dedup_by(|a, b| Arc::ptr_eq(a, b));
        Trace {
            routes: routes.into(),
            beside: beside.into_iter().collect(),
            lacking: lacking.into_iter().collect(),
            peeked: peeked.into_inner().into_iter().collect(),
            ..Trace::default()
        }
    }

    /// The legs of a route that was met.
    pub fn legs(&self, route: &RouteId) -> &[Leg] {
        self.met.legs(route)
    }

    /// A destination that was met.
    pub fn destination(&self, id: &DestinationId) -> Option<&Destination> {
        self.made.get(id).or_else(|| {
            let before = self.before.filter(|before| !before.stale.contains(&id.host))?;
            before.destinations.get(id)
        })
    }

    /// Makes the destinations of a host again, of whose services only endpoints
    /// differ. Returns whether what is made from them may be another.
    pub(super) fn remake(&mut self, host: &Arc<str>) -> bool {
        let Some(before) = self.before else { return false };
        let those = before.destinations.range(first_of(host)..);
        let mut other = false;
        for (id, old) in those.take_while(|(id, _)| id.host == *host) {
            if self.met.lacks(id) {
                // Whatever its service has.
                self.made.insert(id.clone(), old.clone());
                continue;
            }
            let Some(found) = self.again(id) else {
                other = true;
                continue;
            };
            let new = self.make_within(id, &found);
            other |= Shape::of(&new) != Shape::of(old);
            self.made.insert(id.clone(), new);
        }
        other
    }

    /// Whether a destination has endpoints.
    pub(super) fn has_endpoints(&self, id: &DestinationId) -> bool {
        self.again(id).is_some_and(|found| !self.make(id, &found).endpoints.is_empty())
    }

    fn make(&self, id: &DestinationId, found: &Backed<'q>) -> Destination {
        found.destination(id, &self.registry.settings, &self.home)
    }

    /// Makes a destination, unless those of its namespace have twice as many endpoints as
    /// they may: so many can be left in this step, and it takes memory to find out.
    fn make_within(&mut self, id: &DestinationId, found: &Backed<'q>) -> Destination {
        let settings = &self.registry.settings;
        let Some(owner) = id.owner(&settings.root_namespace) else { return self.make(id, found) };
        let namespace = &owner.namespace;
        let may_have = settings.budgets.namespace.endpoints.saturating_mul(2);
        let more = self.more.get(namespace).copied().unwrap_or_default();
        let has = self.met.endpoints_of(namespace).saturating_add_signed(more);
        if has <= may_have {
            let made = self.make(id, found);
            let before = self.before.and_then(|before| before.destinations.get(id));
            let count = |one: &Destination| i64::try_from(one.endpoints.len()).unwrap_or(i64::MAX);
            let more = more + count(&made) - before.map_or(0, count);
            self.more.insert(namespace.clone(), more);
            // Whether the next one is made would depend on which comes first.
            if self.met.endpoints_of(namespace).saturating_add_signed(more) > may_have {
                self.met.cut();
            }
            return made;
        }
        self.met.cut();
        Destination::lacking(&(
            Lacks::Limit,
            // How many they are by now depends on what was made before: it is not said.
            format!(
                "the destinations of namespace {namespace} have more than twice the endpoints that \
                 they may have, {}",
                settings.budgets.namespace.endpoints
            ),
        ))
    }

    /// What was found for a destination.
    fn again(&self, id: &DestinationId) -> Option<Backed<'q>> {
        let (object, rules) = id.view.split_first()?;
        let service =
            self.registry.named(&id.host).iter().find(|service| service.object == *object)?;
        let rule = match rules {
            [] => None,
            rules => {
                Some(self.registry.rules.for_host(&id.host).find(|rule| rule.objects == rules)?)
            }
        };
        Some(Backed { service, port: service.port(id.port)?, rule })
    }

    /// Weighs the route of a rule again, of which only weights differ, and which of
    /// them are zero does not.
    pub(super) fn reweigh(&mut self, set: &RuleSet, rule: &Rule, route: &Arc<RouteId>) {
        // Behind what loses a part stands where that goes.
        let beside = |place: usize| {
            let before = place.checked_sub(1).and_then(|before| route.destinations.get(before));
            before.is_some_and(|before| route.destinations.get(place) == Some(&nowhere(before)))
        };
        let own = route.destinations.iter().enumerate().filter(|(place, _)| !beside(*place));
        let weights = set.weighted(rule).map(|(_, weight)| weight);
        let parts = own.map(|(_, id)| id.clone()).zip(weights).collect();
        let legs = self.without_lost(parts).into_iter().map(|(_, weight)| Leg { weight });
        let legs = legs.collect();
        self.met.reweigh(route, legs);
    }

    /// The verdict of a rule: its route, met from now on, or "pass" where all
    /// that can be drawn is the original destination.
    pub fn rule(
        &mut self,
        who: &Asker<'_, 'q>,
        set: &RuleSet,
        rule: &Rule,
        port: u16,
        family: Family,
    ) -> (Arc<RouteId>, Verdict) {
        let mut parts = Vec::with_capacity(set.route(rule).len());
        for (entry, weight) in set.weighted(rule) {
            parts.push((self.entry(who, set.namespace(), entry, port, family), weight));
        }
        self.route(Some(rule.id.clone()), parts)
    }

    /// The verdict where no rule matches and we serve the address: the service
    /// itself.
    pub fn service(
        &mut self,
        who: &Asker<'_, 'q>,
        service: &'q Service,
        port: &'q Port,
        v6: bool,
    ) -> (Arc<RouteId>, Verdict) {
        let rule = self.registry.rules.find(who, service);
        let meant = Resolved {
            id: id(service, None, port.number, v6, rule),
            found: Ok(Backed { service, port, rule }),
        };
        let id = self.meet(meant);
        self.route(None, vec![(id, 1)])
    }

    /// What becomes of a connection that ends up there; `None`: it is left as it
    /// is, because nothing here concerns it.
    pub fn arrival(
        &mut self,
        who: &Asker<'_, 'q>,
        arrival: &Arrival<'q>,
        port: u16,
        v6: bool,
    ) -> Option<(Arc<RouteId>, Verdict)> {
        match arrival {
            Arrival::Unclaimed | Arrival::Elsewhere(..) => None,
            Arrival::Service(_, claim) => Some(self.service(who, claim.service, claim.port, v6)),
            // Who claims every address would take what it has nowhere to send.
            Arrival::Rule(_, claim, set, rule)
                if claim.kind == ClaimKind::Anywhere
                    && self.is_for_other_family(who, set, rule, port, v6) =>
            {
                None
            }
            Arrival::Rule(_, _, set, rule) => {
                Some(self.rule(who, set, rule, port, Family::Only { v6 }))
            }
        }
    }

    /// Whether the destinations of a rule have endpoints, and none of this family.
    fn is_for_other_family(
        &self,
        who: &Asker<'_, 'q>,
        set: &RuleSet,
        rule: &Rule,
        port: u16,
        v6: bool,
    ) -> bool {
        let any = |v6| {
            let mut drawn = set.weighted(rule).filter(|(_, weight)| *weight > 0);
            drawn.any(|(entry, _)| {
                let Resolved { id, found } = self.resolve(who, set.namespace(), entry, port, v6);
                found.is_ok_and(|found| {
                    let has = !self.make(&id, &found).endpoints.is_empty();
                    self.log.peeked.borrow_mut().insert(id, has);
                    has
                })
            })
        };
        !any(v6) && any(!v6)
    }

    fn route(
        &mut self,
        rule: Option<RuleId>,
        parts: Vec<(DestinationId, u64)>,
    ) -> (Arc<RouteId>, Verdict) {
        let parts = self.without_lost(parts);
        let legs: Vec<Leg> = parts.iter().map(|(_, weight)| Leg { weight: *weight }).collect();
        let destinations = parts.into_iter().map(|(id, _)| id).collect();
        let route = RouteId { rule, destinations };
        if let Some(known) = self.met.route(&route) {
            self.log.routes.push(known.0.clone());
            return known;
        }
        let mut drawn = (route.destinations.iter().zip(&legs))
            .filter(|(_, leg)| leg.weight > 0)
            .map(|(id, _)| id)
            .peekable();
        let nothing = drawn.peek().is_none();
        let untouched =
            drawn.all(|id| self.destination(id).is_some_and(|one| Shape::of(one).untouched));
        let way = match (nothing, untouched) {
            (true, _) => Way::Refuse,
            (false, true) => Way::Pass,
            (false, false) => Way::Route,
        };
        let met = self.met.put(route, legs, way);
        self.log.routes.push(met.0.clone());
        met
    }

    /// Beside each destination that loses a part of its connections, a leg
    /// with this part that leads nowhere.
    fn without_lost(&mut self, parts: Vec<(DestinationId, u64)>) -> Vec<(DestinationId, u64)> {
        let lost =
            |(id, _): &(DestinationId, u64)| self.destination(id).map(lost).unwrap_or_default();
        let losing = parts.iter().filter(|part| lost(part).weight > 0).count();
        if losing == 0 || parts.len() + losing > MAX_LEGS as usize {
            return parts;
        }
        let lost: Vec<Lost> = parts.iter().map(lost).collect();
        let scale = common_multiple(lost.iter().map(|lost| u128::from(lost.of)));
        let cut = |weight: u128| u64::try_from(weight).unwrap_or(u64::MAX);
        let mut all = Vec::with_capacity(parts.len() + 1);
        for ((id, weight), lost) in parts.into_iter().zip(lost) {
            let whole = u128::from(weight) * scale;
            let gone = match lost.of {
                0 => 0,
                of => whole * u128::from(lost.weight) / u128::from(of),
            };
            let sockets =
                || (Lacks::Sockets, format!("{} has endpoints that are unix sockets", id.host));
            let nowhere = (lost.weight > 0).then(|| self.nowhere(&id, sockets()));
            all.push((id, cut(whole - gone)));
            all.extend(nowhere.map(|nowhere| (nowhere, cut(gone))));
        }
        all
    }

    /// Where connections go that are a destination's, and cannot go there.
    fn nowhere(&mut self, id: &DestinationId, reason: Reason) -> DestinationId {
        let nowhere = nowhere(id);
        self.lacks(nowhere.clone(), reason);
        nowhere
    }

    /// A destination without endpoints, whatever its service has.
    fn lacks(&mut self, id: DestinationId, reason: Reason) {
        let known = self.made.get(&id).is_some_and(|known| {
            (known.lacks, known.empty_because.as_ref()) <= (Some(reason.0), Some(&reason.1))
        });
        if !known {
            self.made.insert(id.clone(), Destination::lacking(&reason));
        }
        self.log.lacking.insert((id, reason));
    }

    fn entry(
        &mut self,
        who: &Asker<'_, 'q>,
        namespace: &str,
        entry: &RouteDestination,
        dialled: u16,
        family: Family,
    ) -> DestinationId {
        let (v6, relayed) = match family {
            Family::Only { v6 } => (v6, false),
            Family::Preferred { v6 } => (v6, true),
        };
        let meant = self.resolve(who, namespace, entry, dialled, v6);
        let id = self.meet(meant);
        let empty = |this: &Self, id: &DestinationId| {
            this.destination(id).is_none_or(|destination| destination.endpoints_at(true).is_empty())
        };
        if relayed && empty(self, &id) {
            let other = self.resolve(who, namespace, entry, dialled, !v6);
            let crossed = self.meet(other);
            if !empty(self, &crossed) {
                self.log.beside.insert(id);
                return crossed;
            }
            self.log.beside.insert(crossed);
        }
        if relayed && self.destination(&id).is_some_and(|one| Shape::of(one).goes_on) {
            let why = format!("{} is the address dialled, which is the gateway itself", id.host);
            let nowhere = self.nowhere(&id, (Lacks::Way, why));
            self.log.beside.insert(id);
            return nowhere;
        }
        id
    }

    fn resolve(
        &self,
        who: &Asker<'_, 'q>,
        namespace: &str,
        entry: &RouteDestination,
        dialled: u16,
        v6: bool,
    ) -> Resolved<'q> {
        let Named { host, service, port } = named(self.registry, who, namespace, entry, dialled);
        let subset = entry.subset.as_deref().filter(|subset| !subset.is_empty());
        let service = match service {
            Ok(service) => service,
            Err(why) => {
                let subset = subset.map(Arc::from);
                let id = DestinationId { host, subset, port, v6, view: Arc::default() };
                return Resolved { id, found: Err(why) };
            }
        };
        let rule = self.registry.rules.find(who, service);
        let id = id(service, subset, port, v6, rule);
        let found = match (service.port(port), subset) {
            (None, _) => Err((Lacks::Port, no_port(service, port, entry.port.is_some()))),
            (Some(port), Some(subset)) => match rule {
                Some(rule) if rule.subset(subset).is_some() => {
                    Ok(Backed { service, port, rule: Some(rule) })
                }
                Some(rule) => {
                    let rules = list(&rule.objects);
                    let why =
                        format!("subset {subset} of {} is not defined in {rules}", service.host);
                    Err((Lacks::Subset, why))
                }
                None => {
                    let why = "no DestinationRule is in force for it here";
                    let why = format!("subset {subset} of {} is not defined: {why}", service.host);
                    Err((Lacks::Subset, why))
                }
            },
            (Some(port), None) => Ok(Backed { service, port, rule }),
        };
        Resolved { id, found }
    }

    fn meet(&mut self, meant: Resolved<'q>) -> DestinationId {
        let Resolved { id, found } = meant;
        match found {
            Err(reason) => self.lacks(id.clone(), reason),
            Ok(found) if self.destination(&id).is_none() => {
                let destination = self.make_within(&id, &found);
                self.made.insert(id.clone(), destination);
            }
            Ok(_) => {}
        }
        id
    }
}

/// Where connections go that are a destination's, and cannot go there.
fn nowhere(id: &DestinationId) -> DestinationId {
    let mut nowhere = id.clone();
    // The service twice: no other destination is seen like that.
    nowhere.view = view(id.view.iter().chain(id.view.first()));
    nowhere
}

/// The destination that a service is for a rule, a subset and a family.
pub(crate) fn id(
    service: &Service,
    subset: Option<&str>,
    port: u16,
    v6: bool,
    rule: Option<&MergedRule>,
) -> DestinationId {
    let rules = rule.map_or(&[][..], |rule| &rule.objects);
    DestinationId {
        host: service.host.clone(),
        subset: subset.map(Arc::from),
        port,
        v6,
        view: view(std::iter::once(&service.object).chain(rules)),
    }
}

fn no_port(service: &Service, port: u16, said: bool) -> String {
    let named = |port: &Port| match port.protocol {
        Protocol::Other => format!("{} (not TCP)", port.number),
        _ => port.number.to_string(),
    };
    let has = match service.ports.as_slice() {
        [] => "none".to_owned(),
        ports => ports.iter().map(named).collect::<Vec<_>>().join(", "),
    };
    let whose = if said { "as the rule asks for" } else { "as was dialled" };
    format!("{} has no TCP port {port}, {whose}; it has {has}", service.host)
}
