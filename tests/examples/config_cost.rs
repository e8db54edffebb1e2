//! What a configuration costs: the time until it is in force, the time that one
//! changed weight takes, and the daemon's memory; as `cargo xtask bench config`
//! asks for it.
//!
//! Its arguments are SERVICES RULES CHANGES; to be run as root, beside the program
//! that it measures. Each line of the output is a row in JSON, times in
//! microseconds, memory in bytes.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use redirector::datapath::Datapath;
use redirector_tests::agent::Agent;
use redirector_tests::kernel::{Place, measure};
use redirector_tests::node::in_memory;
use serde_json::json;

/// Local workloads.
const WORKLOADS: usize = 20;

/// Services of one file, and VirtualServices of one.
const OF_FILE: usize = 100;

/// How often it is looked whether a change is in force.
const LOOK: Duration = Duration::from_micros(100);

/// How long is waited for anything.
const PATIENCE: Duration = Duration::from_secs(120);

/// The quiet time that the daemon waits for, as short as it may be.
const QUIET: &str = "--debounce=5ms";

fn main() -> ExitCode {
    measure("SERVICES RULES CHANGES", |[services, rules, changes]| {
        row(&Scale { services: 0, rules: 0 }, 0);
        row(&Scale { services, rules: 0 }, 0);
        row(&Scale { services: services / 100, rules }, changes);
        row(&Scale { services, rules }, changes);
    })
}

/// How much there is.
struct Scale {
    /// Services with two endpoints each.
    services: usize,
    /// Rules of each Service, for clients with different labels.
    rules: usize,
}

/// Measures one configuration with a daemon of its own.
fn row(scale: &Scale, changes: usize) {
    let place = Place::new("config");
    let directory = in_memory();
    let rules = directory.path().join("rules");
    fs::create_dir(&rules).expect("a directory");
    let root = place.cgroup.path().strip_prefix(redirector_tests::cgroup::mount());
    let root = root.expect("below the mount").display().to_string();
    let write = |name: &str, text: &str| {
        let beside = directory.path().join("beside");
        fs::write(&beside, text).expect("a file");
        fs::rename(&beside, rules.join(name)).expect("a file");
    };
    let workloads: String = (0..WORKLOADS).map(|i| workload(i, &root)).collect();
    write("workloads.yaml", &workloads);
    for first in (0..scale.services).step_by(OF_FILE) {
        write(&format!("services-{first}.yaml"), &all(first, scale, service));
        if scale.rules > 0 {
            write(&format!("rules-{first}.yaml"), &all(first, scale, |i| rule(i, scale, 30)));
        }
    }
    let path = |name: &str, path: PathBuf| format!("--{name}={}", path.display());
    let begun = Instant::now();
    let mut daemon = Agent::start(
        directory.path(),
        [
            path("config", rules.clone()),
            path("bpffs", place.pins()),
            path("state-dir", directory.path().join("state")),
            path("cgroup", place.cgroup.path().to_owned()),
            "--daemon-cgroup=none".to_owned(),
            "--services=own".to_owned(),
            "--log-level=warn".to_owned(),
            QUIET.to_owned(),
        ],
    );
    daemon.wait_ready();
    let ready = begun.elapsed();
    let tables = Datapath::open_read_only(&place.pins()).expect("it is loaded");
    let mut times: Vec<Duration> = (0..changes)
        .map(|round| {
            let text = all(0, scale, |i| rule(i, scale, if i == 0 { 31 + round % 60 } else { 30 }));
            let before = tables.active().generation;
            fs::write(directory.path().join("beside"), text).expect("a file");
            let begun = Instant::now();
            fs::rename(directory.path().join("beside"), rules.join("rules-0.yaml"))
                .expect("a file");
            while tables.active().generation == before {
                assert!(begun.elapsed() < PATIENCE, "never in force:\n{}", daemon.log());
                thread::sleep(LOOK);
            }
            let time = begun.elapsed();
            thread::sleep(Duration::from_millis(100) + time);
            time
        })
        .collect();
    times.sort();
    let at = |share: usize| match times.len() {
        0 => None,
        count => Some(times[(count - 1) * share / 100].as_micros()),
    };
    println!(
        "{}",
        json!({
            "services": scale.services, "rules": scale.services * scale.rules,
            "ready": ready.as_micros(), "p50": at(50), "p99": at(99),
            "memory": own_memory(daemon.pid()), "state": size(&directory.path().join("state")),
        })
    );
    daemon.stop();
}

fn all(first: usize, scale: &Scale, one: impl Fn(usize) -> String) -> String {
    (first..scale.services.min(first + OF_FILE)).map(one).collect()
}

fn workload(i: usize, cgroup: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata:\n  name: w{i}\n  \
         labels: {{app: client{i}}}\n  annotations: {{redirector.io/cgroup: {cgroup}/w{i}}}\n\
         spec: {{address: 127.93.0.{}}}\n",
        i + 1
    )
}

/// A Service and its EndpointSlice.
fn service(i: usize) -> String {
    let (high, low) = (i / 250, i % 250);
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{i}}}\nspec: {{clusterIP: \
         127.90.{high}.{low}, ports: [{{port: 80, name: tcp}}]}}\n---\napiVersion: \
         discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s{i}-x, labels: \
         {{kubernetes.io/service-name: s{i}}}}}\naddressType: IPv4\nports: [{{name: tcp, port: 80, \
         protocol: TCP}}]\nendpoints: [{{addresses: [127.91.{high}.{low}]}}, {{addresses: \
         [127.92.{high}.{low}]}}]\n"
    )
}

/// A VirtualService that splits between its Service and the next, for each of
/// some labels. The first rule gives `weight` to its own.
fn rule(i: usize, scale: &Scale, weight: usize) -> String {
    let mut text = format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: s{i}}}\n\
         spec:\n  hosts: [s{i}]\n  tcp:\n"
    );
    for k in 0..scale.rules {
        let weight = if k == 0 { weight } else { 30 };
        let _ = writeln!(
            text,
            "  - match: [{{sourceLabels: {{app: client{k}}}}}]\n    route: [{{destination: {{host: \
             s{i}}}, weight: {weight}}}, {{destination: {{host: s{}}}, weight: {}}}]",
            i ^ 1,
            100 - weight
        );
    }
    text
}

/// What a process has of its own, in bytes: neither its program nor the kernel's
/// tables that it sees.
fn own_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a field");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024
}

/// What a directory holds, in bytes.
fn size(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).expect("a directory").filter_map(Result::ok);
    entries
        .map(|entry| match entry.metadata() {
            Ok(about) if about.is_dir() => size(&entry.path()),
            Ok(about) => about.len(),
            Err(_) => 0,
        })
        .sum()
}
