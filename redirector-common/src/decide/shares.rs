//! What all draws together come to: the shares that [`take`](super::take) draws with,
//! without drawing.

use alloc::vec;
use alloc::vec::Vec;

use super::choose::{REDRAWS, SCAN};
use super::{Caller, Choice, Chosen, ChosenEndpoint, DraftKind, Tables, choose};
use crate::abi::{Backend, CLASS_UNKNOWN, Destination, Live, Route, Side, policy};

/// What is known of destinations and endpoints from other connections, by their entries
/// of `LIVE`: what a [`Caller`](super::Caller) is asked of it, and nothing is changed by
/// asking.
pub trait Known {
    /// Whether an endpoint is left out for the time being.
    fn is_ejected(&self, endpoint: u32) -> bool;
    /// Whether a destination with a limit has as many connections already as it may, or
    /// the source its share of them.
    fn is_full(&self, destination: &Destination) -> bool;
    /// How many connections an endpoint has.
    fn active(&self, endpoint: u32) -> u64;
    /// The [`affinity`](super::affinity()) of the source; of all sources together, none.
    fn affinity(&self) -> Option<u32> {
        None
    }
}

/// Nothing is known: nobody is left out, nothing is full, and nobody has connections.
/// The shares are those of the weights alone.
#[derive(Clone, Copy, Debug)]
pub struct ByWeight;

impl Known for ByWeight {
    fn is_ejected(&self, _: u32) -> bool {
        false
    }

    fn is_full(&self, _: &Destination) -> bool {
        false
    }

    fn active(&self, _: u32) -> u64 {
        0
    }
}

/// What `LIVE` says at a moment.
#[derive(Clone, Copy, Debug)]
pub struct At<F, G> {
    /// An entry by its number; entry 0 is nobody's, and never asked for.
    pub live: F,
    /// How many connections the source has at a destination with a limit, by its owner.
    pub mine: G,
    /// The moment, on the monotonic clock in nanoseconds.
    pub now: u64,
    /// See [`Known::affinity`].
    pub affinity: Option<u32>,
}

impl<F: Fn(u32) -> Live, G: Fn(u32) -> u64> At<F, G> {
    fn entry(&self, number: u32) -> Option<Live> {
        (number != 0).then(|| (self.live)(number))
    }

    /// For how many nanoseconds more an endpoint is left out; `None` when it is not.
    pub fn ejected_for(&self, endpoint: u32) -> Option<u64> {
        self.entry(endpoint)?.ejected_until.checked_sub(self.now).filter(|left| *left > 0)
    }
}

impl<F: Fn(u32) -> Live, G: Fn(u32) -> u64> Known for At<F, G> {
    fn is_ejected(&self, endpoint: u32) -> bool {
        self.ejected_for(endpoint).is_some()
    }

    fn is_full(&self, destination: &Destination) -> bool {
        let mine = (self.mine)(destination.owner);
        self.entry(destination.live).is_some_and(|live| {
            Live::is_full(Live::connections(live.word), mine, destination.max_connections)
        })
    }

    fn active(&self, endpoint: u32) -> u64 {
        self.entry(endpoint).map_or(0, |live| Live::connections(live.word))
    }

    fn affinity(&self) -> Option<u32> {
        self.affinity
    }
}

/// A source whose affinity is known: where that decides, nothing is drawn.
struct Decided<'k, K> {
    known: &'k K,
    affinity: u32,
}

impl<K: Known> Caller for Decided<'_, K> {
    fn class(&mut self, _: Side) -> u32 {
        CLASS_UNKNOWN
    }

    fn draw(&mut self) -> u32 {
        self.affinity
    }

    fn affinity(&mut self) -> u32 {
        self.affinity
    }

    fn is_ejected(&mut self, _: u32, endpoint: u32) -> bool {
        self.known.is_ejected(endpoint)
    }

    fn admit(&mut self, destination: &Destination) -> bool {
        !self.known.is_full(destination)
    }
}

/// A leg of a route, and what becomes of the connections that take it.
#[derive(Clone, PartialEq, Debug)]
pub struct Part {
    /// The route and the leg.
    pub choice: Choice,
    /// The number of its destination.
    pub number: u32,
    /// Its destination; `None` when there is no such one.
    pub destination: Option<Destination>,
    /// Its share of all connections of the route.
    pub share: f64,
    /// Its backends with their entries, and the shares that they get of all connections
    /// of the route; none that gets nothing.
    pub endpoints: Vec<(ChosenEndpoint, Backend, f64)>,
    /// What is refused for want of an endpoint, of all connections of the route.
    pub refused: f64,
    /// What is refused because the destination has as many connections as it may.
    pub limited: f64,
}

/// The legs of a route, in order, with their shares. A route without legs, which
/// refuses, has none.
///
/// Where the policy is affinity, one endpoint has all of a source that is known. In turn
/// is by weight over whole rounds.
pub fn of_route<T: Tables>(tables: &T, side: Side, route: u32, known: &impl Known) -> Vec<Part> {
    let Some(Route { first, count }) = tables.route(side, route) else { return Vec::new() };
    let legs: Vec<_> = (0..count).map(|at| tables.leg(side, first.wrapping_add(at))).collect();
    let drawn = of_slots(legs.iter().map(|leg| leg.map(|leg| (leg.threshold, leg.alias))));
    let parts = (0..).zip(legs).zip(drawn).map(|((at, leg), share)| {
        let leg_index = first.wrapping_add(at);
        let number = leg.map_or(u32::MAX, |leg| leg.destination);
        let destination = tables.destination(side, number);
        let mut part = Part {
            choice: Choice { route, leg: leg_index },
            number,
            destination,
            share,
            endpoints: Vec::new(),
            refused: 0.0,
            limited: 0.0,
        };
        match destination {
            // What is never drawn has no endpoints that get something.
            _ if share == 0.0 => {}
            Some(destination) if destination.count > 0 => match known.affinity() {
                Some(affinity) if destination.policy & policy::ALGORITHM == policy::SOURCE_HASH => {
                    let mut caller = Decided { known, affinity };
                    decided(tables, side, &destination, &mut caller, &mut part);
                }
                _ => Draws::new(tables, side, &destination).fill(&mut part, known),
            },
            _ => part.refused = share,
        }
        part
    });
    parts.collect()
}

fn decided<T: Tables>(
    tables: &T,
    side: Side,
    destination: &Destination,
    caller: &mut impl Caller,
    part: &mut Part,
) {
    let Chosen { kind, backend: index } = choose(tables, side, destination, caller);
    match (kind, tables.backend(side, index)) {
        (DraftKind::Route, Some(backend)) => {
            let endpoint =
                ChosenEndpoint { backend: index, addr: backend.addr, port: backend.port };
            part.endpoints.push((endpoint, backend, part.share));
        }
        (DraftKind::Limited, _) => part.limited = part.share,
        _ => part.refused = part.share,
    }
}

/// The share of each slot's own thing in a draw from an alias table, out of thresholds
/// and aliases. What a missing slot would be drawn for, nobody gets.
pub fn of_slots(slots: impl ExactSizeIterator<Item = Option<(u32, u32)>>) -> Vec<f64> {
    let count = slots.len();
    let each = 1.0 / count.max(1) as f64;
    let mut shares = vec![0.0; count];
    for (at, slot) in slots.enumerate() {
        let Some((threshold, alias)) = slot else { continue };
        // A sole slot is taken without a draw.
        let keep = if count == 1 { 1.0 } else { kept(threshold) };
        shares[at] += each * keep;
        if let Some(other) = shares.get_mut(alias as usize) {
            *other += each * (1.0 - keep);
        }
    }
    shares
}

/// The part of a slot that is below its threshold.
fn kept(threshold: u32) -> f64 {
    f64::from(threshold) / 4_294_967_296.0
}

/// A destination's backends, and what a draw among them gives each.
struct Draws {
    destination: Destination,
    backends: Vec<Option<Backend>>,
    by_weight: Vec<f64>,
}

impl Draws {
    fn new<T: Tables>(tables: &T, side: Side, destination: &Destination) -> Self {
        let at = |slot| tables.backend(side, destination.first.wrapping_add(slot));
        let backends: Vec<_> = (0..destination.count).map(at).collect();
        let slots = backends.iter().map(|one| one.map(|one| (one.threshold, one.alias.into())));
        let mut by_weight = of_slots(slots);
        for (share, backend) in by_weight.iter_mut().zip(&backends) {
            if backend.is_none() {
                *share = 0.0;
            }
        }
        Self { destination: *destination, backends, by_weight }
    }

    /// As [`pick_into`](super::pick_into).
    fn fill(&self, part: &mut Part, known: &impl Known) {
        let policy = self.destination.policy;
        let mut chosen = self.by_weight.clone();
        if policy & policy::ALGORITHM == policy::LEAST_REQUEST {
            chosen = self.least(known);
        }
        if policy & policy::EJECTING != 0 {
            self.leave_out_ejected(&mut chosen, known);
        }
        let routed: f64 = chosen.iter().sum();
        part.refused = part.share * (1.0 - routed).max(0.0);
        if policy & policy::LIMITED != 0 && known.is_full(&self.destination) {
            part.limited = part.share * routed;
            return;
        }
        let slots = (self.destination.first..).zip(&self.backends).zip(chosen);
        part.endpoints.extend(slots.filter_map(|((index, backend), chosen)| {
            let backend = (*backend)?;
            let endpoint =
                ChosenEndpoint { backend: index, addr: backend.addr, port: backend.port };
            let share = part.share * chosen;
            (share > 0.0).then_some((endpoint, backend, share))
        }));
    }

    /// Of two draws the one with fewer connections; of two alike, the first.
    fn least(&self, known: &impl Known) -> Vec<f64> {
        let active: Vec<u64> =
            self.backends.iter().map(|one| one.map_or(0, |one| known.active(one.live))).collect();
        let mut order: Vec<usize> = (0..active.len()).collect();
        order.sort_unstable_by_key(|at| active[*at]);
        let mut shares = vec![0.0; active.len()];
        // What a draw gives to those with more connections than the ones at hand.
        let mut more: f64 = self.by_weight.iter().sum();
        for alike in order.chunk_by(|a, b| active[*a] == active[*b]) {
            let with = more;
            more -= alike.iter().map(|at| self.by_weight[*at]).sum::<f64>();
            for at in alike {
                shares[*at] = self.by_weight[*at] * (with + more.max(0.0));
            }
        }
        shares
    }

    /// Gives what was chosen of ejected endpoints to others, as
    /// [`choose`](super::choose()) finds them.
    fn leave_out_ejected(&self, chosen: &mut [f64], known: &impl Known) {
        let count = self.backends.len();
        let ejected: Vec<bool> = self
            .backends
            .iter()
            .map(|one| one.is_some_and(|one| known.is_ejected(one.live)))
            .collect();
        let first: Vec<f64> = chosen.to_vec();
        let mut left: f64 =
            first.iter().zip(&ejected).filter(|(_, out)| **out).map(|(s, _)| s).sum();
        if left <= 0.0 {
            return;
        }
        let all = left;
        let again: f64 =
            self.by_weight.iter().zip(&ejected).filter(|(_, out)| **out).map(|(s, _)| s).sum();
        for (share, out) in chosen.iter_mut().zip(&ejected) {
            if *out {
                *share = 0.0;
            }
        }
        // By other draws.
        let mut tried = 0.0;
        for _ in 0..REDRAWS {
            tried += left;
            left *= again;
        }
        for ((share, out), drawn) in chosen.iter_mut().zip(&ejected).zip(&self.by_weight) {
            if !out {
                *share += tried * drawn;
            }
        }
        // The next one, from where the last draw began: that came to an ejected one.
        let look = SCAN.min(self.destination.count) as usize;
        let mut none = 0.0;
        for (at, free) in next_free(&ejected).into_iter().enumerate() {
            let share = left * self.began(at, &ejected) / again;
            match free {
                Some(steps) if steps <= look => {
                    let other = (at + steps) % count;
                    if self.backends[other].is_some() {
                        chosen[other] += share;
                    }
                }
                _ => none += share,
            }
        }
        if self.destination.count > SCAN {
            // One that is ejected is better than none.
            for ((share, first), _) in
                chosen.iter_mut().zip(&first).zip(&ejected).filter(|(_, out)| **out)
            {
                *share += none * first / all;
            }
        }
    }

    /// How much of a draw begins at a slot and comes to an ejected endpoint.
    fn began(&self, at: usize, ejected: &[bool]) -> f64 {
        let count = self.backends.len();
        let Some(backend) = self.backends[at] else { return 0.0 };
        let keep = if count == 1 { 1.0 } else { kept(backend.threshold) };
        let own = if ejected[at] { keep } else { 0.0 };
        let other = match ejected.get(backend.alias as usize) {
            Some(true) => 1.0 - keep,
            _ => 0.0,
        };
        (own + other) / count as f64
    }
}

/// For each slot, how many steps further the next one lies that is not left out.
fn next_free(ejected: &[bool]) -> Vec<Option<usize>> {
    let count = ejected.len();
    let mut steps = vec![None; count];
    let mut nearest: Option<usize> = None;
    // Twice around, backwards: the first time finds what lies beyond the end.
    for at in (0..2 * count).rev() {
        steps[at % count] = nearest.map(|free| free - at);
        if !ejected[at % count] {
            nearest = Some(at);
        }
    }
    steps
}

#[cfg(test)]
mod tests;
