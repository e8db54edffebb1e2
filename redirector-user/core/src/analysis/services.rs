//! Services and ServiceEntries: names of ports, protocols that agree.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::Facts;
use super::{Finding, Report};
use crate::diag::Diagnostic;
use crate::diag::codes::references;
use crate::model::{ObjectRef, Service, ServicePort, ServiceType};
use crate::registry::{Protocol, of_service_port};

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    for (object, service) in facts.world.services() {
        let system = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];
        if !system.contains(&&*object.meta.namespace) {
            port_names(service, &mut Report::new(object.reference(), findings));
        }
    }
    protocols(facts, findings);
}

fn port_names(service: &Service, report: &mut Report<'_>) {
    for (i, port) in service.ports.iter().enumerate() {
        let external = service.service_type == ServiceType::ExternalName;
        if external && (port.name == "tcp" || !says_protocol(port)) {
            report.add(
                format!("spec.ports[{i}]"),
                Diagnostic::new(
                    &references::EXTERNAL_NAME_PORT,
                    format!(
                        "port {} of an ExternalName Service is named \"{}\": in Istio it claims \
                         that port on every address",
                        port.port, port.name
                    ),
                ),
            );
        } else if !external && !says_protocol(port) {
            report.add(
                format!("spec.ports[{i}]"),
                Diagnostic::new(
                    &references::PORT_NAME,
                    if port.name.is_empty() {
                        format!("port {} has no name that says its protocol", port.port)
                    } else {
                        format!("the name \"{}\" of port {} says no protocol", port.name, port.port)
                    },
                ),
            );
        }
    }
}

/// Whether a port declares a protocol that Istio knows.
fn says_protocol(port: &ServicePort) -> bool {
    of_service_port(port.port, &port.name, &port.protocol, port.app_protocol.as_deref())
        != Protocol::Auto
}

/// ServiceEntries that disagree on the protocol of a host's port.
fn protocols(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    type Claims<'w> = BTreeMap<(&'w str, u16), BTreeMap<String, Vec<(ObjectRef, &'w str, String)>>>;
    let mut claims: Claims<'_> = BTreeMap::new();
    for (object, entry) in facts.world.service_entries() {
        let export = entry.export_to.iter().map(String::as_str);
        for scope in super::facts::scopes(export, &object.meta.namespace) {
            for host in &entry.hosts {
                for (i, port) in entry.ports.iter().enumerate() {
                    claims
                        .entry((host, port.number))
                        .or_default()
                        .entry(scope.clone())
                        .or_default()
                        .push((
                            object.reference(),
                            &port.protocol,
                            format!("spec.ports[{i}].protocol"),
                        ));
                }
            }
        }
    }
    let mut reported = BTreeSet::new();
    for ((host, port), by_scope) in &claims {
        let public = by_scope.get("*").map_or(&[][..], Vec::as_slice);
        for (scope, entries) in by_scope {
            let seen = || entries.iter().chain(if scope == "*" { &[][..] } else { public });
            let protocols: BTreeSet<&str> = seen().map(|(_, protocol, _)| *protocol).collect();
            if protocols.len() < 2 {
                continue;
            }
            let named: Vec<&str> =
                protocols.iter().map(|p| if p.is_empty() { "none" } else { *p }).collect();
            for (object, _, path) in seen() {
                if !reported.insert(object.clone()) {
                    continue;
                }
                Report::new(object.clone(), findings).add(
                    path.clone(),
                    Diagnostic::new(
                        &references::PROTOCOL_CONFLICT,
                        format!(
                            "ServiceEntries disagree on the protocol of {host}:{port}: {}",
                            named.join(", ")
                        ),
                    ),
                );
            }
        }
    }
}
