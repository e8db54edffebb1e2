//! From an object to its services.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use redirector_common::abi::MAX_BACKENDS;

use super::endpoints::Backing;
use super::frontends::Owned;
use super::service::{Port, Service, ServiceKind};
use super::visibility::ExportTo;
use super::{entries, protocol};
use crate::budget::Over;
use crate::model::annotations;
use crate::model::{self, Object, ServiceType, Spec};
use crate::names::{namespace_of, service_host};
use crate::world::World;

/// The hosts that an object has services for.
pub(super) fn hosts(object: &Object, cluster_domain: &str) -> Vec<Arc<str>> {
    match &object.spec {
        Spec::Service(_) => {
            vec![service_host(&object.meta.name, &object.meta.namespace, cluster_domain).into()]
        }
        Spec::ServiceEntry(entry) => entry.hosts.iter().map(|host| host.as_str().into()).collect(),
        _ => Vec::new(),
    }
}

/// Its services, whose endpoints are resolved from these [`names`].
pub(super) fn services(
    world: &World,
    (backing, owned): (&Backing, &Owned),
    object: &Object,
    names: &BTreeSet<Arc<str>>,
) -> Vec<Service> {
    let mut services = match &object.spec {
        Spec::Service(service) => vec![of_service(world, backing, object, service)],
        Spec::ServiceEntry(entry) => {
            entries::services(world, (backing, owned), object, entry, names)
        }
        _ => Vec::new(),
    };
    for service in &mut services {
        service.rejected = beyond_limit(service);
        let owner = namespace_of(&service.host, &world.settings.cluster_domain);
        let home = service.namespace();
        if owner.is_some_and(|owner| world.settings.keeps_home(home, owner)) {
            service.export = service.export.at_home();
        }
    }
    services
}

/// The names that the endpoints and addresses of an object are resolved from.
pub(super) fn names(backing: &Backing, object: &Object) -> BTreeSet<Arc<str>> {
    let entry = object.spec.service_entry();
    let names = entry.map(|entry| entries::names(backing, &object.meta.namespace, entry));
    names.into_iter().flatten().map(Arc::from).collect()
}

/// The services of an object that is left out: only that they would be there.
pub(super) fn left_out(world: &World, object: &Object, over: &Over) -> Vec<Service> {
    let export = match &object.spec {
        Spec::ServiceEntry(entry) => {
            ExportTo::new(entry.export_to.iter().map(String::as_str), &object.meta.namespace)
        }
        _ => service_export(object),
    };
    let kind = match &object.spec {
        Spec::ServiceEntry(entry) => ServiceKind::Entry(entry.resolution),
        _ => ServiceKind::Cluster,
    };
    let hosts = hosts(object, &world.settings.cluster_domain).into_iter().enumerate();
    let service = |named| Service {
        rejected: Some(over.to_string()),
        ..Service::new(object, named, export.clone(), kind.clone())
    };
    hosts.map(service).collect()
}

/// Who sees a Service.
fn service_export(object: &Object) -> ExportTo {
    let export = object.meta.annotations.get(annotations::EXPORT_TO).unwrap_or_default();
    ExportTo::new(export.split(','), &object.meta.namespace)
}

fn of_service(
    world: &World,
    backing: &Backing,
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
            unusable: Vec::new(),
            unresolved: Vec::new(),
            sockets: Vec::new(),
            are_the_host: false,
        })
        .collect();
    backing.fill(object, service, &kind, &mut ports);
    let addresses = match kind {
        ServiceKind::Cluster => service.cluster_ips.iter().copied().map(IpNet::from).collect(),
        _ => Vec::new(),
    };
    let host = service_host(&meta.name, &meta.namespace, &world.settings.cluster_domain).into();
    Service {
        ports,
        addresses,
        local_only: service.internal_local,
        distribution: service.distribution(&meta.annotations),
        ..Service::new(object, (0, host), service_export(object), kind)
    }
}

/// Why a service has more endpoints than a destination can have.
pub(super) fn beyond_limit(service: &Service) -> Option<String> {
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
