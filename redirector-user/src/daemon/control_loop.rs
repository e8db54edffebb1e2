//! What happens when.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use redirector_core::drain::Draining;
use redirector_core::layout::Emptied;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::audit::Auditor;
use super::control::{self, Answer, Request, Response};
use super::drain::Drainer;
use super::engine::Engine;
use super::findings::Looker;
use super::gateways::Gateways;
use super::handover::Predecessor;
use super::names::{Resolved, Resolver as NameResolver};
use super::program_log::ProgramLog;
use super::sources::{Follow, Source};
use super::{Event, Options, log, memory, metrics, now, startup};
use crate::datapath::Datapath;
use crate::failure::{Exit, Failure};
use crate::identity::watch::Watch;
use crate::identity::{Direct, Tracker};
use crate::source::Change;
use crate::state::{
    Bypassed, FailingEndpoint, Keeper, Pinned, Report, StateDir, Tested, UnresolvedName,
};

/// How the loop ends.
pub(super) enum Over {
    /// The daemon has done all that it has to.
    Ended(Exit),
    /// A successor takes over; until it is in force these go on.
    HandedOver(Gateways),
}

/// Why it ends.
enum End {
    Signal(i32),
    HandOver,
}

/// Everything that the loop holds.
pub(super) struct Daemon {
    pub(super) options: Options,
    pub(super) state: StateDir,
    /// Writes there what grows with the configuration.
    pub(super) keeper: Keeper,
    pub(super) datapath: Datapath,
    pub(super) engine: Engine,
    pub(super) tracker: Tracker,
    /// The short way of pods into the kernel.
    pub(super) direct: Direct,
    pub(super) watch: Watch,
    pub(super) names: NameResolver,
    pub(super) gateways: Gateways,
    /// A successor has taken over; metrics are its business.
    pub(super) handed_over: Arc<AtomicBool>,
    /// To be dismissed once this daemon is in force.
    pub(super) predecessor: Option<Predecessor>,
    /// Until when somebody watches connections.
    pub(super) watched: Option<Instant>,
    /// While the programs log anything.
    pub(super) program_log: Option<ProgramLog>,
    /// Where the configuration comes from.
    pub(super) source: Box<dyn Source>,
    /// What `/readyz` says.
    pub(super) readiness: Arc<metrics::Readiness>,
    /// Looks at what is in force.
    pub(super) looker: Looker,
    /// Makes what is kept anew.
    pub(super) auditor: Auditor,
    /// Destinations in force that have lost their endpoints.
    pub(super) emptied: Emptied,
    /// How many attempts of gateways have failed, and when that grew last.
    pub(super) missed: BTreeMap<FailingEndpoint, (u64, Instant)>,
    /// When to try again what could not be put in force.
    pub(super) apply_again: Option<Instant>,
    pub(super) generation: u64,
    /// Resets connections to endpoints that have gone.
    pub(super) drainer: Drainer,
    pub(super) draining: Draining,
    /// When to try again to make larger tables.
    pub(super) grow_again: Option<Instant>,
    /// What is left alone, and until when.
    pub(super) bypassed: Vec<Bypassed>,
    pub(super) report: Report,
    pub(super) published: Option<Report>,
    /// What the last daemon had in force had gone when this one came.
    pub(super) lost: bool,
    /// Something was read since the last step.
    pub(super) changed: bool,
    /// How many connections had had no place in memory when that was asked last.
    pub(super) memory_full: u64,
    /// What has metrics of its own.
    pub(super) kept: metrics::Kept,
    pub(super) spare: memory::Spare,
    pub(super) verified: Instant,
    /// When the tables were compared last, and how long that took.
    pub(super) compared: Instant,
    pub(super) compare_took: Duration,
    pub(super) tested: Option<Instant>,
}

pub(super) fn started(error: std::io::Error) -> Failure {
    Failure::new(Exit::No, format!("a thread of the daemon cannot be started: {error}"))
}

impl Daemon {
    pub(super) fn serve(
        mut self,
        sender: &Sender<Event>,
        events: &Receiver<Event>,
    ) -> Result<Over, Failure> {
        self.listen(sender)?;
        self.follow_program_log();
        if self.lost {
            self.restore();
        }
        let (store, report, direct) = (&mut self.engine.store, &self.report, &self.direct);
        self.source.follow(&mut Follow { store, report, direct, sender })?;
        // Nothing is attached before what is there was read: no connection
        // meets an empty configuration.
        loop {
            match events.recv() {
                Ok(Event::Stop(_)) => return Ok(Over::Ended(Exit::Fine)),
                Ok(Event::Batch(batch)) => {
                    self.take(batch);
                    break;
                }
                // What is known of an earlier run stays until there is better.
                Ok(Event::Identity) => {}
                Ok(Event::Pods(events)) => {
                    events.into_iter().for_each(|event| self.tracker.pod(event));
                    // Of what was lost nothing is known that could stay.
                    if self.lost {
                        self.look();
                    }
                }
                Ok(event) => {
                    let _ = self.handle(event);
                    self.publish();
                }
                Err(_) => return Ok(Over::Ended(Exit::Fine)),
            }
        }
        self.changed = false;
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
        self.report.pinned = Some(Pinned::now(&self.options.bpffs));
        self.self_test();
        self.publish();
        self.readiness.in_force();
        self.source.ready();
        notify_supervisor(self.predecessor.is_some());
        tracing::info!(generation = self.generation, "in force");
        if let Some(predecessor) = self.predecessor.take() {
            predecessor.dismiss();
        }
        self.spare.give_back();
        self.run(events)
    }

    fn run(mut self, events: &Receiver<Event>) -> Result<Over, Failure> {
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
                Err(RecvTimeoutError::Disconnected) => Some(End::Signal(0)),
            };
            match stop {
                Some(End::Signal(signal)) => return self.end(signal).map(Over::Ended),
                Some(End::HandOver) => return Ok(self.hand_over()),
                None => {}
            }
            if std::mem::take(&mut self.changed) && self.report.hold.is_none() {
                self.step();
                self.spare.give_back();
            }
            self.end_bypasses();
            self.drain();
            self.check();
            self.audit();
            self.publish();
        }
    }

    /// Reads the log of the programs that are in charge, when they keep one.
    pub(super) fn follow_program_log(&mut self) {
        if self.options.program_log == 0 {
            return;
        }
        match ProgramLog::follow(&self.datapath, self.program_log.take()) {
            Ok(reader) => self.program_log = Some(reader),
            Err(error) => tracing::warn!("the programs' log cannot be read: {error}"),
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
            let (readiness, handed_over) = (self.readiness.clone(), self.handed_over.clone());
            metrics::serve(address, readiness, move || {
                if handed_over.load(Ordering::Acquire) {
                    return None;
                }
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

    /// Says how to end, if it is time to.
    fn handle(&mut self, event: Event) -> Option<End> {
        match event {
            Event::Stop(signal) => return Some(End::Signal(signal)),
            Event::Batch(batch) => self.take(batch),
            Event::Identity => self.look(),
            Event::Pods(events) => {
                events.into_iter().for_each(|event| self.tracker.pod(event));
                self.look();
            }
            Event::Watches => {
                (self.report.watching, self.report.watch_drift) = self.source.health();
            }
            Event::Names(resolved) => self.resolved(resolved),
            Event::Looked(looked) => self.looked(looked),
            Event::Audited(anew) => self.audited(*anew),
            Event::Reread => {
                tracing::info!("reading everything again");
                self.source.reread();
            }
            Event::Drained(drained) => self.drained(drained),
            Event::Request(Request::HandOver, reply) => {
                // Its address is free before the successor wants it.
                self.handed_over.store(true, Ordering::Release);
                if let Some(address) = self.options.metrics {
                    metrics::stop(address);
                }
                let sockets = self.gateways.share().unwrap_or_default();
                let generation = self.generation;
                let response =
                    Response { generation, sockets: sockets.len(), ..Response::default() };
                let _ = reply.send(Answer { response, sockets });
                return Some(End::HandOver);
            }
            Event::Request(request, reply) => self.answer(request, &reply),
            Event::Metrics(reply) => {
                let mut kept = std::mem::take(&mut self.kept);
                let text = metrics::text(self, &mut kept);
                self.kept = kept;
                // A reader that has gone is none of our business.
                let _ = reply.send(text);
            }
        }
        None
    }

    fn resolved(&mut self, resolved: Resolved) {
        for (name, addresses) in resolved.answers {
            self.changed |= self.engine.resolve(name, addresses);
        }
        let before = std::mem::take(&mut self.report.unresolved);
        for (name, because) in resolved.failed {
            let known = before.iter().find(|one| *one.name == *name);
            let kept = self.engine.resolved.get(&name).cloned().unwrap_or_default();
            let since = known.map_or_else(now, |one| one.since);
            let one = UnresolvedName { name: name.to_string(), because, since, kept };
            if known.is_none() {
                tracing::warn!("{one}");
            }
            self.report.unresolved.push(one);
        }
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

    fn answer(&mut self, request: Request, reply: &SyncSender<Answer>) {
        let reports = request == Request::Report;
        let result = match request {
            Request::Rollback { steps } => self.roll_back(steps).map(Some),
            Request::Release => self.release().map(|()| None),
            Request::Reread => {
                self.source.reread();
                Ok(None)
            }
            Request::Report => {
                self.note_failing();
                Ok(None)
            }
            Request::Bypass { change } => self.bypass(&change).map(|()| None),
            Request::Follow { seconds } => self.follow_for(seconds).map(|()| None),
            // Answered where it is taken.
            Request::HandOver => Ok(None),
            Request::LogLevel { level } => log::set_level(&level).map(|()| None),
        };
        let (error, of_generation) = match result {
            Ok(of) => (self.report.apply_error.clone().filter(|_| of.is_some()), of),
            Err(error) => (Some(error), None),
        };
        self.publish();
        let report = reports.then(|| Box::new(self.report.clone()));
        let response =
            Response { error, generation: self.generation, of_generation, report, sockets: 0 };
        let _ = reply.send(Answer { response, sockets: Vec::new() });
    }

    /// Somebody watches connections: they are followed until they end.
    fn follow_for(&mut self, seconds: u64) -> Result<(), String> {
        let until = Instant::now() + Duration::from_secs(seconds.min(3600));
        self.watched = Some(self.watched.map_or(until, |before| before.max(until)));
        self.datapath.set_accounting(true).map_err(|error| error.to_string())
    }

    /// Whether connections have to be followed until they end, where the tables may need
    /// it.
    pub(super) fn follows(&self, tables: bool) -> bool {
        self.options.accounting || self.watched.is_some() || tables
    }

    /// Lets connections be when nobody watches them any more.
    pub(super) fn stop_following(&mut self) {
        if self.watched.is_none_or(|until| until > Instant::now()) {
            return;
        }
        self.watched = None;
        if !self.follows(self.engine.follows_connections())
            && let Err(error) = self.datapath.set_accounting(false)
        {
            tracing::error!("connections are followed though nothing needs it: {error}");
        }
    }

    /// Publishes what changed.
    fn publish(&mut self) {
        self.look_for_findings();
        self.report.gateways = self.gateways.listeners();
        if self.published.as_ref() == Some(&self.report) {
            return;
        }
        self.readiness.says(&self.report);
        let failed = self.report.report_error.take();
        match self.state.save_report(&self.report) {
            Ok(()) => self.published = Some(self.report.clone()),
            Err(error) => {
                self.published = None;
                let error = error.to_string();
                if failed.as_ref() != Some(&error) {
                    tracing::error!("what the daemon knows cannot be written: {error}");
                }
                self.report.report_error = Some(error);
            }
        }
    }

    pub(super) fn self_test(&mut self) {
        self.tested = Some(Instant::now());
        match self.datapath.self_test() {
            Ok(results) => {
                for result in &results {
                    if let Err(why) = &result.outcome {
                        let cgroup = result.cgroup.display();
                        let hook = result.hook.name();
                        tracing::error!(%cgroup, hook, "not effective: {why}");
                    }
                }
                self.report.self_test = results
                    .into_iter()
                    .map(|result| Tested {
                        cgroup: result.cgroup,
                        hook: result.hook.name().to_owned(),
                        error: result.outcome.err(),
                    })
                    .collect();
                self.report.tested = now();
            }
            Err(error) => tracing::error!("the self-test could not be made: {error}"),
        }
    }

    /// Lets go of everything but the gateways.
    fn hand_over(mut self) -> Over {
        self.direct.close();
        self.publish();
        Over::HandedOver(self.gateways)
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

/// Tells a supervisor that speaks systemd's protocol that the daemon is ready; and that
/// this is the process to look after now, when it follows one that is about to end.
fn notify_supervisor(follows: bool) {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let main = if follows { format!("\nMAINPID={}", std::process::id()) } else { String::new() };
    let ready = format!("READY=1{main}");
    let sent = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(ready.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!(%error, "the supervisor cannot be told that the daemon is ready");
    }
}
