//! The node's own addresses: those of its interfaces, and word when they are others.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::{io, ptr, thread};

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::following::{Following, Waited, following};

/// The kernel tells of addresses that come and go, of both families.
const GROUPS: u32 = (libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR) as u32;

/// Of this interface kube-proxy makes every address of a Service one of the node's, for
/// IPVS: nobody listens there.
const IPVS: &CStr = c"kube-ipvs0";

/// Returns the addresses of the node, and calls `send` in a thread of its own with all of
/// them whenever they are others, until it returns `false` or nobody follows them any more.
///
/// # Errors
///
/// Why they cannot be known.
pub(super) fn follow(
    mut send: impl FnMut(BTreeSet<IpAddr>) -> bool + Send + 'static,
) -> io::Result<(BTreeSet<IpAddr>, Following)> {
    let (following, wanted) = following()?;
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, GROUPS))?;
    // Whatever changes from here on is told of.
    let first = all()?;
    let mut known = first.clone();
    thread::Builder::new().name("addresses".into()).spawn(move || {
        loop {
            let told = match wanted.wait(&socket, None) {
                Ok(Waited::Unwanted) => return,
                Ok(_) => socket.recv_from_full().map(drop),
                Err(error) => Err(error),
            };
            let now = match told {
                Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => Err(error),
                // Also when more was told than had room.
                _ => all(),
            };
            match now {
                Ok(now) if now == known => {}
                Ok(now) => {
                    known.clone_from(&now);
                    if !send(now) {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!("the node's addresses are followed no longer: {error}");
                    return;
                }
            }
        }
    })?;
    Ok((first, following))
}

/// The addresses of all interfaces.
///
/// # Errors
///
/// What the kernel says.
pub(crate) fn all() -> io::Result<BTreeSet<IpAddr>> {
    let mut first: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: `first` is valid for writing.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = BTreeSet::new();
    let mut at = first;
    // SAFETY: It is null or the first of a list that nobody else has, which ends with null
    // and is freed once, behind the last use of it. Names end with a zero byte.
    unsafe {
        while let Some(interface) = at.as_ref() {
            if CStr::from_ptr(interface.ifa_name) != IPVS {
                found.extend(address(interface.ifa_addr));
            }
            at = interface.ifa_next;
        }
        libc::freeifaddrs(first);
    }
    Ok(found)
}

/// The address, if it is one of IP.
///
/// # Safety
///
/// It is null, or points to as much as its family says.
unsafe fn address(at: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: As the caller promises; it may stand at any address.
    unsafe {
        match i32::from(at.as_ref()?.sa_family) {
            libc::AF_INET => {
                let at = at.cast::<libc::sockaddr_in>().read_unaligned();
                Some(Ipv4Addr::from(u32::from_be(at.sin_addr.s_addr)).into())
            }
            libc::AF_INET6 => {
                let at = at.cast::<libc::sockaddr_in6>().read_unaligned();
                Some(Ipv6Addr::from(at.sin6_addr.s6_addr).into())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_follows_addresses_that_nobody_wants() {
        let (told, ends) = std::sync::mpsc::channel::<()>();
        let send = move |_| told.send(()).is_ok();
        let (first, following) = follow(send).unwrap();
        assert!(!first.is_empty());
        drop(following);
        crate::following::assert_ends(&ends);
    }

    #[test]
    fn the_addresses_of_all_interfaces_are_found() {
        let found = all().unwrap();
        assert!(found.contains(&Ipv4Addr::LOCALHOST.into()), "{found:?}");
    }
}
