//! The relay's process, as the daemon has it.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::Settings;
use super::decide::Whose;
use super::frame;
use super::message::{Answer, Question, Status, Who};
use super::start::{PATIENCE, Start, open, program};
use super::starter::command;
use crate::confined::{Confined, keep_none};
use crate::leftovers::RELAY;
use crate::{datapath, mounts, rights};

/// Longest time that a relay without connections takes to end.
const WITHOUT_CONNECTIONS: Duration = Duration::from_secs(1);

/// A living relay. Dropping it kills it, unless it was [left](Process::leave).
pub(super) struct Process {
    /// None where it is in another PID namespace, as that of another pod is: it answers, and
    /// nothing else can be done about it.
    process: Option<OwnedFd>,
    /// Where it is this process's own.
    child: Option<Child>,
    link: UnixStream,
    /// What it may do.
    pub confined: Confined,
    /// Why its connections are not left alone, where they are to be.
    pub not_exempt: Option<String>,
    lives_on: bool,
    /// When it must have answered all that it is asked.
    until: Instant,
}

impl Process {
    /// Starts one, or has it started by [`Settings::starter`]; it listens nowhere yet.
    ///
    /// # Errors
    ///
    /// When it cannot be started, or does not answer.
    pub fn start(settings: &Settings) -> io::Result<Self> {
        let (workers, hello_timeout) = (settings.workers, settings.hello_timeout);
        let start = Start { workers, hello_timeout, log: settings.log.clone() };
        if let (Some(starter), Some(door)) = (&settings.starter, &settings.door) {
            return Self::order(starter, door, settings, &start);
        }
        let (link, theirs) = UnixStream::pair()?;
        let child = command(&settings.program, &serde_json::to_string(&start)?)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        let pid = child.id();
        let mut this = Self::of(pid, Some(child), link)?;
        this.place(settings.cgroup.as_deref());
        // Once it answers, it has given up what it had.
        this.ask(&Question::Forget, &[])?;
        this.confined = Confined::of(pid)?;
        if let Some(door) = &settings.door {
            this.stay(door)?;
        }
        Ok(this)
    }

    /// Has it be there for later daemons, which come by this door.
    ///
    /// # Errors
    ///
    /// When the door cannot be made, or it cannot take it.
    pub fn stay(&mut self, door: &Path) -> io::Result<()> {
        self.give(&Question::Stay, &[open(door)?.into()])
    }

    /// Has one started by who listens at `starter`, of this daemon's program, whichever is
    /// installed there.
    fn order(starter: &Path, door: &Path, settings: &Settings, start: &Start) -> io::Result<Self> {
        let failed = |why: &str| io::Error::other(format!("{}: {why}", starter.display()));
        let link = knock(starter)?.ok_or_else(|| failed("nobody starts relays there"))?;
        let program = fs::File::open(&settings.program)?;
        let answer = frame::send(&link, start, &[program.into()], PATIENCE)
            .and_then(|()| {
                frame::send(&link, &Question::Stay, &[open(door)?.into()], PATIENCE)?;
                frame::receive::<Answer>(&link, PATIENCE)
            })
            .map_err(|error| failed(&format!("the relay that is started there ends: {error}")))?;
        // Who is at the other end the kernel does not say: who listens at the door, it does.
        let mut this = match answer.0 {
            Answer::Done => {
                let found = Self::behind(door)?;
                let this = found.ok_or_else(|| failed("no relay comes to the door"))?;
                if this.process.is_none() {
                    let why = "it is in another PID namespace (shareProcessNamespace of the pod)";
                    return Err(failed(why));
                }
                this
            }
            _ => return Err(failed("the relay that is started there does not stay")),
        };
        this.place(settings.cgroup.as_deref());
        // Once it answers here the other connection is not missed.
        this.ask(&Question::Forget, &[])?;
        this.confined = Confined::of(this.confined.pid)?;
        Ok(this)
    }

    /// The relay that is behind this door.
    fn behind(door: &Path) -> io::Result<Option<Self>> {
        let Some(link) = knock(door)? else { return Ok(None) };
        // Who listens, by the kernel's word.
        let pid = rights::peer(&link)?.pid.unsigned_abs();
        if pid == std::process::id() {
            return Ok(None);
        }
        Self::of(pid, None, link).map(Some)
    }

    /// The relay that an earlier daemon has left behind this door, if there is one; and
    /// its listening sockets in this network namespace.
    ///
    /// # Errors
    ///
    /// When it does not answer: it is of no use then. One that answers, and whose sockets
    /// do not come, accepts no more and keeps its connections.
    pub fn find(settings: &Settings) -> io::Result<Option<(Self, Vec<OwnedFd>)>> {
        let Some(door) = &settings.door else { return Ok(None) };
        let Some(mut this) = Self::behind(door)? else { return Ok(None) };
        let sockets = match this.converse(&Question::Share, &[])? {
            (Answer::Failed(why), _) => Err(io::Error::other(why)),
            (_, sockets) => sockets,
        };
        let own = sockets.and_then(|mut sockets| {
            datapath::keep_own(&mut sockets)?;
            Ok(sockets)
        });
        let sockets = match own {
            Ok(sockets) => sockets,
            Err(error) => {
                this.retire(settings.drain);
                return Err(error);
            }
        };
        if this.process.is_some() {
            this.place(settings.cgroup.as_deref());
            this.confined = Confined::of(this.confined.pid)?;
        }
        Ok(Some((this, sockets)))
    }

    /// Whether it is of this program and of this pod, which can go on with it.
    pub fn fits(&mut self) -> bool {
        let answer = self.ask(&Question::Version, &[]);
        self.process.is_some()
            && matches!(answer, Ok(Answer::Version(version)) if version == program())
    }

    fn of(pid: u32, child: Option<Child>, link: UnixStream) -> io::Result<Self> {
        let number = Pid::from_raw(pid.cast_signed());
        let process = number.map(|number| pidfd_open(number, PidfdFlags::empty())).transpose()?;
        let until = Instant::now() + PATIENCE;
        let confined = Confined { pid, ..Confined::default() };
        Ok(Self { process, child, link, confined, not_exempt: None, lives_on: false, until })
    }

    /// Has it below the cgroup whose connections are left alone: in one of its own there,
    /// if it is in none.
    pub fn place(&mut self, exempt: Option<&Path>) {
        let had = self.not_exempt.take();
        let pid = self.confined.pid;
        let (Some(exempt), true) = (exempt, self.process.is_some()) else { return };
        let below = cgroup_of(pid).and_then(|own| Some(own.strip_prefix(exempt).ok()?.to_owned()));
        if below.as_ref().is_some_and(|below| below != Path::new("")) {
            return;
        }
        let Err(error) = move_to(&exempt.join(RELAY), pid) else { return };
        let why = format!("{}: {error}", exempt.join(RELAY).display());
        // With the daemon they are left alone, too, wherever that is.
        if below.is_some() || is_beside(pid) {
            tracing::warn!("the relay has no cgroup of its own: {why}");
            return;
        }
        if had.as_ref() != Some(&why) {
            tracing::error!("connections of the relay are redirected: {why}");
        }
        self.not_exempt = Some(why);
    }

    /// Asks it something, with these sockets.
    ///
    /// # Errors
    ///
    /// When it has gone, or does not answer in time. There is no use in asking it again.
    pub fn ask(&mut self, question: &Question, sockets: &[OwnedFd]) -> io::Result<Answer> {
        Ok(self.converse(question, sockets)?.0)
    }

    /// As [`ask`](Self::ask), for what it must be able to take.
    ///
    /// # Errors
    ///
    /// Also when it cannot: it is there, and can be asked again.
    pub fn give(&mut self, question: &Question, sockets: &[OwnedFd]) -> io::Result<()> {
        match self.ask(question, sockets)? {
            Answer::Failed(why) => Err(io::Error::other(why)),
            _ => Ok(()),
        }
    }

    /// As [`ask`](Self::ask), for an answer with sockets.
    fn converse(
        &mut self,
        question: &Question,
        sockets: &[OwnedFd],
    ) -> io::Result<(Answer, io::Result<Vec<OwnedFd>>)> {
        let left = || self.until.saturating_duration_since(Instant::now());
        let answer = frame::send(&self.link, question, sockets, left())
            .and_then(|()| frame::receive(&self.link, left()));
        // Who hangs up has gone, or finishes its connections, as another daemon has told it.
        if let Err(error) = &answer {
            self.lives_on |= hangs_up(error);
        }
        answer
    }

    /// What it is asked from now on is asked in one go.
    pub fn begins(&mut self) {
        self.until = Instant::now() + PATIENCE;
    }

    /// Answers its questions, in a thread, until it has gone or asks no more: then `over`
    /// is called.
    ///
    /// # Errors
    ///
    /// When it has gone, or descriptors, here or there, or threads have run out.
    pub fn attend(
        &mut self,
        whose: Arc<dyn Whose>,
        over: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        self.give(&Question::Attend, &[theirs.into()])?;
        thread::Builder::new().name("gateway-clients".into()).spawn(move || {
            keep_none();
            while frame::wait(&ours).is_ok()
                && let Ok((Who { cgroup }, _)) = frame::receive(&ours, PATIENCE)
            {
                if frame::send(&ours, &whose.of(cgroup), &[], PATIENCE).is_err() {
                    break;
                }
            }
            over();
        })?;
        Ok(())
    }

    /// Has it accept no more, and end when its connections have, after so long at most.
    pub fn retire(mut self, drain: Duration) {
        self.begins();
        match self.ask(&Question::Stop(drain), &[]) {
            Ok(_) => self.lives_on = true,
            Err(error) => tracing::warn!(%error, "the relay does not end by itself"),
        }
    }

    /// As [`retire`](Self::retire), and waits for that.
    pub fn stop(mut self, drain: Duration) {
        self.begins();
        let patience = drain.saturating_add(PATIENCE);
        let over = self
            .ask(&Question::Stop(drain), &[])
            .and_then(|_| self.link.set_read_timeout(Some(patience)))
            .and_then(|()| io::Read::read(&mut &self.link, &mut [0]));
        if let Err(error) = over {
            tracing::warn!(%error, "the relay does not end by itself");
        }
    }

    /// As [`retire`](Self::retire), unless a successor has told it so before: then it
    /// finishes its connections, and answers no more.
    pub fn give_way(mut self, settings: &Settings) {
        self.begins();
        match self.ask(&Question::Version, &[]) {
            Ok(_) => self.retire(settings.drain),
            Err(_) => self.lives_on = true,
        }
    }

    /// Leaves it to the next daemon, if it is to stay.
    pub fn leave(mut self, settings: &Settings) {
        self.lives_on = settings.door.is_some();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.lives_on {
            // It may have gone before.
            let _ = self.child.as_mut().map(Child::try_wait);
            return;
        }
        let Some(process) = &self.process else { return };
        // It is of another user: without CAP_KILL it cannot be, and is not waited for.
        let killed = pidfd_send_signal(process, Signal::KILL);
        if let Err(error) = killed {
            tracing::debug!(%error, "the relay is not killed");
        }
        if let Some(child) = &mut self.child {
            let _ = if killed.is_ok() { child.wait().map(Some) } else { child.try_wait() };
        }
    }
}

/// Has the relay behind this door accept no more, and end when its connections have,
/// after so long at most; if there is one. One that has none has ended then.
pub fn retire_at(door: &Path, drain: Duration) {
    let link = match knock(door) {
        Ok(Some(link)) => link,
        Ok(None) => return,
        Err(error) => {
            tracing::warn!(%error, "the relay that is there does not let anybody in");
            return;
        }
    };
    let over = frame::send(&link, &Question::Stop(drain), &[], PATIENCE)
        .and_then(|()| frame::receive::<Answer>(&link, PATIENCE))
        .and_then(|_| link.set_read_timeout(Some(WITHOUT_CONNECTIONS)))
        .and_then(|_| io::Read::read(&mut &link, &mut [0]));
    if let Err(error) = over {
        tracing::debug!(%error, "the relay goes on for its connections");
    }
}

/// Has the relay behind this door, if there is one, below the cgroup whose connections are
/// going to be left alone: before they are.
pub fn place_at(door: &Path, exempt: &Path) {
    // What hinders that is told when it is gone on with.
    if let Ok(Some(mut relay)) = Process::behind(door) {
        relay.lives_on = true;
        relay.place(Some(exempt));
    }
}

/// Whether a relay is behind this door.
pub fn is_at(door: &Path) -> bool {
    // One that lets nobody in is there, too.
    !matches!(knock(door), Ok(None))
}

/// How the relay behind this door is doing, by its own word; `None` when nobody is there.
///
/// # Errors
///
/// When that cannot be told: it lets nobody in, or does not answer in time.
pub fn status_at(door: &Path) -> io::Result<Option<Status>> {
    let Some(link) = knock(door)? else { return Ok(None) };
    frame::send(&link, &Question::Status, &[], PATIENCE)?;
    match frame::receive(&link, PATIENCE) {
        Ok((Answer::Status(status), _)) => Ok(Some(*status)),
        Ok(_) => Err(io::Error::other("it answers something else")),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Err(io::Error::other(format!("not within {} seconds", PATIENCE.as_secs())))
        }
        Err(error) => Err(error),
    }
}

/// Comes by this door, without waiting; `None` when nobody is there.
///
/// # Errors
///
/// When somebody is, and does not let anybody in.
pub(super) fn knock(door: &Path) -> io::Result<Option<UnixStream>> {
    match rights::knock(door) {
        Ok(link) => Ok(Some(link)),
        // Nobody has been there, or nobody is there any more.
        Err(error)
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether the other end was closed.
fn hangs_up(error: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// The cgroup of a process, where that can be told.
fn cgroup_of(pid: u32) -> Option<PathBuf> {
    let mount = mounts::cgroup2().ok().flatten()?;
    mounts::cgroup_of(&mount, &pid.to_string()).ok()
}

/// Whether a process is in this one's cgroup.
fn is_beside(pid: u32) -> bool {
    let own = mounts::shown_cgroup("self").ok();
    own.is_some() && own == mounts::shown_cgroup(&pid.to_string()).ok()
}

/// Moves a process to a cgroup, which is made when it is absent.
fn move_to(cgroup: &Path, pid: u32) -> io::Result<()> {
    fs::create_dir_all(cgroup)?;
    fs::write(cgroup.join("cgroup.procs"), pid.to_string())
}
