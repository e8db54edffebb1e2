//! The entries of a destination: how an endpoint is chosen, and among which.

use redirector_common::abi::{self, Backend, policy as flags};

use super::lives::{Live, Owner};
use super::ring;
use crate::alias;
use crate::model::OutlierDetection;
use crate::plan::{Algorithm, Destination, DestinationId};

/// Envoy's defaults of outlier detection.
const CONSECUTIVE: u32 = 5;
const INTERVAL_MS: u64 = 10_000;
const BASE_EJECTION_MS: u64 = 30_000;
const MOST_EJECTED_PERCENT: u64 = 10;

/// How many backends a destination has: its endpoints, or slots that they share.
pub(super) fn slots(destination: &Destination) -> usize {
    let endpoints = destination.endpoints.len();
    match destination.algorithm {
        Algorithm::SourceHash => ring::size(endpoints),
        _ => endpoints,
    }
}

/// The policy of a destination in the tables: [`abi::policy`].
pub(super) fn policy(destination: &Destination) -> u32 {
    let algorithm = match destination.algorithm {
        Algorithm::Random => flags::RANDOM,
        Algorithm::RoundRobin => flags::ROUND_ROBIN,
        Algorithm::LeastRequest => flags::LEAST_REQUEST,
        Algorithm::SourceHash => flags::SOURCE_HASH,
        // There is nothing to choose from and nobody to eject, and what goes on
        // as it is, is not counted.
        Algorithm::Original => return flags::RANDOM,
    };
    let mut policy = algorithm;
    if max_connections(destination).is_some() {
        policy |= flags::LIMITED;
    }
    if ejection(destination).is_some() {
        policy |= flags::EJECTING;
    }
    policy
}

/// The most connections at a time, if there is a limit; 0 means none, as in
/// Istio.
fn max_connections(destination: &Destination) -> Option<u32> {
    let most = destination.policy.settings.tcp_pool.as_ref()?.max_connections?;
    (most > 0).then_some(most)
}

/// When endpoints are ejected, if they are.
struct Ejection {
    after: u32,
    most: u32,
    base_ms: u32,
    forgive_ms: u32,
}

fn ejection(destination: &Destination) -> Option<Ejection> {
    let outlier = destination.policy.settings.outlier.as_ref()?;
    let after = consecutive(outlier)?;
    let count = destination.endpoints.len() as u64;
    let percent = outlier.max_ejection_percent.map_or(MOST_EJECTED_PERCENT, u64::from);
    // At least one, however few there are; and so many that enough are left.
    let most = (count * percent / 100).max(u64::from(percent > 0));
    let healthy = (count * u64::from(outlier.min_health_percent.unwrap_or(0))).div_ceil(100);
    let most = most.min(count.saturating_sub(healthy));
    let cut = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    Some(Ejection {
        after,
        most: cut(most),
        base_ms: cut(outlier.base_ejection_ms.unwrap_or(BASE_EJECTION_MS)),
        forgive_ms: cut(outlier.interval_ms.unwrap_or(INTERVAL_MS)),
    })
}

/// How many failed connects in a row eject an endpoint. A failed connect is a
/// 5xx and a gateway error at once, unless errors of local origin are told
/// apart; zero switches a detector off.
fn consecutive(outlier: &OutlierDetection) -> Option<u32> {
    let on = |count: u32| (count > 0).then_some(count);
    if outlier.split_local_origin {
        return on(outlier.consecutive_local_origin.unwrap_or(CONSECUTIVE));
    }
    let errors = on(outlier.consecutive_5xx.unwrap_or(CONSECUTIVE));
    let gateway = on(outlier.consecutive_gateway.unwrap_or(0));
    errors.into_iter().chain(gateway).min()
}

/// The entry of a destination.
pub(super) fn destination(
    first: u32,
    count: u32,
    id: &DestinationId,
    destination: &Destination,
    live: Option<&Live>,
) -> abi::Destination {
    let policy = policy(destination);
    let mut entry = abi::Destination { first, count, policy, ..abi::Destination::default() };
    if count > 0 {
        entry.owner = Owner::of(id).destination();
    }
    if let Some(live) = live {
        entry.live = live.number;
    }
    if policy & flags::LIMITED != 0 {
        entry.max_connections = max_connections(destination).unwrap_or(u32::MAX);
    }
    if let Some(ejection) = ejection(destination).filter(|_| policy & flags::EJECTING != 0) {
        entry.eject_after = ejection.after;
        entry.eject_most = ejection.most;
        entry.eject_ms = ejection.base_ms;
        entry.forgive_ms = ejection.forgive_ms;
    }
    entry
}

/// The entries of its backends, in their order.
pub(super) fn backends(
    id: &DestinationId,
    destination: &Destination,
    live: Option<&Live>,
) -> Vec<Backend> {
    let endpoints = &destination.endpoints;
    let owner = Owner::of(id);
    let backend = |place: usize, threshold: u32, alias: u32| {
        let address = endpoints[place].address;
        let live = live.and_then(|live| live.endpoints.get(&address)).copied().unwrap_or(0);
        Backend {
            addr: address.ip().into(),
            port: address.port().to_be(),
            // No destination has more than `abi::MAX_BACKENDS`.
            alias: alias as u16,
            live,
            threshold,
            owner: if live == 0 { 0 } else { owner.endpoint(address) },
        }
    };
    if destination.algorithm == Algorithm::SourceHash {
        let slots = ring::slots(endpoints).into_iter().zip(0..);
        return slots.map(|(place, slot)| backend(place, u32::MAX, slot)).collect();
    }
    let weights: Vec<u64> = endpoints.iter().map(|endpoint| endpoint.weight).collect();
    let Some((slots, sum)) = alias::table(&weights) else { return Vec::new() };
    let slots = slots.iter().enumerate();
    slots.map(|(place, slot)| backend(place, slot.threshold(sum), slot.alias)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TcpPool;
    use crate::plan::Endpoint;

    fn with(outlier: OutlierDetection, endpoints: usize) -> Destination {
        let endpoint = |host: usize| Endpoint {
            address: ([10, 0, (host / 256) as u8, host as u8], 80).into(),
            weight: 1,
        };
        let mut destination = Destination {
            endpoints: (0..endpoints).map(endpoint).collect(),
            ..Destination::default()
        };
        destination.policy.settings.outlier = Some(outlier);
        destination
    }

    #[test]
    fn endpoints_are_ejected_as_the_outlier_detection_says() {
        let id =
            DestinationId { host: "a".into(), subset: None, port: 80, v6: false, view: [].into() };
        let entry = |outlier, endpoints| {
            let one = with(outlier, endpoints);
            let entry = destination(0, endpoints as u32, &id, &one, None);
            (entry.policy, entry.eject_after, entry.eject_most, entry.eject_ms, entry.forgive_ms)
        };
        let plain = OutlierDetection::default;
        assert_eq!(entry(plain(), 30), (flags::EJECTING, 5, 3, 30_000, 10_000));
        assert_eq!(entry(plain(), 3).2, 1, "one at least");
        let most = OutlierDetection { max_ejection_percent: Some(100), ..plain() };
        assert_eq!(entry(most.clone(), 4).2, 4);
        let healthy = OutlierDetection { min_health_percent: Some(50), ..most };
        assert_eq!(entry(healthy, 5).2, 2, "three of five stay");
        let off = OutlierDetection { consecutive_5xx: Some(0), ..plain() };
        assert_eq!(entry(off.clone(), 4).0, flags::RANDOM);
        let gateway = OutlierDetection { consecutive_gateway: Some(2), ..plain() };
        assert_eq!(entry(gateway, 4).1, 2, "the lower one counts");
        let local = OutlierDetection { split_local_origin: true, ..off };
        assert_eq!(entry(local, 4).1, 5, "only local errors count when they are told apart");
    }

    #[test]
    fn a_limit_of_zero_is_none() {
        let mut one = with(OutlierDetection::default(), 1);
        one.policy.settings.outlier = None;
        for (most, policy_of) in [(None, 0), (Some(0), 0), (Some(7), flags::LIMITED)] {
            one.policy.settings.tcp_pool =
                Some(TcpPool { max_connections: most, ..TcpPool::default() });
            assert_eq!(policy(&one), policy_of);
        }
    }

    #[test]
    fn a_zero_maximum_of_ejections_ejects_nobody() {
        let none = with(
            OutlierDetection { max_ejection_percent: Some(0), ..OutlierDetection::default() },
            10,
        );
        assert_eq!(ejection(&none).map(|ejection| ejection.most), Some(0));
    }
}
