//! What happens when.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use redirector_core::drain::Draining;
use redirector_core::layout::Emptied;
use tokio::sync::oneshot;

use super::audit::Auditor;
use super::control::{Afterwards, Answer, Request, Response};
use super::drain::Drainer;
use super::engine::Engine;
use super::findings::Looker;
use super::gateways::Gateways;
use super::handover::{self, HandedOver, Kept, Predecessor, Succession};
use super::leaf::Leaf;
use super::names::Resolver as NameResolver;
use super::pace::Pace;
use super::program_log::ProgramLog;
use super::reread::Waiter;
use super::resolving::Asked;
use super::server::Server;
use super::signals::Signals;
use super::sources::ConfigSource;
use super::times::Times;
use super::verify::Lately;
use super::{Event, Options, log, memory, metrics, now};
use crate::again::Again;
use crate::datapath::{Datapath, Standing};
use crate::failure::{Exit, Failure};
use crate::following::Following;
use crate::identity::watch::Watch;
use crate::identity::{Direct, Tracker};
use crate::source::{self, Change};
use crate::state::{
    Bypassed, FailingEndpoint, Keeper, Lingering, Lock, Report, StarvedGateway, StateDir,
    StateError, Tested, Unread, WaitingChanges,
};

/// What waits for less is not written down: it is over before anybody reads it.
const TOLD_AFTER: Duration = Duration::from_secs(1);

/// How long how the programs stand is not looked at again.
const LOOKED: Duration = Duration::from_secs(1);

/// For so many times as long as that took, where it takes long.
const LOOK_REST: u32 = 20;

/// For how many seconds at most somebody watches connections without saying so again.
const MOST_WATCHED: u64 = 3600;

/// Why the loop ends.
pub(super) enum End {
    /// It was told to before anything of its own was in force.
    Early,
    /// It was told to.
    Signal(i32),
    /// A successor takes over.
    HandOver(Succession),
}

/// Most events that are taken in one round.
const TOGETHER: usize = 10_000;

/// Most requests among them.
const ASKED_TOGETHER: usize = 64;

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
    /// What is shown of that.
    pub(super) asked: Asked,
    pub(super) gateways: Gateways,
    /// The cgroup that the daemon is alone in.
    pub(super) leaf: Option<Leaf>,
    /// Metrics, health and requests.
    pub(super) server: Server,
    /// The listening sockets of metrics, from whom this daemon follows, or its own.
    pub(super) metrics: Vec<TcpListener>,
    /// To be dismissed once this daemon is in force.
    pub(super) predecessor: Option<Predecessor>,
    /// What is asked of one in charge, until this one is.
    pub(super) deferred: Vec<Event>,
    /// Until when somebody watches connections.
    pub(super) watched: Option<Instant>,
    /// While the programs log anything.
    pub(super) program_log: Option<ProgramLog>,
    /// Where the configuration comes from.
    pub(super) source: Box<dyn ConfigSource>,
    /// What `/readyz` says.
    pub(super) readiness: Arc<metrics::Readiness>,
    /// Looks at what is in force.
    pub(super) looker: Looker,
    /// Makes what is kept anew.
    pub(super) auditor: Auditor,
    /// Destinations in force that have lost their endpoints.
    pub(super) emptied: Emptied,
    /// Attempts of gateways that failed.
    pub(super) missed: Lately<FailingEndpoint>,
    /// Pauses of gateways for want of descriptors or memory.
    pub(super) starved: Lately<StarvedGateway>,
    /// When to try again what could not be put in force.
    pub(super) apply_again: Again,
    /// When to try again to bring the idle side in step.
    pub(super) step_again: Again,
    pub(super) generation: u64,
    /// Resets connections to endpoints that have gone.
    pub(super) drainer: Drainer,
    pub(super) draining: Draining,
    /// When to try again to make larger tables.
    pub(super) grow_again: Again,
    /// Says when the node has other addresses.
    pub(super) _addresses: Following,
    /// What is left alone, and until when.
    pub(super) bypassed: Vec<Bypassed>,
    /// When to try again to end what is over.
    pub(super) end_again: Again,
    pub(super) report: Report,
    pub(super) published: Option<Report>,
    /// What the last daemon had in force had gone when this one came.
    pub(super) lost: bool,
    /// Of what was in force at the start, what could not be read, until something else is.
    pub(super) unread: Unread,
    /// Something was read since the last step.
    pub(super) changed: bool,
    /// What was read and is not in force.
    pub(super) waiting: source::waiting::Waiting,
    /// Who waits for everything to be read again.
    pub(super) rereading: Vec<Waiter>,
    /// How much of it is taken at once.
    pub(super) pace: Pace,
    /// How long changes take to be in force.
    pub(super) times: Times,
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
    /// How the programs stood when somebody asked for it last, and when to look again.
    pub(super) seen: Option<(Instant, Result<Standing, String>)>,
    pub(super) signals: Option<Signals>,
    /// It has handed over, and does not listen again yet.
    pub(super) lingering: Option<Lingering>,
    /// Let go of last: whoever follows has all of it then.
    pub(super) lock: Lock,
}

pub(super) fn started(error: std::io::Error) -> Failure {
    Failure::new(Exit::No, format!("a thread of the daemon cannot be started: {error}"))
}

impl Daemon {
    pub(super) fn run(&mut self, sender: &Sender<Event>, events: &Receiver<Event>) -> End {
        loop {
            let idle = self.waiting.is_empty() && !self.changed && !self.auditor.has_made();
            let wait = match idle {
                true => self.until_next_check(),
                false => Duration::ZERO,
            };
            let stop = match events.recv_timeout(wait) {
                Ok(event) => {
                    let mut stop = self.handle(event, sender);
                    // What is there already is seen to together; but no flood of
                    // events keeps it from that.
                    let mut requests = 0;
                    for _ in 0..TOGETHER {
                        // What comes after a reason to end is for whoever goes on.
                        if stop.is_some() || requests == ASKED_TOGETHER {
                            break;
                        }
                        let Ok(event) = events.try_recv() else { break };
                        requests += usize::from(matches!(event, Event::Request(..)));
                        stop = self.handle(event, sender);
                    }
                    stop
                }
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(End::Signal(0)),
            };
            if let Some(end) = stop {
                return end;
            }
            self.let_go();
            let slice = self.take(self.pace.slice());
            let changed = std::mem::take(&mut self.changed);
            if changed || self.verified.elapsed() >= self.options.verify {
                self.see_to_state(sender);
            }
            if changed && self.report.hold.is_none() {
                let begun = Instant::now();
                match self.step() {
                    true => self.times.in_force(),
                    false => self.times.refused(),
                }
                self.pace.took(slice.max(1), begun.elapsed());
                self.spare.note();
            } else if changed {
                // An earlier configuration is held, and the sources say what they said.
                if self.report.apply_error.is_some() {
                    self.hold_on();
                }
                self.times.in_force();
            }
            self.answer_rereads();
            self.end_bypasses();
            self.drain();
            self.check();
            self.audit();
            self.publish();
            self.spare.give_back();
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

    /// Says how to end, if it is time to.
    pub(super) fn handle(&mut self, event: Event, sender: &Sender<Event>) -> Option<End> {
        match event {
            Event::Stop(signal) => return Some(End::Signal(signal)),
            // It is taken when all that happened is known.
            Event::Changes => {}
            Event::Identity => self.look(),
            Event::Pods(events) => {
                events.into_iter().for_each(|event| self.tracker.pod(event));
                self.look();
            }
            Event::Watches => {
                (self.report.watching, self.report.watch_drift) = self.source.health();
            }
            Event::Names(resolved) => self.resolved(resolved),
            Event::Addresses(addresses) => {
                self.changed |= self.engine.settings.set_node_addresses(addresses);
            }
            Event::Looked(looked) => self.looked(looked),
            Event::Audited(anew) => self.auditor.made(anew),
            Event::Reread => {
                tracing::info!("reading everything again");
                // Nobody waits for it.
                let _ = self.source.reread();
            }
            Event::Drained(drained) => self.drained(drained),
            // Who asked for it has gone: a successor would leave nobody in charge, and a command
            // that was given up may be given again.
            Event::Request(_, reply) if reply.is_closed() => {}
            // Who waits for this one would take over again, and find somebody in charge whom it
            // does not know.
            Event::Request(request @ Request::HandOver { .. }, reply)
                if self.predecessor.is_some() =>
            {
                tracing::info!("another one is to follow, once this one is in force");
                self.deferred.push(Event::Request(request, reply));
            }
            Event::Request(Request::HandOver { confirms, adopts, elsewhere }, reply) => {
                let adopts = adopts && self.gateways.stays();
                let sockets = match self.sockets(adopts) {
                    Ok(sockets) => sockets,
                    Err(error) => {
                        let error = Some(format!("its sockets cannot be passed on: {error}"));
                        let _ =
                            reply.send(Answer::plain(Response { error, ..Response::default() }));
                        return None;
                    }
                };
                let generation = self.generation;
                let response =
                    Response { generation, sockets: sockets.len(), ..Response::default() };
                let to = sender.clone();
                let afterwards = confirms.then(|| {
                    Afterwards::new(move |confirmed| drop(to.send(Event::Succeeded(confirmed))))
                });
                if let Err(answer) = reply.send(Answer { response, sockets, afterwards }) {
                    if let Some(afterwards) = answer.afterwards {
                        afterwards.forget();
                    }
                    return None;
                }
                // The successor accepts from the same sockets.
                self.server.stop_accepting();
                return Some(End::HandOver(Succession { confirms, adopts, elsewhere }));
            }
            // Of a successor that this daemon has taken over from again.
            Event::Succeeded(_) => {}
            Event::Request(Request::Reread, reply) => self.reread(reply),
            Event::Request(request, reply) => self.answer(request, reply),
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

    /// Takes about so many of the changes that wait; says how many.
    pub(super) fn take(&mut self, about: usize) -> usize {
        let Some(batch) = self.waiting.take(about) else { return 0 };
        let count = batch.arrivals.len();
        for arrival in &batch.arrivals {
            match &arrival.change {
                Change::Put(name, _) => tracing::debug!(file = %name, "read"),
                Change::Unreadable(name, why) => {
                    tracing::warn!(file = %name, "{}; what it held stays", why.message);
                }
                Change::Removed(name) if arrival.is_written() => {
                    tracing::info!(file = %name, "removed");
                }
                Change::Removed(name) => tracing::debug!(file = %name, "removed"),
            }
        }
        self.times.taken(&batch);
        batch.put_into(&mut self.engine.store);
        self.report.read = now();
        self.changed = true;
        if self.report.hold.is_some() && !self.engine.store.is_unchanged() {
            tracing::info!("the sources changed: no longer holding an earlier configuration");
            self.report.hold = None;
        }
        count
    }

    /// How many changes are not in force, and since when the oldest waits.
    pub(super) fn oldest(&self) -> Option<(usize, Instant)> {
        let all = [self.waiting.oldest(), self.times.oldest()].into_iter().flatten();
        all.reduce(|(one, since), (other, first)| (one + other, since.min(first)))
    }

    /// Notes what waits. `least`: not what comes in force in a moment.
    fn note_waiting(&mut self, least: Duration) {
        let oldest = self.oldest().filter(|(_, since)| since.elapsed() >= least);
        self.report.waiting = oldest.map(|(changes, since)| {
            let since = now().saturating_sub(since.elapsed().as_secs());
            WaitingChanges { changes, since }
        });
    }

    fn answer(&mut self, request: Request, reply: oneshot::Sender<Answer>) {
        let (reports, only_looks) = (request == Request::Report, request.only_looks());
        let gateways = (request == Request::Gateways).then(|| self.gateways.status());
        let gateways = gateways.flatten().map(Box::new);
        let (mut standing, mut through) = (None, Vec::new());
        let result = match request {
            Request::Rollback { steps } => self.roll_back(steps).map(Some),
            Request::Release => self.release().map(|()| None),
            Request::Report => {
                self.note_failing();
                Ok(None)
            }
            Request::Bypass { change } => self.bypass(&change).map(|()| None),
            Request::Follow { seconds } => self.follow_for(seconds).map(|()| None),
            Request::Tell { seconds } => {
                let time = Duration::from_secs(seconds.min(MOST_WATCHED));
                self.datapath.follow_flows(time).map(|()| None).map_err(|error| error.to_string())
            }
            Request::Through { after, seconds } => {
                let time = Duration::from_secs(seconds.min(MOST_WATCHED));
                through = self.gateways.told(after, time);
                Ok(None)
            }
            Request::Standing => self.look_at_programs().map(|seen| {
                standing = Some(Box::new(seen));
                None
            }),
            // Answered where it is taken.
            Request::HandOver { .. } | Request::Reread | Request::Gateways => Ok(None),
            Request::LogLevel { level } => log::set_level(&level).map(|()| {
                self.gateways.log_at(&level);
                None
            }),
        };
        let (error, of_generation) = match result {
            Ok(of) => (self.report.apply_error.clone().filter(|_| of.is_some()), of),
            Err(error) => (Some(error), None),
        };
        if !only_looks {
            self.publish();
        }
        let report = reports.then(|| {
            self.refresh();
            self.note_waiting(Duration::ZERO);
            Box::new(Report { names: self.known_names(), ..self.report.clone() })
        });
        let generation = self.generation;
        let response = Response {
            error,
            generation,
            of_generation,
            report,
            gateways,
            standing,
            through,
            ..Response::default()
        };
        let _ = reply.send(Answer::plain(response));
    }

    /// How the programs stand. Whoever asks again at once gets the same, so that nobody
    /// keeps the loop from changes by asking.
    fn look_at_programs(&mut self) -> Result<Standing, String> {
        if let Some((until, seen)) = &self.seen
            && Instant::now() < *until
        {
            return seen.clone();
        }
        let begun = Instant::now();
        let seen = self.datapath.standing().map_err(|error| error.to_string());
        let rest = LOOKED.max(begun.elapsed() * LOOK_REST);
        self.seen = Some((Instant::now() + rest, seen.clone()));
        seen
    }

    /// Somebody watches connections: they are followed until they end.
    fn follow_for(&mut self, seconds: u64) -> Result<(), String> {
        let until = Instant::now() + Duration::from_secs(seconds.min(MOST_WATCHED));
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

    /// Has the report say what is so now.
    fn refresh(&mut self) {
        self.look_for_findings();
        self.report.unexamined = self.looker.unexamined();
        self.note_names();
        (self.report.gateways, self.report.relay) = self.gateways.report();
    }

    /// Publishes what changed.
    pub(super) fn publish(&mut self) {
        self.refresh();
        self.note_waiting(TOLD_AFTER);
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

    /// Copies of all listening sockets, but for those of gateways when the successor
    /// goes on with the process that has them.
    fn sockets(&self, adopts: bool) -> std::io::Result<Vec<OwnedFd>> {
        let mut sockets = self.gateways.share()?;
        sockets.truncate(if adopts { 0 } else { sockets.len() });
        for listener in &self.metrics {
            sockets.push(listener.try_clone()?.into());
        }
        Ok(sockets)
    }

    /// Lets go of the tables and the state.
    pub(super) fn hand_over(mut self, succession: Succession) -> HandedOver {
        self.publish_last();
        let busy = |error: &StateError| matches!(error, StateError::Busy { .. });
        let lingering = handover::patiently(true, || self.state.linger(), busy);
        let (mut kept, server) = self.keep();
        match lingering {
            Ok(lingering) => kept.lingering = Some(lingering),
            Err(error) => tracing::warn!("{error}; who begins next does not wait for this one"),
        }
        HandedOver { kept, server, succession }
    }

    /// Lets go of all but what stays with the process.
    pub(super) fn keep(self) -> (Kept, Server) {
        self.direct.close();
        let Self { gateways, leaf, metrics, signals, server, .. } = self;
        let kept = Kept { gateways: Some(gateways), leaf, metrics, signals, lingering: None };
        (kept, server)
    }

    /// Publishes what whoever follows goes on from.
    fn publish_last(&mut self) {
        self.asked.is_news = true;
        self.publish();
    }

    pub(super) fn end(mut self, signal: i32) -> Result<Exit, Failure> {
        self.publish_last();
        // Whether a pod ends, or this container only, is known to what starts relays there.
        match self.gateways.stays() && !self.options.detach_on_exit {
            true => self.gateways.leave(),
            false => self.gateways.shutdown(),
        }
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
