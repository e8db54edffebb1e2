//! The process that relays: what it may do, and what happens when it ends.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use redirector::identity::Locals;
use redirector::proxy::{Settings, retire_at};
use rustix::process::{Signal, geteuid, kill_process};

use crate::kit::*;
use crate::scale::Apart;

#[test]
fn the_relay_has_no_privilege_and_no_way_to_any() {
    let port = reserve();
    let proxy = Setup::to(port.address, &[Backend::echo().address]).start();
    let relay = proxy.status().expect("a status").relay.expect("a relay").process;
    assert_ne!(relay.pid, std::process::id());
    assert_eq!(relay.capabilities, "0".repeat(16), "{relay:?}");
    assert!(relay.no_new_privileges && relay.filtered, "{relay:?}");
    assert!(!geteuid().is_root() || relay.uid != 0, "{relay:?}");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", relay.pid)).expect("limits");
    let processes = limits.lines().find(|line| line.starts_with("Max processes")).expect("one");
    assert!(processes.split_whitespace().nth(2) == Some("0"), "{processes}");
}

#[test]
fn clients_wait_while_a_relay_that_was_killed_is_replaced_and_what_was_cut_is_told() {
    let port = reserve();
    let backend = Backend::named("a");
    let proxy = Setup::to(port.address, &[backend.address]).start();
    let mut cut = connect(port.address);
    cut.read_exact(&mut [0]).expect("a name");
    assert_eq!(proxy.status().expect("a status").active, 1);
    for round in 1..=3 {
        let before = relay(&proxy);
        kill_process(before, Signal::KILL).expect("killed");
        connect(port.address).read_exact(&mut [0]).expect("a name");
        let replaced = |status: &redirector::proxy::Status| {
            status.relay.as_ref().is_some_and(|relay| relay.restarts == round)
        };
        let status = status_when(&proxy, "another one", replaced);
        assert!(status.relay.is_some_and(|relay| relay.cut >= 1));
        assert_ne!(relay(&proxy), before);
    }
    assert!(!matches!(cut.read(&mut [0]), Ok(1)), "it is over");
}

#[test]
fn a_relay_that_does_not_answer_holds_up_no_change_for_long() {
    let port = reserve();
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let proxy = Setup::to(port.address, &[a.address]).start();
    kill_process(relay(&proxy), Signal::STOP).expect("stopped");
    proxy.update(Setup::to(port.address, &[b.address]).0).expect("in force");
    let mut stream = connect(port.address);
    let mut name = [0];
    stream.read_exact(&mut name).expect("a name");
    assert_eq!(name, *b"b");
}

#[test]
fn a_relay_that_a_successor_has_told_to_end_finishes_its_connections_while_another_serves() {
    let port = reserve();
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let directory = tempfile::tempdir().expect("a directory");
    let door = directory.path().join("relay.sock");
    let has_door = |settings: &mut Settings| settings.door = Some(door.clone());
    let proxy = Setup::to(port.address, &[a.address]).start_as(&Locals::default(), has_door);
    let before = relay(&proxy);
    let mut open = connect(port.address);
    open.read_exact(&mut [0]).expect("a name");
    // The successor has the sockets, and is gone before it is in charge.
    drop(proxy.share().expect("it goes on").expect("its sockets"));
    retire_at(&door, Duration::from_secs(60));
    let begun = Instant::now();
    proxy.update(Setup::to(port.address, &[b.address]).0).expect("in force");
    let mut name = [0];
    connect(port.address).read_exact(&mut name).expect("a name");
    assert_eq!(name, *b"b");
    assert!(begun.elapsed() < Duration::from_secs(4), "nobody waits for who has hung up");
    assert_ne!(relay(&proxy), before);
    open.write_all(b"x").expect("written");
    open.read_exact(&mut name).expect("it goes on");
    assert_eq!(name, *b"x");
    let relay = proxy.status().expect("a status").relay.expect("a relay");
    assert_eq!((relay.restarts, relay.cut), (0, 0));
    proxy.shutdown();
    let _ = kill_process(before, Signal::KILL);
}

#[test]
fn a_relay_goes_with_the_process_that_started_it() {
    let port = reserve();
    let backend = TcpListener::bind(("127.0.0.1", 0)).expect("a backend");
    let apart = Apart::new(port.address, backend.local_addr().expect("its address"), 100);
    let process = format!("/proc/{}", apart.relay.as_raw_nonzero());
    connect(port.address).write_all(b"x").expect("written");
    assert!(Path::new(&process).exists());
    drop(apart);
    eventually("it has gone too", || !Path::new(&process).exists());
}
