//! The registry: every service with its ports, addresses and endpoints, the
//! DestinationRules merged, the workloads known.
//!
//! It resolves what objects say about one another (selectors, names, slices)
//! and nothing of what rules say about connections; that is
//! [`compile`](crate::compile).

mod builder;
mod changed;
mod destination_rules;
mod edit;
mod endpoints;
mod entries;
mod frontends;
mod given;
mod hosts;
mod ledger;
mod names;
mod protocol;
mod selection;
mod service;
mod together;
mod topology;
mod update;
mod visibility;
mod workloads;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;

pub use changed::Changed;
pub use destination_rules::{DestinationRules, MergedRule, MergedSubset};
pub(crate) use destination_rules::{age, export_of, goes_plain};
pub(crate) use endpoints::entry_port;
pub use endpoints::selects;
pub use frontends::{MOST_ADDRESSES, NotTaken};
pub use given::{HostOf, is_given, with_stand_ins};
pub use hosts::{HostChange, Pooled};
pub use protocol::of_service_port;
pub use service::{Port, Protocol, Service, ServiceEndpoint, ServiceKind, Socket, Unresolved};
pub use topology::{Locality, labels as topology_labels};
pub use visibility::{ExportTo, Reach};
pub use workloads::{StandsFor, Workload, Workloads, is_known_by_hash, pod_uid};

use crate::budget::Over;
use crate::client::Asker;
use crate::model::ObjectRef;
use crate::names::hosts_match;
use crate::world::{Settings, World};
use endpoints::Backing;
use frontends::Owned;
use hosts::Host;
use ledger::Ledger;
use names::Names;

/// Everything that the objects of a World say about services and workloads.
#[derive(Debug, PartialEq)]
pub struct Registry {
    /// The settings of the World.
    pub settings: Settings,
    hosts: FxHashMap<Arc<str>, Host>,
    /// The DestinationRules.
    pub rules: DestinationRules,
    /// The workloads.
    pub workloads: Workloads,
    backing: Backing,
    owned: Owned,
    ledger: Ledger,
    names: Names,
    locality: Locality,
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
    /// All services, in no order that means anything.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.hosts.values().flat_map(Host::services)
    }

    /// All services in the order of [`Service::precedence`].
    pub fn by_precedence(&self) -> Vec<&Arc<Service>> {
        let mut services: Vec<_> = self.services().collect();
        services.sort_unstable_by(|one, other| one.precedence().cmp(&other.precedence()));
        services
    }

    /// The services with this full host name, in the order of age. There may be one
    /// in several namespaces.
    pub fn named(&self, host: &str) -> &[Arc<Service>] {
        self.hosts.get(host).map_or(&[], Host::services)
    }

    /// The hosts of services that a host, wildcard or not, [matches](hosts_match).
    /// For a wildcard all are looked at.
    pub fn hosts_matching(&self, host: &str) -> Vec<&Arc<str>> {
        if host.starts_with('*') {
            return self.hosts.keys().filter(|known| hosts_match(host, known)).collect();
        }
        let ends = host.char_indices().map(|(at, _)| at).chain([host.len()]);
        let wild = ends.filter_map(|at| host.get(at..)).map(|suffix| format!("*{suffix}"));
        let all = std::iter::once(host.to_owned()).chain(wild);
        all.filter_map(|host| Some(self.hosts.get_key_value(&*host)?.0)).collect()
    }

    /// Names that must be resolved for endpoints and addresses of DNS ServiceEntries; what
    /// they resolve to is told to [`World::set_resolved`](crate::world::World::set_resolved).
    pub fn names_to_resolve(&self) -> impl Iterator<Item = &Arc<str>> {
        self.names.all()
    }

    /// The addresses that are known of a name, and which of them are taken where they are
    /// an entry's own, or why not.
    pub fn judged(&self, world: &World, name: &str) -> Vec<(IpAddr, Option<NotTaken>)> {
        let answer = world.answer(name);
        answer.map(|one| self.owned.services.judge(&world.settings, one)).unwrap_or_default()
    }

    /// Whether an address is never taken for a name, whichever resolves to it.
    pub fn is_never_taken(&self, ip: IpAddr) -> bool {
        let judged = self.owned.services.judge(&self.settings, &vec![ip].into());
        judged.iter().any(|(_, why)| why.is_some())
    }

    /// Hosts that were allocated addresses by the settings, each for a namespace, sorted.
    pub fn allocated(&self) -> impl Iterator<Item = &HostOf> {
        self.owned.given.hosts()
    }

    /// Hosts whose allocated address is not what it would be by itself, and the hosts that
    /// have that; `None` where it is written in a document.
    pub fn displaced(&self) -> impl Iterator<Item = (&HostOf, Option<&HostOf>)> {
        self.owned.given.displaced()
    }

    /// Those of one ServiceEntry; empty when all of its endpoints are addresses.
    pub fn names_of(&self, entry: &ObjectRef) -> &BTreeSet<Arc<str>> {
        self.names.of(entry)
    }

    /// Whether a name is one that endpoints come from, and not addresses only.
    pub fn is_endpoint(&self, world: &World, name: &str) -> bool {
        self.names.with(name).any(|entry| {
            let object = world.get(entry);
            let spec = object.and_then(|object| object.spec.service_entry());
            spec.is_some_and(|spec| {
                // What is selected may have any name.
                !spec.has_own_endpoints()
                    || spec.workload_selector.is_some()
                        && !spec.hosts.iter().any(|host| host == name)
                    || spec.endpoints.iter().any(|endpoint| endpoint.address == name)
            })
        })
    }

    /// Whether a name is a host whose rules are for those alone who dial what it resolves to:
    /// nothing else is known to be its own.
    pub fn is_dialled(&self, name: &str) -> bool {
        self.named(name).iter().any(|service| {
            service.by_name && service.addresses.is_empty() && !service.claims_everywhere()
        })
    }

    /// Why a VirtualService, Service or ServiceEntry is left out, as if it were not there:
    /// it, or its namespace, asks for more than it may. Others can still name the host of a
    /// service that is, and are told why they do not reach it.
    pub fn over(&self, object: &ObjectRef) -> Option<&Over> {
        self.ledger.over(object)
    }

    /// All that are left out.
    pub fn all_over(&self) -> impl Iterator<Item = (&ObjectRef, &Over)> {
        self.ledger.all_over()
    }

    /// The Services and ServiceEntries that have a WorkloadEntry as an endpoint because of its
    /// labels.
    pub fn users_of(&self, world: &World, entry: &ObjectRef) -> BTreeSet<ObjectRef> {
        self.backing.users(world, entry)
    }

    /// ServiceEntries that have a host in common, by the age of the younger one.
    pub fn pooled(&self) -> Vec<&Pooled> {
        let mut pooled: Vec<_> = self.hosts.values().flat_map(Host::pooled).collect();
        pooled.sort_unstable_by_key(|one| (&one.younger, &one.host));
        pooled
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
        who.looks_up(target);
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
        let candidates = self.named(host);
        let reaches = |service: &'q Service| {
            service.export.visible(who)
                || (service.export.leaves_home() && who.in_namespace(service.namespace()))
        };
        let first = candidates.first().map(|service| &**service);
        let found = if candidates.len() == 1 {
            first.filter(|only| reaches(only))
        } else {
            let find = |own: bool, entry: bool| {
                let all = candidates.iter().map(|service| &**service);
                let mut those = all.filter(move |one| one.is_entry() == entry);
                those.find(|one| (!own || who.in_namespace(one.namespace())) && reaches(one))
            };
            let order = [(true, false), (true, true), (false, false), (false, true)];
            order.into_iter().find_map(|(own, entry)| find(own, entry))
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
