//! `http` rules: what becomes of them at L4.

use super::facts::Facts;
use super::{Finding, Report};
use crate::client::{Asker, Client};
use crate::diag::Diagnostic;
use crate::diag::codes::{differences, l7};
use crate::model::{L4Match, VirtualService};
use crate::registry::{Port, Protocol};
use crate::rules::{RuleSet, subsets_resolve};

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    for set in facts.book.sets().filter(|set| set.is_for_mesh()) {
        let Some(spec) = set.spec() else { continue };
        let mut report = Report::new(set.reference.clone(), findings);
        if !spec.http.is_empty() {
            http(facts, set, spec, &mut report);
        }
    }
}

fn http(facts: &Facts<'_>, set: &RuleSet, spec: &VirtualService, report: &mut Report<'_>) {
    let services = facts.having(set);
    let may_be_for = |number: u16| {
        spec.http.iter().any(|rule| rule.ports.is_empty() || rule.ports.contains(&number))
    };
    let has_tcp = |number: u16| {
        let open = |block: &L4Match| block.port.is_none_or(|port| port == number);
        spec.tcp.iter().any(|rule| rule.matches.is_empty() || rule.matches.iter().any(open))
    };
    let ports = |those: &dyn Fn(&Port) -> bool| {
        let all = services.iter().flat_map(|one| one.ports.iter().map(|port| (&one.host, port)));
        let all = all.filter(|(_, port)| may_be_for(port.number) && those(port));
        let all = all.map(|(host, port)| format!("port {} of {host}", port.number)).take(4);
        all.collect::<Vec<_>>().join(", ")
    };
    let declared = ports(&|port| port.protocol == Protocol::Tcp && !has_tcp(port.number));
    let left = ports(&|port| matches!(port.protocol, Protocol::Http | Protocol::Auto));
    if declared.is_empty() || !left.is_empty() {
        let they = match declared.is_empty() {
            true => "they".to_owned(),
            false => format!("on {left} they"),
        };
        let message = format!("http rules are decided request by request: {they} are left alone");
        report.add(
            "spec.http",
            Diagnostic::new(&l7::HTTP_RULES, message).help(match set.hosts.is_empty() {
                true => {
                    "tcp rules have no delegates: write what can be decided per connection under \
                     tcp: of the VirtualService that has the hosts"
                }
                false => {
                    "write what can be decided per connection under tcp:, for a port that is \
                     declared TCP"
                }
            }),
        );
    }
    if declared.is_empty() {
        return;
    }
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
                "{declared} is declared TCP, where http rules have no effect: connections are not \
                 split, every endpoint gets the same share (and here: {why})"
            ),
        ),
        Ok(()) => (
            &differences::HTTP_AS_TCP,
            format!(
                "{declared} is declared TCP: in Istio http rules have no effect there; here the \
                 first one is applied as a tcp rule"
            ),
        ),
    };
    let has_route = spec.http.iter().all(|one| !one.route.is_empty());
    let help = match has_route {
        true => "write tcp: instead of http:, with the same route list",
        false => {
            "write tcp: instead of http:, with the destinations that are meant as its route: tcp \
             rules have neither delegates nor redirects"
        }
    };
    report.add("spec.http", Diagnostic::new(code, message).help(help));
}
