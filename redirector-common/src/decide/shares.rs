//! What all draws together come to: the shares that [`take`](super::take) draws with,
//! without drawing.

use alloc::vec;
use alloc::vec::Vec;

use super::choose::{REDRAWS, SCAN};
use super::{Choice, Endpoint, Tables};
use crate::abi::{Backend, Destination, Live, Route, Side, policy};

/// What is known of destinations and endpoints from other connections, by their entries
/// of `LIVE`: what a [`Caller`](super::Caller) is asked of it, and nothing is changed by
/// asking.
pub trait Known {
    /// Whether an endpoint is left out for the time being.
    fn is_ejected(&self, endpoint: u32) -> bool;
    /// Whether a destination has `most` connections already.
    fn is_full(&self, destination: u32, most: u32) -> bool;
    /// How many connections an endpoint has.
    fn active(&self, endpoint: u32) -> u64;
}

/// Nothing is known: nobody is left out, nothing is full, and nobody has connections.
/// The shares are those of the weights alone.
#[derive(Clone, Copy, Debug)]
pub struct ByWeight;

impl Known for ByWeight {
    fn is_ejected(&self, _: u32) -> bool {
        false
    }

    fn is_full(&self, _: u32, _: u32) -> bool {
        false
    }

    fn active(&self, _: u32) -> u64 {
        0
    }
}

/// What `LIVE` says at a moment.
#[derive(Clone, Copy, Debug)]
pub struct At<F> {
    /// An entry by its number; entry 0 is nobody's, and never asked for.
    pub live: F,
    /// The moment, on the monotonic clock in nanoseconds.
    pub now: u64,
}

impl<F: Fn(u32) -> Live> At<F> {
    fn entry(&self, number: u32) -> Option<Live> {
        (number != 0).then(|| (self.live)(number))
    }

    /// For how many nanoseconds more an endpoint is left out; `None` when it is not.
    pub fn ejected_for(&self, endpoint: u32) -> Option<u64> {
        self.entry(endpoint)?.ejected_until.checked_sub(self.now).filter(|left| *left > 0)
    }
}

impl<F: Fn(u32) -> Live> Known for At<F> {
    fn is_ejected(&self, endpoint: u32) -> bool {
        self.ejected_for(endpoint).is_some()
    }

    fn is_full(&self, destination: u32, most: u32) -> bool {
        self.entry(destination).is_some_and(|live| Live::connections(live.word) >= most.into())
    }

    fn active(&self, endpoint: u32) -> u64 {
        self.entry(endpoint).map_or(0, |live| Live::connections(live.word))
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
    pub endpoints: Vec<(Endpoint, Backend, f64)>,
    /// What is refused for want of an endpoint, of all connections of the route.
    pub refused: f64,
    /// What is refused because the destination has as many connections as it may.
    pub limited: f64,
}

/// The legs of a route, in order, with their shares. A route without legs, which
/// refuses, has none.
///
/// Where the policy is affinity, the shares are those of all sources together. In turn is
/// by weight over whole rounds.
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
            Some(destination) if destination.count > 0 => {
                Draws::new(tables, side, &destination).fill(&mut part, known);
            }
            _ => part.refused = share,
        }
        part
    });
    parts.collect()
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
        let slots = backends.iter().map(|one| one.map(|one| (one.threshold, one.alias)));
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
        let Destination { policy, live, max_connections, .. } = self.destination;
        let mut chosen = self.by_weight.clone();
        if policy & policy::ALGORITHM == policy::LEAST_REQUEST && self.backends.len() > 1 {
            chosen = self.least(known);
        }
        if policy & policy::EJECTING != 0 {
            self.leave_out_ejected(&mut chosen, known);
        }
        let routed: f64 = chosen.iter().sum();
        part.refused = part.share * (1.0 - routed).max(0.0);
        if policy & policy::LIMITED != 0 && known.is_full(live, max_connections) {
            part.limited = part.share * routed;
            return;
        }
        let slots = (self.destination.first..).zip(&self.backends).zip(chosen);
        part.endpoints.extend(slots.filter_map(|((index, backend), chosen)| {
            let backend = (*backend)?;
            let endpoint = Endpoint { backend: index, addr: backend.addr, port: backend.port };
            let share = part.share * chosen;
            (share > 0.0).then_some((endpoint, backend, share))
        }));
    }

    /// Of two draws the one with fewer connections; of two alike, the first.
    fn least(&self, known: &impl Known) -> Vec<f64> {
        let active: Vec<u64> = self
            .backends
            .iter()
            .map(|one| one.map_or(0, |one| known.active(one.live.into())))
            .collect();
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
            .map(|one| one.is_some_and(|one| known.is_ejected(one.live.into())))
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
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::abi::{ClassKey, FrontendKey, Leg, PrefixKey, Verdict};
    use crate::decide::{Caller, Decision, take};

    const SIDE: Side = Side::of_epoch(0);

    /// One route, and entries by index. The entry of `LIVE` of a backend is its index
    /// and one.
    #[derive(Clone, Default, Debug)]
    struct Small {
        legs: Vec<Leg>,
        destinations: Vec<Destination>,
        backends: Vec<Backend>,
        ejected: Vec<bool>,
        active: Vec<u64>,
        full: bool,
    }

    impl Tables for Small {
        fn frontend(&self, _: &FrontendKey) -> Option<Verdict> {
            None
        }
        fn prefix(&self, _: &PrefixKey) -> Option<Verdict> {
            None
        }
        fn class_verdict(&self, _: &ClassKey) -> Option<Verdict> {
            None
        }
        fn class_default(&self, _: Side, _: u32) -> Option<Verdict> {
            None
        }
        fn route(&self, _: Side, _: u32) -> Option<Route> {
            Some(Route { first: 0, count: self.legs.len() as u32 })
        }
        fn leg(&self, _: Side, index: u32) -> Option<Leg> {
            self.legs.get(index as usize).copied()
        }
        fn destination(&self, _: Side, index: u32) -> Option<Destination> {
            self.destinations.get(index as usize).copied()
        }
        fn backend(&self, _: Side, index: u32) -> Option<Backend> {
            self.backends.get(index as usize).copied()
        }
    }

    impl Known for Small {
        fn is_ejected(&self, endpoint: u32) -> bool {
            self.ejected[endpoint as usize - 1]
        }
        fn is_full(&self, _: u32, _: u32) -> bool {
            self.full
        }
        fn active(&self, endpoint: u32) -> u64 {
            self.active[endpoint as usize - 1]
        }
    }

    /// Draws a sequence of numbers that are spread evenly, so many different ones; what
    /// comes after it is zero.
    struct Draws<'s> {
        small: &'s Small,
        kinds: u32,
        sequence: Vec<u32>,
        drawn: usize,
    }

    impl Caller for Draws<'_> {
        fn class(&mut self, _: Side) -> u32 {
            0
        }
        fn draw(&mut self) -> u32 {
            if self.drawn == self.sequence.len() {
                self.sequence.push(0);
            }
            self.drawn += 1;
            self.sequence[self.drawn - 1] * ((1 << 31) / self.kinds * 2)
        }
        fn active(&mut self, endpoint: u32) -> u64 {
            Known::active(self.small, endpoint)
        }
        fn is_ejected(&mut self, _: u32, endpoint: u32) -> bool {
            Known::is_ejected(self.small, endpoint)
        }
        fn admit(&mut self, _: u32, _: u32) -> bool {
            !self.small.full
        }
    }

    /// What becomes of a connection: leg, then endpoint, or why there is none.
    type Shares = BTreeMap<(u32, Result<u32, &'static str>), f64>;

    /// Takes every sequence of draws there is.
    fn by_drawing(small: &Small, kinds: u32) -> Shares {
        let mut shares = Shares::new();
        let mut sequence = Vec::new();
        loop {
            let mut caller = Draws { small, kinds, sequence, drawn: 0 };
            let outcome = match take(small, SIDE, 0, &mut caller) {
                Decision::Route(choice, endpoint) => (choice.leg, Ok(endpoint.backend)),
                Decision::RefuseLeg(choice) => (choice.leg, Err("none")),
                Decision::Limited(choice) => (choice.leg, Err("full")),
                Decision::Refuse => (0, Err("no leg")),
                Decision::Miss | Decision::Pass => unreachable!("a route was taken"),
            };
            sequence = caller.sequence;
            let length = i32::try_from(sequence.len()).unwrap();
            *shares.entry(outcome).or_default() += f64::from(kinds).powi(-length);
            while sequence.last() == Some(&(kinds - 1)) {
                sequence.pop();
            }
            match sequence.last_mut() {
                Some(last) => *last += 1,
                None => return shares,
            }
        }
    }

    fn summed(small: &Small) -> Shares {
        let mut shares = Shares::new();
        let parts = of_route(small, SIDE, 0, small);
        if parts.is_empty() {
            return [((0, Err("no leg")), 1.0)].into();
        }
        for part in parts {
            let leg = part.choice.leg;
            let endpoints = part.endpoints.iter().map(|(to, _, share)| (Ok(to.backend), *share));
            let all = endpoints.chain([(Err("none"), part.refused), (Err("full"), part.limited)]);
            for (outcome, share) in all {
                *shares.entry((leg, outcome)).or_default() += share;
            }
        }
        shares
    }

    fn assert_same(small: &Small, kinds: u32) {
        let (drawn, summed) = (by_drawing(small, kinds), summed(small));
        let keys = drawn.keys().chain(summed.keys());
        for key in keys {
            let of = |shares: &Shares| shares.get(key).copied().unwrap_or(0.0);
            let (drawn, summed) = (of(&drawn), of(&summed));
            // A threshold of all keeps one part in 2^32 less than all.
            assert!((drawn - summed).abs() < 1e-8, "{key:?}: {drawn}, not {summed}: {small:?}");
        }
    }

    /// SplitMix64.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u32) -> u32 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) % u64::from(bound)) as u32
        }

        /// A threshold and an alias, such that draws of so many kinds tell exactly: of
        /// `count` slots, each is hit by `kinds / count` of them.
        fn slot(&mut self, count: u32, kinds: u32) -> (u32, u32) {
            let steps = kinds / count;
            let threshold = match self.below(steps + 1) {
                step if step == steps => u32::MAX,
                step => ((u64::from(step) << 32) / u64::from(steps)) as u32,
            };
            (threshold, self.below(count))
        }

        fn small(&mut self, kinds: u32, policies: &[u32]) -> Small {
            let mut small = Small { full: self.below(3) == 0, ..Small::default() };
            let legs = [0, 1, 1, 2, 2, 4][self.below(6) as usize];
            for number in 0..legs {
                let (threshold, alias) = self.slot(legs, kinds);
                let destination = if self.below(8) == 0 { 77 } else { number };
                small.legs.push(Leg { threshold, alias, destination, ..Leg::default() });
                let count = [0, 1, 2, 2, 4, 4][self.below(6) as usize].min(kinds);
                small.destinations.push(Destination {
                    first: small.backends.len() as u32,
                    count,
                    policy: policies[self.below(policies.len() as u32) as usize],
                    live: 1000 + number,
                    max_connections: 1,
                    ..Destination::default()
                });
                for _ in 0..count {
                    let (threshold, alias) = self.slot(count, kinds);
                    let live = small.backends.len() as u16 + 1;
                    small.backends.push(Backend { threshold, alias, live, ..Backend::default() });
                    small.ejected.push(self.below(2) == 0);
                    small.active.push(self.below(3).into());
                }
            }
            // The last entry is missing now and then.
            if self.below(8) == 0 && small.backends.pop().is_some() {
                small.ejected.pop();
                small.active.pop();
            }
            small
        }
    }

    #[test]
    fn the_shares_are_those_of_all_draws() {
        let policies = [
            policy::RANDOM,
            policy::RANDOM | policy::LIMITED,
            policy::SOURCE_HASH,
            policy::LEAST_REQUEST,
            policy::LEAST_REQUEST | policy::LIMITED,
        ];
        let mut random = Random(1);
        for _ in 0..3_000 {
            assert_same(&random.small(8, &policies), 8);
        }
    }

    #[test]
    fn what_ejected_endpoints_would_have_is_where_all_draws_find_it() {
        let ejecting = policy::EJECTING;
        let policies = [
            ejecting,
            ejecting | policy::LIMITED,
            ejecting | policy::LEAST_REQUEST,
            ejecting | policy::LEAST_REQUEST | policy::LIMITED,
        ];
        let mut random = Random(2);
        for _ in 0..16 {
            assert_same(&random.small(4, &policies), 4);
        }
    }

    #[test]
    fn turns_are_by_weight_over_whole_rounds() {
        struct Turns(u32);
        impl Caller for Turns {
            fn class(&mut self, _: Side) -> u32 {
                0
            }
            fn draw(&mut self) -> u32 {
                unreachable!("nobody is ejected")
            }
            fn turn(&mut self, _: u32) -> u32 {
                self.0 += 1;
                self.0
            }
        }
        let policies = [policy::ROUND_ROBIN];
        let mut random = Random(3);
        for _ in 0..50 {
            let mut small = random.small(4, &policies);
            small.legs.truncate(1);
            small.ejected.fill(false);
            let rounds = 4 * 4096;
            let mut turns = Turns(0);
            let mut drawn = BTreeMap::<u32, f64>::new();
            for _ in 0..rounds {
                if let Decision::Route(_, to) = take(&small, SIDE, 0, &mut turns) {
                    *drawn.entry(to.backend).or_default() += 1.0 / f64::from(rounds);
                }
            }
            for (key, share) in summed(&small) {
                if let (_, Ok(backend)) = key {
                    let drawn = drawn.get(&backend).copied().unwrap_or(0.0);
                    assert!(
                        (drawn - share).abs() < 1e-3,
                        "{key:?}: {drawn}, not {share}: {small:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn of_many_that_are_all_ejected_one_is_taken_all_the_same() {
        for (count, refused) in [(SCAN, 1.0), (SCAN + 1, 0.0)] {
            let slots = (0..count).map(|at| Backend {
                threshold: u32::MAX,
                alias: at,
                live: at as u16 + 1,
                ..Backend::default()
            });
            let small = Small {
                legs: vec![Leg::default()],
                destinations: vec![Destination {
                    count,
                    policy: policy::EJECTING,
                    ..Destination::default()
                }],
                backends: slots.collect(),
                ejected: vec![true; count as usize],
                active: vec![0; count as usize],
                full: false,
            };
            let parts = of_route(&small, SIDE, 0, &small);
            assert!((parts[0].refused - refused).abs() < 1e-6, "{count}: {parts:?}");
            let even = (1.0 - refused) / f64::from(count);
            assert!(parts[0].endpoints.iter().all(|(_, _, share)| (share - even).abs() < 1e-6));
        }
    }
}
