//! What is known of destinations and endpoints: turns, counts, failures.
//!
//! An entry may get another owner only when no program reads tables that give
//! it to the earlier one. What outlasts the lookups, a connection, keeps the
//! entry's stamp, and takes nothing from an owner with another.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::helpers::bpf_ktime_get_ns;
use redirector_common::abi::{Destination, Live};

use crate::atomic::{add, fetch_add, fetch_add_half, replace};
use crate::maps::LIVE;

const MINUS_ONE: u64 = 1_u64.wrapping_neg();
const PER_MILLISECOND: u64 = 1_000_000;

/// The longest ejection, as Envoy's `max_ejection_time`: unless the base time
/// is longer.
const LONGEST_MS: u64 = 300_000;

#[inline(always)]
fn entry(number: u32) -> Option<*mut Live> {
    if number == 0 { None } else { LIVE.get_ptr_mut(number) }
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

/// Counts a connection, unless there are `most` already.
#[inline(always)]
pub fn admit(destination: u32, most: u32) -> bool {
    let Some(live) = entry(destination) else { return true };
    // SAFETY: as above.
    unsafe {
        let before = fetch_add(addr_of_mut!((*live).word), Live::ONE);
        if Live::connections(before) < u64::from(most) {
            return true;
        }
        fetch_add(addr_of_mut!((*live).word), Live::ONE.wrapping_neg());
        add(addr_of_mut!((*live).limited), 1);
    }
    false
}

/// Takes a connection back that was counted by the same program, so that the
/// owner is the same.
#[inline(always)]
pub fn dismiss(number: u32) {
    if let Some(live) = entry(number) {
        // SAFETY: as above.
        unsafe { add(addr_of_mut!((*live).word), Live::ONE.wrapping_neg()) };
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
        let link = destination | u32::from(Live::stamp(of_parent)) << 16;
        addr_of_mut!((*live).parent).write_volatile(link);
        Live::stamp(fetch_add(addr_of_mut!((*live).word), Live::ONE))
    }
}

/// Takes a connection from an owner with this stamp. Says whether it was that
/// owner's.
#[inline(always)]
fn take(number: u32, stamp: u16) -> Option<*mut Live> {
    let live = entry(number)?;
    // SAFETY: as above.
    unsafe {
        let word = addr_of_mut!((*live).word);
        if Live::stamp(word.read_volatile()) != stamp {
            return None;
        }
        // The daemon may have come in between.
        if Live::stamp(fetch_add(word, Live::ONE.wrapping_neg())) != stamp {
            add(word, Live::ONE);
            return None;
        }
    }
    Some(live)
}

/// A connection that was counted is over.
#[inline(always)]
pub fn gone(endpoint: u32, stamp: u16) {
    // What the endpoint had when it lost its entry, the daemon has taken from
    // its destination.
    let Some(live) = take(endpoint, stamp) else { return };
    // SAFETY: as above.
    let parent = unsafe { addr_of!((*live).parent).read_volatile() };
    take(parent & 0xffff, (parent >> 16) as u16);
}

/// Whether an endpoint belongs to a destination, by their entries.
#[inline(always)]
pub fn is_of(endpoint: u32, destination: u32) -> bool {
    let Some(live) = entry(endpoint) else { return false };
    // SAFETY: as above.
    unsafe { addr_of!((*live).parent).read_volatile() & 0xffff == destination }
}

/// Whether an endpoint is left out now. One whose time is over is taken back.
#[inline(always)]
pub fn is_ejected(destination: u32, endpoint: u32) -> bool {
    let Some(live) = entry(endpoint) else { return false };
    // SAFETY: as above; the helper has no preconditions.
    unsafe {
        let until = addr_of!((*live).ejected_until).read_volatile();
        if until == 0 {
            return false;
        }
        if bpf_ktime_get_ns() < until {
            return true;
        }
        // One program takes it back.
        if replace(addr_of_mut!((*live).ejected_until), until, 0) {
            addr_of_mut!((*live).returned).write_volatile(until);
            if let Some(parent) = entry(destination) {
                add(addr_of_mut!((*parent).ejected), MINUS_ONE);
            }
        }
    }
    false
}

/// A connect of an endpoint has succeeded.
#[inline(always)]
pub fn succeeded(endpoint: u32, stamp: u16) {
    let Some(live) = entry(endpoint) else { return };
    // SAFETY: as above.
    unsafe {
        if Live::stamp(addr_of!((*live).word).read_volatile()) == stamp
            && addr_of!((*live).failures).read_volatile() != 0
        {
            addr_of_mut!((*live).failures).write_volatile(0);
        }
    }
}

/// A connect of an endpoint has failed: ejects it when that is one too many.
#[inline(always)]
pub fn failed(endpoint: u32, stamp: u16, destination: &Destination) {
    let (Some(parent), Some(live)) = (entry(destination.live), entry(endpoint)) else { return };
    // SAFETY: as above; the helper has no preconditions.
    unsafe {
        if Live::stamp(addr_of!((*live).word).read_volatile()) != stamp {
            return;
        }
        let failures = fetch_add_half(addr_of_mut!((*live).failures), 1) + 1;
        if failures < destination.eject_after {
            return;
        }
        // Ejected already: these are connects from before.
        if addr_of!((*live).ejected_until).read_volatile() != 0 {
            return;
        }
        // No more at a time than may be: counted first, so that two programs
        // cannot both be the last.
        let ejected = addr_of_mut!((*parent).ejected);
        if fetch_add(ejected, 1) >= u64::from(destination.eject_most) {
            add(ejected, MINUS_ONE);
            return;
        }
        let now = bpf_ktime_get_ns();
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
        } else {
            add(ejected, MINUS_ONE);
        }
    }
}
