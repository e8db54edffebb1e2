//! `cargo xtask mutants`: whether the tests notice what is wrong.
//!
//! cargo-mutants changes one expression, builds, and runs the tests that are nearest: what
//! these do not notice has survived. It works in a copy of the checkout, below the target
//! directory, and builds with what is built already, so that no other cargo builds here
//! meanwhile. `.cargo/mutants.toml` leaves out what no test can notice, each with its reason.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::command;
use crate::setup::{self, Purpose};
use crate::workspace::{cargo, root, target};

/// Options of `cargo xtask mutants`.
#[derive(clap::Args)]
pub struct Args {
    /// The parts to try, in the order given [default: all]
    parts: Vec<String>,
    /// How long all of them take together; each has a share of it, and ends the shard that it
    /// is in
    #[arg(long, value_name = "MINUTES", default_value_t = 120)]
    minutes: u64,
    /// The shard to begin with, as where an earlier run has ended
    #[arg(long, value_name = "SHARD", default_value_t = 0)]
    from: usize,
}

/// A part of the code, and the tests that are run for it.
struct Part {
    name: &'static str,
    package: &'static str,
    /// Its files.
    files: &'static [&'static str],
    /// For `cargo test` of the package, one after the other: what one does not notice is tried
    /// with the next, so that only that is built for it.
    tests: &'static [&'static [&'static str]],
}

/// All of its tests take minutes otherwise.
const OPTIMISED: &str = "--config=profile.dev.package.redirector-core.opt-level=1";

const PARTS: [Part; 3] = [
    Part {
        name: "decide",
        package: "redirector-common",
        files: &["redirector-common/src/decide/**"],
        tests: &[&["--lib"]],
    },
    Part {
        name: "rules",
        package: "redirector-core",
        files: &["redirector-user/core/src/rules/**"],
        // Those that take seconds come last, for what all others do not notice.
        tests: &[
            &[
                "--test=core",
                "--",
                "--skip=edits::what_follows_edits",
                "--skip=flattening::",
                "--skip=hostile::",
                "--skip=layout::",
                "--skip=mistakes::a_condition_that",
                "--skip=newcomers::what_the_tables",
                "--skip=placement::",
                "--skip=reference_worlds::compiled",
                "--skip=refusals::a_share_is_said",
            ],
            &["--lib"],
            &[OPTIMISED, "--test=core"],
        ],
    },
    Part {
        name: "state",
        package: "redirector-user",
        files: &["redirector-user/src/state/**"],
        tests: &[
            &[
                "--lib",
                "state::",
                "--",
                "--skip=a_change_of_one_weight",
                "--skip=compaction::",
                "--skip=cut_off_anywhere",
                "--skip=damage_is_told",
                "--skip=every_kind_of_object",
            ],
            &["--lib"],
        ],
    },
];

/// About so many mutants are a shard: each begins with the tests of what is as it was.
const SHARD: usize = 16;

/// What cargo-mutants says of each mutant that it has tried.
#[derive(Deserialize)]
struct Outcomes {
    outcomes: Vec<Outcome>,
}

#[derive(Deserialize)]
struct Outcome {
    scenario: Scenario,
    summary: Summary,
    phase_results: Vec<Took>,
}

/// How long a part of it took.
#[derive(Deserialize)]
struct Took {
    phase: Phase,
    /// In seconds.
    duration: f64,
}

#[derive(Deserialize, PartialEq, Eq)]
enum Phase {
    Check,
    Build,
    Test,
}

#[derive(Deserialize)]
enum Scenario {
    Baseline,
    Mutant(Mutant),
}

#[derive(Deserialize)]
struct Mutant {
    name: String,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
enum Summary {
    /// A test failed.
    CaughtMutant,
    /// None did.
    MissedMutant,
    /// They did not end.
    Timeout,
    /// It does not compile.
    Unviable,
    /// Of what is as it was.
    Success,
    Failure,
}

/// `cargo xtask mutants [PART...]`.
pub fn run(args: &Args) -> Result<ExitCode> {
    let known = |name: &String| PARTS.iter().any(|part| part.name == name);
    if let Some(unknown) = args.parts.iter().find(|name| !known(name)) {
        let names = PARTS.map(|part| part.name).join(", ");
        bail!("there is no part `{unknown}`; there are: {names}");
    }
    setup::ensure(Purpose::Mutants)?;
    let home = target().join("mutants");
    let tree = copy(&home)?;
    let chosen = |part: &&Part| args.parts.is_empty() || args.parts.iter().any(|n| n == part.name);
    let chosen: Vec<&Part> = PARTS.iter().filter(chosen).collect();
    let each = Duration::from_secs(args.minutes * 60) / u32::try_from(chosen.len().max(1))?;
    let mut survived = 0;
    for part in chosen {
        survived += part.run(&home, &tree, each, args.from)?;
    }
    Ok(if survived == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Part {
    /// Tries shards from this one on until the time is over or all are tried, and what is not
    /// noticed in them with more tests; says how many mutants survived.
    fn run(&self, home: &Path, tree: &Path, time: Duration, from: usize) -> Result<usize> {
        let begun = Instant::now();
        let (all, wanted) = (self.count(tree, &["--no-config"])?, self.count(tree, &[])?);
        let shards = wanted.div_ceil(SHARD);
        println!("==> {}: {wanted} mutants in {shards} shards, {} s", self.name, time.as_secs());
        let (mut tried, mut next) = (Vec::new(), from);
        let (first, more) = self.tests.split_first().context("a part has tests")?;
        while next < shards && (next == from || begun.elapsed() < time) {
            let which = format!("{next}/{shards}");
            println!("shard {which} of {}", self.name);
            // Every so many-th of all, so that each is a sample.
            let options = ["--shard", &which, "--sharding", "round-robin"].map(str::to_owned);
            tried.extend(self.attempt(home, tree, &options, first)?);
            next += 1;
        }
        for tests in more {
            let (missed, noticed): (Vec<_>, Vec<_>) =
                tried.into_iter().partition(|(_, one)| *one == Summary::MissedMutant);
            tried = noticed;
            if missed.is_empty() {
                break;
            }
            let missed: Vec<String> = missed.into_iter().map(|(name, _)| name).collect();
            let options = missed.iter().flat_map(|name| ["--re".to_owned(), whole(name)]);
            let again = self.attempt(home, tree, &options.collect::<Vec<_>>(), tests)?;
            // cargo-mutants adds those that leave out a field, whatever their names.
            tried.extend(again.into_iter().filter(|(name, _)| missed.contains(name)));
        }
        let count = |what| tried.iter().filter(|(_, summary)| *summary == what).count();
        for (name, _) in tried.iter().filter(|(_, one)| *one == Summary::MissedMutant) {
            println!("survived: {name}");
        }
        println!(
            "figure: {}: {} of {all} mutants tried, shards {from} to {} of {shards}: {} noticed, \
             {} of them by the time they took, {} survived, {} do not compile; {} left out with \
             a reason; {} s",
            self.name,
            tried.len(),
            next.saturating_sub(1),
            count(Summary::CaughtMutant) + count(Summary::Timeout),
            count(Summary::Timeout),
            count(Summary::MissedMutant),
            count(Summary::Unviable),
            all - wanted,
            begun.elapsed().as_secs(),
        );
        Ok(count(Summary::MissedMutant))
    }

    /// How many mutants there are.
    fn count(&self, tree: &Path, options: &[&str]) -> Result<usize> {
        let mut list = self.mutants(tree);
        let text = command::stdout(list.args(["--list", "--json"]).args(options))?;
        let listed: Vec<IgnoredAny> = serde_json::from_str(&text)?;
        Ok(listed.len())
    }

    /// Tries those that these options choose with some of the tests.
    fn attempt(
        &self,
        home: &Path,
        tree: &Path,
        options: &[String],
        tests: &[&str],
    ) -> Result<Vec<(String, Summary)>> {
        let mut mutants = self.mutants(tree);
        mutants.args(options).args(["--timeout-multiplier", "3", "--output"]).arg(home);
        // What stands behind `--` is for running the tests only: all others would be built, too.
        mutants.args(tests.iter().map(|one| format!("--cargo-arg={one}")));
        let status = mutants.status().context("cargo-mutants cannot be run")?;
        // 2: some survived; 3: some did not end.
        if !matches!(status.code(), Some(0 | 2 | 3)) {
            bail!("`{}` failed: {status}", command::shown(&mutants));
        }
        let file = home.join("mutants.out/outcomes.json");
        let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let Outcomes { outcomes } = serde_json::from_slice(&text)?;
        let took = |phase| {
            let all = outcomes.iter().flat_map(|outcome| &outcome.phase_results);
            all.filter(|took| took.phase == phase).map(|took| took.duration).sum::<f64>()
        };
        let (build, test) = (took(Phase::Build), took(Phase::Test));
        println!("{build:.0} s were spent on building, {test:.0} s on the tests {tests:?}");
        let tried = outcomes.into_iter().filter_map(|outcome| match outcome.scenario {
            Scenario::Baseline => None,
            Scenario::Mutant(mutant) => Some((mutant.name, outcome.summary)),
        });
        Ok(tried.collect())
    }

    fn mutants(&self, tree: &Path) -> Command {
        let mut mutants = cargo();
        mutants.current_dir(tree).env("CARGO_TARGET_DIR", target());
        // Nobody debugs a mutant, and most of the time is spent on building them.
        mutants.env("CARGO_PROFILE_DEV_DEBUG", "false");
        mutants.args(["mutants", "--in-place", "--package", self.package]);
        for file in self.files {
            mutants.args(["--file", file]);
        }
        mutants
    }
}

/// What matches the name of one mutant.
fn whole(name: &str) -> String {
    let mut pattern = String::from("^");
    for letter in name.chars() {
        // With a backslash before them, these two would stand for the ends of a word.
        if letter.is_ascii_punctuation() && !matches!(letter, '<' | '>') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern + "$"
}

/// Brings the copy of the checkout up to date; says where it is. What is as it was is not
/// written, so that it is not built again.
fn copy(home: &Path) -> Result<PathBuf> {
    let (tree, list) = (home.join("tree"), home.join("files"));
    let mut git = Command::new("git");
    git.current_dir(root());
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let files = command::output(&mut git)?.stdout;
    // What is there no more is not looked for.
    if fs::read(&list).ok().as_ref() != Some(&files) && tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()))?;
    }
    for name in files.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = Path::new(std::ffi::OsStr::from_bytes(name));
        let (from, to) = (root().join(name), tree.join(name));
        copy_file(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    fs::write(&list, files).with_context(|| format!("cannot write {}", list.display()))?;
    Ok(tree)
}

fn copy_file(from: &Path, to: &Path) -> Result<()> {
    // One that was removed, and is in the index still.
    let Ok(kind) = from.symlink_metadata() else { return Ok(()) };
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    if kind.is_symlink() {
        if to.symlink_metadata().is_err() {
            symlink(fs::read_link(from)?, to)?;
        }
        return Ok(());
    }
    let text = fs::read(from)?;
    if fs::read(to).ok().as_ref() != Some(&text) {
        fs::write(to, text)?;
        fs::set_permissions(to, kind.permissions())?;
    }
    Ok(())
}
