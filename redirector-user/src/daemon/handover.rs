//! One daemon follows another without a gap: `run --replace`.
//!
//! ```text
//! successor                          predecessor
//!   hand-over?            --->         goes on serving gateways, lets go of
//!   listening sockets     <---         the tables and the state
//!   takes over, in force
//!   confirms              --->         stops accepting, its connections
//!                                      finish, and it ends
//!   (or is gone)          --->         takes over again
//! ```
//!
//! The predecessor goes on trying to take over again, whatever keeps it from that, unless
//! somebody else is in charge, or has unloaded everything: what it has serves gateways
//! meanwhile.
//!
//! The successor goes on with the process that relays connections of gateways, or, where
//! that is of another version or in another pod, with the very same listening sockets: no
//! client that waits in one is lost. The kernel goes on by itself all the while.
//!
//! The successor may be in another pod, of which nothing is seen from here. Who would end
//! then would be started again by its kubelet: so the predecessor stands by until it is told
//! to end, and takes over again should nobody be in charge, as when a roll-out is taken back.
//!
//! Whoever begins while a successor has just gone waits until the predecessor is in charge again,
//! and follows it then: were it sooner, that one would give way to who serves nobody yet. Who asks
//! a successor that is not in force yet waits until it is. One that ends as it is asked is not
//! there.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::net::getsockname;
use rustix::process::{Pid, Signal, kill_process};

use super::control::{self, Request};
use super::gateways::Gateways;
use super::leaf::Leaf;
use super::server::Server;
use super::signals::Signals;
use super::{Event, Options};
use crate::datapath::{self, Datapath};
use crate::failure::{Exit, Failure};
use crate::state::{Lingering, Lock, StateDir, StateError};
use crate::{proxy, rights};

/// How long a predecessor may take to let go.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a successor may take to be in force: then the predecessor is in charge
/// again.
pub const SUCCESSION: Duration = Duration::from_secs(60);

/// How often it is looked whether something is so that is so in a moment.
const SOON: Duration = Duration::from_millis(10);

/// How often one that stands by looks whether anybody is in charge.
const LOOKS: Duration = Duration::from_secs(1);

/// The daemon that this one follows.
#[derive(Debug)]
pub struct Predecessor {
    /// Its process, where that is seen from here.
    pub pid: Option<u32>,
    /// Its listening sockets in this network namespace.
    pub sockets: Vec<OwnedFd>,
    /// Where they listen, also once they are somebody else's.
    pub addresses: Vec<SocketAddr>,
    /// As long as this is open, it waits.
    connection: UnixStream,
}

impl Predecessor {
    /// Asks the daemon in charge, if there is one, to hand over.
    pub fn ask(state: &StateDir) -> Result<Option<Self>, Failure> {
        let socket = state.control_socket();
        let request = Request::HandOver { confirms: true, adopts: true, elsewhere: false };
        let mut absent: Option<Instant> = None;
        let (pid, (response, mut sockets, connection)) = loop {
            wait_for_return(state, &socket);
            let Some(pid) = state.daemon() else { return Ok(None) };
            match control::ask_for_sockets(&socket, &request) {
                Ok(answer) => break (pid, answer),
                Err(error)
                    if is_absence(&error)
                        && absent.is_none_or(|since| since.elapsed() < PATIENCE) =>
                {
                    if absent.is_none() {
                        tracing::info!(pid, "the daemon in charge ends, or is about to listen");
                        absent = Some(Instant::now());
                    }
                    std::thread::sleep(SOON);
                }
                Err(error) => {
                    let at = socket.display();
                    let why = format!("process {pid} does not hand over: {at}: {error}");
                    let remedy = control::remedy(&socket, &error);
                    let help = remedy.unwrap_or("stop it first".to_owned());
                    return Err(Failure::new(Exit::No, why).help(help));
                }
            }
        };
        if let Some(error) = response.error {
            let why = format!("process {pid} does not hand over: {error}");
            return Err(Failure::new(Exit::No, why).help("stop it first"));
        }
        // That of a pod with a network of its own listens where nobody asks this one.
        datapath::keep_own(&mut sockets).map_err(|error| {
            let why = format!("whether the sockets of process {pid} are of this network: {error}");
            Failure::new(Exit::No, why)
        })?;
        tracing::info!(pid, sockets = sockets.len(), "taking over from the daemon in charge");
        // The number that it has written is that of another process here, where it is in
        // another pod.
        let pid = rights::peer(&connection).ok().map(|peer| peer.pid.unsigned_abs());
        let addresses = sockets.iter().filter_map(address_of).collect();
        let pid = pid.filter(|pid| *pid != 0);
        Ok(Some(Self { pid, sockets, addresses, connection }))
    }

    /// Whether it is not seen from here, as that of another pod.
    pub const fn is_elsewhere(&self) -> bool {
        self.pid.is_none()
    }

    /// The listening socket that it has at this address.
    pub fn listener(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let at = self.sockets.iter().position(|one| address_of(one) == Some(address))?;
        Some(self.sockets.swap_remove(at).into())
    }

    /// This daemon is in force: the other one may go.
    pub fn dismiss(&self) {
        // One of an earlier version does not listen to that, and one that has gone
        // needs not.
        let _ = control::confirm(&self.connection);
        let pid = self.pid.and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid
            && let Err(error) = kill_process(pid, Signal::TERM)
        {
            tracing::warn!(%error, ?pid, "the daemon before cannot be told to end");
        }
    }
}

/// Waits until a daemon whose successor has gone is in charge again.
fn wait_for_return(state: &StateDir, socket: &Path) {
    let begun = Instant::now();
    let is_back = || !state.is_lingered() || proxy::is_at(socket);
    if !is_back() {
        tracing::info!("waits for the daemon that has handed over to one that has gone");
    }
    while !is_back() && begun.elapsed() < PATIENCE {
        std::thread::sleep(SOON);
    }
}

/// Whether nobody is there who would answer, or not any more.
fn is_absence(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof};
    let kinds = [BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof];
    kinds.contains(&error.kind())
}

/// Where a socket of TCP listens.
fn address_of(socket: &OwnedFd) -> Option<SocketAddr> {
    SocketAddr::try_from(getsockname(socket).ok()?).ok()
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
                std::thread::sleep(SOON);
            }
            result => return result,
        }
    }
}

/// What stays with a daemon that hands over: all of it is there for its connections,
/// and for the case that it takes over again.
#[derive(Default)]
pub struct Kept {
    /// Its gateways go on.
    pub gateways: Option<Gateways>,
    /// It is in there.
    pub leaf: Option<Leaf>,
    /// The sockets of its metrics: nobody else can take the addresses.
    pub metrics: Vec<TcpListener>,
    /// It is told to end.
    pub signals: Option<Signals>,
    /// Others are to know that it may be in charge again.
    pub lingering: Option<Lingering>,
}

impl Kept {
    /// The process ends, and was in charge last: what is in force stays, or goes, as when it
    /// ends in charge. Where somebody else is in charge by now, all of it is theirs.
    ///
    /// # Errors
    ///
    /// What is to go does not.
    pub fn end_as_last(self, options: &Options) -> Result<Exit, Failure> {
        let state = StateDir::new(&options.state_dir);
        let lock = state.lock();
        if lock.is_ok() {
            let _ = std::fs::remove_file(state.control_socket());
        }
        if !options.detach_on_exit || matches!(lock, Err(StateError::Busy { .. })) {
            tracing::info!("ending; everything stays in force without this process");
            self.end();
            return Ok(Exit::Fine);
        }
        tracing::info!("ending; detaching");
        self.let_go(false);
        let _lock = lock?;
        let unload = || Datapath::unload(&options.bpffs);
        match patiently(true, unload, |error| matches!(error, datapath::Error::Busy { .. })) {
            Err(error) if !matches!(error, datapath::Error::NotLoaded { .. }) => Err(error)?,
            _ => {}
        }
        state.remove()?;
        Ok(Exit::Fine)
    }

    /// Somebody is in charge who is not seen from here: waits until this process is to end
    /// (`None`), or nobody is in charge any more.
    pub fn stand_by(mut self, state: &StateDir, events: &Receiver<Event>) -> Option<Self> {
        if let Some(mut gateways) = self.gateways.take() {
            gateways.give_way();
        }
        self.metrics.clear();
        self.lingering = None;
        tracing::info!("the daemon of another pod is in charge; standing by");
        loop {
            match events.recv_timeout(LOOKS) {
                Ok(Event::Stop(_)) | Err(RecvTimeoutError::Disconnected) => return None,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    // One that begins has the lock, and is not heard yet.
                    let listens = proxy::is_at(&state.control_socket());
                    if !listens && state.daemon().is_none() {
                        tracing::warn!("nobody is in charge any more; taking over again");
                        return Some(self);
                    }
                }
            }
        }
    }

    /// The process ends, and nobody has taken over from it.
    pub fn end(self) {
        let stays = self.gateways.as_ref().is_some_and(Gateways::stays);
        self.let_go(stays);
    }

    /// The process ends: connections of gateways finish, or go on where somebody `adopts`
    /// the process that relays them.
    pub fn let_go(self, adopts: bool) {
        let Self { gateways, leaf, lingering, .. } = self;
        drop(lingering);
        if let Some(mut gateways) = gateways {
            if adopts {
                gateways.leave();
            } else {
                tracing::info!("connections of gateways finish");
                gateways.shutdown();
            }
        }
        drop(leaf);
    }
}

/// A daemon that has handed over.
pub struct HandedOver {
    /// What stays with it.
    pub kept: Kept,
    /// Tells when the successor has gone.
    pub server: Server,
    /// What the successor does.
    pub succession: Succession,
}

/// What a successor does.
#[derive(Clone, Copy, Debug)]
pub struct Succession {
    /// It says when it is in force.
    pub confirms: bool,
    /// It goes on with the process that relays.
    pub adopts: bool,
    /// It is not seen from here.
    pub elsewhere: bool,
}

impl HandedOver {
    /// Goes on serving gateways until the successor is in force, and then lets their
    /// connections finish. If it never comes to that, or nobody is in charge
    /// [later](Kept::stand_by), what is needed to take over again.
    pub fn linger(self, state: &StateDir, events: &Receiver<Event>) -> Option<Kept> {
        let until = Instant::now() + SUCCESSION;
        tracing::info!("handed over; gateways go on until the successor is in charge");
        let because = loop {
            let event = match self.succession.confirms {
                true => events.recv().map_err(RecvTimeoutError::from),
                false => events.recv_timeout(until.saturating_duration_since(Instant::now())),
            };
            match event {
                Ok(Event::Succeeded(true)) if self.succession.elsewhere => {
                    drop(self.server);
                    return self.kept.stand_by(state, events);
                }
                Ok(Event::Stop(_) | Event::Succeeded(true)) => {
                    drop(self.server);
                    self.kept.let_go(self.succession.adopts);
                    return None;
                }
                Ok(Event::Succeeded(false)) => break "it has ended",
                // All else is the successor's business.
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => break "it takes too long",
                Err(RecvTimeoutError::Disconnected) => break "nothing is heard of it",
            }
        };
        tracing::warn!("the successor is not in charge: {because}; taking over again");
        Some(self.kept)
    }
}
