//! The counters.
//!
//! Every counter exists once per stripe, and a program counts in the stripe of
//! its CPU: CPUs do not disturb each other, and unlike with a per-CPU map the
//! daemon reads them without a system call each, and a machine with 128 CPUs
//! does not need 128 copies. Atomic, because programs of two tasks can run
//! interleaved on one CPU.

use aya_ebpf::helpers::bpf_get_smp_processor_id;

use crate::atomic::add;
use crate::maps::{LEG_COUNTERS, LIMIT_LEGS, LIMIT_STRIPES, TOTALS};

#[inline(always)]
fn stripe() -> u32 {
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    cpu & LIMIT_STRIPES.load().wrapping_sub(1)
}

/// Adds one to the word of this CPU's totals that lies at `offset`.
#[inline(always)]
pub fn total_at(offset: usize) {
    if let Some(totals) = TOTALS.get_ptr_mut(stripe()) {
        // SAFETY: a pointer that the map gave is valid and aligned, and so is
        // one to its field; all programs count atomically.
        unsafe { add(totals.cast::<u8>().add(offset).cast(), 1) };
    }
}

/// Adds one to a field of the totals.
macro_rules! total {
    ($field:ident) => {
        $crate::count::total_at(core::mem::offset_of!(redirector_common::abi::Totals, $field))
    };
}
pub(crate) use total;

/// Counts that a leg was drawn, and whether it had no endpoint.
#[inline(always)]
pub fn leg(leg: u32, refused: bool) {
    let index = stripe().wrapping_mul(LIMIT_LEGS.load()).wrapping_add(leg);
    if let Some(counters) = LEG_COUNTERS.get_ptr_mut(index) {
        // SAFETY: as in `total_at`.
        unsafe {
            add(core::ptr::addr_of_mut!((*counters).chosen), 1);
            if refused {
                add(core::ptr::addr_of_mut!((*counters).refused), 1);
            }
        }
    }
}
