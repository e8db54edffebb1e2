//! `explain` from the tables says what the next connect gets.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;

use redirector_tests::cgroup::TestCgroup;
use redirector_tests::child;
use redirector_tests::kernel::privileged;
use redirector_tests::netns::NetNs;
use redirector_tests::redirector::Redirector;
use redirector_tests::scene::dial;
use redirector_tests::server::Server;
use redirector_tests::socket::Socket;
use serde_json::Value;

mod worlds;

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");

/// What comes of a connect: who greets, or the error.
fn outcome(to: SocketAddr) -> Result<String, i32> {
    let socket = Socket::stream(to, 0).expect("a socket");
    socket.reset_on_close().expect("the option");
    socket.connect(to).map_err(|error| error.raw_os_error().unwrap_or(-1))?;
    assert_eq!(socket.peer().ok(), Some(to), "getpeername shows what was dialled");
    Ok(socket.read_all().expect("a greeting"))
}

/// A daemon, documents and what is asked of it.
struct Scene {
    redirector: Redirector,
}

impl Scene {
    fn new(what: &str) -> Option<Self> {
        privileged().then(|| Self { redirector: Redirector::new(what, PROGRAM) })
    }

    fn explain(&self, args: &[&str]) -> Value {
        let args = [args, &["--output", "json"]].concat();
        self.redirector.ask("explain", &args).json()
    }

    fn text(&self, args: &[&str]) -> String {
        self.redirector.ask("explain", args).out
    }

    fn child(&self, name: &str) -> PathBuf {
        self.redirector.place.cgroup.child(name)
    }
}

fn notes(explanation: &Value) -> String {
    explanation["notes"].to_string()
}

/// An entry that sends a port of 127.96.0.10 to these endpoints.
fn entry(endpoints: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: db, namespace: shop}}
spec:
  hosts: [db.shop.internal]
  addresses: [127.96.0.10]
  ports: [{{number: 5432, name: tcp, protocol: TCP}}]
  resolution: STATIC
  endpoints: [{endpoints}]
"
    )
}

const DB: &str = "127.96.0.10:5432";

fn at_db(cgroup: &Path) -> String {
    child::run(cgroup, || dial(DB.parse().expect("an address")))
}

/// A DestinationRule for the entry, with this policy.
fn policy(settings: &str) -> String {
    format!(
        "
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: db, namespace: shop}}
spec: {{host: db.shop.internal, trafficPolicy: {{{settings}}}}}
"
    )
}

#[test]
fn a_caller_that_no_rule_is_for_passes_and_is_said_to() {
    let Some(scene) = Scene::new("stranger") else { return };
    let (redirector, stranger) = (&scene.redirector, scene.child("stranger"));
    let netns = NetNs::new("stranger");
    scene.child("known");
    redirector.write(
        "all.yaml",
        &format!(
            "{}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: known, namespace: shop, annotations: {{redirector.io/cgroup: {cgroup}}}}}
spec: {{address: 127.0.0.9, labels: {{app: known}}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: net, namespace: shop}}
spec:
  hosts: [net.external]
  addresses: [192.0.2.0/24]
  ports: [{{number: 443, name: tcp, protocol: TCP}}]
  resolution: NONE
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: net, namespace: shop}}
spec:
  hosts: [net.external]
  tcp:
  - match: [{{sourceNamespace: shop}}]
    route: [{{destination: {{host: db.shop.internal}}}}]
",
            entry("{address: 127.0.0.1, ports: {tcp: 9}}"),
            cgroup = redirector.cgroup("known"),
        ),
    );
    let _daemon = redirector.start();
    let errno = child::run(&stranger, || {
        netns.enter();
        outcome("192.0.2.5:443".parse().expect("an address")).expect_err("nobody is there")
    });
    assert_eq!(errno, libc::ENETUNREACH, "it is left as it is");
    let to = ["--to", "192.0.2.5:443"];
    let cgroup = redirector.cgroup("stranger");
    for from in [["--from-cgroup", cgroup.as_str()], ["--from-namespace", "other"]] {
        let told = scene.explain(&[from, to].concat());
        assert_eq!(told["verdict"], "passthrough", "{told:#}");
        assert_eq!(told["refusedShare"], 0.0, "{told:#}");
        assert!(!notes(&told).contains("say otherwise"), "{told:#}");
    }
    let known = scene.explain(&["--from-workload", "shop/known", "--to", "192.0.2.5:443"]);
    assert_eq!(known["endpoints"]["127.0.0.1:9"], 1.0, "{known:#}");
    // As the workload, but for a label that nobody asks for.
    let like = ["--from-namespace", "shop", "--from-label", "app=other"];
    let like = scene.explain(&[&like[..], &to].concat());
    assert_eq!((&like["endpoints"], &like["notes"]), (&known["endpoints"], &Value::Null));
}

#[test]
fn a_port_that_is_taken_everywhere_is_not_taken_at_the_addresses_that_the_node_has() {
    let Some(scene) = Scene::new("own") else { return };
    let (redirector, client) = (&scene.redirector, scene.child("client"));
    let netns = NetNs::new("own");
    netns.ip("address add 198.51.100.7/32 dev lo");
    let address = |text: &str| -> SocketAddr { text.parse().expect("an address") };
    let (_own, elsewhere) = netns.within(|| {
        let own = Server::start("own", address("0.0.0.0:5432"));
        (own, Server::start("elsewhere", address("127.0.0.2:0")))
    });
    let port = elsewhere.address().port();
    redirector.write(
        "all.yaml",
        &format!(
            "{}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: net, namespace: shop}}
spec:
  hosts: [net.external]
  ports: [{{number: 5432, name: tcp, protocol: TCP}}]
  resolution: NONE
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: net, namespace: shop}}
spec:
  hosts: [net.external]
  tcp: [{{route: [{{destination: {{host: db.shop.internal}}}}]}}]
",
            entry(&format!("{{address: 127.0.0.2, ports: {{tcp: {port}}}}}")),
        ),
    );
    let _daemon = netns.within(|| redirector.start());
    let greets = |to: &str, name: &str| {
        let greeting = child::run(&client, || {
            netns.enter();
            outcome(address(to)).expect("somebody greets")
        });
        assert!(greeting.starts_with(name), "{to}: {greeting}");
        let told = scene.explain(&["--from-namespace", "shop", "--to", to]);
        let verdict = if name == "own" { "passthrough" } else { "route" };
        assert_eq!(told["verdict"], verdict, "{told:#}");
    };
    greets("198.51.100.7:5432", "own");
    greets("198.51.100.8:5432", "elsewhere");
    redirector.change("the node has another address", || {
        netns.ip("address add 198.51.100.8/32 dev lo");
    });
    greets("198.51.100.8:5432", "own");
}

#[test]
fn a_source_that_nobody_on_the_node_is_like_is_answered_from_the_documents() {
    let Some(scene) = Scene::new("unlike") else { return };
    let rule = "
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: db, namespace: shop}
spec:
  hosts: [db.shop.internal]
  tcp:
  - match: [{sourceLabels: {app: batch}}]
    route: [{destination: {host: other.shop.internal}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: other, namespace: shop}
spec:
  hosts: [other.shop.internal]
  addresses: [127.96.0.11]
  ports: [{number: 5432, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.2}]
";
    let text = format!("{}{rule}", entry("{address: 127.0.0.1}"));
    scene.redirector.write("all.yaml", &text);
    let _daemon = scene.redirector.start();
    let of = |app: &str| {
        let label = format!("app={app}");
        scene.explain(&["--from-namespace", "shop", "--from-label", &label, "--to", DB])
    };
    let batch = of("batch");
    assert_eq!(batch["endpoints"]["127.0.0.2:5432"], 1.0, "{batch:#}");
    assert!(notes(&batch).contains("no workload on this node is like this one"), "{batch:#}");
    let other = of("other");
    assert_eq!(other["endpoints"]["127.0.0.1:5432"], 1.0, "{other:#}");
    assert_eq!(other["notes"], Value::Null, "{other:#}");
}

#[test]
fn processes_that_no_program_decides_for_are_said_to_be_left_alone() {
    let Some(scene) = Scene::new("outside") else { return };
    let redirector = &scene.redirector;
    let server = Server::start("db", SocketAddr::from(([127, 0, 0, 1], 0)));
    let endpoint = format!("{{address: 127.0.0.1, ports: {{tcp: {}}}}}", server.address().port());
    redirector.write("all.yaml", &entry(&endpoint));
    let served = scene.child("served/deep");
    let beside = TestCgroup::new("outside");
    let outside = beside.path();
    let _daemon = redirector.start();
    assert_eq!(at_db(&served), "db");
    assert_eq!(at_db(outside), "Connection refused (os error 111)");
    let of = |cgroup: &Path| {
        let cgroup = cgroup.to_str().expect("a path");
        scene.explain(&["--from-cgroup", cgroup, "--to", DB])
    };
    assert_eq!(of(&served)["verdict"], "route");
    let told = of(outside);
    assert_eq!((&told["verdict"], &told["now"]), (&"passthrough".into(), &Value::Null), "{told:#}");
    assert!(notes(&told).contains("does not lie below a cgroup that is served"), "{told:#}");
    let asleep = child::spawn(outside, || thread::sleep(std::time::Duration::from_secs(600)));
    let by_pid = (0..500).find_map(|_| {
        let told = scene.explain(&["--from-pid", &asleep.pid().to_string(), "--to", DB]);
        notes(&told).contains("does not lie below").then_some(told)
    });
    assert_eq!(by_pid.expect("it moves there")["verdict"], "passthrough");
    asleep.kill();
}

#[test]
fn the_daemons_own_connections_are_said_to_be_left_alone() {
    let Some(scene) = Scene::new("own") else { return };
    scene.redirector.write("all.yaml", &entry("{address: 127.0.0.1}"));
    let daemon = scene.redirector.start();
    let told = scene.explain(&["--from-pid", &daemon.pid().to_string(), "--to", DB]);
    assert_eq!(told["verdict"], "passthrough", "{told:#}");
    assert!(notes(&told).contains("the daemon's own cgroup"), "{told:#}");
}

#[test]
fn an_ejected_endpoint_is_shown_beside_the_shares_that_are_configured() {
    let Some(scene) = Scene::new("ejected") else { return };
    let redirector = &scene.redirector;
    let server = Server::start("up", SocketAddr::from(([127, 0, 0, 11], 0)));
    let port = server.address().port();
    let endpoint = |host: u32| format!("{{address: 127.0.0.{host}, ports: {{tcp: {port}}}}}");
    let policy = policy(
        "outlierDetection: {consecutive5xxErrors: 3, baseEjectionTime: 600s, maxEjectionPercent: 50}",
    );
    let all = entry(&format!("{}, {}", endpoint(11), endpoint(12)));
    redirector.write("all.yaml", &format!("{all}{policy}"));
    let daemon = redirector.start();
    let from = ["--from-namespace", "x", "--to", DB];
    let before = scene.explain(&from);
    assert_eq!(before["now"]["endpoints"], before["endpoints"], "{before:#}");
    assert_eq!(before["now"]["why"], serde_json::json!([]), "{before:#}");
    assert!(!scene.text(&from).contains("now"), "{}", scene.text(&from));
    let client = scene.child("client");
    child::run(&client, || {
        for _ in 0..100 {
            dial(DB.parse().expect("an address"));
        }
    });
    // With a daemon and without.
    let told = scene.explain(&from);
    daemon.kill();
    let left = scene.explain(&from);
    let (up, down) = (format!("127.0.0.11:{port}"), format!("127.0.0.12:{port}"));
    for told in [told, left] {
        assert_eq!(
            (&told["endpoints"][&up], &told["endpoints"][&down]),
            (&0.5.into(), &0.5.into())
        );
        assert_eq!(told["refusedShare"], 0.0);
        assert_eq!(told["now"]["endpoints"], serde_json::json!({ &*up: 1.0 }), "{told:#}");
        assert_eq!(told["now"]["refusedShare"], 0.0, "{told:#}");
        let why = told["now"]["why"].to_string();
        assert!(why.contains(&format!("{down} is ejected for")), "{told:#}");
    }
    let text = scene.text(&from);
    assert!(text.contains(&format!("now\n  100.00% {up}\n")), "{text}");
    let names: Vec<String> =
        child::run(&client, || (0..20).map(|_| dial(DB.parse().expect("an address"))).collect());
    assert!(names.iter().all(|name| name == "up"), "{names:?}");
}

#[test]
fn a_destination_that_is_full_is_said_to_refuse_now() {
    let Some(scene) = Scene::new("full") else { return };
    let server = Server::start("db", SocketAddr::from(([127, 0, 0, 1], 0)));
    let endpoint = format!("{{address: 127.0.0.1, ports: {{tcp: {}}}}}", server.address().port());
    let policy = policy("connectionPool: {tcp: {maxConnections: 2}}");
    scene.redirector.write("all.yaml", &format!("{}{policy}", entry(&endpoint)));
    let _daemon = scene.redirector.start();
    let (client, from) = (scene.child("client"), ["--from-namespace", "x", "--to", DB]);
    let told: Value = child::run(&client, || {
        let open = || {
            let to = DB.parse().expect("an address");
            let socket = Socket::stream(to, 0).expect("a socket");
            socket.connect(to).map(|()| socket)
        };
        let held = (open().expect("one"), open().expect("two"));
        let told = scene.explain(&from);
        assert!(open().is_err(), "a third is refused");
        drop(held);
        told
    });
    assert_eq!((&told["verdict"], &told["refusedShare"]), (&"route".into(), &0.0.into()));
    assert_eq!(told["now"]["refusedShare"], 1.0, "{told:#}");
    assert!(told["now"]["why"].to_string().contains("maxConnections"), "{told:#}");
    assert_eq!(scene.explain(&from)["now"]["refusedShare"], 0.0, "they have ended");
}

#[test]
fn a_service_is_dialled_by_its_name_as_in_a_pod() {
    let Some(scene) = Scene::new("named") else { return };
    let service = "
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 127.96.0.20
  clusterIPs: [127.96.0.20, 'fd96::20']
  selector: {app: web}
  ports: [{name: tcp, port: 80}]
";
    let text = format!("{}{service}", entry("{address: 127.0.0.1}"));
    scene.redirector.write("all.yaml", &text);
    let _daemon = scene.redirector.start();
    let rules = scene.redirector.rules();
    let rules = rules.to_str().expect("a path");
    for from in [&[][..], &["--config", rules]] {
        let to = |namespace: &str, to: &str| {
            scene.explain(&[&["--from-namespace", namespace, "--to", to], from].concat())
        };
        for (namespace, name) in [
            ("shop", "web:80"),
            ("other", "web.shop:80"),
            ("other", "web.shop.svc:80"),
            ("other", "web.shop.svc.cluster.local.:80"),
        ] {
            let told = to(namespace, name);
            assert_eq!(told["destination"], "127.96.0.20:80", "{name}: {told:#}");
            assert_eq!(told["frontend"]["service"], "shop/web", "{name}: {told:#}");
            assert!(notes(&told).contains("[fd96::20]:80, too"), "{name}: {told:#}");
        }
        assert_eq!(to("other", "db.shop.internal:5432")["destination"], DB);
        let nobody = ["--from-namespace", "other", "--to", "web:80"];
        let answer = scene.redirector.ask("explain", &[&nobody[..], from].concat());
        assert_eq!(answer.exit, 1, "{answer:?}");
        assert!(answer.err.contains("no service is called web"), "{answer:?}");
    }
}
