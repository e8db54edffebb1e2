//! Choosing an endpoint where the policy says more than "by weight".

use super::{Caller, DraftKind, Tables, resolve, spread};
use crate::abi::{Destination, IDENTITY_UNKNOWN, Side, policy};

/// How many more times an endpoint is drawn when one is ejected.
pub(super) const REDRAWS: u32 = 8;

/// How many endpoints are then looked at one after the other.
pub(super) const SCAN: u32 = 64;

/// The numbers that an even sequence is made of: 2^32 over the golden ratio.
const GOLDEN: u32 = 0x9e37_79b9;

/// Spreads the bits of a number: the finaliser of MurmurHash3.
#[inline(always)]
pub const fn mix(number: u32) -> u32 {
    let mut mixed = number;
    mixed = (mixed ^ (mixed >> 16)).wrapping_mul(0x85eb_ca6b);
    mixed = (mixed ^ (mixed >> 13)).wrapping_mul(0xc2b2_ae35);
    mixed ^ (mixed >> 16)
}

/// The number by which a source's connections keep to an endpoint, evenly distributed and
/// other on other nodes (`seed`): of a workload by its identity, of a caller in none by the
/// cookie of its network namespace.
#[inline(always)]
pub fn affinity(seed: u32, identity: u32, netns: impl FnOnce() -> u64) -> u32 {
    let key = match identity {
        // No identity is that large.
        IDENTITY_UNKNOWN => mix(netns() as u32) | 1 << 31,
        identity => identity,
    };
    mix(mix(key ^ seed).wrapping_add(key))
}

/// Who is counted that is in no known workload, by the cgroup by which he is told apart
/// from others: see [`Connection::who`](crate::abi::Connection::who).
#[inline(always)]
pub const fn stranger(cgroup: u32) -> u32 {
    // No identity is that large.
    cgroup | 1 << 31
}

/// What [`choose`] chose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// `Route`, `RefuseLeg` or `Limited`.
    pub kind: DraftKind,
    /// Index of the backend within the side, for `Route`.
    pub backend: u32,
}

/// Chooses an endpoint where the policy says more than "by weight"; the
/// destination must have endpoints.
#[inline(always)]
pub fn choose<T: Tables, C: Caller>(
    tables: &T,
    side: Side,
    destination: &Destination,
    caller: &mut C,
) -> Chosen {
    let none = Chosen { kind: DraftKind::RefuseLeg, backend: 0 };
    let (count, live) = (destination.count, destination.live);
    let algorithm = destination.policy & policy::ALGORITHM;
    let mut draw = 0;
    let at = if count < 2 {
        (0, 0)
    } else if algorithm == policy::ROUND_ROBIN {
        // Each round visits every slot; what the slots hold of others comes in
        // as evenly as can be over the rounds.
        let turn = caller.turn(live);
        (turn % count, (turn / count).wrapping_mul(GOLDEN))
    } else {
        draw = if algorithm == policy::SOURCE_HASH { caller.affinity() } else { caller.draw() };
        spread(draw, count)
    };
    let Some((mut index, mut backend)) = resolve(tables, side, destination, at) else {
        return none;
    };
    if algorithm == policy::LEAST_REQUEST && count > 1 {
        let at = spread(caller.draw(), count);
        let Some((other, rival)) = resolve(tables, side, destination, at) else { return none };
        if caller.active(rival.live) < caller.active(backend.live) {
            (index, backend) = (other, rival);
        }
    }
    if destination.policy & policy::EJECTING != 0 && caller.is_ejected(live, backend.live) {
        let mut found = false;
        for _ in 0..REDRAWS {
            // The same source comes to the same other endpoint.
            draw = if algorithm == policy::SOURCE_HASH { mix(draw) } else { caller.draw() };
            let at = spread(draw, count);
            let Some((other, another)) = resolve(tables, side, destination, at) else {
                return none;
            };
            if !caller.is_ejected(live, another.live) {
                (index, found) = (other, true);
                break;
            }
        }
        if !found {
            // Few are left: the next one, beginning where the last draw was.
            let (start, _) = spread(draw, count);
            for step in 1..=SCAN {
                if step > count {
                    break;
                }
                let slot = start.wrapping_add(step) % count;
                let at = destination.first.wrapping_add(slot);
                let Some(other) = tables.backend(side, at) else { return none };
                if !caller.is_ejected(live, other.live) {
                    (index, found) = (at, true);
                    break;
                }
            }
        }
        // Of more than were looked at, one that is ejected is better than none.
        if !found && count <= SCAN {
            return none;
        }
    }
    if destination.policy & policy::LIMITED != 0 && !caller.admit(destination) {
        return Chosen { kind: DraftKind::Limited, backend: index };
    }
    Chosen { kind: DraftKind::Route, backend: index }
}
