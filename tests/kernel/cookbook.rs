//! The recipes of docs/cookbook.md about connections of this machine, as they stand there: with
//! real servers, in a network namespace of each recipe's own.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redirector_tests::child::{self, wait_for};
use redirector_tests::database::{MariaDb, PostgreSql};
use redirector_tests::dns::DnsServer;
use redirector_tests::kernel::privileged;
use redirector_tests::netns::{self, NetNs};
use redirector_tests::page::steps;
use redirector_tests::redirector::Redirector;

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");
const PAGE: &str = include_str!("../../docs/cookbook.md");

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
        let namespace = self.netns.name().to_owned();
        self.serve_from(&namespace, program, arguments, at);
    }

    /// A server in another namespace, which is reached from this one.
    fn serve_from(&mut self, namespace: &str, program: &str, arguments: &[&str], at: SocketAddr) {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, program]).args(arguments);
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
        self.is_free_of_findings();
    }

    /// In force, and with its names resolved, there is nothing to be said of the recipe's
    /// documents. (That is worked out behind what is in force.)
    fn is_free_of_findings(&self) {
        self.redirector.wait("no finding", |status| {
            let warnings = status["warnings"].as_array().cloned().unwrap_or_default();
            warnings.iter().all(|one| !one.to_string().contains("(RD"))
        });
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

#[test]
fn a_canary_gets_its_share_of_one_units_connections_and_what_is_open_moves_when_it_is_closed() {
    let title = "A canary of a database that everybody dials";
    let Some(kitchen) = Kitchen::new("cookcanary", title) else { return };
    let _servers = [1, 2]
        .map(|last| MariaDb::start(&kitchen.netns, SocketAddr::from(([127, 0, 0, last], 3306))));
    let _daemon = kitchen.redirector.start();
    let all = steps(PAGE, &format!("## {title}"));
    let [canary, close] = &all[..] else { panic!("two commands") };
    canary.compare(&kitchen.run("client", &canary.command)).unwrap_or_else(|why| panic!("{why}"));
    let fewer = canary.command.replace("seq 60", "seq 10");
    assert_eq!(kitchen.run("other", &fewer).trim(), "127.0.0.1", "nobody else");

    let directory = kitchen.redirector.directory();
    let [ready, over] = ["ready", "over"].map(|name| directory.join(name));
    let (is_ready, is_over, namespace) = (ready.clone(), over.clone(), kitchen.netns.path());
    let write = |weights: [u8; 2]| {
        let [old, new] = weights.map(|weight| format!("weight: {weight}}}"));
        let documents = kitchen.documents().replace("weight: 80}", &old);
        kitchen.redirector.change("the weights", || {
            kitchen.redirector.write("recipe.yaml", &documents.replace("weight: 20}", &new));
        });
    };
    write([0, 100]);
    let pool = child::spawn(&kitchen.cgroup("client"), move || {
        netns::enter(&namespace);
        let mariadb = || {
            let mut mariadb = Command::new("mariadb");
            mariadb.args(["--no-defaults", "--skip-reconnect", "-h", "127.0.0.1", "-NBn"]);
            mariadb
        };
        let mut open = mariadb();
        open.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut open = open.spawn().expect("mariadb");
        let mut asks = open.stdin.take().expect("its input");
        let mut lines = BufReader::new(open.stdout.take().expect("its output")).lines();
        let mut ask = || {
            writeln!(asks, "select @@bind_address;").expect("it asks");
            lines.next().and_then(Result::ok)
        };
        let before = ask();
        fs::write(&is_ready, "").expect("a file");
        wait_for(&is_over);
        let ends = ask();
        let again = mariadb().args(["-e", "select @@bind_address"]).output().expect("mariadb");
        let again = String::from_utf8_lossy(&again.stdout).trim().to_owned();
        let _ = open.wait();
        (before, ends, again)
    });
    wait_for(&ready);
    write([100, 0]);
    let mut words = close.command.split(' ').skip(1);
    assert_eq!(words.next(), Some("connections"));
    let closed = kitchen.redirector.ask("connections", &words.collect::<Vec<_>>());
    assert!(closed.exit == 0 && closed.out.contains("1 of 1"), "{closed:?}");
    fs::write(&over, "").expect("a file");
    let (before, ends, again) = pool.join();
    assert_eq!((before.as_deref(), ends, &*again), (Some("127.0.0.2"), None, "127.0.0.1"));
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
fn hosts_of_one_port_go_by_their_addresses_to_a_port_each_of_one_gateway() {
    let title = "Egress of one namespace through a gateway";
    let Some(mut kitchen) = Kitchen::new("cookhosts", title) else { return };
    // The recipe's documents once more, for another host: all but its workloads.
    let recipe = kitchen.documents();
    let all = recipe.split("---\n").filter(|one| !one.contains("kind: WorkloadEntry"));
    let ledger = all.collect::<Vec<_>>().join("---\n");
    let ledger = [
        ("payments", "ledger"),
        ("name: egress,", "name: egress-ledger,"),
        ("[mesh, egress]", "[mesh, egress-ledger]"),
        ("[egress]", "[egress-ledger]"),
        ("egress.shop", "egress-ledger.shop"),
        ("127.96.0.61", "127.96.0.63"),
        ("127.0.0.62", "127.0.0.63"),
        ("15432", "15433"),
    ]
    .into_iter()
    .fold(ledger, |text, (from, to)| text.replace(from, to));
    kitchen.redirector.write("ledger.yaml", &ledger);
    let file = kitchen.redirector.directory().join("haproxy.cfg");
    let server = |last: u8| {
        format!(
            "frontend host{last}\n  bind 127.0.0.{last}:5432\n  http-request return status 200 \
             content-type text/plain lf-string \"{last} by %[src]\"\n"
        )
    };
    let defaults = block(title, "haproxy").split("frontend").next().unwrap_or_default();
    fs::write(&file, [defaults, &server(62), &server(63)].concat()).expect("a file");
    let file = file.to_string_lossy().into_owned();
    kitchen.serve("haproxy", &["-db", "-f", &file], SocketAddr::from(([127, 0, 0, 63], 5432)));
    let _daemon = kitchen.netns.within(|| kitchen.redirector.start());
    kitchen.redirector.wait("both ports", |status| {
        status["gateways"].as_array().is_some_and(|all| all.len() == 2)
    });
    for last in [62, 63] {
        let curl = format!("curl --silent --interface 127.0.0.9 http://127.0.0.{last}:5432/");
        assert_eq!(kitchen.run("client", &curl), format!("{last} by 127.0.0.1"));
        assert_eq!(kitchen.run("other", &curl), format!("{last} by 127.0.0.9"));
    }
}

#[test]
fn tls_egress_as_istio_prints_it_goes_by_address_to_the_gateway_and_by_name_from_there() {
    let title = "TLS egress, as Istio prints it";
    let Some(mut kitchen) = Kitchen::new("cooksni", title) else { return };
    // The servers are no addresses of the node's.
    let outside = NetNs::new("cookout");
    let name = outside.name();
    kitchen.netns.ip(&format!("link add out type veth peer name in netns {name}"));
    for (netns, device, addresses) in
        [(&kitchen.netns, "out", &[1, 9][..]), (&outside, "in", &[72, 73, 74, 75])]
    {
        netns.ip(&format!("link set {device} up"));
        for last in addresses {
            netns.ip(&format!("address add 192.0.2.{last}/24 dev {device}"));
        }
    }
    let directory = kitchen.redirector.directory().to_string_lossy().into_owned();
    let here = |text: &str| text.replace("/etc", &directory);
    let mut steps = steps(PAGE, &format!("## {title}"));
    kitchen.run("other", &here(&steps.remove(0).command));
    let file = format!("{directory}/haproxy.cfg");
    let last = "  bind 192.0.2.74:443";
    let one_more = format!("  bind 192.0.2.75:443 ssl crt {directory}/outside.pem\n{last}");
    fs::write(&file, here(block(title, "haproxy")).replace(last, &one_more)).expect("a file");
    let at = SocketAddr::from(([192, 0, 2, 74], 443));
    kitchen.serve_from(name, "haproxy", &["-db", "-f", &file], at);

    let dns = kitchen.netns.within(DnsServer::start);
    for (host, last) in [
        ("edition.example.com", 72),
        ("de.wiki.example.org", 73),
        ("en.wiki.example.org", 73),
        ("www.wiki.example.org", 74),
    ] {
        dns.say_addresses(host, 60, &[&format!("192.0.2.{last}")]);
    }
    let resolver = dns.address().to_string();
    let _daemon =
        kitchen.netns.within(|| kitchen.redirector.start_with(&["--dns-server", &resolver]));
    kitchen.redirector.wait("the gateway and the names", |status| {
        let names = status["config"]["names"].as_array().cloned().unwrap_or_default();
        let gateways = status["gateways"].as_array().is_some_and(|all| !all.is_empty());
        let known = names.iter().all(|one| !one["addresses"][0].is_null());
        gateways && names.len() == 4 && known && status["config"]["waiting"].is_null()
    });
    let explain = || {
        let whose = ["--from-workload", "default/web", "--to", "192.0.2.72:443", "-o", "json"];
        kitchen.redirector.ask("explain", &whose).json()
    };
    kitchen.redirector.wait("the addresses in the tables", |_| !explain()["rule"].is_null());
    let explained = explain();
    assert_eq!(explained["rule"]["index"], 0, "{explained}");
    assert_eq!(explained["endpoints"]["127.0.0.71:443"], 1.0, "{explained}");
    for step in steps {
        let said = kitchen.run("client", &step.command);
        step.compare(&said).unwrap_or_else(|why| panic!("{why}"));
    }
    kitchen.is_free_of_findings();

    // Istio's own wildcard beside it; and a host at an address of another one, with a
    // VirtualService and a subset of its own, which lead to the same gateway.
    dns.say_addresses("news.example.com", 60, &["192.0.2.72"]);
    let recipe = kitchen.documents();
    let all = recipe.split("---\n").filter(|one| {
        one.contains("edition") && !one.contains("kind: Gateway") && !one.contains("wiki")
    });
    let news = all.collect::<Vec<_>>().join("---\n").replace("edition", "news");
    kitchen.redirector.change("another host of the address", || {
        let known = "hosts: [edition.example.com, \"";
        assert!(recipe.contains(known), "{recipe}");
        let both = known.replace(", \"", ", news.example.com, \"");
        kitchen.redirector.write("recipe.yaml", &recipe.replace(known, &both));
        kitchen.redirector.write("wildcard.yaml", WILDCARD);
        kitchen.redirector.write("news.yaml", &news);
    });
    kitchen.redirector.wait("its address", |_| {
        explain()["notes"].to_string().contains("news.example.com resolves to 192.0.2.72, too")
    });
    for (name, at, told) in [
        ("edition.example.com", 72, "at 192.0.2.72 by 192.0.2.1"),
        ("news.example.com", 72, "at 192.0.2.72 by 192.0.2.1"),
        ("en.wiki.example.org", 73, "at 192.0.2.74 by 192.0.2.1"),
        ("fr.wiki.example.org", 75, "at 192.0.2.75 by 192.0.2.9"),
    ] {
        let curl = format!(
            "curl --silent --insecure --interface 192.0.2.9 --resolve {name}:443:192.0.2.{at} \
             https://{name}/"
        );
        assert_eq!(kitchen.run("client", &curl), format!("{name} {told}"));
    }
}

/// As Istio's documentation has it: no address, and no names.
const WILDCARD: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wildcard}
spec:
  hosts: [\"*.wiki.example.org\"]
  ports: [{number: 443, name: tls, protocol: TLS}]
";

/// What tells where one is, and whether that is a replica.
const WHERE: &str = "select inet_server_addr(), pg_is_in_recovery()";

#[test]
fn a_server_that_speaks_first_does_so_through_the_mesh_and_a_gateway() {
    let title = "Egress of one namespace through a gateway";
    let Some(kitchen) = Kitchen::new("cookmaria", title) else { return };
    // The recipe's host, as MySQL's; and the gateway's port with it.
    kitchen.redirector.write("recipe.yaml", &kitchen.documents().replace("5432", "3306"));
    let at = SocketAddr::from(([127, 0, 0, 62], 3306));
    let _server = MariaDb::start(&kitchen.netns, at);
    let log = kitchen.redirector.directory().join("access.log");
    let file = log.to_string_lossy().into_owned();
    let _daemon = kitchen.netns.within(|| {
        kitchen.redirector.start_with(&["--access-log", "json", "--access-log-file", &file])
    });
    kitchen.redirector.wait("the gateway", |status| {
        status["gateways"].as_array().is_some_and(|all| !all.is_empty())
    });
    let ask = |cgroup: &str, length: usize| {
        let query = format!("select repeat(\"x\", {length})");
        let ask = format!("mariadb --no-defaults -h 127.0.0.62 -NBe '{query}'");
        assert_eq!(kitchen.run(cgroup, &ask).trim().len(), length);
    };
    let long = 1_000_000;
    for (cgroup, length) in [("client", long), ("other", long), ("client", 1)] {
        ask(cgroup, length);
    }
    // The client's second connection, of which little was asked, ends after the other's.
    let told = || -> Vec<serde_json::Value> {
        let log = fs::read_to_string(&log).unwrap_or_default();
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let is_last = |one: &serde_json::Value| {
        one["received"]
            .as_u64()
            .and_then(|all| usize::try_from(all).ok())
            .is_some_and(|all| all < long)
    };
    let begun = Instant::now();
    while !told().iter().any(is_last) {
        assert!(begun.elapsed() < Duration::from_secs(30), "a line for the last connection");
        std::thread::sleep(Duration::from_millis(20));
    }
    let told = told();
    let there = told.iter().filter(|one| one["endpoint"] == "127.0.0.62:3306");
    assert_eq!(there.count(), 2, "the client's alone: {told:#?}");
}

#[test]
fn reports_ask_the_reader_by_whatever_name_they_know_and_follow_a_failover() {
    let title = "RDS by name, with a reader and a writer";
    let Some(kitchen) = Kitchen::new("cookrds", title) else { return };
    let [first, second] = ["192.0.2.21", "192.0.2.22"];
    let [one, two] = [first, second].map(|ip| {
        kitchen.netns.ip(&format!("address add {ip}/32 dev lo"));
        SocketAddr::new(ip.parse().expect("an address"), 5432)
    });
    let mut old = PostgreSql::primary(&kitchen.netns, one);
    let new = old.replica(two);
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
        let psql = format!("psql -h {ip} -U app -d postgres -Atc '{WHERE}'");
        kitchen.run(cgroup, &psql).trim().to_owned()
    };
    assert_eq!(asks("other", first), "192.0.2.21|f", "nobody else is concerned");
    old.stop();
    new.promote();
    old.follow(&new);
    wait(say([second, first]));
    assert_eq!(
        [asks("client", second), asks("other", second)],
        ["192.0.2.21|t", "192.0.2.22|f"],
        "the reader and the writer, wherever they are"
    );
    assert_eq!(asks("client", first), "192.0.2.21|t", "the reader is where it is");
}

/// What an application is told that keeps one connection while the roles change: at first, how
/// that connection ends, with its status and its last words, and what a new one is told.
type Told = (Option<String>, (Option<i32>, String), String);

/// The application, which says this at first, that later, and begins anew with such arguments,
/// and the change of roles: of the servers, and of the documents.
fn failover(
    kitchen: &Kitchen,
    documents: &str,
    client: &[&str],
    says: [&str; 2],
    again: &[&str],
    servers: impl FnOnce(),
) -> Told {
    let directory = kitchen.redirector.directory();
    let [ready, over] = ["ready", "over"].map(|name| directory.join(name));
    let (is_ready, is_over, namespace) = (ready.clone(), over.clone(), kitchen.netns.path());
    let application = child::spawn(&kitchen.cgroup("client"), move || {
        netns::enter(&namespace);
        let client = || {
            let mut command = Command::new(client[0]);
            command.args(&client[1..]);
            command
        };
        let mut open = client();
        open.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut open = open.spawn().expect("it starts");
        let mut asks = open.stdin.take().expect("its input");
        let mut lines = BufReader::new(open.stdout.take().expect("its output")).lines();
        writeln!(asks, "{};", says[0]).expect("it asks");
        let before = lines.by_ref().map_while(Result::ok).find(|line| line.starts_with("127."));
        fs::write(&is_ready, "").expect("a file");
        wait_for(&is_over);
        writeln!(asks, "{};", says[1]).expect("it asks again");
        drop(asks);
        let ended = open.wait_with_output().expect("it ends");
        let ended = (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned());
        let again = client().args(again).output().expect("it starts");
        let again = String::from_utf8_lossy(&again.stdout).replace('\n', " ");
        (before, ended, again.trim().to_owned())
    });
    wait_for(&ready);
    servers();
    let after = documents.replace("app: db, role: primary", "app: db, role: new");
    let after =
        after.replace("role: replica", "role: primary").replace("role: new", "role: replica");
    kitchen.redirector.write("recipe.yaml", &after);
    kitchen.redirector.wait("the reset", |status| status["draining"]["reset"] == 1);
    fs::write(&over, "").expect("a file");
    application.join()
}

#[test]
fn a_failover_moves_what_was_open_to_the_old_primary() {
    let Some(kitchen) = Kitchen::new("cookfail", "Failover with drain") else { return };
    let old = PostgreSql::primary(&kitchen.netns, SocketAddr::from(([127, 0, 0, 41], 5432)));
    let new = old.replica(SocketAddr::from(([127, 0, 0, 42], 5432)));
    let _daemon = kitchen.redirector.start();
    kitchen.as_the_page_has_it();
    let (before, ended, again) = failover(
        &kitchen,
        &kitchen.documents(),
        &["psql", "-h", "127.96.0.41", "-U", "app", "-d", "postgres", "-At"],
        [&format!("create table orders (id int); {WHERE}"), "insert into orders values (1)"],
        &["-c", "insert into orders values (2)", "-c", WHERE],
        || {
            old.wait_for_replicas();
            new.promote();
            old.demote();
        },
    );
    assert_eq!(before.as_deref(), Some("127.0.0.41|f"));
    // Without the reset it would be told that the transaction is read-only.
    assert_eq!(ended.0, Some(2), "the connection was lost: {}", ended.1);
    assert!(!ended.1.contains("read-only"), "{}", ended.1);
    assert_eq!(again, "INSERT 0 1 127.0.0.42|f");
}

/// Which server it is, and what it has.
const ORDERS: &str = "select @@bind_address, group_concat(id order by id) from shop.orders";

#[test]
fn a_failover_of_mariadb_moves_what_was_open_to_the_old_primary() {
    let Some(kitchen) = Kitchen::new("cookmariafail", "Failover with drain") else { return };
    let [old, new] = [41, 42]
        .map(|last| MariaDb::start(&kitchen.netns, SocketAddr::from(([127, 0, 0, last], 3306))));
    new.follow(&old);
    let documents = kitchen.documents().replace("5432", "3306");
    kitchen.redirector.write("recipe.yaml", &documents);
    let _daemon = kitchen.redirector.start();
    let begin = "create database shop; create table shop.orders (id int)";
    let (before, ended, again) = failover(
        &kitchen,
        &documents,
        &["mariadb", "--no-defaults", "--skip-reconnect", "-h", "127.96.0.41", "-NBn"],
        [
            &format!("{begin}; insert into shop.orders values (1); {ORDERS}"),
            "insert into shop.orders values (2)",
        ],
        &["-e", &format!("insert into shop.orders values (3); {ORDERS}")],
        || {
            new.wait(ORDERS, "127.0.0.42\t1");
            assert!(new.ask("stop slave").is_some());
            assert!(old.ask("set global read_only = 1").is_some());
        },
    );
    assert_eq!(before.as_deref(), Some("127.0.0.41\t1"));
    assert_eq!(ended.0, Some(1), "{}", ended.1);
    // 2006 or 2013: the connection is gone. That it is read-only would be 1290.
    assert!(ended.1.contains("ERROR 20"), "{}", ended.1);
    assert_eq!(again, "127.0.0.42\t1,3");
    assert_eq!(old.ask(ORDERS).as_deref(), Some("127.0.0.41\t1"), "nothing was written to it");
}
