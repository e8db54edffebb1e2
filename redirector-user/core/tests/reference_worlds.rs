//! The compiled tables, `explain` and what a gateway would decide, against the
//! reference, over random Worlds.
//!
//! `REDIRECTOR_WORLDS=20000` is the long form; `REDIRECTOR_SEED` starts
//! elsewhere.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use redirector_common::abi::VerdictKind;
use redirector_core::client::Client;
use redirector_core::compile::{Compiled, compile_with};
use redirector_core::explain::{Explanation, Query, QuerySource, VerdictWord, explain_with};
use redirector_core::image::Image;
use redirector_core::layout::Layout;
use redirector_core::model::{Kind, Object, ObjectRef, RuleId, RuleList};
use redirector_core::plan::gateway::{GatewayVerdict, Incoming};
use redirector_core::plan::{Plan, RouteId};
use redirector_core::registry::Registry;
use redirector_core::world::World;

use crate::support::random::Random;
use crate::support::reference::{Connection, Outcome, Reference};
use crate::support::worlds::{
    Documents, NAMESPACES, PORTS, Source, dials, random_world, server_names,
};
use crate::support::{LIMITS, Shares, shares, verdict};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// The random documents of a number.
fn documents(index: u64) -> (Documents, Random) {
    let mut random = Random::new(index.wrapping_mul(0x2545_f491_4f6c_dd1d));
    (Documents::random(&mut random), random)
}

/// What the reference says, in the form of the tables.
fn expected(outcome: &Outcome) -> Shares {
    let endpoints = outcome.endpoints.iter().map(|(to, share)| (to.to_string(), *share));
    Shares { endpoints: endpoints.collect(), refused: outcome.refused, passed: outcome.passed }
}

/// What an explanation says, likewise.
fn told(answer: &Explanation) -> Shares {
    Shares {
        endpoints: answer.endpoints.clone(),
        // What is decided when names are resolved is refused until then; without a
        // rule it is passed.
        refused: answer.refused_share
            + if answer.destinations.is_empty() { 0.0 } else { answer.undecided_share },
        passed: answer.verdict == VerdictWord::Passthrough
            || (answer.verdict == VerdictWord::Undecided && answer.destinations.is_empty()),
    }
}

fn connection(source: &Source) -> Connection {
    Connection {
        namespace: Some(source.namespace.clone()),
        name: Some(source.name.clone()),
        labels: source.labels.clone(),
        addresses: source.addresses.clone(),
    }
}

/// A World, compiled.
struct Judged {
    index: u64,
    documents: Documents,
    world: World,
    registry: Registry,
    compiled: Compiled,
    layout: Layout,
    image: Image,
}

/// How much was compared.
#[derive(Default)]
struct Count {
    compared: u64,
    routed: u64,
    explained: u64,
    at_gateways: u64,
    routed_at_gateways: u64,
    bypassed: u64,
}

impl Judged {
    fn new(index: u64, documents: Documents) -> Self {
        let world = documents.world();
        let registry = Registry::new(&world);
        let compiled = compile_with(&world, &registry);
        let (layout, image) =
            Layout::default().place(&compiled.plan, &LIMITS).expect("there is room");
        Self { index, documents, world, registry, compiled, layout, image }
    }

    fn fail(&self, what: &str) -> ! {
        panic!("world {}: {what}\n{}", self.index, self.documents.text())
    }

    /// All of its local workloads, a caller in none, and a source that is in no
    /// document.
    fn mesh(&self, random: &mut Random, count: &mut Count) {
        let (reference, names) = (Reference::new(&self.world), self.layout.names());
        for source in self.documents.sources.iter().map(Some).chain([None]) {
            let class = source.map_or(0, |source| {
                let identity = self.layout.identity(&source.id()).expect("it is a source");
                self.image.class_of.get(&identity).copied().unwrap_or(0)
            });
            let from = source.map_or_else(Connection::default, connection);
            let asked = source.map_or(QuerySource::Unknown, |source| QuerySource::Workload {
                namespace: source.namespace.clone(),
                name: source.name.clone(),
            });
            for to in all_dials() {
                let wanted = reference.decide(&from, to);
                let got = shares(&self.image, class, to);
                count.compared += 1;
                count.routed += u64::from(!wanted.passed);
                let rules_agree = match verdict(&self.image, class, to) {
                    VerdictKind::Route(route) => {
                        names.routes[&route].rule.as_ref().map(rule_name) == wanted.rule
                    }
                    _ => true,
                };
                if !rules_agree || !expected(&wanted).near(&got) {
                    self.fail(&format!("from {from:?} to {to}: {wanted:?}, in the tables {got:?}"));
                }
                // Explaining is slower; a part of the dials will do.
                if random.once_in(6) {
                    count.explained += 1;
                    self.explain(asked.clone(), &from, to, &wanted);
                }
            }
        }
        let source = self.documents.sources.first().expect("there are sources");
        let from = Connection {
            namespace: Some((*random.pick(&NAMESPACES)).to_owned()),
            name: None,
            ..connection(source)
        };
        for to in all_dials() {
            if random.once_in(6) {
                let wanted = reference.decide(&from, to);
                count.explained += 1;
                self.explain(described(&from), &from, to, &wanted);
            }
        }
    }

    fn explain(&self, source: QuerySource, from: &Connection, to: SocketAddr, wanted: &Outcome) {
        let query = Query { source, destination: to, gateway: None, sni: None };
        let answer = explain_with(&self.world, &self.registry, &query).expect("it is known");
        self.agrees(from, to, wanted, &answer);
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

    /// Connections from its workloads and from strangers to its gateways.
    fn gateways(&self, random: &mut Random, count: &mut Count) {
        let reference = Reference::new(&self.world);
        for gateway in &self.documents.gateways {
            let object = self
                .world
                .find(Kind::WorkloadEntry, &gateway.namespace, &gateway.name)
                .expect("it is in the documents");
            for port in PORTS.into_iter().chain([15_000, 15_443]) {
                let to = SocketAddr::new(gateway.addresses[0], port);
                for source in self.documents.sources.iter().map(Some).chain([None]) {
                    let from = source.map_or_else(Connection::default, connection);
                    for sni in server_names() {
                        if random.once_in(2) {
                            let wanted = reference.at_gateway(object, &from, to, sni.as_deref());
                            count.at_gateways += 1;
                            count.routed_at_gateways += u64::from(wanted.rule.is_some());
                            let explain = wanted.rule.is_some() || random.once_in(6);
                            self.arrives(object, &from, to, sni, &wanted, explain);
                        }
                    }
                }
            }
        }
    }

    fn arrives(
        &self,
        workload: &Object,
        from: &Connection,
        to: SocketAddr,
        sni: Option<String>,
        wanted: &Outcome,
        explain: bool,
    ) {
        // What the proxy does.
        let plan = &self.compiled.plan;
        let listener = plan.gateways.listeners.get(&to);
        let client = Client {
            namespace: from.namespace.as_deref(),
            labels: from.namespace.as_ref().map(|_| &from.labels),
            addresses: &from.addresses,
            bypassed: false,
        };
        let incoming = Incoming { client, sni: sni.as_deref() };
        let refused = Shares { refused: 1.0, ..Shares::default() };
        let got = match listener.map(|listener| listener.decide(&incoming, to.ip())) {
            Some(GatewayVerdict::Route(_, route)) => planned(plan, route),
            Some(GatewayVerdict::Refuse(_)) | None => refused,
        };
        if !expected(wanted).near(&got) {
            self.fail(&format!(
                "from {from:?} with {sni:?} to {to} of {}: {wanted:?}, in the plan {got:?}",
                workload.reference()
            ));
        }
        if !explain {
            return;
        }
        // What explain says, at a Gateway that the workload serves.
        let source = if from.namespace.is_some() { described(from) } else { QuerySource::Unknown };
        for (namespace, name) in self.documents.named("Gateway") {
            let query = Query {
                source: source.clone(),
                destination: to,
                gateway: Some((namespace, name)),
                sni: sni.clone(),
            };
            let answer = explain_with(&self.world, &self.registry, &query).expect("it is there");
            let serves = answer.notes.iter().all(|note| !note.contains("does not select"));
            if serves {
                self.agrees(from, to, wanted, &answer);
            }
        }
    }
}

/// As the reference names a rule.
fn rule_name(rule: &RuleId) -> (ObjectRef, &'static str, usize) {
    let list = match rule.list {
        RuleList::Tcp => "tcp",
        RuleList::Tls => "tls",
        RuleList::Http => "http",
    };
    (rule.object.clone(), list, rule.index as usize)
}

fn described(from: &Connection) -> QuerySource {
    QuerySource::Described {
        namespace: from.namespace.clone().unwrap_or_default(),
        labels: from.labels.clone(),
        addresses: from.addresses.clone(),
    }
}

fn all_dials() -> impl Iterator<Item = SocketAddr> {
    dials().into_iter().flat_map(|ip| PORTS.map(|port| SocketAddr::new(ip, port)))
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

#[test]
fn compiled_tables_and_explain_agree_with_the_reference() {
    let (worlds, seed) = (number("REDIRECTOR_WORLDS", 500), number("REDIRECTOR_SEED", 0));
    let mut count = Count::default();
    for index in seed..seed + worlds {
        let (documents, mut random) = documents(index);
        count.bypassed += u64::from(documents.settings.bypass != Default::default());
        let judged = Judged::new(index, documents);
        judged.mesh(&mut random, &mut count);
        judged.gateways(&mut random, &mut count);
    }
    let Count { compared, routed, explained, at_gateways, routed_at_gateways, bypassed } = count;
    assert!(routed * 20 > compared, "{routed} of {compared} are too few to show anything");
    assert!(routed_at_gateways * 40 > at_gateways, "{routed_at_gateways} of {at_gateways}");
    assert!(worlds < 10 || bypassed > 0, "something is bypassed in some of them");
    eprintln!(
        "figure: {worlds} worlds from seed {seed}: {compared} decisions, of these {routed} not \
         passed, and {at_gateways} at gateways, of these {routed_at_gateways} by a rule, compared; \
         {explained} explained"
    );
}

#[test]
fn every_local_workload_is_in_one_class_and_class_tables_hold_no_class_tables() {
    for index in 0..100 {
        let world = random_world(&mut Random::new(index));
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

#[test]
fn the_reference_uses_nothing_of_what_it_is_compared_with() {
    let sources = [
        include_str!("support/reference/mod.rs"),
        include_str!("support/reference/destination_rules.rs"),
        include_str!("support/reference/gateways.rs"),
        include_str!("support/reference/localities.rs"),
        include_str!("support/reference/services.rs"),
    ];
    for used in sources.iter().flat_map(|source| source.split("redirector_core::").skip(1)) {
        let module = used.split(|c: char| !c.is_alphanumeric() && c != '_').next();
        assert!(matches!(module, Some("model" | "names" | "world")), "{module:?}");
    }
}
