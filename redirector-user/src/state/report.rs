//! What the daemon knows beyond the tables: for `status`, also when the daemon
//! is gone.

use std::fmt;
use std::hash::Hasher as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use redirector_common::hash::Fnv;
use redirector_core::diag::Diagnostic;
use redirector_core::diag::codes::differences;
use redirector_core::model::Object;
use redirector_core::plan::DestinationId;
use redirector_core::store::Rejected;
use serde::{Deserialize, Serialize};

use crate::boot;
use crate::confined::Confined;
use crate::proxy::{ListenerState, ListenerStatus, RelayStatus};

/// Published by the daemon whenever it changes. Times are in seconds since
/// 1970.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// The daemon's process id.
    pub pid: u32,
    /// What it may do; some of its threads may do less.
    pub process: Option<Confined>,
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
    /// The cgroup that the daemon made for itself, to be removed with it.
    pub daemon_cgroup: Option<PathBuf>,
    /// The cgroup whose connects are never redirected, nor those of all below it: the daemon's,
    /// or one above it and what relays.
    pub exempt: Option<PathBuf>,
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
    /// The first of them.
    pub findings: Vec<Finding>,
    /// Shares in force that had an endpoint and have none now.
    pub emptied: Vec<EmptiedShare>,
    /// Names that do not resolve.
    pub unresolved: Vec<UnresolvedName>,
    /// All names that are resolved, by name.
    pub names: Vec<KnownName>,
    /// Why the newest configuration could not be put in force, when that is so.
    pub apply_error: Option<String>,
    /// Why programs and tables could not be compared with their pins, or pinned again,
    /// when that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin_error: Option<String>,
    /// Why the kernel could not be compared with what it should be last time, when that is
    /// so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compare_error: Option<String>,
    /// Why this report could not be written, when that is so: then only the daemon
    /// itself can tell.
    pub report_error: Option<String>,
    /// It is older than what the daemon that wrote it knew at its end.
    #[serde(skip)]
    pub is_stale: bool,
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
    /// What was read and is not in force, when there is such a thing.
    pub waiting: Option<WaitingChanges>,
    /// What came in force and is not looked through, when there is such a thing: warnings are
    /// of what was in force before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unexamined: Option<Unexamined>,
    /// Where the gateway proxy listens.
    pub gateways: Vec<GatewayListener>,
    /// The process that relays its connections.
    pub relay: Option<RelayStatus>,
    /// Endpoints to which gateways failed to connect in the last minute; others were
    /// tried instead, if there were any.
    pub failing: Vec<FailingEndpoint>,
    /// Gateways that let clients wait in the last minute.
    pub starved: Vec<StarvedGateway>,
    /// How the watches of the API server are doing; empty without one.
    pub watching: Vec<Watching>,
    /// How many objects differed from fresh lists of the API server, since the
    /// daemon started.
    pub watch_drift: u64,
}

/// Changes that were read and are not in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WaitingChanges {
    /// How many.
    pub changes: usize,
    /// Since when the oldest waits.
    pub since: u64,
}

/// A change of what people write that was not looked through for warnings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unexamined {
    /// The first generation with such a change.
    pub generation: u64,
    /// Since when it is in force.
    pub since: u64,
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

impl From<ListenerStatus> for GatewayListener {
    fn from(listener: ListenerStatus) -> Self {
        Self {
            address: listener.address,
            gateway: listener.name.to_string(),
            draining: matches!(listener.state, ListenerState::Draining { .. }),
            error: match listener.state {
                ListenerState::Failed { error, .. } => Some(error),
                ListenerState::Listening | ListenerState::Draining { .. } => None,
            },
        }
    }
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
    /// Since when, in seconds since 1970.
    #[serde(default)]
    pub since: u64,
    /// Why it is troubled.
    pub error: Option<String>,
    /// How to mend it.
    pub help: Option<String>,
}

impl Watching {
    /// Whether it does its work: an absent kind has no objects to be watched.
    pub fn works(&self) -> bool {
        matches!(self.state.as_str(), "fine" | "absent")
    }
}

/// `virtualservices.networking.istio.io is not watched: WHY (HELP)`.
impl fmt::Display for Watching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = self.error.as_deref().unwrap_or("the API server has not answered yet");
        write!(f, "{} is not watched: {why}", self.resource)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

/// A share in force that had an endpoint and has none now: its connections are
/// refused.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EmptiedShare {
    /// The rule, or the service whose own endpoints they were.
    pub route: String,
    /// The rule's object.
    pub object: Option<String>,
    /// Where in it the share stands; empty where it is no rule's.
    #[serde(default)]
    pub path: String,
    /// Its part of the connections.
    pub share: f64,
    /// Host, port and subset.
    pub destination: String,
    /// Why there is none.
    pub because: Option<String>,
    /// The generation in which it went.
    pub since_generation: u64,
    /// Which destination it is.
    pub id: DestinationId,
}

impl EmptiedShare {
    /// Whether a finding says no more than that there is no endpoint.
    pub fn is_told_by(&self, finding: &Diagnostic) -> bool {
        let service = || self.id.view.first().map(ToString::to_string);
        finding.code == differences::NO_ENDPOINTS.id
            && finding.object_name() == self.object.clone().or_else(service)
            && finding.path.starts_with(&self.path)
    }
}

impl fmt::Display for EmptiedShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { route, destination, since_generation, .. } = self;
        let percent = self.share * 100.0;
        write!(
            f,
            "{route}: {percent:.2}% of its connections are refused: {destination} lost its last \
             endpoint in generation {since_generation}"
        )?;
        match &self.because {
            Some(because) => write!(f, " ({because})"),
            None => Ok(()),
        }
    }
}

/// A name that does not resolve.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnresolvedName {
    /// The name.
    pub name: String,
    /// What the resolver says.
    pub because: String,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// The addresses that it resolved to before, which stay in force.
    pub kept: Vec<IpAddr>,
    /// When it was answered last, in seconds since 1970, if it ever was.
    #[serde(default)]
    pub answered: Option<u64>,
    /// It may have been later: an earlier daemon was answered, and did not write down when.
    #[serde(default)]
    pub or_later: bool,
    /// Connections that are sent to it are refused.
    #[serde(default = "yes")]
    pub refuses: bool,
    /// Connections go to other endpoints that are meant for it, too.
    #[serde(default)]
    pub to_others: bool,
    /// Endpoints are to come from it, and not addresses that are dialled only.
    #[serde(default)]
    pub is_endpoint: bool,
    /// It is a host that clients dial by nothing but what it resolves to: without that its
    /// rules are for nobody.
    #[serde(default)]
    pub is_dialled: bool,
}

const fn yes() -> bool {
    true
}

/// What is known of a name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownName {
    /// The name.
    pub name: String,
    /// What it resolves to.
    pub addresses: Vec<IpAddr>,
    /// What it resolved to before, and is still taken for it.
    pub former: Vec<IpAddr>,
    /// Since when it is known to resolve to these, in seconds since 1970; nothing when it
    /// never did.
    pub since: Option<u64>,
    /// When it was answered for last, in seconds since 1970. In what is written down that is
    /// when it was written; it may have been answered for again since.
    #[serde(default)]
    pub answered: Option<u64>,
    /// For how many seconds the last answer held, where that said so.
    pub ttl: Option<u32>,
    /// Why it could not be resolved last time.
    pub because: Option<String>,
}

impl fmt::Display for UnresolvedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said(""))
    }
}

impl UnresolvedName {
    /// What it costs, of all that is said.
    pub const fn costs(&self) -> (bool, bool, bool, bool) {
        (self.refuses, self.to_others, self.is_dialled, self.kept.is_empty())
    }

    /// All of it in words, with the age of what stays; `now` is in seconds since 1970.
    pub fn with_age(&self, now: u64) -> String {
        let answered = self.answered.filter(|_| !self.kept.is_empty());
        let age = answered.map(|at| Duration::from_secs(now.saturating_sub(at)));
        let most = if self.or_later { "at most " } else { "" };
        let age = age.map(|age| format!(" ({most}{} old)", humantime::format_duration(age)));
        self.said(&age.unwrap_or_default())
    }

    fn said(&self, age: &str) -> String {
        let Self { name, because, kept, .. } = self;
        let outcome = match kept.len() {
            0 => self.without_any(),
            1 => format!("its earlier address stays{age}"),
            kept => format!("its {kept} earlier addresses stay{age}"),
        };
        format!("the name {name} does not resolve, {outcome}: {because}")
    }

    /// What becomes of connections while no address of it is known.
    fn without_any(&self) -> String {
        let Self { refuses, to_others, is_dialled, .. } = self;
        let rules = "so that rules for it have no effect";
        let sent = match (refuses, to_others) {
            (true, false) => "is refused",
            (true, true) => "is refused, or goes to other endpoints where there are any",
            (false, _) => "goes to other endpoints",
        };
        match (is_dialled, refuses | to_others) {
            (false, true) => format!("what is sent to it {sent}"),
            (false, false) => "connections to hosts that it is an endpoint of go to the address \
                               that they dial"
                .to_owned(),
            (true, false) => format!("{rules}, and its clients go past them"),
            (true, true) => {
                format!("{rules}, its clients go past them, and what other rules send to it {sent}")
            }
        }
    }
}

/// An endpoint to which gateways fail to connect.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailingEndpoint {
    /// Host, port and subset.
    pub destination: String,
    /// The endpoint.
    pub endpoint: SocketAddr,
}

impl fmt::Display for FailingEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { destination, endpoint } = self;
        write!(
            f,
            "gateways fail to connect to {endpoint} of {destination}, and try others instead \
             where there are any (redirector_gateway_attempt_failures_total)"
        )
    }
}

/// A gateway that let clients wait, because descriptors or memory had run out.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StarvedGateway {
    /// The Gateway.
    pub gateway: String,
    /// Where it listens.
    pub address: SocketAddr,
}

impl fmt::Display for StarvedGateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gateway, address } = self;
        write!(
            f,
            "{gateway} at {address} lets clients wait, as descriptors or memory of what relays \
             have run out (redirector_gateway_starved_total): raise LimitNOFILE= of its unit"
        )
    }
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
    /// A digest of that version of the object: the same on all nodes that have it.
    #[serde(default)]
    pub in_force: Option<String>,
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
            severity: diagnostic.severity.as_str().to_owned(),
            code: diagnostic.code.to_owned(),
            istio: diagnostic.istio.map(str::to_owned),
            message: diagnostic.message.clone(),
            help: diagnostic.help.clone(),
            object: diagnostic.object_name(),
            path: diagnostic.path.clone(),
            file: diagnostic.file.as_deref().map(str::to_owned),
            line: diagnostic.line,
            column: diagnostic.column,
        }
    }
}

impl Refused {
    /// What is in force instead.
    pub fn outcome(&self) -> &'static str {
        match (&self.object, self.kept) {
            (Some(_), true) => "its last good version stays",
            (Some(_), false) => "it is absent",
            (None, true) => "the last good version of its objects stays",
            (None, false) => "nothing of it is in force",
        }
    }

    /// Why, in the words of the first thing that is wrong, and its line: 0 when that
    /// is unknown.
    pub fn why(&self) -> (&str, u32) {
        self.diagnostics.first().map_or(("", 0), |first| (first.message.as_str(), first.line))
    }
}

/// `FILE:LINE: OBJECT is refused, ITS LAST GOOD VERSION STAYS: WHY; WHAT MENDS IT`.
impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (why, line) = self.why();
        f.write_str(&self.file)?;
        if line != 0 {
            write!(f, ":{line}")?;
        }
        let (what, outcome) = (self.object.as_deref().unwrap_or("the file"), self.outcome());
        write!(f, ": {what} is refused, {outcome}: {why}")?;
        let help = self.diagnostics.first().and_then(|first| first.help.as_ref());
        help.map_or(Ok(()), |help| write!(f, "; {help}"))
    }
}

/// `FILE:LINE: PATH: what is wrong (RD2009)`.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            f.write_str(file)?;
            if self.line != 0 {
                write!(f, ":{}", self.line)?;
            }
            f.write_str(": ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{} ({})", self.message, self.code)
    }
}

/// A digest of what an object says: the same for the same, on every node and in every
/// file.
pub fn digest(object: &Object) -> String {
    let mut fnv = Fnv::default();
    let says = (&object.meta.labels, &object.meta.annotations, &object.spec);
    // What is written down cannot but be encoded.
    fnv.write(&serde_json::to_vec(&says).unwrap_or_default());
    format!("{:016x}", fnv.finish())
}

impl From<&Rejected> for Refused {
    fn from(rejected: &Rejected) -> Self {
        Self {
            file: rejected.file.to_string(),
            object: rejected.object.as_ref().map(ToString::to_string),
            kept: rejected.kept,
            in_force: None,
            diagnostics: rejected.diagnostics.iter().map(Finding::from).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
