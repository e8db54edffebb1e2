//! The beginning: what is in force already, and everything that the loop holds.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use redirector_core::drain::{self, Draining, Endpoints};
use redirector_core::registry::Registry;
use redirector_core::store::Store;

use super::audit::Auditor;
use super::callbacks::{sending, tell};
use super::confine::confine;
use super::control_loop::{Daemon, End, started};
use super::drain::Drainer;
use super::engine::Engine;
use super::findings::{self, Looker};
use super::gateways::Gateways;
use super::grow;
use super::handover::{self, Kept, Predecessor};
use super::leaf::Leaf;
use super::names::Resolver as NameResolver;
use super::resolving::Asked;
use super::server::Server;
use super::sources::{files_to_follow, source};
use super::verify::Lately;
use super::{Event, Options, addresses, memory, metrics, now, startup};
use crate::again::Again;
use crate::confined::Confined;
use crate::datapath::{self, Datapath, Sizes};
use crate::failure::{Exit, Failure, end_with_any_panic};
use crate::identity::watch::Watch;
use crate::identity::{Direct, Resolver, Tracker};
use crate::state::{Hold, Keeper, Left, Pinned, Report, Snapshot, StateDir, bypass};
use crate::{leftovers, proxy};

/// Identity numbers that each class keeps for pods that come: as many as may come
/// while a change is compiled.
const SPARES: usize = 16;

/// Runs until a signal says otherwise, or a successor is in force.
pub fn run(mut options: Options) -> Result<Exit, Failure> {
    // The kernel goes on, and whoever supervises the daemon starts the next one.
    end_with_any_panic("everything stays in force without this process");
    confine(&options);
    let mut kept = Kept::default();
    let (mut sender, mut events) = mpsc::channel();
    // Once it has handed over to one that is gone: when to try again to take over.
    let mut back: Option<Again> = None;
    let state = StateDir::new(&options.state_dir);
    // Whom it has handed over to is not seen from here.
    let mut stands_by = false;
    loop {
        let failure = match take_charge(&options, &mut kept, back.is_some(), &sender) {
            Ok(mut daemon) => match daemon.serve(&sender, &events) {
                Ok(End::Early) => {
                    kept = daemon.keep().0;
                    if back.is_some() {
                        return kept.end_as_last(&options);
                    }
                    kept.end();
                    return Ok(Exit::Fine);
                }
                Ok(End::Signal(signal)) => return daemon.end(signal),
                Ok(End::HandOver(succession)) => {
                    let lingered = daemon.hand_over(succession).linger(&state, &events);
                    stands_by = succession.elsewhere;
                    let Some(again) = lingered else { return Ok(Exit::Fine) };
                    kept = again;
                    back = Some(Again::default());
                    None
                }
                Err(failure) => {
                    kept = daemon.keep().0;
                    Some(failure)
                }
            },
            Err(failure) => Some(failure),
        };
        let Some(again) = &mut back else {
            return failure.map_or(Ok(Exit::Fine), Err);
        };
        // Whatever told the control loop of before ends.
        let (to, from) = mpsc::channel();
        if let Some(signals) = &kept.signals {
            signals.tell(&to);
        }
        sender = to;
        let before = std::mem::replace(&mut events, from);
        let mut stops = before.try_iter().any(|event| matches!(event, Event::Stop(_)));
        if let Some(failure) = failure {
            if let Some(pid) = state.daemon() {
                tracing::warn!(pid, "another daemon is in charge: {failure}");
                if !stands_by || stops {
                    kept.end();
                    return Ok(Exit::Fine);
                }
                let Some(stood) = kept.stand_by(&state, &events) else { return Ok(Exit::Fine) };
                kept = stood;
                continue;
            }
            if state.is_removed() {
                kept.let_go(false);
                return Err(failure);
            }
            tracing::error!("nobody is in charge, and it is tried again: {failure}");
            // Who begins meanwhile is not to wait for this one.
            kept.lingering = None;
            // Whoever is started instead may want the address.
            kept.metrics.clear();
            again.failed();
            stops = stops || stops_before(again.next(), &events);
            if state.is_removed() {
                tracing::warn!("everything was unloaded meanwhile: ending");
                kept.let_go(false);
                return Ok(Exit::Fine);
            }
        }
        if stops {
            return kept.end_as_last(&options);
        }
        options.replace = false;
        // It has been read, and ends but once; what it said is in the state.
        options.config = files_to_follow(&options.config);
    }
}

/// Waits until then, or (`true`) until the process is to end.
fn stops_before(then: Option<Instant>, events: &mpsc::Receiver<Event>) -> bool {
    let left = || then.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
    loop {
        match events.recv_timeout(left()) {
            Ok(Event::Stop(_)) => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

/// Takes over what is in force, or begins. `kept` is what this process has of when it was
/// in charge before, as `is_back` says; whatever fails, that stays there.
fn take_charge(
    options: &Options,
    kept: &mut Kept,
    is_back: bool,
    sender: &mpsc::Sender<Event>,
) -> Result<Daemon, Failure> {
    let state = StateDir::new(&options.state_dir).with_readers(options.readers);
    // What can be known to be wrong is said before anything is touched.
    let source = source(options)?;
    let cgroup2 = startup::cgroup2()?;
    let kubernetes = options.kubernetes.is_some();
    let cgroups = startup::cgroups(&options.cgroups, kubernetes, &cgroup2, !is_back)?;
    startup::paths(&files_to_follow(&options.config), state.files().iter())?;
    startup::announce(options, &cgroups);
    startup::bpffs(&options.bpffs, options.bpffs_is_default)?;
    state.create()?;
    let mut predecessor = if options.replace { Predecessor::ask(&state)? } else { None };
    // What the one before, or after, this daemon lets go of is free in a moment.
    let follows = predecessor.is_some() || is_back;
    let lock = handover::lock(&state, follows)?;
    if is_back && state.is_removed() {
        state.remove()?;
        return Err(Failure::new(Exit::No, "everything was unloaded meanwhile"));
    }
    state.admit_readers()?;
    // A writer that waits for us to have read its file is no reason to die.
    // SAFETY: `SIG_IGN` runs no code of ours.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    let setup = datapath::Options {
        pins: options.bpffs.clone(),
        cgroups: cgroups.clone(),
        sizes: grown(&state, options),
        log_level: options.program_log,
        object: None,
        readers: options.readers,
    };
    let mut datapath = handover::patiently(
        follows,
        || Datapath::take_over(&setup),
        |error| matches!(error, datapath::Error::Busy { .. }),
    )?;
    let lost = datapath.is_fresh() && state.had_pinned(&options.bpffs);
    if lost {
        tracing::warn!(
            pins = %options.bpffs.display(),
            "the pins of the last daemon were removed while none ran, and so everything was \
             detached: nothing was redirected since"
        );
    }
    for what in datapath.found() {
        tracing::warn!("{what}: mended");
    }
    let active = datapath.active();
    let (keeper, mut left) = Keeper::open(&state, active.generation)?;
    let (mut not_read, unread) = (left.not_read.clone(), std::mem::take(&mut left.unread));
    let hold = left.snapshot.as_ref().and_then(hold_of);
    let mut engine = engine(options, &datapath, left, &mut not_read)?;
    let mut bypassed = state.bypassed().unwrap_or_else(|error| {
        tracing::error!("{error}; nothing is bypassed");
        Vec::new()
    });
    let all = bypassed.len();
    bypassed.retain(|one| one.until > now());
    if bypassed.len() != all {
        state.save_bypassed(&bypassed)?;
    }
    let draining = state.draining().unwrap_or_else(|error| {
        tracing::error!("{error}; connections to endpoints that went earlier go on");
        Draining::new()
    });
    engine.follow_endpoints = !draining.is_empty();
    engine.settings.bypass = bypass(&bypassed);
    let (addresses, follows_addresses) = addresses::follow(sending(sender, Event::Addresses))
        .map_err(|error| {
            Failure::new(Exit::Unable, format!("the node's addresses cannot be known: {error}"))
        })?;
    engine.settings.set_node_addresses(addresses);
    let replaced = predecessor.as_ref().and_then(|one| one.pid);
    let before = state.report().ok().flatten().unwrap_or_default();
    leftovers::sweep(cgroups.iter().map(PathBuf::as_path));
    if kept.leaf.is_none() {
        let before = before.daemon_cgroup.as_deref();
        let shares = options.starter.is_some();
        let claimed = Leaf::claim(&cgroup2, &options.daemon_cgroup, shares, replaced, before);
        kept.leaf = claimed.map_err(|why| {
            let why = format!("the daemon finds no cgroup of its own: {why}");
            Failure::new(Exit::Unable, why).help(
                "name one with --daemon-cgroup (a path below the cgroup2 mount), or \
                 --daemon-cgroup none if none of its connects needs to be left alone",
            )
        })?;
    }
    let leaf = kept.leaf.as_ref();
    if let (Some(leaf), None, false) = (leaf, &predecessor, is_back) {
        proxy::end_lost(&leaf.cgroup.path, &state.relay_socket());
    }
    datapath.set_accounting(options.accounting || engine.follows_connections())?;
    datapath.set_flows(options.flows)?;
    let door = relay_stays(options).then(|| state.relay_socket());
    if let (Some(door), Some(leaf)) = (&door, leaf) {
        proxy::place_at(door, &leaf.cgroup.path);
    }
    // That of another pod's relay, until the own one accepts: there is room for one.
    if !predecessor.as_ref().is_some_and(Predecessor::is_elsewhere) {
        datapath.set_daemon_cgroup(leaf.map(|leaf| &leaf.cgroup))?;
    }
    let report = Report {
        pid: std::process::id(),
        process: Confined::of(std::process::id()).ok(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: now(),
        config: options.config.clone(),
        cgroups,
        cgroup2: cgroup2.clone(),
        daemon_cgroup: leaf.and_then(|leaf| leaf.made().map(Path::to_owned)),
        exempt: leaf.map(|leaf| leaf.cgroup.path.clone()),
        hold,
        // Also when this one ends before it has attached anything.
        pinned: (lost || !datapath.is_fresh()).then(|| Pinned::now(&options.bpffs)),
        not_read,
        drift_repaired: u64::from(lost || !datapath.found().is_empty()),
        emptied: before.emptied,
        ..Report::default()
    };
    let passed_on = predecessor.as_mut().map(|one| {
        options.metrics.iter().filter_map(|at| one.listener(at.address)).collect::<Vec<_>>()
    });
    let inherited = predecessor.as_mut().map(|one| std::mem::take(&mut one.sockets));
    let inherited = inherited.unwrap_or_default();
    let sources = datapath.sources()?;
    let numbers = sources.iter().map(|(_, number)| *number);
    let direct = Direct::new(datapath.source_writer()?, numbers);
    let watch = Watch::start(tell(sender, || Event::Identity)).map_err(started)?;
    let names = NameResolver::start(&options.names, sending(sender, Event::Names));
    let names = names.map_err(started)?;
    let drainer = Drainer::start(sending(sender, Event::Drained)).map_err(started)?;
    let server = Server::start().map_err(started)?;
    let looker = Looker::start(sending(sender, Event::Looked)).map_err(started)?;
    let auditor = Auditor::start(sending(sender, |anew| Event::Audited(Box::new(anew))));
    let auditor = auditor.map_err(started)?;
    let gateways = kept.gateways.take().unwrap_or_else(|| {
        let settings = proxy::Settings {
            drain: options.drain,
            cgroup: leaf.map(|leaf| leaf.cgroup.path.clone()),
            starter: options.starter.clone(),
            door,
            access: options.access.clone(),
            ..Default::default()
        };
        Gateways::new(settings, inherited)
    });
    let Kept { leaf, metrics, signals, lingering, .. } = std::mem::take(kept);
    Ok(Daemon {
        tracker: Tracker::new(Resolver::new(cgroup2), sources, direct.clone()),
        direct,
        watch,
        names,
        asked: Asked::after(&before.names),
        grow_again: grow::AGAIN,
        memory_full: 0,
        drainer,
        _addresses: follows_addresses,
        draining,
        gateways,
        leaf,
        server,
        metrics: metrics.into_iter().chain(passed_on.into_iter().flatten()).collect(),
        predecessor,
        deferred: Vec::new(),
        program_log: None,
        watched: None,
        source,
        readiness: Arc::default(),
        looker,
        auditor,
        emptied: findings::emptied_before(&report.emptied),
        missed: Lately::default(),
        starved: Lately::default(),
        apply_again: Again::default(),
        step_again: Again::default(),
        generation: active.generation,
        bypassed,
        end_again: Again::default(),
        report,
        published: None,
        lost,
        unread,
        changed: true,
        waiting: Default::default(),
        rereading: Vec::new(),
        pace: Default::default(),
        times: Default::default(),
        kept: metrics::Kept::default(),
        verified: Instant::now(),
        compared: Instant::now(),
        compare_took: Duration::ZERO,
        spare: memory::Spare::default(),
        tested: None,
        seen: None,
        options: options.clone(),
        keeper,
        state,
        datapath,
        engine,
        signals,
        lingering,
        lock,
    })
}

/// Whether the process that relays goes on when the daemon ends, however that is. The first
/// process of a container takes its children with it: then connections have the time to drain.
fn relay_stays(options: &Options) -> bool {
    options.starter.is_some() || (options.kubernetes.is_none() && std::process::id() != 1)
}

/// How large the tables are to be: as they were asked for, or as they have grown
/// to since.
fn grown(state: &StateDir, options: &Options) -> Sizes {
    if options.fixed_sizes {
        return options.sizes;
    }
    let grown = state.grown(&options.sizes).unwrap_or_else(|error| {
        tracing::warn!("{error}; the tables grow again if they have to");
        None
    });
    grown.unwrap_or(options.sizes)
}

/// What is in force already, as far as it is known, and what was good before. What of
/// both `not_read` is told.
fn engine(
    options: &Options,
    datapath: &Datapath,
    left: Left,
    not_read: &mut Vec<String>,
) -> Result<Engine, Failure> {
    let (active, image) = datapath.dump_active()?;
    let Left { snapshot, store, .. } = left;
    let lost = snapshot.iter().flat_map(|snapshot| &snapshot.lost);
    not_read.extend(lost.map(|lost| format!("of what is in force, {lost}")));
    let in_force = || snapshot.iter().flat_map(|s| s.contents.objects.iter().cloned());
    let store = store.unwrap_or_else(|| Store::of_objects(in_force()));
    for what in &*not_read {
        tracing::warn!("{what}");
    }
    if active.generation != 0 {
        let entries = image.frontends.len() + image.prefixes.len();
        tracing::info!(generation = active.generation, entries, "took over what is in force");
    }
    let endpoints = snapshot.as_ref().map(|snapshot| {
        let world = snapshot.world();
        match world.objects().any(|object| drain::says(object)) {
            true => drain::endpoints(&world, &Registry::new(&world)),
            false => Endpoints::default(),
        }
    });
    let world = snapshot.as_ref().map(Snapshot::world);
    let (resolved, contents) = match snapshot {
        Some(snapshot) => (snapshot.resolved, snapshot.contents),
        None => Default::default(),
    };
    let layout = match active.generation {
        0 => contents.layout.in_new_tables(),
        _ => contents.layout,
    };
    let mut engine = Engine::new(options.settings.clone(), datapath.sizes(), layout, image);
    engine.endpoints = endpoints.unwrap_or_default();
    engine.spares = if options.kubernetes.is_some() { SPARES } else { 0 };
    engine.store = store;
    if let Some(world) = world {
        engine.begin_with(world);
    }
    engine.grace = options.grace;
    for (name, known) in resolved {
        engine.knew(name, known);
    }
    engine.grows = !options.fixed_sizes;
    Ok(engine)
}

fn hold_of(snapshot: &Snapshot) -> Option<Hold> {
    Some(Hold { of_generation: snapshot.of_generation?, since: snapshot.made })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    /// Set in the process that is to end.
    const PANICS: &str = "REDIRECTOR_TEST_PANICS";

    #[test]
    fn a_panic_of_any_thread_ends_the_process() {
        if std::env::var_os(PANICS).is_some() {
            super::end_with_any_panic("this is a test");
            let thread = std::thread::spawn(|| panic!("nobody would miss me"));
            let _ = thread.join();
            return;
        }
        let this = std::env::current_exe().unwrap();
        let name = std::thread::current().name().unwrap().to_owned();
        let output = Command::new(this).args(["--exact", &name]).env(PANICS, "").output().unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
    }
}
