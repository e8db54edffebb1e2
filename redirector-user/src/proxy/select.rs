//! Which endpoint a connection goes to: the same draws over the same tables as
//! in the kernel, and what only a proxy can add: another endpoint when one
//! refuses.

use std::hash::Hasher as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use redirector_common::abi::{Backend, Destination, Leg, Route, Side, policy};
use redirector_common::addr::Addr;
use redirector_common::decide::{self, Caller, Decision};
use redirector_common::hash::Fnv;
use redirector_core::alias;
use redirector_core::plan::Algorithm;
use redirector_core::rendezvous;

use super::config::{DestinationSpec, RouteSpec};
use super::stats::DestinationState;

/// The proxy's tables have one side only.
const SIDE: Side = Side::of_epoch(0);

/// The array tables that [`decide::take`] and [`decide::pick`] read.
pub(super) struct Tables {
    routes: Vec<Route>,
    legs: Vec<Leg>,
    destinations: Vec<Destination>,
    backends: Vec<Backend>,
}

impl Tables {
    pub fn new(routes: &[RouteSpec], destinations: &[DestinationSpec]) -> Self {
        let mut tables = Self {
            routes: Vec::with_capacity(routes.len()),
            legs: Vec::new(),
            destinations: Vec::with_capacity(destinations.len()),
            backends: Vec::new(),
        };
        for route in routes {
            let first = tables.legs.len() as u32;
            let weights: Vec<u64> = route.legs.iter().map(|leg| leg.1).collect();
            let slots = slots(&weights);
            // No leg with a weight: an empty route, which refuses.
            let count = slots.len() as u32;
            tables.legs.extend(slots.into_iter().zip(&route.legs).map(
                |((threshold, alias), &(destination, _))| Leg {
                    threshold,
                    alias,
                    destination: destination as u32,
                    ..Leg::default()
                },
            ));
            tables.legs.resize(first as usize + route.legs.len(), Leg::default());
            tables.routes.push(Route { first, count });
        }
        for destination in destinations {
            let first = tables.backends.len() as u32;
            let weights: Vec<u64> = destination.endpoints.iter().map(|e| e.1).collect();
            let slots = slots(&weights);
            let count = slots.len() as u32;
            tables.backends.extend(slots.into_iter().zip(&destination.endpoints).map(
                |((threshold, alias), (address, _))| Backend {
                    addr: address.ip().into(),
                    port: address.port().to_be(),
                    live: 0,
                    threshold,
                    alias: alias as u16,
                    owner: 0,
                },
            ));
            let policy = policy::RANDOM;
            tables.destinations.push(Destination {
                first,
                count,
                policy,
                ..Destination::default()
            });
        }
        tables
    }

    /// Draws a leg of a route, and an endpoint of it by weight: their indices.
    fn take(&self, route: usize, random: &mut fastrand::Rng) -> Option<(usize, Option<usize>)> {
        match decide::take(self, SIDE, route as u32, &mut Draws(|| random.u32(..))) {
            Decision::Route(choice, endpoint) => {
                let leg = choice.leg as usize;
                let first = self.destinations.get(self.legs.get(leg)?.destination as usize)?.first;
                Some((leg, Some((endpoint.backend - first) as usize)))
            }
            Decision::RefuseLeg(choice) => Some((choice.leg as usize, None)),
            Decision::Miss | Decision::Pass | Decision::Refuse | Decision::Limited(_) => None,
        }
    }

    /// Draws an endpoint of a destination by weight: its place in the spec.
    fn pick(&self, destination: usize, draw: impl FnMut() -> u32) -> Option<usize> {
        let first = self.destinations.get(destination)?.first;
        let endpoint = decide::pick(self, SIDE, destination as u32, &mut Draws(draw))?;
        Some((endpoint.backend - first) as usize)
    }

    /// Chooses a leg of a route and an endpoint of its destination: the leg's
    /// index, and the endpoint's place in its spec. No endpoint means that the
    /// share is refused; no leg, that none has a weight.
    pub fn choose(
        &self,
        destinations: &[Arc<DestinationState>],
        route: usize,
        client: IpAddr,
        random: &mut fastrand::Rng,
    ) -> Option<(usize, Option<usize>)> {
        let (leg, by_weight) = self.take(route, random)?;
        let index = self.legs[leg].destination as usize;
        let state = &destinations[index];
        if by_weight.is_none() || state.spec.endpoints.len() == 1 {
            return Some((leg, by_weight));
        }
        let endpoint = match state.spec.algorithm {
            Algorithm::Random | Algorithm::Original => by_weight,
            Algorithm::RoundRobin => {
                let turn = state.counters.turn.fetch_add(1, Relaxed);
                if state.even {
                    Some(turn as usize % state.spec.endpoints.len())
                } else {
                    // Steps of the golden ratio visit the slots of the alias
                    // table as evenly as its weights allow.
                    let mut draw = turn;
                    self.pick(index, || {
                        draw = draw.wrapping_add(1);
                        draw.wrapping_sub(1).wrapping_mul(0x9e37_79b9)
                    })
                }
            }
            Algorithm::LeastRequest => {
                let other = self.pick(index, || random.u32(..));
                let active = |at: Option<usize>| {
                    at.map_or(u32::MAX, |at| state.endpoints[at].active.load(Relaxed))
                };
                if active(other) < active(by_weight) { other } else { by_weight }
            }
            Algorithm::SourceHash => state.by_source(client),
        };
        Some((leg, endpoint))
    }

    /// Chooses an endpoint that is not among those tried; `None` when all were.
    pub fn another(
        &self,
        destination: usize,
        state: &DestinationState,
        tried: &[u32],
        random: &mut fastrand::Rng,
    ) -> Option<usize> {
        let fresh = |at: &usize| !tried.contains(&(*at as u32));
        for _ in 0..4 {
            if let Some(at) = self.pick(destination, || random.u32(..)).filter(fresh) {
                return Some(at);
            }
        }
        let count = state.spec.endpoints.len();
        let start = if count == 0 { 0 } else { random.usize(0..count) };
        (start..count).chain(0..start).find(fresh)
    }
}

impl decide::Tables for Tables {
    fn route(&self, _: Side, index: u32) -> Option<Route> {
        self.routes.get(index as usize).copied()
    }

    fn leg(&self, _: Side, index: u32) -> Option<Leg> {
        self.legs.get(index as usize).copied()
    }

    fn destination(&self, _: Side, index: u32) -> Option<Destination> {
        self.destinations.get(index as usize).copied()
    }

    fn backend(&self, _: Side, index: u32) -> Option<Backend> {
        self.backends.get(index as usize).copied()
    }
}

/// The random numbers of a draw.
struct Draws<F>(F);

impl<F: FnMut() -> u32> Caller for Draws<F> {
    fn class(&mut self, _: Side) -> u32 {
        redirector_common::abi::CLASS_UNKNOWN
    }

    fn draw(&mut self) -> u32 {
        (self.0)()
    }
}

impl DestinationState {
    /// The endpoint of this client, by weighted rendezvous: when an endpoint
    /// comes or goes, only the clients that it gains or loses move.
    fn by_source(&self, client: IpAddr) -> Option<usize> {
        let score = |&(address, weight): &(SocketAddr, u64)| {
            rendezvous::score(fnv(client, address), weight)
        };
        let scores = self.spec.endpoints.iter().map(score).enumerate();
        scores.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(at, _)| at)
    }
}

/// FNV-1a over both addresses, finished with a 64-bit mixer; the same on every
/// node and in every version, so that a client keeps its endpoint.
fn fnv(client: IpAddr, endpoint: SocketAddr) -> u64 {
    let mut fnv = Fnv::default();
    fnv.write(&Addr::from(client).to_bits().to_be_bytes());
    fnv.write(&Addr::from(endpoint.ip()).to_bits().to_be_bytes());
    fnv.write(&endpoint.port().to_be_bytes());
    let mut hash = fnv.finish();
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// The thresholds and aliases for some weights. Empty when no weight is above
/// zero.
fn slots(weights: &[u64]) -> Vec<(u32, u32)> {
    let Some((slots, sum)) = alias::table(weights) else { return Vec::new() };
    slots.into_iter().map(|slot| (slot.threshold(sum), slot.alias)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(algorithm: Algorithm, weights: &[u64]) -> DestinationSpec {
        DestinationSpec {
            name: "d".into(),
            algorithm,
            endpoints: weights
                .iter()
                .enumerate()
                .map(|(i, &weight)| (SocketAddr::from(([10, 0, 0, i as u8], 80)), weight))
                .collect(),
            connect_timeout: std::time::Duration::from_secs(1),
            keepalive: None,
            max_connections: None,
            announced: None,
        }
    }

    fn state(algorithm: Algorithm, weights: &[u64]) -> DestinationState {
        let spec = spec(algorithm, weights);
        let endpoints = spec.endpoints.iter().map(|_| Arc::default()).collect();
        DestinationState::new(spec, Arc::default(), endpoints)
    }

    #[test]
    fn rendezvous_follows_the_weights_and_moves_only_who_must() {
        let mut three = state(Algorithm::SourceHash, &[1, 1, 2]);
        let clients: Vec<IpAddr> =
            (0..8_000u32).map(|i| IpAddr::from((i | 10 << 24).to_be_bytes())).collect();
        let before: Vec<_> = clients.iter().map(|&c| three.by_source(c)).collect();
        let third = before.iter().filter(|at| **at == Some(2)).count();
        assert!((3_700..4_300).contains(&third), "half of 8000, got {third}");
        three.spec.endpoints.truncate(2);
        for (client, before) in clients.iter().zip(before) {
            let after = three.by_source(*client);
            assert!(before == Some(2) || after == before, "{client} moved needlessly");
        }
    }

    #[test]
    fn another_endpoint_is_found_until_all_were_tried() {
        let destination = state(Algorithm::Random, &[1_000_000, 1, 1]);
        let tables = Tables::new(&[], std::slice::from_ref(&destination.spec));
        let mut random = fastrand::Rng::with_seed(1);
        let mut tried = vec![];
        while let Some(at) = tables.another(0, &destination, &tried, &mut random) {
            tried.push(at as u32);
        }
        tried.sort_unstable();
        assert_eq!(tried, [0, 1, 2]);
    }
}
