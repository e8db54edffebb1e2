//! What a monitoring system reads: Prometheus text over HTTP.
//!
//! How many series there are is bounded: labels name routes, destinations, subsets,
//! gateways and names of ServiceEntries, never endpoints, workloads or processes, and of those no more
//! than [`metrics_limit`](super::Options::metrics_limit) of each group have series
//! of their own ([`kept`]).

mod destinations;
pub mod families;
mod gateways;
mod kept;
mod names;
mod page;
mod pods;
mod server;
pub mod token;

use std::collections::BTreeMap;

use redirector_core::drain::by_endpoint;

use super::control_loop::Daemon;
use super::now;
use crate::state::Refused;
use page::labels;

pub use kept::{Kept, OTHER};
pub(super) use page::Page;
pub use server::{At, Pages, Readiness};

/// The text of one scrape.
pub(super) fn text(daemon: &Daemon, kept: &mut Kept) -> String {
    let mut page = Page::default();
    let report = &daemon.report;
    kept.most = daemon.options.metrics_limit;
    page.family("build_info");
    page.sample("build_info", &labels([("version", env!("CARGO_PKG_VERSION").to_owned())]), 1);
    page.single("config_generation", daemon.generation);
    let age = now().saturating_sub(report.applied.max(report.started));
    page.single("config_age_seconds", age);
    page.single("rejected_documents", report.rejected.len());
    refused(&report.rejected, kept, &mut page);
    page.single("config_warnings", report.warnings);
    page.single("emptied_shares", report.emptied.len());
    page.single("names", report.names.len());
    page.single("unresolved_names", report.unresolved.len());
    page.single("name_failures_total", daemon.asked.failures);
    page.single("oldest_kept_answer_seconds", daemon.asked.oldest(&report.unresolved));
    names::families(report, &daemon.asked, kept, &mut page);
    page.single("identity_gaps", report.gaps.len());
    pods::family(&daemon.direct.arrivals(), &mut page);
    let oldest = daemon.oldest();
    page.single("waiting_changes", oldest.map_or(0, |(changes, _)| changes));
    let waits = oldest.map_or(0.0, |(_, since)| since.elapsed().as_secs_f64());
    page.single("oldest_waiting_change_seconds", waits);
    daemon.times.family(&mut page);
    page.single("rollback_held", u8::from(report.hold.is_some()));
    page.single("bypassed", daemon.bypassed.len());
    let failed = report.self_test.iter().filter(|test| test.error.is_some()).count();
    page.single("self_test_failures", failed);
    page.single("apply_failed", u8::from(report.apply_error.is_some()));
    page.single("state_failed", u8::from(report.report_error.is_some()));
    page.single("drift_total", report.drift_repaired);
    page.single("compile_drift_total", daemon.engine.drifts);
    page.single("draining_endpoints", by_endpoint(&daemon.draining).len());
    page.single("connections_reset_total", report.connections_reset);
    page.single("drain_failed", u8::from(report.drain_error.is_some()));
    page.family("watch_up");
    for watch in &report.watching {
        let labels = labels([("resource", watch.resource.clone())]);
        page.sample("watch_up", &labels, u8::from(watch.works()));
    }
    page.single("watch_drift_total", report.watch_drift);
    fill(daemon, &mut page);
    page.single("tables_fixed", u8::from(daemon.options.fixed_sizes));
    counters(daemon, kept, &mut page);
    page.single("gateway_servers_unserved", report.unserved.len());
    if let Some(status) = daemon.gateways.status() {
        gateways::families(&status, kept, &mut page);
    }
    page.single("metrics_in_other", kept.others());
    page.text
}

/// Which version is in force of the objects whose newest one is not.
fn refused(rejected: &[Refused], kept: &mut Kept, page: &mut Page) {
    const GROUP: &str = "refused objects";
    let objects = rejected.iter().filter_map(|one| {
        let in_force = one.in_force.as_deref().unwrap_or("none").to_owned();
        Some((labels([("object", one.object.clone()?), ("in_force", in_force)]), 1))
    });
    let objects: BTreeMap<_, u64> = objects.collect();
    kept.give(GROUP, &objects.keys().cloned().collect());
    page.family("refused_object");
    for (labels, count) in kept.bounded(GROUP, objects, |sum, one| *sum += one) {
        page.sample("refused_object", &labels, count);
    }
}

/// How full the tables are.
fn fill(daemon: &Daemon, page: &mut Page) {
    let (image, sizes) = (daemon.engine.image(), daemon.datapath.sizes());
    page.family("map_fill_ratio");
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
        let fill = used as f64 / f64::from(size.max(1));
        page.sample("map_fill_ratio", &labels([("map", table.to_owned())]), fill);
    }
}

fn counters(daemon: &Daemon, kept: &mut Kept, page: &mut Page) {
    let counters = match daemon.datapath.counters() {
        Ok(counters) => counters,
        Err(error) => {
            tracing::warn!("the counters cannot be read: {error}");
            return;
        }
    };
    let totals = counters.totals;
    page.family("decisions_total");
    for (outcome, count) in
        [("routed", totals.routed), ("passed", totals.passed), ("refused", totals.refused)]
    {
        page.sample("decisions_total", &labels([("outcome", outcome.to_owned())]), count);
    }
    page.single("unknown_source_total", totals.unknown_source);
    page.single("memory_full_total", totals.memory_full);
    match daemon.datapath.remembered() {
        Ok(remembered) => page.single("remembered_connections", remembered),
        Err(error) => tracing::warn!("the memory of connections cannot be read: {error}"),
    }
    let names = daemon.engine.layout().names();
    destinations::legs(&counters, &names, kept, daemon.options.accounting, page);
    destinations::destinations(daemon, &names, kept, page);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::sync::{Arc, mpsc};

    use tokio::sync::oneshot;

    use crate::daemon::server::Server;

    #[test]
    fn a_page_is_served_and_labels_are_escaped() {
        let mut page = Page::default();
        page.family("refused_total");
        page.sample("refused_total", &labels([("route", "a\"b\\".to_owned())]), 3);
        let help = families::family("refused_total").unwrap().help;
        let expected = format!(
            "# HELP redirector_refused_total {help}\n# TYPE redirector_refused_total counter\n\
             redirector_refused_total{{route=\"a\\\"b\\\\\"}} 3\n"
        );
        assert_eq!(page.text, expected);
        let readiness = Arc::new(Readiness::default());
        let (_server, address) =
            served(&readiness, move |reply| reply.send(page.text.clone()).is_ok());
        let ask = |request: &str| ask(address, request);
        let answer = ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(&expected), "{answer}");
        assert!(ask("GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
        let watch = crate::state::Watching {
            resource: "services".to_owned(),
            state: "troubled".to_owned(),
            since: 86_400,
            error: Some("the API server refuses (403)".to_owned()),
            help: None,
        };
        readiness.says(&crate::state::Report { watching: vec![watch], ..Default::default() });
        let waits = "services is not watched: the API server refuses (403), since 1970-01-02T00";
        let ready = || ask("GET /readyz HTTP/1.1\r\n\r\n");
        assert!(ready().starts_with("HTTP/1.1 503") && ready().contains(waits), "{}", ready());
        readiness.in_force();
        assert!(ready().starts_with("HTTP/1.1 200") && ready().contains(waits), "{}", ready());
        assert!(ask("HELO\r\n\r\n").starts_with("HTTP/1.1 400"));
    }

    /// A server of pages that somebody makes.
    fn served(
        readiness: &Arc<Readiness>,
        make: impl FnMut(oneshot::Sender<String>) -> bool + Send + 'static,
    ) -> (Server, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = Server::start().unwrap();
        let pages = Pages::new(&server, readiness.clone(), make);
        pages.serve(&mut server, listener, None).unwrap();
        (server, address)
    }

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn where_a_token_is_wanted_nothing_is_answered_to_who_does_not_send_that_of_now() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = Server::start().unwrap();
        let page = |reply: oneshot::Sender<String>| reply.send("a page\n".to_owned()).is_ok();
        let pages = Pages::new(&server, Arc::default(), page);
        pages.serve(&mut server, listener, Some(file.clone())).unwrap();
        let status = |path: &str, header: &str| {
            let answer = ask(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n"));
            answer.strip_prefix("HTTP/1.1 ").unwrap()[..3].to_owned()
        };
        let right = "Authorization: Bearer s3cret\r\n";
        assert_eq!(status("/metrics", right), "503", "there is none");
        assert!(token::is_there(&file).is_err());
        std::fs::write(&file, " \n").unwrap();
        assert_eq!(status("/metrics", "Authorization: Bearer \r\n"), "503", "nothing is none");
        assert!(token::is_there(&file).is_err());
        std::fs::write(&file, "s3cret\n").unwrap();
        token::is_there(&file).unwrap();
        assert_eq!(status("/metrics", right), "200");
        assert_eq!(status("/metrics", "authorization: bearer s3cret\r\n"), "200");
        for path in ["/metrics", "/readyz", "/healthz", "/"] {
            for wrong in ["", "Bearer", "Bearer s3cre", "Bearer s3crets", "Basic s3cret", "s3cret"]
            {
                let header = format!("Authorization: {wrong}\r\n");
                let header = if wrong.is_empty() { "" } else { &header };
                assert_eq!(status(path, header), "401", "{path} with {wrong:?}");
            }
        }
        std::fs::write(&file, "another").unwrap();
        assert_eq!(status("/metrics", right), "401");
        assert_eq!(status("/metrics", "Authorization: Bearer another\r\n"), "200");
    }

    #[test]
    fn silent_slow_and_waiting_clients_block_nobody() {
        let (makers, wanted) = mpsc::channel();
        let readiness = Arc::new(Readiness::default());
        let (_server, address) = served(&readiness, move |reply| makers.send(reply).is_ok());
        // More than are served at a time: some say nothing, some a little.
        let idle: Vec<TcpStream> = (0..200)
            .map(|number| {
                let mut stream = TcpStream::connect(address).unwrap();
                if number % 2 == 0 {
                    stream.write_all(b"GET /healthz HTTP/1.1\r\nX").unwrap();
                }
                stream
            })
            .collect();
        // Readers wait for a page that is not made yet, as in a long change.
        let readers: Vec<_> = (0..8)
            .map(|_| std::thread::spawn(move || ask(address, "GET /metrics HTTP/1.1\r\n\r\n")))
            .collect();
        let first = wanted.recv().unwrap();
        let health = ask(address, "GET /healthz HTTP/1.1\r\n\r\n");
        assert!(health.starts_with("HTTP/1.1 200") && health.ends_with("ok\n"), "{health}");
        let maker = std::thread::spawn(move || {
            let mut made = 0;
            for reply in std::iter::once(first).chain(wanted) {
                made += 1;
                reply.send(format!("page {made}\n")).unwrap();
            }
            made
        });
        for reader in readers {
            let answer = reader.join().unwrap();
            assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("page "), "{answer}");
        }
        // The oldest of the silent ones had to go for those that came after them.
        let mut oldest = &idle[1];
        assert_eq!(oldest.read(&mut [0]).unwrap(), 0);
        drop(_server);
        assert!(maker.join().unwrap() <= 8);
    }

    #[test]
    fn every_family_has_a_name_of_its_kind_and_labels_that_do_not_grow_with_traffic() {
        use families::{FAMILIES, Kind};
        let labels = [
            "version",
            "expected",
            "kind",
            "resource",
            "map",
            "outcome",
            "route",
            "destination",
            "subset",
            "family",
            "gateway",
            "address",
            "reason",
            // No more of them than --metrics-limit.
            "object",
            "in_force",
            "name",
        ];
        for (at, family) in FAMILIES.iter().enumerate() {
            let counts = family.name.ends_with("_total");
            assert_eq!(counts, family.kind == Kind::Counter, "{}", family.name);
            assert!(FAMILIES[..at].iter().all(|other| other.name != family.name));
            assert!(!family.help.is_empty() && !family.help.contains('\n'));
            for label in family.labels {
                assert!(labels.contains(label), "{label} of {}: is it bounded?", family.name);
            }
        }
    }
}
