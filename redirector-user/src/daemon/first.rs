//! Until the first configuration is in force: what is heard from then on, the wait for
//! what the sources say, and what is there already.

use std::net::TcpListener;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::control_loop::{Daemon, End, started};
use super::handover::SUCCESSION;
use super::metrics::{At, Pages};
use super::signals::Signals;
use super::sources::Follow;
use super::{Event, control, startup};
use crate::datapath::{Attached, Datapath};
use crate::failure::{Exit, Failure};
use crate::state::Pinned;

/// How often it is looked at whether the relay accepts, as long as it does not.
const RELAYS: Duration = Duration::from_millis(20);

impl Daemon {
    /// Serves until it is to end.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being in charge; nothing does any more once it is.
    pub(super) fn serve(
        &mut self,
        sender: &Sender<Event>,
        events: &Receiver<Event>,
    ) -> Result<End, Failure> {
        if let Some(end) = self.begin(sender, events)? {
            return Ok(end);
        }
        self.publish();
        self.readiness.in_force();
        self.source.ready();
        notify_supervisor(self.predecessor.is_some());
        tracing::info!(generation = self.generation, "in force");
        if let Some(predecessor) = self.predecessor.take() {
            predecessor.dismiss();
        }
        for event in self.deferred.drain(..) {
            // It is received here.
            let _ = sender.send(event);
        }
        self.spare.note();
        Ok(self.run(sender, events))
    }

    /// Comes in force; or says how to end before that.
    fn begin(
        &mut self,
        sender: &Sender<Event>,
        events: &Receiver<Event>,
    ) -> Result<Option<End>, Failure> {
        self.listen(sender)?;
        self.lingering = None;
        self.follow_program_log();
        if self.lost {
            self.restore();
        }
        let (store, report, direct) = (&mut self.engine.store, &self.report, &self.direct);
        let waiting = &self.waiting;
        self.source.follow(&mut Follow { store, report, direct, waiting, sender })?;
        // Nothing is attached before what is there was read: no connection
        // meets an empty configuration.
        let until = self.predecessor.as_ref().map(|_| Instant::now() + SUCCESSION);
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let event = match left {
                Some(left) => events.recv_timeout(left),
                None => events.recv().map_err(RecvTimeoutError::from),
            };
            match event {
                Ok(Event::Stop(_)) | Err(RecvTimeoutError::Disconnected) => {
                    return Ok(Some(End::Early));
                }
                Ok(Event::Changes) => {
                    self.take(usize::MAX);
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
                    if let Some(end) = self.handle(event, sender) {
                        return Ok(Some(end));
                    }
                    self.publish();
                }
                Err(RecvTimeoutError::Timeout) => {
                    let why = "the configuration was not read in a minute";
                    return Err(Failure::new(Exit::No, why).help(
                        "the daemon before is in charge again; its log, and this one, say more",
                    ));
                }
            }
        }
        self.changed = false;
        // What a predecessor has in force is its own, and never taken back here.
        let fresh = self.datapath.attachments()?.is_empty();
        if fresh {
            self.nobody_else(&Datapath::programs_of_others(&self.report.cgroups))?;
        }
        self.begin_with_it()?;
        if let Some(end) = self.gateways_serve(sender, events)? {
            return Ok(Some(end));
        }
        self.datapath.set_daemon_cgroup(self.leaf.as_ref().map(|leaf| &leaf.cgroup))?;
        self.times.forget();
        self.look();
        self.datapath.attach()?;
        if fresh {
            // Another one may have begun at the same time.
            self.nobody_else(&self.datapath.attachments()?)?;
        }
        self.report.pinned = Some(Pinned::now(&self.options.bpffs));
        self.self_test();
        Ok(None)
    }

    /// Nobody else decides who is not to beside this one; else this one does not: the kernel
    /// is left to a predecessor that waits, or as it was.
    fn nobody_else(&mut self, attached: &[Attached]) -> Result<(), Failure> {
        let (kubernetes, chosen) =
            (self.options.kubernetes.is_some(), !self.options.cgroups.is_empty());
        let Err(failure) = startup::nobody_else(kubernetes, chosen, attached) else {
            return Ok(());
        };
        if self.predecessor.is_some() {
            self.datapath.detach()?;
            return Err(failure);
        }
        self.gateways.shutdown();
        self.datapath.remove()?;
        self.state.remove()?;
        Err(failure)
    }

    /// Waits until those whom a predecessor serves are served here, as the other container,
    /// which relays, may come after this one; or says how to end before that.
    fn gateways_serve(
        &mut self,
        sender: &Sender<Event>,
        events: &Receiver<Event>,
    ) -> Result<Option<End>, Failure> {
        if self.predecessor.is_none() {
            return Ok(None);
        }
        let until = Instant::now() + SUCCESSION;
        while let Err(why) = self.gateways.serve() {
            if Instant::now() >= until {
                let why = format!("nobody relays for gateways in a minute: {why}");
                return Err(Failure::new(Exit::No, why)
                    .help("the daemon before is in charge again, and serves them"));
            }
            match events.recv_timeout(RELAYS) {
                Ok(Event::Stop(_)) | Err(RecvTimeoutError::Disconnected) => {
                    return Ok(Some(End::Early));
                }
                Ok(event) => {
                    if let Some(end) = self.handle(event, sender) {
                        return Ok(Some(end));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.gateways.start_when_it_is_time(self.engine.plan());
        }
        Ok(None)
    }

    /// Puts in force what is to be at first. Where that cannot be, what was in force stays,
    /// as this daemon's, or else as it is; but one that has that in hand goes on instead.
    fn begin_with_it(&mut self) -> Result<(), Failure> {
        self.report.hold.take_if(|_| !self.engine.store.is_unchanged());
        if self.report.hold.is_some() {
            if self.hold_on() || (self.generation != 0 && self.stay()) {
                return Ok(());
            }
            // There is nothing to hold.
            self.report.hold.take_if(|_| self.generation == 0);
        }
        if self.report.hold.is_none() && (self.step() || (self.generation != 0 && self.stay())) {
            return Ok(());
        }
        if self.generation != 0 && self.predecessor.is_none() {
            return Ok(());
        }
        let why = self.report.apply_error.take().unwrap_or_default();
        Err(Failure::new(Exit::No, why))
    }

    /// Takes requests in the state directory.
    pub(super) fn take_requests(&mut self, sender: &Sender<Event>) -> Result<(), Failure> {
        let to = sender.clone();
        let path = self.state.control_socket();
        control::serve(&mut self.server, &self.state, move |request, reply| {
            to.send(Event::Request(request, reply)).is_ok()
        })
        .map_err(|error| Failure::new(Exit::No, format!("{}: {error}", path.display())))
    }

    fn listen(&mut self, sender: &Sender<Event>) -> Result<(), Failure> {
        if self.signals.is_none() {
            self.signals = Some(Signals::hear(sender).map_err(started)?);
        }
        self.take_requests(sender)?;
        let to = sender.clone();
        let ask = move |reply| to.send(Event::Metrics(reply)).is_ok();
        let pages = Pages::new(&self.server, self.readiness.clone(), ask);
        let mut inherited = std::mem::take(&mut self.metrics);
        for At { address, token } in self.options.metrics.clone() {
            let is_there = |one: &TcpListener| one.local_addr().is_ok_and(|own| own == address);
            let known = inherited.iter().position(is_there).map(|at| inherited.swap_remove(at));
            let listener = known.map_or_else(|| TcpListener::bind(address), Ok);
            let served = listener.and_then(|listener| {
                self.metrics.push(listener.try_clone()?);
                pages.serve(&mut self.server, listener, token)
            });
            served.map_err(|error| {
                let before = self.predecessor.as_ref().map_or(&[][..], |one| &one.addresses);
                let help = match before.iter().find(|own| own.port() == address.port()) {
                    Some(own) => format!(
                        "the daemon before listens on {own}, which takes the same port of all \
                         addresses: end that one first (in a cluster, delete its pod)"
                    ),
                    None => "name another address with --metrics-address (or none) or \
                             --metrics-token-address"
                        .to_owned(),
                };
                Failure::new(Exit::No, format!("metrics cannot be served on {address}: {error}"))
                    .help(help)
            })?;
        }
        Ok(())
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
