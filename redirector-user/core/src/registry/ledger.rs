//! What objects ask for, and who asks for more than its budget.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::destination_rules::age;
use super::edit::Edit;
use super::endpoints::Backing;
use super::entries;
use super::given::HostOf;
use super::hosts::Host;
use super::together::{Hosts, Owns, Together};
use crate::budget::{Amounts, Budgets, Over};
use crate::model::{Kind, Object, ObjectRef, Resolution, ServiceEntry, Spec};
use crate::validate::subnets;
use crate::world::World;

/// What every object asks for, by namespace.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Ledger {
    /// What Services and ServiceEntries ask for; VirtualServices say it themselves.
    services: FxHashMap<ObjectRef, Amounts>,
    /// What [is counted](Over::counted) in a namespace, with what follows.
    namespaces: FxHashMap<Arc<str>, Amounts>,
    /// How many frontends more than each by itself the ServiceEntries of a host have
    /// together, where that is so.
    together: FxHashMap<HostOf, u64>,
    /// Who is left out.
    over: BTreeMap<ObjectRef, Over>,
    /// Namespaces of which some are, for there being too many.
    crowded: BTreeSet<Arc<str>>,
}

/// A change of what objects ask for.
#[derive(Debug)]
pub(super) struct Entry<'l> {
    ledger: &'l mut Ledger,
    budgets: Budgets,
    /// Namespaces in which something else is asked for.
    touched: BTreeSet<Arc<str>>,
    /// Why objects were left out before that may be for another reason now, or are not.
    before: BTreeMap<ObjectRef, Option<Over>>,
    /// ServiceEntries that are others, by the hosts that they have or had.
    hosts: FxHashMap<HostOf, Vec<ObjectRef>>,
}

impl Ledger {
    /// Why an object is left out.
    pub fn over(&self, object: &ObjectRef) -> Option<&Over> {
        self.over.get(object)
    }

    /// Everybody who is.
    pub fn all_over(&self) -> impl Iterator<Item = (&ObjectRef, &Over)> {
        self.over.iter()
    }

    /// Begins a change.
    pub fn enter(&mut self, budgets: &Budgets) -> Entry<'_> {
        let (touched, before, hosts) = Default::default();
        Entry { ledger: self, budgets: *budgets, touched, before, hosts }
    }

    /// Counts other frontends in a namespace.
    fn count(&mut self, namespace: &Arc<str>, before: &Amounts, after: &Amounts) {
        let all = self.namespaces.entry(namespace.clone()).or_default();
        *all = all.minus(before).plus(after);
        if *all == Amounts::default() {
            self.namespaces.remove(namespace);
        }
    }
}

fn rules(object: Option<&Arc<Object>>) -> Option<Amounts> {
    object?.spec.virtual_service().map(Amounts::of_rules)
}

impl Entry<'_> {
    /// A VirtualService is another.
    pub fn rules(&mut self, edit: &Edit<'_>) {
        let before = rules(edit.before).unwrap_or_default();
        self.charge(edit.reference, &before, rules(edit.after));
    }

    /// A Service or ServiceEntry, which `was` this, or what it selects, may be another.
    pub fn services(
        &mut self,
        world: &World,
        backing: &Backing,
        owner: &ObjectRef,
        was: Option<&Arc<Object>>,
    ) {
        let object = world.get(owner);
        let hosts = [was, object].into_iter().flatten();
        let hosts = hosts.filter_map(|one| one.spec.service_entry()).flat_map(|one| &one.hosts);
        for host in hosts {
            let of_host = (owner.namespace.clone(), host.as_str().into());
            self.hosts.entry(of_host).or_default().push(owner.clone());
        }
        let after = object.map(|object| of_services(world, backing, object));
        let before = match after {
            Some(after) => self.ledger.services.insert(owner.clone(), after),
            None => self.ledger.services.remove(owner),
        };
        // Of too many the older ones stay: its age counts, too.
        if before != after || self.ledger.crowded.contains(&owner.namespace) {
            self.charge(owner, &before.unwrap_or_default(), after);
        }
    }

    fn charge(&mut self, object: &ObjectRef, before: &Amounts, after: Option<Amounts>) {
        let namespace = &object.namespace;
        let was = self.ledger.over.remove(object);
        let after = after.unwrap_or_default();
        let counted = |amounts| Over::counted(amounts, &self.budgets);
        self.ledger.count(namespace, &counted(before), &counted(&after));
        self.touched.insert(namespace.clone());
        self.before.entry(object.clone()).or_insert(was);
        if let Some(over) = Over::of_object(&after, &self.budgets) {
            self.ledger.over.insert(object.clone(), over);
        }
    }

    /// Ends the change. Returns who is left out that was not, or not for this, and who is
    /// no longer. These are the `hosts` before it.
    pub fn settle(
        mut self,
        world: &World,
        hosts: &FxHashMap<Arc<str>, Host>,
    ) -> BTreeSet<ObjectRef> {
        for (host, mut entries) in std::mem::take(&mut self.hosts) {
            let known = hosts.get(&host.1).into_iter().flat_map(Host::own);
            let known = known.map(|service| &service.object);
            let of_namespace = |one: &&ObjectRef| one.namespace == host.0;
            entries.extend(known.filter(of_namespace).cloned());
            self.count_together(world, host, entries);
        }
        for namespace in std::mem::take(&mut self.touched) {
            let all = self.ledger.namespaces.get(&namespace);
            let fits = all.is_none_or(|all| all.beyond(&self.budgets.namespace).is_none());
            if !fits || self.ledger.crowded.contains(&namespace) {
                self.judge(world, &namespace);
            }
        }
        let differs = |(object, before): (ObjectRef, Option<Over>)| {
            (self.ledger.over(&object) != before.as_ref()).then_some(object)
        };
        self.before.into_iter().filter_map(differs).collect()
    }

    /// Counts what the ServiceEntries of a host have together, of which these have it or had.
    fn count_together(&mut self, world: &World, host: HostOf, mut entries: Vec<ObjectRef>) {
        entries.sort_unstable();
        entries.dedup();
        let (mut all, mut each) = (Together::default(), 0_u64);
        for reference in &entries {
            if !self.ledger.services.get(reference).is_some_and(|amounts| self.is_counted(amounts))
            {
                continue;
            }
            let Some(entry) = world.get(reference).and_then(|one| one.spec.service_entry()) else {
                continue;
            };
            for _ in entry.hosts.iter().filter(|one| **one == *host.1) {
                let owns = Owns::of(world, entry, &host.1);
                each = each.saturating_add(owns.frontends(entry));
                all.add(owns, entry);
            }
        }
        let frontends = |frontends| Amounts { frontends, ..Amounts::default() };
        let after = all.frontends().saturating_sub(each);
        let before = match after {
            0 => self.ledger.together.remove(&host),
            _ => self.ledger.together.insert(host.clone(), after),
        };
        let before = before.unwrap_or_default();
        if before != after {
            self.ledger.count(&host.0, &frontends(before), &frontends(after));
            self.touched.insert(host.0);
        }
    }

    fn is_counted(&self, amounts: &Amounts) -> bool {
        Over::of_object(amounts, &self.budgets).is_none()
    }

    /// Looks at all objects of a namespace.
    fn judge(&mut self, world: &World, namespace: &Arc<str>) {
        let ledger = &mut *self.ledger;
        let mut all = Vec::new();
        for kind in [Kind::VirtualService, Kind::ServiceEntry, Kind::Service] {
            for (reference, object) in world.of_namespace(kind, namespace) {
                let amounts = match kind {
                    Kind::VirtualService => rules(Some(object)),
                    _ => ledger.services.get(reference).copied(),
                };
                let Some(amounts) = amounts else { continue };
                let was = match Over::of_object(&amounts, &self.budgets) {
                    Some(over) => ledger.over.insert(reference.clone(), over),
                    None => ledger.over.remove(reference),
                };
                if was.is_some() {
                    self.before.entry(reference.clone()).or_insert(was);
                }
                let counted = Over::counted(&amounts, &self.budgets);
                if counted != Amounts::default() {
                    let (created, name, _) = age(&object.meta);
                    let entry = object.spec.service_entry();
                    let entry =
                        entry.filter(|_| Over::of_object(&amounts, &self.budgets).is_none());
                    all.push(((created, name, reference), counted, entry));
                }
            }
        }
        all.sort_unstable_by(|(one, ..), (other, ..)| one.cmp(other));
        ledger.crowded.remove(namespace);
        let (mut taken, mut hosts) = (Amounts::default(), Hosts::default());
        for ((.., reference), mut amounts, entry) in all {
            if let Some(entry) = entry {
                amounts.frontends = hosts.more(world, entry);
            }
            if let Some(over) = Over::of_namespace(&amounts, &mut taken, &self.budgets) {
                self.before.entry(reference.clone()).or_insert(None);
                ledger.over.insert(reference.clone(), over);
                ledger.crowded.insert(namespace.clone());
            } else if let Some(entry) = entry {
                hosts.add(world, entry);
            }
        }
    }
}

/// What a Service or ServiceEntry asks for. Nothing is made for it.
fn of_services(world: &World, backing: &Backing, object: &Object) -> Amounts {
    let count = |len: usize| len as u64;
    match &object.spec {
        Spec::Service(service) => {
            let ports = count(service.ports.len());
            let backends = count(backing.count(object, service));
            let owns = match service.headless {
                true => backends,
                false => count(service.cluster_ips.len()),
            };
            Amounts {
                frontends: owns.saturating_mul(ports),
                endpoints: backends.saturating_mul(ports),
                ..Amounts::default()
            }
        }
        Spec::ServiceEntry(entry) => {
            let namespace = &*object.meta.namespace;
            let each = of_entry(world, backing, namespace, entry);
            let ports = count(entry.ports.len());
            let frontends =
                entry.hosts.iter().map(|host| Owns::of(world, entry, host).frontends(entry));
            Amounts {
                frontends: frontends.fold(0, u64::saturating_add),
                endpoints: each.saturating_mul(ports),
                names: count(entries::names(backing, namespace, entry).count()),
                ..Amounts::default()
            }
        }
        _ => Amounts::default(),
    }
}

/// How many endpoints the hosts of a ServiceEntry have together, for each port.
fn of_entry(world: &World, backing: &Backing, namespace: &str, entry: &ServiceEntry) -> u64 {
    if matches!(entry.resolution, Resolution::None | Resolution::DynamicDns) {
        return 0;
    }
    let by_name = entries::resolves(entry);
    let addresses = |name: &str| world.resolved(name).map_or(1, <[_]>::len).max(1) as u64;
    let of = |address: &str| match by_name && subnets::address(address).is_none() {
        true => addresses(address),
        false => 1,
    };
    let mut each: u64 = entry.endpoints.iter().map(|endpoint| of(&endpoint.address)).sum();
    if let Some(selector) = &entry.workload_selector {
        let entries = backing.entries(namespace, selector);
        let entries = entries.filter_map(|known| known.object.spec.workload_entry());
        each += entries.map(|entry| of(&entry.address)).sum::<u64>();
        for known in backing.pods(namespace, selector) {
            each += known.object.spec.pod().map_or(1, |pod| pod.ips.len().max(1)) as u64;
        }
    } else if by_name && !entry.has_own_endpoints() {
        return entry.hosts.iter().map(|host| addresses(host)).sum();
    }
    each.saturating_mul(entry.hosts.len() as u64)
}
