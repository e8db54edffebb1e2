//! Endpoints that have gone, from everywhere or from one destination: when their time is
//! over, connections to them are reset.
//!
//! What drains lies in the state directory, so that a restart changes nothing;
//! the connections are those of connection memory, whoever made them. The
//! resetting itself goes from network namespace to network namespace, in a
//! thread of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use redirector_core::drain::{Draining, Gone, after, to_tell};
use rustix::thread::CapabilitySet;

use super::control_loop::Daemon;
use super::engine::PreparedChange;
use crate::confined::keep_only;
use crate::datapath::reset::{Connections, ResetError, Wanted, reset};
use crate::state::StateError;

/// Time before another attempt, in milliseconds.
const AGAIN: u64 = 10_000;

/// What it takes to enter the network namespaces of others, and to reset connections there.
const TAKES: CapabilitySet =
    CapabilitySet::NET_ADMIN.union(CapabilitySet::SYS_ADMIN).union(CapabilitySet::SYS_PTRACE);

/// Connections to endpoints whose time is over.
#[derive(Debug)]
struct Over {
    /// What has gone, and the cookies of those that are known to be there.
    gone: BTreeMap<Gone, BTreeSet<u64>>,
    wanted: Wanted,
}

/// What became of them.
#[derive(Debug)]
pub struct Drained {
    /// The connections.
    over: Over,
    /// Which of them were found and reset.
    reset: Connections,
    /// What went wrong.
    error: Option<ResetError>,
}

/// The thread that resets connections.
#[derive(Debug)]
pub struct Drainer {
    over: Sender<Over>,
    /// What it is at.
    busy: BTreeSet<Gone>,
}

impl Drainer {
    /// Starts it; `send` gets what became of what it was given, and returns
    /// `false` to end it.
    pub fn start(mut send: impl FnMut(Drained) -> bool + Send + 'static) -> io::Result<Self> {
        let (over, jobs) = mpsc::channel::<Over>();
        thread::Builder::new().name("drain".into()).spawn(move || {
            keep_only(TAKES);
            for over in jobs {
                let (reset, error) = match reset(&over.wanted) {
                    Ok(reset) => (reset, None),
                    Err((reset, error)) => (reset, Some(error)),
                };
                if !send(Drained { over, reset, error }) {
                    return;
                }
            }
        })?;
        Ok(Self { over, busy: BTreeSet::new() })
    }
}

impl Daemon {
    /// Notes which endpoints go with a step that is about to come in force.
    pub(super) fn note_gone(&mut self, step: &PreparedChange) -> Result<(), StateError> {
        let Some(endpoints) = &step.endpoints else { return Ok(()) };
        let draining = after(&self.draining, &self.engine.endpoints, endpoints, now_ms());
        if draining != self.draining {
            self.state.save_draining(&draining)?;
            let begin = to_tell(&draining).filter(|(one, _)| !self.draining.contains_key(one));
            for (gone, over) in begin {
                let seconds = over.saturating_sub(now_ms()).div_ceil(1000);
                tracing::info!(endpoint = %gone, seconds, "gone: connections to it drain");
            }
            self.draining = draining;
            self.engine.follow_endpoints = !self.draining.is_empty();
        }
        Ok(())
    }

    /// What drains, and until when: one that is in force after all does not, as when the
    /// step that it went with was not applied.
    fn waiting(&self) -> impl Iterator<Item = (&Gone, &u64)> {
        self.draining.iter().filter(|(gone, _)| {
            !self.drainer.busy.contains(gone) && !self.engine.endpoints.has(gone)
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
        let over: BTreeSet<Gone> = over.map(|(gone, _)| gone.clone()).collect();
        let connections = self.datapath.connections();
        let read = connections.and_then(|all| Ok((all, self.datapath.cookies_of_others()?)));
        let (connections, others) = match read {
            Ok(read) => read,
            Err(error) => {
                tracing::error!("connections to endpoints that have gone cannot be found: {error}");
                return self.put_off(&over);
            }
        };
        let mut wanted = Wanted { others, ..Wanted::default() };
        let mut gone: BTreeMap<Gone, BTreeSet<u64>> = BTreeMap::new();
        for one in over {
            let there = connections.iter().filter(|to| one.is_of(to.backend, to.destination));
            let there: Connections = there.map(|to| (to.cookie, to.backend)).collect();
            // Whose destination is not known stays until its endpoint goes from everywhere.
            wanted.endpoints.extend(one.from.is_none().then_some(one.endpoint));
            gone.insert(one, there.keys().copied().collect());
            wanted.known.extend(there);
        }
        if wanted.endpoints.is_empty() {
            wanted.others.clear();
        }
        if wanted.known.is_empty() && wanted.others.is_empty() {
            return self.forget(&gone.into_keys().collect());
        }
        self.drainer.busy.extend(gone.keys().cloned());
        // The thread lives as long as the control loop.
        let _ = self.drainer.over.send(Over { gone, wanted });
    }

    /// Takes what became of it.
    pub(super) fn drained(&mut self, drained: Drained) {
        let Over { gone, wanted } = drained.over;
        self.drainer.busy.retain(|one| !gone.contains_key(one));
        for (one, mut cookies) in to_tell(&gone).map(|(one, known)| (one, known.clone())) {
            // What another version remembers is known once it is found.
            let found = drained.reset.iter().filter(|(cookie, to)| {
                one.from.is_none() && **to == one.endpoint && wanted.others.contains(cookie)
            });
            cookies.extend(found.map(|(cookie, _)| *cookie));
            let reset = cookies.iter().filter(|cookie| drained.reset.contains_key(cookie)).count();
            let all = cookies.len();
            if all == 0 {
                continue;
            }
            if reset > 0 {
                tracing::info!(endpoint = %one, reset, of = all, "connections were reset");
            } else {
                tracing::warn!(
                    endpoint = %one,
                    of = all,
                    "no connection was found to reset: they are at their end, or in network \
                     namespaces that are not in /proc or /run/netns here"
                );
            }
        }
        self.report.connections_reset += drained.reset.len() as u64;
        let error = drained.error.map(|error| error.to_string());
        let gone = gone.into_keys().collect();
        if let Some(error) = &error {
            tracing::error!("connections to endpoints that have gone go on: {error}");
            self.put_off(&gone);
        } else {
            self.forget(&gone);
        }
        self.report.drain_error = error;
    }

    fn put_off(&mut self, gone: &BTreeSet<Gone>) {
        for (_, over) in self.draining.iter_mut().filter(|(one, _)| gone.contains(one)) {
            *over = now_ms() + AGAIN;
        }
    }

    fn forget(&mut self, gone: &BTreeSet<Gone>) {
        let mut left: Draining = self.draining.clone();
        left.retain(|one, over| !gone.contains(one) || *over > now_ms());
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
