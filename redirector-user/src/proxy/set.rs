//! The set of listeners: brings what runs into line with a new configuration,
//! without dropping a connection.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::access::AccessFormat;
use super::config::Config;
use super::drain::Drains;
use super::io::Shared;
use super::message::{ListenerState, ListenerStatus, Status};
use super::snapshot::Snapshot;
use super::stats::Registry;
use super::told::Through;
use super::worker::{Command, Mailbox};

/// Longest wait for all workers to answer; who has asked for it waits for longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The listeners and those who serve them.
pub(super) struct Set {
    shared: Arc<Shared>,
    workers: Vec<Mailbox>,
    registry: Registry,
    /// Where workers listen.
    listening: HashSet<SocketAddr>,
    drains: Drains,
}

impl Set {
    /// None yet.
    pub fn new(shared: Arc<Shared>, workers: Vec<Mailbox>) -> Self {
        let (registry, drains) = (Registry::default(), Drains::default());
        Self { shared, workers, registry, listening: HashSet::new(), drains }
    }

    /// Tells of connections that have ended, or not.
    pub fn tell(&self, wanted: Option<(AccessFormat, OwnedFd)>) {
        self.shared.access.set(wanted);
    }

    /// Workers accept no more, give their connections this long, and end.
    pub fn stop(&self, drain: Duration) {
        for worker in &self.workers {
            worker.send(Command::Stop(drain));
        }
    }

    /// Puts a configuration into force: connections of listeners that go have this long.
    /// When this returns, every connection that is accepted from then on is decided by it.
    pub fn update(&mut self, config: Config, drain: Duration) {
        let wanted: HashSet<SocketAddr> = config.listeners.iter().map(|l| l.address).collect();
        // First what goes: the clients that wait there are still served by the
        // configuration under which they came.
        let gone: Vec<SocketAddr> = self.listening.difference(&wanted).copied().collect();
        self.unlisten(&gone, drain);
        self.keep_back();
        let snapshot = Arc::new(Snapshot::new(config, &mut self.registry));
        self.shared.snapshot.store(snapshot);
    }

    /// Closes the sockets of these addresses once what waits in them is accepted: all have
    /// one time.
    fn unlisten(&mut self, gone: &[SocketAddr], drain: Duration) {
        let (done, finished) = channel();
        for &address in gone {
            for worker in &self.workers {
                worker.send(Command::Unlisten(address, drain, done.clone()));
            }
        }
        drop(done);
        let until = Instant::now() + PATIENCE;
        let left = || until.saturating_duration_since(Instant::now());
        // Until all have done it, or the time is over.
        while finished.recv_timeout(left()).is_ok() {}
        let snapshot = self.shared.snapshot.load();
        for address in gone {
            self.listening.remove(address);
            if let Some(listener) = snapshot.listener(*address) {
                let stats = Arc::clone(&listener.stats);
                self.drains.add(*address, listener.spec.name.clone(), stats, drain);
            }
        }
    }

    /// Keeps descriptors back for a copy of each listening socket.
    fn keep_back(&self) {
        self.shared.descriptors.keep_for(self.workers.len() * self.listening.len());
    }

    /// Copies of all listening sockets.
    ///
    /// # Errors
    ///
    /// When descriptors have run out, or a worker does not answer.
    pub fn share(&self) -> io::Result<Vec<OwnedFd>> {
        let (reply, answers) = channel();
        for worker in &self.workers {
            worker.send(Command::Share(reply.clone()));
        }
        drop(reply);
        let mut sockets = Vec::new();
        let until = Instant::now() + PATIENCE;
        for _ in &self.workers {
            let left = until.saturating_duration_since(Instant::now());
            sockets.extend(answers.recv_timeout(left).map_err(io::Error::other)??);
        }
        Ok(sockets)
    }

    /// Gives each worker one socket of each address; if there are more, it begins with
    /// the first again. What is listened on already stays as it is.
    pub fn listen(&mut self, addresses: &[SocketAddr], sockets: Vec<OwnedFd>) {
        let known = self.listening.clone();
        let mut workers = self.workers.iter().cycle();
        let mut last = None;
        let new = addresses.iter().zip(sockets).filter(|(address, _)| !known.contains(address));
        for (address, socket) in new {
            if last.replace(address) != Some(address) {
                workers = self.workers.iter().cycle();
            }
            if let Some(worker) = workers.next() {
                worker.send(Command::Listen(*address, socket));
            }
            self.listening.insert(*address);
            self.drains.forget(*address);
        }
        self.keep_back();
    }

    /// What was told of connections.
    pub fn told(&self, after: u64, time: Duration) -> Vec<Through> {
        self.shared.told.follow(after, time)
    }

    /// How they are doing.
    pub fn status(&mut self) -> Status {
        let snapshot = self.shared.snapshot.load();
        let mut listeners: Vec<ListenerStatus> = snapshot
            .listeners
            .iter()
            .map(|listener| ListenerStatus {
                address: listener.spec.address,
                name: listener.spec.name.clone(),
                state: ListenerState::Listening,
                counts: listener.stats.read(),
            })
            .collect();
        listeners.extend(self.drains.status());
        listeners.sort_by_key(|listener| listener.address);
        self.registry.sweep();
        let active = listeners.iter().map(|listener| listener.counts.active).sum();
        let (legs, failing) = (self.registry.legs(), self.registry.failing());
        let access_dropped = self.shared.access.dropped();
        Status { listeners, legs, failing, active, access_dropped, relay: None }
    }
}
