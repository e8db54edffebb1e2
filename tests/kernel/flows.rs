//! `redirector flows` against what the clients themselves saw.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use redirector_tests::child;
use redirector_tests::figure;
use redirector_tests::kernel::at_least;
use redirector_tests::redirector::Answer;
use redirector_tests::scene::{ECHO, Scene, dial, free, gateway, scrape, split};
use redirector_tests::socket::Socket;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");

/// What a client saw: the cookie, the error if any, how much it was sent, and the port
/// that it had.
type Seen = (u64, i32, usize, u16);

fn connect(to: SocketAddr) -> Seen {
    let socket = Socket::stream(to, 0).expect("a socket");
    let cookie = socket.cookie().expect("a cookie");
    match socket.connect(to) {
        Ok(()) => {
            let _ = socket.send(b"hello");
            let length = socket.read_all().expect("a greeting").len();
            (cookie, 0, length, socket.local().expect("an address").port())
        }
        Err(error) => (cookie, error.raw_os_error().unwrap_or(-1), 0, 0),
    }
}

/// A `redirector flows` that goes on.
struct Follower {
    child: Child,
    shown: PathBuf,
}

impl Follower {
    fn start(scene: &Scene, name: &str, args: &[&str]) -> Self {
        let shown = scene.redirector.directory().join(name);
        let mut command = scene.redirector.command("flows");
        // Begins with what was told already: the second of two may be late.
        command.args(["--follow", "--last", "16384", "--output", "json"]).args(args);
        command.stdout(fs::File::create(&shown).expect("a file"));
        let this = Self { child: command.spawn().expect("it starts"), shown };
        // The kernel tells from when somebody follows.
        let begun = Instant::now();
        while scene.redirector.ask("flows", &[]).err.contains("nobody follows") {
            assert!(begun.elapsed() < Duration::from_secs(60), "nobody follows");
            thread::sleep(Duration::from_millis(20));
        }
        this
    }

    /// Ends it when it has shown as much as it will, and gives that.
    fn end(mut self) -> Vec<Value> {
        let mut length = u64::MAX;
        loop {
            // It looks 20 times a second.
            thread::sleep(Duration::from_secs(1));
            let now = fs::metadata(&self.shown).expect("a file").len();
            if now == std::mem::replace(&mut length, now) {
                break;
            }
        }
        self.child.kill().expect("it is killed");
        let text = fs::read_to_string(&self.shown).expect("text");
        text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const NO_SUBSET: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo}
spec:
  host: echo
  subsets: [{name: one, labels: {v: one}}, {name: none, labels: {v: none}}]
";

#[test]
fn every_connection_is_told_as_its_client_saw_it() {
    let Some(scene) = Scene::new("flows", PROGRAM) else { return };
    let connections = at_least(400, 10_000);
    let base = scene.base();
    let base: Vec<&str> =
        base.split("---").filter(|one| !one.contains("kind: DestinationRule")).collect();
    scene.redirector.write("base.yaml", &format!("{}---{NO_SUBSET}", base.join("---")));
    // Half goes to a server, half to nobody.
    scene.redirector.write("rules.yaml", &split(&[("one", 50), ("none", 50)]));
    let _daemon = scene.redirector.start();
    let follower = Follower::start(&scene, "all", &[]);
    let other = Follower::start(&scene, "some", &["--outcome", "refused"]);
    let to: SocketAddr = ECHO.parse().expect("an address");
    let (pid, seen): (u32, Vec<Seen>) = child::run(&scene.client(), || {
        (std::process::id(), (0..connections).map(|_| connect(to)).collect())
    });
    let shown = follower.end();
    let refused_only = other.end();

    let of = |event: &str| -> BTreeMap<u64, &Value> {
        let of_event = shown.iter().filter(|one| one["event"] == event);
        of_event.map(|one| (one["cookie"].as_u64().expect("a cookie"), one)).collect()
    };
    let (decided, closed) = (of("decided"), of("closed"));
    assert_eq!(decided.len(), connections, "one record for each decision");
    for (cookie, errno, length, port) in &seen {
        let told = decided[cookie];
        assert_eq!(told["workload"], "default/client", "{told}");
        assert_eq!(told["process"]["pid"], pid, "{told}");
        assert_eq!(told["destination"], ECHO, "{told}");
        assert_eq!(told["route"], "VirtualService/default/echo tcp[0]", "{told}");
        assert_eq!(told["generation"], 1, "{told}");
        if *errno == 0 {
            assert_eq!(told["outcome"], "routed", "{told}");
            assert_eq!(told["endpoint"], scene.one.address().to_string(), "{told}");
            assert_eq!(told["to"], format!("echo.default.svc.cluster.local:19000/one"));
            let end = closed[cookie];
            assert_eq!(end["outcome"], "ended", "{end}");
            // With the new line, which the client does not show.
            assert_eq!(end["received"], *length as u64 + 1, "{end}");
            assert_eq!(end["sent"], 5, "{end}");
            assert_eq!((&end["sourcePort"], &told["sourcePort"]), (&(*port).into(), &Value::Null));
            assert!(end["handshakeSeconds"].as_f64() > Some(0.0), "{end}");
            assert!(end["seconds"].as_f64() >= end["handshakeSeconds"].as_f64(), "{end}");
            assert_eq!(end["workload"], "default/client", "{end}");
        } else {
            assert_eq!(*errno, libc::ECONNREFUSED);
            assert_eq!(told["outcome"], "empty", "{told}");
            assert!(!closed.contains_key(cookie));
        }
    }
    let refused = seen.iter().filter(|(_, errno, ..)| *errno != 0).count();
    assert!(refused > connections / 4, "some of each: {refused}");
    assert_eq!(refused_only.len(), refused, "two may follow, each what it asks for");
    figure!(
        "{connections} connections of the clients' own log are {} decisions in `flows`, {} closes \
         and {refused} refused: every one the same",
        decided.len(),
        closed.len()
    );
}

#[test]
fn whoever_follows_misses_nothing_when_other_tables_take_over() {
    let Some(scene) = Scene::new("flowsover", PROGRAM) else { return };
    let daemon = scene.redirector.start();
    let follower = Follower::start(&scene, "over", &[]);
    // Without a pause, until the tables have other sizes and for a moment longer.
    let stop = scene.redirector.directory().join("stop");
    let client = child::spawn(&scene.client(), || {
        let to: SocketAddr = ECHO.parse().expect("an address");
        let mut cookies = Vec::new();
        while !stop.exists() {
            cookies.push(connect(to).0);
            // The follower is to keep up.
            thread::sleep(Duration::from_millis(2));
        }
        cookies
    });
    let before = scene.redirector.place.pins().join("current");
    let tables = || fs::read_link(&before).expect("the tables in force");
    let first = tables();
    assert_eq!(daemon.stop(), 0);
    let _daemon = scene.redirector.start_with(&["--max-prefixes", "300"]);
    assert_ne!(tables(), first);
    thread::sleep(Duration::from_millis(200));
    fs::write(&stop, "").expect("a file");
    let dialled = client.join();
    let shown = follower.end();
    let decided = shown.iter().filter(|one| one["event"] == "decided");
    let told: BTreeSet<u64> = decided.filter_map(|one| one["cookie"].as_u64()).collect();
    let missed = dialled.iter().filter(|cookie| !told.contains(*cookie)).count();
    assert_eq!(missed, 0, "of {}", dialled.len());
}

#[test]
fn nothing_is_told_while_nobody_follows_unless_the_daemon_is_asked_to() {
    let Some(scene) = Scene::new("silence", PROGRAM) else { return };
    let daemon = scene.redirector.start();
    assert_eq!(scene.answer(&scene.client()), "one");
    let answer = scene.redirector.ask("flows", &["--output", "json"]);
    assert_eq!((answer.exit, answer.json()["flows"].as_array().map(Vec::len)), (0, Some(0)));
    assert_eq!(daemon.stop(), 0);

    let daemon = scene.redirector.start_with(&["--flows"]);
    assert_eq!(scene.answer(&scene.client()), "one");
    // Nobody waits longer than asked to for a daemon that hangs.
    daemon.signal(libc::SIGSTOP);
    let begun = Instant::now();
    let answer = scene.redirector.ask("flows", &["--for", "1s", "--last", "1"]);
    let took = begun.elapsed();
    daemon.signal(libc::SIGCONT);
    assert_eq!(answer.exit, 0, "{answer:?}");
    assert!(answer.out.contains(ECHO) && answer.err.contains("does not answer"), "{answer:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    // Also when the daemon has gone.
    daemon.kill();
    assert_eq!(scene.answer(&scene.client()), "one");
    let answer = scene.redirector.ask("flows", &["--output", "json", "--last", "3"]);
    let flows = answer.json()["flows"].as_array().cloned().expect("a list");
    let events: Vec<&Value> = flows.iter().map(|flow| &flow["event"]).collect();
    assert_eq!(events, ["closed", "decided", "closed"], "{flows:#?}");
    let answer = scene.redirector.ask("flows", &["--workload", "default/other"]);
    assert_eq!((answer.exit, &*answer.out), (0, ""), "{answer:?}");
    let text = scene.redirector.ask("flows", &["--last", "1", "--address", ECHO]).out;
    assert!(text.contains(ECHO) && text.lines().count() == 1, "{text}");
    // Whose they are, and since when.
    let pid = flows[1]["process"]["pid"].to_string();
    let count = |args: &[&str]| {
        let answer = scene.redirector.ask("flows", &[args, &["-o", "json"]].concat());
        answer.json()["flows"].as_array().map(Vec::len)
    };
    assert_eq!(count(&["--pid", &pid]), Some(2));
    assert_eq!(count(&["--pid", "1"]), Some(0));
    let all = count(&["--since", "10m"]);
    assert!(all >= Some(4), "{all:?}");
    let decided = flows[1]["time"].as_str().expect("a time");
    assert_eq!(count(&["--since", decided]), Some(2), "the last two are not earlier");
    assert_eq!(scene.redirector.ask("flows", &["--since", "yesterday"]).exit, 2);
}

#[test]
fn top_and_the_metrics_show_where_connections_go() {
    let Some(scene) = Scene::new("top", PROGRAM) else { return };
    scene.redirector.write("rules.yaml", &split(&[("one", 80), ("two", 20)]));
    let metrics = free([127, 0, 0, 1]);
    let address = metrics.to_string();
    let _daemon = scene.redirector.start_with(&["--accounting", "--metrics-address", &address]);

    let stop = scene.redirector.directory().join("stop");
    let load = scene.load(&stop);
    let answer =
        scene.redirector.ask("top", &["--interval", "2s", "--count", "1", "--output", "json"]);
    let text = scene.redirector.ask("top", &["--interval", "500ms", "--count", "1"]).out;
    fs::write(&stop, "").expect("a file");
    let dialled: u64 = load.join().into_iter().map(|(_, count)| count).sum();

    let top = answer.json();
    let route = &top["routes"][0];
    assert_eq!(route["route"], "VirtualService/default/echo tcp[0]", "{top:#}");
    assert!(route["rate"].as_f64() > Some(10.0), "{top:#}");
    let drawn = route["rate"].as_f64().expect("a rate") * top["seconds"].as_f64().expect("a time");
    let sigma = (0.8 * 0.2 / drawn).sqrt();
    for (leg, weight) in [(0, 0.8), (1, 0.2)] {
        let leg = &route["destinations"][leg];
        assert_eq!(leg["weight"], weight, "{leg}");
        let share = leg["share"].as_f64().expect("a share");
        assert!((share - weight).abs() < 4.0 * sigma, "{leg} of {drawn}");
        assert!(leg["handshakeSeconds"].as_f64() > Some(0.0), "{leg}");
        assert_eq!(leg["failed"], 0, "{leg}");
    }
    assert!(text.contains("echo.default:19000/one"), "{text}");

    let page = scrape(metrics);
    let series: Vec<(&str, &str)> = page
        .lines()
        .filter(|line| line.starts_with("redirector_"))
        .filter_map(|line| line.rsplit_once(' '))
        .collect();
    let names: std::collections::BTreeSet<&str> = series.iter().map(|(name, _)| *name).collect();
    assert_eq!(names.len(), series.len(), "each series once: {page}");
    let sum = |metric: &str| -> f64 {
        let of = series.iter().filter(|(name, _)| name.starts_with(metric));
        of.map(|(_, value)| value.parse::<f64>().expect("a number")).sum()
    };
    assert_eq!(sum("redirector_connections_total{") as u64, dialled, "{page}");
    assert_eq!(sum("redirector_handshake_seconds_count{") as u64, dialled, "{page}");
    assert!(sum("redirector_received_bytes_total{") > dialled as f64, "{page}");
    assert!(page.contains("redirector_handshake_seconds_bucket{destination=\"echo.default"));
}

/// How a connection goes: what each side does, and the bytes that the client
/// has sent and received then.
struct Course {
    what: &'static str,
    client: fn(&mut TcpStream),
    server: fn(&mut TcpStream),
    bytes: (u64, u64),
}

/// More than the sockets' buffers take.
const MUCH: usize = 16 << 20;

fn put(stream: &mut TcpStream, bytes: usize) {
    stream.write_all(&vec![b'x'; bytes]).expect("it is sent");
}

fn get(stream: &mut TcpStream, bytes: usize) {
    stream.read_exact(&mut vec![0; bytes]).expect("it comes");
}

/// Everything that still comes.
fn rest(stream: &mut TcpStream) -> usize {
    stream.read_to_end(&mut Vec::new()).expect("it ends")
}

fn end(stream: &mut TcpStream) {
    stream.shutdown(Shutdown::Write).expect("it is connected");
}

/// Has the close send a reset.
fn reset(stream: &mut TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let length = size_of_val(&linger) as libc::socklen_t;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_LINGER);
    let value = std::ptr::from_ref(&linger).cast();
    // SAFETY: the structure is as large as said.
    let result = unsafe { libc::setsockopt(stream.as_raw_fd(), level, option, value, length) };
    assert_eq!(result, 0);
}

/// Long enough for the packets on their way.
fn pause() {
    thread::sleep(Duration::from_millis(100));
}

/// Waits for what is left of this twentieth of a second, as the other side does.
fn together() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis() / 50;
    let begun = now();
    while now() == begun {
        std::hint::spin_loop();
    }
}

/// The client sends 1000 bytes, and has 300 by then: an acknowledgement comes
/// with them.
fn asks(stream: &mut TcpStream) {
    put(stream, 1000);
    get(stream, 300);
}

fn answers(stream: &mut TcpStream) {
    get(stream, 1000);
    put(stream, 300);
}

fn courses() -> Vec<Course> {
    let course = |what, client, server, bytes| Course { what, client, server, bytes };
    let both = (1000, 300);
    vec![
        course("the client ends, then the server", asks, |s| (answers(s), _ = rest(s)).0, both),
        course("the client ends, the server later", asks, |s| (answers(s), pause()).0, both),
        course("the server ends, then the client", |s| (asks(s), _ = rest(s)).0, answers, both),
        course("the server ends, the client later", |s| (asks(s), pause()).0, answers, both),
        course("both at once", |s| (asks(s), together()).0, |s| (answers(s), together()).0, both),
        course(
            "both ends cross",
            |s| put(s, MUCH),
            |s| {
                pause();
                end(s);
                pause();
                rest(s);
            },
            (MUCH as u64, 0),
        ),
        course(
            "both half closed",
            |s| (asks(s), end(s), _ = rest(s)).0,
            |s| (answers(s), end(s), _ = rest(s)).0,
            both,
        ),
        course(
            "the server answers after the client's end",
            |s| {
                put(s, 1000);
                end(s);
                assert_eq!(rest(s), 600);
            },
            |s| {
                rest(s);
                put(s, 300);
                pause();
                put(s, 300);
            },
            (1000, 600),
        ),
        course(
            "the client answers after the server's end",
            |s| {
                rest(s);
                put(s, 300);
                pause();
                put(s, 300);
            },
            |s| {
                put(s, 1000);
                end(s);
                assert_eq!(rest(s), 600);
            },
            (600, 1000),
        ),
        course(
            "the client does not wait for the server's end",
            |s| {
                put(s, 1000);
                end(s);
                get(s, 300);
            },
            |s| {
                rest(s);
                put(s, 300);
                pause();
            },
            both,
        ),
        course("the server resets", |s| (asks(s), pause()).0, |s| (answers(s), reset(s)).1, both),
        course("the client resets", |s| (asks(s), reset(s)).1, |s| (answers(s), pause()).0, both),
        course(
            "the server resets after the client's end",
            |s| {
                asks(s);
                end(s);
                pause();
            },
            |s| {
                answers(s);
                rest(s);
                reset(s);
            },
            both,
        ),
        course(
            "the client resets after the server's end",
            |s| {
                asks(s);
                rest(s);
                reset(s);
            },
            |s| {
                answers(s);
                end(s);
                pause();
            },
            both,
        ),
        course("the client says nothing and ends", |_| {}, |s| _ = rest(s), (0, 0)),
        course("the server says nothing and ends", |s| _ = rest(s), |_| {}, (0, 0)),
        course("nobody says anything", |s| (pause(), reset(s)).0, |s| _ = s.read(&mut [0]), (0, 0)),
    ]
}

#[test]
fn bytes_are_those_of_the_streams_whoever_ends_first() {
    let Some(scene) = Scene::new("streams", PROGRAM) else { return };
    let listener = TcpListener::bind("127.0.0.3:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    scene.redirector.write(
        "streams.yaml",
        &format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: streams}}
spec:
  clusterIP: 127.96.0.11
  selector: {{app: streams}}
  ports: [{{name: tcp, port: 19001, targetPort: {port}}}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: streams}}
spec: {{address: 127.0.0.3, labels: {{app: streams}}}}
"
        ),
    );
    let _daemon = scene.redirector.start();
    let follower = Follower::start(&scene, "streams", &[]);
    let to: SocketAddr = ([127, 96, 0, 11], 19001).into();
    let mut wanted = BTreeMap::new();
    for _ in 0..at_least(3, 10) {
        for Course { what, client, server, bytes } in courses() {
            let listener = listener.try_clone().expect("a descriptor");
            let serving =
                thread::spawn(move || server(&mut listener.accept().expect("a client").0));
            let cookie: u64 = child::run(&scene.client(), || {
                let socket = Socket::stream(to, 0).expect("a socket");
                let cookie = socket.cookie().expect("a cookie");
                socket.connect(to).expect("it is accepted");
                client(&mut socket.into_stream());
                cookie
            });
            serving.join().unwrap_or_else(|_| panic!("{what}: the server fails"));
            wanted.insert(cookie, (what, bytes));
        }
    }
    let shown = follower.end();
    let closed = shown.iter().filter(|one| one["event"] == "closed");
    let count = |value: &Value| value.as_u64().expect("a count");
    let told: BTreeMap<u64, (u64, u64)> = closed
        .map(|one| (count(&one["cookie"]), (count(&one["sent"]), count(&one["received"]))))
        .collect();
    let wrong: Vec<_> = wanted
        .iter()
        .filter(|(cookie, (_, bytes))| told.get(cookie) != Some(bytes))
        .map(|(cookie, (what, bytes))| format!("{what}: {:?}, not {bytes:?}", told.get(cookie)))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn connections_through_a_gateway_are_told_with_client_server_rule_and_endpoint() {
    let Some(scene) = Scene::new("through", PROGRAM) else { return };
    let redirector = &scene.redirector;
    let edge = free([127, 0, 0, 1]);
    redirector.write("gateway.yaml", &gateway(edge, "one"));
    let _daemon = redirector.start();
    let address = edge.to_string();
    let follow = || {
        thread::scope(|scope| {
            let args = ["--for", "2s", "--address", &address, "--output", "json"];
            let followed = scope.spawn(move || redirector.ask("flows", &args));
            while !followed.is_finished() {
                dial(edge);
                thread::sleep(Duration::from_millis(50));
            }
            followed.join().expect("an answer")
        })
    };
    let records = |answer: &Answer| -> Vec<Value> {
        assert_eq!(answer.exit, 0, "{answer:?}");
        answer.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let told = records(&follow());
    let of_gateways = |told: &[Value], outcomes: &[&str]| -> Vec<Value> {
        let is_one = |one: &&Value| {
            let outcome = one["outcome"].as_str().unwrap_or_default();
            !one["gateway"].is_null() && outcomes.contains(&outcome)
        };
        told.iter().filter(is_one).cloned().collect()
    };
    // A client that does not read all resets.
    let (routed, ended) =
        (of_gateways(&told, &["routed"]), of_gateways(&told, &["ended", "reset"]));
    assert!(!routed.is_empty() && !ended.is_empty(), "{told:#?}");
    for one in routed.iter().chain(&ended) {
        assert_eq!(one["gateway"], "Gateway/default/edge servers[0]", "{one:#}");
        assert_eq!(one["route"], "VirtualService/default/edge tcp[0]", "{one:#}");
        assert_eq!(one["destination"], edge.to_string(), "{one:#}");
        assert_eq!(one["endpoint"], scene.one.address().to_string(), "{one:#}");
        assert!(one["client"].as_str().is_some_and(|text| text.starts_with("127.")), "{one:#}");
    }
    let end = ended.iter().find(|end| routed.iter().any(|one| one["cookie"] == end["cookie"]));
    let end = end.expect("the end of one whose beginning was told");
    assert!(end["received"].as_u64() > Some(0) && end["seconds"].is_f64(), "{end:#}");

    redirector.change("no endpoint", || {
        redirector.write("gateway.yaml", &gateway(edge, "nowhere"));
    });
    let told = records(&follow());
    let refused = of_gateways(&told, &["refused"]);
    assert!(!refused.is_empty() && refused[0]["endpoint"].is_null(), "{told:#?}");
    let text = redirector.ask("flows", &["--last", "1", "--outcome", "refused"]).out;
    assert!(text.contains("client 127.") && text.contains("Gateway/default/edge"), "{text}");
}
