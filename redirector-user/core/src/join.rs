//! Two maps side by side.

use std::collections::BTreeMap;

/// The full outer join of two maps: every key of either, in order, with what each
/// map has there.
pub fn outer<'m, K: Ord, V>(
    left: &'m BTreeMap<K, V>,
    right: &'m BTreeMap<K, V>,
) -> impl Iterator<Item = (&'m K, Option<&'m V>, Option<&'m V>)> {
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    std::iter::from_fn(move || {
        let key = match (left.peek(), right.peek()) {
            (Some((a, _)), Some((b, _))) => *a.min(b),
            (Some((key, _)), None) | (None, Some((key, _))) => *key,
            (None, None) => return None,
        };
        let left = left.next_if(|(other, _)| *other == key).map(|(_, value)| value);
        let right = right.next_if(|(other, _)| *other == key).map(|(_, value)| value);
        Some((key, left, right))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn every_key_of_either_comes_once_and_in_order_with_what_both_have(
            left: BTreeMap<u8, u8>, right: BTreeMap<u8, u8>,
        ) {
            let keys: BTreeSet<u8> = left.keys().chain(right.keys()).copied().collect();
            let wanted: Vec<_> =
                keys.iter().map(|key| (key, left.get(key), right.get(key))).collect();
            prop_assert_eq!(outer(&left, &right).collect::<Vec<_>>(), wanted);
        }
    }
}
