//! For everything that can be wrong: what `status` (text, JSON, exit code), the
//! metrics and the log show of it. Nothing that is wrong shows as healthy.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use redirector_tests::child;
use redirector_tests::mount::SmallDisk;
use redirector_tests::program;
use redirector_tests::redirector::{Answer, Daemon};
use redirector_tests::scene::{Scene, dial, free, gateway, many_services, scrape, split, to};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A scene whose daemon serves metrics.
struct Watched {
    scene: Scene,
    metrics: SocketAddr,
}

impl Watched {
    fn new(what: &str) -> Option<Self> {
        let scene = Scene::new(what, PROGRAM)?;
        Some(Self { scene, metrics: free([127, 0, 0, 1]) })
    }

    fn start(&self) -> Daemon {
        self.start_with(&[])
    }

    fn start_with(&self, more: &[&str]) -> Daemon {
        let address = self.metrics.to_string();
        let mut args = vec!["--metrics-address", &address];
        args.extend(more);
        self.scene.redirector.start_with(&args)
    }

    fn write(&self, name: &str, text: &str) {
        self.scene.redirector.write(name, text);
    }

    /// Waits until all of this is shown, everywhere.
    fn shows(&self, wanted: &Shown) {
        let begun = Instant::now();
        loop {
            let redirector = &self.scene.redirector;
            let (json, text) = (redirector.status(), redirector.ask("status", &[]));
            let metrics = (!wanted.metrics.is_empty()).then(|| scrape(self.metrics));
            let Some(missing) = wanted.missing(&json, &text, metrics.as_deref()) else { return };
            assert!(begun.elapsed() < PATIENCE, "{missing}: {json:?}\n{text:?}\n{metrics:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until nothing is wrong.
    fn is_healthy(&self) {
        self.shows(&Shown::default());
    }
}

/// What is to be shown. Where there is a problem, the exit code is 1.
#[derive(Default)]
struct Shown {
    problems: &'static [&'static str],
    warnings: &'static [&'static str],
    metrics: &'static [(&'static str, u64)],
}

impl Shown {
    /// What of it is not.
    fn missing(&self, json: &Answer, text: &Answer, metrics: Option<&str>) -> Option<String> {
        let exit = if self.problems.is_empty() { 0 } else { 1 };
        if (json.exit, text.exit) != (exit, exit) {
            return Some(format!("exit codes {} and {}", json.exit, text.exit));
        }
        let value = json.json();
        if value["healthy"] != (exit == 0) {
            return Some("healthy".to_owned());
        }
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines = squeezed(&text.out);
        for (list, all) in [("problem", self.problems), ("warning", self.warnings)] {
            let told = value[format!("{list}s")].as_array().cloned().unwrap_or_default();
            for wanted in all {
                if !told.iter().filter_map(Value::as_str).any(|one| one.contains(wanted)) {
                    return Some(format!("the {list} {wanted:?} in JSON"));
                }
                if !lines.contains(&squeezed(wanted)) {
                    return Some(format!("the {list} {wanted:?} in the text"));
                }
            }
        }
        for (name, value) in self.metrics {
            let line = format!("redirector_{name} {value}\n");
            if !metrics.is_some_and(|metrics| metrics.contains(&line)) {
                return Some(line);
            }
        }
        None
    }
}

#[test]
fn a_file_that_is_not_read() {
    let Some(watched) = Watched::new("file") else { return };
    let _daemon = watched.start();
    watched.write("more.yaml", "kind: [half");
    watched.shows(&Shown {
        problems: &["more.yaml:2: the file is refused, nothing of it is in force"],
        metrics: &[("rejected_documents", 1)],
        ..Shown::default()
    });
    fs::remove_file(watched.scene.redirector.rules().join("more.yaml")).expect("removed");
    watched.is_healthy();
}

#[test]
fn a_volume_of_documents_that_is_not_mounted() {
    let Some(watched) = Watched::new("volume") else { return };
    let rules = watched.scene.redirector.rules();
    let mount = || {
        let volume = SmallDisk::new(&rules);
        fs::write(rules.join("base.yaml"), watched.scene.base()).expect("documents");
        fs::write(rules.join("rules.yaml"), to("two")).expect("documents");
        volume
    };
    for name in ["base.yaml", "rules.yaml"] {
        fs::remove_file(rules.join(name)).expect("removed");
    }
    let volume = mount();
    let daemon = watched.start();
    watched.is_healthy();
    let gone = Shown {
        problems: &["rules: the file is refused, the last good version of its objects stays"],
        ..Shown::default()
    };
    let answer = || watched.scene.answer(&watched.scene.client());
    drop(volume);
    watched.shows(&gone);
    assert_eq!(answer(), "two");
    // Nor does the next daemon take it for removed.
    assert_eq!(daemon.stop(), 0);
    let _daemon = watched.start();
    watched.shows(&gone);
    assert_eq!(answer(), "two");
    let reload = || watched.scene.redirector.ask("reload", &[]).exit;
    let volume = mount();
    assert_eq!(reload(), 0, "nothing tells of what is mounted");
    watched.is_healthy();
    assert_eq!(answer(), "two");
    drop(volume);
    watched.shows(&gone);
    assert_eq!(reload(), 0);
    watched.is_healthy();
    assert!(answer().contains("refused"), "nobody serves the address");
}

#[test]
fn an_object_that_is_refused() {
    let Some(watched) = Watched::new("object") else { return };
    let daemon = watched.start();
    watched.write("rules.yaml", &to("one").replace("hosts: [echo]", "hosts: 7"));
    watched.shows(&Shown {
        problems: &["VirtualService/default/echo is refused, its last good version stays"],
        metrics: &[("rejected_documents", 1)],
        ..Shown::default()
    });
    assert!(daemon.log().contains("refused: "), "{}", daemon.log());
    watched.write("rules.yaml", &to("one"));
    watched.is_healthy();
}

#[test]
fn a_name_that_does_not_resolve() {
    let Some(watched) = Watched::new("name") else { return };
    let daemon = watched.start();
    watched.write(
        "dns.yaml",
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: away}
spec:
  hosts: [away.example]
  addresses: [127.96.0.20]
  ports: [{number: 80, name: tcp, protocol: TCP}]
  resolution: DNS
  endpoints: [{address: no-such-name.invalid}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: partly}
spec:
  hosts: [partly.example]
  addresses: [127.96.0.21]
  ports: [{number: 80, name: tcp, protocol: TCP}]
  resolution: DNS
  endpoints: [{address: no-such-part.invalid}, {address: 127.0.0.1}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: dialled}
spec:
  hosts: [dialled.invalid]
  ports: [{number: 80, name: tcp, protocol: TCP}]
  resolution: DNS
",
    );
    watched.shows(&Shown {
        warnings: &[
            "the name no-such-name.invalid does not resolve, connections to hosts that it is an \
             endpoint of go to the address that they dial: ",
            "the name dialled.invalid does not resolve, so that rules for it have no effect, and its \
             clients go past them: ",
            "the name no-such-part.invalid does not resolve, what is sent to it goes to other \
             endpoints: ",
        ],
        metrics: &[("unresolved_names", 3), ("emptied_shares", 0)],
        ..Shown::default()
    });
    // What it costs follows the rules, and not the next lookup only.
    let rule = to("two").replace("hosts: [echo]", "hosts: [away.example]");
    let rule = rule.replace("host: echo, subset: two", "host: dialled.invalid");
    watched.write("away.yaml", &rule.replace("name: echo", "name: away"));
    watched.shows(&Shown {
        warnings: &["the name dialled.invalid does not resolve, so that rules for it have no \
                     effect, its clients go past them, and what other rules send to it is refused: "],
        metrics: &[("unresolved_names", 3), ("emptied_shares", 0)],
        ..Shown::default()
    });
    fs::remove_file(watched.scene.redirector.rules().join("away.yaml")).expect("removed");
    assert!(daemon.log().contains("no-such-name.invalid does not resolve"), "{}", daemon.log());
    fs::remove_file(watched.scene.redirector.rules().join("dns.yaml")).expect("removed");
    watched.shows(&Shown { metrics: &[("unresolved_names", 0)], ..Shown::default() });
}

#[test]
fn a_share_that_never_had_an_endpoint() {
    let Some(watched) = Watched::new("never") else { return };
    watched.write("rules.yaml", &split(&[("one", 90), ("three", 10)]));
    let daemon = watched.start();
    watched.shows(&Shown {
        warnings: &["RD3008"],
        metrics: &[("config_warnings", 1), ("emptied_shares", 0)],
        ..Shown::default()
    });
    assert!(daemon.log().contains("RD3008"), "{}", daemon.log());
    // It is said once, and not again with a change elsewhere.
    let said = || daemon.log().matches("RD3008").count();
    let before = said();
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: more}\nspec: {clusterIP: \
                   127.96.0.30, ports: [{port: 80}]}\n";
    watched.scene.redirector.change("a change", || watched.write("more.yaml", service));
    watched.shows(&Shown { warnings: &["RD3008"], ..Shown::default() });
    assert_eq!(said(), before, "{}", daemon.log());
    watched.write("rules.yaml", &to("one"));
    watched.shows(&Shown { metrics: &[("config_warnings", 0)], ..Shown::default() });
}

#[test]
fn a_rule_to_a_service_that_nobody_is_behind() {
    for services in ["own", "leave"] {
        let Some(watched) = Watched::new(&format!("nobody-{services}")) else { return };
        watched.write(
            "nobody.yaml",
            "apiVersion: v1\nkind: Service\nmetadata: {name: nobody}\nspec: {clusterIP: \
             127.96.0.31, selector: {app: nobody}, ports: [{name: tcp, port: 19000}]}\n",
        );
        let _daemon = watched.start_with(&["--services", services]);
        for shares in [&[("one", 90), ("none", 10)][..], &[("none", 100)]] {
            let rule = split(shares).replace("host: echo, subset: none", "host: nobody");
            watched.write("rules.yaml", &rule);
            watched.shows(&Shown {
                warnings: &[
                    "nobody.default.svc.cluster.local has no endpoint on port 19000: its share of the \
                             connections is refused",
                    "RD4015",
                ],
                metrics: &[("config_warnings", 1), ("emptied_shares", 0)],
                ..Shown::default()
            });
            watched.write("rules.yaml", &to("one"));
            watched.shows(&Shown { metrics: &[("config_warnings", 0)], ..Shown::default() });
        }
    }
}

#[test]
fn a_share_that_has_lost_its_last_endpoint() {
    let Some(watched) = Watched::new("lost") else { return };
    watched.write("rules.yaml", &split(&[("one", 80), ("two", 20)]));
    let daemon = watched.start();
    watched.is_healthy();
    let base = watched.scene.base();
    let without = base.replace("labels: {app: echo, v: two}", "labels: {app: other}");
    assert_ne!(base, without);
    watched.write("base.yaml", &without);
    let lost = Shown {
        problems: &["VirtualService/default/echo tcp[0]: 20.00% of its connections are refused: \
                     echo.default.svc.cluster.local:19000/two lost its last endpoint"],
        metrics: &[("emptied_shares", 1)],
        ..Shown::default()
    };
    watched.shows(&lost);
    assert!(daemon.log().contains("lost its last endpoint"), "{}", daemon.log());
    // The next daemon knows it, too.
    assert_eq!(daemon.stop(), 0);
    let _daemon = watched.start();
    watched.shows(&lost);
    watched.write("base.yaml", &base);
    watched.shows(&Shown { metrics: &[("emptied_shares", 0)], ..Shown::default() });
}

#[test]
fn a_share_that_lost_its_endpoints_while_no_daemon_ran() {
    let Some(watched) = Watched::new("lost-away") else { return };
    watched.write("rules.yaml", &split(&[("one", 80), ("two", 20)]));
    assert_eq!(watched.start().stop(), 0);
    let base = watched.scene.base();
    watched.write("base.yaml", &base.replace("labels: {app: echo, v: two}", "labels: {a: b}"));
    let _daemon = watched.start();
    watched.shows(&Shown {
        problems: &["lost its last endpoint"],
        metrics: &[("emptied_shares", 1)],
        ..Shown::default()
    });
}

#[test]
fn tables_that_may_not_grow() {
    let Some(watched) = Watched::new("full") else { return };
    let _daemon = watched.start_with(&["--fixed-sizes"]);
    watched.write("services.yaml", &many_services(1200));
    watched.shows(&Shown {
        problems: &["is refused, it is absent: Service/default/s"],
        ..Shown::default()
    });
    fs::remove_file(watched.scene.redirector.rules().join("services.yaml")).expect("removed");
    watched.is_healthy();
}

#[test]
fn a_full_disk_under_the_state_directory() {
    let Some(watched) = Watched::new("disk") else { return };
    let disk = SmallDisk::new(&watched.scene.redirector.directory().join("state"));
    let daemon = watched.start();
    watched.is_healthy();
    disk.fill();
    // In what is left of a page a small change has room.
    watched.write("rules.yaml", &(to("two") + &many_services(400)));
    watched.shows(&Shown {
        problems: &[
            "the newest configuration is not in force",
            "what the daemon knows cannot be written down",
        ],
        metrics: &[("apply_failed", 1), ("state_failed", 1)],
        ..Shown::default()
    });
    assert_eq!(watched.scene.answer(&watched.scene.client()), "one", "what was in force is");
    // There is room again, and nothing is touched.
    disk.empty();
    watched
        .shows(&Shown { metrics: &[("apply_failed", 0), ("state_failed", 0)], ..Shown::default() });
    assert_eq!(watched.scene.answer(&watched.scene.client()), "two");

    // The daemon ends while it cannot write: what it knew is not known.
    disk.fill();
    watched.write("rules.yaml", &to("one"));
    watched.shows(&Shown { problems: &["the newest configuration is not"], ..Shown::default() });
    daemon.kill();
    watched.shows(&Shown {
        problems: &["whether the newest change is in force, cannot be told"],
        ..Shown::default()
    });
    // And the next one starts all the same.
    let daemon = watched.start();
    watched.shows(&Shown {
        problems: &["the newest configuration is not in force"],
        metrics: &[("apply_failed", 1)],
        ..Shown::default()
    });
    assert_eq!(watched.scene.answer(&watched.scene.client()), "two");
    disk.empty();
    watched.shows(&Shown { metrics: &[("apply_failed", 0)], ..Shown::default() });
    assert_eq!(watched.scene.answer(&watched.scene.client()), "one");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn programs_that_are_not_effective() {
    let Some(watched) = Watched::new("probe") else { return };
    let redirector = &watched.scene.redirector;
    assert_eq!(watched.start().stop(), 0);
    watched.is_healthy();
    let links = redirector.place.pins().join("links");
    let links = fs::read_dir(links).expect("links").flatten();
    let pins = links.flat_map(|cgroup| fs::read_dir(cgroup.path()).expect("pins").flatten());
    for pin in pins.filter(|pin| pin.file_name().to_string_lossy().contains("connect")) {
        program::detach(&pin.path());
    }
    watched.shows(&Shown {
        problems: &["our program is not attached to connect4", "connect4 at", "is not effective"],
        ..Shown::default()
    });
}

#[test]
fn pins_that_are_gone() {
    let Some(watched) = Watched::new("pins") else { return };
    let redirector = &watched.scene.redirector;
    assert_eq!(watched.start().stop(), 0);
    fs::remove_dir_all(redirector.place.pins()).expect("removed");
    let answer = redirector.status();
    assert_eq!(answer.exit, 4, "{answer:?}");
    assert!(answer.err.contains("somebody has removed it since"), "{answer:?}");
}

#[test]
fn names_that_are_lost() {
    let Some(watched) = Watched::new("names") else { return };
    let state = watched.scene.redirector.directory().join("state");
    // Nothing but a change has it look.
    let daemon = watched.start_with(&["--verify", "1h"]);
    fs::remove_dir_all(state.join("journal")).expect("removed");
    watched.shows(&Shown { problems: &["knows nothing of generation 1"], ..Shown::default() });
    watched.write("rules.yaml", &to("two"));
    watched.is_healthy();
    fs::remove_dir_all(&state).expect("removed");
    watched.shows(&Shown {
        problems: &["knows nothing of generation 2", "which it makes anew by itself"],
        ..Shown::default()
    });
    watched.write("rules.yaml", &to("one"));
    watched.is_healthy();
    // The next daemon finds all of it, also when nothing but time had it look.
    daemon.kill();
    let daemon = watched.start();
    assert_eq!(watched.scene.redirector.generation(), 3);
    fs::remove_dir_all(&state).expect("removed");
    watched.is_healthy();
    daemon.kill();
    assert_eq!(watched.scene.redirector.status().exit, 0);
    fs::remove_dir_all(&state).expect("removed");
    watched.shows(&Shown {
        problems: &[
            "knows nothing of generation 3",
            "whether everything that the sources say is in force cannot be told",
        ],
        ..Shown::default()
    });
}

#[test]
fn an_endpoint_that_a_gateway_cannot_reach() {
    let Some(watched) = Watched::new("gateway") else { return };
    let address = free([127, 0, 0, 3]);
    watched.write("gateway.yaml", &gateway(address, "one"));
    let dead = "
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: dead}
spec: {address: 127.0.0.77, labels: {app: echo, v: one}}
";
    watched.write("dead.yaml", dead);
    let daemon = watched.start();
    let begun = Instant::now();
    loop {
        let answer = child::run(&watched.scene.client(), move || dial(address));
        assert_eq!(answer, "one", "another endpoint is tried");
        if daemon.log().contains("gateways fail to connect to 127.0.0.77") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{}", daemon.log());
    }
    let counted = scrape(watched.metrics);
    let counted: Vec<_> = (counted.lines())
        .filter(|line| line.starts_with("redirector_gateway_attempt_failures_total{"))
        .collect();
    let [line] = &counted[..] else { panic!("{counted:?}") };
    assert!(line.contains("subset=\"one\"") && !line.ends_with(" 0"), "{line}");
}
