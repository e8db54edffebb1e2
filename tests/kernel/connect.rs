//! Connections end to end: what a client and a server see.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use aya::programs::ProgramInfo;
use redirector::datapath::{Datapath, Hook, Options};
use redirector_common::abi::Verdict;
use redirector_tests::child;
use redirector_tests::figure;
use redirector_tests::image::Builder;
use redirector_tests::kernel::{Place, privileged, scaled};
use redirector_tests::netns::NetNs;
use redirector_tests::program;
use redirector_tests::server::Server;
use redirector_tests::socket::{MPTCP, Socket};

/// `TCP_FASTOPEN_CONNECT`.
const TCP_FASTOPEN_CONNECT: i32 = 30;

/// A frontend that is sent to a server.
const ROUTED: &str = "127.96.0.10:19000";
/// Another, sent to another server.
const OTHER: &str = "127.96.0.11:19000";
/// A frontend that is refused.
const REFUSED: &str = "127.96.0.12:19000";
/// A frontend whose one destination has no endpoint.
const EMPTY: &str = "127.96.0.13:19000";
/// A frontend that is left as it is.
const PASSED: &str = "127.96.0.14:19000";
/// A frontend whose endpoint does not listen.
const CLOSED: &str = "127.96.0.15:19000";
/// An IPv6 frontend.
const ROUTED_V6: &str = "[fd96::10]:19000";
/// An IPv6 frontend with an IPv4 endpoint only.
const CROSSED_V6: &str = "[fd96::11]:19000";
/// An IPv4 frontend with an IPv6 endpoint only.
const CROSSED_V4: &str = "127.96.0.16:19000";

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// The v4-mapped form of an IPv4 address.
fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        SocketAddr::V6(_) => address,
    }
}

/// A datapath with the frontends above.
struct Scene {
    datapath: Datapath,
    hello: Server,
    other: Server,
    v6: Server,
    place: Place,
}

impl Scene {
    fn new(what: &str) -> Option<Self> {
        if !privileged() {
            return None;
        }
        let place = Place::new(what);
        let hello = Server::start("hello", at("127.0.0.1:0"));
        let other = Server::start("other", at("127.0.0.1:0"));
        let v6 = Server::start("v6", at("[::1]:0"));
        let closed = {
            let gone = Server::start("gone", at("127.0.0.1:0"));
            gone.address()
        };
        let mut image = Builder::default();
        for (frontend, endpoint) in [
            (ROUTED, hello.address()),
            (OTHER, other.address()),
            (CLOSED, closed),
            (ROUTED_V6, v6.address()),
            (CROSSED_V6, hello.address()),
            (CROSSED_V4, v6.address()),
        ] {
            let route = image.route(&[endpoint]);
            image.frontend(at(frontend), route);
        }
        let empty = image.route(&[]);
        image.frontend(at(EMPTY), empty);
        image.frontend(at(REFUSED), Verdict::REFUSE);
        image.frontend(at(PASSED), Verdict::PASS);
        let datapath =
            place.start(&place.options(), &image.build()).unwrap_or_else(|error| panic!("{error}"));
        Some(Self { datapath, hello, other, v6, place })
    }

    /// Runs a client below the cgroup.
    fn client<T: serde::Serialize + serde::de::DeserializeOwned>(
        &self,
        body: impl FnOnce() -> T,
    ) -> T {
        child::run(self.place.cgroup.path(), body)
    }
}

/// The error number of an outcome; 0 for none.
fn errno<T>(outcome: std::io::Result<T>) -> i32 {
    outcome.err().map_or(0, |error| error.raw_os_error().unwrap_or(-1))
}

#[test]
fn a_connection_goes_to_the_endpoint_and_the_client_sees_what_it_dialled() {
    let Some(scene) = Scene::new("redirect") else { return };
    let (peer, greeting) = scene.client(|| {
        let socket = Socket::stream(at(ROUTED), 0).expect("a socket");
        socket.connect(at(ROUTED)).expect("connected");
        (socket.peer().expect("a peer"), socket.read_all().expect("a greeting"))
    });
    assert_eq!(peer, at(ROUTED));
    assert_eq!(greeting, format!("hello {}", scene.hello.address()));
    assert_eq!(scene.datapath.counters().expect("counters").totals.routed, 1);
    assert_eq!(scene.datapath.connections().expect("connections"), []);
}

#[test]
fn what_another_program_has_refused_is_neither_counted_nor_remembered() {
    let Some(scene) = Scene::new("refusing") else { return };
    // Programs of a child run before those of its parent, and all of them run.
    let inner = scene.place.cgroup.child("inner");
    let foreign = program::Foreign::refusing(&inner);
    let (errors, remembered) = child::run(&inner, || {
        let sockets = [ROUTED, REFUSED, EMPTY].map(|to| {
            let socket = Socket::stream(at(to), 0).expect("a socket");
            (errno(socket.connect(at(to))), socket)
        });
        // While the sockets are still there.
        let remembered = scene.datapath.remembered().expect("read");
        (sockets.map(|(error, _)| error), remembered)
    });
    assert_eq!((errors, remembered), ([libc::EPERM; 3], 0));
    let totals = scene.datapath.counters().expect("counters").totals;
    assert_eq!((totals.routed, totals.refused), (0, 0));
    drop(foreign);
    let connect = || {
        let socket = Socket::stream(at(ROUTED), 0).expect("a socket");
        errno(socket.connect(at(ROUTED)))
    };
    assert_eq!(child::run(&inner, connect), 0);
    assert_eq!(scene.datapath.counters().expect("counters").totals.routed, 1);
}

#[test]
fn every_program_is_far_from_what_the_verifier_can_look_at_also_when_it_logs() {
    // The limit is a million instructions.
    const FAR: u32 = 100_000;
    if !privileged() {
        return;
    }
    for log_level in [0, 4] {
        let place = Place::new("verified");
        let options = Options { log_level, ..place.options() };
        let _datapath = Datapath::take_over(&options).unwrap_or_else(|error| panic!("{error}"));
        let tables = std::fs::read_dir(place.pins()).expect("pins").flatten();
        let programs: Vec<_> = tables
            .flat_map(|entry| std::fs::read_dir(entry.path()).into_iter().flatten().flatten())
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("programs-"))
            .collect();
        let [programs] = &programs[..] else { panic!("the programs: {programs:?}") };
        let pins = std::fs::read_dir(programs.path()).expect("pins").flatten();
        let mut seen = 0;
        for pin in pins.map(|entry| entry.path()).filter(|path| !path.is_symlink()) {
            let program = ProgramInfo::from_pin(&pin).expect("a program");
            let name = program.name_as_str().unwrap_or_default().to_owned();
            let verified = program.verified_instruction_count().expect("Linux 5.16 tells");
            figure!("{name}, log level {log_level}: {verified} instructions verified");
            assert!(verified < FAR, "{name}, log level {log_level}: {verified}");
            seen += 1;
        }
        assert_eq!(seen, Hook::ALL.len());
    }
}

#[test]
fn the_self_test_passes_where_the_programs_are_and_fails_where_they_are_not() {
    let Some(scene) = Scene::new("selftest") else { return };
    let tests = scene.datapath.self_test().expect("tested");
    assert_eq!(tests.len(), 2, "both families: {tests:?}");
    for test in &tests {
        assert_eq!(test.outcome, Ok(()), "{test:?}");
    }
    // Detach behind its back: the pins stay.
    let links = scene.place.pins().join("links");
    for link in std::fs::read_dir(&links).expect("links").flatten() {
        for hook in ["rd_connect4", "rd_connect6"] {
            program::detach(&link.path().join(hook));
        }
    }
    for test in scene.datapath.self_test().expect("tested") {
        let problem = test.outcome.expect_err("nothing is attached");
        assert!(problem.contains("did not answer"), "{problem}");
    }
}

#[test]
fn a_non_blocking_connect_sees_what_it_dialled_at_once() {
    let Some(scene) = Scene::new("nonblocking") else { return };
    let (errno, peer, greeting) = scene.client(|| {
        let socket = Socket::stream(at(ROUTED), 0).expect("a socket");
        socket.nonblocking().expect("non-blocking");
        let errno = errno(socket.connect(at(ROUTED)));
        socket.finish(5000).expect("connected");
        let peer = socket.peer().expect("a peer");
        // Back to blocking, to read.
        // SAFETY: no pointers.
        unsafe { libc::fcntl(socket.fd(), libc::F_SETFL, 0) };
        (errno, peer, socket.read_all().expect("a greeting"))
    });
    assert_eq!(errno, libc::EINPROGRESS);
    assert_eq!(peer, at(ROUTED));
    assert_eq!(greeting, format!("hello {}", scene.hello.address()));
}

#[test]
fn fast_open_is_redirected_by_either_interface() {
    let Some(scene) = Scene::new("fastopen") else { return };
    let greetings: Vec<(SocketAddr, String)> = scene.client(|| {
        let by_sendto = Socket::stream(at(ROUTED), 0).expect("a socket");
        by_sendto.send_fast_open(at(ROUTED), b"hi").expect("sent");
        let by_option = Socket::stream(at(ROUTED), 0).expect("a socket");
        by_option.set(libc::IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1).expect("the option");
        by_option.connect(at(ROUTED)).expect("put off");
        by_option.send(b"hi").expect("sent");
        [by_sendto, by_option]
            .iter()
            .map(|socket| {
                let peer = socket.peer().expect("a peer");
                // What we sent is unread when the server closes: a reset may
                // come after the greeting.
                (peer, socket.read_all().unwrap_or_default())
            })
            .collect()
    });
    for (peer, greeting) in greetings {
        assert_eq!(peer, at(ROUTED));
        assert!(greeting.is_empty() || greeting.starts_with("hello "), "{greeting}");
    }
    assert_eq!(scene.datapath.counters().expect("counters").totals.routed, 2);
    assert_eq!(scene.datapath.connections().expect("connections"), []);
}

#[test]
fn a_socket_that_connects_again_is_decided_again() {
    let Some(scene) = Scene::new("again") else { return };
    let (first, peer, greeting) = scene.client(|| {
        let socket = Socket::stream(at(CLOSED), 0).expect("a socket");
        let first = errno(socket.connect(at(CLOSED)));
        socket.connect(at(OTHER)).expect("connected");
        (first, socket.peer().expect("a peer"), socket.read_all().expect("a greeting"))
    });
    assert_eq!(first, libc::ECONNREFUSED);
    assert_eq!(peer, at(OTHER));
    assert_eq!(greeting, format!("other {}", scene.other.address()));
}

#[test]
fn after_af_unspec_a_connect_straight_to_the_endpoint_shows_the_endpoint() {
    let Some(scene) = Scene::new("unspec") else { return };
    let endpoint = scene.hello.address();
    let (before, after) = scene.client(|| {
        let socket = Socket::stream(at(ROUTED), 0).expect("a socket");
        socket.connect(at(ROUTED)).expect("connected");
        let before = socket.peer().expect("a peer");
        socket.disconnect().expect("disconnected");
        socket.connect(endpoint).expect("connected");
        (before, socket.peer().expect("a peer"))
    });
    assert_eq!(before, at(ROUTED));
    assert_eq!(after, endpoint);
}

#[test]
fn ipv6_and_v4_mapped_addresses_are_redirected_within_their_family() {
    let Some(scene) = Scene::new("family") else { return };
    let answers: Vec<(SocketAddr, String)> = scene.client(|| {
        [at(ROUTED_V6), mapped(at(ROUTED))]
            .into_iter()
            .map(|to| {
                let socket = Socket::stream(to, 0).expect("a socket");
                socket.connect(to).expect("connected");
                (socket.peer().expect("a peer"), socket.read_all().expect("a greeting"))
            })
            .collect()
    });
    assert_eq!(answers[0], (at(ROUTED_V6), format!("v6 {}", scene.v6.address())));
    assert_eq!(answers[1], (mapped(at(ROUTED)), format!("hello {}", scene.hello.address())));
    // An endpoint of the other family is none; also where the socket could reach it.
    for to in [at(CROSSED_V6), at(CROSSED_V4), mapped(at(CROSSED_V4))] {
        let dial = || errno(Socket::stream(to, 0).and_then(|socket| socket.connect(to)));
        assert_eq!(scene.client(dial), libc::ECONNREFUSED, "{to}");
    }
}

#[test]
fn a_v6only_socket_cannot_reach_a_v4_mapped_address_as_ever() {
    let Some(scene) = Scene::new("v6only") else { return };
    let dial = || {
        let to = mapped(at(ROUTED));
        let socket = Socket::stream(to, 0).expect("a socket");
        socket.set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1).expect("the option");
        errno(socket.connect(to))
    };
    assert_eq!(scene.client(dial), dial());
    assert_eq!(dial(), libc::ENETUNREACH);
}

#[test]
fn an_mptcp_socket_is_redirected_shows_its_endpoint_and_leaves_nothing() {
    let Some(scene) = Scene::new("mptcp") else { return };
    let answer = scene.client(|| {
        let socket = match Socket::stream(at(ROUTED), MPTCP) {
            Ok(socket) => socket,
            Err(error) => return Err(error.to_string()),
        };
        socket.connect(at(ROUTED)).expect("connected");
        Ok((socket.peer().expect("a peer"), socket.read_all().expect("a greeting")))
    });
    let (peer, greeting) = match answer {
        Ok(answer) => answer,
        Err(error) => {
            eprintln!("left out: this kernel makes no MPTCP sockets: {error}");
            return;
        }
    };
    assert_eq!(greeting, format!("hello {}", scene.hello.address()));
    assert_eq!(peer, scene.hello.address(), "its memory would never be freed, so it has none");
    assert_eq!(scene.datapath.counters().expect("counters").totals.mptcp, 1);
    assert_eq!(scene.datapath.connections().expect("connections"), []);
}

#[test]
fn a_refused_connect_gets_econnrefused_at_once_however_it_is_made() {
    let Some(scene) = Scene::new("refuse") else { return };
    let answers: Vec<[i32; 4]> = scene.client(|| {
        [at(REFUSED), at(EMPTY), mapped(at(REFUSED))]
            .into_iter()
            .map(|to| {
                let socket = || Socket::stream(to, 0).expect("a socket");
                let patient = socket();
                patient.nonblocking().expect("non-blocking");
                let later = socket();
                later.set(libc::IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1).expect("the option");
                [
                    errno(socket().connect(to)),
                    errno(patient.connect(to)),
                    errno(socket().send_fast_open(to, b"hi")),
                    errno(later.connect(to)),
                ]
            })
            .collect()
    });
    for answer in answers {
        assert_eq!(answer, [libc::ECONNREFUSED; 4]);
    }
    let totals = scene.datapath.counters().expect("counters").totals;
    assert_eq!((totals.refused, totals.routed), (12, 0));
}

#[test]
fn what_no_rule_names_fails_and_succeeds_as_if_we_were_not_there() {
    let Some(scene) = Scene::new("miss") else { return };
    let server = scene.hello.address();
    // Addresses that no packet leaves the machine for.
    let dials = move || -> Vec<i32> {
        let mut answers = Vec::new();
        for to in [
            server,
            mapped(server),
            SocketAddr::new(at(ROUTED).ip(), 19001),
            at("127.0.0.1:1"),
            at("[::1]:1"),
            at("224.0.0.1:80"),
            at("255.255.255.255:80"),
            at("[ff02::1]:80"),
            at("127.96.0.10:0"),
            at("[::ffff:255.255.255.255]:80"),
        ] {
            answers.push(errno(Socket::stream(to, 0).and_then(|socket| socket.connect(to))));
        }
        // An address of another family than the socket's.
        for (like, to) in [(at(ROUTED), at(ROUTED_V6)), (at(ROUTED_V6), at(ROUTED))] {
            answers.push(errno(Socket::stream(like, 0).and_then(|socket| socket.connect(to))));
        }
        answers
    };
    assert_eq!(scene.client(dials), dials());
    let passed = scene.client(|| {
        errno(Socket::stream(at(PASSED), 0).and_then(|socket| socket.connect(at(PASSED))))
    });
    assert_eq!(passed, libc::ECONNREFUSED, "nobody listens there");
    assert_eq!(scene.datapath.counters().expect("counters").totals.passed, 1);
}

#[test]
fn a_missed_connect_that_times_out_times_out() {
    let Some(scene) = Scene::new("timeout") else { return };
    // A device that swallows everything.
    let netns = NetNs::new("timeout");
    for line in ["link add sink type dummy", "addr add 192.0.2.1/24 dev sink", "link set sink up"] {
        let mut arguments = vec!["-n", netns.name()];
        arguments.extend(line.split(' '));
        let output = Command::new("ip").args(&arguments).output().expect("iproute2");
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            eprintln!("left out: this kernel makes no dummy device: {error}");
            return;
        }
    }
    let errno = scene.client(|| {
        netns.enter();
        let to = at("192.0.2.2:80");
        let socket = Socket::stream(to, 0).expect("a socket");
        socket.set(libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 300).expect("the option");
        errno(socket.connect(to))
    });
    assert_eq!(errno, libc::ETIMEDOUT);
}

#[test]
fn connects_of_the_daemons_own_cgroup_and_from_below_it_are_left_alone() {
    let Some(mut scene) = Scene::new("own") else { return };
    let leaf = scene.place.cgroup.child("daemon");
    let below = scene.place.cgroup.child("daemon/redirector-relay");
    let beside = scene.place.cgroup.child("beside");
    let cgroup = redirector::datapath::cgroup::Cgroup::open(&leaf).expect("a cgroup");
    scene.datapath.set_daemon_cgroup(Some(&cgroup)).expect("claimed");
    let dial =
        || errno(Socket::stream(at(ROUTED), 0).and_then(|socket| socket.connect(at(ROUTED))));
    for own in [&leaf, &below] {
        assert_eq!(child::run(own, dial), libc::ECONNREFUSED, "nobody listens on the frontend");
    }
    assert_eq!(child::run(&beside, dial), 0, "others are redirected");
    assert_eq!(scene.client(dial), 0, "others are redirected");
    scene.datapath.set_daemon_cgroup(None).expect("given up");
    assert_eq!(child::run(&below, dial), 0);
    assert_eq!(scene.datapath.counters().expect("counters").totals.own, 2);
}

#[test]
fn udp_is_not_touched() {
    let Some(scene) = Scene::new("udp") else { return };
    let peers: Vec<SocketAddr> = scene.client(|| {
        [at(ROUTED), at(REFUSED), mapped(at(ROUTED))]
            .into_iter()
            .map(|to| {
                let socket = Socket::new(to, libc::SOCK_DGRAM, 0).expect("a socket");
                socket.connect(to).expect("connected");
                socket.peer().expect("a peer")
            })
            .collect()
    });
    assert_eq!(peers, [at(ROUTED), at(REFUSED), mapped(at(ROUTED))]);
    let totals = scene.datapath.counters().expect("counters").totals;
    assert_eq!((totals.routed, totals.refused), (0, 0));
}

#[test]
fn only_the_named_cgroups_are_concerned() {
    let Some(scene) = Scene::new("outside") else { return };
    let dial =
        || errno(Socket::stream(at(ROUTED), 0).and_then(|socket| socket.connect(at(ROUTED))));
    assert_eq!(dial(), libc::ECONNREFUSED);
    let deep: PathBuf = scene.place.cgroup.child("a/b/c");
    assert_eq!(child::run(&deep, dial), 0);
}

#[test]
fn weights_of_80_and_20_hold_over_10_000_connections() {
    let connections = scaled(10_000) as u32;
    let Some(mut scene) = Scene::new("weights") else { return };
    let mut image = Builder::default();
    let first = image.destination(&[scene.hello.address()]);
    let second = image.destination(&[scene.other.address()]);
    // Two slots of the alias table: the first is the first leg's alone, two
    // fifths of the second are the second's.
    let fifth = (0.4 * 4_294_967_296.0) as u32;
    let route = image.route_with(&[(first, u32::MAX, 0), (second, fifth, 0)]);
    image.frontend(at(ROUTED), route);
    let (active, now) = scene.datapath.dump_active().expect("dumped");
    let delta = now.diff(&image.build());
    scene.datapath.apply(&delta, active.generation + 1).expect("applied");
    let before = scene.datapath.counters().expect("counters");
    scene.client(|| {
        for _ in 0..connections {
            let socket = Socket::stream(at(ROUTED), 0).expect("a socket");
            socket.nonblocking().expect("non-blocking");
            let outcome = errno(socket.connect(at(ROUTED)));
            assert!(outcome == 0 || outcome == libc::EINPROGRESS, "errno {outcome}");
            // No trace: a flood of connections in TIME_WAIT would use up ports.
            socket.reset_on_close().expect("the option");
        }
    });
    let after = scene.datapath.counters().expect("counters");
    assert_eq!(after.totals.routed - before.totals.routed, u64::from(connections));
    let share: Vec<u64> = after.legs.iter().map(|(_, leg)| leg.chosen).collect();
    assert_eq!(share.iter().sum::<u64>(), u64::from(connections));
    let sigma = (f64::from(connections) * 0.8 * 0.2).sqrt();
    let off = (share[0] as f64 - 0.8 * f64::from(connections)).abs();
    assert!(off <= 4.0 * sigma, "{share:?} is {:.1} sigma off", off / sigma);
}
