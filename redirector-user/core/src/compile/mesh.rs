//! Which verdict every prefix and port has for every source class.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ipnet::IpNet;
use rustc_hash::FxHashSet;

use super::classes::{self, Probe};
use super::clients::Clients;
use super::destinations::Destinations;
use super::readers::Trace;
use crate::client::{Answers, Asked, Asker, Client, Question};
use crate::model::{ObjectRef, SourceId};
use crate::names::MESH;
use crate::plan::{Class, ClassId, Frontend, FrontendId, LocalWorkload, Verdict};
use crate::registry::Registry;
use crate::rules::{
    Claim, ClaimKind, Claims, Dial, RuleBook, ServerName, Unwatched, Walk, left_out,
};

/// Makes the frontends of islands.
pub(super) struct Mesh<'a, 'q> {
    registry: &'q Registry,
    walk: Walk<'q>,
    claims: &'q Claims,
    clients: Clients<'a>,
    /// Their classes, in the same order.
    classes: Vec<ClassId>,
    /// So many of them dial everything; behind them are the probes.
    everywhere: usize,
    /// The probes that dial where an object has a say.
    by_object: HashMap<&'a ObjectRef, Vec<usize>>,
    /// The hosts that were looked up in the island at hand.
    hosts: FxHashSet<Arc<str>>,
    /// What clients were asked there.
    asked: FxHashSet<Question<'q>>,
}

/// The claims to what encloses a point, the widest prefix first.
type Claimed<'i, 'q> = [(IpNet, &'i [Claim<'q>])];

impl<'a, 'q> Mesh<'a, 'q> {
    /// For these classes; the last ones are those of the probes.
    pub fn new(
        registry: &'q Registry,
        book: &'q RuleBook,
        claims: &'q Claims,
        (classes, sources): (&'a BTreeMap<ClassId, Class>, &'a BTreeMap<SourceId, LocalWorkload>),
        probes: &'a [Probe],
    ) -> Self {
        let clients = classes.values().map(|class| {
            let example = class.example.as_ref();
            let source = example.and_then(|id| Some((id, sources.get(id)?)));
            source.map_or_else(Client::default, |(id, source)| {
                classes::client(&registry.settings, id, source)
            })
        });
        let everywhere = classes.len() - probes.len();
        let mut by_object: HashMap<&ObjectRef, Vec<usize>> = HashMap::new();
        for (class, probe) in (everywhere..).zip(probes) {
            for rules in &probe.rules {
                by_object.entry(rules).or_default().push(class);
            }
        }
        Self {
            registry,
            walk: Walk::new(registry, book),
            claims,
            clients: Clients::new(clients.collect(), everywhere),
            classes: classes.keys().copied().collect(),
            everywhere,
            by_object,
            hosts: FxHashSet::default(),
            asked: FxHashSet::default(),
        }
    }

    /// The frontends of an island, and what they were made from.
    pub fn island(
        &mut self,
        port: u16,
        root: &IpNet,
        destinations: &mut Destinations<'q>,
    ) -> (Vec<(FrontendId, Frontend)>, Trace) {
        let prefixes = self.claims.within(port, root);
        let frontends = self.frontends(port, &prefixes, destinations);
        let asked = std::mem::take(&mut self.asked);
        let trace = Trace {
            hosts: std::mem::take(&mut self.hosts).into_iter().collect(),
            asked: asked.iter().map(Asked::from).collect(),
            ..destinations.trace()
        };
        (frontends, trace)
    }

    fn frontends(
        &mut self,
        port: u16,
        prefixes: &BTreeMap<IpNet, Vec<Claim<'q>>>,
        destinations: &mut Destinations<'q>,
    ) -> Vec<(FrontendId, Frontend)> {
        // Where a prefix begins, the answer may change: at every claim, inside a
        // claimed CIDR at every subnet of its rules, and inside of everything at
        // what is never taken.
        let mut points: BTreeSet<IpNet> = prefixes.keys().copied().collect();
        for (prefix, claims) in prefixes {
            for claim in claims {
                if !self.hosts.contains(&claim.service.host) {
                    self.hosts.insert(claim.service.host.clone());
                }
                let rules = self.walk.rules(&claim.service.host);
                if claim.kind == ClaimKind::Anywhere {
                    points.extend(
                        self.registry.settings.never_claimed().filter(|one| prefix.contains(one)),
                    );
                }
                if prefix.prefix_len() < prefix.max_prefix_len() {
                    points.extend(rules.inside(prefix));
                    points.extend(left_out(prefix));
                }
            }
        }
        let mut frontends = Vec::new();
        // Parents come before what lies in them. The stacks hold what encloses
        // the point at hand: claimed prefixes, and the values that stand at
        // the enclosing points.
        let mut claimed: Vec<(IpNet, &[Claim<'q>])> = Vec::new();
        let mut values: Vec<(IpNet, Frontend)> = Vec::new();
        for &point in &points {
            while claimed.last().is_some_and(|(prefix, _)| !prefix.contains(&point)) {
                claimed.pop();
            }
            while values.last().is_some_and(|(prefix, _)| !prefix.contains(&point)) {
                values.pop();
            }
            if let Some(claims) = prefixes.get(&point) {
                claimed.push((point, claims));
            }
            // Nobody dials what others share among themselves.
            if is_shared(&points, &point) {
                continue;
            }
            let Some(value) = self.point(port, &point, &claimed, destinations) else { continue };
            // What says the same as what encloses it, or nothing where nothing
            // encloses it, need not be there.
            let needed = match values.last() {
                Some((_, enclosing)) => *enclosing != value,
                None => value.default != Verdict::Pass || !value.exceptions.is_empty(),
            };
            if needed {
                frontends.push((FrontendId { prefix: point, port }, value.clone()));
                values.push((point, value));
            }
        }
        frontends
    }

    /// What holds at a point for every class.
    fn point(
        &mut self,
        port: u16,
        point: &IpNet,
        claimed: &Claimed<'_, 'q>,
        destinations: &mut Destinations<'q>,
    ) -> Option<Frontend> {
        // Who is said to have it goes before those whose hosts lead there, where everybody sees
        // that one: where some do not, the point is there because of the hosts.
        let mut owner = claimed.last()?.1.first()?;
        if owner.kind.is_by_host() {
            let mut narrowest_first = claimed.iter().rev().flat_map(|(_, claims)| *claims);
            let said = |one: &&Claim<'_>| one.kind.is_said() && one.service.export.is_public();
            owner = narrowest_first.find(said).unwrap_or(owner);
        }
        let mut dialling = Dialling { port, point, claimed, destinations };
        // Whoever answers what the unknown caller is asked with no, as that does,
        // gets the same verdict, and is not looked at.
        let (default, record) = self.verdict(&mut dialling, self.clients.get(0)?);
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
                let verdict = self.alike(&mut dialling, class, asked, &mut answers)?;
                if verdict != default {
                    exceptions.insert(*self.classes.get(class)?, verdict);
                } else if answers.is_settled() {
                    break;
                }
            }
        }
        if !record.is_empty() && !self.by_object.is_empty() {
            let mut answers = Answers::default();
            answers.insert(record, default.clone());
            for class in self.probes(claimed) {
                let verdict = self.alike(&mut dialling, class, 0, &mut answers)?;
                if verdict != default {
                    exceptions.insert(*self.classes.get(class)?, verdict);
                }
            }
        }
        Some(Frontend { service: owner.service.object.clone(), default, exceptions })
    }

    /// The verdict for a class; of those who answered the first questions alike,
    /// so many as were `asked`, whoever answers the others alike gets the same.
    fn alike(
        &mut self,
        dialling: &mut Dialling<'_, 'q>,
        class: usize,
        asked: usize,
        answers: &mut Answers<'q, Verdict>,
    ) -> Option<Verdict> {
        let client = self.clients.get(class)?;
        if let Some(verdict) = answers.find(&client) {
            return Some(verdict.clone());
        }
        let (verdict, record) = self.verdict(dialling, client);
        answers.insert(record.get(asked..).unwrap_or_default().to_vec(), verdict.clone());
        Some(verdict)
    }

    /// The probes that dial here.
    fn probes(&mut self, claimed: &Claimed<'_, 'q>) -> BTreeSet<usize> {
        let mut probes = BTreeSet::new();
        for claim in claimed.iter().flat_map(|(_, claims)| *claims) {
            let service = &claim.service;
            let sets = &self.walk.rules(&service.host).sets;
            let rules = self.registry.rules.for_host(&service.host);
            let objects = std::iter::once(&service.object)
                .chain(sets.iter().map(|set| &set.reference))
                .chain(rules.flat_map(|rule| &rule.objects));
            let known = objects.filter_map(|object| self.by_object.get(object));
            probes.extend(known.flatten().copied());
        }
        probes
    }

    /// The verdict for a client, and what it was asked for that.
    fn verdict(
        &mut self,
        dialling: &mut Dialling<'_, 'q>,
        client: Client<'a>,
    ) -> (Verdict, Vec<(Question<'q>, bool)>) {
        let Dialling { port, point, claimed, destinations } = dialling;
        let who = Asker::recording(client);
        let dial = Dial { address: **point, port: *port, gateway: MESH, sni: ServerName::Unknown };
        let narrowest_first = claimed.iter().rev().map(|(prefix, claims)| (prefix, *claims));
        let arrival = self.walk.arrive(narrowest_first, &dial, &who, &mut Unwatched);
        let v6 = matches!(point, IpNet::V6(_));
        let verdict = destinations
            .arrival(&who, &arrival, *port, v6)
            .map_or(Verdict::Pass, |(_, verdict)| verdict);
        let record = who.into_record();
        // Where there are probes nothing is ever made again.
        if self.by_object.is_empty() {
            self.hosts.extend(record.hosts);
            self.asked.extend(record.answers.iter().map(|(question, _)| *question));
        }
        (verdict, record.answers)
    }
}

/// A point that is dialled, and who claims it.
struct Dialling<'d, 'q> {
    port: u16,
    point: &'d IpNet,
    claimed: &'d Claimed<'d, 'q>,
    destinations: &'d mut Destinations<'q>,
}

/// Whether all of a prefix lies in narrower ones.
fn is_shared(points: &BTreeSet<IpNet>, prefix: &IpNet) -> bool {
    let Ok(mut halves) = prefix.subnets(prefix.prefix_len() + 1) else { return false };
    halves.all(|half| {
        points.range(half..).next().is_some_and(|first| half.contains(first))
            && (points.contains(&half) || is_shared(points, &half))
    })
}
