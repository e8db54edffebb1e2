//! What names resolve to, as the engine and the report know it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use redirector_core::plan::{Delta, DestinationId, Lacks, Plan};
use redirector_core::registry::MOST_ADDRESSES;

use super::control_loop::Daemon;
use super::engine::Engine;
use super::names::{Addresses, Resolved as Looked};
use super::now;
use crate::state::{KnownName, Resolved, UnresolvedName};

/// What is known of each name.
pub(super) type Known = BTreeMap<Arc<str>, Resolved>;

/// What is only counted and shown.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// When each was answered last, in seconds since 1970. Of those that this daemon has no
    /// answer for that is what an earlier one wrote down, who may have had a later one.
    answered: BTreeMap<Arc<str>, u64>,
    /// Those that are not answered for.
    failing: BTreeMap<Arc<str>, Failing>,
    /// What rules send somewhere, and lacks an endpoint because its name is not resolved.
    lacking: BTreeSet<DestinationId>,
    /// How often a lookup has failed.
    pub failures: u64,
    /// What the report says of the names is not so any more.
    pub is_news: bool,
}

/// A name that nobody answers for.
#[derive(Debug)]
struct Failing {
    /// What came of the last lookup.
    because: String,
    /// Since when, in seconds since 1970.
    since: u64,
}

impl Asked {
    /// An earlier daemon knew this.
    pub fn after(names: &[KnownName]) -> Self {
        let answered =
            names.iter().filter_map(|one| Some((one.name.as_str().into(), one.answered?)));
        Self { answered: answered.collect(), ..Self::default() }
    }

    /// For how many seconds the oldest answer has been in force that stays because nobody
    /// gives another; 0 where there is none.
    pub fn oldest(&self, unresolved: &[UnresolvedName]) -> u64 {
        let kept = unresolved.iter().filter(|one| !one.kept.is_empty());
        kept.filter_map(|one| self.age(&one.name, Some(one))).max().unwrap_or(0)
    }

    /// How many seconds ago a name was answered for last; since when it fails, where it never
    /// was. `None` before it was looked up.
    pub fn age(&self, name: &str, failing: Option<&UnresolvedName>) -> Option<u64> {
        let since = match failing {
            Some(one) => one.answered.unwrap_or(one.since),
            None => *self.answered.get(name)?,
        };
        Some(now().saturating_sub(since))
    }
}

/// What becomes of connections that are meant for what is not resolved.
#[derive(Clone, Copy, Default)]
struct Sent {
    /// Some are refused.
    refused: bool,
    /// Some go to other endpoints of the same destination.
    to_others: bool,
}

/// The destinations that connections are sent to, and that lack an endpoint because a name is
/// not resolved.
fn lacking(plan: &Plan) -> BTreeSet<DestinationId> {
    let of = |id: &&DestinationId| {
        plan.destinations.get(*id).is_some_and(|one| !one.unresolved.is_empty())
    };
    let routes = plan.routes.iter().flat_map(|(route, legs)| route.destinations.iter().zip(legs));
    let sent = routes.filter(|(_, leg)| leg.weight > 0).map(|(id, _)| id);
    sent.filter(of).cloned().collect()
}

impl Engine {
    /// A name is known to resolve to this from before.
    pub fn knew(&mut self, name: Arc<str>, known: Resolved) {
        let first = known.former.values().copied().min();
        self.lets_go = self.lets_go.min(first.unwrap_or(u64::MAX));
        self.told.insert(name.clone());
        self.resolved.insert(name, known);
    }

    /// A name resolves to this `now`, in seconds since 1970. Returns whether that is news:
    /// another order of the same addresses is none.
    pub fn resolve(&mut self, name: &Arc<str>, found: Addresses, now: u64) -> bool {
        let Addresses { mut addresses, silent, ttl } = found;
        let ttl = ttl.map(|ttl| u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX));
        let known = self.resolved.entry(name.clone()).or_default();
        // Of a family that nobody answers for, what was known stays.
        let kept = known.addresses.iter().filter(|ip| silent.is_some_and(|family| family.has(ip)));
        addresses.extend(kept);
        known.ttl = ttl;
        let (before, after): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) =
            (known.addresses.iter().copied().collect(), addresses.iter().copied().collect());
        if before == after && known.at != 0 {
            return false;
        }
        let until = now.saturating_add(self.grace.as_secs());
        if !self.grace.is_zero() {
            self.lets_go = self.lets_go.min(until);
            known.former.extend(before.difference(&after).map(|gone| (*gone, until)));
        }
        known.former.retain(|ip, _| !after.contains(ip));
        // More are not taken: those that have left last stay.
        let most = MOST_ADDRESSES.saturating_sub(after.len());
        if known.former.len() > most {
            let mut last: Vec<_> = known.former.iter().map(|(ip, until)| (*until, *ip)).collect();
            last.sort_unstable();
            let last = last.into_iter().rev().take(most);
            known.former = last.map(|(until, ip)| (ip, until)).collect();
        }
        (known.addresses, known.at) = (addresses, now);
        self.told.insert(name.clone());
        true
    }

    /// Lets go of what names resolved to before, whose time is over. Returns whether that is
    /// anything.
    pub fn let_go(&mut self, now: u64) -> bool {
        if now < self.lets_go {
            return false;
        }
        let mut any = false;
        for (name, known) in &mut self.resolved {
            if known.former.values().any(|until| *until <= now) {
                known.former.retain(|_, until| *until > now);
                self.told.insert(name.clone());
                any = true;
            }
        }
        let left = self.resolved.values().flat_map(|known| known.former.values());
        self.lets_go = left.copied().min().unwrap_or(u64::MAX);
        any
    }
}

impl Daemon {
    /// Names were looked up.
    pub(super) fn resolved(&mut self, looked: Looked) {
        let now = now();
        let Looked { answers, failed } = looked;
        for (name, found) in answers {
            let moved = self.engine.resolve(&name, found, now);
            self.changed |= moved;
            self.asked.is_news |= moved || self.asked.failing.remove(&name).is_some();
            self.asked.answered.insert(name, now);
        }
        let before = self.asked.failing.len();
        self.asked.failing.retain(|name, _| self.names.wants(name));
        self.asked.is_news |= self.asked.failing.len() != before;
        self.asked.failures += failed.len() as u64;
        for (name, because) in failed.into_iter().filter(|(name, _)| self.names.wants(name)) {
            let known = self.asked.failing.get(&name);
            // What is reported is written down: that it fails as before is no news.
            self.asked.is_news |= known.is_none_or(|known| known.because != because);
            let since = known.map_or(now, |known| known.since);
            self.asked.failing.insert(name, Failing { because, since });
        }
        self.judge_names();
    }

    /// Looks again at what names cost that are not resolved, where a step has something to do
    /// with that. To be called once it is in the Plan.
    pub(super) fn judge_names_after(&mut self, changes: &Delta, is_first: bool) {
        let routes = changes.routes.keys().flat_map(|route| &route.destinations);
        let mut concerned = routes.chain(changes.destinations.keys());
        let destinations = &self.engine.plan().destinations;
        let lacks = |id| destinations.get(id).is_some_and(|one| !one.unresolved.is_empty());
        let lacking = &self.asked.lacking;
        if is_first || concerned.any(|id| lacking.contains(id) || lacks(id)) {
            self.asked.lacking = self::lacking(self.engine.plan());
            self.judge_names();
        }
    }

    /// Has the report say which names are not resolved, and what that costs.
    fn judge_names(&mut self) {
        let failing = std::mem::take(&mut self.asked.failing);
        let unresolved = failing.iter().filter_map(|(name, one)| self.unresolved(name, one));
        let unresolved: Vec<UnresolvedName> = unresolved.collect();
        self.asked.failing = failing;
        let costs = |all: &[UnresolvedName]| -> BTreeMap<String, _> {
            all.iter().map(|one| (one.name.clone(), one.costs())).collect()
        };
        let (before, after) = (costs(&self.report.unresolved), costs(&unresolved));
        for one in unresolved.iter().filter(|one| !before.contains_key(&one.name)) {
            tracing::warn!("{one}");
        }
        self.report.unresolved = unresolved;
        if before != after {
            self.asked.is_news = true;
            self.judge_again();
        }
    }

    /// What is said of a name that does not resolve; `None` where that costs nobody anything:
    /// a host that has endpoints and is dialled at addresses of its own.
    fn unresolved(&self, name: &Arc<str>, failing: &Failing) -> Option<UnresolvedName> {
        let known = self.engine.resolved().get(name);
        let answered = self.asked.answered.get(name).copied();
        let answered = answered.max(known.map(|known| known.at).filter(|at| *at != 0));
        let Sent { refused, to_others } = self.sent(name);
        let one = UnresolvedName {
            name: name.to_string(),
            because: failing.because.clone(),
            since: failing.since,
            kept: known.map(|known| known.addresses.clone()).unwrap_or_default(),
            answered,
            // What an earlier daemon was answered and did not write down is not known.
            or_later: answered.is_some_and(|at| at < self.report.started),
            refuses: refused,
            to_others,
            is_endpoint: self.engine.is_endpoint(name),
            is_dialled: self.engine.is_dialled(name),
        };
        (one.is_endpoint || one.is_dialled || !one.kept.is_empty()).then_some(one)
    }

    /// What becomes of connections that are meant for what a name does not resolve to.
    fn sent(&self, name: &Arc<str>) -> Sent {
        let mut sent = Sent::default();
        let destinations = &self.engine.plan().destinations;
        let lacking = self.asked.lacking.iter().filter_map(|id| destinations.get(id));
        for one in lacking.filter(|one| one.unresolved.contains(name)) {
            match one.lacks {
                Some(Lacks::Resolution) => sent.refused = true,
                // It would be refused for another reason, too.
                Some(_) => {}
                None => sent.to_others = true,
            }
        }
        sent
    }

    /// Lets go of what names resolved to before, when it is time to.
    pub(super) fn let_go(&mut self) {
        if self.engine.let_go(now()) {
            (self.changed, self.asked.is_news) = (true, true);
        }
    }

    /// Notes what is known of the names that are wanted, when that is news.
    pub(super) fn note_names(&mut self) {
        if !std::mem::take(&mut self.asked.is_news) {
            return;
        }
        let asked = self.names.asked();
        // Before the first step none is wanted, and what an earlier daemon knew stays.
        if !asked.is_empty() {
            self.asked.answered.retain(|name, _| asked.contains(name));
        }
        self.report.names = self.known_names();
    }

    /// What is known of the names that are wanted.
    pub(super) fn known_names(&self) -> Vec<KnownName> {
        let known = self.engine.resolved();
        let one = |name: &Arc<str>| {
            let known = known.get(name).cloned().unwrap_or_default();
            let Resolved { addresses, at, ttl, former } = known;
            KnownName {
                name: name.to_string(),
                addresses,
                former: former.into_keys().collect(),
                since: (at != 0).then_some(at),
                answered: self.asked.answered.get(name).copied(),
                ttl,
                because: self.asked.failing.get(name).map(|one| one.because.clone()),
            }
        };
        self.names.asked().iter().map(one).collect()
    }
}
