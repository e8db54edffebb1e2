//! The annotations of ours about the clients of a Gateway: that has backends told of them,
//! and those about who connects.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::facts::Facts;
use super::gateways::{binds_meet, both_select};
use super::{Finding, Report};
use crate::diag::Diagnostic;
use crate::diag::codes::differences;
use crate::model::annotations::{ACCEPT_PROXY_PROTOCOL, PROXY_PROTOCOL, idle};
use crate::model::{Accepting, Gateway, Object, PROXY_PROTOCOL_V2, Server, speaks_proxy_protocol};
use crate::rules::{Mode, RuleSet, by_age, leads_there, mode, servers, services_of};

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let mut annotated = false;
    for object in facts.world.objects() {
        let Some(value) = object.meta.annotations.get(PROXY_PROTOCOL) else { continue };
        annotated = true;
        let problem = match idle(PROXY_PROTOCOL, value, object.reference().kind) {
            Some((problem, _)) => problem,
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
    by_another(facts, findings);
    by_services(facts, findings);
}

/// Services whose words on whom to believe are not what is in force where they lead: the Gateway
/// says other ones, or other Services add theirs.
fn by_services(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let said = |object: &Object| -> BTreeSet<IpNet> {
        Accepting::of(&object.meta.annotations).announced_by.into_iter().collect()
    };
    let mut told = BTreeSet::new();
    for workload in facts.registry.workloads.all().filter(|workload| workload.gateway) {
        let services: Vec<_> = services_of(facts.world, workload)
            .filter(|(object, _)| !said(object).is_empty())
            .collect();
        if services.is_empty() {
            continue;
        }
        if !facts.spend(&workload.object.namespace, services.len()) {
            return;
        }
        let (listeners, _) = servers(facts.world, workload, None);
        for serving in listeners.values().filter_map(|all| all.first()) {
            let at = (serving.port, serving.listen);
            let believed: BTreeSet<IpNet> =
                serving.accepting.announced_by.iter().copied().collect();
            for (object, _) in services.iter().filter(|(object, service)| {
                leads_there(facts.world, workload, service, at) && said(object) != believed
            }) {
                if !told.insert(object.reference()) {
                    continue;
                }
                let all: Vec<String> = believed.iter().map(IpNet::to_string).collect();
                let why = match said(serving.gateway()).is_empty() {
                    true => "which is what all Services that lead there say together".to_owned(),
                    false => format!(
                        "as {} says, which goes before what Services say",
                        serving.gateway().reference()
                    ),
                };
                let problem = format!(
                    "at port {} of {} the PROXY headers of {} are believed, {why}",
                    serving.listen,
                    workload.object,
                    all.join(", ")
                );
                let finding = Diagnostic::new(&differences::CLIENTS_BY_ANOTHER, problem).help(
                    "write the annotation in one place: on the Gateway, which goes before all",
                );
                Report::new(object.reference(), findings)
                    .add(format!("metadata.annotations.{ACCEPT_PROXY_PROTOCOL}"), finding);
            }
        }
    }
}

/// Gateways that say other things of those who connect than the oldest one that has the
/// same port: what that says is in force there.
fn by_another(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let mut before: Vec<(&Object, &Gateway, Accepting)> = Vec::new();
    for (gateway, spec) in by_age(facts.world) {
        let accepting = Accepting::of(&gateway.meta.annotations);
        for (i, server) in passing(spec) {
            if !facts.spend(&gateway.meta.namespace, before.len()) {
                return;
            }
            let meets = |(_, other): (usize, &Server)| {
                other.port == server.port && binds_meet(other, server)
            };
            let oldest = before
                .iter()
                .find(|(_, its, _)| passing(its).any(meets) && both_select(facts, spec, its));
            let Some((oldest, _, theirs)) = oldest else { continue };
            let differing = accepting.differing(theirs);
            if differing.is_empty() {
                continue;
            }
            let problem = format!(
                "on port {} {} is older, and what it says of {} is in force for both",
                server.port,
                oldest.reference(),
                differing.join(", ")
            );
            let finding = Diagnostic::new(&differences::CLIENTS_BY_ANOTHER, problem)
                .help("write the same on both Gateways, or give one another port or address");
            Report::new(gateway.reference(), findings).add(format!("spec.servers[{i}]"), finding);
        }
        before.push((gateway, spec, accepting));
    }
}

/// The passthrough servers: only these share a port.
fn passing(gateway: &Gateway) -> impl Iterator<Item = (usize, &Server)> {
    gateway.servers.iter().enumerate().filter(|(_, server)| mode(server) == Mode::Sni)
}

/// A VirtualService that two Gateways have at one port, of which one wants the
/// backend to be told the client and the other does not.
fn of_two_minds(facts: &Facts<'_>, set: &RuleSet, findings: &mut Vec<Finding>) {
    let mut before: Vec<(&Object, &Gateway)> = Vec::new();
    for (i, name) in set.gateways.iter().enumerate() {
        let Some((gateway, spec)) = facts.gateway(name) else { continue };
        if !facts.spend(set.namespace(), before.len()) {
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

/// A port on which both have a passthrough server.
fn shared_port(a: &Gateway, b: &Gateway) -> Option<u16> {
    let theirs: Vec<u16> = passing(b).map(|(_, server)| server.port).collect();
    passing(a).map(|(_, server)| server.port).find(|port| theirs.contains(port))
}
