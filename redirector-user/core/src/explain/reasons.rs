//! The witness that keeps reasons.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Considered, Explanation};
use crate::client::Asker;
use crate::rules::{Claim, Rule, RuleSet, Witness};

/// Keeps the reasons of a walk.
pub(super) struct Reasons<'a, 'q> {
    who: &'a Asker<'a, 'q>,
    dialled: IpAddr,
    pub considered: Vec<Considered>,
    notes: Vec<String>,
}

impl<'a, 'q> Reasons<'a, 'q> {
    pub fn new(who: &'a Asker<'a, 'q>, dialled: IpAddr) -> Self {
        Self { who, dialled, considered: Vec::new(), notes: Vec::new() }
    }

    pub fn tell(self, answer: &mut Explanation) {
        answer.considered.extend(self.considered);
        answer.notes.extend(self.notes);
    }
}

impl<'q> Witness<'q> for Reasons<'_, 'q> {
    const ALL: bool = true;

    fn passed_over(&mut self, prefix: &IpNet, claim: &Claim<'q>) {
        self.notes.push(claim.because(self.who, prefix, self.dialled));
    }

    fn compared(
        &mut self,
        set: &'q RuleSet,
        rule: &'q Rule,
        because: impl FnOnce() -> Result<String, String>,
    ) {
        let because = because();
        let matched = because.is_ok();
        self.considered.push(Considered {
            object: set.reference.to_string(),
            list: rule.id.list.to_string(),
            index: rule.id.index,
            matched,
            because: because.unwrap_or_else(|because| because),
        });
    }

    fn outranked<'c>(
        &mut self,
        hosts: impl Iterator<Item = &'c Claim<'q>>,
        prefix: &IpNet,
        by: &Claim<'q>,
    ) where
        'q: 'c,
    {
        let (at, is) = (self.dialled, by.has(prefix));
        self.notes.extend(hosts.map(|claim| {
            format!(
                "{} leads to {at}, which is {is}: what is written goes before what a name resolves \
                 to",
                claim.service.host
            )
        }));
    }

    fn contested(&mut self, prefix: &IpNet, claim: &Claim<'q>, other: &Claim<'q>) {
        let [has, until] = claim.kind.has(true);
        self.notes.push(format!(
            "{} and {} {has} {}{until} both, and this connection would go to something else by each: \
             nothing tells which was meant, so {}",
            claim.service.host,
            other.service.host,
            prefix.addr(),
            if claim.kind.is_by_host() { "it is left as it is" } else { "no rule is applied" },
        ));
    }

    fn alike(&mut self, prefix: &IpNet, other: &Claim<'q>, set: &'q RuleSet) {
        let [has, until] = other.kind.has(false);
        self.notes.push(format!(
            "{} {has} {}{until}, too, and {} leads its connections to the same",
            other.service.host,
            prefix.addr(),
            set.reference,
        ));
    }

    fn bypassed(&mut self, set: &'q RuleSet, client: bool) {
        let by = if client { "the source".to_owned() } else { set.reference.to_string() };
        self.notes.push(format!("{by} is bypassed: it goes as if no rule matched"));
    }
}
