//! `redirector log-level`

use super::kernel::KernelArgs;
use super::{Common, Context, Exit, Failure};
use crate::daemon::control::Request;

/// Changes what the running daemon logs, until it ends
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  redirector log-level debug
  redirector log-level info,redirector::source=trace
  redirector log-level info    # as it begins, unless --log-level said else")]
pub struct Args {
    /// error, warn, info, debug, trace, or a filter such as redirector::source=debug
    #[arg(value_name = "LEVEL")]
    level: String,
    #[command(flatten)]
    kernel: KernelArgs,
}

pub fn run(args: &Args, common: &Common, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let request = Request::LogLevel { level: args.level.clone() };
    let response = args.kernel.order(&request, "and it is the daemon that logs", context)?;
    context.answer(common, &response, |_| {
        format!("the daemon logs at {} from now on\n", args.level)
    })?;
    Ok(Exit::Fine)
}
