//! `redirector unload`

use std::path::{Path, PathBuf};

use super::kernel::KernelArgs;
use super::{Common, Context, Exit, Failure};
use crate::datapath::{self, Datapath};
use crate::state::{Report, StateError};
use crate::{leftovers, mounts, proxy};
use serde::Serialize;

/// Detaches from the kernel and removes every pin and the state; connections that exist go on
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  redirector unload --yes

Connections that were redirected stay connected; getpeername() of their sockets
shows the endpoint from then on.")]
pub struct Args {
    #[command(flatten)]
    kernel: KernelArgs,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

#[derive(Serialize)]
struct Answer {
    unloaded: bool,
}

pub fn run(args: &Args, common: &Common, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let state = args.kernel.state();
    if let Some(pid) = state.daemon() {
        return Err(Failure::input(format!("the daemon (process {pid}) is running")).help(
            "stop it first, or it would load everything again; `redirector run --detach-on-exit` \
             does both",
        ));
    }
    if !args.yes {
        if !context.env.in_is_terminal {
            return Err(Failure::new(Exit::Usage, "nobody is there to be asked")
                .help("say --yes to detach without a question"));
        }
        let question = format!(
            "Detach everything below {}, so that nothing is routed any more?",
            args.kernel.bpffs.display()
        );
        if !context.ask(&question) {
            return Ok(Exit::No);
        }
    }
    // No daemon comes in between. One needs a state directory, which may not be there.
    let _lock = match state.lock() {
        Err(error @ StateError::Busy { .. }) => return Err(error.into()),
        lock => lock,
    };
    let report = state.report().ok().flatten().unwrap_or_default();
    let unloaded = match Datapath::unload(&args.kernel.bpffs) {
        // What a crash left of the rest goes all the same.
        Err(error) if !matches!(error, datapath::Error::NotLoaded { .. }) => {
            return Err(error.into());
        }
        unloaded => unloaded,
    };
    // Connections of gateways go on, too, for as long as usual.
    proxy::retire_at(&state.relay_socket(), proxy::Settings::default().drain);
    sweep(&report, &state.relay_socket());
    state.remove()?;
    unloaded?;
    context.answer(common, &Answer { unloaded: true }, |_| "unloaded\n".to_owned())?;
    Ok(Exit::Fine)
}

/// Removes the cgroups of a daemon, and of self-tests, that were killed. Relays there that
/// nobody finds any more end.
fn sweep(report: &Report, door: &Path) {
    let own = report.daemon_cgroup.as_deref();
    let root = mounts::cgroup2().ok().flatten();
    let current = root.as_deref().and_then(|root| mounts::cgroup_of(root, "self").ok());
    let above = [own.and_then(Path::parent), root.as_deref(), current.as_deref()];
    let above = above.into_iter().flatten();
    let all: Vec<_> = above.chain(report.cgroups.iter().map(PathBuf::as_path)).collect();
    let slice = root.as_ref().map(|root| root.join(leftovers::SLICE));
    let exempt = leftovers::left(all.iter().copied()).chain(report.exempt.clone()).chain(slice);
    proxy::end_left(exempt, door);
    if let Some(cgroup) = own {
        // The kernel keeps it while a process is in it.
        let _ = leftovers::remove(cgroup);
    }
    leftovers::sweep(all);
}
