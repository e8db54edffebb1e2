//! `redirector connections`: what is open, and resetting it.

use std::net::SocketAddr;

use redirector_tests::established::{Established, goes_on, was_reset};
use redirector_tests::netns::NetNs;
use redirector_tests::scene::{ECHO, Scene, to};
use redirector_tests::terminal::Terminal;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");

/// The scene, and the endpoints of both subsets.
fn scene(what: &str) -> Option<(Scene, [SocketAddr; 2])> {
    let scene = Scene::new(what, PROGRAM)?;
    let one = scene.one.address();
    Some((scene, [one, SocketAddr::from(([127, 0, 0, 2], one.port()))]))
}

fn connect(scene: &Scene, name: &str, netns: &NetNs, endpoint: SocketAddr) -> Established {
    let directory = scene.redirector.directory();
    let address = ECHO.parse().expect("an address");
    Established::new((directory, name), &scene.client(), netns, address, endpoint)
}

fn listed(scene: &Scene, args: &[&str]) -> Vec<Value> {
    let args = [args, &["--output", "json"]].concat();
    let answer = scene.redirector.ask("connections", &args);
    assert_eq!(answer.exit, 0, "{answer:?}");
    answer.json()["connections"].as_array().expect("a list").clone()
}

#[test]
fn what_is_open_is_told_with_process_workload_rule_and_endpoint_whoever_runs() {
    let Some((scene, [one, two])) = scene("open") else { return };
    let redirector = &scene.redirector;
    let spaces = [NetNs::new("open"), NetNs::new("open")];
    let daemon = redirector.start_with(&["--accounting"]);
    assert!(listed(&scene, &[]).is_empty());
    let first = connect(&scene, "first", &spaces[0], one);
    redirector.change("another endpoint", || redirector.write("rules.yaml", &to("two")));
    let second = connect(&scene, "second", &spaces[1], two);

    let all = listed(&scene, &[]);
    assert_eq!(all.len(), 2, "{all:#?}");
    let to_one = &all[0];
    assert_eq!(to_one["endpoint"], one.to_string(), "by endpoint: {all:#?}");
    for row in &all {
        assert_eq!(row["destination"], ECHO, "{row:#}");
        assert_eq!(row["workload"], "default/client", "{row:#}");
        assert_eq!(row["state"], "established", "{row:#}");
        assert!(row["process"]["pid"].as_u64() > Some(0), "{row:#}");
        assert!(row["sourcePort"].as_u64() > Some(0), "{row:#}");
        assert!(row["seconds"].as_f64().is_some_and(|age| (0.0..600.0).contains(&age)), "{row:#}");
        assert_eq!((&row["sent"], &row["received"]), (&0.into(), &0.into()), "{row:#}");
    }
    let route = "VirtualService/default/echo tcp[0]";
    assert_eq!(all[1]["route"], route, "{all:#?}");
    assert_eq!(all[1]["to"], "echo.default.svc.cluster.local:19000/two", "{all:#?}");
    assert!(to_one["to"].is_null() || to_one["to"] == "echo.default.svc.cluster.local:19000/one");

    // Each filter, by itself and with others.
    let pid = to_one["process"]["pid"].to_string();
    let endpoint = one.to_string();
    for (args, count) in [
        (&["--address", &*endpoint][..], 1),
        (&["--address", ECHO], 2),
        (&["--address", "127.96.0.10"], 2),
        (&["--workload", "default/client"], 2),
        (&["--workload", "default/other"], 0),
        (&["--pid", &pid], 1),
        (&["--route", "default/echo", "--address", &two.to_string()], 1),
        (&["--route", "VirtualService/default/other"], 0),
    ] {
        assert_eq!(listed(&scene, args).len(), count, "{args:?}");
    }
    let text = redirector.ask("connections", &["--output", "wide"]).out;
    let line = text.lines().find(|line| line.contains(&endpoint)).expect("its line");
    assert!(line.contains(ECHO) && line.contains("default/client"), "{text}");
    let names = redirector.ask("connections", &["--output", "name"]).out;
    assert_eq!(names.lines().next(), Some(&*to_one["cookie"].to_string()));

    // Without a daemon as well, and without what only accounting tells.
    assert_eq!(daemon.stop(), 0);
    assert_eq!(listed(&scene, &["--address", &endpoint]).len(), 1);
    let daemon = redirector.start();
    assert_eq!([first.ends(), second.ends()], [goes_on(), goes_on()]);
    assert!(listed(&scene, &[]).is_empty());
    let third = connect(&scene, "third", &spaces[0], two);
    let young = listed(&scene, &[]);
    assert!(young[0]["seconds"].is_null() && young[0]["route"] == route, "{young:#?}");
    assert_eq!(third.ends(), goes_on());
    drop(daemon);
}

#[test]
fn those_that_are_named_are_reset_after_asking_and_no_others() {
    let Some((scene, [one, two])) = scene("close") else { return };
    let redirector = &scene.redirector;
    let spaces = [NetNs::new("close"), NetNs::new("close"), NetNs::new("close")];
    let _daemon = redirector.start();
    let kept = connect(&scene, "kept", &spaces[0], one);
    redirector.change("another endpoint", || redirector.write("rules.yaml", &to("two")));
    let first = connect(&scene, "first", &spaces[1], two);

    // Nobody is there to be asked, or it is not said which.
    for args in [&["close", "--address", "127.0.0.2"][..], &["close", "--yes"], &["--yes"]] {
        let refused = redirector.ask("connections", args);
        assert_eq!(refused.exit, 2, "{args:?}: {refused:?}");
    }
    let ask = |answer: &str, exit: i32| {
        let mut command = redirector.command("connections");
        command.args(["close", "--address", "127.0.0.2"]);
        let mut terminal = Terminal::start(command, 160, 20);
        let shown = terminal.wait("the question", |text| text.contains("[y/N]"));
        assert!(shown.contains(&two.to_string()) && !shown.contains(&one.to_string()), "{shown}");
        terminal.press(answer);
        let answer = terminal.end();
        assert_eq!(answer.exit, exit, "{answer:?}");
    };
    ask("n\r", 1);
    assert_eq!(listed(&scene, &[]).len(), 2, "no is no");
    ask("y\r", 0);
    assert_eq!(first.ends(), was_reset());

    let second = connect(&scene, "second", &spaces[2], two);
    let args = ["close", "--workload", "default/client", "--address", &two.to_string(), "--yes"];
    let answer = redirector.ask("connections", &[&args[..], &["--output", "json"]].concat());
    assert_eq!(answer.exit, 0, "{answer:?}");
    let json = answer.json();
    assert_eq!((&json["wanted"], &json["missing"]), (&1.into(), &Value::Array(Vec::new())));
    assert_eq!(second.ends(), was_reset());
    assert_eq!(kept.ends(), goes_on());
    let none = redirector.ask("connections", &["close", "--all", "--yes"]);
    assert!(none.exit == 0 && none.out.contains("0 of 0"), "{none:?}");
    // What a script has misspelt is no success.
    let none = redirector.ask("connections", &["close", "--route", "default/ehco", "--yes"]);
    assert!(none.exit == 1 && none.out.contains("0 of 0"), "{none:?}");
}

#[test]
fn what_another_rule_may_have_made_is_found_by_either_and_reset_after_asking_only() {
    let Some((scene, [one, _])) = scene("unsure") else { return };
    let redirector = &scene.redirector;
    let spaces = [NetNs::new("unsure")];
    let _daemon = redirector.start();
    let open = connect(&scene, "open", &spaces[0], one);
    let rename = |subset: &str, name: &str| {
        let rule = to(subset).replace("{name: echo}", &format!("{{name: {name}}}"));
        redirector.change("another name", || redirector.write("rules.yaml", &rule));
    };
    // Others where it is counted, which lead elsewhere: none of them made it.
    for name in ["a", "b", "c"] {
        rename("two", name);
    }
    let by_echo = ["--route", "VirtualService/default/echo"];
    let rows = listed(&scene, &by_echo);
    let route = "VirtualService/default/echo tcp[0]";
    assert!(rows.len() == 1 && rows[0]["route"] == route, "{rows:#?}");
    // One that leads to where it went.
    for name in ["d", "e", "f"] {
        rename("one", name);
    }
    let rows = listed(&scene, &[]);
    let may_be = rows[0]["mayBe"].as_array().expect("several");
    assert!(rows[0]["route"].is_null() && may_be.contains(&route.into()), "{rows:#?}");
    let other = may_be.iter().filter_map(Value::as_str).find(|other| *other != route);
    let other = other.and_then(|other| other.split(' ').next()).expect("another");
    for object in [by_echo[1], other] {
        let answer = redirector.ask("connections", &["--route", object, "--output", "wide"]);
        assert!(answer.out.contains(route), "{answer:?}");
        assert!(answer.err.contains("1 of them may be by another rule"), "{answer:?}");
        let answer = redirector.ask("connections", &["close", "--route", object, "--yes"]);
        assert!(answer.exit == 1 && answer.out.contains("0 of 0"), "{answer:?}");
        assert!(answer.err.contains("1 that may be by another rule are left alone"), "{answer:?}");
    }
    let mut command = redirector.command("connections");
    command.args(["close", by_echo[0], by_echo[1]]);
    let mut terminal = Terminal::start(command, 160, 20);
    terminal.wait("the question", |text| text.contains("1 of which may be by another rule? [y/N]"));
    terminal.press("y\r");
    assert_eq!(terminal.end().exit, 0);
    assert_eq!(open.ends(), was_reset());
}
