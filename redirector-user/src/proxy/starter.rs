//! How a relay comes to be: as a child of the daemon, or of something else that starts one
//! for each connection of a daemon's, in another unit or container than the daemon's.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::process::{Pid, kill_process};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::SUBCOMMAND;
use super::frame;
use super::start::{ENDS, PATIENCE, open};
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
/// `redirector-relay.socket`, until it is told to end and all of them have ended: it tells
/// them, and starts no more.
///
/// # Errors
///
/// When nobody can connect here, or threads have run out.
pub fn start_relays(at: &Path) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGCHLD])?;
    let listener = open(at)?;
    // Root without CAP_DAC_OVERRIDE is as anybody else to a file of this user's.
    fs::set_permissions(at, fs::Permissions::from_mode(0o666))?;
    let relays = Arc::new(Relays::default());
    let started_by = Arc::clone(&relays);
    thread::Builder::new().name("starter".into()).spawn(move || {
        for daemon in listener.incoming() {
            let started = daemon.and_then(|daemon| match peer(&daemon)?.uid {
                0 => started_by.start(daemon),
                _ => Err(io::ErrorKind::PermissionDenied.into()),
            });
            if let Err(error) = started {
                tracing::warn!(%error, "no relay is started");
            }
        }
    })?;
    tracing::info!(socket = %at.display(), "starts relays of gateways");
    for signal in signals.forever() {
        if relays.are_over(signal != SIGCHLD) {
            break;
        }
    }
    Ok(())
}

/// Those that were started and live; and whether no more are to be.
#[derive(Default)]
struct Relays(Mutex<(Vec<Child>, bool)>);

impl Relays {
    fn start(&self, daemon: UnixStream) -> io::Result<()> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (living, ends) = &mut *state;
        if *ends {
            return Err(io::Error::other("it is to end"));
        }
        let mut command = Command::new("/proc/self/exe");
        command.arg0("redirector").arg(SUBCOMMAND).stdout(Stdio::null());
        living.push(command.stdin(OwnedFd::from(daemon)).spawn()?);
        Ok(())
    }

    /// Some may have ended. Whether that was all, and no more are started, which is so from
    /// now on if it `ends`.
    fn are_over(&self, ends: bool) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (living, has_ended) = &mut *state;
        living.retain_mut(|relay| matches!(relay.try_wait(), Ok(None)));
        if ends {
            // They have not been waited for: their numbers are theirs.
            for relay in living.iter() {
                if let Err(error) = kill_process(Pid::from_child(relay), ENDS) {
                    tracing::warn!(%error, "a relay is not told to end");
                }
            }
        }
        *has_ended |= ends;
        *has_ended && living.is_empty()
    }
}
