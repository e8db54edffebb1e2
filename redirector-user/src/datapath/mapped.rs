//! Arrays of the kernel as memory of this process.
//!
//! The programs read and write them at the same time, so every access here is
//! a volatile one of whole entries, or an atomic one of a word.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

use aya::Pod;
use aya::maps::MapData;

use super::Error;

/// A mapped array of `T`.
#[derive(Debug)]
pub struct Mapped<T> {
    start: NonNull<u8>,
    bytes: usize,
    entries: usize,
    name: &'static str,
    entry: PhantomData<T>,
}

// SAFETY: the memory is the map's, which is not bound to a thread, and every
// access is volatile or atomic.
unsafe impl<T> Send for Mapped<T> {}
// SAFETY: as above; `set` takes `&mut self`.
unsafe impl<T> Sync for Mapped<T> {}

/// What is done with the memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
}

impl<T: Pod> Mapped<T> {
    /// Entries of an array lie this far apart: the kernel rounds up.
    const STRIDE: usize = size_of::<T>().next_multiple_of(8);

    /// Maps an array with this many entries, which must have been made with
    /// `BPF_F_MMAPABLE` and for values of this size.
    pub fn new(
        name: &'static str,
        map: &MapData,
        entries: u32,
        access: Access,
    ) -> Result<Self, Error> {
        let entries = entries as usize;
        let bytes = entries * Self::STRIDE;
        let protection = match access {
            Access::Read => libc::PROT_READ,
            Access::Write => libc::PROT_READ | libc::PROT_WRITE,
        };
        // SAFETY: a fresh mapping, wherever the kernel puts it.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                libc::MAP_SHARED,
                map.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            return Err(Error::from_io(format!("mapping the table {name}"), error));
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| Error::Library {
            what: format!("mapping the table {name}"),
            problem: "it was mapped at address zero".into(),
        })?;
        Ok(Self { start, bytes, entries, name, entry: PhantomData })
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries
    }

    fn at(&self, index: usize) -> Option<*mut T> {
        // SAFETY: within the mapping, by the comparison.
        (index < self.entries)
            .then(|| unsafe { self.start.as_ptr().add(index * Self::STRIDE).cast() })
    }

    /// Reads an entry.
    pub fn get(&self, index: usize) -> Option<T> {
        // SAFETY: within the mapping and aligned, entries being aligned to
        // eight bytes or to their own size; every bit pattern is a value.
        self.at(index).map(|entry| unsafe { entry.read_volatile() })
    }

    /// Writes an entry that no program reads now.
    pub fn set(&mut self, index: usize, value: T) -> Result<(), Error> {
        let entry = self
            .at(index)
            .ok_or_else(|| Error::Capacity(vec![format!("{} has no entry {index}", self.name)]))?;
        // SAFETY: as in `get`; mapped for writing by whoever has it mutably.
        unsafe { entry.write_volatile(value) };
        Ok(())
    }

    /// A 64-bit word of an entry.
    pub fn word(&self, index: usize, offset: usize) -> &AtomicU64 {
        // SAFETY: see `field`; nothing accesses it but atomically.
        unsafe { AtomicU64::from_ptr(self.field(index, offset)) }
    }

    /// A 32-bit word of an entry.
    pub fn half(&self, index: usize, offset: usize) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(self.field(index, offset)) }
    }

    /// A 16-bit word of the first entry.
    pub fn quarter(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: as above.
        unsafe { AtomicU16::from_ptr(self.field(0, offset)) }
    }

    /// Where a field lies. Panics on an offset that is no aligned field of `T`:
    /// offsets are constants.
    fn field<F>(&self, index: usize, offset: usize) -> *mut F {
        assert!(index < self.entries);
        assert!(
            offset + size_of::<F>() <= size_of::<T>() && offset.is_multiple_of(align_of::<F>())
        );
        // SAFETY: within the mapping, by the assertions.
        unsafe { self.start.as_ptr().add(index * Self::STRIDE + offset).cast() }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made, and no reference into it
        // outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
