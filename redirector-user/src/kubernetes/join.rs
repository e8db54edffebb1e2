//! All watches together: nothing before each of them has listed once, then each change
//! as it comes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use redirector_core::model::{Object, ObjectRef};
use redirector_core::store::Content;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout_at;
use tracing::info;

use super::Options;
use super::events::Incarnations;
use super::follow::{Health, Update};
use super::gateways;
use super::held::Name;
use super::item::{self, Item, reference};
use super::resource::{Needs, Resource};
use crate::identity::Direct;
use crate::source::{self, Arrival, Batch, Change, Turn};

/// What comes without a pause is passed on after this time.
const GATHERED: Duration = Duration::from_millis(20);

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

/// What is known, of all watches: as much as it takes to say what changed.
pub struct Join {
    /// What gateways are served, when they are here.
    gateways: Option<Served>,
    /// By watch: the pods of this node and those elsewhere may overlap for a
    /// moment, when a StatefulSet's pod moves.
    own_pods: BTreeMap<Name, Content>,
    other_pods: BTreeMap<Name, Content>,
    /// The ServiceEntries that select pods.
    selecting: BTreeSet<Name>,
    listed: BTreeSet<Resource>,
    changed: BTreeMap<Arc<str>, Arrival>,
    /// For Events.
    incarnations: Incarnations,
    watches: watch::Sender<Watches>,
    needs: watch::Sender<Needs>,
    /// Knows some of this node's pods at once.
    pods: Direct,
}

/// The gateways of this node.
struct Served {
    ports: gateways::Ports,
    /// The Services that ask, and the Gateways.
    asking: BTreeMap<Name, Arc<Object>>,
    gateways: BTreeMap<Name, Arc<Object>>,
    /// What stands for them, as sent.
    sent: BTreeMap<Arc<str>, Arc<Object>>,
    /// Something of that may be another.
    changed: bool,
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
        let gateways = options.gateways.clone().map(|near| Served {
            ports: gateways::Ports::new(near),
            asking: BTreeMap::new(),
            gateways: BTreeMap::new(),
            sent: BTreeMap::new(),
            changed: false,
        });
        let mut join = Self {
            gateways,
            pods: options.pods.clone(),
            own_pods: BTreeMap::new(),
            other_pods: BTreeMap::new(),
            selecting: BTreeSet::new(),
            listed: BTreeSet::new(),
            changed: BTreeMap::new(),
            incarnations,
            watches,
            needs,
        };
        // What is listed goes over this; the rest is gone since.
        for name in known {
            join.change(Change::Removed(name), None, Turn::New);
        }
        join
    }

    /// Takes updates, and sends what they come to, until either end closes.
    pub async fn run(
        mut self,
        mut updates: mpsc::Receiver<(Resource, Update)>,
        mut send: impl FnMut(Batch) -> bool,
    ) {
        let mut first = true;
        while let Some((resource, update)) = updates.recv().await {
            self.take(resource, update);
            let until = Instant::now() + GATHERED;
            for _ in 0..super::IN_FLIGHT {
                let next = if self.may_wait() {
                    let quiet = until.min(Instant::now() + source::QUIET);
                    timeout_at(quiet.into(), updates.recv()).await.ok().flatten()
                } else {
                    updates.try_recv().ok()
                };
                let Some((resource, update)) = next else { break };
                self.take(resource, update);
            }
            if self.listed.len() < Resource::ALL.len() {
                continue;
            }
            self.serve();
            let needs = self.needs();
            self.needs.send_if_modified(|before| std::mem::replace(before, needs) != needs);
            let changed = std::mem::take(&mut self.changed);
            // Also when there is nothing at all: the first batch is what says so.
            if changed.is_empty() && !first {
                continue;
            }
            if !send(Batch { arrivals: changed.into_values().collect() }) {
                return;
            }
            if std::mem::take(&mut first) {
                info!("every watch has its first list");
                self.watches.send_modify(|watches| watches.synced = true);
            }
        }
    }

    /// Whether what is known waits for what belongs to it. A pod of this node does not.
    fn may_wait(&self) -> bool {
        let is_awaited = |arrival: &Arrival| arrival.turn == Turn::Awaited;
        !self.changed.is_empty() && !self.changed.values().any(is_awaited)
    }

    fn take(&mut self, resource: Resource, update: Update) {
        match update {
            Update::Listed { items, gone } => {
                self.listed.insert(resource);
                for (item, known) in items {
                    self.put(resource, item, known);
                }
                for name in gone {
                    self.gone(resource, &name);
                }
            }
            Update::Put(item, known) => self.put(resource, *item, known),
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

    fn change(&mut self, change: Change, of: Option<ObjectRef>, turn: Turn) {
        let name = change.name().clone();
        self.changed.insert(name, Arrival { change, of, turn, since: Instant::now() });
    }

    fn put(&mut self, resource: Resource, item: Item, known: bool) {
        let object = item.object().cloned();
        if resource.has_events() {
            self.incarnations.put(item.reference.clone(), item.incarnation);
        }
        self.note(resource, &item.name, object.as_ref());
        let mut turn = if known { Turn::Changed } else { Turn::New };
        match resource {
            Resource::OwnPods => {
                // A pod of this node has to be known before it runs; its kubelet is
                // told at the same time as we are.
                if object.is_some_and(|pod| !self.pods.put(&pod)) {
                    turn = Turn::Awaited;
                }
                self.own_pods.insert(item.name, item.content.clone());
            }
            Resource::OtherPods => {
                let is_own = self.own_pods.contains_key(&item.name);
                self.other_pods.insert(item.name, item.content.clone());
                if is_own {
                    return;
                }
            }
            _ => {}
        }
        let file = item.reference.to_string().into();
        self.change(Change::Put(file, item.content), Some(item.reference), turn);
    }

    fn gone(&mut self, resource: Resource, name: &Name) {
        let reference = reference(resource, name);
        let file: Arc<str> = reference.to_string().into();
        let left = match resource {
            Resource::OwnPods => {
                self.pods.gone(&name.0, &name.1);
                self.own_pods.remove(name);
                self.other_pods.get(name)
            }
            Resource::OtherPods => {
                self.other_pods.remove(name);
                if self.own_pods.contains_key(name) {
                    return;
                }
                None
            }
            _ => None,
        };
        let change = match left {
            Some(content) => Change::Put(file, content.clone()),
            None => {
                self.incarnations.remove(&reference);
                Change::Removed(file)
            }
        };
        self.note(resource, name, None);
        self.change(change, Some(reference), Turn::New);
    }

    /// Keeps of an object what other things depend on.
    fn note(&mut self, resource: Resource, name: &Name, object: Option<&Arc<Object>>) {
        if resource == Resource::ServiceEntries {
            let entry = object.and_then(|object| object.spec.service_entry());
            match entry.is_some_and(|entry| entry.workload_selector.is_some()) {
                true => _ = self.selecting.insert(name.clone()),
                false => _ = self.selecting.remove(name),
            }
        }
        let Some(served) = &mut self.gateways else { return };
        let all = match resource {
            Resource::Services => &mut served.asking,
            Resource::Gateways => &mut served.gateways,
            Resource::OwnPods => {
                served.changed = true;
                return;
            }
            _ => return,
        };
        let object = object
            .filter(|object| resource != Resource::Services || gateways::asking(object).is_some());
        let before = match object {
            Some(object) => all.insert(name.clone(), object.clone()),
            None => all.remove(name),
        };
        served.changed |= before.as_ref() != object;
    }

    /// What stands for the gateways of this node, where that is another now.
    fn serve(&mut self) {
        let Some(mut served) = self.gateways.take() else { return };
        let is_idle = served.asking.is_empty() && served.sent.is_empty();
        if std::mem::take(&mut served.changed) && !is_idle {
            let pods: Vec<_> = self.own_pods.values().filter_map(item::object).collect();
            let gateways = served.gateways.values().filter_map(|object| object.spec.gateway());
            let gateways: Vec<_> = gateways.collect();
            let services = served.asking.values();
            let now: BTreeMap<Arc<str>, Arc<Object>> =
                gateways::served(services, &pods, &gateways, &mut served.ports)
                    .into_iter()
                    .map(|object| (format!("gateway {}", object.reference()).into(), object.into()))
                    .collect();
            for (name, object) in &now {
                let before = served.sent.get(name);
                if before != Some(object) {
                    let turn = if before.is_some() { Turn::Changed } else { Turn::New };
                    let content = gateways::content(object.clone());
                    let change = Change::Put(name.clone(), content);
                    self.change(change, Some(object.reference()), turn);
                }
            }
            for (name, object) in served.sent.iter().filter(|(name, _)| !now.contains_key(*name)) {
                self.change(Change::Removed(name.clone()), Some(object.reference()), Turn::New);
            }
            served.sent = now;
        }
        self.gateways = Some(served);
    }

    fn needs(&self) -> Needs {
        let serves = self.gateways.as_ref().is_some_and(|served| !served.sent.is_empty());
        Needs { pod_addresses: serves || !self.selecting.is_empty() }
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
