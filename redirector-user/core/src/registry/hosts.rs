//! The services of a host.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rustc_hash::{FxHashMap, FxHashSet};

use super::builder::beyond_limit;
use super::service::{Port, Service};
use crate::model::ObjectRef;

/// Two ServiceEntries of one namespace that have a host in common.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pooled {
    /// The host.
    pub host: Arc<str>,
    /// The one that counts.
    pub older: ObjectRef,
    /// The other.
    pub younger: ObjectRef,
    /// They cannot be one service, and the host means the older one: they differ
    /// in resolution, in who sees them, or in what they claim.
    pub separate: bool,
    /// Ports of the younger one that the host does not have.
    pub lost: Vec<u16>,
}

/// The services of a host, in the order of age.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Host {
    /// As each object has it.
    own: Vec<Arc<Service>>,
    /// What they come to, where ServiceEntries have the host in common.
    pool: Option<Box<Pool>>,
}

#[derive(Debug, Default, PartialEq)]
struct Pool {
    services: Vec<Arc<Service>>,
    pooled: Vec<Pooled>,
}

impl Host {
    /// The services.
    pub fn services(&self) -> &[Arc<Service>] {
        self.pool.as_ref().map_or(&self.own, |pool| &pool.services)
    }

    /// The services as each object has them.
    pub fn own(&self) -> &[Arc<Service>] {
        &self.own
    }

    /// ServiceEntries that have it in common.
    pub fn pooled(&self) -> &[Pooled] {
        self.pool.as_ref().map_or(&[], |pool| &pool.pooled)
    }

    /// Whether nobody has services of it.
    pub fn is_empty(&self) -> bool {
        self.own.is_empty()
    }

    /// Gives objects, which are sorted, these services of the host. Returns what there was
    /// before, if they had others. All are looked at once, however many are replaced.
    pub fn replace(
        &mut self,
        mut services: Vec<(ObjectRef, Vec<Service>)>,
    ) -> Option<Vec<Arc<Service>>> {
        let mut own: FxHashMap<&ObjectRef, Vec<&Service>> = FxHashMap::default();
        for service in self.own.iter().filter(|service| find(&services, service).is_some()) {
            own.entry(&service.object).or_default().push(service);
        }
        services.retain(|(object, services)| {
            let own = own.get(object).map_or(&[][..], Vec::as_slice);
            !own.iter().copied().eq(services)
        });
        if services.is_empty() {
            return None;
        }
        let before = self.services().to_vec();
        self.own.retain(|service| find(&services, service).is_none());
        self.own.extend(services.into_iter().flat_map(|(_, services)| services).map(Arc::new));
        self.own.sort_by(|one, other| one.age().cmp(&other.age()));
        self.pool = pool(&self.own).map(Box::new);
        Some(before)
    }
}

fn find(services: &[(ObjectRef, Vec<Service>)], service: &Service) -> Option<usize> {
    services.binary_search_by(|(object, _)| object.cmp(&service.object)).ok()
}

/// ServiceEntries of one namespace that have a host in common are one service for
/// it, with the ports and addresses of all: of two with one port number the older
/// one's counts. (Istio pools them likewise.) Those that differ in resolution or
/// in who sees them cannot be pooled; the older one is then meant by the host.
fn pool(own: &[Arc<Service>]) -> Option<Pool> {
    // One that is left out is not there, unless there is no other.
    let is_there = |service: &&Arc<Service>| service.rejected.is_none();
    let there = own.iter().filter(is_there).count();
    let lacks = there > 0 && there < own.len();
    let own = own.iter().filter(|service| !lacks || is_there(service));
    let mut all: Vec<Arc<Service>> = Vec::with_capacity(there);
    // The first of each namespace, and the first of those that can be one service.
    let mut firsts: FxHashMap<&Arc<str>, &ObjectRef> = FxHashMap::default();
    let mut alike: FxHashMap<_, (usize, &Service)> = FxHashMap::default();
    let mut parts: BTreeMap<usize, Parts<'_>> = BTreeMap::new();
    let mut pooled = Vec::new();
    for service in own {
        if !service.is_entry() {
            all.push(service.clone());
            continue;
        }
        let first = *firsts.entry(service.namespace()).or_insert(&service.object);
        let (at, older) = *alike.entry(service.pools_by()).or_insert((all.len(), service));
        if *first == service.object {
            all.push(service.clone());
            continue;
        }
        let separate = at == all.len();
        let (older, lost) = if separate {
            all.push(service.clone());
            (first, service.ports.iter().map(|port| port.number).collect())
        } else {
            (&older.object, parts.entry(at).or_insert_with(|| Parts::of(older)).add(service))
        };
        let (older, younger, host) = (older.clone(), service.object.clone(), service.host.clone());
        pooled.push(Pooled { host, older, younger, separate, lost });
    }
    for (at, parts) in parts {
        let service = Arc::make_mut(&mut all[at]);
        parts.join(service);
        service.rejected = beyond_limit(service);
    }
    (lacks || !pooled.is_empty()).then_some(Pool { services: all, pooled })
}

/// What ServiceEntries that are one service have, each thing once.
struct Parts<'s> {
    ports: FxHashMap<u16, &'s Port>,
    addresses: FxHashSet<IpNet>,
    by_name: bool,
    learned: BTreeSet<IpAddr>,
    former: BTreeSet<IpAddr>,
    /// What the oldest has not: ports and addresses, in their order.
    more: (Vec<&'s Port>, Vec<IpNet>),
}

impl<'s> Parts<'s> {
    /// Those of the oldest.
    fn of(oldest: &'s Service) -> Self {
        let mut ports = FxHashMap::default();
        for port in &oldest.ports {
            ports.entry(port.number).or_insert(port);
        }
        Self {
            ports,
            addresses: oldest.addresses.iter().copied().collect(),
            by_name: oldest.by_name,
            learned: oldest.learned.iter().copied().collect(),
            former: oldest.former.iter().copied().collect(),
            more: Default::default(),
        }
    }

    /// With those of a younger one. Returns the ports that an older one has already, and that
    /// do not say the same.
    fn add(&mut self, younger: &'s Service) -> Vec<u16> {
        let mut lost = Vec::new();
        for port in &younger.ports {
            match self.ports.entry(port.number) {
                Entry::Vacant(vacant) => {
                    vacant.insert(port);
                    self.more.0.push(port);
                }
                Entry::Occupied(known) if **known.get() == *port => {}
                Entry::Occupied(_) => lost.push(port.number),
            }
        }
        let addresses = younger.addresses.iter().copied();
        self.more.1.extend(addresses.filter(|address| self.addresses.insert(*address)));
        self.by_name |= younger.by_name;
        self.learned.extend(&younger.learned);
        self.former.extend(&younger.former);
        lost
    }

    /// Gives all of them to the oldest.
    fn join(self, oldest: &mut Service) {
        let Self { by_name, learned, former, more: (ports, addresses), .. } = self;
        oldest.ports.extend(ports.into_iter().cloned());
        oldest.addresses.extend(addresses);
        oldest.by_name = by_name;
        oldest.former = former.difference(&learned).copied().collect();
        oldest.learned = learned.into_iter().collect();
    }
}

/// What is different about a host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum HostChange {
    /// Only the endpoints of ports: [`endpoints`](super::Port::endpoints),
    /// `unusable`, `unresolved` and `sockets`, and addresses
    /// [by their host](Service::by_host). A headless service owns the addresses of its
    /// endpoints, and a ServiceEntry whose names resolve to nothing serves none of its
    /// own: so what claims an address may differ also by these.
    Endpoints,
    /// Anything else of its services, or of the DestinationRules for it.
    Everything,
}

/// What is different between the services of a host.
pub(super) fn change(before: &[Arc<Service>], after: &[Arc<Service>]) -> Option<HostChange> {
    if before.len() != after.len() {
        return Some(HostChange::Everything);
    }
    let mut change = None;
    for (before, after) in before.iter().zip(after) {
        if before == after {
            continue;
        }
        if !before.is_but_for_endpoints(after) {
            return Some(HostChange::Everything);
        }
        change = Some(HostChange::Endpoints);
    }
    change
}
