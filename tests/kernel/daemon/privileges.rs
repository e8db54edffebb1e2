//! What the daemon may do, and what it has given up when it serves.

use std::fs;

use redirector_tests::scene::free;

use super::scene;

/// What a daemon of a plain machine keeps that starts its relays itself: numbers as in
/// `linux/capability.h`, and names.
const KEPT: [(u32, &str); 13] = [
    (1, "DAC_OVERRIDE"),
    (5, "KILL"),
    (6, "SETGID"),
    (7, "SETUID"),
    (8, "SETPCAP"),
    (10, "NET_BIND_SERVICE"),
    (12, "NET_ADMIN"),
    (19, "SYS_PTRACE"),
    (21, "SYS_ADMIN"),
    (23, "SYS_NICE"),
    (28, "LEASE"),
    (38, "PERFMON"),
    (39, "BPF"),
];

/// Threads that read what others say: requests, and answers of DNS servers.
const OF_STRANGERS: [&str; 2] = ["server", "dns"];

/// What the thread keeps that enters network namespaces to reset connections, of [`KEPT`].
const OF_DRAIN: [&str; 3] = ["NET_ADMIN", "SYS_PTRACE", "SYS_ADMIN"];

/// A field of what `/proc/PID/status` holds.
fn field<'s>(status: &'s str, name: &str) -> &'s str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.expect("the kernel tells it").trim()
}

fn capabilities(status: &str, set: &str) -> u64 {
    u64::from_str_radix(field(status, set), 16).expect("a number")
}

#[test]
fn the_daemon_keeps_what_it_needs_and_threads_that_hear_strangers_keep_nothing() {
    let Some(scene) = scene("privileges") else { return };
    let redirector = &scene.redirector;
    let metrics = free([127, 0, 0, 1]).to_string();
    let daemon = redirector.start_with(&["--metrics-address", &metrics]);
    // Where the machine has less to give, as a container does, less is kept.
    let has = capabilities(&fs::read_to_string("/proc/self/status").expect("ours"), "CapPrm");
    let kept: Vec<_> = KEPT.into_iter().filter(|(number, _)| has >> number & 1 == 1).collect();
    let all = |bits: u64, (number, _): &(u32, &str)| bits | 1 << number;
    let bits = kept.iter().fold(0, all);
    let drains = kept.iter().filter(|(_, name)| OF_DRAIN.contains(name)).fold(0, all);
    assert!(bits != has, "there is something to give up");

    let (mut strangers, mut drainers) = (0, 0);
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("its threads");
    for task in tasks.map(|task| task.expect("a thread").path()) {
        // One that was needed for a moment has ended since.
        let Ok(status) = fs::read_to_string(task.join("status")) else { continue };
        let name = field(&status, "Name");
        let is_strangers = OF_STRANGERS.contains(&name);
        strangers += usize::from(is_strangers);
        drainers += usize::from(name == "drain");
        let expected = match name {
            "drain" => drains,
            _ if is_strangers => 0,
            _ => bits,
        };
        for set in ["CapPrm", "CapEff"] {
            assert_eq!(capabilities(&status, set), expected, "{set} of the thread {name}");
        }
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(capabilities(&status, set), 0, "{set} of the thread {name}");
        }
        assert_eq!(capabilities(&status, "CapBnd") & !bits, 0, "of the thread {name}");
        let confined = (field(&status, "NoNewPrivs"), field(&status, "Seccomp"));
        assert_eq!(confined, ("1", "2"), "of the thread {name}");
    }
    assert_eq!((strangers, drainers), (OF_STRANGERS.len(), 1), "all of them are looked at");

    let status = redirector.status().json();
    let process = &status["daemon"]["process"];
    assert_eq!(process["capabilities"], format!("{bits:016x}"), "{process:#}");
    assert_eq!((&process["noNewPrivileges"], &process["filtered"]), (&true.into(), &true.into()));
    let names: Vec<_> = kept.iter().map(|(_, name)| *name).collect();
    let text = redirector.ask("status", &[]).out;
    assert!(text.contains(&format!("may         {}\n", names.join(", "))), "{text}");
}
