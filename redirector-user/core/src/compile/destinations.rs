//! What the destinations of a rule mean to a client: which service, which port,
//! which DestinationRule, which endpoints.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use redirector_common::abi::MAX_LEGS;
use rustc_hash::FxHashMap;

use super::localities::{Home, common_multiple, weigh};
use crate::client::{Asker, contains};
use crate::model::{Labels, LbAlgorithm, ObjectRef, Policy, Resolution, RouteDestination, RuleId};
use crate::plan::{
    Algorithm, Destination, DestinationId, Endpoint, Lacks, Leg, Lost, RouteId, Verdict,
};
use crate::registry::{self, MergedRule, Port, Registry, Service, ServiceKind};
use crate::rules::{Arrival, ClaimKind, Named, Rule, RuleSet, named};

/// The routes and destinations met so far.
#[derive(Debug)]
pub(crate) struct Destinations<'q> {
    registry: &'q Registry,
    home: Home,
    routes: FxHashMap<Arc<RouteId>, KnownRoute>,
    destinations: FxHashMap<DestinationId, Destination>,
}

/// A route that was met.
#[derive(Debug)]
struct KnownRoute {
    legs: Vec<Leg>,
    verdict: Verdict,
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
    found: Result<Backed<'q>, (Lacks, String)>,
}

struct Backed<'q> {
    service: &'q Service,
    port: &'q Port,
    rule: Option<&'q MergedRule>,
}

impl<'q> Destinations<'q> {
    /// Nothing met yet.
    pub fn new(registry: &'q Registry) -> Self {
        Self {
            registry,
            home: Home::new(registry.locality(), registry.settings.node_name.as_deref()),
            routes: FxHashMap::default(),
            destinations: FxHashMap::default(),
        }
    }

    /// The routes and destinations met.
    pub fn finish(
        self,
    ) -> (BTreeMap<Arc<RouteId>, Vec<Leg>>, BTreeMap<DestinationId, Destination>) {
        let taken =
            self.routes.into_iter().filter(|(_, met)| matches!(met.verdict, Verdict::Route(_)));
        let routes = taken.map(|(route, met)| (route, met.legs)).collect();
        (routes, self.destinations.into_iter().collect())
    }

    /// The legs of a route that was met.
    pub fn legs(&self, route: &RouteId) -> &[Leg] {
        self.routes.get(route).map_or(&[], |met| &met.legs)
    }

    /// The rules that were met.
    pub fn rules(&self) -> impl Iterator<Item = &RuleId> {
        self.routes.keys().filter_map(|route| route.rule.as_ref())
    }

    /// A destination that was met.
    pub fn destination(&self, id: &DestinationId) -> Option<&Destination> {
        self.destinations.get(id)
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
        let entries = set.route(rule);
        let sole = entries.len() == 1;
        let mut parts = Vec::with_capacity(entries.len());
        for entry in entries {
            let weight = if sole { 1 } else { u64::from(entry.weight) };
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
            let entries = set.route(rule);
            let mut drawn = entries.iter().filter(|one| entries.len() == 1 || one.weight > 0);
            drawn.any(|entry| {
                let Resolved { id, found } = self.resolve(who, set.namespace(), entry, port, v6);
                found.is_ok_and(|found| !self.endpoints(&id, &found).endpoints.is_empty())
            })
        };
        !any(v6) && any(!v6)
    }

    fn route(
        &mut self,
        rule: Option<RuleId>,
        parts: Vec<(DestinationId, u64)>,
    ) -> (Arc<RouteId>, Verdict) {
        let (destinations, legs): (_, Vec<Leg>) =
            (self.without_lost(parts).into_iter()).map(|(id, weight)| (id, Leg { weight })).unzip();
        let route = RouteId { rule, destinations };
        if let Some((known, met)) = self.routes.get_key_value(&route) {
            return (known.clone(), met.verdict.clone());
        }
        let drawn: Vec<&DestinationId> = (route.destinations.iter().zip(&legs))
            .filter(|(_, leg)| leg.weight > 0)
            .map(|(id, _)| id)
            .collect();
        let untouched = drawn.iter().all(|id| {
            self.destinations.get(*id).is_some_and(|destination| {
                destination.algorithm == Algorithm::Original
                    && !destination.endpoints.is_empty()
                    && destination.endpoints.iter().all(|endpoint| endpoint.address.port() == 0)
            })
        });
        let nothing = drawn.is_empty();
        let route = Arc::new(route);
        let verdict = match (nothing, untouched) {
            (true, _) => Verdict::Refuse,
            (false, true) => Verdict::Pass,
            (false, false) => Verdict::Route(route.clone()),
        };
        self.routes.insert(route.clone(), KnownRoute { legs, verdict: verdict.clone() });
        (route, verdict)
    }

    /// Beside each destination that loses a part of its connections, a leg
    /// with this part that leads nowhere.
    fn without_lost(&mut self, parts: Vec<(DestinationId, u64)>) -> Vec<(DestinationId, u64)> {
        let lost = |(id, _): &(DestinationId, u64)| {
            self.destination(id).map(|one| one.lost).unwrap_or_default()
        };
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
    fn nowhere(&mut self, id: &DestinationId, (lacks, why): (Lacks, String)) -> DestinationId {
        let mut nowhere = id.clone();
        // The service twice: no other destination is seen like that.
        nowhere.view.extend(id.view.first().cloned());
        self.destinations.entry(nowhere.clone()).or_insert_with(|| Destination {
            empty_because: Some(why),
            lacks: Some(lacks),
            ..Destination::default()
        });
        nowhere
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
            this.destination(id).is_none_or(|destination| destination.endpoints.is_empty())
        };
        if relayed && empty(self, &id) {
            let other = self.resolve(who, namespace, entry, dialled, !v6);
            let crossed = self.meet(other);
            if !empty(self, &crossed) {
                return crossed;
            }
        }
        let goes_on =
            |one: &Destination| one.algorithm == Algorithm::Original && !one.endpoints.is_empty();
        if relayed && self.destination(&id).is_some_and(goes_on) {
            let why = format!("{} is the address dialled, which is the gateway itself", id.host);
            return self.nowhere(&id, (Lacks::Way, why));
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
                let id = DestinationId { host, subset, port, v6, view: Vec::new() };
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
        if !self.destinations.contains_key(&id) {
            let destination = match found {
                Err((lacks, why)) => Destination {
                    empty_because: Some(why),
                    lacks: Some(lacks),
                    ..Destination::default()
                },
                Ok(found) => self.endpoints(&id, &found),
            };
            self.destinations.insert(id.clone(), destination);
        }
        id
    }

    fn endpoints(&self, id: &DestinationId, found: &Backed<'q>) -> Destination {
        let Backed { service, port, rule } = found;
        let policy = rule
            .map_or_else(Policy::default, |rule| rule.policy(id.subset.as_deref(), port.number));
        let (algorithm, original) = algorithm(service, &policy);
        let unresolved = port.unresolved.clone();
        let mut destination =
            Destination { algorithm, policy, unresolved, ..Destination::default() };
        if let Some(what) = destination.policy.changes_bytes() {
            destination.lacks = Some(Lacks::Bytes);
            destination.empty_because = Some(format!(
                "{} asks for {what}, which would change bytes on the wire",
                rule.map(|rule| list(&rule.objects)).unwrap_or_default()
            ));
            return destination;
        }
        if original {
            let any: IpAddr =
                if id.v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            let address = SocketAddr::new(any, port.target.unwrap_or(0));
            destination.endpoints.push(Endpoint { address, weight: 1 });
            return destination;
        }
        let wanted = id.subset.as_deref().and_then(|subset| rule.as_ref()?.subset(subset));
        let wanted = wanted.map(|subset| &subset.labels).filter(|labels| !labels.is_empty());
        let node = self.registry.settings.node_name.as_deref();
        let usable: Vec<&registry::Endpoint> = port
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.ip.is_ipv6() == id.v6)
            .filter(|endpoint| !service.local_only || endpoint.node.as_deref() == node)
            .filter(|endpoint| is_labelled(endpoint, wanted))
            .collect();
        if usable.is_empty() {
            let (lacks, why) = self.why_empty(id, found, wanted);
            (destination.lacks, destination.empty_because) = (Some(lacks), Some(why));
            return destination;
        }
        let weights = weigh(&usable, &destination.policy, service.distribution, &self.home);
        destination.endpoints = (usable.iter().zip(weights))
            .filter_map(|(endpoint, weight)| {
                let address = SocketAddr::new(endpoint.ip, endpoint.port);
                Some(Endpoint { address, weight: weight? })
            })
            .collect();
        if destination.endpoints.is_empty() {
            destination.lacks = Some(Lacks::Locality);
            destination.empty_because = Some(format!(
                "{} has no endpoint in the localities that its DestinationRule distributes to",
                service.host
            ));
            return destination;
        }
        let lost: u64 = (port.sockets.iter())
            .filter(|socket| wanted.is_none_or(|wanted| contains(&socket.labels, wanted)))
            .map(|socket| u64::from(socket.weight))
            .sum();
        let usable: u64 = usable.iter().map(|endpoint| u64::from(endpoint.weight)).sum();
        destination.lost = Lost { weight: lost, of: usable + lost };
        destination
    }

    fn why_empty(
        &self,
        id: &DestinationId,
        found: &Backed<'q>,
        wanted: Option<&Labels>,
    ) -> (Lacks, String) {
        let Backed { service, port, rule } = found;
        let host = &service.host;
        let family = if id.v6 { "IPv6" } else { "IPv4" };
        if !port.unresolved.is_empty() {
            let names = port.unresolved.join(", ");
            return (Lacks::Resolution, format!("decided when its names are resolved: {names}"));
        }
        if port.endpoints.is_empty() {
            return match port.unusable {
                0 => (Lacks::Endpoints, format!("{host} has no endpoint on port {}", port.number)),
                count => (
                    Lacks::Usable,
                    format!(
                        "{host} has no endpoint on port {} that is ready and reachable, of {count}",
                        port.number
                    ),
                ),
            };
        }
        if !port.endpoints.iter().any(|endpoint| endpoint.ip.is_ipv6() == id.v6) {
            return (
                Lacks::Family,
                format!("{host} has no {family} endpoint, and the address dialled is {family}"),
            );
        }
        if service.local_only && wanted.is_none() {
            let why = match self.registry.settings.node_name.as_deref() {
                Some(node) => format!(
                    "{host} has no endpoint on node {node}, and its internalTrafficPolicy is Local"
                ),
                None => format!(
                    "{host} has internalTrafficPolicy Local, and the node's name is not known"
                ),
            };
            return (Lacks::Node, why);
        }
        let rule = rule.map(|rule| list(&rule.objects)).unwrap_or_default();
        let subset = id.subset.as_deref().unwrap_or_default();
        let elsewhere = port.endpoints.iter().any(|endpoint| is_labelled(endpoint, wanted));
        (
            if elsewhere { Lacks::Family } else { Lacks::Labels },
            format!("no {family} endpoint of {host} has the labels of subset {subset} ({rule})"),
        )
    }
}

/// Whether a subset with these labels has the endpoint.
fn is_labelled(endpoint: &registry::Endpoint, wanted: Option<&Labels>) -> bool {
    wanted.is_none_or(|wanted| {
        endpoint.labels.as_ref().is_some_and(|labels| contains(labels, wanted))
    })
}

fn id(
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
        view: std::iter::once(&service.object).chain(rules).cloned().collect(),
    }
}

/// How an endpoint is chosen, and whether it is the original destination.
fn algorithm(service: &Service, policy: &Policy) -> (Algorithm, bool) {
    if service.kind == ServiceKind::Entry(Resolution::None) {
        return (Algorithm::Original, true);
    }
    match policy.algorithm() {
        Some(LbAlgorithm::Passthrough) => (Algorithm::Original, true),
        Some(LbAlgorithm::RoundRobin) => (Algorithm::RoundRobin, false),
        Some(LbAlgorithm::LeastRequest) => (Algorithm::LeastRequest, false),
        Some(LbAlgorithm::SourceIp { .. }) => (Algorithm::SourceHash, false),
        Some(LbAlgorithm::Random | LbAlgorithm::Unspecified | LbAlgorithm::L7Hash(_)) | None => {
            (Algorithm::Random, false)
        }
    }
}

fn list(objects: &[ObjectRef]) -> String {
    objects.iter().map(ObjectRef::to_string).collect::<Vec<_>>().join(", ")
}

fn no_port(service: &Service, port: u16, said: bool) -> String {
    let numbers: Vec<String> = service.ports.iter().map(|port| port.number.to_string()).collect();
    let whose = if said { "as the rule asks for" } else { "as was dialled" };
    format!("{} has no TCP port {port}, {whose}; it has {}", service.host, numbers.join(", "))
}
