//! The real daemon as a process of its own.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use redirector::cli::{self, Context, Env};

use crate::redirector::program;

/// A command of the command line, ready to be run.
pub fn command<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program());
    command.args(args).stdin(Stdio::null());
    command
}

/// What `redirector NAME --help` prints.
pub fn help(name: &str) -> String {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let env = Env::of_process(false, false);
    let mut context = Context { env, out: &mut out, err: &mut err };
    cli::run(["redirector", name, "--help"].map(OsString::from), &mut context);
    String::from_utf8_lossy(&out).into_owned()
}

/// A running daemon; killed when it is dropped.
pub struct Agent {
    process: Child,
    log: PathBuf,
    metrics: SocketAddr,
}

impl Agent {
    /// Starts `redirector run` with these arguments and a log in `directory`.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn start<S: Into<OsString>>(directory: &Path, args: impl IntoIterator<Item = S>) -> Self {
        Self::start_as(directory, args, |_| {})
    }

    /// The same, with a last change to the command.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn start_as<S: Into<OsString>>(
        directory: &Path,
        args: impl IntoIterator<Item = S>,
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let metrics = free_port();
        let mut all: Vec<OsString> =
            vec!["run".into(), format!("--metrics-address={metrics}").into()];
        all.extend(args.into_iter().map(Into::into));
        let mut command = command(all);
        change(&mut command);
        Self::of(directory, &mut command, metrics)
    }

    /// The daemon that this command runs, which serves its pages at `metrics`.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn of(directory: &Path, command: &mut Command, metrics: SocketAddr) -> Self {
        let log = directory.join("agent.log");
        let file = File::options().create(true).append(true).open(&log).expect("a log");
        let process = command
            .stdout(file.try_clone().expect("a log"))
            .stderr(file)
            .spawn()
            .expect("the daemon starts");
        Self { process, log, metrics }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Status and body of a page that it serves; `None` when it does not answer.
    pub fn page(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.metrics).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: tests\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let status = text.split(' ').nth(1)?.parse().ok()?;
        let body = text.split_once("\r\n\r\n")?.1.to_owned();
        Some((status, body))
    }

    /// The value of a metric, named with its labels; `None` when it does not answer,
    /// or has none of this name.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let (_, text) = self.page("/metrics")?;
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    /// Whether it says that it is ready.
    pub fn is_ready(&self) -> bool {
        self.page("/readyz").is_some_and(|(status, _)| status == 200)
    }

    /// Waits until it is ready.
    ///
    /// # Panics
    ///
    /// With its log, when it ends instead.
    pub fn wait_ready(&mut self) {
        self.wait("it to be ready", Self::is_ready);
    }

    /// Waits for something that is certain to come.
    ///
    /// # Panics
    ///
    /// With its log, when that does not.
    pub fn wait(&mut self, what: &str, come: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !come(self) {
            let ended = self.process.try_wait().expect("a child");
            assert!(ended.is_none(), "it ended with {ended:?}:\n{}", self.log());
            assert!(Instant::now() < end, "waited in vain for {what}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    ///
    /// With its log, when it does not.
    pub fn end(mut self) -> ExitStatus {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.process.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < end, "it goes on:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it as a kubelet does.
    ///
    /// # Panics
    ///
    /// When it does not end.
    pub fn stop(mut self) -> ExitStatus {
        let pid = libc::pid_t::try_from(self.process.id()).expect("a process id");
        // SAFETY: no memory is involved; the child was not waited for yet.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        self.process.wait().expect("a child")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An address that nothing listens on.
///
/// # Panics
///
/// When there is none.
pub fn free_port() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("a bound listener")
}
