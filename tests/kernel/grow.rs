//! Tables that grow by themselves: without a gap, without forgetting anything,
//! and where they cannot, the configuration before stays.

use std::fs;
use std::path::PathBuf;

use redirector_tests::redirector::Redirector;
use redirector_tests::scene::{ECHO, Scene, many_services, to};

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
    // Other sizes than were asked for then begin as they are asked for.
    drop(daemon);
    redirector.write("rules.yaml", &to("one"));
    fs::remove_file(redirector.rules().join("many.yaml")).expect("a file");
    let _daemon = redirector.start_with(&["--max-frontends", "48"]);
    assert_eq!(scene.answer(&scene.client()), "one");
}

#[test]
fn tables_that_cannot_grow_leave_what_was_in_force_until_they_can() {
    let Some(scene) = Scene::new("nogrow", PROGRAM) else { return };
    let redirector = &scene.redirector;
    let _daemon = redirector.start_with(&SMALL);
    let small = tables(redirector);
    redirector.place.bpffs.set_read_only(true);
    redirector.write("many.yaml", &many_services(MANY));
    let status = redirector.wait("the word", |status| !status["config"]["applyError"].is_null());
    let error = status["config"]["applyError"].to_string();
    assert!(error.contains("would have to grow (128 frontends"), "{error}");
    assert!(error.contains("Read-only file system"), "{error}");
    assert_eq!(scene.answer(&scene.client()), "one");
    assert_eq!((frontends(redirector), tables(redirector)), (1, small.clone()));

    redirector.place.bpffs.set_read_only(false);
    redirector.change("growth", || redirector.write("more.yaml", ""));
    assert_eq!(frontends(redirector), MANY as usize + 1);
    assert_ne!(tables(redirector), small);
    assert_eq!(redirector.status().json()["healthy"], true);
    assert_eq!(child_peer(&scene), ECHO);
}

/// What a connection of the client shows as its peer.
fn child_peer(scene: &Scene) -> String {
    redirector_tests::child::run(&scene.client(), || {
        let stream = std::net::TcpStream::connect(ECHO).expect("a connection");
        stream.peer_addr().expect("a peer").to_string()
    })
}
