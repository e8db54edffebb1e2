//! The real daemon and its command line, as the demo uses them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::Interrupt;
use super::sections::Row;
use super::stage::Stage;
use crate::command;
use crate::test::libtest::{Outcome, tail};

/// Longer than applying a change takes on an emulated machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The `redirector` program, pointed at the demo's corner.
pub struct Redirector {
    /// The program.
    pub program: PathBuf,
    pins: PathBuf,
    state: PathBuf,
}

/// What the demo reads of an explanation.
#[derive(Debug, Deserialize)]
pub struct Explanation {
    /// Who dials.
    source: Source,
    /// `route`, `passthrough` or `refuse`.
    pub verdict: String,
    /// The rule that decided, or nothing.
    pub rule: Option<Rule>,
    /// The share of all connections that is refused.
    #[serde(rename = "refusedShare")]
    pub refused_share: f64,
    /// The endpoints' shares of all connections.
    pub endpoints: std::collections::BTreeMap<String, f64>,
}

#[derive(Debug, Deserialize)]
struct Source {
    workload: Option<String>,
}

/// A rule as an explanation names it.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Rule {
    /// Kind, namespace and name.
    pub object: String,
    /// Its position in the object, from 0.
    pub index: usize,
    /// Where it is written.
    pub file: Option<String>,
    /// The line there.
    pub line: Option<u32>,
}

impl Explanation {
    /// Whether the other says the same, of the same source.
    fn agrees(&self, other: &Self) -> bool {
        let same_share = |(endpoint, share): (&String, &f64)| {
            other.endpoints.get(endpoint).is_some_and(|theirs| (share - theirs).abs() < 1e-6)
        };
        self.source.workload == other.source.workload
            && self.verdict == other.verdict
            && self.rule == other.rule
            && (self.refused_share - other.refused_share).abs() < 1e-6
            && self.endpoints.len() == other.endpoints.len()
            && self.endpoints.iter().all(same_share)
    }
}

impl Redirector {
    /// The program, with its flags for this stage.
    pub fn new(program: PathBuf, stage: &Stage) -> Self {
        Self { program, pins: stage.bpffs().join("redirector"), state: stage.state() }
    }

    /// A command of it that works on the demo's tables.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(name).arg("--bpffs").arg(&self.pins).arg("--state-dir").arg(&self.state);
        command
    }

    /// Starts the daemon on the stage, attached to that cgroup or the root of
    /// the hierarchy.
    pub fn start(&self, stage: &Stage, attach_to: Option<&Path>) -> Result<Daemon> {
        let log = stage.directory.join("daemon.log");
        let file = File::create(&log)?;
        let mut command = self.command("run");
        command
            .arg("--config")
            .arg(stage.config())
            .args(["--metrics-address", "none"])
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        if let Some(cgroup) = attach_to {
            command.arg("--cgroup").arg(cgroup);
        }
        stage.place(&mut command, "daemon")?;
        let child = command
            .spawn()
            .with_context(|| format!("cannot start `{}`", command::shown(&command)))?;
        Ok(Daemon { child, log })
    }

    /// Why a process of that cgroup reaches what it reaches, from the kernel's
    /// tables.
    pub fn explain(&self, stage: &Stage, row: &Row) -> Result<Explanation> {
        let mut command = self.command("explain");
        match row.gateway {
            Some(gateway) => command.args(["--gateway", gateway]),
            None => command.arg("--from-cgroup").arg(stage.cgroup.join(row.from)),
        };
        explanation(&mut command, row.to)
    }

    /// What the documents alone say; nothing about a client that no document
    /// names.
    fn explain_documents(&self, config: &Path, row: &Row) -> Result<Option<Explanation>> {
        let mut command = Command::new(&self.program);
        command.arg("explain").arg("--config").arg(config);
        match (row.gateway, row.workload()) {
            (Some(gateway), _) => command.args(["--gateway", gateway]),
            (None, Some(workload)) => command.args(["--from-workload", workload]),
            (None, None) => return Ok(None),
        };
        explanation(&mut command, row.to).map(Some)
    }

    /// What `redirector check` says about files of a directory, as people see it.
    pub fn check(&self, directory: &Path, files: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.arg("check").args(files).current_dir(directory);
        let output = command::output(&mut command)?;
        let text = [output.stdout, output.stderr].concat();
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// What `redirector test` says about the routing tests of a directory.
    pub fn test(&self, directory: &Path) -> Result<(String, Outcome)> {
        let mut command = Command::new(&self.program);
        command.args(["test", "routing-tests.yaml"]).current_dir(directory);
        let output = command::output(&mut command)?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let outcome = match output.status.success() {
            true => Outcome::Passed,
            false => Outcome::Failed(text.clone()),
        };
        Ok((text, outcome))
    }

    /// Removes programs and pins.
    pub fn unload(&self) -> Result<()> {
        command::stdout(self.command("unload").arg("--yes")).map(drop)
    }
}

fn explanation(command: &mut Command, to: &str) -> Result<Explanation> {
    let text = command::stdout(command.args(["--to", to, "--output", "json"]))?;
    serde_json::from_str(&text)
        .with_context(|| format!("`{}` answered\n{text}", command::shown(command)))
}

/// The running daemon. Dropping it ends it.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Waits until the kernel's tables say what the documents say, for these
    /// rows.
    pub fn wait_until_in_force(
        &mut self,
        redirector: &Redirector,
        stage: &Stage,
        rows: &[Row],
        interrupt: &Interrupt,
    ) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for row in rows {
            let Some(wanted) = redirector.explain_documents(&stage.config(), row)? else {
                continue;
            };
            loop {
                interrupt.check()?;
                let found = redirector.explain(stage, row);
                if found.as_ref().is_ok_and(|found| found.agrees(&wanted)) {
                    break;
                }
                if let Some(status) = self.child.try_wait()? {
                    bail!("the daemon has ended ({status}). It said:\n{}", self.said());
                }
                if Instant::now() > deadline {
                    bail!(
                        "after {} s the kernel still says\n{found:#?}\nbut the documents say\n\
                         {wanted:#?}\nThe daemon said:\n{}",
                        PATIENCE.as_secs(),
                        self.said()
                    );
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// The end of the daemon's log.
    pub fn said(&self) -> String {
        tail(&std::fs::read_to_string(&self.log).unwrap_or_default(), 40)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        // SAFETY: a signal to a child that has not been waited for yet, so its
        // id is not reused.
        unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGTERM) };
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // What does not end by itself is ended; there is nobody to tell more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
