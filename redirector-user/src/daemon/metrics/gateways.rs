//! What the gateway proxy has counted.

use std::collections::BTreeMap;

use super::{Labels, Page, labels};
use crate::proxy::{LegCounts, ListenerCounts, ListenerState, ListenerStatus, Status};

/// The families of gateways.
pub fn families(status: &Status, page: &mut Page) {
    listeners(&status.listeners, page);
    legs(&status.legs, page);
}

fn listeners(all: &[ListenerStatus], page: &mut Page) {
    // One that was removed and came back has two states for a while.
    let mut sums: BTreeMap<Labels, (bool, ListenerCounts)> = BTreeMap::new();
    for listener in all {
        let labels = labels([
            ("gateway", listener.name.to_string()),
            ("address", listener.address.to_string()),
        ]);
        let listens = listener.state == ListenerState::Listening;
        let (up, sum) = sums.entry(labels).or_default();
        *up |= listens;
        *sum += listener.counts;
    }
    page.family("gateway_listening", "gauge", "Whether a gateway's address is listened on");
    for (labels, (up, _)) in &sums {
        page.sample("gateway_listening", labels, u8::from(*up));
    }
    type Value = fn(&ListenerCounts) -> u64;
    let families: [(&str, &str, &str, Value); 6] = [
        ("gateway_accepted_total", "counter", "Connections accepted", |c| c.accepted),
        ("gateway_active_connections", "gauge", "Connections open now", |c| c.active),
        (
            "gateway_refused_total",
            "counter",
            "Connections refused: no rule, or no endpoint or room",
            |c| c.refused,
        ),
        ("gateway_failed_total", "counter", "Connections for which no endpoint was reached", |c| {
            c.failed
        }),
        ("gateway_looped_total", "counter", "Connections whose route led back", |c| c.looped),
        (
            "gateway_starved_total",
            "counter",
            "Times that accepting paused for want of descriptors or memory",
            |c| c.starved,
        ),
    ];
    for (name, kind, help, value) in families {
        page.family(name, kind, help);
        for (labels, (_, counts)) in &sums {
            page.sample(name, labels, value(counts));
        }
    }
}

fn legs(all: &[LegCounts], page: &mut Page) {
    let mut sums: BTreeMap<Labels, [u64; 5]> = BTreeMap::new();
    for leg in all {
        let labels = labels([
            ("route", leg.route.to_string()),
            ("destination", leg.destination.to_string()),
        ]);
        let counts = [leg.taken, leg.active, leg.failed, leg.sent, leg.received];
        let sum = sums.entry(labels).or_default();
        sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    let families = [
        ("gateway_connections_total", "counter", "Connections given to a destination"),
        ("gateway_destination_active", "gauge", "Connections to a destination open now"),
        ("gateway_failures_total", "counter", "Connections to a destination that failed"),
        ("gateway_sent_bytes_total", "counter", "Bytes from clients to a destination"),
        ("gateway_received_bytes_total", "counter", "Bytes from a destination to clients"),
    ];
    for (at, (name, kind, help)) in families.into_iter().enumerate() {
        page.family(name, kind, help);
        for (labels, sums) in &sums {
            page.sample(name, labels, sums[at]);
        }
    }
}
