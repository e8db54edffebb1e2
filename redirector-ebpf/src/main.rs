//! The BPF programs.
//!
//! * [`connect`]: decides where a TCP connection goes, at `connect()`.
//! * [`peername`]: lets the caller see the address it dialled.
//! * [`release`]: ends the memory of a connection with its socket.
//! * [`sockops`]: follows connections, only while accounting is on.
//!
//! The decision itself is [`redirector_common::decide`]; the other modules give
//! it BPF maps and the calling task to work with. Minimum kernel: 6.1.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(missing_docs, reason = "aya's macros put undocumented functions beside the programs")]

use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr, sock_ops};
use aya_ebpf::programs::{SockAddrContext, SockContext, SockOpsContext};

mod atomic;
mod choose;
mod connect;
mod count;
mod flow;
mod live;
mod log;
mod maps;
mod memory;
mod peername;
mod readers;
#[cfg(feature = "record")]
mod record;
mod release;
mod sockops;
mod source;
mod stream;

/// `connect()` to an IPv4 address.
#[cgroup_sock_addr(connect4)]
pub fn rd_connect4(ctx: SockAddrContext) -> i32 {
    connect::v4(&ctx)
}

/// `connect()` to an IPv6 address, v4-mapped ones included.
#[cgroup_sock_addr(connect6)]
pub fn rd_connect6(ctx: SockAddrContext) -> i32 {
    connect::v6(&ctx)
}

/// `getpeername()` of an IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
pub fn rd_getpeername4(ctx: SockAddrContext) -> i32 {
    peername::v4(&ctx);
    ALLOW
}

/// `getpeername()` of an IPv6 socket.
#[cgroup_sock_addr(getpeername6)]
pub fn rd_getpeername6(ctx: SockAddrContext) -> i32 {
    peername::v6(&ctx);
    ALLOW
}

/// The last close of a socket.
#[cgroup_sock(sock_release)]
pub fn rd_release(ctx: SockContext) -> i32 {
    release::release(&ctx);
    ALLOW
}

/// Events of a TCP connection.
#[sock_ops]
pub fn rd_sockops(ctx: SockOpsContext) -> u32 {
    sockops::event(&ctx);
    1
}

/// What a cgroup program returns to let the system call go on.
const ALLOW: i32 = 1;

/// What a cgroup program returns to fail the system call.
const DENY: i32 = 0;

/// `SOCK_STREAM` of the kernel.
const SOCK_STREAM: u32 = 1;

/// `IPPROTO_TCP`.
const IPPROTO_TCP: u32 = 6;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The licence that the verifier sees: some helpers are for GPL-compatible
/// programs only, and "Dual MIT/GPL" covers the MIT side of ours.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
