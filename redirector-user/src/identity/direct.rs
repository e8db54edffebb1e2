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
use redirector_core::model::{Object, SourceId};
use redirector_core::registry::{is_known_by_hash, pod_uid};

use super::arrivals::Arrivals;
use super::newcomers::{NumberedPods, View};
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
    newcomers: NumberedPods,
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
        // Whether a pod is what it says of itself takes all others to tell.
        if is_known_by_hash(&pod.meta) {
            return false;
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
mod tests;
