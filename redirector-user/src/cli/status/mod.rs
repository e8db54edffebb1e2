//! `redirector status`

pub(super) mod gateways;
mod text;
mod workloads;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redirector_core::compile::compile;
use redirector_core::drain::{Draining, by_destination, by_endpoint, to_tell};
use serde::Serialize;

use super::config::interval;
use super::kernel::{KernelArgs, Known};
use super::neighbours;
use super::{Common, Context, Exit, Failure};
use crate::confined::Confined;
use crate::daemon::control::Request;
use crate::datapath::features::{self, Feature, Support};
use crate::datapath::{self, Active, Attached, Datapath, Hook, Standing};
use crate::proxy::RelayStatus;
use crate::state::{
    Bypassed, GatewayListener, Report, Snapshot, StateDir, Tested, UnknownWorkload,
};

/// Health: what is attached and effective, what is in force, and what is not
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  redirector status
  redirector status --watch
  redirector status --output json | jq .problems

Exit code 0 when connections are decided as they should be, also when no daemon
runs; 1 when not, or when that cannot be told: also when a file or object is not
in force, a watch does not work, or a share has lost its last endpoint; 3
without the privilege to look; 4 when nothing is loaded.")]
pub struct Args {
    /// Go on, and show it anew every so often [default: 2s]
    #[arg(long, short, value_name = "TIME", num_args = 0..=1, default_missing_value = "2s", value_parser = interval)]
    watch: Option<Duration>,
    #[command(flatten)]
    kernel: KernelArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    healthy: bool,
    /// What is wrong: exit code 1.
    pub(super) problems: Vec<String>,
    /// What is worth a look.
    pub(super) warnings: Vec<String>,
    pub(super) daemon: Option<DaemonRow>,
    pub(super) generation: u64,
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
    /// The process that relays connections of gateways.
    relay: Option<RelayStatus>,
    /// The cgroup whose connects are never redirected, nor those of all below it.
    exempt: Option<std::path::PathBuf>,
    /// How the watches of the API server are doing.
    watches: Vec<crate::state::Watching>,
    /// Endpoints to which gateways fail to connect.
    failing_endpoints: Vec<crate::state::FailingEndpoint>,
    /// Gateways that let clients wait.
    starved_gateways: Vec<crate::state::StarvedGateway>,
    /// What the kernel has of what is needed.
    features: Vec<Feature>,
    /// Decisions that asked for the source of a caller in no known workload.
    unknown_source_decisions: u64,
}

#[derive(Serialize)]
pub(super) struct DaemonRow {
    pub(super) pid: u32,
    version: String,
    started: u64,
    /// What it may do; some of its threads may do less.
    process: Option<Confined>,
    /// That it does not answer, when it does not, which one of the problems says.
    #[serde(skip)]
    pub(super) silent: Option<Failure>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConfigRow {
    paths: Vec<std::path::PathBuf>,
    age_seconds: Option<u64>,
    objects: Option<usize>,
    rejected: Vec<crate::state::Refused>,
    /// How many warnings there are about what is in force.
    warnings: usize,
    /// The first hundred of them.
    findings: Vec<crate::state::Finding>,
    /// Shares that had an endpoint and have none now.
    emptied: Vec<crate::state::EmptiedShare>,
    /// Names that do not resolve.
    unresolved: Vec<crate::state::UnresolvedName>,
    /// All names that are resolved, and to what.
    names: Vec<crate::state::KnownName>,
    apply_error: Option<String>,
    /// Why it cannot be pinned, or looked at, when that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pin_error: Option<String>,
    /// Why what the daemon knows cannot be, when that is so.
    report_error: Option<String>,
    hold: Option<crate::state::Hold>,
    /// What was read and is not in force yet, when there is a daemon to see to it.
    waiting: Option<WaitingRow>,
    /// What is in force and not looked through yet: the findings are of what was before.
    unexamined: Option<UnexaminedRow>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UnexaminedRow {
    /// The first generation with a change of what people write that is not looked through.
    generation: u64,
    /// For how long it is in force.
    seconds: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WaitingRow {
    /// How many changes.
    changes: usize,
    /// For how long the oldest of them waits.
    oldest_seconds: u64,
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

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct DrainingRow {
    /// Endpoints that have gone, each once, and when, in milliseconds since 1970, the first
    /// connections to them are reset.
    endpoints: BTreeMap<SocketAddr, u64>,
    /// What each of those has left that are still endpoints of others, and when connections
    /// that were made by it are reset.
    destinations: BTreeMap<SocketAddr, BTreeMap<Arc<str>, u64>>,
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

impl DaemonRow {
    fn new(pid: u32, report: &Report, silent: Option<Failure>) -> Self {
        let (version, process) = (report.version.clone(), report.process.clone());
        Self { pid, version, started: report.started, process, silent }
    }
}

impl ConfigRow {
    fn new(report: &Report, snapshot: Option<&Snapshot>, now: u64) -> Self {
        Self {
            paths: report.config.clone(),
            age_seconds: snapshot.map(|snapshot| now.saturating_sub(snapshot.made)),
            objects: snapshot.map(|snapshot| snapshot.contents.objects.len()),
            rejected: report.rejected.clone(),
            warnings: report.warnings,
            findings: report.findings.clone(),
            emptied: report.emptied.clone(),
            unresolved: report.unresolved.clone(),
            names: report.names.clone(),
            apply_error: report.apply_error.clone(),
            pin_error: report.pin_error.clone(),
            report_error: report.report_error.clone(),
            hold: report.hold.clone(),
            waiting: report.waiting.map(|waiting| WaitingRow {
                changes: waiting.changes,
                oldest_seconds: now.saturating_sub(waiting.since),
            }),
            unexamined: report.unexamined.map(|one| UnexaminedRow {
                generation: one.generation,
                seconds: now.saturating_sub(one.since),
            }),
        }
    }
}

pub fn run(args: &Args, common: &Common, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let Some(watch) = args.watch else {
        let answer = look(&args.kernel, context)?;
        let written = show(&answer, "", common, context);
        return context.answered(written, if answer.healthy { Exit::Fine } else { Exit::No });
    };
    // Over what stands there, in a terminal; elsewhere one after the other.
    let clear = if context.env.out_is_terminal { "\x1b[H\x1b[2J" } else { "" };
    loop {
        match (look(&args.kernel, context), common.output.encoding()) {
            (Ok(answer), Some(encoding)) => context.print_record(encoding, &answer)?,
            (Ok(answer), None) => show(&answer, clear, common, context)?,
            // It may be loaded in a moment.
            (Err(failure), _) if failure.exit == Exit::NotLoaded => {
                context.print(clear)?;
                context.note(&format!("note: {}", failure.message));
            }
            (Err(failure), _) => return Err(failure),
        }
        std::thread::sleep(watch);
    }
}

fn show(
    answer: &Answer,
    clear: &str,
    common: &Common,
    context: &mut Context<'_>,
) -> Result<(), Failure> {
    let programs = answer.programs.iter();
    let names = programs.map(|one| format!("{}/{}", one.cgroup.display(), one.hook));
    context
        .answer_list(common, answer, names, |style| format!("{clear}{}", text::text(answer, style)))
}

/// Looks at everything.
pub(super) fn look(kernel: &KernelArgs, context: &mut Context<'_>) -> Result<Answer, Failure> {
    let known = kernel.report();
    match kernel.open() {
        // There is a daemon, and it waits for something.
        Err(failure) if failure.exit == Exit::NotLoaded && known.pid.is_some() => {
            Ok(nothing_in_force(known, &failure))
        }
        Err(failure) => Err(failure),
        Ok(datapath) => {
            let (active, image) = datapath.dump_active()?;
            let snapshot = kernel.snapshot(active.generation, context)?;
            // What cannot be read is nothing that the kernel could differ from.
            let whole = snapshot.as_ref().filter(|snapshot| snapshot.lost.is_empty());
            let drift = whole.and_then(|snapshot| {
                let plan = compile(&snapshot.world()).plan;
                let limits = datapath.sizes().limits();
                let (_, wanted) = snapshot.contents.layout.place(&plan, &limits).ok()?;
                Some(image.diff(&wanted).len())
            });
            let standing = standing(kernel, &datapath)?;
            answer(&kernel.state(), &datapath, standing, active, snapshot.as_ref(), known, drift)
        }
    }
}

/// How the programs stand: for those who may not see it themselves, by the daemon's word;
/// or why it cannot be told.
fn standing(kernel: &KernelArgs, datapath: &Datapath) -> Result<Result<Standing, String>, Failure> {
    let hidden = match datapath.standing() {
        Err(error @ datapath::Error::Hidden { .. }) => error,
        standing => return Ok(Ok(standing?)),
    };
    let answer = kernel.ask(&Request::Standing, "and nobody else may ask the kernel");
    let standing = answer.map(|answer| answer.standing);
    Ok(match standing {
        Ok(Some(standing)) => Ok(*standing),
        Ok(None) => Err(hidden.to_string()),
        Err(failure) => Err(format!("{hidden}; {failure}")),
    })
}

fn answer(
    state: &StateDir,
    datapath: &Datapath,
    standing: Result<Standing, String>,
    active: Active,
    snapshot: Option<&Snapshot>,
    known: Known,
    drift: Option<usize>,
) -> Result<Answer, Failure> {
    let Known { pid, report, doubt, silent } = known;
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    let is_followed = pid.is_some() && doubt.is_none();
    problems.extend(doubt);
    if pid.is_none() {
        warnings.push(
            "no daemon runs: the kernel goes on with what it has, and changes are not followed"
                .to_owned(),
        );
    }
    if active.generation == 0 {
        problems.push(NEVER.to_owned());
    } else if snapshot.is_none() {
        let generation = active.generation;
        problems.push(match state.snapshot(generation) {
            Err(error) => {
                format!("what generation {generation}, which is in force, is made of: {error}")
            }
            Ok(_) => format!(
                "the state directory knows nothing of generation {generation}, which is in force"
            ),
        });
    }
    if !active.in_step {
        let behind = "the idle side of the tables lies behind; it is tried again, and nothing \
                      reads it meanwhile";
        warnings.push(behind.into());
    }
    match &standing {
        Ok(seen) => programs(&seen.attached, seen.unseen.is_empty(), &mut problems),
        Err(why) => {
            problems.push(format!("whether the programs are attached cannot be told: {why}"));
        }
    }
    let Standing { attached, below, unseen, tests } = standing.unwrap_or_default();
    warnings.extend(neighbours::programs(&attached, &below));
    warnings.extend(snapshot.and_then(|snapshot| neighbours::sidecars(&snapshot.world())));
    let mut self_test: Vec<Tested> = tests
        .into_iter()
        .map(|test| Tested {
            cgroup: test.cgroup,
            hook: test.hook.name().to_owned(),
            error: test.outcome.err(),
        })
        .collect();
    for cgroup in unseen {
        // Who is there has tried it.
        let of_daemon = report.self_test.iter().filter(|test| test.cgroup == cgroup);
        let before = self_test.len();
        self_test.extend(of_daemon.filter(|_| pid.is_some()).cloned());
        if self_test.len() == before {
            problems.push(unseen_cgroup(&cgroup));
        }
    }
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
    reported(&report, pid, &mut problems, &mut warnings);
    warnings.extend(report.not_read.iter().map(|what| format!("when the daemon started: {what}")));
    if let Some(snapshot) = snapshot {
        problems.extend(snapshot.lost.iter().map(|lost| {
            format!("of what is in force, {lost}: starting the daemon anew writes it again")
        }));
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
    for missing in features.iter().filter(|feature| feature.found == Support::No) {
        let line = format!(
            "this kernel has no {} (since {}), needed for {}: {}",
            missing.needs, missing.since, missing.name, missing.without
        );
        if missing.required { problems.push(line) } else { warnings.push(line) }
    }
    let (gaps, others) = workloads::gaps(datapath, snapshot)?;
    // A daemon that runs sees to it by itself, in a moment.
    problems.extend(others.into_iter().filter(|_| !is_followed));
    warnings.extend(report.unserved.iter().cloned());
    for gap in &gaps {
        warnings.push(format!("{} cannot be told: {}", gap.workload, gap.because));
    }
    let (gateways, relay) = gateways::told(state, &report, pid, &mut problems, &mut warnings);
    Ok(Answer {
        healthy: problems.is_empty(),
        problems,
        warnings,
        daemon: pid.map(|pid| DaemonRow::new(pid, &report, silent)),
        generation: active.generation,
        epoch: active.epoch,
        in_step: active.in_step,
        config: ConfigRow::new(&report, snapshot, now),
        watches: report.watching,
        failing_endpoints: report.failing,
        starved_gateways: report.starved,
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
        relay,
        exempt: report.exempt,
        features,
        unknown_source_decisions: datapath.counters()?.totals.unknown_source,
    })
}

/// What is said where nothing was ever in force.
const NEVER: &str = "no configuration was ever put in force";

/// So many findings are shown to people one by one.
const SHOWN: usize = 20;

/// What is wrong, and what is worth a look, by what the daemon knows.
fn reported(
    report: &Report,
    pid: Option<u32>,
    problems: &mut Vec<String>,
    warnings: &mut Vec<String>,
) {
    if let Some(error) = &report.apply_error {
        problems.push(format!("the newest configuration is not in force: {error}"));
    }
    if let Some(error) = &report.pin_error {
        problems.push(format!(
            "what is in force cannot be pinned, or not be looked at, and may end with the daemon: \
             {error}"
        ));
    }
    if let Some(error) = &report.compare_error {
        problems.push(format!(
            "whether the kernel does what it should cannot be told, as it cannot be compared: {error}"
        ));
    }
    if let Some(error) = &report.report_error {
        problems.push(format!(
            "what the daemon knows cannot be written down, and is not known when it ends: {error}"
        ));
    }
    problems.extend(report.rejected.iter().map(ToString::to_string));
    // Without its daemon nothing is watched.
    for watch in report.watching.iter().filter(|watch| pid.is_some() && !watch.works()) {
        let since = UNIX_EPOCH + Duration::from_secs(watch.since);
        let since = SystemTime::now().duration_since(since).unwrap_or_default().as_secs();
        problems.push(format!("{watch}; for {}", duration(since)));
    }
    problems.extend(report.emptied.iter().map(ToString::to_string));
    warnings.extend(report.unresolved.iter().map(|one| one.with_age(crate::daemon::now())));
    warnings.extend(report.findings.iter().take(SHOWN).map(ToString::to_string));
    let more = report.warnings.saturating_sub(SHOWN);
    if more > 0 {
        warnings
            .push(format!("{more} more warnings about what is in force (status --output json)"));
    }
    warnings.extend(report.failing.iter().map(ToString::to_string));
    warnings.extend(report.starved.iter().map(ToString::to_string));
}

/// The answer where a daemon runs and has nothing in force.
fn nothing_in_force(known: Known, why: &Failure) -> Answer {
    let Known { pid, report, doubt, silent } = known;
    let mut problems = vec![NEVER.to_owned()];
    if report.pinned.is_some() {
        let parts = [Some(&why.message), why.help.as_ref()];
        problems = vec![parts.into_iter().flatten().cloned().collect::<Vec<_>>().join("; ")];
    }
    problems.extend(doubt);
    let mut warnings = Vec::new();
    reported(&report, pid, &mut problems, &mut warnings);
    Answer {
        healthy: false,
        config: ConfigRow::new(&report, None, 0),
        problems,
        warnings,
        daemon: pid.map(|pid| DaemonRow::new(pid, &report, silent)),
        generation: 0,
        epoch: 0,
        in_step: false,
        programs: Vec::new(),
        self_test: Vec::new(),
        drift: DriftRow { entries: None, repaired: report.drift_repaired },
        identity_gaps: Vec::new(),
        bypassed: Vec::new(),
        draining: DrainingRow::default(),
        gateways: Vec::new(),
        relay: None,
        exempt: None,
        watches: report.watching,
        failing_endpoints: report.failing,
        starved_gateways: report.starved,
        features: features::probe(),
        unknown_source_decisions: 0,
    }
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
            to_tell(&endpoints).map(|(gone, _)| gone.to_string()).collect::<Vec<_>>().join(", ")
        ));
    }
    if let Some(error) = &report.drain_error {
        warnings.push(format!("connections to endpoints that have gone go on: {error}"));
    }
    DrainingRow {
        endpoints: by_endpoint(&endpoints),
        destinations: by_destination(&endpoints),
        reset: report.connections_reset,
        error: report.drain_error.clone(),
    }
}

/// What is said of a cgroup with our programs that cannot be looked at from here.
fn unseen_cgroup(cgroup: &Path) -> String {
    format!(
        "whether the programs at {} are effective cannot be told: they are attached, and this \
         process does not see that cgroup, which is in another cgroup namespace or on a mount that \
         it does not have; ask from outside of the container, as with nsenter --target 1 --cgroup \
         --mount",
        cgroup.display()
    )
}

/// What is missing on the hooks; `all` of the cgroups are seen.
fn programs(attached: &[Attached], all: bool, problems: &mut Vec<String>) {
    let mut cgroups: Vec<_> = attached.iter().map(|program| &program.cgroup).collect();
    cgroups.dedup();
    if all && !attached.iter().any(|program| program.ours) {
        problems.push("no program is attached".to_owned());
        return;
    }
    for cgroup in cgroups {
        for hook in Hook::ALWAYS {
            let here = |one: &&Attached| one.cgroup == *cgroup && one.hook == hook;
            if !attached.iter().filter(here).any(|one| one.ours) {
                let (hook, cgroup) = (hook.name(), cgroup.display());
                problems.push(format!("our program is not attached to {hook} of {cgroup}"));
            }
        }
    }
}

fn duration(seconds: u64) -> String {
    humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string()
}
