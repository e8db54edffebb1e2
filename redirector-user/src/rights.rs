//! Sockets that are passed from one process to another, over a Unix socket, how that is
//! connected to, and who is at its other end.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg,
    sendmsg, socket_with,
};

/// So many sockets go with one byte; the kernel takes up to 253.
pub const AT_ONCE: usize = 64;

/// Passes up to [`AT_ONCE`] sockets.
///
/// # Errors
///
/// The kernel's refusal.
pub fn pass(stream: impl AsFd, sockets: &[OwnedFd]) -> io::Result<()> {
    let borrowed: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    rights.push(SendAncillaryMessage::ScmRights(&borrowed));
    sendmsg(stream, &[IoSlice::new(b"s")], &mut rights, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Takes so many sockets; `before` is asked before each wait.
///
/// # Errors
///
/// The kernel's refusal, or that the other side has gone. [`LOST`] when some did not fit
/// into this process's descriptors: all that were to come have been taken from the stream.
pub fn take(
    stream: impl AsFd,
    count: usize,
    mut before: impl FnMut() -> io::Result<()>,
) -> io::Result<Vec<OwnedFd>> {
    let mut sockets = Vec::new();
    // As `pass` has them: each byte with as many as go with one.
    for _ in 0..count.div_ceil(AT_ONCE) {
        before()?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let mut data = [IoSliceMut::new(&mut byte)];
        let message = recvmsg(&stream, &mut data, &mut rights, RecvFlags::CMSG_CLOEXEC)?;
        if message.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for message in rights.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                sockets.extend(received);
            }
        }
    }
    if sockets.len() == count { Ok(sockets) } else { Err(LOST.into()) }
}

/// Connects to a Unix socket, without waiting for a place in its queue.
///
/// # Errors
///
/// The kernel's: `WouldBlock` where the queue is full, as that of who does not accept.
pub fn knock(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let link = UnixStream::from(socket);
    link.set_nonblocking(false)?;
    Ok(link)
}

/// Who is at the other end of a Unix socket, or listens there, by the kernel's word. The process
/// is zero where this one's namespace does not show it, for which rustix has no value.
///
/// # Errors
///
/// The kernel's, for another kind of socket.
pub fn peer(stream: impl AsFd) -> io::Result<libc::ucred> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    let (stream, at) = (stream.as_fd().as_raw_fd(), (&raw mut peer).cast());
    // SAFETY: the descriptor is open, and the kernel writes at most as many bytes as `peer` has.
    match unsafe {
        libc::getsockopt(stream, libc::SOL_SOCKET, libc::SO_PEERCRED, at, &raw mut length)
    } {
        0 => Ok(peer),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sockets that came did not fit into the descriptors of this process.
pub const LOST: io::ErrorKind = io::ErrorKind::QuotaExceeded;
