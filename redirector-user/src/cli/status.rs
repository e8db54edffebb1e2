//! `redirector status`

use std::fmt::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use redirector_core::compile::compile;
use redirector_core::drain::Draining;
use redirector_core::model::SourceId;
use serde::Serialize;

use super::kernel::KernelArgs;
use super::neighbours;
use super::{Common, Context, Exit, Failure};
use crate::datapath::features::{self, Feature, Found};
use crate::datapath::{Active, Attached, Datapath, Hook};
use crate::identity::Resolver;
use crate::mounts;
use crate::output::{Style, Table, plain};
use crate::state::{
    Bypassed, GatewayListener, Report, Snapshot, StateDir, Tested, UnknownWorkload,
};

/// Health: what is attached and effective, what is in force, and what is not
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  redirector status
  redirector status --output json | jq .problems

Exit code 0 when connections are decided as they should be, also when no daemon
runs; 1 when not; 4 when nothing is loaded.")]
pub struct Args {
    #[command(flatten)]
    kernel: KernelArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    healthy: bool,
    /// What is wrong: exit code 1.
    problems: Vec<String>,
    /// What is worth a look.
    warnings: Vec<String>,
    daemon: Option<DaemonRow>,
    generation: u64,
    epoch: u64,
    in_step: bool,
    config: ConfigRow,
    programs: Vec<ProgramRow>,
    self_test: Vec<Tested>,
    drift: DriftRow,
    identity_gaps: Vec<UnknownWorkload>,
    /// What is left alone, and until when.
    bypassed: Vec<Bypassed>,
    draining: DrainingRow,
    gateways: Vec<GatewayListener>,
    /// What the kernel has of what is needed.
    features: Vec<Feature>,
    /// Decisions that asked for the source of a caller in no known workload.
    unknown_source_decisions: u64,
}

#[derive(Serialize)]
struct DaemonRow {
    pid: u32,
    version: String,
    started: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConfigRow {
    paths: Vec<std::path::PathBuf>,
    age_seconds: Option<u64>,
    objects: Option<usize>,
    rejected: Vec<crate::state::Refused>,
    warnings: usize,
    apply_error: Option<String>,
    hold: Option<crate::state::Hold>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProgramRow {
    cgroup: std::path::PathBuf,
    hook: String,
    order: usize,
    id: u32,
    name: String,
    ours: bool,
    /// The cgroup that it is attached to: this one, or one above it.
    attached_at: std::path::PathBuf,
    /// Nobody else can attach there or below.
    exclusive: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DrainingRow {
    /// Endpoints that have gone, and when, in milliseconds since 1970,
    /// connections to them are reset.
    endpoints: Draining,
    /// How many connections the daemon reset.
    reset: u64,
    /// Why it could not, when that is so.
    error: Option<String>,
}

#[derive(Serialize)]
struct DriftRow {
    /// Table entries that differ from what they should be; nothing when that
    /// cannot be known.
    entries: Option<usize>,
    /// How often the daemon mended some.
    repaired: u64,
}

pub fn run(args: &Args, common: &Common, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let state = args.kernel.state();
    let datapath = args.kernel.open()?;
    let (active, image) = datapath.dump_active()?;
    let snapshot = args.kernel.snapshot(active.generation, context)?;
    let report = state.report().unwrap_or_else(|error| {
        context.note(&format!("note: {error}"));
        None
    });
    let report = report.unwrap_or_default();
    let drift = snapshot.as_ref().and_then(|snapshot| {
        let plan = compile(&snapshot.world()).plan;
        let (_, wanted) = snapshot.contents.layout.place(&plan, &datapath.sizes().limits()).ok()?;
        Some(image.diff(&wanted.without_zeroes()).len())
    });
    let answer = answer(&state, &datapath, active, snapshot.as_ref(), report, drift)?;
    let written = context.answer(common, &answer, |style| text(&answer, style));
    context.answered(written, if answer.healthy { Exit::Fine } else { Exit::No })
}

fn answer(
    state: &StateDir,
    datapath: &Datapath,
    active: Active,
    snapshot: Option<&Snapshot>,
    report: Report,
    drift: Option<usize>,
) -> Result<Answer, Failure> {
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    let pid = state.daemon();
    if pid.is_none() {
        warnings.push(
            "no daemon runs: the kernel goes on with what it has, and changes are not followed"
                .to_owned(),
        );
    }
    if active.generation == 0 {
        problems.push("no configuration was ever put in force".to_owned());
    } else if snapshot.is_none() {
        problems.push(format!(
            "the state directory knows nothing of generation {}, which is in force",
            active.generation
        ));
    }
    if !active.in_step {
        warnings.push("the idle side of the tables lies behind; the next change mends it".into());
    }
    let attached = datapath.attachments()?;
    programs(&attached, &mut problems);
    let below = datapath.attachments_below()?;
    warnings.extend(neighbours::programs(&attached, &below));
    warnings.extend(snapshot.and_then(|snapshot| neighbours::sidecars(&snapshot.world())));
    let self_test: Vec<Tested> = datapath
        .self_test()?
        .into_iter()
        .map(|test| Tested {
            cgroup: test.cgroup,
            hook: test.hook.name().to_owned(),
            error: test.outcome.err(),
        })
        .collect();
    for test in &self_test {
        if let Some(error) = &test.error {
            let cgroup = test.cgroup.display();
            problems.push(format!("{} at {cgroup} is not effective: {error}", test.hook));
        }
    }
    match drift {
        Some(0) | None => {}
        Some(entries) => problems.push(format!(
            "{entries} entries of the kernel's tables differ from what they should be"
        )),
    }
    if let Some(error) = &report.apply_error {
        problems.push(format!("the newest configuration is not in force: {error}"));
    }
    for one in &report.rejected {
        let (what, kept) = match (&one.object, one.kept) {
            (Some(object), true) => (object.as_str(), "its last good version stays"),
            (Some(object), false) => (object.as_str(), "it is absent"),
            (None, true) => ("the file", "the last good version of its objects stays"),
            (None, false) => ("the file", "nothing of it is in force"),
        };
        let first = one.diagnostics.first();
        let why = first.map_or("", |d| d.message.as_str());
        let line = first.map_or(0, |d| d.line);
        let place = if line == 0 { one.file.clone() } else { format!("{}:{line}", one.file) };
        warnings.push(format!("{place}: {what} is refused, {kept}: {why}"));
    }
    warnings.extend(report.not_read.iter().map(|what| format!("when the daemon started: {what}")));
    if let Some(snapshot) = snapshot {
        problems.extend(snapshot.lost.iter().map(|lost| format!("of what is in force, {lost}")));
    }
    if let Some(hold) = &report.hold {
        warnings.push(format!(
            "the configuration of generation {} is held by rollback",
            hold.of_generation
        ));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let bypassed = state.bypassed().unwrap_or_else(|error| {
        warnings.push(error.to_string());
        Vec::new()
    });
    for one in &bypassed {
        let left = one.until.saturating_sub(now);
        warnings.push(match (left, pid) {
            (0, None) => format!(
                "{} is bypassed, its time is over, and no daemon runs to end it (redirector \
                 bypass --end)",
                one.target
            ),
            _ => format!("{} is bypassed for another {}", one.target, duration(left)),
        });
    }
    let draining = draining(state, &report, pid, &mut warnings);
    let features = features::probe();
    for missing in features.iter().filter(|feature| feature.found == Found::No) {
        let line = format!(
            "this kernel has no {} (since {}), needed for {}: {}",
            missing.needs, missing.since, missing.name, missing.without
        );
        if missing.required { problems.push(line) } else { warnings.push(line) }
    }
    let gaps = gaps(datapath, snapshot)?;
    warnings.extend(report.unserved.iter().cloned());
    for gap in &gaps {
        warnings.push(format!("{} cannot be told: {}", gap.workload, gap.because));
    }
    // Without its daemon nothing listens.
    let gateways = if pid.is_some() { report.gateways.clone() } else { Vec::new() };
    for listener in &gateways {
        if let Some(error) = &listener.error {
            problems.push(format!(
                "{} cannot listen at {}: {error}",
                listener.gateway, listener.address
            ));
        }
    }
    if pid.is_none() && !report.gateways.is_empty() {
        problems.push("no daemon runs, so the gateways of this node are not served".to_owned());
    }
    Ok(Answer {
        healthy: problems.is_empty(),
        problems,
        warnings,
        daemon: pid.map(|pid| DaemonRow {
            pid,
            version: report.version.clone(),
            started: report.started,
        }),
        generation: active.generation,
        epoch: active.epoch,
        in_step: active.in_step,
        config: ConfigRow {
            paths: report.config,
            age_seconds: snapshot.map(|snapshot| now.saturating_sub(snapshot.made)),
            objects: snapshot.map(|snapshot| snapshot.contents.objects.len()),
            rejected: report.rejected,
            warnings: report.warnings,
            apply_error: report.apply_error,
            hold: report.hold,
        },
        programs: attached
            .into_iter()
            .chain(below)
            .map(|program| ProgramRow {
                cgroup: program.cgroup,
                hook: program.hook.name().to_owned(),
                order: program.order,
                id: program.program_id,
                name: program.name,
                ours: program.ours,
                attached_at: program.at,
                exclusive: program.exclusive,
            })
            .collect(),
        self_test,
        drift: DriftRow { entries: drift, repaired: report.drift_repaired },
        identity_gaps: gaps,
        bypassed,
        draining,
        gateways,
        features,
        unknown_source_decisions: datapath.counters()?.totals.unknown_source,
    })
}

/// The endpoints that drain.
fn draining(
    state: &StateDir,
    report: &Report,
    pid: Option<u32>,
    warnings: &mut Vec<String>,
) -> DrainingRow {
    let endpoints = state.draining().unwrap_or_else(|error| {
        warnings.push(error.to_string());
        Draining::new()
    });
    if pid.is_none() && !endpoints.is_empty() {
        warnings.push(format!(
            "no daemon runs, so connections to endpoints that have gone are not reset: {}",
            endpoints.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ));
    }
    if let Some(error) = &report.drain_error {
        warnings.push(format!("connections to endpoints that have gone go on: {error}"));
    }
    DrainingRow { endpoints, reset: report.connections_reset, error: report.drain_error.clone() }
}

/// What is missing on the hooks.
fn programs(attached: &[Attached], problems: &mut Vec<String>) {
    let mut cgroups: Vec<_> = attached.iter().map(|program| &program.cgroup).collect();
    cgroups.dedup();
    if !attached.iter().any(|program| program.ours) {
        problems.push("no program is attached".to_owned());
        return;
    }
    for cgroup in cgroups {
        for hook in
            [Hook::Connect4, Hook::Connect6, Hook::Getpeername4, Hook::Getpeername6, Hook::Release]
        {
            let here = |one: &&Attached| one.cgroup == *cgroup && one.hook == hook;
            if !attached.iter().filter(here).any(|one| one.ours) {
                let (hook, cgroup) = (hook.name(), cgroup.display());
                problems.push(format!("our program is not attached to {hook} of {cgroup}"));
            }
        }
    }
}

/// The workloads of the configuration in force whose processes the kernel
/// cannot tell, looked for now.
fn gaps(datapath: &Datapath, snapshot: Option<&Snapshot>) -> Result<Vec<UnknownWorkload>, Failure> {
    let Some(snapshot) = snapshot else { return Ok(Vec::new()) };
    let known: Vec<u32> = datapath.sources()?.into_iter().map(|(_, number)| number).collect();
    let mut resolver = Resolver::new(mounts::cgroup2().ok().flatten().unwrap_or_default());
    let world = snapshot.world();
    let registry = redirector_core::registry::Registry::new(&world);
    let mut gaps = Vec::new();
    for workload in registry.workloads.sources() {
        let (namespace, name) = (workload.object.namespace.clone(), workload.object.name.clone());
        let id = SourceId { namespace, name };
        let identity = snapshot.contents.layout.identity(&id);
        if identity.is_some_and(|identity| known.contains(&identity)) {
            continue;
        }
        let Some(selector) = &workload.source else { continue };
        let because = match resolver.resolve(selector) {
            Err(why) => why.to_string(),
            Ok(_) => "it is there, and the kernel has not been told yet".to_owned(),
        };
        gaps.push(UnknownWorkload { workload: format!("{}/{}", id.namespace, id.name), because });
    }
    Ok(gaps)
}

fn text(answer: &Answer, style: Style) -> String {
    let mut text = String::new();
    let health = if answer.healthy { style.good("healthy") } else { style.error("not healthy") };
    let _ = writeln!(text, "{health}");
    match &answer.daemon {
        Some(daemon) => {
            let _ =
                writeln!(text, "daemon      process {}, version {}", daemon.pid, daemon.version);
        }
        None => {
            let _ = writeln!(text, "daemon      none");
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
    let drift = match answer.drift.entries {
        Some(0) => "none".to_owned(),
        Some(entries) => format!("{entries} entries"),
        None => "not known".to_owned(),
    };
    let _ = writeln!(text, "drift       {drift}, mended {} times", answer.drift.repaired);
    let there = answer.features.iter().filter(|one| one.found == Found::Yes).count();
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
    if !answer.programs.is_empty() {
        let mut table = Table::left(&["CGROUP / HOOK", "RUNS", "ID", "PROGRAM", "OURS"]);
        let mut of: Option<&Path> = None;
        for program in &answer.programs {
            let cgroup = program.cgroup.as_path();
            if of.replace(cgroup) != Some(cgroup) {
                table.over(program.cgroup.display().to_string());
            }
            table.row([
                format!("  {}", program.hook),
                program.order.to_string(),
                program.id.to_string(),
                program.name.clone(),
                if program.ours { "yes" } else { "no" }.to_owned(),
            ]);
        }
        let _ = write!(text, "\n{}", table.render());
    }
    text
}

fn duration(seconds: u64) -> String {
    humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string()
}
