//! The kernel decides what the host decides: the same draws, put to the same
//! code over the same configuration, give the same rule, destination and
//! endpoint; and never from half a configuration.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use aya::maps::{Array, Map, MapData};
use redirector::datapath::{Options, Sizes};
use redirector_common::abi::{
    Destination, LIVE_LAYOUT, Live, Record, Side, record_decision as kind,
};
use redirector_common::decide::{Caller, Decision, decide};
use redirector_core::image::Image;
use redirector_core::layout::{Layout, Newcomers, Placement};
use redirector_core::model::SourceId;
use redirector_core::plan::Plan;
use redirector_tests::cgroup::key;
use redirector_tests::child;
use redirector_tests::documents::{self, Shape};
use redirector_tests::figure;
use redirector_tests::kernel::{Place, privileged, recording_object, scaled, small};
use redirector_tests::netns::NetNs;
use redirector_tests::random::Random;
use redirector_tests::records::Records;
use redirector_tests::server::Server;
use redirector_tests::socket::Socket;

/// How many decisions are compared.
const DECISIONS: usize = 100_000;
/// Over so many configurations.
const CONFIGURATIONS: usize = 125;
/// Where the callers are, below the test's cgroup: known, known inside known,
/// deep below known, and unknown.
pub const CALLERS: [(&str, Option<usize>); 6] = [
    ("a", Some(0)),
    ("a/b", Some(1)),
    ("a/b/x/y/z", Some(1)),
    ("c/d/e", Some(2)),
    ("c/d", None),
    ("f", None),
];
/// The workloads: namespace, name, and cgroup.
const WORKLOADS: [(&str, &str, &str); 3] =
    [("default", "outer", "a"), ("foo", "inner", "a/b"), ("default", "deep", "c/d/e")];

/// What a client saw of one connect.
type Seen = (SocketAddr, u64, i32, String);

/// A record on its way out of a child: the epoch, then the other words.
type Told = (u64, Vec<u32>);

fn tell(record: &Record) -> Told {
    let mut words = record.draws.to_vec();
    words.extend([record.drawn, record.asked, record.identity, record.class]);
    words.extend([record.affinity, record.turn]);
    words.extend(record.active);
    words.push(record.asks);
    words.extend(record.skipped);
    words.extend([record.limited, record.decision, record.route, record.leg, record.backend]);
    (record.epoch, words)
}

fn told_record((epoch, words): Told) -> Record {
    let mut words = words.into_iter();
    let mut next = || words.next().expect("a record's words");
    Record {
        epoch,
        draws: std::array::from_fn(|_| next()),
        drawn: next(),
        asked: next(),
        identity: next(),
        class: next(),
        affinity: next(),
        turn: next(),
        active: std::array::from_fn(|_| next()),
        asks: next(),
        skipped: std::array::from_fn(|_| next()),
        limited: next(),
        decision: next(),
        route: next(),
        leg: next(),
        backend: next(),
        reserved: 0,
    }
}

/// A recorded decision, told again.
struct Replay<'a> {
    record: &'a Record,
    drawn: u32,
    asked: bool,
    asks: u32,
    /// The endpoint that is asked about second is the one drawn first.
    active: std::vec::IntoIter<u32>,
}

impl<'a> Replay<'a> {
    fn new(record: &'a Record) -> Self {
        let active = vec![record.active[1], record.active[0]].into_iter();
        Self { record, drawn: 0, asked: false, asks: 0, active }
    }
}

impl Caller for Replay<'_> {
    fn class(&mut self, _: Side) -> u32 {
        self.asked = true;
        self.record.class
    }

    fn draw(&mut self) -> u32 {
        let draw = self.record.draws.get(self.drawn as usize).copied();
        self.drawn += 1;
        draw.expect("as many draws as were recorded")
    }

    fn affinity(&mut self) -> u32 {
        self.record.affinity
    }

    fn turn(&mut self, _: u32) -> u32 {
        self.record.turn
    }

    fn active(&mut self, _: u32) -> u64 {
        self.active.next().expect("two endpoints are compared").into()
    }

    fn is_ejected(&mut self, _: u32, _: u32) -> bool {
        let ask = self.asks;
        self.asks += 1;
        self.record.skipped[(ask / 32) as usize] >> (ask % 32) & 1 == 1
    }

    fn admit(&mut self, _: &Destination) -> bool {
        self.record.limited == 0
    }
}

/// Takes the recorded decision again, and compares. Returns the host's.
fn compare(image: &Image, to: SocketAddr, record: &Record) -> Decision {
    let mut replay = Replay::new(record);
    let side = Side::of_epoch(record.epoch);
    let decision = decide(image, side, &to.ip().into(), to.port().to_be(), &mut replay);
    let told = match decision {
        Decision::Miss => (kind::MISS, 0, 0, 0),
        Decision::Pass => (kind::PASS, 0, 0, 0),
        Decision::Refuse => (kind::REFUSE, 0, 0, 0),
        Decision::RefuseLeg(choice) => (kind::REFUSE_LEG, choice.route, choice.leg, 0),
        Decision::Limited(choice) => (kind::LIMITED, choice.route, choice.leg, 0),
        Decision::Route(choice, endpoint) => {
            (kind::ROUTE, choice.route, choice.leg, endpoint.backend)
        }
    };
    assert_eq!(
        (record.decision, record.route, record.leg, record.backend),
        told,
        "{to} {record:?}"
    );
    assert_eq!(
        (record.drawn, record.asked == 1, record.asks),
        (replay.drawn, replay.asked, replay.asks),
        "{to} {record:?}"
    );
    decision
}

/// A network namespace in which every address that is dialled or sent to is
/// local, with a server on each port.
pub fn world(what: &str) -> (NetNs, Vec<Server>) {
    let netns = NetNs::new(what);
    for arguments in [
        ["-6", "route", "add", "local", "fd97::/64", "dev", "lo"],
        ["-6", "route", "add", "local", "fd96::/64", "dev", "lo"],
        ["-4", "route", "add", "local", "10.96.0.0/16", "dev", "lo"],
    ] {
        let output = Command::new("ip")
            .args(["-n", netns.name()])
            .args(arguments)
            .output()
            .expect("iproute2 is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let servers = thread::scope(|scope| {
        let start = || {
            netns.enter();
            (0..3).map(|_| Server::start("at", (Ipv6Addr::UNSPECIFIED, 0))).collect::<Vec<_>>()
        };
        scope.spawn(start).join().expect("servers")
    });
    (netns, servers)
}

pub fn sources() -> Vec<(SourceId, String)> {
    WORKLOADS
        .iter()
        .map(|(namespace, name, cgroup)| {
            let id = SourceId { namespace: (*namespace).into(), name: (*name).into() };
            (id, (*cgroup).to_owned())
        })
        .collect()
}

/// Connects, reads what the server says, and goes without a trace.
fn connect(to: SocketAddr) -> Seen {
    let socket = Socket::stream(to, 0).expect("a socket");
    socket.reset_on_close().expect("the option");
    let cookie = socket.cookie().expect("a cookie");
    let errno = socket.connect(to).err().map_or(0, |error| error.raw_os_error().unwrap_or(-1));
    let greeting = if errno == 0 {
        assert_eq!(socket.peer().ok(), Some(to), "getpeername shows what was dialled");
        socket.read_all().expect("a greeting")
    } else {
        String::new()
    };
    (to, cookie, errno, greeting)
}

/// The v4-mapped form as it is shown of a dual-stack server's socket.
pub fn shown(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(v4) => {
            format!("at {}", SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()))
        }
        SocketAddr::V6(_) => format!("at {address}"),
    }
}

/// The recording programs, with room for the slots of hashed destinations.
fn options(place: &Place) -> Options {
    let sizes = Sizes { backends: 65_536, ..small() };
    Options { object: Some(recording_object()), sizes, ..place.options() }
}

/// What the programs know of destinations and endpoints.
pub fn lives(pins: &Path) -> Array<MapData, Live> {
    let pin = pins.join(format!("counts-{LIVE_LAYOUT}/LIVE-0"));
    let map = Map::from_map_data(MapData::from_pin(pin).expect("the map")).expect("a known type");
    Array::try_from(map).expect("an array")
}

/// As if there were connections elsewhere, and endpoints that have failed.
pub fn stir(lives: &mut Array<MapData, Live>, image: &Image, random: &mut Random) {
    let destinations = image.destinations.values().map(|one| one.live);
    let endpoints = image.backends.values().map(|one| one.live);
    let numbers: std::collections::BTreeSet<u32> = destinations.chain(endpoints).collect();
    for number in numbers.into_iter().filter(|number| *number != 0) {
        let mut live = lives.get(&number, 0).expect("an entry");
        live.word = u64::from(Live::stamp(live.word)) + random.below(4) * Live::ONE;
        live.turn = random.number();
        live.ejected_until = if random.below(2) == 0 { u64::MAX } else { 0 };
        lives.set(number, live, 0).expect("written");
    }
}

#[test]
fn random_connections_are_decided_as_the_host_decides() {
    if !privileged() {
        return;
    }
    let seed = std::process::id().into();
    let mut random = Random::new(seed);
    eprintln!("seed {seed}");
    let place = Place::new("decide");
    let (netns, servers) = world("decide");
    let shape = Shape {
        sources: sources(),
        endpoint_ports: servers.iter().map(|server| server.address().port()).collect(),
    };
    let options = options(&place);
    let mut datapath = place.start(&options, &Image::default()).expect("started");
    let records = Records::open(&place.pins());
    let mut lives = lives(&place.pins());
    let cgroups: Vec<PathBuf> = CALLERS.iter().map(|(name, _)| place.cgroup.child(name)).collect();

    let (mut placement, mut before) = (Placement::of(Layout::default()), Plan::default());
    let decisions = scaled(DECISIONS);
    let per_child = decisions.div_ceil(CONFIGURATIONS * CALLERS.len());
    let mut seen_kinds = BTreeMap::new();
    let kinds =
        [kind::MISS, kind::PASS, kind::REFUSE, kind::REFUSE_LEG, kind::LIMITED, kind::ROUTE];
    let too_few = |seen: &BTreeMap<u32, usize>| {
        kinds.into_iter().find(|kind| seen.get(kind).is_none_or(|count| *count <= decisions / 200))
    };
    // Some documents have little of one kind: more of them, until there is enough.
    for generation in 0..CONFIGURATIONS as u64 * 4 {
        if generation >= CONFIGURATIONS as u64 && too_few(&seen_kinds).is_none() {
            break;
        }
        let plan = documents::plan(&mut random, &shape);
        let (delta, limits) = (before.difference(&plan), datapath.sizes().limits());
        let placed = placement.place(&delta, &limits, &Newcomers::default());
        datapath.apply(&placed.expect("it fits").0, 10 + generation).expect("applied");
        placement.settle();
        before = plan;
        let (layout, image) = (placement.layout(), placement.image());
        assert!(datapath.dump_active().expect("dumped").1 == *image, "the tables are the image");
        stir(&mut lives, image, &mut random);
        for (id, cgroup) in &shape.sources {
            let identity = layout.identity(id).expect("placed");
            datapath
                .insert_source(key(&place.cgroup.path().join(cgroup)), identity)
                .expect("inserted");
        }
        for ((_, workload), cgroup) in CALLERS.iter().zip(&cgroups) {
            let dials: Vec<SocketAddr> =
                (0..per_child).map(|_| documents::dialled(&mut random)).collect();
            let seen: Vec<Seen> = child::run(cgroup, || {
                netns.enter();
                dials.iter().map(|to| connect(*to)).collect()
            });
            let identity = workload
                .map_or(0, |index| layout.identity(&shape.sources[index].0).expect("placed"));
            for (to, cookie, errno, greeting) in seen {
                let record = records.get(cookie).expect("every decision is recorded");
                let decision = compare(image, to, &record);
                if record.asked == 1 {
                    assert_eq!(record.identity, identity, "{to} from {}", cgroup.display());
                    let class = image.class_of.get(&identity).copied().unwrap_or(0);
                    assert_eq!(record.class, class, "{to} from {}", cgroup.display());
                }
                match decision {
                    // The addresses dialled are local, and nobody listens there.
                    Decision::Miss
                    | Decision::Pass
                    | Decision::Refuse
                    | Decision::RefuseLeg(_)
                    | Decision::Limited(_) => {
                        assert_eq!(errno, libc::ECONNREFUSED, "{to} {decision:?}");
                    }
                    Decision::Route(_, endpoint) => {
                        assert_eq!(errno, 0, "{to} {decision:?}");
                        let ip = endpoint.addr.into();
                        let address = SocketAddr::new(ip, u16::from_be(endpoint.port));
                        assert_eq!(greeting, shown(address), "{to} {decision:?}");
                    }
                }
                *seen_kinds.entry(record.decision).or_insert(0_usize) += 1;
            }
        }
    }
    let total: usize = seen_kinds.values().sum();
    assert!(total >= decisions, "{total}");
    assert_eq!(too_few(&seen_kinds), None, "too few of a kind to say anything: {seen_kinds:?}");
    assert_eq!(datapath.connections().expect("connections"), []);
    assert_eq!(datapath.counters().expect("counters").totals.memory_full, 0);
    figure!("{total} decisions of the kernel against the host's: every one the same");
}

#[test]
fn no_connection_is_decided_from_two_configurations() {
    const HAMMERS: usize = 4;
    if !privileged() {
        return;
    }
    let place = Place::new("atomic");
    let netns = NetNs::new("atomic");
    let shape = Shape { sources: sources(), endpoint_ports: vec![1, 2, 3] };
    let options = options(&place);
    let mut datapath = place.start(&options, &Image::default()).expect("started");
    let cgroup = place.cgroup.child("a");
    // Two configurations that fill the same places with other things: numbers
    // are given anew to each.
    let placed: [(Image, u32); 2] = std::array::from_fn(|index| {
        let plan = documents::plan(&mut Random::new(index as u64 + 1), &shape);
        let (layout, image) =
            Layout::default().place(&plan, &datapath.sizes().limits()).expect("it fits");
        let identity = layout.identity(&shape.sources[0].0).expect("placed");
        (image, identity)
    });
    let [(one, identity), (two, other)] = placed;
    assert_eq!(identity, other, "the workload has its number in both");
    let images = [one, two];
    datapath.insert_source(key(&cgroup), identity).expect("inserted");
    let (active, now) = datapath.dump_active().expect("dumped");
    datapath.apply(&now.diff(&images[0]), active.generation + 1).expect("applied");
    let first = datapath.active().epoch;

    let records = Arc::new(Records::open(&place.pins()));
    let (mut compared, mut epochs) = (0_usize, std::collections::BTreeSet::new());
    let directory = tempfile::tempdir().expect("a directory");
    // Made once the configuration has changed often enough.
    let enough = directory.path().join("enough");
    let hammers: Vec<child::Child<Vec<(SocketAddr, Told)>>> = (0..HAMMERS)
        .map(|index| {
            let (records, netns, enough) = (records.clone(), &netns, &enough);
            child::spawn(&cgroup, move || {
                netns.enter();
                let mut random = Random::new(1000 + index as u64);
                let mut seen = Vec::new();
                while seen.len() < scaled(20_000) || !enough.exists() {
                    let to = documents::dialled(&mut random);
                    let socket = Socket::stream(to, 0).expect("a socket");
                    socket.reset_on_close().expect("the option");
                    socket.nonblocking().expect("the option");
                    let cookie = socket.cookie().expect("a cookie");
                    let _ = socket.connect(to);
                    seen.push((to, tell(&records.get(cookie).expect("recorded"))));
                }
                seen
            })
        })
        .collect();
    let (forth, back) = (images[0].diff(&images[1]), images[1].diff(&images[0]));
    let told = std::thread::scope(|scope| {
        let hammers = scope.spawn(|| hammers.into_iter().flat_map(child::Child::join).collect());
        let mut flip = 0;
        while !hammers.is_finished() {
            let delta = if flip % 2 == 0 { &forth } else { &back };
            datapath.apply(delta, 100 + flip).expect("applied");
            assert!(datapath.active().in_step);
            flip += 1;
            if flip == scaled(500) as u64 {
                std::fs::write(&enough, "").expect("written");
            }
        }
        let told: Vec<(SocketAddr, Told)> = hammers.join().expect("they have told");
        told
    });
    for (to, told) in told {
        let record = told_record(told);
        let index = record.epoch.wrapping_sub(first) % 2;
        compare(&images[index as usize], to, &record);
        epochs.insert(record.epoch);
        compared += 1;
    }
    assert!(compared >= HAMMERS * scaled(20_000), "{compared}");
    assert!(
        epochs.len() > scaled(100),
        "the configuration changed under the connections: {}",
        epochs.len()
    );
    figure!(
        "{compared} connections over {} changes: each decided by one configuration alone",
        epochs.len()
    );
}
