//! What the gateway proxy has counted.

use std::collections::BTreeMap;

use super::destinations::add;
use super::kept::Kept;
use super::page::{Labels, Page, labels};
use crate::proxy::{LegCounts, ListenerCounts, ListenerState, ListenerStatus, Status};

/// The families of gateways.
pub fn families(status: &Status, kept: &mut Kept, page: &mut Page) {
    if let Some(relay) = &status.relay {
        let families = [
            ("gateway_relay_restarts_total", relay.restarts),
            ("gateway_relay_cut_total", relay.cut),
        ];
        for (name, value) in families {
            page.family(name);
            page.sample(name, &Labels::default(), value);
        }
    }
    listeners(&status.listeners, kept, page);
    legs(&status.legs, kept, page);
}

fn listeners(all: &[ListenerStatus], kept: &mut Kept, page: &mut Page) {
    const GROUP: &str = "gateways";
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
    kept.give(GROUP, &sums.keys().cloned().collect());
    // Of those counted together all listen, or not.
    let sums = kept.bounded(GROUP, sums, |(up, sum), (also, counts)| {
        *up &= also;
        *sum += counts;
    });
    page.family("gateway_listening");
    for (labels, (up, _)) in &sums {
        page.sample("gateway_listening", labels, u8::from(*up));
    }
    type Value = fn(&ListenerCounts) -> u64;
    let families: [(&str, Value); 6] = [
        ("gateway_accepted_total", |c| c.accepted),
        ("gateway_active_connections", |c| c.active),
        ("gateway_refused_total", |c| c.refused),
        ("gateway_failed_total", |c| c.failed),
        ("gateway_looped_total", |c| c.looped),
        ("gateway_starved_total", |c| c.starved),
    ];
    for (name, value) in families {
        page.family(name);
        sums.iter().for_each(|(labels, (_, counts))| page.sample(name, labels, value(counts)));
    }
}

fn legs(all: &[LegCounts], kept: &mut Kept, page: &mut Page) {
    const GROUP: &str = "gateway legs";
    let mut sums: BTreeMap<Labels, [u64; 6]> = BTreeMap::new();
    for leg in all {
        let labels = labels([
            ("route", leg.route.to_string()),
            ("destination", leg.destination.to.to_string()),
            ("subset", leg.destination.subset.as_deref().unwrap_or("").to_owned()),
        ]);
        let counts = [leg.taken, leg.active, leg.failed, leg.missed, leg.sent, leg.received];
        add(sums.entry(labels).or_default(), counts);
    }
    kept.give(GROUP, &sums.keys().cloned().collect());
    let sums = kept.bounded(GROUP, sums, add);
    let families = [
        "gateway_connections_total",
        "gateway_destination_active",
        "gateway_failures_total",
        "gateway_attempt_failures_total",
        "gateway_sent_bytes_total",
        "gateway_received_bytes_total",
    ];
    for (at, name) in families.into_iter().enumerate() {
        page.family(name);
        sums.iter().for_each(|(labels, sums)| page.sample(name, labels, sums[at]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::DestinationName;
    use redirector_core::plan::DestinationId;

    #[test]
    fn a_leg_is_labelled_with_its_host_and_its_subset() {
        let id = DestinationId {
            host: "db.internal".into(),
            subset: Some("v1".into()),
            port: 5432,
            v6: false,
            view: [].into(),
        };
        let leg = LegCounts {
            route: "VirtualService/edge/db tcp[0]".into(),
            destination: DestinationName::from(&id),
            taken: 7,
            active: 1,
            failed: 2,
            missed: 3,
            sent: 4,
            received: 5,
        };
        let mut page = Page::default();
        let mut kept = Kept::default();
        kept.most = 1;
        legs(&[leg], &mut kept, &mut page);
        let labels =
            r#"{destination="db.internal:5432",route="VirtualService/edge/db tcp[0]",subset="v1"}"#;
        for (name, value) in [("connections", 7), ("failures", 2), ("attempt_failures", 3)] {
            let line = format!("redirector_gateway_{name}_total{labels} {value}\n");
            assert!(page.text.contains(&line), "{line}{}", page.text);
        }
    }
}
