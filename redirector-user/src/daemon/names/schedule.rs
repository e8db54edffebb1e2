//! Which name is looked up when.
//!
//! No name waits for another's: one that takes long gives its turn to the next, names of one
//! domain take turns with those of others, and who was never looked up comes before who has
//! an answer, and that before who failed. Turns are counted on, so that whoever waits
//! comes before all that ask often enough after it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use redirector_core::registry::is_given;

use super::{Addresses, Ask, Family, Looked, Missed, Resolved};

/// Most names that have their turn at a time.
pub(super) const AT_ONCE: usize = 16;

/// How long a name may take.
#[derive(Clone, Copy)]
pub(super) struct Times {
    /// How long its turn is. What comes later counts all the same.
    pub turn: Duration,
    /// After this long it counts as one that does not answer.
    pub deadline: Duration,
}

/// These.
pub(super) const TIMES: Times =
    Times { turn: Duration::from_secs(1), deadline: Duration::from_secs(10) };

/// Most lookups under way, those included whose turn is over: each may be a thread.
const MOST: usize = 256;

/// How many turns after the last one's a name comes that is asked for again, or that failed:
/// who comes anew is before those of them that have not waited for as many.
const AGAIN: u64 = 2;
const FAILED: u64 = 8;

/// Answers that come so soon after one another come in force together.
const TOGETHER: Duration = Duration::from_millis(100);

/// An answer is not asked for again sooner than this, whatever it says.
const SHORTEST: Duration = Duration::from_secs(1);

/// And not later than this: who lowers a time to live before a move of servers waits for
/// what was told before, and no longer.
const LONGEST: Duration = Duration::from_secs(300);

/// Whether the machine was told other servers or hosts is looked at this often.
const LOOK: Duration = Duration::from_secs(2);

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Word {
    /// These names are wanted from now on.
    Want(BTreeSet<Arc<str>>),
    /// What a lookup came to.
    Found(Arc<str>, Looked),
    /// Nobody wants any more.
    End,
}

/// What is looked up when.
pub(super) struct Schedule {
    words: Sender<Word>,
    asked: Box<dyn Ask>,
    again: Duration,
    times: Times,
    wanted: BTreeSet<Arc<str>>,
    /// When each is to be looked up again, of those that neither wait nor are under way.
    pub(super) due: BTreeMap<Arc<str>, Instant>,
    /// Those that wait: their turns, and in which order they came.
    waiting: BTreeSet<(u64, u64, Arc<str>)>,
    /// How many have come.
    came: u64,
    /// The turn of who was looked up last.
    turn: u64,
    /// The last turn of each domain, where that is to come.
    of_domain: BTreeMap<String, u64>,
    /// Those that were never looked up.
    new: BTreeSet<Arc<str>>,
    /// Since when.
    pub(super) under_way: BTreeMap<Arc<str>, Instant>,
    /// Those that had no answer last time, and how often in a row.
    pub(super) failing: BTreeMap<Arc<str>, u32>,
    /// What is known and has not been told, and since when.
    pub(super) known: Option<(Resolved, Instant)>,
    looked: Instant,
}

impl Schedule {
    pub fn new(words: Sender<Word>, asked: Box<dyn Ask>, again: Duration, times: Times) -> Self {
        Self {
            words,
            asked,
            again,
            times,
            wanted: BTreeSet::new(),
            due: BTreeMap::new(),
            waiting: BTreeSet::new(),
            came: 0,
            turn: 0,
            of_domain: BTreeMap::new(),
            new: BTreeSet::new(),
            under_way: BTreeMap::new(),
            failing: BTreeMap::new(),
            known: None,
            looked: Instant::now(),
        }
    }

    pub fn run(mut self, heard: &Receiver<Word>, mut send: impl FnMut(Resolved) -> bool) {
        loop {
            let until = self.next().map(|next| next.saturating_duration_since(Instant::now()));
            let word = match until {
                Some(until) => heard.recv_timeout(until),
                None => heard.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match word {
                Ok(Word::Want(wanted)) => self.want(wanted),
                Ok(Word::Found(name, found)) => self.found(name, found),
                Ok(Word::End) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Instant::now();
            if !self.wanted.is_empty() && self.looked + LOOK <= now {
                self.looked = now;
                if self.asked.has_changed() {
                    self.due.values_mut().for_each(|due| *due = now);
                }
            }
            self.queue(now);
            self.note_silent(now);
            self.start(now);
            let is_complete = self.waiting.is_empty() && self.in_turn(now) == 0;
            let tell = self.known.take_if(|(_, since)| is_complete || *since + TOGETHER <= now);
            if let Some((resolved, _)) = tell
                && !send(resolved)
            {
                return;
            }
        }
    }

    /// When there is something to do, whatever is heard.
    fn next(&self) -> Option<Instant> {
        let tell = self.known.iter().map(|(_, since)| *since + TOGETHER);
        let ends = self
            .under_way
            .values()
            .flat_map(|begun| [*begun + self.times.turn, *begun + self.times.deadline]);
        let now = Instant::now();
        let look = (!self.wanted.is_empty()).then(|| self.looked + LOOK);
        let due = self.due.values().copied();
        tell.chain(ends.filter(|end| *end > now)).chain(look).chain(due).min()
    }

    fn in_turn(&self, now: Instant) -> usize {
        self.under_way.values().filter(|begun| **begun + self.times.turn > now).count()
    }

    fn known(&mut self) -> &mut Resolved {
        &mut self.known.get_or_insert_with(|| (Resolved::default(), Instant::now())).0
    }

    pub(super) fn want(&mut self, wanted: BTreeSet<Arc<str>>) {
        let now = Instant::now();
        for new in wanted.difference(&self.wanted) {
            if !self.under_way.contains_key(new) {
                self.due.insert(new.clone(), now);
                self.new.insert(new.clone());
            }
        }
        self.wanted = wanted;
        let wanted = &self.wanted;
        self.due.retain(|name, _| wanted.contains(name));
        self.failing.retain(|name, _| wanted.contains(name));
        self.waiting.retain(|(_, _, name)| wanted.contains(name));
        self.new.retain(|name| wanted.contains(name));
        // Also when none is left.
        self.known();
    }

    /// What is due waits for its turn.
    pub(super) fn queue(&mut self, now: Instant) {
        let due = self.due.iter().filter(|(_, due)| **due <= now);
        let due: Vec<Arc<str>> = due.map(|(name, _)| name.clone()).collect();
        for name in due {
            self.due.remove(&name);
            let domain = name.split_once('.').map_or("", |(_, domain)| domain);
            let last = self.of_domain.entry(domain.to_owned()).or_default();
            let before = self.turn.max(*last);
            *last = before + 1;
            let after = match (self.new.contains(&name), self.failing.contains_key(&name)) {
                (_, true) => FAILED,
                (true, false) => 1,
                (false, false) => AGAIN,
            };
            self.came += 1;
            self.waiting.insert((before + after, self.came, name));
        }
        self.of_domain.retain(|_, last| *last > self.turn);
    }

    /// Whose turn it is, of those that wait.
    pub(super) fn take_turn(&mut self) -> Option<Arc<str>> {
        let (turn, _, name) = self.waiting.pop_first()?;
        self.turn = self.turn.max(turn);
        self.new.remove(&name);
        Some(name)
    }

    /// Looks up those whose turn it is.
    fn start(&mut self, now: Instant) {
        let mut in_turn = self.in_turn(now);
        while in_turn < AT_ONCE
            && self.under_way.len() < MOST
            && let Some(name) = self.take_turn()
        {
            let (words, of) = (self.words.clone(), name.clone());
            let done = move |looked| {
                let _ = words.send(Word::Found(of, looked));
            };
            match self.asked.ask(&name, Box::new(done)) {
                Ok(()) => {
                    self.under_way.insert(name, now);
                    in_turn += 1;
                }
                Err(error) => {
                    let because = format!("it cannot be looked up: {error}");
                    self.found(name, Err(Missed { because, ttl: None }));
                }
            }
        }
    }

    /// Those that take too long do not answer.
    pub(super) fn note_silent(&mut self, now: Instant) {
        let deadline = self.times.deadline;
        let silent = self.under_way.iter().filter(|(name, begun)| {
            **begun + deadline <= now
                && self.wanted.contains(*name)
                && !self.failing.contains_key(*name)
        });
        for name in silent.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.fail(name, format!("no answer in {} s", deadline.as_secs()));
        }
    }

    pub(super) fn found(&mut self, name: Arc<str>, found: Looked) {
        self.under_way.remove(&name);
        if !self.wanted.contains(&name) {
            return;
        }
        let holds = |ttl: Duration| ttl.clamp(SHORTEST, LONGEST);
        let again = match found.and_then(usable) {
            Ok(found) => {
                self.failing.remove(&name);
                let again = found.ttl.map_or(self.again, holds);
                let known = self.known();
                known.failed.remove(&name);
                known.answers.insert(name.clone(), found);
                again
            }
            Err(Missed { because, ttl }) => {
                self.fail(name.clone(), because);
                let times = self.failing.get(&name).copied().unwrap_or_default();
                let soon = SHORTEST.saturating_mul(1 << times.min(9));
                ttl.map_or(soon.min(self.again), holds)
            }
        };
        self.due.insert(name, Instant::now() + again);
    }

    fn fail(&mut self, name: Arc<str>, why: String) {
        *self.failing.entry(name.clone()).or_default() += 1;
        let known = self.known();
        known.answers.remove(&name);
        known.failed.insert(name, why);
    }
}

/// What an answer says of where a host is. Servers of this machine, and `getaddrinfo`, read
/// in /etc/hosts what `redirector hosts` has written there, and that says nothing of it.
fn usable(mut found: Addresses) -> Looked {
    let of = |family: Family, all: &[IpAddr]| all.iter().any(|ip| family.has(ip));
    let before = found.addresses.clone();
    found.addresses.retain(|ip| !is_given(&ip.to_canonical()));
    if found.addresses.is_empty() {
        let because = match before.is_empty() {
            true => "the answer has no addresses",
            false => "answered from this machine's own /etc/hosts: name a server by --dns-server",
        };
        return Err(Missed { because: because.to_owned(), ttl: None });
    }
    // Of a family with nothing else it is not known what there is.
    let is_hidden = |family: &Family| of(*family, &before) && !of(*family, &found.addresses);
    let hidden = [Family::V4, Family::V6].into_iter().find(is_hidden);
    found.silent = found.silent.or(hidden);
    Ok(found)
}
