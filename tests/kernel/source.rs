//! Who connects: the workload that the kernel takes a caller for.

use std::net::SocketAddr;
use std::path::Path;

use redirector::datapath::{Datapath, SourceKey, netns_cookie};
use redirector_common::abi::Verdict;
use redirector_tests::cgroup::key;
use redirector_tests::child;
use redirector_tests::image::Builder;
use redirector_tests::kernel::{Place, privileged};
use redirector_tests::netns::NetNs;
use redirector_tests::server::Server;
use redirector_tests::socket::Socket;

const FRONTEND: &str = "127.96.0.10:19000";

fn frontend() -> SocketAddr {
    FRONTEND.parse().expect("an address")
}

/// A frontend that identity 1 is sent to `one`, identity 2 to `two`, and
/// everybody else is refused.
struct Scene {
    datapath: Datapath,
    place: Place,
    _servers: [Server; 2],
}

impl Scene {
    fn new(what: &str) -> Option<Self> {
        if !privileged() {
            return None;
        }
        let place = Place::new(what);
        let local: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let servers = [Server::start("one", local), Server::start("two", local)];
        let mut image = Builder::default();
        let (one, two) =
            (image.route(&[servers[0].address()]), image.route(&[servers[1].address()]));
        image.class(1, 5);
        image.class(2, 6);
        let classes = image.classes(Verdict::REFUSE, &[(5, one), (6, two)]);
        image.frontend(frontend(), classes);
        let datapath =
            place.start(&place.options(), &image.build()).unwrap_or_else(|error| panic!("{error}"));
        Some(Self { datapath, place, _servers: servers })
    }

    /// The server that a caller in this cgroup reaches; `refused` for none.
    fn reached(&self, cgroup: &Path) -> String {
        child::run(cgroup, reached)
    }
}

fn reached() -> String {
    let socket = Socket::stream(frontend(), 0).expect("a socket");
    match socket.connect(frontend()) {
        Ok(()) => {
            let greeting = socket.read_all().expect("a greeting");
            greeting.split(' ').next().unwrap_or_default().to_owned()
        }
        Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => "refused".into(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_task_any_number_of_levels_below_a_cgroup_belongs_to_its_workload() {
    let Some(mut scene) = Scene::new("levels") else { return };
    let shop = scene.place.cgroup.child("shop");
    scene.datapath.insert_source(key(&shop), 1).expect("inserted");
    let mut path = "shop".to_owned();
    for level in 0..12 {
        assert_eq!(scene.reached(&scene.place.cgroup.child(&path)), "one", "level {level}");
        path.push_str("/in");
    }
    assert_eq!(scene.reached(&scene.place.cgroup.child("shopping")), "refused");
}

#[test]
fn the_deepest_known_cgroup_wins() {
    let Some(mut scene) = Scene::new("deepest") else { return };
    let (outer, inner) = (scene.place.cgroup.child("a"), scene.place.cgroup.child("a/b/c"));
    scene.datapath.insert_source(key(&outer), 1).expect("inserted");
    scene.datapath.insert_source(key(&inner), 2).expect("inserted");
    assert_eq!(scene.reached(&outer), "one");
    assert_eq!(scene.reached(&scene.place.cgroup.child("a/b")), "one");
    assert_eq!(scene.reached(&inner), "two");
    assert_eq!(scene.reached(&scene.place.cgroup.child("a/b/c/d")), "two");
    scene.datapath.remove_source(key(&inner)).expect("removed");
    assert_eq!(scene.reached(&inner), "one", "what is left");
    scene.datapath.remove_source(key(&outer)).expect("removed");
    scene.datapath.remove_source(key(&outer)).expect("removed again");
    assert_eq!(scene.reached(&inner), "refused");
}

#[test]
fn a_workload_may_be_known_by_its_network_namespace_and_a_cgroup_goes_before_it() {
    let Some(mut scene) = Scene::new("netns") else { return };
    let netns = NetNs::new("source");
    let cookie = netns_cookie(&netns.path()).expect("a cookie");
    scene.datapath.insert_source(SourceKey::Netns { cookie }, 2).expect("inserted");
    let known = scene.place.cgroup.child("known");
    scene.datapath.insert_source(key(&known), 1).expect("inserted");
    let unknown = scene.place.cgroup.child("unknown");
    let server_is_elsewhere = |answer: String| {
        // Both servers listen outside: being sent to one is what counts.
        assert_eq!(answer, "refused");
    };
    let before = scene.datapath.counters().expect("counters").legs;
    server_is_elsewhere(child::run(&unknown, || {
        netns.enter();
        reached()
    }));
    server_is_elsewhere(child::run(&known, || {
        netns.enter();
        reached()
    }));
    let after = scene.datapath.counters().expect("counters");
    assert_eq!(before, []);
    assert_eq!(after.legs.iter().map(|(_, leg)| leg.chosen).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(scene.reached(&unknown), "refused", "outside of the namespace it is nobody");
    assert_eq!(scene.datapath.counters().expect("counters").totals.unknown_source, 1);
    scene.datapath.remove_source(SourceKey::Netns { cookie }).expect("removed");
    assert_eq!(scene.datapath.sources().expect("sources"), [(key(&known), 1)]);
}

#[test]
fn a_source_that_cannot_be_is_refused_with_the_reason() {
    let Some(mut scene) = Scene::new("impossible") else { return };
    let deep = SourceKey::Cgroup { id: 1 << 40, level: 40 };
    let error = scene.datapath.insert_source(deep, 1).expect_err("too deep").to_string();
    assert!(error.contains("40 levels"), "{error}");
    let error = scene.datapath.insert_source(SourceKey::Netns { cookie: 1 }, 1 << 20);
    assert!(error.expect_err("too large").to_string().contains("identity number"));
    let error = redirector::datapath::cgroup::Cgroup::open(Path::new("/proc")).expect_err("none");
    assert!(error.to_string().contains("not in a cgroup2 file system"), "{error}");
    let error = netns_cookie(Path::new("/proc/self/status")).expect_err("none");
    assert!(error.to_string().contains("no network namespace"), "{error}");
}
