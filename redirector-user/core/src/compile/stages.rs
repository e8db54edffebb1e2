//! A World compiled step by step: each step takes what changed and makes again what
//! was made from that.
//!
//! First it is [read](Stages::read) what the rules, the hosts and the workloads say
//! now, and by that which parts of the Plan are to be made again; then these are
//! made, and a part that is as before is no change. A first step in which everything
//! is new compiles a World; there is no other compiler.
//!
//! A part is an island of frontends or what this node serves as a gateway. What it
//! was made from is kept with it ([`Trace`]).
//!
//! More is made again than what changed
//!
//! * where the settings are others, or the node is elsewhere: everything;
//! * at a gateway: all that the node serves, and all known clients where a rule asks
//!   who they are;
//! * in a claimed network: all that lies in it. Who has a port at every address has
//!   the whole port;
//! * for a VirtualService with a wildcard: all hosts are compared with it, and made
//!   again where it is for them;
//! * when weights change of a rule for hosts that share an address, since they are routed
//!   there only where they are alike: that address;
//! * when the first endpoint of a destination comes or the last one goes: all that
//!   names its host;
//! * when a local workload changes, or what is asked about some: all local workloads
//!   are asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use rustc_hash::{FxHashMap, FxHashSet};

use super::classes::{Classes, Classifier, Probe, source};
use super::gateways::Behind;
use super::met::Met;
use super::questions::Counts;
use super::readers::{Reader, Readers, Trace};
use super::{Compiled, Rejected};
use crate::model::{Kind, Object, ObjectRef, RuleId, SourceId};
use crate::plan::{Delta, FrontendId, Plan};
use crate::registry::{Changed, HostChange, Registry, Service};
use crate::rules::{Claim, ClaimKind, Claims, RuleBook, claimed, places};
use crate::store::Replaced;
use crate::work::Work;
use crate::world::{Changes, ServiceAddresses, Settings, World};

/// A World, compiled, with what every part of the Plan was made from.
#[derive(Debug)]
pub struct Stages {
    pub(super) book: RuleBook,
    /// The services, by host.
    hosts: FxHashMap<Arc<str>, HostStage>,
    pub(super) claims: Claims,
    counts: Counts,
    pub(super) classes: Classes,
    pub(super) met: Met,
    pub(super) readers: Readers,
    /// By port and outermost claimed prefix.
    pub(super) islands: BTreeMap<(u16, IpNet), Island>,
    /// The workloads that this node serves as gateways.
    pub(super) gateways: BTreeSet<ObjectRef>,
    /// What the gateways were made from.
    pub(super) gateways_trace: Trace,
    rejected: BTreeMap<Arc<str>, Vec<Rejected>>,
    /// Sources that are in no document.
    pub(super) probes: Vec<Probe>,
    /// Where it is to be found out: rules that others stand before at a gateway.
    pub(super) behind: Option<Behind>,
    pub(super) plan: Plan,
}

/// The services of a host.
#[derive(Debug, Default)]
struct HostStage {
    services: Vec<Arc<Service>>,
    /// Whether there are rules for it.
    ruled: bool,
}

/// What one island says, and what that was made from.
#[derive(Debug)]
pub(super) struct Island {
    pub frontends: Box<[FrontendId]>,
    pub trace: Trace,
}

/// What is to be made again.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    /// Ports and prefixes in which or around which something differs.
    pub regions: BTreeSet<(u16, IpNet)>,
    /// What the gateways were made from differs.
    pub gateways: bool,
    /// Hosts of which only endpoints differ.
    pub endpoints: Vec<Arc<str>>,
    /// Other hosts that differ.
    pub hosts: Vec<Arc<str>>,
    /// All hosts that differ: their destinations are not as they were.
    pub stale: FxHashSet<Arc<str>>,
    /// Rules of which only weights differ.
    pub reweighted: Vec<RuleId>,
    /// Hosts for which there are other rules.
    ruled: BTreeSet<Arc<str>>,
}

impl Dirty {
    pub fn reader(&mut self, reader: Reader) {
        match reader {
            Reader::Gateways => self.gateways = true,
            Reader::Island(port, root) => _ = self.regions.insert((port, root)),
        }
    }
}

impl Stages {
    /// Before the first step, under these settings.
    pub fn new(settings: &Settings) -> Self {
        Self {
            book: RuleBook::default(),
            hosts: FxHashMap::default(),
            claims: Claims::default(),
            counts: Counts::default(),
            classes: Classes::new(settings),
            met: Met::default(),
            readers: Readers::default(),
            islands: BTreeMap::new(),
            gateways: BTreeSet::new(),
            gateways_trace: Trace::default(),
            rejected: BTreeMap::new(),
            probes: Vec::new(),
            behind: None,
            plan: Plan::default(),
        }
    }

    /// Of a whole World.
    pub fn of(world: &World, registry: &Registry) -> Self {
        let mut stages = Self::new(&registry.settings);
        stages.add_all(world, registry);
        stages
    }

    /// Takes in everything; nothing must be there yet.
    pub(super) fn add_all(&mut self, world: &World, registry: &Registry) -> Work {
        let (changes, changed) = everything(world, registry);
        let mut work = Work::default();
        let mut delta = Delta::default();
        let dirty = self.read(world, registry, (&changes, &changed), &mut delta, &mut work);
        self.make(world, registry, dirty, &mut delta, &mut work);
        work
    }

    /// Takes in what makes another World of the last one, and another registry of its
    /// registry. Returns what makes another Plan of the Plan.
    pub fn update(
        &mut self,
        world: &World,
        registry: &Registry,
        changes: &Changes,
        changed: &Changed,
    ) -> (Delta, Work) {
        if changed.whole {
            return self.replace(world, registry);
        }
        let (mut delta, mut work) = (Delta::default(), Work::default());
        let dirty = self.read(world, registry, (changes, changed), &mut delta, &mut work);
        self.make(world, registry, dirty, &mut delta, &mut work);
        (delta, work)
    }

    /// Takes in a World that may have nothing in common with the last one. Classes keep
    /// their numbers.
    pub fn replace(&mut self, world: &World, registry: &Registry) -> (Delta, Work) {
        let mut whole = Self::new(&registry.settings);
        whole.classes.keep_numbers_of(&self.classes);
        let work = whole.add_all(world, registry);
        let before = std::mem::replace(self, whole).plan;
        (before.difference(&self.plan), work)
    }

    /// Whether nothing was taken in: any World has a class, that of unknown callers.
    pub fn is_empty(&self) -> bool {
        self.plan.classes.is_empty()
    }

    /// What the kernel is to hold.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Which class a workload is in that comes from now on.
    pub fn classifier(&self) -> &Classifier {
        self.classes.classifier()
    }

    /// Whether those of some namespace would have far more endpoints than they may, so that
    /// some destinations may have none in the Plan.
    pub fn is_cut(&self) -> bool {
        self.met.is_cut()
    }

    /// How many endpoints the destinations of the objects of a namespace have.
    pub fn endpoints_of(&self, namespace: &str) -> u64 {
        self.met.endpoints_of(namespace)
    }

    /// The most that those of one namespace have.
    pub fn most_endpoints(&self) -> u64 {
        self.met.most_endpoints()
    }

    /// Objects that could not be honoured, and are treated as absent.
    pub fn rejected(&self) -> Vec<Rejected> {
        let rules = self
            .book
            .rejected
            .iter()
            .map(|(object, reason)| Rejected { object: object.clone(), reason: reason.clone() });
        let mut rejected: Vec<Rejected> =
            self.rejected.values().flatten().cloned().chain(rules).collect();
        rejected.sort_unstable();
        rejected.dedup();
        rejected
    }

    /// The Plan, and what goes with it.
    pub(super) fn into_compiled(self) -> Compiled {
        let (rejected, classifier) = (self.rejected(), self.classifier().clone());
        Compiled { plan: self.plan, rejected, classifier }
    }

    /// The rules that are met, be it that they pass a connection on.
    pub(super) fn rules_met(&self) -> BTreeSet<RuleId> {
        self.met.rules().cloned().collect()
    }

    /// How much is remembered, by kind: two that have compiled the same World
    /// remember as much.
    pub fn memory(&self) -> BTreeMap<&'static str, usize> {
        let (routes, destinations) = self.met.count();
        let (hosts_read, questions_read, peeked) = self.readers.count();
        let (questions, nets, own) = self.counts.count_all();
        BTreeMap::from([
            ("hosts", self.hosts.len()),
            ("rules", self.book.sets().count()),
            ("claims", self.claims.count()),
            ("islands", self.islands.len()),
            ("routes", routes),
            ("destinations", destinations),
            ("hosts read", hosts_read),
            ("questions read", questions_read),
            ("destinations peeked at", peeked),
            ("questions", questions),
            ("networks", nets),
            ("addresses of endpoints", own),
            ("classes", self.classes.count()),
            ("gateway workloads", self.gateways.len()),
            ("rejected", self.rejected.len()),
        ])
    }

    /// Reads what changed, and finds out what is to be made again.
    pub(super) fn read(
        &mut self,
        world: &World,
        registry: &Registry,
        (changes, changed): (&Changes, &Changed),
        delta: &mut Delta,
        work: &mut Work,
    ) -> Dirty {
        let mut dirty = Dirty::default();
        for (reference, Replaced { before, after }) in &changes.objects {
            dirty.gateways |= self.serves_by_name(reference);
            match reference.kind {
                Kind::VirtualService => {
                    work.rules += 1;
                    self.read_rules(registry, reference, after.as_ref(), &mut dirty);
                }
                Kind::DestinationRule => {
                    for (object, more) in [(before, false), (after, true)] {
                        let Some(object) = object else { continue };
                        let Some(rule) = object.spec.destination_rule() else { continue };
                        let root = &registry.settings.root_namespace;
                        self.counts.destination_rule(object, rule, root, more);
                    }
                }
                // Gateways listen where Services lead.
                Kind::Gateway | Kind::Service => dirty.gateways = true,
                _ => {}
            }
        }
        for reference in &changed.rules {
            if !changes.objects.contains_key(reference) {
                work.rules += 1;
                self.read_rules(registry, reference, world.get(reference), &mut dirty);
            }
        }
        for (host, change) in &changed.hosts {
            work.hosts += 1;
            self.read_host(registry, host, *change, &mut dirty);
        }
        for host in std::mem::take(&mut dirty.ruled) {
            let Some(known) = self.hosts.get_mut(&host) else { continue };
            let ruled = self.book.is_for_host(&host);
            if ruled != known.ruled {
                self.counts.services(&known.services, known.ruled, false);
                self.counts.services(&known.services, ruled, true);
                known.ruled = ruled;
            }
            for service in &known.services {
                dirty.regions.extend(places(service));
            }
        }
        let reweighted: BTreeSet<&ObjectRef> =
            dirty.reweighted.iter().map(|rule| &rule.object).collect();
        for set in reweighted.into_iter().filter_map(|object| self.book.get(object)) {
            for host in set.hosts.iter().filter(|_| set.is_for_mesh()) {
                let known = registry.hosts_matching(host).into_iter();
                let known = known.filter_map(|host| self.hosts.get(host));
                let all = known.flat_map(|host| &host.services).flat_map(|one| places(one));
                let shared = |(port, prefix): &(u16, IpNet)| self.claims.are_shared(*port, prefix);
                dirty.regions.extend(all.filter(shared));
            }
        }
        let others = self.read_workloads(registry, changed, &mut dirty);
        let asked = self.counts.settle();
        let differing = self.classes.group(&asked, others, &mut self.plan, delta);
        for reader in differing.iter().flat_map(|question| self.readers.of_question(question)) {
            dirty.reader(reader);
        }
        if !self.probes.is_empty() {
            self.classes.add_probes(&self.probes, &mut self.plan);
        }
        dirty
    }

    fn read_rules(
        &mut self,
        registry: &Registry,
        reference: &ObjectRef,
        after: Option<&Arc<Object>>,
        dirty: &mut Dirty,
    ) {
        let before = match after {
            Some(object) => self.book.put(object, registry),
            None => self.book.remove(reference),
        };
        let now = self.book.get(reference);
        if let (Some(now), Some(before)) = (now, &before)
            && let Some(rules) = now.reweighted(before)
        {
            dirty.reweighted.extend(rules.into_iter().map(|rule| rule.id.clone()));
            return;
        }
        for (set, more) in [(before.as_ref(), false), (now, true)] {
            let Some(set) = set else { continue };
            self.counts.rules(set, &registry.settings, more);
            dirty.gateways |= set.is_for_gateways();
            for host in set.hosts.iter().filter(|_| set.is_for_mesh()) {
                dirty.ruled.extend(registry.hosts_matching(host).into_iter().cloned());
            }
        }
    }

    fn read_host(
        &mut self,
        registry: &Registry,
        host: &Arc<str>,
        change: HostChange,
        dirty: &mut Dirty,
    ) {
        let before = self.hosts.remove(host).unwrap_or_default();
        let services: Vec<Arc<Service>> = registry.named(host).to_vec();
        let ruled = self.book.is_for_host(host);
        for service in &before.services {
            self.claims.remove(service);
        }
        for service in &services {
            self.claims.add(service);
        }
        let all = |services: &[Arc<Service>]| services.iter().flat_map(|s| places(s)).collect();
        match change {
            HostChange::Everything => {
                let both: [BTreeSet<_>; 2] = [all(&before.services), all(&services)];
                dirty.regions.extend(both.into_iter().flatten());
                dirty.hosts.push(host.clone());
            }
            HostChange::Endpoints => {
                let serving = registry.settings.services;
                let (old, new) = (meant(&before.services, serving), meant(&services, serving));
                let differing = old.symmetric_difference(&new);
                dirty.regions.extend(differing.map(|(port, prefix, ..)| (*port, *prefix)));
                dirty.endpoints.push(host.clone());
            }
        }
        dirty.stale.insert(host.clone());
        self.counts.services(&before.services, before.ruled, false);
        self.counts.services(&services, ruled, true);
        self.rejected.remove(host);
        let rejected: Vec<Rejected> = (services.iter())
            .filter_map(|service| {
                let reason = service.rejected.clone()?;
                Some(Rejected { object: service.object.clone(), reason })
            })
            .collect();
        if !rejected.is_empty() {
            self.rejected.insert(host.clone(), rejected);
        }
        if !services.is_empty() {
            self.hosts.insert(host.clone(), HostStage { services, ruled });
        }
    }

    /// Whether this is one of the workloads that are served as gateways, or has the name of
    /// one: ports that a gateway names are looked up by name, in whatever kind has them.
    fn serves_by_name(&self, object: &ObjectRef) -> bool {
        let named = |other: &ObjectRef| {
            (&other.namespace, &other.name) == (&object.namespace, &object.name)
        };
        matches!(object.kind, Kind::Pod | Kind::WorkloadEntry) && self.gateways.iter().any(named)
    }

    /// The local workloads that came, went or are others.
    fn read_workloads(
        &mut self,
        registry: &Registry,
        changed: &Changed,
        dirty: &mut Dirty,
    ) -> BTreeMap<SourceId, Option<crate::plan::LocalWorkload>> {
        let mut others = BTreeMap::new();
        if changed.workloads.is_empty() {
            return others;
        }
        for object in &changed.workloads {
            let serves = registry.workloads.of(object).is_some_and(|workload| workload.gateway);
            dirty.gateways |= serves || self.gateways.contains(object);
            if serves {
                self.gateways.insert(object.clone());
            } else {
                self.gateways.remove(object);
            }
            let (namespace, name) = (&object.namespace, &object.name);
            let id = SourceId { namespace: namespace.clone(), name: name.clone() };
            let now = registry.workloads.named(namespace, name).and_then(source);
            let now = now.map(|(_, source)| source);
            let before = self.plan.sources.get(&id);
            let same = match (&now, before) {
                (Some(now), Some(before)) => {
                    (&now.labels, &now.addresses, &now.selector)
                        == (&before.labels, &before.addresses, &before.selector)
                }
                (None, None) => true,
                _ => false,
            };
            if !same {
                others.insert(id, now);
            }
        }
        dirty.gateways |= !self.gateways.is_empty() && self.plan.gateways.asks_clients();
        others
    }
}

/// What services claim, as far as it depends on their endpoints, and whether we serve
/// it.
fn meant(
    services: &[Arc<Service>],
    serving: ServiceAddresses,
) -> BTreeSet<(u16, IpNet, ClaimKind, bool, &ObjectRef)> {
    let claims = services.iter().flat_map(|service| {
        claimed(service).into_iter().filter_map(|(place, prefix, kind)| {
            let port = service.ports.get(place)?;
            let serves = Claim { service, port, kind }.serves(serving);
            Some((port.number, prefix, kind, serves, &service.object))
        })
    });
    claims.collect()
}

/// A World and its registry, as what makes them of nothing.
fn everything(world: &World, registry: &Registry) -> (Changes, Changed) {
    let objects = world
        .objects()
        .map(|object| (object.reference(), Replaced { before: None, after: Some(object.clone()) }));
    let changes = Changes { objects: objects.collect(), ..Changes::default() };
    let hosts = registry.services().map(|service| service.host.clone());
    let workloads = registry.workloads.all().map(|workload| workload.object.clone());
    let changed = Changed {
        hosts: hosts.map(|host| (host, HostChange::Everything)).collect(),
        workloads: workloads.collect(),
        ..Changed::default()
    };
    (changes, changed)
}

impl Stages {
    /// As read, without anything made.
    pub(super) fn classified(world: &World, registry: &Registry) -> Self {
        let mut stages = Self::new(&registry.settings);
        let (changes, changed) = everything(world, registry);
        let (mut delta, mut work) = (Delta::default(), Work::default());
        stages.read(world, registry, (&changes, &changed), &mut delta, &mut work);
        stages
    }
}
