//! The daemon's side: opens listening sockets, passes them to the relay, and has it do
//! what the configuration says.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Instant;

use super::config::Config;
use super::message::{Answer, Question, Status};
use super::opened::Opened;
use super::set::Set;

/// What the control thread is asked.
pub(super) enum Ask {
    Update(Config, Sender<Status>),
    Status(Sender<Status>),
    /// Copies of all listening sockets.
    Share(Sender<io::Result<Vec<OwnedFd>>>),
    Stop,
}

/// The control thread's state.
pub(super) struct Control {
    opened: Opened,
    relay: Set,
}

impl Control {
    pub fn new(opened: Opened, relay: Set) -> Self {
        Self { opened, relay }
    }

    /// Serves until it is told to stop, or nobody is left to ask.
    pub fn run(mut self, asks: &Receiver<Ask>) {
        loop {
            let next = self.opened.next_try();
            let ask = match next.map(|at| at.saturating_duration_since(Instant::now())) {
                Some(wait) => asks.recv_timeout(wait),
                None => asks.recv().map_err(RecvTimeoutError::from),
            };
            match ask {
                Ok(Ask::Update(config, reply)) => {
                    self.update(config);
                    let _ = reply.send(self.status());
                }
                Ok(Ask::Status(reply)) => {
                    let _ = reply.send(self.status());
                }
                Ok(Ask::Share(reply)) => {
                    let all = self.opened.copies(&self.opened.listening());
                    let sockets = all.map(|all| all.into_iter().map(|(_, socket)| socket));
                    let _ = reply.send(sockets.map(Iterator::collect).map_err(Into::into));
                }
                Err(RecvTimeoutError::Timeout) => {
                    let new = self.opened.try_again();
                    self.pass_on(&new);
                }
                Ok(Ask::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.relay.stop();
                    return;
                }
            }
        }
    }

    /// Puts a configuration into force. When this returns, every connection
    /// that is made from then on is decided by it.
    fn update(&mut self, config: Config) {
        let wanted: Vec<SocketAddr> = config.listeners.iter().map(|l| l.address).collect();
        // The relay has the last copies of these, and serves what waits in them.
        self.opened.close_others(&wanted);
        self.relay.answer(Question::Update(Box::new(config)), Vec::new());
        let new = self.opened.open(&wanted);
        self.pass_on(&new);
    }

    /// Has these addresses accepted from.
    fn pass_on(&mut self, new: &[SocketAddr]) {
        if new.is_empty() {
            return;
        }
        match self.opened.copies(new) {
            Ok(copies) => {
                let (addresses, sockets) = copies.into_iter().unzip();
                self.relay.answer(Question::Listen(addresses), sockets);
            }
            Err(error) => tracing::error!(%error, "listening sockets cannot be passed on"),
        }
    }

    fn status(&mut self) -> Status {
        let answer = self.relay.answer(Question::Status, Vec::new());
        let Answer::Status(mut status) = answer else { return Status::default() };
        self.opened.note_failed(&mut status);
        *status
    }
}
