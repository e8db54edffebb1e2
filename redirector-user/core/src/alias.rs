//! Alias tables: a draw among weighted things with one random number.
//!
//! A table of `n` things has `n` slots of equal size. Slot `i` belongs to thing
//! `i` up to its threshold and to one other thing beyond it, so that every
//! thing has exactly its weight over the sum. The division is done in whole
//! numbers, without rounding; only the last step, [`Slot::threshold`], cuts a
//! fraction to 32 bits.
//!
//! Bias: each slot's place in a 32-bit draw and each threshold are off by less
//! than one part in 2^32, so the share of a thing is off by less than `n` parts
//! in 2^32. A thing of weight zero is never drawn.

use redirector_common::decide::shares::of_slots;

/// A slot, in whole numbers: of `sum` parts the first `keep` belong to the
/// slot's own thing, the rest to thing `alias`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// The parts of the slot's own thing; at most the sum of all weights.
    pub keep: u128,
    /// Whom the other parts belong to; the slot itself when there are none.
    pub alias: u32,
}

/// The slots for these weights, in their order, and the sum of the weights;
/// `None` when the sum is zero, so that nothing could be drawn.
///
/// There may be up to 65,536 weights (in fact up to 2^32) of any size.
pub fn table(weights: &[u64]) -> Option<(Vec<Slot>, u128)> {
    let count = weights.len() as u128;
    let sum: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    if sum == 0 {
        return None;
    }
    // In parts of 1/sum of a slot: thing i has weight_i * count of them, and
    // every slot holds sum. Below 2^64 * 2^32.
    let mut parts: Vec<u128> = weights.iter().map(|weight| u128::from(*weight) * count).collect();
    let mut slots: Vec<Slot> =
        (0..weights.len()).map(|index| Slot { keep: sum, alias: index as u32 }).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) =
        (0..weights.len()).rev().partition(|&index| parts[index] < sum);
    // The things that are larger than a slot fill up those that are smaller.
    // The sum over all parts is count * sum, so neither list ends early: while
    // one slot has room some other thing has too much.
    while let (Some(under), Some(&over)) = (small.pop(), large.last()) {
        slots[under] = Slot { keep: parts[under], alias: over as u32 };
        parts[over] -= sum - parts[under];
        if parts[over] < sum {
            large.pop();
            small.push(over);
        }
    }
    Some((slots, sum))
}

impl Slot {
    /// The slot for a draw of 32 bits: below the threshold it keeps its own
    /// thing. A slot without parts of others names itself as the other, so
    /// that the highest draw, which no threshold covers, is its own too.
    pub const fn threshold(self, sum: u128) -> u32 {
        if self.keep >= sum {
            return u32::MAX;
        }
        // keep < sum < 2^80, so the shift stays within 112 bits.
        ((self.keep << 32) / sum) as u32
    }
}

/// The way back: the share of each slot's own thing in a draw, out of thresholds
/// and aliases; six decimals.
pub fn shares(slots: &[(u32, u32)]) -> Vec<f64> {
    let shares = of_slots(slots.iter().map(|slot| Some(*slot)));
    shares.into_iter().map(|share| (share * 1e6).round() / 1e6).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What everything has in all slots together, in parts of 1/sum of a slot.
    fn shares(slots: &[Slot], sum: u128) -> Vec<u128> {
        let mut shares = vec![0; slots.len()];
        for (index, slot) in slots.iter().enumerate() {
            assert!(slot.keep <= sum, "a slot holds no more than itself");
            shares[index] += slot.keep;
            shares[slot.alias as usize] += sum - slot.keep;
        }
        shares
    }

    fn assert_exact(weights: &[u64]) {
        let Some((slots, sum)) = table(weights) else {
            assert!(weights.iter().all(|weight| *weight == 0));
            return;
        };
        let wanted: Vec<u128> =
            weights.iter().map(|weight| u128::from(*weight) * weights.len() as u128).collect();
        assert_eq!(shares(&slots, sum), wanted);
        for (index, slot) in slots.iter().enumerate() {
            if weights[index] == 0 {
                assert_eq!(slot.threshold(sum), 0, "thing {index} of weight zero is drawn");
            }
            let keeps = slot.threshold(sum) != u32::MAX;
            assert!(!keeps || weights[slot.alias as usize] > 0 || slot.alias as usize == index);
        }
    }

    #[test]
    fn thresholds_are_off_by_less_than_one_part_in_two_to_the_32() {
        let (slots, sum) = table(&[80, 20]).expect("the sum is not zero");
        let share = |index: usize| f64::from(slots[index].threshold(sum)) / 2f64.powi(32);
        assert_eq!(slots[0].keep, sum);
        assert!((share(1) - 0.4).abs() < 2f64.powi(-32));
        assert_eq!(slots[1].alias, 0);
    }

    #[test]
    fn the_largest_table_of_the_largest_weights_is_exact() {
        let mut weights = vec![u64::MAX; 65_536];
        weights[7] = 0;
        weights[8] = 1;
        assert_exact(&weights);
    }

    #[test]
    fn each_table_of_up_to_six_weights_below_six_is_exact() {
        let mut tables = 0;
        for count in 1..=6_u32 {
            for number in 0..6_u64.pow(count) {
                let weights: Vec<u64> = (0..count).map(|at| number / 6_u64.pow(at) % 6).collect();
                assert_exact(&weights);
                tables += 1;
            }
        }
        println!("figure: {tables} alias tables, each exact");
    }

    #[test]
    fn nothing_can_be_drawn_from_zero_weights() {
        assert_eq!(table(&[]), None);
        assert_eq!(table(&[0, 0]), None);
    }

    proptest! {
        #[test]
        fn a_table_holds_exactly_the_weights(weights in prop::collection::vec(
            prop_oneof![Just(0), 1..5u64, 0..1000u64, any::<u64>()], 0..80,
        )) {
            assert_exact(&weights);
        }
    }
}
