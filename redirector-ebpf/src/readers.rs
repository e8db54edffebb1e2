//! The readers of the tables, counted per CPU, so that the daemon can tell when
//! nobody reads the idle side any more.

use aya_ebpf::helpers::bpf_get_smp_processor_id;

use crate::atomic;
use crate::maps::READERS;

/// Where this program was counted in.
pub struct Reader(*mut u64);

/// Counts this program in. From now until [`leave`], no entry of the side that
/// is active changes.
///
/// The count must be visible before the epoch is read: the daemon stores the
/// epoch, and then waits for each count to be zero once.
#[inline(always)]
pub fn enter() -> Option<Reader> {
    // SAFETY: the helper has no preconditions. A BPF program stays on its CPU,
    // but another may come in between, hence the atomics.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let readers = READERS.get_ptr_mut(cpu)?;
    // SAFETY: a pointer that the map gave is valid and aligned as long as the
    // program runs, and everybody accesses the count atomically.
    unsafe {
        let count = core::ptr::addr_of_mut!((*readers).count);
        atomic::fetch_add(count, 1);
        Some(Reader(count))
    }
}

/// Counts this program out.
#[inline(always)]
pub fn leave(reader: Reader) {
    // SAFETY: as in `enter`.
    unsafe { atomic::fetch_add(reader.0, 1_u64.wrapping_neg()) };
}
