//! Changes that have to wait, and entries that connections are counted in.

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use aya::maps::{Array, HashMap, Map, MapData};
use redirector::datapath::{Datapath, Error, Sizes};
use redirector_common::abi::{FrontendKey, LIVE_LAYOUT, LIVES_EACH, Live, Verdict, policy};
use redirector_common::addr::Addr;
use redirector_core::image::Image;
use redirector_tests::child;
use redirector_tests::image::Builder;
use redirector_tests::kernel::{Place, privileged, small};
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

/// Servers of these names, an image for each, and a datapath with the first in force; nothing
/// without privilege.
fn started<const N: usize>(
    what: &str,
    names: [&str; N],
) -> Option<(Place, [Server; N], [Image; N], Datapath)> {
    if !privileged() {
        return None;
    }
    let place = Place::new(what);
    let servers = names.map(|name| Server::start(name, SocketAddr::from(([127, 0, 0, 1], 0))));
    let images = servers.each_ref().map(image);
    let datapath = place.start(&place.options(), images.first()?).expect("started");
    Some((place, servers, images, datapath))
}

fn answer(place: &Place) -> String {
    child::run(place.cgroup.path(), || {
        let socket = Socket::stream(service(), 0).expect("a socket");
        socket.connect(service()).expect("connected");
        socket.read_all().expect("a greeting")
    })
}

/// An array that is pinned, of so many words each.
fn array<const WORDS: usize>(pin: &Path) -> Array<MapData, [u64; WORDS]> {
    let map = Map::from_map_data(MapData::from_pin(pin).expect("the map"));
    Array::try_from(map.expect("a known type")).expect("an array")
}

/// Has so many programs read, as if they were preempted in the middle.
fn readers(place: &Place) -> impl FnMut(u64) + use<> {
    let mut readers = array::<8>(&place.pins().join("current/READERS"));
    move |count| readers.set(0, [count, 0, 0, 0, 0, 0, 0, 0], 0).expect("set")
}

#[test]
fn a_program_whose_task_does_not_run_holds_up_no_change_and_what_it_reads_stays() {
    let Some((place, _servers, images, mut datapath)) =
        started("preempted", ["one", "two", "three"])
    else {
        return;
    };
    let mut reading = readers(&place);
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
fn what_mends_the_tables_is_written_to_no_side_that_is_read() {
    let Some((place, _servers, images, mut datapath)) = started("mended", ["one", "two"]) else {
        return;
    };
    let generation = datapath.active().generation;
    let mut reading = readers(&place);
    reading(1);
    // Of the same generation.
    datapath.apply(&images[0].diff(&images[1]), generation).expect("in force");
    assert!(answer(&place).starts_with("two"));
    let active = datapath.active();
    assert_eq!((active.generation, active.in_step), (generation, false));
    let read = active.side.other();
    let refused = datapath.apply(&images[1].diff(&images[0]), generation).expect_err("it waits");
    assert!(matches!(refused, Error::GracePeriod { .. }), "{refused}");
    assert_eq!(datapath.dump(read).expect("read"), images[0]);
    drop(datapath);
    reading(0);
    let datapath = Datapath::take_over(&place.options()).expect("taken over");
    assert!(datapath.active().in_step);
    assert_eq!(datapath.dump(read).expect("read"), images[1]);
}

#[test]
fn larger_tables_get_no_entry_of_others_while_what_was_before_is_read() {
    let Some((place, _servers, images, mut datapath)) = started("grown-while-read", ["one", "two"])
    else {
        return;
    };
    let mut reading = readers(&place);
    reading(1);
    datapath.apply(&images[0].diff(&images[1]), 2).expect("in force");
    let sizes = Sizes { frontends: small().frontends * 2, ..small() };
    let refused = datapath.beside(&sizes).expect_err("it has to wait");
    assert!(matches!(refused, Error::GracePeriod { .. }), "{refused}");
    reading(0);
    datapath.beside(&sizes).expect("made").give_up().expect("removed");
    assert!(answer(&place).starts_with("two"));
}

#[test]
fn where_there_is_always_a_reader_those_from_before_are_waited_for_and_no_others() {
    let Some((place, _servers, images, mut datapath)) = started("starved", ["one", "two", "three"])
    else {
        return;
    };
    // Never zero, whoever comes and goes.
    readers(&place)(1);
    datapath.apply(&images[0].diff(&images[1]), 2).expect("in force");
    let begun = Instant::now();
    while datapath.bring_in_step().is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", datapath.active());
    }
    assert!(begun.elapsed() > Duration::from_secs(4), "they had time: {:?}", begun.elapsed());
    assert!(datapath.active().in_step);
    datapath.apply(&images[1].diff(&images[2]), 3).expect("in force");
    assert!(answer(&place).starts_with("three"));
    // Who comes next has to wait as long, and comes.
    assert!(!datapath.active().in_step);
    drop(datapath);
    let datapath = Datapath::take_over(&place.options()).expect("taken over");
    assert!(datapath.active().in_step);
}

#[test]
fn sides_that_a_daemon_left_alike_by_their_words_only_are_alike_when_the_next_one_comes() {
    let Some((place, _servers, [image], datapath)) = started("words", ["one"]) else { return };
    let idle = datapath.active().side.other();
    drop(datapath);
    let pin = place.pins().join("current/FRONTENDS");
    let map = Map::from_map_data(MapData::from_pin(pin).expect("the map"));
    let mut frontends: HashMap<_, FrontendKey, Verdict> =
        HashMap::try_from(map.expect("a known type")).expect("a hash table");
    let (addr, side) = (Addr::from(service().ip()), idle.index() as u16);
    frontends.remove(&FrontendKey { addr, port: service().port().to_be(), side }).expect("there");
    drop(frontends);
    let datapath = Datapath::take_over(&place.options()).expect("taken over");
    assert!(datapath.active().in_step);
    assert_eq!(datapath.dump(idle).expect("read"), image);
}

#[test]
fn an_endpoint_that_has_lost_some_of_its_places_stays_ejected_until_the_last() {
    const DESTINATION: u32 = 1;
    const WORDS: usize = size_of::<Live>() / 8;
    if !privileged() {
        return;
    }
    let place = Place::new("slots");
    let mut builder = Builder::default();
    let endpoint = |host: u8| SocketAddr::from(([127, 0, 0, host], 19001));
    let route = builder.route(&[1, 2, 2].map(endpoint));
    builder.frontend(service(), route);
    let mut before = builder.build();
    for destination in before.destinations.values_mut() {
        (destination.policy, destination.live) = (policy::EJECTING, DESTINATION);
        (destination.owner, destination.eject_after, destination.eject_most) = (4711, 1, 2);
    }
    let of = |image: &mut Image, place: u32, host: u32| {
        let backend = image.backends.get_mut(&place).expect("a place");
        backend.addr = endpoint(host as u8).ip().into();
        (backend.live, backend.owner) = (DESTINATION + host, 4711 + host);
    };
    (0..3).zip([1, 2, 2]).for_each(|(place, host)| of(&mut before, place, host));
    let mut datapath: Datapath = place.start(&place.options(), &before).expect("started");
    // As if connections to the second one had failed.
    let mut lives = array::<WORDS>(&place.pins().join(format!("counts-{LIVE_LAYOUT}/LIVE-0")));
    let stamp = Live::stamp(lives.get(&DESTINATION, 0).expect("an entry")[0]);
    let mut set = |number: u32, offset: usize, word: u64| {
        let mut live = lives.get(&number, 0).expect("an entry");
        live[offset / 8] = word;
        lives.set(number, live, 0).expect("set");
    };
    set(DESTINATION + 2, offset_of!(Live, ejected_until), u64::MAX);
    set(DESTINATION + 2, offset_of!(Live, parent), Live::link(DESTINATION, stamp));
    set(DESTINATION, offset_of!(Live, ejected), 1);
    let ejected = |datapath: &Datapath| {
        let lives: BTreeMap<u32, Live> = datapath.lives().into_iter().collect();
        (lives[&(DESTINATION + 2)].ejected_until != 0, lives[&DESTINATION].ejected)
    };
    assert_eq!(ejected(&datapath), (true, 1));
    let mut fewer = before.clone();
    of(&mut fewer, 1, 3);
    datapath.apply(&before.diff(&fewer), 2).expect("in force");
    assert_eq!(ejected(&datapath), (true, 1), "it has a place left");
    let mut none = fewer.clone();
    of(&mut none, 2, 3);
    datapath.apply(&fewer.diff(&none), 3).expect("in force");
    assert_eq!(ejected(&datapath), (false, 0), "it is gone");
}

#[test]
fn entries_that_connections_are_counted_in_are_made_as_they_are_needed_and_kept() {
    const NUMBER: u32 = 2 * LIVES_EACH + 7;
    let Some((place, _servers, [image], mut datapath)) = started("lives", ["one"]) else { return };
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
    drop(datapath);
    // One that somebody puts in its place is not believed.
    std::fs::remove_file(counts.join("LIVE-2")).expect("removed");
    let other = MapData::from_pin(counts.join("LIVE-1")).expect("another array");
    other.pin(counts.join("LIVE-2")).expect("pinned");
    let datapath = Datapath::take_over(&place.options()).expect("taken over");
    assert!(datapath.found().iter().any(|what| what.contains("LIVE-2: another map")));
    assert_eq!((arrays(), counts_of(&datapath)), (3, both(1)));
    standing.kill();
    reaches(&datapath, 0);
}
