//! `redirector connections close`

use serde::Serialize;

use super::super::{Common, Context, Exit, Failure};
use super::rows::{self, Row};
use super::{Args, text};
use crate::datapath::reset::{Connections, Wanted, reset};

/// The answer.
#[derive(Serialize)]
struct Answer {
    /// How many were to be reset.
    wanted: usize,
    /// The cookies of those that were.
    reset: Vec<u64>,
    /// The cookies of those that were not found: they have ended meanwhile, or are in a network
    /// namespace that is not seen.
    missing: Vec<u64>,
    /// Why it was not possible, when it was not.
    error: Option<String>,
}

pub fn run(args: &Args, common: &Common, context: &mut Context<'_>) -> Result<Exit, Failure> {
    if args.which.is_all() != args.all {
        let message = match args.all {
            true => "--all is every connection, and others are asked for, too",
            false => "it is not said which connections",
        };
        return Err(Failure::new(Exit::Usage, message)
            .help("name them by --workload, --pid, --route or --address, or say --all"));
    }
    if !args.yes && !context.env.in_is_terminal {
        return Err(Failure::new(Exit::Usage, "nobody is there to be asked")
            .help("say --yes to reset them without a question"));
    }
    let (mut rows, mut partial) = rows::read(&args.kernel, &args.which, context)?;
    let is_meant = |row: &Row| args.which.takes(row.about()).is_some();
    let unsure = rows.iter().filter(|row| !is_meant(row)).count();
    if unsure > 0 && args.yes {
        rows.retain(is_meant);
        partial = true;
        context.note(&format!(
            "note: {unsure} that may be by another rule are left alone: without --yes it is asked, \
             and --address, --workload and --pid name them"
        ));
    }
    if !rows.is_empty() && !args.yes {
        let shown = text(&rows, context.err_style());
        context.note(shown.trim_end());
        let of_others = match unsure {
            0 => String::new(),
            _ => format!(", {unsure} of which may be by another rule"),
        };
        if !context.ask(&format!("Reset these {} connections{of_others}?", rows.len())) {
            return Ok(Exit::No);
        }
    }
    let known: Connections = rows.iter().map(|row| (row.cookie, row.endpoint)).collect();
    let wanted = Wanted { known, ..Wanted::default() };
    let (done, error) = match wanted.known.is_empty() {
        true => (Connections::new(), None),
        // It goes from network namespace to network namespace.
        false => match std::thread::scope(|scope| scope.spawn(|| reset(&wanted)).join()) {
            Ok(Ok(done)) => (done, None),
            Ok(Err((done, error))) => (done, Some(error.to_string())),
            Err(_) => (Connections::new(), Some("the thread that resets has panicked".to_owned())),
        },
    };
    let missing = wanted.known.keys().filter(|cookie| !done.contains_key(cookie));
    let answer = Answer {
        wanted: wanted.known.len(),
        missing: missing.copied().collect(),
        reset: done.into_keys().collect(),
        error,
    };
    let matches_nothing = answer.wanted == 0 && !args.all;
    let exit = match (&answer.error, answer.missing.is_empty()) {
        (_, true) if partial || matches_nothing => Exit::No,
        (_, true) => Exit::Fine,
        (Some(_), false) => Exit::Unable,
        (None, false) => Exit::No,
    };
    let names = answer.reset.iter().map(u64::to_string);
    context.answer_list(common, &answer, names, |_| said(&answer))?;
    Ok(exit)
}

fn said(answer: &Answer) -> String {
    let Answer { wanted, reset, missing, error } = answer;
    let mut text = format!("{} of {wanted} were reset\n", reset.len());
    if !missing.is_empty() {
        text += &match error {
            Some(error) => format!("{} were not: {error}\n", missing.len()),
            None => format!(
                "{} were not found: they have ended meanwhile, were reset before and are not \
                 closed by their processes yet, or are in network namespaces that are not in \
                 /proc or /run/netns here\n",
                missing.len()
            ),
        };
    }
    text
}
