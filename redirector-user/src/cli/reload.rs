//! `redirector reload`

use std::fmt::Write as _;

use serde::Serialize;

use super::kernel::KernelArgs;
use super::{Common, Context, Exit, Failure};
use crate::daemon::control::Request;
use crate::output::{Style, plain};
use crate::state::{Hold, Refused};

/// Has the running daemon read its files again now, and says what came of it
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  redirector reload

Files that change are read without it: this is for scripts that want to know
when, and whether all of it is in force. Exit code 1 when it is not.")]
pub struct Args {
    #[command(flatten)]
    kernel: KernelArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    /// The generation in force.
    generation: u64,
    /// That before they were read.
    before: u64,
    /// What of it is not in force.
    rejected: Vec<Refused>,
    /// Why none of it is, when that is so.
    apply_error: Option<String>,
    /// An earlier configuration that is held instead.
    hold: Option<Hold>,
}

pub fn run(args: &Args, common: &Common, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let request = Request::Reread;
    let response = args.kernel.order(&request, "and it is the daemon that reads", context)?;
    let report = response.report.ok_or_else(|| {
        let message =
            "the daemon is of an earlier version: it reads again, and does not say what came of it";
        Failure::new(Exit::No, message).help("redirector status shows it in a moment")
    })?;
    let answer = Answer {
        generation: response.generation,
        before: response.before.unwrap_or(response.generation),
        rejected: report.rejected,
        apply_error: report.apply_error,
        hold: report.hold,
    };
    let fine = answer.rejected.is_empty() && answer.apply_error.is_none() && answer.hold.is_none();
    let written = context.answer(common, &answer, |style| text(&answer, style));
    context.answered(written, if fine { Exit::Fine } else { Exit::No })
}

fn text(answer: &Answer, style: Style) -> String {
    let (generation, before) = (answer.generation, answer.before);
    let mut text = match generation == before {
        true => format!("nothing has changed: generation {generation}\n"),
        false => format!("generation {generation} is in force, after {before}\n"),
    };
    let problem = style.error("problem");
    for refused in &answer.rejected {
        let _ = writeln!(text, "{problem}: {}", plain(&refused.to_string()));
    }
    if let Some(error) = &answer.apply_error {
        let _ = writeln!(text, "{problem}: it is not in force: {}", plain(error));
    }
    if let Some(hold) = &answer.hold {
        let _ = writeln!(
            text,
            "{problem}: generation {} is held by rollback (redirector rollback --release)",
            hold.of_generation
        );
    }
    text
}
