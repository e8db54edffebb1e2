//! The Layout: which number every part of the Plan has in the kernel's tables.
//!
//! Numbers are kept from one Plan to the next, so that a small change of the
//! Plan is a small [`Delta`](crate::image::Delta), and so that counters by
//! number keep their meaning. A number or range that becomes free is not given
//! out again in the same step, and is given out again as late as possible.
//!
//! The Layout is kept in the state directory; it is also the way back, from the
//! numbers of a dump to names.

mod balancing;
mod class_table;
mod difference;
mod emptied;
mod frontends;
mod lives;
mod names;
mod numbers;
mod placement;
mod ranges;
mod ring;
mod shares;
mod sources;
mod spares;
mod stepped;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use redirector_common::abi::{self, Limits};
use redirector_common::addr::V4_MAPPED_BITS;
use serde::{Deserialize, Serialize};

use crate::image::Image;
use crate::model::{ObjectRef, SourceId};
use crate::plan::{self, Class, ClassId, DestinationId, FrontendId, Plan, RouteId};

use balancing::policy;
pub use class_table::ClassTable;
pub use difference::Difference;
pub use emptied::Emptied;
use lives::Lives;
pub use lives::owner;
pub use names::Names;
use numbers::Numbers;
pub use placement::Placement;
use ranges::Ranges;
pub use shares::{because, beyond_endpoints, beyond_lives, heaviest};
pub use spares::Newcomers;
use stepped::Stepped;

/// Sizes that a test's Plan has room in.
#[cfg(test)]
pub(crate) const ROOMY: Limits = Limits {
    class_tables: 64,
    identities: 64,
    routes: 64,
    legs: 64,
    destinations: 64,
    backends: 64,
    connections: 64,
    overflow: 0,
    kernel_socket: 0,
    btf: 0,
    socket_error: 0,
    md5_keys: 0,
    ao_keys: 0,
    stripes: 1,
};

/// The numbers of everything in the tables.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Layout {
    routes: Stepped<Arc<RouteId>, Placed>,
    destinations: Stepped<DestinationId, Placed>,
    tables: Stepped<Arc<ClassTable>, u32>,
    identities: Stepped<SourceId, u32>,
    /// The kernel's number of the class of each source that is in another than that
    /// of unknown callers.
    classes: Stepped<SourceId, u32>,
    /// To whom each frontend belongs, for dumps.
    frontends: Stepped<FrontendId, ObjectRef>,
    route_numbers: Numbers,
    leg_ranges: Ranges,
    destination_numbers: Numbers,
    backend_ranges: Ranges,
    table_numbers: Numbers,
    identity_numbers: Numbers,
    class_numbers: Numbers,
    /// Of a state directory from before there were any: none.
    #[serde(default)]
    lives: Lives,
    /// Identity numbers that no workload has yet, and the class that each has in
    /// the tables already.
    #[serde(default)]
    spares: BTreeMap<u32, u32>,
}

/// Where a route or destination lies: its number, and its range of legs or
/// backends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Placed {
    number: u32,
    first: u32,
    count: u32,
}

/// What the kernel has a table of, with so many entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "named as in a dump")]
pub enum Table {
    Routes,
    Legs,
    Destinations,
    Endpoints,
    Workloads,
    Classes,
    ClassTables,
    Lives,
    Frontends,
    Prefixes,
    ClassVerdicts,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Routes => "routes",
            Self::Legs => "route legs",
            Self::Destinations => "destinations",
            Self::Endpoints => "endpoints",
            Self::Workloads => "local workloads",
            Self::Classes => "source classes",
            Self::ClassTables => "class tables",
            Self::Lives => "destinations and endpoints that connections are counted on",
            Self::Frontends => "addresses with a port",
            Self::Prefixes => "networks with a port",
            Self::ClassVerdicts => "verdicts of source classes",
        })
    }
}

/// A table that the Plan does not fit into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full {
    /// Which table.
    pub table: Table,
    /// How many entries the Plan needs.
    pub needed: u64,
    /// How many entries it has.
    pub capacity: u32,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, needed, capacity } = self;
        write!(f, "the configuration needs {needed} {table}, and the tables hold {capacity}")?;
        if needed <= &u64::from(*capacity) {
            write!(f, " (there is room, but not in one piece)")?;
        }
        Ok(())
    }
}

impl std::error::Error for Full {}

impl Default for Layout {
    fn default() -> Self {
        Self {
            routes: Stepped::default(),
            destinations: Stepped::default(),
            tables: Stepped::default(),
            identities: Stepped::default(),
            classes: Stepped::default(),
            frontends: Stepped::default(),
            route_numbers: Numbers::from(0),
            leg_ranges: Ranges::default(),
            destination_numbers: Numbers::from(0),
            backend_ranges: Ranges::default(),
            table_numbers: Numbers::from(0),
            // Identity and class 0 are those of unknown callers.
            identity_numbers: Numbers::from(1),
            class_numbers: Numbers::from(1),
            lives: Lives::default(),
            spares: BTreeMap::new(),
        }
    }
}

impl Layout {
    /// Gives every part of the Plan its place, keeping what is already placed,
    /// and returns the new Layout with the tables.
    ///
    /// # Errors
    ///
    /// A table that the Plan does not fit into.
    pub fn place(&self, plan: &Plan, limits: &Limits) -> Result<(Self, Image), Full> {
        self.place_with(plan, limits, &Newcomers::default())
    }

    /// The same, for a node where pods come that the Plan does not know yet.
    ///
    /// # Errors
    ///
    /// A table that the Plan does not fit into.
    pub fn place_with(
        &self,
        plan: &Plan,
        limits: &Limits,
        newcomers: &Newcomers,
    ) -> Result<(Self, Image), Full> {
        let mut delta = self.removal();
        delta.then(Plan::default().difference(plan));
        let mut placement = Placement::of(self.clone());
        placement.place(&delta, limits, newcomers)?;
        placement.settle();
        Ok(placement.into_parts())
    }

    /// What takes everything out of the Plan that has a place. With a Plan's difference
    /// from nothing behind it, this is what gives each part of that Plan its place.
    pub fn removal(&self) -> plan::Delta {
        fn none<K: Clone + Ord, V>(keys: impl Iterator<Item = K>) -> plan::Changes<K, V> {
            keys.map(|key| (key, None)).collect()
        }
        plan::Delta {
            frontends: none(self.frontends.keys().copied()),
            routes: none(self.routes.keys().cloned()),
            destinations: none(self.destinations.keys().chain(self.lives.owners()).cloned()),
            sources: none(self.identities.keys().cloned()),
            ..plan::Delta::default()
        }
    }

    /// What is left of it where the tables are new: nothing has a number in them
    /// yet, but what connections are counted on lies outside of them and goes on.
    #[must_use]
    pub fn in_new_tables(&self) -> Self {
        Self { lives: self.lives.clone(), ..Self::default() }
    }

    /// The number of a route.
    pub fn route(&self, id: &RouteId) -> Option<u32> {
        self.routes.get(id).map(|placed| placed.number)
    }

    /// The number of a destination.
    pub fn destination(&self, id: &DestinationId) -> Option<u32> {
        self.destinations.get(id).map(|placed| placed.number)
    }

    /// The identity number of a local workload.
    pub fn identity(&self, id: &SourceId) -> Option<u32> {
        self.identities.get(id).copied()
    }

    /// The kernel's number of a class of the Plan that was placed; `None` when it has
    /// none, because the Plan is another.
    pub fn class_of(&self, class: &Class) -> Option<u32> {
        match &class.example {
            None => Some(abi::CLASS_UNKNOWN),
            Some(example) => self.classes.get(example).copied(),
        }
    }

    /// The kernel's number of each class of the Plan that was placed.
    pub fn classes_of(&self, plan: &Plan) -> BTreeMap<ClassId, u32> {
        let number = |class| self.class_of(class).unwrap_or(abi::CLASS_UNKNOWN);
        plan.classes.iter().map(|(id, class)| (*id, number(class))).collect()
    }

    /// All identity numbers.
    pub fn identities(&self) -> impl Iterator<Item = (&SourceId, u32)> {
        self.identities.iter().map(|(id, number)| (id, *number))
    }
}

/// A prefix's length within an [`Addr`](redirector_common::addr::Addr).
pub fn prefix_len(prefix: &IpNet) -> u8 {
    match prefix {
        IpNet::V4(prefix) => prefix.prefix_len() + V4_MAPPED_BITS as u8,
        IpNet::V6(prefix) => prefix.prefix_len(),
    }
}

fn len(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
