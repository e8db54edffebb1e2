//! Arrays of the kernel as memory of this process.
//!
//! The programs read and write them at the same time, so every access here is
//! a volatile one of whole entries, or an atomic one of a word.
//!
//! What may only be read cannot be mapped: the kernel maps no map from a descriptor that
//! does not write. Then the memory is this process's own, and an entry is copied there
//! each time that it is looked at.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

use aya::Pod;
use aya::maps::MapData;

use super::{Error, sys};

/// A mapped array of `T`.
#[derive(Debug)]
pub struct Mapped<T> {
    start: NonNull<u8>,
    bytes: usize,
    entries: usize,
    name: &'static str,
    /// Where the entries are copied from, when they are.
    copied: Option<Copied>,
    entry: PhantomData<T>,
}

/// An array whose entries are copied one by one.
#[derive(Debug)]
struct Copied {
    array: OwnedFd,
    /// How far apart its entries lie, in bytes.
    stride: usize,
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
        let mapping = |protection, flags, fd| unsafe {
            libc::mmap(std::ptr::null_mut(), bytes, protection, flags, fd, 0)
        };
        let mut copied = None;
        let mut start = mapping(protection, libc::MAP_SHARED, map.fd().as_fd().as_raw_fd());
        let failed = |error| Error::from_io(format!("mapping the table {name}"), error);
        if start == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            if access == Access::Write || error.raw_os_error() != Some(libc::EINVAL) {
                return Err(failed(error));
            }
            let array = map.fd().as_fd().try_clone_to_owned().map_err(failed)?;
            let info = map.info();
            let info = info.map_err(|error| Error::from_library("reading a map", &error))?;
            let stride = (info.value_size() as usize).next_multiple_of(8);
            if bytes != stride * info.max_entries() as usize {
                return Err(failed(error));
            }
            copied = Some(Copied { array, stride });
            let (readable, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
            start = mapping(readable, private | libc::MAP_ANONYMOUS, -1);
        }
        if start == libc::MAP_FAILED {
            return Err(failed(io::Error::last_os_error()));
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| Error::Library {
            what: format!("mapping the table {name}"),
            problem: "it was mapped at address zero".into(),
        })?;
        Ok(Self { start, bytes, entries, name, copied, entry: PhantomData })
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries
    }

    fn at(&self, index: usize) -> Option<*mut T> {
        // SAFETY: within the mapping, by the comparison.
        (index < self.entries).then(|| unsafe { self.fresh(index * Self::STRIDE).cast() })
    }

    /// What lies so many bytes from the start, as it is now.
    ///
    /// # Safety
    ///
    /// It has to lie in an entry.
    unsafe fn fresh(&self, offset: usize) -> *mut u8 {
        if let Some(Copied { array, stride }) = &self.copied {
            let entry = offset / stride;
            // SAFETY: all entries of the array have their place in the mapping, by the
            // comparison of sizes in `new`; to us it is as if a program wrote there. It
            // cannot fail for an index that the array has.
            let _ = unsafe {
                let to = self.start.as_ptr().add(entry * stride);
                sys::copy_entry(array.as_fd(), entry as u32, to)
            };
        }
        // SAFETY: within the mapping, as the caller says.
        unsafe { self.start.as_ptr().add(offset) }
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
        unsafe { self.fresh(index * Self::STRIDE + offset).cast() }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made, and no reference into it
        // outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
