//! Which verdict every prefix and port has for every source class.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipnet::IpNet;

use super::classes::Probe;
use super::clients::Clients;
use super::destinations::Destinations;
use crate::client::{Answers, Asker, Client};
use crate::model::{ObjectRef, SourceId};
use crate::names::MESH;
use crate::plan::{Class, Frontend, FrontendId, Source, Verdict};
use crate::registry::Registry;
use crate::rules::{Claim, ClaimKind, Dial, NEVER_CLAIMED, RuleBook, Unwatched, Walk, claims};

/// Compiles the frontends.
pub(super) fn compile<'q>(
    registry: &'q Registry,
    book: &'q RuleBook,
    classes: &[Class],
    sources: &BTreeMap<SourceId, Source>,
    probes: &[Probe],
    destinations: &mut Destinations<'q>,
) -> BTreeMap<FrontendId, Frontend> {
    let clients: Vec<Client<'_>> = classes
        .iter()
        .map(|class| {
            let example = class.example.as_ref();
            let source = example.and_then(|id| Some((id, sources.get(id)?)));
            source.map_or_else(Client::default, |(id, source)| Client {
                namespace: Some(&id.namespace),
                labels: Some(&source.labels),
                addresses: &source.addresses,
                bypassed: registry.settings.bypass.has_workload(&id.namespace, &id.name),
            })
        })
        .collect();
    let everywhere = classes.len() - probes.len();
    let mut by_rules: HashMap<&ObjectRef, Vec<usize>> = HashMap::new();
    for (class, probe) in (everywhere..).zip(probes) {
        for rules in &probe.rules {
            by_rules.entry(rules).or_default().push(class);
        }
    }
    let walk = Walk::new(registry, book);
    let clients = Clients::new(clients, everywhere);
    let mut compiler = Compiler { walk, clients, everywhere, by_rules, destinations };
    let mut frontends = BTreeMap::new();
    for (port, prefixes) in claims(registry) {
        compiler.port(port, &prefixes, &mut frontends);
    }
    frontends
}

struct Compiler<'a, 'q> {
    walk: Walk<'q>,
    clients: Clients<'a>,
    /// So many of them dial everything; behind them are the probes.
    everywhere: usize,
    /// The probes that dial where a VirtualService has rules.
    by_rules: HashMap<&'a ObjectRef, Vec<usize>>,
    destinations: &'a mut Destinations<'q>,
}

impl<'q> Compiler<'_, 'q> {
    fn port(
        &mut self,
        port: u16,
        prefixes: &BTreeMap<IpNet, Vec<Claim<'q>>>,
        frontends: &mut BTreeMap<FrontendId, Frontend>,
    ) {
        // Where a prefix begins, the answer may change: at every claim, inside a
        // claimed CIDR at every subnet of its rules, and inside of everything at
        // what is never taken.
        let mut points: BTreeSet<IpNet> = prefixes.keys().copied().collect();
        for (prefix, claims) in prefixes {
            for claim in claims {
                let rules = self.walk.rules(&claim.service.host);
                if claim.kind == ClaimKind::Anywhere {
                    points.extend(NEVER_CLAIMED.iter().filter(|never| prefix.contains(*never)));
                }
                if prefix.prefix_len() < prefix.max_prefix_len() {
                    points.extend(rules.inside(prefix));
                }
            }
        }
        // Parents come before what lies in them. The stacks hold what encloses
        // the point at hand: claimed prefixes, and the values that stand at
        // the enclosing points.
        let mut claimed: Vec<(IpNet, &[Claim<'q>])> = Vec::new();
        let mut values: Vec<(IpNet, Frontend)> = Vec::new();
        for point in points {
            while claimed.last().is_some_and(|(prefix, _)| !prefix.contains(&point)) {
                claimed.pop();
            }
            while values.last().is_some_and(|(prefix, _)| !prefix.contains(&point)) {
                values.pop();
            }
            if let Some(claims) = prefixes.get(&point) {
                claimed.push((point, claims));
            }
            let Some(value) = self.point(port, &point, &claimed) else { continue };
            // What says the same as what encloses it, or nothing where nothing
            // encloses it, need not be there.
            let needed = match values.last() {
                Some((_, enclosing)) => *enclosing != value,
                None => value.default != Verdict::Pass || !value.exceptions.is_empty(),
            };
            if needed {
                frontends.insert(FrontendId { prefix: point, port }, value.clone());
                values.push((point, value));
            }
        }
    }

    /// What holds at a point for every class.
    fn point(
        &mut self,
        port: u16,
        point: &IpNet,
        claimed: &[(IpNet, &[Claim<'q>])],
    ) -> Option<Frontend> {
        let owner = claimed.last()?.1.first()?;
        for (_, claims) in claimed {
            for claim in *claims {
                self.walk.rules(&claim.service.host);
            }
        }
        // Whoever answers what the unknown caller is asked with no, as that does,
        // gets the same verdict, and is not looked at.
        let who = Asker::recording(self.clients.get(0)?);
        let default = self.verdict(port, point, claimed, &who);
        let record = who.into_record();
        let mut exceptions = BTreeMap::new();
        let mut seen = vec![false; if record.is_empty() { 0 } else { self.everywhere }];
        for asked in 1..=record.len() {
            // Those who answer all that is asked before as the unknown caller does.
            let Some((question, _)) = record.get(asked - 1) else { break };
            let mut group = self.clients.yes(question);
            group.retain(|class| {
                seen.get_mut(*class).is_some_and(|seen| !std::mem::replace(seen, true))
            });
            let mut answers = Answers::default();
            for class in group {
                let verdict = self.alike(port, point, claimed, class, asked, &mut answers)?;
                if verdict != default {
                    exceptions.insert(u32::try_from(class).ok()?, verdict);
                } else if answers.is_settled() {
                    break;
                }
            }
        }
        if !record.is_empty() && !self.by_rules.is_empty() {
            let mut answers = Answers::default();
            answers.insert(record, default.clone());
            for class in self.probes(claimed) {
                let verdict = self.alike(port, point, claimed, class, 0, &mut answers)?;
                if verdict != default {
                    exceptions.insert(u32::try_from(class).ok()?, verdict);
                }
            }
        }
        Some(Frontend { service: owner.service.object.clone(), default, exceptions })
    }

    /// The verdict for a class; of those who answered the first questions alike,
    /// so many as were `asked`, whoever answers the others alike gets the same.
    fn alike(
        &mut self,
        port: u16,
        point: &IpNet,
        claimed: &[(IpNet, &[Claim<'q>])],
        class: usize,
        asked: usize,
        answers: &mut Answers<'q, Verdict>,
    ) -> Option<Verdict> {
        let client = self.clients.get(class)?;
        if let Some(verdict) = answers.find(&client) {
            return Some(verdict.clone());
        }
        let who = Asker::recording(client);
        let verdict = self.verdict(port, point, claimed, &who);
        let record = who.into_record();
        answers.insert(record.get(asked..).unwrap_or_default().to_vec(), verdict.clone());
        Some(verdict)
    }

    /// The probes that dial here.
    fn probes(&mut self, claimed: &[(IpNet, &[Claim<'q>])]) -> BTreeSet<usize> {
        if self.by_rules.is_empty() {
            return BTreeSet::new();
        }
        let mut probes = BTreeSet::new();
        for claim in claimed.iter().flat_map(|(_, claims)| *claims) {
            for set in &self.walk.rules(&claim.service.host).sets {
                probes.extend(self.by_rules.get(&set.reference).into_iter().flatten().copied());
            }
        }
        probes
    }

    fn verdict(
        &mut self,
        port: u16,
        point: &IpNet,
        claimed: &[(IpNet, &[Claim<'q>])],
        who: &Asker<'_, 'q>,
    ) -> Verdict {
        let dial = Dial { address: *point, port, gateway: MESH, sni: None };
        let narrowest_first = claimed.iter().rev().map(|(prefix, claims)| (prefix, *claims));
        let arrival = self.walk.arrive(narrowest_first, &dial, who, &mut Unwatched);
        let v6 = matches!(point, IpNet::V6(_));
        self.destinations
            .arrival(who, &arrival, port, v6)
            .map_or(Verdict::Pass, |(_, verdict)| verdict)
    }
}
