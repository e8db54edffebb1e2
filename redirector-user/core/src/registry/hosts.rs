//! The services of a host.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::builder::beyond_limit;
use super::service::Service;
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

    /// Whether an object has exactly these services of the host.
    pub fn has(&self, object: &ObjectRef, services: &[Service]) -> bool {
        let own = self.own.iter().filter(|service| service.object == *object);
        own.map(|service| &**service).eq(services)
    }

    /// Whether nobody has services of it.
    pub fn is_empty(&self) -> bool {
        self.own.is_empty()
    }

    /// Gives an object other services of the host; [`settle`](Self::settle) has to follow.
    pub fn replace(&mut self, object: &ObjectRef, services: Vec<Service>) {
        self.own.retain(|service| service.object != *object);
        for service in services {
            let at = self.own.partition_point(|other| other.age() < service.age());
            self.own.insert(at, Arc::new(service));
        }
    }

    /// Works out what the services come to, once for all that were replaced.
    pub fn settle(&mut self) {
        self.pool = pool(&self.own).map(Box::new);
    }
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
    let mut by_namespace: FxHashMap<&Arc<str>, Vec<usize>> = FxHashMap::default();
    let mut pooled = Vec::new();
    for service in own {
        if !service.is_entry() {
            all.push(service.clone());
            continue;
        }
        let known = by_namespace.entry(service.namespace()).or_default();
        let first = known.first().map(|&index| all[index].object.clone());
        let alike = known.iter().copied().find(|&index| all[index].pools_with(service));
        if let Some(first) = first
            && first != service.object
        {
            let older = alike.map_or(first, |index| all[index].object.clone());
            let (younger, host) = (service.object.clone(), service.host.clone());
            let lost = match alike {
                Some(index) => {
                    let older = Arc::make_mut(&mut all[index]);
                    let lost = older.pool(Service::clone(service));
                    older.rejected = beyond_limit(older);
                    lost
                }
                None => {
                    known.push(all.len());
                    all.push(service.clone());
                    service.ports.iter().map(|port| port.number).collect()
                }
            };
            pooled.push(Pooled { host, older, younger, separate: alike.is_none(), lost });
        } else {
            known.push(all.len());
            all.push(service.clone());
        }
    }
    (lacks || !pooled.is_empty()).then_some(Pool { services: all, pooled })
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
