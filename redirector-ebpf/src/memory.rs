//! The memory of redirected connections, for `getpeername` and accounting.
//!
//! A connection's place is its socket's cookie modulo the size of an array,
//! claimed by compare-and-swap. Cookies are handed out almost in sequence, so
//! places are seldom taken; a connection whose place is taken goes to a small
//! hash, in which nobody gets more who has much of what is left: so that none can
//! use it up for the others. Who meets a connection of his own in his place has few
//! places there, for then most of them are his.
//!
//! connect and getpeername of one socket never run at the same time (the kernel
//! holds the socket's lock), and release runs after both. Only the end of the
//! TCP connection, which `sockops` sees, can meet release: `end` has them agree
//! by one atomic word.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::bindings::BPF_NOEXIST;
use redirector_common::abi::{Connection, OVERFLOW_SHARES as SHARES, connection_state as state};

use crate::maps::{
    CONNECTIONS, LIMIT_CONNECTIONS, LIMIT_OVERFLOW, OVERFLOW, OVERFLOW_SHARES, OVERFLOW_STATE,
};
use crate::{atomic, live};

/// Added to take one away.
const MINUS_ONE: u64 = 1_u64.wrapping_neg();

/// Where a connection was remembered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In its own place.
    Own,
    /// In the overflow table.
    Overflow,
    /// Nowhere.
    None,
}

/// An entry that was found.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Valid while the program runs.
    pub connection: *mut Connection,
    overflow: bool,
}

#[inline(always)]
fn slot(cookie: u64) -> Option<*mut Connection> {
    CONNECTIONS.get_ptr_mut(cookie as u32 & LIMIT_CONNECTIONS.load().wrapping_sub(1))
}

/// How many connections lie in the overflow table.
#[inline(always)]
fn overflowed() -> Option<*mut u64> {
    let state = OVERFLOW_STATE.get_ptr_mut(0)?;
    // SAFETY: a pointer that the map gave is valid, and so is one to its field.
    Some(unsafe { addr_of_mut!((*state).used) })
}

/// Finds the entry of a socket.
#[inline(always)]
pub fn find(cookie: u64) -> Option<Entry> {
    let connection = slot(cookie)?;
    // SAFETY: a pointer that the map gave is valid; the word is read at once.
    // Whether it is this socket's cookie cannot change under this program.
    if unsafe { addr_of!((*connection).cookie).read_volatile() } == cookie {
        return Some(Entry { connection, overflow: false });
    }
    // SAFETY: as above.
    if unsafe { overflowed()?.read_volatile() } == 0 {
        return None;
    }
    let connection = OVERFLOW.get_ptr_mut(cookie)?;
    Some(Entry { connection, overflow: true })
}

/// Frees an entry of this socket.
#[inline(always)]
pub fn free(cookie: u64, entry: Entry) {
    // SAFETY: the entry is this socket's until it is freed below.
    let (endpoint, state, share) = unsafe {
        (
            addr_of!((*entry.connection).live).read_volatile(),
            addr_of!((*entry.connection).state).read_volatile(),
            addr_of!((*entry.connection).share).read_volatile(),
        )
    };
    if endpoint != 0 {
        live::gone(endpoint, (state >> state::STAMP) as u16);
    }
    live::give_back(share);
    if entry.overflow {
        // SAFETY: as above.
        let caller = unsafe { addr_of!((*entry.connection).caller).read_volatile() };
        if OVERFLOW.remove(cookie).is_ok() {
            if let Some(share) = OVERFLOW_SHARES.get_ptr_mut(caller % SHARES) {
                // SAFETY: valid and aligned, and only accessed atomically.
                unsafe { atomic::fetch_add(share, MINUS_ONE) };
            }
            if let Some(used) = overflowed() {
                // SAFETY: as above.
                unsafe { atomic::fetch_add(used, MINUS_ONE) };
            }
        }
        return;
    }
    // SAFETY: the place is this socket's until its cookie is swapped out.
    unsafe {
        addr_of_mut!((*entry.connection).state).write_volatile(0);
        atomic::swap(addr_of_mut!((*entry.connection).cookie), 0);
    }
}

/// Forgets an earlier connect of this socket.
#[inline(always)]
pub fn forget(cookie: u64) {
    rd_forget(cookie);
}

/// As [`forget`]: every connect begins with it, and the verifier looks at it once and not
/// before each of the ways that follow.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn rd_forget(cookie: u64) -> u32 {
    if let Some(entry) = find(cookie) {
        free(cookie, entry);
    }
    0
}

/// One of the two ends of a connection has come: `mark` is `RELEASED` or
/// `CLOSED`. Frees the entry when it was the last that counts.
///
/// Returns the state before.
#[inline(always)]
pub fn end(cookie: u64, entry: Entry, mark: u32) -> u32 {
    // SAFETY: the entry is this socket's, and its state is only accessed
    // atomically once it is filled.
    let before = unsafe { atomic::fetch_or(addr_of_mut!((*entry.connection).state), mark) };
    // An end that was noted before has freed it already, or left it to the other.
    if state::ends(before, mark) {
        free(cookie, entry);
    }
    before
}

/// Remembers a connection. Its `cookie` is set here, and marks are added to its
/// `state`.
#[inline(always)]
pub fn remember(cookie: u64, connection: &Connection) -> Place {
    let Some(slot) = slot(cookie) else { return Place::None };
    // SAFETY: valid and aligned, and only accessed atomically while free.
    if unsafe { atomic::replace(addr_of_mut!((*slot).cookie), 0, cookie) } {
        // SAFETY: the place is ours now: nobody else writes to it, and readers
        // wait for the state.
        unsafe {
            addr_of_mut!((*slot).dialled).write(connection.dialled);
            addr_of_mut!((*slot).backend).write(connection.backend);
            addr_of_mut!((*slot).dialled_port).write(connection.dialled_port);
            addr_of_mut!((*slot).backend_port).write(connection.backend_port);
            addr_of_mut!((*slot).leg).write(connection.leg);
            addr_of_mut!((*slot).live).write(connection.live);
            addr_of_mut!((*slot).since).write(connection.since);
            addr_of_mut!((*slot).who).write(connection.who);
            addr_of_mut!((*slot).share).write(connection.share);
            addr_of_mut!((*slot).caller).write(connection.caller);
            addr_of_mut!((*slot).destination).write(connection.destination);
            addr_of_mut!((*slot).state).write_volatile(connection.state | state::FILLED);
        }
        return Place::Own;
    }
    // SAFETY: valid; the word is read at once. A connection that has just come or gone
    // says nothing wrong of many.
    let theirs = unsafe { addr_of!((*slot).caller).read_volatile() };
    overflow(cookie, connection, theirs == connection.caller)
}

/// So many times as much as is left may somebody have of the overflow table.
const FAIR: u64 = 8;

/// And this part of all of it, whose places are mostly taken by himself.
const PARTS: u64 = 16;

#[inline(always)]
fn overflow(cookie: u64, connection: &Connection, by_himself: bool) -> Place {
    let index = connection.caller % SHARES;
    let (Some(share), Some(used)) = (OVERFLOW_SHARES.get_ptr_mut(index), overflowed()) else {
        return Place::None;
    };
    let capacity = u64::from(LIMIT_OVERFLOW.load());
    // SAFETY: valid and aligned, and only accessed atomically; as below. Counted first:
    // who sees the entry must not be told that there is none.
    let (mine, taken) = unsafe { (atomic::fetch_add(share, 1), atomic::fetch_add(used, 1)) };
    let left = capacity.saturating_sub(taken);
    let most = if by_himself { capacity.div_ceil(PARTS) } else { capacity };
    if mine < most && mine < left.wrapping_mul(FAIR) {
        let state = connection.state | state::FILLED;
        let connection = Connection { cookie, state, ..*connection };
        if OVERFLOW.insert(cookie, connection, u64::from(BPF_NOEXIST)).is_ok() {
            return Place::Overflow;
        }
    }
    // SAFETY: as above.
    unsafe {
        atomic::fetch_add(used, MINUS_ONE);
        atomic::fetch_add(share, MINUS_ONE);
    }
    Place::None
}
