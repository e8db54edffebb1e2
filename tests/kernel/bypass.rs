//! Break-glass: what is left alone goes as if no rule matched, with a daemon and
//! without one.

use std::thread;
use std::time::Duration;

use redirector::state::StateDir;
use redirector_tests::mount::SmallDisk;
use redirector_tests::scene::{ECHO, Scene, to};

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");

const WORKLOAD: [&str; 2] = ["--workload", "default/client"];
const RULE: [&str; 2] = ["--rule", "VirtualService/default/echo"];

/// A scene whose rule refuses everything, so that what is left alone is told at
/// once from what is not.
fn scene(what: &str) -> Option<Scene> {
    let scene = Scene::new(what, PROGRAM)?;
    scene.redirector.write("rules.yaml", &to("nowhere"));
    Some(scene)
}

/// Whether a service's own endpoint answers the client, and not the rule.
fn is_left_alone(scene: &Scene) -> bool {
    let answer = scene.answer(&scene.client());
    match &*answer {
        "one" | "two" => true,
        refused if refused.contains("refused") => false,
        other => panic!("{other}"),
    }
}

fn bypass(scene: &Scene, target: &[&str], args: &[&str]) {
    let answer = scene.redirector.ask("bypass", &[target, args].concat());
    assert_eq!(answer.exit, 0, "{answer:?}");
}

#[test]
fn what_is_bypassed_is_left_alone_until_its_time_is_over() {
    let Some(scene) = scene("bypass") else { return };
    let redirector = &scene.redirector;
    let _daemon = redirector.start();
    assert!(!is_left_alone(&scene));
    for target in [WORKLOAD, RULE] {
        bypass(&scene, &target, &["--for", "1h"]);
        assert!(is_left_alone(&scene), "{target:?}");
        let status = redirector.status().json();
        assert_eq!(status["healthy"], true, "{status:#}");
        assert_eq!(status["drift"]["entries"], 0, "{status:#}");
        let kind = target[0].trim_start_matches("--");
        assert_eq!(status["bypassed"][0][kind], target[1], "{status:#}");
        let args = ["--from-workload", "default/client", "--to", ECHO, "--output", "json"];
        let explanation = redirector.ask("explain", &args).json();
        assert_eq!(explanation["rule"], serde_json::Value::Null, "{explanation:#}");
        assert!(explanation["notes"].to_string().contains("is bypassed"), "{explanation:#}");
        bypass(&scene, &target, &["--end"]);
        assert!(!is_left_alone(&scene), "{target:?}");
    }
    bypass(&scene, &WORKLOAD, &["--for", "2s"]);
    assert!(is_left_alone(&scene));
    redirector.wait("the end of its time", |status| status["bypassed"] == serde_json::json!([]));
    // That is written down before it comes in force.
    redirector.wait("the rule again", |_| !is_left_alone(&scene));
    for (wrong, said) in [
        (["--workload", "default/nobody"], "no Pod or WorkloadEntry default/nobody"),
        (["--rule", "default/nothing"], "no VirtualService/default/nothing"),
    ] {
        let answer = redirector.ask("bypass", &wrong);
        assert_eq!(answer.exit, 1, "{answer:?}");
        assert!(answer.err.contains(said), "{answer:?}");
    }
}

#[test]
fn a_bypass_needs_no_daemon_and_the_next_one_keeps_it() {
    let Some(scene) = scene("bypassalone") else { return };
    let redirector = &scene.redirector;
    redirector.start().kill();
    bypass(&scene, &WORKLOAD, &["--for", "1h"]);
    assert!(is_left_alone(&scene));
    let status = redirector.status();
    assert_eq!(status.exit, 0, "{status:?}");
    bypass(&scene, &[], &["--end"]);
    assert!(!is_left_alone(&scene));

    bypass(&scene, &RULE, &["--for", "1h"]);
    let generation = redirector.generation();
    let daemon = redirector.start();
    assert!(is_left_alone(&scene));
    assert_eq!(redirector.generation(), generation, "nothing changed");
    daemon.kill();
    // One that is over when the daemon comes is not taken up again.
    let none = redirector.ask("bypass", &[&RULE[..], &["--for", "0s"]].concat());
    assert!(none.exit == 2 && none.err.contains("at least 1s"), "{none:?}");
    bypass(&scene, &RULE, &["--for", "1s"]);
    thread::sleep(Duration::from_millis(1_100));
    assert!(is_left_alone(&scene));
    let warnings = redirector.status().json()["warnings"].to_string();
    assert!(warnings.contains("no daemon runs to end it"), "{warnings}");
    let _daemon = redirector.start();
    assert!(!is_left_alone(&scene));
}

#[test]
fn a_bypass_that_cannot_be_written_down_is_none_and_says_what_helps() {
    let Some(scene) = scene("bypassfull") else { return };
    let redirector = &scene.redirector;
    let disk = SmallDisk::new(&redirector.directory().join("state"));
    let daemon = redirector.start();
    disk.fill();
    let refused = || {
        let answer = redirector.ask("bypass", &WORKLOAD);
        assert_eq!(answer.exit, 1, "{answer:?}");
        assert!(answer.err.contains("nothing is changed") && answer.err.contains("make room"));
        assert!(!is_left_alone(&scene));
        assert_eq!(redirector.status().json()["bypassed"], serde_json::json!([]));
    };
    refused();
    daemon.kill();
    refused();
    disk.empty();
    bypass(&scene, &WORKLOAD, &["--for", "1h"]);
    assert!(is_left_alone(&scene));
}

#[test]
fn a_bypass_without_the_state_directory_is_told_what_is_lost() {
    let Some(scene) = scene("bypasslost") else { return };
    let redirector = &scene.redirector;
    redirector.start().kill();
    let state = redirector.directory().join("state");
    std::fs::remove_dir_all(&state).expect("it was there");
    for args in [&WORKLOAD[..], &["--end"]] {
        let answer = redirector.ask("bypass", args);
        assert_eq!(answer.exit, 1, "{answer:?}");
        for said in [&*state.to_string_lossy(), "by name", "--state-dir", "redirector run"] {
            assert!(answer.err.contains(said), "{said}: {answer:?}");
        }
    }
    assert!(!state.exists(), "nothing is made there");
    assert!(!is_left_alone(&scene));
}

/// A bypass that is refused because of the journal, and changes nothing.
fn refused_by_the_journal(scene: &Scene) {
    let before = scene.redirector.status().json();
    for args in [&WORKLOAD[..], &["--end"]] {
        let answer = scene.redirector.ask("bypass", args);
        assert_eq!(answer.exit, 1, "{args:?}: {answer:?}");
        for said in ["cannot be made again", "the journal is damaged", "nothing is changed"] {
            assert!(answer.err.contains(said), "{said}: {answer:?}");
        }
    }
    let after = scene.redirector.status().json();
    assert_eq!(after["generation"], before["generation"], "{after:#}");
    assert_eq!(after["bypassed"], serde_json::json!([]));
}

#[test]
fn a_bypass_does_not_take_away_what_a_damaged_journal_has_lost() {
    let Some(scene) = scene("bypassdamage") else { return };
    let redirector = &scene.redirector;
    redirector.start().kill();
    redirector.damage_journal(0);
    refused_by_the_journal(&scene);
    assert!(!is_left_alone(&scene));
    let status = redirector.status();
    assert_eq!((status.exit, status.out.contains("cannot be read")), (1, true), "{status:?}");
    // Nor is anything told by what is left.
    for source in [["--from-workload", "default/client"], ["--from-namespace", "default"]] {
        let answer = redirector.ask("explain", &[&source[..], &["--to", ECHO]].concat());
        assert!(answer.exit == 1 && answer.err.contains("not known by name"), "{answer:?}");
    }

    let _daemon = redirector.start();
    assert!(!is_left_alone(&scene));
    assert_eq!(redirector.status().json()["healthy"], true);
    bypass(&scene, &WORKLOAD, &[]);
    assert!(is_left_alone(&scene));
}

#[test]
fn a_held_configuration_does_not_give_way_to_what_a_damaged_journal_has_left_of_it() {
    let Some(scene) = Scene::new("bypassheld", PROGRAM) else { return };
    let redirector = &scene.redirector;
    let _daemon = redirector.start();
    redirector.change("another rule", || redirector.write("rules.yaml", &to("two")));
    assert_eq!(redirector.ask("rollback", &[]).exit, 0);
    redirector.damage_journal(0);
    refused_by_the_journal(&scene);
    assert_eq!(scene.answer(&scene.client()), "one");

    assert_eq!(redirector.ask("rollback", &["--release"]).exit, 0);
    assert_eq!(scene.answer(&scene.client()), "two");
}

#[test]
fn a_bypass_outlives_a_change_and_is_no_change_to_roll_back() {
    let Some(scene) = scene("bypassback") else { return };
    let redirector = &scene.redirector;
    let _daemon = redirector.start();
    redirector.change("another rule", || redirector.write("rules.yaml", &to("one")));
    bypass(&scene, &RULE, &["--for", "1h"]);
    // A third, which changes no table while it is bypassed.
    redirector.write("rules.yaml", &to("none"));
    let state = StateDir::new(redirector.directory().join("state"));
    let generation = redirector.generation();
    redirector.wait("the word about the third", |_| {
        let kept = state.snapshot(generation).expect("the journal").expect("what is in force");
        format!("{:?}", kept.contents.objects).contains("\"none\"")
    });
    assert!(is_left_alone(&scene));
    bypass(&scene, &[], &["--end"]);
    assert!(!is_left_alone(&scene));
    // Back to "one"; and further, to what there was at first.
    assert_eq!(redirector.ask("rollback", &[]).exit, 0);
    assert_eq!(scene.answer(&scene.client()), "one");
    bypass(&scene, &WORKLOAD, &["--for", "1h"]);
    bypass(&scene, &[], &["--end"]);
    assert_eq!(scene.answer(&scene.client()), "one", "the earlier one is still held");
    assert_eq!(redirector.ask("rollback", &[]).exit, 0);
    assert!(!is_left_alone(&scene));
}
