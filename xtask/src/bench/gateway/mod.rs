//! `cargo xtask bench gateway`: the gateway proxy beside direct connections and
//! its peers.
//!
//! All processes run on one processor, in a network namespace of their own.
//! The rounds are many and short: direct, half of the subjects, direct, the
//! others, direct; in each round another subject comes first. What is reported
//! is the ratio to the direct ones of the same round, as the median of all
//! rounds with the bounds of the middle half, and beside it the same of direct
//! against itself: how far a figure can be trusted.

mod goals;
mod load;
mod plot;
mod report;
mod server;
mod stage;
mod subjects;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use load::{Kind, Load, Outcome};
use report::{Cell, Report};
use stage::{Running, Stage};
use subjects::{SERVER, Subject, release, sink_of};

use super::machine;
use crate::command;
use crate::workspace::is_root;

/// Options of `cargo xtask bench gateway`.
#[derive(clap::Args)]
pub struct Args {
    /// How many rounds
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    /// How long each measurement takes, in milliseconds
    #[arg(long, default_value_t = 250)]
    milliseconds: u64,
    /// Which subjects, separated by commas; all when not given
    #[arg(long, value_delimiter = ',')]
    only: Vec<Subject>,
    /// Beside another version: a program that `cargo build --release --package redirector-user
    /// --example gateway` has made in its checkout
    #[arg(long, value_name = "PROGRAM", conflicts_with = "write")]
    against: Option<PathBuf>,
    /// Which workloads, by the beginnings of their names; all when not given
    #[arg(long, value_delimiter = ',')]
    load: Vec<String>,
    /// The processor that everything runs on; the last when not given
    #[arg(long)]
    cpu: Option<usize>,
    /// How many idle connections the memory is measured with; 0 leaves it out
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
    /// Puts the table into docs/performance.md and the plot beside it
    #[arg(long)]
    write: bool,
}

/// The parts that run in processes of their own.
#[derive(clap::Subcommand)]
pub enum Part {
    /// The server behind the gateways
    Server,
    /// A client that applies a load
    Load {
        /// Where to
        to: SocketAddr,
        #[command(flatten)]
        load: Load,
        /// How long
        #[arg(long)]
        milliseconds: u64,
    },
    /// A client that holds idle connections
    Hold {
        /// Where to
        to: SocketAddr,
        /// How many
        count: usize,
    },
    /// Succeeds when something accepts there
    Probe {
        /// Where
        at: SocketAddr,
    },
}

/// The workloads, and what they are called.
const LOADS: [(&str, Load); 8] = [
    ("CRR, 1 at a time", Load { kind: Kind::Crr, streams: 1, size: 1 }),
    ("CRR, 16 at a time", Load { kind: Kind::Crr, streams: 16, size: 1 }),
    ("RR 64 B", Load { kind: Kind::Rr, streams: 1, size: 64 }),
    ("RR 4 KiB", Load { kind: Kind::Rr, streams: 1, size: 4 << 10 }),
    ("bulk 4 KiB, 1 stream", Load { kind: Kind::Bulk, streams: 1, size: 4 << 10 }),
    ("bulk 4 KiB, 8 streams", Load { kind: Kind::Bulk, streams: 8, size: 4 << 10 }),
    ("bulk 64 KiB, 1 stream", Load { kind: Kind::Bulk, streams: 1, size: 64 << 10 }),
    ("bulk 64 KiB, 8 streams", Load { kind: Kind::Bulk, streams: 8, size: 64 << 10 }),
];

/// Plays a part.
pub fn part(part: &Part) -> Result<ExitCode> {
    match *part {
        Part::Server => match server::run(SERVER, sink_of(SERVER))? {},
        Part::Load { to, load, milliseconds } => {
            let outcome = load::run(load, to, Duration::from_millis(milliseconds))?;
            println!("{}", serde_json::to_string(&outcome)?);
        }
        Part::Hold { to, count } => load::hold(to, count)?,
        Part::Probe { at } if !subjects::accepts(at) => return Ok(ExitCode::FAILURE),
        Part::Probe { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Measures.
pub fn run(args: &Args) -> Result<ExitCode> {
    if !is_root() {
        bail!("network namespaces need root");
    }
    let mut subjects = if args.only.is_empty() { Subject::ALL.to_vec() } else { args.only.clone() };
    subjects::prepare(&subjects)?;
    if let Some(program) = &args.against {
        subjects::put_against(program)?;
        subjects.push(Subject::Against);
    }
    let cpu = match args.cpu {
        Some(cpu) => cpu,
        None => std::thread::available_parallelism()?.get() - 1,
    };
    let stage = Stage::set(cpu)?;
    let server = stage.start(Command::new(release("xtask")).args(["bench", "part", "server"]))?;
    let running =
        subjects.iter().map(|subject| subject.start(&stage)).collect::<Result<Vec<_>>>()?;
    let mut report = Report::new(&subjects);
    let wanted = |name: &str| {
        args.load.is_empty() || args.load.iter().any(|begin| name.starts_with(begin.as_str()))
    };
    for (name, load) in LOADS.iter().filter(|(name, _)| wanted(name)) {
        let measure = |at: SocketAddr, subject: Option<&Running>| {
            let at = if load.kind == Kind::Bulk { sink_of(at) } else { at };
            measure(&stage, at, *load, args.milliseconds, &server, subject)
        };
        for round in 0..args.rounds {
            let first = measure(SERVER, None)?;
            let mut middle = first;
            let mut cells = vec![first; subjects.len()];
            for turn in 0..subjects.len() {
                if turn == subjects.len() / 2 {
                    middle = measure(SERVER, None)?;
                }
                let place = (turn + round) % subjects.len();
                let subject = subjects[place];
                cells[place] = measure(subject.address(), Some(&running[place]))
                    .with_context(|| format!("{name} through {}", subject.name()))?;
            }
            let last = measure(SERVER, None)?;
            report.add(name, *load, [first, middle, last], &cells);
            eprint!("\r{name}: round {} of {}   ", round + 1, args.rounds);
        }
        eprintln!();
        println!("{}", report.text_of(name));
    }
    drop(running);
    // Should something go wrong with the memory, this is kept.
    if args.write {
        report.write(&made_by(args, &subjects, cpu))?;
    }
    if args.idle > 0 {
        for subject in &subjects {
            let memory = idle_memory(&stage, *subject, args.idle)?;
            eprintln!("{} idle through {}: {:.0} B each", memory.0, subject.name(), memory.1);
            report.memory(*subject, memory);
        }
    }
    println!("{}\n\n{}", report.goals(), report.markdown());
    if args.write {
        report.write(&made_by(args, &subjects, cpu))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// How the figures came about: the command, the machine, the subjects.
fn made_by(args: &Args, subjects: &[Subject], cpu: usize) -> String {
    let versions: Vec<_> = subjects.iter().filter_map(|subject| subject.version()).collect();
    format!(
        "{}, everything on processor {cpu} over \
         loopback in a network namespace of its own, one worker and a session each. {} rounds \
         of {} ms for each measurement. Every figure is a ratio to a direct connection in the same round: the \
         median, and in brackets what the middle half of the rounds lies between; those of \
         \u{201c}direct, against itself\u{201d} say how steady the machine was. Beside ours: {}.",
        machine::made_by(),
        args.rounds,
        args.milliseconds,
        versions.join(", ")
    )
}

/// Applies a load once.
fn measure(
    stage: &Stage,
    at: SocketAddr,
    load: Load,
    milliseconds: u64,
    server: &Running,
    subject: Option<&Running>,
) -> Result<Cell> {
    let kind = match load.kind {
        Kind::Crr => "crr",
        Kind::Rr => "rr",
        Kind::Bulk => "bulk",
    };
    let mut command = Command::new(release("xtask"));
    command.args(["bench", "part", "load", &at.to_string(), "--kind", kind]);
    command.args(["--streams", &load.streams.to_string(), "--size", &load.size.to_string()]);
    command.args(["--milliseconds", &milliseconds.to_string()]);
    stage.place(&mut command);
    let times = || {
        let subject = subject.map(Running::processor_time).unwrap_or_default();
        server.processor_time() + subject
    };
    let before = times();
    let outcome: Outcome = serde_json::from_str(&command::stdout(&mut command)?)?;
    let others = (times() - before).as_secs_f64();
    let work = if load.kind == Kind::Bulk { outcome.bytes } else { outcome.operations } as f64;
    Ok(Cell {
        rate: work / outcome.seconds,
        cpu: (outcome.cpu + others) / work,
        median: outcome.median,
    })
}

/// What one idle connection costs a subject in memory of its own, in bytes.
fn idle_memory(stage: &Stage, subject: Subject, count: usize) -> Result<(usize, f64)> {
    let running = subject.start(stage)?;
    // Two descriptors for each, in the subject, and some that peers set aside:
    // beyond its own limit HAProxy lets clients wait.
    let count = count.min(subjects::most_descriptors().saturating_sub(1_000) as usize / 2);
    let hold = |count: usize| {
        let mut command = Command::new(release("xtask"));
        command.args(["bench", "part", "hold", &subject.address().to_string()]);
        stage.start(command.arg(count.to_string()))
    };
    let _few = hold(50)?;
    let before = running.memory();
    let _many = hold(count).with_context(|| format!("idle connections of {}", subject.name()))?;
    let grown = running.memory().saturating_sub(before);
    Ok((count, grown as f64 / count as f64))
}
