//! The relay's process, as the daemon has it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::Settings;
use super::decide::Whose;
use super::frame;
use super::message::{Answer, Confined, Question, Who};
use super::serve::Start;

/// Longest wait for an answer: then it is as good as dead.
const PATIENCE: Duration = Duration::from_secs(5);

/// What systemd calls the stream to the journal.
const JOURNAL: &str = "JOURNAL_STREAM";

/// A living relay. Dropping it kills it.
pub(super) struct Process {
    child: Child,
    link: UnixStream,
    /// What it may do.
    pub confined: Confined,
}

impl Process {
    /// Starts one, which listens nowhere yet.
    ///
    /// # Errors
    ///
    /// When it cannot be started, or does not answer.
    pub fn start(settings: &Settings) -> io::Result<Self> {
        let (link, theirs) = UnixStream::pair()?;
        link.set_read_timeout(Some(PATIENCE))?;
        link.set_write_timeout(Some(PATIENCE))?;
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
        let mut this = Self { child, link, confined: Confined::default() };
        if let Some(cgroup) = &settings.cgroup
            && let Err(error) = move_to(cgroup, this.child.id())
        {
            // Where it was started its connections are left alone too.
            let cgroup = cgroup.display();
            tracing::warn!(%cgroup, %error, "the relay has no cgroup of its own");
        }
        // Once it answers, it has given up what it had.
        this.ask(&Question::Forget, &[])?;
        this.confined = confined(this.child.id())?;
        Ok(this)
    }

    /// Asks it something, with these sockets.
    ///
    /// # Errors
    ///
    /// When it has gone, or does not answer in time. There is no use in asking it again.
    pub fn ask(&mut self, question: &Question, sockets: &[OwnedFd]) -> io::Result<Answer> {
        frame::send(&self.link, question, sockets)?;
        Ok(frame::receive(&self.link)?.0)
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

    /// Lets its connections finish, for so long at most, and ends it.
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
}

impl Drop for Process {
    fn drop(&mut self) {
        // It is of another user: without CAP_KILL it cannot be, and is not waited for.
        let _ = match self.child.kill() {
            Ok(()) => self.child.wait().map(Some),
            Err(_) => self.child.try_wait(),
        };
    }
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
