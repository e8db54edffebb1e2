//! What the commands that look into the kernel have in common.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::StatVfsMountFlags;

use super::{Context, Exit, Failure};
use crate::daemon::control::{self, Request, Response};
use crate::daemon::startup;
use crate::datapath::{self, Datapath};
use crate::mounts;
use crate::state::{Report, Snapshot, StateDir, StateError};

/// Where the daemon's state is when nobody says otherwise.
pub const STATE: &str = "/run/redirector";

/// Where they are when nobody says otherwise.
const PINS: &str = "/sys/fs/bpf/redirector";

/// Where the tables are.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Where the tables are")]
pub struct KernelArgs {
    /// Directory of the pinned maps and links, below a bpffs mount
    #[arg(long, value_name = "DIR", default_value = PINS)]
    pub bpffs: PathBuf,
    /// Directory of the daemon's state: names, files, last good versions
    #[arg(long, value_name = "DIR", default_value = STATE)]
    pub state_dir: PathBuf,
    /// The daemon did not answer in time when it was asked last.
    #[arg(skip)]
    pub silent: Cell<bool>,
}

impl KernelArgs {
    /// Whether nobody has chosen another directory of pins.
    pub fn bpffs_is_default(&self) -> bool {
        self.bpffs == Path::new(PINS)
    }

    /// The state directory.
    pub fn state(&self) -> StateDir {
        StateDir::new(&self.state_dir)
    }

    /// The tables that are loaded.
    pub fn open(&self) -> Result<Datapath, Failure> {
        Datapath::open_read_only(&self.bpffs).map_err(|error| {
            if !matches!(error, datapath::Error::NotLoaded { .. })
                && let Some(failure) = read_only(&self.bpffs)
            {
                return failure;
            }
            let gone = matches!(error, datapath::Error::NotLoaded { .. })
                && self.state().had_pinned(&self.bpffs);
            let failure = Failure::from(error);
            match (gone, self.state().daemon()) {
                (false, _) => failure,
                (true, Some(pid)) => {
                    let pins = self.bpffs.display();
                    let message = format!(
                        "nothing is pinned at {pins} any more, so that what is in force cannot be \
                         looked at"
                    );
                    let again = format!("the daemon (process {pid}) pins it again by itself");
                    let bpffs = &self.bpffs;
                    let mounts_itself = startup::mounts_bpffs(bpffs, self.bpffs_is_default());
                    Failure { message, ..failure }.help(match startup::is_on_bpffs(bpffs) {
                        Ok(false) if !mounts_itself => {
                            format!("{}; {again} then", mounts::bpffs_remedy(bpffs))
                        }
                        _ => again,
                    })
                }
                (true, None) => failure.help(
                    "a daemon had pinned everything there; somebody has removed it since, and so \
                     detached it: `redirector run` puts it in force again",
                ),
            }
        })
    }

    /// What the daemon answers to who only looks. `without` says why none will not do.
    pub fn ask(&self, request: &Request, without: &str) -> Result<Response, Failure> {
        self.ask_for(request, without, REPORT_PATIENCE)
    }

    /// The same, and waits no longer than this.
    pub fn ask_for(
        &self,
        request: &Request,
        without: &str,
        patience: Duration,
    ) -> Result<Response, Failure> {
        self.ask_while(request, without, patience, |_, _| {})
    }

    /// What it answers to who wants something done; says so when that takes long.
    pub fn order(
        &self,
        request: &Request,
        without: &str,
        context: &mut Context<'_>,
    ) -> Result<Response, Failure> {
        let mut is_said = false;
        self.ask_while(request, without, PATIENCE, |pid, waited| {
            if waited >= LONG && !std::mem::replace(&mut is_said, true) {
                let patience = humantime::format_duration(PATIENCE);
                context.note(&format!(
                    "note: the daemon (process {pid}) does not answer yet: it may be at a large \
                     change, and is waited for, up to {patience}"
                ));
            }
        })
    }

    fn ask_while(
        &self,
        request: &Request,
        without: &str,
        patience: Duration,
        mut waits: impl FnMut(u32, Duration),
    ) -> Result<Response, Failure> {
        let state = self.state();
        let Some(pid) = state.daemon() else {
            // Where nothing is loaded there is nothing to ask about, either.
            self.open()?;
            return Err(Failure::new(Exit::No, format!("no daemon runs, {without}")).help(
                "start `redirector run`; the kernel keeps the last configuration meanwhile",
            ));
        };
        let response = self
            .wait_for(request, patience, |waited| waits(pid, waited))
            .map_err(|error| self.no_answer(pid, request, &error))?;
        match response.error {
            Some(error) => Err(Failure::input(error)),
            None => Ok(response),
        }
    }

    /// Asks the daemon that lives; not for long again where it was silent.
    fn wait_for(
        &self,
        request: &Request,
        patience: Duration,
        waits: impl FnMut(Duration),
    ) -> io::Result<Response> {
        let patience = if self.silent.get() { patience.min(AGAIN) } else { patience };
        let answer = control::ask(&self.state().control_socket(), request, patience, waits);
        let is_silent = |error: &io::Error| error.kind() == ErrorKind::TimedOut;
        self.silent.set(answer.as_ref().is_err_and(is_silent));
        answer
    }

    fn no_answer(&self, pid: u32, request: &Request, error: &io::Error) -> Failure {
        let help = match control::remedy(&self.state().control_socket(), error) {
            Some(remedy) if request.only_looks() => remedy,
            Some(remedy) => format!("{remedy}. What it had not begun to do it does not do later"),
            None => {
                "it does nothing of what it had not begun to: `redirector history` and `status` \
                     say whether it had"
                    .to_owned()
            }
        };
        Failure::new(Exit::No, format!("the daemon (process {pid}) does not answer: {error}"))
            .help(help)
    }

    /// What the daemon knows, or knew; says so where it does not answer.
    pub fn report_or_last(&self, context: &mut Context<'_>) -> Report {
        let Known { report, silent, .. } = self.report();
        if let Some(silent) = silent {
            context.note(&format!("note: {silent}; what it wrote last counts here"));
        }
        report
    }

    /// What the daemon knows: from itself when it runs, else what it, or the last one,
    /// has left.
    pub fn report(&self) -> Known {
        let state = self.state();
        let pid = state.daemon();
        if let Some(pid) = pid {
            match self.wait_for(&Request::Report, REPORT_PATIENCE, |_| {}) {
                Ok(Response { report: Some(report), .. }) => {
                    return Known { pid: Some(pid), report: *report, doubt: None, silent: None };
                }
                // One of an earlier version knows no such request.
                Ok(_) => {}
                // It is about to listen, or has ended but for a moment.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::NotFound | ErrorKind::ConnectionRefused
                    ) => {}
                Err(error) => {
                    let silent = self.no_answer(pid, &Request::Report, &error);
                    let doubt = format!("{silent}; what follows is what it wrote last");
                    let report = state.report().ok().flatten().unwrap_or_default();
                    let (doubt, silent) = (Some(doubt), Some(silent));
                    return Known { pid: Some(pid), report, doubt, silent };
                }
            }
        }
        let directory = state.path().display();
        let (report, doubt) = match state.report() {
            Ok(Some(report)) if report.is_stale => {
                let doubt = format!(
                    "the daemon could not write to {directory} at last: what it knew then, and \
                     whether the newest change is in force, cannot be told"
                );
                (report, Some(doubt))
            }
            Ok(Some(report)) => (report, None),
            Ok(None) if pid.is_some() => {
                let doubt = "the daemon has just started, and has told nothing yet".to_owned();
                (Report::default(), Some(doubt))
            }
            Ok(None) => {
                let doubt = format!(
                    "{directory} holds no report of a daemon: whether everything that the sources \
                     say is in force cannot be told"
                );
                (Report::default(), Some(doubt))
            }
            Err(error) => {
                let doubt = format!("what the daemon knew cannot be told: {error}");
                (Report::default(), Some(doubt))
            }
        };
        // It holds the pins, and not this directory: that was another one, or was emptied.
        let other = pid.is_none().then(|| datapath::in_charge(&self.bpffs)).flatten();
        let doubt = other.map_or(doubt, |other| {
            Some(format!(
                "process {other} is in charge of {}, and not of the state directory {directory}: \
                 it has another one, or somebody has removed what was in this one, which it makes \
                 anew by itself. What it knows cannot be told",
                self.bpffs.display()
            ))
        });
        Known { pid: pid.or(other), report, doubt, silent: None }
    }

    /// What the generation in force was made of; says so when that is not
    /// known.
    pub fn snapshot(
        &self,
        generation: u64,
        context: &mut Context<'_>,
    ) -> Result<Option<Snapshot>, Failure> {
        if generation == 0 {
            return Ok(None);
        }
        match self.state().snapshot(generation) {
            Ok(Some(snapshot)) => {
                for lost in &snapshot.lost {
                    context.note(&format!("note: in generation {generation}, {lost}"));
                }
                Ok(Some(snapshot))
            }
            Ok(None) => {
                let kept = self.state().generations();
                let kept = match (kept.first(), kept.last()) {
                    (Some(first), Some(last)) => format!("it has {first} to {last}"),
                    _ => "it has none".to_owned(),
                };
                context.note(&format!(
                    "note: the kernel is at generation {generation}, and the state directory {} \
                     disagrees: {kept}. Numbers are shown without names",
                    self.state_dir.display()
                ));
                Ok(None)
            }
            Err(error @ StateError::Damaged { .. }) => {
                context.note(&format!("note: {error}. Numbers are shown without names"));
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// How long an answer of the daemon may take: it may be at a large change.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who waits longer than this is told so.
const LONG: Duration = Duration::from_secs(5);

/// How long one is waited for that was silent before.
const AGAIN: Duration = Duration::from_secs(1);

/// The same where there is something to say without one.
pub const REPORT_PATIENCE: Duration = Duration::from_secs(10);

/// What is known of a daemon.
#[derive(Debug)]
pub struct Known {
    /// Its process id, when one runs.
    pub pid: Option<u32>,
    /// What it knows, or knew.
    pub report: Report,
    /// Why that may not be all, when it may not.
    pub doubt: Option<String>,
    /// That it does not answer, when that is why, and what helps.
    pub silent: Option<Failure>,
}

/// Why nothing below a directory of pins can be opened, when that is so because
/// it is mounted read-only: the kernel opens no pinned program there.
pub fn read_only(bpffs: &Path) -> Option<Failure> {
    let there = bpffs.ancestors().find(|path| path.exists())?;
    let mount = rustix::fs::statvfs(there).ok()?;
    mount.f_flag.contains(StatVfsMountFlags::RDONLY).then(|| {
        let message = format!("{} is on a file system that is mounted read-only", bpffs.display());
        let help = "pinned maps and programs are opened and made on a writable bpffs only: mount \
                    it so (mount -o remount,rw), in a container without readOnly";
        Failure::new(Exit::Unable, message).help(help)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Pinned;

    #[test]
    fn who_finds_no_pins_is_told_to_start_a_daemon_only_where_none_runs() {
        let root = tempfile::tempdir().unwrap();
        let (bpffs, state_dir) = (root.path().join("pins"), root.path().join("state"));
        let kernel = KernelArgs { bpffs, state_dir, silent: Cell::default() };
        let state = kernel.state();
        state.create().unwrap();
        let pinned = Some(Pinned::now(&kernel.bpffs));
        state.save_report(&Report { pinned, ..Report::default() }).unwrap();
        let told = || kernel.open().unwrap_err().to_string();
        assert!(told().contains("`redirector run` puts it in force again"), "{}", told());
        let _lock = state.lock().unwrap();
        let with_daemon = told();
        assert!(with_daemon.contains("pins it again by itself"), "{with_daemon}");
        assert!(!with_daemon.contains("redirector run"), "{with_daemon}");
    }
}
