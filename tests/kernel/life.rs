//! A hard life: whatever happens to the daemon while connections are made, none
//! of them fails, none goes astray, and nothing is left over. Each test keeps it
//! up for a few seconds; `cargo xtask soak` for as long as it is told.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use redirector_tests::child;
use redirector_tests::figure;
use redirector_tests::kernel::soaking;
use redirector_tests::load::{Interrupted, Load};
use redirector_tests::redirector::Daemon;
use redirector_tests::scene::{Scene, dial, free, gateway, scrape, split, to};

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");

/// Other sizes make tables of another shape: what an upgrade to another layout
/// does, and a downgrade back.
const OTHER: [&str; 2] = ["--max-prefixes", "300"];

#[test]
fn kills_restarts_upgrades_and_drift_fail_no_connection() {
    let Some(scene) = Scene::new("life", PROGRAM) else { return };
    let redirector = &scene.redirector;
    let mut daemon = redirector.start();
    let load = Load::start(&scene, 2);
    let (begun, time) = (Instant::now(), soaking(Duration::from_secs(6)));
    let restart = |daemon: Daemon, round: usize| -> Daemon {
        // Killed in one round, stopped in the next.
        if round.is_multiple_of(2) {
            daemon.kill();
        } else {
            assert_eq!(daemon.stop(), 0);
        }
        // Upgraded and downgraded every second time.
        if (round / 2).is_multiple_of(2) {
            redirector.start()
        } else {
            redirector.start_with(&OTHER)
        }
    };
    let mut rounds = 0;
    while begun.elapsed() < time {
        for subset in ["two", "one"] {
            redirector.change("a change", || redirector.write("rules.yaml", &to(subset)));
            scene.meddle_until_mended();
            daemon = restart(daemon, rounds);
            rounds += 1;
        }
    }
    load.end("kill, stop, upgrade, downgrade, drift", rounds, &["one", "two"]);
    assert_eq!(daemon.stop(), 0);
    let left = redirector.ask("maps", &["counters", "--output", "json"]).json();
    assert_eq!(left["counters"]["remembered"], 0, "no connection is left in memory");
}

#[test]
fn a_daemon_killed_at_any_moment_of_a_change_loses_nothing() {
    let Some(scene) = Scene::new("moments", PROGRAM) else { return };
    let redirector = &scene.redirector;
    let mut daemon = redirector.start();
    let load = Load::start(&scene, 1);
    let (begun, time) = (Instant::now(), soaking(Duration::from_secs(4)));
    let mut rounds = 0;
    // The file is read at once; the change follows.
    let mut moment = Duration::ZERO;
    while begun.elapsed() < time {
        let subset = if rounds % 2 == 0 { "two" } else { "one" };
        redirector.write("rules.yaml", &to(subset));
        std::thread::sleep(moment);
        daemon.kill();
        daemon = redirector.start();
        redirector.wait("both sides in step", |status| status["healthy"] == true);
        assert_eq!(scene.answer(&scene.client()), subset, "round {rounds}");
        moment += Duration::from_micros(1700);
        if moment > Duration::from_millis(30) {
            moment = Duration::ZERO;
        }
        rounds += 1;
    }
    load.end("killed in the middle of a change", rounds, &["one", "two"]);
}

/// What a daemon holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Held {
    descriptors: usize,
    kilobytes: u64,
}

fn held(daemon: &Daemon) -> Held {
    let process = PathBuf::from(format!("/proc/{}", daemon.pid()));
    let status = fs::read_to_string(process.join("status")).expect("its status");
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    Held {
        descriptors: fs::read_dir(process.join("fd")).expect("its descriptors").count(),
        kilobytes: anonymous
            .and_then(|text| text.trim().trim_end_matches(" kB").parse().ok())
            .expect("a size"),
    }
}

/// Ten endpoints of a hundred, which move on with every round, under a policy
/// that counts on each.
fn churned(scene: &Scene, round: usize) -> String {
    let mut text = scene.base().replace(
        "subsets: [",
        "trafficPolicy: {loadBalancer: {simple: LEAST_REQUEST}}\n  \
         subsets: [{name: churn, labels: {v: churn}}, ",
    );
    for index in 0..10 {
        let host = 10 + (round + index * 7) % 100;
        text += &format!(
            "
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: churn-{host}}}
spec: {{address: 127.0.3.{host}, labels: {{app: echo, v: churn}}}}
"
        );
    }
    text
}

#[test]
fn endpoints_that_come_and_go_leave_nothing_behind() {
    let Some(scene) = Scene::new("churn", PROGRAM) else { return };
    let redirector = &scene.redirector;
    let daemon = redirector.start();
    let load = Load::start(&scene, 1);
    // Nobody is sent to those that come and go, and they are all there.
    let rule = split(&[("one", 100), ("churn", 0)]);
    redirector.change("a rule", || redirector.write("rules.yaml", &rule));
    let round = |number: usize| {
        redirector.change("a change", || redirector.write("base.yaml", &churned(&scene, number)));
    };
    // What grows once, such as buffers and kept generations, has grown by then.
    const WARM: usize = 15;
    (1..=WARM).for_each(round);
    let before = held(&daemon);
    let (begun, time) = (Instant::now(), soaking(Duration::from_secs(4)));
    let mut rounds = WARM;
    while begun.elapsed() < time {
        rounds += 1;
        round(rounds);
    }
    let after = held(&daemon);
    load.end("endpoints that come and go", rounds, &["one"]);
    figure!(
        "{} steps of churn in {:.0} s, {:.1} hours of one every 10 s: descriptors {} before, {} \
         after; memory {} kB before, {} kB after",
        rounds - WARM,
        begun.elapsed().as_secs_f64(),
        (rounds - WARM) as f64 * 10.0 / 3600.0,
        before.descriptors,
        after.descriptors,
        before.kilobytes,
        after.kilobytes
    );
    // A question or a file may be open just then.
    assert!(after.descriptors <= before.descriptors + 3, "{before:?} {after:?}");
    assert!(after.kilobytes < before.kilobytes + 8192, "{before:?} {after:?}");
    redirector.change("the end", || redirector.write("rules.yaml", &to("one")));
    let maps = redirector.ask("maps", &["all", "--output", "json"]).json();
    assert_eq!(maps["counters"]["remembered"], 0, "no connection is left in memory");
    assert_eq!(maps["backends"].as_array().map(Vec::len), Some(1), "{:#}", maps["backends"]);
    assert_eq!(maps["destinations"][0]["connections"], 0, "{:#}", maps["destinations"]);
    figure!("the maps afterwards: 1 endpoint, 0 connections remembered, 0 counted");
}

#[test]
fn a_successor_takes_the_gateways_over_and_no_client_notices() {
    let Some(scene) = Scene::new("succession", PROGRAM) else { return };
    let redirector = &scene.redirector;
    let (address, metrics) = (free([127, 0, 0, 3]), free([127, 0, 0, 1]));
    redirector.write("edge.yaml", &gateway(address, "one"));
    let metrics_address = metrics.to_string();
    let args = ["--metrics-address", &metrics_address, "--drain", "20s"];
    let mut daemon = redirector.start_with(&args);
    redirector.wait("its answer", |_| dial(address) == "one");

    // Clients from outside, who come all the time.
    let stop = redirector.directory().join("stop-outside");
    let outside = child::spawn(redirector.place.cgroup.path(), {
        let stop = stop.clone();
        move || {
            let mut answers: Vec<(String, u64)> = Vec::new();
            while !stop.exists() {
                let answer = dial(address);
                match answers.iter_mut().find(|(known, _)| *known == answer) {
                    Some((_, count)) => *count += 1,
                    None => answers.push((answer, 1)),
                }
            }
            answers
        }
    });
    let mesh = Load::start(&scene, 1);
    let (begun, time) = (Instant::now(), soaking(Duration::from_secs(3)));
    let mut rounds = 0;
    while begun.elapsed() < time || rounds < 3 {
        let old = Interrupted::open(address, "one");
        let successor = redirector.start_with(&[&args[..], &["--replace"]].concat());
        assert_ne!(successor.pid(), daemon.pid());
        assert_eq!(redirector.status().json()["daemon"]["pid"], successor.pid());
        old.go_on();
        // With its last connection it ends by itself.
        assert_eq!(daemon.wait(), 0);
        daemon = successor;
        rounds += 1;
    }
    fs::write(&stop, "").expect("a file");
    let answers = outside.join();
    let all: u64 = answers.iter().map(|(_, count)| count).sum();
    figure!("gateway handed over {rounds} times: {all} connections, 0 failed");
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(answers[0].0, "one");
    mesh.end("mesh meanwhile", rounds, &["one"]);
    let page = scrape(metrics);
    let accepted = page.lines().find(|line| line.starts_with("redirector_gateway_accepted_total{"));
    let accepted = accepted.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    assert!(accepted > Some(0), "{page}");
    assert_eq!(daemon.stop(), 0);
}
