//! `tls` rules for the mesh that the address dialled does not decide.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::facts::Facts;
use super::unreached::Mesh;
use super::{Finding, Report};
use crate::diag::Diagnostic;
use crate::diag::codes::l7;
use crate::model::{Resolution, RuleId, RuleList};
use crate::names::MESH;
use crate::registry::{Service, ServiceKind};
use crate::rules::{Claim, ClaimKind, Rule, RuleSet, Witness, places};

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let mut mesh = None;
    for set in facts.book.sets().filter(|set| set.has_for_mesh(RuleList::Tls)) {
        let mesh = mesh.get_or_insert_with(|| Mesh::new(facts));
        let mut told: BTreeMap<RuleId, Diagnostic> = BTreeMap::new();
        if let Some(rule) = set.tls.iter().find(|rule| rule.may_match_at(MESH))
            && let Some(why) = nowhere(facts, set)
        {
            told.insert(rule.id.clone(), why);
        }
        let _: Option<()> = mesh.find(set, &set.tls, |dialled| {
            let mut untold = Untold::default();
            dialled.arrive(&mut untold);
            let meant = || {
                let mut rules = set.tls.iter();
                rules.find(|rule| rule.matches(&dialled.dial, dialled.who) == Some(true))
            };
            if let Some((rule, why)) = untold.why(meant) {
                told.entry(rule).or_insert(why);
            }
            None
        });
        let mut report = Report::new(set.reference.clone(), findings);
        for (rule, why) in told.into_iter().filter(|(rule, _)| rule.object == set.reference) {
            report.add(rule.path(), why);
        }
    }
}

/// Of hosts that have no address at all: nothing can tell that they are dialled. Names that are
/// not resolved yet, and Services that the cluster gives theirs, may have some later.
fn nowhere(facts: &Facts<'_>, set: &RuleSet) -> Option<Diagnostic> {
    let services = facts.having(set);
    let takes = |service: &&&Service| {
        let mut ports = service.ports.iter();
        let takes = ports.any(|port| port.protocol.takes() == Some(RuleList::Tls));
        takes && service.rejected.is_none()
    };
    let mut all = services.iter().filter(takes);
    let first = all.clone().next()?;
    let has_none = |one: &&Service| one.is_entry() && !one.by_name && places(one).next().is_none();
    if !all.all(has_none) {
        return None;
    }
    let ServiceKind::Entry(resolution) = first.kind else { return None };
    let message = format!(
        "{} has no address, and its hosts are known by nothing else before the server name is sent: \
         the tls rules have no effect in the mesh, and connections go where they would without them",
        first.object
    );
    let help = match resolution {
        Resolution::Dns | Resolution::DnsRoundRobin | Resolution::DynamicDns => {
            "a wildcard cannot be resolved: write a ServiceEntry with the full names of the hosts and \
             resolution DNS, or give this one addresses"
        }
        Resolution::Static | Resolution::None => {
            "give the ServiceEntry addresses, or resolution DNS and the full names of its hosts"
        }
    };
    Some(Diagnostic::new(&l7::TLS_RULES, message).help(help))
}

/// What leaves rules without effect.
#[derive(Default)]
struct Untold<'q> {
    undecided: Option<(&'q Rule, Claim<'q>)>,
    contested: Option<(IpNet, Claim<'q>, Claim<'q>)>,
}

impl<'q> Witness<'q> for Untold<'q> {
    const ALL: bool = false;

    fn undecided(&mut self, _: &'q RuleSet, rule: &'q Rule, claim: &Claim<'q>) {
        self.undecided = Some((rule, *claim));
    }

    fn contested(&mut self, prefix: &IpNet, claim: &Claim<'q>, other: &Claim<'q>) {
        self.contested = Some((*prefix, *claim, *other));
    }
}

impl<'q> Untold<'q> {
    /// The rule, and what to do about it; `meant` is the one for the host that is dialled.
    fn why(self, meant: impl FnOnce() -> Option<&'q Rule>) -> Option<(RuleId, Diagnostic)> {
        let told = |rule: &Rule, message: String, help: &str| {
            (rule.id.clone(), Diagnostic::new(&l7::TLS_RULES, message).help(help))
        };
        if let Some((rule, claim)) = self.undecided {
            let host = &claim.service.host;
            let wanted: Vec<&str> = rule
                .blocks
                .iter()
                .flat_map(|block| block.server_names())
                .map(|name| &**name)
                .collect();
            let wanted = wanted.join(", ");
            return Some(match claim.kind {
                ClaimKind::Anywhere => told(
                    rule,
                    format!(
                        "{} has no address that would tell its hosts from others, and the server \
                         name ({wanted}) is sent after connect() only: the rule is not applied, and \
                         connections to them go on to where they were dialled",
                        claim.service.object
                    ),
                    "write a ServiceEntry with the full names of the hosts and resolution DNS beside \
                     it, or give it addresses; rules that cover the wildcard can stay as they are",
                ),
                _ => told(
                    rule,
                    format!(
                        "{wanted} is a part of {host} only, whose address is dialled, and the server \
                         name is sent after connect(): this rule and those below it are left alone"
                    ),
                    "let sniHosts cover all of the host, or write a ServiceEntry for each full name",
                ),
            });
        }
        let (prefix, claim, other) = self.contested.filter(|(_, one, _)| !one.kind.is_by_host())?;
        Some(told(
            meant()?,
            format!(
                "{} and {} both have {prefix}, and connections to port {} would not go to the same \
                 by both: only the server name could tell, which is sent after connect(), so that \
                 no rule is applied to them",
                claim.service.host, other.service.host, claim.port.number
            ),
            "write rules that lead to the same for both hosts, or give each addresses of its own",
        ))
    }
}
