//! Test programs: what cargo has built of them, which tests they hold, and how one
//! of these tests ends.
//!
//! Each test runs in a process of its own, so that nothing of another test is in it:
//! its time is known, its end is seen at once, and what crashes or hangs is that
//! test alone.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

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

/// One test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// The test's path, or a sentence for a check that is no Rust test.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it ran.
    pub seconds: f64,
}

impl Case {
    /// A case whose time since `begun` is its own.
    pub fn since(begun: Instant, name: impl Into<String>, outcome: Outcome) -> Self {
        Self { name: name.into(), outcome, seconds: begun.elapsed().as_secs_f64() }
    }
}

/// Tests that belong together, such as those of one program.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Suite {
    /// What they have in common.
    pub name: String,
    /// In the order in which they ended.
    pub cases: Vec<Case>,
}

impl Suite {
    /// How many passed, failed and were skipped.
    pub fn counts(&self) -> [usize; 3] {
        let count = |wanted: fn(&Outcome) -> bool| {
            self.cases.iter().filter(|case| wanted(&case.outcome)).count()
        };
        [
            count(|outcome| *outcome == Outcome::Passed),
            count(|outcome| matches!(outcome, Outcome::Failed(_))),
            count(|outcome| matches!(outcome, Outcome::Skipped(_))),
        ]
    }

    /// How long its tests ran, one after the other.
    pub fn seconds(&self) -> f64 {
        self.cases.iter().map(|case| case.seconds).sum()
    }
}

/// A compiled test program.
#[derive(Clone, Debug)]
pub struct Binary {
    /// Its target, such as `kernel`, or the library whose own tests they are.
    pub name: String,
    /// The executable.
    pub path: PathBuf,
    /// The directory that cargo would run it in.
    pub directory: PathBuf,
}

impl Binary {
    /// Its tests, by their paths.
    pub fn tests(&self) -> Result<Vec<String>> {
        let list = crate::command::stdout(self.command().args(["--list", "--format", "terse"]))?;
        Ok(list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }

    /// A command that runs it where cargo would.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.current_dir(&self.directory).env("CARGO_MANIFEST_DIR", &self.directory);
        command
    }

    /// Runs one of its tests, ignored or not, its output kept in `log`.
    pub fn run(
        &self,
        test: &str,
        environment: &[(String, String)],
        log: &Path,
        limit: Duration,
    ) -> Result<Case> {
        let begun = Instant::now();
        if let Some(parent) = log.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = self.command();
        command
            .args([test, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"])
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0);
        let child = command
            .spawn()
            .with_context(|| format!("cannot run `{}`", crate::command::shown(&command)))?;
        let ended = wait(child, limit)?;
        let output = String::from_utf8_lossy(&std::fs::read(log)?).into_owned();
        Ok(Case::since(begun, test, outcome(ended, limit, &output)))
    }
}

/// Waits for a process that leads its group; `None` when it took too long and was
/// killed. What it leaves running is killed, unless it ended well.
fn wait(mut child: Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let pid = Pid::from_child(&child);
    let ended = pidfd_open(pid, PidfdFlags::empty())?;
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut ready = [PollFd::new(&ended, PollFlags::IN)];
        match poll(&mut ready, Some(&Timespec::try_from(left)?)) {
            Ok(0) => break,
            Ok(_) => {
                let status = child.wait()?;
                if !status.success() {
                    // Nothing may be left of it, which is as good.
                    let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
                }
                return Ok(Some(status));
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    rustix::process::kill_process_group(pid, rustix::process::Signal::KILL)?;
    child.wait()?;
    Ok(None)
}

/// How a test ended, by the end of its process and its output.
fn outcome(ended: Option<ExitStatus>, limit: Duration, output: &str) -> Outcome {
    // The pretty output of libtest is its only stable one.
    let passed = output.lines().any(|line| line.starts_with("test result: ok. 1 passed; 0 failed"));
    let complaint = match ended {
        None => format!("stopped after {} s: it hangs", limit.as_secs()),
        Some(status) if status.success() && passed => return Outcome::Passed,
        Some(status) if status.success() => "its process ended well without having run it".into(),
        Some(status) => format!("{status}"),
    };
    Outcome::Failed(format!("{}\n{complaint}", tail(output, 200)))
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSED: &str = "\nrunning 1 test\ntest a::b ... ok\n\ntest result: ok. 1 passed; 0 failed; \
                          0 ignored; 0 measured; 7 filtered out; finished in 0.00s\n";

    fn shell(script: &str, limit: Duration) -> Option<ExitStatus> {
        let mut command = Command::new("sh");
        command.args(["-c", script]).process_group(0).stdout(Stdio::null());
        wait(command.spawn().expect("a shell"), limit).expect("it can be waited for")
    }

    #[test]
    fn a_test_has_passed_when_it_says_so_and_ends_well() {
        let minute = Duration::from_secs(60);
        let [good, bad] = ["exit 0", "exit 101"].map(|script| shell(script, minute));
        assert_eq!(outcome(good, minute, PASSED), Outcome::Passed);
        let failed = |ended, output: &str| matches!(outcome(ended, minute, output), Outcome::Failed(why) if why.contains(output));
        assert!(failed(bad, PASSED));
        let none = PASSED.replace("1 passed", "0 passed");
        assert!(failed(good, &none));
        assert!(failed(good, "it exits early"));
    }

    #[test]
    fn a_test_that_hangs_is_killed_with_all_that_it_started() {
        let limit = Duration::from_millis(50);
        let begun = Instant::now();
        let ended = shell("sleep 600 & sleep 600", limit);
        assert!(begun.elapsed() < Duration::from_secs(60));
        let Outcome::Failed(why) = outcome(ended, limit, "so far") else { panic!("it hangs") };
        assert!(why.starts_with("so far\nstopped after"), "{why}");
    }
}
