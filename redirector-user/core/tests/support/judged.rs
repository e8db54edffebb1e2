//! A World's connections, decided three ways: by the reference, by what is compiled
//! of it, and by `explain`. They have to agree.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use redirector_common::abi::VerdictKind;
use redirector_core::client::Client;
use redirector_core::compile::{Compiled, compile_with};
use redirector_core::explain::{Explanation, Query, QuerySource, VerdictWord, explain_with};
use redirector_core::image::Image;
use redirector_core::layout::Layout;
use redirector_core::model::{Object, ObjectRef, RuleId, Spec};
use redirector_core::plan::gateway::{GatewayVerdict, Incoming};
use redirector_core::plan::{Algorithm, Plan, RouteId};
use redirector_core::registry::Registry;
use redirector_core::world::World;

use super::reference::{Connection, Outcome, Reference};
use super::{LIMITS, PRECISE, Shares, shares, verdict};

/// How far a share may be off where the source is hashed: a table of that has a
/// limited number of slots.
const HASHED: f64 = 0.05;

/// A World, compiled.
pub struct Judged<'w> {
    world: &'w World,
    registry: Registry,
    pub compiled: Compiled,
    layout: Layout,
    pub image: Image,
    /// The routes by their numbers.
    routes: BTreeMap<u32, RouteId>,
    reference: Reference<'w>,
    /// Of what is said when something disagrees.
    name: &'w str,
}

/// A local workload, or somebody in none, with the class of its number.
pub struct Caller {
    pub connection: Connection,
    class: u32,
}

impl<'w> Judged<'w> {
    /// A World that is called by this name.
    pub fn new(name: &'w str, world: &'w World) -> Self {
        let registry = Registry::new(world);
        let compiled = compile_with(world, &registry);
        let (layout, image) =
            Layout::default().place(&compiled.plan, &LIMITS).expect("there is room");
        let names = layout.names().routes.into_iter();
        let routes = names.map(|(number, route)| (number, route.clone())).collect();
        let reference = Reference::new(world);
        Self { world, registry, compiled, layout, image, routes, reference, name }
    }

    fn fail(&self, what: &str) -> ! {
        let objects: Vec<_> = self.world.objects().collect();
        let objects = serde_json::to_string_pretty(&objects).unwrap_or_default();
        panic!("{}: {what}\n{objects}", self.name)
    }

    /// The local workloads, and a caller in none.
    pub fn callers(&self) -> Vec<Caller> {
        let sources = self.compiled.plan.sources.iter().map(|(id, source)| {
            let identity = self.layout.identity(id).expect("it is a source");
            let connection = Connection {
                namespace: Some(id.namespace.to_string()),
                name: Some(id.name.to_string()),
                labels: source.labels.clone(),
                addresses: source.addresses.clone(),
            };
            let class = self.image.class_of.get(&identity).copied().unwrap_or(0);
            Caller { connection, class }
        });
        let nobody = Caller { connection: Connection::default(), class: 0 };
        sources.chain([nobody]).collect()
    }

    /// Compares the tables with the reference. Returns what that says.
    pub fn decide(&self, caller: &Caller, to: SocketAddr) -> Outcome {
        let wanted = self.reference.decide(&caller.connection, to);
        let got = shares(&self.image, caller.class, to);
        let (mut rules_agree, mut by) = (true, PRECISE);
        if let VerdictKind::Route(route) = verdict(&self.image, caller.class, to) {
            let route = &self.routes[&route];
            rules_agree = route.rule.as_ref().map(rule_name) == wanted.rule;
            let destinations = &self.compiled.plan.destinations;
            let hashed = |id| destinations[id].algorithm == Algorithm::SourceHash;
            if route.destinations.iter().any(hashed) {
                by = HASHED;
            }
        }
        if !rules_agree || !expected(&wanted).near_by(&got, by) {
            let from = &caller.connection;
            self.fail(&format!("from {from:?} to {to}: {wanted:?}, in the tables {got:?}"));
        }
        wanted
    }

    /// Compares `explain` with the reference. Who has no name in the World is
    /// described.
    pub fn explain(&self, from: &Connection, to: SocketAddr) -> Explanation {
        let source = match (&from.namespace, &from.name) {
            (Some(namespace), Some(name)) => {
                QuerySource::Workload { namespace: namespace.clone(), name: name.clone() }
            }
            _ => described(from),
        };
        let query = Query { source, destination: to, gateway: None, sni: None };
        let answer = explain_with(self.world, &self.registry, &query).expect("it is known");
        self.agrees(from, to, &self.reference.decide(from, to), &answer);
        answer
    }

    fn agrees(&self, from: &Connection, to: SocketAddr, wanted: &Outcome, answer: &Explanation) {
        let rule = answer.rule.as_ref();
        let rule = rule.map(|rule| (rule.object.clone(), rule.list.as_str(), rule.index as usize));
        let named = wanted.rule.as_ref();
        let named = named.map(|(object, list, index)| (object.to_string(), *list, *index));
        if rule != named || !expected(wanted).near(&told(answer)) {
            self.fail(&format!("from {from:?} to {to}: {wanted:?} is explained as {answer:#?}"));
        }
    }

    /// Compares all three at the ends of frontends, for callers, and at gateways: as
    /// many as `most` of each. Returns how many connections of the mesh these were,
    /// and how many of them are not passed.
    pub fn compare(&self, most: usize) -> (u64, u64) {
        let (mut compared, mut routed) = (0, 0);
        let mut callers = self.callers();
        // The last is in no workload.
        callers.rotate_right(1);
        callers.truncate(most);
        for id in self.compiled.plan.frontends.keys().take(most) {
            for ip in [id.prefix.network(), id.prefix.broadcast()] {
                let to = SocketAddr::new(ip, id.port);
                for caller in &callers {
                    compared += 1;
                    routed += u64::from(!self.decide(caller, to).passed);
                    self.explain(&caller.connection, to);
                }
            }
        }
        for (workload, address) in self.gateways().into_iter().take(most) {
            for at in self.compiled.plan.gateways.listeners.keys().take(most) {
                let to = SocketAddr::new(address.ip(), at.port());
                for caller in &callers {
                    self.arrive(workload, &caller.connection, to, None);
                    self.explain_arrival(workload, &caller.connection, to, None);
                }
            }
        }
        (compared, routed)
    }

    /// The WorkloadEntries that serve Gateways of this node at their own address.
    pub fn gateways(&self) -> Vec<(&'w Object, SocketAddr)> {
        let workloads = self.registry.workloads.all();
        let served = workloads.filter(|one| one.gateway && one.stands_for.is_none());
        let found = served.filter_map(|one| {
            let object = self.world.get(&one.object)?;
            let address = *one.addresses.first()?;
            let mut others =
                self.registry.workloads.all().filter(|other| other.object != one.object);
            let shared = others.any(|other| other.addresses.contains(&address));
            let entry = matches!(object.spec, Spec::WorkloadEntry(_));
            (entry && !shared).then_some((&**object, SocketAddr::new(address, 0)))
        });
        found.collect()
    }

    /// Compares what the proxy decides with the reference, at an address of a
    /// gateway workload. Returns what that says.
    pub fn arrive(
        &self,
        workload: &Object,
        from: &Connection,
        to: SocketAddr,
        sni: Option<&str>,
    ) -> Outcome {
        let wanted = self.reference.at_gateway(workload, from, to, sni);
        let plan = &self.compiled.plan;
        let client = Client {
            namespace: from.namespace.as_deref(),
            labels: from.namespace.as_ref().map(|_| &from.labels),
            addresses: &from.addresses,
            bypassed: false,
        };
        let listener = plan.gateways.listeners.get(&to);
        let decided = listener.map(|one| one.decide(&Incoming { client, sni }, to.ip()));
        let got = match decided {
            Some(GatewayVerdict::Route(_, route)) => planned(plan, route),
            Some(GatewayVerdict::Refuse(_)) | None => Shares { refused: 1.0, ..Shares::default() },
        };
        if !expected(&wanted).near(&got) {
            self.fail(&format!(
                "from {from:?} with {sni:?} to {to} of {}: {wanted:?}, in the plan {got:?}",
                workload.reference()
            ));
        }
        wanted
    }

    /// Compares `explain` with the reference, as [`arrive`](Self::arrive), for each
    /// Gateway that the workload serves.
    pub fn explain_arrival(
        &self,
        workload: &Object,
        from: &Connection,
        to: SocketAddr,
        sni: Option<&str>,
    ) {
        let wanted = self.reference.at_gateway(workload, from, to, sni);
        for (gateway, _) in self.world.gateways() {
            let query = Query {
                source: described(from),
                destination: to,
                gateway: Some((gateway.meta.namespace.to_string(), gateway.meta.name.to_string())),
                sni: sni.map(str::to_owned),
            };
            let answer = explain_with(self.world, &self.registry, &query).expect("it is there");
            if answer.notes.iter().all(|note| !note.contains("does not select")) {
                self.agrees(from, to, &wanted, &answer);
            }
        }
    }
}

/// What the reference says, in the form of the tables.
pub fn expected(outcome: &Outcome) -> Shares {
    let endpoints = outcome.endpoints.iter().map(|(to, share)| (to.to_string(), *share));
    Shares { endpoints: endpoints.collect(), refused: outcome.refused, passed: outcome.passed }
}

/// What an explanation says, likewise.
pub fn told(answer: &Explanation) -> Shares {
    Shares {
        endpoints: answer.endpoints.clone(),
        refused: answer.refused_share,
        passed: answer.verdict == VerdictWord::Passthrough
            || (answer.verdict == VerdictWord::Undecided && answer.refused_share == 0.0),
    }
}

/// As the reference names a rule.
fn rule_name(rule: &RuleId) -> (ObjectRef, &'static str, usize) {
    (rule.object.clone(), rule.list.as_str(), rule.index as usize)
}

fn described(from: &Connection) -> QuerySource {
    from.namespace.as_ref().map_or(QuerySource::Unknown, |namespace| QuerySource::Described {
        namespace: namespace.clone(),
        labels: from.labels.clone(),
        addresses: from.addresses.clone(),
    })
}

/// The shares of a route of the Plan.
fn planned(plan: &Plan, route: &RouteId) -> Shares {
    let legs = &plan.routes[route];
    let sum: u64 = legs.iter().map(|leg| leg.weight).sum();
    let mut shares = Shares::default();
    for (leg, id) in legs.iter().zip(&route.destinations).filter(|(leg, _)| leg.weight > 0) {
        let share = leg.weight as f64 / sum as f64;
        let endpoints = &plan.destinations[id].endpoints;
        let sum: u64 = endpoints.iter().map(|endpoint| endpoint.weight).sum();
        if sum == 0 {
            shares.refused += share;
        }
        for endpoint in endpoints.iter().filter(|endpoint| endpoint.weight > 0) {
            *shares.endpoints.entry(endpoint.address.to_string()).or_default() +=
                share * endpoint.weight as f64 / sum as f64;
        }
    }
    shares
}
