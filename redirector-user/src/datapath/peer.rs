//! Whose a connection's other end is, when that is a socket of this machine and network
//! namespace.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;

use netlink_packet_core::{DefaultNla, Nla as _};
use netlink_packet_sock_diag::inet::nlas::Nla;

use super::diag::Diag;

/// `INET_DIAG_CGROUP_ID`, minimum kernel 5.8.
const CGROUP_ID: u16 = 21;

/// The id of the cgroup in which the socket with this address, which is connected to
/// `peer`, was made; `None` when there is no such socket here, or it has no owner any
/// more.
///
/// # Errors
///
/// When the kernel cannot be asked: that takes sock_diag for TCP.
pub fn cgroup_of_socket(own: SocketAddr, peer: SocketAddr) -> io::Result<Option<u64>> {
    thread_local! {
        /// A socket to ask with is made but once: connections wait for the answer.
        static DIAG: RefCell<Option<Diag>> = const { RefCell::new(None) };
    }
    DIAG.with_borrow_mut(|diag| {
        let open = match diag.take() {
            Some(open) => open,
            None => Diag::open()?,
        };
        let found = open.socket(canonical(own), canonical(peer))?;
        // After an error its answers may still come.
        *diag = Some(open);
        Ok(found.and_then(|response| response.nlas.iter().find_map(cgroup_id)))
    })
}

/// An IPv4 address that is written as an IPv6 one, as itself.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn cgroup_id(attribute: &Nla) -> Option<u64> {
    let Nla::Other(attribute) = attribute else { return None };
    (attribute.kind() == CGROUP_ID).then(|| value(attribute))?
}

fn value(attribute: &DefaultNla) -> Option<u64> {
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    Some(u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?))
}
