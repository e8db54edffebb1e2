//! The short way of a pod's cgroup into the kernel's table.
//!
//! The control loop owns the tables, and a pod that comes while it compiles or
//! writes would have to wait for it. So what the loop has decided already, the
//! identity number of each pod that is expected, lies here as well, and whoever
//! sees a pod's cgroup makes it known by that at once. The loop is told as
//! before; it takes over what was done for it, and stays the one that corrects
//! and removes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// The numbers that mean the same before and after any change in progress.
    identities: HashMap<PodUid, u32>,
    /// What was made known, and the control loop has not heard of yet.
    told: BTreeMap<SourceKey, u32>,
}

impl std::fmt::Debug for Direct {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Direct").field("told", &self.lock().told).finish_non_exhaustive()
    }
}

impl Direct {
    /// A short way into this table.
    pub fn new(table: impl Table + 'static) -> Self {
        Self(Arc::new(Mutex::new(Inner { table: Some(Box::new(table)), ..Inner::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pod's cgroup is there. To be called before the control loop is told.
    /// What cannot be done here is left to it.
    pub fn appeared(&self, pod: &PodCgroup) {
        let key = SourceKey::Cgroup { id: pod.id, level: pod.level };
        let mut inner = self.lock();
        let Some(&identity) = inner.identities.get(&pod.uid) else { return };
        let Some(table) = &mut inner.table else { return };
        match table.insert(key, identity) {
            Ok(()) => {
                inner.told.insert(key, identity);
                drop(inner);
                tracing::info!(?key, identity, "workload known");
            }
            Err(error) => tracing::debug!(?key, "the short way into the table: {error}"),
        }
    }

    /// The numbers from now on.
    pub(super) fn set_identities(&self, identities: HashMap<PodUid, u32>) {
        self.lock().identities = identities;
    }

    /// The control loop hears of a cgroup: what was done about it here is its
    /// own from now on.
    pub(super) fn heard(&self, key: SourceKey) -> Option<u32> {
        self.lock().told.remove(&key)
    }

    /// What the control loop has not heard of yet.
    pub(super) fn is_told(&self, key: &SourceKey) -> bool {
        self.lock().told.contains_key(key)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use redirector_core::plan::{SourceId, SourceSelector};

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
        let direct = Direct::new(kernel.clone());
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
        direct.appeared(&a);
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
        direct.appeared(&a);
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
            direct.appeared(one);
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
    fn strangers_are_left_to_the_control_loop() {
        let (kernel, direct, _tracker) = expecting(&[("a", 7)]);
        let stranger = pod("x", 3, 3);
        direct.appeared(&stranger);
        assert_eq!(kernel.number(&stranger), None);
    }
}
