//! Weighted rendezvous: of several things the one with the highest score is
//! chosen, so that one that comes or goes moves nothing between the others.

/// The score of a thing of this weight, of an evenly spread hash of it and of
/// who chooses. The highest falls on each in proportion to its weight.
pub fn score(hash: u64, weight: u64) -> f64 {
    // Evenly spread in (0, 1].
    let unit = ((hash >> 11) + 1) as f64 / (1_u64 << 53) as f64;
    // Zero is never chosen, even where the other factor is infinite.
    if weight == 0 { 0.0 } else { weight as f64 / -unit.ln() }
}
