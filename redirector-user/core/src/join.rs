//! Two maps side by side.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;

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

/// Compares a piece of two maps, of which the second is used up by that: entries beyond
/// `after`, and no more than `most`, which becomes less by them. Says which keys have
/// something else, and returns whether that was the last piece.
pub fn compare<K: Ord + Clone, V: PartialEq>(
    kept: &BTreeMap<K, V>,
    made: &mut BTreeMap<K, V>,
    after: &mut Option<K>,
    most: &mut usize,
    mut differs: impl FnMut(K, Option<V>),
) -> bool {
    let begin = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
    let mut kept = kept.range((begin, Bound::Unbounded)).peekable();
    let mut last = None;
    let is_over = loop {
        let order = match (kept.peek(), made.first_key_value()) {
            (None, None) => break true,
            (Some((there, _)), Some((here, _))) => (*there).cmp(here),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
        };
        if *most == 0 {
            break false;
        }
        *most -= 1;
        let there = if order.is_le() { kept.next() } else { None };
        let (key, value) = match if order.is_ge() { made.pop_first() } else { None } {
            Some((key, value)) => (Some(key), Some(value)),
            None => (there.map(|(key, _)| key.clone()), None),
        };
        if there.map(|(_, value)| value) != value.as_ref()
            && let Some(key) = &key
        {
            differs(key.clone(), value);
        }
        last = key;
    };
    *after = last.or(after.take());
    is_over
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

        #[test]
        fn a_comparison_in_pieces_finds_what_one_at_once_does(
            kept: BTreeMap<u8, u8>, made: BTreeMap<u8, u8>, piece in 1_usize..20,
        ) {
            let differing = outer(&kept, &made).filter(|(_, kept, made)| kept != made);
            let wanted: Vec<_> = differing.map(|(key, _, made)| (*key, made.copied())).collect();
            let (mut left, mut after, mut found) = (made.clone(), None, Vec::new());
            let mut pieces = 0;
            loop {
                let (before, mut most) = (found.len(), piece);
                let is_over =
                    compare(&kept, &mut left, &mut after, &mut most, |k, v| found.push((k, v)));
                prop_assert!(found.len() - before <= piece);
                pieces += 1;
                if is_over {
                    break;
                }
                prop_assert_eq!(most, 0);
            }
            prop_assert_eq!(found, wanted);
            prop_assert!(left.is_empty());
            prop_assert!((pieces - 1) * piece <= outer(&kept, &made).count());
        }
    }
}
