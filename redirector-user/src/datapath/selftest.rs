//! The self-test: a pin is no proof, a connect is.
//!
//! A child process in a probe cgroup dials the self-test's frontend, which the
//! tables refuse. Without effective programs the kernel itself says that the
//! address cannot be dialled, so that no packet leaves in either case.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use redirector_common::abi::SELF_TEST_ADDR;

use super::{Error, Hook, SelfTest};
use crate::leftovers::PROBE;

/// `clone3(2)`: the child starts in the cgroup given. Minimum kernel: 5.7.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What the child says when it cannot make a socket.
const NO_SOCKET: i32 = 255;

/// A cgroup that goes when the test ends.
struct Probe(PathBuf);

impl Probe {
    fn below(cgroup: &Path) -> Result<Self, Error> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = cgroup.join(format!("{PROBE}-{}-{count}", std::process::id()));
        fs::create_dir(&path).map_err(|error| {
            Error::from_io(format!("making the probe cgroup {}", path.display()), error)
        })?;
        Ok(Self(path))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Tests both connect hooks below a cgroup.
pub fn run(cgroup: &Path, port: u16) -> Result<Vec<SelfTest>, Error> {
    let probe = Probe::below(cgroup)?;
    let file = File::open(&probe.0)
        .map_err(|error| Error::from_io(format!("opening {}", probe.0.display()), error))?;
    [Hook::Connect4, Hook::Connect6]
        .into_iter()
        .map(|hook| {
            let status = dial(&file, hook, port).map_err(|error| {
                Error::from_io(format!("starting a probe in {}", probe.0.display()), error)
            })?;
            Ok(SelfTest { cgroup: cgroup.to_owned(), hook, outcome: judge(hook, status) })
        })
        .collect()
}

/// What the child's exit status, an error number, says.
fn judge(hook: Hook, status: i32) -> Result<(), String> {
    match status {
        libc::ECONNREFUSED => Ok(()),
        // Without IPv6 nobody can dial it either.
        NO_SOCKET if hook == Hook::Connect6 => Ok(()),
        NO_SOCKET => Err("the probe could not make a socket".into()),
        0 | libc::EINPROGRESS => Err("the probe's connect was let through".into()),
        errno => Err(format!(
            "the programs did not answer the probe: the kernel itself said {}",
            io::Error::from_raw_os_error(errno)
        )),
    }
}

/// Has a child in the cgroup dial the frontend. Returns the error number that
/// it got.
fn dial(cgroup: &File, hook: Hook, port: u16) -> io::Result<i32> {
    let target = Ipv4Addr::from(u32::from_be(SELF_TEST_ADDR.v4_word()));
    // SAFETY: all zeroes are a value of both structures.
    let (mut v4, mut v6): (libc::sockaddr_in, libc::sockaddr_in6) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    v4.sin_family = libc::AF_INET as libc::sa_family_t;
    v4.sin_port = port.to_be();
    v4.sin_addr.s_addr = u32::from(target).to_be();
    v6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
    v6.sin6_port = port.to_be();
    v6.sin6_addr.s6_addr = target.to_ipv6_mapped().octets();
    let (family, address, size) = if hook == Hook::Connect6 {
        (libc::AF_INET6, std::ptr::from_ref(&v6).cast(), size_of_val(&v6))
    } else {
        (libc::AF_INET, std::ptr::from_ref(&v4).cast::<libc::sockaddr>(), size_of_val(&v4))
    };

    // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal,
    // stack, stack_size, tls, set_tid, set_tid_size, cgroup.
    let mut args = [0_u64; 11];
    args[0] = CLONE_INTO_CGROUP;
    args[4] = libc::SIGCHLD as u64;
    args[10] = cgroup.as_raw_fd() as u64;
    // SAFETY: the kernel reads the arguments only, as many bytes as they are, and
    // their descriptor is open. Without CLONE_VM the child is a fork with a stack of
    // its own; as other threads may hold locks in its copy of the memory, it makes
    // nothing but system calls until it exits.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        // SAFETY: system calls only, see above; `address` points to one of the
        // structures of this frame, which the child has a copy of, and `size` is its
        // size. libc's `errno` is the thread's own, and `_exit` does not return.
        unsafe {
            // The daemon's locks are not to outlive it here.
            libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32);
            let socket = libc::socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0);
            if socket < 0 {
                libc::_exit(NO_SOCKET);
            }
            let result = libc::connect(socket, address, size as libc::socklen_t);
            libc::_exit(if result == 0 { 0 } else { *libc::__errno_location() });
        }
    }
    let mut status = 0;
    loop {
        // SAFETY: the status is writable.
        if unsafe { libc::waitpid(pid as libc::pid_t, &raw mut status, 0) } >= 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    if libc::WIFEXITED(status) {
        Ok(libc::WEXITSTATUS(status))
    } else {
        Err(io::Error::other("the probe was killed"))
    }
}
