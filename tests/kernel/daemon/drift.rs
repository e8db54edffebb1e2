//! What somebody deletes, removes or detaches behind the daemon's back.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData};
use redirector_common::abi::{FrontendKey, SELF_TEST_ADDR, Verdict};
use redirector_tests::load::{Load, Standing};
use redirector_tests::program;
use redirector_tests::scene::{ECHO, to};

use super::scene;

#[test]
fn entries_that_are_deleted_behind_its_back_come_back() {
    let Some(scene) = scene("entries") else { return };
    let redirector = &scene.redirector;
    let daemon = redirector.start();
    let pin = redirector.place.pins().join("current/FRONTENDS");
    let map = Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap();
    let mut frontends: HashMap<_, FrontendKey, Verdict> = HashMap::try_from(map).unwrap();
    let keys: Vec<FrontendKey> = frontends.keys().map(Result::unwrap).collect();
    for key in keys.iter().filter(|key| key.addr != SELF_TEST_ADDR) {
        frontends.remove(key).unwrap();
    }
    let begun = Instant::now();
    while scene.answer(&scene.client()) != "one" {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", daemon.log());
        thread::sleep(Duration::from_millis(50));
    }
    redirector.wait("the repair", |status| {
        status["healthy"] == true && status["drift"]["repaired"].as_u64() > Some(0)
    });
}

/// Removes a directory in which the daemon may make pins again meanwhile.
fn remove_all(directory: &Path) {
    while let Err(error) = fs::remove_dir_all(directory) {
        assert_eq!(error.kind(), ErrorKind::DirectoryNotEmpty, "{error}");
    }
}

#[test]
fn pins_that_are_removed_behind_its_back_are_made_again() {
    let Some(scene) = scene("pins") else { return };
    let redirector = &scene.redirector;
    let daemon = redirector.start();
    let (load, standing) = (Load::start(&scene, 1), Standing::open(&scene));
    for round in 0..2 {
        remove_all(&redirector.place.pins());
        redirector.wait("the repair", |status| {
            status["healthy"] == true && status["drift"]["repaired"].as_u64() > Some(round)
        });
        redirector.change("a change", || redirector.write("rules.yaml", &to("two")));
        assert_eq!(scene.answer(&scene.client()), "two");
        redirector.change("a change", || redirector.write("rules.yaml", &to("one")));
    }
    // The daemon holds what is pinned: meanwhile nothing was detached or forgotten.
    load.end("pins removed", 2, &["one", "two"]);
    assert_eq!(standing.close(), ECHO);
    assert_eq!(daemon.stop(), 0);
    assert_eq!(scene.answer(&scene.client()), "one", "and they hold without it again");
}

#[test]
fn pins_that_were_removed_while_no_daemon_ran_are_told_of_and_all_is_in_force_again_at_once() {
    const TOLD: &str = "were removed while none ran";
    let Some(scene) = scene("lost") else { return };
    let redirector = &scene.redirector;
    assert_eq!(redirector.start().stop(), 0);
    let generation = redirector.generation();
    assert_eq!(scene.answer(&scene.client()), "one");
    fs::remove_dir_all(redirector.place.pins()).unwrap();
    let answer = redirector.status();
    assert_eq!(answer.exit, 4, "{answer:?}");
    assert!(answer.err.contains("somebody has removed it since"), "{answer:?}");
    // Links end with their pins, once the kernel has waited for who may use them.
    let begun = Instant::now();
    while scene.answer(&scene.client()) == "one" {
        assert!(begun.elapsed() < Duration::from_secs(60), "links end with their pins");
        thread::sleep(Duration::from_millis(20));
    }

    // What was in force is so before the sources are read: standard input is one, and
    // does not end.
    let mut daemon = redirector.launch(&["--config", "-"], Stdio::piped());
    let begun = Instant::now();
    while scene.answer(&scene.client()) != "one" {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", daemon.log());
        thread::sleep(Duration::from_millis(20));
    }
    assert!(daemon.log().contains(TOLD), "{}", daemon.log());
    assert!(!daemon.log().contains("INFO in force"), "{}", daemon.log());
    daemon.end_input();
    let status = redirector
        .wait("the word", |status| status["healthy"] == true && status["drift"]["repaired"] == 1);
    assert!(status["generation"].as_u64() > Some(generation), "{status:#}");
    redirector.change("a change", || redirector.write("rules.yaml", &to("two")));
    assert_eq!(scene.answer(&scene.client()), "two");
    assert_eq!(daemon.stop(), 0);

    // Pins that are there, another boot of the machine, and what was unloaded: nothing
    // was lost.
    let told = |why: &str| {
        let daemon = redirector.start();
        assert!(!daemon.log().contains(TOLD), "{why}: {}", daemon.log());
        assert_eq!(redirector.status().json()["drift"]["repaired"], 0, "{why}");
        assert_eq!(scene.answer(&scene.client()), "two", "{why}");
        assert_eq!(daemon.stop(), 0);
    };
    told("a restart");
    let report = redirector.directory().join("state/report.json");
    let mut text: serde_json::Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    assert!(text["pinned"]["boot"].is_string(), "{text:#}");
    text["pinned"]["boot"] = "of another boot".into();
    fs::write(&report, text.to_string()).unwrap();
    fs::remove_dir_all(redirector.place.pins()).unwrap();
    told("another boot");
    assert_eq!(redirector.ask("unload", &["--yes"]).exit, 0);
    told("unloaded");
}

#[test]
fn a_detached_program_is_noticed_and_attached_again() {
    let Some(scene) = scene("drift") else { return };
    let redirector = &scene.redirector;
    let _daemon = redirector.start();
    let mut links = Vec::new();
    collect(&redirector.place.pins().join("links"), &mut links);
    assert!(!links.is_empty());
    for link in links.iter().filter(|link| !link.is_symlink()) {
        program::detach(link);
    }
    redirector.wait("the repair", |status| {
        status["healthy"] == true && status["drift"]["repaired"].as_u64() > Some(0)
    });
    assert_eq!(scene.answer(&scene.client()), "one");
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        // A link beside the pins says which cgroup they are of.
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}
