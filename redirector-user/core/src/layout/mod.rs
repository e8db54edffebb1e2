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
mod lives;
mod names;
mod numbers;
mod ranges;
mod ring;
mod spares;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use redirector_common::abi::{self, Limits, VerdictKind};
use redirector_common::addr::{Addr, V4_MAPPED_BITS};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::alias;
use crate::image::{Image, Prefix};
use crate::model::SourceId;
use crate::pairs;
use crate::plan::{Class, ClassId, DestinationId, Frontend, FrontendId, Plan, RouteId, Verdict};

use balancing::policy;
pub use class_table::ClassTable;
pub use difference::Difference;
pub use emptied::Emptied;
use lives::Lives;
pub use names::Names;
use numbers::Numbers;
use ranges::Ranges;
pub use spares::Newcomers;

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
    overflow_share: 0,
    stripes: 1,
};

/// The numbers of everything in the tables.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Layout {
    #[serde(with = "pairs")]
    routes: BTreeMap<Arc<RouteId>, Placed>,
    #[serde(with = "pairs")]
    destinations: BTreeMap<DestinationId, Placed>,
    #[serde(with = "pairs")]
    tables: BTreeMap<ClassTable, u32>,
    #[serde(with = "pairs")]
    identities: BTreeMap<SourceId, u32>,
    /// The kernel's number of the class of each source that is in another than that
    /// of unknown callers.
    #[serde(with = "pairs")]
    classes: BTreeMap<SourceId, u32>,
    /// To whom each frontend belongs, for dumps.
    #[serde(with = "pairs")]
    frontends: BTreeMap<FrontendId, crate::model::ObjectRef>,
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

/// What the kernel has numbers for, as many as its tables have entries.
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
            routes: BTreeMap::new(),
            destinations: BTreeMap::new(),
            tables: BTreeMap::new(),
            identities: BTreeMap::new(),
            classes: BTreeMap::new(),
            frontends: BTreeMap::new(),
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
    /// Nothing is changed when the Plan does not fit.
    pub fn place(&self, plan: &Plan, limits: &Limits) -> Result<(Self, Image), Full> {
        self.place_with(plan, limits, &Newcomers::keep(self))
    }

    /// The same, for a node where pods come that the Plan does not know yet.
    pub fn place_with(
        &self,
        plan: &Plan,
        limits: &Limits,
        newcomers: &Newcomers,
    ) -> Result<(Self, Image), Full> {
        let mut next = self.clone();
        next.begin_step();
        let mut image = Image::default();
        next.place_destinations(plan, limits, &mut image)?;
        next.place_routes(plan, limits, &mut image)?;
        let classes = next.place_sources(plan, limits, newcomers, &mut image)?;
        let before: BTreeSet<u32> = self.classes.values().copied().collect();
        let steady = classes.values().copied().filter(|class| before.contains(class)).collect();
        next.place_frontends(plan, limits, (&classes, &steady), &mut image)?;
        Ok((next, image))
    }

    /// What is left of it where the tables are new: nothing has a number in them
    /// yet, but what connections are counted on lies outside of them and goes on.
    #[must_use]
    pub fn in_new_tables(&self) -> Self {
        Self { lives: self.lives.clone(), ..Self::default() }
    }

    fn begin_step(&mut self) {
        for numbers in [
            &mut self.route_numbers,
            &mut self.destination_numbers,
            &mut self.table_numbers,
            &mut self.identity_numbers,
            &mut self.class_numbers,
        ] {
            numbers.begin_step();
        }
        self.lives.begin_step();
        self.leg_ranges.begin_step();
        self.backend_ranges.begin_step();
    }

    fn place_destinations(
        &mut self,
        plan: &Plan,
        limits: &Limits,
        image: &mut Image,
    ) -> Result<(), Full> {
        self.lives.place(plan)?;
        let sizes = plan.destinations.iter().map(|(id, one)| (id, len(balancing::slots(one))));
        let old = std::mem::take(&mut self.destinations);
        let (numbers, ranges) = (&mut self.destination_numbers, &mut self.backend_ranges);
        let capacities =
            [(Table::Destinations, limits.destinations), (Table::Endpoints, limits.backends)];
        self.destinations = settle(old, sizes, (numbers, ranges), capacities)?;
        for (placed, (id, destination)) in self.destinations.values().zip(&plan.destinations) {
            let live = self.lives.get(id);
            let entry = balancing::destination(placed.first, placed.count, id, destination, live);
            image.destinations.insert(placed.number, entry);
            let backends = balancing::backends(id, destination, live);
            image.backends.extend((placed.first..).zip(backends));
        }
        Ok(())
    }

    fn place_routes(
        &mut self,
        plan: &Plan,
        limits: &Limits,
        image: &mut Image,
    ) -> Result<(), Full> {
        let sizes = plan.routes.iter().map(|(id, legs)| (id, len(legs.len())));
        let old = std::mem::take(&mut self.routes);
        let (numbers, ranges) = (&mut self.route_numbers, &mut self.leg_ranges);
        let capacities = [(Table::Routes, limits.routes), (Table::Legs, limits.legs)];
        self.routes = settle(old, sizes, (numbers, ranges), capacities)?;
        let destinations: FxHashMap<&DestinationId, u32> =
            self.destinations.iter().map(|(id, placed)| (id, placed.number)).collect();
        for (placed, (id, legs)) in self.routes.values().zip(&plan.routes) {
            let count = placed.count;
            let table = alias::table(&legs.iter().map(|leg| leg.weight).collect::<Vec<_>>());
            let count = if table.is_some() { count } else { 0 };
            image.routes.insert(placed.number, abi::Route { first: placed.first, count });
            let Some((slots, sum)) = table else { continue };
            for ((index, slot), destination) in (placed.first..).zip(slots).zip(&id.destinations) {
                let destination = destinations.get(destination).copied().unwrap_or(u32::MAX);
                let leg = abi::Leg {
                    threshold: slot.threshold(sum),
                    alias: slot.alias,
                    destination,
                    ..abi::Leg::default()
                };
                image.legs.insert(index, leg);
            }
        }
        Ok(())
    }

    /// Numbers the local workloads and their classes; returns the number of
    /// each class of the Plan.
    fn place_sources(
        &mut self,
        plan: &Plan,
        limits: &Limits,
        newcomers: &Newcomers,
        image: &mut Image,
    ) -> Result<BTreeMap<ClassId, u32>, Full> {
        for (id, number) in &newcomers.given {
            if plan.sources.contains_key(id)
                && !self.identities.contains_key(id)
                && self.spares.remove(number).is_some()
            {
                self.identities.insert(id.clone(), *number);
            }
        }
        let numbers = &mut self.identity_numbers;
        self.identities.retain(|id, number| {
            plan.sources.contains_key(id) || {
                numbers.free(*number);
                false
            }
        });
        // A class keeps its number while some workload that was in it still is, and
        // no other class has taken the number: of a class that splits one part.
        let mut kept: BTreeMap<ClassId, u32> = BTreeMap::new();
        let mut in_use: BTreeSet<u32> = BTreeSet::new();
        for (member, number) in &self.classes {
            if let Some(source) = plan.sources.get(member)
                && source.class != abi::CLASS_UNKNOWN
                && !kept.contains_key(&source.class)
                && in_use.insert(*number)
            {
                kept.insert(source.class, *number);
            }
        }
        let before: BTreeSet<u32> = std::mem::take(&mut self.classes).into_values().collect();
        for number in before.difference(&in_use) {
            self.class_numbers.free(*number);
        }
        let mut classes = BTreeMap::new();
        for (class, Class { example }) in &plan.classes {
            let number = match kept.get(class) {
                _ if *class == abi::CLASS_UNKNOWN || example.is_none() => abi::CLASS_UNKNOWN,
                Some(number) => *number,
                None => self.class_numbers.take(u32::MAX, Table::Classes)?,
            };
            classes.insert(*class, number);
        }
        for (id, source) in &plan.sources {
            let number = match self.identities.get(id) {
                Some(number) => *number,
                None => {
                    let number = numbers.take(limits.identities, Table::Workloads)?;
                    self.identities.insert(id.clone(), number);
                    number
                }
            };
            let class = classes.get(&source.class).copied().unwrap_or(abi::CLASS_UNKNOWN);
            if class != abi::CLASS_UNKNOWN {
                image.class_of.insert(number, class);
                self.classes.insert(id.clone(), class);
            }
        }
        self.place_spares(limits, newcomers, &classes, image);
        Ok(classes)
    }

    fn place_frontends(
        &mut self,
        plan: &Plan,
        limits: &Limits,
        (classes, steady): (&BTreeMap<ClassId, u32>, &BTreeSet<u32>),
        image: &mut Image,
    ) -> Result<(), Full> {
        let routes: FxHashMap<&RouteId, u32> =
            self.routes.iter().map(|(id, placed)| (&**id, placed.number)).collect();
        let number = |verdict: &Verdict| match verdict {
            Verdict::Pass => abi::Verdict::PASS,
            Verdict::Refuse => abi::Verdict::REFUSE,
            Verdict::Route(route) => match routes.get(&**route) {
                Some(number) => abi::Verdict::new(VerdictKind::Route(*number)),
                None => abi::Verdict::REFUSE,
            },
        };
        let table_of = |frontend: &Frontend| {
            let mut exceptions: Vec<(u32, abi::Verdict)> = (frontend.exceptions.iter())
                .filter_map(|(class, verdict)| Some((*classes.get(class)?, number(verdict))))
                .collect();
            exceptions.sort_unstable_by_key(|(class, _)| *class);
            ClassTable { default: number(&frontend.default), exceptions }
        };
        let tables: Vec<(FrontendId, ClassTable)> =
            (plan.frontends).iter().map(|(id, frontend)| (*id, table_of(frontend))).collect();
        let wanted: BTreeSet<&ClassTable> = tables
            .iter()
            .map(|(_, table)| table)
            .filter(|table| !table.exceptions.is_empty())
            .collect();
        self.place_tables(&wanted, steady, limits)?;
        for (table, number) in &self.tables {
            image.class_defaults.insert(*number, table.default);
            for (class, verdict) in &table.exceptions {
                image.class_verdicts.insert((*number, *class), *verdict);
            }
        }
        for (id, table) in tables {
            let verdict = if table.exceptions.is_empty() {
                table.default
            } else {
                let table = self.tables.get(&table).copied();
                table.map_or(abi::Verdict::REFUSE, |table| {
                    abi::Verdict::new(VerdictKind::Classes(table))
                })
            };
            let addr = Addr::from(id.prefix.addr());
            if id.prefix.prefix_len() == id.prefix.max_prefix_len() {
                image.frontends.insert((addr, id.port), verdict);
            } else {
                let prefix = Prefix { addr, len: prefix_len(&id.prefix), port: id.port };
                image.prefixes.insert(prefix, verdict);
            }
        }
        keep_families_apart(image);
        self.frontends =
            plan.frontends.iter().map(|(id, frontend)| (*id, frontend.service.clone())).collect();
        Ok(())
    }

    /// Numbers the class tables. One that is there in the same words keeps its
    /// number, and so does one that says the same to the classes that were there
    /// before: what came or went is written where it lies, and the frontends that
    /// lead to it stay as they are.
    fn place_tables(
        &mut self,
        wanted: &BTreeSet<&ClassTable>,
        steady: &BTreeSet<u32>,
        limits: &Limits,
    ) -> Result<(), Full> {
        let mut before = std::mem::take(&mut self.tables);
        let mut vacant = Vec::new();
        for table in wanted {
            match before.remove_entry(*table) {
                Some((table, number)) => {
                    self.tables.insert(table, number);
                }
                None => vacant.push(*table),
            }
        }
        let mut alike: BTreeMap<ClassTable, u32> =
            before.iter().map(|(table, number)| (table.of_classes(steady), *number)).collect();
        let numbers = &mut self.table_numbers;
        let mut gone: BTreeSet<u32> = before.into_values().collect();
        let mut new = Vec::new();
        for table in vacant {
            match alike.remove(&table.of_classes(steady)) {
                Some(number) => {
                    gone.remove(&number);
                    self.tables.insert(table.clone(), number);
                }
                None => new.push(table),
            }
        }
        gone.into_iter().for_each(|number| numbers.free(number));
        for table in new {
            self.tables
                .insert(table.clone(), numbers.take(limits.class_tables, Table::ClassTables)?);
        }
        Ok(())
    }

    /// The number of a route.
    pub fn route(&self, id: &RouteId) -> Option<u32> {
        self.routes.get(id).map(|placed| placed.number)
    }

    /// The number of a destination.
    pub fn destination(&self, id: &DestinationId) -> Option<u32> {
        self.destinations.get(id).map(|placed| placed.number)
    }

    /// How many routes have a number.
    pub fn route_count(&self) -> usize {
        self.routes.len()
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

/// IPv4 addresses lie within the wide IPv6 prefixes that contain all mapped
/// addresses, such as `::/0`. Where the prefix table has one, "all of IPv4"
/// passes, unless it is said otherwise.
fn keep_families_apart(image: &mut Image) {
    let all_of_v4 = Addr::from_v4_word(0);
    let wide: BTreeSet<u16> = (image.prefixes.keys())
        .filter(|prefix| {
            let len = u32::from(prefix.len);
            let mask = if len == 0 { 0 } else { u128::MAX << (128 - len) };
            len < V4_MAPPED_BITS && all_of_v4.to_bits() & mask == prefix.addr.to_bits()
        })
        .map(|prefix| prefix.port)
        .collect();
    for port in wide {
        let prefix = Prefix { addr: all_of_v4, len: V4_MAPPED_BITS as u8, port };
        image.prefixes.entry(prefix).or_insert(abi::Verdict::PASS);
    }
}

/// A prefix's length within an [`Addr`].
pub fn prefix_len(prefix: &IpNet) -> u8 {
    match prefix {
        IpNet::V4(prefix) => prefix.prefix_len() + V4_MAPPED_BITS as u8,
        IpNet::V6(prefix) => prefix.prefix_len(),
    }
}

fn len(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Gives everything its place: what has one keeps its number, and its range
/// too while that has the right size. Both sides come in the same order.
fn settle<'p, K: Ord + Clone + 'p>(
    old: BTreeMap<K, Placed>,
    new: impl Iterator<Item = (&'p K, u32)>,
    (numbers, ranges): (&mut Numbers, &mut Ranges),
    [(numbers_of, most), (parts_of, most_parts)]: [(Table, u32); 2],
) -> Result<BTreeMap<K, Placed>, Full> {
    let mut old = old.into_iter().peekable();
    let mut settled = Vec::new();
    let gone = |old: Placed, numbers: &mut Numbers, ranges: &mut Ranges| {
        numbers.free(old.number);
        ranges.free(old.first, old.count);
    };
    for (id, count) in new {
        while let Some((_, placed)) = old.next_if(|(other, _)| other < id) {
            gone(placed, numbers, ranges);
        }
        let number = match old.next_if(|(other, _)| other == id) {
            Some((id, placed)) if placed.count == count => {
                settled.push((id, placed));
                continue;
            }
            Some((_, placed)) => {
                ranges.free(placed.first, placed.count);
                placed.number
            }
            None => numbers.take(most, numbers_of)?,
        };
        let first = ranges.take(count, most_parts, parts_of)?;
        settled.push((id.clone(), Placed { number, first, count }));
    }
    for (_, placed) in old {
        gone(placed, numbers, ranges);
    }
    Ok(settled.into_iter().collect())
}
