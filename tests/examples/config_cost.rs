//! What a configuration costs: the time until it is in force, the time and the processor
//! that changes take, and the daemon's memory and state; as `cargo xtask bench config` asks
//! for it.
//!
//! Its arguments are SERVICES RULES CHANGES SECONDS; to be run as root, beside the program
//! that it measures. Each line of the output is a row in JSON, times in microseconds, memory
//! in bytes.

#[path = "../../redirector-user/core/examples/change_cost/documents.rs"]
mod documents;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use documents::Scale;
use redirector::datapath::Datapath;
use redirector_tests::agent::Agent;
use redirector_tests::kernel::{Place, measure};
use redirector_tests::node::in_memory;
use serde_json::{Value, json};
use tempfile::TempDir;

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

/// Time between two changes that are timed, and as much again as the first one took.
const PAUSE: Duration = Duration::from_millis(100);

/// A daemon that takes less than a twentieth of a processor for so long has nothing to do.
const IDLE: Duration = Duration::from_secs(1);

/// Time between endpoints that come and go.
const CHURN: Duration = Duration::from_millis(10);

fn main() -> ExitCode {
    measure("SERVICES RULES CHANGES SECONDS", |[services, rules, changes, seconds]| {
        let row = |services, rules, own, measure: &dyn Fn(&Scene) -> Value| {
            let scene = Scene::new(Scale { services, rules }, own);
            let changed = measure(&scene);
            println!("{}", scene.row(&changed));
            scene.daemon.stop();
        };
        let nothing = |_: &Scene| json!({});
        let all = |scene: &Scene| {
            // What people write is looked at again for a while: that comes last.
            json!({
                "churn": scene.churn(0, seconds), "endpoint": scene.endpoints(changes),
                "weight": scene.weights(changes),
            })
        };
        row(0, 0, true, &nothing);
        row(services, 0, true, &nothing);
        row(services / 100, rules, true, &all);
        row(services, rules, true, &all);
        // The label of the workload that comes is in one rule of each.
        row(services / 10, 1, true, &|scene| json!({ "class": scene.classes(changes) }));
        row(services, rules, false, &|scene| json!({ "unrouted": scene.churn(services, seconds) }));
    })
}

/// A daemon with a configuration of its own.
struct Scene {
    scale: Scale,
    /// Its cgroup and pins, which go with it.
    _place: Place,
    directory: TempDir,
    daemon: Agent,
    tables: Datapath,
    ready: Duration,
}

impl Scene {
    /// With a Service more than there are rules for. Whether the daemon serves Services
    /// where no rule matches is its `own`.
    fn new(scale: Scale, own: bool) -> Self {
        let (place, directory) = (Place::new("config"), in_memory());
        fs::create_dir(directory.path().join("rules")).expect("a directory");
        let root = place.cgroup.path().strip_prefix(redirector_tests::cgroup::mount());
        let root = root.expect("below the mount").display().to_string();
        let put = |name: &str, text: &str| put(directory.path(), name, text);
        for i in 0..WORKLOADS {
            put(&format!("workload-{i}.yaml"), &documents::workload(i, &root));
        }
        for first in (0..scale.services).step_by(OF_FILE) {
            put(&format!("services-{first}.yaml"), &all(first, scale, documents::service));
            let endpoints = |i| documents::endpoints(i, 2);
            // Of some the endpoints are to change, each in a file of its own.
            put(&format!("endpoints-{first}.yaml"), &all(first + 1, scale, endpoints));
            put(&format!("endpoints-of-{first}.yaml"), &endpoints(first));
            if scale.rules > 0 {
                let rules = |i| documents::rules(i, scale.rules, 30);
                put(&format!("rules-{first}.yaml"), &all(first, scale, rules));
            }
        }
        let more = scale.services;
        put(&format!("services-{more}.yaml"), &documents::service(more));
        put(&format!("endpoints-of-{more}.yaml"), &documents::endpoints(more, 2));
        let path = |name: &str, path: PathBuf| format!("--{name}={}", path.display());
        let begun = Instant::now();
        let mut daemon = Agent::start(
            directory.path(),
            [
                path("config", directory.path().join("rules")),
                path("bpffs", place.pins()),
                path("state-dir", directory.path().join("state")),
                path("cgroup", place.cgroup.path().to_owned()),
                "--daemon-cgroup=none".to_owned(),
                format!("--services={}", if own { "own" } else { "leave" }),
                "--log-level=warn".to_owned(),
                QUIET.to_owned(),
            ],
        );
        daemon.wait_ready();
        let ready = begun.elapsed();
        let tables = Datapath::open_read_only(&place.pins()).expect("it is loaded");
        Self { scale, _place: place, directory, daemon, tables, ready }
    }

    /// What it took and takes, and what was measured of changes.
    fn row(&self, changed: &Value) -> Value {
        let (pid, state) = (self.daemon.pid(), self.directory.path().join("state"));
        let mut row = json!({
            "services": self.scale.services, "rules": self.scale.services * self.scale.rules,
            "ready": self.ready.as_micros(), "memory": own_memory(pid), "state": size(&state),
        });
        for (name, value) in changed.as_object().expect("by name") {
            row[name] = value.clone();
        }
        row
    }

    fn put(&self, name: &str, text: &str) {
        put(self.directory.path(), name, text);
    }

    /// The time until a change is in force.
    fn time(&self, name: &str, text: &str) -> Duration {
        let before = self.tables.active().generation;
        let begun = Instant::now();
        self.put(name, text);
        while self.tables.active().generation == before {
            assert!(begun.elapsed() < PATIENCE, "never in force:\n{}", self.daemon.log());
            thread::sleep(LOOK);
        }
        let time = begun.elapsed();
        thread::sleep(PAUSE + time);
        time
    }

    /// One weight in a file of many VirtualServices.
    fn weights(&self, changes: usize) -> Value {
        let times = (0..changes).map(|round| {
            let weight = |i| if i == 0 { 31 + round % 60 } else { 30 };
            let one = |i| documents::rules(i, self.scale.rules, weight(i));
            self.time("rules-0.yaml", &all(0, self.scale, one))
        });
        shares(times.collect())
    }

    /// One endpoint that comes, or goes.
    fn endpoints(&self, changes: usize) -> Value {
        let times = (0..changes)
            .map(|round| self.time("endpoints-of-0.yaml", &documents::endpoints(0, 3 - round % 2)));
        shares(times.collect())
    }

    /// A workload that comes, the first one of its class.
    fn classes(&self, changes: usize) -> Value {
        let name = "workload-0.yaml";
        let path = self.directory.path().join("rules").join(name);
        let text = fs::read_to_string(path).expect("a file");
        let times = (0..changes).map(|_| {
            // No rule is about that one.
            self.time(name, &text.replace("client0", "nobody"));
            self.time(name, &text)
        });
        shares(times.collect())
    }

    /// Waits until all that a start leaves to be done is.
    fn wait_idle(&self) {
        let begun = Instant::now();
        loop {
            let before = processor(self.daemon.pid());
            thread::sleep(IDLE);
            if processor(self.daemon.pid()) - before < IDLE / 20 {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "never idle:\n{}", self.daemon.log());
        }
    }

    /// What part of a processor the daemon takes while an endpoint of a Service comes or
    /// goes a hundred times a second, and the microseconds for each of these.
    fn churn(&self, service: usize, seconds: usize) -> Value {
        self.wait_idle();
        let name = format!("endpoints-of-{service}.yaml");
        let (begun, before) = (Instant::now(), processor(self.daemon.pid()));
        let mut round = 0;
        // As it began, with two endpoints: what is measured next begins with a third.
        while begun.elapsed() < Duration::from_secs(seconds as u64) || (round > 0 && round % 2 == 0)
        {
            self.put(&name, &documents::endpoints(service, 2 + round % 2));
            round += 1;
            let next = begun + CHURN * u32::try_from(round).unwrap_or(u32::MAX);
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        if round == 0 {
            return Value::Null;
        }
        let (time, taken) = (begun.elapsed(), processor(self.daemon.pid()) - before);
        self.wait_idle();
        json!({
            "percent": 100.0 * taken.as_secs_f64() / time.as_secs_f64(),
            "each": taken.as_secs_f64() * 1e6 / f64::from(u32::try_from(round).unwrap_or(1)),
        })
    }
}

/// What half of them, and what nearly all take no longer than.
fn shares(mut times: Vec<Duration>) -> Value {
    times.sort();
    let at = |share: usize| times.get(times.len().saturating_sub(1) * share / 100);
    match (at(50), at(99)) {
        (Some(p50), Some(p99)) => json!({ "p50": p50.as_micros(), "p99": p99.as_micros() }),
        _ => Value::Null,
    }
}

/// Puts a file in its place at once.
fn put(directory: &Path, name: &str, text: &str) {
    let beside = directory.join("beside");
    fs::write(&beside, text).expect("a file");
    fs::rename(&beside, directory.join("rules").join(name)).expect("a file");
}

/// What belongs into one file.
fn all(first: usize, scale: Scale, one: impl Fn(usize) -> String) -> String {
    let end = (first - first % OF_FILE + OF_FILE).min(scale.services);
    (first..end).map(one).collect()
}

/// What a process has of its own, in bytes: neither its program nor the kernel's
/// tables that it sees.
fn own_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a field");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024
}

/// The processor time that its threads have taken.
fn processor(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let times = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(times.sum())
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
