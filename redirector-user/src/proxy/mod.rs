//! The gateway proxy: relays what a connect hook cannot see, connections that
//! arrive at a gateway from elsewhere.
//!
//! What the daemon does, with its privilege:
//!
//! * [`plan`]: the compiled gateway plan as the proxy's configuration.
//! * [`config`]: the input: listeners with their rules, routes, destinations.
//! * [`opened`]: the listening sockets.
//! * [`control`]: has the relay do what the configuration says; [`message`]: in which
//!   words.
//!
//! What the relay does:
//!
//! * [`set`]: brings the running listeners into line with a new [`snapshot`] of the
//!   configuration; [`decide`] says which route a connection takes.
//! * [`worker`]: a thread with an event loop; [`listener`] accepts, [`conn`] is
//!   one connection, [`relay`] one direction of it, [`timer`] all deadlines.
//! * [`select`], [`upstream`], [`sni`], [`loops`], [`drain`], [`stats`], [`descriptors`]: one
//!   concern each.
//!
//! There is one worker for each core, and nothing that two workers have to
//! agree on while they serve. The event loop is written here rather than taken
//! from an async runtime; docs/decisions says why, with measurements.

use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;

mod config;
mod conn;
mod control;
mod decide;
mod descriptors;
mod drain;
mod io;
mod listener;
mod loops;
mod message;
mod near;
mod opened;
mod pipes;
mod plan;
mod relay;
mod select;
mod set;
mod snapshot;
mod sni;
mod stats;
mod timer;
mod upstream;
mod worker;

pub use config::{
    Config, DestinationName, DestinationSpec, Keepalive, ListenerSpec, RouteSpec, RuleSpec,
};
pub use decide::{Request, Verdict, Whose, decide};
pub use message::{
    EndpointCounts, LegCounts, ListenerCounts, ListenerState, ListenerStatus, Status,
};

use control::{Ask, Control};
use descriptors::Descriptors;
use io::Shared;
use opened::Opened;
use set::Set;
use snapshot::Snapshot;
use stats::Registry;
use worker::{Mailbox, Worker};

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
}

impl Default for Settings {
    /// One worker for each core that this process may use, 30 seconds to drain,
    /// 10 seconds for a ClientHello.
    fn default() -> Self {
        let workers = std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
        let (drain, hello_timeout) = (Duration::from_secs(30), Duration::from_secs(10));
        Self { workers, drain, hello_timeout }
    }
}

/// A running proxy. Dropping it stops it, as [`shutdown`](Self::shutdown) does.
pub struct Proxy {
    asks: Mutex<Sender<Ask>>,
    threads: Vec<JoinHandle<()>>,
}

/// The proxy's threads are gone: one of them has panicked.
#[derive(Debug, thiserror::Error)]
#[error("the gateway proxy has stopped")]
pub struct Stopped;

impl Proxy {
    /// Starts the workers; they listen nowhere yet. `whose` says who clients of this
    /// machine are. `inherited` are listening sockets of a predecessor, which a first
    /// configuration with the same addresses goes on with.
    ///
    /// # Errors
    ///
    /// When descriptors or threads have run out.
    pub fn start(
        settings: Settings,
        whose: Box<dyn Whose>,
        inherited: Vec<OwnedFd>,
    ) -> std::io::Result<Self> {
        let nothing = Snapshot::new(Config::default(), &mut Registry::default());
        let shared = Arc::new(Shared {
            snapshot: ArcSwap::from_pointee(nothing),
            loops: loops::Loops::default(),
            hello_timeout: settings.hello_timeout,
            descriptors: Descriptors::of_process(),
            whose,
        });
        let mut mailboxes = Vec::new();
        let mut threads = Vec::new();
        let (asks, questions) = channel();
        for number in 0..settings.workers.get() {
            let mailbox = Mailbox::new()?;
            let worker = Worker::new(mailbox.clone(), Arc::clone(&shared))?;
            let name = format!("gateway-{number}");
            threads.push(std::thread::Builder::new().name(name).spawn(|| worker.run())?);
            mailboxes.push(mailbox);
        }
        let set = Set::new(settings.drain, shared, mailboxes);
        let control = Control::new(Opened::new(settings.workers.get(), inherited), set);
        let thread = std::thread::Builder::new().name("gateway".into());
        threads.push(thread.spawn(move || control.run(&questions))?);
        Ok(Self { asks: Mutex::new(asks), threads })
    }

    /// Puts a configuration into force, and says what came of it. When this
    /// returns, every connection made from then on is decided by it; existing
    /// connections stay as they are. It waits for the workers: some
    /// milliseconds.
    ///
    /// # Errors
    ///
    /// When the proxy has stopped.
    pub fn update(&self, config: Config) -> Result<Status, Stopped> {
        self.ask(|reply| Ask::Update(config, reply))
    }

    /// How it is doing.
    ///
    /// # Errors
    ///
    /// When the proxy has stopped.
    pub fn status(&self) -> Result<Status, Stopped> {
        self.ask(Ask::Status)
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

    fn ask<T>(&self, ask: impl FnOnce(Sender<T>) -> Ask) -> Result<T, Stopped> {
        let (reply, answer) = channel();
        let asks = self.asks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        asks.send(ask(reply)).map_err(|_| Stopped)?;
        answer.recv().map_err(|_| Stopped)
    }

    fn stop(&mut self) {
        let asks = self.asks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let _ = asks.send(Ask::Stop);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
    }
}
