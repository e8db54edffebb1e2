//! Workloads by their labels, as far as selectors ask for them, and selectors by
//! what they ask for.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::model::{Labels, ObjectRef};

/// The workloads of one kind, and who selects among them. A key of labels that no
/// selector of the namespace asks for costs nothing.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Selection {
    namespaces: FxHashMap<Arc<str>, BTreeMap<String, Key>>,
}

/// A key that selectors of a namespace ask for.
#[derive(Debug, Default, PartialEq)]
struct Key {
    /// How many do.
    selectors: usize,
    values: FxHashMap<String, Having>,
}

/// Those that have a pair of labels; each list is sorted.
#[derive(Debug, Default, PartialEq)]
struct Having {
    /// Workloads, by name.
    workloads: Vec<Arc<str>>,
    /// Objects with a selector whose first pair it is: whoever has all of its pairs
    /// has that one.
    selectors: Vec<ObjectRef>,
}

impl Having {
    fn is_empty(&self) -> bool {
        self.workloads.is_empty() && self.selectors.is_empty()
    }
}

fn insert<T: Ord>(sorted: &mut Vec<T>, one: T) {
    if let Err(at) = sorted.binary_search(&one) {
        sorted.insert(at, one);
    }
}

fn remove<T: Ord>(sorted: &mut Vec<T>, one: &T) {
    if let Ok(at) = sorted.binary_search(one) {
        sorted.remove(at);
    }
}

impl Selection {
    /// An object selects from now on among the workloads of its namespace, which are
    /// `known`. An empty selector selects nothing.
    pub fn ask<'k>(
        &mut self,
        by: &ObjectRef,
        selector: &Labels,
        known: impl Iterator<Item = (&'k Arc<str>, &'k Labels)> + Clone,
    ) {
        if selector.is_empty() {
            return;
        }
        let keys = self.namespaces.entry(by.namespace.clone()).or_default();
        for (place, (name, value)) in selector.iter().enumerate() {
            let key = keys.entry(name.to_owned()).or_default();
            key.selectors += 1;
            if key.selectors == 1 {
                for (workload, labels) in known.clone() {
                    if let Some(value) = labels.get(name) {
                        let having = key.values.entry(value.to_owned()).or_default();
                        insert(&mut having.workloads, workload.clone());
                    }
                }
            }
            if place == 0 {
                let having = key.values.entry(value.to_owned()).or_default();
                insert(&mut having.selectors, by.clone());
            }
        }
    }

    /// It does no longer.
    pub fn forget(&mut self, by: &ObjectRef, selector: &Labels) {
        let Some(keys) = self.namespaces.get_mut(&by.namespace) else { return };
        for (place, (name, value)) in selector.iter().enumerate() {
            let Some(key) = keys.get_mut(name) else { continue };
            if place == 0
                && let Some(having) = key.values.get_mut(value)
            {
                remove(&mut having.selectors, by);
                if having.is_empty() {
                    key.values.remove(value);
                }
            }
            key.selectors -= 1;
            if key.selectors == 0 {
                keys.remove(name);
            }
        }
        if keys.is_empty() {
            self.namespaces.remove(&by.namespace);
        }
    }

    /// A workload comes.
    pub fn add(&mut self, namespace: &str, name: &Arc<str>, labels: &Labels) {
        let Some(keys) = self.namespaces.get_mut(namespace) else { return };
        for (key, value) in labels {
            if let Some(key) = keys.get_mut(key) {
                let having = key.values.entry(value.to_owned()).or_default();
                insert(&mut having.workloads, name.clone());
            }
        }
    }

    /// A workload goes.
    pub fn remove(&mut self, namespace: &str, name: &Arc<str>, labels: &Labels) {
        let Some(keys) = self.namespaces.get_mut(namespace) else { return };
        for (key, value) in labels {
            let Some(key) = keys.get_mut(key) else { continue };
            let Some(having) = key.values.get_mut(value) else { continue };
            remove(&mut having.workloads, name);
            if having.is_empty() {
                key.values.remove(value);
            }
        }
    }

    /// The objects whose selector may select a workload with these labels: it has the
    /// first of its pairs.
    pub fn selecting(&self, namespace: &str, labels: &Labels) -> impl Iterator<Item = &ObjectRef> {
        let keys = self.namespaces.get(namespace);
        let having = labels
            .iter()
            .filter_map(move |(key, value)| keys.and_then(|keys| keys.get(key)?.values.get(value)));
        having.flat_map(|having| &having.selectors)
    }

    /// The names of the workloads among which are all that a selector selects, sorted;
    /// it was asked before.
    pub fn candidates(&self, namespace: &str, selector: &Labels) -> &[Arc<str>] {
        let keys = self.namespaces.get(namespace);
        let having = selector.iter().map(|(key, value)| {
            let having = keys.and_then(|keys| keys.get(key)?.values.get(value));
            having.map_or(&[][..], |having| &having.workloads)
        });
        having.min_by_key(|names| names.len()).unwrap_or_default()
    }
}
