//! What the programs know of destinations and endpoints beyond one connection:
//! turns, counts of connections, failures.

/// How many entries `LIVE` has; entry 0 belongs to nobody.
pub const LIVES: u32 = 65_536;

/// What is known of a destination, or of an endpoint of one: an entry of
/// `LIVE`, by [`Destination::live`](super::Destination::live) or
/// [`Backend::live`](super::Backend::live). Only those have one whose policy
/// needs it. Lies outside of the two sides and of connection memory, with a version
/// of its own ([`LIVE_LAYOUT`](super::LIVE_LAYOUT)), so that it outlives changes,
/// upgrades and downgrades.
///
/// The daemon renews an entry before a side that gives it to another owner comes
/// in force: it sets a new stamp, so that connections of the earlier owner do
/// not count on the new one.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Live {
    /// Stamp and count of connections: see [`Live::connections`].
    pub word: u64,
    /// Endpoints taken in turn: how often.
    pub turn: u64,
    /// Until when this endpoint is ejected, on the monotonic clock in
    /// nanoseconds; zero when it is not.
    pub ejected_until: u64,
    /// When it was last taken back, likewise.
    pub returned: u64,
    /// Connections refused because the destination had as many as it may.
    pub limited: u64,
    /// Whose entry this is: [`Destination::owner`](super::Destination::owner) or
    /// [`Backend::owner`](super::Backend::owner).
    pub owner: u32,
    /// The entry of an endpoint's destination, in the lower half, and its stamp.
    pub parent: u32,
    /// Connects of this endpoint that failed since the last that did not.
    pub failures: u32,
    /// How often it was ejected, less what it was forgiven since.
    pub ejections: u32,
    /// How many endpoints of this destination are ejected.
    pub ejected: u64,
}

impl Live {
    /// One connection, in the units of `word`. The stamp lies below the count,
    /// so that no count that goes wrong can touch it.
    pub const ONE: u64 = 1 << 16;

    /// How many connections there are. A count below zero, which only lasts for
    /// as long as a program needs to take back what it took from another owner,
    /// is none.
    #[inline(always)]
    pub const fn connections(word: u64) -> u64 {
        let count = (word as i64) >> 16;
        if count < 0 { 0 } else { count as u64 }
    }

    /// The stamp of the owner.
    #[inline(always)]
    pub const fn stamp(word: u64) -> u16 {
        word as u16
    }
}
