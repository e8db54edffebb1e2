//! The connection to an endpoint: its socket, and what is said on it first.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::{self, Errno};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, connect, ipproto, socket_with, sockopt,
};

use super::config::Keepalive;

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

/// Whether an error of [`socket`] or of accepting is about this machine's resources rather than
/// about the endpoint.
pub(super) fn is_exhaustion(error: Errno) -> bool {
    matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
}

/// Switches keepalive probes on. The kernel takes whole seconds: anything
/// shorter is one second.
fn keep_alive(socket: &OwnedFd, keepalive: &Keepalive) -> io::Result<()> {
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
pub(super) fn is_local(address: SocketAddr) -> bool {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))
        .and_then(|socket| bind(&socket, &SocketAddr::new(address.ip(), 0)))
        .is_ok()
}

/// The header of the PROXY protocol, version 2: tells the backend who connects
/// and which address was dialled. Both are of one family.
pub(super) fn proxy_header(client: SocketAddr, dialled: SocketAddr) -> Vec<u8> {
    const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
    const VERSION_2_PROXY: u8 = 0x21;
    const TCP_OVER_IPV4: u8 = 0x11;
    const TCP_OVER_IPV6: u8 = 0x21;
    let mut header = Vec::with_capacity(52);
    header.extend(SIGNATURE);
    header.push(VERSION_2_PROXY);
    match (client, dialled) {
        (SocketAddr::V4(client), SocketAddr::V4(dialled)) => {
            header.push(TCP_OVER_IPV4);
            header.extend(12u16.to_be_bytes());
            header.extend(client.ip().octets());
            header.extend(dialled.ip().octets());
        }
        (client, dialled) => {
            let v6 = |address: SocketAddr| match address.ip() {
                std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                std::net::IpAddr::V6(v6) => v6.octets(),
            };
            header.push(TCP_OVER_IPV6);
            header.extend(36u16.to_be_bytes());
            header.extend(v6(client));
            header.extend(v6(dialled));
        }
    }
    header.extend(client.port().to_be_bytes());
    header.extend(dialled.port().to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_header_is_as_the_specification_says() {
        let header = proxy_header(
            "192.0.2.1:51000".parse().expect("an address"),
            "198.51.100.7:443".parse().expect("an address"),
        );
        let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        expected.extend([192, 0, 2, 1, 198, 51, 100, 7, 0xc7, 0x38, 1, 0xbb]);
        assert_eq!(header, expected);
        let header = proxy_header(
            "[2001:db8::1]:1".parse().expect("an address"),
            "[2001:db8::2]:2".parse().expect("an address"),
        );
        assert_eq!(header.len(), 16 + 36);
        assert_eq!(header[13..16], [0x21, 0, 36]);
    }
}
