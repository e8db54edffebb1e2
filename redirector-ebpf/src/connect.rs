//! `connect()`: the decision, put into effect.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_retval,
    bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_set_retval, bpf_skc_to_mptcp_sock,
    bpf_skc_to_tcp_sock,
};
use aya_ebpf::programs::SockAddrContext;
use redirector_common::abi::{
    Connection, Control, IDENTITY_UNKNOWN, Side, connection_state as state, control_flags,
    flow_outcome,
};
use redirector_common::addr::Addr;
use redirector_common::decide::{Draft, DraftKind, draft_into};

use crate::count::{self, total};
use crate::flow::{self, Decided};
use crate::maps::{CONTROL, HAS_BTF, KERNEL_SOCKET, Maps};
use crate::memory::{self, Place};
use crate::source::{self, Task};
use crate::{ALLOW, DENY, IPPROTO_TCP, SOCK_STREAM, live, log, readers};

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const ECONNREFUSED: i32 = 111;

/// What to do with the system call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Let it go on as it is.
    Leave,
    /// Let it go on, to the endpoint of the draft.
    Send,
    /// Fail it with `ECONNREFUSED`.
    Refuse,
}

/// Whether this is `connect()` of a TCP socket with an address of its family.
/// The subflows of an MPTCP socket are TCP sockets.
#[inline(always)]
fn concerns(addr: *const bpf_sock_addr, family: u32) -> bool {
    // SAFETY: the context of a program is valid while it runs.
    unsafe {
        (*addr).type_ == SOCK_STREAM
            && (*addr).protocol == IPPROTO_TCP
            && (*addr).user_family == family
    }
}

/// `connect()` to an IPv4 address.
#[inline(always)]
pub fn v4(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    if !concerns(addr, AF_INET) {
        return ALLOW;
    }
    // SAFETY: as in `concerns`.
    let (ip, port) = unsafe { ((*addr).user_ip4, (*addr).user_port as u16) };
    let mut draft = Draft::new();
    match outcome(ctx, Addr::from_v4_word(ip), port, &mut draft) {
        Outcome::Leave => ALLOW,
        // SAFETY: `addr` is the context that the program was called with.
        Outcome::Send => unsafe {
            send_v4(addr, draft.endpoint.addr.v4_word(), draft.endpoint.port)
        },
        Outcome::Refuse => refuse(),
    }
}

/// `connect()` to an IPv6 address. A v4-mapped one is sent to v4-mapped
/// endpoints only, any other never to one.
#[inline(always)]
pub fn v6(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    if !concerns(addr, AF_INET6) {
        return ALLOW;
    }
    // SAFETY: as in `concerns`. The address is read word by word, as the
    // verifier wants it.
    let (dialled, port) = unsafe {
        let words = core::ptr::addr_of!((*addr).user_ip6).cast::<u32>();
        let dialled = Addr::from_words([
            words.read_volatile(),
            words.add(1).read_volatile(),
            words.add(2).read_volatile(),
            words.add(3).read_volatile(),
        ]);
        (dialled, (*addr).user_port as u16)
    };
    let mut draft = Draft::new();
    match outcome(ctx, dialled, port, &mut draft) {
        Outcome::Leave => ALLOW,
        Outcome::Send => {
            let to = &draft.endpoint.addr;
            // SAFETY: `addr` is the context that the program was called with.
            unsafe { send_v6(addr, pair(to, 0), pair(to, 2), draft.endpoint.port) }
        }
        Outcome::Refuse => refuse(),
    }
}

/// Writes the new destination.
///
/// A function of its own: where fields of the context are read and written in
/// one function, the compiler keeps pointers to them, which the verifier
/// refuses.
///
/// # Safety
///
/// `addr` must be the context of the program.
#[inline(never)]
unsafe fn send_v4(addr: *mut bpf_sock_addr, ip: u32, port: u16) -> i32 {
    // SAFETY: promised by the caller.
    unsafe {
        core::ptr::addr_of_mut!((*addr).user_ip4).write_volatile(ip);
        core::ptr::addr_of_mut!((*addr).user_port).write_volatile(u32::from(port));
    }
    ALLOW
}

/// Two words of an address in one register: a BPF function has five arguments.
#[inline(always)]
fn pair(addr: &Addr, first: usize) -> u64 {
    u64::from(addr.words[first]) | u64::from(addr.words[first + 1]) << 32
}

/// As [`send_v4`], for IPv6.
///
/// # Safety
///
/// `addr` must be the context of the program.
#[inline(never)]
unsafe fn send_v6(addr: *mut bpf_sock_addr, high: u64, low: u64, port: u16) -> i32 {
    // SAFETY: promised by the caller.
    unsafe {
        let words = core::ptr::addr_of_mut!((*addr).user_ip6).cast::<u32>();
        words.write_volatile(high as u32);
        words.add(1).write_volatile((high >> 32) as u32);
        words.add(2).write_volatile(low as u32);
        words.add(3).write_volatile((low >> 32) as u32);
        core::ptr::addr_of_mut!((*addr).user_port).write_volatile(u32::from(port));
    }
    ALLOW
}

/// Fails the system call as a closed port would.
#[inline(always)]
fn refuse() -> i32 {
    // SAFETY: the helper takes any error number.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    DENY
}

/// Decides, counts and remembers.
#[inline(always)]
fn outcome(ctx: &SockAddrContext, dialled: Addr, port: u16, draft: &mut Draft) -> Outcome {
    // SAFETY: the context is the one that the program was called with.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // Whatever this socket was connected to before, it is not any more.
    memory::forget(cookie);

    let Some(control) = CONTROL.get_ptr(0) else { return Outcome::Leave };
    // Until the connection is counted, too: its numbers are those of the side, and
    // mean something else once nobody reads that any more.
    let Some(reader) = readers::enter() else { return Outcome::Leave };
    let outcome = decided(ctx, control, cookie, (dialled, port), draft);
    readers::leave(reader);
    outcome
}

/// As [`outcome`], by a reader of the tables.
#[inline(always)]
fn decided(
    ctx: &SockAddrContext,
    control: *const Control,
    cookie: u64,
    (dialled, port): (Addr, u16),
    draft: &mut Draft,
) -> Outcome {
    let mut task = Task::new(ctx, control, cookie);
    // SAFETY: `control` points to the map's entry; the word is read at once.
    let epoch = unsafe { core::ptr::addr_of!((*control).epoch).read_volatile() };
    let side = Side::of_epoch(epoch);
    draft_into(&Maps { control }, side, &dialled, port, &mut task, draft);

    #[cfg(feature = "record")]
    if let Some(record) = &mut task.record {
        crate::record::note(record, epoch, draft);
    }

    if draft.kind == DraftKind::Miss {
        return Outcome::Leave;
    }
    // SAFETY: as above; the helpers have no preconditions, and take any level.
    let (own, refused) = unsafe {
        let daemon = core::ptr::addr_of!((*control).daemon_cgroup).read_volatile();
        let flags = core::ptr::addr_of!((*control).flags).read_volatile();
        let level = (flags >> control_flags::DAEMON_LEVEL_SHIFT) as i32;
        let cgroup = match level {
            0 => bpf_get_current_cgroup_id(),
            level => bpf_get_current_ancestor_cgroup_id(level),
        };
        (daemon != 0 && cgroup == daemon, bpf_get_retval() < 0)
    };
    // All programs of a hook run: what one before has refused will not be made, and
    // must not be counted. Sockets of the kernel's own end without a trace here.
    let kind = Kind::of(ctx);
    if own || refused || kind == Kind::Kernel {
        if own {
            total!(own);
        }
        if task.admitted {
            live::dismiss(draft.destination, task.share(draft.owner));
        }
        return Outcome::Leave;
    }
    if task.asked && task.identity == IDENTITY_UNKNOWN {
        total!(unknown_source);
    }
    let is_mptcp = kind == Kind::Mptcp;
    let outcome = settle(control, (cookie, is_mptcp), (&dialled, port), &task, draft);
    if let Some(now) = flow::followed(control) {
        let what = Decided {
            cookie,
            side,
            dialled: &dialled,
            port,
            outcome,
            choice: (draft.choice.route, draft.choice.leg),
            backend: (&draft.endpoint.addr, draft.endpoint.port),
            identity: task.identity(),
        };
        flow::decided(control, now, &what);
    }
    match outcome {
        flow_outcome::PASSED => Outcome::Leave,
        flow_outcome::ROUTED => Outcome::Send,
        _ => Outcome::Refuse,
    }
}

/// Counts a decision and remembers the connection. Returns what comes of it,
/// one of `flow_outcome`.
#[inline(always)]
fn settle(
    control: *const Control,
    (cookie, is_mptcp): (u64, bool),
    (dialled, port): (&Addr, u16),
    task: &Task<'_>,
    draft: &Draft,
) -> u16 {
    if draft.kind == DraftKind::Pass {
        total!(passed);
        return flow_outcome::PASSED;
    }
    if draft.kind == DraftKind::Refuse {
        total!(refused);
        log::rd_log(flow_outcome::REFUSED.into(), 0, 0);
        return flow_outcome::REFUSED;
    }
    let (route, leg) = (draft.choice.route, draft.choice.leg);
    let endpoint = &draft.endpoint;
    if draft.kind == DraftKind::Limited {
        total!(refused);
        count::leg(leg, true);
        log::rd_log(flow_outcome::REFUSED_LIMITED.into(), leg, route);
        return flow_outcome::REFUSED_LIMITED;
    }
    let share = if task.admitted { task.share(draft.owner) } else { 0 };
    // Families are never crossed; tables that are well made never try.
    if draft.kind == DraftKind::RefuseLeg || endpoint.addr.is_v4() != dialled.is_v4() {
        if task.admitted {
            live::dismiss(draft.destination, share);
        }
        total!(refused);
        count::leg(leg, true);
        log::rd_log(flow_outcome::REFUSED_EMPTY.into(), leg, route);
        return flow_outcome::REFUSED_EMPTY;
    }
    log::rd_log(flow_outcome::ROUTED.into(), leg, route);
    if is_mptcp {
        if task.admitted {
            // What cannot be remembered cannot be counted, and a limit that does not see
            // all connections is none.
            live::dismiss(draft.destination, share);
            total!(refused);
            count::leg(leg, true);
            return flow_outcome::REFUSED_LIMITED;
        }
        total!(mptcp);
    } else {
        let mut stamp = 0;
        if draft.live != 0 {
            stamp = live::count(draft.destination, draft.live, task.admitted);
        }
        let connection = Connection {
            cookie: 0,
            dialled: *dialled,
            backend: endpoint.addr,
            dialled_port: port,
            backend_port: endpoint.port,
            leg,
            state: u32::from(stamp) << state::STAMP,
            live: draft.live,
            since: since(control),
            who: task.who,
            share,
            caller: source::caller(control),
            destination: draft.owner,
        };
        match memory::remember(cookie, &connection) {
            Place::Own => {}
            Place::Overflow => total!(overflowed),
            Place::None => {
                total!(memory_full);
                if draft.live != 0 {
                    live::gone(draft.live, stamp);
                }
                live::give_back(share);
                if task.admitted {
                    // As above.
                    total!(refused);
                    count::leg(leg, true);
                    return flow_outcome::REFUSED_LIMITED;
                }
            }
        }
    }
    total!(routed);
    count::leg(leg, false);
    flow_outcome::ROUTED
}

/// What kind of socket connects.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A process's.
    Plain,
    /// A subflow of an MPTCP connection. Its cookie is seen here only: getpeername and
    /// release see the parent's, so that an entry would neither be found nor freed.
    Mptcp,
    /// One of the kernel's own, as those of SMC, NFS and NVMe are: no program is told when
    /// it is closed.
    Kernel,
}

impl Kind {
    /// Of the socket of this system call. The kernel makes subflows as it makes its own
    /// sockets, so that one question does for most.
    #[inline(always)]
    fn of(ctx: &SockAddrContext) -> Self {
        let at = KERNEL_SOCKET.load();
        // SAFETY: `sk` of the context is a valid socket or null, which the verifier makes us
        // check. What the kernel gives is a `struct tcp_sock`, which begins with a
        // `struct sock`; the daemon has read from the kernel's own description of that
        // which of its bits it is.
        unsafe {
            let sk = (*ctx.sock_addr).__bindgen_anon_1.sk;
            if sk.is_null() || HAS_BTF.load() == 0 {
                return Self::Plain;
            }
            if at != 0 {
                let tcp = bpf_skc_to_tcp_sock(sk.cast());
                if tcp.is_null() {
                    return Self::Plain;
                }
                let byte = tcp.cast::<u8>().add((at >> 8) as usize).read_volatile();
                if u32::from(byte) & at & 0xff == 0 {
                    return Self::Plain;
                }
            }
            if !bpf_skc_to_mptcp_sock(sk.cast()).is_null() {
                return Self::Mptcp;
            }
        }
        if at == 0 { Self::Plain } else { Self::Kernel }
    }
}

/// The time, when somebody wants to know.
#[inline(always)]
fn since(control: *const Control) -> u64 {
    // SAFETY: `control` points to the map's entry; the helper has no
    // preconditions.
    unsafe {
        let accounting =
            core::ptr::addr_of!((*control).flags).read_volatile() & control_flags::ACCOUNTING != 0;
        let followed = core::ptr::addr_of!((*control).flows_until).read_volatile() != 0;
        if !accounting && !followed { 0 } else { bpf_ktime_get_ns() }
    }
}
