//! The recording build: every decision with all that went into it, so that a
//! test can take it again in user space.

use redirector_common::abi::{Record, record_decision as kind};
use redirector_common::decide::{Draft, DraftKind};

use crate::maps::RECORDS;

/// Nothing noted. A map's value is made of it, and not on the stack, which is
/// small.
static EMPTY: Record = Record {
    epoch: 0,
    draws: [0; 12],
    drawn: 0,
    asked: 0,
    identity: 0,
    class: 0,
    affinity: 0,
    turn: 0,
    active: [0; 2],
    asks: 0,
    skipped: [0; 3],
    limited: 0,
    decision: 0,
    route: 0,
    leg: 0,
    backend: 0,
    reserved: 0,
};

/// Begins the record of a socket. One that does not fit is missed by the test
/// that looks for it.
#[inline(always)]
#[expect(clippy::needless_borrows_for_generic_args, reason = "a copy would lie on the stack")]
pub fn start(cookie: u64) -> Option<&'static mut Record> {
    let _ = RECORDS.insert(cookie, &EMPTY, 0);
    of(cookie)
}

/// The record that was begun.
#[inline(always)]
pub fn of(cookie: u64) -> Option<&'static mut Record> {
    let record = RECORDS.get_ptr_mut(cookie)?;
    // SAFETY: a pointer that the map gave is valid while the program runs, and
    // only the program that connects this socket writes there.
    Some(unsafe { &mut *record })
}

/// Notes a draw.
#[inline(always)]
pub fn draw(record: &mut Record, draw: u32) {
    if let Some(place) = record.draws.get_mut(record.drawn as usize) {
        *place = draw;
    }
    record.drawn += 1;
}

/// Notes whether an endpoint was ejected.
#[inline(always)]
pub fn ask(record: &mut Record, ejected: bool) {
    let asks = record.asks;
    if ejected && let Some(word) = record.skipped.get_mut((asks / 32) as usize) {
        *word |= 1 << (asks % 32);
    }
    record.asks = asks + 1;
}

/// Notes the decision.
#[inline(always)]
pub fn note(record: &mut Record, epoch: u64, draft: &Draft) {
    record.epoch = epoch;
    record.decision = match draft.kind {
        DraftKind::Miss => kind::MISS,
        DraftKind::Pass => kind::PASS,
        DraftKind::Refuse => kind::REFUSE,
        DraftKind::RefuseLeg => kind::REFUSE_LEG,
        DraftKind::Limited => kind::LIMITED,
        DraftKind::Route => kind::ROUTE,
    };
    record.route = draft.choice.route;
    record.leg = draft.choice.leg;
    record.backend = draft.endpoint.backend;
}
