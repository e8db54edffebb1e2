//! The connection to an endpoint: its socket.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::{self, Errno};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, connect, ipproto, socket_with, sockopt,
};

use super::config::Keepalive;
use super::descriptors::is_exhaustion;
use super::message::Failed;

/// A socket for a connection to `endpoint`.
///
/// # Errors
///
/// When there is no descriptor or memory left.
pub(super) fn socket(endpoint: SocketAddr, keepalive: Option<&Keepalive>) -> io::Result<OwnedFd> {
    let family = if endpoint.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    super::listener::urgent_in_place(&socket)?;
    if let Some(keepalive) = keepalive {
        keep_alive(&socket, keepalive)?;
    }
    Ok(socket)
}

/// Begins to connect. The result of the attempt shows when the socket becomes
/// writable or fails, which on loopback is at once.
///
/// # Errors
///
/// When the address cannot be reached, or no port is left.
pub(super) fn begin(socket: &OwnedFd, endpoint: SocketAddr) -> io::Result<()> {
    match connect(socket, &endpoint) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Lets the last packet of the handshake wait for the first bytes, which are
/// at hand: one packet less for each connection. Without bytes it would keep a
/// backend that speaks first waiting.
pub(super) fn acknowledge_with_data(socket: &OwnedFd) {
    // Only a matter of speed: no harm when it fails.
    let _ = sockopt::set_tcp_quickack(socket, false);
}

/// What an error of connecting says of the endpoint.
pub(super) fn classify(error: Errno) -> Failed {
    match error {
        Errno::CONNREFUSED | Errno::CONNRESET | Errno::PIPE => Failed::Refused,
        Errno::TIMEDOUT => Failed::Timeout,
        Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::HOSTDOWN | Errno::NETDOWN => {
            Failed::Unreachable
        }
        error if is_exhaustion(error) => Failed::Exhausted,
        _ => Failed::Other,
    }
}

/// Why connecting this socket has failed.
pub(super) fn why_failed(socket: &OwnedFd) -> Failed {
    let error = sockopt::socket_error(socket).and_then(|error| error);
    // Without an error it was closed before anything was said on it.
    error.map_or_else(classify, |()| Failed::Refused)
}

/// Switches keepalive probes on. The kernel takes whole seconds: anything
/// shorter is one second.
pub(super) fn keep_alive(socket: &OwnedFd, keepalive: &Keepalive) -> io::Result<()> {
    let whole = |time: Duration| Duration::from_secs(time.as_secs().clamp(1, 32_767));
    sockopt::set_socket_keepalive(socket, true)?;
    if let Some(probes) = keepalive.probes {
        sockopt::set_tcp_keepcnt(socket, probes.clamp(1, 127))?;
    }
    if let Some(time) = keepalive.time {
        sockopt::set_tcp_keepidle(socket, whole(time))?;
    }
    if let Some(interval) = keepalive.interval {
        sockopt::set_tcp_keepintvl(socket, whole(interval))?;
    }
    Ok(())
}

/// Makes the coming close a reset.
pub(super) fn reset_on_close(socket: impl AsFd) {
    let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

/// Whether an address belongs to this machine: whether a socket can have it.
///
/// # Errors
///
/// When that cannot be tried, for want of descriptors or memory.
pub(super) fn is_local(address: SocketAddr) -> io::Result<bool> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let tried = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))
        .and_then(|socket| bind(&socket, &SocketAddr::new(address.ip(), 0)));
    match tried {
        Err(error) if is_exhaustion(error) => Err(error),
        tried => Ok(tried.is_ok()),
    }
}
