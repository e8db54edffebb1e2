//! Hosts of VirtualServices: whether anything has them.

use super::facts::Facts;
use super::{Finding, Report};
use crate::diag::Diagnostic;
use crate::diag::codes::references;
use crate::names::MESH;

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    for (object, rule) in facts.world.virtual_services() {
        if !rule.gateways.is_empty() && !rule.gateways.iter().any(|name| name == MESH) {
            continue;
        }
        let mut report = Report::new(object.reference(), findings);
        let namespace = &object.meta.namespace;
        for (i, host) in rule.hosts.iter().enumerate() {
            let full = facts.full_host(host, namespace);
            if !facts.services_of(&full).is_empty() {
                continue;
            }
            let mut finding = Diagnostic::new(
                &references::UNKNOWN_VIRTUAL_HOST,
                format!("no service has the host {full}: the rules never apply to it"),
            );
            finding.help =
                facts.suggest_host(host, namespace).map(|near| format!("did you mean {near}?"));
            report.add(format!("spec.hosts[{i}]"), finding);
        }
    }
}
