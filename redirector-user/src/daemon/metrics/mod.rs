//! What a monitoring system reads: Prometheus text over HTTP.

mod gateways;
mod pods;
mod server;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use redirector_common::abi::{Live, handshake_bound};
use redirector_core::layout::Names;
use redirector_core::plan::{DestinationId, RouteId};

use super::control_loop::Daemon;
use super::now;
use crate::output::route_name;

pub use server::{serve, stop};

/// Names and values of one sample.
type Labels = BTreeMap<&'static str, String>;

/// The text of one scrape.
pub(super) fn text(daemon: &Daemon) -> String {
    let mut page = Page::default();
    let report = &daemon.report;
    page.gauge("config_generation", "Generation of the configuration in force", daemon.generation);
    let age = now().saturating_sub(report.applied.max(report.started));
    page.gauge("config_age_seconds", "Time since the configuration came in force", age);
    page.gauge("rejected_documents", "Documents that are not in force", report.rejected.len());
    page.gauge("config_warnings", "Warnings about what is in force", report.warnings);
    page.gauge("identity_gaps", "Workloads whose processes cannot be told", report.gaps.len());
    pods::family(&daemon.direct.arrivals(), &mut page);
    let held = u64::from(report.hold.is_some());
    page.gauge("rollback_held", "1 while an earlier configuration is held", held);
    page.gauge("bypassed", "Workloads and rules that are left alone", daemon.bypassed.len());
    let failed = report.self_test.iter().filter(|test| test.error.is_some()).count();
    page.gauge("self_test_failures", "Self-tests that found programs not effective", failed);
    let not_applied = u64::from(report.apply_error.is_some());
    page.gauge("apply_failed", "1 while the newest configuration does not fit", not_applied);
    page.counter(
        "drift_total",
        "Times that the kernel differed and was mended",
        report.drift_repaired,
    );
    page.gauge("draining_endpoints", "Endpoints that have gone and drain", daemon.draining.len());
    page.counter(
        "connections_reset_total",
        "Connections to endpoints that have gone, reset when their time was over",
        report.connections_reset,
    );
    page.family("watch_up", "gauge", "1 while a watch of the API server works");
    for watch in &report.watching {
        let up = matches!(watch.state.as_str(), "fine" | "absent");
        let labels = labels([("resource", watch.resource.clone())]);
        page.sample("watch_up", &labels, f64::from(u8::from(up)));
    }
    let drift = report.watch_drift;
    page.counter("watch_drift_total", "Objects that differed from a fresh list", drift);
    let (image, sizes) = (&daemon.engine.image, daemon.datapath.sizes());
    page.family("map_fill_ratio", "gauge", "Entries of a table in relation to its size");
    for (table, used, size) in [
        ("frontends", image.frontends.len(), sizes.frontends),
        ("prefixes", image.prefixes.len(), sizes.prefixes),
        ("class_verdicts", image.class_verdicts.len(), sizes.class_verdicts),
        ("class_tables", image.class_defaults.len(), sizes.class_tables),
        ("identities", image.class_of.len(), sizes.identities),
        ("routes", image.routes.len(), sizes.routes),
        ("legs", image.legs.len(), sizes.legs),
        ("destinations", image.destinations.len(), sizes.destinations),
        ("backends", image.backends.len(), sizes.backends),
    ] {
        let fill = used as f64 / f64::from(sizes_at_least_one(size));
        page.sample("map_fill_ratio", &labels([("map", table.to_owned())]), fill);
    }
    counters(daemon, &mut page);
    if let Some(status) = daemon.gateways.status() {
        gateways::families(&status, &mut page);
    }
    page.text
}

fn sizes_at_least_one(size: u32) -> u32 {
    size.max(1)
}

fn counters(daemon: &Daemon, page: &mut Page) {
    let counters = match daemon.datapath.counters() {
        Ok(counters) => counters,
        Err(error) => {
            tracing::warn!("the counters cannot be read: {error}");
            return;
        }
    };
    let totals = counters.totals;
    page.family("decisions_total", "counter", "Connections to addresses that are served here");
    for (outcome, count) in
        [("routed", totals.routed), ("passed", totals.passed), ("refused", totals.refused)]
    {
        page.sample("decisions_total", &labels([("outcome", outcome.to_owned())]), count);
    }
    page.counter(
        "unknown_source_total",
        "Decisions that asked for the source of a caller in no known workload",
        totals.unknown_source,
    );
    page.counter(
        "memory_full_total",
        "Connections routed and not remembered: getpeername shows the endpoint",
        totals.memory_full,
    );
    match daemon.datapath.remembered() {
        Ok(remembered) => page.gauge(
            "remembered_connections",
            "Connections whose dialled address is remembered, also by earlier versions",
            remembered,
        ),
        Err(error) => tracing::warn!("the memory of connections cannot be read: {error}"),
    }
    let names = daemon.engine.layout.names();
    // Several legs may carry the same labels, such as those of two classes.
    let mut legs: BTreeMap<Labels, crate::datapath::LegCount> = BTreeMap::new();
    for (leg, count) in &counters.legs {
        let Some((route, _, destination)) = names.legs.get(leg) else { continue };
        *legs.entry(leg_labels(route, destination)).or_default() += *count;
    }
    type Value = fn(&crate::datapath::LegCount) -> u64;
    let families: [(&str, &str, Value); 6] = [
        ("connections_total", "Connections sent to a destination", |c| {
            c.chosen - c.refused.min(c.chosen)
        }),
        (
            "refused_total",
            "Connections refused: the destination has no endpoint, or its most connections",
            |c| c.refused,
        ),
        ("established_total", "Handshakes completed (with --accounting)", |c| c.established),
        ("failures_total", "Connections that ended without a handshake (with --accounting)", |c| {
            c.failed
        }),
        (
            "sent_bytes_total",
            "Bytes sent by connections that have ended (with --accounting)",
            |c| c.sent,
        ),
        (
            "received_bytes_total",
            "Bytes received by connections that have ended (with --accounting)",
            |c| c.received,
        ),
    ];
    for (name, help, value) in families {
        page.family(name, "counter", help);
        for (labels, count) in &legs {
            page.sample(name, labels, value(count));
        }
    }
    page.family(
        "active_connections",
        "gauge",
        "Connections established and not ended (with --accounting)",
    );
    for (labels, count) in &legs {
        page.sample("active_connections", labels, count.established.saturating_sub(count.closed));
    }
    page.family(
        "handshake_seconds",
        "histogram",
        "Time from connect to the end of the handshake (with --accounting)",
    );
    for (labels, count) in &legs {
        let mut sum = 0;
        for (bucket, handshakes) in count.handshakes.iter().enumerate() {
            sum += u64::from(*handshakes);
            let bound = handshake_bound(bucket);
            let bound = bound.map_or("+Inf".to_owned(), |bound| (bound as f64 / 1e9).to_string());
            let mut labels = labels.clone();
            labels.insert("le", bound);
            page.sample("handshake_seconds_bucket", &labels, sum);
        }
        page.sample("handshake_seconds_sum", labels, count.handshake_ns as f64 / 1e9);
        page.sample("handshake_seconds_count", labels, sum);
    }
    policies(daemon, page, &names);
}

/// What the policies of destinations have counted.
fn policies(daemon: &Daemon, page: &mut Page, names: &Names<'_>) {
    // Several destinations may carry the same labels, such as those that clients
    // of two namespaces see differently.
    let mut sums: BTreeMap<Labels, [u64; 3]> = BTreeMap::new();
    for (number, live) in daemon.datapath.lives() {
        if let Some((destination, None)) = names.lives.get(&number) {
            let sum = sums.entry(destination_labels(destination)).or_default();
            let counts = [Live::connections(live.word), live.limited, live.ejected];
            sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    }
    let families = [
        (
            "policy_connections",
            "gauge",
            "Open connections that count towards maxConnections or LEAST_REQUEST",
        ),
        ("limited_total", "counter", "Connections refused because of maxConnections"),
        ("ejected_endpoints", "gauge", "Endpoints left out by outlierDetection"),
    ];
    for (at, (name, kind, help)) in families.into_iter().enumerate() {
        page.family(name, kind, help);
        for (labels, sums) in &sums {
            page.sample(name, labels, sums[at]);
        }
    }
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

fn labels<const N: usize>(pairs: [(&'static str, String); N]) -> Labels {
    pairs.into_iter().collect()
}

/// A page of metrics in Prometheus' text format.
#[derive(Debug, Default)]
struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP redirector_{name} {help}");
        let _ = writeln!(self.text, "# TYPE redirector_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &Labels, value: impl std::fmt::Display) {
        let _ = write!(self.text, "redirector_{name}");
        if !labels.is_empty() {
            let pairs = labels.iter().map(|(name, value)| {
                let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                format!("{name}=\"{value}\"")
            });
            let _ = write!(self.text, "{{{}}}", pairs.collect::<Vec<_>>().join(","));
        }
        let _ = writeln!(self.text, " {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, "gauge", help);
        self.sample(name, &Labels::new(), value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, "counter", help);
        self.sample(name, &Labels::new(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn a_page_is_served_and_labels_are_escaped() {
        let mut page = Page::default();
        page.family("refused_total", "counter", "Refused");
        page.sample("refused_total", &labels([("route", "a\"b\\".to_owned())]), 3);
        let expected = "# HELP redirector_refused_total Refused\n\
                        # TYPE redirector_refused_total counter\n\
                        redirector_refused_total{route=\"a\\\"b\\\\\"} 3\n";
        assert_eq!(page.text, expected);
        let address =
            serve(([127, 0, 0, 1], 0).into(), Arc::new(AtomicBool::new(true)), move || {
                Some(page.text.clone())
            })
            .unwrap();
        let ask = |request: &str| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        let answer = ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(expected), "{answer}");
        assert!(ask("GET / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 404"));
        assert!(ask("HELO\r\n\r\n").starts_with("HTTP/1.1 400"));
    }
}
