//! Pipes for `splice(2)`, pooled per worker.
//!
//! A direction has a pipe only while there are bytes in it, which is for long
//! only while its receiver does not read. A pipe that does not come back empty
//! is closed with what it holds.

use std::os::fd::OwnedFd;

use rustix::io;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use super::descriptors::Descriptors;

/// How much a pipe is asked to hold, in bytes. The kernel grants less once the
/// user's pipes exceed `fs.pipe-user-pages-soft`; any size works.
const CAPACITY: usize = 256 << 10;

/// How many empty pipes a worker keeps: each is two descriptors and no memory.
const KEEP: usize = 32;

/// An empty or filled pipe.
pub(super) struct Pipe {
    pub reader: OwnedFd,
    pub writer: OwnedFd,
    /// Bytes in it.
    pub held: usize,
}

/// The empty pipes of a worker.
pub(super) struct Pipes {
    free: Vec<Pipe>,
    descriptors: Descriptors,
}

impl Pipes {
    /// None yet.
    pub fn new(descriptors: Descriptors) -> Self {
        Self { free: Vec::new(), descriptors }
    }

    /// An empty pipe.
    ///
    /// # Errors
    ///
    /// When descriptors (or memory) have run out: the direction stays a copy.
    pub fn take(&mut self) -> io::Result<Pipe> {
        if let Some(pipe) = self.free.pop() {
            return Ok(pipe);
        }
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let (reader, writer) = (self.descriptors.take(reader)?, self.descriptors.take(writer)?);
        // Refused beyond the user's limit: the pipe then keeps its size.
        let _ = fcntl_setpipe_size(&writer, CAPACITY);
        Ok(Pipe { reader, writer, held: 0 })
    }

    /// Takes a pipe back.
    pub fn put(&mut self, pipe: Option<Pipe>) {
        if self.free.len() < KEEP {
            self.free.extend(pipe.filter(|pipe| pipe.held == 0));
        }
    }

    /// Closes the pooled pipes: their descriptors are needed elsewhere.
    pub fn release(&mut self) {
        self.free.clear();
    }
}
