//! What was read and is not in force yet, and what of it is next.
//!
//! A change is put in force as soon as nothing else is being put there; what comes
//! meanwhile gathers here. Whoever writes objects relies on their order: the subset
//! comes before the rule that sends to it, and goes after the rule that did. So what
//! waits is put in force in the order of its arrival, what was read at once at one
//! instant, and in slices where much waits: each goes on where the last one ended.
//! Only two things are in the next slice, whatever else waits:
//!
//! * pods of this node, which wait to be known;
//! * a few changed rules that have no host in common with anything that waits: an edit
//!   is in force before a bulk load of other things is finished.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use redirector_core::model::{Object, Spec};
use redirector_core::store::Content;

use super::{Arrival, Batch, Change, Turn};

/// The most changed rules that go before what came earlier. More are no edit of
/// somebody's, but a load themselves.
const EDITS: usize = 8;

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

    /// Whether what was taken last is a part of what people had written then: endpoints
    /// that wait are no part of an edit.
    pub fn is_cut(&self) -> bool {
        self.lock().cut
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

/// Changes that wait.
#[derive(Debug, Default)]
struct Queue {
    /// Pods of this node.
    awaited: Vec<Arrival>,
    /// Changed rules that concern nothing of what is in order.
    edits: Vec<Arrival>,
    /// All else, in the order of arrival. What was read at once stays together.
    order: VecDeque<Vec<Arrival>>,
    /// How many of those concern a host.
    concerned: HashMap<Arc<str>, usize>,
    /// How many of those may concern anything.
    unknown: usize,
    /// Whoever takes knows that something waits.
    told: bool,
    /// What was taken last was not all that people had written.
    cut: bool,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.awaited.is_empty() && self.edits.is_empty() && self.order.is_empty()
    }

    fn oldest(&self) -> Option<(usize, Instant)> {
        let first = || self.awaited.iter().chain(&self.edits);
        let all = || first().chain(self.order.iter().flatten());
        Some((all().count(), all().map(|arrival| arrival.since).min()?))
    }

    fn put(&mut self, batch: Batch) {
        // Also one of nothing is taken: it says that all was read.
        let says_all = batch.arrivals.is_empty();
        let (mut edits, mut others) = (Vec::new(), Vec::new());
        for arrival in batch.arrivals {
            match arrival.turn {
                Turn::Awaited => self.put_awaited(arrival),
                Turn::Changed if is_rule(&arrival.change) => edits.push(arrival),
                Turn::Changed | Turn::New => others.push(arrival),
            }
        }
        others.iter().for_each(|arrival| self.count(arrival));
        let have_room = self.edits.len() + edits.len() <= EDITS;
        if have_room && !edits.iter().any(|arrival| self.concerns_what_waits(arrival)) {
            self.edits.append(&mut edits);
        } else {
            edits.iter().for_each(|arrival| self.count(arrival));
            others.append(&mut edits);
        }
        if says_all || !others.is_empty() {
            self.order.push_back(others);
        }
    }

    /// Of a pod that goes first nothing older may come after it, such as that one of its
    /// name was removed.
    fn put_awaited(&mut self, pod: Arrival) {
        let is_older = |other: &mut Arrival| other.change.name() == pod.change.name();
        let older = self.order.iter_mut().flat_map(|unit| unit.extract_if(.., is_older));
        for arrival in older.collect::<Vec<_>>() {
            self.discount(&arrival);
        }
        self.awaited.push(pod);
    }

    fn take(&mut self, about: usize) -> Option<Batch> {
        if self.is_empty() {
            return None;
        }
        let mut arrivals = std::mem::take(&mut self.awaited);
        arrivals.append(&mut self.edits);
        // However many go first: what came before them has its share of each slice.
        let most = arrivals.len().saturating_add(about);
        while arrivals.len() < most
            && let Some(unit) = self.order.pop_front()
        {
            unit.iter().for_each(|arrival| self.discount(arrival));
            arrivals.extend(unit);
        }
        self.cut = self.order.iter().flatten().any(Arrival::is_written);
        Some(Batch { arrivals })
    }

    fn concerns_what_waits(&self, arrival: &Arrival) -> bool {
        self.unknown > 0
            || concerns(&arrival.change)
                .is_none_or(|all| all.iter().any(|one| self.concerned.contains_key(*one)))
    }

    fn count(&mut self, arrival: &Arrival) {
        match concerns(&arrival.change) {
            Some(all) => {
                all.into_iter().for_each(|one| *self.concerned.entry(one.into()).or_default() += 1);
            }
            None => self.unknown += 1,
        }
    }

    fn discount(&mut self, arrival: &Arrival) {
        let Some(all) = concerns(&arrival.change) else {
            self.unknown -= 1;
            return;
        };
        for one in all {
            if let Some(count) = self.concerned.get_mut(one) {
                *count -= 1;
                if *count == 0 {
                    self.concerned.remove(one);
                }
            }
        }
    }
}

fn object(change: &Change) -> Option<&Arc<Object>> {
    match change {
        Change::Put(_, Content::Whole(documents)) => match documents.as_slice() {
            [document] => document.object.as_ref(),
            _ => None,
        },
        _ => None,
    }
}

fn is_rule(change: &Change) -> bool {
    let spec = object(change).map(|object| &object.spec);
    matches!(spec, Some(Spec::VirtualService(_) | Spec::DestinationRule(_)))
}

/// What a change is about: the object itself, and the first parts of the hosts that it
/// defines or sends to, which short names and full ones share. `None` where that may be
/// anything: of what is gone or cannot be read nothing is known, and labels of pods,
/// WorkloadEntries and Gateways are asked for by whatever likes to.
fn concerns(change: &Change) -> Option<Vec<&str>> {
    let object = object(change)?;
    let hosts: Vec<&str> = match &object.spec {
        Spec::Service(_) => vec![&object.meta.name],
        Spec::EndpointSlice(slice) => vec![&slice.service],
        Spec::DestinationRule(rule) => vec![&rule.host],
        Spec::ServiceEntry(entry) => entry.hosts.iter().map(|host| &**host).collect(),
        Spec::VirtualService(rules) => {
            let routed = rules.routes().flat_map(|(_, _, route)| route);
            let routed = routed.map(|destination| &*destination.host);
            rules.hosts.iter().map(String::as_str).chain(routed).collect()
        }
        _ => return None,
    };
    let mut all = vec![&**change.name()];
    for host in hosts {
        match host.split('.').next() {
            Some("*") => return None,
            first => all.extend(first),
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests;
