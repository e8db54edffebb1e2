//! The maps, and the tables of the decision over them.
//!
//! Entry counts given here are placeholders: the loader sets the real ones,
//! and with them the read-only `LIMIT_*` words below. Arrays can be mapped into
//! the daemon's memory, which also aligns them to a page.

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie};
use aya_ebpf::macros::btf_map;
use redirector_common::abi::{
    Backend, ClassKey, Connection, Control, Destination, Flow, FlowCounters, FlowHead, FrontendKey,
    LIVES_EACH, Leg, LegCounters, Live, OverflowState, PrefixKey, Readers, Route, Side, Source,
    Totals, Verdict,
};
use redirector_common::decide::Tables;

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;
const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

/// The words that every connection reads first.
#[btf_map]
pub static CONTROL: Array<Control, 1, MMAPABLE> = Array::new();

/// Readers of the tables, by CPU.
#[btf_map]
pub static READERS: Array<Readers, 1, MMAPABLE> = Array::new();

/// Address and port to verdict.
#[btf_map]
pub static FRONTENDS: HashMap<FrontendKey, Verdict, 1, ON_DEMAND> = HashMap::new();

/// Prefix and port to verdict.
#[btf_map]
pub static PREFIXES: LpmTrie<PrefixKey, Verdict, 1> = LpmTrie::new();

/// Class table and class to verdict.
#[btf_map]
pub static CLASS_VERDICTS: HashMap<ClassKey, Verdict, 1, ON_DEMAND> = HashMap::new();

/// Class table to its default verdict.
#[btf_map]
pub static CLASS_DEFAULTS: Array<Verdict, 1, MMAPABLE> = Array::new();

/// Identity number to class.
#[btf_map]
pub static CLASS_OF: Array<u32, 1, MMAPABLE> = Array::new();

/// Routes.
#[btf_map]
pub static ROUTES: Array<Route, 1, MMAPABLE> = Array::new();

/// Legs of routes.
#[btf_map]
pub static LEGS: Array<Leg, 1, MMAPABLE> = Array::new();

/// Destinations.
#[btf_map]
pub static DESTINATIONS: Array<Destination, 1, MMAPABLE> = Array::new();

/// Endpoints of destinations.
#[btf_map]
pub static BACKENDS: Array<Backend, 1, MMAPABLE> = Array::new();

/// Workloads by cgroup id. Outside of the two sides.
#[btf_map]
pub static CGROUP_SOURCES: HashMap<u64, Source, 1, ON_DEMAND> = HashMap::new();

/// Workloads by network namespace cookie. Outside of the two sides.
#[btf_map]
pub static NETNS_SOURCES: HashMap<u64, Source, 1, ON_DEMAND> = HashMap::new();

/// Connection memory, by socket cookie modulo its size.
#[btf_map]
pub static CONNECTIONS: Array<Connection, 1, MMAPABLE> = Array::new();

/// Connection memory for those whose place is taken, by socket cookie.
/// Preallocated: a connect cannot wait for memory.
#[btf_map]
pub static OVERFLOW: HashMap<u64, Connection, 1> = HashMap::new();

/// How full `OVERFLOW` is.
#[btf_map]
pub static OVERFLOW_STATE: Array<OverflowState, 1, MMAPABLE> = Array::new();

/// Entries of `OVERFLOW` that each caller has.
#[btf_map]
pub static OVERFLOW_SHARES: Array<u64, 1, MMAPABLE> = Array::new();

/// What is known of destinations and endpoints. Outside of the two sides.
#[btf_map]
pub static LIVE: ArrayOfMaps<Array<Live, { LIVES_EACH as usize }, MMAPABLE>, 1> =
    ArrayOfMaps::new();

/// How many connections each caller has at each destination with a limit. Outside of
/// the two sides.
#[btf_map]
pub static SHARES: Array<u64, 1, MMAPABLE> = Array::new();

/// How many records of connections were begun.
#[btf_map]
pub static FLOW_HEAD: Array<FlowHead, 1, MMAPABLE> = Array::new();

/// The last records of connections.
#[btf_map]
pub static FLOWS: Array<Flow, 1, MMAPABLE> = Array::new();

/// Totals, by stripe.
#[btf_map]
pub static TOTALS: Array<Totals, 1, MMAPABLE> = Array::new();

/// Counts of legs, by stripe and leg.
#[btf_map]
pub static LEG_COUNTERS: Array<LegCounters, 1, MMAPABLE> = Array::new();

/// What became of connections, by leg.
#[btf_map]
pub static FLOW_COUNTERS: Array<FlowCounters, 1, MMAPABLE> = Array::new();

/// What the recording build notes.
#[cfg(feature = "record")]
#[btf_map]
pub static RECORDS: aya_ebpf::btf_maps::LruHashMap<u64, redirector_common::abi::Record, 65536> =
    aya_ebpf::btf_maps::LruHashMap::new();

/// Defines the read-only words that hold `redirector_common::abi::Limits`.
macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub static $name: Global<u32> = Global::new(1);
    )*};
}

limits! {
    /// `Limits::class_tables`.
    LIMIT_CLASS_TABLES;
    /// `Limits::identities`.
    LIMIT_IDENTITIES;
    /// `Limits::routes`.
    LIMIT_ROUTES;
    /// `Limits::legs`.
    LIMIT_LEGS;
    /// `Limits::destinations`.
    LIMIT_DESTINATIONS;
    /// `Limits::backends`.
    LIMIT_BACKENDS;
    /// `Limits::connections`.
    LIMIT_CONNECTIONS;
    /// `Limits::overflow`.
    LIMIT_OVERFLOW;
    /// `Limits::stripes`.
    LIMIT_STRIPES;
    /// `Limits::kernel_socket`.
    KERNEL_SOCKET;
    /// `Limits::btf`.
    HAS_BTF;
    /// `Limits::socket_error`.
    SOCKET_ERROR;
    /// `Limits::md5_keys`.
    MD5_KEYS;
    /// `Limits::ao_keys`.
    AO_KEYS;
}

/// The tables in the kernel, as one connection reads them.
pub struct Maps {
    /// The control words.
    pub control: *const Control,
}

/// Reads an entry of an array with two sides.
#[inline(always)]
fn entry<T: Copy>(
    array: &Array<T, 1, MMAPABLE>,
    side: Side,
    index: u32,
    capacity: &Global<u32>,
) -> Option<T> {
    array.get(side.slot(index, capacity.load())?).copied()
}

impl Tables for Maps {
    #[inline(always)]
    fn frontend(&self, key: &FrontendKey) -> Option<Verdict> {
        // SAFETY: the entry belongs to the side that is read, and no entry of
        // it changes or goes away before this program has left its lookups.
        unsafe { FRONTENDS.get(key) }.copied()
    }

    #[inline(always)]
    fn prefix(&self, key: &PrefixKey) -> Option<Verdict> {
        // SAFETY: `control` points into the map `CONTROL`, whose entry lives as
        // long as the program.
        let has = unsafe { core::ptr::addr_of!((*self.control).has_prefixes).read_volatile() };
        let has = if key.side == 0 { has[0] } else { has[1] };
        if has == 0 {
            return None;
        }
        PREFIXES.get(&Key::new(PrefixKey::FULL_BITS, *key)).copied()
    }

    #[inline(always)]
    fn class_verdict(&self, key: &ClassKey) -> Option<Verdict> {
        // SAFETY: as in `frontend`.
        unsafe { CLASS_VERDICTS.get(key) }.copied()
    }

    #[inline(always)]
    fn class_default(&self, side: Side, table: u32) -> Option<Verdict> {
        entry(&CLASS_DEFAULTS, side, table, &LIMIT_CLASS_TABLES)
    }

    #[inline(always)]
    fn route(&self, side: Side, index: u32) -> Option<Route> {
        entry(&ROUTES, side, index, &LIMIT_ROUTES)
    }

    #[inline(always)]
    fn leg(&self, side: Side, index: u32) -> Option<Leg> {
        entry(&LEGS, side, index, &LIMIT_LEGS)
    }

    #[inline(always)]
    fn destination(&self, side: Side, index: u32) -> Option<Destination> {
        entry(&DESTINATIONS, side, index, &LIMIT_DESTINATIONS)
    }

    #[inline(always)]
    fn backend(&self, side: Side, index: u32) -> Option<Backend> {
        entry(&BACKENDS, side, index, &LIMIT_BACKENDS)
    }
}

/// The class of an identity on a side.
#[inline(always)]
pub fn class_of(side: Side, identity: u32) -> u32 {
    match side.slot(identity, LIMIT_IDENTITIES.load()) {
        Some(slot) => CLASS_OF.get(slot).copied().unwrap_or(redirector_common::abi::CLASS_UNKNOWN),
        None => redirector_common::abi::CLASS_UNKNOWN,
    }
}
