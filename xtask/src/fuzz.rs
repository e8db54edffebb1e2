//! `cargo xtask fuzz`: coverage-guided fuzzing of everything that reads what
//! people, clients, the API server and other processes say, and of what is written on disk.
//!
//! libFuzzer, built from its crate, with the instrumentation that a stable
//! compiler has: no nightly is needed. Inputs that broke something are kept
//! below the target directory and are tried first the next time.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};

use crate::command;
use crate::setup::{self, Purpose};
use crate::test::Selection;
use crate::test::libtest::{Case, Outcome, tail};
use crate::test::table::Layer;
use crate::workspace::{cargo, root, target};

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub struct Args {
    /// The targets to run, in the order given [default: all]
    targets: Vec<String>,
    /// How long each target runs, in seconds
    #[arg(long, default_value_t = 600)]
    seconds: u64,
}

/// The package of the targets.
const PACKAGE: &str = "redirector-fuzz";

/// Its directories with a file for each: those of the core, and those that need the daemon
/// built for them, which its feature of that name asks for.
const CORE: &str = "targets";
const DAEMON: &str = "daemon";

/// The cargo profile: see the workspace's Cargo.toml.
const PROFILE: &str = "fuzz";

/// Explicit, so that build scripts and procedural macros stay uninstrumented.
const TRIPLE: &str = env!("XTASK_HOST");

/// What libFuzzer asks of the compiler.
const INSTRUMENTATION: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    --cfg fuzzing";

/// An input that takes longer than this, in seconds, is a finding.
const SLOW: u32 = 10;
/// Inputs longer than this, in bytes, are not tried.
const LONGEST: u32 = 16 * 1024;

/// `cargo xtask fuzz [TARGET...]`.
pub fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(Purpose::Test)?;
    let all = targets(&[CORE, DAEMON])?;
    if let Some(unknown) = args.targets.iter().find(|name| !all.contains(name)) {
        bail!("there is no fuzz target `{unknown}`; there are: {}", all.join(", "));
    }
    let chosen = if args.targets.is_empty() { all } else { args.targets.clone() };
    build(&["--features", DAEMON])?;
    let mut good = true;
    for name in chosen {
        println!("==> {name}, {} s", args.seconds);
        let case = fuzz(&name, args.seconds)?;
        match &case.outcome {
            Outcome::Failed(why) => {
                good = false;
                println!("{why}");
            }
            _ => println!("{}: nothing found", case.name),
        }
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All targets of the core, for `seconds` each, as a layer of tests.
pub fn layer(selection: &Selection, seconds: u64, layer: &mut Layer) -> Result<()> {
    build(&[])?;
    let names = targets(&[CORE])?;
    // Side by side: each of them is busy on one processor.
    thread::scope(|scope| {
        let wanted = names.iter().filter(|name| selection.has(name));
        let running: Vec<_> = wanted.map(|name| scope.spawn(|| fuzz(name, seconds))).collect();
        for fuzzer in running {
            layer.single(fuzzer.join().map_err(|_| anyhow!("a fuzzer's thread panicked"))??);
        }
        Ok(())
    })
}

/// The names of all targets of these directories, sorted.
fn targets(directories: &[&str]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for directory in directories {
        let dir = root().join("tests/fuzz").join(directory);
        for entry in dir.read_dir().with_context(|| format!("cannot list {}", dir.display()))? {
            let file = entry?.path();
            if file.extension().is_some_and(|extension| extension == "rs")
                && let Some(name) = file.file_stem()
            {
                names.push(name.to_string_lossy().into_owned());
            }
        }
    }
    names.sort();
    Ok(names)
}

fn build_dir() -> PathBuf {
    target().join("fuzz")
}

fn build(features: &[&str]) -> Result<()> {
    command::run(
        cargo()
            .args(["build", "--profile", PROFILE, "--package", PACKAGE, "--target", TRIPLE])
            .arg("--target-dir")
            .arg(build_dir())
            .args(features)
            .env("RUSTFLAGS", INSTRUMENTATION)
            .env_remove("CARGO_ENCODED_RUSTFLAGS"),
    )
}

fn fuzz(name: &str, seconds: u64) -> Result<Case> {
    let started = Instant::now();
    let home = build_dir().join("work").join(name);
    let corpus = home.join("corpus");
    let findings = home.join("findings");
    for dir in [&corpus, &findings] {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let mut fuzzer = Command::new(build_dir().join(TRIPLE).join(PROFILE).join(name));
    fuzzer
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={SLOW}"))
        .arg(format!("-max_len={LONGEST}"))
        .arg("-rss_limit_mb=2048")
        .arg("-print_final_stats=1")
        .arg(format!("-artifact_prefix={}/", findings.display()))
        .arg(&corpus)
        .args(seeds(name))
        .arg(&findings);
    let output = command::output(&mut fuzzer)?;
    let log = String::from_utf8_lossy(&output.stderr);
    let runs = figure(&log, "stat::number_of_executed_units:").unwrap_or(0);
    let outcome = if !output.status.success() {
        Outcome::Failed(format!(
            "{name} found something; the input lies in {}\n{}",
            findings.display(),
            tail(&log, 60)
        ))
    } else if runs == 0 {
        Outcome::Failed(format!("{name} ran not one input:\n{}", tail(&log, 60)))
    } else {
        Outcome::Passed
    };
    Ok(Case::since(started, format!("{name}, {runs} inputs"), outcome))
}

/// Where good inputs to start from are: for those targets that read text.
fn seeds(name: &str) -> impl Iterator<Item = PathBuf> {
    let dirs: &[&str] = match name {
        "compile" | "documents" => &["tests/conformance/documents", "deploy/examples"],
        "objects" => &["tests/transcripts"],
        _ => &[],
    };
    dirs.iter().map(|dir| root().join(dir)).filter(|dir: &PathBuf| Path::is_dir(dir))
}

/// The number that follows a label in libFuzzer's closing lines.
fn figure(log: &str, label: &str) -> Option<u64> {
    log.lines().find_map(|line| line.strip_prefix(label)?.trim().parse().ok())
}
