//! How many bytes went through a connection that is over.
//!
//! The kernel counts sequence numbers, of which the SYN and the end (FIN) of a
//! stream take one each. Whether an end was counted follows from the state that
//! the connection was closed in, but for one: where our side has ended first and
//! waits for the other's end (`FIN_WAIT2`), the socket goes when that end has
//! come, and also when its owner does not wait, or it is reset.

use aya_ebpf::bindings::{
    BPF_TCP_CLOSE_WAIT, BPF_TCP_CLOSING, BPF_TCP_FIN_WAIT2, BPF_TCP_LAST_ACK,
};
use aya_ebpf::programs::SockOpsContext;
use redirector_common::abi::connection_state as state;

/// The end of a stream, among the flags of a TCP header.
const FIN: u32 = 1;

/// Length of a TCP header without options, in bytes.
const HEADER: usize = 20;

/// The sequence number behind the end of the other's stream, when the packet
/// that the program is called for has it.
#[inline(always)]
pub fn end_in_packet(ctx: &SockOpsContext) -> Option<u32> {
    // SAFETY: the context of a program is valid while it runs; in this event the
    // packet is there, with its header between the two pointers.
    unsafe {
        if (*ctx.ops).skb_tcp_flags & FIN == 0 {
            return None;
        }
        let header = (*ctx.ops).__bindgen_anon_3.skb_data as usize;
        if header + HEADER > (*ctx.ops).__bindgen_anon_4.skb_data_end as usize {
            return None;
        }
        let sequence = u32::from_be(((header + 4) as *const u32).read());
        let words = ((header + 12) as *const u8).read() >> 4;
        // The length is that of header and data together.
        let data = (*ctx.ops).skb_len.wrapping_sub(u32::from(words) * 4);
        Some(sequence.wrapping_add(data).wrapping_add(1))
    }
}

/// The bytes sent and received of a connection that is being closed, whose
/// entry is in this state.
#[inline(always)]
pub fn bytes(ctx: &SockOpsContext, entry: u32) -> (u64, u64) {
    let from = ctx.arg(0);
    // SAFETY: the context of a program is valid while it runs.
    let (acked, received, all_acked, next) = unsafe {
        let ops = ctx.ops;
        let all_acked = (*ops).snd_una == (*ops).snd_nxt;
        ((*ops).bytes_acked, (*ops).bytes_received, all_acked, (*ops).rcv_nxt)
    };
    let ours = match from {
        BPF_TCP_FIN_WAIT2 => true,
        // Their end, and the acknowledgement of ours; or a reset instead.
        BPF_TCP_CLOSING | BPF_TCP_LAST_ACK => all_acked,
        _ => false,
    };
    let theirs = match from {
        BPF_TCP_CLOSE_WAIT | BPF_TCP_CLOSING | BPF_TCP_LAST_ACK => true,
        // Seen, and everything before it, too.
        BPF_TCP_FIN_WAIT2 if entry & state::END_SEEN != 0 => {
            (entry >> state::END ^ next) & state::END_MASK == 0
        }
        _ => false,
    };
    // The SYN was the first that was acknowledged.
    (acked.saturating_sub(1 + u64::from(ours)), received.saturating_sub(u64::from(theirs)))
}
