//! What somebody else can do, or use up: nobody else pays for it.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::{chown, lchown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use redirector_tests::redirector::Daemon;
use redirector_tests::scene::{Scene, dial, free, gateway, to};

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");

/// Nobody.
const USER: u32 = 65534;

/// Sets how many descriptors a daemon may have, and may make of it.
fn limit(daemon: &Daemon, descriptors: u64, most: u64) {
    let limit = libc::rlimit { rlim_cur: descriptors, rlim_max: most };
    let pid = daemon.pid().cast_signed();
    // SAFETY: the structure outlives the call, and no earlier limit is asked for.
    let set =
        unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// Waits for a line of a daemon's log.
fn until_logged(daemon: &Daemon, line: &str) {
    let begun = Instant::now();
    while !daemon.log().contains(line) {
        assert!(begun.elapsed() < Duration::from_secs(60), "no {line}: {}", daemon.log());
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_workload_stays_known_while_descriptors_have_run_out_and_goes_with_its_cgroup() {
    let Some(scene) = Scene::new("descriptors", PROGRAM) else { return };
    let redirector = &scene.redirector;
    let rule =
        to("two").replace("  - route", "  - match: [{sourceLabels: {app: client}}]\n    route");
    redirector.write("rules.yaml", &rule);
    let daemon = redirector.start();
    assert_eq!(scene.answer(&scene.client()), "two");
    let log = daemon.log();
    let mut lines = log.lines().filter(|line| line.contains("workload known"));
    assert!(lines.any(|line| line.contains("source=\"default/client\" key=")), "{log}");
    limit(&daemon, 3, 4096);
    until_logged(&daemon, "cannot be told");
    assert_eq!(scene.answer(&scene.client()), "two");
    limit(&daemon, 4096, 4096);
    fs::remove_dir(scene.client()).expect("nobody is in it");
    until_logged(&daemon, "workload gone");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_gateway_that_has_no_descriptor_left_for_a_client_says_so_and_serves_him_once_it_has() {
    let Some(scene) = Scene::new("starved", PROGRAM) else { return };
    let redirector = &scene.redirector;
    let address = free([127, 0, 0, 6]);
    let daemon = redirector.start();
    // What relays begins with what the daemon has.
    limit(&daemon, 256, 256);
    redirector.write("edge.yaml", &gateway(address, "two"));
    redirector.wait("its answer", |_| dial(address) == "two");
    let clients: Vec<_> =
        (0..200).map(|_| TcpStream::connect(address).expect("the kernel takes it")).collect();
    let word = format!("Gateway/default/edge servers[0] at {address} lets clients wait");
    let status =
        redirector.wait("a warning", |status| status["warnings"].to_string().contains(&word));
    assert_eq!(status["starvedGateways"][0]["address"], address.to_string(), "{status:#}");
    drop(clients);
    assert_eq!(dial(address), "two");
}

#[test]
fn what_a_user_puts_in_place_of_a_namespace_is_refused_and_nobody_waits_for_it() {
    let Some(scene) = Scene::new("no-namespace", PROGRAM) else { return };
    let redirector = &scene.redirector;
    let root = redirector.directory().join("run");
    let theirs = root.join("theirs");
    fs::create_dir_all(&theirs).expect("directories");
    chown(&theirs, Some(USER), Some(USER)).expect("theirs");
    let fifo = |path: &Path| {
        assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
    };
    fifo(&root.join("fifo"));
    fifo(&theirs.join("fifo"));
    symlink("/proc/self/ns/net", root.join("link")).expect("a link");
    lchown(root.join("link"), Some(USER), Some(USER)).expect("their link");
    symlink("/proc/self/ns/net", root.join("ours")).expect("a link");
    let entry = |(number, below): (usize, &str)| {
        format!(
            "---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: w{number}, annotations: {{redirector.io/netns: {path}}}}}
spec: {{address: 127.0.0.{}, labels: {{app: spaced}}}}
",
            number + 20,
            path = root.join(below).display(),
        )
    };
    let entries =
        ["fifo", "theirs/fifo", "link", "gone", "ours"].into_iter().enumerate().map(entry);
    redirector.write("spaced.yaml", &entries.collect::<String>());
    let daemon = redirector.start();
    for why in [
        "no namespace is mounted there",
        "belongs to user 65534",
        "link is a link of user 65534",
        "run/gone does not exist",
    ] {
        until_logged(&daemon, why);
    }
    until_logged(&daemon, "workload known source=\"default/w4\"");
    redirector.change("a change", || redirector.write("rules.yaml", &to("two")));
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_pin_directory_that_a_user_has_made_is_refused() {
    let Some(scene) = Scene::new("squatted", PROGRAM) else { return };
    let redirector = &scene.redirector;
    let pins = redirector.place.pins();
    fs::create_dir(&pins).expect("a directory");
    chown(&pins, Some(USER), Some(USER)).expect("theirs");
    let daemon = redirector.launch(&[], Stdio::null());
    until_logged(&daemon, "belongs to user 65534");
    assert_ne!(daemon.wait(), 0);
    chown(&pins, Some(0), Some(0)).expect("ours");
    assert_eq!(redirector.start().stop(), 0);
}

#[test]
fn a_bpffs_that_goes_is_told_and_everything_is_pinned_again_when_it_is_back() {
    let Some(scene) = Scene::new("unmounted", PROGRAM) else { return };
    let redirector = &scene.redirector;
    let daemon = redirector.start();
    let bpffs = redirector.place.bpffs.path();
    let run = |command: &str, args: &[&str]| {
        let status = Command::new(command).args(args).arg(bpffs).status();
        assert!(status.expect("it starts").success(), "{command}");
    };
    run("umount", &["-l"]);
    until_logged(&daemon, "is not pinned");
    assert_eq!(scene.answer(&scene.client()), "one", "it is in force all the same");
    run("mount", &["-t", "bpf", "-o", "mode=0700", "bpf"]);
    redirector.wait("its pins", |status| status["healthy"] == true);
    assert_eq!(daemon.stop(), 0);
    assert_eq!(scene.answer(&scene.client()), "one", "pinned again, it outlives the daemon");
}
