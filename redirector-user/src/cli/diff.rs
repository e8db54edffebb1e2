//! `redirector diff`

use std::collections::BTreeSet;
use std::path::PathBuf;

use redirector_core::compile::compile;
use redirector_core::plan::{Plan, Verdict};
use serde::Serialize;

use super::config::Documents;
use super::kernel::KernelArgs;
use super::{Common, Context, Exit, Failure};
use crate::output::{Style, destination_name, place_name, route_name, source_name};

/// What the running tables would change if these files were applied; changes nothing
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  redirector diff new-rules/
  redirector diff --output json new-rules/ | jq .entries

An object that is refused would stay at the version in force, as in the daemon.")]
pub struct Args {
    /// Files, directories (every *.yaml, *.yml and *.json below), or - for standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    kernel: KernelArgs,
}

#[derive(Serialize)]
struct Answer {
    /// The generation that it is compared with.
    generation: u64,
    changes: Vec<DifferenceRow>,
    /// How many entries of the kernel's tables would be written.
    entries: Option<usize>,
}

#[derive(Serialize, PartialEq, Eq, Debug)]
struct DifferenceRow {
    /// `frontend`, `route`, `destination`, `workload`.
    kind: &'static str,
    name: String,
    /// What it is now; nothing when it is new.
    before: Option<String>,
    /// What it would be; nothing when it would go.
    after: Option<String>,
}

pub fn run(args: &Args, common: &Common, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let documents = Documents::read(&args.paths);
    documents.insist(context)?;
    let datapath = args.kernel.open()?;
    let (active, image) = datapath.dump_active()?;
    let Some(snapshot) = args.kernel.snapshot(active.generation, context)? else {
        return Err(Failure::input("what is in force is not known by name")
            .help("name the state directory that the daemon uses with --state-dir"));
    };
    let in_force = snapshot.world();
    let mut world = documents.world(snapshot.settings.clone());
    for read in documents.readings.iter().flat_map(|reading| &reading.objects) {
        let (None, Some(reference)) = (&read.object, &read.reference) else { continue };
        let kept = in_force.get(reference);
        context.note(&format!(
            "note: {reference} is refused (see `redirector check`): {}",
            if kept.is_some() { "the version in force would stay" } else { "it would be absent" }
        ));
        if let (Some(kept), None) = (kept, world.get(reference)) {
            world.insert(kept.clone());
        }
    }
    for (name, one) in &snapshot.resolved {
        world.set_resolved(name, one.answer());
    }
    let after = compile(&world).plan;
    let changes = changes(&compile(&in_force).plan, &after);
    let placed = snapshot.contents.layout.place(&after, &datapath.sizes().limits());
    let entries = match &placed {
        Ok((_, wanted)) => Some(image.diff(wanted).len()),
        Err(full) => {
            context.note(&format!("note: it would not be applied: {full}"));
            None
        }
    };
    let answer = Answer { generation: active.generation, changes, entries };
    let names = answer.changes.iter().map(|change| format!("{} {}", change.kind, change.name));
    context.answer_list(common, &answer, names, |style| text(&answer, style))?;
    Ok(Exit::Fine)
}

/// The differences between two Plans, by name.
fn changes(before: &Plan, after: &Plan) -> Vec<DifferenceRow> {
    let mut changes = Vec::new();
    let mut compare = |kind, name: String, before: Option<String>, after: Option<String>| {
        if before != after {
            changes.push(DifferenceRow { kind, name, before, after });
        }
    };
    for id in union(before.frontends.keys(), after.frontends.keys()) {
        let text = |plan: &Plan| {
            let frontend = plan.frontends.get(id)?;
            let mut text = verdict(&frontend.default);
            for (class, exception) in &frontend.exceptions {
                let who = plan.classes.get(class).and_then(|c| c.example.as_ref());
                let who = who.map_or_else(|| "unknown callers".to_owned(), source_name);
                text.push_str(&format!("; for {who} and its like {}", verdict(exception)));
            }
            Some(text)
        };
        let name = format!("{} port {}", id.prefix, id.port);
        compare("frontend", name, text(before), text(after));
    }
    for id in union(before.routes.keys(), after.routes.keys()) {
        let text = |plan: &Plan| {
            let legs = plan.routes.get(id)?;
            let sum: u128 = legs.iter().map(|leg| u128::from(leg.weight)).sum();
            let parts = id.destinations.iter().zip(legs).map(|(destination, leg)| {
                let share = leg.weight as f64 * 100.0 / (sum.max(1)) as f64;
                format!("{share:.2}% {}", destination_name(destination))
            });
            Some(parts.collect::<Vec<_>>().join(", "))
        };
        compare("route", route_name(id), text(before), text(after));
    }
    for id in union(before.destinations.keys(), after.destinations.keys()) {
        let text = |plan: &Plan| {
            let endpoints = &plan.destinations.get(id)?.endpoints;
            let parts = endpoints.iter().map(|endpoint| match endpoint.weight {
                0 => format!("{} (stands by)", endpoint.address),
                1 => endpoint.address.to_string(),
                weight => format!("{} (weight {weight})", endpoint.address),
            });
            let text = parts.collect::<Vec<_>>().join(", ");
            Some(if text.is_empty() { "no endpoints".to_owned() } else { text })
        };
        compare("destination", destination_name(id), text(before), text(after));
    }
    for id in union(before.sources.keys(), after.sources.keys()) {
        let text = |plan: &Plan| Some(place_name(&plan.sources.get(id)?.selector));
        compare("workload", source_name(id), text(before), text(after));
    }
    changes
}

fn union<'k, K: Ord>(
    one: impl Iterator<Item = &'k K>,
    other: impl Iterator<Item = &'k K>,
) -> BTreeSet<&'k K> {
    one.chain(other).collect()
}

fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Pass => "passed through".to_owned(),
        Verdict::Refuse => "refused".to_owned(),
        Verdict::Route(route) => route_name(route),
    }
}

fn text(answer: &Answer, style: Style) -> String {
    let mut text = String::new();
    for change in &answer.changes {
        text.push_str(&style.strong(format!("{} {}", change.kind, change.name)));
        text.push('\n');
        if let Some(before) = &change.before {
            text.push_str(&format!("  {}\n", style.error(format!("- {before}"))));
        }
        if let Some(after) = &change.after {
            text.push_str(&format!("  {}\n", style.good(format!("+ {after}"))));
        }
    }
    let entries = answer.entries.map_or_else(String::new, |n| format!(", {n} table entries"));
    text.push_str(&format!(
        "{} different from generation {}{entries}\n",
        answer.changes.len(),
        answer.generation
    ));
    text
}
