//! Rules that no connection reaches, because others take what they would match:
//! read off the [`Plan`](crate::plan::Plan).

use std::collections::{HashMap, HashSet};

use super::facts::Facts;
use super::{Finding, Report};
use crate::client::Asker;
use crate::diag::Diagnostic;
use crate::diag::codes::differences;
use crate::model::{ObjectRef, RuleId, RuleList};
use crate::names::MESH;
use crate::plan::{Frontend, FrontendId, Verdict};
use crate::rules::{Dial, Rule, RuleSet};

/// The frontends of a service.
type Frontends<'p> = HashMap<&'p ObjectRef, Vec<(&'p FrontendId, &'p Frontend)>>;

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let examined = facts.examined;
    // Who was left out might reach any rule.
    if examined.left_out > 0 {
        return;
    }
    let mut frontends = Frontends::new();
    for (id, frontend) in &examined.plan.frontends {
        frontends.entry(&frontend.service).or_default().push((id, frontend));
    }
    let told = told(findings);
    for set in &facts.book.sets {
        for (list, rules) in [("tcp", &set.tcp), ("tls", &set.tls)] {
            // What stands below a rule without match admission has told.
            let open = rules.iter().position(|rule| rule.blocks.is_empty());
            for (index, rule) in rules.iter().enumerate() {
                let path = format!("spec.{list}[{index}]");
                if examined.meets(&rule.id)
                    || open.is_some_and(|open| open < index)
                    || told.contains(&(set.reference.clone(), path.clone()))
                {
                    continue;
                }
                let by = examined.before(&rule.id);
                if let Some(by) = by.or_else(|| in_the_mesh(facts, &frontends, set, rule)) {
                    let mut report = Report::new(set.reference.clone(), findings);
                    report.add(path, unreached(set, by));
                }
            }
        }
    }
}

/// The rules of which it is said already, at one of their matches.
fn told(findings: &[Finding]) -> HashSet<(ObjectRef, String)> {
    let codes =
        [&differences::SHADOWED_SUBNET, &differences::REPEATED_SUBNET, &differences::DEAD_RULE];
    let told = |finding: &&Finding| codes.iter().any(|code| code.id == finding.diagnostic.code);
    let rule = |path: &str| path.split_inclusive(']').next().unwrap_or_default().to_owned();
    let findings = findings.iter().filter(told);
    findings.map(|finding| (finding.object.clone(), rule(&finding.path))).collect()
}

/// The rule that one who meets the conditions of another one meets instead.
fn in_the_mesh<'p>(
    facts: &Facts<'p>,
    frontends: &Frontends<'p>,
    set: &RuleSet,
    rule: &Rule,
) -> Option<&'p RuleId> {
    if !set.is_for_mesh() || rule.id.list != RuleList::Tcp {
        return None;
    }
    let examined = facts.examined;
    let services = set.hosts.iter().flat_map(|host| facts.services_of(host));
    for (id, frontend) in services.filter_map(|one| frontends.get(&one.object)).flatten() {
        let dial = Dial { address: id.prefix, port: id.port, gateway: MESH, sni: None };
        for class in examined.made_for(&set.reference) {
            if !facts.spend(1) {
                return None;
            }
            let who = Asker::new(examined.client(class));
            let Verdict::Route(route) =
                frontend.exceptions.get(&class).unwrap_or(&frontend.default)
            else {
                continue;
            };
            if let Some(by) = route.rule.as_ref().filter(|by| **by != rule.id)
                && set.export.visible(&who)
                && rule.matches(&dial, &who)
            {
                return Some(by);
            }
        }
    }
    None
}

fn unreached(set: &RuleSet, by: &RuleId) -> Diagnostic {
    let list = match by.list {
        RuleList::Tcp => "tcp",
        RuleList::Tls => "tls",
        RuleList::Http => "http",
    };
    let other = match by.object == set.reference {
        true => format!("spec.{list}[{}]", by.index),
        false => format!("spec.{list}[{}] of {}", by.index, by.object),
    };
    Diagnostic::new(
        &differences::NEVER_REACHED,
        format!(
            "no connection reaches this rule: {other} is compared first, and takes what it would match"
        ),
    )
    .help("the first rule that matches wins: narrow the other one, or put both in one object in the order that is meant")
}
