//! What is held of a resource, and whether it still agrees with the server.

use std::collections::BTreeMap;

/// Which object of a resource: namespace (empty at the cluster scope), name.
pub type Name = (String, String);

/// Which version of an object: its `metadata.resourceVersion`, which changes with
/// every write, also when an object of the same name takes its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version(pub Box<str>);

impl Version {
    /// Whether it is certainly not older than another, or than a whole list:
    /// resource versions are decimal numbers that grow.
    fn reaches(&self, other: &str) -> bool {
        match (self.0.parse::<u128>(), other.parse::<u128>()) {
            (Ok(ours), Ok(theirs)) => ours >= theirs,
            _ => *self.0 == *other,
        }
    }
}

/// Whether a resource version is certainly older than another.
pub fn precedes(one: &str, other: &str) -> bool {
    matches!((one.parse::<u128>(), other.parse::<u128>()), (Ok(one), Ok(other)) if one < other)
}

/// The versions of what is held, with the digest of what is read of each.
pub type Held = BTreeMap<Name, (Version, u64)>;

/// What differs between what is held and a fresh list, in a way that a watch
/// which is merely behind or ahead does not explain away by itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Drift {
    /// Listed, and not held or held in an older version: the listed version.
    pub behind: BTreeMap<Name, Version>,
    /// Held and not listed: the held version.
    pub beyond: BTreeMap<Name, Version>,
}

impl Drift {
    /// Compares with a list of the version `at`.
    pub fn between(held: &Held, listed: &BTreeMap<Name, Version>, at: &str) -> Self {
        let mut drift = Self::default();
        for (name, version) in listed {
            let fine = held.get(name).is_some_and(|(ours, _)| ours.reaches(&version.0));
            if !fine {
                drift.behind.insert(name.clone(), version.clone());
            }
        }
        for (name, (version, _)) in held {
            // What came after the list was made is not in it.
            let newer = version.reaches(at) && *version.0 != *at;
            if !listed.contains_key(name) && !newer {
                drift.beyond.insert(name.clone(), version.clone());
            }
        }
        drift
    }

    /// What of an earlier difference is still there, unmoved, in a later one:
    /// the watch had time to bring it, and did not.
    #[must_use]
    pub fn lasting(&self, later: &Self) -> Self {
        let both = |a: &BTreeMap<Name, Version>, b: &BTreeMap<Name, Version>| {
            a.iter()
                .filter(|(name, version)| b.get(*name) == Some(version))
                .map(|(name, version)| (name.clone(), version.clone()))
                .collect()
        };
        Self {
            behind: both(&self.behind, &later.behind),
            beyond: both(&self.beyond, &later.beyond),
        }
    }

    /// How many objects differ.
    pub fn len(&self) -> usize {
        self.behind.len() + self.beyond.len()
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(objects: &[(&str, &str)]) -> BTreeMap<Name, Version> {
        let each = objects.iter();
        each.map(|(n, v)| (("ns".to_owned(), (*n).to_owned()), Version((*v).into()))).collect()
    }

    fn held(objects: &[(&str, &str)]) -> Held {
        listed(objects).into_iter().map(|(name, version)| (name, (version, 0))).collect()
    }

    fn names(objects: &BTreeMap<Name, Version>) -> Vec<&str> {
        objects.keys().map(|(_, name)| name.as_str()).collect()
    }

    #[test]
    fn a_watch_that_is_ahead_of_the_list_has_not_drifted() {
        let ours = held(&[("a", "12"), ("new", "15")]);
        let listed = listed(&[("a", "9")]);
        assert!(Drift::between(&ours, &listed, "14").is_empty());
    }

    #[test]
    fn what_is_missing_old_or_left_over_is_drift() {
        let ours = held(&[("same", "5"), ("old", "6"), ("left-over", "7"), ("at", "20")]);
        let listed = listed(&[("same", "5"), ("old", "8"), ("missing", "9")]);
        let drift = Drift::between(&ours, &listed, "20");
        assert_eq!(names(&drift.behind), ["missing", "old"]);
        assert_eq!(names(&drift.beyond), ["at", "left-over"]);
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let drift = Drift::between(&held(&[("a", "10")]), &listed(&[("a", "9")]), "10");
        assert!(drift.is_empty(), "{drift:?}");
    }

    #[test]
    fn a_version_precedes_another_only_when_both_are_numbers() {
        assert!(precedes("9", "10"));
        assert!(!precedes("10", "9") && !precedes("9", "9"));
        assert!(!precedes("", "9") && !precedes("a", "b"));
    }

    #[test]
    fn only_what_does_not_move_lasts() {
        let first = Drift::between(&held(&[]), &listed(&[("late", "5"), ("lost", "6")]), "6");
        let caught_up = held(&[("late", "5")]);
        let second = Drift::between(&caught_up, &listed(&[("late", "5"), ("lost", "6")]), "7");
        assert_eq!(names(&first.lasting(&second).behind), ["lost"]);
    }
}
