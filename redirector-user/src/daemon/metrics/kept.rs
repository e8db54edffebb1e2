//! How many series there are at most: things that documents name have series of
//! their own, up to a limit; the rest is counted together.

use std::collections::{BTreeMap, BTreeSet};

use super::page::Labels;

/// The value of each label of what is counted together.
pub const OTHER: &str = "other";

/// Which label sets have series of their own: whoever came first keeps its place
/// for as long as it exists, so that no series jumps to and fro.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// How many places each group has.
    pub most: usize,
    groups: BTreeMap<&'static str, BTreeSet<Labels>>,
    /// How many were counted together on the last page, by group.
    others: BTreeMap<&'static str, usize>,
}

impl Kept {
    /// Gives the places in a group to the label sets that there are.
    pub fn give(&mut self, group: &'static str, all: &BTreeSet<Labels>) {
        let kept = self.groups.entry(group).or_default();
        kept.retain(|labels| all.contains(labels));
        for labels in all {
            if kept.len() >= self.most {
                break;
            }
            kept.insert(labels.clone());
        }
        self.others.insert(group, all.len() - kept.len());
    }

    /// Values with what has no place summed up.
    pub fn bounded<V>(
        &self,
        group: &'static str,
        values: BTreeMap<Labels, V>,
        add: impl Fn(&mut V, V),
    ) -> BTreeMap<Labels, V> {
        let kept = self.groups.get(group);
        let mut bounded = BTreeMap::new();
        for (labels, value) in values {
            let labels = match kept.is_some_and(|kept| kept.contains(&labels)) {
                true => labels,
                false => labels.into_keys().map(|name| (name, OTHER.to_owned())).collect(),
            };
            match bounded.entry(labels) {
                std::collections::btree_map::Entry::Vacant(place) => {
                    place.insert(value);
                }
                std::collections::btree_map::Entry::Occupied(mut sum) => {
                    add(sum.get_mut(), value);
                }
            }
        }
        bounded
    }

    /// How many label sets are counted together.
    pub fn others(&self) -> usize {
        self.others.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::page::labels;
    use super::*;

    fn sets(names: &[&str]) -> BTreeSet<Labels> {
        names.iter().map(|name| labels([("route", (*name).to_owned())])).collect()
    }

    fn shown(kept: &Kept, names: &[&str]) -> Vec<(String, u64)> {
        let values = sets(names).into_iter().map(|labels| (labels, 1)).collect();
        let bounded = kept.bounded("g", values, |sum, value| *sum += value);
        bounded.into_iter().map(|(labels, value)| (labels["route"].clone(), value)).collect()
    }

    #[test]
    fn what_is_beyond_the_limit_is_counted_together_and_nothing_is_lost() {
        let mut kept = Kept { most: 2, ..Kept::default() };
        let names = ["a", "b", "c", "d", "e"];
        kept.give("g", &sets(&names));
        let expected = [("a".to_owned(), 1), ("b".to_owned(), 1), (OTHER.to_owned(), 3)];
        assert_eq!(shown(&kept, &names), expected);
        assert_eq!(kept.others(), 3);
    }

    #[test]
    fn a_series_stays_for_as_long_as_what_it_is_about() {
        let mut kept = Kept { most: 2, ..Kept::default() };
        kept.give("g", &sets(&["m", "n"]));
        // Others whose names come first do not push it out.
        kept.give("g", &sets(&["a", "m", "n"]));
        assert_eq!(shown(&kept, &["m"]), [("m".to_owned(), 1)]);
        assert_eq!(shown(&kept, &["a"]), [(OTHER.to_owned(), 1)]);
        // One that goes makes room.
        kept.give("g", &sets(&["a", "n"]));
        assert_eq!(shown(&kept, &["a"]), [("a".to_owned(), 1)]);
        assert_eq!(kept.others(), 0);
    }
}
