//! Ends, and everything that the daemon refuses: with one clear message, the
//! right exit code, and what was in force still so.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use redirector_tests::redirector::{Answer, Redirector, without_mounts};
use redirector_tests::scene::Scene;

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");

fn scene(what: &str) -> Option<Scene> {
    Scene::new(what, PROGRAM)
}

#[test]
fn unload_asks_and_then_removes_everything() {
    let Some(scene) = scene("unload") else { return };
    let redirector = &scene.redirector;
    let daemon = redirector.start();
    let refused = redirector.ask("unload", &["--yes"]);
    assert_eq!(refused.exit, 1);
    assert!(refused.err.contains(&daemon.pid().to_string()), "{refused:?}");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(redirector.ask("unload", &[]).exit, 2, "nobody can be asked");
    assert_eq!(redirector.ask("unload", &["--yes"]).exit, 0);
    assert!(!redirector.place.pins().exists());
    assert!(!redirector.directory().join("state").exists());
    for command in ["status", "maps"] {
        let answer = redirector.ask(command, &[]);
        assert_eq!(answer.exit, 4, "{answer:?}");
        assert!(answer.err.contains("nothing is loaded"), "{answer:?}");
    }
}

#[test]
fn pins_at_the_mount_point_itself_go_and_what_others_pinned_there_stays() {
    let Some(scene) = scene("mountpoint") else { return };
    let redirector = &scene.redirector;
    let mount = redirector.place.bpffs.path();
    let somebody_elses = mount.join("somebody-elses");
    fs::create_dir(&somebody_elses).expect("a directory");
    let names = || -> std::collections::BTreeSet<_> {
        let entries = fs::read_dir(mount).expect("the mount").flatten();
        entries.map(|entry| entry.file_name()).collect()
    };
    let before = names();
    let on_mount = |name: &str| {
        let mut command = Command::new(&redirector.program);
        command.env_clear().arg(name).arg("--bpffs").arg(mount);
        command.arg("--state-dir").arg(redirector.directory().join("state"));
        command
    };
    let mut daemon = on_mount("run");
    daemon.arg("--config").arg(redirector.rules()).args(["--cgroup", &redirector.cgroup("")]);
    daemon.args(["--daemon-cgroup", "none", "--metrics-address", "none"]);
    let mut daemon = daemon.spawn().expect("a daemon");
    let begun = std::time::Instant::now();
    while !on_mount("status").status().expect("a status").success() {
        assert!(begun.elapsed() < std::time::Duration::from_secs(60), "never in force");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    daemon.kill().expect("killed");
    daemon.wait().expect("its end");
    let answer: Answer = on_mount("unload").arg("--yes").output().expect("an answer").into();
    assert_eq!(answer.exit, 0, "{answer:?}");
    assert_eq!(names(), before);
    assert!(somebody_elses.exists() && !redirector.directory().join("state").exists());
    for name in ["status", "unload"] {
        let answer: Answer = on_mount(name).output().expect("an answer").into();
        let wanted = if name == "status" { 4 } else { 2 };
        assert_eq!(answer.exit, wanted, "{answer:?}");
    }
}

#[test]
fn cgroups_of_killed_daemons_and_probes_go_with_unload_and_with_the_next_start() {
    let Some(scene) = scene("leftovers") else { return };
    let redirector = &scene.redirector;
    let root = redirector.place.cgroup.path();
    let (own, probe) = (root.join("daemon"), root.join("redirector-probe-4294967295-0"));
    let daemon = redirector.start();
    daemon.kill();
    assert!(own.exists(), "nobody removed it");
    fs::create_dir(&probe).expect("a cgroup");
    // The next one takes it over, and removes it when it ends.
    let daemon = redirector.start();
    assert!(!probe.exists());
    assert_eq!(daemon.stop(), 0);
    assert!(!own.exists());
    redirector.start().kill();
    fs::create_dir(&probe).expect("a cgroup");
    assert_eq!(redirector.ask("unload", &["--yes"]).exit, 0);
    assert!(!own.exists() && !probe.exists());
}

#[test]
fn the_name_of_a_refused_file_moves_no_cursor() {
    let Some(scene) = scene("escapes") else { return };
    scene.redirector.write("a\x1b[2J\nproblem: none.yaml", "kind: [half\n");
    let _daemon = scene.redirector.start();
    let status = scene.redirector.ask("status", &[]);
    let squeezed = |text: &str| text.split_whitespace().collect::<String>();
    assert!(squeezed(&status.out).contains("a\\u{1b}[2J\\nproblem:none.yaml"), "{status:?}");
    assert!(!status.out.contains('\x1b'), "{status:?}");
    let json = scene.redirector.status().json();
    let file = json["config"]["rejected"][0]["file"].as_str().unwrap();
    assert!(file.ends_with("/a\x1b[2J\nproblem: none.yaml"), "{file}");
}

#[test]
fn readers_name_a_bpffs_that_is_read_only() {
    let Some(scene) = scene("readonly") else { return };
    let _daemon = scene.redirector.start();
    let pins = scene.redirector.place.pins();
    let mount = CString::new(pins.parent().unwrap().as_os_str().as_bytes()).unwrap();
    let remount = |flags: libc::c_ulong| {
        let (none, flags) = (std::ptr::null(), flags | libc::MS_REMOUNT);
        // SAFETY: the path ends with a zero; the kernel asks for nothing else here.
        let result = unsafe { libc::mount(none, mount.as_ptr(), none, flags, none.cast()) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    };
    remount(libc::MS_RDONLY);
    let answers = ["maps", "status", "flows"].map(|name| scene.redirector.ask(name, &[]));
    remount(0);
    for answer in answers {
        assert_eq!(answer.exit, 3, "{answer:?}");
        assert!(answer.err.contains("read-only") && answer.err.contains("remount"), "{answer:?}");
    }
}

#[test]
fn everything_goes_with_detach_on_exit() {
    let Some(scene) = scene("detach") else { return };
    let mut child = scene.redirector.daemon_command().arg("--detach-on-exit").spawn().unwrap();
    scene.redirector.wait("the daemon", |status| status["generation"] == 1);
    // SAFETY: the child has not been waited for.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGINT) };
    assert!(child.wait().unwrap().success());
    assert!(!scene.redirector.place.pins().exists());
    assert_eq!(scene.redirector.status().exit, 4);
}

#[test]
fn a_second_daemon_is_refused_and_told_the_first() {
    let Some(scene) = scene("second") else { return };
    let daemon = scene.redirector.start();
    let first = daemon.pid().to_string();
    let answer: Answer = scene.redirector.daemon_command().output().unwrap().into();
    assert_eq!(answer.exit, 1);
    assert!(answer.err.contains(&first), "{answer:?}");
    assert_eq!(scene.answer(&scene.client()), "one");
}

/// What the program says when it cannot do what it should.
fn refused(command: &mut Command) -> Answer {
    command.output().expect("the program starts").into()
}

#[test]
fn what_is_missing_is_named_with_the_way_to_mend_it() {
    let Some(scene) = scene("missing") else { return };
    let redirector = &scene.redirector;
    let plain = |config: &Path, bpffs: &Path, cgroup: &str| {
        let mut command = Command::new(PROGRAM);
        command
            .env_clear()
            .arg("run")
            .arg("--config")
            .arg(config)
            .arg("--bpffs")
            .arg(bpffs)
            .arg("--state-dir")
            .arg(redirector.directory().join("state"))
            .args(["--cgroup", cgroup, "--metrics-address", "none"]);
        command
    };
    let (rules, pins) = (redirector.rules(), redirector.place.pins());
    let cgroup = redirector.cgroup("");

    let answer = refused(&mut plain(&rules, &pins, "no/such/cgroup"));
    assert_eq!(answer.exit, 1, "{answer:?}");
    assert!(answer.err.contains("no/such/cgroup does not exist"), "{answer:?}");

    let answer = refused(&mut plain(Path::new("/no/such/rules"), &pins, &cgroup));
    assert_eq!(answer.exit, 1, "{answer:?}");
    assert!(answer.err.contains("/no/such/rules cannot be read"), "{answer:?}");

    let answer = refused(&mut plain(&rules, &redirector.directory().join("pins"), &cgroup));
    assert_eq!(answer.exit, 3, "{answer:?}");
    assert!(answer.err.contains("not on a bpffs") && answer.err.contains("mount -t bpf"));

    let mut command = plain(&rules, &pins, &cgroup);
    without_mounts(&mut command, vec![redirector_tests::cgroup::mount()]);
    let answer = refused(&mut command);
    assert_eq!(answer.exit, 3, "{answer:?}");
    assert!(answer.err.contains("no cgroup2 hierarchy is mounted"), "{answer:?}");

    let _ = fs::remove_dir_all(redirector.directory().join("state"));
    let mut command = stranger(redirector);
    command.args(plain(&rules, &pins, &cgroup).get_args());
    let answer = refused(&mut command);
    assert_eq!(answer.exit, 3, "{answer:?}");
    assert!(answer.err.contains("CAP_BPF"), "{answer:?}");
}

/// The program, run by somebody without privilege who may use the directories.
fn stranger(redirector: &Redirector) -> Command {
    let open = fs::Permissions::from_mode(0o1777);
    fs::set_permissions(redirector.directory(), open.clone()).expect("a mode");
    fs::set_permissions(redirector.place.bpffs.path(), open).expect("a mode");
    let copy = redirector.directory().join("program");
    fs::copy(PROGRAM, &copy).expect("a copy of the program");
    let mut command = Command::new(&copy);
    command.env_clear().uid(65_534).gid(65_534);
    command
}

#[test]
fn the_tables_are_for_those_with_privilege_only_and_it_is_said_so() {
    let Some(scene) = scene("stranger") else { return };
    let redirector = &scene.redirector;
    let _daemon = redirector.start();
    for name in ["status", "maps"] {
        let mut command = stranger(redirector);
        command.arg(name).arg("--bpffs").arg(redirector.place.pins());
        command.arg("--state-dir").arg(redirector.directory().join("state"));
        let answer = refused(&mut command);
        assert_eq!(answer.exit, 3, "{answer:?}");
        let says = answer.err.contains("Run it as root") && answer.err.contains("--read-group");
        assert!(says, "{answer:?}");
    }
    // As systemd mounts it.
    let copy = stranger(redirector).get_program().to_owned();
    let closed = fs::Permissions::from_mode(0o700);
    fs::set_permissions(redirector.place.bpffs.path(), closed).expect("a mode");
    let to = "127.96.0.10:19000";
    for args in [
        &["status"][..],
        &["explain", "--from-namespace", "x", "--to", to],
        &["flows", "--last", "1"],
        &["unload", "--yes"],
        &["bypass", "--end"],
        &["rollback"],
    ] {
        let mut command = Command::new(&copy);
        command.env_clear().uid(65_534).gid(65_534).args(args);
        command.arg("--bpffs").arg(redirector.place.pins());
        command.arg("--state-dir").arg(redirector.directory().join("state"));
        let answer = refused(&mut command);
        assert_eq!(answer.exit, 3, "{args:?}: {answer:?}");
        assert!(answer.err.contains("Run it as root"), "{args:?}: {answer:?}");
        assert!(!answer.err.contains("nothing is loaded"), "{args:?}: {answer:?}");
    }
}

#[test]
fn what_is_refused_does_not_date_anew_what_is_in_force() {
    let Some(scene) = Scene::new("dated", PROGRAM) else { return };
    let redirector = &scene.redirector;
    let _daemon = redirector.start();
    let made = || {
        let history = redirector.ask("history", &["--output", "json"]).json();
        history["generations"][0]["made"].as_u64().expect("a time")
    };
    let before = made();
    // Times are in seconds.
    while UNIX_EPOCH.elapsed().expect("a time").as_secs() <= before {
        thread::sleep(Duration::from_millis(50));
    }
    redirector.write("bad.yaml", "a: [");
    redirector.wait("the refusal", |status| status["config"]["rejected"][0].is_object());
    assert_eq!(made(), before);
}
