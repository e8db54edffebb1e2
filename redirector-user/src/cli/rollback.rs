//! `redirector rollback`

use super::kernel::KernelArgs;
use super::{Common, Context, Exit, Failure, history};
use crate::daemon::control::Request;

/// Returns to an earlier configuration, and holds it until the files or objects change again
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  redirector rollback              # the configuration before the last change
  redirector rollback 3            # that of three changes ago
  redirector rollback --list       # what N can be, and what each returns to
  redirector rollback --release    # back to what the files or objects say")]
pub struct Args {
    /// How many changes to go back
    #[arg(value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Stop holding: back to what the files or objects say
    #[arg(long, conflicts_with = "steps")]
    release: bool,
    /// Only say which earlier configurations there are, and what N each takes
    #[arg(long, conflicts_with_all = ["steps", "release"])]
    list: bool,
    #[command(flatten)]
    kernel: KernelArgs,
}

pub fn run(args: &Args, common: &Common, context: &mut Context<'_>) -> Result<Exit, Failure> {
    if args.list {
        return history::list(&args.kernel, common, context);
    }
    let request = if args.release {
        Request::Release
    } else {
        Request::Rollback { steps: args.steps as usize }
    };
    let response = args.kernel.order(&request, "and it is the daemon that rolls back", context)?;
    let generation = response.generation;
    context.answer(common, &response, |_| match response.of_generation {
        Some(of) => format!(
            "generation {generation} repeats generation {of}; held until the sources change, or \
             `redirector rollback --release`\n"
        ),
        None => format!("generation {generation} is what the sources say\n"),
    })?;
    Ok(Exit::Fine)
}
