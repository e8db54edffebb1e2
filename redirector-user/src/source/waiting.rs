//! What was read and is not in force yet, and whose turn comes when.
//!
//! A change is put in force as soon as nothing else is being put there; what comes
//! meanwhile gathers here, the newest version of each thing only. Where more waits than
//! is made at once it is taken in slices:
//!
//! * what belongs together, such as the first lists or what one look at the files
//!   found, is one slice;
//! * pods of this node are in the next slice, whatever else waits;
//! * namespaces take turns, so that what floods one holds up no other;
//! * within a namespace, changes of what is there go before what comes or goes, and of
//!   each in turn the oldest and the newest: the oldest is reached soon, and so is what
//!   comes after a flood;
//! * an object takes along what came before it and defines a host that it sends to:
//!   whoever writes the subset first and the rule after that never sees the rule alone.
//!   What is removed never goes before what came earlier in its namespace.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use redirector_core::model::{Object, ObjectRef, RuleList, Spec, VirtualService};
use redirector_core::store::Content;

use super::{Arrival, Batch, Change, Turn};

/// The changes that wait, shared by who reads and who puts in force.
#[derive(Clone, Debug, Default)]
pub struct Waiting(Arc<Mutex<Queue>>);

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a batch. Returns whether whoever takes has to be told: it was not since it
    /// took last.
    pub fn put(&self, batch: Batch) -> bool {
        let mut queue = self.lock();
        queue.put(batch);
        !std::mem::replace(&mut queue.told, true)
    }

    /// Takes the next slice, of about so many changes; `None` when nothing waits.
    pub fn take(&self, about: usize) -> Option<Batch> {
        let mut queue = self.lock();
        queue.told = false;
        queue.take(about)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// How many changes wait, and since when the oldest does.
    pub fn oldest(&self) -> Option<(usize, Instant)> {
        self.lock().oldest()
    }
}

/// What a change is among the others: growing numbers, in the order of arrival.
type Number = u64;

/// Changes that wait.
#[derive(Debug, Default)]
struct Queue {
    together: VecDeque<Vec<Arrival>>,
    next: Number,
    single: BTreeMap<Number, Arrival>,
    numbers: HashMap<Arc<str>, Number>,
    awaited: BTreeSet<Number>,
    namespaces: BTreeMap<Arc<str>, Lane>,
    /// The namespace that had its turn last.
    last: Option<Arc<str>>,
    /// Which define a host, by the first part of its name.
    defined: HashMap<Arc<str>, BTreeSet<Number>>,
    /// Whoever takes knows that something waits.
    told: bool,
}

/// What waits in one namespace.
#[derive(Debug, Default)]
struct Lane {
    changed: BTreeSet<Number>,
    /// What comes or goes.
    new: BTreeSet<Number>,
    /// The newest is next, and not the oldest.
    newest: bool,
}

impl Lane {
    fn of(&mut self, turn: Turn) -> &mut BTreeSet<Number> {
        match turn {
            Turn::Changed => &mut self.changed,
            Turn::Awaited | Turn::New => &mut self.new,
        }
    }

    /// The next, which stays.
    fn next(&mut self, single: &BTreeMap<Number, Arrival>) -> Option<Number> {
        let all = if self.changed.is_empty() { &self.new } else { &self.changed };
        self.newest = !self.newest;
        let newest = *all.last()?;
        let goes = |arrival: &Arrival| matches!(arrival.change, Change::Removed(_));
        if self.newest && !single.get(&newest).is_some_and(goes) {
            return Some(newest);
        }
        all.first().copied()
    }
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.together.is_empty() && self.single.is_empty()
    }

    fn oldest(&self) -> Option<(usize, Instant)> {
        let all = || self.together.iter().flatten().chain(self.single.values());
        Some((all().count(), all().map(|arrival| arrival.since).min()?))
    }

    fn put(&mut self, batch: Batch) {
        if batch.together {
            self.together.push_back(batch.arrivals);
            return;
        }
        for arrival in batch.arrivals {
            self.put_one(arrival);
        }
    }

    fn put_one(&mut self, mut arrival: Arrival) {
        let name = arrival.change.name().clone();
        let number = match self.numbers.get(&name).copied() {
            Some(number) => {
                // It has waited for as long as its earlier version, and what came
                // into being since what is in force is still new.
                if let Some(before) = self.remove(number) {
                    arrival.since = before.since;
                    arrival.turn = arrival.turn.min(before.turn);
                }
                number
            }
            None => {
                self.next += 1;
                self.next
            }
        };
        for label in defines(&arrival.change) {
            self.defined.entry(label).or_default().insert(number);
        }
        match arrival.turn {
            Turn::Awaited => _ = self.awaited.insert(number),
            turn => _ = self.lane(&arrival).of(turn).insert(number),
        }
        self.numbers.insert(name, number);
        self.single.insert(number, arrival);
    }

    fn lane(&mut self, arrival: &Arrival) -> &mut Lane {
        self.namespaces.entry(namespace(arrival)).or_default()
    }

    fn remove(&mut self, number: Number) -> Option<Arrival> {
        let arrival = self.single.remove(&number)?;
        self.numbers.remove(arrival.change.name());
        self.awaited.remove(&number);
        let namespace = namespace(&arrival);
        if let Some(lane) = self.namespaces.get_mut(&namespace) {
            lane.of(arrival.turn).remove(&number);
            if lane.changed.is_empty() && lane.new.is_empty() {
                self.namespaces.remove(&namespace);
            }
        }
        for label in defines(&arrival.change) {
            if let Some(numbers) = self.defined.get_mut(&label) {
                numbers.remove(&number);
                if numbers.is_empty() {
                    self.defined.remove(&label);
                }
            }
        }
        Some(arrival)
    }

    fn take(&mut self, about: usize) -> Option<Batch> {
        if self.is_empty() {
            return None;
        }
        // Single changes are newer than what belongs together.
        let mut arrivals: Vec<Arrival> = self.together.drain(..).flatten().collect();
        let together = !arrivals.is_empty();
        for number in std::mem::take(&mut self.awaited) {
            arrivals.extend(self.remove(number));
        }
        while !together && arrivals.len() < about {
            let Some(number) = self.next_turn() else { break };
            let Some(arrival) = self.remove(number) else { break };
            for label in refers(&arrival.change) {
                let earlier: Vec<_> = match self.defined.get(label) {
                    Some(numbers) => numbers.range(..number).copied().collect(),
                    None => Vec::new(),
                };
                arrivals.extend(earlier.into_iter().filter_map(|number| self.remove(number)));
            }
            arrivals.push(arrival);
        }
        Some(Batch { arrivals, together })
    }

    /// Whose turn it is.
    fn next_turn(&mut self) -> Option<Number> {
        use std::ops::Bound::{Excluded, Unbounded};
        let after = self.last.take().and_then(|last| {
            let mut rest = self.namespaces.range::<Arc<str>, _>((Excluded(&last), Unbounded));
            rest.next().map(|(name, _)| name.clone())
        });
        let namespace = after.or_else(|| self.namespaces.keys().next().cloned())?;
        let number = self.namespaces.get_mut(&namespace)?.next(&self.single);
        self.last = Some(namespace);
        number
    }
}

fn namespace(arrival: &Arrival) -> Arc<str> {
    let of = |object: &ObjectRef| object.namespace.clone();
    arrival.of.as_ref().map_or_else(|| "".into(), of)
}

fn object(change: &Change) -> Option<&Arc<Object>> {
    match change {
        Change::Put(_, Content::Whole(documents)) => documents.first()?.object.as_ref(),
        _ => None,
    }
}

/// The first part of a host's name, which short names and full ones share.
fn label(host: &str) -> &str {
    host.split_once('.').map_or(host, |(first, _)| first)
}

/// The hosts that a change says something of, by their first parts.
fn defines(change: &Change) -> Vec<Arc<str>> {
    let Some(object) = object(change) else { return Vec::new() };
    match &object.spec {
        Spec::Service(_) => vec![object.meta.name.clone()],
        Spec::EndpointSlice(slice) => vec![(&*slice.service).into()],
        Spec::DestinationRule(rule) => vec![label(&rule.host).into()],
        Spec::ServiceEntry(entry) => entry.hosts.iter().map(|host| label(host).into()).collect(),
        _ => Vec::new(),
    }
}

/// The hosts that a change sends connections to, by their first parts.
fn refers(change: &Change) -> impl Iterator<Item = &str> {
    let rules = object(change).and_then(|object| match &object.spec {
        Spec::VirtualService(rules) => Some(rules),
        _ => None,
    });
    rules.into_iter().flat_map(destinations).map(label).chain(rules.map(|_| "*"))
}

fn destinations(rules: &VirtualService) -> impl Iterator<Item = &str> {
    let lists = [
        (RuleList::Tcp, rules.tcp.len()),
        (RuleList::Tls, rules.tls.len()),
        (RuleList::Http, rules.http.len()),
    ];
    let each = lists.into_iter().flat_map(|(list, length)| (0..length).map(move |at| (list, at)));
    each.flat_map(|(list, at)| rules.route(list, at)).map(|route| route.host.as_str())
}

#[cfg(test)]
mod tests;
