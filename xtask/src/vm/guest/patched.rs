//! What the kernel patches in its own code stays patched while tests run.
//!
//! The hooks of cgroups are jump labels: their code is rewritten when the first program
//! of a kind is attached, and again when the last one goes. A processor that comes by
//! meanwhile takes a breakpoint, and on a real one the kernel waits until none can any
//! more. An emulated one may still run its translation of the breakpoint afterwards
//! (QEMU before 8.1), and the kernel dies of it. So one program of each kind that tests
//! attach stays attached to a cgroup without processes, for as long as the machine lives.

use std::io::{Error, Result};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// The cgroup without processes.
const CGROUP: &str = "/sys/fs/cgroup/hooks-in-use";

/// Program types and attach types of linux/bpf.h: `connect4`, `connect6`,
/// `getpeername4`, `getpeername6`, `sock_release`, `sock_ops`.
const HOOKS: [(u32, u32); 6] = [(18, 10), (18, 11), (18, 29), (18, 30), (9, 34), (13, 3)];

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// `r0 = 1; exit`: as if nothing was attached.
const PROGRAM: [u64; 2] = [0x0000_0001_0000_00b7, 0x95];

/// `bpf_attr` for `BPF_PROG_LOAD`, up to the last field that is set.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instructions: u32,
    program: u64,
    license: u64,
    log: [u32; 4],
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

/// `bpf_attr` for `BPF_PROG_ATTACH`.
#[repr(C)]
struct Attach {
    cgroup: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Has the kernel patch now what it patches at first connects and at first programs.
pub fn patch_now() -> Result<()> {
    std::fs::create_dir_all(CGROUP)?;
    let cgroup = std::fs::File::open(CGROUP)?;
    for (kind, attach_type) in HOOKS {
        let program = load(kind, attach_type)?;
        let attach = Attach {
            cgroup: cgroup.as_raw_fd().cast_unsigned(),
            program: program.as_raw_fd().cast_unsigned(),
            kind: attach_type,
            flags: BPF_F_ALLOW_MULTI,
        };
        bpf(BPF_PROG_ATTACH, &attach)?;
    }
    for address in ["127.0.0.1:1", "[::1]:1"] {
        let _ = TcpStream::connect(address);
    }
    // What the first connects patch is patched in the background.
    std::thread::sleep(Duration::from_millis(100));
    Ok(())
}

fn load(kind: u32, attach_type: u32) -> Result<OwnedFd> {
    let attributes = Load {
        kind,
        instructions: 2,
        program: PROGRAM.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        attach_type,
        ..Load::default()
    };
    let descriptor = bpf(BPF_PROG_LOAD, &attributes)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> Result<i32> {
    // SAFETY: `attributes` is the part of `bpf_attr` that the command reads, all of it
    // initialised, with its true size; what it points to is constant.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    i32::try_from(result).ok().filter(|result| *result >= 0).ok_or_else(Error::last_os_error)
}
