//! Resolves the names that ServiceEntries leave to DNS, with whatever the
//! machine uses: again and again, since answers change.
//!
//! A thread says what is looked up when; each lookup is a thread, since the machine's
//! own resolver waits. No name waits for another's: one that takes long gives its turn
//! to the next, those that failed before come last, and names of one domain take turns
//! with those of others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// Most names that have their turn at a time.
const AT_ONCE: usize = 16;

/// How long a name may take.
#[derive(Clone, Copy)]
struct Times {
    /// How long its turn is. What comes later counts all the same.
    turn: Duration,
    /// After this long it counts as one that does not answer.
    deadline: Duration,
}

/// These.
const TIMES: Times = Times { turn: Duration::from_secs(1), deadline: Duration::from_secs(10) };

/// Most lookups under way, those included whose turn is over: each is a thread.
const MOST: usize = 256;

/// Answers that come so soon after one another come in force together.
const TOGETHER: Duration = Duration::from_millis(100);

/// A lookup's stack: the resolver of the machine may be any library.
const STACK: usize = 512 << 10;

/// The addresses of each name, in the resolver's order.
pub type Answers = BTreeMap<Arc<str>, Vec<IpAddr>>;

/// What became of some of the names that are wanted.
#[derive(Debug, Default)]
pub struct Resolved {
    /// Those that have addresses.
    pub answers: Answers,
    /// Others: why not.
    pub failed: BTreeMap<Arc<str>, String>,
}

/// What the thread is told.
enum Word {
    /// These names are wanted from now on.
    Want(BTreeSet<Arc<str>>),
    /// What a lookup came to.
    Found(Arc<str>, Result<Vec<IpAddr>, String>),
    /// Nobody wants any more.
    End,
}

/// The thread that resolves.
#[derive(Debug)]
pub struct Resolver {
    words: Sender<Word>,
    asked: BTreeSet<Arc<str>>,
}

impl Resolver {
    /// Starts it; `send` gets the answers that are there, and returns `false`
    /// to end it.
    pub fn start(
        again: Duration,
        send: impl FnMut(Resolved) -> bool + Send + 'static,
    ) -> io::Result<Self> {
        Self::start_with(again, TIMES, look_up, send)
    }

    fn start_with(
        again: Duration,
        times: Times,
        look_up: fn(&str) -> Result<Vec<IpAddr>, String>,
        send: impl FnMut(Resolved) -> bool + Send + 'static,
    ) -> io::Result<Self> {
        let (words, heard) = mpsc::channel();
        let schedule = Schedule::new(words.clone(), look_up, again, times);
        thread::Builder::new().name("names".into()).spawn(move || schedule.run(&heard, send))?;
        Ok(Self { words, asked: BTreeSet::new() })
    }

    /// Says which names are wanted from now on.
    pub fn want(&mut self, names: &BTreeSet<Arc<str>>) {
        if *names != self.asked {
            self.asked.clone_from(names);
            // The thread lives as long as the control loop.
            let _ = self.words.send(Word::Want(names.clone()));
        }
    }

    /// Whether a name is wanted.
    pub fn wants(&self, name: &str) -> bool {
        self.asked.contains(name)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let _ = self.words.send(Word::End);
    }
}

/// What is looked up when.
struct Schedule {
    words: Sender<Word>,
    look_up: fn(&str) -> Result<Vec<IpAddr>, String>,
    again: Duration,
    times: Times,
    wanted: BTreeSet<Arc<str>>,
    waiting: VecDeque<Arc<str>>,
    /// Since when.
    under_way: BTreeMap<Arc<str>, Instant>,
    /// Those that had no answer last time.
    failing: BTreeSet<Arc<str>>,
    /// What is known and has not been told, and since when.
    known: Option<(Resolved, Instant)>,
    round: Instant,
}

impl Schedule {
    fn new(
        words: Sender<Word>,
        look_up: fn(&str) -> Result<Vec<IpAddr>, String>,
        again: Duration,
        times: Times,
    ) -> Self {
        Self {
            words,
            look_up,
            again,
            times,
            wanted: BTreeSet::new(),
            waiting: VecDeque::new(),
            under_way: BTreeMap::new(),
            failing: BTreeSet::new(),
            known: None,
            round: Instant::now() + again,
        }
    }

    fn run(mut self, heard: &Receiver<Word>, mut send: impl FnMut(Resolved) -> bool) {
        loop {
            let until = self.next().saturating_duration_since(Instant::now());
            match heard.recv_timeout(until) {
                Ok(Word::Want(wanted)) => {
                    self.wanted = wanted;
                    // Also when none is left.
                    self.known();
                    self.begin_round();
                }
                Ok(Word::Found(name, found)) => self.found(name, found),
                Ok(Word::End) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Instant::now();
            if self.round <= now {
                self.begin_round();
            }
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
    fn next(&self) -> Instant {
        let tell = self.known.iter().map(|(_, since)| *since + TOGETHER);
        let ends = self
            .under_way
            .values()
            .flat_map(|begun| [*begun + self.times.turn, *begun + self.times.deadline]);
        let now = Instant::now();
        tell.chain(ends.filter(|end| *end > now)).chain([self.round]).min().unwrap_or(now)
    }

    fn in_turn(&self, now: Instant) -> usize {
        self.under_way.values().filter(|begun| **begun + self.times.turn > now).count()
    }

    fn known(&mut self) -> &mut Resolved {
        &mut self.known.get_or_insert_with(|| (Resolved::default(), Instant::now())).0
    }

    /// Everything is looked up once more.
    fn begin_round(&mut self) {
        self.round = Instant::now() + self.again;
        self.failing.retain(|name| self.wanted.contains(name));
        let mut of_domain: BTreeMap<&str, usize> = BTreeMap::new();
        let mut order: Vec<_> = (self.wanted.iter())
            .map(|name| {
                let domain = name.split_once('.').map_or("", |(_, domain)| domain);
                let place = of_domain.entry(domain).or_default();
                *place += 1;
                (self.failing.contains(name), *place, name.clone())
            })
            .collect();
        order.sort();
        let names = order.into_iter().map(|(_, _, name)| name);
        self.waiting = names.filter(|name| !self.under_way.contains_key(name)).collect();
    }

    /// Looks up those whose turn it is.
    fn start(&mut self, now: Instant) {
        let mut in_turn = self.in_turn(now);
        while in_turn < AT_ONCE
            && self.under_way.len() < MOST
            && let Some(name) = self.waiting.pop_front()
        {
            let (words, look_up, of) = (self.words.clone(), self.look_up, name.clone());
            let look_up = move || {
                let found = look_up(&of);
                let _ = words.send(Word::Found(of, found));
            };
            let builder = thread::Builder::new().name("name".into()).stack_size(STACK);
            match builder.spawn(look_up) {
                Ok(_) => {
                    self.under_way.insert(name, now);
                    in_turn += 1;
                }
                Err(error) => {
                    self.fail(name, format!("it cannot be looked up: {error}"));
                }
            }
        }
    }

    /// Those that take too long do not answer.
    fn note_silent(&mut self, now: Instant) {
        let deadline = self.times.deadline;
        let is_silent = |begun: Instant| begun + deadline <= now;
        let silent = self.under_way.iter().filter(|(name, begun)| {
            is_silent(**begun) && self.wanted.contains(*name) && !self.failing.contains(*name)
        });
        for name in silent.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.fail(name, format!("no answer in {} s", deadline.as_secs()));
        }
    }

    fn found(&mut self, name: Arc<str>, found: Result<Vec<IpAddr>, String>) {
        self.under_way.remove(&name);
        if !self.wanted.contains(&name) {
            return;
        }
        match found {
            Ok(addresses) => {
                self.failing.remove(&name);
                let known = self.known();
                known.failed.remove(&name);
                known.answers.insert(name, addresses);
            }
            Err(why) => self.fail(name, why),
        }
    }

    fn fail(&mut self, name: Arc<str>, why: String) {
        self.failing.insert(name.clone());
        self.known().failed.insert(name, why);
    }
}

/// Asks for the addresses of names once. Each is among the answers or the failed.
pub fn resolve(names: &BTreeSet<Arc<str>>) -> Resolved {
    let mut resolved = Resolved::default();
    let (sender, answers) = mpsc::channel();
    let once = Duration::from_secs(3600);
    let started = Resolver::start(once, move |resolved| sender.send(resolved).is_ok());
    let Ok(mut resolver) = started.inspect_err(|error| {
        let failed = names.iter().map(|name| (name.clone(), error.to_string()));
        resolved.failed.extend(failed);
    }) else {
        return resolved;
    };
    resolver.want(names);
    while resolved.answers.len() + resolved.failed.len() < names.len()
        && let Ok(some) = answers.recv()
    {
        resolved.answers.extend(some.answers);
        resolved.failed.extend(some.failed);
        resolved.failed.retain(|name, _| !resolved.answers.contains_key(name));
    }
    resolved
}

/// Asks the machine, and waits for its answer.
fn look_up(name: &str) -> Result<Vec<IpAddr>, String> {
    let found = (name, 0).to_socket_addrs().map_err(|error| error.to_string())?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.map(|socket| socket.ip()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn names(names: impl IntoIterator<Item = String>) -> BTreeSet<Arc<str>> {
        names.into_iter().map(Arc::from).collect()
    }

    #[test]
    fn names_are_resolved_when_wanted() {
        let wanted = names(["no..such".to_owned(), "127.0.0.9".to_owned()]);
        let resolved = resolve(&wanted);
        assert_eq!(resolved.answers["127.0.0.9"], ["127.0.0.9".parse::<IpAddr>().unwrap()]);
        assert!(resolved.failed["no..such"].len() > 3, "{resolved:?}");
        assert_eq!(resolved.answers.len() + resolved.failed.len(), 2);
    }

    /// A lookup of some names takes as long as this process lives.
    fn some_are_silent(name: &str) -> Result<Vec<IpAddr>, String> {
        while name.ends_with("silent.example") {
            thread::park();
        }
        Ok(vec![IpAddr::from([127, 0, 0, 9])])
    }

    #[test]
    fn names_that_do_not_answer_hold_up_no_other() {
        let (sender, receiver) = mpsc::channel();
        let send = move |resolved| sender.send(resolved).is_ok();
        let times = Times { turn: Duration::from_millis(20), deadline: HOUR };
        let mut resolver = Resolver::start_with(HOUR, times, some_are_silent, send).unwrap();
        // Each in a domain of its own, before the one that answers.
        let silent = (0..3 * AT_ONCE).map(|number| format!("a.{number:02}.silent.example"));
        resolver.want(&names(silent.chain(["z.other.example".to_owned()])));
        let all = std::iter::from_fn(|| receiver.recv().ok());
        let one = all.into_iter().find(|resolved| !resolved.answers.is_empty()).unwrap();
        assert!(one.answers.contains_key("z.other.example") && one.failed.is_empty(), "{one:?}");
    }

    #[test]
    fn one_domain_takes_turns_with_others_and_those_that_failed_come_last() {
        let (words, _heard) = mpsc::channel();
        let mut schedule = Schedule::new(words, |_| Ok(Vec::new()), HOUR, TIMES);
        schedule.wanted = names(["a.x.y", "b.x.y", "c.x.y", "d.z.y"].map(str::to_owned));
        schedule.failing = names(["a.x.y".to_owned()]);
        schedule.begin_round();
        assert_eq!(schedule.waiting, ["d.z.y", "b.x.y", "c.x.y", "a.x.y"].map(Arc::from));
    }

    #[test]
    fn a_name_that_does_not_answer_is_told_once_and_may_answer_later() {
        let (words, _heard) = mpsc::channel();
        let mut schedule = Schedule::new(words, |_| Ok(Vec::new()), HOUR, TIMES);
        let name: Arc<str> = "a.x".into();
        schedule.wanted = names(["a.x".to_owned()]);
        let begun = Instant::now();
        schedule.under_way.insert(name.clone(), begun);
        schedule.note_silent(begun);
        assert!(schedule.known.is_none());
        schedule.note_silent(begun + TIMES.deadline);
        let (resolved, _) = schedule.known.take().unwrap();
        assert_eq!(resolved.failed["a.x"], "no answer in 10 s");
        schedule.note_silent(begun + TIMES.deadline);
        assert!(schedule.known.is_none());
        schedule.found(name, Ok(vec![IpAddr::from([127, 0, 0, 9])]));
        let (resolved, _) = schedule.known.take().unwrap();
        assert!(resolved.failed.is_empty() && resolved.answers.contains_key("a.x"));
    }

    #[test]
    fn when_no_name_is_wanted_any_more_that_is_said() {
        let (sender, receiver) = mpsc::channel();
        let send = move |resolved| sender.send(resolved).is_ok();
        let mut resolver = Resolver::start(HOUR, send).unwrap();
        resolver.want(&names(["127.0.0.9".to_owned()]));
        let one = std::iter::from_fn(|| receiver.recv().ok()).find(|one| !one.answers.is_empty());
        assert!(one.is_some() && resolver.wants("127.0.0.9"));
        resolver.want(&BTreeSet::new());
        let none = receiver.recv().unwrap();
        assert!(none.answers.is_empty() && none.failed.is_empty());
        assert!(!resolver.wants("127.0.0.9"));
    }
}
