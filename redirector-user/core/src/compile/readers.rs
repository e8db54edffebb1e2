//! What each part of the Plan was made from, and by that which parts a change
//! concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use crate::client::Asked;
use crate::plan::{DestinationId, Lacks, RouteId};

/// What a destination lacks, and why in words.
pub(super) type Reason = (Lacks, String);

/// A part of the Plan that is made at once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Reader {
    /// What this node serves as a gateway.
    Gateways,
    /// On a port, an outermost claimed prefix with all that lies in it: nothing
    /// outside of it looks in.
    Island(u16, IpNet),
}

/// What a part of the Plan was made from, and has met.
#[derive(Debug, Default)]
pub(super) struct Trace {
    pub routes: Box<[Arc<RouteId>]>,
    /// Destinations that were met, and are in none of its routes.
    pub beside: Box<[DestinationId]>,
    /// What destinations were found to lack.
    pub lacking: Box<[(DestinationId, Reason)]>,
    /// Destinations that were not met: only whether they have endpoints was asked.
    pub peeked: Box<[(DestinationId, bool)]>,
    /// The hosts whose services and DestinationRules were looked up.
    pub hosts: Box<[Arc<str>]>,
    /// What clients were asked. One who answers all of it as another does gets what
    /// that gets.
    pub asked: Box<[Asked]>,
}

/// The parts of the Plan by what they were made from.
#[derive(Debug, Default)]
pub(super) struct Readers {
    hosts: BTreeSet<(Arc<str>, Reader)>,
    asked: BTreeMap<Asked, BTreeSet<Reader>>,
    peeked: BTreeMap<DestinationId, (bool, BTreeSet<Reader>)>,
}

impl Readers {
    pub fn add(&mut self, reader: Reader, trace: &Trace) {
        self.hosts.extend(trace.hosts.iter().map(|host| (host.clone(), reader)));
        for question in &trace.asked {
            self.asked.entry(question.clone()).or_default().insert(reader);
        }
        for (destination, has) in &trace.peeked {
            let peeked = self.peeked.entry(destination.clone()).or_default();
            peeked.0 = *has;
            peeked.1.insert(reader);
        }
    }

    pub fn remove(&mut self, reader: Reader, trace: &Trace) {
        for host in &trace.hosts {
            self.hosts.remove(&(host.clone(), reader));
        }
        for question in &trace.asked {
            if let Some(readers) = self.asked.get_mut(question) {
                readers.remove(&reader);
                if readers.is_empty() {
                    self.asked.remove(question);
                }
            }
        }
        for (destination, _) in &trace.peeked {
            if let Some((_, readers)) = self.peeked.get_mut(destination) {
                readers.remove(&reader);
                if readers.is_empty() {
                    self.peeked.remove(destination);
                }
            }
        }
    }

    /// Those that have looked up a host.
    pub fn of_host(&self, host: &Arc<str>) -> impl Iterator<Item = Reader> {
        let from = (host.clone(), Reader::Gateways);
        let found = self.hosts.range(from..).take_while(move |(other, _)| other == host);
        found.map(|(_, reader)| *reader)
    }

    /// Those in which clients were asked this.
    pub fn of_question(&self, question: &Asked) -> impl Iterator<Item = Reader> {
        self.asked.get(question).into_iter().flatten().copied()
    }

    /// The destinations of a host of which some have asked only whether they have
    /// endpoints, what they were told, and those who have asked.
    pub fn peeked(
        &self,
        host: &Arc<str>,
    ) -> impl Iterator<Item = (&DestinationId, bool, &BTreeSet<Reader>)> {
        let found = self.peeked.range(first_of(host)..).take_while(move |(id, _)| id.host == *host);
        found.map(|(id, (has, readers))| (id, *has, readers))
    }

    /// How many of each there are.
    pub fn count(&self) -> (usize, usize, usize) {
        let asked = self.asked.values().map(BTreeSet::len).sum();
        let peeked = self.peeked.values().map(|(_, readers)| readers.len()).sum();
        (self.hosts.len(), asked, peeked)
    }
}

/// What all destinations of a host follow in their order.
pub(super) fn first_of(host: &Arc<str>) -> DestinationId {
    DestinationId { host: host.clone(), subset: None, port: 0, v6: false, view: Arc::default() }
}
