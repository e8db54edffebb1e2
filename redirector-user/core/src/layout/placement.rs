//! What has its place, and giving it to what changes.
//!
//! A step costs what changes: nothing here looks at all of a Plan, a Layout or an
//! Image. Placing a whole Plan is a step from nothing, by the same code.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use redirector_common::abi::{self, Limits, policy};

use super::frontends::Users;
use super::stepped::{Stepped, Stepping};
use super::{Full, Layout, Newcomers, Numbers, Placed, Ranges, Table, balancing, len};
use crate::alias;
use crate::image::{self, Edits, Image};
use crate::plan::{self, ClassId, Destination, DestinationId, Leg, RouteId};
use crate::work::Work;

/// A Layout with the tables that it makes, and what it takes to change both.
#[derive(Clone, Debug)]
pub struct Placement {
    pub(super) layout: Layout,
    pub(super) image: Image,
    /// The kernel's number of each class of the Plan, but that of unknown callers.
    pub(super) class_numbers: Stepped<ClassId, u32>,
    /// The class that has each of these numbers.
    pub(super) class_ids: Stepped<u32, ClassId>,
    /// Who leads to each class table.
    pub(super) users: Stepped<u32, Users>,
    /// The Layout is one of earlier tables: nothing of a Plan was placed by it here.
    pub(super) is_fresh: bool,
    /// How many spare numbers each class was to have when they were looked at last, if
    /// there were as many to be had.
    pub(super) spares_for: Option<usize>,
    /// How many destinations eject endpoints.
    ejecting: usize,
    pub(super) step: Option<Undo>,
}

/// What takes a step back, but for what the maps know.
#[derive(Clone, Debug, Default)]
pub(super) struct Undo {
    changes: image::Delta,
    spares: Option<BTreeMap<u32, u32>>,
    /// The numbers of classes that earlier tables had.
    pub earlier: BTreeSet<u32>,
}

impl Placement {
    /// Of a Layout. What it has numbers for is not in the tables yet: the first step is to
    /// begin with its [`removal`](Layout::removal).
    pub fn of(layout: Layout) -> Self {
        let tables = layout.tables.iter();
        let users = tables.map(|(table, number)| (*number, Users::none(table.clone())));
        Self {
            users: users.collect::<BTreeMap<_, _>>().into(),
            layout,
            image: Image::default(),
            class_numbers: Stepped::default(),
            class_ids: Stepped::default(),
            is_fresh: true,
            spares_for: None,
            ejecting: 0,
            step: None,
        }
    }

    /// The numbers of everything.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What the tables are to hold.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Both.
    pub fn into_parts(self) -> (Layout, Image) {
        (self.layout, self.image)
    }

    /// Destinations that the last step could not give all entries that connections are
    /// counted on: those that come free by it can be given out by the next one only, in
    /// which these are to be placed again.
    pub fn lacking(&self) -> &BTreeSet<DestinationId> {
        self.layout.lives.lacking()
    }

    /// Whether the last step may have changed spare numbers.
    pub fn changes_spares(&self) -> bool {
        self.step.as_ref().is_some_and(|step| step.spares.is_some())
    }

    /// Whether connections have to be followed until they end for this: failed
    /// connects are seen no other way.
    pub fn follows_connections(&self) -> bool {
        self.ejecting > 0
    }

    /// Gives what changes its place, keeping what is placed already, and says what that
    /// changes in the tables. A Plan holds the routes that its frontends lead to, and the
    /// destinations of its routes: that is not looked at again.
    ///
    /// The step before is settled by it, if it was not. It can be taken back until it is
    /// settled itself.
    ///
    /// # Errors
    ///
    /// A table that has no room for it; nothing is changed then.
    pub fn place(
        &mut self,
        delta: &plan::Delta,
        limits: &Limits,
        newcomers: &Newcomers,
    ) -> Result<(image::Delta, Work), Full> {
        self.settle();
        self.begin_step();
        let mut edits = Edits::default();
        if let Err(full) = self.place_all(delta, limits, newcomers, &mut edits) {
            self.take_back();
            return Err(full);
        }
        let changes = edits.of(&self.image);
        self.apply(&changes);
        let work = Work { placed: delta.len(), written: changes.len(), ..Work::default() };
        if let Some(step) = &mut self.step {
            step.changes.clone_from(&changes);
        }
        Ok((changes, work))
    }

    /// The last step is how it is from now on.
    pub fn settle(&mut self) {
        if self.step.take().is_none() {
            return;
        }
        self.is_fresh = false;
        self.stepping().into_iter().for_each(Stepping::settle);
    }

    /// The last step never was.
    pub fn take_back(&mut self) {
        let Some(step) = self.step.take() else { return };
        self.apply(&step.changes.inverse());
        if let Some(spares) = step.spares {
            self.layout.spares = spares;
            self.spares_for = None;
        }
        self.stepping().into_iter().for_each(Stepping::take_back);
    }

    fn begin_step(&mut self) {
        let classes = self.layout.classes.values();
        let earlier = classes.filter(|_| self.is_fresh).copied().collect();
        self.step = Some(Undo { earlier, ..Undo::default() });
        self.stepping().into_iter().for_each(Stepping::begin_step);
    }

    /// All that a step changes, but for what [`Undo`] knows.
    fn stepping(&mut self) -> [&mut dyn Stepping; 17] {
        let Layout {
            routes,
            destinations,
            tables,
            identities,
            classes,
            frontends,
            route_numbers,
            leg_ranges,
            destination_numbers,
            backend_ranges,
            table_numbers,
            identity_numbers,
            class_numbers,
            lives,
            spares: _,
        } = &mut self.layout;
        [
            routes,
            destinations,
            tables,
            identities,
            classes,
            frontends,
            route_numbers,
            leg_ranges,
            destination_numbers,
            backend_ranges,
            table_numbers,
            identity_numbers,
            class_numbers,
            lives,
            &mut self.class_numbers,
            &mut self.class_ids,
            &mut self.users,
        ]
    }

    fn apply(&mut self, changes: &image::Delta) {
        let ejects = |one: Option<abi::Destination>| {
            usize::from(one.is_some_and(|one| one.policy & policy::EJECTING != 0))
        };
        for change in &changes.destinations {
            self.ejecting += ejects(change.new);
            self.ejecting = self.ejecting.saturating_sub(ejects(change.old));
        }
        self.image.apply(changes);
    }

    fn place_all(
        &mut self,
        delta: &plan::Delta,
        limits: &Limits,
        newcomers: &Newcomers,
        edits: &mut Edits,
    ) -> Result<(), Full> {
        // What comes free is known before anybody lacks it.
        for (id, destination) in &delta.destinations {
            self.layout.lives.release(id, destination.as_ref());
        }
        for (id, destination) in &delta.destinations {
            self.layout.place_destination(id, destination.as_ref(), limits, edits)?;
        }
        for (id, legs) in &delta.routes {
            self.layout.place_route(id, legs.as_deref(), limits, edits)?;
        }
        self.place_sources(delta, limits, newcomers, edits)?;
        self.place_spares(delta, limits, newcomers, edits);
        self.place_frontends(&delta.frontends, limits, edits)
    }

    /// Notes the spare numbers as they were before this step changes them.
    pub(super) fn keep_spares(&mut self) {
        if let Some(step) = &mut self.step {
            step.spares.get_or_insert_with(|| self.layout.spares.clone());
        }
    }
}

impl Layout {
    pub(super) fn numbers(&mut self) -> [&mut Numbers; 5] {
        [
            &mut self.route_numbers,
            &mut self.destination_numbers,
            &mut self.table_numbers,
            &mut self.identity_numbers,
            &mut self.class_numbers,
        ]
    }

    pub(super) fn ranges(&mut self) -> [&mut Ranges; 2] {
        [&mut self.leg_ranges, &mut self.backend_ranges]
    }

    fn place_destination(
        &mut self,
        id: &DestinationId,
        destination: Option<&Destination>,
        limits: &Limits,
        edits: &mut Edits,
    ) -> Result<(), Full> {
        self.lives.place(id, destination)?;
        let size = destination.map(|one| len(balancing::slots(one)));
        let capacities =
            [(Table::Destinations, limits.destinations), (Table::Endpoints, limits.backends)];
        let (numbers, ranges) = (&mut self.destination_numbers, &mut self.backend_ranges);
        let Some(settled) =
            settle(&mut self.destinations, id, size, (numbers, ranges), capacities)?
        else {
            return Ok(());
        };
        // Where all weights are zero there are none, and what there was goes.
        edits.backends.extend(settled.before().map(|index| (index, None)));
        let Some((placed, destination)) = settled.now.zip(destination) else {
            edits.destinations.extend(settled.old.map(|old| (old.number, None)));
            return Ok(());
        };
        let live = self.lives.get(id);
        let entry = balancing::destination(placed.first, placed.count, id, destination, live);
        edits.destinations.push((placed.number, Some(entry)));
        let backends = balancing::backends(id, destination, live).into_iter().map(Some);
        edits.backends.extend((placed.first..).zip(backends));
        Ok(())
    }

    fn place_route(
        &mut self,
        id: &Arc<RouteId>,
        legs: Option<&[Leg]>,
        limits: &Limits,
        edits: &mut Edits,
    ) -> Result<(), Full> {
        let size = legs.map(|legs| len(legs.len()));
        let capacities = [(Table::Routes, limits.routes), (Table::Legs, limits.legs)];
        let (numbers, ranges) = (&mut self.route_numbers, &mut self.leg_ranges);
        let Some(settled) = settle(&mut self.routes, id, size, (numbers, ranges), capacities)?
        else {
            return Ok(());
        };
        edits.legs.extend(settled.before().map(|index| (index, None)));
        let Some((placed, legs)) = settled.now.zip(legs) else {
            edits.routes.extend(settled.old.map(|old| (old.number, None)));
            return Ok(());
        };
        let table = alias::table(&legs.iter().map(|leg| leg.weight).collect::<Vec<_>>());
        let count = if table.is_some() { placed.count } else { 0 };
        edits.routes.push((placed.number, Some(abi::Route { first: placed.first, count })));
        let Some((slots, sum)) = table else { return Ok(()) };
        for ((index, slot), destination) in (placed.first..).zip(slots).zip(&id.destinations) {
            let destination = self.destination(destination).unwrap_or(u32::MAX);
            let leg = abi::Leg {
                threshold: slot.threshold(sum),
                alias: slot.alias,
                destination,
                ..abi::Leg::default()
            };
            edits.legs.push((index, Some(leg)));
        }
        Ok(())
    }
}

/// Where something lies now, and where it lay.
struct Settled {
    old: Option<Placed>,
    now: Option<Placed>,
}

impl Settled {
    /// The range in which it lay.
    fn before(&self) -> std::ops::Range<u32> {
        self.old.map_or(0..0, |old| old.first..old.first + old.count)
    }
}

/// Gives something its place: what has one keeps its number, and its range too while
/// that has the right size. `None` when it had none and is to have none.
fn settle<K: Ord + Clone>(
    placed: &mut Stepped<K, Placed>,
    id: &K,
    size: Option<u32>,
    (numbers, ranges): (&mut Numbers, &mut Ranges),
    [(numbers_of, most), (parts_of, most_parts)]: [(Table, u32); 2],
) -> Result<Option<Settled>, Full> {
    let old = placed.get(id).copied();
    let now = match (old, size) {
        (None, None) => return Ok(None),
        (Some(old), Some(count)) if old.count == count => {
            return Ok(Some(Settled { old: Some(old), now: Some(old) }));
        }
        (Some(old), None) => {
            numbers.free(old.number);
            ranges.free(old.first, old.count);
            placed.remove(id);
            None
        }
        (old, Some(count)) => {
            let number = match old {
                Some(old) => {
                    ranges.free(old.first, old.count);
                    old.number
                }
                None => numbers.take(most, numbers_of)?,
            };
            let first = ranges.take(count, most_parts, parts_of)?;
            let now = Placed { number, first, count };
            placed.insert(id.clone(), now);
            Some(now)
        }
    };
    Ok(Some(Settled { old, now }))
}
