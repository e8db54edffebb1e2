//! The daemon with no more privilege than it is given where it is deployed.

use std::os::unix::process::CommandExt;
use std::path::Path;

use redirector_tests::agent::Agent;
use redirector_tests::kernel::privileged;
use serde_json::json;

use super::{Cluster, answered, node, uid};

/// Numbers of capabilities, as in `linux/capability.h`.
const CAPABILITIES: [(&str, u64); 11] = [
    ("CHOWN", 0),
    ("DAC_OVERRIDE", 1),
    ("KILL", 5),
    ("SETGID", 6),
    ("SETUID", 7),
    ("NET_BIND_SERVICE", 10),
    ("NET_ADMIN", 12),
    ("SYS_ADMIN", 21),
    ("LEASE", 28),
    ("PERFMON", 38),
    ("BPF", 39),
];

pub(super) fn capability(name: &str) -> u64 {
    let found = CAPABILITIES.iter().find(|(known, _)| name == *known);
    found.unwrap_or_else(|| panic!("{name} is not known here")).1
}

#[test]
fn the_capabilities_of_the_chart_are_enough() {
    if !privileged() {
        return;
    }
    use redirector_tests::chart;
    let objects = chart::objects(&json!({}));
    let set = objects.iter().find(|object| object["kind"] == "DaemonSet").expect("a DaemonSet");
    let context = &set["spec"]["template"]["spec"]["containers"][0]["securityContext"];
    let names = context["capabilities"]["add"].as_array().expect("a list");
    works_with(names.iter().map(|name| capability(name.as_str().expect("a name"))).collect());
}

#[test]
fn the_capabilities_of_the_systemd_unit_are_enough() {
    if !privileged() {
        return;
    }
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd/redirector.service");
    let unit = std::fs::read_to_string(unit).expect("a unit");
    let set = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let names = set.expect("the unit bounds its capabilities").split_whitespace();
    works_with(names.map(|name| capability(name.trim_start_matches("CAP_"))).collect());
}

/// Starts a daemon with these capabilities and no others, and routes a pod's
/// connection.
fn works_with(kept: Vec<u64>) {
    let cluster = Cluster::new();
    let node = node(&cluster, "node-a");
    cluster.pod("a", "node-a", &uid(1), "two", &json!({}));
    let cgroup = node.cgroup(&format!("kubepods/burstable/pod{}", uid(1)));
    let mut agent = Agent::start_as(node.directory.path(), node.arguments(), |command| {
        let drop_others = move || {
            for capability in (0..64u64).filter(|number| !kept.contains(number)) {
                // SAFETY: no memory is involved. Numbers that the kernel does
                // not have are refused, which is as good.
                unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
            }
            Ok(())
        };
        // SAFETY: between fork and exec only system calls are made.
        unsafe { command.pre_exec(drop_others) };
    });
    agent.wait_ready();
    agent.wait("its pod", |_| node.sources().len() == 1);
    assert_eq!(answered(&cgroup, cluster.service()), "two");
    assert!(!agent.log().contains("not effective"), "{}", agent.log());
}
