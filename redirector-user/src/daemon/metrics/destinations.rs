//! What the kernel has counted of destinations: by the rules that chose them, and
//! by what their policies need.

use std::collections::{BTreeMap, BTreeSet};

use redirector_common::abi::{Live, handshake_bound};
use redirector_core::layout::Names;
use redirector_core::plan::{DestinationId, RouteId};

use super::Daemon;
use super::kept::Kept;
use super::page::{Labels, Page, labels};
use crate::datapath::{Counters, LegCount};
use crate::output::route_name;

/// The families of weighted destinations of rules. Only what was chosen since the
/// tables were made is there, and of what takes accounting only what was counted.
pub fn legs(
    counters: &Counters,
    names: &Names<'_>,
    kept: &mut Kept,
    accounting: bool,
    page: &mut Page,
) {
    const GROUP: &str = "legs";
    // Several legs may carry the same labels, such as those of two classes.
    let mut legs: BTreeMap<Labels, LegCount> = BTreeMap::new();
    for (leg, count) in &counters.legs {
        let Some((route, _, destination)) = names.legs.get(leg) else { continue };
        *legs.entry(leg_labels(route, destination)).or_default() += *count;
    }
    kept.give(GROUP, &legs.keys().cloned().collect());
    let legs = kept.bounded(GROUP, legs, |sum, count| *sum += count);
    let counted: Vec<(&Labels, &LegCount)> = (legs.iter())
        .filter(|(_, count)| accounting || count.established + count.failed > 0)
        .collect();
    type Value = fn(&LegCount) -> u64;
    let drawn: [(&str, Value); 2] = [
        ("connections_total", |c| c.chosen - c.refused.min(c.chosen)),
        ("refused_total", |c| c.refused),
    ];
    for (name, value) in drawn {
        page.family(name);
        legs.iter().for_each(|(labels, count)| page.sample(name, labels, value(count)));
    }
    let followed: [(&str, Value); 5] = [
        ("established_total", |c| c.established),
        ("failures_total", |c| c.failed),
        ("sent_bytes_total", |c| c.sent),
        ("received_bytes_total", |c| c.received),
        ("active_connections", |c| c.established.saturating_sub(c.closed)),
    ];
    for (name, value) in followed {
        page.family(name);
        counted.iter().for_each(|(labels, count)| page.sample(name, labels, value(count)));
    }
    page.family("handshake_seconds");
    for (labels, count) in counted {
        let mut sum = 0;
        let buckets = count.handshakes.iter().enumerate().map(|(bucket, handshakes)| {
            sum += u64::from(*handshakes);
            (handshake_bound(bucket).map(|bound| bound as f64 / 1e9), sum)
        });
        let seconds = count.handshake_ns as f64 / 1e9;
        page.histogram("handshake_seconds", labels, buckets, seconds);
    }
}

/// The families of destinations, whatever rules lead to them.
pub fn destinations(daemon: &Daemon, names: &Names<'_>, kept: &mut Kept, page: &mut Page) {
    const GROUP: &str = "destinations";
    let image = daemon.engine.image();
    // Several destinations may carry the same labels, such as those that clients
    // of two namespaces see differently: the one with the fewest counts.
    let mut endpoints: BTreeMap<Labels, usize> = BTreeMap::new();
    for (number, id) in &names.destinations {
        // One without endpoints is all zero, and so has no entry.
        let placed = image.destinations.get(number).copied().unwrap_or_default();
        let slots = image.backends.range(placed.first..placed.first.saturating_add(placed.count));
        let count = slots.map(|(_, slot)| (slot.addr, slot.port)).collect::<BTreeSet<_>>().len();
        let fewest = endpoints.entry(destination_labels(id)).or_insert(count);
        *fewest = count.min(*fewest);
    }
    kept.give(GROUP, &endpoints.keys().cloned().collect());
    page.family("endpoints");
    for (labels, count) in kept.bounded(GROUP, endpoints, |least, count| *least = count.min(*least))
    {
        page.sample("endpoints", &labels, count);
    }
    let mut policies: BTreeMap<Labels, [u64; 4]> = BTreeMap::new();
    for (number, live) in daemon.datapath.lives() {
        let Some((id, endpoint)) = names.lives.get(&number) else { continue };
        let counts = match endpoint {
            None => [Live::connections(live.word), live.limited, live.ejected, 0],
            Some(_) => [0, 0, 0, live.withheld],
        };
        add(policies.entry(destination_labels(id)).or_default(), counts);
    }
    let policies = kept.bounded(GROUP, policies, add);
    let families =
        ["policy_connections", "limited_total", "ejected_endpoints", "withheld_ejections_total"];
    for (at, name) in families.into_iter().enumerate() {
        page.family(name);
        policies.iter().for_each(|(labels, sums)| page.sample(name, labels, sums[at]));
    }
}

/// Adds counts one by one.
pub fn add<const N: usize>(sums: &mut [u64; N], counts: [u64; N]) {
    sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
}

fn destination_labels(destination: &DestinationId) -> Labels {
    labels([
        ("destination", format!("{}:{}", destination.host, destination.port)),
        ("subset", destination.subset.as_deref().unwrap_or("").to_owned()),
        ("family", if destination.v6 { "ipv6" } else { "ipv4" }.to_owned()),
    ])
}

fn leg_labels(route: &RouteId, destination: &DestinationId) -> Labels {
    labels([
        ("route", route_name(route)),
        ("destination", format!("{}:{}", destination.host, destination.port)),
        ("subset", destination.subset.as_deref().unwrap_or("").to_owned()),
    ])
}
