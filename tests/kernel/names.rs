//! ServiceEntries by name: what is dialled is what a name resolves to, as a DNS server of
//! the test's own says it.

use std::net::{Ipv6Addr, SocketAddr};

use redirector_tests::child;
use redirector_tests::dns::{DnsServer, Says};
use redirector_tests::established::{Established, goes_on, was_reset};
use redirector_tests::netns::NetNs;
use redirector_tests::redirector::Daemon;
use redirector_tests::scene::{Scene, dial, free, scrape};
use redirector_tests::server::Server;

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");

/// An address that nothing here answers at: who reaches a server by it was sent there.
const FIRST: &str = "192.0.2.10:19000";
const SECOND: &str = "192.0.2.11:19000";

/// A database by its name alone, and a rule for it.
const DATABASE: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db}
spec:
  hosts: [db.example.com]
  ports: [{number: 19000, name: tcp, protocol: TCP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: db}
spec:
  hosts: [db.example.com]
  tcp: [{route: [{destination: {host: echo, subset: two}}]}]
";

struct Named {
    scene: Scene,
    dns: DnsServer,
    metrics: SocketAddr,
}

impl Named {
    fn new(what: &str) -> Option<Self> {
        let scene = Scene::new(what, PROGRAM)?;
        scene.redirector.write("db.yaml", DATABASE);
        Some(Self { scene, dns: DnsServer::start(), metrics: free([127, 0, 0, 1]) })
    }

    fn start(&self, grace: &str) -> Daemon {
        self.start_with(&["--name-grace", grace])
    }

    fn start_with(&self, args: &[&str]) -> Daemon {
        let [server, metrics] = [self.dns.address(), self.metrics].map(|one| one.to_string());
        let own = ["--dns-server", &server, "--metrics-address", &metrics];
        self.scene.redirector.start_with(&[&own, args].concat())
    }

    /// Waits until the name is known to lead there, and until lately there.
    fn waits(&self, addresses: &[&str], former: &[&str]) {
        self.scene.redirector.wait("the name", |status| {
            let names = status["config"]["names"].as_array().cloned().unwrap_or_default();
            let of_db = names.into_iter().find(|one| one["name"] == "db.example.com");
            of_db.is_some_and(|one| {
                one["addresses"] == serde_json::json!(addresses)
                    && one["former"] == serde_json::json!(former)
            }) && status["config"]["waiting"].is_null()
        });
    }

    fn answer(&self, to: &str) -> String {
        let to = to.parse().expect("an address");
        child::run(&self.scene.client(), || dial(to))
    }

    /// What `explain` says from the kernel.
    fn explain(&self, to: &str) -> serde_json::Value {
        let args = ["--from-workload", "default/client", "--to", to, "--output", "json"];
        self.scene.redirector.ask("explain", &args).json()
    }
}

#[test]
fn what_a_name_resolves_to_is_routed_by_its_rules_and_for_a_while_what_it_resolved_to() {
    let Some(named) = Named::new("byname") else { return };
    named.dns.say_addresses("db.example.com", 1, &["192.0.2.10"]);
    let daemon = named.start("1h");
    named.waits(&["192.0.2.10"], &[]);
    assert_eq!(named.answer(FIRST), "two");
    assert_eq!(named.explain(SECOND)["verdict"], "passthrough");

    named.dns.say_addresses("db.example.com", 1, &["192.0.2.11"]);
    named.waits(&["192.0.2.11"], &["192.0.2.10"]);
    assert_eq!((named.answer(FIRST).as_str(), named.answer(SECOND).as_str()), ("two", "two"));

    // The last good answer stays, whatever the server says, and over a restart.
    let name = |status: &serde_json::Value| status["config"]["names"][0].clone();
    let confirmed = |status: &serde_json::Value| {
        let one = name(status);
        one["answered"].as_u64() > one["since"].as_u64().map(|since| since + 1)
    };
    let confirmed = name(&named.scene.redirector.wait("another answer", confirmed));
    named.dns.say("db.example.com", Says::Nothing(1));
    let warned = |status: &serde_json::Value| {
        let unresolved = status["config"]["unresolved"].as_array();
        unresolved.is_some_and(|all| all.iter().any(|one| one["kept"][0] == "192.0.2.11"))
    };
    let status = named.scene.redirector.wait("the warning", warned);
    let warnings = status["warnings"].to_string();
    assert!(
        warnings.contains("its earlier address stays (") && warnings.contains("s old): "),
        "{warnings}"
    );
    assert_eq!(named.answer(SECOND), "two");
    let oldest = || {
        let metrics = scrape(named.metrics);
        let line =
            |line: &str| line.strip_prefix("redirector_oldest_kept_answer_seconds ")?.parse().ok();
        metrics.lines().find_map(line)
    };
    named.scene.redirector.wait("its age", |_| oldest() >= Some(1));
    let metrics = scrape(named.metrics);
    let of_name = |family, value: &str| {
        format!("redirector_name_{family}{{name=\"db.example.com\"}} {value}")
    };
    for line in [of_name("unresolved", "1"), of_name("addresses", "1")] {
        assert!(metrics.lines().any(|one| one == line), "{line}: {metrics}");
    }
    assert!(metrics.contains(&of_name("answer_age_seconds", "")), "{metrics}");
    let notes = named.explain(SECOND)["notes"].to_string();
    assert!(notes.contains("db.example.com resolves to 192.0.2.11 for "), "{notes}");
    assert!(notes.contains("the last lookup failed"), "{notes}");
    let maps = named.scene.redirector.ask("maps", &["names", "--output", "json"]).json();
    let of_db = &maps["names"][0];
    assert_eq!(
        (&of_db["name"], of_db["since"].is_u64()),
        (&"db.example.com".into(), true),
        "{maps}"
    );
    assert!(of_db["because"].is_string(), "{maps}");
    // Why is what the last lookup has come to, and not the first one that has failed.
    named.dns.say_addresses("db.example.com", 1, &[]);
    named.scene.redirector.wait("the last reason", |status| {
        let why = status["config"]["names"][0]["because"].as_str();
        why.is_some_and(|why| why.contains("neither A nor AAAA"))
    });
    daemon.kill();
    let _daemon = named.start("1h");
    assert_eq!((named.answer(FIRST).as_str(), named.answer(SECOND).as_str()), ("two", "two"));
    let status = named.scene.redirector.wait("the warning", warned);
    let warnings = status["warnings"].to_string();
    assert!(
        warnings.contains("its earlier address stays (at most ") && warnings.contains("s old): "),
        "{warnings}"
    );
    // It is as old as the answer that confirmed it last, and not as what it says.
    let answered = status["config"]["unresolved"][0]["answered"].as_u64();
    assert!(answered >= confirmed["answered"].as_u64(), "{answered:?}: {confirmed}");
}

#[test]
fn a_name_is_dialled_at_its_addresses_of_both_families_and_each_leads_to_endpoints_of_its_own() {
    let Some(named) = Named::new("families") else { return };
    let port = named.scene.one.address().port();
    let _six = Server::start("six", SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
    let (entry, rule) = DATABASE.split_once("---\n").expect("an entry and a rule");
    let pool = entry.replace("name: db", "name: pool").replace("db.example", "pool.example");
    let pool = pool.replace("name: tcp", &format!("name: tcp, targetPort: {port}"));
    let rule = rule.replace("host: echo, subset: two", "host: pool.example.com");
    named.scene.redirector.write("db.yaml", &[entry, &pool, &rule].join("---\n"));
    named.dns.say_addresses("pool.example.com", 1, &["127.0.0.2", "::1"]);
    named.dns.say_addresses("db.example.com", 1, &["2001:db8::10"]);
    let _daemon = named.start("1h");
    named.waits(&["2001:db8::10"], &[]);
    assert_eq!(named.answer("[2001:db8::10]:19000"), "six");
    assert_eq!(named.explain(FIRST)["verdict"], "passthrough");

    named.dns.say_addresses("db.example.com", 1, &["192.0.2.10", "2001:db8::11"]);
    named.waits(&["192.0.2.10", "2001:db8::11"], &["2001:db8::10"]);
    for (to, answers) in [
        (FIRST, "two"),
        ("[::ffff:192.0.2.10]:19000", "two"),
        ("[2001:db8::11]:19000", "six"),
        ("[2001:db8::10]:19000", "six"),
    ] {
        assert_eq!(named.answer(to), answers, "{to}");
        let family = if answers == "two" { "127.0.0.2" } else { "[::1]" };
        let endpoints = serde_json::json!({ format!("{family}:{port}"): 1.0 });
        assert_eq!(named.explain(to)["endpoints"], endpoints, "{to}");
    }

    // Nobody of the other family stands in.
    named.dns.say_addresses("pool.example.com", 1, &["127.0.0.2"]);
    let refused = |_: &serde_json::Value| {
        named.explain("[2001:db8::11]:19000")["verdict"] == serde_json::json!("refuse")
    };
    named.scene.redirector.wait("the refusal", refused);
    let answer = named.answer("[2001:db8::11]:19000");
    assert!(answer.starts_with("Connection refused"), "{answer}");
    assert_eq!(named.answer(FIRST), "two");
}

#[test]
fn what_a_name_resolved_to_is_let_go_when_its_time_is_over() {
    let Some(named) = Named::new("grace") else { return };
    named.dns.say_addresses("db.example.com", 1, &["192.0.2.10", "192.0.2.11"]);
    let _daemon = named.start("1s");
    named.waits(&["192.0.2.10", "192.0.2.11"], &[]);
    assert_eq!(named.answer(FIRST), "two");
    named.dns.say_addresses("db.example.com", 1, &["192.0.2.11"]);
    named.waits(&["192.0.2.11"], &[]);
    assert_eq!(named.explain(FIRST)["verdict"], "passthrough");
    assert_eq!(named.answer(SECOND), "two");
}

#[test]
fn a_name_that_leads_to_the_machine_itself_or_to_a_service_takes_nothing_from_anybody() {
    let Some(named) = Named::new("rebind") else { return };
    // Of the server itself, and of the Service that the other rule is for.
    let own = named.scene.one.address();
    let entry = DATABASE.replace("19000", &own.port().to_string());
    named.scene.redirector.write("other.yaml", &entry.replace("name: db", "name: other"));
    named.dns.say_addresses("db.example.com", 60, &["127.0.0.1", "127.96.0.10", "192.0.2.10"]);
    let _daemon = named.start("1h");
    named.waits(&["127.0.0.1", "127.96.0.10", "192.0.2.10"], &[]);
    assert_eq!(named.answer(FIRST), "two");
    assert_eq!(named.answer(&own.to_string()), "one", "who dials it means it");
    assert_eq!(named.answer("127.96.0.10:19000"), "one", "the Service's rule decides");
    named.scene.redirector.wait("the warning", |status| {
        let warnings = status["warnings"].as_array();
        warnings.is_some_and(|all| all.iter().any(|one| one.to_string().contains("RD4062")))
    });
}

#[test]
fn a_host_with_endpoints_and_an_address_of_its_own_needs_no_answer() {
    let Some(named) = Named::new("given") else { return };
    let endpoints = "resolution: DNS\n  endpoints: [{address: 127.0.0.1}]\n";
    named.scene.redirector.write("db.yaml", &DATABASE.replace("resolution: DNS\n", endpoints));
    named.dns.say("db.example.com", Says::Nothing(1));
    let unresolved = |status: &serde_json::Value| status["config"]["unresolved"].clone();
    let is_told = |status: &serde_json::Value| status["config"]["names"][0]["because"].is_string();
    let daemon = named.start_with(&["--allocate-addresses"]);
    let status = named.scene.redirector.wait("why it is not answered for", is_told);
    assert_eq!(unresolved(&status), serde_json::json!([]), "{status:#}");
    assert!(scrape(named.metrics).contains("\nredirector_unresolved_names 0\n"));
    let explained = named.explain("db.example.com:19000");
    assert_eq!((&explained["verdict"], explained["rule"].is_object()), (&"route".into(), true));
    // Without one its rules are for those who dial what it resolves to, and so for nobody.
    assert_eq!(daemon.stop(), 0);
    let _daemon = named.start_with(&[]);
    named.scene.redirector.wait("the warning", |status| {
        unresolved(status).as_array().is_some_and(|all| all.len() == 1)
    });
}

#[test]
fn before_a_name_is_resolved_nothing_is_taken_for_it() {
    let Some(named) = Named::new("unresolved") else { return };
    named.dns.say("db.example.com", Says::Nothing(1));
    let _daemon = named.start("1h");
    named.scene.redirector.wait("the warning", |status| {
        status["config"]["unresolved"].as_array().is_some_and(|all| all.len() == 1)
    });
    let answer = named.explain(FIRST);
    assert_eq!(answer["verdict"], "passthrough", "{answer}");
    let notes = answer["notes"].to_string();
    assert!(notes.contains("decided when its names are resolved: db.example.com"), "{notes}");
    let args = ["--from-workload", "default/client", "--to", "db.example.com:19000"];
    let by_name = named.scene.redirector.ask("explain", &args);
    let why = "db.example.com was never resolved; the last lookup failed: there is no such name";
    assert!(by_name.exit == 1 && by_name.err.contains(why), "{by_name:?}");
    named.dns.say_addresses("db.example.com", 1, &["192.0.2.10"]);
    named.waits(&["192.0.2.10"], &[]);
    assert_eq!(named.answer(FIRST), "two");
}

#[test]
fn an_endpoint_that_leaves_the_answer_of_its_name_drains() {
    let Some(named) = Named::new("namedrain") else { return };
    let redirector = &named.scene.redirector;
    let (entry, rule) = DATABASE.split_once("---\n").expect("an entry and a rule");
    let pool = entry.replace("name: db", "name: pool").replace("db.example", "pool.example");
    let pool = pool.replace("pool}", "pool, annotations: {redirector.io/drain: now}}");
    let rule = rule.replace("host: echo, subset: two", "host: pool.example.com");
    redirector.write("db.yaml", &[entry, &pool, &rule].join("---\n"));
    named.dns.say_addresses("db.example.com", 60, &["192.0.2.10"]);
    let at = |last: u8| SocketAddr::from(([127, 0, 0, last], 19000));
    let say = |last| named.dns.say_addresses("pool.example.com", 1, &[&at(last).ip().to_string()]);
    say(3);
    let _daemon = named.start("1h");
    named.waits(&["192.0.2.10"], &[]);
    redirector.wait("the endpoint", |_| {
        named.explain(FIRST)["endpoints"] == serde_json::json!({"127.0.0.3:19000": 1.0})
    });
    let netns = NetNs::new("namedrain");
    let connect = |name, endpoint| {
        let first = FIRST.parse().expect("an address");
        let directory = redirector.directory();
        Established::new((directory, name), &named.scene.client(), &netns, first, endpoint)
    };
    let open = connect("open", at(3));
    say(4);
    redirector.wait("the reset", |status| status["draining"]["reset"] == 1);
    assert_eq!(open.ends(), was_reset());
    assert_eq!(connect("next", at(4)).ends(), goes_on());
}
