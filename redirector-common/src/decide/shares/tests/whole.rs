//! Small domains, whole: the arithmetic of indices, against a plain reading of it.

use super::*;
use crate::addr::Addr;
use crate::decide::{pick, spread};

/// So many draws, evenly spread, hit each of up to four slots as often, and of two halves
/// of one each as often.
const KINDS: u32 = 24;

/// What a slot may be: whether none, half or all of it is its own, and who has the rest.
const SLOTS: [(u32, u32); 12] = {
    let mut slots = [(0, 0); 12];
    let mut at = 0;
    while at < slots.len() {
        slots[at] = ([0, 1 << 31, u32::MAX][at % 3], at as u32 / 3);
        at += 1;
    }
    slots
};

/// A draw of so many there are.
fn draw(kind: u32) -> u32 {
    // In the middle, as far from every border as can be.
    ((u64::from(kind) * 2 + 1) << 31).div_euclid(KINDS.into()) as u32
}

/// Which entry a draw hits, of `count` from `first` on; `None` where the table ends before.
fn hit(table: &[(u32, u32)], first: u32, count: u32, kind: u32) -> Option<u32> {
    // One is taken without drawing.
    let (slot, rest) =
        if count < 2 { (0, 0) } else { (kind * count / KINDS, kind * count % KINDS) };
    let (own, other) = *table.get((first + slot) as usize)?;
    let parts = if own == u32::MAX { KINDS } else { own / (1 << 31) * KINDS / 2 };
    let at = first + if count < 2 || rest < parts { slot } else { other };
    table.get(at as usize).map(|_| at)
}

/// Each table of three slots, and each range of it and beyond, empty ones, too.
fn all(mut check: impl FnMut(&[(u32, u32)], u32, u32)) {
    for number in 0..SLOTS.len().pow(3) {
        let of = |at| SLOTS[number / SLOTS.len().pow(at) % SLOTS.len()];
        let table = [of(0), of(1), of(2)];
        (0..=3).for_each(|first| (0..=4).for_each(|count| check(&table, first, count)));
    }
}

/// Draws this, and then nothing.
struct Draw(Option<u32>);

impl Caller for Draw {
    fn class(&mut self, _: Side) -> u32 {
        0
    }
    fn draw(&mut self) -> u32 {
        self.0.take().expect("it is drawn once")
    }
    fn turn(&mut self, _: u32) -> u32 {
        self.draw()
    }
}

#[test]
fn each_draw_of_each_small_route_hits_the_leg_that_a_plain_reading_says() {
    let mut draws = 0;
    all(|table, first, count| {
        let leg = |(threshold, alias)| Leg { threshold, alias, ..Leg::default() };
        let legs = table.iter().copied().map(leg).collect();
        let small = Small { first, count: Some(count), legs, ..Small::default() };
        for kind in 0..KINDS {
            let wanted = hit(table, first, count, kind).filter(|_| count > 0);
            let wanted = wanted
                .map_or(Decision::Refuse, |leg| Decision::RefuseLeg(Choice { route: 0, leg }));
            let taken = take(&small, SIDE, 0, &mut Draw(Some(draw(kind))));
            assert_eq!(taken, wanted, "{kind} of {count} from {first}: {table:?}");
            draws += 1;
        }
    });
    println!("figure: {draws} draws of routes, each by a plain reading");
}

#[test]
fn each_draw_and_turn_of_each_small_destination_hits_the_endpoint_that_a_plain_reading_says() {
    let mut draws = 0;
    all(|table, first, count| {
        let backend = |(threshold, alias): (u32, u32)| Backend {
            threshold,
            alias: alias as u16,
            ..Backend::default()
        };
        let backends: Vec<_> = table.iter().copied().map(backend).collect();
        let destination = Destination { first, count, ..Destination::default() };
        let taken = |policy, drawn| {
            let destinations = vec![Destination { policy, ..destination }];
            let small = Small { destinations, backends: backends.clone(), ..Small::default() };
            pick(&small, SIDE, 0, &mut Draw(Some(drawn))).map(|endpoint| endpoint.backend)
        };
        for kind in 0..KINDS {
            let wanted = hit(table, first, count, kind).filter(|_| count > 0);
            for policy in [policy::RANDOM, policy::RANDOM | policy::LIMITED] {
                let got = taken(policy, draw(kind));
                assert_eq!(got, wanted, "{kind} of {count} from {first}: {table:?}");
                draws += 1;
            }
            // Turns go by the slots; the first round takes what is the slots' own, if it
            // is anything.
            if kind < count {
                let slot = kind + first;
                let own = table.get(slot as usize).map(|(own, other)| match *own {
                    0 if count > 1 => first + other,
                    _ => slot,
                });
                let wanted = own.filter(|at| (*at as usize) < table.len());
                assert_eq!(taken(policy::ROUND_ROBIN, kind), wanted, "{kind}: {table:?}");
                draws += 1;
            }
        }
    });
    println!("figure: {draws} draws and turns of destinations, each by a plain reading");
}

#[test]
fn the_shares_are_those_of_all_draws_for_each_two_endpoints_of_each_policy() {
    let mut all = 0;
    let algorithms = [policy::RANDOM, policy::SOURCE_HASH, policy::LEAST_REQUEST];
    for number in 0..(4_u32.pow(2) * 2_u32.pow(2) * 3_u32.pow(2) * 3 * 2 * 2 * 2) {
        let mut rest = number;
        let mut one_of = |count| {
            let one = rest % count;
            rest /= count;
            one
        };
        let slot = |tables: u32, live| Backend {
            threshold: if tables & 1 == 0 { 0 } else { u32::MAX },
            alias: (tables >> 1) as u16,
            live,
            ..Backend::default()
        };
        let backends = vec![slot(one_of(4), 1), slot(one_of(4), 2)];
        let ejected = vec![one_of(2) == 1, one_of(2) == 1];
        let active = vec![one_of(3).into(), one_of(3).into()];
        let mut policy = algorithms[one_of(3) as usize];
        policy |= [0, policy::EJECTING][one_of(2) as usize];
        policy |= [0, policy::LIMITED][one_of(2) as usize];
        let small = Small {
            legs: vec![Leg::default()],
            destinations: vec![Destination { count: 2, policy, ..Destination::default() }],
            backends,
            ejected,
            active,
            full: one_of(2) == 1,
            ..Small::default()
        };
        assert_same(&small, 2);
        all += 1;
    }
    println!("figure: {all} destinations of two endpoints, each with all draws");
}

#[test]
fn each_slot_begins_at_the_first_draw_that_is_its_own() {
    let mut slots = 0;
    for count in 1..=1_500_u32 {
        for slot in 0..count {
            let first = (u64::from(slot) << 32).div_ceil(count.into()) as u32;
            assert_eq!(spread(first, count).0, slot, "{first} of {count}");
            if let Some(before) = first.checked_sub(1) {
                assert_eq!(spread(before, count).0, slot - 1, "{before} of {count}");
            }
            slots += 1;
        }
        assert_eq!(spread(u32::MAX, count).0, count - 1, "the last draw of {count}");
    }
    println!("figure: {slots} slots, each begins where it should");
}

#[test]
fn the_entries_of_both_sides_are_the_whole_array_and_no_two_the_same() {
    for capacity in 0..=64_u32 {
        let of = |epoch| {
            (0..capacity + 2).filter_map(move |index| Side::of_epoch(epoch).slot(index, capacity))
        };
        assert!(of(0).chain(of(1)).eq(0..2 * capacity), "{capacity} entries");
    }
}

/// A source with this affinity, which knows who is ejected.
struct Stays<'s>(&'s Small, u32);

impl Caller for Stays<'_> {
    fn class(&mut self, _: Side) -> u32 {
        0
    }
    fn draw(&mut self) -> u32 {
        0
    }
    fn affinity(&mut self) -> u32 {
        self.1
    }
    fn is_ejected(&mut self, _: u32, endpoint: u32) -> bool {
        Known::is_ejected(self.0, endpoint)
    }
}

/// So many endpoints of one destination, of which the first ones are ejected.
fn ejected(count: u32, ejected: u32, policy: u32) -> Small {
    let backend = |live| Backend { threshold: u32::MAX, live, ..Backend::default() };
    Small {
        legs: vec![Leg::default()],
        destinations: vec![Destination { count, policy, ..Destination::default() }],
        backends: (1..=count).map(backend).collect(),
        ejected: (0..count).map(|at| at < ejected).collect(),
        active: vec![0; count as usize],
        ..Small::default()
    }
}

#[test]
fn the_sources_of_an_ejected_endpoint_are_shared_among_the_others() {
    let small = ejected(3, 1, policy::SOURCE_HASH | policy::EJECTING);
    let mut counts = [0_u32; 3];
    for source in 0..3_000_u32 {
        let affinity = source * (u32::MAX / 3_000);
        let [first, again] = [(); 2].map(|()| take(&small, SIDE, 0, &mut Stays(&small, affinity)));
        assert_eq!(first, again, "it stays");
        let Decision::Route(_, one) = first else { panic!("{first:?}") };
        counts[one.backend as usize] += 1;
    }
    assert!(counts[0] == 0 && counts[1].abs_diff(counts[2]) < 300, "{counts:?}");
}

#[test]
fn of_as_many_as_are_looked_at_and_are_all_ejected_none_is_taken_and_of_more_one_is() {
    for (count, is_taken) in [(1, false), (SCAN - 1, false), (SCAN, false), (SCAN + 1, true)] {
        let small = ejected(count, count, policy::EJECTING);
        let outcome = take(&small, SIDE, 0, &mut Stays(&small, 0));
        assert_eq!(matches!(outcome, Decision::Route(..)), is_taken, "{count}: {outcome:?}");
    }
}

#[test]
fn what_stands_for_what_was_dialled_is_filled_in_and_nothing_else() {
    let [own, dialled] = [1, 2].map(Addr::from_v4_word);
    let none = Addr::from_v4_word(0);
    for (addr, port, wanted) in
        [(own, 7, (own, 7)), (own, 0, (own, 9)), (none, 7, (dialled, 7)), (none, 0, (dialled, 9))]
    {
        let mut endpoint = ChosenEndpoint { backend: 0, addr, port };
        endpoint.fill_in(&dialled, 9);
        assert_eq!((endpoint.addr, endpoint.port), wanted);
    }
}
