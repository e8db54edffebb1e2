//! The daemon as its users see it: files changed, broken, removed and restored,
//! restarts, and what it shows of itself.

mod drift;

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use redirector_tests::child;
use redirector_tests::load::Interrupted;
use redirector_tests::netns::NetNs;
use redirector_tests::program::{Foreign, Leave};
use redirector_tests::scene::{ECHO, Scene, dial, free, gateway, many_services, to};
use redirector_tests::server::Server;

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
        (String::new(), "half written"),
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
    let _daemon = redirector.start();
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
fn a_gateway_is_served_and_follows_its_documents() {
    let Some(scene) = scene("gateway") else { return };
    let redirector = &scene.redirector;
    let address = free([127, 0, 0, 3]);
    let mut daemon = redirector.start();
    for subset in ["one", "two"] {
        redirector
            .change("the gateway", || redirector.write("edge.yaml", &gateway(address, subset)));
        // The proxy follows the tables.
        redirector.wait("its answer", |_| dial(address) == subset);
        // Also when it is the first change after a restart.
        assert_eq!(daemon.stop(), 0);
        daemon = redirector.start();
    }
    let maps = redirector.ask("maps", &["gateways", "--output", "json"]).json();
    assert_eq!(maps["gateways"][0]["gateway"], "Gateway/default/edge", "{maps:#}");
    // From the tables and from the documents; clients of the mesh go past it.
    let (to, rules) = (address.to_string(), redirector.rules());
    let rules = rules.to_str().unwrap();
    for from in [&[][..], &["--config", rules]] {
        let explain = |more: &[&str]| {
            let rest = [&["--to", to.as_str(), "--output", "json"], more, from].concat();
            redirector.ask("explain", &rest).json()
        };
        let told = explain(&["--gateway", "default/edge"]);
        assert_eq!((&told["verdict"], &told["handledBy"]), (&"route".into(), &"proxy".into()));
        let other = explain(&["--from-namespace", "default"]);
        assert_eq!(other["handledBy"], "kernel", "{other:#}");
    }
    // Another Gateway, found by another label of the same workload, on its port.
    let port = address.port();
    let rival = format!(
        "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: rival}}
spec:
  selector: {{rival: edge}}
  servers: [{{port: {{number: {port}, name: tcp, protocol: TCP}}, hosts: ['other.example.com']}}]
"
    );
    let both = gateway(address, "two").replace("{gateway: edge}}", "{gateway: edge, rival: edge}}");
    redirector.write("edge.yaml", &both);
    redirector.write("rival.yaml", &rival);
    redirector.wait("a word about the rival", |status| {
        has_warning(status, "Gateway/default/rival servers[0] is not served")
    });
    assert_eq!(dial(address), "two");
}

#[test]
fn a_gateway_that_cannot_listen_is_reported_beside_what_works_and_served_once_it_can() {
    let Some(scene) = scene("taken") else { return };
    let redirector = &scene.redirector;
    let taken = TcpListener::bind("127.0.0.4:0").unwrap();
    let address = taken.local_addr().unwrap();
    let _daemon = redirector.start();
    redirector.write("edge.yaml", &gateway(address, "two"));
    let error = |status: &serde_json::Value| status["gateways"][0]["error"].clone();
    let status = redirector.wait("the reason", |status| error(status).is_string());
    assert!(error(&status).to_string().contains("in use"), "{status:#}");
    assert_eq!(status["gateways"][0]["address"], address.to_string(), "{status:#}");
    let told = redirector.ask("status", &[]);
    assert_eq!(told.exit, 1, "{told:?}");
    assert!(told.out.contains(&format!("cannot listen at {address}")), "{told:?}");
    assert_eq!(scene.answer(&scene.client()), "one", "everything else works");
    drop(taken);
    redirector.wait("its answer", |status| error(status).is_null() && dial(address) == "two");
}

#[test]
fn a_gateway_written_fifty_times_a_second_fails_nobody_and_drains_once_it_is_removed() {
    let Some(scene) = scene("fifty") else { return };
    let redirector = &scene.redirector;
    let address = free([127, 0, 0, 7]);
    redirector.write("edge.yaml", &gateway(address, "one"));
    let _daemon = redirector.start_with(&["--drain", "1500ms", "--debounce", "5ms"]);
    redirector.wait("the gateway", |_| dial(address) == "one");
    let mut lasting = TcpStream::connect(address).unwrap();
    lasting.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let generation = redirector.generation();
    let over = AtomicBool::new(false);
    let answers = thread::scope(|scope| {
        let dialling = scope.spawn(|| {
            let mut answers = BTreeMap::<String, u32>::new();
            while !over.load(Ordering::Relaxed) {
                *answers.entry(dial(address)).or_default() += 1;
            }
            answers
        });
        for round in 0..100 {
            let subset = ["two", "one"][round % 2];
            redirector.write("edge.yaml", &gateway(address, subset));
            thread::sleep(Duration::from_millis(20));
        }
        over.store(true, Ordering::Relaxed);
        dialling.join().unwrap()
    });
    assert!(answers.keys().eq(["one", "two"]), "{answers:?}");
    redirector.wait("the last of them", |_| dial(address) == "one");
    let generations = redirector.generation() - generation;
    assert!(generations > 3, "only {generations} came in force");
    fs::remove_file(redirector.rules().join("edge.yaml")).unwrap();
    let status = redirector.wait("the drain", |status| status["gateways"][0]["draining"] == true);
    assert_eq!(status["gateways"][0]["error"], serde_json::Value::Null, "{status:#}");
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
    redirector.wait("its end", |status| status["gateways"].as_array().is_some_and(Vec::is_empty));
    if let Err(error) = lasting.read_to_end(&mut Vec::new()) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "it is over");
    }
}

#[test]
fn gateways_go_on_while_the_daemon_is_away_and_the_next_one_goes_on_with_their_connections() {
    let Some(scene) = scene("away") else { return };
    let redirector = &scene.redirector;
    let address = free([127, 0, 0, 8]);
    redirector.write("edge.yaml", &gateway(address, "one"));
    let mut daemon = redirector.start();
    redirector.wait("the gateway", |_| dial(address) == "one");
    let relay = |status: &serde_json::Value| status["relay"]["process"]["pid"].clone();
    let first = relay(&redirector.status().json());
    assert!(first.is_number());
    for (round, subset) in ["two", "one"].into_iter().enumerate() {
        let old = Interrupted::open(address, ["one", "two"][round]);
        if round == 0 {
            assert_eq!(daemon.stop(), 0);
        } else {
            daemon.kill();
        }
        assert_eq!(dial(address), ["one", "two"][round], "nobody is refused");
        let status = redirector.status().json();
        assert_eq!((&status["daemon"], relay(&status)), (&serde_json::Value::Null, first.clone()));
        redirector.write("edge.yaml", &gateway(address, subset));
        daemon = redirector.start();
        redirector.wait("its change", |_| dial(address) == subset);
        old.go_on();
        let status = redirector.wait("the same relay", |status| relay(status) == first);
        assert_eq!(status["relay"]["restarts"], 0, "{status:#}");
    }
    // A gateway that goes meanwhile goes with the next daemon.
    daemon.kill();
    fs::remove_file(redirector.rules().join("edge.yaml")).unwrap();
    let daemon = redirector.start();
    redirector.wait("its end", |_| TcpStream::connect(address).is_err());
    redirector.change("it again", || redirector.write("edge.yaml", &gateway(address, "one")));
    redirector.wait("its answer", |_| dial(address) == "one");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(redirector.ask("unload", &["--yes"]).exit, 0);
    let refused = || TcpStream::connect(address).is_err();
    let begun = std::time::Instant::now();
    while !refused() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the relay ends, too");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_a_gateway_connects_to_is_not_redirected_again() {
    let Some(scene) = scene("again") else { return };
    let redirector = &scene.redirector;
    // The endpoint is an address that every other process is led away from.
    let _itself = Server::start("itself", ECHO.parse::<SocketAddr>().unwrap());
    let address = free([127, 0, 0, 6]);
    let to_echo = gateway(address, "one").replace("host: echo, subset: one", "host: again.example")
        + "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: again}
spec:
  hosts: [again.example]
  resolution: STATIC
  ports: [{name: tcp, number: 19000, protocol: TCP}]
  endpoints: [{address: 127.96.0.10}]
";
    redirector.write("edge.yaml", &to_echo);
    let _daemon = redirector.start();
    redirector.wait("the gateway", |_| dial(address) == "itself");
    assert_eq!(scene.answer(&scene.client()), "one", "another process's connects are");
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
