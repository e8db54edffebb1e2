//! How a relay comes to be: as a child of the daemon, or of something else that starts one
//! for each connection of a daemon's, in another unit or container than the daemon's.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use rustix::process::{WaitOptions, wait};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::SUBCOMMAND;
use super::frame;
use super::process::{PATIENCE, open};
use crate::rights::peer;

/// What systemd calls the stream to the journal.
const JOURNAL: &str = "JOURNAL_STREAM";

/// The command that makes this program a relay which is [started](super::Start) like this.
pub(super) fn command(program: &Path, start: &str) -> Command {
    let mut command = Command::new(program);
    command
        .arg0("redirector")
        .args([SUBCOMMAND, start])
        .env_clear()
        // Where standard error leads to.
        .envs(std::env::var_os(JOURNAL).map(|stream| (JOURNAL, stream)));
    command
}

/// Becomes the relay that a daemon wants which has connected: standard input is its
/// connection. It is of the daemon's program, which comes along, so that the two understand
/// each other whatever is installed meanwhile.
///
/// # Errors
///
/// It returns only when the daemon does not say what it wants, or its program cannot be
/// started.
pub fn become_relay() -> io::Error {
    let failed = || -> io::Result<io::Error> {
        let daemon = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        // As it was said: that program may know more of it than this one.
        let (start, program) = frame::receive::<serde_json::Value>(&daemon, PATIENCE)?;
        let program = program?.into_iter().next().ok_or(io::ErrorKind::InvalidInput)?;
        let program = format!("/proc/self/fd/{}", program.as_raw_fd());
        Ok(command(Path::new(&program), &start.to_string()).exec())
    };
    failed().unwrap_or_else(|error| error)
}

/// Starts a relay for each connection that root makes here, as systemd does for
/// `redirector-relay.socket`, until it is told to end and all of them have ended.
///
/// # Errors
///
/// When nobody can connect here, or threads have run out.
pub fn start_relays(at: &Path) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGCHLD])?;
    let listener = open(at)?;
    // Root without CAP_DAC_OVERRIDE is as anybody else to a file of this user's.
    fs::set_permissions(at, fs::Permissions::from_mode(0o666))?;
    thread::Builder::new().name("starter".into()).spawn(move || {
        for daemon in listener.incoming() {
            let started = daemon.and_then(|daemon| match peer(&daemon)?.uid {
                0 => start(daemon),
                _ => Err(io::ErrorKind::PermissionDenied.into()),
            });
            if let Err(error) = started {
                tracing::warn!(%error, "no relay is started");
            }
        }
    })?;
    tracing::info!(socket = %at.display(), "starts relays of gateways");
    let mut ends = false;
    for signal in signals.forever() {
        ends |= signal != SIGCHLD;
        // Some have ended; and that is all there were, or not.
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        if ends && wait(WaitOptions::NOHANG).is_err() {
            break;
        }
    }
    Ok(())
}

fn start(daemon: UnixStream) -> io::Result<()> {
    Command::new("/proc/self/exe")
        .arg0("redirector")
        .arg(SUBCOMMAND)
        .stdin(OwnedFd::from(daemon))
        .stdout(Stdio::null())
        .spawn()
        .map(drop)
}
