//! Hosts of VirtualServices: whether anything has them.

use super::facts::Facts;
use super::{Finding, Report};
use crate::diag::Diagnostic;
use crate::diag::codes::{differences, references};
use crate::registry::{Service, ServiceKind};
use crate::validate::names::is_ip;

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    for set in facts.book.sets().filter(|set| set.is_for_mesh()) {
        let mut report = Report::new(set.reference.clone(), findings);
        let hosts = set.spec().map_or(&[][..], |spec| &spec.hosts);
        for (i, (host, full)) in hosts.iter().zip(&set.hosts).enumerate() {
            let services = facts.services_of(full);
            let alias = |service: &&Service| matches!(service.kind, ServiceKind::ExternalName(_));
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
            if facts.refused_service(full) {
                continue;
            }
            let finding = Diagnostic::new(
                &references::UNKNOWN_VIRTUAL_HOST,
                if is_ip(host) {
                    format!(
                        "{host} is an address, and in the mesh services are known by name: the \
                         rules never apply to it there"
                    )
                } else {
                    format!(
                        "no service has the host {full}: the rules never apply to it in the mesh"
                    )
                },
            );
            let near = facts.suggest_host(host, set.namespace());
            report.add(format!("spec.hosts[{i}]"), finding.meant(near));
        }
    }
}
