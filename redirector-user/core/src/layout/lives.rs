//! Which destinations and endpoints have an entry of `LIVE`, and which.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher as _;
use std::net::{IpAddr, SocketAddr};

use redirector_common::abi::{LIVES, policy};
use redirector_common::hash::Fnv;
use serde::{Deserialize, Serialize};

use super::numbers::{Numbers, NumbersChange};
use super::stepped::{Stepped, Stepping};
use super::{Full, Table};
use crate::difference::Difference;
use crate::pairs;
use crate::plan::{Algorithm, Destination, DestinationId};

/// The numbers of all entries.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Lives {
    of: Stepped<DestinationId, Live>,
    numbers: Numbers,
    /// Destinations that lack entries, because those that come free in this step can only
    /// be given out in the next one.
    #[serde(skip)]
    lacking: BTreeSet<DestinationId>,
}

/// What a step changes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct LivesChange {
    of: Difference<DestinationId, Live>,
    numbers: NumbersChange,
}

impl LivesChange {
    /// Whether everybody has the entries that they had.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }
}

/// The entries of a destination and its endpoints.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Live {
    pub number: u32,
    #[serde(with = "pairs")]
    pub endpoints: BTreeMap<SocketAddr, u32>,
}

impl Default for Lives {
    fn default() -> Self {
        // Entry 0 is nobody's.
        Self { of: Stepped::default(), numbers: Numbers::from(1), lacking: BTreeSet::new() }
    }
}

impl Lives {
    /// What this step changes.
    pub fn change(&self) -> LivesChange {
        LivesChange { of: self.of.difference(), numbers: self.numbers.change() }
    }

    /// Makes them what they were after a step that changed this.
    pub fn follow(&mut self, change: LivesChange) {
        self.of.follow(change.of);
        self.numbers.follow(change.numbers);
    }

    /// Gives a destination and its endpoints entries if they need any, and takes them if
    /// they do not. Where the last ones are taken and others come free in this step, it is
    /// [lacking](Self::lacking).
    pub fn place(
        &mut self,
        id: &DestinationId,
        destination: Option<&Destination>,
    ) -> Result<(), Full> {
        self.release(id, destination);
        let Some((destination, counted)) = needed(destination) else { return Ok(()) };
        let before = self.of.get(id);
        let mut live = match before {
            Some(live) => live.clone(),
            None => match self.numbers.take(LIVES, Table::Lives) {
                Ok(number) => Live { number, endpoints: BTreeMap::new() },
                Err(_) if self.numbers.has_waiting() => {
                    self.lacking.insert(id.clone());
                    return Ok(());
                }
                Err(full) => return Err(full),
            },
        };
        let (numbers, lacking) = (&mut self.numbers, &mut self.lacking);
        let addresses = destination.endpoints.iter().filter(|_| counted).map(|one| one.address);
        for address in addresses {
            if let Entry::Vacant(entry) = live.endpoints.entry(address) {
                match numbers.take(LIVES, Table::Lives) {
                    Ok(number) => _ = entry.insert(number),
                    Err(_) if numbers.has_waiting() => _ = lacking.insert(id.clone()),
                    Err(full) => return Err(full),
                }
            }
        }
        if before != Some(&live) {
            self.of.insert(id.clone(), live);
        }
        Ok(())
    }

    /// Takes the entries that a destination and its endpoints need no more.
    pub fn release(&mut self, id: &DestinationId, destination: Option<&Destination>) {
        let Some(live) = self.of.get(id) else { return };
        let Some((destination, counted)) = needed(destination) else {
            self.numbers.free(live.number);
            live.endpoints.values().for_each(|number| self.numbers.free(*number));
            self.of.remove(id);
            return;
        };
        let endpoints = destination.endpoints.iter().filter(|_| counted);
        let addresses: BTreeSet<SocketAddr> = endpoints.map(|one| one.address).collect();
        if live.endpoints.keys().all(|address| addresses.contains(address)) {
            return;
        }
        let mut live = live.clone();
        live.endpoints.retain(|address, number| {
            let stays = addresses.contains(address);
            if !stays {
                self.numbers.free(*number);
            }
            stays
        });
        self.of.insert(id.clone(), live);
    }

    /// Those that got less entries in this step than they need: they are to be placed again.
    pub fn lacking(&self) -> &BTreeSet<DestinationId> {
        &self.lacking
    }

    /// How many entries are given out.
    pub fn used(&self) -> u64 {
        self.numbers.used()
    }

    /// Whose entries there are.
    pub fn owners(&self) -> impl Iterator<Item = &DestinationId> {
        self.of.keys()
    }

    /// The entries of a destination.
    pub fn get(&self, id: &DestinationId) -> Option<&Live> {
        self.of.get(id)
    }

    /// All entries: the destination, and the address of an endpoint's.
    pub fn all(&self) -> impl Iterator<Item = (u32, &DestinationId, Option<SocketAddr>)> {
        self.of.iter().flat_map(|(id, live)| {
            let endpoints = live.endpoints.iter();
            let endpoints = endpoints.map(move |(address, number)| (*number, id, Some(*address)));
            std::iter::once((live.number, id, None)).chain(endpoints)
        })
    }
}

/// A destination that needs an entry, and whether its endpoints do, too.
fn needed(destination: Option<&Destination>) -> Option<(&Destination, bool)> {
    destination.and_then(|one| Some((one, needs(one)?)))
}

/// Whether a destination needs an entry, and whether its endpoints do, too.
pub(super) fn needs(destination: &Destination) -> Option<bool> {
    let policy = super::policy(destination);
    let counted = policy & (policy::LIMITED | policy::EJECTING) != 0
        || policy & policy::ALGORITHM == policy::LEAST_REQUEST;
    (counted || destination.algorithm == Algorithm::RoundRobin).then_some(counted)
}

/// What tells owners of an entry apart: never zero. It is the same in every
/// version, as entries outlive versions: by what things are called, and not by how
/// this one has them in its memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner(Fnv);

impl Owner {
    /// For a destination and its endpoints.
    pub fn of(id: &DestinationId) -> Self {
        let mut hash = Fnv::default();
        let mut part = |bytes: &[u8]| {
            hash.write(bytes);
            hash.write(&[0]);
        };
        part(id.host.as_bytes());
        part(id.subset.as_deref().unwrap_or_default().as_bytes());
        for object in id.view.iter() {
            part(object.kind.as_str().as_bytes());
            part(object.namespace.as_bytes());
            part(object.name.as_bytes());
        }
        part(&[u8::from(id.v6)]);
        part(&id.port.to_be_bytes());
        Self(hash)
    }

    /// That of the destination's entry.
    pub fn destination(self) -> u32 {
        let hash = self.0.finish();
        ((hash ^ (hash >> 32)) as u32).max(1)
    }

    /// That of the entry of an endpoint.
    pub fn endpoint(mut self, address: SocketAddr) -> u32 {
        match address.ip() {
            IpAddr::V4(ip) => self.0.write(&ip.octets()),
            IpAddr::V6(ip) => self.0.write(&ip.octets()),
        }
        self.0.write(&address.port().to_be_bytes());
        self.destination()
    }
}

/// What the kernel calls a destination: see
/// [`Destination::owner`](redirector_common::abi::Destination::owner).
pub fn owner(id: &DestinationId) -> u32 {
    Owner::of(id).destination()
}

impl Stepping for Lives {
    fn begin_step(&mut self) {
        self.lacking.clear();
        self.numbers.begin_step();
    }

    fn settle(&mut self) {
        self.of.settle();
        self.numbers.settle();
    }

    fn take_back(&mut self) {
        self.lacking.clear();
        self.of.take_back();
        self.numbers.take_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Layout, ROOMY};
    use crate::model::{Kind, ObjectRef};
    use crate::plan::{Endpoint, Plan};

    fn id(host: &str) -> DestinationId {
        DestinationId { host: host.into(), subset: None, port: 80, v6: false, view: [].into() }
    }

    fn plan(hosts: &[(&str, Algorithm, &[u8])]) -> Plan {
        let destination = |(host, algorithm, endpoints): &(&str, Algorithm, &[u8])| {
            let endpoint =
                |host: &u8| Endpoint { address: ([10, 0, 0, *host], 80).into(), weight: 1 };
            let endpoints = endpoints.iter().map(endpoint).collect();
            (id(host), Destination { algorithm: *algorithm, endpoints, ..Destination::default() })
        };
        Plan { destinations: hosts.iter().map(destination).collect(), ..Plan::default() }
    }

    /// A step: what is not in the Plan goes.
    fn place(lives: &mut Lives, plan: &Plan) {
        lives.begin_step();
        let gone: Vec<_> =
            lives.owners().filter(|id| !plan.destinations.contains_key(id)).cloned().collect();
        for id in gone {
            lives.place(&id, None).expect("it only goes");
        }
        for (id, one) in &plan.destinations {
            lives.place(id, Some(one)).expect("room");
        }
        lives.settle();
    }

    fn numbers(lives: &Lives) -> BTreeMap<(String, Option<SocketAddr>), u32> {
        lives.all().map(|(number, id, at)| ((id.host.to_string(), at), number)).collect()
    }

    #[test]
    fn only_who_needs_an_entry_has_one_and_keeps_it() {
        let mut lives = Lives::default();
        let three = [
            ("a", Algorithm::Random, &[1, 2][..]),
            ("b", Algorithm::RoundRobin, &[1, 2]),
            ("c", Algorithm::LeastRequest, &[1, 2]),
        ];
        place(&mut lives, &plan(&three));
        let before = numbers(&lives);
        assert_eq!(before.len(), 4, "{before:?}");
        place(&mut lives, &plan(&[("c", Algorithm::LeastRequest, &[2, 3])]));
        let after = numbers(&lives);
        assert_eq!(after.len(), 3);
        for (who, number) in &after {
            match before.get(who) {
                Some(kept) => assert_eq!(kept, number),
                None => assert!(!before.values().any(|old| old == number), "in the same step"),
            }
        }
    }

    #[test]
    fn owners_differ_by_destination_and_address() {
        let at = |host: u8| SocketAddr::from(([10, 0, 0, host], 80));
        let subset = DestinationId { subset: Some("v1".into()), ..id("a") };
        let port = DestinationId { port: 81, ..id("a") };
        let v6 = DestinationId { v6: true, ..id("a") };
        let owners = [
            Owner::of(&id("a")).destination(),
            Owner::of(&id("b")).destination(),
            Owner::of(&subset).destination(),
            Owner::of(&port).destination(),
            Owner::of(&v6).destination(),
            Owner::of(&id("a")).endpoint(at(1)),
            Owner::of(&id("a")).endpoint(at(2)),
            Owner::of(&id("b")).endpoint(at(1)),
            Owner::of(&id("a")).endpoint(SocketAddr::from(([10, 0, 0, 1], 81))),
        ];
        let distinct: std::collections::BTreeSet<u32> = owners.into_iter().collect();
        assert_eq!(distinct.len(), owners.len());
    }

    #[test]
    fn owners_are_the_same_in_every_version() {
        // Another number here forgets, at an upgrade, all that was counted: it
        // takes another `LIVE_LAYOUT`.
        let view = vec![ObjectRef {
            kind: Kind::DestinationRule,
            namespace: "shop".into(),
            name: "db".into(),
        }];
        let id = DestinationId {
            host: "db.shop.svc.cluster.local".into(),
            subset: Some("v2".into()),
            port: 5432,
            v6: false,
            view: view.into(),
        };
        let owner = Owner::of(&id);
        let six = "[fd00::7]:5432".parse().expect("an address");
        assert_eq!(
            [
                owner.destination(),
                owner.endpoint(([10, 0, 0, 7], 5432).into()),
                owner.endpoint(six)
            ],
            [2_374_808_226, 3_642_756_437, 1_249_236_859]
        );
    }

    #[test]
    fn in_new_tables_everybody_keeps_the_entry_that_it_has() {
        let both =
            plan(&[("a", Algorithm::LeastRequest, &[1]), ("b", Algorithm::LeastRequest, &[1])]);
        let entries = |layout: &Layout| numbers(&layout.lives);
        let place = |layout: &Layout, plan: &Plan| layout.place(plan, &ROOMY).expect("room").0;
        // Who came first has the first numbers, whatever it is called.
        let layout = place(&Layout::default(), &plan(&[("b", Algorithm::LeastRequest, &[1])]));
        let layout = place(&layout, &both);
        let again = place(&layout.in_new_tables(), &both);
        assert_eq!(entries(&again), entries(&layout));
        assert_ne!(entries(&place(&Layout::default(), &both)), entries(&layout));
    }
}
