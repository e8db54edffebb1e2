//! `redirector history`, and `redirector rollback --list`

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use super::kernel::KernelArgs;
use super::{Common, Context, Exit, Failure, Format};
use crate::daemon::now;
use crate::output::{Align, Style, Table};
use crate::state::{HistoryEntry, Replacement, steps_back};

/// So many things are named in a row.
const NAMED: usize = 3;

/// What changed, when, by whom, and what `rollback` would return to
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  redirector history              # what people changed, the newest first
  redirector history --all        # also what moved by itself, a row each
  redirector history --output json | jq '.generations[0].objects'

ROLLBACK says which N `redirector rollback N` returns there. What is kept is
what `redirector run --history` says. It works without a daemon.")]
pub struct Args {
    /// A row for each generation
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    kernel: KernelArgs,
}

#[derive(Serialize)]
struct Answer<'a> {
    /// The newest first.
    generations: Vec<Generation<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Generation<'a> {
    #[serde(flatten)]
    entry: &'a HistoryEntry,
    /// What changed, in words.
    what: String,
    /// Which N of `rollback N` returns there.
    rollback: Option<usize>,
    /// Why none does, where it is an earlier configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    damaged: Option<String>,
    /// It is in force.
    in_force: bool,
}

impl Generation<'_> {
    /// Whether `rollback` returns there, or would if that could be read.
    fn is_earlier(&self) -> bool {
        self.rollback.is_some() || self.damaged.is_some()
    }
}

impl Answer<'_> {
    fn names(&self) -> impl Iterator<Item = String> {
        self.generations.iter().map(|one| one.entry.head.generation.to_string())
    }
}

/// Generations that are told as one.
struct Row<'a> {
    /// The newest first.
    of: Vec<&'a Generation<'a>>,
    what: String,
}

pub fn run(args: &Args, common: &Common, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let history = read(&args.kernel)?;
    let answer = Answer { generations: generations(&args.kernel, &history, common, context) };
    context.answer_list(common, &answer, answer.names(), |style| {
        let by_itself = |one: &Generation<'_>| {
            let HistoryEntry { head, is_change, is_first, .. } = one.entry;
            let told = head.of_generation.or(head.repeats).is_some();
            !args.all && !is_change && !is_first && !told && !head.partial && !one.in_force
        };
        table(&rows(&answer.generations, by_itself), style)
    })?;
    Ok(Exit::Fine)
}

/// What `rollback` may return to.
pub fn list(
    kernel: &KernelArgs,
    common: &Common,
    context: &mut Context<'_>,
) -> Result<Exit, Failure> {
    let history = read(kernel)?;
    let mut generations = generations(kernel, &history, common, context);
    generations.retain(Generation::is_earlier);
    let answer = Answer { generations };
    context.answer_list(common, &answer, answer.names(), |style| {
        match answer.generations.as_slice() {
            [] => "there is no earlier configuration to return to\n".to_owned(),
            all => table(&rows(all, |_| false), style),
        }
    })?;
    Ok(Exit::Fine)
}

fn read(kernel: &KernelArgs) -> Result<Vec<HistoryEntry>, Failure> {
    let state = kernel.state();
    let mut history = state.history()?;
    history.retain(|entry| entry.head.generation != 0);
    if history.is_empty() {
        let directory = state.path().display();
        let message = format!("{directory} holds no history: no daemon has put anything in force");
        let help = "name the daemon's directory with --state-dir, or start `redirector run`";
        return Err(Failure::new(Exit::NotLoaded, message).help(help));
    }
    Ok(history)
}

fn generations<'a>(
    kernel: &KernelArgs,
    history: &'a [HistoryEntry],
    common: &Common,
    context: &mut Context<'_>,
) -> Vec<Generation<'a>> {
    let last = history.last().map(|entry| entry.head);
    let current = last.map_or(0, |head| head.repeats.unwrap_or(head.generation));
    let hold = kernel.report_or_last(context).hold;
    let back = steps_back(history, hold.map_or(current, |hold| hold.of_generation));
    let damaged = kernel.state().damaged(&back);
    let lost = damaged.values().next();
    lost.inspect(|why| context.note(&format!("note: `rollback` cannot return everywhere: {why}")));
    let most = if common.output == Format::Text { NAMED } else { usize::MAX };
    let generation = |entry: &'a HistoryEntry| {
        let of = entry.head.generation;
        let steps = back.iter().position(|one| *one == of).map(|at| at + 1);
        Generation {
            entry,
            what: what(entry, most),
            rollback: steps.filter(|_| !damaged.contains_key(&of)),
            damaged: damaged.get(&of).cloned(),
            in_force: last.is_some_and(|last| last.generation == of),
        }
    };
    history.iter().rev().map(generation).collect()
}

/// A row for each generation, but for those that are parts of one load, and for
/// neighbours that change what changes by itself.
fn rows<'a>(
    generations: &'a [Generation<'a>],
    by_itself: impl Fn(&Generation<'_>) -> bool,
) -> Vec<Row<'a>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for one in generations {
        let last = rows.last().and_then(|row| row.of.last());
        // Where rollback returns to there is a row of its own, up to there.
        let alike = last.is_some_and(|last| by_itself(last)) && !one.is_earlier();
        match rows.last_mut() {
            Some(row) if one.entry.head.partial || by_itself(one) && alike => row.of.push(one),
            _ => rows.push(Row { of: vec![one], what: String::new() }),
        }
    }
    for row in &mut rows {
        row.what = match row.of.as_slice() {
            [one] => one.what.clone(),
            all if all.iter().all(|one| by_itself(one)) => {
                format!("endpoints and names, {} times", all.len())
            }
            all => {
                let objects: usize = all.iter().map(|one| one.entry.objects.len()).sum();
                let first = all.last().map_or("", |one| &one.what);
                format!("a load in {} parts, of {objects} objects: {first}", all.len())
            }
        };
    }
    rows
}

fn table(rows: &[Row<'_>], style: Style) -> String {
    let mut table = Table::new(&[
        ("GENERATION", Align::Right),
        ("ROLLBACK", Align::Right),
        ("WHEN", Align::Whole),
        ("BY", Align::Left),
        ("WHAT", Align::Left),
    ]);
    for Row { of, what } in rows {
        let (Some(newest), Some(oldest)) = (of.first(), of.last()) else { continue };
        let (from, to) = (oldest.entry.head.generation, newest.entry.head.generation);
        let mark = match newest.in_force {
            true => "in force",
            false if of.iter().any(|one| one.damaged.is_some()) => "damaged",
            false => "",
        };
        let rollback = of.iter().find_map(|one| one.rollback);
        table.row([
            if from == to { to.to_string() } else { format!("{from}-{to}") },
            rollback.map_or_else(|| mark.to_owned(), |steps| steps.to_string()),
            at(newest.entry.head.made),
            authors(of),
            what.clone(),
        ]);
    }
    table.render(style.columns())
}

/// Who wrote what is another.
fn authors(of: &[&Generation<'_>]) -> String {
    let objects = of.iter().flat_map(|one| &one.entry.objects);
    let all: BTreeSet<&Arc<str>> = objects.filter_map(|one| one.by.as_ref()).collect();
    let named: Vec<&str> = all.iter().take(NAMED).map(|by| &***by).collect();
    match all.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// When, and how long ago.
fn at(made: u64) -> String {
    let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(made));
    let seconds = now().saturating_sub(made);
    let (count, unit) = match seconds {
        0..120 => (seconds, "s"),
        120..7_200 => (seconds / 60, "min"),
        7_200..172_800 => (seconds / 3_600, "h"),
        _ => (seconds / 86_400, "days"),
    };
    format!("{time} ({count} {unit} ago)")
}

/// What a generation changed, in words; of each kind of change so many objects are named.
fn what(entry: &HistoryEntry, most: usize) -> String {
    let HistoryEntry { head, objects, names, settings, is_first, .. } = entry;
    let mut parts = Vec::new();
    if let Some(of) = head.of_generation {
        parts.push(format!("rollback to generation {of}"));
    }
    if head.repeats.is_some() {
        parts.push("what is bypassed is other".to_owned());
    }
    if *is_first {
        parts.push("the oldest that is kept".to_owned());
    }
    let of = |is: fn(&Replacement) -> bool| objects.iter().filter(move |one| is(one));
    let objects = [
        ("new", of(|one| one.before.is_none())),
        ("changed", of(|one| one.before.is_some() && one.after.is_some())),
        ("gone", of(|one| one.after.is_none())),
    ];
    for (word, some) in objects {
        parts.extend(listed(word, some.map(|one| &*one.object), most));
    }
    parts.extend(listed("resolve to something else", names.iter().map(|name| &**name), most));
    if *settings {
        parts.push("settings".to_owned());
    }
    if parts.is_empty() {
        parts.push("the same in other tables or numbers".to_owned());
    }
    parts.join("; ")
}

fn listed<'n>(word: &str, names: impl Iterator<Item = &'n str>, most: usize) -> Option<String> {
    let names: Vec<&str> = names.collect();
    let more = names.len().saturating_sub(most);
    let named = names.iter().take(most).copied().collect::<Vec<_>>().join(", ");
    match (names.len(), more) {
        (0, _) => None,
        (_, 0) => Some(format!("{word}: {named}")),
        (_, more) => Some(format!("{word}: {named} and {more} more")),
    }
}

#[cfg(test)]
mod tests;
