//! Tests that need the kernel: whether they can run, and a datapath for each.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use redirector::datapath::{Datapath, Error, Options, Sizes};
use redirector_core::image::Image;

use crate::cgroup::TestCgroup;
use crate::mount::BpfFs;

/// Whether this process may load programs, mount and attach. Says so when not,
/// and fails where kernel tests were asked for.
///
/// # Panics
///
/// When it may not, and `REDIRECTOR_TESTS=kernel` is set.
pub fn privileged() -> bool {
    const CAP_NET_ADMIN: u64 = 1 << 12;
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .unwrap_or(0);
    let needed = CAP_NET_ADMIN | CAP_SYS_ADMIN;
    if capabilities & needed == needed {
        return true;
    }
    let asked = std::env::var_os("REDIRECTOR_TESTS").is_some_and(|value| value == "kernel");
    assert!(!asked, "REDIRECTOR_TESTS=kernel, but this process is not privileged");
    let test = std::thread::current();
    let name = test.name().unwrap_or("this test");
    // Not eprintln!: the harness would show that of failed tests only.
    let _ = writeln!(std::io::stderr(), "left out: {name} needs root");
    false
}

/// A measurement that is a program of its own: does it with the numbers of the
/// command line, where it may.
///
/// # Panics
///
/// When these are not the numbers that `names` tells of.
pub fn measure<const N: usize>(names: &str, with: impl FnOnce([usize; N])) -> ExitCode {
    if !privileged() {
        return ExitCode::FAILURE;
    }
    let numbers: Vec<usize> =
        std::env::args().skip(1).map(|text| text.parse().expect("a number")).collect();
    with(numbers.try_into().unwrap_or_else(|_| panic!("{names}")));
    ExitCode::SUCCESS
}

/// How often something is repeated: `count` times, or fewer where
/// `REDIRECTOR_SCALE` says by what to divide, as on an emulated machine.
pub fn scaled(count: usize) -> usize {
    let scale = std::env::var("REDIRECTOR_SCALE").ok().and_then(|text| text.parse().ok());
    (count / scale.filter(|scale| *scale > 0).unwrap_or(1)).max(1)
}

/// How long something is kept up: so long, or as long as
/// `REDIRECTOR_SOAK_SECONDS` says (`cargo xtask soak`).
pub fn soaking(short: Duration) -> Duration {
    let seconds = std::env::var("REDIRECTOR_SOAK_SECONDS").ok();
    seconds.and_then(|text| text.parse().ok()).map_or(short, Duration::from_secs)
}

/// How many of something: `short`, or `long` in a soak.
pub fn at_least(short: usize, long: usize) -> usize {
    if std::env::var_os("REDIRECTOR_SOAK_SECONDS").is_some() { long } else { short }
}

/// Tells a figure, which `cargo xtask soak` shows.
#[macro_export]
macro_rules! figure {
    ($($what:tt)*) => {
        eprintln!("figure: {}", format_args!($($what)*))
    };
}

/// A name that no other test of this or another process has.
pub fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("redirector-{what}-{}-{count}", std::process::id())
}

/// Small tables: tests run beside one another.
pub fn small() -> Sizes {
    Sizes {
        frontends: 1024,
        prefixes: 256,
        class_tables: 256,
        class_verdicts: 1024,
        identities: 256,
        routes: 512,
        legs: 1024,
        destinations: 512,
        backends: 2048,
        connections: 1024,
        // Each processor hands out cookies of its own: a process that is moved between two may
        // meet itself in all of its places, and then has a sixteenth of these.
        overflow: 4096,
    }
}

/// A cgroup and a bpffs of a test's own.
#[derive(Debug)]
pub struct Place {
    /// The cgroup.
    pub cgroup: TestCgroup,
    /// The bpffs.
    pub bpffs: BpfFs,
}

impl Place {
    /// Makes both.
    ///
    /// # Panics
    ///
    /// When they cannot be made.
    pub fn new(what: &str) -> Self {
        Self { cgroup: TestCgroup::new(what), bpffs: BpfFs::new(what) }
    }

    /// Options for a datapath here.
    pub fn options(&self) -> Options {
        Options {
            pins: self.pins(),
            cgroups: vec![self.cgroup.path().to_owned()],
            sizes: small(),
            ..Options::default()
        }
    }

    /// The pin directory.
    pub fn pins(&self) -> PathBuf {
        self.bpffs.path().join("redirector")
    }

    /// Takes over with these options, puts an image in force and attaches.
    ///
    /// # Errors
    ///
    /// The datapath's.
    pub fn start(&self, options: &Options, image: &Image) -> Result<Datapath, Error> {
        let mut datapath = Datapath::take_over(options)?;
        let (active, now) = datapath.dump_active()?;
        datapath.apply(&now.diff(image), active.generation + 1)?;
        datapath.attach()?;
        Ok(datapath)
    }
}

/// The recording build of the programs: the file that
/// `REDIRECTOR_RECORDING_OBJECT` names (a virtual machine has no compiler), or
/// built once per test process.
///
/// # Panics
///
/// When it cannot be built.
pub fn recording_object() -> Vec<u8> {
    static OBJECT: OnceLock<Vec<u8>> = OnceLock::new();
    OBJECT
        .get_or_init(|| {
            if let Some(built) = std::env::var_os("REDIRECTOR_RECORDING_OBJECT") {
                return std::fs::read(&built)
                    .unwrap_or_else(|problem| panic!("{built:?}: {problem}"));
            }
            let workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
            let workspace = workspace.parent().expect("tests lie in the workspace");
            let builder = redirector_toolchain::find().expect("a toolchain for the BPF target");
            let target = workspace.join("target").join("bpf");
            let object = builder
                .build(workspace, &target, &["record"])
                .unwrap_or_else(|problem| panic!("{problem}"));
            std::fs::read(object).expect("the object was just built")
        })
        .clone()
}
