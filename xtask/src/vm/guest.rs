//! Inside the virtual machine: the first process, which mounts what a node has, or a unit
//! of systemd, which has done so. It runs what the host asked for, and reports over the
//! second serial port.

mod patched;
mod programs;

use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::demo;
use crate::test::layers::{COOKBOOK, FAULTS, OF_LIFE, UPGRADE, is_made_for, of_modules};
use crate::test::libtest::{Binary, Case, Outcome};
use crate::test::pool::{Event, Pool, Test};

/// Set on the kernel's command line, which makes it an environment variable of
/// the first process: what to run.
pub const ORDERS: &str = "REDIRECTOR_GUEST";
/// Set beside it: the device of the port over which results go.
pub const RESULTS: &str = "REDIRECTOR_RESULTS";
/// Where the kernel tests lie.
pub const TESTS: &str = "/tests";
/// Where modules of the kernel lie.
pub const MODULES: &str = "/modules";
/// Where sample configuration and demo lie.
pub const DOCUMENTS: &str = "/deploy";
/// Where the container image's files lie, on the machine that has them.
pub const IMAGE: &str = "/image";
/// Where the packages lie, on the machine that they are installed on.
pub const PACKAGES: &str = "/packages";
/// Where the daemon's program lies.
pub const REDIRECTOR: &str = "/bin/redirector";

/// Where the recording build of the programs lies.
pub const RECORDING_OBJECT: &str = "/lib/redirector-recording.bpf.o";

/// By what tests divide their repetitions: emulated connections are slow, and the slower
/// the less the processor is like this one.
const SCALE: &str = if cfg!(target_arch = "x86_64") { "10" } else { "40" };

/// The suite of the demo.
pub const DEMO: &str = "demo";

/// What the guest tells the host, one JSON object a line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Message {
    /// The kernel that runs.
    Booted {
        /// `uname -r`.
        release: String,
    },
    /// A test begins.
    Begins {
        /// Its name.
        test: String,
    },
    /// A test that ends has printed this.
    Printed {
        /// The name of the file that it goes to.
        file: String,
        /// All of it.
        text: String,
    },
    /// A test has ended.
    Ended {
        /// What it belongs to.
        suite: String,
        /// Its result.
        case: Case,
    },
    /// It was the last one of its suite.
    SuiteEnded {
        /// That suite.
        suite: String,
    },
    /// Nothing more will come.
    Done,
}

/// Whether this process is the first one.
pub fn is_init() -> bool {
    std::process::id() == 1
}

/// The life of the first process, or of the unit.
pub fn main() -> ExitCode {
    // Whose end is that of the machine.
    if !is_init() && std::env::var_os(ORDERS).is_none() {
        eprintln!("error: this runs in a virtual machine only");
        return ExitCode::FAILURE;
    }
    if let Err(error) = live() {
        eprintln!("guest: {error:#}");
    }
    // SAFETY: sync and reboot take no pointers. With QEMU's -no-reboot this ends
    // the virtual machine.
    unsafe { libc::sync() };
    // SAFETY: as above.
    unsafe { libc::reboot(libc::RB_AUTOBOOT) };
    ExitCode::FAILURE
}

fn live() -> Result<()> {
    if is_init() {
        make_a_node()?;
    }
    strict();
    let orders = std::env::var(ORDERS).unwrap_or_default();
    if orders == "shell" {
        return shell();
    }
    let mut host = Host::connect()?;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
    host.tell(&Message::Booted { release })?;
    let (layers, words) = orders.split_once(':').unwrap_or((orders.as_str(), ""));
    for layer in layers.split(',') {
        match layer {
            "demo" => play_demo(&mut host)?,
            "kernel" => run_tests(&mut host, words)?,
            "packages" => run_tests_of_packages(&mut host, words)?,
            "programs" => programs::try_all(&mut host)?,
            other => bail!("unknown orders: {other}"),
        }
    }
    host.tell(&Message::Done)
}

/// What systemd does elsewhere.
fn make_a_node() -> Result<()> {
    mount_all()?;
    // SAFETY: no other thread exists yet that could read the environment.
    unsafe { std::env::set_var("PATH", "/usr/sbin:/usr/bin:/sbin:/bin") };
    load_modules()?;
    run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    // Not on a whole Debian: `status` would name what it attaches, and is shown to people.
    // Programs come and go a few times only there.
    patched::patch_now().context("cannot attach a program of each kind")
}

/// Loads the modules that came with the kernel; a kernel of the user's has none.
fn load_modules() -> Result<()> {
    let Ok(modules) = Path::new(MODULES).read_dir() else { return Ok(()) };
    let mut modules: Vec<PathBuf> = modules.flatten().map(|entry| entry.path()).collect();
    modules.sort();
    modules.iter().try_for_each(|module| run(Command::new("insmod").arg(module)))
}

/// The demo as on a node, with fewer connections, because emulated ones are slow.
fn of_guest() -> demo::Args {
    demo::Args {
        attach_to_root: true,
        redirector: Some(REDIRECTOR.into()),
        documents: Some(DOCUMENTS.into()),
        connections: 500,
        ..demo::Args::default()
    }
}

fn play_demo(host: &mut Host) -> Result<()> {
    host.tell(&Message::Begins { test: DEMO.into() })?;
    let begun = Instant::now();
    let played = demo::play(&of_guest(), &mut |case| {
        host.tell(&Message::Ended { suite: DEMO.into(), case })
    });
    if let Err(error) = played {
        let case = Case::since(begun, DEMO, Outcome::Failed(format!("{error:#}")));
        host.tell(&Message::Ended { suite: DEMO.into(), case })?;
    }
    host.tell(&Message::SuiteEnded { suite: DEMO.into() })
}

/// Runs every test, or those whose paths contain a word of the list.
fn run_tests(host: &mut Host, words: &str) -> Result<()> {
    let binary = all_tests();
    let wanted = |test: &Test<'_>| {
        ![UPGRADE, FAULTS, COOKBOOK].contains(&&*test.suite)
            && !is_made_for(test)
            && words.split(',').any(|word| test.name.contains(word))
    };
    let tests: Vec<_> = of_modules(&binary)?.into_iter().filter(wanted).collect();
    // As many at a time as libtest would.
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = pool(
        workers,
        &[
            ("REDIRECTOR_TESTS", "kernel"),
            ("REDIRECTOR_SCALE", SCALE),
            ("REDIRECTOR_PROGRAM", REDIRECTOR),
            ("REDIRECTOR_RECORDING_OBJECT", RECORDING_OBJECT),
        ],
    );
    pool.run(&tests, |event| host.tell(&event.into()))
}

/// Runs those of what becomes of a package, or of them those whose paths contain a word: one
/// after the other, because all have this machine to themselves.
fn run_tests_of_packages(host: &mut Host, word: &str) -> Result<()> {
    let binary = all_tests();
    let tests: Vec<_> = of_modules(&binary)?
        .into_iter()
        .filter(|test| test.name.starts_with(OF_LIFE) && test.name.contains(word))
        .collect();
    let pool = pool(
        1,
        &[
            ("REDIRECTOR_TESTS", "kernel"),
            ("REDIRECTOR_TESTS_PACKAGES", PACKAGES),
            ("REDIRECTOR_TESTS_ROOT", "/"),
        ],
    );
    pool.run(&tests, |event| {
        if let Event::Ended(suite, case) = &event {
            let log = pool.log(suite, &case.name);
            let text = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
            let file = log.file_name().unwrap_or_default().to_string_lossy().into_owned();
            host.tell(&Message::Printed { file, text })?;
        }
        host.tell(&event.into())
    })
}

fn all_tests() -> Binary {
    Binary { name: "kernel".into(), path: TESTS.into(), directory: "/".into() }
}

fn pool(workers: usize, environment: &[(&str, &str)]) -> Pool {
    let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    Pool { workers, environment: environment.collect(), logs: "/run/logs".into() }
}

impl From<Event<'_>> for Message {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Begins(test) => Self::Begins { test: test.name.clone() },
            Event::Ended(suite, case) => Self::Ended { suite, case },
            Event::SuiteEnded(suite) => Self::SuiteEnded { suite },
        }
    }
}

fn shell() -> Result<()> {
    println!(
        "\nA shell in the virtual machine; `exit` ends it. cgroup2 is at /sys/fs/cgroup, bpffs at\n\
         /sys/fs/bpf, the sample configuration in {DOCUMENTS}/examples. To try:\n\n  \
         redirector run --config {DOCUMENTS}/examples &\n  \
         redirector status\n"
    );
    // cttyhack gives the shell job control and Ctrl-C.
    run(Command::new("setsid").args(["cttyhack", "sh"]))
}

/// The serial port that is not the console, in raw mode.
struct Host(File);

impl Host {
    fn connect() -> Result<Self> {
        let name = std::env::var(RESULTS).context("no port was named")?;
        let port = File::options().write(true).open(format!("/dev/{name}"));
        let port = port.with_context(|| format!("no serial port {name}"))?;
        // SAFETY: an all-zero termios is a valid value for tcgetattr to fill.
        let mut settings: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open and `settings` outlives the call.
        if unsafe { libc::tcgetattr(port.as_raw_fd(), &raw mut settings) } == 0 {
            // SAFETY: `settings` was filled by tcgetattr.
            unsafe { libc::cfmakeraw(&raw mut settings) };
            // SAFETY: as for tcgetattr.
            unsafe { libc::tcsetattr(port.as_raw_fd(), libc::TCSANOW, &raw const settings) };
        }
        Ok(Self(port))
    }

    fn tell(&mut self, message: &Message) -> Result<()> {
        let line = serde_json::to_string(message)? + "\n";
        self.0.write_all(line.as_bytes()).context("cannot tell the host")
    }
}

/// What is suspicious stops the machine, so that the host sees it.
fn strict() {
    for name in ["panic_on_oops", "panic_on_rcu_stall", "softlockup_panic", "hung_task_panic"] {
        // A kernel that lacks one of them shows the same fault on its console,
        // which the host reads as well.
        let _ = std::fs::write(format!("/proc/sys/kernel/{name}"), "1");
    }
}

fn mount_all() -> Result<()> {
    for (kind, place) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("devpts", "/dev/pts"),
        // Not /tmp, which is in memory as it is: the checkout may lie there, and what
        // tests read of it.
        ("tmpfs", "/run"),
        ("cgroup2", "/sys/fs/cgroup"),
        ("bpf", "/sys/fs/bpf"),
    ] {
        std::fs::create_dir_all(place)?;
        mount(kind, place)?;
    }
    Ok(())
}

fn mount(kind: &str, place: &str) -> Result<()> {
    let (kind, place) = (CString::new(kind)?, CString::new(place)?);
    // SAFETY: all strings end with a NUL and live through the call.
    let result =
        unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    if result != 0 {
        let error = std::io::Error::last_os_error();
        bail!("cannot mount {kind:?} at {place:?}: {error}");
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    crate::command::run(command)
}
