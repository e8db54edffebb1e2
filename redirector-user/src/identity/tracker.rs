//! What is wanted, what is there, what is missing.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use redirector_core::model::{SourceId, SourceSelector};

use super::direct::Direct;
use super::locals::Local;
use super::newcomers::View;
use super::pods::{PodEvent, PodUid};
use super::resolve::{Missing, Resolver};
use crate::datapath::{Datapath, Error, SourceKey};
use crate::output::source_name;

/// A workload that is to be known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Its identity number.
    pub identity: u32,
    /// How its processes are found.
    pub selector: SourceSelector,
}

/// A workload that is configured, and whose processes cannot be told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gap {
    /// The workload.
    pub source: SourceId,
    /// How its processes would be found.
    pub selector: SourceSelector,
    /// Why they are not.
    pub why: Missing,
}

/// The kernel's table of sources.
pub trait Kernel {
    /// Makes processes known as a workload, at once.
    fn insert(&mut self, key: SourceKey, identity: u32) -> Result<(), Error>;
    /// Forgets one.
    fn remove(&mut self, key: SourceKey) -> Result<(), Error>;
    /// Takes over one that was inserted by another way.
    fn adopt(&mut self, key: SourceKey);
}

impl Kernel for Datapath {
    fn insert(&mut self, key: SourceKey, identity: u32) -> Result<(), Error> {
        self.insert_source(key, identity)
    }

    fn remove(&mut self, key: SourceKey) -> Result<(), Error> {
        self.remove_source(key)
    }

    fn adopt(&mut self, key: SourceKey) {
        self.adopt_source(key);
    }
}

/// Keeps the kernel's table of sources right.
#[derive(Debug, Default)]
pub struct Tracker {
    resolver: Resolver,
    wanted: BTreeMap<SourceId, Wanted>,
    /// That was said: until then, what an earlier run made known stays.
    is_told: bool,
    /// The same two before a change that is not in force yet.
    earlier: Option<(BTreeMap<SourceId, Wanted>, bool)>,
    /// What the kernel holds.
    held: BTreeMap<SourceKey, u32>,
    /// Made known by the short way, and to be taken over.
    adopted: BTreeMap<SourceKey, u32>,
    direct: Direct,
    gaps: Vec<Gap>,
    /// What each workload was found to be last, for when that cannot be told.
    found: BTreeMap<SourceId, (SourceSelector, Vec<SourceKey>)>,
}

impl Tracker {
    /// `held` is what the kernel's table holds now; `direct` the short way of
    /// pods into it.
    pub fn new(
        resolver: Resolver,
        held: impl IntoIterator<Item = (SourceKey, u32)>,
        direct: Direct,
    ) -> Self {
        Self { resolver, held: held.into_iter().collect(), direct, ..Self::default() }
    }

    /// Says which workloads there are from now on, and makes known those that
    /// are new: to be called before their configuration comes in force, which
    /// gives their numbers a meaning at one instant. Follow with
    /// [`look`](Self::look) when it is, and [`settle`](Self::settle).
    pub fn prepare(
        &mut self,
        wanted: BTreeMap<SourceId, Wanted>,
        kernel: &mut impl Kernel,
    ) -> Result<(), Error> {
        let was_told = std::mem::replace(&mut self.is_told, true);
        let before = std::mem::replace(&mut self.wanted, wanted);
        let numbers: Vec<u32> = before.values().map(|wanted| wanted.identity).collect();
        // Until the change is in force, the short way gives only the numbers
        // that mean the same on both of its sides.
        let mut steady = pods(&self.wanted);
        let earlier = pods(&before);
        steady.retain(|pod, number| match earlier.get(pod) {
            Some(before) => before == number,
            None => !numbers.contains(number),
        });
        self.direct.set_identities(steady);
        self.earlier.get_or_insert((before, was_told));
        self.take_over(kernel);
        let (mut resolved, _) = self.resolve();
        resolved
            .retain(|key, identity| !numbers.contains(identity) && !self.held.contains_key(key));
        self.make_known(resolved, kernel)
    }

    /// Makes these known to the kernel.
    fn make_known(
        &mut self,
        keys: BTreeMap<SourceKey, u32>,
        kernel: &mut impl Kernel,
    ) -> Result<(), Error> {
        let names = if keys.is_empty() { HashMap::new() } else { self.names() };
        for (key, identity) in keys {
            kernel.insert(key, identity)?;
            self.held.insert(key, identity);
            self.direct.known(key);
            tracing::info!(source = names.get(&identity), %key, identity, "workload known");
        }
        Ok(())
    }

    /// Whose the identity numbers are.
    fn names(&self) -> HashMap<u32, String> {
        let (_, newcomers) = self.direct.newcomers();
        let wanted = self.wanted.iter().map(|(source, wanted)| (source, wanted.identity));
        let given = newcomers.given.iter().map(|(source, number)| (source, *number));
        given.chain(wanted).map(|(source, number)| (number, source_name(source))).collect()
    }

    /// What was prepared is in force, or (`false`) is not: the numbers that were given for it
    /// mean nothing then, and those before are wanted again.
    pub fn settle(&mut self, over: bool) {
        if let Some((wanted, is_told)) = self.earlier.take()
            && !over
        {
            (self.wanted, self.is_told) = (wanted, is_told);
        }
    }

    /// Says what the tables that are to follow know of pods that are not among
    /// their workloads: to be called before [`prepare`](Self::prepare).
    pub fn foresee(&mut self, next: View, kernel: &mut impl Kernel) -> Result<(), Error> {
        let revoked = self.direct.prepare(next);
        self.adopted.extend(self.direct.take_over(|key| revoked.contains(key)));
        self.take_over(kernel);
        for key in revoked {
            // An unknown caller, until it is compiled.
            if self.held.remove(&key).is_some() {
                kernel.remove(key)?;
                tracing::info!(%key, "a workload is to be known anew");
            }
        }
        Ok(())
    }

    /// What the short way has made known counts as ours.
    fn take_over(&mut self, kernel: &mut impl Kernel) {
        // Also of pods that were told of after their cgroup was heard of.
        let resolver = &self.resolver;
        self.adopted.extend(self.direct.take_over(|key| resolver.has_pod(key)));
        let mut adopted = std::mem::take(&mut self.adopted);
        adopted.retain(|key, identity| self.held.insert(*key, *identity).is_none());
        let names = if adopted.is_empty() { HashMap::new() } else { self.names() };
        for (key, identity) in adopted {
            kernel.adopt(key);
            tracing::info!(source = names.get(&identity), %key, identity, "workload known");
        }
    }

    /// Makes the kernel's table equal to what is wanted and there. Returns
    /// whether anything changed, gaps included.
    pub fn look(&mut self, kernel: &mut impl Kernel) -> Result<bool, Error> {
        if !self.is_told {
            return Ok(false);
        }
        self.take_over(kernel);
        self.direct.set_identities(pods(&self.wanted));
        let (mut resolved, gaps) = self.resolve();
        let mut changed = self.gaps != gaps;
        for gap in gaps.iter().filter(|gap| !self.gaps.contains(gap)) {
            let source = source_name(&gap.source);
            // Every pod is without its cgroup at its beginning and its end.
            if gap.why == Missing::NoPod {
                tracing::debug!(source, "{}", gap.why);
            } else {
                tracing::warn!(source, "its processes cannot be told: {}", gap.why);
            }
        }
        self.gaps = gaps;
        let stale: Vec<_> =
            self.held.keys().filter(|key| !resolved.contains_key(key)).copied().collect();
        for key in stale {
            kernel.remove(key)?;
            self.held.remove(&key);
            tracing::info!(%key, "workload gone");
            changed = true;
        }
        resolved.retain(|key, identity| self.held.get(key) != Some(identity));
        changed |= !resolved.is_empty();
        self.make_known(resolved, kernel)?;
        Ok(changed)
    }

    /// What the kernel really holds, where it may have been changed behind our
    /// back. The next [`look`](Self::look) mends it. Returns whether it differed.
    pub fn correct(&mut self, held: impl IntoIterator<Item = (SourceKey, u32)>) -> bool {
        let mut held: BTreeMap<_, _> = held.into_iter().collect();
        // What went the short way meanwhile is heard of soon.
        held.retain(|key, _| self.held.contains_key(key) || !self.direct.is_told(key));
        self.resolver.forget();
        let differs = self.held != held;
        self.held = held;
        differs
    }

    /// A pod's cgroup came or went: the next [`look`](Self::look) says so to the
    /// kernel.
    pub fn pod(&mut self, event: PodEvent) {
        let (PodEvent::Appeared(pod) | PodEvent::Gone(pod)) = &event;
        let heard = SourceKey::Cgroup { id: pod.id, level: pod.level };
        self.adopted.extend(self.direct.take_over(|key| *key == heard));
        self.resolver.pod(event);
    }

    /// The workloads that are there, by what the kernel compares.
    pub fn locals(&self) -> Vec<Local> {
        let found = self.found.iter().flat_map(|(source, (selector, keys))| {
            keys.iter().map(move |key| (source, selector, *key))
        });
        // What belongs to two is the first one's.
        let mut locals: BTreeMap<SourceKey, Local> = BTreeMap::new();
        for (source, selector, key) in found {
            let directories = self.resolver.directories(selector);
            let source = source.clone();
            locals.entry(key).or_insert(Local { key, directories, source });
        }
        locals.into_values().collect()
    }

    /// Workloads whose processes cannot be told.
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// Where cgroups and namespaces that are wanted would be.
    pub fn places(&self) -> impl Iterator<Item = PathBuf> {
        self.wanted.values().filter_map(|wanted| self.resolver.place(&wanted.selector))
    }

    fn resolve(&mut self) -> (BTreeMap<SourceKey, u32>, Vec<Gap>) {
        let newcomers = self.direct.given();
        let mut owners: BTreeMap<SourceKey, &SourceId> = BTreeMap::new();
        let mut resolved = BTreeMap::new();
        let mut gaps = Vec::new();
        let (wanted, found) = (&self.wanted, &mut self.found);
        found.retain(|source, (selector, _)| {
            wanted.get(source).is_some_and(|wanted| wanted.selector == *selector)
        });
        for (source, wanted) in wanted {
            let mut gap = |why| {
                let (source, selector) = (source.clone(), wanted.selector.clone());
                gaps.push(Gap { source, selector, why });
            };
            let keys = match self.resolver.resolve(&wanted.selector) {
                Ok(keys) => {
                    found.insert(source.clone(), (wanted.selector.clone(), keys.clone()));
                    keys
                }
                // Nothing is taken out of the kernel for a lack of descriptors.
                Err(why @ Missing::Unknown { .. }) => {
                    gap(why);
                    let held = || (self.held.iter()).filter(|(_, held)| **held == wanted.identity);
                    match found.get(source) {
                        Some((_, keys)) => keys.clone(),
                        // An earlier daemon found it.
                        None => held().map(|(key, _)| *key).collect(),
                    }
                }
                Err(why) => {
                    found.remove(source);
                    gap(why);
                    continue;
                }
            };
            for key in keys {
                match owners.get(&key) {
                    None => {
                        owners.insert(key, source);
                        resolved.insert(key, wanted.identity);
                    }
                    Some(owner) => {
                        gap(Missing::Taken(source_name(owner)));
                    }
                }
            }
        }
        for (pod, identity) in newcomers {
            for key in self.resolver.pod_keys(&pod) {
                resolved.entry(key).or_insert(identity);
            }
        }
        (resolved, gaps)
    }
}

/// The numbers of pods. Of two workloads with one pod the first has it, as
/// everywhere.
fn pods(wanted: &BTreeMap<SourceId, Wanted>) -> HashMap<PodUid, u32> {
    let mut pods = HashMap::new();
    for wanted in wanted.values() {
        if let SourceSelector::PodUid(uid) = &wanted.selector {
            pods.entry(PodUid::new(uid)).or_insert(wanted.identity);
        }
    }
    pods
}
