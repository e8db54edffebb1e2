//! Ranges of an array that are given out and come back.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::stepped::Stepping;
use super::{Full, Table};

/// Gives out ranges. A range that comes back waits for the next step, so that
/// nothing is ever overwritten in the step that frees it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub(super) struct Ranges {
    /// Everything from here on was never given out.
    end: u32,
    /// Free ranges below: length by start. No two touch.
    free: BTreeMap<u32, u32>,
    /// The same, by length and start.
    #[serde(skip)]
    by_size: BTreeSet<(u32, u32)>,
    /// Came back in this step: start and length.
    waiting: Vec<(u32, u32)>,
    /// How many entries are given out.
    used: u64,
    /// What takes this step back.
    #[serde(skip)]
    before: Option<Before>,
}

/// What a step changes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct RangesChange {
    end: u32,
    /// As [`Before::gaps`].
    gaps: Vec<(bool, u32, u32)>,
    waiting: Vec<(u32, u32)>,
    used: u64,
}

/// [`Ranges`] as they are written down.
#[derive(Deserialize)]
struct Stored {
    end: u32,
    free: BTreeMap<u32, u32>,
    waiting: Vec<(u32, u32)>,
    used: u64,
}

impl From<Stored> for Ranges {
    fn from(Stored { end, free, waiting, used }: Stored) -> Self {
        let by_size = free.iter().map(|(first, size)| (*size, *first)).collect();
        Self { end, free, by_size, waiting, used, before: None }
    }
}

impl RangesChange {
    /// Whether no gap came or went.
    pub(super) fn is_empty(&self) -> bool {
        self.gaps.is_empty()
    }
}

/// What there was when a step began.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Before {
    end: u32,
    waiting: Vec<(u32, u32)>,
    used: u64,
    /// The gaps that came (`true`) and went since, in their order: start and length.
    gaps: Vec<(bool, u32, u32)>,
}

impl Ranges {
    /// What this step changes.
    pub(super) fn change(&self) -> RangesChange {
        let gaps = self.before.as_ref().map(|before| before.gaps.clone()).unwrap_or_default();
        RangesChange { end: self.end, gaps, waiting: self.waiting.clone(), used: self.used }
    }

    /// Makes them what they were after a step that changed this.
    pub(super) fn follow(&mut self, change: RangesChange) {
        for (came, first, size) in change.gaps {
            match came {
                true => self.keep(first, size),
                false => self.forget(first, size),
            }
        }
        (self.end, self.waiting, self.used) = (change.end, change.waiting, change.used);
    }

    /// Takes a range of `count` entries below `capacity`, out of the smallest
    /// gap that it fits into.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    pub(super) fn take(&mut self, count: u32, capacity: u32, table: Table) -> Result<u32, Full> {
        if count == 0 {
            return Ok(0);
        }
        let gap = self.by_size.range((count, 0)..).next().copied();
        let first = match gap {
            Some((size, first)) => {
                self.forget(first, size);
                if size > count {
                    self.keep(first + count, size - count);
                }
                first
            }
            None => match self.end.checked_add(count).filter(|end| *end <= capacity) {
                Some(end) => std::mem::replace(&mut self.end, end),
                None => {
                    return Err(Full { table, needed: self.used + u64::from(count), capacity });
                }
            },
        };
        self.used += u64::from(count);
        Ok(first)
    }

    pub(super) fn free(&mut self, first: u32, count: u32) {
        if count > 0 {
            self.used = self.used.saturating_sub(u64::from(count));
            self.waiting.push((first, count));
        }
    }

    fn keep(&mut self, first: u32, size: u32) {
        self.free.insert(first, size);
        self.by_size.insert((size, first));
        self.note(true, first, size);
    }

    fn forget(&mut self, first: u32, size: u32) {
        self.free.remove(&first);
        self.by_size.remove(&(size, first));
        self.note(false, first, size);
    }

    fn note(&mut self, came: bool, first: u32, size: u32) {
        if let Some(before) = &mut self.before {
            before.gaps.push((came, first, size));
        }
    }

    /// Puts a range back, joining it with its neighbours.
    fn release(&mut self, mut first: u32, mut count: u32) {
        if let Some((&before, &size)) = self.free.range(..first).next_back()
            && before + size == first
        {
            self.forget(before, size);
            (first, count) = (before, count + size);
        }
        if let Some(&size) = self.free.get(&(first + count)) {
            self.forget(first + count, size);
            count += size;
        }
        if first + count == self.end {
            self.end = first;
        } else {
            self.keep(first, count);
        }
    }
}

impl Stepping for Ranges {
    fn begin_step(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let (end, used) = (self.end, self.used);
        self.before = Some(Before { end, waiting: waiting.clone(), used, gaps: Vec::new() });
        for (first, count) in waiting {
            self.release(first, count);
        }
    }

    fn settle(&mut self) {
        self.before = None;
    }

    fn take_back(&mut self) {
        let Some(before) = self.before.take() else { return };
        for (came, first, size) in before.gaps.iter().rev().copied() {
            match came {
                true => self.forget(first, size),
                false => self.keep(first, size),
            }
        }
        (self.end, self.waiting, self.used) = (before.end, before.waiting, before.used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_range_comes_again_in_a_later_step_only_and_joins_its_neighbours() {
        let mut ranges = Ranges::default();
        let take = |ranges: &mut Ranges, count| ranges.take(count, 10, Table::Legs).ok();
        let all = [take(&mut ranges, 3), take(&mut ranges, 3), take(&mut ranges, 2)];
        assert_eq!(all, [Some(0), Some(3), Some(6)]);
        ranges.begin_step();
        ranges.free(0, 3);
        ranges.free(3, 3);
        assert_eq!(take(&mut ranges, 3), None, "both wait for the next step");
        ranges.begin_step();
        assert_eq!(take(&mut ranges, 6), Some(0), "they became one");
    }

    /// What is given out, with the rest of the state in an order of its own.
    type Used = BTreeSet<(u32, u32)>;

    /// Each entry below the end is given out, waits or is free, once; no two gaps touch, none
    /// is at the end, and both ways to look for one have the same.
    fn assert_whole(ranges: &Ranges, used: &Used) {
        let mut parts: Vec<(u32, u32)> = used.iter().copied().collect();
        parts.extend(&ranges.waiting);
        parts.extend(ranges.free.iter().map(|(first, size)| (*first, *size)));
        parts.sort_unstable();
        let end = parts
            .iter()
            .try_fold(0, |end, (first, count)| (*first == end).then_some(first + count));
        assert_eq!(end, Some(ranges.end), "{ranges:?} {used:?}");
        let is_gap = |at| ranges.free.contains_key(&at) || at == ranges.end;
        assert!(!ranges.free.iter().any(|(first, size)| is_gap(first + size)), "{ranges:?}");
        let by_size: BTreeSet<_> = ranges.free.iter().map(|(at, size)| (*size, *at)).collect();
        assert_eq!(by_size, ranges.by_size);
        assert_eq!(ranges.used, used.iter().map(|(_, count)| u64::from(*count)).sum::<u64>());
    }

    /// Takes a range, and holds what came of it against all that there is.
    fn take(ranges: &mut Ranges, used: &mut Used, count: u32, capacity: u32) {
        let fits = |size: &&u32| **size >= count;
        let smallest = ranges.free.values().filter(fits).min().copied();
        let before = ranges.clone();
        match ranges.take(count, capacity, Table::Legs) {
            Ok(first) => {
                let at = before.free.get(&first);
                assert_eq!(at.copied(), smallest, "the smallest gap: {before:?}, {count}");
                assert!(at.is_some() || first == before.end, "{before:?}: {first}");
                used.insert((first, count));
            }
            Err(full) => {
                assert!(smallest.is_none() && before.end + count > capacity, "{before:?}");
                assert_eq!(full.needed, before.used + u64::from(count));
                assert_eq!(*ranges, before, "what does not fit leaves nothing");
            }
        }
        assert!(ranges.end <= capacity);
        assert_whole(ranges, used);
    }

    #[test]
    fn each_step_from_each_way_to_share_out_few_entries_keeps_them_apart() {
        const CAPACITY: u32 = 5;
        let mut seen = BTreeSet::new();
        let mut open = vec![(Ranges::default(), Used::new())];
        let mut steps = 0;
        while let Some((ranges, used)) = open.pop() {
            let waiting = ranges.waiting.iter().copied().collect::<Used>();
            if !seen.insert((ranges.end, ranges.free.clone(), waiting, used.clone())) {
                continue;
            }
            let mut begun = ranges.clone();
            begun.begin_step();
            assert_whole(&begun, &used);
            for which in 0..1 << used.len() {
                let mut freed = (begun.clone(), Used::new());
                for (bit, range) in used.iter().enumerate() {
                    match which >> bit & 1 {
                        1 => freed.0.free(range.0, range.1),
                        _ => drop(freed.1.insert(*range)),
                    }
                }
                // Two ranges, or one or none.
                for sizes in 0..(CAPACITY + 2).pow(2) {
                    let (mut after, mut has) = freed.clone();
                    for count in [sizes % (CAPACITY + 2), sizes / (CAPACITY + 2)] {
                        if count > 0 {
                            take(&mut after, &mut has, count, CAPACITY);
                        }
                    }
                    steps += 1;
                    let mut back = after.clone();
                    back.take_back();
                    assert_eq!(back, ranges, "a step that is taken back leaves nothing");
                    let change = after.change();
                    after.settle();
                    let mut follows = ranges.clone();
                    follows.follow(change);
                    assert_eq!(follows, after, "who follows the change has the same");
                    open.push((after, has));
                }
            }
        }
        println!("figure: {} ways to share out {CAPACITY} entries, {steps} steps", seen.len());
    }

    proptest! {
        #[test]
        fn ranges_in_use_never_overlap(steps in prop::collection::vec(
            (prop::collection::vec(1..20u32, 0..6), any::<u64>()), 1..30,
        )) {
            let mut ranges = Ranges::default();
            let mut used: Vec<(u32, u32)> = Vec::new();
            for (sizes, picks) in steps {
                // A step that is taken back leaves nothing.
                let before = ranges.clone();
                ranges.begin_step();
                for (first, count) in used.iter().step_by(2) {
                    ranges.free(*first, *count);
                }
                for count in &sizes {
                    let _ = ranges.take(*count, 500, Table::Legs);
                }
                ranges.take_back();
                prop_assert_eq!(&ranges, &before);
                ranges.begin_step();
                let mut freed = Vec::new();
                let mut bit = 0;
                used.retain(|range| {
                    bit += 1;
                    let keep = picks >> (bit % 64) & 1 == 1;
                    if !keep {
                        freed.push(*range);
                    }
                    keep
                });
                for (first, count) in &freed {
                    ranges.free(*first, *count);
                }
                for count in sizes {
                    let Ok(first) = ranges.take(count, 500, Table::Legs) else { continue };
                    prop_assert!(first + count <= 500);
                    for (other, size) in used.iter().chain(&freed) {
                        prop_assert!(first + count <= *other || other + size <= first);
                    }
                    used.push((first, count));
                }
                ranges.settle();
            }
        }
    }
}
