//! ServiceEntries, WorkloadEntries and EndpointSlices: endpoints that can never
//! be used.

use std::collections::{HashMap, HashSet};

use ipnet::IpNet;

use super::facts::Facts;
use super::{Finding, Report};
use crate::diag::codes::{admission, differences, l7};
use crate::diag::{Diagnostic, nearest};
use crate::model::{Kind, ObjectRef, Resolution, SourceSelector, annotations};
use crate::registry::{Pooled, Registry};
use crate::rules::places;
use crate::world::World;

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    for (object, entry) in facts.world.service_entries() {
        let mut report = Report::new(object.reference(), findings);
        match entry.resolution {
            Resolution::Dns | Resolution::DnsRoundRobin => {
                let names = facts.registry.names_of(&object.reference());
                if !names.is_empty() {
                    let shown: Vec<&str> = names.iter().take(4).map(|name| &**name).collect();
                    let more = if names.len() > shown.len() { ", ..." } else { "" };
                    report.add(
                        "spec.resolution",
                        Diagnostic::new(
                            &l7::NEEDS_RESOLVER,
                            format!(
                                "the daemon resolves {}{more}; {} not known here",
                                shown.join(", "),
                                match entry.addresses.is_empty() {
                                    true =>
                                        "which addresses are its own, and whether there are \
                                             endpoints, is",
                                    false => "whether there are endpoints is",
                                }
                            ),
                        ),
                    );
                }
            }
            Resolution::DynamicDns => report.add(
                "spec.resolution",
                Diagnostic::new(
                    &l7::DYNAMIC_DNS,
                    "DYNAMIC_DNS takes the destination from what the client sends: it means \
                     nothing for TCP",
                )
                .help("write resolution: DNS"),
            ),
            Resolution::None | Resolution::Static => {}
        }
        for (i, endpoint) in entry.endpoints.iter().enumerate() {
            unix(&endpoint.address, format!("spec.endpoints[{i}].address"), &mut report);
        }
    }
    for (object, entry) in facts.world.workload_entries() {
        let mut report = Report::new(object.reference(), findings);
        unix(&entry.address, "spec.address".to_owned(), &mut report);
    }
    same_places(facts, findings);
    shared_hosts(facts, findings);
    slices(facts, findings);
}

/// Takes out where a ServiceEntry is said by itself to have no addresses for a port, and
/// connections to it are known by some all the same: those of others of its host, or what its
/// hosts resolve to.
pub(super) fn retain_lacking(
    diagnostics: &mut Vec<Diagnostic>,
    world: &World,
    registry: &Registry,
) {
    diagnostics.retain(|one| {
        let object = one.reference().filter(|_| one.code == admission::NO_ADDRESSES.id);
        let entry = object.and_then(|object| world.get(object)?.spec.service_entry());
        let mut ports = entry.into_iter().flat_map(|entry| &entry.ports).enumerate();
        let port = ports.find(|(place, _)| one.path == format!("spec.ports[{place}]"));
        let (Some(object), Some(entry), Some((_, port))) = (object, entry, port) else {
            return true;
        };
        !entry.hosts.iter().all(|host| {
            let services = registry.named(host).iter();
            let mut own = services.filter(|one| one.namespace() == &object.namespace);
            let here = |(at, prefix): (u16, IpNet)| at == port.number && prefix.prefix_len() > 0;
            own.any(|service| places(service).any(here))
        })
    });
}

/// WorkloadEntries whose processes are known as others'.
fn same_places(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let mut first: HashMap<&SourceSelector, &ObjectRef> = HashMap::new();
    for workload in facts.registry.workloads.sources() {
        let Some(place) = &workload.source else { continue };
        let annotation = match place {
            SourceSelector::Cgroup(_) => annotations::CGROUP,
            SourceSelector::Netns(_) => annotations::NETNS,
            SourceSelector::PodUid(_) => continue,
        };
        let owner = *first.entry(place).or_insert(&workload.object);
        if *owner != workload.object {
            let message = format!("{owner} names it too and has it: no process is this workload");
            Report::new(workload.object.clone(), findings).add(
                format!("metadata.annotations[\"{annotation}\"]"),
                Diagnostic::new(&differences::SAME_PLACE, message),
            );
        }
    }
}

/// Hosts of several ServiceEntries of a namespace, as far as something of the
/// younger one is lost.
fn shared_hosts(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    for Pooled { host, older, younger, separate, lost } in facts.registry.pooled() {
        if lost.is_empty() {
            continue;
        }
        let ports: Vec<String> = lost.iter().map(u16::to_string).collect();
        let ports = ports.join(", ");
        let why = if *separate {
            format!(
                "{older} has the host {host} too, and the two differ in resolution, exportTo or in \
                 having addresses: as a destination the host means the older one, and port {ports} \
                 of this one is not reached by it"
            )
        } else {
            format!("{older} has port {ports} of the host {host} too: the older one's counts")
        };
        Report::new(younger.clone(), findings)
            .add("spec.hosts", Diagnostic::new(&differences::SHARED_HOST, why));
    }
}

fn unix(address: &str, path: String, report: &mut Report<'_>) {
    if address.starts_with("unix://") {
        report.add(
            path,
            Diagnostic::new(
                &l7::UNIX_ENDPOINT,
                "a connection cannot be sent to a unix socket: the share of the endpoint is refused",
            )
            .help("give it an address and a port"),
        );
    }
}

fn slices(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let pods: HashSet<(&str, &str)> = facts
        .world
        .pods()
        .map(|(object, _)| (&*object.meta.namespace, &*object.meta.name))
        .collect();
    for (object, slice) in facts.world.endpoint_slices() {
        let mut report = Report::new(object.reference(), findings);
        let namespace = &object.meta.namespace;
        if facts.world.find(Kind::Service, namespace, &slice.service).is_none() {
            let mut finding = Diagnostic::new(
                &differences::UNKNOWN_SLICE_SERVICE,
                if slice.service.is_empty() {
                    "the slice has no label kubernetes.io/service-name: its endpoints are nobody's"
                        .to_owned()
                } else {
                    format!(
                        "there is no Service {namespace}/{}: the endpoints are nobody's",
                        slice.service
                    )
                },
            );
            if !slice.service.is_empty() && facts.spend(namespace, facts.hosts.len()) {
                let here = facts
                    .world
                    .services()
                    .filter(|(service, _)| service.meta.namespace == *namespace)
                    .map(|(service, _)| &*service.meta.name);
                finding = finding.meant(nearest(&slice.service, here));
            }
            report.add("metadata.labels", finding);
        }
        for (i, endpoint) in slice.endpoints.iter().enumerate() {
            if let Some((at, name)) = &endpoint.pod
                && !pods.contains(&(&**at, &**name))
            {
                report.add(
                    format!("endpoints[{i}].targetRef"),
                    Diagnostic::new(
                        &differences::UNKNOWN_POD,
                        format!("the Pod {at}/{name} is not known: the endpoint is left out"),
                    ),
                );
            }
        }
    }
}
