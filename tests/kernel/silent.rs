//! A daemon that is stopped: who asks it is told, and what helps.

use std::time::{Duration, Instant};

use redirector_tests::redirector::Answer;
use redirector_tests::scene::{Scene, to};

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");

#[test]
fn a_daemon_that_is_stopped_is_told_as_that_at_once_with_what_helps() {
    let Some(scene) = Scene::new("silent", PROGRAM) else { return };
    let redirector = &scene.redirector;
    redirector.write("rules.yaml", &to("nowhere"));
    let daemon = redirector.start();
    daemon.signal(libc::SIGSTOP);
    let begun = Instant::now();
    let helps = format!("kill -9 {}", daemon.pid());

    let status = redirector.status();
    let problems = status.json()["problems"].to_string();
    assert!(status.exit == 1 && problems.contains(&helps), "{status:?}");
    let doctor = redirector.ask("doctor", &["--output", "json"]);
    let checks = doctor.json()["checks"].as_array().cloned().expect("a list");
    let of_daemon = checks.iter().find(|one| one["check"] == "daemon").expect("it is looked at");
    assert_eq!(of_daemon["outcome"], "failed", "{doctor:?}");
    assert!(of_daemon["remedy"].to_string().contains(&helps), "{doctor:?}");
    for (name, args) in [
        ("bypass", &["--workload", "default/client"][..]),
        ("rollback", &[]),
        ("reload", &[]),
        ("log-level", &["debug"]),
    ] {
        let answer = redirector.ask(name, args);
        assert!(answer.exit == 1 && answer.err.contains(&helps), "{name}: {answer:?}");
    }
    let successor = redirector.daemon_command().arg("--replace").output();
    let successor = Answer::from(successor.expect("it starts"));
    assert!(successor.exit == 1 && successor.err.contains(&helps), "{successor:?}");
    for (name, args) in [
        ("history", &[][..]),
        ("rollback", &["--list"]),
        ("flows", &["--last", "1"]),
        ("maps", &["names"]),
        ("top", &["--count", "1", "--interval", "100ms"]),
    ] {
        let answer = redirector.ask(name, args);
        assert_eq!(answer.exit, 0, "{name}: {answer:?}");
        assert!(answer.err.contains("does not answer"), "{name}: {answer:?}");
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(60), "{took:?}");

    // What was asked of it meanwhile does not happen later, and what it is told helps.
    daemon.signal(libc::SIGCONT);
    let status = redirector.wait("the daemon", |status| status["healthy"] == true);
    assert_eq!(status["bypassed"], serde_json::json!([]), "{status:#}");
    daemon.signal(libc::SIGSTOP);
    daemon.kill();
    let bypass = redirector.ask("bypass", &["--workload", "default/client"]);
    assert_eq!(bypass.exit, 0, "{bypass:?}");
    let answer = scene.answer(&scene.client());
    assert!(["one", "two"].contains(&&*answer), "{answer}");
}
