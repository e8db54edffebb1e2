//! Matches that rules above them take everything from.

use std::collections::{BTreeSet, HashMap, HashSet};

use ipnet::IpNet;

use super::Report;
use super::facts::Facts;
use super::rules::is_any_to_istio;
use crate::diag::Diagnostic;
use crate::diag::codes::differences;
use crate::model::RuleList;
use crate::rules::{Anchor, Block, Rule};

/// Tells of the matches of a list that rules above take everything from.
pub(super) fn shadowed(facts: &Facts<'_>, rules: &[Rule], report: &mut Report<'_>) {
    let mut above = Above::default();
    for (i, rule) in rules.iter().enumerate() {
        // What stands below a rule without match admission has told.
        if rule.blocks.is_empty() {
            return;
        }
        for (j, block) in rule.blocks.iter().enumerate() {
            let path = format!("{}.match[{j}]", rule.id.path());
            let told = match rule.id.list {
                RuleList::Tls => names(facts, &above.all, block, &path, report),
                RuleList::Tcp | RuleList::Http => matches(facts, &above, block, &path, report),
            };
            if told.is_none() {
                return;
            }
        }
        rule.blocks.iter().for_each(|block| above.add(i, block));
    }
}

/// A match, and the place of its rule in the list.
type Placed<'b> = (usize, &'b Block);

/// The matches above one, found by what one that they take everything from must have.
#[derive(Default)]
struct Above<'b> {
    all: Vec<Placed<'b>>,
    seen: HashSet<&'b Block>,
    /// Places in `all` of those for any address, and of others by their subnets.
    anywhere: HashMap<Anchor<'b>, Vec<usize>>,
    within: HashMap<(Anchor<'b>, IpNet), Vec<usize>>,
    /// How long those subnets are.
    lengths: BTreeSet<u8>,
}

impl<'b> Above<'b> {
    fn add(&mut self, rule: usize, block: &'b Block) {
        let (at, anchor) = (self.all.len(), block.anchor());
        self.all.push((rule, block));
        self.seen.insert(block);
        for subnet in block.subnets() {
            self.lengths.insert(subnet.prefix_len());
            self.within.entry((anchor, subnet.trunc())).or_default().push(at);
        }
        if block.subnets().is_empty() {
            self.anywhere.entry(anchor).or_default().push(at);
        }
    }

    /// The first of some that takes everything from a match; `None` where that would be too much
    /// to look at.
    fn first<'s>(
        &'s self,
        (facts, namespace): (&Facts<'_>, &str),
        some: impl Iterator<Item = &'s Vec<usize>>,
        takes: impl Fn(&Block) -> bool,
    ) -> Option<Option<Placed<'b>>> {
        let mut first: Option<usize> = None;
        for places in some {
            let all = places.iter().take_while(|at| first.is_none_or(|first| **at < first));
            for (looked, at) in all.enumerate() {
                if looked % PAID == 0 && !facts.spend(namespace, PAID) {
                    return None;
                }
                if self.all.get(*at).is_some_and(|(_, other)| takes(other)) {
                    first = Some(*at);
                    break;
                }
            }
        }
        Some(first.and_then(|at| self.all.get(at).copied()))
    }
}

/// So many comparisons are paid for at a time.
const PAID: usize = 16;

/// Server names that a wider one above takes: Envoy would take the most specific.
fn names(
    facts: &Facts<'_>,
    above: &[Placed<'_>],
    block: &Block,
    path: &str,
    report: &mut Report<'_>,
) -> Option<()> {
    if !facts.spend(&report.object.namespace, above.len() * block.server_names().len().max(1)) {
        return None;
    }
    for (k, name) in block.server_names().iter().enumerate() {
        let wider = above.iter().find_map(|(n, other)| Some((n, block.wider_name(name, other)?)));
        let Some((n, wide)) = wider else { continue };
        report.add(
            format!("{path}.sniHosts[{k}]"),
            Diagnostic::new(
                &differences::SHADOWED_NAME,
                format!(
                    "{name} is covered by {wide} of rule {n} of the list (counted from 0), which \
                     stands first and wins; Istio would use the more specific name"
                ),
            )
            .help("move the rule with the narrower name above: then both agree"),
        );
    }
    Some(())
}

/// Of a subnet in a wider one of rule `n` of the list, which stands above.
pub(super) fn in_wider(net: &IpNet, outer: &IpNet, n: usize) -> Diagnostic {
    let wins = format!(
        "{net} lies in {outer} of rule {n} of the list (counted from 0), which stands first and wins"
    );
    let (istio, both) = match is_any_to_istio(net) {
        true => ("", ""),
        false => ("; Istio would use the longer prefix", ": then both agree"),
    };
    Diagnostic::new(&differences::SHADOWED_SUBNET, wins + istio)
        .help(format!("move the narrower rule above the wider one{both}"))
}

fn matches(
    facts: &Facts<'_>,
    above: &Above<'_>,
    block: &Block,
    path: &str,
    report: &mut Report<'_>,
) -> Option<()> {
    // What is written twice is already reported by its own code.
    if above.seen.contains(block) {
        return Some(());
    }
    let namespace = &report.object.namespace.clone();
    let anchors = block.anchors();
    let anywhere = anchors.iter().filter_map(|anchor| above.anywhere.get(anchor));
    if let Some((n, _)) = above.first((facts, namespace), anywhere, |other| block.implies(other))? {
        report.add(
            path,
            Diagnostic::new(
                &differences::DEAD_RULE,
                format!(
                    "rule {n} of the list (counted from 0) takes everything that this match does"
                ),
            )
            .help("the first matching rule wins: move the more general one below"),
        );
        return Some(());
    }
    for (k, net) in block.subnets().iter().enumerate() {
        let lengths = above.lengths.range(..=net.prefix_len());
        let outer = lengths.filter_map(|length| IpNet::new(net.network(), *length).ok());
        let outer: Vec<IpNet> = outer.map(|outer| outer.trunc()).collect();
        let within = anchors.iter().flat_map(|anchor| outer.iter().map(|outer| (*anchor, *outer)));
        let within = within.filter_map(|key| above.within.get(&key));
        let takes = |other: &Block| block.implies_within(Some(net), other);
        let Some((n, other)) = above.first((facts, namespace), within, takes)? else { continue };
        let Some(outer) = other.subnets().iter().find(|outer| outer.contains(net)) else {
            continue;
        };
        let finding = if outer == net {
            Diagnostic::new(
                &differences::REPEATED_SUBNET,
                format!(
                    "{net} stands in rule {n} of the list (counted from 0) already, which wins; in \
                     Istio Envoy rejects the listener"
                ),
            )
        } else {
            in_wider(net, outer, n)
        };
        report.add(format!("{path}.destinationSubnets[{k}]"), finding);
    }
    Some(())
}
