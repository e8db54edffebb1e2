//! Rules that no connection reaches, because others take what they would match.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

use ipnet::IpNet;

use super::facts::Facts;
use super::rules::belongs;
use super::shadows::in_wider;
use super::{Finding, Report, dialled};
use crate::client::Asker;
use crate::diag::Diagnostic;
use crate::diag::codes::{Code, differences};
use crate::model::{ObjectRef, RuleId};
use crate::names::MESH;
use crate::registry::Service;
use crate::rules::{
    Arrival, Block, Claim, Dial, Rule, RuleSet, ServerName, Unwatched, Walk, Witness, places,
};

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let examined = facts.examined;
    // Who was left out might reach any rule.
    if examined.left_out > 0 {
        return;
    }
    let mut mesh = None;
    let elsewhere = told(findings, &[&differences::SUBNET_MISSES]);
    let told = told(
        findings,
        &[
            &differences::SHADOWED_SUBNET,
            &differences::REPEATED_SUBNET,
            &differences::DEAD_RULE,
            &differences::SHADOWED_NAME,
        ],
    );
    for set in facts.book.sets() {
        let mut report = Report::new(set.reference.clone(), findings);
        for rules in [&set.tcp, &set.tls] {
            // What stands below a rule without match admission has told.
            let open = rules.iter().position(|rule| rule.blocks.is_empty());
            for (index, rule) in rules.iter().enumerate() {
                let path = rule.id.path();
                let at = (set.reference.clone(), path.clone());
                if open.is_some_and(|open| open < index) || told.contains(&at) {
                    continue;
                }
                let mut before = examined.before(&rule.id);
                if examined.meets(&rule.id) {
                    // Within one object rules for one gateway stand above those for
                    // all because that is meant.
                    for (gateway, by) in before.filter(|(_, by)| by.object != set.reference) {
                        let at = format!(" that comes to the Gateway {gateway}");
                        report.add(path.clone(), unreached(facts, set, rule, &at, by));
                    }
                    continue;
                }
                if let Some((_, by)) = before.next() {
                    report.add(path, unreached(facts, set, rule, "", by));
                    continue;
                }
                let mesh = mesh.get_or_insert_with(|| Mesh::new(facts));
                let by = match mesh.instead_of(set, rule) {
                    Some(Instead::Rule(by)) => by,
                    Some(Instead::Of(message, host)) if !elsewhere.contains(&at) => {
                        let finding = Diagnostic::new(&differences::NEVER_REACHED, message);
                        let help = format!(
                            "write the rule for the host {host}, or give this one an address or a \
                             port of its own"
                        );
                        report.add(path, finding.help(help));
                        continue;
                    }
                    _ => continue,
                };
                let shadowed = in_wider_subnets(facts, rule, by);
                if shadowed.is_empty() || by.object != set.reference {
                    report.add(path, unreached(facts, set, rule, "", by));
                    continue;
                }
                for (at, finding) in shadowed {
                    report.add(format!("{path}.{at}"), finding);
                }
            }
        }
    }
}

/// The rules of which it is said already, at one of their matches.
fn told(findings: &[Finding], codes: &[&Code]) -> HashSet<(ObjectRef, String)> {
    let told = |finding: &&Finding| codes.iter().any(|code| code.id == finding.diagnostic.code);
    let rule = |path: &str| path.split_inclusive(']').next().unwrap_or_default().to_owned();
    let findings = findings.iter().filter(told);
    findings.map(|finding| (finding.object.clone(), rule(&finding.path))).collect()
}

/// Where one who would meet a rule comes to.
enum Instead<'f> {
    /// To another rule of the host.
    Rule(&'f RuleId),
    /// To another service, in words, and its host.
    Of(String, &'f str),
}

/// What is dialled in the mesh.
pub(super) struct Mesh<'f> {
    facts: &'f Facts<'f>,
    /// By service: its ports and prefixes.
    dialled: HashMap<&'f ObjectRef, Vec<(u16, IpNet)>>,
    walk: Walk<'f>,
}

/// A connection to an address of one of a rule's hosts.
pub(super) struct Dialled<'a, 'f> {
    pub service: &'f Service,
    pub dial: Dial<'a>,
    pub who: &'a Asker<'a, 'f>,
    /// The prefix of the service that it is in.
    prefix: &'a IpNet,
    claimed: &'a [(IpNet, Vec<Claim<'f>>)],
    walk: &'a Walk<'f>,
}

impl<'f> Dialled<'_, 'f> {
    /// Where it ends up.
    pub fn arrive<W: Witness<'f>>(&self, witness: &mut W) -> Arrival<'f> {
        let claimed = self.claimed.iter().map(|(at, claims)| (at, &claims[..]));
        self.walk.arrive(claimed, &self.dial, self.who, witness)
    }

    /// It comes to another service.
    fn anothers(&self, at: &IpNet, owner: &'f Service) -> Instead<'f> {
        let address = &self.dial.address;
        let what = dialled(address, self.dial.port);
        let whose = belongs(&what, address, self.prefix, (at, owner));
        Instead::Of(format!("no connection reaches this rule: {whose}"), &owner.host)
    }
}

impl<'f> Mesh<'f> {
    pub fn new(facts: &'f Facts<'f>) -> Self {
        let mut dialled: HashMap<_, Vec<_>> = HashMap::new();
        for service in facts.registry.services() {
            dialled.entry(&service.object).or_default().extend(places(service));
        }
        Self { facts, dialled, walk: Walk::new(facts.registry, &facts.book) }
    }

    /// Shows connections to the addresses of a set's hosts, of all who are asked anything by
    /// its rules, until `look` has found something, or there are too many.
    pub fn find<T>(
        &mut self,
        set: &'f RuleSet,
        rules: &'f [Rule],
        mut look: impl FnMut(&Dialled<'_, 'f>) -> Option<T>,
    ) -> Option<T> {
        let Self { facts, dialled, walk } = self;
        for service in facts.having(set) {
            for (port, prefix) in dialled.get(&service.object).into_iter().flatten() {
                let subnets = rules.iter().flat_map(|rule| &rule.blocks).flat_map(Block::subnets);
                let within = subnets.filter(|subnet| prefix.contains(*subnet));
                for address in std::iter::once(prefix).chain(within).copied() {
                    let claimed = facts.claims().to(*port, &address);
                    let mut asked = 1;
                    for claim in claimed.iter().flat_map(|(_, claims)| claims) {
                        asked += walk.rules(&claim.service.host).sets.len();
                    }
                    let sni = ServerName::Of(&service.host);
                    let dial = Dial { address, port: *port, gateway: MESH, sni };
                    for class in facts.examined.made_for(&set.reference) {
                        if !facts.spend(set.namespace(), asked) {
                            return None;
                        }
                        let who = &Asker::new(facts.examined.client(class));
                        let dialled =
                            Dialled { service, dial, who, prefix, claimed: &claimed, walk };
                        if let Some(found) = look(&dialled) {
                            return Some(found);
                        }
                    }
                }
            }
        }
        None
    }

    /// What one who meets the conditions of a rule meets instead.
    fn instead_of(&mut self, set: &'f RuleSet, rule: &'f Rule) -> Option<Instead<'f>> {
        if !set.is_for_mesh() {
            return None;
        }
        let mut elsewhere = None;
        // Others may take all of it only together.
        let rule = self.find(set, set.list(rule.id.list), |dialled| {
            let meets = rule.matches(&dialled.dial, dialled.who) == Some(true);
            let takes = dialled.service.port(dialled.dial.port)?.protocol.takes();
            let met = meets && takes == Some(rule.id.list) && set.export.visible(dialled.who);
            let arrival = dialled.arrive(&mut Unwatched);
            let (Arrival::Rule(at, claim, ..)
            | Arrival::Service(at, claim)
            | Arrival::Elsewhere(at, claim)) = &arrival
            else {
                return None;
            };
            match arrival {
                _ if !met => None,
                _ if claim.service.object != dialled.service.object => {
                    if dialled.service.export.visible(dialled.who) {
                        elsewhere.get_or_insert_with(|| dialled.anothers(at, claim.service));
                    }
                    None
                }
                Arrival::Rule(_, _, _, by) if by.id != rule.id => Some(Instead::Rule(&by.id)),
                _ => None,
            }
        });
        rule.or(elsewhere)
    }
}

/// The matches of a rule.
fn blocks<'f>(facts: &'f Facts<'_>, rule: &RuleId) -> impl Iterator<Item = &'f Block> + Clone {
    let list = facts.book.get(&rule.object).map_or(&[][..], |set| set.list(rule.list));
    list.iter().filter(move |one| one.id == *rule).flat_map(|one| &one.blocks)
}

/// Of a rule that another one takes everything from: its subnets, where each lies in a wider one
/// of that. None, where one does not.
fn in_wider_subnets(facts: &Facts<'_>, rule: &Rule, by: &RuleId) -> Vec<(String, Diagnostic)> {
    let theirs = blocks(facts, by).flat_map(Block::subnets);
    let mut found = Vec::new();
    for (j, block) in rule.blocks.iter().enumerate() {
        if block.subnets().is_empty() {
            return Vec::new();
        }
        for (k, net) in block.subnets().iter().enumerate() {
            let Some(outer) = theirs.clone().find(|one| *one != net && one.contains(net)) else {
                return Vec::new();
            };
            let path = format!("match[{j}].destinationSubnets[{k}]");
            found.push((path, in_wider(net, outer, by.index as usize)));
        }
    }
    found
}

fn unreached(facts: &Facts<'_>, set: &RuleSet, rule: &Rule, at: &str, by: &RuleId) -> Diagnostic {
    let mut theirs = blocks(facts, by);
    let is_wider = |other: &Block| {
        let covers = |one: &Block| {
            one.server_names().iter().any(|name| one.wider_name(name, other).is_some())
        };
        rule.blocks.iter().any(covers)
    };
    let istio = if theirs.any(is_wider) {
        "; Istio would use the more specific server name"
    } else if !in_wider_subnets(facts, rule, by).is_empty() {
        "; Istio would use the longer prefix"
    } else {
        ""
    };
    let mut other = by.path();
    if by.object != set.reference {
        _ = write!(other, " of {}", by.object);
    }
    Diagnostic::new(
        &differences::NEVER_REACHED,
        format!(
            "no connection{at} reaches this rule: {other} is compared first, and takes what it would match{istio}"
        ),
    )
    .help("the first rule that matches wins: narrow the other one, or put both in one object in the order that is meant")
}
