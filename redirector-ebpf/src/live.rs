//! What is known of destinations and endpoints: turns, counts, failures.
//!
//! An entry may get another owner only when no program reads tables that give
//! it to the earlier one. What outlasts the lookups, a connection, keeps the
//! entry's stamp, and takes nothing from an owner with another.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::helpers::bpf_ktime_get_ns;
use redirector_common::abi::{Destination, LIVES_EACH, LIVES_EACH_BITS, Live};

use crate::atomic::{add, fetch_add, fetch_add_half, replace};
use crate::maps::{CONTROL, LIVE, SHARES};

const MINUS_ONE: u64 = 1_u64.wrapping_neg();
const PER_MILLISECOND: u64 = 1_000_000;

/// The longest ejection, as Envoy's `max_ejection_time`: unless the base time
/// is longer.
const LONGEST_MS: u64 = 300_000;

#[inline(always)]
fn entry(number: u32) -> Option<*mut Live> {
    if number == 0 {
        return None;
    }
    LIVE.get_value_ptr_mut(number >> LIVES_EACH_BITS, &(number & (LIVES_EACH - 1)))
}

/// The turn of a destination.
#[inline(always)]
pub fn turn(destination: u32) -> u32 {
    let Some(live) = entry(destination) else { return 0 };
    // SAFETY: a pointer that the map gave is valid and aligned, and so is one to
    // its field; everybody accesses the word atomically. As everywhere below.
    unsafe { fetch_add(addr_of_mut!((*live).turn), 1) as u32 }
}

/// How many connections an entry's owner has.
#[inline(always)]
pub fn active(number: u32) -> u64 {
    let Some(live) = entry(number) else { return 0 };
    // SAFETY: as above; the word is read at once.
    Live::connections(unsafe { addr_of!((*live).word).read_volatile() })
}

/// Counts a connection on a destination with a limit, unless there are as many
/// already, or the caller has his share of them.
#[inline(always)]
pub fn admit(destination: &Destination, who: u32) -> bool {
    rd_admit(destination.live, destination.owner, destination.max_connections, who) != 0
}

/// As [`admit`]: a function that the verifier looks at once, and not for each of the ways
/// on which an endpoint is found.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn rd_admit(number: u32, owner: u32, most: u32, who: u32) -> u32 {
    let Some(control) = CONTROL.get_ptr(0) else { return 1 };
    // SAFETY: the map's entry is valid; the word is read at once.
    let seed = unsafe { addr_of!((*control).seed).read_volatile() };
    let Some(live) = entry(number) else { return 1 };
    let Some(share) = SHARES.get_ptr_mut(Live::share(owner, who, seed)) else { return 1 };
    // SAFETY: as above.
    unsafe {
        let mine = fetch_add(share, 1);
        let before = fetch_add(addr_of_mut!((*live).word), Live::ONE);
        let count = Live::connections(before);
        if !Live::is_full(count, mine, most) {
            return 1;
        }
        fetch_add(addr_of_mut!((*live).word), Live::ONE.wrapping_neg());
        fetch_add(share, MINUS_ONE);
        add(addr_of_mut!((*live).limited), 1);
        if count < u64::from(most) {
            add(addr_of_mut!((*live).unfair), 1);
        }
    }
    0
}

/// Takes a connection back that was counted by the same program, so that the
/// owner is the same.
#[inline(always)]
pub fn dismiss(number: u32, share: u32) {
    rd_dismiss(number, share);
}

/// As [`dismiss`], looked at once by the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn rd_dismiss(number: u32, share: u32) -> u32 {
    if let Some(live) = entry(number) {
        // SAFETY: as above.
        unsafe { add(addr_of_mut!((*live).word), Live::ONE.wrapping_neg()) };
    }
    give_back(share);
    0
}

/// A connection that was counted for its caller is over, or was not made.
#[inline(always)]
pub fn give_back(share: u32) {
    if share != 0
        && let Some(share) = SHARES.get_ptr_mut(share)
    {
        // SAFETY: as above.
        unsafe { add(share, MINUS_ONE) };
    }
}

/// Counts a connection on an endpoint, and on its destination unless that has
/// admitted it already. Returns the endpoint's stamp.
#[inline(always)]
pub fn count(destination: u32, endpoint: u32, admitted: bool) -> u16 {
    let (Some(parent), Some(live)) = (entry(destination), entry(endpoint)) else { return 0 };
    // SAFETY: as above.
    unsafe {
        let of_parent = if admitted {
            addr_of!((*parent).word).read_volatile()
        } else {
            fetch_add(addr_of_mut!((*parent).word), Live::ONE)
        };
        let link = Live::link(destination, Live::stamp(of_parent));
        addr_of_mut!((*live).parent).write_volatile(link);
        if addr_of!((*live).left).read_volatile() != 0 {
            addr_of_mut!((*live).left).write_volatile(0);
        }
        Live::stamp(fetch_add(addr_of_mut!((*live).word), Live::ONE))
    }
}

/// Takes a connection from an owner with this stamp. Says whether it was that
/// owner's.
#[inline(always)]
fn take(number: u32, stamp: u16) -> bool {
    let Some(live) = entry(number) else { return false };
    // SAFETY: as above.
    unsafe {
        let word = addr_of_mut!((*live).word);
        if Live::stamp(word.read_volatile()) != stamp {
            return false;
        }
        // The daemon may have come in between.
        if Live::stamp(fetch_add(word, Live::ONE.wrapping_neg())) != stamp {
            add(word, Live::ONE);
            return false;
        }
    }
    true
}

/// A connection that was counted is over.
#[inline(always)]
pub fn gone(endpoint: u32, stamp: u16) {
    let Some(live) = entry(endpoint) else { return };
    // Read before: the daemon may renew the entry as soon as the connection is taken, and
    // then does not count it among those that it takes from the destination.
    // SAFETY: as above.
    let parent = unsafe { addr_of!((*live).parent).read_volatile() };
    // What the endpoint had when it lost its entry, the daemon has taken from
    // its destination.
    if take(endpoint, stamp) {
        take(parent as u32, (parent >> 32) as u16);
    }
}

/// Whether an endpoint belongs to a destination, by their entries: one that has left it, so
/// that it is never asked whether its time is over, would count as ejected for ever.
#[inline(always)]
pub fn is_of(endpoint: u32, destination: u32) -> bool {
    let Some(live) = entry(endpoint) else { return false };
    // SAFETY: as above.
    unsafe {
        addr_of!((*live).left).read_volatile() == 0
            && addr_of!((*live).parent).read_volatile() as u32 == destination
    }
}

/// Whether an endpoint is left out now. One whose time is over is taken back.
#[inline(always)]
pub fn is_ejected(destination: u32, endpoint: u32) -> bool {
    rd_is_ejected(destination, endpoint) != 0
}

/// As [`is_ejected`]: asked of many endpoints in turn, and looked at once by the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn rd_is_ejected(destination: u32, endpoint: u32) -> u32 {
    let Some(live) = entry(endpoint) else { return 0 };
    // SAFETY: as above; the helper has no preconditions.
    unsafe {
        let until = addr_of!((*live).ejected_until).read_volatile();
        if until == 0 {
            return 0;
        }
        if bpf_ktime_get_ns() < until {
            return 1;
        }
        // One program takes it back.
        if replace(addr_of_mut!((*live).ejected_until), until, 0) {
            addr_of_mut!((*live).returned).write_volatile(until);
            if let Some(parent) = entry(destination) {
                add(addr_of_mut!((*parent).ejected), MINUS_ONE);
            }
        }
    }
    0
}

/// The time of a success is written again after so long.
const OFTEN_NS: u64 = 100 * PER_MILLISECOND;

/// A connect of an endpoint has succeeded, which `who` made.
#[inline(always)]
pub fn succeeded(endpoint: u32, stamp: u16, who: u32) {
    let Some(live) = entry(endpoint) else { return };
    // SAFETY: as above; the helper has no preconditions.
    unsafe {
        if Live::stamp(addr_of!((*live).word).read_volatile()) != stamp {
            return;
        }
        if addr_of!((*live).failures).read_volatile() != 0 {
            addr_of_mut!((*live).failures).write_volatile(0);
            addr_of_mut!((*live).failed_by).write_volatile(0);
        }
        if who == 0 {
            return;
        }
        let now = bpf_ktime_get_ns();
        let last = addr_of!((*live).succeeded_at).read_volatile();
        if addr_of!((*live).succeeded_by).read_volatile() != who {
            addr_of_mut!((*live).other_at).write_volatile(last);
            addr_of_mut!((*live).succeeded_by).write_volatile(who);
            addr_of_mut!((*live).succeeded_at).write_volatile(now);
        } else if now.wrapping_sub(last) > OFTEN_NS {
            addr_of_mut!((*live).succeeded_at).write_volatile(now);
        }
    }
}

/// A connect of an endpoint has failed, which `who` made: ejects it when that is one
/// too many. But failures of one caller say more of him than of an endpoint that
/// others have reached within the interval.
#[inline(always)]
pub fn failed(endpoint: u32, stamp: u16, destination: &Destination, who: u32) {
    let (Some(parent), Some(live)) = (entry(destination.live), entry(endpoint)) else { return };
    // SAFETY: as above; the helper has no preconditions.
    unsafe {
        if Live::stamp(addr_of!((*live).word).read_volatile()) != stamp {
            return;
        }
        let failures = fetch_add_half(addr_of_mut!((*live).failures), 1) + 1;
        let by = addr_of_mut!((*live).failed_by);
        let before = by.read_volatile();
        if before == 0 {
            by.write_volatile(who);
        } else if before != who {
            by.write_volatile(Live::SEVERAL);
        }
        if failures < destination.eject_after {
            return;
        }
        // Ejected already: these are connects from before.
        if addr_of!((*live).ejected_until).read_volatile() != 0 {
            return;
        }
        let now = bpf_ktime_get_ns();
        if before == who || before == 0 {
            let is_his = addr_of!((*live).succeeded_by).read_volatile() == who;
            let others = if is_his {
                addr_of!((*live).other_at).read_volatile()
            } else {
                addr_of!((*live).succeeded_at).read_volatile()
            };
            let interval = u64::from(destination.forgive_ms).wrapping_mul(PER_MILLISECOND);
            if others != 0 && now.wrapping_sub(others) < interval {
                add(addr_of_mut!((*live).withheld), 1);
                return;
            }
        }
        // No more at a time than may be: counted first, so that two programs
        // cannot both be the last.
        let ejected = addr_of_mut!((*parent).ejected);
        if fetch_add(ejected, 1) >= u64::from(destination.eject_most) {
            add(ejected, MINUS_ONE);
            return;
        }
        let quiet = now.wrapping_sub(addr_of!((*live).returned).read_volatile()) / PER_MILLISECOND;
        let mut forgiven = 0;
        if destination.forgive_ms != 0 {
            forgiven = quiet / u64::from(destination.forgive_ms);
        }
        let before = u64::from(addr_of!((*live).ejections).read_volatile());
        let times = if before > forgiven { before - forgiven + 1 } else { 1 };
        let base = u64::from(destination.eject_ms);
        let mut milliseconds = base.wrapping_mul(times);
        let longest = if base > LONGEST_MS { base } else { LONGEST_MS };
        if milliseconds > longest {
            milliseconds = longest;
        }
        let until = now.wrapping_add(milliseconds.wrapping_mul(PER_MILLISECOND));
        if replace(addr_of_mut!((*live).ejected_until), 0, until) {
            addr_of_mut!((*live).ejections).write_volatile(times as u32);
            addr_of_mut!((*live).failures).write_volatile(0);
            addr_of_mut!((*live).failed_by).write_volatile(0);
        } else {
            add(ejected, MINUS_ONE);
        }
    }
}
