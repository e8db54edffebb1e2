//! Atomic read-modify-write operations.
//!
//! The target has the instructions, but `core` offers no methods for them
//! there. The fetching forms are full barriers on every architecture.
//!
//! # Safety
//!
//! Of all functions: the pointer must be aligned and point into a map's entry,
//! and everybody must access the word atomically while it is shared.

use core::arch::asm;

/// Adds, and returns what was there.
#[inline(always)]
pub unsafe fn fetch_add(word: *mut u64, n: u64) -> u64 {
    let mut value = n;
    // SAFETY: promised by the caller.
    unsafe {
        asm!("{v} = atomic_fetch_add((u64 *)({p} + 0), {v})", v = inout(reg) value, p = in(reg) word);
    };
    value
}

/// Adds, and returns what was there.
#[inline(always)]
pub unsafe fn fetch_add_half(word: *mut u32, n: u32) -> u32 {
    let mut value = n;
    // SAFETY: promised by the caller.
    unsafe {
        asm!("{v} = atomic_fetch_add((u32 *)({p} + 0), {v})", v = inout(wreg) value, p = in(reg) word);
    };
    value
}

/// Adds, without ordering.
#[inline(always)]
pub unsafe fn add(word: *mut u64, n: u64) {
    // SAFETY: promised by the caller.
    unsafe { asm!("lock *(u64 *)({p} + 0) += {v}", v = in(reg) n, p = in(reg) word) };
}

/// Sets bits, and returns what was there.
#[inline(always)]
pub unsafe fn fetch_or(word: *mut u32, bits: u32) -> u32 {
    let mut value = bits;
    // SAFETY: promised by the caller.
    unsafe {
        asm!("{v} = atomic_fetch_or((u32 *)({p} + 0), {v})", v = inout(wreg) value, p = in(reg) word);
    };
    value
}

/// Replaces.
#[inline(always)]
pub unsafe fn swap(word: *mut u64, new: u64) -> u64 {
    let mut value = new;
    // SAFETY: promised by the caller.
    unsafe { asm!("{v} = xchg_64({p} + 0, {v})", v = inout(reg) value, p = in(reg) word) };
    value
}

/// Replaces `old` by `new`; returns whether `old` was there.
#[inline(always)]
pub unsafe fn replace(word: *mut u64, old: u64, new: u64) -> bool {
    let mut value = old;
    // SAFETY: promised by the caller.
    unsafe {
        asm!("r0 = cmpxchg_64({p} + 0, r0, {n})", inout("r0") value, p = in(reg) word, n = in(reg) new);
    }
    value == old
}
