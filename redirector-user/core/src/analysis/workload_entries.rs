//! WorkloadEntries, against what selects them.

use std::collections::BTreeSet;

use super::facts::Facts;
use super::{Finding, Report};
use crate::diag::codes::differences;
use crate::diag::{Diagnostic, nearest};
use crate::model::{ObjectRef, Resolution, Service, Spec, TargetPort, WorkloadEntry};
use crate::registry::{Protocol, entry_port, of_service_port};
use crate::validate::names::fqdn;

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    for (object, entry) in facts.world.workload_entries() {
        let reference = object.reference();
        let users = facts.registry.users_of(facts.world, &reference);
        let mut report = Report::new(reference, findings);
        let mut known = BTreeSet::new();
        for user in &users {
            let spec = facts.world.get(user).map(|object| &object.spec);
            match spec {
                Some(Spec::ServiceEntry(spec)) => {
                    known.extend(spec.ports.iter().map(|port| port.name.as_str()));
                    if spec.resolution == Resolution::Static {
                        named(user, entry, "resolution STATIC, and so", &mut report);
                    }
                }
                Some(Spec::Service(spec)) => {
                    known.extend(spec.ports.iter().map(|port| port.name.as_str()));
                    named(user, entry, "as a Service", &mut report);
                    lacking(user, spec, entry, &mut known, &mut report);
                }
                _ => {}
            }
        }
        for name in entry.ports.keys().filter(|name| !known.contains(name.as_str())) {
            let Some(user) = users.first() else { break };
            let others = if users.len() > 1 { ", and no other that selects it," } else { "" };
            let finding = left_out(format!(
                "{user}{others} has no port named \"{name}\": the number is not used"
            ));
            let near = nearest(name, known.iter().copied()).map(|near| format!("\"{near}\""));
            report.add("spec.ports", finding.meant(near));
        }
    }
}

fn left_out(message: String) -> Diagnostic {
    Diagnostic::new(&differences::ENTRY_LEFT_OUT, message)
}

/// A name in the place of an address, where no name is resolved.
fn named(user: &ObjectRef, entry: &WorkloadEntry, why: &str, report: &mut Report<'_>) {
    let address = &entry.address;
    if address.parse::<std::net::IpAddr>().is_ok() || fqdn(address).is_err() {
        return;
    }
    let finding = left_out(format!(
        "{user} selects it, and has {why} only endpoints with an address: \"{address}\" is none, and \
         the WorkloadEntry is left out there"
    ));
    let help = "write an address; a ServiceEntry with resolution: DNS takes names";
    report.add("spec.address", finding.help(help));
}

/// Ports of a Service that lead to one by a name that the WorkloadEntry does not have.
fn lacking<'s>(
    user: &ObjectRef,
    spec: &'s Service,
    entry: &WorkloadEntry,
    known: &mut BTreeSet<&'s str>,
    report: &mut Report<'_>,
) {
    for port in &spec.ports {
        let TargetPort::Name(name) = &port.target_port else { continue };
        known.insert(name);
        let app = port.app_protocol.as_deref();
        let protocol = of_service_port(port.port, &port.name, &port.protocol, app);
        if entry_port(port, entry).is_some() || protocol == Protocol::Other {
            continue;
        }
        let finding = left_out(format!(
            "port {} of {user} leads to the port \"{name}\" of what it selects, and the \
             WorkloadEntry has none of that name: it is left out there",
            port.port
        ));
        report.add("spec.ports", finding.help(format!("add ports: {{{name}: NUMBER}}")));
    }
}
