//! The decision, once, for the kernel and for user space.
//!
//! It is made in two steps. [`verdict`] says what the tables have for an address, a
//! port and a source class: `explain` asks the very same, over the pinned maps. [`take`]
//! then draws a destination and an endpoint of a route; [`shares`] says what
//! all draws together come to. The connect programs do both over BPF maps
//! ([`draft_into`]), the tests over tables in memory ([`decide`]), and the gateway proxy
//! takes.
//!
//! Whatever is needed from outside comes through [`Tables`] (the lookup tables of one
//! side) and [`Caller`] (who connects, and the random draws).

use crate::abi::{
    Backend, ClassKey, Destination, FrontendKey, Leg, PrefixKey, Route, Side, Verdict, VerdictKind,
    policy,
};
use crate::addr::Addr;

mod choose;
#[cfg(not(target_arch = "bpf"))]
pub mod shares;
#[cfg(test)]
mod tests;

pub use choose::{Chosen, affinity, choose, mix, stranger};

/// The lookup tables of both sides.
///
/// Indices of arrays are relative to the side. A `None` of an array lookup
/// means "beyond the table", which a consistent side never contains.
pub trait Tables {
    /// The exact table. Who takes routes alone has none, and no other table of
    /// verdicts.
    fn frontend(&self, _key: &FrontendKey) -> Option<Verdict> {
        None
    }
    /// The longest prefix of the prefix table that contains the key; `None`
    /// at no cost while the table of that side is empty.
    fn prefix(&self, _key: &PrefixKey) -> Option<Verdict> {
        None
    }
    /// The verdict of a class table for this class, where it differs from the
    /// table's default.
    fn class_verdict(&self, _key: &ClassKey) -> Option<Verdict> {
        None
    }
    /// The verdict of a class table for all other classes.
    fn class_default(&self, _side: Side, _table: u32) -> Option<Verdict> {
        None
    }
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
    /// An evenly distributed number that is the same for every connection of
    /// the same source.
    fn affinity(&mut self) -> u32 {
        self.draw()
    }
    /// How often this was asked of a destination before, by its entry of `LIVE`;
    /// wraps around.
    fn turn(&mut self, _destination: u32) -> u32 {
        self.draw()
    }
    /// How many connections an endpoint has, by its entry of `LIVE`.
    fn active(&mut self, _endpoint: u32) -> u64 {
        0
    }
    /// Whether an endpoint is left out for the time being.
    fn is_ejected(&mut self, _destination: u32, _endpoint: u32) -> bool {
        false
    }
    /// Counts one more connection on a destination with a limit, unless it has as many
    /// already as it may, or the caller his share of them; says whether it was counted.
    fn admit(&mut self, _destination: &Destination) -> bool {
        true
    }
    /// [`choose`] for the destination with this number. The programs do it in a
    /// function of its own, which the verifier looks at once and not for each
    /// way that leads there.
    #[inline(always)]
    fn choose<T: Tables>(
        &mut self,
        tables: &T,
        side: Side,
        _number: u32,
        destination: &Destination,
    ) -> Chosen
    where
        Self: Sized,
    {
        choose(tables, side, destination, self)
    }
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
    /// A route was taken, and the destination drawn has as many connections as
    /// it may: refused.
    Limited(Choice),
    /// Go to this endpoint.
    Route(Choice, ChosenEndpoint),
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
pub struct ChosenEndpoint {
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

impl ChosenEndpoint {
    /// Puts what was dialled in the place of what stands for it.
    #[inline(always)]
    pub fn fill_in(&mut self, addr: &Addr, port: u16) {
        if self.addr.is_unspecified() {
            self.addr = *addr;
        }
        if self.port == 0 {
            self.port = port;
        }
    }
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
    pub endpoint: ChosenEndpoint,
    /// The destination's entry of `LIVE`, from `Limited` on; or zero.
    pub destination: u32,
    /// [`Destination::owner`], from `Limited` on.
    pub owner: u32,
    /// The endpoint's entry of `LIVE`, for `Route`; or zero.
    pub live: u32,
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
    Limited,
    Route,
}

impl Draft {
    /// The decision to be made.
    #[inline(always)]
    pub const fn new() -> Self {
        Self {
            kind: DraftKind::Miss,
            choice: Choice { route: 0, leg: 0 },
            endpoint: ChosenEndpoint { backend: 0, addr: Addr::from_words([0; 4]), port: 0 },
            destination: 0,
            owner: 0,
            live: 0,
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
            DraftKind::Limited => Self::Limited(draft.choice),
            DraftKind::Route => Self::Route(draft.choice, draft.endpoint),
        }
    }
}

/// What the tables say to who dials `addr`:`port` (network byte order); `None` when no
/// frontend has that. Never a class table: `class` is asked for the caller's class where
/// the answer depends on it.
pub fn verdict<T: Tables>(
    tables: &T,
    side: Side,
    addr: &Addr,
    port: u16,
    class: impl FnOnce() -> u32,
) -> Option<Verdict> {
    let mut kind = DraftKind::Miss;
    let found = verdict_into(tables, side, addr, port, class, &mut kind);
    found.or((kind == DraftKind::Refuse).then_some(Verdict::REFUSE))
}

/// As [`verdict`]; a `kind` that was `Miss` is `Refuse` when a frontend has the address,
/// also when there is no verdict because the tables do not hold together.
///
/// The programs leave where there is none. A verdict that stands for that would have the
/// verifier of older kernels look at what follows once more for each way that leads there.
#[inline(always)]
fn verdict_into<T: Tables>(
    tables: &T,
    side: Side,
    addr: &Addr,
    port: u16,
    class: impl FnOnce() -> u32,
    kind: &mut DraftKind,
) -> Option<Verdict> {
    let key = FrontendKey { addr: *addr, port, side: side.index() as u16 };
    let found = match tables.frontend(&key) {
        Some(verdict) => Some(verdict),
        None => tables.prefix(&PrefixKey { side: side.index() as u16, port, addr: *addr }),
    };
    let verdict = found?;
    *kind = DraftKind::Refuse;
    match verdict.kind() {
        VerdictKind::Classes(table) => {
            let key = ClassKey { table, class: class(), side: side.index() };
            match tables.class_verdict(&key) {
                Some(verdict) => Some(verdict),
                None => tables.class_default(side, table),
            }
        }
        _ => Some(verdict),
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
    let class = || caller.class(side);
    let Some(verdict) = verdict_into(tables, side, addr, port, class, &mut draft.kind) else {
        return;
    };
    match verdict.kind() {
        VerdictKind::Pass => draft.kind = DraftKind::Pass,
        VerdictKind::Route(route) => {
            take_into(tables, side, route, caller, draft);
            draft.endpoint.fill_in(addr, port);
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
) -> Option<ChosenEndpoint> {
    // Whichever way it refuses.
    let mut draft = Draft::new();
    pick_into(tables, side, destination, caller, &mut draft);
    (draft.kind == DraftKind::Route).then_some(draft.endpoint)
}

/// As [`pick`], into a draft that refuses for want of an endpoint.
#[inline(always)]
pub fn pick_into<T: Tables, C: Caller>(
    tables: &T,
    side: Side,
    number: u32,
    caller: &mut C,
    draft: &mut Draft,
) {
    let Some(destination) = tables.destination(side, number) else { return };
    let count = destination.count;
    if count == 0 {
        return;
    }
    draft.owner = destination.owner;
    if destination.policy == policy::RANDOM {
        let at = if count > 1 { spread(caller.draw(), count) } else { (0, 0) };
        let Some((index, backend)) = resolve(tables, side, &destination, at) else { return };
        draft.endpoint = ChosenEndpoint { backend: index, addr: backend.addr, port: backend.port };
        draft.kind = DraftKind::Route;
        return;
    }
    let Chosen { kind, backend: index } = caller.choose(tables, side, number, &destination);
    draft.destination = destination.live;
    draft.kind = kind;
    if kind == DraftKind::Route {
        let Some(backend) = tables.backend(side, index) else { return };
        draft.live = backend.live;
        draft.endpoint = ChosenEndpoint { backend: index, addr: backend.addr, port: backend.port };
    }
}

/// The backend that a slot and a number give, and its index.
#[inline(always)]
fn resolve<T: Tables>(
    tables: &T,
    side: Side,
    destination: &Destination,
    (slot, rest): (u32, u32),
) -> Option<(u32, Backend)> {
    let index = destination.first.wrapping_add(slot);
    let backend = tables.backend(side, index)?;
    if destination.count < 2 || rest < backend.threshold {
        return Some((index, backend));
    }
    let index = destination.first.wrapping_add(backend.alias.into());
    Some((index, tables.backend(side, index)?))
}
