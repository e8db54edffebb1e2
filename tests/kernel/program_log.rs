//! What the programs log: nothing unless asked, then each decision.

use std::thread;
use std::time::{Duration, Instant};

use redirector_tests::scene::Scene;

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");

/// How the programs tell of the first leg of the first route.
const LINE: &str = "leg 0 of route";

#[test]
fn the_programs_log_each_decision_when_asked_also_after_a_restart() {
    let Some(scene) = Scene::new("log-on", PROGRAM) else { return };
    // The second time the programs are there already.
    for round in ["the first daemon", "the next one"] {
        let daemon = scene.redirector.start_with(&["--program-log-level", "4"]);
        assert_eq!(scene.answer(&scene.client()), "one");
        let begun = Instant::now();
        while !daemon.log().contains(LINE) {
            assert!(begun.elapsed() < Duration::from_secs(60), "{round}: {}", daemon.log());
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(daemon.stop(), 0);
    }
}

#[test]
fn the_programs_log_nothing_unless_asked() {
    let Some(scene) = Scene::new("log-off", PROGRAM) else { return };
    let daemon = scene.redirector.start_with(&["--log-level", "trace"]);
    assert_eq!(scene.answer(&scene.client()), "one");
    // Longer than a reader takes to wake up.
    thread::sleep(Duration::from_secs(1));
    assert!(!daemon.log().contains(LINE), "{}", daemon.log());
}
