//! Which addresses are a ServiceEntry's own that has none in its spec: those that its
//! hosts resolve to, and those that were allocated to them.
//!
//! This is the one place where that is decided, for the kernel, for `check` and for
//! `explain`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::edit::Edit;
use super::given::Given;
use crate::model::{Kind, Object, ObjectRef, Resolution, ServiceEntry, Spec};
use crate::validate::subnets;
use crate::world::{Answer, OF_ALL_MACHINES, Settings, World};

/// Most addresses of one name, those that it resolved to lately included, that are its
/// entry's. What is beyond them is left alone.
pub const MOST_ADDRESSES: usize = 1024;

/// Why an address that a host resolves to is not taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NotTaken {
    /// It is the machine's own or its link's (loopback, link-local, unspecified), or many
    /// machines' at once (multicast, broadcast).
    Machine,
    /// It is one of this node.
    Node,
    /// The API server answers there, as this EndpointSlice says.
    ApiServer(ObjectRef),
    /// It was allocated to this Service.
    Service(ObjectRef),
    /// The name has more than [`MOST_ADDRESSES`].
    TooMany,
}

impl fmt::Display for NotTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine => f.write_str(
                "which is an address of every machine, of its link or of many machines at once, \
                 and is never taken for a name",
            ),
            Self::Node => {
                f.write_str("which is an address of this node, and is never taken for a name")
            }
            Self::ApiServer(slice) => write!(
                f,
                "where {slice} says that the API server is, and is never taken for a name"
            ),
            Self::Service(owner) => {
                write!(f, "which was allocated to {owner}, and is never taken for a name")
            }
            Self::TooMany => write!(
                f,
                "and to more than {MOST_ADDRESSES} addresses: those beyond are left alone"
            ),
        }
    }
}

/// What is known of addresses beside what each entry says itself.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Owned {
    /// Those of Services.
    pub services: Allocated,
    /// Those that are given to hosts here.
    pub given: Given,
}

/// The addresses of Services, and where the API server answers; and whose each is.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Allocated(BTreeMap<IpAddr, BTreeSet<ObjectRef>>);

/// What was allocated to a Service, or is an endpoint of the API server's.
fn of(object: Option<&Arc<Object>>) -> Vec<IpAddr> {
    let Some(object) = object else { return Vec::new() };
    match &object.spec {
        Spec::Service(service) if !service.headless => service.cluster_ips.clone(),
        Spec::EndpointSlice(slice)
            if *object.meta.namespace == *API_SERVER.0 && *slice.service == *API_SERVER.1 =>
        {
            slice.endpoints.iter().flat_map(|one| &one.addresses).copied().collect()
        }
        _ => Vec::new(),
    }
}

/// The Service of the API server, in every cluster.
const API_SERVER: (&str, &str) = ("default", "kubernetes");

impl Allocated {
    /// Services and EndpointSlices changed. Returns the addresses that are one's now and were
    /// nobody's, and the other way round.
    pub fn change<'e>(&mut self, edits: impl Iterator<Item = &'e Edit<'e>>) -> BTreeSet<IpAddr> {
        let mut touched: BTreeMap<IpAddr, bool> = BTreeMap::new();
        for Edit { reference, before, after } in edits {
            for ip in of(*before) {
                let Some(owners) = self.0.get_mut(&ip) else { continue };
                touched.entry(ip).or_insert(true);
                owners.remove(*reference);
                if owners.is_empty() {
                    self.0.remove(&ip);
                }
            }
            for ip in of(*after) {
                touched.entry(ip).or_insert_with(|| self.0.contains_key(&ip));
                self.0.entry(ip).or_default().insert((*reference).clone());
            }
        }
        touched.retain(|ip, was| self.0.contains_key(ip) != *was);
        touched.into_keys().collect()
    }

    /// The Service that has an address, or the slice that the API server is in.
    fn owner(&self, ip: &IpAddr) -> Option<&ObjectRef> {
        self.0.get(ip)?.first()
    }

    /// What becomes of each address that a name resolves to, or did lately.
    pub fn judge(&self, settings: &Settings, answer: &Answer) -> Vec<(IpAddr, Option<NotTaken>)> {
        let (mut known, mut taken) = (BTreeSet::new(), 0);
        let all = answer.all().map(IpAddr::to_canonical).filter(|ip| known.insert(*ip));
        let judge = |ip: IpAddr| {
            let why = if is_special(&ip) {
                NotTaken::Machine
            } else if settings.node_addresses.contains(&ip) {
                NotTaken::Node
            } else if let Some(owner) = self.owner(&ip) {
                match owner.kind {
                    Kind::EndpointSlice => NotTaken::ApiServer(owner.clone()),
                    _ => NotTaken::Service(owner.clone()),
                }
            } else if taken == MOST_ADDRESSES {
                NotTaken::TooMany
            } else {
                taken += 1;
                return (ip, None);
            };
            (ip, Some(why))
        };
        all.map(judge).collect()
    }
}

/// Whether no host of a network can have an address.
pub(crate) fn is_special(ip: &IpAddr) -> bool {
    OF_ALL_MACHINES.iter().any(|all| all.contains(ip))
        || ip.is_multicast()
        || matches!(ip, IpAddr::V4(ip) if ip.is_broadcast())
}

/// Whether the addresses that a host of an entry resolves to are the entry's.
pub(super) fn by_name(entry: &ServiceEntry, host: &str) -> bool {
    entry.addresses.is_empty()
        && matches!(entry.resolution, Resolution::Dns | Resolution::DnsRoundRobin)
        && !host.starts_with('*')
        && subnets::address(host).is_none()
}

/// The addresses of a host of an entry: those of its spec, or else those that were
/// allocated to the host, in a cluster or here.
pub(super) fn addresses(
    owned: &Owned,
    object: &Object,
    entry: &ServiceEntry,
    host: &Arc<str>,
) -> Vec<IpNet> {
    if !entry.addresses.is_empty() {
        return entry.addresses.iter().map(IpNet::trunc).collect();
    }
    let allocated = entry.allocated_to(host).map(|ip| IpNet::from(*ip));
    let given = owned.given.of(&object.meta.namespace, host);
    let mut addresses: Vec<IpNet> = Vec::new();
    for one in allocated.chain(given.into_iter().flatten()) {
        if !addresses.contains(&one) {
            addresses.push(one);
        }
    }
    addresses
}

/// The addresses that a host of an entry resolves to, and those that it did until lately, that
/// are its own, as the World knows what it resolves to. The order is that of the addresses.
pub(super) fn by_host(
    world: &World,
    owned: &Owned,
    entry: &ServiceEntry,
    host: &str,
) -> (Vec<IpAddr>, Vec<IpAddr>) {
    let answer = world.answer(host).filter(|_| by_name(entry, host));
    let Some(answer) = answer else { return Default::default() };
    let now: BTreeSet<IpAddr> = answer.addresses.iter().map(IpAddr::to_canonical).collect();
    let taken =
        owned.services.judge(&world.settings, answer).into_iter().filter(|(_, why)| why.is_none());
    let mut taken: Vec<IpAddr> = taken.map(|(ip, _)| ip).collect();
    taken.sort_unstable();
    taken.into_iter().partition(|ip| now.contains(ip))
}
