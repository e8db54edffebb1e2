//! Counters of the proxy: by listener, route, leg, destination and endpoint.
//!
//! They belong to names, not to snapshots: a [`Registry`] hands the same
//! counters to every snapshot that has the same name, and forgets a name once
//! neither a snapshot nor a connection holds its counters.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};

use super::config::{DestinationName, DestinationSpec, ListenerSpec, RouteSpec};
use super::message::{EndpointCounts, Failed, LegCounts, ListenerCounts, Refused};

/// Counters of a listener.
#[derive(Default, Debug)]
pub(super) struct ListenerStats {
    pub accepted: AtomicU64,
    pub active: AtomicU64,
    refused: [AtomicU64; Refused::ALL.len()],
    /// No endpoint could be reached.
    pub failed: AtomicU64,
    /// The route led back here.
    pub looped: AtomicU64,
    /// Accepting had to wait, because descriptors or memory had run out.
    pub starved: AtomicU64,
    /// Where that is bounded: connections open now, by the client's address.
    clients: Mutex<HashMap<IpAddr, u32>>,
}

/// Counters of a route.
#[derive(Debug)]
pub(super) struct RouteStats {
    pub name: Arc<str>,
    pub legs: Vec<LegStats>,
}

/// Counters of a leg: of what was sent to a destination by one route.
#[derive(Debug)]
pub(super) struct LegStats {
    pub destination: DestinationName,
    /// Connections that the draw gave to it.
    pub taken: AtomicU64,
    pub active: AtomicU64,
    failed: [AtomicU64; Failed::ALL.len()],
    /// Attempts at one endpoint that failed, whether or not another was reached.
    missed: [AtomicU64; Failed::ALL.len()],
    /// Attempts at another endpoint after that.
    pub retried: AtomicU64,
    /// Bytes from clients.
    pub sent: AtomicU64,
    /// Bytes to clients.
    pub received: AtomicU64,
}

impl LegStats {
    /// Counts a connection that came to nothing.
    pub fn fail(&self, why: Failed) {
        self.failed[why as usize].fetch_add(1, Relaxed);
    }

    /// Counts an attempt that came to nothing.
    pub fn miss(&self, why: Failed) {
        self.missed[why as usize].fetch_add(1, Relaxed);
    }
}

/// What a destination remembers.
#[derive(Default, Debug)]
pub(super) struct DestinationStats {
    active: AtomicU32,
    /// Counts the turns of ROUND_ROBIN.
    pub turn: AtomicU32,
}

/// What an endpoint of a destination remembers.
#[derive(Default, Debug)]
pub(super) struct EndpointStats {
    pub active: AtomicU32,
    /// Attempts that failed.
    pub missed: AtomicU64,
}

impl DestinationStats {
    /// Counts one more connection, unless there are so many: of all workers together, whoever
    /// comes at the same time.
    pub fn admit(&self, most: Option<u32>) -> bool {
        let more = |active: u32| (active < most.unwrap_or(u32::MAX)).then_some(active + 1);
        self.active.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    /// One of those has ended.
    pub fn dismiss(&self) {
        self.active.fetch_sub(1, Relaxed);
    }
}

impl ListenerStats {
    /// Counts a connection that was refused; says whether it is the first for this reason.
    pub fn refuse(&self, why: Refused) -> bool {
        self.refused[why as usize].fetch_add(1, Relaxed) == 0
    }

    /// Counts a connection of this client, unless it has so many already.
    pub fn admit(&self, client: IpAddr, most: u32) -> bool {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let open = clients.entry(client).or_default();
        let is_room = *open < most;
        *open += u32::from(is_room);
        is_room
    }

    /// One that was counted so is closed.
    pub fn dismiss(&self, client: IpAddr) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut open) = clients.entry(client) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
    }

    pub fn read(&self) -> ListenerCounts {
        ListenerCounts {
            accepted: self.accepted.load(Relaxed),
            active: self.active.load(Relaxed),
            refused: self.refused.each_ref().map(|count| count.load(Relaxed)),
            failed: self.failed.load(Relaxed),
            looped: self.looped.load(Relaxed),
            starved: self.starved.load(Relaxed),
        }
    }
}

/// A destination in force, joined to its counters.
pub(super) struct DestinationState {
    pub spec: DestinationSpec,
    pub counters: Arc<DestinationStats>,
    /// By place in the spec.
    pub endpoints: Vec<Arc<EndpointStats>>,
    /// Whether all endpoints have one weight.
    pub even: bool,
}

impl DestinationState {
    pub fn new(
        spec: DestinationSpec,
        counters: Arc<DestinationStats>,
        endpoints: Vec<Arc<EndpointStats>>,
    ) -> Self {
        let even = spec.endpoints.windows(2).all(|pair| pair[0].1 == pair[1].1);
        Self { spec, counters, endpoints, even }
    }
}

/// All counters by name.
#[derive(Default)]
pub(super) struct Registry {
    listeners: HashMap<SocketAddr, Arc<ListenerStats>>,
    routes: HashMap<RouteKey, Arc<RouteStats>>,
    destinations: HashMap<DestinationName, Arc<DestinationStats>>,
    endpoints: HashMap<(DestinationName, SocketAddr), Arc<EndpointStats>>,
}

/// A route's name and those of its destinations: another list of destinations
/// has other counters.
type RouteKey = (Arc<str>, Vec<DestinationName>);

impl Registry {
    pub fn listener(&mut self, spec: &ListenerSpec) -> Arc<ListenerStats> {
        Arc::clone(self.listeners.entry(spec.address).or_default())
    }

    pub fn route(&mut self, spec: &RouteSpec, names: &[DestinationSpec]) -> Arc<RouteStats> {
        let legs: Vec<_> = spec.legs.iter().map(|leg| names[leg.0].name.clone()).collect();
        let leg = |destination: &DestinationName| LegStats {
            destination: destination.clone(),
            taken: AtomicU64::new(0),
            active: AtomicU64::new(0),
            failed: Default::default(),
            missed: Default::default(),
            retried: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        };
        let entry = self.routes.entry((spec.name.clone(), legs)).or_insert_with_key(|key| {
            Arc::new(RouteStats { name: key.0.clone(), legs: key.1.iter().map(leg).collect() })
        });
        Arc::clone(entry)
    }

    pub fn destination(&mut self, spec: DestinationSpec) -> Arc<DestinationState> {
        let counters = Arc::clone(self.destinations.entry(spec.name.clone()).or_default());
        let endpoints = spec
            .endpoints
            .iter()
            .map(|e| Arc::clone(self.endpoints.entry((spec.name.clone(), e.0)).or_default()))
            .collect();
        Arc::new(DestinationState::new(spec, counters, endpoints))
    }

    /// Forgets the counters that nobody else holds.
    pub fn sweep(&mut self) {
        self.listeners.retain(|_, stats| Arc::strong_count(stats) > 1);
        self.routes.retain(|_, stats| Arc::strong_count(stats) > 1);
        self.destinations.retain(|_, stats| Arc::strong_count(stats) > 1);
        self.endpoints.retain(|_, stats| Arc::strong_count(stats) > 1);
    }

    /// The counters of all routes, sorted by name.
    pub fn legs(&self) -> Vec<LegCounts> {
        let mut counts: Vec<LegCounts> = self
            .routes
            .values()
            .flat_map(|route| {
                route.legs.iter().map(|leg| LegCounts {
                    route: route.name.clone(),
                    destination: leg.destination.clone(),
                    taken: leg.taken.load(Relaxed),
                    active: leg.active.load(Relaxed),
                    failed: leg.failed.each_ref().map(|count| count.load(Relaxed)),
                    missed: leg.missed.each_ref().map(|count| count.load(Relaxed)),
                    retried: leg.retried.load(Relaxed),
                    sent: leg.sent.load(Relaxed),
                    received: leg.received.load(Relaxed),
                })
            })
            .collect();
        counts.sort_by(|a, b| (&a.route, &a.destination).cmp(&(&b.route, &b.destination)));
        counts
    }

    /// The endpoints to which some attempt has failed, sorted by name.
    pub fn failing(&self) -> Vec<EndpointCounts> {
        let counts = self.endpoints.iter().map(|((destination, endpoint), stats)| EndpointCounts {
            destination: destination.clone(),
            endpoint: *endpoint,
            missed: stats.missed.load(Relaxed),
        });
        let mut failing: Vec<_> = counts.filter(|one| one.missed > 0).collect();
        failing.sort_by(|a, b| (&a.destination, a.endpoint).cmp(&(&b.destination, b.endpoint)));
        failing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::SeqCst;

    const WORKERS: u32 = 2;

    /// Waits until all workers have met so many times, awake, so that they go on at once.
    fn meet(met: &AtomicU32, times: u32) {
        met.fetch_add(1, SeqCst);
        for turn in 1_u32.. {
            if met.load(SeqCst) >= times * WORKERS {
                return;
            }
            match turn % 1_000 {
                0 => std::thread::yield_now(),
                _ => std::hint::spin_loop(),
            }
        }
    }

    #[test]
    fn a_destinations_connections_are_never_more_than_it_may_have_whichever_workers_ask_at_once() {
        let (stats, met) = (DestinationStats::default(), AtomicU32::new(0));
        let worker = || {
            let mut wrong = 0;
            for round in 0..5_000 {
                meet(&met, 3 * round + 1);
                let is_admitted = stats.admit(Some(1));
                meet(&met, 3 * round + 2);
                wrong += u32::from(stats.active.load(SeqCst) != 1);
                meet(&met, 3 * round + 3);
                if is_admitted {
                    stats.dismiss();
                }
            }
            wrong
        };
        let wrong = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(wrong, [0; WORKERS as usize], "one of two is admitted each time");
        let so_many = |most| (0..10).filter(|_| stats.admit(Some(most))).count();
        assert_eq!([so_many(3), so_many(3), so_many(5)], [3, 0, 2]);
        assert!(stats.admit(None), "as many as there are");
    }
}
