//! Endpoints that go away: connections to them go on, or, with a drain time, are
//! reset when it has passed, wherever they are and however old they are.

use std::net::SocketAddr;
use std::time::Duration;

use redirector_tests::established::{Established, goes_on, was_reset};
use redirector_tests::netns::NetNs;
use redirector_tests::scene::{ECHO, Scene, to};

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");

/// Documents in which the endpoint `one` has a drain time, or has gone.
fn base(scene: &Scene, time: Option<&str>, has_one: bool) -> String {
    let mut text = scene.base();
    if let Some(time) = time {
        let rule = "kind: DestinationRule\nmetadata: {name: echo";
        let annotated = format!("{rule}, annotations: {{redirector.io/drain: {time}}}");
        assert!(text.contains(rule));
        text = text.replace(rule, &annotated);
    }
    if !has_one {
        text = text.replace("labels: {app: echo, v: one}", "labels: {app: gone}");
    }
    text
}

/// Connects in a network namespace, where the endpoint's address is served, too.
fn connect(scene: &Scene, name: &str, netns: &NetNs, endpoint: SocketAddr) -> Established {
    let directory = scene.redirector.directory();
    let address = ECHO.parse().expect("an address");
    Established::new((directory, name), &scene.client(), netns, address, endpoint)
}

fn two(scene: &Scene) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 2], scene.one.address().port()))
}

#[test]
fn connections_to_an_endpoint_that_has_gone_are_reset_in_every_namespace_when_its_time_is_over() {
    let Some(scene) = Scene::new("drain", PROGRAM) else { return };
    let redirector = &scene.redirector;
    let spaces = [NetNs::new("drain"), NetNs::new("drain"), NetNs::new("drain")];
    redirector.write("base.yaml", &base(&scene, Some("500ms"), true));
    let _daemon = redirector.start();
    let one = [
        connect(&scene, "first", &spaces[0], scene.one.address()),
        connect(&scene, "second", &spaces[1], scene.one.address()),
    ];
    redirector.change("another endpoint", || redirector.write("rules.yaml", &to("two")));
    let other = connect(&scene, "other", &spaces[2], two(&scene));

    // No rule leads there any more: the tables do not change by it.
    redirector.write("base.yaml", &base(&scene, Some("500ms"), false));
    redirector.wait("the end of its time", |status| {
        status["draining"]["reset"] == 2 && status["draining"]["endpoints"] == serde_json::json!({})
    });
    for connection in one {
        assert_eq!(connection.ends(), was_reset());
    }
    assert_eq!(other.ends(), goes_on());
}

#[test]
fn an_endpoint_that_leaves_a_subset_loses_the_connections_of_that_one_and_no_others() {
    let Some(scene) = Scene::new("drainset", PROGRAM) else { return };
    let redirector = &scene.redirector;
    let spaces = [NetNs::new("drainset"), NetNs::new("drainset")];
    // The endpoint is in two subsets at once.
    let both = base(&scene, Some("now"), true)
        .replace("{app: echo, v: one}", "{app: echo, v: one, w: also}")
        .replace("subsets: [", "subsets: [{name: also, labels: {w: also}}, ");
    redirector.write("base.yaml", &both);
    redirector.write("rules.yaml", &to("also"));
    let _daemon = redirector.start();
    let kept = connect(&scene, "kept", &spaces[0], scene.one.address());
    redirector.change("the subset", || redirector.write("rules.yaml", &to("one")));
    let lost = connect(&scene, "lost", &spaces[1], scene.one.address());

    // As when a rule or a weight leads elsewhere: nobody has gone.
    redirector.change("another subset", || redirector.write("rules.yaml", &to("two")));
    assert_eq!(redirector.status().json()["draining"]["reset"], 0);
    redirector.write("base.yaml", &both.replace("v: one, w: also}", "v: two, w: also}"));
    redirector.wait("the reset", |status| {
        status["draining"]["reset"] == 1 && status["draining"]["endpoints"] == serde_json::json!({})
    });
    assert_eq!(lost.ends(), was_reset());
    assert_eq!(kept.ends(), goes_on());
}

#[test]
fn status_has_an_endpoint_once_with_the_destinations_that_it_has_left() {
    let Some(scene) = Scene::new("drainrow", PROGRAM) else { return };
    let redirector = &scene.redirector;
    let before = base(&scene, Some("1h"), true).replace(
        "subsets: [",
        "subsets: [{name: first, labels: {v: one}}, {name: all, labels: {app: echo}}, ",
    );
    redirector.write("base.yaml", &before);
    let _daemon = redirector.start();
    redirector.change("its new role", || {
        redirector.write("base.yaml", &before.replace("app: echo, v: one", "app: echo, v: uno"));
    });
    let draining = redirector.status().json()["draining"].clone();
    let one = scene.one.address().to_string();
    let over = draining["endpoints"][&one].as_u64().expect("a time");
    assert_eq!(draining["endpoints"], serde_json::json!({ one.clone(): over }));
    let left =
        ["first", "one"].map(|subset| format!("echo.default.svc.cluster.local:19000/{subset}"));
    let left = left.map(|name| (name, serde_json::json!(over)));
    let left: serde_json::Map<_, _> = left.into_iter().collect();
    assert_eq!(draining["destinations"], serde_json::json!({ one: left }));
}

#[test]
fn an_endpoint_that_goes_while_no_daemon_runs_drains_when_one_does() {
    let Some(scene) = Scene::new("drainold", PROGRAM) else { return };
    let redirector = &scene.redirector;
    let netns = NetNs::new("drainold");
    redirector.write("base.yaml", &base(&scene, Some("3s"), true));
    let daemon = redirector.start();
    let old = connect(&scene, "old", &netns, scene.one.address());
    daemon.kill();
    redirector.write("base.yaml", &base(&scene, Some("3s"), false));
    let daemon = redirector.start();
    assert!(daemon.log().contains("connections to it drain"), "{}", daemon.log());
    // Nor does another restart make it forget, or begin anew.
    daemon.kill();
    let daemon = redirector.start();
    assert!(!daemon.log().contains("connections to it drain"), "{}", daemon.log());
    redirector.wait("the end of its time", |status| {
        status["draining"]["endpoints"] == serde_json::json!({})
    });
    assert_eq!(old.ends(), was_reset());
}

#[test]
fn without_a_drain_time_or_when_the_endpoint_comes_back_connections_go_on() {
    let Some(scene) = Scene::new("nodrain", PROGRAM) else { return };
    let redirector = &scene.redirector;
    let spaces = [NetNs::new("nodrain"), NetNs::new("nodrain")];
    let _daemon = redirector.start();
    let first = connect(&scene, "first", &spaces[0], scene.one.address());
    redirector.change("its end", || redirector.write("base.yaml", &base(&scene, None, false)));
    redirector.change("its return", || {
        redirector.write("base.yaml", &base(&scene, Some("2s"), true));
    });
    let second = connect(&scene, "second", &spaces[1], scene.one.address());
    redirector
        .change("its end", || redirector.write("base.yaml", &base(&scene, Some("2s"), false)));
    let has_drained =
        |status: &serde_json::Value| status["draining"]["endpoints"] == serde_json::json!({});
    assert!(!has_drained(&redirector.status().json()));
    redirector.change("its return", || {
        redirector.write("base.yaml", &base(&scene, Some("2s"), true));
    });
    assert!(has_drained(&redirector.status().json()));
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(redirector.status().json()["draining"]["reset"], 0);
    assert_eq!(first.ends(), goes_on());
    assert_eq!(second.ends(), goes_on());
}
