//! What the tables say of an address, and what is asked of a caller.

use super::*;
use crate::abi::IDENTITY_UNKNOWN;

const SIDE: Side = Side::of_epoch(0);
const DIALLED: Addr = Addr::from_v4_word(0x0a00_0001);
const PORT: u16 = 0x5000;

/// Tables that say something of [`DIALLED`] at [`PORT`], exactly and as part of a network, and
/// in class table 9 of class 4 and of all others. Route 5 has one leg.
#[derive(Default)]
struct Book {
    exact: Option<Verdict>,
    network: Option<Verdict>,
    of_class: Option<Verdict>,
    of_others: Option<Verdict>,
    destination: Destination,
    backends: Vec<Backend>,
}

impl Tables for Book {
    fn frontend(&self, key: &FrontendKey) -> Option<Verdict> {
        let wanted = FrontendKey { addr: DIALLED, port: PORT, side: SIDE.index() as u16 };
        self.exact.filter(|_| *key == wanted)
    }
    fn prefix(&self, key: &PrefixKey) -> Option<Verdict> {
        let wanted = PrefixKey { side: SIDE.index() as u16, port: PORT, addr: DIALLED };
        self.network.filter(|_| *key == wanted)
    }
    fn class_verdict(&self, key: &ClassKey) -> Option<Verdict> {
        self.of_class.filter(|_| *key == ClassKey { table: 9, class: 4, side: SIDE.index() })
    }
    fn class_default(&self, side: Side, table: u32) -> Option<Verdict> {
        self.of_others.filter(|_| (side.index(), table) == (SIDE.index(), 9))
    }
    fn route(&self, _: Side, index: u32) -> Option<Route> {
        (index == 5).then_some(Route { first: 0, count: 1 })
    }
    fn leg(&self, _: Side, _: u32) -> Option<Leg> {
        Some(Leg { threshold: u32::MAX, ..Leg::default() })
    }
    fn destination(&self, _: Side, _: u32) -> Option<Destination> {
        Some(self.destination)
    }
    fn backend(&self, _: Side, index: u32) -> Option<Backend> {
        self.backends.get(index as usize).copied()
    }
}

/// Of a class, with the draws that it may take, the last one first.
struct Somebody(u32, Vec<u32>);

impl Caller for Somebody {
    fn class(&mut self, side: Side) -> u32 {
        assert_eq!(side.index(), SIDE.index());
        self.0
    }
    fn draw(&mut self) -> u32 {
        self.1.pop().expect("no more draws than it takes")
    }
}

const TO_ROUTE: Verdict = Verdict::new(VerdictKind::Route(5));
const BY_CLASS: Verdict = Verdict::new(VerdictKind::Classes(9));

fn said(book: &Book, class: u32) -> (Option<Verdict>, Decision) {
    let verdict = verdict(book, SIDE, &DIALLED, PORT, || class);
    (verdict, decide(book, SIDE, &DIALLED, PORT, &mut Somebody(class, vec![])))
}

#[test]
fn an_exact_address_goes_before_a_network_and_what_neither_has_is_missed() {
    let mut book = Book::default();
    assert_eq!(said(&book, 4), (None, Decision::Miss));
    book.network = Some(Verdict::REFUSE);
    assert_eq!(said(&book, 4), (Some(Verdict::REFUSE), Decision::Refuse));
    book.exact = Some(Verdict::PASS);
    assert_eq!(said(&book, 4), (Some(Verdict::PASS), Decision::Pass));
}

#[test]
fn a_class_table_answers_its_class_and_all_others_and_refuses_where_it_is_not_there() {
    let mut book = Book { exact: Some(BY_CLASS), ..Book::default() };
    assert_eq!(said(&book, 4), (Some(Verdict::REFUSE), Decision::Refuse));
    book.of_others = Some(Verdict::PASS);
    book.of_class = Some(Verdict::REFUSE);
    assert_eq!(said(&book, 4), (Some(Verdict::REFUSE), Decision::Refuse));
    assert_eq!(said(&book, 3), (Some(Verdict::PASS), Decision::Pass));
}

#[test]
fn tables_without_frontends_miss_everything() {
    struct Nothing;
    impl Tables for Nothing {
        fn route(&self, _: Side, _: u32) -> Option<Route> {
            None
        }
        fn leg(&self, _: Side, _: u32) -> Option<Leg> {
            None
        }
        fn destination(&self, _: Side, _: u32) -> Option<Destination> {
            None
        }
        fn backend(&self, _: Side, _: u32) -> Option<Backend> {
            None
        }
    }
    assert_eq!(verdict(&Nothing, SIDE, &DIALLED, PORT, || 4), None);
    assert_eq!(Nothing.prefix(&PrefixKey { side: 0, port: PORT, addr: DIALLED }), None);
    assert_eq!(Nothing.class_verdict(&ClassKey { table: 9, class: 4, side: 0 }), None);
    assert_eq!(Nothing.class_default(SIDE, 9), None);
}

#[test]
fn one_leg_and_one_endpoint_take_no_draw_and_what_stands_for_the_dialled_is_filled_in() {
    for policy in [policy::RANDOM, policy::LEAST_REQUEST] {
        let destination = Destination { count: 1, policy, live: 2, ..Destination::default() };
        let backends = vec![Backend { live: 3, ..Backend::default() }];
        let book = Book { exact: Some(TO_ROUTE), destination, backends, ..Book::default() };
        let choice = Choice { route: 5, leg: 0 };
        let endpoint = ChosenEndpoint { backend: 0, addr: DIALLED, port: PORT };
        assert_eq!(said(&book, 0), (Some(TO_ROUTE), Decision::Route(choice, endpoint)));
        let as_it_stands = pick(&book, SIDE, 0, &mut Somebody(0, vec![]));
        assert!(as_it_stands.is_some_and(|to| to.addr.is_unspecified() && to.port == 0));
    }
}

#[test]
fn of_two_with_as_many_connections_the_first_drawn_is_taken() {
    let policy = policy::LEAST_REQUEST;
    let destination = Destination { count: 2, policy, ..Destination::default() };
    let backend = Backend { threshold: u32::MAX, ..Backend::default() };
    let book = Book { destination, backends: vec![backend; 2], ..Book::default() };
    let taken = pick(&book, SIDE, 0, &mut Somebody(0, vec![0, u32::MAX / 2 + 1]));
    assert_eq!(taken.map(|to| to.backend), Some(1));
}

#[test]
fn who_knows_no_endpoints_draws_and_admits() {
    let mut somebody = Somebody(0, vec![7, 6]);
    assert_eq!((somebody.affinity(), somebody.turn(1)), (6, 7));
    assert_eq!(somebody.active(1), 0);
    assert!(!somebody.is_ejected(1, 1) && somebody.admit(&Destination::default()));
}

/// The values are those of another implementation of what the documentation says.
#[test]
fn affinity_is_of_the_identity_and_of_strangers_by_their_namespace() {
    assert_eq!([1, u32::MAX, 0x1234_5678].map(mix), [0x514e_28b7, 0x81f1_6f39, 0xe37c_d1bc]);
    let unasked = || unreachable!("it is known who that is");
    assert_eq!(affinity(7, 3, unasked), 0x7fda_34f2);
    // Mixed, the number of a namespace has the uppermost bit, or has it not.
    let of_namespace = [5, 6].map(|netns| affinity(7, IDENTITY_UNKNOWN, || 1 << 32 | netns));
    assert_eq!(of_namespace, [0xaa0a_985a, 0x1f0a_310d]);
    assert_eq!([stranger(5), stranger(1 << 31 | 6)], [1 << 31 | 5, 1 << 31 | 6]);
}
