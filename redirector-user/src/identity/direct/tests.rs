use std::path::PathBuf;

use redirector_core::model::{SourceId, SourceSelector};

use super::super::newcomers::tests::{Node, pod as told};
use super::super::pods::PodEvent;
use super::super::{Kernel, Resolver, Tracker, Wanted};
use super::*;

/// A table in memory.
#[derive(Clone, Default)]
struct Fake {
    table: Arc<Mutex<BTreeMap<SourceKey, u32>>>,
    adopted: usize,
}

impl Fake {
    fn number(&self, pod: &PodCgroup) -> Option<u32> {
        self.table.lock().unwrap().get(&key(pod)).copied()
    }
}

impl Table for Fake {
    fn insert(&mut self, key: SourceKey, identity: u32) -> Result<(), Error> {
        self.table.lock().unwrap().insert(key, identity);
        Ok(())
    }
}

impl Kernel for Fake {
    fn insert(&mut self, key: SourceKey, identity: u32) -> Result<(), Error> {
        Table::insert(self, key, identity)
    }

    fn remove(&mut self, key: SourceKey) -> Result<(), Error> {
        self.table.lock().unwrap().remove(&key);
        Ok(())
    }

    fn adopt(&mut self, _: SourceKey) {
        self.adopted += 1;
    }
}

fn key(pod: &PodCgroup) -> SourceKey {
    SourceKey::Cgroup { id: pod.id, level: pod.level }
}

fn pod(uid: &str, id: u64, level: u32) -> PodCgroup {
    PodCgroup { uid: PodUid::new(uid), path: PathBuf::from(uid), id, level }
}

fn wanted(pods: &[(&str, u32)]) -> BTreeMap<SourceId, Wanted> {
    let one = |(uid, identity): &(&str, u32)| {
        let source = SourceId { namespace: "n".into(), name: (*uid).into() };
        (source, Wanted { identity: *identity, selector: SourceSelector::PodUid((*uid).into()) })
    };
    pods.iter().map(one).collect()
}

/// A pod that is known, and others that are expected.
fn expecting(pods: &[(&str, u32)]) -> (Fake, Direct, Tracker) {
    let mut kernel = Fake::default();
    let direct = Direct::new(kernel.clone(), []);
    let mut tracker = Tracker::new(Resolver::default(), [], direct.clone());
    let mut all = wanted(pods);
    all.extend(wanted(&[("first", 1)]));
    tracker.prepare(all, &mut kernel).unwrap();
    tracker.pod(PodEvent::Appeared(pod("first", 1, 3)));
    tracker.look(&mut kernel).unwrap();
    (kernel, direct, tracker)
}

#[test]
fn an_expected_pod_is_known_before_the_control_loop_hears_of_it() {
    let (mut kernel, direct, mut tracker) = expecting(&[("a", 7)]);
    let a = pod("a", 2, 3);
    direct.appeared(&a, None);
    assert_eq!(kernel.number(&a), Some(7));
    // Whatever the loop does meanwhile, it stays.
    tracker.look(&mut kernel).unwrap();
    let dump: Vec<_> = kernel.table.lock().unwrap().iter().map(|(k, v)| (*k, *v)).collect();
    assert!(!tracker.correct(dump), "it is no drift");
    tracker.look(&mut kernel).unwrap();
    assert_eq!(kernel.number(&a), Some(7));
    tracker.pod(PodEvent::Appeared(a.clone()));
    tracker.look(&mut kernel).unwrap();
    assert_eq!((kernel.number(&a), kernel.adopted), (Some(7), 1));
    tracker.pod(PodEvent::Gone(a.clone()));
    tracker.look(&mut kernel).unwrap();
    assert_eq!(kernel.number(&a), None);
}

#[test]
fn a_pod_that_is_deleted_meanwhile_is_not_left_behind() {
    let (mut kernel, direct, mut tracker) = expecting(&[("a", 7)]);
    let a = pod("a", 2, 3);
    direct.appeared(&a, None);
    tracker.prepare(wanted(&[("first", 1)]), &mut kernel).unwrap();
    tracker.look(&mut kernel).unwrap();
    tracker.pod(PodEvent::Appeared(a.clone()));
    tracker.look(&mut kernel).unwrap();
    assert_eq!(kernel.number(&a), None);
}

#[test]
fn while_a_change_is_made_only_numbers_that_mean_the_same_are_given() {
    let (mut kernel, direct, mut tracker) = expecting(&[("a", 7), ("b", 8), ("c", 9)]);
    let [a, b, d] = [pod("a", 2, 3), pod("b", 3, 3), pod("d", 4, 3)];
    // `b` gets another number, `d` that of `c`, and `e` a new one.
    let next = wanted(&[("first", 1), ("a", 7), ("b", 10), ("d", 9), ("e", 11)]);
    tracker.prepare(next, &mut kernel).unwrap();
    let e = pod("e", 5, 3);
    for one in [&a, &b, &d, &e] {
        direct.appeared(one, None);
    }
    let numbers = [&a, &b, &d, &e].map(|one| kernel.number(one));
    assert_eq!(numbers, [Some(7), None, None, Some(11)]);
    for one in [&a, &b, &d, &e] {
        tracker.pod(PodEvent::Appeared(one.clone()));
    }
    tracker.look(&mut kernel).unwrap();
    let numbers = [&a, &b, &d, &e].map(|one| kernel.number(one));
    assert_eq!(numbers, [Some(7), Some(10), Some(9), Some(11)]);
}

#[test]
fn numbers_of_a_change_that_does_not_come_in_force_are_given_to_nobody() {
    let (mut kernel, direct, mut tracker) = expecting(&[("a", 7)]);
    tracker.settle(true);
    let [a, b] = [pod("a", 2, 3), pod("b", 3, 3)];
    tracker.pod(PodEvent::Appeared(a.clone()));
    tracker.pod(PodEvent::Appeared(b.clone()));
    tracker.look(&mut kernel).unwrap();
    let next = wanted(&[("first", 1), ("a", 9), ("b", 10)]);
    tracker.prepare(next.clone(), &mut kernel).unwrap();
    tracker.settle(false);
    tracker.look(&mut kernel).unwrap();
    direct.appeared(&b, None);
    assert_eq!([&a, &b].map(|one| kernel.number(one)), [Some(7), None]);
    tracker.prepare(next, &mut kernel).unwrap();
    tracker.settle(true);
    tracker.look(&mut kernel).unwrap();
    assert_eq!([&a, &b].map(|one| kernel.number(one)), [Some(9), Some(10)]);
}

#[test]
fn tables_that_grow_have_what_was_told_before_meanwhile_and_after() {
    let (kernel, direct, mut tracker) = expecting(&[("a", 7), ("b", 8), ("c", 9)]);
    let [a, b, c] = [pod("a", 2, 3), pod("b", 3, 3), pod("c", 4, 3)];
    direct.appeared(&a, None);
    let mut larger = Fake::default();
    direct.beside(larger.clone()).unwrap();
    direct.appeared(&b, None);
    assert_eq!(kernel.number(&b), Some(8), "the ones in force still are");
    direct.moved(true);
    direct.appeared(&c, None);
    assert_eq!(kernel.number(&c), None);
    for one in [&a, &b, &c] {
        tracker.pod(PodEvent::Appeared(one.clone()));
    }
    tracker.look(&mut larger).unwrap();
    assert_eq!([&a, &b, &c].map(|one| larger.number(one)), [Some(7), Some(8), Some(9)]);
}

#[test]
fn tables_that_are_given_up_are_not_written_to() {
    let (kernel, direct, _tracker) = expecting(&[("a", 7)]);
    let larger = Fake::default();
    direct.beside(larger.clone()).unwrap();
    direct.moved(false);
    let a = pod("a", 2, 3);
    direct.appeared(&a, None);
    assert_eq!((kernel.number(&a), larger.number(&a)), (Some(7), None));
}

#[test]
fn times_are_of_pods_that_were_seen_to_come() {
    let (mut kernel, direct, mut tracker) = expecting(&[("a", 7), ("b", 8)]);
    let counts = || {
        let arrivals = direct.arrivals();
        (arrivals.expected_times().count(), arrivals.other_times().count())
    };
    let seen = Some(Instant::now());
    direct.appeared(&pod("a", 2, 3), seen);
    direct.appeared(&pod("b", 3, 3), None);
    assert_eq!(counts(), (1, 0));
    // One that comes before it is told of, and one that goes again.
    let [c, d] = [pod("c", 4, 3), pod("d", 5, 3)];
    for one in [&c, &d] {
        direct.appeared(one, seen);
        tracker.pod(PodEvent::Appeared(one.clone()));
    }
    direct.vanished(&d);
    tracker.prepare(wanted(&[("c", 9), ("d", 10)]), &mut kernel).unwrap();
    assert_eq!(counts(), (1, 1));
}

/// Tables that have rules for the apps `a` and `b`, and a pod of each.
fn ruled() -> (Fake, Direct, Tracker) {
    let (mut kernel, direct, mut tracker) = expecting(&[]);
    let node = Node::new(&["a", "b"]);
    tracker.foresee(node.view(), &mut kernel).unwrap();
    direct.settle(true);
    (kernel, direct, tracker)
}

#[test]
fn a_pod_told_of_after_its_cgroup_is_known_before_it_is_compiled() {
    let (mut kernel, direct, mut tracker) = ruled();
    let cgroups = [pod("u", 2, 3), pod("u", 3, 4)];
    for cgroup in &cgroups {
        direct.appeared(cgroup, Some(Instant::now()));
    }
    tracker.pod(PodEvent::Appeared(cgroups[0].clone()));
    tracker.look(&mut kernel).unwrap();
    assert_eq!(kernel.number(&cgroups[0]), None);
    assert!(direct.put(&told("new", "u", "a")));
    let number = kernel.number(&cgroups[0]);
    assert!(number.is_some());
    assert_eq!(kernel.number(&cgroups[1]), number, "each of its cgroups");
    let arrivals = direct.arrivals();
    assert_eq!((arrivals.other_times().count(), arrivals.foreseen_pods()), (2, 1));
    // Whatever the loop does meanwhile, it stays.
    tracker.look(&mut kernel).unwrap();
    tracker.pod(PodEvent::Appeared(cgroups[1].clone()));
    tracker.look(&mut kernel).unwrap();
    let dump: Vec<_> = kernel.table.lock().unwrap().iter().map(|(k, v)| (*k, *v)).collect();
    assert!(!tracker.correct(dump), "it is no drift");
    assert_eq!((kernel.number(&cgroups[1]), kernel.adopted), (number, 2));
    // It is gone before it was compiled.
    direct.gone("default", "new");
    tracker.look(&mut kernel).unwrap();
    assert_eq!(cgroups.each_ref().map(|cgroup| kernel.number(cgroup)), [None, None]);
}

#[test]
fn a_pod_told_of_before_its_cgroup_is_known_with_it() {
    let (mut kernel, direct, mut tracker) = ruled();
    let cgroup = pod("u", 2, 3);
    assert!(direct.put(&told("new", "u", "b")));
    direct.appeared(&cgroup, Some(Instant::now()));
    let number = kernel.number(&cgroup).expect("it is known");
    assert_eq!(direct.arrivals().expected_times().count(), 1);
    // The change that tells of it gives it the same number.
    tracker.pod(PodEvent::Appeared(cgroup.clone()));
    tracker.prepare(wanted(&[("first", 1), ("u", number)]), &mut kernel).unwrap();
    tracker.look(&mut kernel).unwrap();
    assert_eq!(kernel.number(&cgroup), Some(number));
}

#[test]
fn a_pod_whose_number_would_be_wrong_is_unknown_again_heard_of_or_not() {
    let (mut kernel, direct, mut tracker) = ruled();
    let [first, second, fine] = [pod("u", 2, 3), pod("v", 3, 3), pod("w", 4, 3)];
    for (cgroup, app) in [(&first, "c"), (&second, "c"), (&fine, "a")] {
        direct.appeared(cgroup, None);
        assert!(direct.put(&told(cgroup.uid.as_str(), cgroup.uid.as_str(), app)));
    }
    tracker.pod(PodEvent::Appeared(first.clone()));
    tracker.look(&mut kernel).unwrap();
    assert!(kernel.number(&first).is_some() && kernel.number(&second).is_some());
    // A rule for `c` that was compiled without them.
    let mut node = Node::new(&["a", "b"]);
    node.rule(&["a", "b", "c"]);
    node.change();
    tracker.foresee(node.view(), &mut kernel).unwrap();
    assert_eq!([&first, &second].map(|cgroup| kernel.number(cgroup)), [None, None]);
    assert!(kernel.number(&fine).is_some());
    tracker.pod(PodEvent::Appeared(second.clone()));
    tracker.look(&mut kernel).unwrap();
    assert_eq!(kernel.number(&second), None);
}

#[test]
fn who_hands_over_writes_no_more() {
    let (kernel, direct, _tracker) = ruled();
    direct.close();
    let cgroup = pod("u", 2, 3);
    direct.appeared(&cgroup, None);
    direct.put(&told("new", "u", "a"));
    assert_eq!(kernel.number(&cgroup), None);
}

#[test]
fn strangers_are_left_to_the_control_loop() {
    let (kernel, direct, _tracker) = expecting(&[("a", 7)]);
    let stranger = pod("x", 3, 3);
    direct.appeared(&stranger, None);
    assert_eq!(kernel.number(&stranger), None);
}
