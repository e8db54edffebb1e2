//! Hosts of VirtualServices: whether anything has them.

use super::facts::Facts;
use super::{Finding, Report};
use crate::diag::Diagnostic;
use crate::diag::codes::{differences, references};
use crate::names::MESH;
use crate::registry::ServiceKind;
use crate::validate::names::is_ip;

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    for (object, rule) in facts.world.virtual_services() {
        if !rule.gateways.is_empty() && !rule.gateways.iter().any(|name| name == MESH) {
            continue;
        }
        let mut report = Report::new(object.reference(), findings);
        let namespace = &object.meta.namespace;
        for (i, host) in rule.hosts.iter().enumerate() {
            let full = facts.full_host(host, namespace);
            let services = facts.services_of(&full);
            let alias = |service: &&crate::registry::Service| {
                matches!(service.kind, ServiceKind::ExternalName(_))
            };
            if !services.is_empty() {
                if services.iter().all(alias) {
                    report.add(
                        format!("spec.hosts[{i}]"),
                        Diagnostic::new(
                            &differences::ALIAS_HOST,
                            format!(
                                "{full} is an ExternalName Service: it has no address that the \
                                 rules could apply to"
                            ),
                        )
                        .help("write the host that it names"),
                    );
                }
                continue;
            }
            if facts.refused_service(&full) {
                continue;
            }
            let mut finding = Diagnostic::new(
                &references::UNKNOWN_VIRTUAL_HOST,
                if is_ip(host) {
                    format!(
                        "{host} is an address, and in the mesh services are known by name: the \
                         rules never apply to it"
                    )
                } else {
                    format!("no service has the host {full}: the rules never apply to it")
                },
            );
            finding.help =
                facts.suggest_host(host, namespace).map(|near| format!("did you mean {near}?"));
            report.add(format!("spec.hosts[{i}]"), finding);
        }
    }
}
