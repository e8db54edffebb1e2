//! What names resolve to, as the engine and the report know it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

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
    /// When each was answered last, in seconds since 1970.
    answered: BTreeMap<Arc<str>, u64>,
    /// Names that nobody answers for, and that nothing depends on: why not.
    unneeded: BTreeMap<Arc<str>, String>,
    /// How often a lookup has failed.
    pub failures: u64,
    /// What the report says of the names is not so any more.
    pub is_news: bool,
}

impl Asked {
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
        let answered: BTreeSet<_> = answers.keys().cloned().collect();
        let mut moved = false;
        for (name, found) in answers {
            moved |= self.engine.resolve(&name, found, now);
            self.asked.answered.insert(name, now);
        }
        self.changed |= moved;
        let unresolved = std::mem::take(&mut self.report.unresolved).into_iter();
        let mut unresolved: BTreeMap<Arc<str>, UnresolvedName> =
            unresolved.map(|one| (one.name.as_str().into(), one)).collect();
        let before = unresolved.len();
        let fails = |name: &Arc<str>| self.names.wants(name) && !answered.contains(name);
        unresolved.retain(|name, _| fails(name));
        self.asked.unneeded.retain(|name, _| fails(name));
        let mut news = unresolved.len() != before;
        let mut fails_otherwise = false;
        self.asked.failures += failed.len() as u64;
        for (name, because) in failed {
            let before = unresolved.remove(&name);
            let since = before.as_ref().map_or(now, |before| before.since);
            let Some(one) = self.unresolved(&name, &because, since) else {
                news |= before.is_some();
                let before = self.asked.unneeded.insert(name, because.clone());
                fails_otherwise |= before != Some(because);
                continue;
            };
            match &before {
                Some(before) => fails_otherwise |= *before != one,
                None => tracing::warn!("{one}"),
            }
            news |= before.is_none_or(|before| before.costs() != one.costs());
            unresolved.insert(name, one);
        }
        self.report.unresolved = unresolved.into_values().collect();
        if news {
            self.judge_again();
        }
        // What is reported is written down: that an answer was confirmed is no news.
        self.asked.is_news |= news || moved || fails_otherwise;
    }

    /// What is said of a name that does not resolve; `None` where that costs nobody anything:
    /// a host that has endpoints and is dialled at addresses of its own.
    fn unresolved(&self, name: &Arc<str>, because: &str, since: u64) -> Option<UnresolvedName> {
        let known = self.engine.resolved().get(name);
        let answered = self.asked.answered.get(name).copied();
        let one = UnresolvedName {
            name: name.to_string(),
            because: because.to_owned(),
            since,
            kept: known.map(|known| known.addresses.clone()).unwrap_or_default(),
            answered: answered.or(known.map(|known| known.at)),
            refuses: self.engine.is_endpoint(name),
            is_dialled: self.engine.is_dialled(name),
        };
        (one.refuses || one.is_dialled || !one.kept.is_empty()).then_some(one)
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
        self.asked.answered.retain(|name, _| asked.contains(name));
        let known = self.engine.resolved();
        let one = |name: &Arc<str>| {
            let known = known.get(name).cloned().unwrap_or_default();
            let Resolved { addresses, at, ttl, former } = known;
            let failing = &self.report.unresolved;
            let failing = failing.binary_search_by(|one| (*one.name).cmp(name)).ok();
            let failing = failing.map(|at| &self.report.unresolved[at]);
            KnownName {
                name: name.to_string(),
                addresses,
                former: former.into_keys().collect(),
                since: (at != 0).then_some(at),
                ttl,
                because: failing.map(|one| &one.because).or(self.asked.unneeded.get(name)).cloned(),
            }
        };
        self.report.names = asked.iter().map(one).collect();
    }
}
