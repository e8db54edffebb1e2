//! The set of listeners: brings what runs into line with a new configuration,
//! without dropping a connection, and goes on trying to bind what could not be
//! bound.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::config::Config;
use super::drain::Drains;
use super::io::Shared;
use super::listener::{bind_all, dialled, urgent_in_place};
use super::snapshot::Snapshot;
use super::stats::Registry;
use super::worker::{Command, Mailbox};
use super::{ListenerState, ListenerStatus, Settings, Status};

/// The first and the longest wait before another try to bind.
const RETRIES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(10)];

/// Longest wait for a worker to say that it has closed a socket.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the proxy's control thread is asked.
pub(super) enum Ask {
    Update(Config, Sender<Status>),
    Status(Sender<Status>),
    /// Copies of all listening sockets.
    Share(Sender<io::Result<Vec<OwnedFd>>>),
    Stop,
}

/// An address of the configuration.
enum Bound {
    Listening,
    Failed { error: String, tries: u32, next: Instant, wait: Duration },
}

/// The control thread's state.
pub(super) struct Set {
    settings: Settings,
    shared: Arc<Shared>,
    workers: Vec<Mailbox>,
    registry: Registry,
    bound: HashMap<SocketAddr, Bound>,
    drains: Drains,
    /// Listening sockets of a predecessor, until the first configuration has
    /// taken those that it wants.
    inherited: HashMap<SocketAddr, Vec<OwnedFd>>,
}

impl Set {
    pub fn new(
        settings: Settings,
        shared: Arc<Shared>,
        workers: Vec<Mailbox>,
        inherited: Vec<OwnedFd>,
    ) -> Self {
        let mut by_address: HashMap<SocketAddr, Vec<OwnedFd>> = HashMap::new();
        for socket in inherited {
            if let Ok(address) = dialled(&socket) {
                by_address.entry(address).or_default().push(socket);
            }
        }
        Self {
            settings,
            shared,
            workers,
            registry: Registry::default(),
            bound: HashMap::new(),
            drains: Drains::default(),
            inherited: by_address,
        }
    }

    /// Serves until it is told to stop, or nobody is left to ask.
    pub fn run(mut self, asks: &Receiver<Ask>) {
        loop {
            let wait = self.next_try().map(|at| at.saturating_duration_since(Instant::now()));
            let ask = match wait {
                Some(wait) => asks.recv_timeout(wait),
                None => asks.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match ask {
                Ok(Ask::Update(config, reply)) => {
                    self.update(config);
                    self.inherited.clear();
                    let _ = reply.send(self.status());
                }
                Ok(Ask::Status(reply)) => {
                    let _ = reply.send(self.status());
                }
                Ok(Ask::Share(reply)) => {
                    let _ = reply.send(self.share());
                }
                Err(RecvTimeoutError::Timeout) => self.try_again(),
                Ok(Ask::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    for worker in &self.workers {
                        worker.send(Command::Stop(self.settings.drain));
                    }
                    return;
                }
            }
        }
    }

    /// Puts a configuration into force. When this returns, every connection
    /// that is made from then on is decided by it.
    fn update(&mut self, config: Config) {
        let wanted: Vec<SocketAddr> = config.listeners.iter().map(|l| l.address).collect();
        // First what goes: the clients that wait there are still served by the
        // configuration under which they came.
        let gone: Vec<SocketAddr> =
            self.bound.keys().filter(|address| !wanted.contains(address)).copied().collect();
        for address in gone {
            if let Some(Bound::Listening) = self.bound.remove(&address) {
                self.unlisten(address);
            }
        }
        let snapshot = Arc::new(Snapshot::new(config, &mut self.registry));
        self.shared.snapshot.store(snapshot);
        for address in wanted {
            if !self.bound.contains_key(&address) {
                self.listen(address, 0, RETRIES[0]);
            }
        }
    }

    /// Closes the sockets of an address once what waits in them is accepted.
    fn unlisten(&mut self, address: SocketAddr) {
        let (done, finished) = channel();
        for worker in &self.workers {
            worker.send(Command::Unlisten(address, self.settings.drain, done.clone()));
        }
        drop(done);
        for _ in &self.workers {
            if finished.recv_timeout(PATIENCE).is_err() {
                break;
            }
        }
        let snapshot = self.shared.snapshot.load();
        if let Some((_, listener)) = snapshot.listener(address) {
            let stats = Arc::clone(&listener.stats);
            self.drains.add(address, listener.spec.name.clone(), stats, self.settings.drain);
        }
    }

    fn share(&self) -> io::Result<Vec<OwnedFd>> {
        let (reply, answers) = channel();
        for worker in &self.workers {
            worker.send(Command::Share(reply.clone()));
        }
        drop(reply);
        let mut sockets = Vec::new();
        for _ in &self.workers {
            sockets.extend(answers.recv_timeout(PATIENCE).map_err(io::Error::other)??);
        }
        Ok(sockets)
    }

    /// The listening sockets of an address: those of a predecessor, in whose
    /// queues clients may wait, and new ones for the workers that have none.
    fn sockets(&mut self, address: SocketAddr) -> rustix::io::Result<Vec<OwnedFd>> {
        let mut sockets = self.inherited.remove(&address).unwrap_or_default();
        // An earlier version may have made them.
        sockets.iter().try_for_each(urgent_in_place)?;
        sockets.extend(bind_all(address, sockets.len(), self.workers.len())?);
        Ok(sockets)
    }

    /// Binds an address, or notes when to try again.
    fn listen(&mut self, address: SocketAddr, tries: u32, wait: Duration) {
        let state = match self.sockets(address) {
            Ok(sockets) => {
                self.hand_out(address, sockets);
                self.drains.forget(address);
                Bound::Listening
            }
            Err(error) => {
                let error = io::Error::from(error).to_string();
                if tries == 0 {
                    tracing::warn!(%address, error, "cannot listen; will try again");
                }
                let next = Instant::now() + wait;
                let wait = (wait * 2).min(RETRIES[1]);
                Bound::Failed { error, tries: tries + 1, next, wait }
            }
        };
        self.bound.insert(address, state);
    }

    fn hand_out(&self, address: SocketAddr, sockets: Vec<OwnedFd>) {
        for (worker, socket) in self.workers.iter().cycle().zip(sockets) {
            worker.send(Command::Listen(address, socket));
        }
    }

    fn next_try(&self) -> Option<Instant> {
        let next = |bound: &Bound| match bound {
            Bound::Listening => None,
            Bound::Failed { next, .. } => Some(*next),
        };
        self.bound.values().filter_map(next).min()
    }

    fn try_again(&mut self) {
        let now = Instant::now();
        let due: Vec<_> = self
            .bound
            .iter()
            .filter_map(|(address, bound)| match bound {
                Bound::Failed { tries, next, wait, .. } if *next <= now => {
                    Some((*address, *tries, *wait))
                }
                _ => None,
            })
            .collect();
        for (address, tries, wait) in due {
            self.listen(address, tries, wait);
            if matches!(self.bound.get(&address), Some(Bound::Listening)) {
                tracing::info!(%address, "listens at last");
            }
        }
    }

    fn status(&mut self) -> Status {
        let snapshot = self.shared.snapshot.load();
        let mut listeners: Vec<ListenerStatus> = snapshot
            .listeners
            .iter()
            .map(|listener| ListenerStatus {
                address: listener.spec.address,
                name: listener.spec.name.clone(),
                state: match self.bound.get(&listener.spec.address) {
                    Some(Bound::Failed { error, tries, .. }) => {
                        ListenerState::Failed { error: error.clone(), tries: *tries }
                    }
                    _ => ListenerState::Listening,
                },
                counts: listener.stats.read(),
            })
            .collect();
        listeners.extend(self.drains.status());
        listeners.sort_by_key(|listener| listener.address);
        self.registry.sweep();
        let active = listeners.iter().map(|listener| listener.counts.active).sum();
        let (legs, failing) = (self.registry.legs(), self.registry.failing());
        Status { listeners, legs, failing, active }
    }
}
