//! Events of TCP connections: what becomes of a redirected one.
//!
//! Costs every connection below the cgroup, so it is attached only while
//! accounting is on.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG,
    BPF_SOCK_OPS_PARSE_HDR_OPT_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
    BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE, BPF_TCP_FIN_WAIT1,
};
use aya_ebpf::helpers::{bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_skc_to_tcp_sock};
use aya_ebpf::programs::SockOpsContext;
use redirector_common::abi::{
    Destination, FlowCounters, HANDSHAKES, Side, connection_state as state, control_flags,
    flow_event, flow_outcome, handshake_bucket, policy,
};
use redirector_common::decide::Tables as _;

use crate::atomic::{add, fetch_add_half, fetch_or};
use crate::flow::{self, Later};
use crate::maps::{AO_KEYS, CONTROL, FLOW_COUNTERS, MD5_KEYS, Maps, SOCKET_ERROR};
use crate::memory::{self, Entry};
use crate::{live, readers, stream};

/// Who gives up earlier has not waited for the endpoint: after this time the
/// first packet has been sent again.
const PATIENCE_NS: u64 = 1_000_000_000;

/// Errors of a socket that no packet brings before its handshake is done: somebody here has
/// ended it.
const ECONNABORTED: i32 = 103;
const ECONNRESET: i32 = 104;

/// Nobody has answered.
const ETIMEDOUT: i32 = 110;

/// An event.
#[inline(always)]
pub fn event(ctx: &SockOpsContext) {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connecting(ctx),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => established(ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => closed(ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_FIN_WAIT1 => ending(ctx),
        BPF_SOCK_OPS_PARSE_HDR_OPT_CB => packet(ctx),
        _ => {}
    }
}

#[inline(always)]
fn find(ctx: &SockOpsContext) -> Option<(u64, Entry)> {
    // SAFETY: the context is the one that the program was called with.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    Some((cookie, memory::find(cookie)?))
}

/// Sets bits of the state of an entry, and returns what it was.
#[inline(always)]
fn mark(entry: &Entry, bits: u32) -> u32 {
    // SAFETY: an entry is valid memory while the program runs, and its state is
    // only accessed atomically once it is filled.
    unsafe { fetch_or(addr_of_mut!((*entry.connection).state), bits) }
}

/// The first packet is about to be sent: from here on the end of the connection
/// is sure to be seen, so from here on the entry can wait for it.
#[inline(always)]
fn connecting(ctx: &SockOpsContext) {
    let Some(control) = CONTROL.get_ptr(0) else { return };
    // SAFETY: the map's entry is valid; the word is read at once.
    let flags = unsafe { addr_of!((*control).flags).read_volatile() };
    if flags & control_flags::ACCOUNTING == 0 {
        return;
    }
    let Some((_, entry)) = find(ctx) else { return };
    if ctx.set_cb_flags(ctx.cb_flags() as i32 | BPF_SOCK_OPS_STATE_CB_FLAG as i32).is_ok() {
        mark(&entry, state::FOLLOWED);
        if error(ctx).is_some_and(|error| error != 0) {
            // It is of what the socket was before, and its owner has not asked for it.
            // SAFETY: an entry is valid memory while the program runs, and this one is of a
            // connection that is about to begin: nobody else writes.
            unsafe { addr_of_mut!((*entry.connection).since).write_volatile(0) };
        }
    }
}

/// The socket, as the kernel has it; null where its types are not known.
#[inline(always)]
fn tcp_sock(ctx: &SockOpsContext) -> *const u8 {
    // SAFETY: `sk` of the context is a valid socket or null, which the verifier makes us
    // check.
    unsafe {
        let sk = (*ctx.ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return core::ptr::null();
        }
        bpf_skc_to_tcp_sock(sk.cast()).cast()
    }
}

/// The error that the socket has met: zero, if none. `None` where that cannot be told.
#[inline(always)]
fn error(ctx: &SockOpsContext) -> Option<i32> {
    let at = SOCKET_ERROR.load() as usize;
    if at == 0 {
        return None;
    }
    let socket = tcp_sock(ctx);
    if socket.is_null() {
        return None;
    }
    // SAFETY: a `struct tcp_sock` begins with a `struct sock`, and the kernel has said where
    // in that its error lies.
    Some(unsafe { socket.add(at).cast::<i32>().read_volatile() })
}

/// Whether the client has keys on its socket: who has not got them does not answer, and what
/// he answers is dropped.
#[inline(always)]
fn has_keys(ctx: &SockOpsContext) -> bool {
    let has = |at: u32| {
        if at == 0 {
            return false;
        }
        let socket = tcp_sock(ctx);
        if socket.is_null() {
            return false;
        }
        // SAFETY: as in `error`, of a pointer in `struct tcp_sock`; it is not followed.
        !unsafe { socket.add(at as usize).cast::<*const u8>().read_volatile() }.is_null()
    };
    has(MD5_KEYS.load()) || has(AO_KEYS.load())
}

/// Whether a connection that was never established is the endpoint's failure, and not the
/// client's own doing, who may have been `patient`.
#[inline(always)]
fn is_endpoints(ctx: &SockOpsContext, followed: &Followed, patient: bool) -> bool {
    match error(ctx) {
        None => followed.state & state::RELEASED == 0 || patient,
        // It may be older than this connection: see `connecting`.
        Some(_) if followed.since == 0 => false,
        Some(0 | ECONNABORTED | ECONNRESET) => patient && !has_keys(ctx),
        Some(ETIMEDOUT) => !has_keys(ctx),
        Some(_) => true,
    }
}

#[inline(always)]
fn established(ctx: &SockOpsContext) {
    let Some((cookie, entry)) = find(ctx) else { return };
    let Followed { live, who, state: now, .. } = followed(&entry);
    // One that is not followed may be released now, and be another's.
    if now & state::FOLLOWED == 0 {
        return;
    }
    let before = mark(&entry, state::ESTABLISHED);
    if before & state::ESTABLISHED != 0 {
        return;
    }
    if live != 0 {
        live::succeeded(live, (before >> state::STAMP) as u16, who);
    }
    let (event, outcome) = (flow_event::ESTABLISHED, flow_outcome::ROUTED);
    let source_port = ctx.local_port();
    flow::later(cookie, entry.connection, &Later { event, outcome, bytes: (0, 0), source_port });
    let Some(counters) = counters(&entry) else { return };
    // SAFETY: entries are valid while the program runs; the counters are only
    // accessed atomically.
    unsafe {
        let since = addr_of!((*entry.connection).since).read_volatile();
        add(addr_of_mut!((*counters).established), 1);
        if since != 0 {
            let time = bpf_ktime_get_ns().wrapping_sub(since);
            add(addr_of_mut!((*counters).handshake_ns), time);
            let classes = addr_of_mut!((*counters).handshakes).cast::<u32>();
            let bucket = handshake_bucket(time);
            if bucket < HANDSHAKES {
                fetch_add_half(classes.add(bucket), 1);
            }
        }
    }
}

/// Our side ends its stream before the other: what comes from now on is looked
/// at, for the close alone will not tell whether the other end came.
#[inline(always)]
fn ending(ctx: &SockOpsContext) {
    let Some((_, entry)) = find(ctx) else { return };
    if followed(&entry).state & state::FOLLOWED != 0 {
        let all = BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG as i32;
        // Refused, the figure may be one too high.
        let _ = ctx.set_cb_flags(ctx.cb_flags() as i32 | all);
    }
}

/// A packet, after our side has ended its stream.
#[inline(always)]
fn packet(ctx: &SockOpsContext) {
    let Some(end) = stream::end_in_packet(ctx) else { return };
    let Some((_, entry)) = find(ctx) else { return };
    // As in `established`.
    if followed(&entry).state & state::FOLLOWED == 0 {
        return;
    }
    mark(&entry, state::END_SEEN | (end & state::END_MASK) << state::END);
}

#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    let Some((cookie, entry)) = find(ctx) else { return };
    let counters = counters(&entry);
    let followed = followed(&entry);
    let Followed { live, leg, who, since, state: now } = followed;
    // As in `established`.
    if now & state::FOLLOWED == 0 {
        return;
    }
    // Of an endpoint that does not answer, too, the client gives up at last: then its
    // first packet was lost, and sent again.
    // SAFETY: the helper has no preconditions.
    let waited = unsafe { bpf_ktime_get_ns() }.wrapping_sub(since);
    // SAFETY: the context of a program is valid while it runs.
    let lost = unsafe { (*ctx.ops).total_retrans } != 0;
    let patient = since != 0 && lost && waited >= PATIENCE_NS;
    let outcome = if now & state::ESTABLISHED != 0 {
        flow_outcome::ENDED
    } else if is_endpoints(ctx, &followed, patient) {
        flow_outcome::FAILED
    } else {
        flow_outcome::GIVEN_UP
    };
    let bytes = stream::bytes(ctx, now);
    let (event, source_port) = (flow_event::CLOSED, ctx.local_port());
    flow::later(cookie, entry.connection, &Later { event, outcome, bytes, source_port });
    let before = memory::end(cookie, entry, state::CLOSED);
    if before & state::CLOSED != 0 {
        return;
    }
    if live != 0 && who != 0 && outcome == flow_outcome::FAILED {
        failed(live, (now >> state::STAMP) as u16, leg, who);
    }
    let Some(counters) = counters else { return };
    // SAFETY: as in `established`.
    unsafe {
        if outcome == flow_outcome::ENDED {
            add(addr_of_mut!((*counters).closed), 1);
        } else {
            add(addr_of_mut!((*counters).failed), 1);
        }
        add(addr_of_mut!((*counters).sent), bytes.0);
        add(addr_of_mut!((*counters).received), bytes.1);
    }
}

/// An endpoint has not taken a connection of this caller's.
#[inline(always)]
fn failed(live: u32, stamp: u16, leg: u32, who: u32) {
    let Some(control) = CONTROL.get_ptr(0) else { return };
    let Some(reader) = readers::enter() else { return };
    // SAFETY: the map's entry is valid; the word is read at once.
    let epoch = unsafe { addr_of!((*control).epoch).read_volatile() };
    // The leg may be another's by now; then it says nothing about this endpoint.
    if let Some(destination) = destination(&Maps { control }, Side::of_epoch(epoch), leg)
        && destination.policy & policy::EJECTING != 0
        && live::is_of(live, destination.live)
    {
        live::failed(live, stamp, &destination, who);
    }
    // The entries are these owners' until here.
    readers::leave(reader);
}

#[inline(always)]
fn destination(maps: &Maps, side: Side, leg: u32) -> Option<Destination> {
    maps.destination(side, maps.leg(side, leg)?.destination)
}

/// What is needed of an entry that may be freed.
struct Followed {
    live: u32,
    leg: u32,
    who: u32,
    since: u64,
    state: u32,
}

#[inline(always)]
fn followed(entry: &Entry) -> Followed {
    // SAFETY: an entry is valid memory while the program runs; each field is
    // read at once.
    unsafe {
        Followed {
            live: addr_of!((*entry.connection).live).read_volatile(),
            leg: addr_of!((*entry.connection).leg).read_volatile(),
            who: addr_of!((*entry.connection).who).read_volatile(),
            since: addr_of!((*entry.connection).since).read_volatile(),
            state: addr_of!((*entry.connection).state).read_volatile(),
        }
    }
}

/// The counters of the connection's leg.
#[inline(always)]
fn counters(entry: &Entry) -> Option<*mut FlowCounters> {
    // SAFETY: an entry is valid memory while the program runs.
    FLOW_COUNTERS.get_ptr_mut(unsafe { addr_of!((*entry.connection).leg).read_volatile() })
}
