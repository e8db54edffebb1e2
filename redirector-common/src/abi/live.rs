//! What the programs know of destinations and endpoints beyond one connection:
//! turns, counts of connections, failures.

use crate::decide::mix;

/// How many entries `LIVE` can have; entry 0 belongs to nobody.
pub const LIVES: u32 = 1 << 20;

/// How many entries lie in one of the arrays that `LIVE` is an array of, which are
/// made as they are needed: a power of two.
pub const LIVES_EACH: u32 = 1 << LIVES_EACH_BITS;

/// Which bits of an entry's number say where it lies in its array.
pub const LIVES_EACH_BITS: u32 = 14;

/// How many counts `SHARES` has, a power of two; count 0 is nobody's: the seed lies there
/// by which they are found ([`Live::share`]).
pub const SHARES: u32 = 65_536;

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
    /// Connections refused because the destination had as many as it may, or the
    /// caller his share of them.
    pub limited: u64,
    /// How many endpoints of this destination are ejected.
    pub ejected: u64,
    /// The entry of an endpoint's destination, in the lower half, and its stamp
    /// above: see [`Live::link`].
    pub parent: u64,
    /// Whose entry this is: [`Destination::owner`](super::Destination::owner) or
    /// [`Backend::owner`](super::Backend::owner).
    pub owner: u32,
    /// Connects of this endpoint that failed since the last that did not.
    pub failures: u32,
    /// How often it was ejected, less what it was forgiven since.
    pub ejections: u32,
    /// Whose these failures are: [`Connection::who`](super::Connection::who) of the
    /// first, or [`Live::SEVERAL`].
    pub failed_by: u32,
    /// Whose connect of this endpoint succeeded last, likewise.
    pub succeeded_by: u32,
    /// 1: this endpoint has left its destination, and no connection was sent to it since.
    /// Those from before count, and fail, no more for who may be ejected.
    pub left: u32,
    /// When that was, on the monotonic clock in nanoseconds, give or take 100 ms.
    pub succeeded_at: u64,
    /// When a connect of anybody else did, likewise; zero: never.
    pub other_at: u64,
    /// Failures that would have ejected this endpoint, if they were not all of one
    /// caller while others reach it.
    pub withheld: u64,
    /// Of those that were [`limited`](Self::limited), the ones whose caller had his
    /// share.
    pub unfair: u64,
    /// Zero.
    pub unused: [u64; 2],
}

impl Live {
    /// One connection, in the units of `word`. The stamp lies below the count,
    /// so that no count that goes wrong can touch it.
    pub const ONE: u64 = 1 << 16;

    /// [`failed_by`](Self::failed_by): more than one caller.
    pub const SEVERAL: u32 = u32::MAX;

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

    /// What [`parent`](Self::parent) is for an entry with this stamp.
    #[inline(always)]
    pub const fn link(number: u32, stamp: u16) -> u64 {
        number as u64 | (stamp as u64) << 32
    }

    /// Whether a destination that may have `most` connections, and has `count`, lets
    /// somebody have no other who has `mine` of them already: beyond three quarters
    /// nobody gets more than a quarter, so that who takes what there is leaves some
    /// for the others.
    #[inline(always)]
    pub const fn is_full(count: u64, mine: u64, most: u32) -> bool {
        let most = most as u64;
        count >= most || (count * 4 >= most * 3 && mine * 4 >= most)
    }

    /// Where in `SHARES` it is counted how many connections a caller has at a
    /// destination, by their [`Connection::who`](super::Connection::who) and
    /// [`Destination::owner`](super::Destination::owner): never 0. Others may be
    /// counted there, too; `seed` is that of the node, so that nobody knows who.
    #[inline(always)]
    pub const fn share(owner: u32, who: u32, seed: u32) -> u32 {
        let share = mix(owner ^ mix(who ^ seed)) % SHARES;
        if share == 0 { 1 } else { share }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_leaves_a_quarter_and_several_fill_it() {
        let admitted = |most: u32, callers: &[u64]| {
            let mut mine = vec![0; callers.len()];
            for (caller, tries) in callers.iter().enumerate() {
                for _ in 0..*tries {
                    let full = Live::is_full(mine.iter().sum(), mine[caller], most);
                    mine[caller] += u64::from(!full);
                }
            }
            mine
        };
        assert_eq!(admitted(10, &[40, 40]), [8, 2]);
        assert_eq!(admitted(100, &[200]), [75]);
        assert_eq!(admitted(100, &[200, 5, 200]), [75, 5, 20]);
        assert_eq!(admitted(100, &[20; 8]), [20, 20, 20, 20, 20, 0, 0, 0]);
        // Few are not divided.
        assert_eq!([1, 2, 3].map(|most| admitted(most, &[9])[0]), [1, 2, 3]);
        assert_eq!(admitted(0, &[9]), [0]);
        assert_eq!(admitted(u32::MAX, &[9]), [9]);
    }
}
