//! Connection memory: what the programs remember of redirected connections.

use crate::addr::Addr;

/// The memory of one redirected connection: what its socket dialled, and where
/// it was sent.
///
/// It lies in `CONNECTIONS`, at the socket's cookie modulo the table's size, or,
/// when that place is taken, in `OVERFLOW`, by cookie. Only the programs write.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connection {
    /// Socket cookie that owns this slot; zero when it is free. Claimed by
    /// compare-and-swap.
    pub cookie: u64,
    /// The address that the socket dialled.
    #[cfg(not(feature = "other-layout"))]
    pub dialled: Addr,
    /// The address that it was sent to.
    pub backend: Addr,
    /// The address that the socket dialled.
    #[cfg(feature = "other-layout")]
    pub dialled: Addr,
    /// The port that the socket dialled, in network byte order.
    pub dialled_port: u16,
    /// The port that it was sent to, in network byte order.
    pub backend_port: u16,
    /// Index of the leg, within its side, that the connection was counted on.
    pub leg: u32,
    /// [`connection_state`] in the lower half; in the upper, the stamp of the
    /// entry of `LIVE` when the connection was counted there.
    pub state: u32,
    /// The entry of `LIVE` of the endpoint, when the connection is counted
    /// there; else zero.
    pub live: u32,
    /// `bpf_ktime_get_ns` at connect when accounting is on or somebody follows flows,
    /// else zero.
    pub since: u64,
    /// Whose connection it is, where the policy asks for that; else zero. Of a known
    /// workload its identity number, of any other caller `caller` with the highest
    /// bit.
    pub who: u32,
    /// Where it is counted in `SHARES`; zero when it is not.
    pub share: u32,
    /// The cgroup of the caller, by the lower half of its id: the one below a cgroup
    /// that is served at which callers are told apart, or the task's own where that
    /// is nearer to the root ([`Control::caller_level`](super::Control::caller_level)).
    pub caller: u32,
    /// [`Destination::owner`](super::Destination::owner) of its destination.
    pub destination: u32,
}

/// Bits of [`Connection::state`], of its lower half.
pub mod connection_state {
    /// The other fields are filled in.
    pub const FILLED: u32 = 1 << 0;
    /// The sockops program follows the connection: the entry dies at the later
    /// of release and TCP close. Without this bit it dies at release.
    pub const FOLLOWED: u32 = 1 << 1;
    /// The socket was released.
    pub const RELEASED: u32 = 1 << 2;
    /// The TCP connection reached its end.
    pub const CLOSED: u32 = 1 << 3;
    /// The handshake was completed.
    pub const ESTABLISHED: u32 = 1 << 4;
    /// The end of the other side's stream was seen in a packet, after ours.
    pub const END_SEEN: u32 = 1 << 5;
    /// Where the low bits of the sequence number behind that end lie: as many as
    /// there is room for below the stamp.
    pub const END: u32 = 6;
    /// The stamp lies behind them.
    pub const END_MASK: u32 = (1 << (STAMP - END)) - 1;
    /// Where the stamp lies.
    pub const STAMP: u32 = 16;

    /// Whether an entry ends with this mark, [`RELEASED`] or [`CLOSED`], when its state was
    /// `before`: with the last that counts, and once.
    #[inline(always)]
    pub const fn ends(before: u32, mark: u32) -> bool {
        let after = before | mark;
        let wanted = if after & FOLLOWED == 0 { RELEASED } else { RELEASED | CLOSED };
        after & wanted == wanted && before & mark == 0
    }
}

/// How many shares of `OVERFLOW` are counted: a caller has that of its cgroup
/// ([`Connection::caller`]), modulo this.
pub const OVERFLOW_SHARES: u32 = 65_536;

/// The state of `OVERFLOW`: the only entry of `OVERFLOW_STATE`.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OverflowState {
    /// Entries in `OVERFLOW`: while it is zero, nobody looks there.
    pub used: u64,
}
