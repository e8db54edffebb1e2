//! What the gateway proxy has counted.

use std::collections::BTreeMap;

use super::destinations::add;
use super::kept::Kept;
use super::page::{Labels, Page, labels};
use crate::proxy::{
    Failed, LegCounts, ListenerCounts, ListenerState, ListenerStatus, Refused, Status,
};

/// The families of gateways.
pub fn families(status: &Status, kept: &mut Kept, page: &mut Page) {
    if let Some(relay) = &status.relay {
        let families = [
            ("gateway_relay_restarts_total", relay.restarts),
            ("gateway_relay_cut_total", relay.cut),
            ("gateway_access_log_dropped_total", status.access_dropped),
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
    page.family("gateway_refused_total");
    for (labels, (_, counts)) in &sums {
        // Few, and alerts are about what comes to be: all from the beginning.
        for (reason, count) in Refused::REASONS.iter().zip(counts.refused) {
            sample(page, "gateway_refused_total", labels, reason, count);
        }
    }
    let families: [(&str, Value); 5] = [
        ("gateway_accepted_total", |c| c.accepted),
        ("gateway_active_connections", |c| c.active),
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
    let mut sums: BTreeMap<Labels, [u64; PLAIN + 2 * FAILED.len()]> = BTreeMap::new();
    for leg in all {
        let labels = labels([
            ("route", leg.route.to_string()),
            ("destination", leg.destination.to.to_string()),
            ("subset", leg.destination.subset.as_deref().unwrap_or("").to_owned()),
        ]);
        let plain = [leg.taken, leg.active, leg.retried, leg.sent, leg.received];
        let counts = plain.into_iter().chain(leg.failed).chain(leg.missed);
        let sums = sums.entry(labels).or_insert_with(|| [0; _]);
        sums.iter_mut().zip(counts).for_each(|(sum, more)| *sum += more);
    }
    kept.give(GROUP, &sums.keys().cloned().collect());
    let sums = kept.bounded(GROUP, sums, add);
    let families = [
        "gateway_connections_total",
        "gateway_destination_active",
        "gateway_retries_total",
        "gateway_sent_bytes_total",
        "gateway_received_bytes_total",
    ];
    for (at, name) in families.into_iter().enumerate() {
        page.family(name);
        sums.iter().for_each(|(labels, sums)| page.sample(name, labels, sums[at]));
    }
    let reasons = [
        (PLAIN, "gateway_failures_total"),
        (PLAIN + FAILED.len(), "gateway_attempt_failures_total"),
    ];
    for (from, name) in reasons {
        page.family(name);
        for (labels, sums) in &sums {
            by_reason(page, name, labels, &sums[from..from + FAILED.len()], &FAILED);
        }
    }
}

/// Counters of a leg that have no reason.
const PLAIN: usize = 5;

/// What reasons are called.
const FAILED: [&str; Failed::ALL.len()] = Failed::REASONS;

/// The samples of a family by reason: of those that there were, and a zero where there were
/// none.
fn by_reason(page: &mut Page, name: &str, labels: &Labels, counts: &[u64], reasons: &[&str]) {
    let is_none = counts.iter().all(|count| *count == 0);
    for (at, (reason, count)) in reasons.iter().zip(counts).enumerate() {
        if *count > 0 || is_none && at + 1 == reasons.len() {
            sample(page, name, labels, reason, *count);
        }
    }
}

fn sample(page: &mut Page, name: &str, labels: &Labels, reason: &str, count: u64) {
    let mut labels = labels.clone();
    labels.insert("reason", reason.to_owned());
    page.sample(name, &labels, count);
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
            failed: [2, 0, 0, 0, 0, 0, 0],
            missed: [0, 0, 3, 0, 0, 0, 0],
            retried: 6,
            sent: 4,
            received: 5,
        };
        let mut page = Page::default();
        let mut kept = Kept::default();
        kept.most = 1;
        legs(&[leg], &mut kept, &mut page);
        let labels =
            r#"{destination="db.internal:5432",route="VirtualService/edge/db tcp[0]",subset="v1"}"#;
        for (name, value) in [("connections", 7), ("retries", 6)] {
            let line = format!("redirector_gateway_{name}_total{labels} {value}\n");
            assert!(page.text.contains(&line), "{line}{}", page.text);
        }
        for (name, reason, value) in
            [("failures", "no endpoint", 2), ("attempt_failures", "refused", 3)]
        {
            let labels = labels.replace(",route", &format!(",reason=\"{reason}\",route"));
            let line = format!("redirector_gateway_{name}_total{labels} {value}\n");
            assert!(page.text.contains(&line), "{line}{}", page.text);
        }
    }
}
