//! The short way of a pod's cgroup into the kernel's table.
//!
//! The control loop owns the tables, and a pod that comes while it compiles or
//! writes would have to wait for it. So what the loop has decided already, the
//! identity number of each pod that is expected, lies here as well, and whoever
//! sees a pod's cgroup makes it known by that at once. The loop is told as
//! before; it takes over what was done for it, and stays the one that corrects
//! and removes. Pods that it has not heard of yet are given spare numbers, where
//! the tables say which: see [`View`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use redirector_core::layout;
use redirector_core::model::Object;
use redirector_core::plan::SourceId;
use redirector_core::registry::pod_uid;

use super::arrivals::Arrivals;
use super::newcomers::{Newcomers, View};
use super::pods::{PodCgroup, PodUid};
use crate::datapath::{Error, SourceKey, SourceWriter};

/// The kernel's table of cgroups, as far as the short way needs it.
pub trait Table: Send {
    /// Makes the processes of a cgroup known, at once.
    fn insert(&mut self, key: SourceKey, identity: u32) -> Result<(), Error>;
}

impl Table for SourceWriter {
    fn insert(&mut self, key: SourceKey, identity: u32) -> Result<(), Error> {
        Self::insert(self, key, identity)
    }
}

/// What the control loop and the one who watches cgroups share.
#[derive(Clone, Default)]
pub struct Direct(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    table: Option<Box<dyn Table>>,
    /// Larger tables that are filled, and not in force yet.
    beside: Option<Box<dyn Table>>,
    /// The numbers that mean the same before and after any change in progress.
    identities: HashMap<PodUid, u32>,
    newcomers: Newcomers,
    /// The cgroups that are there.
    cgroups: HashMap<PodUid, BTreeSet<SourceKey>>,
    /// What was made known, and the control loop has not taken over yet.
    told: BTreeMap<SourceKey, u32>,
    arrivals: Arrivals,
}

impl Inner {
    /// Writes to whatever is or may come in force.
    fn insert(&mut self, key: SourceKey, identity: u32) -> Option<Result<(), Error>> {
        let table = self.table.as_mut()?;
        let beside = self.beside.as_mut().map_or(Ok(()), |table| table.insert(key, identity));
        Some(table.insert(key, identity).and(beside))
    }

    fn identity(&self, pod: &PodUid) -> Option<u32> {
        let known = self.identities.get(pod).copied();
        known.or_else(|| self.newcomers.all().find(|(uid, _)| *uid == pod).map(|(_, n)| n))
    }

    fn cgroups(&self, pod: &PodUid) -> impl Iterator<Item = SourceKey> + use<'_> {
        self.cgroups.get(pod).into_iter().flatten().copied()
    }
}

impl std::fmt::Debug for Direct {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Direct").field("told", &self.lock().told).finish_non_exhaustive()
    }
}

impl Direct {
    /// A short way into this table, which has these identity numbers already.
    pub fn new(table: impl Table + 'static, numbers: impl IntoIterator<Item = u32>) -> Self {
        let mut inner = Inner { table: Some(Box::new(table)), ..Inner::default() };
        inner.newcomers.resume(numbers);
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Another daemon is in charge of the table from now on.
    pub fn close(&self) {
        let mut inner = self.lock();
        (inner.table, inner.beside) = (None, None);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pod's cgroup is there, seen just now if that is known. To be called
    /// before the control loop is told. What cannot be done here is left to it,
    /// and so is the log: whoever reads that may be slow.
    pub fn appeared(&self, pod: &PodCgroup, seen: Option<Instant>) {
        let key = SourceKey::Cgroup { id: pod.id, level: pod.level };
        let mut inner = self.lock();
        inner.cgroups.entry(pod.uid.clone()).or_default().insert(key);
        let identity = inner.identity(&pod.uid);
        let inserted = identity.and_then(|identity| Some((identity, inner.insert(key, identity)?)));
        let failed = match inserted {
            Some((identity, Ok(()))) => {
                inner.told.insert(key, identity);
                inner.arrivals.expected(seen);
                return;
            }
            Some((_, Err(error))) => Some(error),
            None => None,
        };
        inner.arrivals.waits(key, seen);
        drop(inner);
        if let Some(error) = failed {
            tracing::debug!(%key, "the short way into the table: {error}");
        }
    }

    /// A pod's cgroup is gone.
    pub fn vanished(&self, pod: &PodCgroup) {
        let key = SourceKey::Cgroup { id: pod.id, level: pod.level };
        let mut inner = self.lock();
        inner.arrivals.gone(key);
        if let Some(keys) = inner.cgroups.get_mut(&pod.uid) {
            keys.remove(&key);
            if keys.is_empty() {
                inner.cgroups.remove(&pod.uid);
            }
        }
    }

    /// The API server tells of a pod of this node, or of a change of one. To be
    /// called before the control loop is told. Returns whether the pod's cgroup
    /// needs not wait for that.
    pub fn put(&self, pod: &Arc<Object>) -> bool {
        let uid = PodUid::new(pod_uid(&pod.meta));
        let mut inner = self.lock();
        if inner.identities.contains_key(&uid) {
            return true;
        }
        let Some(number) = inner.newcomers.put(pod) else { return false };
        inner.arrivals.foreseen();
        let mut failed = None;
        for key in inner.cgroups(&uid).collect::<Vec<_>>() {
            if inner.told.contains_key(&key) {
                continue;
            }
            match inner.insert(key, number) {
                Some(Ok(())) => {
                    inner.told.insert(key, number);
                    inner.arrivals.known(key);
                }
                // The control loop will try, and say so.
                Some(Err(error)) => failed = Some(error),
                None => {}
            }
        }
        drop(inner);
        if let Some(error) = failed {
            tracing::debug!(%uid, "the short way into the table: {error}");
        }
        true
    }

    /// A pod of this node is gone from the API server.
    pub fn gone(&self, namespace: &str, name: &str) {
        let id = SourceId { namespace: namespace.into(), name: name.into() };
        self.lock().newcomers.take_back(&id);
    }

    /// The pods that have a number and are not compiled yet, and what the next
    /// Layout is to know of them.
    pub fn newcomers(&self) -> (Vec<Arc<Object>>, layout::Newcomers) {
        self.lock().newcomers.at_hand()
    }

    /// The tables that were to follow are in force, or (`false`) given up.
    pub fn settle(&self, over: bool) {
        self.lock().newcomers.settle(over);
    }

    /// Other tables are being filled with what was in those in force: from now
    /// on they are written to as well.
    ///
    /// # Errors
    ///
    /// The kernel's refusal of what was made known since.
    pub fn beside(&self, mut table: impl Table + 'static) -> Result<(), Error> {
        let mut inner = self.lock();
        for (key, identity) in &inner.told {
            table.insert(*key, *identity)?;
        }
        inner.beside = Some(Box::new(table));
        Ok(())
    }

    /// The other tables are in force, or (`false`) they are given up.
    pub fn moved(&self, over: bool) {
        let mut inner = self.lock();
        let beside = inner.beside.take();
        let old = if over { std::mem::replace(&mut inner.table, beside) } else { beside };
        drop(inner);
        drop(old);
    }

    /// How long pods took to be known, so far.
    pub fn arrivals(&self) -> Arrivals {
        self.lock().arrivals.clone()
    }

    /// The control loop has made a cgroup known.
    pub(super) fn known(&self, key: SourceKey) {
        self.lock().arrivals.known(key);
    }

    /// The numbers from now on.
    pub(super) fn set_identities(&self, identities: HashMap<PodUid, u32>) {
        // Nobody waits while thousands of earlier ones are let go.
        let before = std::mem::replace(&mut self.lock().identities, identities);
        drop(before);
    }

    /// These tables are to follow those in force. Returns the cgroups of pods
    /// that were given a number which would be wrong in them.
    pub(super) fn prepare(&self, next: View) -> Vec<SourceKey> {
        let mut inner = self.lock();
        let pods = inner.newcomers.prepare(next);
        let keys = pods.iter().flat_map(|pod| inner.cgroups(pod)).collect();
        drop(inner);
        keys
    }

    /// The numbers of pods that are not compiled yet.
    pub(super) fn given(&self) -> Vec<(PodUid, u32)> {
        self.lock().newcomers.all().map(|(uid, number)| (uid.clone(), number)).collect()
    }

    /// The control loop takes over what was done here about cgroups that it has
    /// heard of.
    pub(super) fn take_over(
        &self,
        mut has_heard: impl FnMut(&SourceKey) -> bool,
    ) -> BTreeMap<SourceKey, u32> {
        let mut inner = self.lock();
        let all = std::mem::take(&mut inner.told);
        let (heard, told) = all.into_iter().partition(|(key, _)| has_heard(key));
        inner.told = told;
        heard
    }

    /// What the control loop has not taken over yet.
    pub(super) fn is_told(&self, key: &SourceKey) -> bool {
        self.lock().told.contains_key(key)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use redirector_core::plan::{SourceId, SourceSelector};

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
            (
                source,
                Wanted { identity: *identity, selector: SourceSelector::PodUid((*uid).into()) },
            )
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
}
