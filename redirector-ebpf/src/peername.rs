//! `getpeername()`: a redirected socket sees the address it dialled.
//!
//! Only when the kernel's own answer is the endpoint that the connection was
//! sent to: an entry can never answer for another connection.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::programs::SockAddrContext;
use redirector_common::abi::{Connection, connection_state};
use redirector_common::addr::Addr;

use crate::{SOCK_STREAM, memory};

/// The entry of this socket, if it is about the connection to `peer`:`port`.
#[inline(always)]
fn remembered(ctx: &SockAddrContext, peer: &Addr, port: u16) -> Option<*const Connection> {
    // SAFETY: the context is the one that the program was called with.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let connection = memory::find(cookie)?.connection.cast_const();
    // SAFETY: the entry is valid memory while the program runs, and this
    // socket's, whose lock the kernel holds.
    let fits = unsafe {
        (*connection).state & connection_state::FILLED != 0
            && (*connection).backend_port == port
            && (*connection).backend.words[3] == peer.words[3]
            && (*connection).backend.words[2] == peer.words[2]
            && (*connection).backend.words[1] == peer.words[1]
            && (*connection).backend.words[0] == peer.words[0]
    };
    fits.then_some(connection)
}

/// `getpeername()` of an IPv4 socket.
#[inline(always)]
pub fn v4(ctx: &SockAddrContext) {
    let addr = ctx.sock_addr;
    // SAFETY: the context of a program is valid while it runs.
    let (kind, peer, port) = unsafe { ((*addr).type_, (*addr).user_ip4, (*addr).user_port as u16) };
    if kind != SOCK_STREAM {
        return;
    }
    if let Some(connection) = remembered(ctx, &Addr::from_v4_word(peer), port) {
        // SAFETY: both are valid, see above.
        unsafe { answer_v4(addr, connection) };
    }
}

/// `getpeername()` of an IPv6 socket.
#[inline(always)]
pub fn v6(ctx: &SockAddrContext) {
    let addr = ctx.sock_addr;
    // SAFETY: the context of a program is valid while it runs.
    let (kind, peer, port) = unsafe {
        let words = core::ptr::addr_of!((*addr).user_ip6).cast::<u32>();
        let peer = Addr::from_words([
            words.read_volatile(),
            words.add(1).read_volatile(),
            words.add(2).read_volatile(),
            words.add(3).read_volatile(),
        ]);
        ((*addr).type_, peer, (*addr).user_port as u16)
    };
    if kind != SOCK_STREAM {
        return;
    }
    if let Some(connection) = remembered(ctx, &peer, port) {
        // SAFETY: both are valid, see above.
        unsafe { answer_v6(addr, connection) };
    }
}

/// Writes the answer; a function of its own for the reason given at
/// `connect::send_v4`.
///
/// # Safety
///
/// `addr` must be the context of the program, `connection` a map's entry.
#[inline(never)]
unsafe fn answer_v4(addr: *mut bpf_sock_addr, connection: *const Connection) -> i32 {
    if connection.is_null() {
        return 0;
    }
    // SAFETY: promised by the caller.
    unsafe {
        core::ptr::addr_of_mut!((*addr).user_ip4).write_volatile((*connection).dialled.v4_word());
        core::ptr::addr_of_mut!((*addr).user_port)
            .write_volatile(u32::from((*connection).dialled_port));
    }
    1
}

/// As [`answer_v4`], for IPv6.
///
/// # Safety
///
/// `addr` must be the context of the program, `connection` a map's entry.
#[inline(never)]
unsafe fn answer_v6(addr: *mut bpf_sock_addr, connection: *const Connection) -> i32 {
    if connection.is_null() {
        return 0;
    }
    // SAFETY: promised by the caller.
    unsafe {
        let words = core::ptr::addr_of_mut!((*addr).user_ip6).cast::<u32>();
        let dialled = (*connection).dialled.words;
        words.write_volatile(dialled[0]);
        words.add(1).write_volatile(dialled[1]);
        words.add(2).write_volatile(dialled[2]);
        words.add(3).write_volatile(dialled[3]);
        core::ptr::addr_of_mut!((*addr).user_port)
            .write_volatile(u32::from((*connection).dialled_port));
    }
    1
}
