//! Running test binaries and reading what they report.
//!
//! The pretty output of libtest is its only stable one. Two parts of it are
//! read: the line of each test, and the closing `test result:` line, whose
//! numbers must agree with the lines. A binary without a closing line has
//! crashed or hung, which counts as a failure.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// The reason for which a part that tests play in processes of their own is
/// ignored: it is no test, so it is not counted as one that was skipped.
const NO_TEST: &str = "the child process of other tests";

/// How one test ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It ran and held.
    Passed,
    /// It ran and did not hold, with what it said.
    Failed(String),
    /// It did not run, with the reason.
    Skipped(String),
}

/// One test of a suite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// The test's path, or a sentence for a check that is no Rust test.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
}

/// A test binary's results.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Suite {
    /// The test target's name.
    pub name: String,
    /// Its tests in the order in which they ended.
    pub cases: Vec<Case>,
    /// How long it ran.
    pub seconds: f64,
}

impl Suite {
    /// A suite of a single check.
    pub fn single(name: impl Into<String>, outcome: Outcome, seconds: f64) -> Self {
        let name = name.into();
        Self { cases: vec![Case { name: name.clone(), outcome }], name, seconds }
    }

    /// Tests that held.
    pub fn passed(&self) -> usize {
        self.cases.iter().filter(|case| case.outcome == Outcome::Passed).count()
    }

    /// Tests that did not hold.
    pub fn failed(&self) -> usize {
        self.cases.iter().filter(|case| matches!(case.outcome, Outcome::Failed(_))).count()
    }

    /// Tests that did not run.
    pub fn skipped(&self) -> usize {
        self.cases.iter().filter(|case| matches!(case.outcome, Outcome::Skipped(_))).count()
    }
}

/// A compiled test binary.
#[derive(Clone, Debug)]
pub struct Binary {
    /// Package and target, such as `redirector-tests::conformance`.
    pub name: String,
    /// The target alone.
    pub target: String,
    /// The executable.
    pub path: PathBuf,
    /// The directory that cargo would run it in.
    pub directory: PathBuf,
}

/// Compiles tests with `cargo test --no-run` and those options; gives back the
/// binaries in cargo's order.
pub fn build(cargo: &mut Command) -> Result<Vec<Binary>> {
    cargo.args(["--no-run", "--message-format=json-render-diagnostics"]);
    let shown = crate::command::shown(cargo);
    let output = cargo
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run `{shown}`"))?;
    if !output.status.success() {
        bail!("`{shown}` failed: {}", output.status);
    }
    let mut binaries = Vec::new();
    for line in output.stdout.split(|byte| *byte == b'\n') {
        let Ok(message) = serde_json::from_slice::<Message>(line) else { continue };
        let (Some(path), Some(target)) = (message.executable, message.target) else { continue };
        if !message.profile.is_some_and(|profile| profile.test) {
            continue;
        }
        let manifest = message.manifest_path.unwrap_or_default();
        let directory = manifest.parent().unwrap_or(Path::new(".")).to_owned();
        let package = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let target = target.name;
        let name = if target.replace('_', "-").contains(&package) {
            target.clone()
        } else {
            format!("{package}::{target}")
        };
        binaries.push(Binary { name, target, path, directory });
    }
    Ok(binaries)
}

/// The paths of the tests in a test binary.
pub fn tests(binary: &mut Command) -> Result<Vec<String>> {
    let list = crate::command::stdout(binary.args(["--list", "--format", "terse"]))?;
    Ok(list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

/// What is read of cargo's messages about finished artifacts.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Runs a test binary with those arguments, its output kept in `log`.
pub fn run(name: &str, command: &mut Command, log: &Path, limit: Duration) -> Result<Suite> {
    if let Some(parent) = log.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run `{}`", crate::command::shown(command)))?;
    let ended = loop {
        if let Some(status) = child.try_wait()? {
            break format!("{status}");
        }
        if started.elapsed() > limit {
            // SAFETY: signals the process group that was made for this child,
            // which has not been waited for, so its id is not reused.
            unsafe { libc::killpg(child.id().cast_signed(), libc::SIGKILL) };
            child.wait()?;
            break format!("stopped after {} s: it hangs", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let output = String::from_utf8_lossy(&std::fs::read(log)?).into_owned();
    let mut suite = read(name, &output, &ended);
    suite.seconds = started.elapsed().as_secs_f64();
    Ok(suite)
}

/// Reads libtest's output; `ended` says how the process ended.
pub fn read(name: &str, output: &str, ended: &str) -> Suite {
    let mut cases: Vec<Case> = output.lines().filter_map(case).collect();
    for case in &mut cases {
        if let Outcome::Failed(text) = &mut case.outcome {
            *text = said(output, &case.name).unwrap_or_else(|| tail(output, 20));
        }
    }
    let mut suite = Suite { name: name.to_owned(), cases, seconds: 0.0 };
    let closing: Vec<_> = output.lines().filter_map(closing).collect();
    let counted = closing
        .iter()
        .fold([0, 0, 0], |sum, line| [sum[0] + line[0], sum[1] + line[1], sum[2] + line[2]]);
    let complaint = if closing.is_empty() {
        Some(format!("ended without a result ({ended})"))
    } else if counted != [suite.passed(), suite.failed(), suite.skipped()] {
        Some(format!("its result line and the lines of its tests disagree ({ended})"))
    } else if counted[1] == 0 && ended != "exit status: 0" {
        Some(format!("all tests passed, yet the process ended with {ended}"))
    } else {
        None
    };
    suite.cases.retain(|case| case.outcome != Outcome::Skipped(NO_TEST.to_owned()));
    if let Some(complaint) = complaint {
        let text = format!("{complaint}\n{}", tail(output, 40));
        suite.cases.push(Case { name: name.to_owned(), outcome: Outcome::Failed(text) });
    }
    suite
}

/// `test NAME ... ok`, `FAILED` or `ignored[, reason]`.
fn case(line: &str) -> Option<Case> {
    let (name, end) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let outcome = match end {
        "ok" => Outcome::Passed,
        "FAILED" => Outcome::Failed(String::new()),
        _ => {
            let reason = end.strip_prefix("ignored")?;
            Outcome::Skipped(reason.trim_start_matches(", ").to_owned())
        }
    };
    // libtest-mimic aligns the outcomes.
    let name = name.trim_end().trim_end_matches(" - should panic").to_owned();
    Some(Case { name, outcome })
}

/// Passed, failed and ignored of a `test result:` line.
fn closing(line: &str) -> Option<[usize; 3]> {
    let rest = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let mut counts = rest.split("; ").map(|part| part.split_once(' '));
    let mut next = |word: &str| {
        let (number, what) = counts.next()??;
        (what == word).then(|| number.parse().ok())?
    };
    Some([next("passed")?, next("failed")?, next("ignored")?])
}

/// What a failed test wrote.
fn said(output: &str, name: &str) -> Option<String> {
    let start = output
        .find(&format!("---- {name} stdout ----\n"))
        .or_else(|| output.find(&format!("---- {name} ----\n")))?;
    let text = &output[start..];
    let text = text.split_once('\n')?.1;
    let end = text.find("\n---- ").or_else(|| text.find("\nfailures:\n")).unwrap_or(text.len());
    Some(text[..end].trim_end().to_owned())
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
running 3 tests
test a::holds ... ok
test b ... ignored, needs root
test c::breaks ... FAILED

failures:

---- c::breaks stdout ----
thread 'c::breaks' panicked at src/lib.rs:1:1:
left is not right

failures:
    c::breaks

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn every_outcome_is_read_with_its_reason() {
        let suite = read("x", OUTPUT, "exit status: 101");
        let told = "thread 'c::breaks' panicked at src/lib.rs:1:1:\nleft is not right";
        assert_eq!(
            suite.cases,
            [
                Case { name: "a::holds".into(), outcome: Outcome::Passed },
                Case { name: "b".into(), outcome: Outcome::Skipped("needs root".into()) },
                Case { name: "c::breaks".into(), outcome: Outcome::Failed(told.into()) },
            ]
        );
    }

    #[test]
    fn the_form_of_libtest_mimic_is_read_too() {
        let output = "test a   ... ok\ntest b::c ... FAILED\n\nfailures:\n\n---- b::c ----\nbad\n\n\n\
                      failures:\n    b::c\n\ntest result: FAILED. 1 passed; 1 failed; 0 ignored; \
                      0 measured; 0 filtered out; finished in 0.00s\n";
        let suite = read("x", output, "exit status: 101");
        let failed = Case { name: "b::c".into(), outcome: Outcome::Failed("bad".into()) };
        assert_eq!(suite.cases[1], failed);
        assert_eq!((suite.cases[0].name.as_str(), suite.cases.len()), ("a", 2));
    }

    #[test]
    fn a_crash_without_a_result_line_is_a_failure() {
        let suite = read("x", "running 2 tests\ntest a ... ok\n", "signal: 11 (SIGSEGV)");
        assert_eq!((suite.passed(), suite.failed()), (1, 1));
    }

    #[test]
    fn a_result_line_that_counts_more_than_was_seen_is_a_failure() {
        let output = "test a ... ok\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; \
                      0 filtered out; finished in 0.00s\n";
        assert_eq!(read("x", output, "exit status: 0").failed(), 1);
    }

    #[test]
    fn a_bad_exit_after_only_good_tests_is_a_failure() {
        let output = "test a ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; \
                      0 filtered out; finished in 0.00s\n";
        assert_eq!(read("x", output, "exit status: 0").failed(), 0);
        assert_eq!(read("x", output, "signal: 9 (SIGKILL)").failed(), 1);
    }
}
