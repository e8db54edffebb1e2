//! The benchmark's own corner: a network namespace, one processor, a
//! directory; and the processes in it, with what they cost.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command;

/// Kernel settings of the namespace: tens of thousands of short connections a
/// second must not run out of ports.
const SETTINGS: [(&str, &str); 4] = [
    ("ip_local_port_range", "10000 65535"),
    ("tcp_tw_reuse", "1"),
    ("tcp_max_tw_buckets", "4096"),
    ("tcp_max_syn_backlog", "4096"),
];

/// The corner. Dropping it removes it.
pub struct Stage {
    name: String,
    netns: File,
    cpu: usize,
    /// For configuration files.
    pub directory: PathBuf,
}

impl Stage {
    pub fn set(cpu: usize) -> Result<Self> {
        let name = format!("redirector-bench-{}", std::process::id());
        let directory = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&directory)?;
        command::run(Command::new("ip").args(["netns", "add", &name]))?;
        let netns = File::open(Path::new("/run/netns").join(&name))
            .context("cannot open the network namespace");
        let netns = netns.inspect_err(|_| strike(&name, &directory))?;
        let stage = Self { name, netns, cpu, directory };
        command::run(Command::new("ip").args(["-n", &stage.name, "link", "set", "lo", "up"]))?;
        let lines = SETTINGS
            .map(|(name, value)| format!("echo '{value}' > /proc/sys/net/ipv4/{name}"))
            .join(" && ");
        let mut shell = Command::new("ip");
        shell.args(["netns", "exec", &stage.name, "sh", "-c", &lines]);
        command::run(&mut shell).context("cannot set up the network namespace")?;
        Ok(stage)
    }

    /// Makes a command run here: in the namespace, on the one processor, with
    /// as many descriptors as it may have, and no longer than this process.
    pub fn place(&self, command: &mut Command) {
        let (netns, cpu) = (self.netns.as_raw_fd(), self.cpu);
        // SAFETY: only system calls that are allowed between fork and exec; the
        // descriptor is open until then, for the stage outlives the spawn.
        unsafe { command.pre_exec(move || enter(netns, cpu)) };
    }

    /// Starts something that says a line when it is ready.
    pub fn start(&self, command: &mut Command) -> Result<Running> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        self.place(command);
        let mut child =
            command.spawn().with_context(|| format!("cannot run {}", command::shown(command)))?;
        let stdout = child.stdout.take().context("no output")?;
        let running = Running(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line.trim() != "ready" {
            bail!("`{}` did not come up: {line:?}", command::shown(command));
        }
        Ok(running)
    }

    /// Starts something that says nothing.
    pub fn start_silent(&self, command: &mut Command) -> Result<Running> {
        let log = File::create(self.directory.join("log"))?;
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        self.place(command);
        let child =
            command.spawn().with_context(|| format!("cannot run {}", command::shown(command)))?;
        Ok(Running(child))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        strike(&self.name, &self.directory);
    }
}

fn strike(name: &str, directory: &Path) {
    let _ = command::output(Command::new("ip").args(["netns", "delete", name]));
    let _ = std::fs::remove_dir_all(directory);
}

/// Runs between fork and exec.
fn enter(netns: i32, cpu: usize) -> io::Result<()> {
    let done = |result: i32| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    // SAFETY: setns(2) on the descriptor of a network namespace.
    done(unsafe { libc::setns(netns, libc::CLONE_NEWNET) })?;
    // SAFETY: a plain prctl(2) with numbers.
    done(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    // A session each, as services and pods have: the scheduler groups by these, and waking
    // somebody of another group costs more. This project's relay makes itself one anyway.
    // SAFETY: it takes nothing.
    done(unsafe { libc::setsid() })?;
    // SAFETY: all zeros is the empty set, `cpu` is below its size, and the set
    // outlives the call.
    done(unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    })?;
    // SAFETY: the structure outlives both calls.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        done(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit))?;
        limit.rlim_cur = limit.rlim_max;
        done(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))
    }
}

/// A process of the benchmark, killed when it is dropped.
pub struct Running(Child);

impl Running {
    /// The process and those that it has started.
    fn family(&self) -> Vec<u32> {
        let mut family = vec![self.0.id()];
        let mut next = 0;
        while let Some(&parent) = family.get(next) {
            let path = format!("/proc/{parent}/task/{parent}/children");
            let children = std::fs::read_to_string(path).unwrap_or_default();
            family.extend(children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
            next += 1;
        }
        family
    }

    /// Processor time used so far.
    pub fn processor_time(&self) -> Duration {
        self.family().into_iter().filter_map(|id| processor_time(id).ok()).sum()
    }

    /// Memory that is its own, in bytes.
    pub fn memory(&self) -> u64 {
        let own = |id: u32| {
            let text = std::fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok()?;
            let kibibytes = |name: &str| -> Option<u64> {
                let line = text.lines().find(|line| line.starts_with(name))?;
                line.split_whitespace().nth(1)?.parse().ok()
            };
            Some((kibibytes("Private_Dirty:")? + kibibytes("Private_Clean:")?) * 1024)
        };
        self.family().into_iter().filter_map(own).sum()
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Processor time of the threads that a process has, by the scheduler's clock.
fn processor_time(process: u32) -> Result<Duration> {
    let mut nanoseconds = 0u64;
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let stat = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        nanoseconds += stat.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanoseconds))
}
