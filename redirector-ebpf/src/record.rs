//! The recording build: every decision with all that went into it, so that a
//! test can take it again in user space.

use redirector_common::abi::{Record, record_decision as kind};
use redirector_common::decide::{Draft, DraftKind};

use crate::maps::RECORDS;

/// Notes the decision about a socket.
#[inline(always)]
pub fn note(cookie: u64, epoch: u64, record: &mut Record, draft: &Draft) {
    record.epoch = epoch;
    record.decision = match draft.kind {
        DraftKind::Miss => kind::MISS,
        DraftKind::Pass => kind::PASS,
        DraftKind::Refuse => kind::REFUSE,
        DraftKind::RefuseLeg => kind::REFUSE_LEG,
        DraftKind::Route => kind::ROUTE,
    };
    record.route = draft.choice.route;
    record.leg = draft.choice.leg;
    record.backend = draft.endpoint.backend;
    // A record that does not fit is missed by the test that looks for it.
    let _ = RECORDS.insert(cookie, *record, 0);
}
