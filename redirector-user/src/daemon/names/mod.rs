//! Resolves the names of ServiceEntries: again and again, since answers change.
//!
//! Who is asked is either the DNS servers of the machine, or others that are named, by a
//! resolver of our own that knows how long an answer holds ([`dns`]), or whatever the
//! machine uses ([`system`]). When is decided in [`schedule`].

mod dns;
mod schedule;
mod system;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use schedule::{Schedule, Word};

/// Who is asked, and how often.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Who is asked.
    pub via: Via,
    /// How long an answer holds that does not say it. What fails is tried again after
    /// this long at most.
    pub again: Duration,
}

/// Who is asked for addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Via {
    /// DNS servers, and /etc/hosts before them.
    Dns {
        /// Those that /etc/resolv.conf names, where there is none here.
        servers: Vec<SocketAddr>,
    },
    /// Whatever `getaddrinfo` asks on this machine.
    System,
}

/// The addresses of each name.
pub type Answers = BTreeMap<Arc<str>, Addresses>;

/// What a lookup has found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Addresses {
    /// The addresses, in the resolver's order, each once.
    pub addresses: Vec<IpAddr>,
    /// What was not found out: nobody answered for this family, and what was known of it
    /// stays.
    pub silent: Option<Family>,
    /// For how long that holds, where the answer says so.
    pub ttl: Option<Duration>,
}

/// A family of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4, by A records.
    V4,
    /// IPv6, by AAAA records.
    V6,
}

impl Family {
    /// Whether an address is of it.
    pub const fn has(self, address: &IpAddr) -> bool {
        matches!((self, address), (Self::V4, IpAddr::V4(_)) | (Self::V6, IpAddr::V6(_)))
    }
}

/// Why a lookup has found nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Missed {
    because: String,
    /// For how long nothing else is to be expected, where the answer says so.
    ttl: Option<Duration>,
}

type Looked = Result<Addresses, Missed>;

/// Who is told what a lookup came to.
type Done = Box<dyn FnOnce(Looked) + Send>;

/// Who is asked.
trait Ask: Send {
    /// Begins to look a name up. Does not wait.
    fn ask(&mut self, name: &Arc<str>, done: Done) -> io::Result<()>;

    /// Whether every answer may be another since this was asked last, because the machine
    /// was told other servers or hosts.
    fn has_changed(&mut self) -> bool;
}

/// What became of some of the names that are wanted.
#[derive(Debug, Default)]
pub struct Resolved {
    /// Those that have addresses.
    pub answers: Answers,
    /// Others: why not.
    pub failed: BTreeMap<Arc<str>, String>,
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
        setup: &Setup,
        send: impl FnMut(Resolved) -> bool + Send + 'static,
    ) -> io::Result<Self> {
        let asked: Box<dyn Ask> = match &setup.via {
            Via::Dns { servers } => Box::new(dns::Dns::new(servers.clone())?),
            Via::System => Box::new(system::System),
        };
        Self::start_with(setup.again, schedule::TIMES, asked, send)
    }

    fn start_with(
        again: Duration,
        times: schedule::Times,
        asked: Box<dyn Ask>,
        send: impl FnMut(Resolved) -> bool + Send + 'static,
    ) -> io::Result<Self> {
        let (words, heard) = mpsc::channel();
        let schedule = Schedule::new(words.clone(), asked, again, times);
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

    /// The names that are wanted.
    pub const fn asked(&self) -> &BTreeSet<Arc<str>> {
        &self.asked
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

/// Asks for the addresses of names once. Each is among the answers or the failed.
pub fn resolve(via: &Via, names: &BTreeSet<Arc<str>>) -> Resolved {
    let mut resolved = Resolved::default();
    let (sender, answers) = mpsc::channel();
    let once = Setup { via: via.clone(), again: Duration::from_secs(3600) };
    let started = Resolver::start(&once, move |resolved| sender.send(resolved).is_ok());
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

#[cfg(test)]
mod tests;
