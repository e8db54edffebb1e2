//! The gateway proxy: relays what a connect hook cannot see, connections that
//! arrive at a gateway from elsewhere.
//!
//! Relaying needs no privilege, and what it reads comes from strangers: so it is done by
//! a process of its own, which is started by the daemon, and has none. Bytes never cross
//! between the two.
//!
//! What the daemon does:
//!
//! * [`plan`]: the compiled gateway plan as the proxy's configuration.
//! * [`config`]: the input: listeners with their rules, routes, destinations.
//! * [`opened`]: the listening sockets.
//! * [`control`]: has the relay do what the configuration says, and starts another one
//!   when it has ended; [`process`]: its process; [`starter`]: who starts that;
//!   [`lost`]: those that no daemon finds.
//!
//! How they talk: [`frame`] and [`message`].
//!
//! What the relay does:
//!
//! * [`serve`]: its process; [`confine`]: what that gives up; [`asking`]: what it asks.
//! * [`set`]: brings the running listeners into line with a new [`snapshot`] of the
//!   configuration; [`decide`] says which route a connection takes.
//! * [`worker`]: a thread with an event loop; [`listener`] accepts, [`conn`] is
//!   one connection, [`relay`] one direction of it, [`timer`] all deadlines.
//! * [`access`]: a line for each connection that has ended.
//! * [`select`], [`upstream`], [`sni`], [`loops`], [`drain`], [`stats`], [`descriptors`]: one
//!   concern each.
//!
//! There is one worker for each core, and nothing that two workers have to
//! agree on while they serve. The event loop is written here rather than taken
//! from an async runtime; docs/decisions says why, with measurements.

use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

mod access;
mod asking;
mod config;
mod confine;
mod conn;
mod control;
mod decide;
mod descriptors;
mod drain;
mod frame;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod io;
mod listener;
mod loops;
mod lost;
mod message;
mod near;
mod opened;
mod pipes;
mod plan;
mod process;
mod relay;
mod select;
mod serve;
mod set;
mod snapshot;
mod sni;
mod start;
mod starter;
mod stats;
mod timer;
mod told;
mod upstream;
mod worker;

pub use access::AccessFormat;
pub use config::{
    Config, DestinationName, DestinationSpec, Keepalive, ListenerSpec, RouteSpec, RuleSpec,
};
pub use decide::{GatewayVerdict, Request, Whose, decide};
pub use lost::{end_left, end_lost};
pub use message::{
    ByFailed, ByRefused, EndpointCounts, Failed, LegCounts, ListenerCounts, ListenerState,
    ListenerStatus, Refused, RelayStatus, Status,
};
pub use process::{is_at, place_at, retire_at, status_at};
pub use serve::relay;
pub use start::{Log, Start};
pub use starter::{become_relay, start_relays};
pub use told::{Became, Through};

pub use control::open_log;

use control::{Ask, Control};

/// What the program is told when it is to be a relay. [`Start`] follows, or nothing where a
/// daemon's connection is standard input, or [`LISTEN`].
pub const SUBCOMMAND: &str = "relay";

/// A path follows: relays are to be started for who connects there.
pub const LISTEN: &str = "--listen";

/// Settings that last for the life of a proxy.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Worker threads.
    pub workers: NonZero<usize>,
    /// How long the connections of a removed listener may go on, and all
    /// connections at [`Proxy::shutdown`].
    pub drain: Duration,
    /// Longest wait for a whole ClientHello, where routes depend on it.
    pub hello_timeout: Duration,
    /// The program that is a relay when it is told [`SUBCOMMAND`].
    pub program: PathBuf,
    /// The cgroup whose connections are left alone, with those of all below it: the relay is
    /// below it, in one that is made for it where it is in none. `None`: it stays where it is.
    pub cgroup: Option<PathBuf>,
    /// The Unix socket of who starts relays, one for each connection; only with a
    /// [door](Self::door). `None`: this process starts it.
    pub starter: Option<PathBuf>,
    /// Where the relay is found by the next daemon: the path of a Unix socket, in a
    /// directory of root's. `None`: it goes with this process.
    pub door: Option<PathBuf>,
    /// How the relay logs.
    pub log: Log,
    /// How connections are told of when they have ended, and where: a file, else standard
    /// output.
    pub access: Option<(AccessFormat, Option<PathBuf>)>,
}

impl Default for Settings {
    /// One worker for each core that this process may use, 30 seconds to drain,
    /// 10 seconds for a ClientHello; this program.
    fn default() -> Self {
        let workers = std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
        let (drain, hello_timeout) = (Duration::from_secs(30), Duration::from_secs(10));
        // Also when it has been replaced meanwhile.
        let program = "/proc/self/exe".into();
        let log = Log { level: "info".to_owned(), json: false, colour: false };
        Self {
            workers,
            drain,
            hello_timeout,
            program,
            cgroup: None,
            starter: None,
            door: None,
            log,
            access: None,
        }
    }
}

/// A running proxy. Dropping it stops it, as [`shutdown`](Self::shutdown) does.
pub struct Proxy {
    asks: Mutex<Sender<Ask>>,
    thread: Option<JoinHandle<()>>,
}

/// The proxy's thread is gone: it has panicked.
#[derive(Debug, thiserror::Error)]
#[error("the gateway proxy has stopped")]
pub struct Stopped;

impl Proxy {
    /// Goes on with the relay that is behind [`Settings::door`], which goes on with what it
    /// serves, or starts one, which listens nowhere yet. `whose` says who clients of this
    /// machine are. `inherited` are listening sockets of a predecessor, which a first
    /// configuration with the same addresses goes on with.
    ///
    /// # Errors
    ///
    /// When descriptors, threads or processes have run out.
    pub fn start(
        settings: Settings,
        whose: Arc<dyn Whose>,
        inherited: Vec<OwnedFd>,
    ) -> std::io::Result<Self> {
        let (asks, questions) = channel();
        let control = Control::start(settings, whose, inherited, asks.clone())?;
        let thread = std::thread::Builder::new().name("gateway".into());
        let thread = Some(thread.spawn(move || control.run(&questions))?);
        Ok(Self { asks: Mutex::new(asks), thread })
    }

    /// Puts a configuration into force, and says what came of it. When this
    /// returns, every connection made from then on is decided by it; existing
    /// connections stay as they are. It waits for the relay: some milliseconds, or
    /// seconds for one that does not answer, and for the one that takes its place.
    ///
    /// # Errors
    ///
    /// When the proxy has stopped.
    pub fn update(&self, config: Config) -> Result<Status, Stopped> {
        self.ask(|reply| Ask::Update(config, reply))
    }

    /// Whether a relay accepts from all listening sockets that there are, or need not as
    /// there is nothing to serve; within, why not.
    ///
    /// # Errors
    ///
    /// When the proxy has stopped.
    pub fn serves(&self) -> Result<Result<(), String>, Stopped> {
        self.ask(Ask::Serves)
    }

    /// How it is doing.
    ///
    /// # Errors
    ///
    /// When the proxy has stopped.
    pub fn status(&self) -> Result<Status, Stopped> {
        self.ask(Ask::Status)
    }

    /// What was told of connections after the record of this number; there is more for so
    /// long from now on.
    ///
    /// # Errors
    ///
    /// When the proxy has stopped.
    pub fn follow(&self, after: u64, time: Duration) -> Result<Vec<Through>, Stopped> {
        self.ask(|reply| Ask::Follow(after, time, reply))
    }

    /// Whose the cgroups of clients are may have changed.
    pub fn forget(&self) {
        self.tell(Ask::Forget);
    }

    /// Opens the relay's [door](Settings::door) again, which was removed.
    pub fn open_door(&self) {
        self.tell(Ask::OpenDoor);
    }

    /// The relay logs at this level from now on.
    pub fn log_at(&self, level: &str) {
        self.tell(Ask::LogAt(level.to_owned()));
    }

    /// Copies of all listening sockets, for a successor: who accepts from one
    /// takes a client that waits for any of them.
    ///
    /// # Errors
    ///
    /// When the proxy has stopped; within, when descriptors have run out.
    pub fn share(&self) -> Result<std::io::Result<Vec<OwnedFd>>, Stopped> {
        self.ask(Ask::Share)
    }

    /// Stops accepting, gives the connections [`Settings::drain`] to finish,
    /// and resets those that are left. Returns when all are closed.
    pub fn shutdown(mut self) {
        self.stop();
    }

    /// Leaves the relay to the next daemon, if there is a [door](Settings::door).
    pub fn leave(mut self) {
        self.end(Ask::Leave);
    }

    /// Has the relay accept no more, if nobody has told it so yet, and leaves it to finish
    /// its connections.
    pub fn give_way(mut self) {
        self.end(Ask::GiveWay);
    }

    fn ask<T>(&self, ask: impl FnOnce(Sender<T>) -> Ask) -> Result<T, Stopped> {
        let (reply, answer) = channel();
        self.tell(ask(reply));
        answer.recv().map_err(|_| Stopped)
    }

    /// One that has stopped does not hear it.
    fn tell(&self, ask: Ask) {
        let _ = self.asks.lock().unwrap_or_else(PoisonError::into_inner).send(ask);
    }

    fn stop(&mut self) {
        self.end(Ask::Stop);
    }

    fn end(&mut self, how: Ask) {
        self.tell(how);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
    }
}
