//! The last close of a socket: its connection is forgotten.
//!
//! Runs for every kind of close: also when the process is killed, for failed
//! connects and Fast Open; before the connection itself has ended.

use core::ptr::addr_of;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::programs::SockContext;
use redirector_common::abi::{connection_state, flow_event, flow_outcome};

use crate::flow::{self, Later};
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
        // What is followed is told of when it has really ended.
        // SAFETY: an entry is valid memory while the program runs; the word is
        // read at once.
        let state = unsafe { addr_of!((*entry.connection).state).read_volatile() };
        if state & connection_state::FOLLOWED == 0 {
            let (event, outcome) = (flow_event::CLOSED, flow_outcome::RELEASED);
            // The kernel does not show the port to programs here.
            let what = Later { event, outcome, bytes: (0, 0), source_port: 0 };
            flow::later(cookie, entry.connection, &what);
        }
        memory::end(cookie, entry, connection_state::RELEASED);
    }
}
