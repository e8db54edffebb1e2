//! Load balancing, limits and outlier detection, from a DestinationRule to where
//! connections go.

mod callers;
mod kernel_sockets;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use redirector_tests::child;
use redirector_tests::figure;
use redirector_tests::gate::Gate;
use redirector_tests::kernel::{at_least, privileged, scaled};
use redirector_tests::redirector::Redirector;
use redirector_tests::server::{Gauge, Server};
use redirector_tests::socket::Socket;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");

/// The address of the service: loopback, so that what is missed stays here.
const SERVICE: &str = "127.96.0.20:19000";

/// A service with some servers and a traffic policy, and clients.
struct Scene {
    redirector: Redirector,
    servers: Vec<Option<Server>>,
    port: u16,
}

impl Scene {
    /// With servers at 127.0.0.1 and following.
    fn new(what: &str, servers: u8) -> Option<Self> {
        if !privileged() {
            return None;
        }
        let redirector = Redirector::new(what, PROGRAM);
        let mut scene = Self { redirector, servers: Vec::new(), port: 0 };
        for host in 1..=servers {
            let address = SocketAddr::from(([127, 0, 0, host], scene.port));
            let server = Server::start(&host.to_string(), address);
            scene.port = server.address().port();
            scene.servers.push(Some(server));
        }
        scene.redirector.place.cgroup.child("clients");
        Some(scene)
    }

    /// The documents with these endpoints (host and weight), and a traffic
    /// policy in YAML's flow style.
    fn documents(&self, endpoints: &[(u8, u32)], policy: &str) -> String {
        let port = self.port;
        let mut text = format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: echo}}
spec:
  clusterIP: 127.96.0.20
  selector: {{app: echo}}
  ports: [{{name: tcp, port: 19000, targetPort: {port}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: echo}}
spec: {{host: echo, trafficPolicy: {policy}}}
"
        );
        for (host, weight) in endpoints {
            text += &format!(
                "
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: e{host}}}
spec: {{address: 127.0.0.{host}, weight: {weight}, labels: {{app: echo}}}}
"
            );
        }
        for client in 0..CLIENTS {
            // There before the daemon is, which knows who is in it once it has heard of it.
            self.client(client);
            let cgroup = self.redirector.cgroup(&format!("clients/{client}"));
            text += &format!(
                "
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: c{client}, annotations: {{redirector.io/cgroup: {cgroup}}}}}
spec: {{address: 127.0.1.{client}}}
"
            );
        }
        text
    }

    fn clients(&self) -> PathBuf {
        self.redirector.place.cgroup.path().join("clients")
    }

    /// The cgroup of a local workload.
    fn client(&self, number: usize) -> PathBuf {
        self.redirector.place.cgroup.child(&format!("clients/{number}"))
    }
}

/// Local workloads.
const CLIENTS: usize = 40;

fn service() -> SocketAddr {
    SERVICE.parse().expect("an address")
}

/// A connection, once its server has said its name.
fn open() -> std::io::Result<(Socket, String)> {
    let socket = Socket::stream(service(), 0)?;
    socket.connect(service())?;
    assert_eq!(socket.peer()?, service(), "getpeername shows what was dialled");
    let name = socket.read_all()?;
    Ok((socket, name.split(' ').next().unwrap_or_default().to_owned()))
}

/// Who answers, or the error.
fn dial() -> String {
    match open() {
        Ok((socket, name)) => {
            let _ = socket.reset_on_close();
            name
        }
        Err(error) => error.to_string(),
    }
}

/// A part of `maps backends`.
fn maps(scene: &Scene, part: &str) -> Value {
    scene.redirector.ask("maps", &["backends", "--output", "json"]).json()[part].take()
}

/// How often each answer comes.
fn count(answers: impl IntoIterator<Item = String>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer).or_default() += 1;
    }
    counts
}

#[test]
fn round_robin_takes_turns_as_the_weights_say() {
    let Some(scene) = Scene::new("turns", 3) else { return };
    let even = scene.documents(&[(1, 1), (2, 1), (3, 1)], "{loadBalancer: {simple: ROUND_ROBIN}}");
    scene.redirector.write("all.yaml", &even);
    let _daemon = scene.redirector.start();
    let counts =
        count(child::run(&scene.clients(), || (0..300).map(|_| dial()).collect::<Vec<_>>()));
    assert_eq!(counts.values().collect::<Vec<_>>(), [&100, &100, &100], "{counts:?}");

    let uneven =
        scene.documents(&[(1, 2), (2, 1), (3, 1)], "{loadBalancer: {simple: ROUND_ROBIN}}");
    scene.redirector.change("other weights", || scene.redirector.write("all.yaml", &uneven));
    let counts =
        count(child::run(&scene.clients(), || (0..400).map(|_| dial()).collect::<Vec<_>>()));
    for (name, wanted) in [("1", 200_u64), ("2", 100), ("3", 100)] {
        // Far nearer than chance would be, whose four sigma are 35 and more. Where
        // the turns begin is chance, and 133 rounds are no whole number of them.
        assert!(counts[name].abs_diff(wanted) <= 10, "{counts:?}");
    }
}

#[test]
fn least_request_keeps_open_connections_even_and_forgets_closed_ones() {
    let Some(scene) = Scene::new("least", 2) else { return };
    let policy = "{loadBalancer: {simple: LEAST_REQUEST}}";
    scene.redirector.write("all.yaml", &scene.documents(&[(1, 1), (2, 1)], policy));
    let _daemon = scene.redirector.start();
    let counts = count(child::run(&scene.clients(), || {
        // The second round begins evenly only if the first was taken back.
        let mut names = Vec::new();
        for _ in 0..2 {
            let open: Vec<_> = (0..200).map(|_| open().expect("a connection")).collect();
            names.extend(open.iter().map(|(_, name)| name.clone()));
        }
        names
    }));
    // By chance alone the difference would be more than 24 in one of four runs.
    assert!(counts["1"].abs_diff(counts["2"]) <= 24, "{counts:?}");
}

#[test]
fn a_source_keeps_its_endpoint_and_only_those_of_a_lost_endpoint_move() {
    let Some(scene) = Scene::new("affinity", 4) else { return };
    let policy = "{loadBalancer: {consistentHash: {useSourceIp: true}}}";
    let four = scene.documents(&[(1, 1), (2, 1), (3, 1), (4, 1)], policy);
    scene.redirector.write("all.yaml", &four);
    let cgroups: Vec<PathBuf> = (0..CLIENTS)
        .map(|client| scene.redirector.place.cgroup.child(&format!("clients/{client}")))
        .collect();
    let _daemon = scene.redirector.start();
    let ask = || -> Vec<String> {
        cgroups
            .iter()
            .map(|cgroup| {
                let counts =
                    count(child::run(cgroup, || (0..10).map(|_| dial()).collect::<Vec<_>>()));
                assert_eq!(counts.len(), 1, "one source, one endpoint: {counts:?}");
                counts.into_keys().next().expect("one")
            })
            .collect()
    };
    let before = ask();
    assert_eq!(count(before.clone()).len(), 4, "all endpoints are somebody's: {before:?}");
    // An endpoint goes.
    let three = scene.documents(&[(1, 1), (2, 1), (4, 1)], policy);
    scene.redirector.change("an endpoint less", || scene.redirector.write("all.yaml", &three));
    let without = ask();
    for (before, after) in before.iter().zip(&without) {
        assert!(before == "3" || before == after, "{before} became {after}");
        assert_ne!(after, "3");
    }
    // It comes back, and so do its own.
    scene.redirector.change("an endpoint more", || scene.redirector.write("all.yaml", &four));
    assert_eq!(ask(), before);
}

/// So many connections may be open.
const LIMIT: usize = 100;

/// Processes that dial at the same moment, with so many threads each.
const PROCESSES: usize = 8;
const THREADS: usize = 125;

/// All of them are remembered, whatever the numbers of their sockets.
const ROOM: [&str; 2] = ["--max-connections", "65536"];

/// Where everybody waits: before the first attempt; while those who were refused try
/// again; and before anybody lets go.
struct Gates {
    go: Gate,
    enough: Gate,
    end: Gate,
}

/// One process of a crowd: says how many of its threads have got a connection, and how
/// often one was refused.
fn one_of_a_crowd(gates: &Gates, threads: usize) -> (usize, u64) {
    let dial = || {
        gates.go.wait();
        let mut refused = 0;
        let held = loop {
            // Looked at before, so that there is an attempt after it was opened.
            let last = gates.enough.is_open();
            match open() {
                Ok(connection) => break Some(connection),
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED), "{error}");
                    refused += 1;
                }
            }
            if last {
                break None;
            }
            thread::sleep(Duration::from_millis(200));
        };
        gates.end.wait();
        (usize::from(held.is_some()), refused)
    };
    thread::scope(|scope| {
        let spawn = |_| thread::Builder::new().stack_size(128 << 10).spawn_scoped(scope, dial);
        let crowd: Vec<_> = (0..threads).map(spawn).collect();
        let all = crowd.into_iter().map(|one| one.expect("a thread").join().expect("its word"));
        all.fold((0, 0), |(held, refused), one| (held + one.0, refused + one.1))
    })
}

#[test]
fn no_more_connections_than_the_limit_are_open_at_a_time() {
    let threads = scaled(THREADS).max(2 * LIMIT / PROCESSES);
    let all = PROCESSES * threads;
    let Some(mut scene) = Scene::new("limit", 0) else { return };
    let gauge = Arc::new(Gauge::default());
    let first = Server::counting("1", SocketAddr::from(([127, 0, 0, 1], 0)), &gauge);
    scene.port = first.address().port();
    let second = SocketAddr::from(([127, 0, 0, 2], scene.port));
    let servers = [first, Server::counting("2", second, &gauge)];
    let policy = format!("{{connectionPool: {{tcp: {{maxConnections: {LIMIT}}}}}}}");
    let documents = |weight| scene.documents(&[(1, 1), (2, weight)], &policy);
    scene.redirector.write("all.yaml", &documents(1));
    let mut daemon = scene.redirector.start_with(&ROOM);
    let counts = || {
        let one = maps(&scene, "destinations")[0].take();
        assert_eq!(one["maxConnections"], LIMIT, "{one}");
        [&one["connections"], &one["limited"]].map(|count| count.as_u64().expect("a count"))
    };
    let (mut limited, mut weight) = (0, 1);
    let (mut rounds, mut attempts) = (0, 0);
    for round in 0..at_least(6, 60) {
        let gates = Gates { go: Gate::new(), enough: Gate::new(), end: Gate::new() };
        let crowd: Vec<child::Child<(usize, u64)>> = (0..PROCESSES)
            .map(|one| child::spawn(&scene.client(one), || one_of_a_crowd(&gates, threads)))
            .collect();
        gates.go.gathers(all);
        let what = match round % 3 {
            // Each tries once.
            0 => {
                gates.enough.open();
                gates.go.open();
                "at once"
            }
            1 => {
                gates.go.open();
                for _ in 0..4 {
                    weight += 1;
                    let more = documents(weight);
                    let write = || scene.redirector.write("all.yaml", &more);
                    scene.redirector.change("other weights", write);
                }
                "while the configuration changes"
            }
            _ => {
                gates.go.open();
                let successor = scene.redirector.start_with(&[&ROOM[..], &["--replace"]].concat());
                assert_eq!(daemon.wait(), 0);
                daemon = successor;
                "while a daemon takes over"
            }
        };
        gates.enough.open();
        gates.end.gathers(all);
        // Nobody has let go: what clients, servers and the kernel have counted is the
        // same.
        let begun = Instant::now();
        while gauge.open() < LIMIT && begun.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(1));
        }
        let (at_servers, [connections, refusals]) = (gauge.open(), counts());
        gates.end.open();
        let told = crowd.into_iter().map(child::Child::join);
        let (held, refused) = told.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
        assert_eq!((held, at_servers), (LIMIT, LIMIT), "round {round}, {what}");
        assert_eq!((connections, refusals - limited), (LIMIT as u64, refused), "{what}");
        limited = refusals;
        rounds += 1;
        attempts += held as u64 + refused;
        // What is closed makes room, for all of them.
        let begun = Instant::now();
        while (gauge.open(), counts()[0]) != (0, 0) {
            assert!(begun.elapsed() < Duration::from_secs(60), "{} open", gauge.open());
            thread::sleep(Duration::from_millis(5));
        }
    }
    assert_eq!(gauge.most(), LIMIT, "never one more at the same time");
    figure!(
        "maxConnections {LIMIT}, {all} clients at once, {rounds} rounds, also while the \
         configuration changes or a daemon takes over: {attempts} connects, {LIMIT} held in each \
         round, never more than {} at a time",
        gauge.most()
    );
    drop(servers);
}

/// The policy that leaves any endpoint out for so long after so many failures.
fn ejecting(after: usize, time: Duration) -> String {
    format!(
        "{{outlierDetection: {{consecutive5xxErrors: {after}, baseEjectionTime: {}s, \
         maxEjectionPercent: 100}}}}",
        time.as_secs()
    )
}

#[test]
fn an_endpoint_that_fails_is_left_out_and_taken_back_when_its_time_is_over() {
    const AFTER: usize = 3;
    const EJECTED: Duration = Duration::from_secs(3);
    let Some(mut scene) = Scene::new("outlier", 2) else { return };
    let policy = ejecting(AFTER, EJECTED);
    scene.redirector.write("all.yaml", &scene.documents(&[(1, 1), (2, 1)], &policy));
    let _daemon = scene.redirector.start();
    let ask = |scene: &Scene| -> Vec<String> {
        child::run(&scene.clients(), || (0..200).map(|_| dial()).collect())
    };
    assert_eq!(count(ask(&scene)).len(), 2, "both answer");

    let second = scene.servers[1].take().expect("it runs");
    let address = second.address();
    drop(second);
    let begun = Instant::now();
    let answers = ask(&scene);
    let failed = answers.iter().filter(|answer| *answer != "1").count();
    let (destinations, backends) = (maps(&scene, "destinations"), maps(&scene, "backends"));
    // On a machine that is slower it has been taken back, and has failed again.
    if begun.elapsed() >= EJECTED {
        assert!(failed >= AFTER, "it is out after as many as the rule says: {answers:?}");
        return;
    }
    assert_eq!(failed, AFTER, "as many as the rule says, then it is out: {answers:?}");
    figure!("an endpoint was killed: out after {failed} failures of {AFTER} configured");
    assert_eq!(destinations[0]["ejected"], 1);
    let ejected = |address: &str| {
        let rows = backends.as_array().expect("a list").iter();
        rows.filter(|row| row["address"].as_str().is_some_and(|at| at.starts_with(address)))
            .any(|row| row["ejectedSeconds"].as_f64() > Some(0.0))
    };
    assert!(ejected("127.0.0.2:") && !ejected("127.0.0.1:"), "{backends:#}");

    scene.servers[1] = Some(Server::start("2", address));
    while count(ask(&scene)).len() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is not taken back");
        thread::sleep(Duration::from_millis(100));
    }
    let back = begun.elapsed();
    assert!(back >= EJECTED, "it was taken back before its time");
    figure!("it is back after {:.1} s of {} s configured", back.as_secs_f64(), EJECTED.as_secs());
}

#[test]
fn an_endpoint_that_dies_under_load_is_left_out_after_what_is_under_way() {
    const AFTER: usize = 5;
    const CLIENTS: usize = 4;
    const EJECTED: Duration = Duration::from_secs(3);
    let Some(mut scene) = Scene::new("outlier-load", 2) else { return };
    let policy = ejecting(AFTER, EJECTED);
    scene.redirector.write("all.yaml", &scene.documents(&[(1, 1), (2, 1)], &policy));
    let _daemon = scene.redirector.start();
    let stop = scene.redirector.directory().join("stop");
    // How often each answered: refused is whoever was sent to the dead one.
    let load: Vec<child::Child<BTreeMap<String, u64>>> = (0..CLIENTS)
        .map(|_| {
            let stop = stop.clone();
            child::spawn(&scene.clients(), move || {
                count(std::iter::from_fn(|| (!stop.exists()).then(dial)))
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(500));
    let second = scene.servers[1].take().expect("it runs");
    let address = second.address();
    let begun = Instant::now();
    drop(second);
    thread::sleep(EJECTED / 2);
    let destination = &maps(&scene, "destinations")[0];
    scene.servers[1] = Some(Server::start("2", address));
    let slow = begun.elapsed() >= EJECTED;
    std::fs::write(&stop, "").expect("a file");
    let answers = load.into_iter().map(child::Child::join).fold(BTreeMap::new(), |mut sum, one| {
        for (answer, times) in one {
            *sum.entry(answer).or_insert(0) += times;
        }
        sum
    });
    let of = |word: &str| -> u64 {
        answers.iter().filter(|(answer, _)| answer.contains(word)).map(|(_, times)| times).sum()
    };
    let (all, refused): (u64, u64) = (answers.values().sum(), of("refused"));
    figure!(
        "an endpoint was killed under {all} connections of {CLIENTS} clients: {refused} refused, \
         {AFTER} configured"
    );
    // On a machine that is slower it has been taken back, and has failed again.
    if slow {
        return;
    }
    assert_eq!(destination["ejected"], 1, "{destination}");
    // Each of the others may be on its way to it just then.
    assert!((AFTER..AFTER + CLIENTS).contains(&(refused as usize)), "{answers:?}");
    while child::run(&scene.clients(), || count((0..200).map(|_| dial()))).len() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is not taken back");
        thread::sleep(Duration::from_millis(100));
    }
    assert!(begun.elapsed() >= EJECTED, "it was taken back before its time");
}

#[test]
fn when_all_endpoints_are_left_out_connections_are_refused() {
    let Some(mut scene) = Scene::new("outliers", 2) else { return };
    let policy = "{outlierDetection: {consecutive5xxErrors: 1, baseEjectionTime: 60s, \
                  maxEjectionPercent: 100}}";
    scene.redirector.write("all.yaml", &scene.documents(&[(1, 1), (2, 1)], policy));
    let _daemon = scene.redirector.start();
    let addresses: Vec<SocketAddr> =
        scene.servers.drain(..).map(|server| server.expect("it runs").address()).collect();
    let failed = child::run(&scene.clients(), || count((0..50).map(|_| dial())).len());
    assert_eq!(failed, 1, "everything is refused");
    // Also when they listen again: until the time is over.
    let _again: Vec<Server> = addresses.into_iter().map(|at| Server::start("x", at)).collect();
    let answer = child::run(&scene.clients(), dial);
    assert!(answer.contains("refused"), "{answer}");
    // Without the policy they are there at once.
    let plain = scene.documents(&[(1, 1), (2, 1)], "{loadBalancer: {simple: RANDOM}}");
    scene.redirector.change("no policy", || scene.redirector.write("all.yaml", &plain));
    assert_eq!(child::run(&scene.clients(), dial), "x");
}

#[test]
fn another_locality_steps_in_when_the_own_one_is_left_out() {
    const AFTER: usize = 2;
    let Some(mut scene) = Scene::new("failover", 2) else { return };
    let policy =
        format!("{{outlierDetection: {{consecutive5xxErrors: {AFTER}, baseEjectionTime: 60s}}}}");
    let documents = scene
        .documents(&[(1, 1), (2, 1)], &policy)
        .replace("{address: 127.0.0.1,", "{locality: eu/eu-1, address: 127.0.0.1,")
        .replace("{address: 127.0.0.2,", "{locality: us/us-1, address: 127.0.0.2,")
        .replace("{address: 127.0.1.", "{locality: eu/eu-1, address: 127.0.1.");
    scene.redirector.write("all.yaml", &documents);
    let _daemon = scene.redirector.start();
    let ask = |scene: &Scene| -> BTreeMap<String, u64> {
        child::run(&scene.clients(), || count((0..100).map(|_| dial())))
    };
    assert_eq!(ask(&scene), BTreeMap::from([("1".to_owned(), 100)]), "the own locality answers");
    drop(scene.servers[0].take());
    let answers = ask(&scene);
    assert_eq!(answers.get("2"), Some(&(100 - AFTER as u64)), "{answers:?}");
}
