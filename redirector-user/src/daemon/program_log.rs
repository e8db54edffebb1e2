//! What the programs in the kernel log, told in the daemon's own log.
//!
//! The programs put records into a ring when they were loaded with a level;
//! with none, the code that makes records is not in them at all.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use log::{Level, Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::datapath::{Datapath, Error};

/// The target of these lines, for filters.
pub const TARGET: &str = "redirector::programs";

/// How long the reader may take to see that it is not wanted any more.
const NOTICE: Duration = Duration::from_millis(500);

/// A reader of the programs' log; it ends when this is dropped.
#[derive(Debug)]
pub struct ProgramLog {
    /// The kernel's id of a program whose log it is.
    program: u32,
    over: Arc<AtomicBool>,
}

impl ProgramLog {
    /// Reads the log of the programs of a datapath from now on. A reader of the
    /// same programs goes on.
    pub fn follow(datapath: &Datapath, before: Option<Self>) -> Result<Self, Error> {
        let program = datapath.program_id()?;
        if let Some(before) = before.filter(|before| before.program == program) {
            return Ok(before);
        }
        let mut records = datapath.program_log(Lines)?;
        let over = Arc::new(AtomicBool::new(false));
        let seen = over.clone();
        let read = move || {
            let notice = Timespec::try_from(NOTICE).ok();
            while !seen.load(Ordering::Relaxed) {
                let mut ready = [PollFd::from_borrowed_fd(records.as_fd(), PollFlags::IN)];
                // An interrupted wait is a short one.
                let _ = poll(&mut ready, notice.as_ref());
                records.flush();
            }
        };
        thread::Builder::new()
            .name("program-log".into())
            .spawn(read)
            .map_err(|error| Error::from_io("starting the reader of the programs' log", error))?;
        Ok(Self { program, over })
    }
}

impl Drop for ProgramLog {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Makes records of the programs lines of the log.
struct Lines;

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let (program, text) = (record.module_path().unwrap_or_default(), record.args());
        match record.level() {
            Level::Error => tracing::error!(target: TARGET, program, "{text}"),
            Level::Warn => tracing::warn!(target: TARGET, program, "{text}"),
            Level::Info => tracing::info!(target: TARGET, program, "{text}"),
            Level::Debug => tracing::debug!(target: TARGET, program, "{text}"),
            Level::Trace => tracing::trace!(target: TARGET, program, "{text}"),
        }
    }

    fn flush(&self) {}
}
