//! A daemon that dies at any point of a change, and versions that come and go:
//! no connect fails, none goes where no configuration says, and what comes next
//! takes up what is there.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use redirector::datapath::{Active, Datapath};
use redirector::state::StateDir;
use redirector_tests::child;
use redirector_tests::figure;
use redirector_tests::kernel::scaled;
use redirector_tests::load::Standing;
use redirector_tests::scene::{ECHO, Scene, dial, to};

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");

/// So many services change at once.
const SERVICES: usize = 80;

fn address(service: usize) -> SocketAddr {
    SocketAddr::from(([127, 96, 1, u8::try_from(service).expect("a small number")], 19000))
}

/// The services, each with a rule that leads to this subset.
fn services(scene: &Scene, subset: &str) -> String {
    let port = scene.one.address().port();
    (0..SERVICES)
        .map(|number| {
            format!(
                "
---
apiVersion: v1
kind: Service
metadata: {{name: s{number}}}
spec:
  clusterIP: {ip}
  selector: {{app: echo}}
  ports: [{{name: tcp, port: 19000, targetPort: {port}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: s{number}}}
spec:
  host: s{number}
  subsets: [{{name: one, labels: {{v: one}}}}, {{name: two, labels: {{v: two}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: s{number}}}
spec:
  hosts: [s{number}]
  tcp:
  - route:
    - destination: {{host: s{number}, subset: {subset}}}
",
                ip = address(number).ip(),
            )
        })
        .collect()
}

/// Who answers at each service, as far as they differ.
fn answers(scene: &Scene) -> Vec<String> {
    child::run(&scene.client(), || {
        let mut answers: Vec<String> = (0..SERVICES).map(|number| dial(address(number))).collect();
        answers.sort();
        answers.dedup();
        answers
    })
}

/// Where a daemon dies.
#[derive(Clone, Copy, Debug)]
enum At {
    /// It has written down what the next generation is made of.
    Record,
    /// It has begun to write the idle side.
    IdleSide,
    /// The next generation has come in force.
    Flip,
    /// It has written the other side, too.
    BothSides,
}

/// Waits, as closely as possible, until a daemon is there.
fn reaches(at: At, before: Active, datapath: &Datapath, state: &StateDir) {
    let begun = Instant::now();
    loop {
        let now = datapath.active();
        let there = match at {
            At::Record => state.generations().last() > Some(&before.generation),
            At::IdleSide => !now.in_step || now.epoch != before.epoch,
            At::Flip => now.epoch != before.epoch,
            At::BothSides => now.epoch != before.epoch && now.in_step,
        };
        if there {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "never at {at:?}");
    }
}

#[test]
fn a_daemon_that_dies_at_any_point_of_a_change_leaves_all_of_one_configuration() {
    let Some(scene) = Scene::new("crash", PROGRAM) else { return };
    let redirector = &scene.redirector;
    redirector.write("services.yaml", &services(&scene, "one"));
    let stop = redirector.directory().join("stop");
    let mut daemon = redirector.start();
    let load = scene.load(&stop);
    let datapath = Datapath::open_read_only(&redirector.place.pins()).expect("the tables");
    let state = StateDir::new(redirector.directory().join("state"));
    let mut next = "two";
    for round in 0..scaled(2) {
        for at in [At::Record, At::IdleSide, At::Flip, At::BothSides] {
            let before = datapath.active();
            redirector.write("services.yaml", &services(&scene, next));
            reaches(at, before, &datapath, &state);
            daemon.kill();
            // All of the old one or all of the new one, whoever looks.
            let found = answers(&scene);
            assert_eq!(found.len(), 1, "{at:?}, round {round}: {found:?}");
            assert!(["one", "two"].contains(&&*found[0]), "{at:?}: {found:?}");
            let flipped = datapath.active().epoch != before.epoch;
            assert_eq!(found[0] == next, flipped, "{at:?}: {found:?}, flipped: {flipped}");
            daemon = redirector.start();
            assert_eq!(answers(&scene), [next], "{at:?}, round {round}");
            let status = redirector.status().json();
            assert_eq!((&status["healthy"], &status["inStep"]), (&true.into(), &true.into()));
            assert_eq!(status["drift"]["entries"], 0, "{at:?}: {status:#}");
            next = if next == "two" { "one" } else { "two" };
        }
    }
    drop(daemon);
    fs::write(&stop, "").expect("a file");
    let load = load.join();
    assert!(load.len() == 1 && load[0].0 == "one", "{load:?}");
    figure!("a daemon died at 4 points of a change, {} connections meanwhile, 0 failed", load[0].1);
}

#[test]
fn versions_with_other_tables_come_and_go_and_no_connect_fails() {
    let Some(scene) = Scene::new("upgrade", PROGRAM) else { return };
    let redirector = &scene.redirector;
    let stop = redirector.directory().join("stop");
    let mut daemon = redirector.start();
    let old = Standing::open(&scene);
    let load = scene.load(&stop);
    // Tables of other sizes lie in a place of their own, as those of a version
    // with another layout do; the programs are made for them, and swapped.
    let first = tables(&redirector.place.pins());
    for round in 0..scaled(4).max(2) {
        match round % 4 {
            0 | 3 => daemon.kill(),
            _ => assert_eq!(daemon.stop(), 0),
        }
        daemon = match round % 2 {
            0 => redirector.start_with(&["--max-legs", "2048"]),
            _ => redirector.start(),
        };
        let is_first = tables(&redirector.place.pins()) == first;
        assert_eq!(is_first, round % 2 == 1, "round {round}");
        assert_eq!(scene.answer(&scene.client()), "one", "round {round}");
        assert_eq!(redirector.status().json()["healthy"], true);
    }
    redirector.change("a change", || redirector.write("rules.yaml", &to("two")));
    fs::write(&stop, "").expect("a file");
    assert_eq!(old.close(), ECHO);
    let answers = load.join();
    assert!(answers.iter().all(|(name, _)| ["one", "two"].contains(&&**name)), "{answers:?}");
    drop(daemon);
}

#[test]
fn history_and_a_held_configuration_survive_a_version_with_other_tables() {
    let Some(scene) = Scene::new("history", PROGRAM) else { return };
    let redirector = &scene.redirector;
    let daemon = redirector.start_with(&["--history", "2"]);
    for subset in ["two", "one", "two", "one"] {
        redirector.change("a change", || redirector.write("rules.yaml", &to(subset)));
    }
    let generation = redirector.generation();
    assert_eq!(daemon.stop(), 0);

    let daemon = redirector.start_with(&["--history", "2", "--max-legs", "2048"]);
    let status = redirector.status().json();
    assert_eq!(status["healthy"], true, "{status:#}");
    assert!(status["generation"].as_u64() > Some(generation), "{status:#}");
    // That the tables were made anew is no change.
    assert_eq!(redirector.ask("rollback", &[]).exit, 0);
    assert_eq!(scene.answer(&scene.client()), "two");
    daemon.kill();

    let _daemon = redirector.start_with(&["--history", "2"]);
    assert_eq!(scene.answer(&scene.client()), "two", "still held");
    assert_eq!(redirector.ask("rollback", &["--release"]).exit, 0);
    assert_eq!(scene.answer(&scene.client()), "one");
}

#[test]
fn what_is_refused_while_its_last_good_version_is_damaged_stays_as_the_kernel_has_it() {
    // There is an older version of it, or there is none.
    for older in ["one", "two"] {
        let Some(scene) = Scene::new("unread", PROGRAM) else { return };
        let redirector = &scene.redirector;
        redirector.write("rules.yaml", &to(older));
        let daemon = redirector.start();
        let mut from = 0;
        if older != "two" {
            from = fs::metadata(redirector.journal()).expect("a journal").len();
            redirector.change("the rule", || redirector.write("rules.yaml", &to("two")));
        }
        daemon.kill();
        redirector.damage_journal(from);
        redirector.write("rules.yaml", &to("two").replace("weight: 100", "weight: -5"));
        let _daemon = redirector.start();
        assert_eq!(scene.answer(&scene.client()), "two");
        let status = redirector.status().json();
        let problems = status["problems"].to_string();
        assert!(problems.contains("last good version cannot be read"), "{status:#}");
        assert!(problems.contains("its last good version stays"), "{status:#}");

        redirector.write("rules.yaml", &to("one"));
        redirector.wait("health", |status| status["healthy"] == true);
        assert_eq!(scene.answer(&scene.client()), "one");
    }
}

fn tables(pins: &Path) -> PathBuf {
    fs::read_link(pins.join("current")).expect("the tables in force")
}
