//! What is told of single connections while somebody follows: of each that it goes
//! somewhere, or nowhere, and how it ends.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::config::DestinationName;

/// So many records are kept until somebody takes them.
const KEPT: usize = 4096;

/// What became of a connection through a gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Became {
    /// It was decided, and goes to an endpoint.
    Routed,
    /// No rule is for it, or its share has no endpoint or no room.
    Refused,
    /// It has ended, in order.
    Ended,
    /// No endpoint could be reached.
    Failed,
    /// It was reset, by either side or here.
    Reset,
}

/// What is told of a connection through a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Through {
    /// Records are numbered as they come, from 1.
    pub number: u64,
    /// How long ago, when it was asked for.
    pub ago: Duration,
    /// What it is about.
    pub became: Became,
    /// The cookie of the client's socket, as the relay has it.
    pub cookie: u64,
    /// The client.
    pub client: SocketAddr,
    /// The address dialled.
    pub dialled: SocketAddr,
    /// The server of a Gateway: [`ListenerSpec::name`](super::ListenerSpec::name).
    pub gateway: Option<Arc<str>>,
    /// The rule.
    pub route: Option<Arc<str>>,
    /// The destination drawn.
    pub destination: Option<DestinationName>,
    /// The endpoint.
    pub endpoint: Option<SocketAddr>,
    /// Bytes from the client, at the end.
    pub sent: Option<u64>,
    /// Bytes to the client, at the end.
    pub received: Option<u64>,
    /// How long it was open, at the end.
    pub open: Option<Duration>,
}

/// The records.
pub(super) struct Told {
    begun: Instant,
    /// Until when somebody follows, in nanoseconds since it was begun; 0: nobody ever has.
    until: AtomicU64,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// The number of the last one.
    last: u64,
    /// With when it was told.
    records: VecDeque<(Instant, Through)>,
}

impl Default for Told {
    fn default() -> Self {
        Self { begun: Instant::now(), until: AtomicU64::new(0), kept: Mutex::default() }
    }
}

impl Told {
    /// Whether somebody follows: then a connection is [told](Self::tell).
    pub fn is_wanted(&self) -> bool {
        let until = self.until.load(Relaxed);
        until != 0 && self.begun.elapsed() < Duration::from_nanos(until)
    }

    /// Keeps a record, which gets its number.
    pub fn tell(&self, record: Through) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.last += 1;
        let number = kept.last;
        if kept.records.len() == KEPT {
            kept.records.pop_front();
        }
        kept.records.push_back((Instant::now(), Through { number, ..record }));
    }

    /// The records after this number, none after `u64::MAX`; there are more for so long from
    /// now on.
    pub fn follow(&self, after: u64, time: Duration) -> Vec<Through> {
        let until = self.begun.elapsed().saturating_add(time).as_nanos();
        self.until.fetch_max(u64::try_from(until).unwrap_or(u64::MAX), Relaxed);
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever knows more has it from a relay before this one.
        let is_anothers = after > kept.last && after != u64::MAX;
        let after = if is_anothers { 0 } else { after };
        let new = kept.records.iter().filter(|(_, record)| record.number > after);
        new.map(|(when, record)| Through { ago: when.elapsed(), ..record.clone() }).collect()
    }
}
