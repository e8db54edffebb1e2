//! The side that is in force, entry by entry: what a connection would find now.

use std::cell::RefCell;
use std::mem::offset_of;
use std::sync::atomic::Ordering;

use aya::Pod;
use aya::maps::{MapError, lpm_trie};
use redirector_common::abi::{
    Backend, CLASS_UNKNOWN, ClassKey, Control, Destination, FrontendKey, IDENTITY_UNKNOWN, Leg,
    Live, PrefixKey, Route, Side, Source, Verdict,
};
use redirector_common::decide::{Tables, affinity, stranger};
use redirector_core::image::Prefixes;

use super::maps::{Maps, Table};
use super::{Active, Error, SourceKey};

/// The tables of one side, looked up by key.
///
/// The kernel's refusal to look something up counts as "not there", and is what comes of
/// the whole reading: see [`Datapath::read`](super::Datapath::read).
#[derive(Debug)]
pub struct Lookup<'m> {
    maps: &'m Maps,
    active: Active,
    refusal: RefCell<Option<Error>>,
}

impl<'m> Lookup<'m> {
    pub(super) fn new(maps: &'m Maps, active: Active) -> Self {
        Self { maps, active, refusal: RefCell::default() }
    }

    /// What went wrong with a lookup, the first that did.
    pub(super) fn refusal(self) -> Option<Error> {
        self.refusal.into_inner()
    }

    /// What is in force.
    pub fn active(&self) -> Active {
        self.active
    }

    /// The side that is in force.
    pub fn side(&self) -> Side {
        self.active.side
    }

    /// The class of an identity.
    pub fn class_of(&self, identity: u32) -> u32 {
        self.entry(&self.maps.class_of, self.side(), identity).unwrap_or(CLASS_UNKNOWN)
    }

    /// The identity that processes with this key have, if they are known by it.
    pub fn source(&self, key: SourceKey) -> Option<u32> {
        let (table, word) = match key {
            SourceKey::Cgroup { id, .. } => (&self.maps.cgroup_sources, id),
            SourceKey::Netns { cookie } => (&self.maps.netns_sources, cookie),
        };
        let source: Source = self.found(table.get(&word, 0), "the sources")?;
        Some(source.identity)
    }

    /// All sources: key and identity number.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn sources(&self) -> Result<Vec<(SourceKey, u32)>, Error> {
        self.maps.sources()
    }

    /// The number by which connections of an identity keep to an endpoint; where that is
    /// unknown, of a network namespace.
    pub fn affinity(&self, identity: u32, netns: Option<u64>) -> Option<u32> {
        let seed = self.maps.seed();
        if identity == IDENTITY_UNKNOWN && netns.is_none() {
            return None;
        }
        Some(affinity(seed, identity, || netns.unwrap_or_default()))
    }

    /// What is known of a destination or endpoint, by its number.
    pub fn live(&self, number: u32) -> Live {
        self.maps.lives.get(number).unwrap_or_default()
    }

    /// How many connections somebody has at a destination with a limit, by its owner and
    /// his number there.
    pub fn connections_of(&self, owner: u32, who: u32) -> u64 {
        let seed = self.maps.seed();
        let share = Live::share(owner, who, seed) as usize;
        self.maps.shares.get(share).unwrap_or(0)
    }

    /// The number of a task that is in no known workload and in the first of these
    /// cgroups, which lie each below the next, up to the root.
    pub fn stranger(&self, cgroups: &[u64]) -> Option<u32> {
        let flags = self.maps.control.word(0, offset_of!(Control, flags)).load(Ordering::SeqCst);
        let level = Control::caller_level(flags) as usize;
        let above = cgroups.len().saturating_sub(1 + level);
        // Level 0 is that of the root, where nobody is told apart.
        let id = cgroups.get(if level == 0 { 0 } else { above })?;
        Some(stranger(*id as u32))
    }

    /// Whether connects of a task in the first of these cgroups, which lie each below the
    /// next, are never redirected: they are the daemon's own.
    pub fn is_of_daemon(&self, cgroups: &[u64]) -> bool {
        let (daemon, level) = self.maps.daemon_cgroup();
        let below = if level == 0 { 1 } else { cgroups.len() };
        daemon != 0 && cgroups.iter().take(below).any(|id| *id == daemon)
    }

    fn found<T>(&self, result: Result<T, MapError>, what: &str) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(MapError::KeyNotFound) => None,
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
            {
                None
            }
            Err(error) => {
                self.refuse(Error::from_library(format!("reading {what}"), &error));
                None
            }
        }
    }

    fn refuse(&self, error: Error) {
        self.refusal.borrow_mut().get_or_insert(error);
    }

    fn entry<T: Pod>(&self, table: &Table<T>, side: Side, index: u32) -> Option<T> {
        table.get(side, index).unwrap_or_else(|error| {
            self.refuse(error);
            None
        })
    }
}

impl Tables for Lookup<'_> {
    fn frontend(&self, key: &FrontendKey) -> Option<Verdict> {
        self.found(self.maps.frontends.get(key, 0), "the table FRONTENDS")
    }

    fn prefix(&self, key: &PrefixKey) -> Option<Verdict> {
        self.prefix_within(key, 128)
    }

    fn class_verdict(&self, key: &ClassKey) -> Option<Verdict> {
        self.found(self.maps.class_verdicts.get(key, 0), "the table CLASS_VERDICTS")
    }

    fn class_default(&self, side: Side, table: u32) -> Option<Verdict> {
        self.entry(&self.maps.class_defaults, side, table)
    }

    fn route(&self, side: Side, index: u32) -> Option<Route> {
        self.entry(&self.maps.routes, side, index)
    }

    fn leg(&self, side: Side, index: u32) -> Option<Leg> {
        self.entry(&self.maps.legs, side, index)
    }

    fn destination(&self, side: Side, index: u32) -> Option<Destination> {
        self.entry(&self.maps.destinations, side, index)
    }

    fn backend(&self, side: Side, index: u32) -> Option<Backend> {
        self.entry(&self.maps.backends, side, index)
    }
}

impl Prefixes for Lookup<'_> {
    fn prefix_within(&self, key: &PrefixKey, len: u8) -> Option<Verdict> {
        if !self.maps.has_prefixes(u32::from(key.side)) {
            return None;
        }
        let key = lpm_trie::Key::new(PrefixKey::FIXED_BITS + u32::from(len), *key);
        self.found(self.maps.prefixes.get(&key, 0), "the table PREFIXES")
    }
}
