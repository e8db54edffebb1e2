//! The names that endpoints and addresses of ServiceEntries are resolved from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::ObjectRef;

/// The names, and which ServiceEntries have them.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Names {
    of: BTreeMap<ObjectRef, BTreeSet<Arc<str>>>,
    /// The ServiceEntries of each name.
    with: BTreeMap<Arc<str>, BTreeSet<ObjectRef>>,
}

impl Names {
    /// Gives a ServiceEntry other names. Of those that came or went, whether they were
    /// there is noted, where it is not already.
    pub fn set(
        &mut self,
        entry: &ObjectRef,
        names: BTreeSet<Arc<str>>,
        were: &mut BTreeMap<Arc<str>, bool>,
    ) {
        if *self.of(entry) == names {
            return;
        }
        let before = self.of.remove(entry).unwrap_or_default();
        for gone in before.difference(&names) {
            were.entry(gone.clone()).or_insert(true);
            let Some(entries) = self.with.get_mut(gone) else { continue };
            entries.remove(entry);
            if entries.is_empty() {
                self.with.remove(gone);
            }
        }
        for new in names.difference(&before) {
            let entries = self.with.entry(new.clone()).or_default();
            were.entry(new.clone()).or_insert(!entries.is_empty());
            entries.insert(entry.clone());
        }
        if !names.is_empty() {
            self.of.insert(entry.clone(), names);
        }
    }

    /// Whether a name is one.
    pub fn has(&self, name: &str) -> bool {
        self.with.contains_key(name)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Arc<str>> {
        self.with.keys()
    }

    /// Those of a ServiceEntry.
    pub fn of(&self, entry: &ObjectRef) -> &BTreeSet<Arc<str>> {
        static NONE: BTreeSet<Arc<str>> = BTreeSet::new();
        self.of.get(entry).unwrap_or(&NONE)
    }

    /// The ServiceEntries with a name.
    pub fn with(&self, name: &str) -> impl Iterator<Item = &ObjectRef> {
        self.with.get(name).into_iter().flatten()
    }
}
