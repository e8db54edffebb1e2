//! Builds the registry.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use redirector_common::abi::MAX_BACKENDS;
use rustc_hash::FxHashMap;

use super::endpoints::Backing;
use super::service::{Port, Service, ServiceKind};
use super::visibility::ExportTo;
use super::{DestinationRules, Locality, Pooled, Registry, Workloads, entries, protocol};
use crate::model::annotations;
use crate::model::{self, Object, ServiceType};
use crate::names::service_host;
use crate::world::World;

pub(super) fn build(world: &World) -> Registry {
    let backing = Backing::new(world);
    let (mut names, mut names_of) = (BTreeSet::new(), BTreeMap::new());
    let mut services: Vec<Service> = Vec::new();
    for (object, service) in world.services() {
        services.push(of_service(world, &backing, object, service));
    }
    for (object, entry) in world.service_entries() {
        let mut own = BTreeSet::new();
        services.extend(entries::services(world, &backing, object, entry, &mut own));
        if !own.is_empty() {
            names.extend(own.iter().cloned());
            names_of.insert(object.reference(), own);
        }
    }
    services.sort_by_cached_key(|service| {
        let object = &service.object;
        (service.created, object.name.clone(), object.namespace.clone(), object.kind)
    });
    let (mut services, pooled) = pool(services);
    for service in &mut services {
        service.rejected = beyond_limit(service);
    }
    let mut by_host: FxHashMap<Arc<str>, Vec<usize>> = FxHashMap::default();
    for (index, service) in services.iter().enumerate() {
        by_host.entry(service.host.clone()).or_default().push(index);
    }
    let workloads = Workloads::new(world);
    let node = world.settings.node_name.as_deref();
    let locality = node.and_then(|node| backing.node(node)).cloned();
    Registry {
        settings: world.settings.clone(),
        locality: locality.or_else(|| of_sources(&workloads)).unwrap_or_default(),
        rules: DestinationRules::new(world),
        workloads,
        services,
        by_host,
        names,
        names_of,
        pooled,
    }
}

/// ServiceEntries of one namespace that have a host in common are one service for
/// it, with the ports and addresses of all: of two with one port number the older
/// one's counts. (Istio pools them likewise.) Those that differ in resolution or
/// in who sees them cannot be pooled; the older one is then meant by the host.
fn pool(services: Vec<Service>) -> (Vec<Service>, Vec<Pooled>) {
    let mut all: Vec<Service> = Vec::with_capacity(services.len());
    let mut by_host: FxHashMap<(Arc<str>, Arc<str>), Vec<usize>> = FxHashMap::default();
    let mut pooled = Vec::new();
    for service in services {
        if !service.is_entry() {
            all.push(service);
            continue;
        }
        let key = (service.host.clone(), service.namespace().clone());
        let known = by_host.entry(key).or_default();
        let first = known.first().map(|&index| all[index].object.clone());
        let alike = known.iter().copied().find(|&index| all[index].pools_with(&service));
        if let Some(first) = first
            && first != service.object
        {
            let older = alike.map_or(first, |index| all[index].object.clone());
            let (younger, host) = (service.object.clone(), service.host.clone());
            let lost = match alike {
                Some(index) => all[index].pool(service),
                None => {
                    known.push(all.len());
                    let ports = service.ports.iter().map(|port| port.number).collect();
                    all.push(service);
                    ports
                }
            };
            pooled.push(Pooled { host, older, younger, separate: alike.is_none(), lost });
        } else {
            known.push(all.len());
            all.push(service);
        }
    }
    (all, pooled)
}

/// Where the local workloads say that they are, when they all say the same: a
/// plain machine has no Node to ask.
fn of_sources(workloads: &Workloads) -> Option<Locality> {
    let mut said = workloads.sources().map(|workload| &workload.locality);
    let first = said.next()?;
    said.all(|other| other == first).then(|| first.clone())
}

fn of_service(
    world: &World,
    backing: &Backing<'_>,
    object: &Object,
    service: &model::Service,
) -> Service {
    let meta = &object.meta;
    let kind = if service.service_type == ServiceType::ExternalName {
        ServiceKind::ExternalName(service.external_name.trim_end_matches('.').into())
    } else if service.headless {
        ServiceKind::Headless
    } else {
        ServiceKind::Cluster
    };
    let mut ports: Vec<Port> = service
        .ports
        .iter()
        .map(|declared| Port {
            number: declared.port,
            name: declared.name.clone(),
            protocol: protocol::of_service_port(
                declared.port,
                &declared.name,
                &declared.protocol,
                declared.app_protocol.as_deref(),
            ),
            target: None,
            endpoints: Vec::new(),
            unusable: 0,
            unresolved: Vec::new(),
            sockets: Vec::new(),
        })
        .collect();
    backing.fill(&meta.namespace, &meta.name, service, &kind, &mut ports);
    let export = meta.annotations.get(annotations::EXPORT_TO).map_or("", String::as_str);
    let addresses = match kind {
        ServiceKind::Cluster => service.cluster_ips.iter().copied().map(IpNet::from).collect(),
        _ => Vec::new(),
    };
    Service {
        object: object.reference(),
        host: service_host(&meta.name, &meta.namespace, &world.settings.cluster_domain).into(),
        created: meta.created,
        export: ExportTo::new(export.split(','), &meta.namespace),
        kind,
        ports,
        addresses,
        claims_port: false,
        local_only: service.internal_local,
        distribution: service.distribution(&meta.annotations),
        rejected: None,
    }
}

/// Why a service has more endpoints than a destination can have.
fn beyond_limit(service: &Service) -> Option<String> {
    service.ports.iter().find_map(|port| {
        let v6 = port.endpoints.iter().filter(|endpoint| endpoint.ip.is_ipv6()).count();
        let most = v6.max(port.endpoints.len() - v6);
        (most > MAX_BACKENDS as usize).then(|| {
            format!(
                "port {} has {most} endpoints, and {MAX_BACKENDS} is the most that a destination can have",
                port.number
            )
        })
    })
}
