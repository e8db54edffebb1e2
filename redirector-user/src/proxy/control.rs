//! The daemon's side: opens listening sockets, passes them to the relay, has it do what
//! the configuration says, and starts another one when it has ended or does not answer.
//! Clients wait in the listening sockets meanwhile.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::Settings;
use super::config::Config;
use super::decide::Whose;
use super::message::{
    Answer, ListenerCounts, ListenerState, ListenerStatus, Question, RelayStatus, Status,
};
use super::opened::{AGAIN, Opened};
use super::process::{self, Process};
use super::told::Through;
use crate::again::Again;

/// One that lived for less time is not replaced at once.
const SHORT: Duration = Duration::from_secs(10);

/// The wait before what the relay had no descriptors for is passed on again.
const PAUSE: Duration = Duration::from_secs(1);

/// What the control thread is asked.
pub(super) enum Ask {
    Update(Config, Sender<Status>),
    Status(Sender<Status>),
    /// Whether a relay accepts from all listening sockets; else why not.
    Serves(Sender<Result<(), String>>),
    /// What was told after this record; and more, for so long.
    Follow(u64, Duration, Sender<Vec<Through>>),
    /// Copies of all listening sockets.
    Share(Sender<io::Result<Vec<OwnedFd>>>),
    Forget,
    OpenDoor,
    LogAt(String),
    /// The relay with this number asks no more.
    Silent(u64),
    Stop,
    /// End, and leave the relay to the next daemon.
    Leave,
    /// End, and have the relay end when its connections have.
    GiveWay,
}

/// A file that is written behind what is there.
///
/// # Errors
///
/// The kernel's, with its name.
pub fn open_log(path: &Path) -> io::Result<OwnedFd> {
    let file = File::options().append(true).create(true).mode(0o640).open(path);
    file.map(OwnedFd::from)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// The relay, or why there is none.
enum Relay {
    Lives { process: Process, since: Instant },
    Failed { because: String },
}

/// The control thread's state.
pub(super) struct Control {
    settings: Settings,
    whose: Arc<dyn Whose>,
    /// To this thread.
    asks: Sender<Ask>,
    opened: Opened,
    config: Config,
    relay: Relay,
    /// How many were started.
    number: u64,
    /// When another is started in the place of one that was short-lived.
    begins: Again,
    restarts: u64,
    cut: u64,
    /// Connections open when that was asked last.
    active: u64,
    /// Another daemon may be in charge of the relay, since it was told of the sockets.
    shared: bool,
    /// A relay of another version, until this one listens in its place.
    before: Option<Process>,
    /// What could not be passed on, why, and when that is tried again.
    owed: Owed,
    /// When it is given again by what it asks, or tells of connections.
    again: Option<Instant>,
}

/// Listening sockets that the relay is to have.
struct Owed {
    addresses: Vec<SocketAddr>,
    because: String,
    tries: u32,
    again: Again,
}

impl Owed {
    const NOTHING: Self =
        Self { addresses: Vec::new(), because: String::new(), tries: 0, again: AGAIN };
}

impl Control {
    /// Goes on with the relay of an earlier daemon, or starts one, which listens nowhere
    /// yet.
    pub fn start(
        settings: Settings,
        whose: Arc<dyn Whose>,
        inherited: Vec<OwnedFd>,
        asks: Sender<Ask>,
    ) -> io::Result<Self> {
        let found = Process::find(&settings).unwrap_or_else(|error| {
            tracing::warn!(%error, "the relay of the daemon before does not answer");
            None
        });
        let (mut found, sockets) = match found {
            Some((found, sockets)) => (Some(found), sockets),
            None => (None, inherited),
        };
        let adopted = found.take_if(Process::fits);
        let opened = match adopted {
            Some(_) => Opened::of_relay(settings.workers.get(), sockets),
            None => Opened::new(settings.workers.get(), sockets),
        };
        let relay = Relay::Failed { because: String::new() };
        let mut this = Self {
            settings,
            whose,
            asks,
            opened,
            config: Config::default(),
            relay,
            number: 0,
            begins: AGAIN,
            restarts: 0,
            cut: 0,
            active: 0,
            shared: false,
            before: found,
            owed: Owed::NOTHING,
            again: None,
        };
        match adopted {
            Some(process) => {
                tracing::info!(pid = process.confined.pid, "goes on with the relay of gateways");
                this.goes_on_with(process);
            }
            // Where that fails it is tried again; an earlier one serves meanwhile.
            None => this.begin_again(),
        }
        Ok(this)
    }

    /// Serves until it is told to stop, or nobody is left to ask.
    pub fn run(mut self, asks: &Receiver<Ask>) {
        loop {
            let begins = match &self.relay {
                Relay::Failed { .. } => self.begins.next(),
                Relay::Lives { .. } => None,
            };
            let due = [self.opened.next_try(), begins, self.owed.again.next(), self.again];
            let next = due.into_iter().flatten().min();
            let ask = match next.map(|at| at.saturating_duration_since(Instant::now())) {
                Some(wait) => asks.recv_timeout(wait),
                None => asks.recv().map_err(RecvTimeoutError::from),
            };
            match ask {
                Ok(Ask::Stop) | Err(RecvTimeoutError::Disconnected) => return self.stop(),
                Ok(Ask::Leave) => return self.leave(Process::leave),
                Ok(Ask::GiveWay) => return self.leave(Process::give_way),
                Ok(ask) => self.answer(ask),
                Err(RecvTimeoutError::Timeout) => {
                    self.begins_to_ask();
                    if begins.is_some_and(|at| at <= Instant::now()) {
                        self.begin_again();
                    }
                    if self.again.is_some_and(|at| at <= Instant::now()) {
                        self.gives_sockets();
                    }
                    let new = self.opened.try_again();
                    self.opened.keep_alive(&self.config.listeners);
                    self.pass_on(&new);
                    self.retire_before();
                }
            }
        }
    }

    /// What follows is asked in one go, and has one time.
    fn begins_to_ask(&mut self) {
        if let Relay::Lives { process, .. } = &mut self.relay {
            process.begins();
        }
    }

    fn answer(&mut self, ask: Ask) {
        self.begins_to_ask();
        match ask {
            Ask::Update(config, reply) => {
                self.update(config);
                let _ = reply.send(self.status());
            }
            Ask::Status(reply) => {
                let _ = reply.send(self.status());
            }
            Ask::Serves(reply) => {
                let _ = reply.send(self.serves());
            }
            Ask::Follow(after, time, reply) => {
                let told = match self.ask(&Question::Follow(after, time), &[]) {
                    Some(Answer::Told(told)) => told,
                    _ => Vec::new(),
                };
                let _ = reply.send(told);
            }
            Ask::Share(reply) => {
                self.shared = true;
                let all = self.opened.copies(&self.opened.listening());
                let sockets = all.map(|all| all.into_iter().map(|(_, socket)| socket));
                let _ = reply.send(sockets.map(Iterator::collect).map_err(Into::into));
            }
            Ask::Forget => drop(self.ask(&Question::Forget, &[])),
            Ask::OpenDoor => self.opens_door(),
            Ask::LogAt(level) => {
                drop(self.ask(&Question::LogAt(level.clone()), &[]));
                self.settings.log.level = level;
            }
            // Who is in charge now is asked instead.
            Ask::Silent(number) if number == self.number && !self.shared => self.attend(),
            Ask::Silent(_) | Ask::Stop | Ask::Leave | Ask::GiveWay => {}
        }
    }

    /// Puts a configuration into force. When this returns, every connection
    /// that is made from then on is decided by it.
    fn update(&mut self, config: Config) {
        let wanted: Vec<SocketAddr> = config.listeners.iter().map(|l| l.address).collect();
        self.config = config;
        // The relay has the last copies of these, and serves what waits in them.
        self.opened.close_others(&wanted);
        match self.relay {
            Relay::Lives { .. } => drop(self.ask(&self.question(), &[])),
            Relay::Failed { .. } => self.begin_again(),
        }
        let mut new = self.opened.open(&wanted);
        if std::mem::take(&mut self.shared) {
            // What another daemon has changed meanwhile.
            new = self.opened.listening();
            if let Relay::Lives { process, .. } = &mut self.relay {
                process.place(self.settings.cgroup.as_deref());
            }
            self.takes_charge();
        }
        self.opened.keep_alive(&self.config.listeners);
        self.pass_on(&new);
        self.retire_before();
    }

    /// Whether the relay accepts from all listening sockets; else why not.
    fn serves(&self) -> Result<(), String> {
        match &self.relay {
            Relay::Failed { because } if !self.config.listeners.is_empty() => Err(because.clone()),
            _ if !self.owed.addresses.is_empty() => Err(self.owed.because.clone()),
            _ => Ok(()),
        }
    }

    /// Has an earlier relay end, once another one serves.
    fn retire_before(&mut self) {
        if matches!(self.relay, Relay::Lives { .. })
            && self.serves().is_ok()
            && let Some(before) = self.before.take()
        {
            before.retire(self.settings.drain);
        }
    }

    fn question(&self) -> Question {
        Question::Update(Box::new(self.config.clone()), self.settings.drain)
    }

    /// Has these addresses accepted from, and those that could not be before.
    fn pass_on(&mut self, new: &[SocketAddr]) {
        let owed = std::mem::replace(&mut self.owed, Owed::NOTHING);
        // Another relay is given all that there are.
        if matches!(self.relay, Relay::Failed { .. }) {
            return;
        }
        let mut due = owed.addresses;
        due.extend(new.iter().filter(|address| !due.contains(address)).collect::<Vec<_>>());
        let failed = match self.opened.copies(&due) {
            _ if due.is_empty() => None,
            Ok(copies) => {
                let (addresses, sockets): (_, Vec<_>) = copies.into_iter().unzip();
                match self.ask(&Question::Listen(addresses), &sockets) {
                    Some(Answer::Failed(why)) => Some(why),
                    _ => None,
                }
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(because) = failed {
            tracing::error!("listening sockets cannot be passed on: {because}; trying again");
            let mut again = owed.again;
            again.failed();
            self.owed = Owed { addresses: due, because, tries: owed.tries + 1, again };
        }
    }

    fn status(&mut self) -> Status {
        let Some(Answer::Status(mut status)) = self.ask(&Question::Status, &[]) else {
            return self.without_relay();
        };
        self.active = status.active;
        self.opened.note_failed(&mut status);
        for listener in &mut status.listeners {
            if self.owed.addresses.contains(&listener.address) {
                let (error, tries) = (self.owed.because.clone(), self.owed.tries);
                listener.state = ListenerState::Failed { error, tries };
            }
        }
        if let Relay::Lives { process, .. } = &mut self.relay {
            if process.not_exempt.is_some() {
                process.place(self.settings.cgroup.as_deref());
            }
            let (restarts, cut, not_exempt) = (self.restarts, self.cut, process.not_exempt.clone());
            let process = process.confined.clone();
            status.relay = Some(RelayStatus { process, restarts, cut, not_exempt });
        }
        *status
    }

    /// How it is while there is no relay.
    fn without_relay(&self) -> Status {
        let because = match &self.relay {
            Relay::Failed { because, .. } => because.as_str(),
            Relay::Lives { .. } => "another has just been started",
        };
        let error = format!("the process that relays has ended: {because}");
        let state = ListenerState::Failed { error, tries: 1 };
        let listeners = self.config.listeners.iter().map(|listener| ListenerStatus {
            address: listener.address,
            name: listener.name.clone(),
            state: state.clone(),
            counts: ListenerCounts::default(),
        });
        Status { listeners: listeners.collect(), ..Status::default() }
    }

    /// Asks the relay. One that does not answer is replaced by another, which serves the
    /// newest configuration at all addresses.
    fn ask(&mut self, question: &Question, sockets: &[OwnedFd]) -> Option<Answer> {
        let Relay::Lives { process, since } = &mut self.relay else { return None };
        let error = match process.ask(question, sockets) {
            Ok(answer) => return Some(answer),
            Err(error) => error,
        };
        let is_short = since.elapsed() < SHORT;
        let active = std::mem::take(&mut self.active);
        // A successor may have told it to end, which did not come in force: then its
        // connections finish.
        if !self.shared {
            self.restarts += 1;
            self.cut += active;
        }
        self.failed(&error);
        if is_short {
            self.begins.failed();
        } else {
            self.begins.over();
            self.begin_again();
        }
        None
    }

    /// Notes that there is none. One that does not answer is killed.
    fn failed(&mut self, error: &io::Error) {
        tracing::error!(%error, "the relay of gateways does not answer; starting another");
        self.relay = Relay::Failed { because: error.to_string() };
    }

    fn begin_again(&mut self) {
        if let Err(error) = self.begin() {
            self.failed(&error);
            self.begins.failed();
        }
    }

    /// Starts a relay that serves what is to be served.
    fn begin(&mut self) -> io::Result<()> {
        if let Some(door) = self.settings.door.as_ref().filter(|_| self.before.is_none()) {
            // One of a successor that was never in charge.
            process::retire_at(door, self.settings.drain);
        }
        let mut process = Process::start(&self.settings)?;
        process.ask(&self.question(), &[])?;
        let copies = self.opened.copies(&self.opened.listening())?;
        let (addresses, sockets): (_, Vec<_>) = copies.into_iter().unzip();
        process.give(&Question::Listen(addresses), &sockets)?;
        self.goes_on_with(process);
        Ok(())
    }

    fn goes_on_with(&mut self, process: Process) {
        self.relay = Relay::Lives { process, since: Instant::now() };
        self.takes_charge();
    }

    /// Whatever another daemon has told it: this one answers, and says how it logs.
    fn takes_charge(&mut self) {
        let level = self.settings.log.level.clone();
        drop(self.ask(&Question::LogAt(level), &[]));
        self.gives_sockets();
    }

    fn opens_door(&mut self) {
        let (Relay::Lives { process, .. }, Some(door)) = (&mut self.relay, &self.settings.door)
        else {
            return;
        };
        match process.stay(door) {
            Ok(()) => tracing::warn!(door = %door.display(), "somebody has removed it: made again"),
            Err(error) => tracing::error!(
                "no later daemon finds the relay, as its door cannot be made again: {error}"
            ),
        }
    }

    /// Gives it those by which it asks, and tells of connections.
    fn gives_sockets(&mut self) {
        self.again = None;
        self.attend();
        self.tell_of_connections();
    }

    /// Has the relay tell of connections as it is wanted.
    fn tell_of_connections(&mut self) {
        let opened = self.settings.access.as_ref().map(|(format, path)| {
            let to = match path {
                Some(path) => open_log(path),
                None => io::stdout().as_fd().try_clone_to_owned(),
            };
            to.map(|to| (*format, to))
        });
        let (format, to) = match opened.transpose() {
            Ok(opened) => opened.unzip(),
            Err(error) => {
                tracing::error!(%error, "no access log can be written");
                (None, None)
            }
        };
        if let Some(Answer::Failed(why)) = self.ask(&Question::Access(format), &Vec::from_iter(to))
        {
            tracing::warn!("the relay cannot take the access log: {why}; trying again");
            self.again = Some(Instant::now() + PAUSE);
        }
    }

    /// Answers what the relay asks.
    fn attend(&mut self) {
        let Relay::Lives { process, .. } = &mut self.relay else { return };
        // Who answered before ends by this, and is not to begin it again.
        self.number += 1;
        let (asks, number) = (self.asks.clone(), self.number);
        let silent = move || drop(asks.send(Ask::Silent(number)));
        if let Err(error) = process.attend(Arc::clone(&self.whose), silent) {
            tracing::warn!(%error, "the relay cannot ask who clients are; trying again");
            self.again = Some(Instant::now() + PAUSE);
            // If it has gone, that is seen now.
            drop(self.ask(&Question::Status, &[]));
        }
    }

    /// Ends, and the relay is left like this: an earlier one, where there is no other.
    fn leave(self, leave: impl FnOnce(Process, &Settings)) {
        match (self.relay, self.before) {
            (Relay::Lives { process, .. }, before) => {
                if let Some(before) = before {
                    before.retire(self.settings.drain);
                }
                leave(process, &self.settings);
            }
            (Relay::Failed { .. }, Some(before)) => leave(before, &self.settings),
            (Relay::Failed { .. }, None) => {}
        }
    }

    fn stop(mut self) {
        // The relay has the last copies, and serves what waits in them.
        self.opened.close_others(&[]);
        if let Some(before) = self.before.take() {
            before.retire(self.settings.drain);
        }
        if let Relay::Lives { process, .. } = self.relay {
            process.stop(self.settings.drain);
        }
    }
}
