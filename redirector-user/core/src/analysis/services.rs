//! Services and ServiceEntries: names of ports, protocols that agree.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::{Facts, scopes, unjoined};
use super::{Finding, Report, dialled};
use crate::diag::Diagnostic;
use crate::diag::codes::{differences, references};
use crate::model::{ObjectRef, ServicePort, ServiceType};
use crate::registry::{ExportTo, Protocol, Service, of_service_port};
use crate::rules::{Claim, ClaimKind, claimed};

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    for (object, service) in facts.world.services() {
        let system = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];
        if !system.contains(&&*object.meta.namespace) {
            port_names(service, &mut Report::new(object.reference(), findings));
        }
    }
    protocols(facts, findings);
    frontends(facts, findings);
    slices(facts, findings);
}

fn slices(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    for (object, slice, service) in unjoined(facts.world) {
        let names = |names: Vec<&str>| match names.as_slice() {
            [] => "none".to_owned(),
            names => names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", "),
        };
        let message = format!(
            "the ports of Service {} are named {}, and those of the EndpointSlice {}: none of its \
             endpoints is used",
            slice.service,
            names(service.ports.iter().map(|port| &*port.name).collect()),
            names(slice.ports.iter().map(|port| &*port.name).collect()),
        );
        let finding = Diagnostic::new(&differences::NO_ENDPOINTS, message)
            .help("give its ports the names that the Service's have: they are joined by name");
        Report::new(object.reference(), findings).add("ports", finding);
    }
}

/// Services without address, and addresses with several services.
fn frontends(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    for (object, service) in facts.world.services() {
        let mut report = Report::new(object.reference(), findings);
        let addressed = !service.cluster_ips.is_empty() || service.headless;
        if !addressed && service.service_type != ServiceType::ExternalName {
            report.add(
                "spec",
                Diagnostic::new(
                    &differences::NO_FRONTEND,
                    "the Service has no clusterIP and is not headless: there is no address that \
                     a rule could apply to",
                )
                .help("add clusterIP: with the address that the cluster gave it"),
            );
        }
        if service.internal_local {
            report.add(
                "spec.internalTrafficPolicy",
                Diagnostic::new(
                    &differences::LOCAL_TRAFFIC,
                    format!(
                        "only endpoints on the client's node are used; the node is taken to be {}",
                        facts.world.settings.node_name.as_deref().unwrap_or("unknown")
                    ),
                ),
            );
        }
    }
    for service in facts.registry.by_precedence() {
        shared(facts, service, findings);
    }
}

/// What a service claims and an earlier one has.
fn shared(facts: &Facts<'_>, service: &Service, findings: &mut Vec<Finding>) {
    let mut report = Report::new(service.object.clone(), findings);
    // Two headless Services share all of their Pods: it is told of one.
    let mut pods: BTreeMap<&ObjectRef, (Claim<'_>, String, usize)> = BTreeMap::new();
    for (place, prefix, kind) in claimed(service) {
        let Some(port) = service.ports.get(place).map(|port| port.number) else { continue };
        let Some(owner) = facts.claims().owner(port, &prefix).filter(|_| kind.is_said()) else {
            continue;
        };
        // A Service that asks for a gateway is meant to be reached there.
        if owner.service.object == service.object || owner.service.leads_to_gateway {
            continue;
        }
        let at = dialled(&prefix, port);
        if (owner.kind, kind) != (ClaimKind::HeadlessEndpoint, ClaimKind::HeadlessEndpoint) {
            let finding = shared_frontend(&format!("{at} belongs"), service, owner.service);
            report.add(facts.place_of(&service.object, prefix.addr()), finding);
            continue;
        }
        pods.entry(&owner.service.object).or_insert((owner, at, 0)).2 += 1;
    }
    for (owner, at, count) in pods.into_values() {
        // Nothing is served there: it matters where rules differ.
        let rules = |one: &Service| {
            let sets = facts.book.for_host(&one.host).into_iter();
            sets.map(|set| &set.reference).collect::<Vec<_>>()
        };
        if rules(service) != rules(owner.service) {
            let at = match count {
                1 => format!("{at} belongs"),
                more => format!("{at} and {} more belong", more - 1),
            };
            let finding = shared_frontend(&at, service, owner.service).help(
                "write the rules for the older one's host, or give it or this one another port",
            );
            report.add("spec.clusterIP", finding);
        }
    }
}

fn shared_frontend(belongs: &str, service: &Service, owner: &Service) -> Diagnostic {
    let because = match owner.is_allocated() && !service.is_allocated() {
        true => "was given it",
        false => "is older or comes first by name",
    };
    let whom = if owner.export.is_public() { "" } else { " for clients that see it" };
    let message = format!("{belongs} to {} too, which {because} and keeps it{whom}", owner.object);
    Diagnostic::new(&differences::SHARED_FRONTEND, message)
}

fn port_names(service: &crate::model::Service, report: &mut Report<'_>) {
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
        for scope in scopes(&ExportTo::new(export, &object.meta.namespace)) {
            for host in &entry.hosts {
                for (i, port) in entry.ports.iter().enumerate() {
                    claims
                        .entry((host, port.number))
                        .or_default()
                        .entry(scope.to_owned())
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
