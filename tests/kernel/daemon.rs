//! The daemon as its users see it: files changed, broken, removed and restored,
//! restarts, and what it shows of itself.

mod drift;
mod gateways;
mod privileges;
mod relays;

use std::fs;

use redirector_tests::child;
use redirector_tests::netns::NetNs;
use redirector_tests::program::{Foreign, Leave};
use redirector_tests::scene::{ECHO, Scene, dial, free, gateway, many_services, to};

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");

fn scene(what: &str) -> Option<Scene> {
    Scene::new(what, PROGRAM)
}

fn says(status: &serde_json::Value, list: &str, what: &str) -> bool {
    let all = status[list].as_array().cloned().unwrap_or_default();
    all.iter().any(|one| one.as_str().is_some_and(|text| text.contains(what)))
}

fn has_warning(status: &serde_json::Value, what: &str) -> bool {
    says(status, "warnings", what)
}

fn has_problem(status: &serde_json::Value, what: &str) -> bool {
    says(status, "problems", what)
}

#[test]
fn files_changed_broken_removed_and_restored_under_load_give_no_wrong_answer() {
    let Some(scene) = scene("files") else { return };
    let redirector = &scene.redirector;
    let _daemon = redirector.start();
    let stop = redirector.directory().join("stop");
    let load = scene.load(&stop);
    let rules = redirector.rules().join("rules.yaml");

    assert_eq!(scene.answer(&scene.client()), "one");
    redirector.change("the change of a file", || redirector.write("rules.yaml", &to("two")));
    assert_eq!(scene.answer(&scene.client()), "two");

    // Broken: not YAML; then half of it; then nothing; then an object that is refused.
    for (text, said) in [
        ("spec: [half".to_owned(), "is refused"),
        (to("one").split_at(120).0.to_owned(), "is refused"),
        (String::new(), "or leave a comment in it"),
        (to("one").replace("hosts: [echo]", "hosts: 7"), "VirtualService/default/echo is refused"),
    ] {
        fs::write(&rules, &text).unwrap();
        redirector.wait(&format!("a word about {text:?}"), |status| has_problem(status, said));
        assert_eq!(scene.answer(&scene.client()), "two", "{text:?}");
    }

    redirector.change("the mended file", || redirector.write("rules.yaml", &to("one")));
    assert_eq!(scene.answer(&scene.client()), "one");

    // The directory vanishes and comes back.
    let away = redirector.directory().join("away");
    fs::rename(redirector.rules(), &away).unwrap();
    redirector.wait("a word about the directory", |status| has_problem(status, "cannot be read"));
    assert_eq!(scene.answer(&scene.client()), "one");
    fs::rename(&away, redirector.rules()).unwrap();
    redirector.wait("the directory's return", |status| !has_problem(status, "cannot be read"));

    // Removed: the service's own endpoints; restored.
    redirector.change("the removal", || fs::remove_file(&rules).unwrap());
    assert!(["one", "two"].contains(&&*scene.answer(&scene.client())));
    redirector.change("the return of a file", || redirector.write("rules.yaml", &to("two")));
    assert_eq!(scene.answer(&scene.client()), "two");

    fs::write(&stop, "").unwrap();
    let answers = load.join();
    let wrong: Vec<_> =
        answers.iter().filter(|(name, _)| !["one", "two"].contains(&&**name)).collect();
    assert!(wrong.is_empty(), "{wrong:?} of {answers:?}");
    assert!(answers.len() == 2, "{answers:?}");
}

#[test]
fn the_kernel_goes_on_without_the_daemon_and_the_next_one_takes_over() {
    let Some(scene) = scene("life") else { return };
    let redirector = &scene.redirector;
    let stop = redirector.directory().join("stop");
    let daemon = redirector.start();
    let load = scene.load(&stop);
    let generation = redirector.generation();

    daemon.kill();
    let status = redirector.status();
    assert_eq!((status.exit, status.json()["daemon"].is_null()), (0, true), "{status:?}");
    assert_eq!(scene.answer(&scene.client()), "one");

    // While nobody looked, the file broke: its last good version is still known.
    fs::write(redirector.rules().join("rules.yaml"), "spec: [").unwrap();
    let daemon = redirector.start();
    assert_eq!(scene.answer(&scene.client()), "one");
    assert_eq!(redirector.generation(), generation, "nothing changed");
    assert!(has_problem(&redirector.status().json(), "rules.yaml"));
    redirector.change("the mended file", || redirector.write("rules.yaml", &to("two")));
    assert_eq!(scene.answer(&scene.client()), "two");

    assert_eq!(daemon.stop(), 0);
    assert_eq!(scene.answer(&scene.client()), "two");
    // And one was removed while nobody looked.
    redirector.write("rules.yaml", &to("one"));
    let _daemon = redirector.start();
    assert_eq!(scene.answer(&scene.client()), "one");

    fs::write(&stop, "").unwrap();
    let answers = load.join();
    assert!(answers.iter().all(|(name, _)| ["one", "two"].contains(&&**name)), "{answers:?}");
}

#[test]
fn an_object_that_never_was_good_is_absent_and_listed() {
    let Some(scene) = scene("never") else { return };
    let redirector = &scene.redirector;
    redirector.write("rules.yaml", &to("one").replace("hosts: [echo]", "hosts: 7"));
    let _daemon = redirector.start();
    let status = redirector.status().json();
    let rejected = &status["config"]["rejected"][0];
    assert_eq!(rejected["object"], "VirtualService/default/echo", "{status:#}");
    assert_eq!(rejected["kept"], false);
    assert_eq!(rejected["diagnostics"][0]["line"], 6, "{status:#}");
    assert!(["one", "two"].contains(&&*scene.answer(&scene.client())), "no rule is in force");
}

#[test]
fn too_many_endpoints_leave_what_was_in_force() {
    let Some(scene) = scene("many") else { return };
    let redirector = &scene.redirector;
    let _daemon = redirector.start();
    let mut slice = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: echo-many, labels: {kubernetes.io/service-name: echo}}
addressType: IPv4
ports: [{name: tcp, port: 9000}]
endpoints:
"
    .to_owned();
    for number in 0..65_537_u32 {
        let [_, b, c, d] = number.to_be_bytes();
        slice.push_str(&format!("- addresses: [10.{b}.{c}.{d}]\n"));
    }
    redirector.write("many.yaml", &slice);
    let status =
        redirector.wait("a word about the limit", |status| has_problem(status, "many.yaml"));
    assert!(has_problem(&status, "65537") || has_problem(&status, "65,537"), "{status:#}");
    assert_eq!(scene.answer(&scene.client()), "one");
}

/// Whether some of many Services are left out, since the tables are full.
fn is_full(status: &serde_json::Value) -> bool {
    status["healthy"] == false && has_problem(status, "Service/default/s")
}

#[test]
fn what_is_beyond_the_tables_is_left_out_and_the_rest_comes_in_force() {
    let Some(scene) = scene("full") else { return };
    let redirector = &scene.redirector;
    let _daemon = redirector.start_with(&["--fixed-sizes"]);
    redirector.write("services.yaml", &many_services(1200));
    redirector.wait("the word", is_full);
    assert_eq!(scene.answer(&scene.client()), "one");
    fs::remove_file(redirector.rules().join("services.yaml")).unwrap();
    redirector.wait("health", |status| status["healthy"] == true);
    redirector.change("the next change", || redirector.write("rules.yaml", &to("two")));
    assert_eq!(scene.answer(&scene.client()), "two");
}

#[test]
fn what_is_beyond_the_tables_is_left_out_of_what_a_daemon_begins_with_too() {
    let Some(scene) = scene("fullfirst") else { return };
    let redirector = &scene.redirector;
    let address = free([127, 0, 0, 5]);
    redirector.write("edge.yaml", &gateway(address, "one"));
    // Whoever is not known as the client is sent to the first.
    let client = "  - match: [{sourceLabels: {app: client}}]\n    route";
    let others = "  - route: [{destination: {host: echo, subset: one}}]\n";
    redirector.write("rules.yaml", &(to("nowhere").replace("  - route", client) + others));
    let mut daemon = redirector.start_with(&["--fixed-sizes"]);
    redirector.wait("the gateway", |_| dial(address) == "one");
    redirector.write("services.yaml", &many_services(1200));
    redirector.wait("the word", is_full);

    let stays = || {
        redirector.wait("the word again", is_full);
        assert!(scene.answer(&scene.client()).contains("refused"), "it is known");
        assert_eq!(dial(address), "one");
    };
    assert_eq!(daemon.stop(), 0);
    daemon = redirector.start_with(&["--fixed-sizes"]);
    stays();
    let successor = redirector.start_with(&["--fixed-sizes", "--replace"]);
    assert_eq!(daemon.wait(), 0);
    stays();

    // What is in force can be left alone all the same.
    let bypass = |args: &[&str]| {
        let answer = redirector.ask("bypass", args);
        assert_eq!(answer.exit, 0, "{answer:?}");
        assert!(is_full(&redirector.status().json()));
        let to = ECHO.to_string();
        redirector.ask("explain", &["--from-workload", "default/client", "--to", &to]).out
    };
    let answer = bypass(&["--workload", "default/client"]);
    assert!(answer.contains("left as it is"), "{answer}");
    let answer = bypass(&["--end"]);
    assert!(answer.contains("refused"), "{answer}");

    fs::remove_file(redirector.rules().join("services.yaml")).unwrap();
    redirector.wait("health", |status| status["healthy"] == true);
    redirector.change("the next change", || redirector.write("rules.yaml", &to("two")));
    assert_eq!(scene.answer(&scene.client()), "two");
    assert_eq!(successor.stop(), 0);
}

#[test]
fn workloads_are_followed_by_cgroup_and_namespace_the_deepest_known_first() {
    let Some(scene) = scene("identity") else { return };
    let redirector = &scene.redirector;
    let netns = NetNs::new("identity");
    let path = netns.path().display().to_string();
    redirector.write(
        "more.yaml",
        &format!(
            "
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: deep, annotations: {{redirector.io/cgroup: {deep}}}}}
spec: {{address: 127.0.0.8, labels: {{app: deep}}}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: spaced, annotations: {{redirector.io/netns: {path}}}}}
spec: {{address: 127.0.0.7, labels: {{app: spaced}}}}
",
            deep = redirector.cgroup("client/a/deep")
        ),
    );
    redirector.write(
        "rules.yaml",
        &to("two").replace("  - route", "  - match: [{sourceLabels: {app: client}}]\n    route"),
    );
    let daemon = redirector.start();
    let who = |cgroup: &str| {
        let answer =
            redirector.ask("explain", &["--from-cgroup", cgroup, "--to", ECHO, "--output", "json"]);
        answer.json()["source"]["workload"].clone()
    };
    let gap = |status: &serde_json::Value| {
        status["identityGaps"][0]["workload"].as_str().map(str::to_owned)
    };
    assert_eq!(gap(&redirector.status().json()).as_deref(), Some("default/deep"));

    // Levels below the named cgroup belong to it.
    let below = redirector.place.cgroup.child("client/a/b/c");
    assert_eq!(scene.answer(&below), "two");
    assert_eq!(who(&redirector.cgroup("client/a/b/c")), "default/client");

    let deep = redirector.place.cgroup.child("client/a/deep/er");
    redirector.wait("the deep workload", |status| gap(status).is_none());
    assert_eq!(who(&redirector.cgroup("client/a/deep/er")), "default/deep");
    let by_pid = child::spawn(&deep, || std::thread::sleep(std::time::Duration::from_secs(600)));
    let pid = by_pid.pid().to_string();
    // The child moves itself, some time after it was made.
    let asked = (0..500).find_map(|_| {
        let answer =
            redirector.ask("explain", &["--from-pid", &pid, "--to", ECHO, "--output", "json"]);
        let workload = answer.json()["source"]["workload"].clone();
        (workload == "default/deep").then_some(())
    });
    assert!(asked.is_some(), "process {pid} is not told as default/deep");
    by_pid.kill();

    fs::remove_dir(&deep).unwrap();
    fs::remove_dir(deep.parent().unwrap()).unwrap();
    redirector.wait("its end", |status| gap(status).as_deref() == Some("default/deep"));

    let sources = redirector.ask("maps", &["sources", "--output", "json"]).json();
    let kinds: Vec<_> = sources["sources"].as_array().unwrap().iter().collect();
    assert!(
        kinds.iter().any(|row| row["kind"] == "netns" && row["workload"] == "default/spaced"),
        "{sources:#}"
    );

    // One that is made anew while no daemon follows is another one, which the kernel does
    // not know.
    let deep = redirector.place.cgroup.child("client/a/deep");
    redirector.wait("it again", |status| gap(status).is_none());
    daemon.kill();
    let deep_is_another = |status: &serde_json::Value| {
        has_problem(status, "default/deep cannot be told: its cgroup, or namespace, is another")
    };
    let explained = || {
        let asked = ["--from-workload", "default/deep", "--to", ECHO];
        redirector.ask("explain", &asked).out.contains("its processes cannot be told")
    };
    assert!(!deep_is_another(&redirector.status().json()) && !explained());
    fs::remove_dir(&deep).unwrap();
    assert!(!deep_is_another(&redirector.status().json()), "nobody is there");
    redirector.place.cgroup.child("client/a/deep");
    let status = redirector.status();
    assert!(status.exit == 1 && deep_is_another(&status.json()), "{status:?}");
    assert!(explained());
    let _daemon = redirector.start();
    redirector.wait("its own", |status| gap(status).is_none() && status["healthy"] == true);
    assert!(!explained());
}

#[test]
fn a_rollback_holds_until_the_files_change() {
    let Some(scene) = scene("rollback") else { return };
    let redirector = &scene.redirector;
    let rule =
        to("one").replace("  - route", "  - match: [{sourceLabels: {app: client}}]\n    route");
    redirector.write("rules.yaml", &rule);
    let daemon = redirector.start();
    redirector.change("the change", || redirector.write("rules.yaml", &to("two")));
    assert_eq!(redirector.ask("rollback", &[]).exit, 0);
    assert_eq!(scene.answer(&scene.client()), "one");
    // Also across a restart.
    daemon.kill();
    let _daemon = redirector.start();
    assert_eq!(scene.answer(&scene.client()), "one");
    assert!(has_warning(&redirector.status().json(), "held by rollback"));
    assert_eq!(redirector.ask("rollback", &["--release"]).exit, 0);
    assert_eq!(scene.answer(&scene.client()), "two");
    assert_eq!(redirector.ask("rollback", &[]).exit, 0);
    let changed = to("two").replace("  tcp:", "  exportTo: ['.']\n  tcp:");
    redirector.change("the next change", || redirector.write("rules.yaml", &changed));
    assert_eq!(scene.answer(&scene.client()), "two");
    let far = redirector.ask("rollback", &["100"]);
    assert_eq!(far.exit, 1);
    assert!(far.err.contains("100 changes ago"), "{far:?}");
}

#[test]
fn a_rollback_leaves_a_bad_configuration_however_often_it_was_in_force() {
    let Some(scene) = scene("released") else { return };
    let redirector = &scene.redirector;
    let _daemon = redirector.start();
    redirector.change("the bad one", || redirector.write("rules.yaml", &to("two")));
    for _ in 0..2 {
        assert_eq!(redirector.ask("rollback", &[]).exit, 0);
        assert_eq!(scene.answer(&scene.client()), "one", "what was in force before it");
        assert_eq!(redirector.ask("rollback", &["--release"]).exit, 0);
        assert_eq!(scene.answer(&scene.client()), "two", "what the files say");
    }
    // A mended file after a rollback: before it, the good one was in force.
    assert_eq!(redirector.ask("rollback", &[]).exit, 0);
    let mended = to("two").replace("  tcp:", "  exportTo: ['.']\n  tcp:");
    redirector.change("the next one", || redirector.write("rules.yaml", &mended));
    assert_eq!(scene.answer(&scene.client()), "two");
    assert_eq!(redirector.ask("rollback", &[]).exit, 0);
    assert_eq!(scene.answer(&scene.client()), "one");
}

#[test]
fn a_damaged_generation_is_said_to_be_none_to_return_to_and_those_before_it_are() {
    let Some(scene) = scene("rollbackdamage") else { return };
    let redirector = &scene.redirector;
    let _daemon = redirector.start();
    let end = std::fs::metadata(redirector.journal()).expect("a journal").len();
    redirector.change("another rule", || redirector.write("rules.yaml", &to("two")));
    let next = to("two").replace("  tcp:", "  exportTo: ['.']\n  tcp:");
    redirector.change("the next one", || redirector.write("rules.yaml", &next));
    let list = || redirector.ask("rollback", &["--list", "--output", "json"]).json();
    let steps = |list: &serde_json::Value| {
        let all = list["generations"].as_array().expect("generations").clone();
        all.iter().map(|one| one["rollback"].as_u64()).collect::<Vec<_>>()
    };
    assert_eq!(steps(&list()), [Some(1), Some(2)]);
    redirector.damage_journal(end);
    let list = list();
    assert_eq!(steps(&list), [None, Some(2)], "{list:#}");
    let damaged = list["generations"][0]["damaged"].as_str().unwrap_or_default();
    assert!(damaged.contains("cannot be made again"), "{list:#}");
    for command in [&["rollback", "--list"][..], &["history"]] {
        let answer = redirector.ask(command[0], &command[1..]);
        assert!(answer.out.contains(" damaged "), "{answer:?}");
        assert!(answer.err.contains("cannot be made again"), "{answer:?}");
    }
    let answer = redirector.ask("rollback", &[]);
    assert_eq!(answer.exit, 1, "{answer:?}");
    assert!(answer.err.contains("rollback --list"), "{answer:?}");
    assert_eq!(scene.answer(&scene.client()), "two");
    assert_eq!(redirector.ask("rollback", &["2"]).exit, 0);
    assert_eq!(scene.answer(&scene.client()), "one");
}

#[test]
fn maps_and_explain_decode_everything_to_names() {
    let Some(scene) = scene("maps") else { return };
    let redirector = &scene.redirector;
    let daemon = redirector.start();
    daemon.kill();
    let maps = redirector.ask("maps", &["all", "--output", "json"]).json();
    assert_eq!(maps["named"], true);
    assert_eq!(maps["frontends"][0]["service"], "default/echo", "{maps:#}");
    assert_eq!(maps["routes"][0]["rule"], "VirtualService/default/echo tcp[0]", "{maps:#}");
    assert_eq!(maps["sources"][0]["workload"], "default/client");
    let args = ["--from-workload", "default/client", "--to", ECHO, "--output", "json"];
    let explanation = redirector.ask("explain", &args).json();
    assert_eq!(explanation["verdict"], "route");
    assert_eq!(explanation["rule"]["line"], 8, "{explanation:#}");
    assert!(explanation["rule"]["file"].as_str().unwrap().ends_with("rules.yaml"));
    let mut endpoints = explanation["endpoints"].as_object().unwrap().iter();
    assert_eq!(endpoints.next().unwrap().0, &scene.one.address().to_string());

    // Without the state directory it is numbers, and that is said.
    fs::rename(redirector.directory().join("state"), redirector.directory().join("lost")).unwrap();
    let answer = redirector.ask("maps", &["all", "--output", "json"]);
    assert_eq!(answer.json()["named"], false);
    assert!(answer.err.contains("disagrees"), "{answer:?}");
}

#[test]
fn the_log_is_one_object_a_line_for_machines_and_tells_no_single_connection() {
    let Some(scene) = scene("json") else { return };
    let redirector = &scene.redirector;
    let log = redirector.directory().join("log.json");
    let mut command = redirector.daemon_command();
    command.args(["--log-format", "json"]).stderr(fs::File::create(&log).unwrap());
    let mut daemon = command.spawn().unwrap();
    redirector.wait("the first generation", |status| status["generation"] == 1);
    redirector.change("a change", || redirector.write("rules.yaml", &to("two")));
    let lines = || -> Vec<serde_json::Value> {
        let text = fs::read_to_string(&log).unwrap();
        text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    };
    let before = lines();
    for _ in 0..20 {
        assert_eq!(scene.answer(&scene.client()), "two");
    }
    assert_eq!(lines(), before, "nothing for a connection");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let changes: Vec<_> = before.iter().filter(|line| line["message"] == "applied").collect();
    assert_eq!(changes.len(), 2, "one line for each event: {before:#?}");
    assert_eq!((&changes[1]["level"], &changes[1]["generation"]), (&"INFO".into(), &2.into()));
    assert!(before.iter().all(|line| line["timestamp"].is_string()), "{before:#?}");
}

#[test]
fn the_log_says_more_from_the_moment_it_is_asked_to() {
    let Some(scene) = scene("log") else { return };
    let redirector = &scene.redirector;
    let daemon = redirector.start();
    redirector.change("a change", || redirector.write("rules.yaml", &to("two")));
    assert!(!daemon.log().contains("DEBUG"), "{}", daemon.log());
    let answer = redirector.ask("log-level", &["nonsense=loud"]);
    assert_eq!(answer.exit, 1);
    assert!(answer.err.contains("nonsense=loud is no level"), "{answer:?}");
    assert_eq!(redirector.ask("log-level", &["debug"]).exit, 0);
    redirector.change("the next", || redirector.write("rules.yaml", &to("one")));
    assert!(daemon.log().contains("DEBUG"), "{}", daemon.log());
    daemon.kill();
    let answer = redirector.ask("log-level", &["info"]);
    assert_eq!(answer.exit, 1);
    assert!(answer.err.contains("no daemon runs"), "{answer:?}");
}

#[test]
fn programs_of_others_are_told_with_their_place_before_or_after_ours() {
    let Some(scene) = scene("others") else { return };
    let redirector = &scene.redirector;
    let _daemon = redirector.start();
    let of_others = |status: &serde_json::Value| -> Vec<serde_json::Value> {
        let programs = status["programs"].as_array().expect("programs").iter();
        programs.filter(|one| one["ours"] == false).cloned().collect()
    };
    assert!(of_others(&redirector.status().json()).is_empty());

    let after = Foreign::attach(redirector.place.cgroup.path(), Leave::Others);
    let status = redirector.status().json();
    let [program] = &of_others(&status)[..] else { panic!("{status:#}") };
    assert_eq!((&program["hook"], &program["order"]), (&"connect4".into(), &1.into()));
    assert_eq!((&program["name"], &program["exclusive"]), (&"foreign".into(), &false.into()));
    assert!(has_warning(&status, "runs after ours"), "{status:#}");
    assert_eq!(status["healthy"], true, "{status:#}");
    drop(after);

    let before = Foreign::attach(&scene.client(), Leave::Nobody);
    let status = redirector.status().json();
    let [program] = &of_others(&status)[..] else { panic!("{status:#}") };
    assert_eq!(program["attachedAt"], scene.client().display().to_string());
    assert_eq!((&program["order"], &program["exclusive"]), (&0.into(), &true.into()));
    assert!(has_warning(&status, "runs before ours"), "{status:#}");
    assert!(has_warning(&status, "attached exclusively"), "{status:#}");
    assert_eq!(scene.answer(&scene.client()), "one");
    drop(before);
    assert!(of_others(&redirector.status().json()).is_empty());
}
