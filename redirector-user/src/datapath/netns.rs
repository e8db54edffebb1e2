//! Network namespaces by path.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use super::Error;

/// `SO_NETNS_COOKIE`, minimum kernel 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The cookie of the calling thread's network namespace; `ENOPROTOOPT` on a
/// kernel that does not tell it.
pub(super) fn own_cookie() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let mut cookie = 0_u64;
    let mut size = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the buffer is as large as `size` says.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut size,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// The cookie of the network namespace that a file holds, such as
/// `/run/netns/NAME` or `/proc/PID/ns/net`: what the programs see.
///
/// A thread of its own enters the namespace, so that no other notices. Needs
/// CAP_SYS_ADMIN.
pub fn netns_cookie(path: &Path) -> Result<u64, Error> {
    let what = || format!("reading the network namespace {}", path.display());
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::Path {
            path: path.to_owned(),
            problem: "there is no such network namespace".into(),
            help: "Name a file that holds one, such as /run/netns/NAME (`ip netns list`) or \
                   /proc/PID/ns/net"
                .into(),
        },
        _ => Error::from_io(what(), error),
    })?;
    let cookie = std::thread::spawn(move || -> io::Result<u64> {
        // SAFETY: the descriptor is open; only this thread changes its namespace.
        if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error());
        }
        own_cookie()
    })
    .join()
    .unwrap_or_else(|_| Err(io::Error::other("the thread that entered it died")));
    cookie.map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => Error::Path {
            path: path.to_owned(),
            problem: "this file holds no network namespace".into(),
            help: "Name a file such as /run/netns/NAME or /proc/PID/ns/net".into(),
        },
        Some(libc::ENOPROTOOPT) => Error::Kernel {
            what: what(),
            missing: "this kernel does not tell a network namespace's cookie".into(),
            help: "It takes a kernel of at least 5.14; 6.1 is the oldest that is supported".into(),
        },
        _ => Error::from_io(what(), error),
    })
}
