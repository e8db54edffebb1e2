//! Pods that the tables in force know already, though nobody has compiled them.
//!
//! The tables have spare identity numbers of every class. A pod that the API
//! server tells of, and that answers everything that the rules ask as the
//! workloads of some class do, gets one of that class's at once, and keeps it
//! when it is compiled. While one configuration follows another, a number is
//! given only where both would give it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use redirector_core::compile::Classifier;
use redirector_core::layout::{self, Layout};
use redirector_core::model::{Object, SourceId, SourceSelector};
use redirector_core::plan::{ClassId, Plan};
use redirector_core::registry::pod_uid;

use super::pods::PodUid;

/// What tables say of pods that they do not know.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Which class of the Plan a pod is in.
    classifier: Classifier,
    /// The kernel's number of each of these.
    classes: BTreeMap<ClassId, u32>,
    /// The spare numbers, with their classes.
    spares: BTreeMap<u32, u32>,
    /// The workloads with their numbers; of pods, which pod and which class.
    known: BTreeMap<SourceId, (u32, Option<(PodUid, u32)>)>,
}

/// Which number a pod may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fitting {
    /// Its predecessor's of the same name.
    Number(u32),
    /// A spare one of a class.
    Spare(u32),
}

impl View {
    /// Of a Plan that was compiled and placed.
    pub fn new(classifier: Classifier, plan: &Plan, layout: &Layout) -> Self {
        let classes = layout.classes_of(plan);
        let known = plan.sources.iter().filter_map(|(id, source)| {
            let pod = match &source.selector {
                SourceSelector::PodUid(uid) => {
                    Some((PodUid::new(uid), *classes.get(&source.class)?))
                }
                _ => None,
            };
            Some((id.clone(), (layout.identity(id)?, pod)))
        });
        let known = known.collect();
        Self { classifier, classes, spares: layout.spares().clone(), known }
    }

    fn fitting(&self, pod: &Object) -> Option<(PodUid, Fitting)> {
        let (id, source) = self.classifier.source(pod)?;
        let SourceSelector::PodUid(uid) = source.selector else { return None };
        let class = *self.classes.get(&source.class)?;
        let fitting = match self.known.get(&id) {
            Some((number, Some((_, known)))) if *known == class => Fitting::Number(*number),
            Some(_) => return None,
            None => Fitting::Spare(class),
        };
        Some((PodUid::new(&uid), fitting))
    }

    /// Whether the tables were made with this very pod in them.
    fn has(&self, id: &SourceId, given: &Given) -> bool {
        match self.known.get(id) {
            Some((number, Some((uid, _)))) => *number == given.number && *uid == given.uid,
            _ => false,
        }
    }

    fn admits(&self, fitting: Fitting, number: u32) -> bool {
        match fitting {
            Fitting::Number(known) => known == number,
            Fitting::Spare(class) => self.spares.get(&number) == Some(&class),
        }
    }
}

/// A pod that has a number.
#[derive(Clone, Debug)]
struct Given {
    uid: PodUid,
    number: u32,
    pod: Arc<Object>,
}

/// Who was given which number.
#[derive(Debug)]
pub(super) struct NumberedPods {
    /// The tables in force, and those that are to follow: never none.
    views: Vec<View>,
    /// Numbers of pods that have gone: the kernel may know their cgroups still.
    spent: BTreeSet<u32>,
    given: BTreeMap<SourceId, Given>,
}

impl Default for NumberedPods {
    /// Before the first tables, which nothing is said of.
    fn default() -> Self {
        Self { views: vec![View::default()], spent: BTreeSet::new(), given: BTreeMap::new() }
    }
}

impl NumberedPods {
    /// Pods of an earlier run may have these numbers: they mean the same until
    /// the first tables are in force, and are not given before those after.
    pub fn resume(&mut self, numbers: impl IntoIterator<Item = u32>) {
        self.spent = numbers.into_iter().collect();
    }

    /// The API server tells of a pod that the tables do not have. Returns its
    /// number, if it has one.
    pub fn put(&mut self, pod: &Arc<Object>) -> Option<u32> {
        let id = source_id(pod);
        match self.given.get_mut(&id) {
            Some(given) if given.uid == PodUid::new(pod_uid(&pod.meta)) => {
                // Whatever it is by now, it is compiled with the next change.
                given.pod = pod.clone();
                return Some(given.number);
            }
            Some(_) => self.take_back(&id),
            None => {}
        }
        let fitting: Option<Vec<_>> = self.views.iter().map(|view| view.fitting(pod)).collect();
        let fitting = fitting?;
        let fits = |number: u32| {
            let mut both = self.views.iter().zip(&fitting);
            both.all(|(view, (_, fitting))| view.admits(*fitting, number))
        };
        let (uid, first) = fitting.first()?;
        let number = match first {
            Fitting::Number(number) => fits(*number).then_some(*number),
            Fitting::Spare(_) => self.left().find(|number| fits(*number)),
        }?;
        self.given.insert(id, Given { uid: uid.clone(), number, pod: pod.clone() });
        Some(number)
    }

    /// The spare numbers that may be given.
    fn left(&self) -> impl Iterator<Item = u32> {
        let given: BTreeSet<u32> = self.given.values().map(|given| given.number).collect();
        let spares = self.views.iter().take(1).flat_map(|view| view.spares.keys().copied());
        spares.filter(move |number| !self.spent.contains(number) && !given.contains(number))
    }

    /// A pod is gone.
    pub fn take_back(&mut self, id: &SourceId) {
        if let Some(given) = self.given.remove(id) {
            self.spent.insert(given.number);
        }
    }

    /// All pods that were given a number.
    pub fn all(&self) -> impl Iterator<Item = (&PodUid, u32)> {
        self.given.values().map(|given| (&given.uid, given.number))
    }

    /// The pods themselves, and what the next Layout is to know.
    pub fn at_hand(&self) -> (Vec<Arc<Object>>, layout::Newcomers) {
        let pods = self.given.values().map(|given| given.pod.clone()).collect();
        let given = self.given.iter().map(|(id, given)| (id.clone(), given.number)).collect();
        // Before the first tables are in force nothing is known to be spare.
        let spares = self.views.first().map(|view| &view.spares);
        let is_spare = |number: &u32| spares.is_some_and(|spares| spares.contains_key(number));
        let spent = self.spent.iter().copied().filter(is_spare).collect();
        (pods, layout::Newcomers { given, spent, spares: 0 })
    }

    /// These tables are to follow. Returns the pods whose number would be wrong
    /// in them: they have none any more.
    pub fn prepare(&mut self, next: View) -> Vec<PodUid> {
        self.views.truncate(1);
        let is_right = |id: &SourceId, given: &Given| {
            next.has(id, given)
                || next.fitting(&given.pod).is_some_and(|(uid, fitting)| {
                    uid == given.uid && next.admits(fitting, given.number)
                })
        };
        let wrong: Vec<SourceId> = (self.given.iter())
            .filter(|(id, given)| !is_right(id, given))
            .map(|(id, _)| id.clone())
            .collect();
        self.views.push(next);
        let mut pods = Vec::new();
        for id in wrong {
            pods.extend(self.given.get(&id).map(|given| given.uid.clone()));
            self.take_back(&id);
        }
        pods
    }

    /// The tables that were to follow are in force, or (`false`) given up.
    pub fn settle(&mut self, over: bool) {
        if over && self.views.len() > 1 {
            self.views.remove(0);
        }
        self.views.truncate(1);
        let Some(view) = self.views.first() else { return };
        // Those that were compiled are newcomers no more.
        self.given.retain(|id, given| !view.has(id, given));
        self.spent.retain(|number| view.spares.contains_key(number));
    }
}

/// Which source a pod is.
fn source_id(pod: &Object) -> SourceId {
    SourceId { namespace: pod.meta.namespace.clone(), name: pod.meta.name.clone() }
}

#[cfg(test)]
pub(super) mod tests;
