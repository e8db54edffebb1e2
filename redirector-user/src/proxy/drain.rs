//! Listeners that were removed and still have connections: they accept no
//! more, and have until a deadline to finish.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::message::{ListenerState, ListenerStatus};
use super::stats::ListenerStats;

/// A removed listener.
struct Drain {
    address: SocketAddr,
    name: Arc<str>,
    stats: Arc<ListenerStats>,
    until: Instant,
}

/// All removed listeners.
#[derive(Default)]
pub(super) struct Drains(Vec<Drain>);

impl Drains {
    /// Notes that a listener was removed.
    pub fn add(
        &mut self,
        address: SocketAddr,
        name: Arc<str>,
        stats: Arc<ListenerStats>,
        time: Duration,
    ) {
        self.0.push(Drain { address, name, stats, until: Instant::now() + time });
    }

    /// An address is listened on again: what is left of its connections is
    /// counted there.
    pub fn forget(&mut self, address: SocketAddr) {
        self.0.retain(|drain| drain.address != address);
    }

    /// Those that still have connections.
    pub fn status(&mut self) -> Vec<ListenerStatus> {
        self.0.retain(|drain| drain.stats.active.load(Relaxed) > 0);
        let now = Instant::now();
        self.0
            .iter()
            .map(|drain| ListenerStatus {
                address: drain.address,
                name: drain.name.clone(),
                state: ListenerState::Draining { left: drain.until.saturating_duration_since(now) },
                counts: drain.stats.read(),
            })
            .collect()
    }
}
