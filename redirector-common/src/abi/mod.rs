//! Keys and values of the BPF maps.
//!
//! Everything here is a contract between the programs that run in the kernel
//! and the daemon that fills their maps, also across an upgrade: the pin
//! directory carries [`LAYOUT`], so a change of any layout below must change
//! it. Types that a hash map uses as a key have no padding.
//!
//! Every lookup table exists twice, as two *sides*. A connection reads
//! [`Control::epoch`] once and uses the side named by its lowest bit for all
//! of its lookups; the daemon changes the idle side and then flips the epoch.
//! Hash keys carry their side; arrays hold side 0 in their lower and side 1 in
//! their upper half.

mod counters;
mod flow;
mod live;
mod memory;
mod record;

pub use counters::*;
pub use flow::*;
pub use live::*;
pub use memory::*;
pub use record::*;

use crate::addr::Addr;

/// One in the tests' build of another layout, which upgrades are tried with.
const OTHER: usize = cfg!(feature = "other-layout") as usize;

/// Version of the layout of all lookup tables below; part of the pin path.
pub const LAYOUT: u32 = 5 + OTHER as u32;

/// Version of the layout of [`Connection`]; connection memory is kept across an
/// upgrade while this is unchanged. Otherwise the programs of the other version
/// go on with theirs until it is empty, which is read from what no version may
/// change: that the first word of an entry of `CONNECTIONS` is the cookie of its
/// socket, or zero when it is free; that a key of `OVERFLOW` is one; and that the
/// first word of `OVERFLOW_STATE` is zero when `OVERFLOW` is empty.
pub const CONNECTION_LAYOUT: u32 = 5 + OTHER as u32;

/// Version of the layout of [`Live`], and of all that its words mean. While it is
/// unchanged every version counts in the same `LIVE`, those side by side at an
/// upgrade, too: a limit holds across it, and who is ejected stays so. Connections
/// refer to it, so a change must change [`CONNECTION_LAYOUT`] as well; what was
/// counted begins at zero then.
pub const LIVE_LAYOUT: u32 = 2;

/// Version of the layout of [`Flow`] and [`FlowHead`]; while it is unchanged
/// every version tells of connections in the same `FLOWS`.
pub const FLOW_LAYOUT: u32 = 1;

/// Most destinations of one route.
pub const MAX_LEGS: u32 = 64;

/// Most endpoints of one destination.
pub const MAX_BACKENDS: u32 = 65_536;

/// One of the two copies of the lookup tables.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct Side(u32);

impl Side {
    /// The side that an epoch names: its lowest bit.
    #[inline(always)]
    pub const fn of_epoch(epoch: u64) -> Self {
        Self((epoch & 1) as u32)
    }

    /// The other side.
    #[must_use]
    pub const fn other(self) -> Self {
        Self(self.0 ^ 1)
    }

    /// 0 or 1.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.0
    }

    /// Where entry `index` of this side lies in an array of `2 * capacity`
    /// entries; `None` when the index is beyond the capacity.
    #[inline(always)]
    pub const fn slot(self, index: u32, capacity: u32) -> Option<u32> {
        if index < capacity { Some(self.0 * capacity + index) } else { None }
    }
}

/// What a frontend says for a source class, packed into one word: the kind in
/// the two upper bits, a number in the lower thirty.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Verdict(u32);

/// A [`Verdict`], unpacked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum VerdictKind {
    /// Leave the connection as it is.
    Pass,
    /// Send it along this route (index into the routes of the side).
    Route(u32),
    /// Refuse it.
    Refuse,
    /// Ask this class table. Only frontends hold it, never a class table.
    Classes(u32),
}

impl Verdict {
    const ID: u32 = (1 << 30) - 1;
    /// Leave the connection as it is.
    pub const PASS: Self = Self(0);
    /// Refuse the connection.
    pub const REFUSE: Self = Self(2 << 30);

    /// Packs a kind. Numbers are cut to thirty bits; table capacities are far
    /// below.
    pub const fn new(kind: VerdictKind) -> Self {
        match kind {
            VerdictKind::Pass => Self::PASS,
            VerdictKind::Route(id) => Self(1 << 30 | (id & Self::ID)),
            VerdictKind::Refuse => Self::REFUSE,
            VerdictKind::Classes(id) => Self(3 << 30 | (id & Self::ID)),
        }
    }

    /// Unpacks it.
    #[inline(always)]
    pub const fn kind(self) -> VerdictKind {
        let id = self.0 & Self::ID;
        match self.0 >> 30 {
            0 => VerdictKind::Pass,
            1 => VerdictKind::Route(id),
            2 => VerdictKind::Refuse,
            _ => VerdictKind::Classes(id),
        }
    }
}

impl core::fmt::Debug for Verdict {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.kind().fmt(f)
    }
}

/// The words that every connection reads first: the only entry of `CONTROL`.
///
/// The daemon is the only writer, through a mapping of the map's memory: each
/// field is written at once, but the fields not together: nothing here may
/// depend on another field being new, but for the order that is named.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Control {
    /// Counts the flips; the lowest bit names the active [`Side`].
    pub epoch: u64,
    /// Cgroup id of the daemon's own cgroup: connects from there, and from below where
    /// its level is known ([`control_flags::DAEMON_LEVEL`]), are never redirected.
    /// Zero while no daemon has claimed one.
    pub daemon_cgroup: u64,
    /// Bit `n`: some workload's cgroup lies `n` levels below the root of the
    /// cgroup hierarchy.
    pub levels: u32,
    /// Not zero when the prefix table of side 0, 1 has an entry.
    pub has_prefixes: [u16; 2],
    /// [`control_flags`].
    pub flags: u64,
    /// The generation of the configuration that side 0, 1 holds, or
    /// [`GENERATION_DIRTY`] while the side is being written. Two sides with the
    /// same generation hold the same entries.
    pub generation: [u64; 2],
    /// The port of the self-test frontend, [`SELF_TEST_ADDR`], in host byte
    /// order: drawn at random when the tables are made, so that no other
    /// instance answers for this one.
    pub self_test_port: u32,
    /// Mixed into the affinity of a source, so that the same numbers on other
    /// nodes do not choose the same endpoints.
    pub seed: u32,
    /// Until when connections are told in `FLOWS`, on the monotonic clock in
    /// nanoseconds: a lease, which whoever follows renews, also without the
    /// daemon. Zero costs nothing; [`FLOWS_FOREVER`] lasts.
    pub flows_until: u64,
}

impl Control {
    /// How many levels below the root of the hierarchy the cgroups lie by which callers
    /// are told apart, out of the [flags](Self::flags): two below the uppermost that is
    /// served. There lie users and services of a plain machine and Pods of a node, which
    /// whoever is in one cannot make more of. Zero: not known.
    #[inline(always)]
    pub const fn caller_level(flags: u64) -> u32 {
        ((flags & control_flags::CALLER_LEVEL) >> control_flags::CALLER_LEVEL_SHIFT) as u32
    }
}

/// The generation of a side that is being written, or whose writer died.
pub const GENERATION_DIRTY: u64 = u64::MAX;

/// The address of the self-test frontend, `255.255.255.255`, which both sides
/// refuse.
///
/// No TCP connection can go to the broadcast address, and no service have it:
/// without effective programs the kernel itself answers `ENETUNREACH`, and no
/// packet leaves.
pub const SELF_TEST_ADDR: Addr = Addr::from_v4_word(u32::MAX);

/// Bits of [`Control::flags`].
pub mod control_flags {
    /// Some workload is known by its network namespace.
    pub const NETNS_SOURCES: u64 = 1 << 0;
    /// Connections are followed until they close: the sockops program is
    /// attached and takes part in the life of each entry of connection memory.
    pub const ACCOUNTING: u64 = 1 << 1;
    /// How many levels below the root of the hierarchy the
    /// [daemon's cgroup](super::Control::daemon_cgroup) lies, from [`DAEMON_LEVEL_SHIFT`]
    /// on: then connects of all below it are not redirected either. Zero: not known.
    pub const DAEMON_LEVEL: u64 = 0xff << DAEMON_LEVEL_SHIFT;
    /// See [`DAEMON_LEVEL`].
    pub const DAEMON_LEVEL_SHIFT: u32 = 56;
    /// The [level of callers](super::Control::caller_level), from
    /// [`CALLER_LEVEL_SHIFT`] on.
    pub const CALLER_LEVEL: u64 = 0xff << CALLER_LEVEL_SHIFT;
    /// See [`CALLER_LEVEL`].
    pub const CALLER_LEVEL_SHIFT: u32 = 48;
}

/// Key of `FRONTENDS`, the exact table: one address and port.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct FrontendKey {
    /// The address dialled.
    pub addr: Addr,
    /// The port dialled, in network byte order.
    pub port: u16,
    /// [`Side::index`].
    pub side: u16,
}

/// Data of a `PREFIXES` key, the longest-prefix-match table for true CIDRs,
/// compared bit by bit in memory order after its prefix length.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct PrefixKey {
    /// [`Side::index`]; always compared whole.
    pub side: u16,
    /// The port dialled, in network byte order; always compared whole.
    pub port: u16,
    /// The network address.
    pub addr: Addr,
}

impl PrefixKey {
    /// Bits before the address.
    pub const FIXED_BITS: u32 = 32;
    /// Bits of a lookup key.
    pub const FULL_BITS: u32 = Self::FIXED_BITS + 128;
}

/// Key of `CLASS_VERDICTS`: the classes for which a class table differs from
/// its default (`CLASS_DEFAULTS`, an array by table).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct ClassKey {
    /// The class table.
    pub table: u32,
    /// The source class.
    pub class: u32,
    /// [`Side::index`].
    pub side: u32,
}

/// The source class of a caller that is in no known workload.
pub const CLASS_UNKNOWN: u32 = 0;

/// The identity number of a caller that is in no known workload.
pub const IDENTITY_UNKNOWN: u32 = 0;

/// Value of `CGROUP_SOURCES` and `NETNS_SOURCES`: which workload a cgroup id
/// or network namespace cookie stands for.
///
/// These tables have no sides, and a hash element may be reused the moment it
/// is deleted, so the value repeats its key for the reader to compare.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Source {
    /// The key that this value was stored under.
    pub key: u64,
    /// The identity number: an index into `CLASS_OF`.
    pub identity: u32,
    /// How many levels below the root of the hierarchy the cgroup lies; zero
    /// for a network namespace.
    pub level: u32,
}

/// A route: a range of [`Leg`]s.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub struct Route {
    /// Index of the first leg within the side.
    pub first: u32,
    /// How many legs; none means that the connection is refused.
    pub count: u32,
}

/// A weighted destination of a route, and at the same time one slot of the
/// route's alias table.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub struct Leg {
    /// A draw below this keeps this leg, any other takes `alias`.
    pub threshold: u32,
    /// The other leg of the slot, relative to the route's first.
    pub alias: u32,
    /// Index into the destinations of the side.
    pub destination: u32,
    /// Zero.
    pub reserved: [u32; 1 + 4 * OTHER],
}

/// A destination: a range of [`Backend`]s and the way to choose among them.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub struct Destination {
    /// Index of the first backend within the side.
    pub first: u32,
    /// How many backends; none means that the connection is refused.
    pub count: u32,
    /// How to choose; see [`policy`]. Zero is by weight and nothing else, and
    /// then the fields below are zero, but for `owner`.
    pub policy: u32,
    /// Its entry of `LIVE`; 0 when the policy needs none.
    pub live: u32,
    /// What [`Live::owner`] of that entry is; which destination it is, in every
    /// version.
    pub owner: u32,
    /// `LIMITED`: the most connections at a time.
    pub max_connections: u32,
    /// `EJECTING`: so many failed connects in a row eject an endpoint.
    pub eject_after: u32,
    /// `EJECTING`: so many endpoints may be ejected at a time.
    pub eject_most: u32,
    /// `EJECTING`: for so many milliseconds, times how often it was ejected.
    pub eject_ms: u32,
    /// `EJECTING`: one ejection is forgiven for so many milliseconds without.
    pub forgive_ms: u32,
}

/// Values of [`Destination::policy`]: one algorithm, and flags.
pub mod policy {
    /// The part that is the algorithm.
    pub const ALGORITHM: u32 = 0xff;
    /// By weight, independently for each connection.
    pub const RANDOM: u32 = 0;
    /// In turn, as often as the weights say.
    pub const ROUND_ROBIN: u32 = 1;
    /// The one with fewer connections of this node of two drawn by weight.
    pub const LEAST_REQUEST: u32 = 2;
    /// By a number that stays the same for the source. Its backends are slots
    /// of one size, of which an endpoint has as many as it weighs.
    pub const SOURCE_HASH: u32 = 3;
    /// There may be no more than so many connections at a time.
    pub const LIMITED: u32 = 1 << 8;
    /// Endpoints that fail are left out for a time.
    pub const EJECTING: u32 = 1 << 9;
}

/// An endpoint of a destination, and at the same time one slot of the
/// destination's alias table.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub struct Backend {
    /// Where the connection goes; the unspecified address stands for the one
    /// that was dialled.
    pub addr: Addr,
    /// In network byte order; 0 stands for the port that was dialled.
    pub port: u16,
    /// The other backend of the slot, relative to the destination's first.
    pub alias: u16,
    /// Its entry of `LIVE`; 0 when the destination's policy needs none.
    pub live: u32,
    /// A draw below this keeps this backend, any other takes `alias`.
    pub threshold: u32,
    /// What [`Live::owner`] of that entry is.
    pub owner: u32,
}

/// Sizes fixed when the tables are made: read-only data of the programs.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Limits {
    /// Class tables per side.
    pub class_tables: u32,
    /// Identity numbers.
    pub identities: u32,
    /// Routes per side.
    pub routes: u32,
    /// Legs per side.
    pub legs: u32,
    /// Destinations per side.
    pub destinations: u32,
    /// Backends per side.
    pub backends: u32,
    /// Entries of `CONNECTIONS`: a power of two.
    pub connections: u32,
    /// Entries of `OVERFLOW`.
    pub overflow: u32,
    /// How many copies of each counter there are: a power of two. A program
    /// counts in the stripe of its CPU's number, modulo this.
    pub stripes: u32,
    /// How a socket of the kernel's own is known: the number of the byte of `struct
    /// sock` in the upper 24 bits, and which bit of it is set. Zero: by nothing.
    pub kernel_socket: u32,
    /// 1 where the kernel describes its types (BTF): then it can be asked whether a
    /// socket is one of MPTCP.
    pub btf: u32,
    /// Which byte of `struct sock` its error begins at. Zero: not known.
    pub socket_error: u32,
    /// Which byte of `struct tcp_sock` the pointer to MD5 keys begins at. Zero: there are
    /// none, or it is not known.
    pub md5_keys: u32,
    /// The same of keys for TCP's authentication option (RFC 5925).
    pub ao_keys: u32,
}

/// An entry of `READERS`: how many programs are between reading the epoch and
/// their last lookup, by CPU. One cache line each.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Readers {
    /// The count.
    pub count: u64,
}

/// Asserts a type's size and the offsets of its fields.
macro_rules! layout {
    ($($ty:ty, $size:expr, { $($field:ident: $offset:expr),* $(,)? })*) => {$(
        const _: () = {
            assert!(size_of::<$ty>() == $size);
            $(assert!(core::mem::offset_of!($ty, $field) == $offset);)*
        };
        // SAFETY: `repr(C)` (or `repr(transparent)`) and `Copy`, made of
        // integers only, so every bit pattern is a value; the layout test
        // below shows that no byte is padding.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $ty {}
    )*};
}

layout! {
    Addr, 16, { words: 0 }
    Verdict, 4, {}
    Control, 64, {
        epoch: 0, daemon_cgroup: 8, levels: 16, has_prefixes: 20, flags: 24, generation: 32,
        self_test_port: 48, seed: 52, flows_until: 56,
    }
    FrontendKey, 20, { addr: 0, port: 16, side: 18 }
    PrefixKey, 20, { side: 0, port: 2, addr: 4 }
    ClassKey, 12, { table: 0, class: 4, side: 8 }
    Source, 16, { key: 0, identity: 8, level: 12 }
    Route, 8, { first: 0, count: 4 }
    Leg, 16 + 16 * OTHER, { threshold: 0, alias: 4, destination: 8, reserved: 12 }
    Destination, 40, {
        first: 0, count: 4, policy: 8, live: 12, owner: 16, max_connections: 20, eject_after: 24,
        eject_most: 28, eject_ms: 32, forgive_ms: 36,
    }
    Backend, 32, { addr: 0, port: 16, alias: 18, live: 20, threshold: 24, owner: 28 }
    Live, 128, {
        word: 0, turn: 8, ejected_until: 16, returned: 24, limited: 32, ejected: 40, parent: 48,
        owner: 56, failures: 60, ejections: 64, failed_by: 68, succeeded_by: 72, left: 76,
        succeeded_at: 80, other_at: 88, withheld: 96, unfair: 104, unused: 112,
    }
    Connection, 80, {
        cookie: 0, dialled: 8 + 16 * OTHER, backend: 24 - 16 * OTHER, dialled_port: 40,
        backend_port: 42, leg: 44, state: 48, live: 52, since: 56, who: 64, share: 68, caller: 72,
        destination: 76,
    }
    Totals, 64, {
        routed: 0, passed: 8, refused: 16, unknown_source: 24, own: 32, memory_full: 40,
        overflowed: 48, mptcp: 56,
    }
    LegCounters, 16, { chosen: 0, refused: 8 }
    FlowCounters, 96, {
        established: 0, failed: 8, closed: 16, handshake_ns: 24, sent: 32, received: 40,
        handshakes: 48,
    }
    FlowHead, 64, { begun: 0 }
    Flow, 120, {
        number: 0, time: 8, cookie: 16, detail: 24, sent: 32, received: 40, dialled: 48,
        backend: 64, dialled_port: 80, backend_port: 82, event: 84, outcome: 86, route: 88,
        leg: 92, identity: 96, process: 100, command: 104,
    }
    OverflowState, 64, { used: 0 }
    Limits, 56, {
        class_tables: 0, identities: 4, routes: 8, legs: 12, destinations: 16, backends: 20,
        connections: 24, overflow: 28, stripes: 32, kernel_socket: 36, btf: 40,
        socket_error: 44, md5_keys: 48, ao_keys: 52,
    }
    Readers, 64, { count: 0 }
    Record, 128, {
        epoch: 0, draws: 8, drawn: 56, asked: 60, identity: 64, class: 68, affinity: 72, turn: 76,
        active: 80, asks: 88, skipped: 92, limited: 104, decision: 108, route: 112, leg: 116,
        backend: 120, reserved: 124,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_survive_packing() {
        for kind in [
            VerdictKind::Pass,
            VerdictKind::Refuse,
            VerdictKind::Route(0),
            VerdictKind::Route(123_456),
            VerdictKind::Classes(0),
            VerdictKind::Classes((1 << 30) - 1),
        ] {
            assert_eq!(Verdict::new(kind).kind(), kind);
        }
    }

    #[test]
    fn a_zeroed_frontend_value_passes() {
        assert_eq!(Verdict(0), Verdict::PASS);
    }

    #[test]
    fn the_sides_share_an_array_without_overlap() {
        let (left, right) = (Side::of_epoch(4), Side::of_epoch(5));
        assert_eq!(left.other(), right);
        assert_eq!(left.slot(9, 10), Some(9));
        assert_eq!(right.slot(0, 10), Some(10));
        assert_eq!(right.slot(10, 10), None);
    }
}
