//! `redirector reload`, and what the log says of changes.

use std::fs;
use std::os::unix::fs::MetadataExt;

use redirector_tests::scene::{Scene, split};

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");

#[test]
fn reload_answers_when_what_was_written_is_in_force_or_refused() {
    let Some(scene) = Scene::new("reload", PROGRAM) else { return };
    let redirector = &scene.redirector;
    redirector.write("rules.yaml", &split(&[("one", 100)]));
    let daemon = redirector.start();
    let reload = || redirector.ask("reload", &["--output", "json"]);
    let same = reload();
    assert_eq!(same.exit, 0, "{same:?}");
    assert_eq!(same.json()["generation"], same.json()["before"], "{same:?}");

    redirector.write("rules.yaml", &split(&[("one", 50), ("two", 50)]));
    let changed = reload();
    assert_eq!(changed.exit, 0, "{changed:?}");
    // What it says is in force at that moment.
    assert_eq!(changed.json()["generation"], redirector.generation(), "{changed:?}");
    assert_eq!(redirector.generation(), 2);
    let log = daemon.log();
    let said = "generation=2 objects=\"VirtualService/default/echo\"";
    assert!(log.contains(said), "the log names what changed: {log}");

    redirector.write("rules.yaml", &split(&[("one", 50), ("two", 50)]).replace("50", "-5"));
    let refused = reload();
    assert_eq!(refused.exit, 1, "{refused:?}");
    let rejected = refused.json()["rejected"].to_string();
    assert!(rejected.contains("VirtualService/default/echo"), "{refused:?}");
    let text = redirector.ask("reload", &[]);
    assert!(text.exit == 1 && text.out.contains("nothing has changed"), "{text:?}");
    assert!(text.out.contains("problem: ") && text.out.contains("-5"), "{text:?}");
    daemon.kill();
    let alone = redirector.ask("reload", &[]);
    assert!(alone.exit == 1 && alone.err.contains("no daemon runs"), "{alone:?}");
}

#[test]
fn each_line_begins_with_its_priority_where_standard_error_is_the_journal() {
    let Some(scene) = Scene::new("journal", PROGRAM) else { return };
    let redirector = &scene.redirector;
    let log = redirector.directory().join("journal");
    let file = fs::File::create(&log).expect("a file");
    let meta = file.metadata().expect("its status");
    let mut command = std::process::Command::new(&redirector.program);
    command.env_clear().env("JOURNAL_STREAM", format!("{}:{}", meta.dev(), meta.ino()));
    // It says what it attaches to, and then why that cannot be.
    command.args(["run", "--cgroup", &redirector.cgroup(""), "--config"]).arg(redirector.rules());
    command.arg("--bpffs").arg(redirector.directory()).stderr(file);
    assert_eq!(command.status().expect("it starts").code(), Some(3));
    let said = fs::read_to_string(&log).expect("text");
    let begins = |with: &str| said.lines().any(|line| line.starts_with(with));
    assert!(begins("<6>") && begins("<3>error: "), "{said}");
    assert!(said.lines().all(|line| line.starts_with('<')), "{said}");
}
