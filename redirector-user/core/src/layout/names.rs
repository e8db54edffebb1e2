//! From numbers back to names, for dumps.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use redirector_common::addr::Addr;

use super::{ClassTable, Layout};
use crate::model::{ObjectRef, SourceId};
use crate::plan::{DestinationId, FrontendId, RouteId};

/// What every number of a Layout stands for.
#[derive(Clone, Debug)]
pub struct Names<'l> {
    /// Routes by number.
    pub routes: BTreeMap<u32, &'l RouteId>,
    /// Legs by index: the route, the place in it, the destination.
    pub legs: BTreeMap<u32, (&'l RouteId, u32, &'l DestinationId)>,
    /// Destinations by number.
    pub destinations: BTreeMap<u32, &'l DestinationId>,
    /// Backends by index: the destination.
    pub backends: BTreeMap<u32, &'l DestinationId>,
    /// Entries of `LIVE`: the destination, and the address of an endpoint's.
    pub lives: BTreeMap<u32, (&'l DestinationId, Option<SocketAddr>)>,
    /// Class tables by number; the verdicts in them are numbers of routes.
    pub tables: BTreeMap<u32, &'l ClassTable>,
    /// Local workloads by identity number.
    pub identities: BTreeMap<u32, &'l SourceId>,
    /// The workload that stands for a class, by number; class 0 has none.
    pub classes: BTreeMap<u32, &'l SourceId>,
    /// The services that own the frontends.
    pub frontends: &'l BTreeMap<FrontendId, ObjectRef>,
}

impl Layout {
    /// The names of all numbers.
    pub fn names(&self) -> Names<'_> {
        let legs = self.routes.iter().flat_map(|(id, placed)| {
            let legs = (placed.first..).zip(0..).zip(&id.destinations);
            legs.map(move |((index, leg), destination)| (index, (&**id, leg, destination)))
        });
        let backends = self.destinations.iter().flat_map(|(id, placed)| {
            (placed.first..placed.first + placed.count).map(move |index| (index, id))
        });
        Names {
            routes: self.routes.iter().map(|(id, placed)| (placed.number, &**id)).collect(),
            legs: legs.collect(),
            destinations: (self.destinations.iter())
                .map(|(id, placed)| (placed.number, id))
                .collect(),
            backends: backends.collect(),
            lives: self.lives.all().map(|(number, id, at)| (number, (id, at))).collect(),
            tables: self.tables.iter().map(|(table, number)| (*number, &**table)).collect(),
            identities: self.identities.iter().map(|(id, number)| (*number, id)).collect(),
            // The first of each stands for it.
            classes: self.classes.iter().rev().map(|(id, number)| (*number, id)).collect(),
            frontends: &self.frontends,
        }
    }
}

impl Names<'_> {
    /// The service that owns an exact frontend.
    pub fn owner(&self, addr: Addr, port: u16) -> Option<&ObjectRef> {
        let prefix = IpNet::from(IpAddr::from(addr));
        self.frontends.get(&FrontendId { prefix, port })
    }
}
