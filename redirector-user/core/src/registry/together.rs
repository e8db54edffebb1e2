//! The frontends of ServiceEntries that have one host: a namespace's are one service of it,
//! and so each address of one has the ports of all.

use ipnet::IpNet;
use rustc_hash::{FxHashMap, FxHashSet};

use super::frontends::{self, MOST_ADDRESSES};
use crate::model::ServiceEntry;
use crate::world::World;

/// The addresses that a ServiceEntry has of a host, at most.
pub(super) struct Owns {
    /// Those that are written down.
    named: Vec<IpNet>,
    /// How many others there are. Every entry that has others of the host has the same.
    others: u64,
}

impl Owns {
    pub fn of(world: &World, entry: &ServiceEntry, host: &str) -> Self {
        if !entry.addresses.is_empty() {
            return Self { named: entry.addresses.iter().map(IpNet::trunc).collect(), others: 0 };
        }
        let known = world.answer(host).filter(|_| frontends::by_name(entry, host));
        let learned = known.map_or(0, |answer| answer.all().count().min(MOST_ADDRESSES)) as u64;
        if world.settings.allocates {
            return Self { named: Vec::new(), others: learned + 2 };
        }
        let allocated = entry.allocated_to(host).map(|ip| IpNet::from(*ip));
        Self { named: allocated.collect(), others: learned }
    }

    /// How many frontends the entry has of the host by itself.
    pub fn frontends(&self, entry: &ServiceEntry) -> u64 {
        let addresses = (self.named.len() as u64).saturating_add(self.others).max(1);
        addresses.saturating_mul(entry.ports.len() as u64)
    }
}

/// What ServiceEntries have of a host together.
#[derive(Default)]
pub(super) struct Together {
    named: FxHashSet<IpNet>,
    others: u64,
    ports: FxHashSet<u16>,
}

impl Together {
    /// How many frontends they have.
    pub fn frontends(&self) -> u64 {
        product(self.named.len() as u64 + self.others, self.ports.len() as u64)
    }

    /// How many more that would be with one more entry.
    fn more(&self, owns: &Owns, entry: &ServiceEntry) -> u64 {
        let named: FxHashSet<&IpNet> = owns.named.iter().collect();
        let named = named.into_iter().filter(|one| !self.named.contains(one)).count();
        let ports: FxHashSet<u16> = entry.ports.iter().map(|port| port.number).collect();
        let ports = ports.difference(&self.ports).count() + self.ports.len();
        let addresses = (self.named.len() + named) as u64 + self.others.max(owns.others);
        product(addresses, ports as u64) - self.frontends()
    }

    /// With one more entry.
    pub fn add(&mut self, owns: Owns, entry: &ServiceEntry) {
        self.named.extend(owns.named);
        self.others = self.others.max(owns.others);
        self.ports.extend(entry.ports.iter().map(|port| port.number));
    }
}

/// The hosts of ServiceEntries of one namespace, one entry after the other.
#[derive(Default)]
pub(super) struct Hosts<'w>(FxHashMap<&'w str, Together>);

impl<'w> Hosts<'w> {
    /// How many frontends more there would be with one more entry.
    pub fn more(&self, world: &World, entry: &ServiceEntry) -> u64 {
        let nothing = Together::default();
        let of_host = |host: &String| {
            let all = self.0.get(host.as_str()).unwrap_or(&nothing);
            all.more(&Owns::of(world, entry, host), entry)
        };
        entry.hosts.iter().map(of_host).fold(0, u64::saturating_add)
    }

    /// With one more entry.
    pub fn add(&mut self, world: &World, entry: &'w ServiceEntry) {
        for host in &entry.hosts {
            self.0.entry(host).or_default().add(Owns::of(world, entry, host), entry);
        }
    }
}

/// One without addresses may be there at all of them.
fn product(addresses: u64, ports: u64) -> u64 {
    addresses.max(1).saturating_mul(ports)
}
