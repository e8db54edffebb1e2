//! One daemon follows another without a gap: `run --replace`.
//!
//! ```text
//! successor                          predecessor
//!   hand-over?            --->         goes on serving gateways, lets go of
//!   listening sockets     <---         the tables, the state and the metrics
//!   takes over, in force
//!   SIGTERM               --->         stops accepting, its connections
//!                                      finish, and it ends
//! ```
//!
//! The successor accepts from the very same sockets, so that no client that
//! waits in one is lost. The kernel goes on by itself all the while.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Event;
use super::control::{self, Request};
use super::gateways::Gateways;
use crate::failure::{Exit, Failure};
use crate::state::{Lock, StateDir, StateError};

/// How long a predecessor may take to let go.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a predecessor waits to hear that its successor is in force.
const SUCCESSION: Duration = Duration::from_secs(60);

/// The daemon that this one follows.
#[derive(Debug)]
pub struct Predecessor {
    /// Its process.
    pub pid: u32,
    /// Its listening sockets.
    pub sockets: Vec<OwnedFd>,
}

impl Predecessor {
    /// Asks the daemon in charge, if there is one, to hand over.
    pub fn ask(state: &StateDir) -> Result<Option<Self>, Failure> {
        let Some(pid) = state.daemon() else { return Ok(None) };
        let socket = state.control_socket();
        let (response, sockets) =
            control::ask_for_sockets(&socket, &Request::HandOver).map_err(|error| {
                let socket = socket.display();
                let why = format!("process {pid} does not hand over: {socket}: {error}");
                Failure::new(Exit::No, why).help("stop it first")
            })?;
        if let Some(error) = response.error {
            let why = format!("process {pid} does not hand over: {error}");
            return Err(Failure::new(Exit::No, why).help("stop it first"));
        }
        tracing::info!(pid, sockets = sockets.len(), "taking over from the daemon in charge");
        Ok(Some(Self { pid, sockets }))
    }

    /// This daemon is in force: the other one may go.
    pub fn dismiss(&self) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid
            && let Err(error) = kill_process(pid, Signal::TERM)
        {
            tracing::warn!(%error, pid = self.pid, "the daemon before cannot be told to end");
        }
    }
}

/// Takes the lock of the state directory; while a predecessor lets go, in a
/// little while.
pub fn lock(state: &StateDir, predecessor: bool) -> Result<Lock, StateError> {
    patiently(predecessor, || state.lock(), |error| matches!(error, StateError::Busy { .. }))
}

/// Tries until it is not busy any more, if it is worth waiting for that.
pub fn patiently<T, E>(
    worth: bool,
    mut attempt: impl FnMut() -> Result<T, E>,
    busy: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let begun = Instant::now();
    loop {
        match attempt() {
            Err(error) if worth && busy(&error) && begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

/// Goes on serving gateways until the successor is in force, and then lets their
/// connections finish.
pub fn linger(mut gateways: Gateways, events: &Receiver<Event>) {
    let until = Instant::now() + SUCCESSION;
    tracing::info!("handed over; gateways go on until the successor is in force");
    loop {
        match events.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Event::Stop(_)) => break,
            // All else is the successor's business.
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                tracing::warn!("no successor came in force");
                break;
            }
        }
    }
    tracing::info!("connections of gateways finish");
    gateways.shutdown();
}
