//! What the programs say of each decision, when asked.

use aya_log_ebpf::debug;
use redirector_common::abi::flow_outcome;

/// Logs what comes of a connection, one of [`flow_outcome`].
///
/// A global function: the verifier looks at it once, and not at the end of each of the ways
/// on which a decision is come to. What the macros write is many instructions, and with
/// them in each of these ways the programs were too large for Linux 6.1.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn rd_log(outcome: u32, leg: u32, route: u32) -> u32 {
    match outcome as u16 {
        flow_outcome::REFUSED => debug!((), "refused by the frontend"),
        flow_outcome::REFUSED_LIMITED => {
            debug!((), "refused: leg {} of route {} has its most connections", leg, route);
        }
        flow_outcome::REFUSED_EMPTY => {
            debug!((), "refused: leg {} of route {} has no endpoint", leg, route);
        }
        _ => debug!((), "leg {} of route {}", leg, route),
    }
    0
}
