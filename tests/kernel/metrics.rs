//! The metrics of a running daemon: what it exports is what the list of families
//! says, and however much it knows, there is an end to the series.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;

use redirector::daemon::metrics::OTHER;
use redirector::daemon::metrics::families::{FAMILIES, Kind, PREFIX};
use redirector_tests::child;
use redirector_tests::dns::DnsServer;
use redirector_tests::scene::{Scene, dial, free, gateway, scrape, split, to};
use redirector_tests::socket::Socket;

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");

/// A series: its name and labels, and the value.
#[derive(Debug)]
struct Sample<'p> {
    name: &'p str,
    labels: BTreeMap<&'p str, &'p str>,
    value: f64,
}

/// The series of a page; no label of ours has a quote or comma in it here.
fn samples(page: &str) -> Vec<Sample<'_>> {
    let lines = page.lines().filter(|line| line.starts_with(PREFIX));
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels = labels.trim_end_matches('}').split("\",").filter(|one| !one.is_empty());
            let labels = labels.map(|one| one.split_once("=\"").expect("a label"));
            let labels = labels.map(|(name, value)| (name, value.trim_end_matches('"'))).collect();
            Sample { name, labels, value: value.parse().expect("a number") }
        })
        .collect()
}

/// A policy makes the families of policies have samples.
const POLICY: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo}
spec:
  host: echo
  trafficPolicy: {connectionPool: {tcp: {maxConnections: 100}}}
  subsets: [{name: one, labels: {v: one}}, {name: two, labels: {v: two}}]
";

/// A host that is known by its name.
const NAME: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db}
spec:
  hosts: [db.example.com]
  ports: [{number: 5432, name: tcp, protocol: TCP}]
  resolution: DNS
";

#[test]
fn what_is_exported_is_what_the_list_says() {
    let Some(scene) = Scene::new("metrics", PROGRAM) else { return };
    let [address, edge] = [free([127, 0, 0, 1]), free([127, 0, 0, 1])];
    let base = scene.base();
    let (documents, _) = base
        .split_once("---\napiVersion: networking.istio.io/v1\nkind: Dest")
        .expect("the DestinationRule is the last");
    scene.redirector.write("base.yaml", &format!("{documents}---{POLICY}"));
    scene.redirector.write("edge.yaml", &gateway(edge, "one"));
    // An object that is refused makes its family have one.
    let refused = to("one").replace("name: echo}", "name: refused}").replace("[echo]", "7");
    scene.redirector.write("refused.yaml", &refused);
    // And a name those about names.
    let dns = DnsServer::start();
    dns.say_addresses("db.example.com", 60, &["192.0.2.10"]);
    scene.redirector.write("name.yaml", NAME);
    let [at, server] = [address, dns.address()].map(|one| one.to_string());
    let args = ["--metrics-address", &at, "--dns-server", &server, "--accounting"];
    let _daemon = scene.redirector.start_with(&args);
    scene.redirector.wait("the name", |status| status["config"]["names"][0]["since"].is_u64());
    assert_eq!(scene.answer(&scene.client()), "one");
    assert_eq!(dial(edge), "one");
    // So does a change.
    let change = || scene.redirector.write("edge.yaml", &gateway(edge, "two"));
    scene.redirector.change("the gateway's rule", change);
    let page = scrape(address);
    let types: Vec<String> =
        (page.lines()).filter_map(|line| Some(line.strip_prefix("# TYPE ")?.to_owned())).collect();
    let expected = FAMILIES.iter().map(|one| format!("{PREFIX}{} {}", one.name, one.kind.name()));
    assert_eq!(
        types.iter().collect::<BTreeSet<_>>(),
        expected.collect::<Vec<_>>().iter().collect()
    );
    assert_eq!(types.len(), FAMILIES.len(), "each once");
    let samples = samples(&page);
    for family in FAMILIES {
        let name = format!("{PREFIX}{}", family.name);
        let parts: &[&str] = match family.kind {
            Kind::Histogram => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        for part in parts {
            let of = samples.iter().filter(|one| one.name.strip_prefix(&*name) == Some(*part));
            let mut count = 0;
            for sample in of {
                count += 1;
                let le = (*part == "_bucket").then_some("le");
                let expected: BTreeSet<&str> = family.labels.iter().copied().chain(le).collect();
                assert_eq!(sample.labels.keys().copied().collect::<BTreeSet<_>>(), expected);
            }
            // There is no API server here.
            assert!(count > 0 || family.name == "watch_up", "{name}{part} has no sample: {page}");
        }
    }
}

#[test]
fn a_share_without_endpoints_is_told_as_the_alert_about_it_wants() {
    let Some(scene) = Scene::new("empty", PROGRAM) else { return };
    let metrics = free([127, 0, 0, 1]);
    let rule = split(&[("one", 50), ("three", 50)]);
    scene.redirector.write("rules.yaml", &rule);
    let base = scene.base().replace("subsets: [", "subsets: [{name: three, labels: {v: three}}, ");
    scene.redirector.write("base.yaml", &base);
    let at = metrics.to_string();
    let _daemon = scene.redirector.start_with(&["--metrics-address", &at]);
    let refused = (0..40).filter(|_| scene.answer(&scene.client()) != "one").count();
    let page = scrape(metrics);
    let samples = samples(&page);
    let of = |name: &str, subset: &str| {
        let mut of = samples.iter().filter(|one| one.name == name);
        of.find(|one| one.labels["subset"] == subset).map(|one| one.value)
    };
    assert!(refused > 0);
    assert_eq!(of("redirector_refused_total", "three"), Some(refused as f64), "{page}");
    assert_eq!(of("redirector_endpoints", "three"), Some(0.0), "{page}");
    assert_eq!(of("redirector_endpoints", "one"), Some(1.0), "{page}");
    assert_eq!(of("redirector_established_total", "one"), None, "without accounting");
}

/// Where the servers of the many services would be.
fn address(service: usize) -> String {
    format!("127.98.{}.{}", service / 250, service % 250 + 1)
}

/// Services with two subsets, a rule, four endpoints and a workload each.
fn many(services: usize) -> String {
    let mut text = String::new();
    for number in 0..services {
        let ip = address(number);
        let _ = write!(
            text,
            "---
apiVersion: v1
kind: Service
metadata: {{name: s{number}}}
spec:
  clusterIP: {ip}
  selector: {{app: s{number}}}
  ports: [{{name: tcp, port: 80, targetPort: 9}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: s{number}}}
spec:
  host: s{number}
  trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: 100}}}}}}
  subsets: [{{name: a, labels: {{v: a}}}}, {{name: b, labels: {{v: b}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: s{number}}}
spec:
  hosts: [s{number}]
  tcp:
  - route:
    - {{destination: {{host: s{number}, subset: a}}, weight: 50}}
    - {{destination: {{host: s{number}, subset: b}}, weight: 50}}
"
        );
        for (endpoint, version) in ["a", "a", "b", "b"].into_iter().enumerate() {
            let _ = write!(
                text,
                "---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: w{number}-{endpoint}}}
spec: {{address: 127.99.{}.{}, labels: {{app: s{number}, v: {version}}}}}
",
                number / 60,
                number % 60 * 4 + endpoint + 1
            );
        }
    }
    text
}

#[test]
fn thousands_of_destinations_have_no_more_series_than_the_limit_allows_and_lose_no_count() {
    const SERVICES: usize = 1000;
    const LIMIT: usize = 50;
    let Some(scene) = Scene::new("cardinality", PROGRAM) else { return };
    scene.redirector.write("many.yaml", &many(SERVICES));
    let metrics = free([127, 0, 0, 1]);
    let (at, limit) = (metrics.to_string(), LIMIT.to_string());
    let args = ["--metrics-address", &at, "--metrics-limit", &limit, "--accounting"];
    let _daemon = scene.redirector.start_with(&args);
    let addresses: Vec<SocketAddr> = (0..SERVICES)
        .map(|number| format!("{}:80", address(number)).parse().expect("an address"))
        .collect();
    let dialled = 4 * SERVICES;
    child::run(&scene.client(), move || {
        for to in addresses.iter().cycle().take(dialled) {
            // Nobody listens there, and it is decided and counted all the same.
            let _ = Socket::stream(*to, 0).expect("a socket").connect(*to);
        }
    });
    let page = scrape(metrics);
    let samples = samples(&page);
    let of = |name: &str| samples.iter().filter(|one| one.name == name).collect::<Vec<_>>();
    let connections = of("redirector_connections_total");
    assert_eq!(connections.len(), LIMIT + 1, "{page}");
    let sum: f64 = connections.iter().map(|one| one.value).sum();
    assert_eq!(sum as usize, dialled);
    let refused: f64 = of("redirector_failures_total").iter().map(|one| one.value).sum();
    assert_eq!(refused as usize, dialled);
    let other = connections.iter().find(|one| one.labels["route"] == OTHER).expect("the rest");
    assert!(other.labels["destination"] == OTHER && other.value > dialled as f64 / 2.0);
    assert_eq!(of("redirector_endpoints").len(), LIMIT + 1);
    assert!(of("redirector_metrics_in_other")[0].value > SERVICES as f64);
    // As docs/metrics.md says.
    let bound = 130 + 25 * (LIMIT + 1);
    assert!(samples.len() <= bound, "{} series, expected {bound} at most", samples.len());
}
