//! What the programs tell of single connections, while somebody follows.

use crate::addr::Addr;

/// How many records `FLOWS` holds: a power of two.
pub const FLOWS: u32 = 16_384;

/// The value of [`Control::flows_until`](super::Control::flows_until) that never
/// runs out.
pub const FLOWS_FOREVER: u64 = u64::MAX;

/// How many records were ever begun: the only entry of `FLOW_HEAD`. Record `n`,
/// counted from 1, lies at `(n - 1)` modulo [`FLOWS`].
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowHead {
    /// The count.
    pub begun: u64,
}

/// Something that happened to a connection: an entry of `FLOWS`, which newer
/// records overwrite. Any number of readers follow; who is too slow sees it by
/// the numbers.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// The record's number, written last, and zero while the others are.
    pub number: u64,
    /// When, on the monotonic clock, in nanoseconds.
    pub time: u64,
    /// The cookie of the socket.
    pub cookie: u64,
    /// `DECIDED`: the generation of the configuration that decided. Later: how
    /// long ago the connection was decided, in nanoseconds; zero if unknown.
    pub detail: u64,
    /// `CLOSED`: bytes of the stream that the other side has acknowledged.
    pub sent: u64,
    /// `CLOSED`: bytes of the stream received.
    pub received: u64,
    /// The address that was dialled.
    pub dialled: Addr,
    /// The endpoint; the unspecified address when there is none.
    pub backend: Addr,
    /// In network byte order.
    pub dialled_port: u16,
    /// In network byte order.
    pub backend_port: u16,
    /// [`flow_event`].
    pub event: u16,
    /// [`flow_outcome`].
    pub outcome: u16,
    /// `DECIDED`: the route; meaningful with an outcome from `ROUTED` on. Later: the
    /// caller's port, in host byte order; zero if unknown ([`Flow::source_port`]).
    pub route: u32,
    /// The leg; meaningful with an outcome from `ROUTED` on.
    pub leg: u32,
    /// `DECIDED`: the identity number of the source, when it was found out.
    pub identity: u32,
    /// `DECIDED`: the process.
    pub process: u32,
    /// `DECIDED`: the name of the thread, ended by zeroes.
    pub command: [u8; 16],
}

impl Flow {
    /// The port that the caller has: it has none when its connect is decided, but for one
    /// that has bound its socket.
    pub fn source_port(&self) -> Option<u16> {
        let port = if self.event == flow_event::DECIDED { 0 } else { self.route };
        u16::try_from(port).ok().filter(|port| *port != 0)
    }
}

/// Values of [`Flow::event`].
pub mod flow_event {
    /// A connect was decided.
    pub const DECIDED: u16 = 1;
    /// The handshake was completed.
    pub const ESTABLISHED: u16 = 2;
    /// The connection is over.
    pub const CLOSED: u16 = 3;
}

/// Values of [`Flow::outcome`].
pub mod flow_outcome {
    /// Left as it is.
    pub const PASSED: u16 = 1;
    /// Refused by the frontend.
    pub const REFUSED: u16 = 2;
    /// Sent to an endpoint.
    pub const ROUTED: u16 = 3;
    /// Refused because the destination has no endpoint.
    pub const REFUSED_EMPTY: u16 = 4;
    /// Refused because the destination has as many connections as it may.
    pub const REFUSED_LIMITED: u16 = 5;
    /// Established, and ended.
    pub const ENDED: u16 = 6;
    /// Ended without a handshake.
    pub const FAILED: u16 = 7;
    /// Given up by the client before the handshake.
    pub const GIVEN_UP: u16 = 8;
    /// The socket was closed; the connection was not followed, so that nothing
    /// else is known of it.
    pub const RELEASED: u16 = 9;
}
