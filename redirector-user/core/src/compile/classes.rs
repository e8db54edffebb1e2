//! Source classes: workloads for which every condition on the source, and every
//! visibility rule, gives the same answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::met::set;
use super::questions::{Questions, Traits};
use crate::client::{Asked, Client};
use crate::model::{Labels, Object, ObjectRef, SourceId, SourceSelector};
use crate::plan::{Class, ClassId, Delta, LocalWorkload, Plan};
use crate::registry::Workload;
use crate::world::Settings;

/// Says which class a workload is in; also one that came after the Plan was
/// made, as long as a workload that answers all questions alike, or answers all
/// of them with no, was there.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Classifier {
    settings: Arc<Settings>,
    questions: Arc<Questions>,
    known: Arc<BTreeMap<Traits, ClassId>>,
}

impl Classifier {
    /// A pod as the Plan would have it as a source, had it been there. `None`
    /// when it is not a running pod of this node, and when it would have made
    /// another class.
    pub fn source(&self, object: &Object) -> Option<(SourceId, LocalWorkload)> {
        let pod = object.spec.pod()?;
        if pod.finished {
            return None;
        }
        let workload = Workload::of_pod(object, pod, self.settings.node_name.as_deref());
        let (id, mut source) = source(&workload)?;
        source.class = self.class(&client(&self.settings, &id, &source))?;
        Some((id, source))
    }

    /// The class of whoever connects so; `None` when nobody like that was there.
    pub fn class(&self, client: &Client<'_>) -> Option<ClassId> {
        self.known.get(&self.questions.ask(client)).copied()
    }
}

/// A local workload as a source, its class to be found.
pub(super) fn source(workload: &Workload) -> Option<(SourceId, LocalWorkload)> {
    let id = SourceId {
        namespace: workload.object.namespace.clone(),
        name: workload.object.name.clone(),
    };
    let source = LocalWorkload {
        labels: workload.labels.clone(),
        addresses: workload.addresses.clone(),
        selector: workload.source.clone()?,
        class: 0,
    };
    Some((id, source))
}

/// A source as rules see it.
pub(super) fn client<'c>(
    settings: &Settings,
    id: &'c SourceId,
    source: &'c LocalWorkload,
) -> Client<'c> {
    Client {
        namespace: Some(&id.namespace),
        labels: Some(&source.labels),
        addresses: &source.addresses,
        bypassed: settings.bypass.has_workload(&id.namespace, &id.name),
    }
}

/// A source that is in no document, to see what it would meet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    /// Its namespace, and a name that no workload has.
    pub id: SourceId,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// It dials only where these VirtualServices have rules, and at the services that
    /// these are or that these DestinationRules are for.
    pub rules: BTreeSet<ObjectRef>,
}

/// The classes: a class keeps its number as long as its first member answers as
/// before, or is in no other class that was there. Class 0 is that of unknown
/// callers, and of every workload that answers all questions as they do: with no.
#[derive(Debug)]
pub(super) struct Classes {
    classifier: Classifier,
    traits: BTreeMap<ClassId, Traits>,
}

impl Classes {
    /// Class 0 alone.
    pub fn new(settings: &Settings) -> Self {
        let mut classes = Self { classifier: Classifier::default(), traits: BTreeMap::new() };
        classes.classifier.settings = Arc::new(settings.clone());
        classes
    }

    /// Takes over the numbers of classes of other settings.
    pub fn keep_numbers_of(&mut self, before: &Self) {
        self.classifier.known = before.classifier.known.clone();
        self.traits.clone_from(&before.traits);
    }

    /// Which class anybody is in.
    pub fn classifier(&self) -> &Classifier {
        &self.classifier
    }

    /// Puts the sources, of which some came, went or are others, in classes by what
    /// is asked from now on. Returns the questions that some class answers otherwise
    /// than before.
    pub fn group(
        &mut self,
        asked: &[(Asked, bool)],
        others: BTreeMap<SourceId, Option<LocalWorkload>>,
        plan: &mut Plan,
        delta: &mut Delta,
    ) -> BTreeSet<Asked> {
        if asked.is_empty() && others.is_empty() && !plan.classes.is_empty() {
            return BTreeSet::new();
        }
        if !asked.is_empty() {
            let questions = Arc::make_mut(&mut self.classifier.questions);
            asked.iter().for_each(|(question, asked)| questions.set(question, *asked));
        }
        let settings = self.classifier.settings.clone();
        let classes: BTreeMap<SourceId, ClassId> =
            plan.sources.iter().map(|(id, source)| (id.clone(), source.class)).collect();
        for (id, source) in others {
            set(&mut plan.sources, &mut delta.sources, id, source);
        }
        let traits_of =
            |(id, source)| (id, self.classifier.questions.ask(&client(&settings, id, source)));
        let members: Vec<(&SourceId, Traits)> = plan.sources.iter().map(traits_of).collect();
        let known = self.number(&members, &classes);
        let classified: Vec<(SourceId, ClassId)> = (members.iter())
            .filter_map(|(id, traits)| Some(((*id).clone(), *known.get(traits)?)))
            .collect();
        let mut wanted = BTreeMap::from([(0, Class { example: None })]);
        for (id, class) in classified {
            wanted.entry(class).or_insert_with(|| Class { example: Some(id.clone()) });
            let Some(source) = plan.sources.get(&id).filter(|source| source.class != class) else {
                continue;
            };
            let source = LocalWorkload { class, ..source.clone() };
            set(&mut plan.sources, &mut delta.sources, id, Some(source));
        }
        let gone: Vec<ClassId> =
            plan.classes.keys().filter(|id| !wanted.contains_key(id)).copied().collect();
        for id in gone {
            set(&mut plan.classes, &mut delta.classes, id, None);
        }
        for (id, class) in wanted {
            if plan.classes.get(&id) != Some(&class) {
                set(&mut plan.classes, &mut delta.classes, id, Some(class));
            }
        }
        let traits: BTreeMap<ClassId, Traits> =
            known.iter().map(|(traits, id)| (*id, traits.clone())).collect();
        let before = std::mem::replace(&mut self.traits, traits);
        self.classifier.known = Arc::new(known);
        let none = Traits::new();
        let ids: BTreeSet<&ClassId> = before.keys().chain(self.traits.keys()).collect();
        let differing = ids.into_iter().flat_map(|id| {
            let (before, after) =
                (before.get(id).unwrap_or(&none), self.traits.get(id).unwrap_or(&none));
            before.symmetric_difference(after).cloned()
        });
        differing.collect()
    }

    /// The number of each class.
    fn number(
        &self,
        members: &[(&SourceId, Traits)],
        classes: &BTreeMap<SourceId, ClassId>,
    ) -> BTreeMap<Traits, ClassId> {
        let mut numbers = BTreeMap::from([(Traits::new(), 0)]);
        let mut taken = BTreeSet::from([0]);
        for (_, traits) in members {
            if let Some(id) = self.classifier.known.get(traits) {
                numbers.insert(traits.clone(), *id);
                taken.insert(*id);
            }
        }
        for (member, traits) in members {
            if numbers.contains_key(traits) {
                continue;
            }
            let own = classes.get(*member).filter(|id| !taken.contains(id)).copied();
            let free = |id: &ClassId| !taken.contains(id) && !self.traits.contains_key(id);
            let Some(id) = own.or_else(|| (1..=ClassId::MAX).find(free)) else { continue };
            numbers.insert(traits.clone(), id);
            taken.insert(id);
        }
        numbers
    }

    /// Adds a class of its own for each of these, behind all others.
    pub fn add_probes(&self, probes: &[Probe], plan: &mut Plan) {
        let first = plan.classes.last_key_value().map_or(0, |(last, _)| last + 1);
        for (class, probe) in (first..).zip(probes) {
            let source = LocalWorkload {
                labels: probe.labels.clone(),
                addresses: probe.addresses.clone(),
                // It has no processes.
                selector: SourceSelector::Cgroup("".into()),
                class,
            };
            plan.classes.insert(class, Class { example: Some(probe.id.clone()) });
            plan.sources.insert(probe.id.clone(), source);
        }
    }

    /// How many classes are known.
    pub fn count(&self) -> usize {
        self.traits.len()
    }
}
