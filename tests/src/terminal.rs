//! A pseudo-terminal, with a program in it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::redirector::Answer;

/// Longer than anything takes on an emulated machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that believes to be in front of somebody. It is killed when dropped.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    child: Child,
    /// All that it wrote, without carriage returns.
    pub shown: String,
}

impl Terminal {
    /// Sends it SIGTERM.
    pub fn terminate(&self) {
        // SAFETY: sends a signal to a child that has not been waited for.
        unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGTERM) };
    }

    /// Starts a program in a terminal of this size. Both its outputs are the terminal.
    ///
    /// # Panics
    ///
    /// When there is no pseudo-terminal, or the program cannot be started.
    pub fn start(mut command: Command, columns: u16, rows: u16) -> Self {
        let (mut master, mut slave) = (-1, -1);
        let size = size(columns, rows);
        let null = std::ptr::null_mut();
        // SAFETY: the pointers are to locals, or null where that is allowed.
        let made = unsafe { libc::openpty(&mut master, &mut slave, null, null.cast(), &size) };
        assert_eq!(made, 0, "a pseudo-terminal: {}", std::io::Error::last_os_error());
        // SAFETY: the kernel has just given both, and nobody else has them.
        let (master, slave) =
            unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
        let copy = || slave.try_clone().expect("a descriptor");
        command.stdin(copy()).stdout(copy()).stderr(copy());
        // SAFETY: both calls are safe between fork and exec. The terminal becomes the
        // one that the program's session is controlled by, so that it hears of its size.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                Ok(())
            });
        }
        let child = command.spawn().expect("the program starts");
        Self { master: master.into(), child, shown: String::new() }
    }

    /// What a program that asks nothing writes and returns, in a terminal of so many
    /// columns.
    ///
    /// # Panics
    ///
    /// When it does not end.
    pub fn answer(command: Command, columns: u16) -> Answer {
        Self::start(command, columns, 50).end()
    }

    /// Types.
    ///
    /// # Panics
    ///
    /// When the terminal is gone.
    pub fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("the terminal takes it");
    }

    /// Makes it larger or smaller.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = size(columns, rows);
        // SAFETY: the pointer is to a local.
        unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &size) };
    }

    /// Waits until what it has written since the last call is as wanted, and returns it.
    ///
    /// # Panics
    ///
    /// When that never is.
    pub fn wait(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let from = self.shown.len();
        let begun = Instant::now();
        while !wanted(&self.shown[from..]) {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            assert!(!left.is_zero() && self.read(left), "{what}: {}", &self.shown[from..]);
        }
        self.shown[from..].to_owned()
    }

    /// Waits until it ends.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn end(mut self) -> Answer {
        let begun = Instant::now();
        while self.read(PATIENCE) {
            assert!(begun.elapsed() < PATIENCE, "it does not end: {}", self.shown);
        }
        // Nothing was shown for so long.
        assert!(begun.elapsed() < PATIENCE, "it does not end: {}", self.shown);
        let status = self.child.wait().expect("its status");
        let out = std::mem::take(&mut self.shown);
        Answer { exit: status.code().unwrap_or(-1), out, err: String::new() }
    }

    /// Reads what is there, and says whether more may come.
    fn read(&mut self, patience: Duration) -> bool {
        let mut poll =
            libc::pollfd { fd: self.master.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let milliseconds = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the pointer is to one local.
        if unsafe { libc::poll(&mut poll, 1, milliseconds) } <= 0 {
            return false;
        }
        let mut bytes = [0; 1 << 16];
        // A terminal that nobody has open any more cannot be read.
        let Ok(count @ 1..) = self.master.read(&mut bytes) else { return false };
        self.shown.push_str(&String::from_utf8_lossy(&bytes[..count]).replace('\r', ""));
        true
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(columns: u16, rows: u16) -> libc::winsize {
    libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
