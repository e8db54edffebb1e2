//! `cargo xtask bench connect`: what `connect()` costs through the programs,
//! beside direct connections and nftables.
//!
//! Client and server run on one processor, in a network namespace of their
//! own. In every round the subjects take turns between two direct
//! measurements, which are made while nothing is attached anywhere: a connect
//! program in any cgroup costs every process of the machine a little.

mod documents;
mod load;
mod report;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command;
use crate::demo::daemon::Redirector;
use crate::demo::stage::Stage;
use crate::setup::debian;
use crate::workspace::{cargo, is_root, target, which};
use documents::{CLIENT, FULL, MISS, PLAIN, PORT};
use load::Outcome;
use report::Report;

/// Options of `cargo xtask bench connect`.
#[derive(clap::Args)]
pub struct Args {
    /// How many rounds
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How many connections each measurement makes
    #[arg(long, default_value_t = 20_000)]
    count: usize,
    /// How many Services stand beside those that are dialled, in the rows that
    /// say so
    #[arg(long, default_value_t = 100_000)]
    many: u32,
    /// The processor that client and server run on; the last when not given
    #[arg(long)]
    cpu: Option<usize>,
    /// Puts the table into docs/performance.md
    #[arg(long)]
    write: bool,
}

/// The parts that run in processes of their own.
#[derive(clap::Subcommand)]
pub enum Part {
    /// A client
    Client {
        /// Where to
        to: SocketAddr,
        /// How many connections
        count: usize,
    },
    /// The server
    Server,
}

/// Plays a part.
pub fn part(part: &Part) -> Result<ExitCode> {
    match *part {
        Part::Client { to, count } => {
            println!("{}", serde_json::to_string(&load::client(to, count)?)?);
        }
        Part::Server => load::server(SocketAddr::from(([0, 0, 0, 0], PORT)))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What is in force while some rows are measured.
struct Setting {
    /// Services beside those that are dialled.
    more: u32,
    accounting: bool,
    /// Names of the rows, and what is dialled for them.
    rows: Vec<(String, SocketAddr)>,
}

/// Measures.
pub fn run(args: &Args) -> Result<ExitCode> {
    if !is_root() {
        bail!("attaching programs and network namespaces need root");
    }
    if which("nft").is_none() {
        debian::update()?;
        command::run(&mut debian::install(&["nftables"]))?;
    }
    command::run(cargo().args(["build", "--release", "--package", "redirector-user"]))?;
    command::run(cargo().args(["build", "--release", "--package", "xtask"]))?;
    let cpu = match args.cpu {
        Some(cpu) => cpu,
        None => std::thread::available_parallelism()?.get() - 1,
    };
    let bench = Bench::new(cpu, args.count)?;
    let many = args.many;
    let rows =
        |rows: &[(&str, SocketAddr)]| rows.iter().map(|(n, a)| ((*n).to_owned(), *a)).collect();
    let settings = [
        Setting {
            more: 10,
            accounting: false,
            rows: rows(&[("miss", MISS), ("hit, one endpoint", PLAIN), ("full hit", FULL)]),
        },
        Setting {
            more: 10,
            accounting: true,
            rows: rows(&[("miss, accounting", MISS), ("full hit, accounting", FULL)]),
        },
        Setting {
            more: many,
            accounting: false,
            rows: vec![
                (format!("miss, {many} frontends"), MISS),
                (format!("full hit, {many} frontends"), FULL),
            ],
        },
    ];
    let mut report = Report::default();
    for round in 0..args.rounds {
        for setting in &settings {
            let direct = bench.measure(MISS)?;
            report.direct(direct);
            for (name, outcome) in bench.under(setting)? {
                report.add(&name, direct, outcome);
            }
        }
        let direct = bench.measure(MISS)?;
        report.direct(direct);
        for services in [10, 10_000] {
            let name = format!("nftables map, {services} services");
            report.add(&name, direct, bench.nftables(services)?);
        }
        report.add("direct, against itself", direct, bench.measure(MISS)?);
        eprintln!("round {} of {}", round + 1, args.rounds);
    }
    println!("{}", report.markdown());
    if args.write {
        super::page::write(
            super::page::PERFORMANCE,
            "connect",
            "connect() through the programs",
            &report.markdown(),
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The corner that everything runs in.
struct Bench {
    // Before the stage: it has to end first.
    server: Child,
    stage: Stage,
    redirector: Redirector,
    cpu: usize,
    count: usize,
}

/// Kernel settings of the namespace: tens of thousands of short connections a
/// second must not run out of ports, nor fill a connection tracking table.
const SETTINGS: [&str; 4] = [
    "net.ipv4.ip_local_port_range=10000 65535",
    "net.ipv4.tcp_tw_reuse=1",
    "net.ipv4.tcp_max_tw_buckets=4096",
    "net.ipv4.tcp_timestamps=1",
];

fn release(name: &str) -> PathBuf {
    target().join("release").join(name)
}

impl Bench {
    fn new(cpu: usize, count: usize) -> Result<Self> {
        let stage = Stage::set(&[])?;
        for setting in SETTINGS {
            in_netns(&stage, &["sysctl", "-q", "-w", setting])?;
        }
        // nftables comes after routing: what is dialled needs a route.
        in_netns(&stage, &["ip", "route", "add", "default", "dev", "lo", "src", "127.0.0.1"])?;
        let mut server = pinned(cpu);
        server.args(["bench", "connect-part", "server"]).stdout(Stdio::piped());
        stage.place(&mut server, "server")?;
        let mut server = server.spawn().context("cannot start the server")?;
        let stdout = server.stdout.take().context("no output of the server")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let redirector = Redirector::new(release("redirector"), &stage);
        let bench = Self { server, stage, redirector, cpu, count };
        if line.trim() != "ready" {
            bail!("the server did not come up");
        }
        Ok(bench)
    }

    /// Measures what is in force now.
    fn measure(&self, to: SocketAddr) -> Result<Outcome> {
        let mut client = pinned(self.cpu);
        client.args(["bench", "connect-part", "client"]);
        client.args([to.to_string(), self.count.to_string()]);
        self.stage.place(&mut client, CLIENT)?;
        Ok(serde_json::from_str(&command::stdout(&mut client)?)?)
    }

    /// Measures rows with the daemon's programs attached. The daemon itself has
    /// ended by then: what is in force needs none.
    fn under(&self, setting: &Setting) -> Result<Vec<(String, Outcome)>> {
        self.stage.make_cgroup(CLIENT)?;
        let cgroup = format!("{}/{CLIENT}", self.stage.name);
        let config = self.stage.config();
        std::fs::remove_dir_all(&config)?;
        std::fs::create_dir(&config)?;
        for (number, text) in documents::files(&cgroup, setting.more).iter().enumerate() {
            std::fs::write(config.join(format!("bench-{number}.yaml")), text)?;
        }
        let mut daemon = self.redirector.command("run");
        daemon.arg("--config").arg(self.stage.config()).arg("--cgroup").arg(&self.stage.cgroup);
        daemon.args(["--metrics-address", "none", "--log-level", "warn"]).stdin(Stdio::null());
        if setting.accounting {
            daemon.arg("--accounting");
        }
        self.stage.place(&mut daemon, "daemon")?;
        let child = daemon.spawn().context("cannot start the daemon")?;
        let daemon = Ended(child);
        self.wait_until_in_force()?;
        drop(daemon);
        let rows = setting
            .rows
            .iter()
            .map(|(name, to)| {
                let outcome = self.measure(*to).with_context(|| format!("measuring {name}"))?;
                Ok((name.clone(), outcome))
            })
            .collect();
        self.redirector.unload()?;
        rows
    }

    fn wait_until_in_force(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let client = self.stage.cgroup.join(CLIENT);
        loop {
            let mut explain = self.redirector.command("explain");
            explain.arg("--from-cgroup").arg(&client).args(["--to", &FULL.to_string()]);
            let output = command::output(explain.args(["--output", "json"]))?;
            let found = serde_json::from_slice(&output.stdout).unwrap_or(serde_json::Value::Null);
            if !found["rule"].is_null() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the configuration did not come into force: {found}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Measures with nothing of ours attached and nftables instead, in the
    /// network namespace of the benchmark.
    fn nftables(&self, services: u32) -> Result<Outcome> {
        let file = self.stage.directory.join("bench.nft");
        std::fs::write(&file, documents::nftables(services))?;
        in_netns(&self.stage, &["nft", "-f", &file.display().to_string()])?;
        let timeouts = "net.netfilter.nf_conntrack_tcp_timeout_time_wait=1";
        in_netns(&self.stage, &["sysctl", "-q", "-w", timeouts])?;
        let outcome = self.measure(PLAIN);
        in_netns(&self.stage, &["nft", "flush", "ruleset"])?;
        outcome
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The daemon, told to end when it is dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // SAFETY: a signal to a child that has not been waited for yet, so its
        // id is not reused.
        unsafe { libc::kill(self.0.id().cast_signed(), libc::SIGTERM) };
        let _ = self.0.wait();
    }
}

/// This xtask, built for measuring, on that processor.
fn pinned(cpu: usize) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &cpu.to_string()]).arg(release("xtask"));
    command
}

fn in_netns(stage: &Stage, words: &[&str]) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &stage.name]).args(words);
    command::stdout(&mut command).map(drop)
}
