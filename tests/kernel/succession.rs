//! `run --replace` is a transaction: whatever happens to the successor, somebody is in
//! charge.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use redirector_tests::netns::NetNs;
use redirector_tests::redirector::Daemon;
use redirector_tests::scene::{Scene, dial, free, gateway, scrape, to};

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");

/// Waits until something is so.
fn eventually(what: &str, so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what} does not happen");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A daemon with a gateway and metrics, whose address is given.
fn in_charge(scene: &Scene, metrics: &str) -> (Daemon, SocketAddr) {
    in_charge_with(scene, metrics, &[])
}

/// As [`in_charge`], with more arguments.
fn in_charge_with(scene: &Scene, metrics: &str, more: &[&str]) -> (Daemon, SocketAddr) {
    let address = free([127, 0, 0, 3]);
    scene.redirector.write("edge.yaml", &gateway(address, "one"));
    let args = ["--metrics-address", metrics, "--drain", "20s"];
    let daemon = scene.redirector.start_with(&[&args, more].concat());
    scene.redirector.wait("its answer", |_| dial(address) == "one");
    (daemon, address)
}

/// It reads, decides and answers again, having come in force so many times.
fn is_in_charge_again(scene: &Scene, daemon: &Daemon, metrics: SocketAddr, times: usize) {
    let redirector = &scene.redirector;
    eventually("it takes over again", || daemon.log().matches("INFO in force").count() == times);
    redirector.change("a change", || redirector.write("rules.yaml", &to("two")));
    assert_eq!(redirector.status().json()["daemon"]["pid"], daemon.pid());
    assert!(scrape(metrics).contains("redirector_config_generation"));
}

#[test]
fn a_successor_that_is_killed_before_it_is_in_force_leaves_its_predecessor_in_charge() {
    let Some(scene) = Scene::new("killed-successor", PROGRAM) else { return };
    let metrics = free([127, 0, 0, 1]);
    let (daemon, address) = in_charge(&scene, &metrics.to_string());
    let redirector = &scene.redirector;
    for round in 1..=2 {
        // It has been handed everything, and waits for the end of its input.
        let args = ["--replace", "--config", "-", "--metrics-address", &metrics.to_string()];
        let successor = redirector.launch(&args, Stdio::piped());
        eventually("it hands over", || daemon.log().matches("handed over").count() == round);
        assert_eq!(dial(address), "one", "gateways go on");
        successor.kill();
        is_in_charge_again(&scene, &daemon, metrics, round + 1);
        redirector.change("back", || redirector.write("rules.yaml", &to("one")));
        assert_eq!(dial(address), "one");
    }
    let successor = redirector.start_with(&["--replace", "--metrics-address", "none"]);
    assert_eq!(daemon.wait(), 0);
    assert_eq!(dial(address), "one");
    assert_eq!(successor.stop(), 0);
}

/// One that has been handed everything, and waits for its documents from a pipe, and the next
/// one, which waits for it.
fn two_successors(scene: &Scene, before: &Daemon) -> (Daemon, PathBuf, Daemon) {
    let redirector = &scene.redirector;
    let pipe = redirector.directory().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let path = pipe.to_string_lossy();
    let first = redirector.launch(&["--replace", "--config", &path], Stdio::null());
    eventually("it hands over", || before.log().contains("handed over"));
    let second = redirector.launch(&["--replace"], Stdio::null());
    eventually("the next one waits", || first.log().contains("another one is to follow"));
    (first, pipe, second)
}

#[test]
fn a_successor_of_one_that_is_not_in_force_yet_waits_for_it() {
    let Some(scene) = Scene::new("two-successors", PROGRAM) else { return };
    let (daemon, address) = in_charge(&scene, "none");
    let redirector = &scene.redirector;
    let (first, pipe, second) = two_successors(&scene, &daemon);
    let mut documents = fs::OpenOptions::new().write(true).open(pipe).expect("a pipe");
    for file in fs::read_dir(redirector.rules()).expect("a directory") {
        let text = fs::read_to_string(file.expect("a file").path()).expect("a text");
        writeln!(documents, "---\n{text}").expect("it reads");
    }
    drop(documents);
    assert_eq!((daemon.wait(), first.wait()), (0, 0));
    redirector.wait("the last one", |status| status["daemon"]["pid"] == second.pid());
    assert!(second.log().contains("INFO in force"), "{}", second.log());
    assert_eq!(dial(address), "one");
}

#[test]
fn a_successor_of_one_that_is_killed_before_it_is_in_force_follows_the_one_before() {
    let Some(scene) = Scene::new("orphaned-successor", PROGRAM) else { return };
    let (daemon, address) = in_charge(&scene, "none");
    let (first, _, second) = two_successors(&scene, &daemon);
    first.kill();
    assert_eq!(daemon.wait(), 0);
    scene.redirector.wait("the last one", |status| status["daemon"]["pid"] == second.pid());
    assert_eq!(dial(address), "one");
}

#[test]
fn a_successor_of_one_that_ends_as_it_is_asked_begins_without_it() {
    let Some(scene) = Scene::new("no-predecessor", PROGRAM) else { return };
    let (daemon, address) = in_charge(&scene, "none");
    let redirector = &scene.redirector;
    daemon.kill();
    // As it is for a moment at its end.
    let lock = fs::File::open(redirector.directory().join("state/daemon.lock")).expect("its lock");
    lock.lock().expect("nobody has it");
    let successor = redirector.launch(&["--replace"], Stdio::null());
    eventually("it asks", || successor.log().contains("the daemon in charge ends"));
    drop(lock);
    scene.redirector.wait("the next one", |status| status["daemon"]["pid"] == successor.pid());
    assert_eq!(dial(address), "one");
}

#[test]
fn a_successor_that_cannot_listen_leaves_its_predecessor_in_charge() {
    let Some(scene) = Scene::new("deaf-successor", PROGRAM) else { return };
    let metrics = free([127, 0, 0, 1]);
    // As charts of before had it with gateways.
    let all = SocketAddr::from(([0; 4], metrics.port()));
    let (daemon, address) = in_charge(&scene, &all.to_string());
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().map(|address| (taken, address)).expect("its address");
    let before = format!("the daemon before listens on {all}");
    let tries = [(taken.1, "name another address"), (metrics, &*before)];
    for (times, (own, why)) in (2..).zip(tries) {
        let args = ["--replace", "--metrics-address", &own.to_string()];
        let other = scene.redirector.launch(&args, Stdio::null());
        let log = other.log_file().to_owned();
        assert_ne!(other.wait(), 0);
        let said = std::fs::read_to_string(log).expect("what it has said");
        assert!(said.contains(&format!("metrics cannot be served on {own}")), "{said}");
        assert!(said.contains(why), "{said}");
        is_in_charge_again(&scene, &daemon, metrics, times);
        assert_eq!(dial(address), "one");
        scene.redirector.change("back", || scene.redirector.write("rules.yaml", &to("one")));
    }
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_successor_in_another_network_serves_its_own_metrics() {
    let Some(scene) = Scene::new("other-network", PROGRAM) else { return };
    let netns = NetNs::new("before");
    let port = free([127, 0, 0, 1]).port();
    let metrics = format!("0.0.0.0:{port}");
    let arguments = ["--metrics-address", &metrics];
    let before = netns.within(|| scene.redirector.start_with(&arguments));
    let here = SocketAddr::from(([127, 0, 0, 1], port));
    assert!(TcpStream::connect(here).is_err(), "it is not in this network");
    let after = scene.redirector.start_with(&[&["--replace"], arguments.as_slice()].concat());
    assert!(scrape(here).contains("redirector_config_generation"));
    assert_eq!(before.wait(), 0);
    assert_eq!(after.stop(), 0);
}

/// Its successor has gone, so many times by now; something else listens where it has its
/// metrics, for as long as the result is there.
fn hindered(scene: &Scene, daemon: &Daemon, metrics: SocketAddr, times: usize) -> TcpListener {
    let socket = scene.redirector.directory().join("state/control.sock");
    let successor = scene.redirector.launch(&["--replace", "--config", "-"], Stdio::piped());
    eventually("it hands over", || daemon.log().matches("handed over").count() == times);
    eventually("the successor listens", || UnixStream::connect(&socket).is_ok());
    // Nobody can listen there.
    std::fs::remove_file(&socket).expect("a socket");
    std::fs::create_dir(&socket).expect("a directory");
    let tries = || daemon.log().matches("nobody is in charge").count();
    let before = tries();
    successor.kill();
    eventually("it tries again and again", || tries() > before + 1);
    // Whoever is started instead finds its address free.
    let other = TcpListener::bind(metrics).expect("nobody listens there");
    std::fs::remove_dir(&socket).expect("removed");
    let before = tries();
    eventually("it tries still", || tries() > before);
    other
}

#[test]
fn a_predecessor_that_cannot_take_over_at_once_does_when_it_can_and_gateways_go_on_till_then() {
    let Some(scene) = Scene::new("hindered", PROGRAM) else { return };
    let metrics = free([127, 0, 0, 1]);
    let (daemon, address) = in_charge_with(&scene, &metrics.to_string(), &["--detach-on-exit"]);
    let other = hindered(&scene, &daemon, metrics, 1);
    assert_eq!(dial(address), "one", "gateways go on");
    drop(other);
    is_in_charge_again(&scene, &daemon, metrics, 2);
    scene.redirector.change("back", || scene.redirector.write("rules.yaml", &to("one")));
    let _other = hindered(&scene, &daemon, metrics, 2);
    assert_eq!(dial(address), "one", "gateways go on");
    assert_eq!(daemon.stop(), 0, "it ends when it is told to");
    assert!(!scene.redirector.place.pins().exists(), "and detaches as it was told to");
    assert!(!scene.redirector.directory().join("state").exists());
}

#[test]
fn a_predecessor_that_cannot_take_over_ends_once_everything_was_unloaded() {
    let Some(scene) = Scene::new("unloaded-meanwhile", PROGRAM) else { return };
    let metrics = free([127, 0, 0, 1]);
    let (daemon, _) = in_charge(&scene, &metrics.to_string());
    let _other = hindered(&scene, &daemon, metrics, 1);
    // Nobody can while it just tries.
    let unload = || scene.redirector.ask("unload", &["--yes"]).exit == 0;
    eventually("it is unloaded", unload);
    daemon.wait();
    assert!(!scene.redirector.place.pins().exists(), "nothing was attached again");
}

#[test]
fn silent_clients_of_metrics_and_control_hold_up_neither_a_change_nor_a_successor() {
    let Some(scene) = Scene::new("silent-clients", PROGRAM) else { return };
    let metrics = free([127, 0, 0, 1]);
    let (daemon, _) = in_charge(&scene, &metrics.to_string());
    let redirector = &scene.redirector;
    let control = redirector.directory().join("state/control.sock");
    let mut silent: Vec<TcpStream> =
        (0..80).map(|_| TcpStream::connect(metrics).expect("a connection")).collect();
    silent[79].write_all(b"GET /metrics HTTP/1.1\r\nX-").expect("half a request");
    let _others: Vec<UnixStream> =
        (0..80).map(|_| UnixStream::connect(&control).expect("a connection")).collect();
    assert!(scrape(metrics).contains("redirector_config_generation"));
    redirector.change("a change", || redirector.write("rules.yaml", &to("two")));
    let args = ["--replace", "--metrics-address", &metrics.to_string()];
    let successor = redirector.start_with(&args);
    assert_eq!(daemon.wait(), 0);
    assert!(scrape(metrics).contains("redirector_config_generation"));
    assert_eq!(successor.stop(), 0);
}
