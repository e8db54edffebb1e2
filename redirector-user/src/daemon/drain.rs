//! Endpoints that have gone: when their time is over, connections to them are
//! reset.
//!
//! What drains lies in the state directory, so that a restart changes nothing;
//! the connections are those of connection memory, whoever made them. The
//! resetting itself goes from network namespace to network namespace, in a
//! thread of its own.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use redirector_core::drain::{Draining, after};

use super::control_loop::Daemon;
use super::engine::Step;
use crate::datapath::reset::{Connections, ResetError, Wanted, reset};
use crate::state::StateError;

/// Time before another attempt, in milliseconds.
const AGAIN: u64 = 10_000;

/// What became of the connections to endpoints whose time was over.
#[derive(Debug)]
pub struct Drained {
    /// The connections.
    wanted: Wanted,
    /// Which of them were found and reset.
    reset: Connections,
    /// What went wrong.
    error: Option<ResetError>,
}

/// The thread that resets connections.
#[derive(Debug)]
pub struct Drainer {
    over: Sender<Wanted>,
    /// The endpoints that it is at.
    busy: BTreeSet<SocketAddr>,
}

impl Drainer {
    /// Starts it; `send` gets what became of what it was given, and returns
    /// `false` to end it.
    pub fn start(mut send: impl FnMut(Drained) -> bool + Send + 'static) -> io::Result<Self> {
        let (over, jobs) = mpsc::channel::<Wanted>();
        thread::Builder::new().name("drain".into()).spawn(move || {
            for wanted in jobs {
                let (reset, error) = match reset(&wanted) {
                    Ok(reset) => (reset, None),
                    Err((reset, error)) => (reset, Some(error)),
                };
                if !send(Drained { wanted, reset, error }) {
                    return;
                }
            }
        })?;
        Ok(Self { over, busy: BTreeSet::new() })
    }
}

impl Daemon {
    /// Notes which endpoints go with a step that is about to come in force.
    pub(super) fn note_gone(&mut self, step: &Step) -> Result<(), StateError> {
        let Some(endpoints) = &step.endpoints else { return Ok(()) };
        let draining = after(&self.draining, &self.engine.endpoints, endpoints, now_ms());
        if draining != self.draining {
            self.state.save_draining(&draining)?;
            for (address, over) in draining.iter().filter(|(a, _)| !self.draining.contains_key(a)) {
                let seconds = over.saturating_sub(now_ms()).div_ceil(1000);
                tracing::info!(endpoint = %address, seconds, "gone: connections to it drain");
            }
            self.draining = draining;
            self.engine.follow_endpoints = !self.draining.is_empty();
        }
        Ok(())
    }

    /// What drains, and until when: one that is in force after all does not, as when the
    /// step that it went with was not applied.
    fn waiting(&self) -> impl Iterator<Item = (&SocketAddr, &u64)> {
        self.draining.iter().filter(|(address, _)| {
            !self.drainer.busy.contains(address) && !self.engine.endpoints.contains_key(address)
        })
    }

    /// Milliseconds until something is to be reset.
    pub(super) fn until_drained(&self) -> Option<u64> {
        self.waiting().map(|(_, over)| over.saturating_sub(now_ms())).min()
    }

    /// Has connections reset to endpoints whose time is over.
    pub(super) fn drain(&mut self) {
        if self.until_drained() != Some(0) {
            return;
        }
        let now = now_ms();
        let over = self.waiting().filter(|(_, over)| **over <= now);
        let over: BTreeSet<SocketAddr> = over.map(|(address, _)| *address).collect();
        let connections = self.datapath.connections();
        let read = connections.and_then(|all| Ok((all, self.datapath.cookies_of_others()?)));
        let (connections, others) = match read {
            Ok(read) => read,
            Err(error) => {
                tracing::error!("connections to endpoints that have gone cannot be found: {error}");
                return self.put_off(&over);
            }
        };
        let known: Connections = (connections.into_iter())
            .filter(|one| over.contains(&one.backend))
            .map(|one| (one.cookie, one.backend))
            .collect();
        if known.is_empty() && others.is_empty() {
            return self.forget(&over);
        }
        self.drainer.busy.extend(&over);
        // The thread lives as long as the control loop.
        let _ = self.drainer.over.send(Wanted { known, endpoints: over, others });
    }

    /// Takes what became of it.
    pub(super) fn drained(&mut self, drained: Drained) {
        let endpoints = &drained.wanted.endpoints;
        self.drainer.busy.retain(|address| !endpoints.contains(address));
        // What another version remembers is known once it is found.
        let mut all = drained.wanted.known.clone();
        all.extend(&drained.reset);
        for address in endpoints {
            let to = |connections: &Connections| {
                connections.values().filter(|endpoint| *endpoint == address).count()
            };
            let (all, reset) = (to(&all), to(&drained.reset));
            if all == 0 {
                continue;
            }
            if reset > 0 {
                tracing::info!(endpoint = %address, reset, of = all, "connections were reset");
            } else {
                tracing::warn!(
                    endpoint = %address,
                    of = all,
                    "no connection was found to reset: they are at their end, or in network \
                     namespaces that are not in /proc or /run/netns here"
                );
            }
        }
        self.report.connections_reset += drained.reset.len() as u64;
        let error = drained.error.map(|error| error.to_string());
        if let Some(error) = &error {
            tracing::error!("connections to endpoints that have gone go on: {error}");
            self.put_off(endpoints);
        } else {
            self.forget(endpoints);
        }
        self.report.drain_error = error;
    }

    fn put_off(&mut self, endpoints: &BTreeSet<SocketAddr>) {
        for (_, over) in self.draining.iter_mut().filter(|(a, _)| endpoints.contains(a)) {
            *over = now_ms() + AGAIN;
        }
    }

    fn forget(&mut self, endpoints: &BTreeSet<SocketAddr>) {
        let mut left: Draining = self.draining.clone();
        left.retain(|address, over| !endpoints.contains(address) || *over > now_ms());
        if let Err(error) = self.state.save_draining(&left) {
            tracing::error!("{error}");
        }
        self.draining = left;
        self.engine.follow_endpoints = !self.draining.is_empty();
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
