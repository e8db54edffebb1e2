//! Random edits of random Worlds: objects that come, go and change in any field, names
//! that are resolved, and settings.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use redirector_core::budget::{Budgets, Quantity};
use redirector_core::documents;
use redirector_core::model::bypass::Bypass;
use redirector_core::model::{Kind, Object, ObjectRef, SourceId};
use redirector_core::store::Replaced;
use redirector_core::world::{Answer, Changes, CrossNamespace, ServiceAddresses, Settings, World};
use serde_json::{Value, json};

use super::random::Random;
use super::worlds::{Documents, NAMESPACES};

const NAMES: [&str; 3] = ["db.example.com", "x.example.com", "nowhere.example.com"];
const ADDRESSES: [&str; 6] =
    ["192.0.2.1", "192.0.2.2", "192.0.2.3", "fd00:192::1", "10.96.0.2", "127.0.0.1"];

/// A World that is edited.
pub struct Edited {
    /// What each object was read from: a document in JSON.
    documents: BTreeMap<ObjectRef, Box<str>>,
    /// Objects there are no more than this.
    most: usize,
    /// The World as it is.
    pub world: World,
}

impl Edited {
    /// A random World of at most so many objects.
    pub fn random(random: &mut Random, most: usize) -> Self {
        let made = Documents::random(random);
        let settings = Settings { budgets: budgets(random), ..made.settings.clone() };
        let mut edited = Self::of(settings, most);
        // Of several, where it may have many.
        let enough = random.below(most as u64 + 1) as usize;
        edited.take(made.documents);
        for _ in 0..most / 5 {
            if edited.documents.len() < enough {
                edited.take(Documents::random(random).documents);
            }
        }
        super::worlds::resolve(&mut edited.world);
        edited
    }

    /// A World without objects, which may have so many.
    pub fn of(settings: Settings, most: usize) -> Self {
        Self { documents: BTreeMap::new(), most, world: World::new(settings) }
    }

    /// Puts what is read of these documents, as far as there is room.
    pub fn take(&mut self, documents: impl IntoIterator<Item = Value>) {
        let mut changes = Changes::default();
        documents.into_iter().for_each(|document| self.put(&document, &mut changes));
        self.world.apply(&changes);
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.documents.len()
    }

    /// Makes up to so many edits at once, and says what they change.
    pub fn edit(&mut self, random: &mut Random, most: u64) -> Changes {
        let mut changes = Changes::default();
        for _ in 0..=random.below(most) {
            match random.below(24) {
                0 => self.resolve(random, &mut changes),
                1 => self.set(random, &mut changes),
                2..=5 => self.remove(random, &mut changes),
                6..=10 => self.add(random, &mut changes),
                _ => self.mutate(random, &mut changes),
            }
        }
        changes.objects.retain(|_, replaced| replaced.before != replaced.after);
        self.world.apply(&changes);
        changes
    }

    /// Makes it another one at once, and says what that changes.
    pub fn become_other(&mut self, other: Self) -> Changes {
        let changes = self.world.difference(&other.world);
        self.world.apply(&changes);
        self.documents = other.documents;
        changes
    }

    fn replace(&mut self, changes: &mut Changes, reference: ObjectRef, after: Option<Arc<Object>>) {
        let before = || self.world.get(&reference).cloned();
        let entry = changes.objects.entry(reference.clone());
        entry.or_insert_with(|| Replaced { before: before(), after: None }).after = after;
    }

    fn some(&self, random: &mut Random) -> Option<ObjectRef> {
        let all: Vec<&ObjectRef> = self.documents.keys().collect();
        // A kind first: of some there are many objects.
        let kind = *random.pick(&Kind::ALL);
        let of_kind: Vec<&ObjectRef> = all.iter().filter(|one| one.kind == kind).copied().collect();
        let from = if of_kind.is_empty() { all } else { of_kind };
        (!from.is_empty()).then(|| (*random.pick(&from)).clone())
    }

    fn remove(&mut self, random: &mut Random, changes: &mut Changes) {
        let Some(reference) = self.some(random) else { return };
        self.documents.remove(&reference);
        self.replace(changes, reference, None);
    }

    /// An object of another random World, new or instead of one of its name.
    fn add(&mut self, random: &mut Random, changes: &mut Changes) {
        if random.once_in(16) {
            let name = *random.pick(&NAMESPACES);
            let labels = json!({ "app": random.pick(&["v1", "v2"]) });
            let metadata = json!({ "name": name, "labels": labels });
            let namespace =
                json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata });
            return self.put(&namespace, changes);
        }
        let others = Documents::random(random).documents;
        self.put(random.pick(&others), changes);
    }

    fn put(&mut self, document: &Value, changes: &mut Changes) {
        let text = document.to_string();
        let Some(object) = read(&text) else { return };
        let reference = object.reference();
        if self.documents.len() >= self.most && !self.documents.contains_key(&reference) {
            return;
        }
        self.documents.insert(reference.clone(), text.into());
        self.replace(changes, reference, Some(object));
    }

    /// An object in which one thing is another: what some other object of its kind
    /// says there, another number, or nothing.
    fn mutate(&mut self, random: &mut Random, changes: &mut Changes) {
        let Some(reference) = self.some(random) else { return };
        let Some(text) = self.documents.get(&reference) else { return };
        let mut document: Value = serde_json::from_str(text).expect("it was JSON");
        let others = Documents::random(random).documents;
        let own = &document["kind"];
        let donors: Vec<&Value> = others.iter().filter(|other| other["kind"] == *own).collect();
        let donor = if donors.is_empty() { None } else { Some(*random.pick(&donors)) };
        let mut paths = Vec::new();
        places(&document, String::new(), &mut paths);
        paths.retain(|path| !FIXED.contains(&path.as_str()));
        if paths.is_empty() {
            return;
        }
        let path = random.pick(&paths).clone();
        change(random, &mut document, &path, donor);
        self.put(&document, changes);
    }

    fn resolve(&mut self, random: &mut Random, changes: &mut Changes) {
        let name: Arc<str> = (*random.pick(&NAMES)).into();
        let mut some = |most| -> Vec<IpAddr> {
            random.some(&ADDRESSES, most).iter().map(|one| one.parse().expect("one")).collect()
        };
        let (addresses, mut former) = (some(3), some(2));
        former.retain(|one| !addresses.contains(one));
        let answer = (!random.once_in(5)).then_some(Answer { addresses, former });
        if self.world.answer(&name) == answer.as_ref() {
            changes.names.remove(&name);
        } else {
            changes.names.insert(name, answer);
        }
    }

    fn set(&mut self, random: &mut Random, changes: &mut Changes) {
        let settings = changes.settings.get_or_insert_with(|| self.world.settings.clone());
        match random.below(8) {
            7 => settings.allocates = random.once_in(2),
            6 => {
                settings.budgets = budgets(random);
                let all = [CrossNamespace::Istio, CrossNamespace::Owner];
                settings.cross_namespace = *random.pick(&all);
            }
            0 => {
                let node = random.pick(&[None, Some("n1"), Some("n2")]);
                settings.node_name = node.map(str::to_owned);
            }
            1 => {
                let all = [ServiceAddresses::Own, ServiceAddresses::Leave];
                settings.services = *random.pick(&all);
            }
            2 => {
                settings.root_namespace = (*random.pick(&["istio-system", "foo"])).to_owned();
            }
            3 => {
                let domains = ["cluster.local", "here"];
                settings.cluster_domain = (*random.pick(&domains)).to_owned();
            }
            _ => {
                let of_kind = |kind| self.documents.keys().filter(move |one| one.kind == kind);
                let mut bypass = Bypass::default();
                for one in of_kind(Kind::VirtualService).filter(|_| random.once_in(3)) {
                    bypass.rules.insert(one.clone());
                }
                let workloads = of_kind(Kind::WorkloadEntry).chain(of_kind(Kind::Pod));
                for one in workloads.filter(|_| random.once_in(3)) {
                    bypass.workloads.insert(SourceId {
                        namespace: one.namespace.clone(),
                        name: one.name.clone(),
                    });
                }
                settings.bypass = bypass;
            }
        }
        if *settings == self.world.settings {
            changes.settings = None;
        }
    }
}

/// Nothing that anybody reaches, or so little that many go beyond it.
fn budgets(random: &mut Random) -> Budgets {
    let mut budgets = Budgets::default();
    if super::number("REDIRECTOR_BUDGETS", 1) == 1 && random.once_in(2) {
        for _ in 0..random.below(3) {
            *budgets.object.of(*random.pick(&Quantity::ALL)) = random.below(8);
        }
        for _ in 0..random.below(3) {
            *budgets.namespace.of(*random.pick(&Quantity::ALL)) = random.below(16);
        }
    }
    budgets
}

/// What makes an object another one.
const FIXED: [&str; 5] =
    ["/apiVersion", "/kind", "/metadata", "/metadata/name", "/metadata/namespace"];

fn read(document: &str) -> Option<Arc<Object>> {
    documents::read(None, document).objects.into_iter().find_map(|read| read.object)
}

/// Where there is something, as pointers.
fn places(value: &Value, path: String, found: &mut Vec<String>) {
    if !path.is_empty() {
        found.push(path.clone());
    }
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                places(
                    value,
                    format!("{path}/{}", key.replace('~', "~0").replace('/', "~1")),
                    found,
                );
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                places(value, format!("{path}/{index}"), found);
            }
        }
        _ => {}
    }
}

fn change(random: &mut Random, document: &mut Value, path: &str, donor: Option<&Value>) {
    let given = donor.and_then(|donor| donor.pointer(path)).cloned();
    if let Some(given) = given.filter(|_| !random.once_in(4)) {
        if let Some(value) = document.pointer_mut(path) {
            *value = given;
        }
        return;
    }
    let Some((parent, last)) = path.rsplit_once('/') else { return };
    let Some(value) = document.pointer_mut(path) else { return };
    match value {
        Value::Number(number) if !random.once_in(4) => {
            let near = number.as_u64().unwrap_or_default() + random.below(3);
            *value = Value::from(near);
        }
        Value::Bool(flag) => *flag = !*flag,
        Value::Array(items) if items.len() > 1 && random.once_in(2) => {
            let at = random.below(items.len() as u64) as usize;
            let item = items.remove(at);
            items.push(item);
        }
        _ => match document.pointer_mut(parent) {
            Some(Value::Object(fields)) => {
                fields.remove(&last.replace("~1", "/").replace("~0", "~"));
            }
            Some(Value::Array(items)) => {
                if let Ok(index) = last.parse::<usize>()
                    && index < items.len()
                {
                    items.remove(index);
                }
            }
            _ => {}
        },
    }
}
