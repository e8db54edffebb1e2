//! Programs of somebody else's: they let everything pass, or nothing.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_DETACH: libc::c_long = 9;

/// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`.
const SOCK_ADDR: u32 = 18;
/// `BPF_CGROUP_INET4_CONNECT`.
const CONNECT4: u32 = 10;

/// `r0 = 1; exit`.
const PASS: [u64; 2] = [0x0000_0001_0000_00b7, 0x95];
/// `r0 = 0; exit`, which the kernel makes EPERM of.
const REFUSE: [u64; 2] = [0x0000_0000_0000_00b7, 0x95];

/// How a program is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leave {
    /// `BPF_F_ALLOW_MULTI`: others may be there, too.
    Others,
    /// Nobody else at this cgroup or below.
    Nobody,
    /// As `Others`, and `BPF_F_PREORDER`: before those of cgroups below. Minimum kernel: 6.15.
    First,
}

/// A connect4 program on a cgroup, attached the old way, without a link;
/// detached when dropped.
#[derive(Debug)]
pub struct Foreign {
    program: OwnedFd,
    cgroup: File,
}

impl Foreign {
    /// Attaches one that lets everything pass.
    ///
    /// # Panics
    ///
    /// When it cannot.
    pub fn attach(cgroup: &Path, leave: Leave) -> Self {
        Self::attach_code(cgroup, leave, &PASS).expect("it is attached")
    }

    /// The same; `None` where the kernel does not know of such a way.
    ///
    /// # Panics
    ///
    /// When it cannot for another reason.
    pub fn try_attach(cgroup: &Path, leave: Leave) -> Option<Self> {
        match Self::attach_code(cgroup, leave, &PASS) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => None,
            attached => Some(attached.expect("it is attached")),
        }
    }

    /// Attaches one that refuses everything, beside others.
    ///
    /// # Panics
    ///
    /// When it cannot.
    pub fn refusing(cgroup: &Path) -> Self {
        Self::attach_code(cgroup, Leave::Others, &REFUSE).expect("it is attached")
    }

    fn attach_code(cgroup: &Path, leave: Leave, code: &[u64; 2]) -> io::Result<Self> {
        let cgroup = File::open(cgroup).expect("the cgroup exists");
        let mut attr = [0_u32; 32];
        attr[0] = SOCK_ADDR;
        attr[1] = code.len() as u32;
        wide(&mut attr, 2, code.as_ptr() as u64);
        wide(&mut attr, 4, c"GPL".as_ptr() as u64);
        let name = *b"foreign\0\0\0\0\0\0\0\0\0";
        for (word, bytes) in attr[12..16].iter_mut().zip(name.chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        attr[17] = CONNECT4;
        let fd = bpf(BPF_PROG_LOAD, &mut attr).expect("a program is loaded");
        // SAFETY: the kernel has just given us this descriptor.
        let program = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let this = Self { program, cgroup };
        let flags = match leave {
            Leave::Nobody => 0,
            Leave::Others => 2,
            Leave::First => 2 | 1 << 6,
        };
        this.target(BPF_PROG_ATTACH, flags).map(|_| this)
    }

    fn target(&self, command: libc::c_long, flags: u32) -> io::Result<libc::c_long> {
        let mut attr = [0_u32; 32];
        attr[0] = self.cgroup.as_raw_fd() as u32;
        attr[1] = self.program.as_raw_fd() as u32;
        attr[2] = CONNECT4;
        attr[3] = flags;
        bpf(command, &mut attr)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.target(BPF_PROG_DETACH, 0);
    }
}

/// Detaches the program of a pinned link, as `bpftool link detach` does.
///
/// # Panics
///
/// When it cannot.
pub fn detach(pin: &Path) {
    const BPF_OBJ_GET: libc::c_long = 7;
    const BPF_LINK_DETACH: libc::c_long = 34;
    let path = std::ffi::CString::new(pin.as_os_str().as_encoded_bytes()).expect("a path");
    let mut attr = [0; 32];
    wide(&mut attr, 0, path.as_ptr() as u64);
    let link = bpf(BPF_OBJ_GET, &mut attr).unwrap_or_else(|error| panic!("{pin:?}: {error}"));
    // SAFETY: the kernel has just given us this descriptor.
    let link = unsafe { OwnedFd::from_raw_fd(link as i32) };
    let mut attr = [0; 32];
    attr[0] = link.as_raw_fd() as u32;
    bpf(BPF_LINK_DETACH, &mut attr).unwrap_or_else(|error| panic!("{pin:?}: {error}"));
}

fn wide(attr: &mut [u32; 32], index: usize, value: u64) {
    attr[index] = value as u32;
    attr[index + 1] = (value >> 32) as u32;
}

fn bpf(command: libc::c_long, attr: &mut [u32; 32]) -> io::Result<libc::c_long> {
    #[repr(C, align(8))]
    struct Attr([u32; 32]);
    let mut attr = Attr(*attr);
    // SAFETY: the attributes, and what they point to, live during the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(&mut attr), size_of::<Attr>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
