//! What the daemon knows beyond the tables: for `status`, also when the daemon
//! is gone.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use redirector_core::diag::{Diagnostic, Severity};
use redirector_core::store::Rejected;
use serde::{Deserialize, Serialize};

use crate::boot;

/// Published by the daemon whenever it changes. Times are in seconds since
/// 1970.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// The daemon's process id.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// When it started.
    pub started: u64,
    /// The PATHs that it reads.
    pub config: Vec<PathBuf>,
    /// The cgroups that it attached to.
    pub cgroups: Vec<PathBuf>,
    /// Where cgroup2 is mounted.
    pub cgroup2: PathBuf,
    /// Where everything is pinned that is in force; nothing before it is.
    pub pinned: Option<Pinned>,
    /// What an earlier daemon wrote down and this one could not read when it started.
    pub not_read: Vec<String>,
    /// When the configuration was read last.
    pub read: u64,
    /// When the configuration in force came in force.
    pub applied: u64,
    /// What was read and is not in force.
    pub rejected: Vec<Refused>,
    /// How many warnings there are about what is in force.
    pub warnings: usize,
    /// Why the newest configuration could not be put in force, when that is so.
    pub apply_error: Option<String>,
    /// Servers of Gateways that are not served, and why.
    #[serde(default)]
    pub unserved: Vec<String>,
    /// Workloads whose processes cannot be told.
    pub gaps: Vec<UnknownWorkload>,
    /// What the last self-test found.
    pub self_test: Vec<Tested>,
    /// When that was.
    pub tested: u64,
    /// How often the kernel's tables differed from what they should be, since
    /// the daemon started.
    pub drift_repaired: u64,
    /// How many connections to endpoints that have gone were reset, since the
    /// daemon started.
    pub connections_reset: u64,
    /// Why such connections could not be reset, when that is so.
    pub drain_error: Option<String>,
    /// When an earlier configuration is held by `rollback`.
    pub hold: Option<Hold>,
    /// Where the gateway proxy listens.
    pub gateways: Vec<GatewayListener>,
    /// How the watches of the API server are doing; empty without one.
    pub watching: Vec<Watching>,
    /// How many objects differed from fresh lists of the API server, since the
    /// daemon started.
    pub watch_drift: u64,
}

/// Where everything is pinned that is in force. It goes with its pins, and with the
/// machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pinned {
    /// The directory.
    pub directory: PathBuf,
    /// The boot that it is of: see [`crate::boot::id`].
    pub boot: String,
}

impl Pinned {
    /// What is pinned in this directory now.
    pub fn now(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), boot: boot::id() }
    }
}

/// A place where the gateway proxy listens.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayListener {
    /// The address.
    pub address: SocketAddr,
    /// The Gateway and its server.
    pub gateway: String,
    /// Why it does not listen, when it does not.
    pub error: Option<String>,
    /// It was removed, and its last connections are finishing.
    pub draining: bool,
}

/// How a watch of the API server is doing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Watching {
    /// What is watched.
    pub resource: String,
    /// `starting`, `fine`, `absent` (the cluster does not define the kind) or
    /// `troubled`.
    pub state: String,
    /// Why it is troubled.
    pub error: Option<String>,
    /// How to mend it.
    pub help: Option<String>,
}

/// An earlier configuration, held by `rollback`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// The generation that it was first in force as.
    pub of_generation: u64,
    /// Since when.
    pub since: u64,
}

/// Something that was read and is not in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// Where it was read.
    pub file: String,
    /// The object; nothing when the whole file is concerned.
    pub object: Option<String>,
    /// Whether an earlier version stays in force.
    pub kept: bool,
    /// Why.
    pub diagnostics: Vec<Finding>,
}

/// A diagnostic, as `check --output json` shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields of Diagnostic, by the same names")]
pub struct Finding {
    pub severity: String,
    pub code: String,
    pub istio: Option<String>,
    pub message: String,
    pub help: Option<String>,
    pub object: Option<String>,
    pub path: String,
    pub file: Option<String>,
    pub line: u32,
    pub column: u32,
}

/// A workload whose processes cannot be told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnknownWorkload {
    /// `namespace/name`.
    pub workload: String,
    /// Why.
    pub because: String,
}

/// What a self-test found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tested {
    /// The cgroup.
    pub cgroup: PathBuf,
    /// `connect4` or `connect6`.
    pub hook: String,
    /// What happened instead of what should; nothing when it is well.
    pub error: Option<String>,
}

impl From<&Diagnostic> for Finding {
    fn from(diagnostic: &Diagnostic) -> Self {
        Self {
            severity: match diagnostic.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
                Severity::Info => "info",
            }
            .to_owned(),
            code: diagnostic.code.to_owned(),
            istio: diagnostic.istio.map(str::to_owned),
            message: diagnostic.message.clone(),
            help: diagnostic.help.clone(),
            object: diagnostic.object.clone(),
            path: diagnostic.path.clone(),
            file: diagnostic.file.as_deref().map(str::to_owned),
            line: diagnostic.line,
            column: diagnostic.column,
        }
    }
}

impl From<&Rejected> for Refused {
    fn from(rejected: &Rejected) -> Self {
        Self {
            file: rejected.file.to_string(),
            object: rejected.object.as_ref().map(ToString::to_string),
            kept: rejected.kept,
            diagnostics: rejected.diagnostics.iter().map(Finding::from).collect(),
        }
    }
}
