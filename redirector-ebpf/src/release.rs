//! The last close of a socket: its connection is forgotten.
//!
//! Runs for every kind of close: also when the process is killed, for failed
//! connects and Fast Open; before the connection itself has ended.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::programs::SockContext;
use redirector_common::abi::connection_state;

use crate::{SOCK_STREAM, memory};

/// A socket is released.
#[inline(always)]
pub fn release(ctx: &SockContext) {
    // SAFETY: the context of a program is valid while it runs.
    if unsafe { (*ctx.sock).type_ } != SOCK_STREAM {
        return;
    }
    // SAFETY: as above.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    if let Some(entry) = memory::find(cookie) {
        memory::end(cookie, entry, connection_state::RELEASED);
    }
}
