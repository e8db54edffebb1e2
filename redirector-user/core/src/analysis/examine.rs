//! What connections meet: the documents compiled for the unknown caller, for all
//! of their workloads, and for made-up sources that meet the conditions of a
//! rule and no more. What is refused, and for whom, is read off the [`Plan`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::refusals::{Refusal, arrives, refusals};
use crate::client::{Client, Question};
use crate::compile::{Probe, Seen, compile_for};
use crate::diag::Diagnostic;
use crate::diag::codes::references;
use crate::explain::QuerySource;
use crate::model::{
    Kind, Labels, Object, ObjectRef, RouteDestination, RuleId, SourceId, Spec, VirtualService,
};
use crate::names::{MESH, complete_host, service_host};
use crate::plan::{ClassId, Lacks, Plan};
use crate::registry::{ExportTo, MergedRule, Registry, ServiceKind};
use crate::rules::{Block, RuleBook, places};
use crate::world::World;

/// So many sources are made up at most.
const MAX_PROBES: usize = 10_000;

/// So often they are asked something at most: each at every address at which it dials, by every
/// VirtualService that is for the host.
const MAX_ASKED: u64 = 50_000_000;

/// A namespace that no document names: it stands for all of those.
const ELSEWHERE: &str = "?";

/// What the connections of examined sources meet.
#[derive(Debug, Default)]
pub struct Examined {
    /// Made for more sources than are there; its own workloads are all local.
    pub plan: Plan,
    /// The shares that are refused.
    pub refusals: Vec<Refusal>,
    /// The made-up sources; their classes are the last ones.
    probes: Vec<Probe>,
    /// The classes of those that were made up for a VirtualService.
    made_for: HashMap<ObjectRef, Vec<ClassId>>,
    /// How many would have been made up beyond the limit.
    pub left_out: usize,
    /// Namespaces with more objects than are compared with others.
    pub not_compared: BTreeSet<String>,
    /// The rules that some connection takes.
    taken: BTreeSet<RuleId>,
    /// Which rules decide about some connection, and which stand behind others.
    seen: Seen,
}

/// What becomes of a share of a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Share {
    /// It is refused, for everybody or for some.
    Refused,
    /// It arrives.
    Arrives,
    /// No examined connection takes the rule.
    Untaken,
}

/// Compiles a World for all sources that matter. The registry is as before
/// afterwards.
pub fn examine(world: &World, registry: &mut Registry) -> Examined {
    let (probes, left_out) = probes(world, registry, MAX_ASKED);
    let examined = registry.workloads.examined(world.gateways());
    let own = std::mem::replace(&mut registry.workloads, examined);
    let (plan, seen) = compile_for(world, registry, &probes);
    registry.workloads = own;
    let taken = plan.routes.keys().filter_map(|route| route.rule.clone()).collect();
    let first = plan.classes.len() - probes.len();
    let mut made_for: HashMap<ObjectRef, Vec<ClassId>> = HashMap::new();
    for (class, probe) in (first..).zip(&probes) {
        for rules in &probe.rules {
            made_for.entry(rules.clone()).or_default().extend(ClassId::try_from(class));
        }
    }
    // These dial only at some of the addresses at which they would meet a rule.
    let of_rules = |probe: &Probe| probe.rules.iter().any(|one| one.kind == Kind::VirtualService);
    let others = (first..).zip(&probes).filter(|(_, probe)| !of_rules(probe));
    let others = others.filter_map(|(class, _)| ClassId::try_from(class).ok()).collect();
    let refusals = refusals(&plan, &others);
    let not_compared = BTreeSet::new();
    Examined { refusals, plan, probes, made_for, left_out, not_compared, taken, seen }
}

impl Examined {
    /// What was not looked at, and is not told of therefore.
    pub fn not_examined(&self) -> Vec<Diagnostic> {
        let told = |message| Diagnostic::new(&references::NOT_EXAMINED, message);
        let sources = (self.left_out > 0).then(|| {
            told(format!(
                "what {} more sources would meet is not examined: what is refused to them is not \
                 told, and no rule that nobody reaches",
                self.left_out
            ))
        });
        let namespaces: Vec<&str> = self.not_compared.iter().map(String::as_str).collect();
        let compared = (!namespaces.is_empty()).then(|| {
            told(format!(
                "there is too much in {} to compare all of it: what stands above a rule or a \
                 server there is not always told",
                listed("namespace", &namespaces)
            ))
        });
        sources.into_iter().chain(compared).collect()
    }

    pub(super) fn share(&self, rule: &RuleId, destination: usize) -> Share {
        match self.of_share(rule, destination) {
            [] if self.taken.contains(rule) => Share::Arrives,
            [] => Share::Untaken,
            _ => Share::Refused,
        }
    }

    /// Whether a rule decides about some connection.
    pub(super) fn meets(&self, rule: &RuleId) -> bool {
        self.seen.met.contains(rule)
    }

    /// The Gateways at which a rule never decides, with the rule that takes what it
    /// would.
    pub(super) fn before(&self, rule: &RuleId) -> impl Iterator<Item = (&str, &RuleId)> {
        let from = self.seen.behind.range((rule.clone(), String::new())..);
        from.take_while(move |((of, _), _)| of == rule)
            .filter_map(|((_, gateway), by)| Some((&**gateway, by.as_ref()?)))
    }

    /// The unknown caller and those who were made up for a VirtualService.
    pub(super) fn made_for(&self, object: &ObjectRef) -> impl Iterator<Item = ClassId> {
        std::iter::once(0).chain(self.made_for.get(object).into_iter().flatten().copied())
    }

    /// Somebody of a class.
    pub(super) fn client(&self, class: ClassId) -> Client<'_> {
        let class = self.plan.classes.get(&class);
        let example = class.and_then(|class| class.example.as_ref());
        let source = example.and_then(|id| Some((id, self.plan.sources.get(id)?)));
        source.map_or_else(Client::default, |(id, source)| Client {
            namespace: Some(&id.namespace),
            labels: Some(&source.labels),
            addresses: &source.addresses,
            bypassed: false,
        })
    }

    /// The refusals of a share, one for each reason.
    fn of_share(&self, rule: &RuleId, destination: usize) -> &[Refusal] {
        let before = |one: &Refusal| (&one.rule, one.destination) < (rule, destination);
        let from = self.refusals.partition_point(before);
        let rest = self.refusals.get(from..).unwrap_or_default();
        let same = |one: &Refusal| (&one.rule, one.destination) == (rule, destination);
        rest.get(..rest.partition_point(same)).unwrap_or_default()
    }

    /// The classes of those who can meet a rule: unknown callers, workloads, and
    /// who was made up for it.
    fn classes(&self, rule: &RuleId) -> Vec<ClassId> {
        let first = self.plan.classes.len() - self.probes.len();
        let made_up = self.made_for.get(&rule.object).into_iter().flatten().copied();
        (0..ClassId::try_from(first).unwrap_or(ClassId::MAX)).chain(made_up).collect()
    }

    /// For whom a share is refused and for whom it arrives, of those who meet
    /// its rule.
    pub fn clients(&self, refusal: &Refusal) -> (Vec<ClassId>, Vec<ClassId>) {
        let met = self.classes(&refusal.rule);
        let met = met.into_iter().filter(|class| refusal.met.contains(*class));
        met.partition(|class| refusal.clients.contains(*class))
    }

    /// Everybody in a class, to be asked about.
    pub fn sources(&self, class: ClassId) -> Vec<QuerySource> {
        if class == 0 {
            return vec![QuerySource::Unknown];
        }
        let first = self.plan.classes.len() - self.probes.len();
        if let Some(probe) = (class as usize).checked_sub(first).and_then(|at| self.probes.get(at))
        {
            return vec![QuerySource::Described {
                namespace: probe.id.namespace.to_string(),
                labels: probe.labels.clone(),
                addresses: probe.addresses.clone(),
            }];
        }
        let of = self.plan.sources.iter().filter(|(_, source)| source.class == class);
        of.map(|(id, _)| QuerySource::Workload {
            namespace: id.namespace.to_string(),
            name: id.name.to_string(),
        })
        .collect()
    }

    /// Whether a share lacks the port that was dialled, whoever meets its rule and
    /// wherever.
    pub(super) fn never_has_port(&self, rule: &RuleId, destination: usize) -> bool {
        let refusals = self.of_share(rule, destination);
        !refusals.is_empty()
            && refusals.iter().all(|one| one.lacks == Some(Lacks::Port))
            && !arrives(&self.plan, rule, destination)
    }

    /// For whom a share is refused for one reason, in words; `None` when for
    /// everybody who meets the rule.
    pub(super) fn for_whom(&self, refusal: &Refusal) -> Option<String> {
        if refusal.clients.is_empty() {
            return way(refusal.gateways.iter().collect());
        }
        if refusal.clients == refusal.met {
            return None;
        }
        self.whom(self.clients(refusal))
    }

    /// For whom a share is refused for one reason or another, likewise.
    pub(super) fn for_whom_at_all(&self, rule: &RuleId, destination: usize) -> Option<String> {
        let refusals = self.of_share(rule, destination);
        let met = self.classes(rule).into_iter();
        let met = met.filter(|class| refusals.iter().any(|one| one.met.contains(*class)));
        if refusals.iter().all(|one| one.clients.is_empty()) {
            return way(refusals.iter().flat_map(|one| &one.gateways).collect());
        }
        self.whom(met.partition(|class| refusals.iter().any(|one| one.clients.contains(*class))))
    }

    /// Those who are sent along a route, in words; `None` when everybody else is, too.
    pub(super) fn takers(&self, takers: &BTreeSet<Option<ClassId>>) -> Option<String> {
        self.whom((takers.iter().copied().collect::<Option<_>>()?, vec![0]))
    }

    /// Some of the classes below a number in words; `None` when they are all of these.
    pub(super) fn those(&self, these: &BTreeSet<ClassId>, below: ClassId) -> Option<String> {
        self.whom((0..below).partition(|class| these.contains(class)))
    }

    /// Some in words, as far as there are others.
    fn whom(&self, (refused, reached): (Vec<ClassId>, Vec<ClassId>)) -> Option<String> {
        if reached.is_empty() || refused.is_empty() {
            return None;
        }
        let example =
            |class: &ClassId| self.plan.classes.get(class).and_then(|class| class.example.as_ref());
        let namespaces = |classes: &[ClassId]| -> BTreeSet<Option<&str>> {
            let namespace = |class| example(class).map(|id: &SourceId| &*id.namespace);
            classes.iter().map(|class| namespace(class).filter(|name| *name != ELSEWHERE)).collect()
        };
        let (inside, outside) = (namespaces(&refused), namespaces(&reached));
        if inside.is_disjoint(&outside) && !outside.contains(&None) {
            if inside.contains(&None) {
                let names: Vec<&str> = outside.into_iter().flatten().collect();
                return Some(format!("all clients but those in {}", listed("namespace", &names)));
            }
            let names: Vec<&str> = inside.into_iter().flatten().collect();
            return Some(format!("clients in {}", listed("namespace", &names)));
        }
        let shown: Vec<String> = refused.iter().take(3).map(|class| self.name(*class)).collect();
        let more = if refused.len() > shown.len() { " and others" } else { "" };
        Some(format!("{}{more}", shown.join(", ")))
    }

    fn name(&self, class: ClassId) -> String {
        let sources = self.sources(class);
        let others = match sources.len() {
            0 | 1 => String::new(),
            more => format!(" and {} like it", more - 1),
        };
        let Some(first) = sources.into_iter().next() else { return String::new() };
        match first {
            QuerySource::Unknown => "callers in no known workload".to_owned(),
            QuerySource::Workload { namespace, name } => {
                format!("the workload {namespace}/{name}{others}")
            }
            QuerySource::Described { namespace, labels, addresses } => {
                let labels: Vec<String> =
                    labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                let mut name = "clients".to_owned();
                if namespace != ELSEWHERE {
                    name.push_str(&format!(" in namespace {namespace}"));
                }
                if !labels.is_empty() {
                    name.push_str(&format!(" with {}", labels.join(",")));
                }
                if let Some(address) = addresses.first() {
                    name.push_str(&format!(" with the address {address}"));
                }
                name
            }
        }
    }
}

/// The connections that come by way of these, in words, if there are any.
fn way(gateways: BTreeSet<&ObjectRef>) -> Option<String> {
    let names: Vec<String> =
        gateways.iter().map(|one| format!("{}/{}", one.namespace, one.name)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let listed = (!names.is_empty()).then(|| listed("Gateway", &names))?;
    Some(format!("connections that come by way of {listed}"))
}

/// "the namespace a", "the namespaces a, b and 3 more".
pub(super) fn listed(what: &str, names: &[&str]) -> String {
    let shown = names.iter().take(5).copied().collect::<Vec<_>>().join(", ");
    match names.len() {
        1 => format!("the {what} {shown}"),
        more if more > 5 => format!("the {what}s {shown} and {} more", more - 5),
        _ => format!("the {what}s {shown}"),
    }
}

/// What a source is made of.
type Made = (Arc<str>, Labels, Option<IpAddr>);

/// How often one who dials at hosts is asked something there.
struct Costs<'w> {
    world: &'w World,
    registry: &'w Registry,
    book: RuleBook,
    /// By full host, wildcards among them.
    known: HashMap<String, u64>,
}

impl<'w> Costs<'w> {
    fn new(world: &'w World, registry: &'w Registry) -> Self {
        Self { world, registry, book: RuleBook::new(world, registry), known: HashMap::new() }
    }

    /// At all hosts that an object has a say about.
    fn of(&mut self, object: &Object) -> u64 {
        let domain = &self.world.settings.cluster_domain;
        let namespace = &object.meta.namespace;
        let hosts: Vec<String> = match &object.spec {
            Spec::VirtualService(spec) => spec.hosts.clone(),
            Spec::DestinationRule(spec) => vec![spec.host.clone()],
            Spec::ServiceEntry(spec) => spec.hosts.clone(),
            Spec::Service(_) => vec![service_host(&object.meta.name, namespace, domain)],
            _ => Vec::new(),
        };
        let full = hosts.iter().map(|host| complete_host(host, namespace, domain).into_owned());
        full.map(|host| self.at(host)).fold(0, u64::saturating_add)
    }

    fn at(&mut self, host: String) -> u64 {
        if let Some(known) = self.known.get(&host) {
            return *known;
        }
        let all = self.registry.hosts_matching(&host).into_iter().map(|host| {
            let services = self.registry.named(host).iter();
            let dialled: usize = services.map(|service| places(service).count()).sum();
            dialled.saturating_mul(1 + self.book.for_host(host).len()) as u64
        });
        let cost = all.fold(0, u64::saturating_add);
        self.known.insert(host, cost);
        cost
    }
}

/// The sources that are made up, who are asked so often at `most`, and how many more there would
/// be.
fn probes(world: &World, registry: &Registry, most: u64) -> (Vec<Probe>, usize) {
    let mut wanted: Vec<(&Arc<Object>, Vec<Made>)> = Vec::new();
    for (object, spec) in world.virtual_services() {
        if !spec.gateways.is_empty() && !spec.gateways.iter().any(|name| name == MESH) {
            continue;
        }
        let mut about = About::new(world, registry, object, spec);
        let tcp = spec.tcp.iter().map(|tcp| (&tcp.route, tcp.matches.iter().collect::<Vec<_>>()));
        let tls = spec
            .tls
            .iter()
            .map(|tls| (&tls.route, tls.matches.iter().map(|one| &one.l4).collect::<Vec<_>>()));
        for (route, matches) in tcp.chain(tls) {
            let namespaces = about.namespaces(route);
            let selected = about.selected(route);
            let mut made = BTreeSet::new();
            let mut ordered = Vec::new();
            let mut want = |one: Made| {
                if made.insert(one.clone()) {
                    ordered.push(one);
                }
            };
            if matches.is_empty() {
                namespaces.iter().for_each(|name| want((name.clone(), Labels::new(), None)));
                selected.into_iter().for_each(|(name, labels)| want((name, labels, None)));
            }
            for block in matches {
                let (mut own, mut labels, mut address) = (None, Labels::new(), None);
                for question in Block::new(block, &[], &object.meta.namespace).questions() {
                    match question {
                        Question::Namespace(name) => own = Some(vec![Arc::from(name)]),
                        Question::Labels(wanted) => labels.clone_from(wanted),
                        Question::Within(subnet) => address = Some(subnet.addr()),
                        Question::Address(ip) => address = Some(ip),
                        Question::Bypassed => {}
                    }
                }
                for namespace in own.as_ref().unwrap_or(&namespaces) {
                    want((namespace.clone(), labels.clone(), address));
                }
            }
            wanted.push((object, ordered));
        }
        if let (true, Some(first)) = (spec.tcp.is_empty(), spec.http.first()) {
            let namespaces = about.namespaces(&first.route);
            let made = namespaces.into_iter().map(|name| (name, Labels::new(), None));
            wanted.push((object, made.collect()));
        }
    }
    wanted.extend(seeing_otherwise(world, registry));
    // One for every rule before any has its second.
    let mut known: BTreeMap<Made, usize> = BTreeMap::new();
    let mut probes: Vec<Probe> = Vec::new();
    let (mut left_out, mut left) = (0, most);
    let mut costs = Costs::new(world, registry);
    let wanted: Vec<_> =
        wanted.into_iter().map(|(object, made)| (object, made, costs.of(object))).collect();
    let deepest = wanted.iter().map(|(_, made, _)| made.len()).max().unwrap_or(0);
    for depth in 0..deepest {
        for (object, made, cost) in &wanted {
            let Some(one) = made.get(depth) else { continue };
            let at = known.get(one).copied();
            if *cost > left || at.is_none() && probes.len() >= MAX_PROBES {
                left_out += 1;
                continue;
            }
            left -= cost;
            let at = match at {
                Some(at) => at,
                None => {
                    let (namespace, labels, address) = one.clone();
                    let name = format!("{ELSEWHERE}{}", probes.len()).into();
                    known.insert(one.clone(), probes.len());
                    probes.push(Probe {
                        id: SourceId { namespace, name },
                        labels,
                        addresses: address.into_iter().collect(),
                        rules: BTreeSet::new(),
                    });
                    probes.len() - 1
                }
            };
            if let Some(probe) = probes.get_mut(at) {
                probe.rules.insert(object.reference());
            }
        }
    }
    (probes, left_out)
}

/// For services that only some namespaces see, and for DestinationRules of clients' own
/// namespaces: somebody in each of these, and of a rule for some workloads one of them.
fn seeing_otherwise<'w>(
    world: &'w World,
    registry: &Registry,
) -> Vec<(&'w Arc<Object>, Vec<Made>)> {
    let private = registry.services().filter(|service| !service.export.is_public());
    let services = private.filter_map(|service| {
        let inside = service.export.namespaces();
        let made = inside.map(|namespace| (namespace.clone(), Labels::new(), None)).collect();
        Some((world.get(&service.object)?, made))
    });
    let rules = world.destination_rules().filter_map(|(object, rule)| {
        let labels = rule.workload_selector.clone().unwrap_or_default();
        let made = (object.meta.namespace.clone(), labels, None);
        Some((world.get(&object.reference())?, vec![made]))
    });
    services.chain(rules).collect()
}

/// Which namespaces may make a difference to the rules of a VirtualService.
struct About<'w> {
    world: &'w World,
    registry: &'w Registry,
    namespace: &'w Arc<str>,
    export: ExportTo,
    /// Those of its own hosts.
    own: Vec<Arc<str>>,
}

impl<'w> About<'w> {
    fn new(
        world: &'w World,
        registry: &'w Registry,
        object: &'w Object,
        spec: &VirtualService,
    ) -> Self {
        let namespace = &object.meta.namespace;
        let export = ExportTo::new(spec.export_to.iter().map(String::as_str), namespace);
        let mut about = Self { world, registry, namespace, export, own: vec![namespace.clone()] };
        for host in &spec.hosts {
            let host = complete_host(host, namespace, &world.settings.cluster_domain);
            let services = registry.named(&host).iter();
            for service in services.filter(|service| !service.export.is_public()) {
                about.own.push(service.namespace().clone());
                about.own.extend(service.export.namespaces().cloned());
            }
        }
        about
    }

    /// Clients for whom a DestinationRule of their namespace is, of some of its workloads.
    fn selected(&self, route: &[RouteDestination]) -> Vec<(Arc<str>, Labels)> {
        let domain = &self.world.settings.cluster_domain;
        let hosts = route.iter().map(|one| complete_host(&one.host, self.namespace, domain));
        let rules = hosts.flat_map(|host| self.registry.rules.for_host(&host).collect::<Vec<_>>());
        let one = |rule: &MergedRule| {
            let namespace = rule.objects.first()?.namespace.clone();
            let sees =
                self.export.is_public() || self.export.namespaces().any(|one| *one == namespace);
            sees.then(|| Some((namespace, rule.selector.clone()?))).flatten()
        };
        rules.filter_map(one).collect()
    }

    /// Those from which a client may see these destinations otherwise than from
    /// others, and one that stands for the others; of those that see the rules.
    fn namespaces(&mut self, route: &[RouteDestination]) -> Vec<Arc<str>> {
        let mut all = self.own.clone();
        all.push(ELSEWHERE.into());
        let mut hosts: Vec<String> = Vec::new();
        for destination in route {
            let domain = &self.world.settings.cluster_domain;
            hosts.push(complete_host(&destination.host, self.namespace, domain).into_owned());
        }
        while let Some(host) = hosts.pop() {
            for service in self.registry.named(&host) {
                all.push(service.namespace().clone());
                all.extend(service.export.namespaces().cloned());
                // Only one step is followed.
                if let ServiceKind::ExternalName(target) = &service.kind
                    && hosts.len() < route.len()
                    && **target != *host
                {
                    hosts.extend((all.len() < 1000).then(|| target.to_string()));
                }
            }
            for rule in self.registry.rules.for_host(&host) {
                all.extend(rule.objects.first().map(|object| object.namespace.clone()));
                all.extend(rule.export.namespaces().cloned());
            }
        }
        if !self.export.is_public() {
            let seen: BTreeSet<&Arc<str>> = self.export.namespaces().collect();
            all.retain(|name| seen.contains(name));
            // From each its rules may be taken by others.
            all.extend(seen.into_iter().take(64).cloned());
        }
        let mut known = BTreeSet::new();
        all.retain(|name| known.insert(name.clone()));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use crate::world::Settings;

    #[test]
    fn who_is_made_up_is_asked_no_more_than_so_often() {
        let rule = |name: u8| {
            format!(
                "VirtualService a/v{name}: {{hosts: ['*.a.svc.cluster.local'], exportTo: ['.'], tcp: \
                 [{{match: [{{sourceLabels: {{app: c{name}}}}}], route: [{{destination: {{host: \
                 s0}}}}]}}]}}\n"
            )
        };
        let service = |name: u8| {
            format!(
                "Service a/s{name}: {{clusterIP: 10.96.0.{name}, ports: [{{name: tcp, port: 80}}]}}\n"
            )
        };
        let text: String = (0..4).map(rule).chain((1..7).map(service)).collect();
        let world = testing::world(Settings::default(), &text);
        let registry = Registry::new(&world);
        let made = |most| {
            let (probes, left_out) = probes(&world, &registry, most);
            (probes.len(), left_out)
        };
        // Each dials six addresses, at which there are four objects with rules.
        let each = 6 * (1 + 4);
        assert_eq!(made(4 * each), (4, 0));
        assert_eq!(made(3 * each), (3, 1));
        assert_eq!(made(each - 1), (0, 4));
    }
}
