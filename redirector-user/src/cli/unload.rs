//! `redirector unload`

use super::kernel::KernelArgs;
use super::{Common, Context, Exit, Failure};
use crate::datapath::{self, Datapath};
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
    match Datapath::unload(&args.kernel.bpffs) {
        Ok(()) => {}
        Err(error @ datapath::Error::NotLoaded { .. }) => {
            // What a crash left of the state goes all the same.
            state.remove()?;
            return Err(error.into());
        }
        Err(error) => return Err(error.into()),
    }
    state.remove()?;
    context.answer(common, &Answer { unloaded: true }, |_| "unloaded\n".to_owned())?;
    Ok(Exit::Fine)
}
