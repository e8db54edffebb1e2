//! The slots of a destination whose endpoints are chosen by a hash of the
//! source: each endpoint has as many as it weighs, and keeps them.
//!
//! A slot goes to the endpoint with the best score of all, by a hash of both
//! (weighted rendezvous): when an endpoint goes, only its own slots move; one
//! that comes takes its share of every other's and nothing else moves.

use std::hash::Hasher;

use rustc_hash::FxHasher;

use crate::plan::Endpoint;
use crate::rendezvous::score;

/// The fewest slots: Istio's default for a ring.
const FEWEST: usize = 1024;

/// The most.
const MOST: usize = 16_384;

/// So many slots for each endpoint keep the shares near the weights.
const FOR_EACH: usize = 16;

/// How many slots so many endpoints have. A power of two that grows seldom,
/// because growing moves everything.
pub(super) fn size(endpoints: usize) -> usize {
    if endpoints < 2 {
        return endpoints;
    }
    endpoints.saturating_mul(FOR_EACH).next_power_of_two().clamp(FEWEST, MOST)
}

/// For each slot the place of its endpoint.
pub(super) fn slots(endpoints: &[Endpoint]) -> Vec<usize> {
    let size = size(endpoints.len());
    let seeds: Vec<u64> = endpoints.iter().map(seed).collect();
    let even = endpoints.windows(2).all(|pair| pair[0].weight == pair[1].weight);
    let best = |slot: u64| {
        let hashes = seeds.iter().map(|seed| mix(seed ^ slot.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        if even {
            return hashes.enumerate().max_by_key(|(_, hash)| *hash).map(|(place, _)| place);
        }
        let scores = hashes.zip(endpoints).map(|(hash, endpoint)| score(hash, endpoint.weight));
        scores.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(place, _)| place)
    };
    (0..size as u64).map(|slot| best(slot).unwrap_or(0)).collect()
}

/// A number for an endpoint, the same whatever others there are.
fn seed(endpoint: &Endpoint) -> u64 {
    let mut hasher = FxHasher::default();
    let address = redirector_common::addr::Addr::from(endpoint.address.ip());
    hasher.write(&address.to_bits().to_be_bytes());
    hasher.write_u16(endpoint.address.port());
    mix(hasher.finish())
}

/// The finaliser of SplitMix64.
const fn mix(number: u64) -> u64 {
    let mut z = number;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(weights: &[u64]) -> Vec<Endpoint> {
        let endpoint = |(host, weight): (u8, &u64)| Endpoint {
            address: ([10, 0, 0, host], 80).into(),
            weight: *weight,
        };
        (1..).zip(weights).map(endpoint).collect()
    }

    #[test]
    fn each_endpoint_has_its_share_of_the_slots() {
        for weights in [[1, 1, 1, 1], [1, 2, 3, 4]] {
            let slots = slots(&endpoints(&weights));
            assert_eq!(slots.len(), FEWEST);
            let sum: u64 = weights.iter().sum();
            for (place, weight) in weights.iter().enumerate() {
                let share = slots.iter().filter(|slot| **slot == place).count() as f64;
                let p = *weight as f64 / sum as f64;
                let (mean, sigma) = (p * 1024.0, (1024.0 * p * (1.0 - p)).sqrt());
                assert!((share - mean).abs() < 4.0 * sigma, "{weights:?} {place}: {share}");
            }
        }
    }

    #[test]
    fn only_the_slots_of_an_endpoint_that_goes_or_comes_move() {
        for weights in [vec![1; 10], (1..=10).collect()] {
            let all = endpoints(&weights);
            let before = slots(&all);
            for gone in 0..all.len() {
                let mut left = all.clone();
                left.remove(gone);
                let after = slots(&left);
                for (before, after) in before.iter().zip(&after) {
                    if *before != gone {
                        assert_eq!(all[*before], left[*after], "a slot of another moved");
                    }
                }
            }
        }
    }

    #[test]
    fn many_endpoints_all_have_a_slot_and_one_needs_no_choice() {
        assert_eq!(slots(&endpoints(&[7])), [0]);
        assert_eq!(slots(&[]), [0; 0]);
        let slots = slots(&endpoints(&[1; 200]));
        let with: std::collections::BTreeSet<usize> = slots.iter().copied().collect();
        assert_eq!((slots.len(), with.len()), (4096, 200));
    }
}
