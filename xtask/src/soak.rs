//! `cargo xtask soak`: the long forms of tests, for as long as they are told, and
//! the figures that they print.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::setup::{self, Purpose};
use crate::test::build::{self, Build};
use crate::test::edits::EDITS;
use crate::test::layers::OF_IMAGE;
use crate::test::libtest::Binary;
use crate::workspace::cargo;

/// Options of `cargo xtask soak`.
#[derive(clap::Args)]
pub struct Args {
    /// The parts to run, in the order given [default: all]
    parts: Vec<String>,
    /// How long all of them take together, but for building; each has a share of
    /// it, ends the round that it is in, and does no less than it promises
    #[arg(long, value_name = "MINUTES", default_value_t = 30)]
    minutes: u64,
}

/// A part: tests that are kept up.
struct Part {
    name: &'static str,
    what: &'static str,
    package: &'static str,
    target: &'static str,
    how: How,
    /// For the test binary.
    arguments: &'static [&'static str],
}

/// The variable by which a test knows that it soaks, and for how many seconds.
const SECONDS: &str = "REDIRECTOR_SOAK_SECONDS";

enum How {
    /// It goes on by itself for as long as [`SECONDS`] says.
    Itself,
    /// It is run again and again, with another seed each time.
    Again,
    /// Likewise, with this many more of what it does, beginning where the run
    /// before has ended.
    Counted { count: (&'static str, u64), seed: &'static str },
}

/// The test of the streams themselves.
const RELAY: &str = "relay::whatever_is_urgent_";

const PARTS: [Part; 14] = [
    Part {
        name: "changes",
        what: "200 changes a second of 1,000 rules at once, under 20,000 connections a second",
        package: "redirector-tests",
        target: "kernel",
        how: How::Itself,
        arguments: &["changes::"],
    },
    Part {
        name: "upgrade",
        what: "50 upgrades to another layout, and as many downgrades, kills and drifts, under load",
        package: "redirector-tests",
        target: "kernel",
        how: How::Itself,
        arguments: &["upgrade::"],
    },
    Part {
        name: "life",
        what: "kills, restarts, other sizes, drift, successors and churn under load",
        package: "redirector-tests",
        target: "kernel",
        how: How::Itself,
        arguments: &["life::"],
    },
    Part {
        name: "pods",
        what: "200 pods a minute, against the tests' API server",
        package: "redirector-tests",
        target: "kernel",
        how: How::Itself,
        arguments: &["kubernetes::", "--skip", OF_IMAGE],
    },
    Part {
        name: "crash",
        what: "a daemon dies at each point of a change, and versions come and go",
        package: "redirector-tests",
        target: "kernel",
        how: How::Again,
        arguments: &["crash::"],
    },
    Part {
        name: "faults",
        what: "each system call of a change and of a successor fails, or the daemon dies at it",
        package: "redirector-tests",
        target: "kernel",
        how: How::Itself,
        arguments: &["faults::"],
    },
    Part {
        name: "grow",
        what: "tables grow under load",
        package: "redirector-tests",
        target: "kernel",
        how: How::Again,
        arguments: &["grow::"],
    },
    Part {
        name: "decide",
        what: "the kernel's decisions against the host's, and 4,000 changes under load",
        package: "redirector-tests",
        target: "kernel",
        how: How::Again,
        arguments: &["decide::"],
    },
    Part {
        name: "policies",
        what: "load balancing, limits and outlier detection",
        package: "redirector-tests",
        target: "kernel",
        how: How::Again,
        arguments: &["policies::"],
    },
    Part {
        name: "flows",
        what: "flows against what the clients saw",
        package: "redirector-tests",
        target: "kernel",
        how: How::Again,
        arguments: &["flows::"],
    },
    Part {
        name: "gateway",
        what: "the proxy under all that clients and backends do, 50 reloads a second",
        package: "redirector-user",
        target: "proxy",
        how: How::Itself,
        // Thousands of connections need all the descriptors that there are.
        arguments: &["--test-threads=1", "--skip", RELAY],
    },
    Part {
        name: "relay",
        what: "100,000 connections through the proxy, with portions, urgent marks, half closes \
               and resets by chance: each byte",
        package: "redirector-user",
        target: "proxy",
        how: How::Itself,
        arguments: &[RELAY],
    },
    Part {
        name: "worlds",
        what: "20,000 worlds: tables, gateways and explain against the reference router, and \
               check's refusals against explain's",
        package: "redirector-core",
        target: "core",
        how: How::Counted { count: ("REDIRECTOR_WORLDS", 20_000), seed: "REDIRECTOR_SEED" },
        arguments: &["reference_worlds::", "refusals::"],
    },
    Part {
        name: "edits",
        what: "100,000 edits: what is computed step by step against the whole",
        package: "redirector-core",
        target: "core",
        how: How::Counted { count: ("REDIRECTOR_EDITS", 100_000), seed: "REDIRECTOR_SEED" },
        arguments: &[EDITS],
    },
];

/// `cargo xtask soak [PART...]`.
pub fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(Purpose::Test)?;
    let known = |name: &String| PARTS.iter().any(|part| part.name == name);
    if let Some(unknown) = args.parts.iter().find(|name| !known(name)) {
        let names: Vec<&str> = PARTS.iter().map(|part| part.name).collect();
        bail!("there is no part `{unknown}`; there are: {}", names.join(", "));
    }
    let chosen: Vec<&Part> = PARTS
        .iter()
        .filter(|part| args.parts.is_empty() || args.parts.iter().any(|name| name == part.name))
        .collect();
    let each = Duration::from_secs(args.minutes * 60) / u32::try_from(chosen.len().max(1))?;
    let binaries = build(&chosen)?;
    let mut failures = Vec::new();
    for part in &chosen {
        println!("==> {}: {}, {} s", part.name, part.what, each.as_secs());
        let binary = binaries.test(part.target)?;
        let begun = Instant::now();
        let (runs, failed) = keep_up(part, binary, each)?;
        let verdict = if failed { "FAILED" } else { "nothing found" };
        println!("{}: {runs} runs in {} s, {verdict}", part.name, begun.elapsed().as_secs());
        if failed {
            failures.push(part.name);
        }
    }
    match failures.as_slice() {
        [] => println!("{} parts, none failed", chosen.len()),
        failed => println!("{} parts, failed: {}", chosen.len(), failed.join(", ")),
    }
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds what those parts need, optimised but without the long linking of a
/// release, which each of the test binaries would have to itself.
fn build(parts: &[&Part]) -> Result<Build> {
    let mut build = cargo();
    build.args(["test", "--profile", "soak"]);
    let targets: BTreeSet<_> = parts.iter().map(|part| (part.package, part.target)).collect();
    for (package, target) in targets {
        build.args(["--package", package, "--test", target]);
    }
    build::tests(&mut build)
}

/// Runs a part until its time is over or it fails.
fn keep_up(part: &Part, binary: &Binary, time: Duration) -> Result<(u64, bool)> {
    let begun = Instant::now();
    let mut runs = 0;
    loop {
        let mut command = binary.command();
        command.arg("--nocapture").arg("--include-ignored").args(part.arguments);
        command.env("REDIRECTOR_TESTS", "kernel").env(SECONDS, time.as_secs().to_string());
        match &part.how {
            How::Itself | How::Again => {}
            How::Counted { count: (variable, count), seed } => {
                command.env(variable, count.to_string());
                command.env(seed, (runs * count).to_string());
            }
        }
        runs += 1;
        if !tell(&mut command)? {
            return Ok((runs, true));
        }
        if matches!(part.how, How::Itself) || begun.elapsed() >= time {
            return Ok((runs, false));
        }
    }
}

/// Runs a test binary and shows the figures that it prints, and all of it when it
/// fails.
fn tell(command: &mut Command) -> Result<bool> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    child = child.env("RUST_BACKTRACE", "0");
    let mut child = child.spawn().context("the test binary starts")?;
    let mut said = Vec::new();
    if let Some(errors) = child.stderr.take() {
        for line in BufReader::new(errors).lines().map_while(Result::ok) {
            if let Some(figure) = line.strip_prefix("figure: ") {
                println!("    {figure}");
            }
            said.push(line);
        }
    }
    let good = child.wait()?.success();
    if !good {
        println!("{}", said.join("\n"));
    }
    Ok(good)
}
