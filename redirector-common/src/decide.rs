//! The decision, once, for the kernel and for user space.
//!
//! The connect programs run [`decide`] over BPF maps; `explain`, the reference
//! tests and the gateway proxy run the very same function over tables in
//! memory. Whatever it needs from outside comes through [`Tables`] (the lookup
//! tables of one side) and [`Caller`] (who connects, and the random draws).

use crate::abi::{
    Backend, ClassKey, Destination, FrontendKey, Leg, PrefixKey, Route, Side, Verdict, VerdictKind,
};
use crate::addr::Addr;

/// The lookup tables of both sides.
///
/// Indices of arrays are relative to the side. A `None` of an array lookup
/// means "beyond the table", which a consistent side never contains.
pub trait Tables {
    /// The exact table.
    fn frontend(&self, key: &FrontendKey) -> Option<Verdict>;
    /// The longest prefix of the prefix table that contains the key; `None`
    /// at no cost while the table of that side is empty.
    fn prefix(&self, key: &PrefixKey) -> Option<Verdict>;
    /// The verdict of a class table for this class, where it differs from the
    /// table's default.
    fn class_verdict(&self, key: &ClassKey) -> Option<Verdict>;
    /// The verdict of a class table for all other classes.
    fn class_default(&self, side: Side, table: u32) -> Option<Verdict>;
    /// A route.
    fn route(&self, side: Side, index: u32) -> Option<Route>;
    /// A leg of a route.
    fn leg(&self, side: Side, index: u32) -> Option<Leg>;
    /// A destination.
    fn destination(&self, side: Side, index: u32) -> Option<Destination>;
    /// A backend of a destination.
    fn backend(&self, side: Side, index: u32) -> Option<Backend>;
}

/// The one that connects.
pub trait Caller {
    /// Its source class on this side; asked only when the verdict depends on it.
    fn class(&mut self, side: Side) -> u32;
    /// A fresh, evenly distributed 32-bit number.
    fn draw(&mut self) -> u32;
}

/// What is to be done with one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// No frontend has this address and port: not ours.
    Miss,
    /// A frontend has it, and says to leave it as it is.
    Pass,
    /// Refused by the frontend itself.
    Refuse,
    /// A route was taken, and the destination drawn has no endpoint: refused.
    RefuseLeg(Choice),
    /// Go to this endpoint.
    Route(Choice, Endpoint),
}

/// Which route and destination were taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Choice {
    /// Index of the route.
    pub route: u32,
    /// Index of the leg within the side (not within the route).
    pub leg: u32,
}

/// Where a connection goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Index of the backend within the side (not within the destination).
    pub backend: u32,
    /// Its address. In the tables, the unspecified address of either family
    /// stands for the address that was dialled: [`decide`] puts that in its
    /// place, [`take`] and [`pick`], which do not know it, leave it.
    pub addr: Addr,
    /// Its port, in network byte order. In the tables, 0 stands for the port
    /// that was dialled, in the same way.
    pub port: u16,
}

/// One draw from an alias table of `count` slots: a slot, and the number to be
/// held against the slot's threshold.
///
/// The product of a 32-bit draw and the count has the slot in its upper and an
/// evenly spread remainder in its lower half, so that one draw serves both.
/// Each slot's share is off by less than one part in 2^32, and so is each
/// threshold's: with `n` slots the bias of an outcome is below `n / 2^32`.
#[inline(always)]
pub const fn spread(draw: u32, count: u32) -> (u32, u32) {
    let product = draw as u64 * count as u64;
    ((product >> 32) as u32, product as u32)
}

/// A decision in the making: every field has a value at all times.
///
/// The BPF programs read it as it is. A [`Decision`] taken apart again would
/// leave registers without a value in the programs, on paths that do not use
/// them, which the verifier refuses all the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Draft {
    /// What is to be done.
    pub kind: DraftKind,
    /// Route and leg, from `RefuseLeg` on.
    pub choice: Choice,
    /// The endpoint, for `Route`.
    pub endpoint: Endpoint,
}

/// The kinds of [`Decision`], in the same order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
#[expect(missing_docs, reason = "as in Decision")]
pub enum DraftKind {
    Miss,
    Pass,
    Refuse,
    RefuseLeg,
    Route,
}

impl Draft {
    /// The decision to be made.
    #[inline(always)]
    pub const fn new() -> Self {
        Self {
            kind: DraftKind::Miss,
            choice: Choice { route: 0, leg: 0 },
            endpoint: Endpoint { backend: 0, addr: Addr::from_words([0; 4]), port: 0 },
        }
    }
}

impl Default for Draft {
    fn default() -> Self {
        Self::new()
    }
}

impl From<Draft> for Decision {
    fn from(draft: Draft) -> Self {
        match draft.kind {
            DraftKind::Miss => Self::Miss,
            DraftKind::Pass => Self::Pass,
            DraftKind::Refuse => Self::Refuse,
            DraftKind::RefuseLeg => Self::RefuseLeg(draft.choice),
            DraftKind::Route => Self::Route(draft.choice, draft.endpoint),
        }
    }
}

/// Decides where a connection to `addr`:`port` (network byte order) goes.
pub fn decide<T: Tables, C: Caller>(
    tables: &T,
    side: Side,
    addr: &Addr,
    port: u16,
    caller: &mut C,
) -> Decision {
    let mut draft = Draft::new();
    draft_into(tables, side, addr, port, caller, &mut draft);
    draft.into()
}

/// As [`decide`], into a fresh draft.
#[inline(always)]
pub fn draft_into<T: Tables, C: Caller>(
    tables: &T,
    side: Side,
    addr: &Addr,
    port: u16,
    caller: &mut C,
    draft: &mut Draft,
) {
    let key = FrontendKey { addr: *addr, port, side: side.index() as u16 };
    let found = match tables.frontend(&key) {
        Some(verdict) => Some(verdict),
        None => tables.prefix(&PrefixKey { side: side.index() as u16, port, addr: *addr }),
    };
    let Some(verdict) = found else { return };
    draft.kind = DraftKind::Refuse;
    let verdict = match verdict.kind() {
        VerdictKind::Classes(table) => {
            let key = ClassKey { table, class: caller.class(side), side: side.index() };
            match tables.class_verdict(&key) {
                Some(verdict) => verdict,
                None => match tables.class_default(side, table) {
                    Some(verdict) => verdict,
                    None => return,
                },
            }
        }
        _ => verdict,
    };
    match verdict.kind() {
        VerdictKind::Pass => draft.kind = DraftKind::Pass,
        VerdictKind::Route(route) => {
            take_into(tables, side, route, caller, draft);
            // Endpoints that stand for what was dialled.
            if draft.endpoint.addr.is_unspecified() {
                draft.endpoint.addr = *addr;
            }
            if draft.endpoint.port == 0 {
                draft.endpoint.port = port;
            }
        }
        VerdictKind::Refuse | VerdictKind::Classes(_) => {}
    }
}

/// Draws a destination and an endpoint of a route.
pub fn take<T: Tables, C: Caller>(tables: &T, side: Side, route: u32, caller: &mut C) -> Decision {
    let mut draft = Draft { kind: DraftKind::Refuse, ..Draft::new() };
    take_into(tables, side, route, caller, &mut draft);
    draft.into()
}

/// As [`take`], into a draft that refuses.
#[inline(always)]
pub fn take_into<T: Tables, C: Caller>(
    tables: &T,
    side: Side,
    route: u32,
    caller: &mut C,
    draft: &mut Draft,
) {
    let Some(Route { first, count }) = tables.route(side, route) else { return };
    if count == 0 {
        return;
    }
    // A route with one leg needs no draw, and most have one.
    let mut index = first;
    let mut rest = 0;
    if count > 1 {
        let (slot, remainder) = spread(caller.draw(), count);
        index = first.wrapping_add(slot);
        rest = remainder;
    }
    let Some(mut leg) = tables.leg(side, index) else { return };
    if count > 1 && rest >= leg.threshold {
        index = first.wrapping_add(leg.alias);
        leg = match tables.leg(side, index) {
            Some(leg) => leg,
            None => return,
        };
    }
    draft.choice = Choice { route, leg: index };
    draft.kind = DraftKind::RefuseLeg;
    pick_into(tables, side, leg.destination, caller, draft);
}

/// Draws an endpoint of a destination; `None` when it has none.
pub fn pick<T: Tables, C: Caller>(
    tables: &T,
    side: Side,
    destination: u32,
    caller: &mut C,
) -> Option<Endpoint> {
    let mut draft = Draft { kind: DraftKind::RefuseLeg, ..Draft::new() };
    pick_into(tables, side, destination, caller, &mut draft);
    (draft.kind == DraftKind::Route).then_some(draft.endpoint)
}

/// As [`pick`], into a draft that refuses for want of an endpoint.
#[inline(always)]
pub fn pick_into<T: Tables, C: Caller>(
    tables: &T,
    side: Side,
    destination: u32,
    caller: &mut C,
    draft: &mut Draft,
) {
    let Some(Destination { first, count, .. }) = tables.destination(side, destination) else {
        return;
    };
    if count == 0 {
        return;
    }
    let mut index = first;
    let mut rest = 0;
    if count > 1 {
        let (slot, remainder) = spread(caller.draw(), count);
        index = first.wrapping_add(slot);
        rest = remainder;
    }
    let Some(mut backend) = tables.backend(side, index) else { return };
    if count > 1 && rest >= backend.threshold {
        index = first.wrapping_add(backend.alias);
        backend = match tables.backend(side, index) {
            Some(backend) => backend,
            None => return,
        };
    }
    draft.endpoint = Endpoint { backend: index, addr: backend.addr, port: backend.port };
    draft.kind = DraftKind::Route;
}
