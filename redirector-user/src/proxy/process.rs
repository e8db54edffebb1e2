//! The relay's process, as the daemon has it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::Settings;
use super::decide::Whose;
use super::frame;
use super::message::{Answer, Confined, Question, Who};
use super::serve::{Start, VERSION};

/// Longest wait for an answer: then it is as good as dead.
const PATIENCE: Duration = Duration::from_secs(5);

/// What systemd calls the stream to the journal.
const JOURNAL: &str = "JOURNAL_STREAM";

/// Longest time that a relay without connections takes to end.
const WITHOUT_CONNECTIONS: Duration = Duration::from_secs(1);

/// A living relay. Dropping it kills it, unless it was [left](Process::leave).
pub(super) struct Process {
    process: OwnedFd,
    /// Where it is this process's own.
    child: Option<Child>,
    link: UnixStream,
    /// What it may do.
    pub confined: Confined,
    lives_on: bool,
}

impl Process {
    /// Starts one, which listens nowhere yet.
    ///
    /// # Errors
    ///
    /// When it cannot be started, or does not answer.
    pub fn start(settings: &Settings) -> io::Result<Self> {
        let (link, theirs) = UnixStream::pair()?;
        let (workers, hello_timeout) = (settings.workers, settings.hello_timeout);
        let start = Start { workers, hello_timeout, log: settings.log.clone() };
        let child = Command::new(&settings.program)
            .arg(super::SUBCOMMAND)
            .arg(serde_json::to_string(&start)?)
            .env_clear()
            // Where standard error leads to.
            .envs(std::env::var_os(JOURNAL).map(|stream| (JOURNAL, stream)))
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        let pid = child.id();
        let mut this = Self::of(pid, Some(child), link)?;
        this.place(settings, pid);
        // Once it answers, it has given up what it had.
        this.ask(&Question::Forget, &[])?;
        this.confined = confined(pid)?;
        if let Some(door) = &settings.door {
            this.ask(&Question::Stay, &[open(door)?.into()])?;
        }
        Ok(this)
    }

    /// The relay that an earlier daemon has left behind this door, if there is one; and
    /// its listening sockets.
    ///
    /// # Errors
    ///
    /// When it does not answer. It is of no use then.
    pub fn find(settings: &Settings) -> io::Result<Option<(Self, Vec<OwnedFd>)>> {
        let Some(door) = &settings.door else { return Ok(None) };
        // Nobody has been there, or nobody is there any more.
        let Ok(link) = UnixStream::connect(door) else { return Ok(None) };
        // Who listens, by the kernel's word.
        let pid = socket_peercred(&link)?.pid.as_raw_nonzero().get().unsigned_abs();
        if pid == std::process::id() {
            return Ok(None);
        }
        let mut this = Self::of(pid, None, link)?;
        let (_, sockets) = this.converse(&Question::Share, &[])?;
        this.place(settings, pid);
        this.confined = confined(pid)?;
        Ok(Some((this, sockets)))
    }

    /// Whether it is of this version, which can go on with it.
    pub fn fits(&mut self) -> bool {
        let answer = self.ask(&Question::Version, &[]);
        matches!(answer, Ok(Answer::Version(version)) if version == VERSION)
    }

    fn of(pid: u32, child: Option<Child>, link: UnixStream) -> io::Result<Self> {
        link.set_read_timeout(Some(PATIENCE))?;
        link.set_write_timeout(Some(PATIENCE))?;
        let number = Pid::from_raw(pid.cast_signed()).ok_or(io::ErrorKind::NotFound)?;
        let process = pidfd_open(number, PidfdFlags::empty())?;
        Ok(Self { process, child, link, confined: Confined::default(), lives_on: false })
    }

    /// Moves it to the cgroup that is to be its own.
    pub fn place(&self, settings: &Settings, pid: u32) {
        if let Some(cgroup) = &settings.cgroup
            && let Err(error) = move_to(cgroup, pid)
        {
            // Where it was started its connections are left alone too.
            let cgroup = cgroup.display();
            tracing::warn!(%cgroup, %error, "the relay has no cgroup of its own");
        }
    }

    /// Asks it something, with these sockets.
    ///
    /// # Errors
    ///
    /// When it has gone, or does not answer in time. There is no use in asking it again.
    pub fn ask(&mut self, question: &Question, sockets: &[OwnedFd]) -> io::Result<Answer> {
        Ok(self.converse(question, sockets)?.0)
    }

    /// As [`ask`](Self::ask), for an answer with sockets.
    fn converse(
        &mut self,
        question: &Question,
        sockets: &[OwnedFd],
    ) -> io::Result<(Answer, Vec<OwnedFd>)> {
        frame::send(&self.link, question, sockets)?;
        frame::receive(&self.link)
    }

    /// Answers its questions, in a thread, until it has gone or asks no more: then `over`
    /// is called.
    ///
    /// # Errors
    ///
    /// When it has gone, or threads have run out.
    pub fn attend(
        &mut self,
        whose: Arc<dyn Whose>,
        over: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        self.ask(&Question::Attend, &[theirs.into()])?;
        thread::Builder::new().name("gateway-clients".into()).spawn(move || {
            while let Ok((Who { cgroup }, _)) = frame::receive(&ours) {
                if frame::send(&ours, &whose.of(cgroup), &[]).is_err() {
                    break;
                }
            }
            over();
        })?;
        Ok(())
    }

    /// Has it accept no more, and end when its connections have, after so long at most.
    pub fn retire(mut self, drain: Duration) {
        match self.ask(&Question::Stop(drain), &[]) {
            Ok(_) => self.lives_on = true,
            Err(error) => tracing::warn!(%error, "the relay does not end by itself"),
        }
    }

    /// As [`retire`](Self::retire), and waits for that.
    pub fn stop(mut self, drain: Duration) {
        let patience = drain.saturating_add(PATIENCE);
        let over = self
            .ask(&Question::Stop(drain), &[])
            .and_then(|_| self.link.set_read_timeout(Some(patience)))
            .and_then(|()| io::Read::read(&mut &self.link, &mut [0]));
        if let Err(error) = over {
            tracing::warn!(%error, "the relay does not end by itself");
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
            return;
        }
        // It is of another user: without CAP_KILL it cannot be, and is not waited for.
        let killed = pidfd_send_signal(&self.process, Signal::KILL);
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
    let Ok(link) = UnixStream::connect(door) else { return };
    let over = frame::send(&link, &Question::Stop(drain), &[])
        .and_then(|()| link.set_read_timeout(Some(WITHOUT_CONNECTIONS)))
        .and_then(|()| frame::receive::<Answer>(&link))
        .and_then(|_| io::Read::read(&mut &link, &mut [0]));
    if let Err(error) = over {
        tracing::debug!(%error, "the relay goes on for its connections");
    }
}

/// Whether a relay is behind this door.
pub fn is_at(door: &Path) -> bool {
    UnixStream::connect(door).is_ok()
}

/// A door that daemons of this user come by. Who listened there before is found no more.
fn open(door: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(door) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(door)?;
    fs::set_permissions(door, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Moves a process to a cgroup, which is made when it is absent.
fn move_to(cgroup: &Path, pid: u32) -> io::Result<()> {
    fs::create_dir_all(cgroup)?;
    fs::write(cgroup.join("cgroup.procs"), pid.to_string())
}

/// What the kernel says that a process may do.
fn confined(pid: u32) -> io::Result<Confined> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()).unwrap_or_default()
    };
    let sets = ["CapInh", "CapPrm", "CapEff", "CapAmb"];
    let sets = sets.map(|set| u64::from_str_radix(field(set), 16));
    let missing = |_| io::Error::new(io::ErrorKind::InvalidData, "no capabilities are told");
    let mut capabilities = 0;
    for set in sets {
        capabilities |= set.map_err(missing)?;
    }
    Ok(Confined {
        pid,
        uid: field("Uid").parse().map_err(io::Error::other)?,
        capabilities: format!("{capabilities:016x}"),
        no_new_privileges: field("NoNewPrivs") == "1",
        filtered: field("Seccomp") == "2",
    })
}
