//! `redirector bypass`

use std::time::Duration;

use redirector_core::model::bypass::Target;
use serde::Serialize;

use super::completions;
use super::kernel::KernelArgs;
use super::{Common, Context, Exit, Failure};
use crate::daemon::bypass_without_daemon;
use crate::daemon::control::Request;
use crate::state::{BypassChange, Bypassed};

/// Break-glass: leaves a workload, or a rule, alone for a while
#[derive(clap::Args, Debug)]
#[command(group = clap::ArgGroup::new("what").args(["workload", "rule", "end"]).required(true).multiple(true))]
#[command(after_help = "\
Examples:
  redirector bypass --workload default/telnet-client   # for ten minutes
  redirector bypass --rule VirtualService/default/echo --for 2h
  redirector bypass --end   # nothing is bypassed any longer

What is bypassed goes as if no rule matched: to the address dialled, or, where
only redirector serves that address, to the service's own endpoints. Connections
that are there already stay as they are. `redirector status` shows what is
bypassed. It works without a daemon, too; then it lasts until one runs, or until
--end.")]
pub struct Args {
    /// Whatever this Pod or WorkloadEntry dials
    #[arg(long, value_name = "NS/NAME", value_parser = Target::workload, conflicts_with = "rule", add = completions::workloads())]
    workload: Option<Target>,
    /// What the rules of this VirtualService would decide
    #[arg(long, value_name = "OBJECT", value_parser = Target::rule, add = completions::rules())]
    rule: Option<Target>,
    /// How long
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = time)]
    time: Duration,
    /// End it now; without --workload or --rule everything that is bypassed
    #[arg(long, conflicts_with = "time")]
    end: bool,
    #[command(flatten)]
    kernel: KernelArgs,
}

/// One that is over at once would be none.
fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time < Duration::from_secs(1) {
        return Err("at least 1s; --end ends it".to_owned());
    }
    Ok(time)
}

#[derive(Serialize)]
struct Answer {
    generation: u64,
    /// Everything that is bypassed now.
    bypassed: Vec<Bypassed>,
}

pub fn run(args: &Args, common: &Common, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let change = match (args.end, args.workload.clone().or(args.rule.clone())) {
        (false, Some(target)) => BypassChange::Begin(target, args.time.as_secs()),
        (true, Some(target)) => BypassChange::End(target),
        // clap has seen to it that one of them is there.
        (_, None) => BypassChange::EndAll,
    };
    let state = args.kernel.state();
    let alone = state.daemon().is_none();
    let (generation, bypassed) = if alone {
        bypass_without_daemon(&args.kernel.bpffs, &state, &change)?
    } else {
        let response =
            args.kernel.order(&Request::Bypass { change: change.clone() }, "", context)?;
        (response.generation, state.bypassed()?)
    };
    context.answer(common, &Answer { generation, bypassed }, |_| match &change {
        BypassChange::Begin(target, _) => {
            let time = humantime::format_duration(args.time);
            format!("{target} is bypassed for {time}: generation {generation}\n")
        }
        BypassChange::End(target) => {
            format!("{target} is no longer bypassed: generation {generation}\n")
        }
        BypassChange::EndAll => format!("nothing is bypassed: generation {generation}\n"),
    })?;
    if alone && matches!(change, BypassChange::Begin(..)) {
        context.note(
            "note: no daemon runs to end it: it lasts until one does, or until \
             `redirector bypass --end`",
        );
    }
    Ok(Exit::Fine)
}
