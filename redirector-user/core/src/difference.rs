//! What makes one map another: for what is written down again and again, and
//! changes little each time.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::pairs;

/// What makes one map another.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(bound(
    serialize = "K: Serialize + Ord, V: Serialize",
    deserialize = "K: Deserialize<'de> + Ord, V: Deserialize<'de>"
))]
pub struct Difference<K: Ord, V> {
    #[serde(with = "pairs")]
    put: BTreeMap<K, V>,
    gone: BTreeSet<K>,
}

impl<K: Ord, V> Difference<K, V> {
    /// Whether both maps are the same.
    pub fn is_empty(&self) -> bool {
        self.put.is_empty() && self.gone.is_empty()
    }
}

impl<K: Ord + Clone, V: Clone> Difference<K, V> {
    /// What makes `from` be `to`, where `same` says which values need not be put
    /// again.
    pub fn new(from: &BTreeMap<K, V>, to: &BTreeMap<K, V>, same: impl Fn(&V, &V) -> bool) -> Self {
        let (mut put, mut gone) = (BTreeMap::new(), BTreeSet::new());
        let mut from = from.iter().peekable();
        for (key, value) in to {
            let before = loop {
                match from.peek().map(|(before, _)| (*before).cmp(key)) {
                    Some(Ordering::Less) => gone.extend(from.next().map(|(key, _)| key.clone())),
                    Some(Ordering::Equal) => break from.next(),
                    Some(Ordering::Greater) | None => break None,
                }
            };
            if before.is_none_or(|(_, before)| !same(before, value)) {
                put.insert(key.clone(), value.clone());
            }
        }
        gone.extend(from.map(|(key, _)| key.clone()));
        Self { put, gone }
    }

    /// What is there from now on at each of some keys; `None`: nothing.
    pub fn of(changes: impl Iterator<Item = (K, Option<V>)>) -> Self {
        let (mut put, mut gone) = (BTreeMap::new(), BTreeSet::new());
        for (key, value) in changes {
            match value {
                Some(value) => _ = put.insert(key, value),
                None => _ = gone.insert(key),
            }
        }
        Self { put, gone }
    }

    /// With other values.
    pub fn map<W>(self, mut value: impl FnMut(V) -> W) -> Difference<K, W> {
        let put = self.put.into_iter().map(|(key, old)| (key, value(old))).collect();
        Difference { put, gone: self.gone }
    }

    /// Makes `from` what `to` was.
    pub fn apply(self, map: &mut BTreeMap<K, V>) {
        for key in &self.gone {
            map.remove(key);
        }
        map.extend(self.put);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_makes_one_map_the_other_and_says_no_more_than_it_has_to(
            from: BTreeMap<u8, u8>, to: BTreeMap<u8, u8>,
        ) {
            let difference = Difference::new(&from, &to, |a, b| a == b);
            let changed = to.iter().filter(|(key, value)| from.get(key) != Some(value)).count();
            let gone = from.keys().filter(|key| !to.contains_key(key)).count();
            prop_assert_eq!(difference.put.len() + difference.gone.len(), changed + gone);
            let written = serde_json::to_string(&difference).unwrap();
            let read: Difference<u8, u8> = serde_json::from_str(&written).unwrap();
            let mut map = from;
            read.apply(&mut map);
            prop_assert_eq!(map, to);
        }
    }
}
