//! The daemon: reads sources, programs the kernel, keeps it right.
//!
//! One thread owns the kernel's tables and decides; sources, watchers, signals
//! and requests are threads that send it [`Event`]s.
//!
//! ```text
//! source -> Waiting -> store -> World -> Plan -> Image -> Delta
//!                                                         |
//!         record of the generation, synced  <---------+-------> kernel
//! ```
//!
//! * [`sources`]: files or an API server.
//! * [`startup`]: what has to be right before anything is touched.
//! * [`begin`]: what is in force already, and what the loop holds.
//! * [`first`]: until the first configuration is in force.
//! * [`change`]: a change, from the store to the kernel.
//! * [`engine`]: what the kernel is to hold.
//! * [`kept`]: what the store says, as it was compiled last.
//! * [`confine`]: what the daemon gives up when it starts.
//! * [`control_loop`]: what happens when.
//! * [`times`]: how long changes take to be in force.
//! * [`verify`]: the kernel against what it should be.
//! * [`bypass`]: what is left alone for a while.
//! * [`descriptors`]: how many files may be open.
//! * [`drain`]: endpoints that have gone.
//! * [`grow`]: tables that grow.
//! * [`leaf`]: the daemon's own cgroup.
//! * [`server`]: who asks over a socket; [`control`]: requests of other commands.
//! * [`findings`]: what is said of what is in force.
//! * [`gateways`]: the proxy.
//! * [`handover`]: one daemon after another.
//! * [`names`]: names that DNS knows.
//! * [`pace`]: how many changes are put in force at once.
//! * [`signals`]: what the process is told to do.
//! * [`reread`]: files that are read again, and what came of it.
//! * [`restored`]: the state directory, when what was in it is gone.
//! * [`program_log`]: what the programs in the kernel log.
//! * [`metrics`]: what a monitoring system reads.

mod addresses;
mod audit;
mod begin;
mod bypass;
mod callbacks;
mod change;
mod confine;
pub mod control;
mod control_loop;
pub mod descriptors;
mod drain;
mod engine;
mod findings;
mod first;
mod gateways;
mod grow;
mod handover;
mod kept;
pub mod leaf;
mod left_out;
pub mod log;
mod memory;
pub mod metrics;
pub mod names;
mod pace;
mod program_log;
mod reread;
mod resolving;
mod restored;
mod server;
mod signals;
mod sources;
pub(crate) mod startup;
mod times;
mod verify;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redirector_core::world::Settings;
use tokio::sync::oneshot;

use crate::datapath::Sizes;
use crate::identity::pods::PodEvent;
use crate::kubernetes::agent::Setup;
use crate::proxy::AccessFormat;
use crate::readers::Readers;
use crate::source::watch::Timing;

pub(crate) use addresses::all as node_addresses;
pub use begin::run;
pub use bypass::without_daemon as bypass_without_daemon;

/// How the daemon is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The PATHs to read.
    pub config: Vec<PathBuf>,
    /// The API server to follow instead.
    pub kubernetes: Option<Setup>,
    /// What documents mean here.
    pub settings: Settings,
    /// The directory of the pins.
    pub bpffs: PathBuf,
    /// Whether the user named that directory.
    pub bpffs_is_default: bool,
    /// The state directory.
    pub state_dir: PathBuf,
    /// Who may look beside root.
    pub readers: Option<Readers>,
    /// The cgroups to attach to; none means the root of the hierarchy.
    pub cgroups: Vec<PathBuf>,
    /// The daemon's own cgroup.
    pub daemon_cgroup: leaf::Choice,
    /// Take over from a daemon that runs.
    pub replace: bool,
    /// Remove everything at the end.
    pub detach_on_exit: bool,
    /// When to look at files.
    pub timing: Timing,
    /// Time between comparisons of the kernel with what it should be.
    pub verify: Duration,
    /// Time between self-tests.
    pub self_test: Duration,
    /// Who is asked what names resolve to, and how often.
    pub names: names::Setup,
    /// How long what a name resolved to before is still taken for it.
    pub grace: Duration,
    /// How long connections of a gateway that goes may go on.
    pub drain: Duration,
    /// Who starts what relays connections of gateways; `None`: the daemon.
    pub starter: Option<PathBuf>,
    /// How connections at gateways are told of when they have ended, and where: a file, else
    /// standard output.
    pub access: Option<(AccessFormat, Option<PathBuf>)>,
    /// How many generations are kept for `rollback`.
    pub history: usize,
    /// Where metrics are served.
    pub metrics: Vec<metrics::At>,
    /// How many routes, destinations and gateways have metrics of their own.
    pub metrics_limit: usize,
    /// Count handshakes, failures and times of connections.
    pub accounting: bool,
    /// Tell of every connection all the time.
    pub flows: bool,
    /// Sizes of the tables, at first.
    pub sizes: Sizes,
    /// They stay so.
    pub fixed_sizes: bool,
    /// What the programs in the kernel log.
    pub program_log: u8,
}

/// What the control loop is told.
#[derive(Debug)]
enum Event {
    /// A source has read something, which waits.
    Changes,
    /// A workload's cgroup or namespace may have come or gone.
    Identity,
    /// Cgroups of pods came or went.
    Pods(Vec<PodEvent>),
    /// A watch of the API server does better or worse.
    Watches,
    /// Connections to endpoints that have gone were reset.
    Drained(drain::Drained),
    /// Names were resolved.
    Names(names::Resolved),
    /// The node has these addresses.
    Addresses(BTreeSet<IpAddr>),
    /// What is kept was made anew.
    Audited(Box<audit::Anew>),
    /// What is in force was looked at, or may be again.
    Looked(findings::Looked),
    /// Another command asks for something.
    Request(control::Request, oneshot::Sender<control::Answer>),
    /// The successor is in force, or (`false`) it has ended before.
    Succeeded(bool),
    /// A monitoring system asks for the metrics.
    Metrics(oneshot::Sender<String>),
    /// Read everything again.
    Reread,
    /// End; the number of the signal.
    Stop(i32),
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
