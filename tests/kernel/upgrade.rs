//! A real second version, whose tables have another layout: it comes and goes
//! under load, and nothing is lost.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use redirector_tests::child::{self, Child};
use redirector_tests::figure;
use redirector_tests::kernel::{at_least, soaking};
use redirector_tests::load::{Interrupted, Load, Standing};
use redirector_tests::redirector::of_other_layout;
use redirector_tests::scene::{ECHO, Scene, dial, free, gateway, to};
use redirector_tests::socket::Socket;

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");

/// Which layouts of connection memory there are.
fn memories(scene: &Scene) -> usize {
    let pins = fs::read_dir(scene.redirector.place.pins()).expect("pins").flatten();
    pins.filter(|pin| pin.file_name().to_string_lossy().starts_with("memory-")).count()
}

/// Drift is to be noticed soon.
const VERIFY: [&str; 2] = ["--verify", "100ms"];

/// The tables in force.
fn tables(scene: &Scene) -> String {
    let current = scene.redirector.place.pins().join("current");
    fs::read_link(current).expect("the tables in force").to_string_lossy().into_owned()
}

#[test]
fn a_version_of_another_layout_comes_and_goes_and_no_connect_fails() {
    let Some(mut scene) = Scene::new("layout", PROGRAM) else { return };
    let ours = scene.redirector.program.clone();
    let other = of_other_layout(PROGRAM);
    let mut daemon = scene.redirector.start_with(&VERIFY);
    let first = tables(&scene);
    let mut standing = vec![Standing::open(&scene)];
    let load = Load::start(&scene, 2);
    let (begun, time) = (Instant::now(), soaking(Duration::from_secs(3)));
    let (mut rounds, mut kills) = (0, 0);
    // Fifty upgrades and fifty downgrades, and as many kills and drifts.
    while begun.elapsed() < time || rounds < at_least(2, 100) {
        // Killed before every second upgrade and every second downgrade.
        if (rounds + rounds / 2) % 2 == 0 {
            daemon.kill();
            kills += 1;
        } else {
            assert_eq!(daemon.stop(), 0);
        }
        let is_ours = rounds % 2 == 1;
        let (program, left) = if is_ours { (&ours, &other) } else { (&other, &ours) };
        scene.redirector.program = program.clone();
        daemon = scene.redirector.start_with(&VERIFY);
        assert_eq!(tables(&scene) == first, is_ours, "round {rounds}");
        let status = scene.redirector.status().json();
        assert_eq!(status["healthy"], true, "round {rounds}: {status:#}");
        // The version that was left cannot read these tables, and says so.
        scene.redirector.program = left.clone();
        let answer = scene.redirector.ask("maps", &["frontends"]);
        assert!(answer.exit != 0 && answer.err.contains("another version"), "{answer:?}");
        scene.redirector.program = program.clone();
        // It is in charge: what changes comes in force.
        let subset = if scene.answer(&scene.client()) == "one" { "two" } else { "one" };
        let redirector = &scene.redirector;
        redirector.change("a change", || redirector.write("rules.yaml", &to(subset)));
        assert_eq!(scene.answer(&scene.client()), subset, "round {rounds}");
        scene.meddle_until_mended();
        // What stands was made by the other one, and is remembered in its memory.
        assert_eq!(memories(&scene), 2, "round {rounds}");
        if standing.len() < 8 {
            standing.push(Standing::open(&scene));
        }
        rounds += 1;
    }
    load.end("upgrade to another layout, downgrade back", rounds, &["one", "two"]);
    let opened = standing.len();
    assert_eq!(scene.redirector.status().json()["healthy"], true);
    let seen: Vec<_> = standing.into_iter().map(Standing::close).collect();
    assert!(seen.iter().all(|peer| peer == ECHO), "{seen:?}");
    figure!(
        "{kills} times kill -9, {} stops, {} upgrades, {} downgrades, {rounds} drifts mended; \
         {opened} standing connections showed what they dialled all the time",
        rounds - kills,
        rounds - rounds / 2,
        rounds / 2
    );
    // That goes with the last of them, and so do the programs that read it.
    scene.redirector.wait("the end of the other memory", |_| memories(&scene) == 1);
    let attached = scene.redirector.status().json()["programs"].take();
    assert_eq!(attached.as_array().map(Vec::len), Some(5), "{attached:#}");
    // The kernel releases a socket a moment after its process has ended.
    scene.redirector.wait("the last connection to leave the memory", |_| {
        let left = scene.redirector.ask("maps", &["counters", "--output", "json"]).json();
        left["counters"]["remembered"] == 0
    });
    drop(daemon);
}

/// Another service of the same servers, so that not everything has the number that
/// it would have by itself.
const ANOTHER: &str = "
apiVersion: v1
kind: Service
metadata: {name: another}
spec:
  clusterIP: 127.96.0.11
  selector: {app: echo}
  ports: [{name: tcp, port: 19000, targetPort: 19000}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: another}
spec: {host: another, trafficPolicy: {loadBalancer: {simple: LEAST_REQUEST}}}
";

#[test]
fn what_is_counted_is_counted_on_by_a_version_of_another_layout() {
    // One client has three quarters of what there may be.
    const LIMIT: usize = 6;
    const MOST: usize = 8;
    const FAILURES: usize = 2;
    let Some(mut scene) = Scene::new("counted", PROGRAM) else { return };
    let ours = scene.redirector.program.clone();
    let other = of_other_layout(PROGRAM);
    // A third endpoint, where nobody listens, and a limit.
    let policy = format!(
        "trafficPolicy:
    connectionPool: {{tcp: {{maxConnections: {MOST}}}}}
    outlierDetection:
      {{consecutive5xxErrors: {FAILURES}, baseEjectionTime: 900s, maxEjectionPercent: 100}}
  subsets: ["
    );
    let base = scene.base().replace("subsets: [", &policy)
        + "
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: dead}
spec: {address: 127.0.0.4, labels: {app: echo, v: dead}}
";
    scene.redirector.write("base.yaml", &base);
    scene.redirector.write("rules.yaml", "");
    scene.redirector.write("another.yaml", ANOTHER);
    let mut daemon = scene.redirector.start_with(&VERIFY);
    let another = scene.redirector.rules().join("another.yaml");
    let redirector = &scene.redirector;
    redirector.change("one service less", || fs::remove_file(&another).expect("a file"));

    let refused = std::io::Error::from_raw_os_error(libc::ECONNREFUSED).to_string();
    let dials = |scene: &Scene, count: usize| -> Vec<String> {
        let to: SocketAddr = ECHO.parse().expect("an address");
        child::run(&scene.client(), || (0..count).map(|_| dial(to)).collect())
    };
    let counts = |scene: &Scene| {
        let maps = scene.redirector.ask("maps", &["backends", "--output", "json"]).json();
        let one = &maps["destinations"][0];
        [&one["connections"], &one["ejected"], &one["limited"]].map(|n| n.as_u64().expect("one"))
    };
    // The dead one is out after so many failures, for longer than the test takes.
    let failed = dials(&scene, 60).into_iter().filter(|answer| *answer == refused).count();
    assert_eq!((failed, counts(&scene)), (FAILURES, [0, 1, 0]));
    let mut standing: Vec<Standing> = (0..LIMIT).map(|_| Standing::open(&scene)).collect();
    assert_eq!(counts(&scene), [LIMIT as u64, 1, 0]);

    let mut limited = 0;
    for (round, program) in [&other, &ours, &other, &ours].into_iter().enumerate() {
        // Whoever dials meanwhile is refused: there are as many as may be.
        let load = Load::start(&scene, 1);
        match round {
            0 => assert_eq!(daemon.stop(), 0),
            1 => daemon.kill(),
            _ => {}
        }
        scene.redirector.program = program.clone();
        let replace: &[&str] = if round < 2 { &[] } else { &["--replace"] };
        daemon = scene.redirector.start_with(&[&VERIFY, replace].concat());
        load.end("upgrade while there are as many as may be", round, &[&refused]);
        let [connections, ejected, refusals] = counts(&scene);
        assert_eq!((connections, ejected), (LIMIT as u64, 1), "round {round}");
        assert!(refusals > limited, "they are counted on, too: {refusals} after {limited}");
        limited = refusals;
        let maps = scene.redirector.ask("maps", &["counters", "--output", "json"]).json();
        assert_eq!(maps["counters"]["remembered"], LIMIT, "by whatever version: {maps:#}");
        // One goes that the version before has let in: there is room for one, and the
        // dead one is still left out.
        assert_eq!(standing.remove(0).close(), ECHO);
        scene.redirector.wait("the end of it", |_| counts(&scene)[0] == LIMIT as u64 - 1);
        let answers = dials(&scene, 40);
        assert!(answers.iter().all(|one| ["one", "two"].contains(&&**one)), "{answers:?}");
        standing.push(Standing::open(&scene));
        assert_eq!(dials(&scene, 1), [refused.as_str()], "round {round}");
        limited += 1;
    }
    assert!(standing.into_iter().map(Standing::close).all(|peer| peer == ECHO));
    scene.redirector.wait("the end of all", |_| counts(&scene)[..2] == [0, 1]);
    scene.redirector.wait("the end of the other memory", |_| memories(&scene) == 1);
    figure!(
        "upgrades and downgrades with all {LIMIT} connections open that a client may have: never one more, \
         {limited} refused; the ejected endpoint stayed out"
    );
    assert_eq!(daemon.stop(), 0);
}

/// A connection of the client's that sends all the time, until it is told to end or
/// cannot any more: gives the error number, or 0.
fn sending(scene: &Scene, name: &str) -> (Child<i32>, PathBuf) {
    let [ready, end] =
        ["ready", "end"].map(|what| scene.redirector.directory().join(format!("{name}-{what}")));
    let child = child::spawn(&scene.client(), || {
        let echo: SocketAddr = ECHO.parse().expect("an address");
        let socket = Socket::stream(echo, 0).expect("a socket");
        socket.connect(echo).expect("a connection");
        fs::write(&ready, "").expect("a file");
        while !end.exists() {
            if let Err(error) = socket.send(b"x") {
                return error.raw_os_error().unwrap_or(-1);
            }
            thread::sleep(Duration::from_millis(20));
        }
        0
    });
    while !ready.exists() {
        thread::sleep(Duration::from_millis(5));
    }
    (child, end)
}

#[test]
fn connections_that_another_layout_remembers_are_reset_when_their_endpoint_has_gone() {
    let Some(mut scene) = Scene::new("drainlayout", PROGRAM) else { return };
    let other = of_other_layout(PROGRAM);
    let rule = "kind: DestinationRule\nmetadata: {name: echo";
    let annotated = format!("{rule}, annotations: {{redirector.io/drain: 300ms}}");
    let base = scene.base().replace(rule, &annotated);
    assert_ne!(base, scene.base());
    scene.redirector.write("base.yaml", &base);
    let daemon = scene.redirector.start();
    let (to_one, _) = sending(&scene, "one");
    let redirector = &scene.redirector;
    redirector.change("another endpoint", || redirector.write("rules.yaml", &to("two")));
    let (to_two, end) = sending(&scene, "two");
    assert_eq!(daemon.stop(), 0);

    scene.redirector.program = other;
    let daemon = scene.redirector.start();
    assert_eq!(memories(&scene), 2);
    let without = base.replace("labels: {app: echo, v: one}", "labels: {app: gone}");
    scene.redirector.write("base.yaml", &without);
    let over = |status: &serde_json::Value| {
        status["draining"]["reset"] == 1 && status["draining"]["endpoints"] == serde_json::json!({})
    };
    scene.redirector.wait("the end of its time", over);
    assert_eq!(to_one.join(), libc::ECONNABORTED);
    thread::sleep(Duration::from_millis(100));
    fs::write(end, "").expect("a file");
    assert_eq!(to_two.join(), 0, "the other one goes on");
    assert!(daemon.log().contains("connections were reset"), "{}", daemon.log());
}

#[test]
fn gateways_are_handed_over_to_a_version_of_another_layout_and_back() {
    let Some(mut scene) = Scene::new("layout-gateway", PROGRAM) else { return };
    let ours = scene.redirector.program.clone();
    let other = of_other_layout(PROGRAM);
    let address = free([127, 0, 0, 3]);
    scene.redirector.write("edge.yaml", &gateway(address, "one"));
    let mut daemon = scene.redirector.start_with(&["--drain", "20s"]);
    scene.redirector.wait("its answer", |_| dial(address) == "one");
    for program in [&other, &ours] {
        let old = Interrupted::open(address, "one");
        scene.redirector.program = program.clone();
        let successor = scene.redirector.start_with(&["--drain", "20s", "--replace"]);
        assert_eq!(dial(address), "one");
        old.go_on();
        assert_eq!(daemon.wait(), 0);
        daemon = successor;
    }
    assert_eq!(daemon.stop(), 0);
}
