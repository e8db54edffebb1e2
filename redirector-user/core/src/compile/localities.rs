//! Which endpoints of a destination are drawn, and how often: by their own
//! weights, by the distribution over localities, or the nearest first.

use crate::model::annotations::{HOSTNAME, NETWORK, REGION, SUBZONE, ZONE};
use crate::model::{Labels, LocalitySetting, Policy, TrafficDistribution};
use crate::registry::{self, Locality, topology_labels};

/// How many ranks there are by locality alone.
const RANKS: usize = 5;

/// Where the clients of this node are.
#[derive(Debug)]
pub(super) struct Home {
    locality: Locality,
    labels: Labels,
}

impl Home {
    pub(super) fn new(locality: &Locality, node: Option<&str>) -> Self {
        let labels = topology_labels(&Labels::new(), locality, node, None);
        Self { locality: locality.clone(), labels }
    }
}

/// The weight of each endpoint. Without one it is left out; with zero it is
/// not drawn, and stands by for endpoints that are ejected.
pub(super) fn weigh(
    endpoints: &[&registry::ServiceEndpoint],
    policy: &Policy,
    distribution: Option<TrafficDistribution>,
    home: &Home,
) -> Vec<Option<u64>> {
    let own = || endpoints.iter().map(|endpoint| Some(u64::from(endpoint.weight))).collect();
    let written = policy.settings.load_balancer.as_ref().and_then(|lb| lb.locality.as_ref());
    if written.is_some_and(|setting| setting.enabled == Some(false)) {
        return own();
    }
    let ejecting = policy.settings.outlier.is_some();
    let ranks: Vec<usize> = match (written, distribution) {
        (Some(setting), _) if !setting.distribute.is_empty() => {
            return distribute(endpoints, setting, &home.locality).unwrap_or_else(own);
        }
        (Some(setting), _) if ejecting => {
            endpoints.iter().map(|endpoint| rank(endpoint, setting, home)).collect()
        }
        (None, Some(distribution)) => {
            let near = nearness(distribution);
            endpoints.iter().map(|endpoint| by_labels(endpoint, &near, &home.labels)).collect()
        }
        // The mesh has locality balancing switched on, so outlierDetection
        // alone has the nearest endpoints go first.
        (None, None) if ejecting => {
            let setting = LocalitySetting::default();
            endpoints.iter().map(|endpoint| rank(endpoint, &setting, home)).collect()
        }
        _ => return own(),
    };
    let Some(first) = ranks.iter().min() else { return own() };
    let next = ranks.iter().filter(|rank| *rank > first).min();
    (endpoints.iter().zip(&ranks))
        .map(|(endpoint, rank)| match rank {
            rank if rank == first => Some(u64::from(endpoint.weight)),
            rank if ejecting && Some(rank) == next => Some(0),
            _ => None,
        })
        .collect()
}

/// How far an endpoint is: by the labels of failoverPriority, then by locality
/// where `failover` is set too, or nothing else is.
fn rank(endpoint: &registry::ServiceEndpoint, setting: &LocalitySetting, home: &Home) -> usize {
    let labels: Vec<&str> = setting.failover_priority.iter().map(String::as_str).collect();
    let by_label = by_labels(endpoint, &labels, &home.labels);
    if labels.is_empty() || !setting.failover.is_empty() {
        return by_label * RANKS + by_locality(endpoint, &setting.failover, &home.locality);
    }
    by_label
}

/// How many of the labels are left from the first one in which the endpoint
/// differs. `key=value` asks for that value instead of the client's own.
fn by_labels(endpoint: &registry::ServiceEndpoint, labels: &[&str], home: &Labels) -> usize {
    let of_endpoint =
        |key: &str| endpoint.labels.as_ref().and_then(|labels| labels.get(key)).unwrap_or_default();
    let differs = labels.iter().position(|label| {
        let (key, wanted) = match label.split_once('=') {
            Some(said) => said,
            None => (*label, home.get(label).unwrap_or_default()),
        };
        of_endpoint(key) != wanted
    });
    differs.map_or(0, |at| labels.len() - at)
}

/// 0 in the same subzone, 1 in the zone, 2 in the region, 3 elsewhere; where a
/// failover is written for the own region, 3 there and 4 elsewhere.
fn by_locality(
    endpoint: &registry::ServiceEndpoint,
    failover: &[(String, String)],
    home: &Locality,
) -> usize {
    if home.is_unknown() {
        return 0;
    }
    let there = Locality::parse(&endpoint.locality);
    if there.region == home.region {
        return match (there.zone == home.zone, there.subzone == home.subzone) {
            (true, true) => 0,
            (true, false) => 1,
            (false, _) => 2,
        };
    }
    match failover.iter().find(|(from, _)| *from == home.region) {
        Some((_, to)) if *to != there.region => 4,
        _ => 3,
    }
}

/// The labels that a Service's trafficDistribution prefers to be equal.
fn nearness(distribution: TrafficDistribution) -> Vec<&'static str> {
    let mut labels = vec![NETWORK, REGION, ZONE];
    match distribution {
        TrafficDistribution::Close => labels.push(SUBZONE),
        TrafficDistribution::SameZone => {}
        TrafficDistribution::SameNode => labels.extend([SUBZONE, HOSTNAME]),
    }
    labels
}

/// `distribute`: each locality's percentage, divided among its endpoints; an
/// endpoint in none of them is left out. `None` when nothing is said of here.
fn distribute(
    endpoints: &[&registry::ServiceEndpoint],
    setting: &LocalitySetting,
    here: &Locality,
) -> Option<Vec<Option<u64>>> {
    if here.is_unknown() {
        return None;
    }
    let (_, to) = setting.distribute.iter().find(|(from, _)| here.within(from))?;
    // The most specific pattern takes an endpoint; patterns without endpoints
    // leave their share to the others, in proportion.
    let mut patterns: Vec<(&String, &u32)> = to.iter().collect();
    patterns.sort_by_key(|(pattern, _)| std::cmp::Reverse(specificity(pattern)));
    let place = |endpoint: &registry::ServiceEndpoint| {
        let locality = Locality::parse(&endpoint.locality);
        patterns.iter().position(|(pattern, _)| locality.within(pattern))
    };
    let places: Vec<Option<usize>> = endpoints.iter().map(|endpoint| place(endpoint)).collect();
    let mut sums = vec![0_u128; patterns.len()];
    for (endpoint, place) in endpoints.iter().zip(&places) {
        if let Some(sum) = place.and_then(|place| sums.get_mut(place)) {
            *sum += u128::from(endpoint.weight);
        }
    }
    // In whole numbers: percentage * weight / sum over a common denominator.
    let scale = common_multiple(sums.iter().copied());
    (endpoints.iter().zip(&places))
        .map(|(endpoint, place)| {
            let place = (*place)?;
            let (sum, percent) = (*sums.get(place)?, u128::from(*patterns.get(place)?.1));
            let weight = percent * u128::from(endpoint.weight) * scale / sum.max(1);
            Some(u64::try_from(weight).unwrap_or(u64::MAX)).filter(|weight| *weight > 0)
        })
        .collect::<Vec<_>>()
        .into()
}

fn specificity(pattern: &str) -> usize {
    pattern.split('/').filter(|part| *part != "*").count()
}

/// The least common multiple of all that are not zero. Beyond 32 bits it is
/// 2^32: what is then divided is rounded, far below the bias of a draw.
pub(super) fn common_multiple(mut numbers: impl Iterator<Item = u128>) -> u128 {
    let multiple = numbers.try_fold(1_u128, |multiple, number| {
        Some(if number == 0 { multiple } else { lcm(multiple, number) })
            .filter(|multiple| *multiple < 1 << 32)
    });
    multiple.unwrap_or(1 << 32)
}

const fn lcm(a: u128, b: u128) -> u128 {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}
