//! Changes that have to wait, and entries that connections are counted in.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aya::maps::{Array, Map, MapData};
use redirector::datapath::{Datapath, Error};
use redirector_common::abi::{LIVE_LAYOUT, LIVES_EACH, Live, policy};
use redirector_core::image::Image;
use redirector_tests::child;
use redirector_tests::image::Builder;
use redirector_tests::kernel::{Place, privileged};
use redirector_tests::server::Server;
use redirector_tests::socket::Socket;

const SERVICE: &str = "127.96.0.10:19000";

fn service() -> SocketAddr {
    SERVICE.parse().expect("an address")
}

/// Everything goes to this server.
fn image(server: &Server) -> Image {
    let mut image = Builder::default();
    let route = image.route(&[server.address()]);
    image.frontend(service(), route);
    image.build()
}

fn answer(place: &Place) -> String {
    child::run(place.cgroup.path(), || {
        let socket = Socket::stream(service(), 0).expect("a socket");
        socket.connect(service()).expect("connected");
        socket.read_all().expect("a greeting")
    })
}

#[test]
fn a_program_whose_task_does_not_run_holds_up_no_change_and_what_it_reads_stays() {
    if !privileged() {
        return;
    }
    let place = Place::new("preempted");
    let servers = ["one", "two", "three"]
        .map(|name| Server::start(name, SocketAddr::from(([127, 0, 0, 1], 0))));
    let images = servers.each_ref().map(image);
    let mut datapath: Datapath = place.start(&place.options(), &images[0]).expect("started");
    let pin = place.pins().join("current/READERS");
    let readers = Map::from_map_data(MapData::from_pin(pin).expect("the map"));
    let mut readers: Array<MapData, [u64; 8]> =
        Array::try_from(readers.expect("a known type")).expect("an array");
    // As if one were preempted in the middle.
    let mut reading = |count: u64| readers.set(0, [count, 0, 0, 0, 0, 0, 0, 0], 0).expect("set");
    reading(1);
    let begun = Instant::now();
    datapath.apply(&images[0].diff(&images[1]), 2).expect("in force");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(answer(&place).starts_with("two"));
    assert!(!datapath.active().in_step);
    assert!(datapath.behind().is_some_and(|why| why.to_string().contains("does not get to run")));
    // The side that it reads is written to by nobody.
    let other = datapath.active().side.other();
    let before = datapath.dump(other).expect("read");
    let begun = Instant::now();
    let refused = datapath.apply(&images[1].diff(&images[2]), 3).expect_err("it has to wait");
    assert!(matches!(refused, Error::GracePeriod { .. }), "{refused}");
    assert!(datapath.bring_in_step().is_err());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!((datapath.dump(other).expect("read"), datapath.active().generation), (before, 2));
    // It has come to its end.
    reading(0);
    datapath.bring_in_step().expect("in step");
    assert!(datapath.active().in_step && datapath.behind().is_none());
    datapath.apply(&images[1].diff(&images[2]), 3).expect("in force");
    assert!(answer(&place).starts_with("three"));
}

#[test]
fn entries_that_connections_are_counted_in_are_made_as_they_are_needed_and_kept() {
    const NUMBER: u32 = 2 * LIVES_EACH + 7;
    if !privileged() {
        return;
    }
    let place = Place::new("lives");
    let server = Server::start("one", SocketAddr::from(([127, 0, 0, 1], 0)));
    let image = image(&server);
    let mut datapath: Datapath = place.start(&place.options(), &image).expect("started");
    let counts = place.pins().join(format!("counts-{LIVE_LAYOUT}"));
    let arrays = || {
        let names = std::fs::read_dir(&counts).expect("pins").flatten();
        names.filter(|pin| pin.file_name().to_string_lossy().starts_with("LIVE-")).count()
    };
    assert_eq!(arrays(), 1);
    let mut counted = image.clone();
    for destination in counted.destinations.values_mut() {
        (destination.policy, destination.live) = (policy::LEAST_REQUEST, NUMBER);
        destination.owner = 4711;
    }
    for backend in counted.backends.values_mut() {
        (backend.live, backend.owner) = (NUMBER + 1, 4712);
    }
    datapath.apply(&image.diff(&counted), 2).expect("in force");
    assert_eq!(arrays(), 3);
    let open = || {
        let socket = Socket::stream(service(), 0).expect("a socket");
        socket.connect(service()).expect("connected");
        socket
    };
    let counts_of = |datapath: &Datapath| -> Vec<(u32, u64)> {
        let lives = datapath.lives().into_iter();
        lives.map(|(number, live)| (number, Live::connections(live.word))).collect()
    };
    let both = |count: u64| vec![(NUMBER, count), (NUMBER + 1, count)];
    let standing = child::spawn(place.cgroup.path(), move || {
        let socket = open();
        std::thread::sleep(Duration::from_secs(600));
        drop(socket);
    });
    let reaches = |datapath: &Datapath, count: u64| {
        let begun = Instant::now();
        while counts_of(datapath) != both(count) {
            assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", counts_of(datapath));
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    reaches(&datapath, 1);
    // A pin that somebody removes is made again, by who runs and by who comes.
    std::fs::remove_file(counts.join("LIVE-2")).expect("removed");
    assert_eq!(datapath.pin_again().expect("pinned"), 1);
    drop(datapath);
    std::fs::remove_file(counts.join("LIVE-1")).expect("removed");
    let datapath = Datapath::take_over(&place.options()).expect("taken over");
    assert_eq!((arrays(), counts_of(&datapath)), (3, both(1)));
    standing.kill();
    reaches(&datapath, 0);
}
