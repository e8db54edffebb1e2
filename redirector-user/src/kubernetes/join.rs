//! All watches together: nothing before each of them has listed once, then what
//! changed, when it has been quiet for a moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redirector_core::model::{Gateway, Object, Spec};
use redirector_core::store::Content;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::info;

use super::Options;
use super::backoff::Timing;
use super::events::Incarnations;
use super::follow::{Health, Update};
use super::gateways;
use super::held::Name;
use super::item::{Item, reference};
use super::resource::{Needs, Resource};
use crate::identity::Direct;
use crate::source::{Batch, Change};

/// How the watches are doing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Watches {
    /// The health of each.
    pub health: BTreeMap<Resource, Health>,
    /// Since when it is so, in seconds since 1970.
    pub since: BTreeMap<Resource, u64>,
    /// Whether each has listed once: tables are made from then on.
    pub synced: bool,
    /// How many objects differed from fresh lists, since the start.
    pub drifted: u64,
}

/// What is known, of all watches.
pub struct Join {
    timing: Timing,
    /// The ports of gateways, when they are served here.
    gateways: Option<gateways::Ports>,
    /// By watch: the pods of this node and those elsewhere may overlap for a
    /// moment, when a StatefulSet's pod moves.
    objects: BTreeMap<Resource, BTreeMap<Name, Content>>,
    listed: BTreeSet<Resource>,
    changed: BTreeMap<Arc<str>, Change>,
    /// What stands for gateways of this node, as sent.
    served: BTreeMap<Arc<str>, Arc<Object>>,
    /// For Events.
    incarnations: Incarnations,
    watches: watch::Sender<Watches>,
    needs: watch::Sender<Needs>,
    /// Knows some of this node's pods at once.
    pods: Direct,
    /// Since the last batch, this node got a pod that has to be compiled to be
    /// known.
    awaited: bool,
}

impl Join {
    /// Nothing known. `known` are the names of an earlier run whose objects
    /// are in force.
    pub fn new(
        options: &Options,
        incarnations: Incarnations,
        watches: watch::Sender<Watches>,
        needs: watch::Sender<Needs>,
        known: impl IntoIterator<Item = Arc<str>>,
    ) -> Self {
        watches.send_modify(|watches| {
            watches.health = Resource::ALL.map(|resource| (resource, Health::Starting)).into();
            watches.since = Resource::ALL.map(|resource| (resource, now())).into();
        });
        // What is listed goes over this; the rest is gone since.
        let changed = known.into_iter().map(|name| (name.clone(), Change::Removed(name))).collect();
        Self {
            timing: options.timing,
            gateways: options.gateways.clone().map(gateways::Ports::new),
            pods: options.pods.clone(),
            awaited: false,
            objects: BTreeMap::new(),
            listed: BTreeSet::new(),
            changed,
            served: BTreeMap::new(),
            incarnations,
            watches,
            needs,
        }
    }

    /// Takes updates, and sends what they come to, until either end closes.
    pub async fn run(
        mut self,
        mut updates: mpsc::Receiver<(Resource, Update)>,
        mut send: impl FnMut(Batch) -> bool,
    ) {
        let mut due: Option<(Instant, Instant)> = None;
        loop {
            let wait = due.map_or_else(far_away, |(quiet, latest)| quiet.min(latest));
            tokio::select! {
                update = updates.recv() => {
                    let Some((resource, update)) = update else { return };
                    self.take(resource, update);
                    if self.is_synced() && !self.changed.is_empty() {
                        let now = Instant::now();
                        let latest = due.map_or(now + self.timing.debounce_most(), |(_, l)| l);
                        let latest = self.hurry(now, latest);
                        due = Some((now + self.timing.debounce, latest));
                    }
                }
                () = sleep_until(wait) => {
                    due = None;
                    // What is there already comes with it.
                    for _ in 0..super::IN_FLIGHT {
                        let Ok((resource, update)) = updates.try_recv() else { break };
                        self.take(resource, update);
                    }
                    let batch = self.batch();
                    let first = !self.watches.borrow().synced;
                    if !send(batch) {
                        return;
                    }
                    if first {
                        info!("every watch has its first list");
                        self.watches.send_modify(|watches| watches.synced = true);
                    }
                }
            }
        }
    }

    /// A pod of this node has to be known before it runs; its kubelet is told at
    /// the same time as we are. So nothing else is waited for then.
    fn hurry(&self, now: Instant, latest: Instant) -> Instant {
        if self.awaited { latest.min(now) } else { latest }
    }

    fn is_synced(&self) -> bool {
        self.listed.len() == Resource::ALL.len()
    }

    fn take(&mut self, resource: Resource, update: Update) {
        match update {
            Update::Listed(items) => {
                let first = self.listed.insert(resource);
                let before = std::mem::take(self.objects.entry(resource).or_default());
                let mut gone: BTreeSet<Name> = before.keys().cloned().collect();
                *self.objects.entry(resource).or_default() = before;
                for item in items {
                    gone.remove(&item.name);
                    self.put(resource, item);
                }
                for name in gone {
                    self.gone(resource, &name);
                }
                if first && self.is_synced() {
                    // Also when there is nothing at all: the first batch is
                    // what says so.
                    self.changed.entry("".into()).or_insert_with(|| Change::Removed("".into()));
                }
            }
            Update::Put(item) => self.put(resource, *item),
            Update::Gone(name) => self.gone(resource, &name),
            Update::Health(health) => self.watches.send_modify(|watches| {
                watches.health.insert(resource, health);
                watches.since.insert(resource, now());
            }),
            Update::Drifted(objects) => self.watches.send_modify(|watches| {
                watches.drifted += objects as u64;
            }),
        }
    }

    fn put(&mut self, resource: Resource, item: Item) {
        let file: Arc<str> = item.reference.to_string().into();
        let own = item.object().filter(|_| resource == Resource::OwnPods).cloned();
        if resource.has_events() {
            self.incarnations.put(item.reference, item.incarnation);
        }
        let objects = self.objects.entry(resource).or_default();
        let same = objects.get(&item.name).is_some_and(|before| agree(before, &item.content));
        objects.insert(item.name.clone(), item.content);
        // Most changes, such as a status, say nothing new here.
        if !same {
            self.awaited |= own.is_some_and(|pod| !self.pods.put(&pod));
            self.touch(resource, &item.name, file);
        }
    }

    fn gone(&mut self, resource: Resource, name: &Name) {
        let Some(objects) = self.objects.get_mut(&resource) else { return };
        if objects.remove(name).is_some() {
            let reference = reference(resource, name);
            self.incarnations.remove(&reference);
            let file = reference.to_string().into();
            if resource == Resource::OwnPods {
                self.pods.gone(&name.0, &name.1);
            }
            self.touch(resource, name, file);
        }
    }

    /// An object may be another now.
    fn touch(&mut self, resource: Resource, name: &Name, file: Arc<str>) {
        let of = |resource| self.objects.get(&resource).and_then(|objects| objects.get(name));
        let content = match resource {
            Resource::OwnPods | Resource::OtherPods => {
                of(Resource::OwnPods).or_else(|| of(Resource::OtherPods))
            }
            resource => of(resource),
        };
        let change = match content {
            Some(content) => Change::Put(file.clone(), content.clone()),
            None => Change::Removed(file.clone()),
        };
        self.changed.insert(file, change);
    }

    /// Everything that changed since the last batch.
    fn batch(&mut self) -> Batch {
        self.awaited = false;
        let mut changed = std::mem::take(&mut self.changed);
        changed.remove("");
        let mut ports = self.gateways.take();
        let served = match &mut ports {
            Some(ports) => gateways::served(
                self.good(Resource::Services),
                &self.good(Resource::OwnPods).collect::<Vec<_>>(),
                &self.good(Resource::Gateways).filter_map(gateway).collect::<Vec<_>>(),
                ports,
            ),
            None => Vec::new(),
        };
        self.gateways = ports;
        let served: BTreeMap<Arc<str>, Arc<Object>> = served
            .into_iter()
            .map(|object| (format!("gateway {}", object.reference()).into(), Arc::new(object)))
            .collect();
        for (name, object) in &served {
            if self.served.get(name) != Some(object) {
                let content = gateways::content(object.clone());
                changed.insert(name.clone(), Change::Put(name.clone(), content));
            }
        }
        for name in self.served.keys().filter(|name| !served.contains_key(*name)) {
            changed.insert(name.clone(), Change::Removed(name.clone()));
        }
        self.served = served;
        let needs = self.needs();
        self.needs.send_if_modified(|before| std::mem::replace(before, needs) != needs);
        Batch { changes: changed.into_values().collect() }
    }

    /// The acceptable objects of a watch.
    fn good(&self, resource: Resource) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.get(&resource).into_iter().flat_map(|objects| objects.values()).filter_map(
            |content| match content {
                Content::Whole(documents) => documents.first()?.object.as_ref(),
                Content::Broken(_) => None,
            },
        )
    }

    fn needs(&self) -> Needs {
        let selects = |object: &Arc<Object>| match &object.spec {
            Spec::ServiceEntry(entry) => entry.workload_selector.is_some(),
            _ => false,
        };
        Needs {
            pod_addresses: !self.served.is_empty()
                || self.good(Resource::ServiceEntries).any(selects),
        }
    }
}

fn gateway(object: &Arc<Object>) -> Option<&Gateway> {
    match &object.spec {
        Spec::Gateway(gateway) => Some(gateway),
        _ => None,
    }
}

/// Whether two readings come to the same.
fn agree(a: &Content, b: &Content) -> bool {
    match (a, b) {
        (Content::Whole(a), Content::Whole(b)) => {
            a.len() == b.len()
                && a.iter().zip(b).all(|(a, b)| {
                    a.reference == b.reference
                        && a.object == b.object
                        && a.diagnostics == b.diagnostics
                })
        }
        (Content::Broken(a), Content::Broken(b)) => a == b,
        _ => false,
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Never, as far as timers go.
fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(24 * 3600)
}
