//! The registry: every service with its ports, addresses and endpoints, the
//! DestinationRules merged, the workloads known.
//!
//! It resolves what objects say about one another (selectors, names, slices)
//! and nothing of what rules say about connections; that is
//! [`compile`](crate::compile).

mod builder;
mod changed;
mod destination_rules;
mod endpoints;
mod entries;
mod protocol;
mod service;
mod topology;
mod visibility;
mod workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;

pub use changed::{Changed, HostChange};
pub use destination_rules::{DestinationRules, MergedRule, MergedSubset};
pub use protocol::of_service_port;
pub use service::{Endpoint, Port, Protocol, Service, ServiceKind, Socket};
pub use topology::{Locality, labels as topology_labels};
pub use visibility::{ExportTo, Reach};
pub use workloads::{StandsFor, Workload, Workloads, is_known_by_hash, pod_uid};

use crate::client::Asker;
use crate::model::ObjectRef;
use crate::world::{Settings, World};

/// Everything that the objects of a World say about services and workloads.
#[derive(Debug)]
pub struct Registry {
    /// The settings of the World.
    pub settings: Settings,
    services: Vec<Service>,
    by_host: FxHashMap<Arc<str>, Vec<usize>>,
    /// The DestinationRules.
    pub rules: DestinationRules,
    /// The workloads.
    pub workloads: Workloads,
    names: BTreeSet<Arc<str>>,
    /// Those of each ServiceEntry.
    names_of: BTreeMap<ObjectRef, BTreeSet<Arc<str>>>,
    pooled: Vec<Pooled>,
    locality: Locality,
}

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

/// Why a host is no destination for a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoService {
    /// No service has this host.
    Unknown,
    /// A service has it, and the client does not see it.
    Hidden {
        /// The service.
        service: crate::model::ObjectRef,
        /// Who does see it.
        export: String,
    },
    /// It is another name for a host that is no destination.
    Alias {
        /// That host.
        host: Arc<str>,
        /// Whether that is another name, too: only one step is followed.
        again: bool,
    },
    /// The service was left out, for this reason.
    Rejected(String),
}

impl Registry {
    /// Builds the registry of a World.
    pub fn new(world: &World) -> Self {
        builder::build(world)
    }

    /// All services, the oldest first, then by name and namespace: the order
    /// in which two of them own one address.
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// The services with this full host name, in their order. There may be one
    /// in several namespaces.
    pub fn named(&self, host: &str) -> impl Iterator<Item = &Service> {
        self.by_host.get(host).into_iter().flatten().filter_map(|&index| self.services.get(index))
    }

    /// Names that must be resolved for the endpoints of DNS ServiceEntries; what
    /// they resolve to is told to [`World::set_resolved`].
    pub fn names_to_resolve(&self) -> &BTreeSet<Arc<str>> {
        &self.names
    }

    /// Those of one ServiceEntry; empty when all of its endpoints are addresses.
    pub fn names_of(&self, entry: &ObjectRef) -> &BTreeSet<Arc<str>> {
        static NONE: BTreeSet<Arc<str>> = BTreeSet::new();
        self.names_of.get(entry).unwrap_or(&NONE)
    }

    /// ServiceEntries that have a host in common.
    pub fn pooled(&self) -> &[Pooled] {
        &self.pooled
    }

    /// Where the node is.
    pub fn locality(&self) -> &Locality {
        &self.locality
    }

    /// The service that a full host name means for a client: its own
    /// namespace's first, a Service before a ServiceEntry, the older first. A
    /// client reaches a service of its own namespace even when that is
    /// exported to other namespaces only.
    pub fn destination<'q>(
        &'q self,
        who: &Asker<'_, 'q>,
        host: &str,
    ) -> Result<&'q Service, NoService> {
        self.follow(who, self.visible(who, host)?)
    }

    /// The service that one which is another name stands for; any other stands
    /// for itself. Only one step is followed.
    pub fn follow<'q>(
        &'q self,
        who: &Asker<'_, 'q>,
        service: &'q Service,
    ) -> Result<&'q Service, NoService> {
        let ServiceKind::ExternalName(target) = &service.kind else { return Ok(service) };
        match self.visible(who, target) {
            Ok(service) if !matches!(service.kind, ServiceKind::ExternalName(_)) => Ok(service),
            other => Err(NoService::Alias { host: target.clone(), again: other.is_ok() }),
        }
    }

    /// As [`destination`](Self::destination), other names not followed.
    pub fn visible<'q>(
        &'q self,
        who: &Asker<'_, 'q>,
        host: &str,
    ) -> Result<&'q Service, NoService> {
        let Some(candidates) = self.by_host.get(host) else { return Err(NoService::Unknown) };
        let reaches = |service: &'q Service| {
            service.export.visible(who)
                || (service.export.leaves_home() && who.in_namespace(service.namespace()))
        };
        let first = candidates.first().and_then(|&index| self.services.get(index));
        let found = if candidates.len() == 1 {
            first.filter(|only| reaches(only))
        } else {
            let candidates: Vec<&Service> =
                candidates.iter().filter_map(|&index| self.services.get(index)).collect();
            let own = candidates
                .iter()
                .filter(|service| who.in_namespace(service.namespace()))
                .find(|service| reaches(service));
            own.copied().or_else(|| {
                let of_kind = |entry| {
                    let mut those = candidates.iter().filter(move |one| one.is_entry() == entry);
                    those.find(|service| reaches(service)).copied()
                };
                of_kind(false).or_else(|| of_kind(true))
            })
        };
        match (found, first) {
            (Some(service), _) => match &service.rejected {
                Some(reason) => Err(NoService::Rejected(reason.clone())),
                None => Ok(service),
            },
            (None, Some(hidden)) => Err(NoService::Hidden {
                service: hidden.object.clone(),
                export: hidden.export.describe(),
            }),
            (None, None) => Err(NoService::Unknown),
        }
    }
}
