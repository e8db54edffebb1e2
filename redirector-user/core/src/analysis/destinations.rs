//! Destinations: whether connections sent there arrive (semantics.md, sections
//! 7, 9 and 20).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::facts::Facts;
use super::virtual_services::{Target, targets};
use super::{Finding, Report};
use crate::client::contains;
use crate::diag::Diagnostic;
use crate::diag::codes::differences;
use crate::model::{Labels, Object, Resolution, VirtualService};
use crate::names::MESH;
use crate::registry::{Port, Service, ServiceKind};

/// How far a chain of hosts is followed.
const MAX_CHAIN: usize = 200;

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let chain = chains(facts);
    for (object, rule) in facts.world.virtual_services() {
        let mut report = Report::new(object.reference(), findings);
        let families = families(facts, object, rule);
        for target in targets(rule).into_iter().filter(|t| t.path.starts_with("spec.tcp")) {
            arrives(facts, object, &target, families, &mut report);
            cycle(facts, &chain, object, rule, &target, &mut report);
        }
    }
}

/// Whether the hosts have IPv4 and IPv6 addresses.
fn families(facts: &Facts<'_>, object: &Object, rule: &VirtualService) -> (bool, bool) {
    let mut families = (false, false);
    for host in &rule.hosts {
        for service in facts.services_of(&facts.full_host(host, &object.meta.namespace)) {
            for address in &service.addresses {
                match address {
                    ipnet::IpNet::V4(_) => families.0 = true,
                    ipnet::IpNet::V6(_) => families.1 = true,
                }
            }
        }
    }
    families
}

fn arrives(
    facts: &Facts<'_>,
    object: &Object,
    target: &Target<'_>,
    families: (bool, bool),
    report: &mut Report<'_>,
) {
    let destination = target.destination;
    let full = facts.full_host(&destination.host, &object.meta.namespace);
    let Some(service) = facts.registry.named(&full).next() else { return };
    let service = match &service.kind {
        ServiceKind::ExternalName(host) => match facts.registry.named(host).next() {
            Some(service) => service,
            None => {
                let finding = Diagnostic::new(
                    &differences::ALIAS_HOST,
                    format!("{full} is another name for {host}, which no service has: its share is refused"),
                )
                .help(format!("add a ServiceEntry for {host}"));
                report.add(format!("{}.host", target.path), finding);
                return;
            }
        },
        _ => service,
    };
    match service.kind {
        ServiceKind::Headless => report.add(
            format!("{}.host", target.path),
            Diagnostic::new(
                &differences::HEADLESS_DESTINATION,
                format!(
                    "{full} is headless: here the connection goes to one of its endpoints, in \
                     Istio on to the address that was dialled"
                ),
            ),
        ),
        // What a name resolves to is not known here, and without endpoints
        // the address dialled is used.
        ServiceKind::Entry(
            Resolution::None | Resolution::Dns | Resolution::DnsRoundRobin | Resolution::DynamicDns,
        ) => return,
        _ => {}
    }
    let port = match destination.port {
        Some(port) => service.port(port),
        None => match &service.ports[..] {
            [only] => Some(only),
            _ => None,
        },
    };
    let Some(port) = port else { return };
    if port.endpoints.is_empty() && facts.promised(&service.object) {
        return;
    }
    let labels = match &destination.subset {
        None => None,
        Some(subset) => match facts.subsets(subset, &full).first() {
            Some((_, labels)) => Some(*labels),
            None => return,
        },
    };
    endpoints(service, port, labels, target, families, report);
}

fn endpoints(
    service: &Service,
    port: &Port,
    labels: Option<&Labels>,
    target: &Target<'_>,
    families: (bool, bool),
    report: &mut Report<'_>,
) {
    let subset = target.destination.subset.as_deref();
    let path = match subset {
        Some(_) => format!("{}.subset", target.path),
        None => format!("{}.host", target.path),
    };
    let name = match subset {
        Some(subset) => format!("the subset {subset} of {}:{}", service.host, port.number),
        None => format!("{}:{}", service.host, port.number),
    };
    let inside = |labels: &Labels, endpoint: &crate::registry::Endpoint| {
        labels.is_empty() || endpoint.labels.as_ref().is_some_and(|have| contains(have, labels))
    };
    let mut found = (false, false);
    for endpoint in &port.endpoints {
        if labels.is_none_or(|labels| inside(labels, endpoint)) {
            match endpoint.ip {
                std::net::IpAddr::V4(_) => found.0 = true,
                std::net::IpAddr::V6(_) => found.1 = true,
            }
        }
    }
    if found == (false, false) {
        let mut finding = Diagnostic::new(
            &differences::NO_ENDPOINTS,
            format!("{name} has no usable endpoint: its share of the connections is refused"),
        );
        if port.unusable > 0 {
            let what = if port.unusable == 1 { "1 is" } else { "several are" };
            finding.help =
                Some(format!("{what} known and cannot be used: not ready, or without address"));
        }
        report.add(path, finding);
        return;
    }
    let missing = match (families, found) {
        ((true, _), (false, _)) => "IPv4",
        ((_, true), (_, false)) => "IPv6",
        _ => return,
    };
    report.add(
        path,
        Diagnostic::new(
            &differences::OTHER_FAMILY,
            format!(
                "{name} has no {missing} endpoint: connections to an {missing} address of the \
                 hosts are refused when they come here"
            ),
        ),
    );
}

/// Where the tcp rules in the mesh send each host.
type Chains = BTreeMap<String, BTreeSet<String>>;

fn chains(facts: &Facts<'_>) -> Chains {
    let mut chains = Chains::new();
    for (object, rule) in facts.world.virtual_services() {
        if !rule.gateways.is_empty() && !rule.gateways.iter().any(|name| name == MESH) {
            continue;
        }
        let namespace = &object.meta.namespace;
        for host in &rule.hosts {
            let host = facts.full_host(host, namespace);
            let next = chains.entry(host.clone()).or_default();
            for destination in rule.tcp.iter().flat_map(|tcp| &tcp.route) {
                let to = facts.full_host(&destination.host, namespace);
                if to != host {
                    next.insert(to);
                }
            }
        }
    }
    chains
}

/// Reports a destination whose own rules lead back.
fn cycle(
    facts: &Facts<'_>,
    chains: &Chains,
    object: &Object,
    rule: &VirtualService,
    target: &Target<'_>,
    report: &mut Report<'_>,
) {
    let namespace = &object.meta.namespace;
    let to = facts.full_host(&target.destination.host, namespace);
    let homes: BTreeSet<String> =
        rule.hosts.iter().map(|host| facts.full_host(host, namespace)).collect();
    if homes.contains(&to) {
        return;
    }
    let mut queue = VecDeque::from([to.as_str()]);
    let mut seen = BTreeSet::from([to.as_str()]);
    while let Some(host) = queue.pop_front() {
        for next in chains.get(host).into_iter().flatten() {
            if homes.contains(next) {
                report.add(
                    format!("{}.host", target.path),
                    Diagnostic::new(
                        &differences::CYCLE,
                        format!(
                            "the rules of {to} lead back to {next}; they are not applied again: \
                             the connection ends at {to}"
                        ),
                    ),
                );
                return;
            }
            if seen.len() < MAX_CHAIN && seen.insert(next) {
                queue.push_back(next);
            }
        }
    }
}
