//! Who connects: from the calling task's cgroups, or else its network
//! namespace, to the workload and its class.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_netns_cookie, bpf_get_prandom_u32,
};
use aya_ebpf::programs::SockAddrContext;
use redirector_common::abi::{Control, IDENTITY_UNKNOWN, Side, Source, control_flags};
use redirector_common::decide::Caller;

use crate::maps::{self, CGROUP_SOURCES, NETNS_SOURCES};

/// Cgroups can lie this deep for a workload to be found; the bits of
/// [`Control::levels`].
const LEVELS: u32 = 32;

/// Finds the identity number of the calling task.
///
/// There is no helper for a task's own depth, so the levels at which workloads
/// live bound the walk: the deepest first, because the deepest known cgroup
/// wins.
#[inline(always)]
pub fn identity(ctx: &SockAddrContext, control: *const Control) -> u32 {
    // SAFETY: `control` points to the entry of `CONTROL`, which lives as long
    // as the program; each word is read at once.
    let (mut levels, flags) = unsafe {
        (
            core::ptr::addr_of!((*control).levels).read_volatile(),
            core::ptr::addr_of!((*control).flags).read_volatile(),
        )
    };
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
    if flags & control_flags::NETNS_SOURCES != 0 {
        // SAFETY: the context is the one that the program was called with.
        let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
        // SAFETY: as above.
        if let Some(identity) = checked(cookie, unsafe { NETNS_SOURCES.get(cookie) }) {
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

/// The calling task, as the decision asks about it.
pub struct Task<'a> {
    ctx: &'a SockAddrContext,
    control: *const Control,
    /// Whether the class was asked for.
    pub asked: bool,
    /// The identity, once it was.
    pub identity: u32,
    #[cfg(feature = "record")]
    pub record: redirector_common::abi::Record,
}

impl<'a> Task<'a> {
    /// The task that runs this program. `control` must point to the entry of
    /// `CONTROL`.
    #[inline(always)]
    pub fn new(ctx: &'a SockAddrContext, control: *const Control) -> Self {
        Self {
            ctx,
            control,
            asked: false,
            identity: IDENTITY_UNKNOWN,
            #[cfg(feature = "record")]
            record: redirector_common::abi::Record {
                epoch: 0,
                draws: [0; 2],
                drawn: 0,
                asked: 0,
                identity: 0,
                class: 0,
                decision: 0,
                route: 0,
                leg: 0,
                backend: 0,
            },
        }
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
        {
            self.record.asked = 1;
            self.record.identity = identity;
            self.record.class = class;
        }
        class
    }

    #[inline(always)]
    fn draw(&mut self) -> u32 {
        // SAFETY: the helper has no preconditions.
        let draw = unsafe { bpf_get_prandom_u32() };
        #[cfg(feature = "record")]
        {
            if self.record.drawn == 0 {
                self.record.draws[0] = draw;
            } else {
                self.record.draws[1] = draw;
            }
            self.record.drawn += 1;
        }
        draw
    }
}
