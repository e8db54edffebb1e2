//! Sockets, one system call at a time: for what the standard library hides.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `IPPROTO_MPTCP`.
pub const MPTCP: i32 = 262;

/// A socket.
#[derive(Debug)]
pub struct Socket(OwnedFd);

/// An address as the kernel takes it, and its length.
pub fn sockaddr(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all zeroes are a value of the structure.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    match address {
        SocketAddr::V4(v4) => {
            // SAFETY: the storage is large enough and aligned for every kind.
            let to = unsafe { &mut *(&raw mut storage).cast::<libc::sockaddr_in>() };
            to.sin_family = libc::AF_INET as libc::sa_family_t;
            to.sin_port = v4.port().to_be();
            to.sin_addr.s_addr = u32::from(*v4.ip()).to_be();
            (storage, size_of::<libc::sockaddr_in>() as libc::socklen_t)
        }
        SocketAddr::V6(v6) => {
            // SAFETY: as above.
            let to = unsafe { &mut *(&raw mut storage).cast::<libc::sockaddr_in6>() };
            to.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            to.sin6_port = v6.port().to_be();
            to.sin6_addr.s6_addr = v6.ip().octets();
            (storage, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
        }
    }
}

fn address(storage: &libc::sockaddr_storage) -> SocketAddr {
    if i32::from(storage.ss_family) == libc::AF_INET6 {
        // SAFETY: the family says what the storage holds.
        let v6 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
        let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
        SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, 0).into()
    } else {
        // SAFETY: as above.
        let v4 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
        let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
        SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into()
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

impl Socket {
    /// A stream socket of the family of this address, `protocol` 0 being TCP.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn stream(like: SocketAddr, protocol: i32) -> io::Result<Self> {
        Self::new(like, libc::SOCK_STREAM, protocol)
    }

    /// A socket of the family of this address.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn new(like: SocketAddr, kind: i32, protocol: i32) -> io::Result<Self> {
        let family = if like.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
        Self::of_family(family, kind, protocol)
    }

    /// One of SMC, which dials IPv4: behind it is a socket of TCP that the kernel has opened
    /// for itself, and connects when this one is connected.
    ///
    /// # Errors
    ///
    /// The kernel's, where the module `smc` is not loaded, too.
    pub fn smc() -> io::Result<Self> {
        const AF_SMC: i32 = 43;
        Self::of_family(AF_SMC, libc::SOCK_STREAM, 0)
    }

    fn of_family(family: i32, kind: i32, protocol: i32) -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = check(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) })?;
        // SAFETY: the descriptor was just made.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// As the standard library has it.
    pub fn into_stream(self) -> TcpStream {
        self.0.into()
    }

    /// Its descriptor.
    pub fn fd(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// Sets an option that is a number.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn set(&self, level: i32, option: i32, value: i32) -> io::Result<()> {
        // SAFETY: the value is as large as said.
        check(unsafe {
            libc::setsockopt(
                self.fd(),
                level,
                option,
                std::ptr::from_ref(&value).cast(),
                size_of_val(&value) as libc::socklen_t,
            )
        })
        .map(|_| ())
    }

    /// Has its close send a reset, so that no state is left behind.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn reset_on_close(&self) -> io::Result<()> {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        // SAFETY: the structure is as large as said.
        check(unsafe {
            libc::setsockopt(
                self.fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                std::ptr::from_ref(&linger).cast(),
                size_of_val(&linger) as libc::socklen_t,
            )
        })
        .map(|_| ())
    }

    /// Makes it non-blocking.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn nonblocking(&self) -> io::Result<()> {
        // SAFETY: no pointers.
        check(unsafe { libc::fcntl(self.fd(), libc::F_SETFL, libc::O_NONBLOCK) }).map(|_| ())
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn connect(&self, to: SocketAddr) -> io::Result<()> {
        let (storage, length) = sockaddr(to);
        // SAFETY: the storage holds an address of this length.
        check(unsafe { libc::connect(self.fd(), (&raw const storage).cast(), length) }).map(|_| ())
    }

    /// Undoes a connect: `connect` with `AF_UNSPEC`.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn disconnect(&self) -> io::Result<()> {
        // SAFETY: all zeroes are a value of the structure, and `AF_UNSPEC` is 0.
        let storage: libc::sockaddr = unsafe { std::mem::zeroed() };
        let length = size_of_val(&storage) as libc::socklen_t;
        // SAFETY: the storage is as large as said.
        check(unsafe { libc::connect(self.fd(), &raw const storage, length) }).map(|_| ())
    }

    /// Connects and sends in one: Fast Open.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn send_fast_open(&self, to: SocketAddr, data: &[u8]) -> io::Result<usize> {
        let (storage, length) = sockaddr(to);
        // SAFETY: both buffers are as large as said.
        let sent = unsafe {
            libc::sendto(
                self.fd(),
                data.as_ptr().cast(),
                data.len(),
                libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL,
                (&raw const storage).cast(),
                length,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Sends.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn send(&self, data: &[u8]) -> io::Result<usize> {
        // SAFETY: the buffer is as large as said.
        let sent =
            unsafe { libc::send(self.fd(), data.as_ptr().cast(), data.len(), libc::MSG_NOSIGNAL) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Whom it is connected to, as the kernel says.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        // SAFETY: all zeroes are a value of the structure.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let mut length = size_of_val(&storage) as libc::socklen_t;
        // SAFETY: the storage is as large as said.
        check(unsafe { libc::getpeername(self.fd(), (&raw mut storage).cast(), &raw mut length) })?;
        Ok(address(&storage))
    }

    /// Its own address.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn local(&self) -> io::Result<SocketAddr> {
        // SAFETY: all zeroes are a value of the structure.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let mut length = size_of_val(&storage) as libc::socklen_t;
        // SAFETY: the storage is as large as said.
        check(unsafe { libc::getsockname(self.fd(), (&raw mut storage).cast(), &raw mut length) })?;
        Ok(address(&storage))
    }

    /// Its cookie.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn cookie(&self) -> io::Result<u64> {
        let mut cookie = 0_u64;
        let mut length = size_of_val(&cookie) as libc::socklen_t;
        // SAFETY: the buffer is as large as said.
        check(unsafe {
            libc::getsockopt(
                self.fd(),
                libc::SOL_SOCKET,
                libc::SO_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut length,
            )
        })?;
        Ok(cookie)
    }

    /// Waits until it can be written, and returns the pending error.
    ///
    /// # Errors
    ///
    /// The pending error, or `TimedOut`.
    pub fn finish(&self, milliseconds: i32) -> io::Result<()> {
        let mut poll = libc::pollfd { fd: self.fd(), events: libc::POLLOUT, revents: 0 };
        // SAFETY: one structure, as said.
        if check(unsafe { libc::poll(&raw mut poll, 1, milliseconds) })? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut error = 0_i32;
        let mut length = size_of_val(&error) as libc::socklen_t;
        // SAFETY: the buffer is as large as said.
        check(unsafe {
            libc::getsockopt(
                self.fd(),
                libc::SOL_SOCKET,
                libc::SO_ERROR,
                (&raw mut error).cast(),
                &raw mut length,
            )
        })?;
        if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
    }

    /// Reads to the end.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn read_all(&self) -> io::Result<String> {
        let mut text = Vec::new();
        let mut buffer = [0_u8; 256];
        loop {
            // SAFETY: the buffer is as large as said.
            let got = unsafe { libc::read(self.fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
            match usize::try_from(got) {
                Ok(0) => return Ok(String::from_utf8_lossy(&text).trim().to_owned()),
                Ok(got) => text.extend_from_slice(&buffer[..got]),
                Err(_) => return Err(io::Error::last_os_error()),
            }
        }
    }
}
