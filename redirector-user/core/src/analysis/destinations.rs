//! Destinations that Istio understands otherwise, and those whose own rules lead
//! back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::facts::Facts;
use super::policies::served;
use super::virtual_services::{Target, targets};
use super::{Finding, Report};
use crate::diag::Diagnostic;
use crate::diag::codes::differences;
use crate::model::{Resolution, RuleList};
use crate::names::MESH;
use crate::registry::{Service, ServiceKind};
use crate::rules::{Rule, RuleSet};

/// How far a chain of hosts is followed.
const MAX_CHAIN: usize = 200;

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let chain = chains(facts);
    for set in facts.book.sets() {
        let mut report = Report::new(set.reference.clone(), findings);
        let targets = set.spec().map(|spec| targets(&set.reference, spec)).unwrap_or_default();
        let targets = targets.into_iter();
        let counts = |target: &Target<'_>| {
            let rule = set.rule(&target.rule);
            target.rule.list == RuleList::Tcp || rule.is_some_and(|rule| of_mesh(set, rule))
        };
        for target in targets.filter(counts) {
            let to = facts.full_host(&target.destination.host, set.namespace());
            let path = format!("{}.host", target.path);
            if let Some(service) = facts.registry.named(&to).first() {
                headless(service, &path, &mut report);
                passed_on(facts, set, service, &path, &mut report);
            }
            cycle(&chain, set, &to, &path, &mut report);
        }
    }
}

/// A headless destination, which Istio's sidecars do not balance.
fn headless(to: &Service, path: &str, report: &mut Report<'_>) {
    if to.kind == ServiceKind::Headless {
        report.add(
            path,
            Diagnostic::new(
                &differences::HEADLESS_DESTINATION,
                format!(
                    "{} is headless: here the connection goes to one of its endpoints, in \
                     Istio on to the address that was dialled",
                    to.host
                ),
            ),
        );
    }
}

/// A destination that is whatever was dialled, where that is an address which
/// nothing but this project serves.
fn passed_on(facts: &Facts<'_>, set: &RuleSet, to: &Service, path: &str, report: &mut Report<'_>) {
    if to.kind != ServiceKind::Entry(Resolution::None) || !set.is_for_mesh() {
        return;
    }
    // Behind what a name resolves to there is somebody.
    let served = |service: &&Service| !service.by_name && served(facts, service);
    if let Some(service) = facts.having(set).into_iter().find(served) {
        report.add(
            path,
            Diagnostic::new(
                &differences::NOT_DIALLED,
                format!(
                    "{} has resolution NONE: the connection goes on to the address that was \
                     dialled, and behind that of {} is nothing but what is served here",
                    to.host, service.object
                ),
            )
            .help("name a destination that has endpoints"),
        );
    }
}

/// Whether this is a `tls` rule that may match in the mesh.
fn of_mesh(set: &RuleSet, rule: &Rule) -> bool {
    set.is_for_mesh() && rule.id.list == RuleList::Tls && rule.may_match_at(MESH)
}

/// Where the rules in the mesh send each host.
type Chains<'b> = BTreeMap<&'b str, BTreeSet<String>>;

fn chains<'b>(facts: &'b Facts<'_>) -> Chains<'b> {
    let mut chains = Chains::new();
    for set in facts.book.sets().filter(|set| set.is_for_mesh()) {
        let rules = set.tcp.iter().chain(set.tls.iter().filter(|rule| of_mesh(set, rule)));
        let routes = rules.flat_map(|rule| set.route(rule));
        let to = routes.map(|entry| facts.full_host(&entry.host, set.namespace()));
        let to: BTreeSet<String> = to.collect();
        for host in &set.hosts {
            let next = to.iter().filter(|to| *to != host).cloned();
            chains.entry(&**host).or_default().extend(next);
        }
    }
    chains
}

/// Reports a destination whose own rules lead back.
fn cycle(chains: &Chains<'_>, set: &RuleSet, to: &str, path: &str, report: &mut Report<'_>) {
    if set.hosts.iter().any(|home| home == to) {
        return;
    }
    let mut queue = VecDeque::from([to]);
    let mut seen = BTreeSet::from([to]);
    while let Some(host) = queue.pop_front() {
        for next in chains.get(host).into_iter().flatten() {
            if set.hosts.contains(next) {
                report.add(
                    path,
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
