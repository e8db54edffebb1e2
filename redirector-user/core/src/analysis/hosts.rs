//! Hosts of VirtualServices: whether anything has them.

use super::facts::Facts;
use super::{Finding, Report};
use crate::client::{Asker, Client};
use crate::diag::Diagnostic;
use crate::diag::codes::{differences, references};
use crate::model::RuleList;
use crate::registry::{Service, ServiceKind};
use crate::rules::RuleSet;
use crate::validate::names::is_ip;

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    for set in facts.book.sets().filter(|set| set.is_for_mesh()) {
        let mut report = Report::new(set.reference.clone(), findings);
        let hosts = set.spec().map_or(&[][..], |spec| &spec.hosts);
        for (i, (host, full)) in hosts.iter().zip(&set.hosts).enumerate() {
            let services = facts.services_of(full);
            if !services.is_empty() {
                if let Some(named) = named_alone(&services) {
                    report.add(
                        format!("spec.hosts[{i}]"),
                        Diagnostic::new(
                            &differences::ALIAS_HOST,
                            format!(
                                "{full} is an ExternalName Service: it has no address that the \
                                 rules could apply to"
                            ),
                        )
                        .help(format!("write the host that it names: {named}")),
                    );
                } else if let Some(finding) = unseen(facts, set, &services) {
                    report.add(format!("spec.hosts[{i}]"), finding);
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

/// The host that the first of some services names, where all of them are other names.
pub(super) fn named_alone<'w>(services: &[&'w Service]) -> Option<&'w str> {
    let name = |service: &&'w Service| match &service.kind {
        ServiceKind::ExternalName(target) => Some(&**target),
        _ => None,
    };
    services.iter().map(name).reduce(|first, other| first.filter(|_| other.is_some())).flatten()
}

/// Clients that see the rules, and no service of a host: all of them, or those of the object's
/// own namespace.
fn unseen(facts: &Facts<'_>, set: &RuleSet, services: &[&Service]) -> Option<Diagnostic> {
    if ![RuleList::Tcp, RuleList::Tls].into_iter().any(|list| set.has_for_mesh(list)) {
        return None;
    }
    let mut services = services.iter().filter(|one| one.rejected.is_none());
    let first = services.clone().next()?;
    let service = format!("{}, which is {}", first.object, first.export.describe());
    let home = set.namespace();
    let at_home = &Asker::new(Client::in_namespace(home));
    let message = if !services.clone().any(|one| set.export.meets(&one.export)) {
        format!(
            "no client sees both these rules, which are {}, and {service}: they never apply to the \
             host in the mesh",
            set.export.describe()
        )
    } else if *home != *facts.world.settings.root_namespace
        && set.export.visible(at_home)
        && !services.any(|one| one.export.visible(at_home))
    {
        format!(
            "clients in {home}, the namespace of the rules, do not see {service}: to them the rules \
             do not apply"
        )
    } else {
        return None;
    };
    let finding = Diagnostic::new(&differences::HIDDEN_FROM_CLIENTS, message);
    Some(finding.help(
        "export the service to those who are to have the rules, or write them where it is seen",
    ))
}
