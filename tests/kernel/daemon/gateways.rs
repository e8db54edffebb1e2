//! Gateways, while the daemon runs and while it does not.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use redirector_tests::child;
use redirector_tests::load::Interrupted;
use redirector_tests::scene::{Scene, dial, free, gateway};
use redirector_tests::server::Server;

use super::{has_problem, has_warning, scene};

#[test]
fn a_gateway_is_served_and_follows_its_documents() {
    let Some(scene) = scene("gateway") else { return };
    let redirector = &scene.redirector;
    let address = free([127, 0, 0, 3]);
    let mut daemon = redirector.start();
    for subset in ["one", "two"] {
        redirector
            .change("the gateway", || redirector.write("edge.yaml", &gateway(address, subset)));
        // The proxy follows the tables.
        redirector.wait("its answer", |_| dial(address) == subset);
        // Also when it is the first change after a restart.
        assert_eq!(daemon.stop(), 0);
        daemon = redirector.start();
    }
    let maps = redirector.ask("maps", &["gateways", "--output", "json"]).json();
    assert_eq!(maps["gateways"][0]["gateway"], "Gateway/default/edge", "{maps:#}");
    // From the tables and from the documents; clients of the mesh go past it.
    let (to, rules) = (address.to_string(), redirector.rules());
    let rules = rules.to_str().unwrap();
    for from in [&[][..], &["--config", rules]] {
        let explain = |more: &[&str]| {
            let rest = [&["--to", to.as_str(), "--output", "json"], more, from].concat();
            redirector.ask("explain", &rest).json()
        };
        let told = explain(&["--gateway", "default/edge"]);
        assert_eq!((&told["verdict"], &told["handledBy"]), (&"route".into(), &"proxy".into()));
        let other = explain(&["--from-namespace", "default"]);
        assert_eq!(other["handledBy"], "kernel", "{other:#}");
    }
    // Another Gateway, found by another label of the same workload, on its port.
    let port = address.port();
    let rival = format!(
        "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: rival}}
spec:
  selector: {{rival: edge}}
  servers: [{{port: {{number: {port}, name: tcp, protocol: TCP}}, hosts: ['other.example.com']}}]
"
    );
    let both = gateway(address, "two").replace("{gateway: edge}}", "{gateway: edge, rival: edge}}");
    redirector.write("edge.yaml", &both);
    redirector.write("rival.yaml", &rival);
    redirector.wait("a word about the rival", |status| {
        has_warning(status, "Gateway/default/rival servers[0] is not served")
    });
    assert_eq!(dial(address), "two");
}

#[test]
fn a_gateway_that_cannot_listen_is_reported_beside_what_works_and_served_once_it_can() {
    let Some(scene) = scene("taken") else { return };
    let redirector = &scene.redirector;
    let taken = TcpListener::bind("127.0.0.4:0").unwrap();
    let address = taken.local_addr().unwrap();
    let _daemon = redirector.start();
    redirector.write("edge.yaml", &gateway(address, "two"));
    let error = |status: &serde_json::Value| status["gateways"][0]["error"].clone();
    let status = redirector.wait("the reason", |status| error(status).is_string());
    assert!(error(&status).to_string().contains("in use"), "{status:#}");
    assert_eq!(status["gateways"][0]["address"], address.to_string(), "{status:#}");
    let told = redirector.ask("status", &[]);
    assert_eq!(told.exit, 1, "{told:?}");
    assert!(told.out.contains(&format!("cannot listen at {address}")), "{told:?}");
    assert_eq!(scene.answer(&scene.client()), "one", "everything else works");
    let told = || {
        let to = address.to_string();
        redirector.ask("explain", &["--gateway", "default/edge", "--to", &to]).out
    };
    let explained = told();
    let why = format!("not now: Gateway/default/edge servers[0] cannot listen at {address}");
    assert!(explained.contains(&why), "{explained}");
    drop(taken);
    redirector.wait("its answer", |status| error(status).is_null() && dial(address) == "two");
    assert!(!told().contains("not now"), "{}", told());
}

#[test]
fn a_gateway_written_fifty_times_a_second_fails_nobody_and_drains_once_it_is_removed() {
    let Some(scene) = scene("fifty") else { return };
    let redirector = &scene.redirector;
    let address = free([127, 0, 0, 7]);
    redirector.write("edge.yaml", &gateway(address, "one"));
    let _daemon = redirector.start_with(&["--drain", "1500ms", "--debounce", "5ms"]);
    redirector.wait("the gateway", |_| dial(address) == "one");
    let mut lasting = TcpStream::connect(address).unwrap();
    lasting.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let generation = redirector.generation();
    let over = AtomicBool::new(false);
    let answers = thread::scope(|scope| {
        let dialling = scope.spawn(|| {
            let mut answers = BTreeMap::<String, u32>::new();
            while !over.load(Ordering::Relaxed) {
                *answers.entry(dial(address)).or_default() += 1;
            }
            answers
        });
        for round in 0..100 {
            let subset = ["two", "one"][round % 2];
            redirector.write("edge.yaml", &gateway(address, subset));
            thread::sleep(Duration::from_millis(20));
        }
        over.store(true, Ordering::Relaxed);
        dialling.join().unwrap()
    });
    assert!(answers.keys().eq(["one", "two"]), "{answers:?}");
    redirector.wait("the last of them", |_| dial(address) == "one");
    let generations = redirector.generation() - generation;
    assert!(generations > 3, "only {generations} came in force");
    fs::remove_file(redirector.rules().join("edge.yaml")).unwrap();
    let status = redirector.wait("the drain", |status| status["gateways"][0]["draining"] == true);
    assert_eq!(status["gateways"][0]["error"], serde_json::Value::Null, "{status:#}");
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
    redirector.wait("its end", |status| status["gateways"].as_array().is_some_and(Vec::is_empty));
    if let Err(error) = lasting.read_to_end(&mut Vec::new()) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "it is over");
    }
}

#[test]
fn gateways_go_on_while_the_daemon_is_away_and_the_next_one_goes_on_with_their_connections() {
    let Some(scene) = scene("away") else { return };
    let redirector = &scene.redirector;
    let address = free([127, 0, 0, 8]);
    redirector.write("edge.yaml", &gateway(address, "one"));
    let mut daemon = redirector.start();
    redirector.wait("the gateway", |_| dial(address) == "one");
    let relay = |status: &serde_json::Value| status["relay"]["process"]["pid"].clone();
    let first = relay(&redirector.status().json());
    assert!(first.is_number());
    for (round, subset) in ["two", "one"].into_iter().enumerate() {
        let old = Interrupted::open(address, ["one", "two"][round]);
        if round == 0 {
            assert_eq!(daemon.stop(), 0);
        } else {
            daemon.kill();
        }
        assert_eq!(dial(address), ["one", "two"][round], "nobody is refused");
        let status = redirector.status().json();
        assert_eq!((&status["daemon"], relay(&status)), (&serde_json::Value::Null, first.clone()));
        redirector.write("edge.yaml", &gateway(address, subset));
        daemon = redirector.start();
        redirector.wait("its change", |_| dial(address) == subset);
        old.go_on();
        let status = redirector.wait("the same relay", |status| relay(status) == first);
        assert_eq!(status["relay"]["restarts"], 0, "{status:#}");
    }
    // Also when somebody removes the state directory.
    let state = redirector.directory().join("state");
    fs::remove_dir_all(&state).unwrap();
    redirector.wait("another one", |_| state.join("relay.sock").exists());
    daemon.kill();
    let daemon = redirector.start();
    let status = redirector.wait("the same relay", |status| relay(status) == first);
    assert_eq!(status["relay"]["restarts"], 0, "{status:#}");
    // A gateway that goes meanwhile goes with the next daemon.
    daemon.kill();
    fs::remove_file(redirector.rules().join("edge.yaml")).unwrap();
    let daemon = redirector.start();
    redirector.wait("its end", |_| TcpStream::connect(address).is_err());
    redirector.change("it again", || redirector.write("edge.yaml", &gateway(address, "one")));
    redirector.wait("its answer", |_| dial(address) == "one");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(redirector.ask("unload", &["--yes"]).exit, 0);
    let refused = || TcpStream::connect(address).is_err();
    let begun = std::time::Instant::now();
    while !refused() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the relay ends, too");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_relay_whose_state_directory_is_lost_ends_with_the_next_daemon_and_with_unload() {
    let Some(scene) = scene("lost") else { return };
    let redirector = &scene.redirector;
    let address = free([127, 0, 0, 14]);
    let state = redirector.directory().join("state");
    redirector.write("edge.yaml", &gateway(address, "one"));
    let daemon = redirector.start();
    redirector.wait("the gateway", |_| dial(address) == "one");
    let first = relay(&redirector.status().json());
    assert_eq!(daemon.stop(), 0);
    fs::remove_dir_all(&state).unwrap();
    redirector.write("edge.yaml", &gateway(address, "two"));
    let old = Interrupted::open(address, "one");
    let daemon = redirector.start();
    redirector.wait("the change", |_| dial(address) == "two");
    old.go_on();
    let second = relay(&redirector.status().json());
    assert_ne!(second, first);
    assert!(
        daemon.log().contains(&format!(
            "is told to end: it accepts no more, and its connections have their time pid={first}"
        )),
        "{}",
        daemon.log()
    );
    // Its gateway is gone, too.
    assert_eq!(daemon.stop(), 0);
    fs::remove_dir_all(&state).unwrap();
    fs::remove_file(redirector.rules().join("edge.yaml")).unwrap();
    let daemon = redirector.start();
    assert!(TcpStream::connect(address).is_err(), "{}", daemon.log());
    redirector.change("it again", || redirector.write("edge.yaml", &gateway(address, "one")));
    redirector.wait("its answer", |_| dial(address) == "one");
    assert_eq!(daemon.stop(), 0);
    fs::remove_file(state.join("relay.sock")).unwrap();
    assert_eq!(redirector.ask("unload", &["--yes"]).exit, 0);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn without_a_daemon_gateways_are_what_the_process_that_relays_says() {
    let Some(scene) = scene("asked") else { return };
    let redirector = &scene.redirector;
    let address = free([127, 0, 0, 12]);
    redirector.write("edge.yaml", &gateway(address, "one"));
    let daemon = redirector.start_with(&["--drain", "1500ms"]);
    redirector.wait("the gateway", |_| dial(address) == "one");
    // Its removal is the last thing that the daemon knows.
    let _lasting = TcpStream::connect(address).unwrap();
    fs::remove_file(redirector.rules().join("edge.yaml")).unwrap();
    redirector.wait("the drain", |status| status["gateways"][0]["draining"] == true);
    let pid = relay(&redirector.status().json());
    daemon.kill();
    let status = redirector.wait("its end", |status| status["gateways"] == serde_json::json!([]));
    assert!(!has_warning(&status, "are served"), "{status:#}");
    assert_eq!(status["healthy"], true, "{status:#}");
    // One that hangs is not one that serves.
    redirector.write("edge.yaml", &gateway(address, "one"));
    let daemon = redirector.start();
    redirector.wait("the gateway", |_| dial(address) == "one");
    assert_eq!(relay(&redirector.status().json()), pid);
    daemon.kill();
    let status = redirector.status().json();
    assert!(has_warning(&status, "are served as they were"), "{status:#}");
    assert_eq!(status["gateways"][0]["address"], address.to_string(), "{status:#}");
    let signal = |signal| {
        // SAFETY: no memory is involved.
        assert_eq!(unsafe { libc::kill(i32::try_from(pid).expect("a process"), signal) }, 0);
    };
    signal(libc::SIGSTOP);
    let status = redirector.status();
    signal(libc::SIGCONT);
    assert_eq!(status.exit, 1, "{status:?}");
    let status = status.json();
    assert!(has_problem(&status, "are served cannot be told"), "{status:#}");
    assert_eq!(status["gateways"], serde_json::json!([]), "{status:#}");
}

/// The process that relays.
fn relay(status: &serde_json::Value) -> i64 {
    status["relay"]["process"]["pid"].as_i64().expect("there is one")
}

#[test]
fn what_a_gateway_connects_to_is_not_redirected_again() {
    let Some(scene) = scene("again") else { return };
    let redirector = &scene.redirector;
    let address = free([127, 0, 0, 6]);
    let itself = itself(&scene, address);
    let _daemon = redirector.start();
    redirector.wait("the gateway", |_| dial(address) == "itself");
    let at = itself.address();
    let answer = child::run(&scene.client(), move || dial(at));
    assert_eq!(answer, "one", "another process's connects are");
}

/// A gateway whose endpoint is an address that every other process is led away from, to `one`;
/// and the server `itself` there.
pub(super) fn itself(scene: &Scene, address: SocketAddr) -> Server {
    let SocketAddr::V4(gate) = address else { panic!("{address}") };
    // Nobody else's, as the gateway's is.
    let at = [127, 96, 1, gate.ip().octets()[3]];
    let (ip, port) = (Ipv4Addr::from(at), scene.one.address().port());
    let to_itself = gateway(address, "one").replace("echo, subset: one", "again.example");
    let entry = |name: &str, rest: &str| {
        format!(
            "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec:
  hosts: [{name}.example]
  resolution: STATIC
  ports: [{{name: tcp, number: 19000, protocol: TCP}}]
  {rest}
"
        )
    };
    let again = entry("again", &format!("endpoints: [{{address: {ip}}}]"));
    let led =
        format!("addresses: [{ip}]\n  endpoints: [{{address: 127.0.0.1, ports: {{tcp: {port}}}}}]");
    scene.redirector.write("edge.yaml", &(to_itself + &again + &entry("led", &led)));
    Server::start("itself", SocketAddr::from((at, 19000)))
}
