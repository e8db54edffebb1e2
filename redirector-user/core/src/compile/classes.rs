//! Source classes: workloads for which every condition on the source, and every
//! visibility rule, gives the same answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::client::{Client, Question, contains};
use crate::model::{Labels, Object, ObjectRef, SourceId, SourceSelector, Spec};
use crate::plan::{Class, ClassId, Source};
use crate::registry::{Registry, ServiceKind, Workload};
use crate::rules::{Block, RuleBook};
use crate::world::Settings;

/// Everything that is ever asked about a source.
#[derive(Clone, PartialEq, Debug, Default)]
struct Questions {
    namespaces: BTreeSet<Arc<str>>,
    /// Under their first pair, which whoever has all of them has.
    labels: BTreeMap<String, BTreeMap<String, BTreeSet<Labels>>>,
    subnets: BTreeSet<IpNet>,
    addresses: BTreeSet<IpAddr>,
}

/// The answers, as far as they are not "no".
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
struct Traits {
    namespace: Option<Arc<str>>,
    labels: Vec<Labels>,
    subnets: Vec<usize>,
    addresses: Vec<IpAddr>,
    bypassed: bool,
}

/// Says which class a workload is in; also one that came after the Plan was
/// made, as long as a workload that answers all questions alike, or answers all
/// of them with no, was there.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Classifier {
    settings: Settings,
    questions: Questions,
    known: BTreeMap<Traits, ClassId>,
}

impl Classifier {
    /// A pod as the Plan would have it as a source, had it been there. `None`
    /// when it is not a running pod of this node, and when it would have made
    /// another class.
    pub fn source(&self, object: &Object) -> Option<(SourceId, Source)> {
        let Spec::Pod(pod) = &object.spec else { return None };
        if pod.finished {
            return None;
        }
        let workload = Workload::of_pod(object, pod, self.settings.node_name.as_deref());
        let selector = workload.source.clone()?;
        let class = *self.known.get(&self.answers(&workload))?;
        Some(source(&workload, selector, class))
    }

    /// The class of whoever connects so; `None` when nobody like that was there.
    pub fn class(&self, client: &Client<'_>) -> Option<ClassId> {
        self.known.get(&self.questions.ask(client)).copied()
    }

    /// The classes have these numbers from now on.
    pub fn renumber(&mut self, became: &BTreeMap<ClassId, ClassId>) {
        let numbers = self.known.values_mut();
        numbers.for_each(|class| *class = became.get(class).copied().unwrap_or(*class));
    }

    fn answers(&self, workload: &Workload) -> Traits {
        let (namespace, name) = (&workload.object.namespace, &workload.object.name);
        self.questions.ask(&Client {
            namespace: Some(namespace),
            labels: Some(&workload.labels),
            addresses: &workload.addresses,
            bypassed: self.settings.bypass.has_workload(namespace, name),
        })
    }
}

fn source(workload: &Workload, selector: SourceSelector, class: ClassId) -> (SourceId, Source) {
    let id = SourceId {
        namespace: workload.object.namespace.clone(),
        name: workload.object.name.clone(),
    };
    let source = Source {
        labels: Labels::clone(&workload.labels),
        addresses: workload.addresses.clone(),
        selector,
        class,
    };
    (id, source)
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
    /// It dials only where these have rules.
    pub rules: BTreeSet<ObjectRef>,
}

/// Groups the local workloads into classes, and gives every probe one behind
/// them. Class 0 is that of unknown callers, and of every workload that answers
/// all questions as they do: with no.
pub(super) fn group(
    registry: &Registry,
    book: &RuleBook,
    probes: &[Probe],
) -> (Vec<Class>, BTreeMap<SourceId, Source>, Classifier) {
    let mut classifier = Classifier {
        settings: registry.settings.clone(),
        questions: Questions::new(registry, book),
        known: BTreeMap::from([(Traits::default(), 0)]),
    };
    let mut classes = vec![Class { example: None }];
    let mut sources = BTreeMap::new();
    for workload in registry.workloads.sources() {
        let Some(selector) = workload.source.clone() else { continue };
        let answers = classifier.answers(workload);
        let next = u32::try_from(classes.len()).unwrap_or(u32::MAX);
        let class = *classifier.known.entry(answers).or_insert(next);
        let (id, source) = source(workload, selector, class);
        if class == next {
            classes.push(Class { example: Some(id.clone()) });
        }
        sources.insert(id, source);
    }
    for probe in probes {
        let source = Source {
            labels: probe.labels.clone(),
            addresses: probe.addresses.clone(),
            // It has no processes.
            selector: SourceSelector::Cgroup("".into()),
            class: u32::try_from(classes.len()).unwrap_or(u32::MAX),
        };
        classes.push(Class { example: Some(probe.id.clone()) });
        sources.insert(probe.id.clone(), source);
    }
    (classes, sources, classifier)
}

impl Questions {
    fn new(registry: &Registry, book: &RuleBook) -> Self {
        let mut questions = Self::default();
        let mut names = |namespaces: &mut dyn Iterator<Item = &Arc<str>>| {
            questions.namespaces.extend(namespaces.cloned());
        };
        for service in registry.services() {
            names(&mut service.export.namespaces());
            // In its own namespace it is seen by those who route to it.
            if !service.export.is_public() {
                names(&mut std::iter::once(service.namespace()));
            }
        }
        // Of services that share a host, a client's own namespace's is meant.
        for service in registry.services() {
            if registry.named(&service.host).len() > 1 {
                names(&mut std::iter::once(service.namespace()));
            }
        }
        let rules = registry.rules.all();
        for rule in &rules {
            names(&mut rule.export.namespaces());
            names(&mut rule.objects.iter().map(|object| &object.namespace));
        }
        for selector in rules.iter().filter_map(|rule| rule.selector.as_ref()) {
            questions.ask_for(selector);
        }
        if !rules.is_empty() {
            questions.namespaces.insert(registry.settings.root_namespace.as_str().into());
        }
        // A client to whom a headless service's address is its own meets what
        // else has that address: only where there is something to meet, and
        // something to miss, does it matter who has it.
        let others: BTreeSet<IpNet> =
            registry.services().flat_map(|service| &service.addresses).copied().collect();
        let everywhere = registry
            .services()
            .any(|service| service.claims_everywhere() && service.rejected.is_none());
        let wide: Vec<&IpNet> =
            others.iter().filter(|prefix| prefix.prefix_len() < prefix.max_prefix_len()).collect();
        for service in registry.services() {
            if service.kind != ServiceKind::Headless {
                continue;
            }
            let ruled = everywhere || !book.for_host(&service.host).is_empty();
            for endpoint in service.ports.iter().flat_map(|port| &port.endpoints) {
                let ip = endpoint.ip;
                if ruled
                    || others.contains(&IpNet::from(ip))
                    || wide.iter().any(|prefix| prefix.contains(&ip))
                {
                    questions.addresses.insert(ip);
                }
            }
        }
        for set in book.sets.iter().filter(|set| set.is_for_mesh()) {
            questions.namespaces.extend(set.export.namespaces().cloned());
            let blocks = set.tcp.iter().flat_map(|rule| &rule.blocks);
            for question in blocks.flat_map(Block::questions) {
                match question {
                    Question::Namespace(name) => _ = questions.namespaces.insert(name.into()),
                    Question::Labels(labels) => questions.ask_for(labels),
                    Question::Within(subnet) => _ = questions.subnets.insert(subnet),
                    Question::Address(ip) => _ = questions.addresses.insert(ip),
                    Question::Bypassed => {}
                }
            }
        }
        questions
    }

    fn ask_for(&mut self, labels: &Labels) {
        let Some((key, value)) = labels.first_key_value() else { return };
        let values = self.labels.entry(key.clone()).or_default();
        let those = values.entry(value.clone()).or_default();
        if !those.contains(labels) {
            those.insert(labels.clone());
        }
    }

    fn ask(&self, client: &Client<'_>) -> Traits {
        let labels = client.labels;
        Traits {
            namespace: client
                .namespace
                .and_then(|namespace| self.namespaces.get(namespace).cloned()),
            labels: (labels.into_iter().flatten())
                .filter_map(|(key, value)| self.labels.get(key)?.get(value))
                .flatten()
                .filter(|wanted| labels.is_some_and(|labels| contains(labels, wanted)))
                .cloned()
                .collect(),
            subnets: (self.subnets.iter().enumerate())
                .filter(|(_, subnet)| client.answer(&Question::Within(**subnet)))
                .map(|(index, _)| index)
                .collect(),
            addresses: (client.addresses.iter().copied())
                .filter(|address| self.addresses.contains(address))
                .collect(),
            bypassed: client.bypassed,
        }
    }
}
