//! DestinationRules: hosts that exist, subsets that have somebody in them.

use super::facts::Facts;
use super::hosts::named_alone;
use super::{Finding, Report};
use crate::client::contains;
use crate::diag::Diagnostic;
use crate::diag::codes::{differences, references};
use crate::model::{DestinationRule, Labels, Object};
use crate::registry::Port;

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    for (object, rule) in facts.world.destination_rules() {
        let mut report = Report::new(object.reference(), findings);
        let namespace = &object.meta.namespace;
        let full = facts.full_host(&rule.host, namespace);
        if let Some(named) = named_alone(&facts.services_of(&full)) {
            let finding = Diagnostic::new(
                &differences::ALIAS_HOST,
                format!(
                    "{full} is an ExternalName Service: policies and subsets for it are never in \
                     force"
                ),
            );
            report.add("spec.host", finding.help(format!("write host: {named}")));
            continue;
        }
        if facts.destination(namespace, &rule.export_to, &rule.host).is_none() {
            unknown_host(facts, object, rule, &mut report);
            continue;
        }
        subsets(facts, object, rule, &mut report);
    }
}

fn unknown_host(
    facts: &Facts<'_>,
    object: &Object,
    rule: &DestinationRule,
    report: &mut Report<'_>,
) {
    let namespace = &object.meta.namespace;
    let full = facts.full_host(&rule.host, namespace);
    let covered = facts.services_of(&full).len();
    if covered == 0 && facts.refused_service(&full) {
        return;
    }
    let finding = if covered > 0 {
        Diagnostic::new(
            &references::UNKNOWN_RULE_HOST,
            format!(
                "Istio's analysis does not know the host {full}; here it is in force for the {} \
                 it covers",
                if covered == 1 { "service".to_owned() } else { format!("{covered} services") }
            ),
        )
    } else {
        let near = facts.suggest_host(&rule.host, namespace);
        Diagnostic::new(
            &references::UNKNOWN_RULE_HOST,
            format!("no service has the host {full}: the DestinationRule concerns nothing"),
        )
        .meant(near.map(|near| format!("host: {near}")))
    };
    report.add("spec.host", finding);
}

fn subsets(facts: &Facts<'_>, object: &Object, rule: &DestinationRule, report: &mut Report<'_>) {
    let full = facts.full_host(&rule.host, &object.meta.namespace);
    let services = facts.services_of(&full);
    for (i, subset) in rule.subsets.iter().enumerate() {
        let labels: Vec<String> = subset.labels.iter().map(|(k, v)| format!("{k}: {v}")).collect();
        let labels = labels.join(", ");
        let ports = || services.iter().flat_map(|service| &service.ports);
        let has = |labels: Option<&Labels>| {
            subset.labels.is_empty() || labels.is_some_and(|have| contains(have, &subset.labels))
        };
        // What a name will be resolved to has the labels that are written beside it. That one
        // is there and cannot be used is told of the shares that go to it.
        let there = ports().any(|port| {
            port.endpoints.iter().any(|endpoint| has(endpoint.labels.as_ref()))
                || port.unresolved.iter().any(|endpoint| has(Some(&endpoint.labels)))
                || port.unusable.iter().any(|labels| has(labels.as_ref()))
        });
        if there {
            continue;
        }
        if !facts.pods().any(&subset.labels) && !facts.entries().any(&subset.labels) {
            report.add(
                format!("spec.subsets[{i}]"),
                Diagnostic::new(
                    &references::EMPTY_SUBSET,
                    format!(
                        "no workload has the labels of the subset \"{}\" ({labels}): a share that goes \
                         to it is refused",
                        subset.name
                    ),
                ),
            );
            continue;
        }
        if ports().any(Port::has_somebody) {
            report.add(
                format!("spec.subsets[{i}]"),
                Diagnostic::new(
                    &references::SUBSET_WITHOUT_ENDPOINTS,
                    format!(
                        "no endpoint of {full} has the labels of the subset \"{}\" ({labels}): a \
                         share that goes to it is refused",
                        subset.name
                    ),
                ),
            );
        }
    }
}
