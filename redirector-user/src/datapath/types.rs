//! What callers of the datapath give and get.

use std::net::SocketAddr;
use std::path::PathBuf;

use redirector_common::abi::{HANDSHAKES, Limits, Side, Totals};
use serde::{Deserialize, Serialize};

use crate::readers::Readers;

/// How large the tables are. Hash tables take memory as they fill, arrays at
/// once. Changing a size makes new tables beside the old ones and moves over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sizes {
    /// Exact frontends, per side.
    pub frontends: u32,
    /// Frontends that are true prefixes, per side.
    pub prefixes: u32,
    /// Class tables, per side.
    pub class_tables: u32,
    /// Entries of class tables, per side.
    pub class_verdicts: u32,
    /// Workloads.
    pub identities: u32,
    /// Routes, per side.
    pub routes: u32,
    /// Weighted destinations of routes, per side.
    pub legs: u32,
    /// Destinations, per side.
    pub destinations: u32,
    /// Endpoints, per side.
    pub backends: u32,
    /// Connections remembered, rounded up to a power of two; in force while
    /// nothing is loaded.
    pub connections: u32,
    /// Connections remembered beside, when their places are taken; in force
    /// while nothing is loaded.
    pub overflow: u32,
}

impl Sizes {
    /// What fits. What only the programs need is left out.
    pub const fn limits(&self) -> Limits {
        Limits {
            class_tables: self.class_tables,
            identities: self.identities,
            routes: self.routes,
            legs: self.legs,
            destinations: self.destinations,
            backends: self.backends,
            connections: self.connections,
            overflow: self.overflow,
            stripes: 1,
            kernel_socket: 0,
            btf: 0,
            socket_error: 0,
            md5_keys: 0,
            ao_keys: 0,
        }
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            frontends: 131_072,
            prefixes: 16_384,
            class_tables: 131_072,
            class_verdicts: 262_144,
            identities: 16_384,
            routes: 131_072,
            legs: 131_072,
            destinations: 131_072,
            backends: 262_144,
            connections: 131_072,
            overflow: 16_384,
        }
    }
}

/// How the datapath is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory of the pins, below a mounted bpffs; made when it is absent.
    pub pins: PathBuf,
    /// The cgroups to attach to, below a cgroup2 mount. One that lies below
    /// another is covered by it.
    pub cgroups: Vec<PathBuf>,
    /// Sizes of the tables.
    pub sizes: Sizes,
    /// What the programs log, 0 (nothing, and free) to 5 (each decision).
    pub log_level: u8,
    /// The object file of the programs; `None` is the one that was built in.
    pub object: Option<Vec<u8>>,
    /// Who may look beside the owner.
    pub readers: Option<Readers>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pins: PathBuf::from("/sys/fs/bpf/redirector"),
            cgroups: Vec::new(),
            sizes: Sizes::default(),
            log_level: 0,
            object: None,
            readers: None,
        }
    }
}

/// What is in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Active {
    /// The side that is read.
    pub side: Side,
    /// How many flips there were.
    pub epoch: u64,
    /// The generation of the configuration on that side; 0 before the first.
    pub generation: u64,
    /// Whether the other side holds the same.
    pub in_step: bool,
}

/// What a workload's processes are known by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SourceKey {
    /// A cgroup, by its id and its depth: see [`super::cgroup::Cgroup`].
    Cgroup {
        /// The id: the inode number of its directory.
        id: u64,
        /// Levels below the root of the hierarchy.
        level: u32,
    },
    /// A network namespace, by its cookie: see [`super::netns_cookie`].
    Netns {
        /// The cookie.
        cookie: u64,
    },
}

impl std::fmt::Display for SourceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cgroup { id, .. } => write!(f, "cgroup {id}"),
            Self::Netns { cookie } => write!(f, "netns {cookie}"),
        }
    }
}

/// What the programs counted since the tables were made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Of all connections.
    pub totals: Totals,
    /// Of each leg that was ever drawn, by its index within a side.
    pub legs: Vec<(u32, LegCount)>,
}

/// What the programs counted on one leg. The counts go on when an index gets
/// another leg.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LegCount {
    /// Times it was drawn.
    pub chosen: u64,
    /// Of these, refused because its destination had no endpoint.
    pub refused: u64,
    /// Handshakes completed; counted while accounting is on, as the following.
    pub established: u64,
    /// Connections that ended without a handshake.
    pub failed: u64,
    /// Established connections that ended.
    pub closed: u64,
    /// Nanoseconds from `connect` to the end of the handshake, summed up.
    pub handshake_ns: u64,
    /// Bytes that the other sides have acknowledged, of connections that ended.
    pub sent: u64,
    /// Bytes received, likewise.
    pub received: u64,
    /// Handshakes by the class of their time: see
    /// [`redirector_common::abi::handshake_bound`].
    pub handshakes: [u32; HANDSHAKES],
}

impl std::ops::AddAssign for LegCount {
    fn add_assign(&mut self, other: Self) {
        self.chosen += other.chosen;
        self.refused += other.refused;
        self.established += other.established;
        self.failed += other.failed;
        self.closed += other.closed;
        self.handshake_ns += other.handshake_ns;
        self.sent += other.sent;
        self.received += other.received;
        for (sum, count) in self.handshakes.iter_mut().zip(other.handshakes) {
            *sum = sum.wrapping_add(count);
        }
    }
}

/// A connection that is remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Remembered {
    /// The cookie of its socket.
    pub cookie: u64,
    /// What the socket dialled.
    pub dialled: SocketAddr,
    /// Where it was sent.
    pub backend: SocketAddr,
    /// The leg that it was counted on, by its index within a side.
    pub leg: u32,
    /// Its destination: see [`redirector_core::layout::owner`].
    pub destination: u32,
    /// Whether it lies in the overflow table.
    pub overflow: bool,
    /// Monotonic time of the connect in nanoseconds, when accounting was on.
    pub since: Option<u64>,
}

/// A hook of a cgroup.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// `connect` with an IPv4 address.
    Connect4,
    /// `connect` with an IPv6 address.
    Connect6,
    /// `getpeername` of an IPv4 socket.
    Getpeername4,
    /// `getpeername` of an IPv6 socket.
    Getpeername6,
    /// The end of a socket.
    Release,
    /// Events of TCP connections: only while accounting is on.
    Sockops,
}

impl Hook {
    /// Those that are always attached to.
    pub const ALWAYS: [Self; 5] =
        [Self::Connect4, Self::Connect6, Self::Getpeername4, Self::Getpeername6, Self::Release];
}

/// A cgroup that our programs are attached to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Served {
    /// The id of the cgroup.
    pub id: u64,
    /// Where it is, or was.
    pub path: PathBuf,
    /// The hooks.
    pub hooks: Vec<Hook>,
}

/// How the programs stand: what takes privilege to be seen.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Standing {
    /// All programs on our hooks of our cgroups, in the order in which they run.
    pub attached: Vec<Attached>,
    /// Programs of others below our cgroups, which run before ours.
    pub below: Vec<Attached>,
    /// The cgroups with our programs that the process which looked does not see.
    pub unseen: Vec<PathBuf>,
    /// Whether real connects are decided.
    pub tests: Vec<SelfTest>,
}

/// A program that runs on a hook of a cgroup, ours or another's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attached {
    /// The cgroup.
    pub cgroup: PathBuf,
    /// The hook.
    pub hook: Hook,
    /// The order in which it runs, from 0.
    pub order: usize,
    /// The kernel's id of the program.
    pub program_id: u32,
    /// The name of the program.
    pub name: String,
    /// Whether it belongs to these tables.
    pub ours: bool,
    /// The cgroup that it is attached to: this one, or one above it.
    pub at: PathBuf,
    /// Nobody else can attach to that cgroup or below it: it was attached
    /// without leave for others (no `BPF_F_ALLOW_MULTI`).
    pub exclusive: bool,
}

/// What one self-test found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SelfTest {
    /// The cgroup that the probe ran below.
    pub cgroup: PathBuf,
    /// The hook tried: `Connect4` or `Connect6`.
    pub hook: Hook,
    /// `Ok` when the programs answered; else what happened instead.
    pub outcome: Result<(), String>,
}
