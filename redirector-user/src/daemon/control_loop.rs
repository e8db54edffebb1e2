//! What happens when.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use redirector_common::abi::Limits;
use redirector_core::gateway::GatewayPlan;
use redirector_core::store::Store;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::control::{self, Request, Response};
use super::engine::{Engine, Step};
use super::gateways::Gateways;
use super::leaf::Leaf;
use super::names::Resolver as NameResolver;
use super::{Event, Options, log, metrics, now, startup};
use crate::cli::{Exit, Failure};
use crate::datapath::{self, Datapath};
use crate::identity::pods::{self, PodCgroups};
use crate::identity::watch::Watch;
use crate::identity::{Resolver, Tracker};
use crate::kubernetes::agent::Agent;
use crate::source::files::Files;
use crate::source::watch::{Reread, follow};
use crate::source::{Change, parse};
use crate::state::{Hold, Report, StateDir, StateError, Tested, UnknownWorkload};

/// Everything that the loop holds.
pub(super) struct Daemon {
    pub(super) options: Options,
    pub(super) state: StateDir,
    pub(super) datapath: Datapath,
    pub(super) engine: Engine,
    pub(super) tracker: Tracker,
    watch: Watch,
    names: NameResolver,
    reread: Option<Reread>,
    pub(super) gateways: Gateways,
    agent: Option<Agent>,
    /// `/readyz` says so from then on.
    ready: Arc<AtomicBool>,
    pub(super) generation: u64,
    pub(super) report: Report,
    published: Option<Report>,
    /// Something was read since the last step.
    changed: bool,
    pub(super) verified: Instant,
    pub(super) verify_took: Duration,
    pub(super) tested: Option<Instant>,
}

/// Runs until a signal says otherwise.
pub fn run(options: Options) -> Result<Exit, Failure> {
    let state = StateDir::new(&options.state_dir);
    // What can be known to be wrong is said before anything is touched.
    let agent = agent(&options)?;
    let cgroup2 = startup::cgroup2()?;
    let cgroups = startup::cgroups(&options, &cgroup2)?;
    let last_good = state.last_good();
    let known = last_good.iter().flatten().flat_map(Store::files);
    startup::paths(&files_to_follow(&options), known)?;
    startup::bpffs(&options)?;
    state.create()?;
    let lock = state.lock()?;
    // A writer that waits for us to have read its file is no reason to die.
    // SAFETY: `SIG_IGN` runs no code of ours.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    let mut datapath = Datapath::take_over(&datapath::Options {
        pins: options.bpffs.clone(),
        cgroups: cgroups.clone(),
        sizes: options.sizes,
        log_level: options.program_log,
        object: None,
    })?;
    let (sender, events) = mpsc::channel();
    let engine = engine(&options, &state, &datapath, last_good)?;
    let leaf = Leaf::claim(&cgroup2, &options.daemon_cgroup).map_err(|why| {
        Failure::new(Exit::Unable, format!("the daemon finds no cgroup of its own: {why}")).help(
            "name one with --daemon-cgroup (a path below the cgroup2 mount), or --daemon-cgroup \
             none if none of its connects needs to be left alone",
        )
    })?;
    datapath.set_accounting(options.accounting)?;
    datapath.set_daemon_cgroup(leaf.as_ref().map(|leaf| leaf.cgroup.id))?;
    let active = datapath.active();
    let report = Report {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: now(),
        config: options.config.clone(),
        cgroups,
        cgroup2: cgroup2.clone(),
        hold: hold_of(&state, active.generation),
        ..Report::default()
    };
    let daemon = Daemon {
        tracker: Tracker::new(Resolver::new(cgroup2), datapath.sources()?),
        watch: Watch::start(tell(&sender, || Event::Identity)).map_err(started)?,
        names: NameResolver::start(options.resolve, sending(&sender, Event::Names))
            .map_err(started)?,
        reread: None,
        gateways: Gateways::new(options.drain),
        agent,
        ready: Arc::default(),
        generation: active.generation,
        report,
        published: None,
        changed: true,
        verified: Instant::now(),
        verify_took: Duration::ZERO,
        tested: None,
        options,
        state,
        datapath,
        engine,
    };
    let result = daemon.serve(&sender, &events);
    if let Some(leaf) = leaf {
        leaf.leave();
    }
    drop(lock);
    result
}

/// The way to the API server, if that is what is followed.
fn agent(options: &Options) -> Result<Option<Agent>, Failure> {
    let Some(setup) = &options.kubernetes else { return Ok(None) };
    let node = options.settings.node_name.clone().unwrap_or_default();
    Agent::new(setup.clone(), node).map(Some).map_err(|error| {
        Failure::input(error.to_string())
            .help("run it in a pod with a service account, or name a kubeconfig with --kubeconfig")
    })
}

/// What is in force already, as far as it is known, and what was good before.
fn engine(
    options: &Options,
    state: &StateDir,
    datapath: &Datapath,
    last_good: Result<Option<Store>, StateError>,
) -> Result<Engine, Failure> {
    let (active, image) = datapath.dump_active()?;
    let snapshot = if active.generation == 0 {
        None
    } else {
        state.snapshot(active.generation).unwrap_or_else(|error| {
            tracing::warn!("{error}; the kernel's tables are made anew");
            None
        })
    };
    let store = match last_good {
        Ok(Some(store)) => store,
        Ok(None) => Store::of_objects(snapshot.iter().flat_map(|s| s.objects.iter().cloned())),
        Err(error) => {
            tracing::warn!("{error}; the last good versions are those in force");
            Store::of_objects(snapshot.iter().flat_map(|s| s.objects.iter().cloned()))
        }
    };
    if active.generation != 0 {
        let entries = image.frontends.len() + image.prefixes.len();
        tracing::info!(generation = active.generation, entries, "took over what is in force");
    }
    Ok(Engine {
        settings: options.settings.clone(),
        store,
        resolved: snapshot.as_ref().map(|s| s.resolved.clone()).unwrap_or_default(),
        limits: limits(&datapath.sizes()),
        layout: snapshot.map(|snapshot| snapshot.layout).unwrap_or_default(),
        image,
        gateways: GatewayPlan::default(),
    })
}

/// What fits, for the layout. What only the programs need is left out.
pub fn limits(sizes: &datapath::Sizes) -> Limits {
    Limits {
        class_tables: sizes.class_tables,
        identities: sizes.identities,
        routes: sizes.routes,
        legs: sizes.legs,
        destinations: sizes.destinations,
        backends: sizes.backends,
        connections: sizes.connections,
        overflow_share: 0,
        stripes: 1,
    }
}

fn hold_of(state: &StateDir, generation: u64) -> Option<Hold> {
    let snapshot = state.snapshot(generation).ok()??;
    Some(Hold { of_generation: snapshot.of_generation?, since: snapshot.made })
}

fn files_to_follow(options: &Options) -> Vec<PathBuf> {
    options.config.iter().filter(|path| path.as_os_str() != "-").cloned().collect()
}

fn started(error: std::io::Error) -> Failure {
    Failure::new(Exit::No, format!("a thread of the daemon cannot be started: {error}"))
}

/// A callback that sends an event, and ends its thread when nobody listens.
fn tell(sender: &Sender<Event>, event: fn() -> Event) -> impl FnMut() -> bool + Send + 'static {
    let sender = sender.clone();
    move || sender.send(event()).is_ok()
}

/// The same with something to say.
fn sending<T: 'static>(
    sender: &Sender<Event>,
    event: fn(T) -> Event,
) -> impl FnMut(T) -> bool + Send + 'static {
    let sender = sender.clone();
    move |what| sender.send(event(what)).is_ok()
}

impl Daemon {
    fn serve(mut self, sender: &Sender<Event>, events: &Receiver<Event>) -> Result<Exit, Failure> {
        self.listen(sender)?;
        match self.agent {
            Some(_) => self.follow_cluster(sender)?,
            None => self.follow_files(sender)?,
        }
        // Nothing is attached before what is there was read: no connection
        // meets an empty configuration.
        loop {
            match events.recv() {
                Ok(Event::Stop(_)) => return Ok(Exit::Fine),
                Ok(Event::Batch(batch)) => {
                    self.take(batch);
                    break;
                }
                // What is known of an earlier run stays until there is better.
                Ok(Event::Identity) => {}
                Ok(Event::Pods(events)) => {
                    events.into_iter().for_each(|event| self.tracker.pod(event));
                }
                Ok(event) => {
                    let _ = self.handle(event);
                    self.publish();
                }
                Err(_) => return Ok(Exit::Fine),
            }
        }
        if !(self.engine.store.is_unchanged() && self.hold_on()) {
            self.report.hold = None;
            self.step();
            if self.generation == 0 {
                let why = self.report.apply_error.take().unwrap_or_default();
                return Err(Failure::new(Exit::No, why));
            }
        }
        self.look();
        let fresh = self.datapath.attachments()?.is_empty();
        self.datapath.attach()?;
        if fresh
            && let Err(failure) = startup::nobody_else(&self.options, &self.datapath.attachments()?)
        {
            // The kernel is left as it was found.
            self.datapath.remove()?;
            self.state.remove()?;
            return Err(failure);
        }
        self.self_test();
        self.publish();
        self.ready.store(true, Ordering::Release);
        if let Some(agent) = &mut self.agent {
            agent.ready();
        }
        notify_supervisor();
        tracing::info!(generation = self.generation, "in force");
        self.run(events)
    }

    /// Goes on holding an earlier configuration, when one is held.
    fn hold_on(&mut self) -> bool {
        let Some(hold) = &self.report.hold else { return false };
        let of_generation = hold.of_generation;
        let held = match self.state.snapshot(self.generation) {
            Ok(Some(snapshot)) => self.engine.step_back_to(&snapshot),
            _ => return false,
        };
        let holds = held.is_ok_and(|step| self.apply(step, Some(of_generation), false));
        if holds {
            tracing::info!("an earlier configuration is held (redirector rollback --release)");
        }
        holds
    }

    fn run(mut self, events: &Receiver<Event>) -> Result<Exit, Failure> {
        loop {
            let stop = match events.recv_timeout(self.until_next_check()) {
                Ok(event) => {
                    let mut stop = self.handle(event);
                    // What is there already comes in force together.
                    while stop.is_none()
                        && let Ok(event) = events.try_recv()
                    {
                        stop = self.handle(event);
                    }
                    stop
                }
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(0),
            };
            if let Some(signal) = stop {
                return self.end(signal);
            }
            if std::mem::take(&mut self.changed) && self.report.hold.is_none() {
                self.step();
            }
            self.check();
            self.publish();
        }
    }

    fn listen(&self, sender: &Sender<Event>) -> Result<(), Failure> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(started)?;
        let to = sender.clone();
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                for signal in signals.forever() {
                    let event = if signal == SIGHUP { Event::Reread } else { Event::Stop(signal) };
                    if to.send(event).is_err() {
                        return;
                    }
                }
            })
            .map_err(started)?;
        let to = sender.clone();
        control::serve(&self.state.control_socket(), move |request| {
            let (reply, answer) = mpsc::sync_channel(1);
            to.send(Event::Request(request, reply)).ok()?;
            answer.recv().ok()
        })
        .map_err(|error| {
            Failure::new(Exit::No, format!("{}: {error}", self.state.control_socket().display()))
        })?;
        if let Some(address) = self.options.metrics {
            let to = sender.clone();
            let ready = self.ready.clone();
            metrics::serve(address, ready, move || {
                let (reply, answer) = mpsc::sync_channel(1);
                to.send(Event::Metrics(reply)).ok()?;
                answer.recv().ok()
            })
            .map_err(|error| {
                Failure::new(Exit::No, format!("metrics cannot be served on {address}: {error}"))
                    .help("name another address with --metrics-address, or none")
            })?;
        }
        Ok(())
    }

    fn follow_files(&mut self, sender: &Sender<Event>) -> Result<(), Failure> {
        let paths = files_to_follow(&self.options);
        if self.options.config.len() > paths.len() {
            // Standard input ends; it is read once.
            let dash = [PathBuf::from("-")];
            let (texts, problems) = crate::source::files::read_all(&dash, std::io::stdin().lock());
            if let Some(problem) = problems.first() {
                return Err(Failure::input(problem.message.clone()));
            }
            for (name, text) in texts {
                self.engine.store.put(&name, parse(&name, &text));
            }
        }
        let known = self.engine.store.files().filter(|name| &***name != "<stdin>").cloned();
        let known: Vec<_> = known.collect();
        let files = Files::new(paths, parse, known.into_iter());
        let timing = self.options.timing;
        let reread = follow(files, timing, sending(sender, Event::Batch)).map_err(|error| {
            Failure::new(Exit::No, format!("files cannot be watched: {error}"))
                .help("raise fs.inotify.max_user_instances")
        })?;
        self.reread = Some(reread);
        Ok(())
    }

    /// Follows the API server, and the cgroups of this node's pods.
    fn follow_cluster(&mut self, sender: &Sender<Event>) -> Result<(), Failure> {
        let pods = PodCgroups::new(&self.report.cgroup2, &self.report.cgroups)
            .and_then(|pods| pods::follow(pods, sending(sender, Event::Pods)));
        pods.map_err(|error| {
            Failure::new(Exit::No, format!("the cgroups of pods cannot be followed: {error}"))
        })?;
        let known = self.engine.store.files().cloned().collect();
        if let Some(agent) = &mut self.agent {
            let changed = tell(sender, || Event::Watches);
            agent.follow(known, sending(sender, Event::Batch), changed);
        }
        Ok(())
    }

    /// Says how to end, if it is time to.
    fn handle(&mut self, event: Event) -> Option<i32> {
        match event {
            Event::Stop(signal) => return Some(signal),
            Event::Batch(batch) => self.take(batch),
            Event::Identity => self.look(),
            Event::Pods(events) => {
                events.into_iter().for_each(|event| self.tracker.pod(event));
                self.look();
            }
            Event::Watches => {
                if let Some(agent) = &self.agent {
                    self.report.watching = agent.watching();
                    self.report.watch_drift = agent.drifted();
                }
            }
            Event::Names(answers) => {
                for (name, addresses) in answers {
                    self.changed |= self.engine.resolved.get(&name) != Some(&addresses);
                    self.engine.resolved.insert(name, addresses);
                }
            }
            Event::Reread => {
                tracing::info!("reading everything again");
                if let Some(reread) = &self.reread {
                    reread.ask();
                }
            }
            Event::Request(request, reply) => self.answer(request, &reply),
            Event::Metrics(reply) => {
                let text = metrics::text(self);
                // A reader that has gone is none of our business.
                let _ = reply.send(text);
            }
        }
        None
    }

    fn take(&mut self, batch: crate::source::Batch) {
        for change in &batch.changes {
            match change {
                Change::Put(name, _) => tracing::debug!(file = %name, "read"),
                Change::Unreadable(name, why) => {
                    tracing::warn!(file = %name, "{}; what it held stays", why.message);
                }
                Change::Removed(name) => tracing::info!(file = %name, "removed"),
            }
        }
        batch.put_into(&mut self.engine.store);
        self.report.read = now();
        self.changed = true;
        if self.report.hold.is_some() && !self.engine.store.is_unchanged() {
            tracing::info!("the sources changed: no longer holding an earlier configuration");
            self.report.hold = None;
        }
    }

    /// Puts what the store says in force.
    fn step(&mut self) {
        let step = match self.engine.step() {
            Ok(step) => step,
            Err(full) => return self.not_applied(&full.to_string()),
        };
        if self.apply(step, None, false) {
            self.engine.store.accept();
            if let Err(error) = self.state.save_last_good(&self.engine.store) {
                tracing::error!("{error}");
            }
        }
        let rejected = self.engine.store.rejected();
        let refused: Vec<_> = rejected.iter().map(Into::into).collect();
        if refused != self.report.rejected {
            for one in &rejected {
                let what = one.object.as_ref().map(ToString::to_string);
                let why = one.diagnostics.first().map_or("", |d| d.message.as_str());
                let line = one.diagnostics.first().map_or(0, |d| d.line);
                let outcome = match (&one.object, one.kept) {
                    (_, true) => "its last good version stays",
                    (Some(_), false) => "it is absent",
                    (None, false) => "nothing of it is in force",
                };
                tracing::warn!(
                    file = %one.file, line, object = what.as_deref(), "refused: {why}; {outcome}"
                );
            }
        }
        self.report.rejected = refused;
        let warning = redirector_core::diag::Severity::Warning;
        self.report.warnings =
            self.engine.store.diagnostics().filter(|d| d.severity == warning).count();
    }

    /// Puts a step in force, as a new generation when it changes anything or
    /// `always`. What could not be is said and changes nothing.
    fn apply(&mut self, step: Step, of_generation: Option<u64>, always: bool) -> bool {
        // A daemon that has just started serves the gateways of the generation
        // that it found; that is no change.
        let first = self.report.applied == 0 && self.generation != 0;
        let changed = if first { !step.delta.is_empty() } else { self.engine.is_changed_by(&step) };
        let fresh = self.generation == 0 || changed || always;
        let generation = if fresh { self.generation + 1 } else { self.generation };
        let snapshot = step.snapshot(generation, of_generation, now());
        // Before the flip, so that whoever sees the generation finds its names.
        if let Err(error) = self.state.save_snapshot(&snapshot) {
            self.not_applied(&error.to_string());
            return false;
        }
        if fresh {
            if let Err(error) = self.tracker.prepare(step.sources.clone(), &mut self.datapath) {
                self.not_applied(&error.to_string());
                return false;
            }
            match self.datapath.apply(&step.delta, generation) {
                Ok(()) => {
                    if let Some(error) = self.datapath.behind() {
                        tracing::warn!(
                            "in force, and the other side of the tables is not: {error}"
                        );
                    }
                }
                Err(error) => {
                    self.not_applied(&error.to_string());
                    return false;
                }
            }
            tracing::info!(generation, changes = step.delta.len(), "applied");
            self.report.applied = now();
        } else if let Err(error) = self.tracker.prepare(step.sources.clone(), &mut self.datapath) {
            tracing::error!("{error}");
        }
        self.generation = generation;
        self.report.apply_error = None;
        self.engine.adopt(&step);
        self.gateways.update(&step.plan);
        self.names.want(&step.names);
        self.look();
        let needed: Vec<u64> = self.report.hold.iter().map(|hold| hold.of_generation).collect();
        self.state.prune(self.options.history + 1, &needed);
        true
    }

    fn not_applied(&mut self, why: &str) {
        tracing::error!("not applied, what was in force stays: {why}");
        self.report.apply_error = Some(why.to_owned());
    }

    /// Looks which workloads are there.
    pub(super) fn look(&mut self) {
        for _ in 0..4 {
            if let Err(error) = self.tracker.look(&mut self.datapath) {
                tracing::error!("{error}");
            }
            // What came before its directory was watched is seen by another look.
            if !self.watch.set(self.tracker.places()) {
                break;
            }
        }
        let gaps = self.tracker.gaps().iter().map(|gap| UnknownWorkload {
            workload: format!("{}/{}", gap.source.namespace, gap.source.name),
            because: gap.why.to_string(),
        });
        self.report.gaps = gaps.collect();
    }

    fn answer(&mut self, request: Request, reply: &SyncSender<Response>) {
        let result = match request {
            Request::Rollback { steps } => self.roll_back(steps).map(Some),
            Request::Release => {
                self.report.hold = None;
                self.step();
                Ok(None)
            }
            Request::Reread => {
                if let Some(reread) = &self.reread {
                    reread.ask();
                }
                Ok(None)
            }
            Request::LogLevel { level } => log::set_level(&level).map(|()| None),
        };
        let (error, of_generation) = match result {
            Ok(of) => (self.report.apply_error.clone().filter(|_| of.is_some()), of),
            Err(error) => (Some(error), None),
        };
        self.publish();
        let _ = reply.send(Response { error, generation: self.generation, of_generation });
    }

    /// Returns to the configuration `steps` changes before the one in force.
    fn roll_back(&mut self, steps: usize) -> Result<u64, String> {
        let from = self.report.hold.as_ref().map_or(self.generation, |hold| hold.of_generation);
        let mut earlier = Vec::new();
        for generation in self.state.generations().into_iter().rev().filter(|g| *g < from) {
            match self.state.snapshot(generation) {
                // A repetition is no change of its own.
                Ok(Some(snapshot)) if snapshot.of_generation.is_none() => earlier.push(snapshot),
                Ok(_) => {}
                Err(error) => tracing::warn!("{error}"),
            }
            if earlier.len() >= steps {
                break;
            }
        }
        let kept = earlier.len();
        let Some(snapshot) = steps.checked_sub(1).and_then(|at| earlier.get(at)) else {
            return Err(format!(
                "there is no configuration {steps} changes ago: {kept} earlier ones are kept (see \
                 --history)"
            ));
        };
        let step = self.engine.step_back_to(snapshot).map_err(|full| full.to_string())?;
        let of_generation = snapshot.generation;
        let before = self.report.hold.replace(Hold { of_generation, since: now() });
        if !self.apply(step, Some(of_generation), true) {
            self.report.hold = before;
            return Err(self.report.apply_error.clone().unwrap_or_default());
        }
        tracing::info!(of_generation, "rolled back, and held until the sources change");
        Ok(of_generation)
    }

    /// Publishes what changed.
    fn publish(&mut self) {
        self.report.gateways = self.gateways.listeners();
        if self.published.as_ref() == Some(&self.report) {
            return;
        }
        match self.state.save_report(&self.report) {
            Ok(()) => self.published = Some(self.report.clone()),
            Err(error) => tracing::error!("{error}"),
        }
    }

    pub(super) fn self_test(&mut self) {
        self.tested = Some(Instant::now());
        match self.datapath.self_test() {
            Ok(results) => {
                for result in &results {
                    if let Err(why) = &result.outcome {
                        let cgroup = result.cgroup.display();
                        tracing::error!(%cgroup, hook = ?result.hook, "not effective: {why}");
                    }
                }
                self.report.self_test = results
                    .into_iter()
                    .map(|result| Tested {
                        cgroup: result.cgroup,
                        hook: format!("{:?}", result.hook).to_lowercase(),
                        error: result.outcome.err(),
                    })
                    .collect();
                self.report.tested = now();
            }
            Err(error) => tracing::error!("the self-test could not be made: {error}"),
        }
    }

    fn end(mut self, signal: i32) -> Result<Exit, Failure> {
        self.publish();
        self.gateways.shutdown();
        let _ = std::fs::remove_file(self.state.control_socket());
        if !self.options.detach_on_exit {
            tracing::info!(signal, "ending; everything stays in force without this process");
            return Ok(Exit::Fine);
        }
        tracing::info!(signal, "ending; detaching");
        self.datapath.remove()?;
        self.state.remove()?;
        Ok(Exit::Fine)
    }
}

/// Tells a supervisor that speaks systemd's protocol that the daemon is ready.
fn notify_supervisor() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let sent =
        address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address));
    if let Err(error) = sent {
        tracing::warn!(%error, "the supervisor cannot be told that the daemon is ready");
    }
}

/// Names and values for [`metrics`].
pub(super) type Labels = BTreeMap<&'static str, String>;
