//! Labels, and whatever else is a map of strings to strings.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::intern::{self, Pool};

type Pair = (Arc<str>, Arc<str>);

/// With more pairs they are nobody else's.
const MOST: usize = 64;

/// Those that somebody has.
static KNOWN: Pool<[Pair]> = Pool::new();

/// Labels of a workload, selectors of a subset; annotations: values by key, in the order
/// of keys. Cheap to clone; equal ones are kept once.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Labels {
    /// By key, each key once; `None` when there are none.
    pairs: Option<Arc<[Pair]>>,
}

impl Labels {
    /// None.
    pub const fn new() -> Self {
        Self { pairs: None }
    }

    fn pairs(&self) -> &[Pair] {
        self.pairs.as_deref().unwrap_or_default()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        let pairs = self.pairs();
        let place = pairs.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        pairs.get(place).map(|(_, value)| &**value)
    }

    /// Whether a key has a value.
    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// All of them.
    pub fn iter(&self) -> <&Self as IntoIterator>::IntoIter {
        self.into_iter()
    }

    /// The keys.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        self.iter().map(|(key, _)| key)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.pairs().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_none()
    }

    /// Gives a key a value.
    pub fn insert(&mut self, key: &str, value: &str) {
        self.extend([(key, value)]);
    }
}

impl<'p> Extend<(&'p str, &'p str)> for Labels {
    /// What comes counts where both have a key.
    fn extend<I: IntoIterator<Item = (&'p str, &'p str)>>(&mut self, more: I) {
        let before = std::mem::take(self);
        let more = more.into_iter().map(|(key, value)| (intern::text(key), intern::text(value)));
        *self = before.pairs().iter().cloned().chain(more).collect();
    }
}

impl<'l> IntoIterator for &'l Labels {
    type Item = (&'l str, &'l str);
    type IntoIter = std::iter::Map<std::slice::Iter<'l, Pair>, fn(&'l Pair) -> (&'l str, &'l str)>;

    fn into_iter(self) -> Self::IntoIter {
        self.pairs().iter().map(|(key, value)| (key, value))
    }
}

impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for Labels {
    /// Of two values of one key the later one counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let pair =
            |(key, value): (K, V)| (intern::text(key.as_ref()), intern::text(value.as_ref()));
        let by_key: BTreeMap<Arc<str>, Arc<str>> = pairs.into_iter().map(pair).collect();
        if by_key.is_empty() {
            return Self::new();
        }
        let is_short = |text: &Arc<str>| text.len() <= intern::LONGEST;
        let are_few =
            by_key.len() <= MOST && by_key.iter().all(|(k, v)| is_short(k) && is_short(v));
        let pairs: Vec<Pair> = by_key.into_iter().collect();
        let make = || pairs.as_slice().into();
        Self { pairs: Some(if are_few { KNOWN.get(&pairs[..], make) } else { make() }) }
    }
}

impl<K: AsRef<str>, V: AsRef<str>, const N: usize> From<[(K, V); N]> for Labels {
    fn from(pairs: [(K, V); N]) -> Self {
        pairs.into_iter().collect()
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;

        impl<'de> Visitor<'de> for Map {
            type Value = Labels;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of strings to strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
                let mut pairs: Vec<(String, String)> = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(pairs.into_iter().collect())
            }
        }

        deserializer.deserialize_map(Map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_found_by_key_in_its_order_and_equal_ones_are_one() {
        let labels = Labels::from([("b", "1"), ("a", "2"), ("b", "3")]);
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("a", "2"), ("b", "3")]);
        assert_eq!((labels.get("b"), labels.get("c"), labels.len()), (Some("3"), None, 2));
        let same = Labels::from([("a", "2"), ("b", "3")]);
        assert!(Arc::ptr_eq(labels.pairs.as_ref().unwrap(), same.pairs.as_ref().unwrap()));
        // Annotations may be as long as a document, and are nobody else's.
        let long = || Labels::from([("a".to_owned(), "x".repeat(intern::LONGEST + 1))]);
        assert_eq!(long(), long());
        assert!(!Arc::ptr_eq(&long().pairs.unwrap(), &long().pairs.unwrap()));
        let mut others = labels.clone();
        others.insert("a", "9");
        assert_eq!(others, Labels::from([("a", "9"), ("b", "3")]));
    }

    #[test]
    fn they_are_written_down_as_a_map() {
        let labels = Labels::from([("app", "a")]);
        let text = serde_json::to_string(&[&labels, &Labels::new()]).unwrap();
        assert_eq!(text, r#"[{"app":"a"},{}]"#);
        assert_eq!(serde_json::from_str::<Vec<Labels>>(&text).unwrap(), [labels, Labels::new()]);
    }
}
