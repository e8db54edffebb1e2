//! `cargo xtask demo`: plays the reference document, section by section,
//! against the running kernel.
//!
//! Everything happens in a corner of the machine that is the demo's own (see
//! [`stage`]) and is removed at the end, also after a failure or Ctrl-C.

pub mod daemon;
mod report;
mod sections;
pub mod stage;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command;
use crate::play::Tally;
use crate::setup::{self, Purpose};
use crate::test::libtest::{Case, Outcome};
use crate::workspace::{cargo, is_root, root, target};
use daemon::{Daemon, Redirector};
use sections::{
    CLIENTS, ECHO_SERVER, ECHO_SERVER_2, Expect, GATEWAY_ADDRESSES, Row, SECTIONS, SERVERS, Section,
};
use stage::Stage;

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub struct Args {
    /// Stays up at the end with the sample configuration, until Ctrl-C
    #[arg(long)]
    pub keep: bool,
    /// Attaches at the root of the cgroup hierarchy, which affects all
    /// processes of this machine: for virtual machines
    #[arg(long)]
    pub attach_to_root: bool,
    /// This program instead of building one
    #[arg(long, value_name = "FILE")]
    pub redirector: Option<PathBuf>,
    /// Where the sample configuration is
    #[arg(long, value_name = "DIR", hide = true)]
    pub documents: Option<PathBuf>,
    /// How many connections show a split
    #[arg(long, value_name = "N", default_value_t = CONNECTIONS)]
    pub connections: u32,
}

/// How many connections show a split, unless told otherwise.
const CONNECTIONS: u32 = 2000;

impl Default for Args {
    fn default() -> Self {
        Self {
            keep: false,
            attach_to_root: false,
            redirector: None,
            documents: None,
            connections: CONNECTIONS,
        }
    }
}

impl Args {
    /// With a program that is built already.
    pub fn of_program(program: &Path) -> Self {
        Self { redirector: Some(program.to_owned()), ..Self::default() }
    }
}

/// Whether somebody wants this to end.
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    fn install() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
        }
        Ok(Self(flag))
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error when somebody wants this to end.
    pub fn check(&self) -> Result<()> {
        if self.is_set() {
            bail!("interrupted");
        }
        Ok(())
    }
}

/// `cargo xtask demo`.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut cases = Vec::new();
    play(args, &mut |case| {
        cases.push(case);
        Ok(())
    })?;
    println!();
    let mut wrong = 0;
    for case in &cases {
        if let Outcome::Failed(why) = &case.outcome {
            println!("WRONG  {}\n{why}", case.name);
            wrong += 1;
        }
    }
    if wrong > 0 {
        return Ok(ExitCode::FAILURE);
    }
    println!("all {} answers were right, and nothing was left behind", cases.len() - 1);
    print!("{}", report::what_next(&built()));
    Ok(ExitCode::SUCCESS)
}

/// Plays all of it; what is right and wrong is printed and told: every row is a test.
pub fn play(args: &Args, tell: &mut dyn FnMut(Case) -> Result<()>) -> Result<()> {
    if !is_root() {
        bail!(
            "loading BPF programs needs root: try `sudo -E cargo xtask demo`, or, to see it \
             without root and without touching this kernel, `cargo xtask vm`"
        );
    }
    let program = match &args.redirector {
        Some(program) => program
            .canonicalize()
            .with_context(|| format!("there is no program {}", program.display()))?,
        None => {
            setup::ensure(Purpose::Demo)?;
            build()?
        }
    };
    let documents = args.documents.clone().unwrap_or_else(|| root().join("deploy"));
    let interrupt = Interrupt::install()?;
    let servers = SERVERS.iter().filter_map(|server| server.endpoint.split(':').next());
    let addresses: Vec<_> = servers.chain(GATEWAY_ADDRESSES.iter().copied()).collect();
    let stage = Stage::set(&addresses)?;
    // From here on nothing may leave without striking the stage, which its
    // Drop does.
    let redirector = Redirector::new(program, &stage);
    let connections = args.connections;
    let demo = Demo { redirector, stage, documents, interrupt, connections };
    let played = demo.play(args, tell);
    let begun = Instant::now();
    let left = demo.end();
    played?;
    let outcome = if left.is_empty() { Outcome::Passed } else { Outcome::Failed(left.join("\n")) };
    tell(Case::since(begun, "nothing is left behind", outcome))
}

/// Builds the daemon; gives back the program's path.
fn build() -> Result<PathBuf> {
    println!("building the daemon and its BPF programs");
    // Not by its package: with the features that all of the workspace has together,
    // what is compiled for the demo is there for the tests.
    command::run(cargo().args(["build", "--bin", "redirector"]))?;
    Ok(built())
}

/// Where cargo puts the program.
fn built() -> PathBuf {
    target().join("debug/redirector")
}

struct Demo {
    redirector: Redirector,
    stage: Stage,
    documents: PathBuf,
    interrupt: Interrupt,
    connections: u32,
}

impl Demo {
    fn play(&self, args: &Args, tell: &mut dyn FnMut(Case) -> Result<()>) -> Result<()> {
        for server in SERVERS {
            self.serve(server)?;
        }
        for client in CLIENTS {
            self.stage.make_cgroup(client)?;
        }
        for file in ["services.yaml", "echo-servers.yaml", "clients.yaml"] {
            self.put(&self.documents.join("examples").join(file), file)?;
        }
        let mut daemon: Option<Daemon> = None;
        for (number, section) in SECTIONS.iter().enumerate() {
            self.interrupt.check()?;
            print!("{}", report::heading(number + 1, section));
            self.show_check(section)?;
            self.apply(section)?;
            let running = match &mut daemon {
                Some(running) => running,
                none => none.insert(self.start(args)?),
            };
            running.wait_until_in_force(
                &self.redirector,
                &self.stage,
                section.rows,
                &self.interrupt,
            )?;
            for row in section.rows {
                self.interrupt.check()?;
                self.wait_for_gateway(row)?;
                let begun = Instant::now();
                let (text, name, outcome) = self.try_row(section, row)?;
                print!("{text}");
                tell(Case::since(begun, name, outcome))?;
            }
            let begun = Instant::now();
            let (text, outcome) = self.try_everybody()?;
            print!("{text}");
            tell(Case::since(begun, format!("{}: all clients", section.title), outcome))?;
        }
        let begun = Instant::now();
        let (text, outcome) = self.redirector.test(&self.documents.join("demo"))?;
        print!("{}", report::routing_tests(SECTIONS.len() + 1, &text));
        tell(Case::since(begun, "routing tests".to_owned(), outcome))?;
        if args.keep {
            self.keep()?;
        }
        drop(daemon);
        self.redirector.unload()
    }

    fn start(&self, args: &Args) -> Result<Daemon> {
        let attach_to = (!args.attach_to_root).then_some(self.stage.cgroup.as_path());
        self.redirector.start(&self.stage, attach_to)
    }

    /// Removes the stage; gives back what was left.
    fn end(self) -> Vec<String> {
        let mut left = Vec::new();
        for pin in self.stage.bpffs().read_dir().into_iter().flatten().flatten() {
            // The kernel itself puts maps.debug and progs.debug into a bpffs.
            if !pin.file_name().to_string_lossy().ends_with(".debug") {
                left.push(format!("`redirector unload` has left {}", pin.path().display()));
            }
        }
        left.extend(self.stage.strike());
        left
    }

    /// Starts an echo server and waits until it listens.
    fn serve(&self, server: &sections::Server) -> Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["play", "echo", "--listen", server.endpoint, "--greeting", server.greeting])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        self.stage.place(&mut command, "servers")?;
        let mut child = command.spawn().context("cannot start an echo server")?;
        wait_for_line(&mut child)
            .with_context(|| format!("the echo server at {} did not start", server.endpoint))
        // It ends with the stage, whose cgroup it is in.
    }

    /// Makes the section's files the configuration.
    fn apply(&self, section: &Section) -> Result<()> {
        let canary = "echo-server-gray.yaml";
        if section.canary {
            self.put(&self.documents.join("examples").join(canary), canary)?;
        }
        self.put(&self.documents.join("demo").join(section.rules), "rules.yaml")
    }

    /// Copies a document into the daemon's directory, in one step. The sample's
    /// cgroups become those of this demo.
    fn put(&self, from: &Path, name: &str) -> Result<()> {
        let text = std::fs::read_to_string(from)
            .with_context(|| format!("cannot read {}", from.display()))?
            .replace("redirector-demo/", &format!("{}/", self.stage.name));
        // Half-written files are the daemon's problem; this one need not be.
        let unfinished = self.stage.directory.join("unfinished");
        std::fs::write(&unfinished, text)?;
        std::fs::rename(&unfinished, self.stage.config().join(name))?;
        Ok(())
    }

    fn show_check(&self, section: &Section) -> Result<()> {
        let Some(file) = section.check else { return Ok(()) };
        let files = [
            &format!("demo/{file}"),
            "examples/services.yaml",
            "examples/echo-servers.yaml",
            "examples/echo-server-gray.yaml",
        ];
        let text = self.redirector.check(&self.documents, &files)?;
        print!("{}", report::check(file, &text));
        Ok(())
    }

    fn try_row(&self, section: &Section, row: &Row) -> Result<(String, String, Outcome)> {
        let count = match row.expect {
            Expect::Greeting(_) | Expect::Explained => 1,
            Expect::Split(_) => self.connections,
        };
        let tally = self.dial(row, count)?;
        let explanation = self.redirector.explain(&self.stage, row)?;
        Ok(report::row(section, row, &tally, &explanation, &self.stage.config()))
    }

    /// Lets every client dial every service: what comes back is what the kernel's
    /// tables are explained to give it.
    fn try_everybody(&self) -> Result<(String, Outcome)> {
        let mut wrong = Vec::new();
        for from in CLIENTS {
            for to in [ECHO_SERVER, ECHO_SERVER_2] {
                self.interrupt.check()?;
                let row = Row { from, to, gateway: None, expect: Expect::Explained };
                let tally = self.dial(&row, 20)?;
                let why = self.redirector.explain(&self.stage, &row)?;
                let mut here = Vec::new();
                report::disagreements(&tally, &why, &mut here);
                wrong.extend(here.into_iter().map(|what| format!("{from} dials {to}: {what}")));
            }
        }
        Ok(report::everybody(&wrong))
    }

    /// Waits until the gateway of a row listens, if it is one.
    fn wait_for_gateway(&self, row: &Row) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while row.gateway.is_some() && !self.dial(row, 1)?.errors.is_empty() {
            self.interrupt.check()?;
            if Instant::now() > deadline {
                bail!("the gateway at {} does not listen", row.to);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Lets a client of the row's workload connect.
    fn dial(&self, row: &Row, count: u32) -> Result<Tally> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["play", "client", "--to", row.to, "--count", &count.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit());
        self.stage.place(&mut command, row.from)?;
        let output = command.output().context("cannot start a client")?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("a client ended with {}", output.status))
    }

    /// Stays up with the sample configuration and says what to try.
    fn keep(&self) -> Result<()> {
        self.put(&self.documents.join("examples/rules.yaml"), "rules.yaml")?;
        print!("{}", report::things_to_try(&self.stage, &self.redirector));
        while !self.interrupt.is_set() {
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

fn wait_for_line(child: &mut Child) -> Result<()> {
    let output = child.stdout.take().context("no output")?;
    let mut line = String::new();
    if BufReader::new(output).read_line(&mut line)? == 0 {
        bail!("it ended: {}", child.wait()?);
    }
    Ok(())
}
