//! Addresses that are given to hosts of ServiceEntries without any, where the settings
//! say so: each host of a namespace has one of each family, by a hash of both names.
//!
//! Nothing but the documents decides, so that whoever reads the same ones gives the same
//! addresses. What is written in one, or was allocated by a cluster, is no place. Of two hosts
//! with one hash the first by namespace and name has its place, and the other the next that is
//! free: what comes moves a host only then.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use redirector_common::hash::Fnv;

use super::edit::Edit;
use super::entries::{is_resolved, resolves};
use super::frontends::by_name;
use crate::model::{Kind, Object, Resolution, ServiceEntry, Spec};
use crate::world::World;

/// A host of a namespace.
pub type HostOf = (Arc<str>, Arc<str>);

/// How many there are: 240.240.0.0/16, without what looks like the address of a network or
/// of all of its hosts.
const PLACES: u16 = 254 * 256 - 1;

/// What IPv6 addresses of hosts begin with: a prefix of a local network that nobody was
/// given (RFC 4193), with the same figures.
const PREFIX: [u16; 3] = [0xfdf0, 0x0240, 0x0240];

/// Whether an address is of those that are given to hosts, here or by Istio: only who
/// decides about connections knows what is behind it, and so no resolver can say so.
pub fn is_given(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets().starts_with(&[240, 240]),
        IpAddr::V6(ip) => ip.segments().starts_with(&PREFIX),
    }
}

/// Which host has which place.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Given {
    /// The hosts, and how many entries have each.
    wanted: BTreeMap<HostOf, usize>,
    /// What is written of these networks, and how often.
    written: BTreeMap<Lasts, usize>,
    places: BTreeMap<HostOf, u16>,
    /// Hosts that have another place than by themselves, and whose theirs is; `None` where it
    /// is written in a document.
    displaced: BTreeMap<HostOf, Option<HostOf>>,
}

/// The last two bytes of some addresses of either network: the first and the last of them.
type Lasts = (u16, u16);

/// Those of a network that are among what is given, if it is no wider than that.
fn lasts(net: &IpNet) -> Option<Lasts> {
    let (first, last) = match net.trunc() {
        IpNet::V4(net) => (IpAddr::V4(net.network()), IpAddr::V4(net.broadcast())),
        IpNet::V6(net) => (IpAddr::V6(net.network()), IpAddr::V6(net.broadcast())),
    };
    if !is_given(&first) || !is_given(&last) {
        return None;
    }
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let low = |ip: Ipv4Addr| u16::from_be_bytes([ip.octets()[2], ip.octets()[3]]);
            Some((low(first), low(last)))
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            // Addresses that are given have nothing between the prefix and the last two bytes.
            let zeros = first.segments()[3..7].iter().all(|part| *part == 0);
            let wide = last.segments()[6] != first.segments()[6];
            let high = if wide { u16::MAX } else { last.segments()[7] };
            zeros.then_some((first.segments()[7], high))
        }
        _ => None,
    }
}

/// What an object has of these networks already.
fn written(object: Option<&Arc<Object>>) -> Vec<Lasts> {
    match object.map(|object| &object.spec) {
        Some(Spec::ServiceEntry(entry)) => {
            let allocated = entry.allocated.iter().map(|(_, ip)| IpNet::from(*ip));
            let all = entry.addresses.iter().copied().chain(allocated);
            all.filter_map(|net| lasts(&net)).collect()
        }
        Some(Spec::Service(service)) => {
            let all = service.cluster_ips.iter().map(|ip| IpNet::from(*ip));
            all.filter_map(|net| lasts(&net)).collect()
        }
        _ => Vec::new(),
    }
}

/// The last two bytes of the addresses of a place.
const fn last(place: u16) -> u16 {
    u16::from_be_bytes([(place / 254) as u8, (place % 254) as u8 + 1])
}

/// The addresses of a place.
fn of_place(place: u16) -> [IpAddr; 2] {
    let last = last(place);
    let [third, fourth] = last.to_be_bytes();
    let [a, b, c] = PREFIX;
    let v6 = Ipv6Addr::new(a, b, c, 0, 0, 0, 0, last);
    [Ipv4Addr::new(240, 240, third, fourth).into(), v6.into()]
}

/// The hosts of an object that are to have addresses.
fn hosts(object: Option<&Arc<Object>>) -> BTreeSet<HostOf> {
    let entry = object.and_then(|object| Some((object, object.spec.service_entry()?)));
    let Some((object, entry)) = entry.filter(|(_, entry)| lacks(entry)) else {
        return BTreeSet::new();
    };
    let hosts = entry.hosts.iter();
    let hosts = hosts
        .filter(|host| !host.starts_with('*') && entry.allocated_to(host).next().is_none())
        .map(|host| (object.meta.namespace.clone(), host.as_str().into()));
    hosts.collect()
}

fn lacks(entry: &ServiceEntry) -> bool {
    entry.addresses.is_empty()
        && !entry.leads_to_gateway
        && !matches!(entry.resolution, Resolution::None | Resolution::DynamicDns)
}

impl Given {
    /// ServiceEntries and Services changed. Returns the hosts that have other addresses by that.
    pub fn change<'e>(&mut self, edits: impl Iterator<Item = &'e Edit<'e>>) -> BTreeSet<HostOf> {
        let mut differs = false;
        for Edit { before, after, .. } in edits {
            for gone in written(*before) {
                let Some(count) = self.written.get_mut(&gone) else { continue };
                *count -= 1;
                if *count == 0 {
                    self.written.remove(&gone);
                    differs = true;
                }
            }
            for new in written(*after) {
                let count = self.written.entry(new).or_default();
                differs |= *count == 0;
                *count += 1;
            }
            for host in hosts(*before) {
                let Some(count) = self.wanted.get_mut(&host) else { continue };
                *count -= 1;
                if *count == 0 {
                    self.wanted.remove(&host);
                    differs = true;
                }
            }
            for host in hosts(*after) {
                let count = self.wanted.entry(host).or_default();
                differs |= *count == 0;
                *count += 1;
            }
        }
        if !differs {
            return BTreeSet::new();
        }
        let (places, displaced) = place(self.wanted.keys(), self.written.keys());
        let before = std::mem::replace(&mut self.places, places);
        self.displaced = displaced;
        let all: BTreeSet<&HostOf> = before.keys().chain(self.places.keys()).collect();
        let others = all.into_iter().filter(|host| before.get(*host) != self.places.get(*host));
        others.cloned().collect()
    }

    /// The hosts, sorted by namespace.
    pub fn hosts(&self) -> impl Iterator<Item = &HostOf> {
        self.places.keys()
    }

    /// The addresses of a host.
    pub fn of(&self, namespace: &Arc<str>, host: &Arc<str>) -> Option<[IpNet; 2]> {
        let place = *self.places.get(&(namespace.clone(), host.clone()))?;
        Some(of_place(place).map(IpNet::from))
    }

    /// Hosts that have another place than by themselves, and whose theirs is; `None` where it
    /// is written in a document.
    pub fn displaced(&self) -> impl Iterator<Item = (&HostOf, Option<&HostOf>)> {
        self.displaced.iter().map(|(host, other)| (host, other.as_ref()))
    }
}

/// The same World as it will be once every name is resolved: the hosts whose own addresses are
/// not known before have one of each family, as a cluster would have allocated them, and so have
/// endpoints by name. What their clients meet does not depend on which these are. `None` where
/// nothing is to be resolved.
pub fn with_stand_ins(world: &World) -> Option<World> {
    let is_known = |host: &str| world.answer(host).is_some_and(|one| one.all().next().is_some());
    let entries = || world.of_kind(Kind::ServiceEntry);
    let awaited = |object: &Arc<Object>| -> Vec<HostOf> {
        let entry = object.spec.service_entry().filter(|_| !world.settings.allocates);
        let Some(entry) = entry else { return Vec::new() };
        let hosts = hosts(Some(object)).into_iter();
        hosts.filter(|(_, host)| by_name(entry, host) && !is_known(host)).collect()
    };
    let selected_lack =
        world.workload_entries().any(|(_, entry)| !is_resolved(world, &entry.address));
    let lacks_endpoints = |object: &Arc<Object>| {
        let entry = object.spec.service_entry().filter(|entry| resolves(entry));
        entry.is_some_and(|entry| {
            let own = entry.endpoints.iter().map(|one| &one.address);
            let hosts = entry.hosts.iter().filter(|_| !entry.has_own_endpoints());
            own.chain(hosts).any(|one| !is_resolved(world, one))
                || entry.workload_selector.is_some() && selected_lack
        })
    };
    let wanted = entries().flat_map(awaited).map(|host| (host, 1)).collect();
    let mut given = Given { wanted, ..Given::default() };
    if given.wanted.is_empty() && !entries().any(lacks_endpoints) {
        return None;
    }
    let owners = entries().chain(world.of_kind(Kind::Service));
    let written: Vec<Lasts> = owners.flat_map(|object| written(Some(object))).collect();
    given.places = place(given.wanted.keys(), written.iter()).0;
    let mut standing = world.clone();
    for object in entries() {
        let mut allocated = Vec::new();
        for (namespace, host) in awaited(object) {
            let addresses = given.of(&namespace, &host).into_iter().flatten();
            allocated.extend(addresses.map(|net| (Some(host.to_string()), net.addr())));
        }
        if !allocated.is_empty() {
            let mut object = Object::clone(object);
            if let Spec::ServiceEntry(entry) = &mut object.spec {
                entry.allocated.extend(allocated);
            }
            standing.insert(object);
        }
    }
    standing.stand_ins = Some(Arc::new(given.wanted.into_keys().collect()));
    Some(standing)
}

/// Addresses that stand for those of an endpoint by name, of each family.
pub(super) fn of_endpoint(name: &str) -> [IpAddr; 2] {
    of_place(hash(&("".into(), name.into())))
}

/// Gives each its place, in their order.
fn place<'h>(
    all: impl Iterator<Item = &'h HostOf>,
    written: impl Iterator<Item = &'h Lasts>,
) -> (BTreeMap<HostOf, u16>, BTreeMap<HostOf, Option<HostOf>>) {
    let written = written.flat_map(|(first, last)| *first..=*last);
    let written: BTreeSet<u16> = written.collect();
    let mut taken: BTreeMap<u16, &HostOf> = BTreeMap::new();
    let (mut places, mut displaced) = (BTreeMap::new(), BTreeMap::new());
    for host in all.take(usize::from(PLACES)) {
        let own = hash(host);
        let is_free = |place: &u16| !taken.contains_key(place) && !written.contains(&last(*place));
        let Some(place) = (own..PLACES).chain(0..own).find(is_free) else { break };
        if place != own {
            displaced.insert(host.clone(), taken.get(&own).map(|owner| (*owner).clone()));
        }
        taken.insert(place, host);
        places.insert(host.clone(), place);
    }
    (places, displaced)
}

/// The place that a host has if no other one has it: FNV-1a, which is the same on every
/// machine and in every version.
fn hash((namespace, host): &HostOf) -> u16 {
    let mut fnv = Fnv::default();
    let parts = [namespace.as_bytes(), b"/", host.as_bytes()];
    parts.into_iter().for_each(|part| fnv.write(part));
    // The high bits are the better mixed ones.
    ((fnv.finish() >> 32) % u64::from(PLACES)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: usize) -> HostOf {
        ("shop".into(), format!("db-{number}.example.com").into())
    }

    #[test]
    fn a_host_has_the_same_place_whoever_else_is_there_but_for_collisions() {
        let all: BTreeSet<HostOf> = (0..2000).map(host).collect();
        let (places, displaced) = place(all.iter(), [].iter());
        let distinct: BTreeSet<_> = places.values().collect();
        assert_eq!((places.len(), distinct.len()), (all.len(), all.len()));
        assert!(!displaced.is_empty(), "so many collide");
        for (host, own) in places.iter().filter(|(host, _)| !displaced.contains_key(*host)) {
            assert_eq!(place(std::iter::once(host), [].iter()).0[host], *own, "{host:?}");
        }
    }

    #[test]
    fn places_of_known_hosts_never_change() {
        // Whoever has written these into /etc/hosts depends on them.
        let mut given = Given::default();
        given.wanted.insert(host(1), 1);
        given.places = place(given.wanted.keys(), [].iter()).0;
        let (namespace, name) = host(1);
        let addresses = given.of(&namespace, &name).expect("a place");
        assert!(addresses.iter().all(|one| is_given(&one.addr())));
        assert_eq!(
            addresses.map(|one| one.to_string()),
            ["240.240.60.95/32", "fdf0:240:240::3c5f/128"]
        );
    }

    #[test]
    fn what_is_written_is_no_place() {
        for (text, wanted) in [
            ("240.240.60.95", Some((0x3c5f, 0x3c5f))),
            ("240.240.60.0/24", Some((0x3c00, 0x3cff))),
            ("240.240.0.0/16", Some((0, 0xffff))),
            ("240.0.0.0/4", None),
            ("240.241.0.0/24", None),
            ("fdf0:240:240::3c5f", Some((0x3c5f, 0x3c5f))),
            ("fdf0:240:240::/64", Some((0, 0xffff))),
            ("fdf0:240:240:1::/64", None),
            ("fdf0:240:240::1:0/112", None),
            ("fdf0::/16", None),
        ] {
            let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).unwrap();
            assert_eq!(lasts(&net), wanted, "{text}");
        }
        let (places, displaced) = place([host(1)].iter(), [(0x3c00, 0x3c60)].iter());
        assert_eq!((last(places[&host(1)]), displaced[&host(1)].clone()), (0x3c61, None));
        assert!(place([host(1)].iter(), [(0, 0xffff)].iter()).0.is_empty());
    }
}
