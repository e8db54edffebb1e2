//! The annotation of ours that has backends told the client of a Gateway.

use super::facts::Facts;
use super::gateways::both_select;
use super::{Finding, Report};
use crate::diag::Diagnostic;
use crate::diag::codes::differences;
use crate::model::annotations::{PROXY_PROTOCOL, idle};
use crate::model::{Gateway, Object, PROXY_PROTOCOL_V2, speaks_proxy_protocol};
use crate::rules::{Mode, RuleSet, mode};

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let mut annotated = false;
    for object in facts.world.objects() {
        let Some(value) = object.meta.annotations.get(PROXY_PROTOCOL) else { continue };
        annotated = true;
        let problem = match idle(PROXY_PROTOCOL, value, object.reference().kind) {
            Some(problem) => problem,
            None if value == PROXY_PROTOCOL_V2 => continue,
            None => format!("{PROXY_PROTOCOL}: \"{value}\" is not {PROXY_PROTOCOL_V2}"),
        };
        Report::new(object.reference(), findings).add(
            format!("metadata.annotations.{PROXY_PROTOCOL}"),
            Diagnostic::new(&differences::PROXY_PROTOCOL, problem),
        );
    }
    if annotated {
        for set in facts.book.sets() {
            of_two_minds(facts, set, findings);
        }
    }
}

/// A VirtualService that two Gateways have at one port, of which one wants the
/// backend to be told the client and the other does not.
fn of_two_minds(facts: &Facts<'_>, set: &RuleSet, findings: &mut Vec<Finding>) {
    let mut before: Vec<(&Object, &Gateway)> = Vec::new();
    for (i, name) in set.gateways.iter().enumerate() {
        let Some((gateway, spec)) = facts.gateway(name) else { continue };
        if !facts.spend(before.len()) {
            return;
        }
        let speaks = |gateway: &Object| speaks_proxy_protocol(&gateway.meta.annotations);
        let other = before.iter().find_map(|(other, its)| {
            let port = shared_port(spec, its).filter(|_| speaks(gateway) != speaks(other))?;
            both_select(facts, spec, its).then_some((other, port))
        });
        if let Some((other, port)) = other {
            let (with, without) =
                if speaks(gateway) { (gateway, *other) } else { (*other, gateway) };
            let problem = format!(
                "on port {port} {} asks for the PROXY protocol and {} does not: of rules that \
                 both have, the older Gateway's come first",
                with.reference(),
                without.reference()
            );
            let finding = Diagnostic::new(&differences::PROXY_PROTOCOL, problem)
                .help("let both Gateways ask for it or neither, or bind the rules to one of them");
            Report::new(set.reference.clone(), findings)
                .add(format!("spec.gateways[{i}]"), finding);
            return;
        }
        before.push((gateway, spec));
    }
}

/// A port on which both have a passthrough server: only these share one.
fn shared_port(a: &Gateway, b: &Gateway) -> Option<u16> {
    let ports = |gateway: &Gateway| -> Vec<u16> {
        let passes = gateway.servers.iter().filter(|server| mode(server) == Mode::Sni);
        passes.map(|server| server.port).collect()
    };
    let theirs = ports(b);
    ports(a).into_iter().find(|port| theirs.contains(port))
}
