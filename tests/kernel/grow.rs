//! Tables that grow by themselves: without a gap, without forgetting anything,
//! and where they cannot, only what has no room waits.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use redirector_tests::child;
use redirector_tests::figure;
use redirector_tests::redirector::Redirector;
use redirector_tests::scene::{ECHO, Scene, many_services, to};
use redirector_tests::socket::Socket;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");

/// Room for fewer frontends than there will be.
const SMALL: [&str; 2] = ["--max-frontends", "64"];

const MANY: u32 = 100;

fn frontends(redirector: &Redirector) -> usize {
    let maps = redirector.ask("maps", &["frontends", "--output", "json"]).json();
    maps["frontends"].as_array().map_or(0, Vec::len)
}

fn tables(redirector: &Redirector) -> PathBuf {
    fs::read_link(redirector.place.pins().join("current")).expect("the tables in force")
}

#[test]
fn a_configuration_beyond_the_tables_has_them_grow_under_load() {
    let Some(scene) = Scene::new("grow", PROGRAM) else { return };
    let redirector = &scene.redirector;
    let daemon = redirector.start_with(&SMALL);
    let stop = redirector.directory().join("stop");
    let load = scene.load(&stop);
    let (generation, small) = (redirector.generation(), tables(redirector));

    redirector.change("growth", || redirector.write("many.yaml", &many_services(MANY)));
    let large = tables(redirector);
    assert_ne!(large, small);
    assert!(!redirector.place.pins().join(&small).exists(), "the small tables are gone");
    assert_eq!(frontends(redirector), MANY as usize + 1);
    let status = redirector.status().json();
    assert_eq!((&status["healthy"], &status["inStep"]), (&true.into(), &true.into()));
    assert_eq!(status["generation"].as_u64(), Some(generation + 1), "{status:#}");
    // Workloads are known in them, too, and what changes comes in force.
    let rule =
        to("two").replace("  - route", "  - match: [{sourceLabels: {app: client}}]\n    route");
    redirector.change("a rule for a source", || redirector.write("rules.yaml", &rule));
    assert_eq!(scene.answer(&scene.client()), "two");
    assert!(daemon.log().contains("the tables have grown: 128 frontends"), "{}", daemon.log());

    // The next daemon begins with them, and so does a change back.
    assert_eq!(daemon.stop(), 0);
    let generation = redirector.generation();
    let daemon = redirector.start_with(&SMALL);
    assert_eq!(redirector.generation(), generation, "nothing changed: {}", daemon.log());
    assert_eq!(tables(redirector), large);
    assert!(!daemon.log().contains("have grown"), "{}", daemon.log());
    assert_eq!(redirector.ask("rollback", &["2"]).exit, 0);
    assert_eq!((frontends(redirector), tables(redirector)), (1, large));

    fs::write(&stop, "").expect("a file");
    let answers = load.join();
    assert!(answers.iter().all(|(name, _)| ["one", "two"].contains(&&**name)), "{answers:?}");
    let count: u64 = answers.iter().map(|(_, count)| count).sum();
    figure!("the tables grew under {count} connections, 0 failed");
    // Other sizes than were asked for then begin as they are asked for.
    drop(daemon);
    redirector.write("rules.yaml", &to("one"));
    fs::remove_file(redirector.rules().join("many.yaml")).expect("a file");
    let _daemon = redirector.start_with(&["--max-frontends", "48"]);
    assert_eq!(scene.answer(&scene.client()), "one");
}

#[test]
fn where_tables_cannot_grow_what_has_no_room_waits_and_all_else_comes_in_force() {
    let Some(scene) = Scene::new("nogrow", PROGRAM) else { return };
    let redirector = &scene.redirector;
    let _daemon = redirector.start_with(&SMALL);
    let small = tables(redirector);
    redirector.place.bpffs.set_read_only(true);
    redirector.write("many.yaml", &many_services(MANY));
    let refused = |status: &Value| status["config"]["rejected"].as_array().map_or(0, Vec::len);
    let status = redirector.wait("the word", |status| refused(status) > 0);
    assert_eq!(
        (&status["healthy"], &status["config"]["applyError"]),
        (&false.into(), &Value::Null)
    );
    let why = status["config"]["rejected"][0].to_string();
    assert!(why.contains("the tables hold 64"), "{why}");
    assert!(why.contains("larger tables cannot be made, and are tried again"), "{why}");
    assert!(why.contains("Read-only file system"), "{why}");
    assert_eq!(scene.answer(&scene.client()), "one");
    assert_eq!((frontends(redirector), tables(redirector)), (64, small.clone()));
    assert_eq!(refused(&status), MANY as usize + 1 - 64, "no more than it takes");
    // Whoever needs no larger tables is not held up.
    redirector.change("a rule", || redirector.write("rules.yaml", &to("two")));
    assert_eq!(scene.answer(&scene.client()), "two");
    redirector.change("a rule", || redirector.write("rules.yaml", &to("one")));

    redirector.place.bpffs.set_read_only(false);
    redirector.wait("growth", |status| status["healthy"] == true);
    assert_eq!(frontends(redirector), MANY as usize + 1);
    assert_ne!(tables(redirector), small);
    assert_eq!(child_peer(&scene), ECHO);
}

#[test]
fn more_connections_than_are_remembered_have_the_memory_grow_and_nothing_is_forgotten() {
    // The places, and what one workload may have in the overflow table.
    const PLACES: usize = 64;
    const OVERFLOWING: usize = 1024;
    const MORE: usize = 300;
    let Some(scene) = Scene::new("remember", PROGRAM) else { return };
    let redirector = &scene.redirector;
    // What is counted for a policy is to be right in the end, too.
    let policy = "trafficPolicy: {loadBalancer: {simple: LEAST_REQUEST}}\n  subsets: [";
    redirector.write("base.yaml", &scene.base().replace("subsets: [", policy));
    let small = ["--max-connections", "64"];
    let daemon = redirector.start_with(&small);
    let memories = || -> Vec<String> {
        let pins = fs::read_dir(redirector.place.pins()).expect("pins").flatten();
        let names = pins.map(|pin| pin.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("memory-")).collect()
    };
    let counted = || {
        let maps = redirector.ask("maps", &["backends", "--output", "json"]).json();
        maps["destinations"][0]["connections"].as_u64()
    };
    let (opened, grown) = ["opened", "grown"].map(|name| redirector.directory().join(name)).into();
    let client = child::spawn(&scene.client(), || {
        let most = libc::rlimit { rlim_cur: 4096, rlim_max: 4096 };
        // SAFETY: the structure is valid; this process only.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const most) }, 0);
        let to: SocketAddr = ECHO.parse().expect("an address");
        let open = || {
            let socket = Socket::stream(to, 0).expect("a socket");
            socket.connect(to).expect("a connection");
            socket
        };
        let shown = |socket: &Socket| socket.peer().ok() == Some(to);
        let before: Vec<Socket> = (0..PLACES + OVERFLOWING + MORE).map(|_| open()).collect();
        let remembered: Vec<&Socket> = before.iter().filter(|socket| shown(socket)).collect();
        fs::write(&opened, "").expect("a file");
        while !grown.exists() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let after: Vec<Socket> = (0..MORE).map(|_| open()).collect();
        fs::write(opened.with_extension("again"), "").expect("a file");
        while !grown.with_extension("end").exists() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let still = remembered.iter().filter(|socket| shown(socket)).count();
        (remembered.len(), still, after.iter().filter(|socket| shown(socket)).count())
    });
    redirector.wait("all connections", |_| opened.exists());
    redirector.wait("growth", |_| daemon.log().contains("connections has grown: 128 places"));
    fs::write(&grown, "").expect("a file");
    let again = opened.with_extension("again");
    redirector.wait("more connections", |_| again.exists());
    assert!(memories().len() >= 2, "what is remembered stays where it is: {:?}", memories());
    let of_both = counted();
    fs::write(grown.with_extension("end"), "").expect("a file");
    let (remembered, still, after) = client.join();
    let all = PLACES + OVERFLOWING + MORE;
    assert!((OVERFLOWING..all).contains(&remembered), "{remembered} of {all}");
    assert_eq!((still, after), (remembered, MORE));
    assert!(of_both >= Some((remembered + MORE) as u64), "{of_both:?}");

    // The smaller one goes with the last of its connections; all are counted off.
    redirector.wait("the end of the smaller one", |_| memories().len() == 1);
    let unknown = (all - remembered) as u64;
    assert!(counted() <= Some(unknown), "{:?}", counted());
    let counters = redirector.ask("maps", &["counters", "--output", "json"]).json();
    assert_eq!(counters["counters"]["remembered"], 0);
    assert_eq!(daemon.stop(), 0);
    let largest = memories();
    // Connections may have come faster than it grew, and made it grow once more.
    let sizes = ["-128", "-256"];
    assert!(largest.iter().all(|memory| sizes.iter().any(|size| memory.ends_with(size))));
    // It never shrinks while it is loaded.
    let _daemon = redirector.start_with(&small);
    assert_eq!(memories(), largest);
    assert_eq!(redirector.status().json()["healthy"], true);
}

/// What a connection of the client shows as its peer.
fn child_peer(scene: &Scene) -> String {
    child::run(&scene.client(), || {
        let stream = std::net::TcpStream::connect(ECHO).expect("a connection");
        stream.peer_addr().expect("a peer").to_string()
    })
}
