//! A gate that processes and threads wait at, until all may go at the same moment.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anybody takes to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A gate in memory that children of this process share.
#[derive(Debug)]
pub struct Gate(NonNull<Words>);

#[derive(Debug)]
struct Words {
    /// One once it is open.
    open: AtomicU32,
    /// Who waits, or has waited.
    come: AtomicU32,
}

// SAFETY: the memory is shared and only accessed atomically.
unsafe impl Send for Gate {}
// SAFETY: as above.
unsafe impl Sync for Gate {}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// A closed one. Children that are started from now on know it.
    ///
    /// # Panics
    ///
    /// When there is no memory for it.
    pub fn new() -> Self {
        // SAFETY: a fresh mapping, wherever the kernel puts it.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<Words>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(memory, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        Self(NonNull::new(memory.cast()).expect("no mapping is at address zero"))
    }

    fn words(&self) -> &Words {
        // SAFETY: the mapping is page-aligned, large enough, zeroed by the kernel
        // (a value of the words), and there until `self` is dropped.
        unsafe { self.0.as_ref() }
    }

    /// Waits until it is open.
    pub fn wait(&self) {
        self.words().come.fetch_add(1, Ordering::SeqCst);
        while !self.is_open() {
            // SAFETY: the word is valid; without a time limit nothing else is read.
            // It returns at once when the gate was opened meanwhile.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    self.words().open.as_ptr(),
                    libc::FUTEX_WAIT,
                    0_u32,
                    std::ptr::null::<libc::timespec>(),
                );
            }
        }
    }

    /// Opens it for all at once.
    pub fn open(&self) {
        self.words().open.store(1, Ordering::SeqCst);
        // SAFETY: the word is valid, and nothing else is read.
        unsafe {
            libc::syscall(libc::SYS_futex, self.words().open.as_ptr(), libc::FUTEX_WAKE, i32::MAX);
        }
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.words().open.load(Ordering::SeqCst) == 1
    }

    /// Waits until so many have come to it.
    ///
    /// # Panics
    ///
    /// When they do not.
    pub fn gathers(&self, count: usize) {
        let begun = Instant::now();
        loop {
            let come = self.words().come.load(Ordering::SeqCst) as usize;
            if come >= count {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{come} of {count} have come");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made; nobody borrows from it.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<Words>()) };
    }
}
