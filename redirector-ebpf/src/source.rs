//! Who connects: from the calling task's cgroups, or else its network
//! namespace, to the workload and its class.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_netns_cookie,
    bpf_get_prandom_u32,
};
use aya_ebpf::programs::SockAddrContext;
use redirector_common::abi::{
    Control, Destination, IDENTITY_UNKNOWN, Live, Side, Source, control_flags, policy,
};
use redirector_common::decide::{self, Caller, Chosen, DraftKind, Tables};

use crate::choose;
use crate::maps::{self, CGROUP_SOURCES, CONTROL, NETNS_SOURCES};

/// Cgroups can lie this deep for a workload to be found; the bits of
/// [`Control::levels`].
const LEVELS: u32 = 32;

/// Finds the identity number of the calling task.
#[inline(always)]
pub fn identity(ctx: &SockAddrContext, control: *const Control) -> u32 {
    // SAFETY: `control` points to the entry of `CONTROL`, which lives as long as the
    // program; the word is read at once.
    let flags = unsafe { core::ptr::addr_of!((*control).flags).read_volatile() };
    let mut netns = 0;
    if flags & control_flags::NETNS_SOURCES != 0 {
        // SAFETY: the context is the one that the program was called with.
        netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    }
    rd_identity(netns)
}

/// As [`identity`], with the cookie of the task's network namespace, or zero where no
/// workload is known by one.
///
/// A global function: the verifier looks at the walk once, and not on each of the ways that
/// lead to it, nor at each of those that follow.
///
/// There is no helper for a task's own depth, so the levels at which workloads
/// live bound the walk: the deepest first, because the deepest known cgroup
/// wins.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn rd_identity(netns: u64) -> u32 {
    let Some(control) = CONTROL.get_ptr(0) else { return IDENTITY_UNKNOWN };
    // SAFETY: as in `identity`.
    let mut levels = unsafe { core::ptr::addr_of!((*control).levels).read_volatile() };
    for _ in 0..LEVELS {
        if levels == 0 {
            break;
        }
        let level = (LEVELS - 1) - levels.leading_zeros();
        levels &= !(1 << (level & (LEVELS - 1)));
        // SAFETY: the helper takes any level, and answers zero beyond the
        // task's own.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
        if id == 0 {
            continue;
        }
        // SAFETY: the entry may be deleted and reused while it is read: see
        // `checked`.
        if let Some(identity) = checked(id, unsafe { CGROUP_SOURCES.get(id) }) {
            return identity;
        }
    }
    if netns != 0 {
        // SAFETY: as above.
        if let Some(identity) = checked(netns, unsafe { NETNS_SOURCES.get(netns) }) {
            return identity;
        }
    }
    IDENTITY_UNKNOWN
}

/// The identity of a source entry, unless the entry was reused for another key
/// after the lookup: the key is compared before and after the value is read.
#[inline(always)]
fn checked(key: u64, source: Option<&Source>) -> Option<u32> {
    let source = core::ptr::from_ref(source?);
    // SAFETY: elements of the map stay valid memory while the program runs,
    // also when they are reused; every field is read at once.
    unsafe {
        let before = core::ptr::addr_of!((*source).key).read_volatile();
        let identity = core::ptr::addr_of!((*source).identity).read_volatile();
        let after = core::ptr::addr_of!((*source).key).read_volatile();
        (before == key && after == key).then_some(identity)
    }
}

/// The cgroup by which the calling task is told apart from others: see
/// `Connection::caller`.
#[inline(always)]
pub fn caller(control: *const Control) -> u32 {
    // SAFETY: as in `identity`.
    let flags = unsafe { core::ptr::addr_of!((*control).flags).read_volatile() };
    // SAFETY: the helpers have no preconditions, and take any level.
    unsafe {
        let id = bpf_get_current_ancestor_cgroup_id(Control::caller_level(flags) as i32);
        // Nearer to the root than that level; level 0 is the root itself.
        if id <= ROOT { bpf_get_current_cgroup_id() as u32 } else { id as u32 }
    }
}

/// The id of the root of the hierarchy.
const ROOT: u64 = 1;

/// The calling task, as the decision asks about it.
pub struct Task<'a> {
    ctx: &'a SockAddrContext,
    control: *const Control,
    /// Whether the class was asked for.
    pub asked: bool,
    /// The identity, once it was.
    pub identity: u32,
    /// Whether the destination has counted the connection already.
    pub admitted: bool,
    /// Who is counted there, where the policy asks for it: see `Connection::who`.
    pub who: u32,
    #[cfg(feature = "record")]
    cookie: u64,
    #[cfg(feature = "record")]
    pub record: Option<&'static mut redirector_common::abi::Record>,
}

impl<'a> Task<'a> {
    /// The task that runs this program, for the socket with this cookie.
    /// `control` must point to the entry of `CONTROL`.
    #[inline(always)]
    pub fn new(ctx: &'a SockAddrContext, control: *const Control, cookie: u64) -> Self {
        #[cfg(not(feature = "record"))]
        let _ = cookie;
        Self {
            ctx,
            control,
            asked: false,
            identity: IDENTITY_UNKNOWN,
            admitted: false,
            who: 0,
            #[cfg(feature = "record")]
            cookie,
            #[cfg(feature = "record")]
            record: crate::record::start(cookie),
        }
    }

    /// Where the caller's connections at a destination are counted, by its owner.
    #[inline(always)]
    pub fn share(&self, owner: u32) -> u32 {
        // SAFETY: `control` points to the entry of `CONTROL`; the word is read at once.
        let seed = unsafe { core::ptr::addr_of!((*self.control).seed).read_volatile() };
        Live::share(owner, self.who, seed)
    }

    /// The identity, found now if it was not asked for before.
    #[inline(always)]
    pub fn identity(&self) -> u32 {
        if self.asked { self.identity } else { identity(self.ctx, self.control) }
    }
}

impl Caller for Task<'_> {
    #[inline(always)]
    fn class(&mut self, side: Side) -> u32 {
        let identity = identity(self.ctx, self.control);
        self.asked = true;
        self.identity = identity;
        let class = maps::class_of(side, identity);
        #[cfg(feature = "record")]
        if let Some(record) = &mut self.record {
            record.asked = 1;
            record.identity = identity;
            record.class = class;
        }
        class
    }

    #[inline(always)]
    fn draw(&mut self) -> u32 {
        // SAFETY: the helper has no preconditions.
        let draw = unsafe { bpf_get_prandom_u32() };
        #[cfg(feature = "record")]
        if let Some(record) = &mut self.record {
            crate::record::draw(record, draw);
        }
        draw
    }

    /// By the workload's number; of an unknown one, by its network namespace.
    #[inline(always)]
    fn affinity(&mut self) -> u32 {
        let identity = self.identity();
        // SAFETY: `control` points to the entry of `CONTROL`; the word is read at
        // once.
        let seed = unsafe { core::ptr::addr_of!((*self.control).seed).read_volatile() };
        // SAFETY: the context is the one that the program was called with.
        let netns = || unsafe { bpf_get_netns_cookie(self.ctx.as_ptr()) };
        let affinity = decide::affinity(seed, identity, netns);
        #[cfg(feature = "record")]
        if let Some(record) = &mut self.record {
            record.affinity = affinity;
        }
        affinity
    }

    #[inline(always)]
    fn choose<T: Tables>(
        &mut self,
        _: &T,
        side: Side,
        number: u32,
        destination: &Destination,
    ) -> Chosen {
        let hashed = destination.policy & policy::ALGORITHM == policy::SOURCE_HASH;
        let affinity = if hashed { self.affinity() } else { 0 };
        if destination.policy & (policy::LIMITED | policy::EJECTING) != 0 {
            self.who = match self.identity() {
                IDENTITY_UNKNOWN => decide::stranger(caller(self.control)),
                identity => identity,
            };
        }
        let chosen = choose::unpack(choose::rd_choose(
            side.index(),
            number,
            affinity,
            self.who,
            #[cfg(feature = "record")]
            self.cookie,
        ));
        self.admitted =
            destination.policy & policy::LIMITED != 0 && chosen.kind == DraftKind::Route;
        chosen
    }
}
