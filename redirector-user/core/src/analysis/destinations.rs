//! Destinations that Istio understands otherwise, and those whose own rules lead
//! back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::facts::Facts;
use super::policies::served;
use super::virtual_services::{Target, targets};
use super::{Finding, Report};
use crate::diag::Diagnostic;
use crate::diag::codes::differences;
use crate::model::{Object, Resolution, VirtualService};
use crate::names::MESH;
use crate::registry::ServiceKind;

/// How far a chain of hosts is followed.
const MAX_CHAIN: usize = 200;

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let chain = chains(facts);
    for (object, rule) in facts.world.virtual_services() {
        let mut report = Report::new(object.reference(), findings);
        for target in targets(rule).into_iter().filter(|t| t.path.starts_with("spec.tcp")) {
            headless(facts, object, &target, &mut report);
            passed_on(facts, object, rule, &target, &mut report);
            cycle(facts, &chain, object, rule, &target, &mut report);
        }
    }
}

/// A headless destination, which Istio's sidecars do not balance.
fn headless(facts: &Facts<'_>, object: &Object, target: &Target<'_>, report: &mut Report<'_>) {
    let full = facts.full_host(&target.destination.host, &object.meta.namespace);
    if facts.registry.named(&full).next().is_some_and(|it| it.kind == ServiceKind::Headless) {
        report.add(
            format!("{}.host", target.path),
            Diagnostic::new(
                &differences::HEADLESS_DESTINATION,
                format!(
                    "{full} is headless: here the connection goes to one of its endpoints, in \
                     Istio on to the address that was dialled"
                ),
            ),
        );
    }
}

/// A destination that is whatever was dialled, where that is an address which
/// nothing but this project serves.
fn passed_on(
    facts: &Facts<'_>,
    object: &Object,
    rule: &VirtualService,
    target: &Target<'_>,
    report: &mut Report<'_>,
) {
    let namespace = &object.meta.namespace;
    let to = facts.full_host(&target.destination.host, namespace);
    let mut named = facts.registry.named(&to);
    let passes = named.next().is_some_and(|it| it.kind == ServiceKind::Entry(Resolution::None));
    if !passes || !(rule.gateways.is_empty() || rule.gateways.iter().any(|name| name == MESH)) {
        return;
    }
    let mut dialled =
        rule.hosts.iter().flat_map(|host| facts.services_of(&facts.full_host(host, namespace)));
    if let Some(service) = dialled.find(|service| served(facts, service)) {
        report.add(
            format!("{}.host", target.path),
            Diagnostic::new(
                &differences::NOT_DIALLED,
                format!(
                    "{to} has resolution NONE: the connection goes on to the address that was \
                     dialled, and behind that of {} is nothing but what is served here",
                    service.object
                ),
            )
            .help("name a destination that has endpoints"),
        );
    }
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
