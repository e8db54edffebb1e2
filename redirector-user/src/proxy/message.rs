//! What the daemon and the relay of its gateways say to each other. It is data, and
//! all that crosses: the bytes of connections do not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::access::AccessFormat;
use super::config::{Config, DestinationName};
use super::told::Through;
use crate::confined::Confined;

/// What the daemon asks of the relay.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Question {
    /// Serve this from now on, and give connections of listeners that go this long. Once
    /// it is answered, every connection that is accepted is decided by it; existing ones
    /// stay as they are.
    Update(Box<Config>, Duration),
    /// Accept from these listening sockets too, which come along in this order.
    Listen(Vec<SocketAddr>),
    /// How is it going?
    Status,
    /// What was told of connections after the record of this number? Tell of them for so
    /// long from now on.
    Follow(u64, Duration),
    /// Ask [`Who`] over the socket that comes along.
    Attend,
    /// What was answered to [`Who`] may have changed.
    Forget,
    /// Be there for later daemons too, which come by way of the listening Unix socket that
    /// comes along: go on when this one has gone.
    Stay,
    /// Which version are you?
    Version,
    /// Give copies of all listening sockets.
    Share,
    /// Log at this level from now on.
    LogAt(String),
    /// Tell of connections that have ended like this, over the descriptor that comes along;
    /// or not any more.
    Access(Option<AccessFormat>),
    /// Accept no more, give connections this long, and end.
    Stop(Duration),
}

/// What the relay answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// It is done.
    Done,
    /// How it is going.
    Status(Box<Status>),
    /// What was told of connections.
    Told(Vec<Through>),
    /// Which program it is.
    Version(String),
    /// It cannot be done now, and the reason.
    Failed(String),
}

/// What the relay asks of the daemon, which answers with an `Option<SourceId>`: which
/// workload are the processes of the cgroup with this id?
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Who {
    pub cgroup: u64,
}

/// How the proxy is doing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// The listeners, by address; among them those that drain.
    pub listeners: Vec<ListenerStatus>,
    /// The legs of all routes, by name.
    pub legs: Vec<LegCounts>,
    /// The endpoints to which some attempt has failed, by name.
    pub failing: Vec<EndpointCounts>,
    /// Connections open now.
    pub active: u64,
    /// Lines of the access log that were dropped.
    #[serde(default)]
    pub access_dropped: u64,
    /// The process that relays; `None` where there is none.
    pub relay: Option<RelayStatus>,
}

/// How the process is doing that relays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RelayStatus {
    /// What it may do.
    pub process: Confined,
    /// How often another one had to be started, because one had ended or did not answer.
    pub restarts: u64,
    /// How many connections were cut by that, as far as that is known.
    pub cut: u64,
    /// Why its own connections are not left alone; `None`: they are, or are not to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_exempt: Option<String>,
}

/// How a listener is doing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// Where it listens.
    pub address: SocketAddr,
    /// [`ListenerSpec::name`](super::ListenerSpec::name).
    pub name: Arc<str>,
    /// Whether it does.
    pub state: ListenerState,
    /// Its counters.
    pub counts: ListenerCounts,
}

/// Whether a listener listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListenerState {
    /// It does.
    Listening,
    /// It could not be bound, and is tried again.
    Failed {
        /// The kernel's reason.
        error: String,
        /// How often it was tried.
        tries: u32,
    },
    /// It was removed, and its connections have this long to finish.
    Draining {
        /// What is left of that time.
        left: Duration,
    },
}

/// Reasons that connections are counted by.
macro_rules! reasons {
    ($(#[$about:meta])* $name:ident $count:literal { $($(#[$doc:meta])* $reason:ident $text:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $name {
            $($(#[$doc])* $reason,)*
        }

        impl $name {
            /// All, in the order in which they are counted.
            pub const ALL: [Self; $count] = [$(Self::$reason),*];

            /// The same for people, and for metrics.
            pub const REASONS: [&'static str; $count] = [$($text),*];

            /// For people, and for metrics.
            pub fn reason(self) -> &'static str {
                Self::REASONS[self as usize]
            }
        }
    };
}

reasons! {
    /// Why a gateway has refused a connection.
    Refused 8 {
        /// No rule matches, or the one that does refuses.
        Unmatched "no rule",
        /// The share has no endpoint.
        NoEndpoint "no endpoint",
        /// The destination has as many connections as it may.
        DestinationFull "destination full",
        /// The server has.
        ServerFull "server full",
        /// The client's address has.
        ClientFull "client full",
        /// Who connects for others has not said for whom.
        NoHeader "no PROXY header",
        /// Or has said it wrongly.
        BadHeader "bad PROXY header",
        /// What has to be known before it can be decided did not come in time.
        Silent "silent",
    }
}

reasons! {
    /// Why a connection to a destination, or an attempt at one endpoint, has failed.
    Failed 7 {
        /// There is no endpoint.
        NoEndpoint "no endpoint",
        /// The destination has as many connections as it may.
        Full "full",
        /// The endpoint refuses.
        Refused "refused",
        /// It does not answer in time.
        Timeout "timeout",
        /// There is no way to it.
        Unreachable "unreachable",
        /// Descriptors or memory have run out.
        Exhausted "exhausted",
        /// The kernel says something else.
        Other "other",
    }
}

/// Connections by [`Refused`].
pub type ByRefused = [u64; Refused::ALL.len()];

/// Connections or attempts by [`Failed`].
pub type ByFailed = [u64; Failed::ALL.len()];

/// Counters of a listener, read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerCounts {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections open now.
    pub active: u64,
    /// Refused, by reason.
    pub refused: ByRefused,
    /// No endpoint could be reached.
    pub failed: u64,
    /// Refused, because the route led back to the listener.
    pub looped: u64,
    /// Times that accepting paused because descriptors or memory had run out.
    pub starved: u64,
}

impl std::ops::AddAssign for ListenerCounts {
    fn add_assign(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.active += other.active;
        self.refused.iter_mut().zip(other.refused).for_each(|(sum, more)| *sum += more);
        self.failed += other.failed;
        self.looped += other.looped;
        self.starved += other.starved;
    }
}

/// Counters of a route's leg, read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegCounts {
    /// [`RouteSpec::name`](super::RouteSpec::name).
    pub route: Arc<str>,
    /// [`DestinationSpec::name`](super::DestinationSpec::name).
    pub destination: DestinationName,
    /// Connections that the draw gave to it.
    pub taken: u64,
    /// Connections open now.
    pub active: u64,
    /// Connections for which no endpoint could be reached, by the last reason.
    pub failed: ByFailed,
    /// Attempts at one endpoint that failed, whether or not another was reached, by reason.
    pub missed: ByFailed,
    /// Attempts at another endpoint after one had failed.
    pub retried: u64,
    /// Bytes from clients.
    pub sent: u64,
    /// Bytes to clients.
    pub received: u64,
}

/// What became of the attempts at one endpoint, read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointCounts {
    /// [`DestinationSpec::name`](super::DestinationSpec::name).
    pub destination: DestinationName,
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// Attempts that failed.
    pub missed: u64,
}
