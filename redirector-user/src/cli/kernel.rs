//! What the commands that look into the kernel have in common.

use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;

use super::{Context, Exit, Failure};
use crate::daemon::control::{self, Request, Response};
use crate::datapath::{self, Datapath};
use crate::state::{Snapshot, StateDir, StateError};

/// Where the tables are.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Where the tables are")]
pub struct KernelArgs {
    /// Directory of the pinned maps and links, below a bpffs mount
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/redirector")]
    pub bpffs: PathBuf,
    /// Directory of the daemon's state: names, files, last good versions
    #[arg(long, value_name = "DIR", default_value = "/run/redirector")]
    pub state_dir: PathBuf,
}

impl KernelArgs {
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
            if !gone {
                return failure;
            }
            failure.help(
                "a daemon had pinned everything there; somebody has removed it since, and so \
                 detached it: `redirector run` puts it in force again",
            )
        })
    }

    /// What the daemon answers. `without` says why none will not do.
    pub fn ask(&self, request: &Request, without: &str) -> Result<Response, Failure> {
        let state = self.state();
        if state.daemon().is_none() {
            // Where nothing is loaded there is nothing to ask about, either.
            self.open()?;
            return Err(Failure::new(Exit::No, format!("no daemon runs, {without}")).help(
                "start `redirector run`; the kernel keeps the last configuration meanwhile",
            ));
        }
        let socket = state.control_socket();
        let response = control::ask(&socket, request).map_err(|error| {
            let socket = socket.display();
            Failure::new(Exit::No, format!("the daemon does not answer: {socket}: {error}"))
        })?;
        match response.error {
            Some(error) => Err(Failure::input(error)),
            None => Ok(response),
        }
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

impl From<datapath::Error> for Failure {
    fn from(error: datapath::Error) -> Self {
        let exit = match error.exit_code() {
            3 => Exit::Unable,
            4 => Exit::NotLoaded,
            _ => Exit::No,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        let denied = matches!(
            &error,
            StateError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied
        );
        let busy = matches!(error, StateError::Busy { .. });
        let failure = Self::new(if denied { Exit::Unable } else { Exit::No }, error.to_string());
        if busy {
            return failure.help(
                "stop it first, or give this one directories of its own with --state-dir and \
                 --bpffs",
            );
        }
        if denied {
            failure.help("run it as root, or name another one with --state-dir")
        } else {
            failure
        }
    }
}
