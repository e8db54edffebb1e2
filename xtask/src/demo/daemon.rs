//! The real daemon and its command line, as the demo uses them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::Interrupt;
use super::stage::Stage;
use crate::command;
use crate::test::libtest::tail;

/// Longer than applying a change takes on an emulated machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The `redirector` program, pointed at the demo's corner.
pub struct Redirector {
    /// The program.
    pub program: PathBuf,
    bpffs: PathBuf,
    state: PathBuf,
}

/// What the demo reads of an explanation.
#[derive(Debug, Deserialize)]
pub struct Explanation {
    /// `route`, `passthrough` or `refuse`.
    pub verdict: String,
    /// The rule that decided, or nothing.
    pub rule: Option<Rule>,
    /// The endpoints' shares of all connections.
    pub endpoints: std::collections::BTreeMap<String, f64>,
}

/// A rule as an explanation names it.
#[derive(Debug, Deserialize)]
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

#[derive(Deserialize)]
struct Status {
    generation: u64,
}

impl Redirector {
    /// The program, with its flags for this stage.
    pub fn new(program: PathBuf, stage: &Stage) -> Self {
        Self { program, bpffs: stage.bpffs(), state: stage.state() }
    }

    /// A command of it that works on the demo's tables.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(name).arg("--bpffs").arg(&self.bpffs).arg("--state-dir").arg(&self.state);
        command
    }

    /// Starts the daemon on the stage.
    pub fn start(&self, stage: &Stage, attach_to: &Path) -> Result<Daemon> {
        let log = stage.directory.join("daemon.log");
        let file = File::create(&log)?;
        let mut command = self.command("run");
        command
            .arg("--config")
            .arg(stage.config())
            .arg("--cgroup")
            .arg(attach_to)
            .args(["--metrics-address", "none"])
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        stage.place(&mut command, "daemon")?;
        let child = command
            .spawn()
            .with_context(|| format!("cannot start `{}`", command::shown(&command)))?;
        Ok(Daemon { child, log })
    }

    /// The generation of the configuration in force; nothing before the first.
    pub fn generation(&self) -> Option<u64> {
        let output = command::output(self.command("status").args(["--output", "json"])).ok()?;
        serde_json::from_slice::<Status>(&output.stdout).ok().map(|status| status.generation)
    }

    /// Why a process of that cgroup reaches what it reaches, from the kernel's
    /// tables.
    pub fn explain(&self, cgroup: &Path, to: &str) -> Result<Explanation> {
        let mut command = self.command("explain");
        command.arg("--from-cgroup").arg(cgroup).args(["--to", to, "--output", "json"]);
        let text = command::stdout(&mut command)?;
        serde_json::from_str(&text)
            .with_context(|| format!("`{}` answered\n{text}", command::shown(&command)))
    }

    /// What `redirector check` says about a file, as people see it.
    pub fn check(&self, directory: &Path, files: &[PathBuf]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.arg("check").args(files).current_dir(directory);
        let output = command::output(&mut command)?;
        let text = [output.stdout, output.stderr].concat();
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Removes programs and pins.
    pub fn unload(&self) -> Result<()> {
        command::stdout(self.command("unload").arg("--yes")).map(drop)
    }
}

/// The running daemon. Dropping it ends it.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Waits until a configuration newer than `before` is in force.
    pub fn wait_for_change(
        &mut self,
        redirector: &Redirector,
        before: Option<u64>,
        interrupt: &Interrupt,
    ) -> Result<u64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            interrupt.check()?;
            match redirector.generation() {
                Some(now) if before.is_none_or(|before| now > before) => return Ok(now),
                _ => {}
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the daemon has ended ({status}). It said:\n{}", self.said());
            }
            if Instant::now() > deadline {
                bail!(
                    "the daemon applied no new configuration in {} s. It said:\n{}",
                    PATIENCE.as_secs(),
                    self.said()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
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
