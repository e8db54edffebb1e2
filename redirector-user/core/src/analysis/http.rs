//! `http` and `tls` rules: what becomes of them at L4.

use super::facts::Facts;
use super::{Finding, Report};
use crate::diag::Diagnostic;
use crate::diag::codes::{differences, l7};
use crate::model::{Object, VirtualService};
use crate::names::MESH;
use crate::registry::{Protocol, Service};

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    for (object, rule) in facts.world.virtual_services() {
        if !rule.gateways.is_empty() && !rule.gateways.iter().any(|name| name == MESH) {
            continue;
        }
        let mut report = Report::new(object.reference(), findings);
        if !rule.http.is_empty() {
            http(facts, object, rule, &mut report);
        }
        if !rule.tls.is_empty() {
            report.add(
                "spec.tls",
                Diagnostic::new(
                    &l7::TLS_RULES,
                    "tls rules are chosen by what the client sends after it has connected: in the \
                     mesh they are left alone",
                ),
            );
        }
    }
}

fn http(facts: &Facts<'_>, object: &Object, rule: &VirtualService, report: &mut Report<'_>) {
    let namespace = &object.meta.namespace;
    let services: Vec<&Service> = rule
        .hosts
        .iter()
        .flat_map(|host| facts.services_of(&facts.full_host(host, namespace)))
        .collect();
    let declared = services.iter().flat_map(|service| {
        let tcp = service.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
        tcp.map(|port| format!("port {} of {}", port.number, service.host))
    });
    let declared: Vec<String> = declared.take(4).collect();
    if declared.is_empty() {
        report.add(
            "spec.http",
            Diagnostic::new(
                &l7::HTTP_RULES,
                "http rules are decided request by request: they are left alone",
            )
            .help("write what can be decided per connection under tcp:"),
        );
        return;
    }
    let ports = declared.join(", ");
    if let Some(why) = not_l4(facts, namespace, rule) {
        report.add(
            "spec.http",
            Diagnostic::new(
                &l7::HTTP_ON_TCP,
                format!(
                    "{ports} is declared TCP, where http rules have no effect: connections are not \
                     split, every endpoint gets the same share (and here: {why})"
                ),
            )
            .help("write tcp: instead of http:, with the same route list"),
        );
    } else {
        report.add(
            "spec.http",
            Diagnostic::new(
                &differences::HTTP_AS_TCP,
                format!(
                    "{ports} is declared TCP: in Istio http rules have no effect there; here the \
                     first one is applied as a tcp rule"
                ),
            )
            .help("write tcp: instead of http:, with the same route list"),
        );
    }
}

/// Why the http rules are not applied at L4; `None` when the first one is.
fn not_l4(facts: &Facts<'_>, namespace: &str, rule: &VirtualService) -> Option<String> {
    if !rule.tcp.is_empty() {
        return Some("the object has tcp rules, which count".to_owned());
    }
    let first = rule.http.first()?;
    if first.has_match {
        return Some("the first rule has a match".to_owned());
    }
    if let Some(field) = first.l7_fields.first() {
        return Some(format!("the first rule has {field}, which needs a proxy"));
    }
    if first.route.is_empty() {
        return Some("the first rule has no route".to_owned());
    }
    first.route.iter().find_map(|destination| {
        let subset = destination.subset.as_deref()?;
        let full = facts.full_host(&destination.host, namespace);
        let defined = !facts.subsets(subset, &full).is_empty();
        (!defined).then(|| format!("the subset \"{subset}\" is not defined"))
    })
}
