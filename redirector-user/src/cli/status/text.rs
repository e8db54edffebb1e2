//! What `status` shows people.

use std::fmt::Write as _;
use std::path::Path;

use super::{Answer, duration};
use crate::confined::Confined;
use crate::datapath::features::Support;
use crate::output::{Align, Style, Table, known_names, plain};

/// So many names are shown.
const NAMES: usize = 20;

/// What a process may do.
fn capabilities(confined: &Confined) -> String {
    match &*confined.names() {
        [] => "no capabilities".to_owned(),
        names => names.join(", "),
    }
}

/// Health in a word, some lines of figures, what is wrong, and the programs.
pub(super) fn text(answer: &Answer, style: Style) -> String {
    let mut text = String::new();
    let health = if answer.healthy { style.good("healthy") } else { style.error("not healthy") };
    let _ = writeln!(text, "{health}");
    match &answer.daemon {
        Some(daemon) => {
            let _ =
                writeln!(text, "daemon      process {}, version {}", daemon.pid, daemon.version);
            if let Some(confined) = &daemon.process {
                let _ = writeln!(text, "may         {}", capabilities(confined));
            }
        }
        None => {
            let _ = writeln!(text, "daemon      none");
        }
    }
    if let Some(relay) = &answer.relay {
        let confined = &relay.process;
        let (pid, uid, may) = (confined.pid, confined.uid, capabilities(confined));
        let _ = writeln!(text, "relay       process {pid}, user {uid}, {may}");
        if let Some(exempt) = &answer.exempt {
            let _ = writeln!(text, "exempt      {}", plain(&exempt.to_string_lossy()));
        }
    }
    let age = answer.config.age_seconds.map(|age| format!(", {} old", duration(age)));
    let objects = answer.config.objects.map(|count| format!(", {count} objects"));
    let _ = writeln!(
        text,
        "config      generation {}{}{}, epoch {}",
        answer.generation,
        age.unwrap_or_default(),
        objects.unwrap_or_default(),
        answer.epoch
    );
    if let Some(waiting) = &answer.config.waiting {
        let changes = if waiting.changes == 1 { "change" } else { "changes" };
        let oldest = duration(waiting.oldest_seconds);
        let _ =
            writeln!(text, "waiting     {} {changes}, the oldest for {oldest}", waiting.changes);
    }
    // Most of the time it is done when somebody asks.
    if let Some(one) = answer.config.unexamined.as_ref().filter(|one| one.seconds > 1) {
        let (generation, since) = (one.generation, duration(one.seconds));
        let _ = writeln!(
            text,
            "warnings    are older than generation {generation}, in force for {since}"
        );
    }
    let drift = match answer.drift.entries {
        Some(0) => "none".to_owned(),
        Some(entries) => format!("{entries} entries"),
        None => "not known".to_owned(),
    };
    let _ = writeln!(text, "drift       {drift}, mended {} times", answer.drift.repaired);
    let there = answer.features.iter().filter(|one| one.found == Support::Yes).count();
    let _ = writeln!(text, "kernel      {there} of {} features are there", answer.features.len());
    let effective = answer.self_test.iter().filter(|test| test.error.is_none()).count();
    let _ = writeln!(text, "self-test   {effective} of {} passed", answer.self_test.len());
    let draining = answer.draining.endpoints.len();
    if draining > 0 || answer.draining.reset > 0 {
        let reset = answer.draining.reset;
        let endpoints = if draining == 1 { "endpoint" } else { "endpoints" };
        let _ = writeln!(text, "draining    {draining} {endpoints}, {reset} connections reset");
    }
    let _ = writeln!(text, "unknown     {} decisions", answer.unknown_source_decisions);
    for problem in &answer.problems {
        let _ = writeln!(text, "{}: {}", style.error("problem"), plain(problem));
    }
    for warning in &answer.warnings {
        let _ = writeln!(text, "{}: {}", style.warning("warning"), plain(warning));
    }
    if !answer.gateways.is_empty() {
        let columns = ["ADDRESS", "STATE"].map(|name| (name, Align::Left));
        let mut table = Table::grouped("GATEWAY", &columns);
        for listener in &answer.gateways {
            table.group(listener.gateway.clone());
            let state = match (&listener.error, listener.draining) {
                (Some(error), _) => format!("cannot listen: {error}"),
                (None, true) => "drains".to_owned(),
                (None, false) => "listens".to_owned(),
            };
            table.row([listener.address.to_string(), state]);
        }
        let _ = write!(text, "\n{}", table.render(style.columns()));
    }
    if !answer.config.names.is_empty() {
        let first = answer.config.names.iter().take(NAMES);
        let table = known_names(first, crate::daemon::now());
        let _ = write!(text, "\n{}", table.render(style.columns()));
        let more = answer.config.names.len().saturating_sub(NAMES);
        if more > 0 {
            let _ = writeln!(text, "and {more} names more (status --output json)");
        }
    }
    if !answer.programs.is_empty() {
        let mut table = Table::grouped(
            "CGROUP",
            &["HOOK", "RUNS", "ID", "PROGRAM", "OURS"].map(|name| (name, Align::Left)),
        );
        let mut of: Option<&Path> = None;
        for program in &answer.programs {
            let cgroup = program.cgroup.as_path();
            if of.replace(cgroup) != Some(cgroup) {
                table.group(program.cgroup.display().to_string());
            }
            table.row([
                program.hook.clone(),
                program.order.to_string(),
                program.id.to_string(),
                program.name.clone(),
                if program.ours { "yes" } else { "no" }.to_owned(),
            ]);
        }
        let _ = write!(text, "\n{}", table.render(style.columns()));
    }
    text
}
