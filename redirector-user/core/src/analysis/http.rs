//! `http` rules: what becomes of them at L4.

use super::facts::Facts;
use super::{Finding, Report};
use crate::client::{Asker, Client};
use crate::diag::Diagnostic;
use crate::diag::codes::{differences, l7};
use crate::registry::Protocol;
use crate::rules::{RuleSet, subsets_resolve};

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    for set in facts.book.sets().filter(|set| set.is_for_mesh()) {
        let Some(spec) = set.spec() else { continue };
        let mut report = Report::new(set.reference.clone(), findings);
        if !spec.http.is_empty() {
            http(facts, set, &mut report);
        }
    }
}

fn http(facts: &Facts<'_>, set: &RuleSet, report: &mut Report<'_>) {
    let services = facts.having(set);
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
            .help(match set.hosts.is_empty() {
                true => {
                    "tcp rules have no delegates: write what can be decided per connection under \
                     tcp: of the VirtualService that has the hosts"
                }
                false => "write what can be decided per connection under tcp:",
            }),
        );
        return;
    }
    let ports = declared.join(", ");
    let who = Asker::new(Client::in_namespace(set.namespace()));
    let applied = match &set.http {
        Ok(rule) if facts.examined.meets(&rule.id) => Ok(()),
        Ok(rule) => subsets_resolve(facts.registry, &who, set, rule),
        Err(why) => Err(why.clone()),
    };
    let (code, message) = match applied {
        Err(why) => (
            &l7::HTTP_ON_TCP,
            format!(
                "{ports} is declared TCP, where http rules have no effect: connections are not \
                 split, every endpoint gets the same share (and here: {why})"
            ),
        ),
        Ok(()) => (
            &differences::HTTP_AS_TCP,
            format!(
                "{ports} is declared TCP: in Istio http rules have no effect there; here the \
                 first one is applied as a tcp rule"
            ),
        ),
    };
    let has_route =
        set.spec().is_some_and(|spec| spec.http.iter().all(|one| !one.route.is_empty()));
    let help = match has_route {
        true => "write tcp: instead of http:, with the same route list",
        false => {
            "write tcp: instead of http:, with the destinations that are meant as its route: tcp \
             rules have neither delegates nor redirects"
        }
    };
    report.add("spec.http", Diagnostic::new(code, message).help(help));
}
