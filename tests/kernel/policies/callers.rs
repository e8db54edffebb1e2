//! What one workload can do to the others that have the same destination.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use redirector_tests::child;
use redirector_tests::gate::Gate;
use redirector_tests::socket::Socket;

use super::{SERVICE, Scene, count, dial, maps, open, service};

#[test]
fn one_workload_leaves_a_quarter_of_a_limit_to_the_others_and_mptcp_is_refused() {
    const LIMIT: usize = 8;
    let Some(scene) = Scene::new("quarter", 1) else { return };
    let policy = format!("{{connectionPool: {{tcp: {{maxConnections: {LIMIT}}}}}}}");
    scene.redirector.write("all.yaml", &scene.documents(&[(1, 1)], &policy));
    let _daemon = scene.redirector.start();
    let held = || (0..20).filter_map(|_| open().ok()).collect::<Vec<_>>();
    let gate = Gate::new();
    let hog = child::spawn(&scene.client(0), || {
        let held = held();
        gate.wait();
        held.len()
    });
    gate.gathers(1);
    let of = |client: &str| {
        let explain = ["--from-workload", client, "--to", SERVICE, "--output", "json"];
        scene.redirector.ask("explain", &explain).json()["now"]["refusedShare"].take()
    };
    assert_eq!((of("default/c0"), of("default/c1")), (1.0.into(), 0.0.into()));
    let others = child::run(&scene.client(1), || held().len());
    let destination = maps(&scene, "destinations")[0].take();
    assert!(destination["limitedByShare"].as_u64() >= Some(14), "{destination}");
    let mptcp = child::run(&scene.client(1), || {
        let socket = Socket::stream(service(), libc::IPPROTO_MPTCP).expect("a socket");
        socket.connect(service()).map_err(|error| error.raw_os_error())
    });
    gate.open();
    assert_eq!((hog.join(), others), (LIMIT * 3 / 4, LIMIT / 4));
    assert_eq!(mptcp, Err(Some(libc::ECONNREFUSED)), "what cannot be counted");
    // What is closed counts no more, for nobody.
    let held = child::run(&scene.client(0), || held().len());
    assert_eq!(held, LIMIT * 3 / 4);
}

/// Has a socket sign what it sends, which nobody else does: what it sends first is
/// dropped by who gets it. It takes no privilege.
fn sign(socket: &Socket) {
    const TCP_MD5SIG_EXT: i32 = 32;
    // struct tcp_md5sig: for every address of IPv4.
    let mut key = [0_u8; 216];
    key[0] = libc::AF_INET as u8;
    key[128] = 1;
    key[130] = 4;
    key[136..140].copy_from_slice(b"mine");
    // SAFETY: the descriptor is open, and the buffer as long as it says.
    let result = unsafe {
        libc::setsockopt(
            socket.fd(),
            libc::IPPROTO_TCP,
            TCP_MD5SIG_EXT,
            key.as_ptr().cast(),
            key.len() as u32,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Has a socket hear nothing: of what comes, all is dropped. It takes no privilege.
fn deafen(socket: &Socket) {
    // Returns, and keeps nothing.
    let mut program = libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut program };
    // SAFETY: the descriptor is open; the buffer is as long as it says, and what it points to
    // lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as u32,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// A socket that waits for nothing.
fn socket() -> Socket {
    let socket = Socket::stream(service(), 0).expect("a socket");
    socket.nonblocking().expect("the option");
    socket
}

/// Begins so many connections that get no answer.
fn unanswered(count: usize) -> Vec<Socket> {
    let open = |_| {
        let socket = socket();
        deafen(&socket);
        let _ = socket.connect(service());
        socket
    };
    (0..count).map(open).collect()
}

/// Longer than it takes until what was lost has been sent again.
const SENT_AGAIN: Duration = Duration::from_millis(1500);

#[test]
fn an_endpoint_that_has_left_is_not_ejected_by_connections_that_fail_later() {
    let Some(scene) = Scene::new("late", 2) else { return };
    let policy = "{outlierDetection: {consecutive5xxErrors: 1, interval: 600s, \
                  baseEjectionTime: 900s, maxEjectionPercent: 100}}";
    scene.redirector.write("all.yaml", &scene.documents(&[(2, 1)], policy));
    let _daemon = scene.redirector.start();
    let gate = Gate::new();
    let late = child::spawn(&scene.client(0), || {
        let all = unanswered(4);
        gate.wait();
        drop(all);
    });
    gate.gathers(1);
    let documents = scene.documents(&[(1, 1)], policy);
    scene.redirector.change("it leaves", || scene.redirector.write("all.yaml", &documents));
    thread::sleep(SENT_AGAIN);
    gate.open();
    late.join();
    let destinations = maps(&scene, "destinations");
    assert_eq!(destinations[0]["ejected"], 0, "{destinations:#}");
    assert_eq!(child::run(&scene.client(1), dial), "1");
}

#[test]
fn failures_of_one_workload_leave_no_endpoint_out_that_others_reach() {
    let Some(mut scene) = Scene::new("blame", 2) else { return };
    let policy = "{outlierDetection: {consecutive5xxErrors: 3, interval: 600s, \
                  baseEjectionTime: 900s, maxEjectionPercent: 100}}";
    scene.redirector.write("all.yaml", &scene.documents(&[(1, 1), (2, 1)], policy));
    let _daemon = scene.redirector.start();
    let (good, bad) = (scene.client(0), scene.client(1));
    let ask = |cgroup: &Path| child::run(cgroup, || count((0..60).map(|_| dial())));
    let ejected = |scene: &Scene| maps(scene, "destinations")[0]["ejected"].as_u64();
    assert_eq!(ask(&good).len(), 2, "both answer");
    child::run(&bad, || {
        let all = unanswered(24);
        thread::sleep(SENT_AGAIN);
        drop(all);
    });
    let withheld = || -> u64 {
        let backends = maps(&scene, "backends");
        backends.as_array().into_iter().flatten().filter_map(|one| one["withheld"].as_u64()).sum()
    };
    let begun = Instant::now();
    while withheld() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "{}", maps(&scene, "backends"));
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(ejected(&scene), Some(0));
    assert_eq!(ask(&good).len(), 2, "both answer");

    // One ends, and it takes two to say so.
    drop(scene.servers[1].take());
    let answers = ask(&bad);
    let failed = |answers: &BTreeMap<String, u64>| -> u64 {
        answers.iter().filter(|(answer, _)| answer.contains("refused")).map(|(_, n)| n).sum()
    };
    assert!(failed(&answers) > 3, "{answers:?}");
    assert_eq!(ejected(&scene), Some(0));
    let answers = ask(&good);
    assert_eq!((failed(&answers), ejected(&scene)), (1, Some(1)), "{answers:?}");
}

#[test]
fn what_a_client_does_to_its_own_connects_is_no_failure_of_the_endpoint() {
    let Some(scene) = Scene::new("own", 2) else { return };
    let policy = "{outlierDetection: {consecutive5xxErrors: 1, interval: 600s, \
                  baseEjectionTime: 900s, maxEjectionPercent: 100}}";
    scene.redirector.write("all.yaml", &scene.documents(&[(1, 1), (2, 1)], policy));
    let _daemon = scene.redirector.start();
    let client = scene.client(0);
    let ejected = || maps(&scene, "destinations")[0]["ejected"].as_u64();
    let shut = |socket: &Socket| {
        // SAFETY: the descriptor is open.
        assert_eq!(unsafe { libc::shutdown(socket.fd(), libc::SHUT_RDWR) }, 0);
    };
    // As a client that has not much time.
    let timed_out = |socket: &Socket| {
        socket.set(libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 1000).expect("the option");
        let _ = socket.connect(service());
        socket.finish(30_000).err().and_then(|error| error.raw_os_error())
    };
    child::run(&client, || {
        for socket in unanswered(4) {
            shut(&socket);
            // The error that this has left says nothing of what comes next.
            let _ = socket.connect(service());
            shut(&socket);
        }
        for socket in unanswered(4) {
            socket.disconnect().expect("it is not connected");
        }
    });
    assert_eq!(ejected(), Some(0), "given up");
    child::run(&client, || {
        for _ in 0..4 {
            // One that was refused elsewhere, and has not been asked about it.
            let socket = socket();
            let _ = socket.connect(redirector_tests::agent::free_port());
            let mut poll = libc::pollfd { fd: socket.fd(), events: libc::POLLOUT, revents: 0 };
            // SAFETY: one structure, as said.
            assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 30_000) }, 1);
            socket.disconnect().expect("it is not connected");
            deafen(&socket);
            let _ = socket.connect(service());
            shut(&socket);
        }
    });
    assert_eq!(ejected(), Some(0), "an older error");
    let signed = child::run(&client, || {
        let socket = socket();
        sign(&socket);
        timed_out(&socket)
    });
    assert_eq!((signed, ejected()), (Some(libc::ETIMEDOUT), Some(0)), "keys");
    let deaf = child::run(&client, || {
        let socket = socket();
        deafen(&socket);
        timed_out(&socket)
    });
    assert_eq!((deaf, ejected()), (Some(libc::ETIMEDOUT), Some(1)), "nobody has answered");
}
