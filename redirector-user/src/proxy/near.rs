//! Receivers that are near: on this machine, or as good as.
//!
//! The kernel lets a send buffer grow to megabytes as long as its receiver
//! keeps acknowledging. To a near receiver that is only harm: what piles up
//! between relay and receiver is out of the processor's cache when its turn
//! comes, and every byte is fetched from memory once more. A small buffer makes
//! the two take turns while the bytes are still there; on loopback that is half
//! as fast again, for two thirds of the processor time.
//!
//! Farther away the buffer has to hold what is under way: there the kernel's own
//! sizing is right, and is left alone, for a size that was once set is not
//! adapted any more.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use rustix::net::sockopt;

/// Round trips up to this, in microseconds, are near: loopback and containers
/// of this machine, but hardly any cable.
const NEAR: u32 = 50;

/// What the send buffer to a near receiver is set to, in bytes. The kernel
/// doubles it, for its own bookkeeping, and `net.core.wmem_max` (208 KiB where
/// nobody has raised it) bounds it: even so, 30 Gbit/s fit through at [`NEAR`].
const SEND_BUFFER: usize = 256 << 10;

/// Where `tcpi_min_rtt`, a `u32`, is within the kernel's `struct tcp_info`:
/// since Linux 4.6, on every architecture.
const MIN_RTT: usize = 148;

/// Bounds the send buffer of a bulky direction if its receiver is near.
pub(super) fn bound_send_buffer(to: impl AsFd) {
    if let Some(size) = send_buffer(round_trip(&to)) {
        // Only a matter of speed: no harm when it fails.
        let _ = sockopt::set_socket_send_buffer_size(&to, size);
    }
}

/// The send buffer, in bytes, for a receiver at this round trip, in
/// microseconds; `None` leaves it to the kernel.
fn send_buffer(round_trip: Option<u32>) -> Option<usize> {
    round_trip.filter(|microseconds| *microseconds <= NEAR).map(|_| SEND_BUFFER)
}

/// The least round trip of the last minutes, in microseconds; `None` where it
/// is not known (no TCP socket, or nothing measured yet).
fn round_trip(socket: impl AsFd) -> Option<u32> {
    const SIZE: usize = MIN_RTT + size_of::<u32>();
    let mut info = MaybeUninit::<[u8; SIZE]>::zeroed();
    let mut length = SIZE as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of
    // `info`; both outlive the call, and the descriptor is borrowed for it.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 || (length as usize) < SIZE {
        return None;
    }
    // SAFETY: zeroed before the call: any bytes are a valid array of bytes.
    let info = unsafe { info.assume_init() };
    let bytes = info.get(MIN_RTT..)?.try_into().ok()?;
    // All bits set is the kernel's word for "not measured".
    Some(u32::from_ne_bytes(bytes)).filter(|microseconds| *microseconds != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::upstream;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn only_what_is_known_to_be_near_gets_a_small_send_buffer() {
        assert_eq!(send_buffer(Some(0)), Some(SEND_BUFFER));
        assert_eq!(send_buffer(Some(NEAR)), Some(SEND_BUFFER));
        assert_eq!(send_buffer(Some(NEAR + 1)), None);
        assert_eq!(send_buffer(Some(200_000)), None);
        assert_eq!(send_buffer(None), None);
        // What fits through at the far end of near, where nobody has raised
        // net.core.wmem_max: more than such a path has.
        let bits = 8 * SEND_BUFFER.min(208 << 10) as u64;
        assert!(bits * 1_000_000 / u64::from(NEAR) > 25_000_000_000);
    }

    #[test]
    fn the_round_trip_is_the_kernels_least_and_unknown_before_there_is_one() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("its address");
        let alone = upstream::socket(address, None).expect("a socket");
        assert_eq!(round_trip(&alone), None);
        let address = listener.local_addr().expect("its address");
        let mut least = u32::MAX;
        for _ in 0..20 {
            let mut client = TcpStream::connect(address).expect("a connection");
            let (mut server, _) = listener.accept().expect("its other end");
            for _ in 0..20 {
                client.write_all(b"a").expect("written");
                server.read_exact(&mut [0]).expect("read");
            }
            least = least.min(round_trip(&client).expect("measured"));
        }
        // Another field would be a count, a size or a time since boot.
        assert!((1..10_000).contains(&least), "{least} us on loopback");
        let (one, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        assert_eq!(round_trip(&one), None);
    }
}
