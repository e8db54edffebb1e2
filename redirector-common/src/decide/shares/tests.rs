use std::collections::BTreeMap;

use super::*;
use crate::abi::Leg;
use crate::decide::{Caller, Decision, take};

mod whole;

const SIDE: Side = Side::of_epoch(0);

/// One route, and entries by index. The entry of `LIVE` of a backend is its index
/// and one.
#[derive(Clone, Default, Debug)]
struct Small {
    first: u32,
    /// Of the route; all legs where it is not said.
    count: Option<u32>,
    legs: Vec<Leg>,
    destinations: Vec<Destination>,
    backends: Vec<Backend>,
    ejected: Vec<bool>,
    active: Vec<u64>,
    full: bool,
}

impl Tables for Small {
    fn route(&self, _: Side, _: u32) -> Option<Route> {
        let count = self.count.unwrap_or(self.legs.len() as u32);
        Some(Route { first: self.first, count })
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
    fn is_full(&self, _: &Destination) -> bool {
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
    fn admit(&mut self, _: &Destination) -> bool {
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
                let live = small.backends.len() as u32 + 1;
                let alias = alias as u16;
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
                assert!((drawn - share).abs() < 1e-3, "{key:?}: {drawn}, not {share}: {small:?}");
            }
        }
    }
}

#[test]
fn of_many_that_are_all_ejected_one_is_taken_all_the_same() {
    for (count, refused) in [(SCAN, 1.0), (SCAN + 1, 0.0)] {
        let slots = (0..count).map(|at| Backend {
            threshold: u32::MAX,
            alias: at as u16,
            live: at + 1,
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
            ..Small::default()
        };
        let parts = of_route(&small, SIDE, 0, &small);
        assert!((parts[0].refused - refused).abs() < 1e-6, "{count}: {parts:?}");
        let even = (1.0 - refused) / f64::from(count);
        assert!(parts[0].endpoints.iter().all(|(_, _, share)| (share - even).abs() < 1e-6));
    }
}

#[test]
fn where_nothing_is_known_nobody_is_left_out_and_nothing_is_full() {
    assert!(!ByWeight.is_ejected(1) && !ByWeight.is_full(&Destination::default()));
    assert_eq!((ByWeight.active(1), ByWeight.affinity()), (0, None));
}

/// A source with this affinity.
struct Keeps<'s>(&'s Small, u32);

impl Known for Keeps<'_> {
    fn is_ejected(&self, endpoint: u32) -> bool {
        Known::is_ejected(self.0, endpoint)
    }
    fn is_full(&self, _: &Destination) -> bool {
        self.0.full
    }
    fn active(&self, _: u32) -> u64 {
        0
    }
    fn affinity(&self) -> Option<u32> {
        Some(self.1)
    }
}

impl Caller for Keeps<'_> {
    fn class(&mut self, _: Side) -> u32 {
        0
    }
    fn draw(&mut self) -> u32 {
        unreachable!("there is one leg")
    }
    fn affinity(&mut self) -> u32 {
        self.1
    }
    fn is_ejected(&mut self, _: u32, endpoint: u32) -> bool {
        Known::is_ejected(self.0, endpoint)
    }
    fn admit(&mut self, _: &Destination) -> bool {
        !self.0.full
    }
}

#[test]
fn a_source_whose_affinity_is_known_has_the_endpoint_that_its_connections_take() {
    let policies = [policy::SOURCE_HASH, policy::SOURCE_HASH | policy::EJECTING | policy::LIMITED];
    let mut random = Random(4);
    for _ in 0..500 {
        let mut small = random.small(4, &policies);
        small.legs.truncate(1);
        let affinity = random.below(u32::MAX);
        let parts = of_route(&small, SIDE, 0, &Keeps(&small, affinity));
        let Some(part) = parts.first() else { continue };
        let outcome = take(&small, SIDE, 0, &mut Keeps(&small, affinity));
        let told = match part.endpoints.as_slice() {
            [(endpoint, _, _)] => Decision::Route(part.choice, *endpoint),
            _ if part.limited > 0.0 => Decision::Limited(part.choice),
            _ => Decision::RefuseLeg(part.choice),
        };
        assert_eq!(told, outcome, "{small:?}");
    }
}

#[test]
fn what_is_never_drawn_has_no_endpoint_of_a_source_that_is_known_either() {
    let never = Leg { threshold: 0, alias: 1, destination: 0, ..Leg::default() };
    let always = Leg { threshold: u32::MAX, alias: 1, destination: 1, ..Leg::default() };
    let hashed = |first| Destination {
        first,
        count: 1,
        policy: policy::SOURCE_HASH,
        ..Destination::default()
    };
    let backend = Backend { threshold: u32::MAX, live: 1, ..Backend::default() };
    let small = Small {
        legs: vec![never, always],
        destinations: vec![hashed(0), hashed(1)],
        backends: vec![backend; 2],
        ejected: vec![false],
        active: vec![0],
        ..Small::default()
    };
    let parts = of_route(&small, SIDE, 0, &Keeps(&small, 7));
    let endpoints: Vec<_> = parts.iter().map(|part| part.endpoints.len()).collect();
    assert_eq!(endpoints, [0, 1], "{parts:?}");
}

#[test]
fn one_that_is_free_far_from_where_the_last_draw_was_is_not_found() {
    const COUNT: u32 = 130;
    const FREE: u32 = 40;
    let slot = |at| Backend { threshold: u32::MAX, alias: 0, live: at + 1, ..Backend::default() };
    let destination =
        Destination { count: COUNT, policy: policy::EJECTING, ..Destination::default() };
    let small = Small {
        legs: vec![Leg::default()],
        destinations: vec![destination],
        backends: (0..COUNT).map(slot).collect(),
        ejected: (0..COUNT).map(|at| at != FREE).collect(),
        active: vec![0; COUNT as usize],
        ..Small::default()
    };
    let part = &of_route(&small, SIDE, 0, &small)[0];
    // What a draw and as many as are tried again have not found, begins at any of the others;
    // of these so many are looked at that lie before the free one, around the end, too.
    let others = f64::from(COUNT - 1);
    let left = (others / f64::from(COUNT)).powi(1 + REDRAWS as i32);
    let far = left * (1.0 - f64::from(SCAN) / others);
    for (endpoint, _, share) in &part.endpoints {
        let wanted = if endpoint.backend == FREE { 1.0 - far } else { far / others };
        assert!((share - wanted).abs() < 1e-8, "{endpoint:?}: {share}, not {wanted}");
    }
    assert_eq!(part.endpoints.len(), COUNT as usize);
}

#[test]
fn whose_affinity_is_known_has_the_weights_where_that_does_not_decide() {
    let backend = Backend { threshold: u32::MAX, live: 1, ..Backend::default() };
    let other = Backend { alias: 1, ..backend };
    let small = Small {
        legs: vec![Leg::default()],
        destinations: vec![Destination { count: 2, ..Destination::default() }],
        backends: vec![backend, other],
        ejected: vec![false],
        active: vec![0],
        ..Small::default()
    };
    let part = &of_route(&small, SIDE, 0, &Keeps(&small, 7))[0];
    let shares: Vec<_> = part.endpoints.iter().map(|(_, _, share)| *share).collect();
    assert_eq!(shares.len(), 2, "{part:?}");
    assert!(shares.iter().all(|share| (share - 0.5).abs() < 1e-8), "{shares:?}");
}

#[test]
fn what_live_says_holds_at_the_moment_and_for_those_that_have_an_entry() {
    let entry = Live { word: 9 * Live::ONE, ejected_until: 50, ..Live::default() };
    let live = |number| if number == 3 { entry } else { unreachable!("nobody's entry") };
    let at = |now, mine| At { live, mine: move |_| mine, now, affinity: Some(4) };
    let destination = |live| Destination { live, max_connections: 12, ..Destination::default() };
    assert_eq!(
        [40, 49, 50, 60].map(|now| at(now, 0).ejected_for(3)),
        [Some(10), Some(1), None, None]
    );
    assert_eq!([49, 50].map(|now| at(now, 0).is_ejected(3)), [true, false]);
    assert_eq!((at(49, 0).ejected_for(0), at(49, 0).is_ejected(0)), (None, false));
    assert_eq!((at(0, 0).active(3), at(0, 0).active(0)), (9, 0));
    // Three quarters are used: who has a quarter gets no more.
    assert_eq!([2, 3].map(|mine| at(0, mine).is_full(&destination(3))), [false, true]);
    assert!(!at(0, 3).is_full(&destination(0)));
    assert_eq!(at(0, 0).affinity(), Some(4));
}
