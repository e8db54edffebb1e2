//! Starting, dying, starting again: what stays in force, and who may change it.

use std::mem::offset_of;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use aya::maps::{Array, HashMap, Map, MapData};
use redirector::datapath::{Datapath, Error, Hook, Options, Sizes};
use redirector_common::abi::{Control, Side};
use redirector_core::image::Image;
use redirector_tests::child;
use redirector_tests::image::Builder;
use redirector_tests::kernel::{Place, privileged, recording_object, small};
use redirector_tests::program::{Foreign, Leave};
use redirector_tests::server::Server;
use redirector_tests::socket::Socket;

const BPF_F_MMAPABLE: u32 = 1 << 10;

const FRONTEND: &str = "127.96.0.10:19000";

fn frontend() -> SocketAddr {
    FRONTEND.parse().expect("an address")
}

fn server() -> Server {
    Server::start("server", "127.0.0.1:0".parse::<SocketAddr>().expect("an address"))
}

fn image(server: &Server) -> Image {
    let mut image = Builder::default();
    let route = image.route(&[server.address()]);
    image.frontend(frontend(), route);
    image.build()
}

/// Whether a client below the cgroup is redirected, and sees what it dialled.
fn redirected(place: &Place) -> bool {
    child::run(place.cgroup.path(), || {
        let socket = Socket::stream(frontend(), 0).expect("a socket");
        socket.connect(frontend()).is_ok() && socket.peer().ok() == Some(frontend())
    })
}

#[test]
fn a_program_of_somebody_else_that_runs_first_stays_where_ours_are_replaced() {
    if !privileged() {
        return;
    }
    let (place, one, two) = (Place::new("preorder"), server(), server());
    let mut datapath = place.start(&place.options(), &image(&one)).expect("started");
    let Some(_first) = Foreign::try_attach(place.cgroup.path(), Leave::First) else { return };
    let programs = |datapath: &Datapath| {
        let mut all = datapath.attachments().expect("attachments");
        all.retain(|one| one.hook == Hook::Connect4);
        all.sort_by_key(|one| one.order);
        all.into_iter().map(|one| (one.ours, one.program_id)).collect::<Vec<_>>()
    };
    let before = programs(&datapath);
    assert_eq!(before.iter().map(|(ours, _)| *ours).collect::<Vec<_>>(), [false, true]);
    let sizes = Sizes { frontends: small().frontends * 2, ..small() };
    let mut larger = datapath.beside(&sizes).expect("made");
    larger.apply(&Image::default().diff(&image(&two)), 2).expect("applied");
    larger.attach().expect("attached");
    let after = programs(&larger);
    assert_eq!(after.iter().map(|(ours, _)| *ours).collect::<Vec<_>>(), [false, true]);
    assert_eq!(before[0], after[0], "theirs runs on");
    assert_ne!(before[1], after[1], "ours is the new one");
    drop(std::mem::replace(&mut datapath, larger));
    assert!(redirected(&place));
}

/// What keeps affinities and shares of a node apart from others'.
fn seed(place: &Place) -> u32 {
    const WORDS: usize = size_of::<Control>() / 8;
    let map = MapData::from_pin(place.pins().join("current/CONTROL")).expect("the map");
    let map = Map::from_map_data(map).expect("a known type");
    let control: Array<_, [u64; WORDS]> = Array::try_from(map).expect("an array");
    let word = control.get(&0, 0).expect("an entry")[offset_of!(Control, seed) / 8];
    (word >> (offset_of!(Control, seed) % 8 * 8)) as u32
}

#[test]
fn the_seed_of_shares_is_drawn_once_and_goes_over_to_whatever_tables_follow() {
    if !privileged() {
        return;
    }
    let (place, other, server) = (Place::new("seed"), Place::new("seed-other"), server());
    let image = image(&server);
    let datapath = place.start(&place.options(), &image).expect("started");
    let _other = other.start(&other.options(), &image).expect("started");
    let drawn = seed(&place);
    assert_ne!(drawn, 0);
    assert_ne!(drawn, seed(&other), "of one boot of one machine, and not the same");
    drop(datapath);
    let mut datapath = Datapath::take_over(&place.options()).expect("taken over");
    assert_eq!(seed(&place), drawn);
    let sizes = Sizes { frontends: small().frontends * 2, ..small() };
    let mut larger = datapath.beside(&sizes).expect("made");
    larger.apply(&Image::default().diff(&image), 2).expect("applied");
    larger.attach().expect("attached");
    assert_eq!(seed(&place), drawn);
    drop((datapath, larger));
    let again = place.start(&place.options(), &image).expect("started with the sizes of before");
    assert_eq!(seed(&place), drawn);
    drop(again);
}

#[test]
fn where_it_cannot_be_told_what_is_attached_nothing_is_taken_for_not_attached() {
    if !privileged() {
        return;
    }
    let (place, server) = (Place::new("untold"), server());
    let mut datapath = place.start(&place.options(), &image(&server)).expect("started");
    let links = place.pins().join("links");
    let served = std::fs::read_dir(&links).expect("links").flatten().next().expect("a cgroup");
    let name = served.path().join("cgroup");
    std::fs::remove_file(&name).expect("the link to the cgroup");
    std::fs::create_dir(&name).expect("something else");
    datapath.attachments().unwrap_err();
    // What follows on an attachment waits for better times.
    datapath.attach().unwrap_err();
    std::fs::remove_dir(&name).expect("removed");
    datapath.attach().expect("attached");
    assert!(redirected(&place));
    assert!(datapath.attachments().expect("attachments").iter().any(|one| one.ours));
}

#[test]
fn everything_stays_in_force_without_the_daemon_and_is_taken_over_as_it_is() {
    if !privileged() {
        return;
    }
    let (place, server) = (Place::new("stay"), server());
    let wanted = image(&server);
    let datapath = place.start(&place.options(), &wanted).expect("started");
    let before = datapath.active();
    drop(datapath);
    assert!(redirected(&place));

    let read = Datapath::open_read_only(&place.pins()).expect("loaded");
    assert_eq!(read.dump_active().expect("dumped"), (before, wanted.clone()));
    assert_eq!(read.counters().expect("counters").totals.routed, 1);
    assert_eq!(read.sizes(), small());
    let ours = read.attachments().expect("attachments").into_iter().filter(|one| one.ours).count();
    assert_eq!(ours, 5, "every hook but that of accounting");
    assert!(read.self_test().expect("tested").iter().all(|test| test.outcome.is_ok()));

    let mut again = Datapath::take_over(&place.options()).expect("taken over");
    assert_eq!(again.dump_active().expect("dumped"), (before, wanted));
    again.attach().expect("attached");
    assert!(redirected(&place));
    let ours = again.attachments().expect("attachments").into_iter().filter(|one| one.ours).count();
    assert_eq!(ours, 5, "and none twice");
}

#[test]
fn a_second_daemon_is_refused_and_told_who_is_first() {
    if !privileged() {
        return;
    }
    let (place, server) = (Place::new("second"), server());
    let datapath = place.start(&place.options(), &image(&server)).expect("started");
    let error = Datapath::take_over(&place.options()).expect_err("refused");
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    let error = Datapath::unload(&place.pins()).expect_err("refused");
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    assert!(redirected(&place));
    drop(datapath);
    Datapath::take_over(&place.options()).expect("now it may");
}

#[test]
fn unload_leaves_nothing_and_says_when_there_was_nothing() {
    if !privileged() {
        return;
    }
    let (place, server) = (Place::new("unload"), server());
    drop(place.start(&place.options(), &image(&server)).expect("started"));
    assert!(redirected(&place));
    Datapath::unload(&place.pins()).expect("unloaded");
    assert!(!place.pins().exists());
    assert!(!redirected(&place));
    for error in [
        Datapath::unload(&place.pins()).expect_err("nothing there"),
        Datapath::open_read_only(&place.pins()).expect_err("nothing there"),
    ] {
        assert!(matches!(error, Error::NotLoaded { .. }), "{error}");
    }
}

#[test]
fn a_daemon_killed_while_it_writes_leaves_whole_tables_and_its_successor_mends_the_rest() {
    if !privileged() {
        return;
    }
    let (place, server) = (Place::new("crash"), server());
    let wanted = image(&server);
    drop(place.start(&place.options(), &wanted).expect("started"));
    // Beside the frontend that must never fail, many that come and go.
    let mut crowded = wanted.clone();
    let route = *wanted.frontends.values().next().expect("one frontend");
    for port in 1..=1000_u16 {
        crowded
            .frontends
            .insert((SocketAddr::from(([10, 1, 1, 1], port)).ip().into(), port), route);
    }
    let options = place.options();
    for round in 0..20_u64 {
        // A process of its own, outside of the cgroup.
        let outside = place.cgroup.path().parent().expect("the root").to_owned();
        let daemon: child::Child<()> = child::spawn(&outside, || {
            let mut datapath = Datapath::take_over(&options).expect("taken over");
            let (active, mut now) = datapath.dump_active().expect("dumped");
            let mut generation = active.generation;
            loop {
                let next = if now == crowded { &wanted } else { &crowded };
                generation += 1;
                datapath.apply(&now.diff(next), generation).expect("applied");
                now = next.clone();
            }
        });
        thread::sleep(Duration::from_millis(20 + 7 * round));
        daemon.kill();
        assert!(redirected(&place), "round {round}");
        let datapath = Datapath::take_over(&options).expect("taken over");
        let active = datapath.active();
        assert!(active.in_step, "round {round}: {active:?}");
        let (left, right) = (datapath.dump(Side::of_epoch(0)), datapath.dump(Side::of_epoch(1)));
        let (left, right) = (left.expect("dumped"), right.expect("dumped"));
        assert!(left == right, "round {round}: the sides differ");
        assert!(left == wanted || left == crowded, "round {round}: half a configuration");
    }
}

#[test]
fn other_sizes_move_to_new_tables_without_a_connect_escaping() {
    if !privileged() {
        return;
    }
    let (place, server) = (Place::new("resize"), server());
    let wanted = image(&server);
    drop(place.start(&place.options(), &wanted).expect("started"));
    // One connection stays open over the change, others are made all the time.
    let client: child::Child<(SocketAddr, u32)> = child::spawn(place.cgroup.path(), || {
        let open = Socket::stream(frontend(), 0).expect("a socket");
        open.connect(frontend()).expect("connected");
        let mut made = 0;
        let stop = std::time::Instant::now() + Duration::from_secs(3);
        while std::time::Instant::now() < stop {
            let socket = Socket::stream(frontend(), 0).expect("a socket");
            socket.reset_on_close().expect("the option");
            socket.connect(frontend()).expect("redirected");
            made += 1;
        }
        (open.peer().expect("a peer"), made)
    });
    let mut sizes = small();
    for round in 0..6 {
        sizes.frontends = 2000 + round;
        sizes.connections = 1 << round;
        let options = Options { sizes, ..place.options() };
        let datapath = place.start(&options, &wanted).expect("started");
        assert_eq!(datapath.sizes().frontends, 2000 + round);
        assert_eq!(datapath.sizes().connections, small().connections, "kept while loaded");
    }
    // Another object of the same layout: the programs are swapped, the tables stay.
    let options = Options { sizes, object: Some(recording_object()), ..place.options() };
    let before = Datapath::open_read_only(&place.pins()).expect("loaded").active();
    let mut datapath = Datapath::take_over(&options).expect("taken over");
    assert_eq!(datapath.active(), before);
    datapath.attach().expect("attached");
    drop(datapath);
    let (peer, made) = client.join();
    assert_eq!(peer, frontend(), "its memory outlives the tables");
    assert!(made > 100, "{made}");
    let tables = std::fs::read_dir(place.pins()).expect("pins").flatten();
    let tables =
        tables.filter(|one| one.file_name().to_string_lossy().starts_with("tables-")).count();
    assert_eq!(tables, 1, "old tables are gone");
}

/// The one directory of pins whose name starts so.
fn directory(place: &Place, name: &str) -> PathBuf {
    let pins = std::fs::read_dir(place.pins()).expect("pins").flatten();
    let named = pins.filter(|pin| pin.file_name().to_string_lossy().starts_with(name));
    let found: Vec<PathBuf> = named.map(|pin| pin.path()).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

/// Puts a map of another shape in the place of one of ours.
fn replace(pin: &Path) {
    std::fs::remove_file(pin).expect("a pin");
    let foreign: HashMap<MapData, u64, u64> = HashMap::create(7, 0).expect("a map");
    foreign.pin(pin).expect("pinned");
}

#[test]
fn pins_that_are_not_what_the_programs_use_are_told_of_and_mended_and_nothing_is_lost() {
    if !privileged() {
        return;
    }
    let (place, server) = (Place::new("amiss"), server());
    let wanted = image(&server);
    let datapath = place.start(&place.options(), &wanted).expect("started");
    assert_eq!(datapath.found(), [] as [&str; 0]);
    drop(datapath);
    let go = place.pins().with_file_name("go");
    let connected = place.pins().with_file_name("connected");
    let standing: child::Child<SocketAddr> = child::spawn(place.cgroup.path(), || {
        let socket = Socket::stream(frontend(), 0).expect("a socket");
        socket.connect(frontend()).expect("connected");
        std::fs::create_dir(&connected).expect("a directory");
        while !go.exists() {
            thread::sleep(Duration::from_millis(5));
        }
        socket.peer().expect("a peer")
    });
    while !connected.exists() {
        thread::sleep(Duration::from_millis(5));
    }
    let tables = std::fs::canonicalize(place.pins().join("current")).expect("the tables");
    let (memory, counts) = (directory(&place, "memory-"), directory(&place, "counts-"));
    replace(&tables.join("ROUTES"));
    std::fs::remove_file(tables.join("CONTROL")).expect("a pin");
    replace(&memory.join("OVERFLOW"));
    std::fs::remove_file(memory.join("CONNECTIONS")).expect("a pin");
    std::fs::remove_dir_all(&counts).expect("a directory");
    assert!(redirected(&place));

    let mut datapath = Datapath::take_over(&place.options()).expect("taken over");
    let found = datapath.found().join("\n");
    for what in ["ROUTES: another", "CONTROL: it was removed", "OVERFLOW: another", "LIVE: it was"]
    {
        assert!(found.contains(what), "{found}");
    }
    assert_eq!(datapath.found().len(), 6, "{found}");
    let (active, image) = datapath.dump_active().expect("dumped");
    assert_eq!(image, wanted, "the very tables");
    datapath.apply(&image.diff(&wanted), active.generation + 1).expect("applied");
    datapath.attach().expect("attached");
    assert!(redirected(&place));
    assert_eq!(datapath.remembered().expect("read"), 1, "the very memory");
    std::fs::create_dir(&go).expect("a directory");
    assert_eq!(standing.join(), frontend());
    assert_eq!(datapath.remembered().expect("read"), 0);
    drop(datapath);
    let again = Datapath::take_over(&place.options()).expect("taken over");
    assert_eq!(again.found(), [] as [&str; 0], "once");
}

#[test]
fn pins_of_another_shape_that_no_program_knows_are_refused_with_every_difference() {
    if !privileged() {
        return;
    }
    let (place, server) = (Place::new("foreign"), server());
    drop(place.start(&place.options(), &image(&server)).expect("started"));
    let tables = std::fs::canonicalize(place.pins().join("current")).expect("the tables");
    let programs = std::fs::read_dir(&tables).expect("tables").flatten().map(|pin| pin.path());
    for programs in programs.filter(|path| path.is_dir()) {
        std::fs::remove_dir_all(programs).expect("removed");
    }
    for name in ["ROUTES", "FRONTENDS"] {
        replace(&tables.join(name));
    }
    let error = Datapath::take_over(&place.options()).expect_err("refused").to_string();
    for what in ["ROUTES: its type", "ROUTES: the number of entries is 7", "FRONTENDS: the size"] {
        assert!(error.contains(what), "{error}");
    }
    Datapath::unload(&place.pins()).expect("unloaded");
    drop(place.start(&place.options(), &image(&server)).expect("started"));
    assert!(redirected(&place));
}

#[test]
fn what_a_crash_left_unfinished_is_swept_away() {
    if !privileged() {
        return;
    }
    let (place, server) = (Place::new("sweep"), server());
    let stale = place.pins().join("new-tables");
    std::fs::create_dir_all(&stale).expect("a directory");
    let map: HashMap<MapData, u64, u64> = HashMap::create(7, 0).expect("a map");
    map.pin(stale.join("ROUTES")).expect("pinned");
    let datapath = place.start(&place.options(), &image(&server)).expect("started");
    assert!(datapath.found()[0].contains("new-tables: it was left half made"));
    assert!(!stale.exists());
    assert!(redirected(&place));
}

#[test]
fn what_another_version_left_is_removed_once_nothing_uses_it() {
    if !privileged() {
        return;
    }
    let (place, server) = (Place::new("old"), server());
    let old = ["tables-0-0123456789abcdef", "memory-0-64", "counts-0", "flows-0"];
    let [tables, memory, counts, flows] = old.map(|name| place.pins().join(name));
    for directory in [&tables, &memory, &counts, &flows] {
        std::fs::create_dir_all(directory).expect("a directory");
    }
    let pin = |name: &str, directory: &Path| -> Array<MapData, u64> {
        // One place, and one word of it.
        let map: Array<MapData, u64> = Array::create(1, BPF_F_MMAPABLE).expect("a map");
        let pin = directory.join(name);
        map.pin(&pin).expect("pinned");
        let map = Map::from_map_data(MapData::from_pin(pin).expect("the map"));
        Array::try_from(map.expect("a known type")).expect("an array")
    };
    pin("ROUTES", &tables);
    pin("LIVE", &counts);
    pin("FLOWS", &flows);
    let mut overflowed = pin("OVERFLOW_STATE", &memory);
    let mut places = pin("CONNECTIONS", &memory);
    overflowed.set(0, 2, 0).expect("written");
    places.set(0, 4711, 0).expect("written");

    let mut datapath = place.start(&place.options(), &image(&server)).expect("started");
    assert!(redirected(&place));
    assert!(!tables.exists(), "nothing reads these tables any more");
    datapath.tidy().expect("tidied");
    assert_eq!(datapath.remembered().expect("read"), 3, "also what the other one remembers");
    assert_eq!(datapath.connections().expect("read"), []);
    // While there are connections of the other version, a downgrade finds what they
    // are counted in.
    assert!([&memory, &counts, &flows].iter().all(|directory| directory.exists()));
    overflowed.set(0, 0, 0).expect("written");
    datapath.tidy().expect("tidied");
    assert!(memory.exists(), "one is left");
    places.set(0, 0, 0).expect("written");
    datapath.tidy().expect("tidied");
    assert!([&memory, &counts, &flows].iter().all(|directory| !directory.exists()));
    assert!(redirected(&place));
}

#[test]
fn memory_that_cannot_be_read_for_want_of_memory_is_not_removed() {
    // So much that it can only be mapped where there is room for it.
    const PLACES: u32 = 4 << 20;
    if !privileged() {
        return;
    }
    let (place, server) = (Place::new("enomem"), server());
    let memory = place.pins().join(format!("memory-0-{PLACES}"));
    std::fs::create_dir_all(&memory).expect("a directory");
    for (name, places) in [("OVERFLOW_STATE", 1), ("CONNECTIONS", PLACES)] {
        let mut map: Array<MapData, u64> = Array::create(places, BPF_F_MMAPABLE).expect("a map");
        map.set(0, 1, 0).expect("written");
        map.pin(memory.join(name)).expect("pinned");
    }
    let mut datapath = place.start(&place.options(), &image(&server)).expect("started");
    child::run(place.cgroup.path(), || {
        let pages = std::fs::read_to_string("/proc/self/statm").expect("readable");
        let pages: u64 = pages.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
        let most = pages * 4096 + u64::from(PLACES) * 4;
        let most = libc::rlimit { rlim_cur: most, rlim_max: most };
        // SAFETY: the structure is valid; this process only.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const most) }, 0);
        datapath.remembered().expect_err("there is no room to read it");
        datapath.tidy().expect("tidied");
    });
    assert!(memory.exists());
    assert_eq!(datapath.remembered().expect("read"), 2);
}

#[test]
fn what_is_attached_stays_so_while_somebody_has_removed_its_pins() {
    if !privileged() {
        return;
    }
    let (place, server) = (Place::new("unpinned"), server());
    let mut datapath = place.start(&place.options(), &image(&server)).expect("started");
    std::fs::remove_dir_all(place.pins()).expect("removed");
    // What goes on now and then looks at what is pinned.
    datapath.tidy().expect("tidied");
    assert!(redirected(&place));
    assert!(datapath.pin_again().expect("pinned") > 0);
    drop(datapath);
    assert!(redirected(&place), "the pins hold it");
}

#[test]
fn parts_whose_pins_were_removed_are_made_anew() {
    if !privileged() {
        return;
    }
    let (place, server) = (Place::new("parts"), server());
    let wanted = image(&server);
    drop(place.start(&place.options(), &wanted).expect("started"));
    for part in ["tables-", "memory-", "counts-", "flows-"] {
        let directory = directory(&place, part);
        std::fs::remove_dir_all(&directory).expect("removed");
        assert!(redirected(&place), "what is attached holds what it uses: {part}");
        drop(place.start(&place.options(), &wanted).expect("started"));
        assert!(directory.exists());
        assert!(redirected(&place), "{part}");
    }
    // One program alone.
    let tables = std::fs::canonicalize(place.pins().join("current")).expect("the tables");
    let mut pins = std::fs::read_dir(&tables).expect("tables").flatten().map(|pin| pin.path());
    let programs = pins.find(|path| path.is_dir()).expect("the programs");
    std::fs::remove_file(programs.join("rd_release")).expect("a pin");
    drop(place.start(&place.options(), &wanted).expect("started"));
    assert!(programs.join("rd_release").exists());
    assert!(redirected(&place));
}

#[test]
fn a_place_that_will_not_do_is_named_with_the_remedy() {
    if !privileged() {
        return;
    }
    let place = Place::new("wrong");
    let take = |options: Options| Datapath::take_over(&options).expect_err("refused").to_string();
    let error = take(Options { pins: std::env::temp_dir().join("redirector"), ..place.options() });
    assert!(error.contains("no BPF file system") && error.contains("mount -t bpf"), "{error}");
    let error = take(Options { cgroups: vec!["/proc".into()], ..place.options() });
    assert!(error.contains("/proc") && error.contains("cgroup2"), "{error}");
    let missing = place.cgroup.path().join("missing");
    let error = take(Options { cgroups: vec![missing], ..place.options() });
    assert!(error.contains("no such cgroup"), "{error}");
    let sizes = Sizes { legs: 0, ..small() };
    let error = take(Options { sizes, ..place.options() });
    assert!(error.contains("legs"), "{error}");
    let garbage = Options { object: Some(vec![1, 2, 3]), ..place.options() };
    assert!(!take(garbage).is_empty());
    assert!(Datapath::open_read_only(&place.pins()).is_err());
}

#[test]
fn a_configuration_that_does_not_fit_changes_nothing_and_says_what_does_not() {
    if !privileged() {
        return;
    }
    let (place, server) = (Place::new("capacity"), server());
    let wanted = image(&server);
    let mut datapath = place.start(&place.options(), &wanted).expect("started");
    let before = datapath.active();
    let mut large = wanted.clone();
    let route = *wanted.frontends.values().next().expect("one frontend");
    for port in 1..=small().frontends as u16 {
        large.frontends.insert((SocketAddr::from(([10, 1, 1, 1], port)).ip().into(), port), route);
    }
    let leg = *wanted.legs.values().next().expect("one leg");
    large.legs.insert(small().legs, leg);
    let error = datapath.apply(&wanted.diff(&large), 99).expect_err("too large").to_string();
    assert!(error.contains("1025 frontends") && error.contains("1025 legs"), "{error}");
    assert_eq!(datapath.dump_active().expect("dumped"), (before, wanted));
    assert!(redirected(&place));
}

#[test]
fn a_cgroup_inside_another_is_covered_by_it_and_one_no_longer_named_is_let_go() {
    if !privileged() {
        return;
    }
    let (place, server) = (Place::new("cgroups"), server());
    let (outer, inner) = (place.cgroup.child("outer"), place.cgroup.child("outer/inner"));
    let other = place.cgroup.child("other");
    let options = Options { cgroups: vec![inner.clone(), outer, other.clone()], ..place.options() };
    let datapath = place.start(&options, &image(&server)).expect("started");
    let dial = || {
        let socket = Socket::stream(frontend(), 0).expect("a socket");
        socket.connect(frontend()).is_ok() && socket.peer().ok() == Some(frontend())
    };
    assert!(child::run(&inner, dial) && child::run(&other, dial));
    let routed = datapath.counters().expect("counters").totals.routed;
    assert_eq!(routed, 2, "each is decided once");
    drop(datapath);
    let options = Options { cgroups: vec![other.clone()], ..options };
    drop(place.start(&options, &image(&server)).expect("started"));
    assert!(!child::run(&inner, dial) && child::run(&other, dial));
}
