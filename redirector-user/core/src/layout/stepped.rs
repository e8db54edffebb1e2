//! A map that knows what it was when the step began.

use std::collections::BTreeMap;
use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::difference::Difference;
use crate::pairs;

/// What can be as it was before a step, until that is settled.
pub(super) trait Stepping {
    /// A step begins. Maps note what it touches without being told.
    fn begin_step(&mut self) {}

    /// The step is over: this is how it is.
    fn settle(&mut self);

    /// It is as it was when the step began.
    fn take_back(&mut self);
}

/// A map in a step: until that is settled it can be taken back. It is written down as
/// what it is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Stepped<K, V> {
    now: BTreeMap<K, V>,
    /// What was at each key that was touched.
    before: BTreeMap<K, Option<V>>,
}

impl<K, V> Default for Stepped<K, V> {
    fn default() -> Self {
        Self { now: BTreeMap::new(), before: BTreeMap::new() }
    }
}

impl<K, V> Deref for Stepped<K, V> {
    type Target = BTreeMap<K, V>;

    fn deref(&self) -> &BTreeMap<K, V> {
        &self.now
    }
}

impl<K: Ord + Clone, V: Clone> Stepped<K, V> {
    /// Puts a value there. Returns the one that was there until now.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let old = self.now.insert(key.clone(), value);
        self.before.entry(key).or_insert_with(|| old.clone());
        old
    }

    /// Removes what is there.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let (key, old) = self.now.remove_entry(key)?;
        self.before.entry(key).or_insert_with(|| Some(old.clone()));
        Some(old)
    }

    /// What was there when the step began.
    pub fn was(&self, key: &K) -> Option<&V> {
        match self.before.get(key) {
            Some(before) => before.as_ref(),
            None => self.now.get(key),
        }
    }

    /// Every key that was touched, and what was there before.
    pub fn touched(&self) -> &BTreeMap<K, Option<V>> {
        &self.before
    }

    /// What the step changes.
    pub fn difference(&self) -> Difference<K, V> {
        Difference::of(self.before.keys().map(|key| (key.clone(), self.now.get(key).cloned())))
    }

    /// Makes it what it was after a step that changed this.
    pub fn follow(&mut self, difference: Difference<K, V>) {
        difference.apply(&mut self.now);
    }
}

impl<K: Ord + Clone, V: Clone> Stepping for Stepped<K, V> {
    fn settle(&mut self) {
        self.before.clear();
    }

    fn take_back(&mut self) {
        for (key, before) in std::mem::take(&mut self.before) {
            match before {
                Some(value) => self.now.insert(key, value),
                None => self.now.remove(&key),
            };
        }
    }
}

impl<K, V> From<BTreeMap<K, V>> for Stepped<K, V> {
    fn from(now: BTreeMap<K, V>) -> Self {
        Self { now, before: BTreeMap::new() }
    }
}

impl<K: Serialize, V: Serialize> Serialize for Stepped<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        pairs::serialize(&self.now, serializer)
    }
}

impl<'de, K: Deserialize<'de> + Ord, V: Deserialize<'de>> Deserialize<'de> for Stepped<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(pairs::deserialize(deserializer)?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_step_that_is_taken_back_leaves_nothing(
            begin: BTreeMap<u8, u8>, edits: Vec<(u8, Option<u8>)>,
        ) {
            let mut map = Stepped::from(begin.clone());
            for (key, value) in &edits {
                match value {
                    Some(value) => map.insert(*key, *value),
                    None => map.remove(key),
                };
                prop_assert_eq!(map.get(key), value.as_ref());
            }
            for key in 0..=u8::MAX {
                prop_assert_eq!(map.was(&key), begin.get(&key));
            }
            let mut settled = map.clone();
            map.take_back();
            prop_assert_eq!(&map, &Stepped::from(begin));
            let now = settled.now.clone();
            settled.settle();
            settled.take_back();
            prop_assert_eq!(settled, Stepped::from(now));
        }
    }
}
