//! What the programs count.

/// Counts of everything that the programs decided: one entry of `TOTALS`, of
/// which there is one per stripe (see [`Limits::stripes`](super::Limits::stripes)); their sum counts.
/// Misses are not counted, so that they cost nothing.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Connections sent to an endpoint.
    pub routed: u64,
    /// Connections to a frontend that were left as they are.
    pub passed: u64,
    /// Connections refused, with or without a destination drawn.
    pub refused: u64,
    /// Decisions that depended on the source while the caller was in no known
    /// workload.
    pub unknown_source: u64,
    /// Hits of the daemon itself, left as they are.
    pub own: u64,
    /// Routed, and not remembered: connection memory was full, or the caller's
    /// share of it. `getpeername` shows the endpoint.
    pub memory_full: u64,
    /// Routed, and remembered in the overflow table.
    pub overflowed: u64,
    /// Routed, and not remembered: a subflow of an MPTCP connection.
    pub mptcp: u64,
}

/// Counts of one leg: an entry of `LEG_COUNTERS`, one per stripe and leg.
///
/// Keyed by the index of the leg alone: a leg keeps its index while it lives,
/// and the counts go on from whatever the index's last owner left.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LegCounters {
    /// Times the leg was drawn.
    pub chosen: u64,
    /// Of these, times that its destination had no endpoint.
    pub refused: u64,
}

/// What became of a leg's connections: an entry of `FLOW_COUNTERS`, by index of
/// the leg; written only while accounting is on.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowCounters {
    /// Handshakes completed.
    pub established: u64,
    /// Connections that ended without a handshake.
    pub failed: u64,
    /// Established connections that ended.
    pub closed: u64,
    /// Sum of the time from `connect` to the end of the handshake, in
    /// nanoseconds, over all `established`.
    pub handshake_ns: u64,
    /// Bytes that the other side has acknowledged, over all `closed`.
    pub sent: u64,
    /// Bytes received, over all `closed`.
    pub received: u64,
    /// Handshakes by their time: see [`handshake_bucket`].
    pub handshakes: [u32; HANDSHAKES],
}

/// How many classes of handshake times there are.
pub const HANDSHAKES: usize = 12;

/// The class of a handshake: class `n` is that of less than 32.768 us times 4 to
/// the `n`, the last that of all others.
#[inline(always)]
pub const fn handshake_bucket(nanoseconds: u64) -> usize {
    let bits = 64 - (nanoseconds >> 15).leading_zeros() as usize;
    let bucket = bits.div_ceil(2);
    if bucket < HANDSHAKES { bucket } else { HANDSHAKES - 1 }
}

/// The upper bound of a class in nanoseconds; none for the last.
pub const fn handshake_bound(bucket: usize) -> Option<u64> {
    if bucket + 1 < HANDSHAKES { Some(1 << (15 + 2 * bucket)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_is_below_the_bound_of_its_class_and_not_of_the_one_before() {
        for nanoseconds in (0..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit]) {
            let bucket = handshake_bucket(nanoseconds);
            assert!(handshake_bound(bucket).is_none_or(|bound| nanoseconds < bound));
            let before = bucket.checked_sub(1).and_then(handshake_bound);
            assert!(before.is_none_or(|bound| nanoseconds >= bound), "{nanoseconds}");
        }
    }
}
