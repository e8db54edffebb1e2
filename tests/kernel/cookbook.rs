//! The recipes of docs/cookbook.md about connections of this machine, as they stand there: with
//! real servers, in a network namespace of each recipe's own.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redirector_tests::child::{self, wait_for};
use redirector_tests::dns::DnsServer;
use redirector_tests::kernel::privileged;
use redirector_tests::netns::{self, NetNs};
use redirector_tests::page::steps;
use redirector_tests::redirector::Redirector;

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");
const PAGE: &str = include_str!("../../docs/cookbook.md");

/// The port of Redis.
const PORT: u16 = 6379;

/// The only block of this kind in a section.
fn block(title: &str, kind: &str) -> &'static str {
    let mut sections = PAGE.split("\n## ");
    let section = sections.find(|section| section.starts_with(title)).expect("the section");
    let begins = format!("```{kind}\n");
    let mut blocks = section.split(&*begins).skip(1);
    let block = blocks.next().expect("a block");
    assert!(blocks.next().is_none(), "one block of {kind}");
    block.split("```").next().expect("its end")
}

/// Where a recipe is tried.
struct Kitchen {
    title: &'static str,
    redirector: Redirector,
    netns: NetNs,
    servers: Vec<Child>,
}

impl Kitchen {
    /// Writes the recipe's documents, its client being in the cgroup `client`.
    fn new(what: &str, title: &'static str) -> Option<Self> {
        if !privileged() {
            return None;
        }
        let (redirector, netns) = (Redirector::new(what, PROGRAM), NetNs::new(what));
        for cgroup in ["client", "other"] {
            redirector.place.cgroup.child(cgroup);
        }
        let kitchen = Self { title, redirector, netns, servers: Vec::new() };
        kitchen.redirector.write("recipe.yaml", &kitchen.documents());
        Some(kitchen)
    }

    fn documents(&self) -> String {
        let client = self.redirector.cgroup("client");
        let lines = block(self.title, "yaml").lines().map(|line| {
            let cgroup = line.split_once("redirector.io/cgroup: ");
            match cgroup.and_then(|(head, tail)| Some((head, tail.split_once('}')?.1))) {
                Some((head, tail)) => format!("{head}redirector.io/cgroup: {client}}}{tail}\n"),
                None => format!("{line}\n"),
            }
        });
        lines.collect()
    }

    fn cgroup(&self, name: &str) -> PathBuf {
        self.redirector.place.cgroup.path().join(name)
    }

    /// A server in the namespace, which listens.
    fn serve(&mut self, program: &str, arguments: &[&str], at: SocketAddr) {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.netns.name(), program]).args(arguments);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.servers.push(child.expect("cargo xtask setup installs it"));
        let begun = Instant::now();
        while self.netns.within(|| TcpStream::connect(at).is_err()) {
            assert!(begun.elapsed() < Duration::from_secs(30), "{program} does not listen at {at}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The recipe's HAProxy.
    fn haproxy(&mut self, at: &str) {
        let file = self.redirector.directory().join("haproxy.cfg");
        fs::write(&file, block(self.title, "haproxy")).expect("a file");
        let file = file.to_string_lossy().into_owned();
        self.serve("haproxy", &["-db", "-f", &file], at.parse().expect("an address"));
    }

    /// A Redis that says where it is.
    fn redis(&mut self, ip: &str) {
        let at = SocketAddr::new(ip.parse().expect("an address"), PORT);
        let directory = self.redirector.directory().to_string_lossy().into_owned();
        let rest = ["--save", "", "--protected-mode", "no", "--dir", &directory];
        self.serve("redis-server", &[&["--bind", ip], &rest[..]].concat(), at);
        let answer = self.netns.within(|| ask(&TcpStream::connect(at)?, &format!("SET who {ip}")));
        assert_eq!(answer.expect("an answer"), "+OK");
    }

    /// Runs a command in a cgroup, in the namespace.
    fn run(&self, cgroup: &str, command: &str) -> String {
        let namespace = self.netns.path();
        child::run(&self.cgroup(cgroup), || {
            netns::enter(&namespace);
            let output = Command::new("sh").args(["-c", command]).output().expect("a shell");
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    }

    /// Runs the recipe's commands as its client, and compares what they say.
    fn as_the_page_has_it(&self) {
        let steps = steps(PAGE, &format!("## {}", self.title));
        assert!(!steps.is_empty());
        for step in steps {
            step.compare(&self.run("client", &step.command)).unwrap_or_else(|why| panic!("{why}"));
        }
    }
}

impl Drop for Kitchen {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// Asks Redis for something; what it says in one line, or the string.
fn ask(mut stream: &TcpStream, what: &str) -> std::io::Result<String> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(format!("{what}\r\n").as_bytes())?;
    let mut answer = [0; 256];
    let length = stream.read(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    Ok(answer.trim_end().rsplit("\r\n").next().unwrap_or_default().to_owned())
}

#[test]
fn a_cidr_goes_to_a_local_proxy() {
    let Some(mut kitchen) = Kitchen::new("cookcidr", "A CIDR to a local proxy") else { return };
    kitchen.haproxy("127.0.0.51:3128");
    let _daemon = kitchen.redirector.start();
    kitchen.as_the_page_has_it();
}

#[test]
fn the_egress_of_one_namespace_is_a_gateway_and_others_go_on_their_own() {
    let title = "Egress of one namespace through a gateway";
    let Some(mut kitchen) = Kitchen::new("cookegress", title) else { return };
    kitchen.haproxy("127.0.0.62:5432");
    // What it relays for is in the namespace, too.
    let _daemon = kitchen.netns.within(|| kitchen.redirector.start());
    kitchen.redirector.wait("the gateway", |status| {
        status["gateways"].as_array().is_some_and(|all| !all.is_empty())
    });
    kitchen.as_the_page_has_it();
    let direct =
        kitchen.run("other", "curl --silent --interface 127.0.0.9 http://127.0.0.62:5432/");
    assert_eq!(direct, "127.0.0.9");
}

#[test]
fn reports_ask_the_reader_by_whatever_name_they_know_and_follow_a_failover() {
    let title = "RDS by name, with a reader and a writer";
    let Some(mut kitchen) = Kitchen::new("cookrds", title) else { return };
    let [first, second] = ["192.0.2.21", "192.0.2.22"];
    for ip in [first, second] {
        kitchen.netns.ip(&format!("address add {ip}/32 dev lo"));
        kitchen.redis(ip);
    }
    let [writer, reader] = ["orders.cluster-abc", "orders.cluster-ro-abc"]
        .map(|name| format!("{name}.eu-central-1.rds.amazonaws.com"));
    let dns = DnsServer::start();
    let say = |now: [&str; 2]| {
        dns.say_addresses(&writer, 1, &[now[0]]);
        dns.say_addresses(&reader, 1, &[now[1]]);
        now[0].to_owned()
    };
    let wait = |at: String| {
        kitchen.redirector.wait("the writer's address", |status| {
            let names = status["config"]["names"].as_array().cloned().unwrap_or_default();
            let resolves = |one: &serde_json::Value| {
                let is_writer = one["name"] == *writer;
                let there = one["addresses"][0] == *at;
                !one["addresses"][0].is_null() && is_writer == there
            };
            names.len() == 2 && names.iter().all(resolves) && status["config"]["waiting"].is_null()
        });
    };
    let before = say([first, second]);
    let _daemon = kitchen.redirector.start_with(&["--dns-server", &dns.address().to_string()]);
    wait(before);
    kitchen.as_the_page_has_it();
    let asks = |cgroup: &str, ip: &str| {
        kitchen.run(cgroup, &format!("redis-cli -h {ip} get who")).trim().to_owned()
    };
    assert_eq!(asks("other", first), first, "nobody else is concerned");
    wait(say([second, first]));
    assert_eq!([asks("client", second), asks("other", second)], [first, second]);
    assert_eq!(asks("client", first), first, "the reader is where it is");
}

#[test]
fn a_failover_ends_what_was_open_to_the_old_primary() {
    let Some(mut kitchen) = Kitchen::new("cookfail", "Failover with drain") else { return };
    for ip in ["127.0.0.41", "127.0.0.42"] {
        kitchen.redis(ip);
    }
    let _daemon = kitchen.redirector.start();
    kitchen.as_the_page_has_it();
    let directory = kitchen.redirector.directory();
    let [ready, over] = ["ready", "over"].map(|name| directory.join(name));
    let (is_ready, is_over, namespace) = (ready.clone(), over.clone(), kitchen.netns.path());
    let pool = child::spawn(&kitchen.cgroup("client"), move || {
        netns::enter(&namespace);
        let address = SocketAddr::from(([127, 96, 0, 41], PORT));
        let open = TcpStream::connect(address).expect("a connection");
        let before = ask(&open, "GET who").expect("an answer");
        fs::write(&is_ready, "").expect("a file");
        wait_for(&is_over);
        let ends = ask(&open, "GET who").map_err(|error| format!("{:?}", error.kind()));
        let again = TcpStream::connect(address).expect("a connection");
        (before, ends, ask(&again, "GET who").expect("an answer"))
    });
    wait_for(&ready);
    let after = kitchen.documents().replace("app: db, role: primary", "app: db, role: new");
    let after =
        after.replace("role: replica", "role: primary").replace("role: new", "role: replica");
    kitchen.redirector.write("recipe.yaml", &after);
    kitchen.redirector.wait("the reset", |status| status["draining"]["reset"] == 1);
    fs::write(&over, "").expect("a file");
    let (before, ends, again) = pool.join();
    assert_eq!((&*before, &*again), ("127.0.0.41", "127.0.0.42"));
    assert_eq!(ends, Err("ConnectionAborted".to_owned()));
}
