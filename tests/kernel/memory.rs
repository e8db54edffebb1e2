//! The memory of connections: it ends with them, whatever their end, and none
//! can use it up for the others.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use redirector::datapath::{Datapath, Hook, Options, Sizes};
use redirector_tests::cgroup::key;
use redirector_tests::child;
use redirector_tests::gate::Gate;
use redirector_tests::image::Builder;
use redirector_tests::kernel::{Place, privileged, scaled};
use redirector_tests::server::Server;
use redirector_tests::socket::Socket;

/// Sent to a server.
const ROUTED: &str = "127.96.0.10:19000";
/// Sent to where nobody listens.
const CLOSED: &str = "127.96.0.11:19000";

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

struct Scene {
    datapath: Datapath,
    place: Place,
    server: Server,
}

impl Scene {
    fn new(what: &str, sizes: impl FnOnce(&mut Sizes)) -> Option<Self> {
        if !privileged() {
            return None;
        }
        let place = Place::new(what);
        let server = Server::start("server", at("127.0.0.1:0"));
        let closed = Server::start("gone", at("127.0.0.1:0")).address();
        let mut image = Builder::default();
        for (frontend, endpoint) in [(ROUTED, server.address()), (CLOSED, closed)] {
            let route = image.route(&[endpoint]);
            image.frontend(at(frontend), route);
        }
        let mut options: Options = place.options();
        sizes(&mut options.sizes);
        let datapath =
            place.start(&options, &image.build()).unwrap_or_else(|error| panic!("{error}"));
        Some(Self { datapath, place, server })
    }

    fn remembered(&self) -> usize {
        self.datapath.connections().expect("connections").len()
    }

    /// Waits until nothing is remembered: with accounting, entries outlive
    /// their sockets for as long as the connection takes to end.
    fn forgotten(&self) -> bool {
        (0..250).any(|_| {
            let none = self.remembered() == 0;
            if !none {
                thread::sleep(Duration::from_millis(20));
            }
            none
        })
    }
}

/// A connect and close of the kind with this number, without a trace.
fn once(kind: usize) {
    let to = if kind % 5 == 4 { at(CLOSED) } else { at(ROUTED) };
    let socket = Socket::stream(to, 0).expect("a socket");
    socket.reset_on_close().expect("the option");
    match kind % 5 {
        // Blocking.
        0 => socket.connect(to).expect("connected"),
        // Non-blocking, closed at once.
        1 => {
            socket.nonblocking().expect("the option");
            let _ = socket.connect(to);
        }
        // Fast Open.
        2 => {
            let _ = socket.send_fast_open(to, b"hi");
        }
        // Undone, and done again.
        3 => {
            socket.connect(to).expect("connected");
            socket.disconnect().expect("disconnected");
            socket.nonblocking().expect("the option");
            let _ = socket.connect(to);
        }
        // Refused by the endpoint.
        _ => {
            let _ = socket.connect(to);
        }
    }
}

/// 100,000 connections of every kind, many of processes that are killed in the
/// middle.
fn churn(scene: &Scene) {
    let (calm, killed) = (scaled(90_000), scaled(100));
    const EACH: usize = 100;
    child::run(scene.place.cgroup.path(), || (0..calm).for_each(once));
    for round in 0..killed {
        let child: child::Child<()> = child::spawn(scene.place.cgroup.path(), || {
            // All open at once when the end comes.
            let sockets: Vec<Socket> = (0..EACH)
                .map(|index| {
                    let to = if index % 5 == 4 { at(CLOSED) } else { at(ROUTED) };
                    let socket = Socket::stream(to, 0).expect("a socket");
                    socket.reset_on_close().expect("the option");
                    if index % 2 == 0 {
                        socket.nonblocking().expect("the option");
                    }
                    let _ = socket.connect(to);
                    socket
                })
                .collect();
            thread::sleep(Duration::from_secs(600));
            drop(sockets);
        });
        // Some before they are done, some after.
        if round % 2 == 0 {
            // As long as an emulated processor may need.
            let all = (0..30_000).any(|_| {
                thread::sleep(Duration::from_millis(2));
                scene.remembered() >= EACH
            });
            assert!(all, "round {round}: {} remembered", scene.remembered());
        } else {
            thread::sleep(Duration::from_micros(300 * (round as u64 % 10)));
        }
        child.kill();
    }
}

#[test]
fn a_hundred_thousand_connections_leave_no_memory_behind() {
    let Some(scene) = Scene::new("leak", |_| {}) else { return };
    churn(&scene);
    assert_eq!(scene.datapath.connections().expect("connections"), []);
    let totals = scene.datapath.counters().expect("counters").totals;
    assert!(totals.routed >= scaled(90_000) as u64, "{totals:?}");
    assert_eq!(totals.memory_full, 0);
}

#[test]
fn with_accounting_they_leave_none_either_and_every_end_is_counted() {
    let Some(mut scene) = Scene::new("account", |_| {}) else { return };
    scene.datapath.set_accounting(true).expect("switched on");
    churn(&scene);
    assert!(scene.forgotten(), "{:?}", scene.datapath.connections());
    let counters = scene.datapath.counters().expect("counters");
    for (leg, count) in &counters.legs {
        assert_eq!(count.established, count.closed, "leg {leg}: {count:?}");
        assert!(count.established + count.failed <= count.chosen, "leg {leg}: {count:?}");
    }
    let (server, closed) = (&counters.legs[0].1, &counters.legs[1].1);
    assert!(server.established > scaled(30_000) as u64 && server.handshake_ns > 0, "{server:?}");
    assert!(closed.established == 0 && closed.failed > scaled(10_000) as u64, "{closed:?}");
    // Nothing that follows connections stays attached once it is off.
    let sockops = |scene: &Scene| {
        let attached = scene.datapath.attachments().expect("attachments");
        attached.iter().any(|one| one.ours && one.hook == Hook::Sockops)
    };
    assert!(sockops(&scene));
    scene.datapath.set_accounting(false).expect("switched off");
    assert!(!sockops(&scene));
}

#[test]
fn accounting_switched_off_leaves_open_connections_in_good_hands() {
    let Some(mut scene) = Scene::new("off", |_| {}) else { return };
    scene.datapath.set_accounting(true).expect("switched on");
    let client: child::Child<()> = child::spawn(scene.place.cgroup.path(), || {
        let socket = Socket::stream(at(ROUTED), 0).expect("a socket");
        socket.connect(at(ROUTED)).expect("connected");
        thread::sleep(Duration::from_secs(600));
    });
    // It is followed from its first packet on, which is after it is remembered.
    let established = |scene: &Scene| {
        let counters = scene.datapath.counters().expect("counters");
        counters.legs.iter().map(|(_, count)| count.established).sum::<u64>()
    };
    while established(&scene) == 0 {
        thread::sleep(Duration::from_millis(5));
    }
    scene.datapath.set_accounting(false).expect("switched off");
    let sockops = |scene: &Scene| {
        let attached = scene.datapath.attachments().expect("attachments");
        attached.iter().any(|one| one.ours && one.hook == Hook::Sockops)
    };
    assert!(sockops(&scene), "it has to see the end of the open connection");
    client.kill();
    assert!(scene.forgotten(), "{:?}", scene.datapath.connections());
    scene.datapath.tidy().expect("tidied");
    assert!(!sockops(&scene));
}

#[test]
fn a_workload_that_uses_up_its_share_takes_nothing_from_the_others() {
    // Eight places; beside them 64, of which an identity may have four.
    let small = |sizes: &mut Sizes| {
        sizes.connections = 8;
        sizes.overflow = 64;
    };
    let Some(mut scene) = Scene::new("share", small) else { return };
    let (greedy, modest) = (scene.place.cgroup.child("greedy"), scene.place.cgroup.child("modest"));
    scene.datapath.insert_source(key(&greedy), 1).expect("inserted");
    scene.datapath.insert_source(key(&modest), 2).expect("inserted");
    let open = |count: usize| {
        move || -> Vec<SocketAddr> {
            let sockets: Vec<Socket> = (0..count)
                .map(|_| {
                    let socket = Socket::stream(at(ROUTED), 0).expect("a socket");
                    socket.connect(at(ROUTED)).expect("routed, remembered or not");
                    socket
                })
                .collect();
            sockets.iter().map(|socket| socket.peer().expect("a peer")).collect()
        }
    };
    let hog: child::Child<()> = child::spawn(&greedy, || {
        let sockets: Vec<Socket> = (0..100)
            .map(|_| {
                let socket = Socket::stream(at(ROUTED), 0).expect("a socket");
                socket.connect(at(ROUTED)).expect("routed, remembered or not");
                socket
            })
            .collect();
        thread::sleep(Duration::from_secs(600));
        drop(sockets);
    });
    for _ in 0..1000 {
        if scene.datapath.counters().expect("counters").totals.routed >= 100 {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(scene.remembered(), 8 + 4, "all places, and its share of the others");
    let totals = scene.datapath.counters().expect("counters").totals;
    assert_eq!((totals.overflowed, totals.memory_full), (4, 88));
    let peers = child::run(&modest, open(4));
    assert_eq!(peers, [at(ROUTED); 4], "the other has its own share");
    hog.kill();
    assert_eq!(scene.remembered(), 0);
    let peers = child::run(&greedy, open(12));
    let seen = peers.iter().filter(|peer| **peer == at(ROUTED)).count();
    assert!(seen >= 8, "its share came back: {peers:?}");
    assert!(peers.iter().all(|peer| *peer == at(ROUTED) || *peer == scene.server.address()));
}

#[test]
fn nobody_is_without_memory_because_an_unknown_caller_has_filled_it() {
    const MODEST: usize = 40;
    let small = |sizes: &mut Sizes| {
        sizes.connections = 64;
        sizes.overflow = 64;
    };
    let Some(scene) = Scene::new("filled", small) else { return };
    let [greedy, modest] = ["greedy", "modest"].map(|name| scene.place.cgroup.child(name));
    let open = |count: usize| -> Vec<Socket> {
        let open = |_| {
            let socket = Socket::stream(at(ROUTED), 0).expect("a socket");
            socket.connect(at(ROUTED)).expect("routed, remembered or not");
            socket
        };
        (0..count).map(open).collect()
    };
    let (full, end) = (Gate::new(), Gate::new());
    let hog: child::Child<()> = child::spawn(&greedy, || {
        let sockets = open(400);
        full.open();
        end.wait();
        drop(sockets);
    });
    full.wait();
    let totals = scene.datapath.counters().expect("counters").totals;
    assert!(totals.memory_full > 200, "{totals:?}");
    let peers: Vec<SocketAddr> = child::run(&modest, || {
        open(MODEST).iter().map(|socket| socket.peer().expect("a peer")).collect()
    });
    assert_eq!(peers, [at(ROUTED); MODEST]);
    end.open();
    hog.join();
    assert!(scene.forgotten());
}
