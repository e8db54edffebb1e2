//! What `doctor` says, before anything is loaded and after, and `status` from where the
//! served cgroups cannot be seen.

use std::fs;
use std::path::Path;
use std::process::Command;

use redirector_tests::cgroup;
use redirector_tests::redirector::Answer;
use redirector_tests::scene::{Scene, split};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");

/// The checks that did not turn out like that.
fn others(answer: &Answer, outcomes: &[&str]) -> Vec<Value> {
    let checks = answer.json()["checks"].as_array().cloned().expect("a list");
    let other = |check: &Value| !outcomes.contains(&check["outcome"].as_str().unwrap_or_default());
    checks.into_iter().filter(other).collect()
}

#[test]
fn doctor_finds_nothing_before_and_after_and_names_what_was_broken() {
    let Some(scene) = Scene::new("doctor", PROGRAM) else { return };
    let redirector = &scene.redirector;
    let served = redirector.cgroup("");
    let ask = |more: &[&str]| {
        redirector.ask("doctor", &[&["--output", "json", "--cgroup", &served], more].concat())
    };
    let before = ask(&[]);
    assert_eq!(others(&before, &["fine"]), [] as [Value; 0], "{before:?}");
    assert_eq!((before.exit, &before.json()["loaded"]), (0, &Value::Bool(false)));

    redirector.write("rules.yaml", &split(&[("one", 100)]));
    let daemon = redirector.start();
    let rules = redirector.rules().to_string_lossy().into_owned();
    let after = ask(&["--config", &rules]);
    assert_eq!(others(&after, &["fine", "warning"]), [] as [Value; 0], "{after:?}");
    assert_eq!((after.exit, &after.json()["loaded"]), (0, &Value::Bool(true)));
    let text = redirector.ask("doctor", &[]);
    assert_eq!(text.exit, 0, "{text:?}");
    assert!(text.out.contains("ok      daemon: process"), "{text:?}");

    redirector.write("rules.yaml", "kind: VirtualService\nspec: {\n");
    redirector.wait("the refusal", |status| status["config"]["rejected"][0].is_object());
    let refused = ask(&["--config", &rules]);
    let failed = others(&refused, &["fine", "warning"]);
    assert!(failed.iter().any(|check| check["check"] == "documents"), "{refused:?}");
    assert!(failed.iter().any(|check| check["check"] == "in force"), "{refused:?}");
    assert_eq!(refused.exit, 1);
    daemon.kill();
    // A cgroup that is not there, and a directory in which something else lies.
    let full = redirector.directory().to_string_lossy().into_owned();
    let broken = redirector.command("doctor").args(["--output", "json"]).output();
    assert_eq!(Answer::from(broken.expect("it starts")).exit, 1, "no daemon, and refused");
    let program = Command::new(&redirector.program)
        .env_clear()
        .args(["doctor", "--output", "json", "--bpffs", &full, "--state-dir", &full])
        .args(["--cgroup", "no/such/cgroup"])
        .output();
    let broken = Answer::from(program.expect("it starts"));
    assert_eq!(broken.exit, 3, "{broken:?}");
    let remedy = |of: &str| {
        let all = others(&broken, &["fine"]);
        let found = all.into_iter().find(|check| check["check"] == of).expect("it failed");
        found["remedy"].as_str().unwrap_or_default().to_owned()
    };
    assert!(remedy("cgroups").contains("mkdir -p"), "{broken:?}");
    assert!(!remedy("bpffs").contains("mount -t"), "it would hide what is there: {broken:?}");
}

#[test]
fn status_from_where_the_cgroup_is_not_seen_does_not_say_that_it_has_gone() {
    let Some(scene) = Scene::new("unseen", PROGRAM) else { return };
    let redirector = &scene.redirector;
    redirector.write("rules.yaml", &split(&[("one", 100)]));
    let daemon = redirector.start();
    redirector.wait("the self-test", |status| status["selfTest"][0].is_object());
    let mount = cgroup::mount();
    let elsewhere = || {
        // Mounts of its own, without that of the cgroups.
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", "umount -l \"$0\"; exec \"$@\""]).arg(&mount);
        let status = redirector.command("status");
        command.arg(status.get_program()).args(status.get_args()).args(["--output", "json"]);
        Answer::from(command.output().expect("unshare starts"))
    };
    let seen = elsewhere();
    assert_eq!(seen.exit, 0, "the daemon is there, and has tried it: {seen:?}");
    assert_eq!(seen.json()["selfTest"].as_array().map(Vec::len), Some(2), "{seen:?}");
    daemon.kill();
    let alone = elsewhere();
    assert_eq!(alone.exit, 1, "{alone:?}");
    let problems = alone.json()["problems"].to_string();
    assert!(problems.contains("cannot be told") && !problems.contains("gone"), "{problems}");
    assert!(fs::exists(redirector.place.cgroup.path()).expect("it is told"));
}

/// Where something may have been mounted, and is no longer when this is dropped.
struct Unmounted<'p>(&'p Path);

impl Drop for Unmounted<'_> {
    fn drop(&mut self) {
        // Pins go first: they hold what is pinned also in a mount that is gone from sight.
        for entry in fs::read_dir(self.0).into_iter().flatten().flatten() {
            let _ = fs::remove_dir_all(entry.path());
        }
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
        let _ = fs::remove_dir(self.0);
    }
}

#[test]
fn a_bpffs_that_was_unmounted_under_a_daemon_is_mounted_as_is_said_and_then_all_holds_again() {
    let Some(scene) = Scene::new("unmounted", PROGRAM) else { return };
    let redirector = &scene.redirector;
    redirector.write("rules.yaml", &split(&[("one", 100)]));
    let _daemon = redirector.start();
    let pins = redirector.place.pins();
    let _mounted = Unmounted(&pins);
    let mount = pins.parent().expect("the mount");
    let status = Command::new("umount").arg("-l").arg(mount).status();
    assert!(status.expect("umount starts").success());

    let doctor = || redirector.ask("doctor", &["--output", "json"]);
    let broken = doctor();
    let all = others(&broken, &["fine", "warning"]);
    let bpffs = all.iter().find(|check| check["check"] == "bpffs").expect("it failed");
    let remedy = bpffs["remedy"].as_str().unwrap_or_default();
    let command = remedy.strip_prefix("mount one: ").expect(remedy);
    assert!(command.ends_with(&*pins.to_string_lossy()), "{command}");
    // Whoever is asked says the same.
    let status = redirector.wait("the daemon's word", |status| {
        status["problems"].to_string().contains("may end with the daemon")
    });
    for problem in status["problems"].as_array().expect("problems") {
        let problem = problem.as_str().unwrap_or_default();
        assert!(problem.contains(command) && !problem.contains("/sys/fs/bpf"), "{problem}");
    }
    let answer = redirector.ask("maps", &["all"]);
    assert!(answer.err.contains(command) && answer.err.contains("by itself"), "{answer:?}");

    let mended = Command::new("sh").args(["-ec", command]).status();
    assert!(mended.expect("sh starts").success());
    redirector.wait("all again", |status| status["healthy"] == true);
    let mended = doctor();
    assert_eq!(others(&mended, &["fine", "warning"]), [] as [Value; 0], "{mended:?}");
}
