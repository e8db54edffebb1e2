//! The objects, their history, and the one counter of resource versions.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::resource::Resource;

/// Which object: group and plural, namespace, name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Key {
    /// Of its resource.
    pub group: String,
    /// Of its resource.
    pub plural: String,
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A change of one object.
#[derive(Clone, Debug)]
pub struct Change {
    /// The counter after it.
    pub version: u64,
    /// Which object.
    pub key: Key,
    /// What it was.
    pub before: Option<Value>,
    /// What it became.
    pub after: Option<Value>,
}

/// Everything that the server keeps.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The counter.
    pub version: u64,
    /// Changes up to here are compacted away.
    pub compacted: u64,
    /// The served kinds.
    pub resources: Vec<Resource>,
    /// The objects that there are, in the storage version.
    pub objects: BTreeMap<Key, Value>,
    /// The changes after `compacted`, in order.
    pub history: Vec<Change>,
    uids: u64,
}

impl State {
    /// A state without objects.
    pub fn serving(resources: Vec<Resource>) -> Self {
        Self { resources, ..Self::default() }
    }

    /// The resource of a kind.
    pub fn resource_of_kind(&self, kind: &str, api_version: &str) -> Option<&Resource> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        self.resources.iter().find(|resource| resource.kind == kind && resource.group == group)
    }

    /// Makes or replaces an object the way the server would: uid, time stamps,
    /// generation and resource version are its own. Returns it.
    pub fn put(&mut self, key: &Key, mut object: Value) -> Value {
        let before = self.objects.get(key).cloned();
        self.version += 1;
        let meta = &mut object["metadata"];
        match &before {
            Some(before) => {
                for field in ["uid", "creationTimestamp"] {
                    meta[field] = before["metadata"][field].clone();
                }
            }
            None => {
                self.uids += 1;
                if meta["uid"].is_null() {
                    meta["uid"] = json!(format!("00000000-0000-4000-8000-{:012x}", self.uids));
                }
                if meta["creationTimestamp"].is_null() {
                    meta["creationTimestamp"] = json!("2026-11-23T07:00:00Z");
                }
            }
        }
        meta["name"] = json!(key.name);
        if !key.namespace.is_empty() {
            meta["namespace"] = json!(key.namespace);
        }
        let generation = before
            .as_ref()
            .map_or(0, |before| before["metadata"]["generation"].as_u64().unwrap_or(1));
        let same = before.as_ref().is_some_and(|before| before["spec"] == object["spec"]);
        object["metadata"]["generation"] = json!(generation + u64::from(!same));
        self.store(key, object)
    }

    /// Puts an object with its resource version as it is.
    pub fn restore(&mut self, key: &Key, object: Value) {
        let version = object["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok());
        self.version = self.version.max(version.unwrap_or(0));
        self.objects.insert(key.clone(), object);
    }

    fn store(&mut self, key: &Key, mut object: Value) -> Value {
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let before = self.objects.insert(key.clone(), object.clone());
        self.history.push(Change {
            version: self.version,
            key: key.clone(),
            before,
            after: Some(object.clone()),
        });
        object
    }

    /// Removes an object and returns its last state.
    pub fn remove(&mut self, key: &Key) -> Option<Value> {
        let before = self.objects.remove(key)?;
        self.version += 1;
        self.history.push(Change {
            version: self.version,
            key: key.clone(),
            before: Some(before.clone()),
            after: None,
        });
        Some(before)
    }

    /// Forgets the history: whoever comes with an older version is told that it
    /// expired.
    pub fn compact(&mut self) {
        self.compacted = self.version;
        self.history.clear();
    }

    /// The objects of a resource as they were at a version that is not
    /// compacted.
    pub fn at(&self, resource: &Resource, version: u64) -> BTreeMap<Key, Value> {
        let of = |key: &Key| key.group == resource.group && key.plural == resource.plural;
        let mut objects: BTreeMap<Key, Value> = (self.objects.iter())
            .filter(|(key, _)| of(key))
            .map(|(key, object)| (key.clone(), object.clone()))
            .collect();
        for change in self.history.iter().rev().take_while(|change| change.version > version) {
            if of(&change.key) {
                match &change.before {
                    Some(before) => objects.insert(change.key.clone(), before.clone()),
                    None => objects.remove(&change.key),
                };
            }
        }
        objects
    }
}

/// A JSON merge patch (RFC 7386).
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Value::Object(map) = target else { return };
    for (key, value) in fields {
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}
