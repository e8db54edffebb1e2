//! The calls of bpf(2) that aya has no functions for: links by attach type,
//! their update in place, and who is attached.

use std::ffi::CString;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

/// `BPF_PROG_TYPE_RAW_TRACEPOINT`: of the types that can be run by hand, the one
/// whose programs see the task that does it.
const RAW_TRACEPOINT: u32 = 17;

/// Queries what runs, ancestors' programs included, not what is attached here.
const BPF_F_QUERY_EFFECTIVE: u32 = 1;

/// `BPF_LINK_TYPE_CGROUP`.
const LINK_TYPE_CGROUP: u32 = 3;

/// Of a descriptor that only reads.
const BPF_F_RDONLY: u32 = 1 << 3;

/// No table has more keys.
const MOST_KEYS: usize = 1 << 24;

/// Attributes of the calls below: as long as the longest, and zero beyond what
/// a call uses, as the kernel wants it.
#[repr(C, align(8))]
#[derive(Default)]
struct Attr([u32; 16]);

impl Attr {
    /// Puts a 64-bit word at a word index, which must be even.
    fn wide(&mut self, index: usize, value: u64) {
        self.0[index] = value as u32;
        self.0[index + 1] = (value >> 32) as u32;
    }
}

fn bpf(command: libc::c_long, attr: &mut Attr) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes no more of the attributes than the size
    // that it is told, which is theirs. What their words point to are buffers that
    // the functions below keep until the call has returned, with their lengths.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<Attr>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel has just given us this descriptor.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

fn path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a path with a zero byte"))
}

/// Opens what is pinned at a path, for whatever may be done with it. It takes the
/// permission to read and to write the pin.
pub fn open_pin(pin: &Path) -> io::Result<OwnedFd> {
    open_as(pin, 0)
}

/// Opens a map that is pinned at a path, for reading only. It takes the permission to
/// read the pin, and no capability. Minimum kernel: 5.19, before `CAP_BPF` is needed where
/// `kernel.unprivileged_bpf_disabled` is set.
pub fn open_pin_for_reading(pin: &Path) -> io::Result<OwnedFd> {
    open_as(pin, BPF_F_RDONLY)
}

fn open_as(pin: &Path, flags: u32) -> io::Result<OwnedFd> {
    let pin = path(pin)?;
    let mut attr = Attr::default();
    attr.wide(0, pin.as_ptr() as u64);
    attr.0[3] = flags;
    bpf(BPF_OBJ_GET, &mut attr).map(owned)
}

/// Pins.
pub fn pin(fd: BorrowedFd<'_>, pin: &Path) -> io::Result<()> {
    let pin = path(pin)?;
    let mut attr = Attr::default();
    attr.wide(0, pin.as_ptr() as u64);
    attr.0[2] = fd.as_raw_fd() as u32;
    bpf(BPF_OBJ_PIN, &mut attr).map(|_| ())
}

/// Copies the entry of an array with this index to `to`.
///
/// # Safety
///
/// `to` must be valid for writing as many bytes as the array's values have.
pub unsafe fn copy_entry(array: BorrowedFd<'_>, index: u32, to: *mut u8) -> io::Result<()> {
    let mut attr = Attr::default();
    attr.0[0] = array.as_raw_fd() as u32;
    attr.wide(2, std::ptr::from_ref(&index) as u64);
    attr.wide(4, to as u64);
    bpf(BPF_MAP_LOOKUP_ELEM, &mut attr).map(|_| ())
}

/// The id of the map at this index of an array of maps; nothing where there is none.
pub fn inner_map(array: BorrowedFd<'_>, index: u32) -> io::Result<Option<u32>> {
    let mut id = 0_u32;
    // SAFETY: what an array of maps gives is the id of one, of four bytes.
    match unsafe { copy_entry(array, index, std::ptr::from_mut(&mut id).cast()) } {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        read => read.map(|()| Some(id)),
    }
}

/// Makes an array with this name and values of `value` bytes; or an array of arrays that
/// are like `each`.
///
/// Neither has a description of its types: up to Linux 6.1, one that has it is not like one
/// that has not.
pub fn create_array(
    name: &str,
    value: u32,
    entries: u32,
    flags: u32,
    each: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    const ARRAY: u32 = 2;
    const ARRAY_OF_MAPS: u32 = 12;
    let mut attr = Attr::default();
    attr.0[0] = if each.is_some() { ARRAY_OF_MAPS } else { ARRAY };
    attr.0[1..5].copy_from_slice(&[4, value, entries, flags]);
    attr.0[5] = each.map_or(0, |each| each.as_raw_fd() as u32);
    // Fifteen bytes, and a zero.
    for (word, four) in
        attr.0[7..11].iter_mut().zip(name.as_bytes()[..name.len().min(15)].chunks(4))
    {
        let mut bytes = [0; 4];
        bytes[..four.len()].copy_from_slice(four);
        *word = u32::from_ne_bytes(bytes);
    }
    bpf(BPF_MAP_CREATE, &mut attr).map(owned)
}

/// All keys of a hash table whose keys are one word. One that changes meanwhile may
/// give some of them twice, or not.
pub fn keys(map: BorrowedFd<'_>) -> io::Result<Vec<u64>> {
    let mut keys: Vec<u64> = Vec::new();
    loop {
        let (before, mut next) = (keys.last().copied(), 0_u64);
        let mut attr = Attr::default();
        attr.0[0] = map.as_raw_fd() as u32;
        attr.wide(2, before.as_ref().map_or(0, |key| std::ptr::from_ref(key) as u64));
        attr.wide(4, std::ptr::from_mut(&mut next) as u64);
        match bpf(BPF_MAP_GET_NEXT_KEY, &mut attr) {
            // A key that has gone has the kernel begin again.
            Ok(_) if keys.len() < MOST_KEYS => keys.push(next),
            Ok(_) => return Ok(keys),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(keys),
            Err(error) => return Err(error),
        }
    }
}

/// Attaches a program to a cgroup, beside whatever else is there. Minimum
/// kernel: 5.7.
pub fn create_link(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    let mut attr = Attr::default();
    attr.0[0] = program.as_raw_fd() as u32;
    attr.0[1] = cgroup.as_raw_fd() as u32;
    attr.0[2] = attach_type;
    bpf(BPF_LINK_CREATE, &mut attr).map(owned)
}

/// Runs a program once, in this task, and gives back what it returns. Minimum
/// kernel: 5.10.
pub fn run_once(instructions: &[u64]) -> io::Result<u32> {
    let mut attr = Attr::default();
    attr.0[0] = RAW_TRACEPOINT;
    attr.0[1] = instructions.len() as u32;
    attr.wide(2, instructions.as_ptr() as u64);
    attr.wide(4, c"Dual MIT/GPL".as_ptr() as u64);
    let program = bpf(BPF_PROG_LOAD, &mut attr).map(owned)?;
    let mut attr = Attr::default();
    attr.0[0] = program.as_raw_fd() as u32;
    bpf(BPF_PROG_TEST_RUN, &mut attr)?;
    Ok(attr.0[1])
}

/// Puts another program in a link's place, at one instant. `ENOLINK` when its
/// cgroup is gone. Minimum kernel: 5.7.
pub fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = Attr::default();
    attr.0[0] = link.as_raw_fd() as u32;
    attr.0[1] = program.as_raw_fd() as u32;
    bpf(BPF_LINK_UPDATE, &mut attr).map(|_| ())
}

/// Detaches a link's program, and returns when it is: the last pin that goes has
/// it detached, too, but later. Minimum kernel: 5.9.
pub fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = Attr::default();
    attr.0[0] = link.as_raw_fd() as u32;
    bpf(BPF_LINK_DETACH, &mut attr).map(|_| ())
}

/// Waits until every program that runs now has come to its end. Programs of cgroups run as
/// readers of RCU, and the kernel waits for all of those when an entry of an array of arrays
/// is written, on each of its configurations; `membarrier` returns at once where one
/// processor is online, and does not do it where some are without a tick. Minimum kernel:
/// 5.0.
pub fn wait_for_programs() -> io::Result<()> {
    let one = create_array("rd_wait", 4, 1, 0, None)?;
    let all = create_array("rd_wait", 4, 1, 0, Some(one.as_fd()))?;
    let (key, value) = (0_u32, one.as_raw_fd() as u32);
    let mut attr = Attr::default();
    attr.0[0] = all.as_raw_fd() as u32;
    attr.wide(2, std::ptr::from_ref(&key) as u64);
    attr.wide(4, std::ptr::from_ref(&value) as u64);
    bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(|_| ())
}

/// What a link to a cgroup is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CgroupLink {
    /// The program that runs.
    pub program: u32,
    /// The cgroup; zero when it is gone.
    pub cgroup: u64,
}

/// Asks about a link to a cgroup.
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<CgroupLink> {
    // struct bpf_link_info: type, id, prog_id, then for cgroups at offset 16
    // cgroup_id and attach_type.
    let info = info::<16>(link)?;
    if info[0] != LINK_TYPE_CGROUP {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a link to a cgroup"));
    }
    let cgroup = u64::from(info[4]) | u64::from(info[5]) << 32;
    Ok(CgroupLink { program: info[2], cgroup })
}

/// The id of a program.
pub fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    // struct bpf_prog_info: type, id.
    Ok(info::<32>(program)?[1])
}

/// The name of a program; empty when it has none.
pub fn program_name(id: u32) -> io::Result<String> {
    let mut attr = Attr::default();
    attr.0[0] = id;
    let program = bpf(BPF_PROG_GET_FD_BY_ID, &mut attr).map(owned)?;
    // struct bpf_prog_info: the name is at offset 64, sixteen bytes.
    let info = info::<32>(std::os::fd::AsFd::as_fd(&program))?;
    let bytes: Vec<u8> = info[16..20].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

/// The first `N` words of the info structure of an object.
fn info<const N: usize>(fd: BorrowedFd<'_>) -> io::Result<[u32; N]> {
    #[repr(C, align(8))]
    struct Info<const N: usize>([u32; N]);
    let mut info = Info([0; N]);
    let mut attr = Attr::default();
    attr.0[0] = fd.as_raw_fd() as u32;
    attr.0[1] = size_of::<Info<N>>() as u32;
    attr.wide(2, std::ptr::from_mut(&mut info) as u64);
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info.0)
}

/// The ids of the programs that are attached to a hook of this very cgroup, and
/// the flags that the first one was attached with.
pub fn attached_programs(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<(Vec<u32>, u32)> {
    query(cgroup, attach_type, 0)
}

/// The ids of the programs that run on a hook of a cgroup, in their order.
pub fn effective_programs(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    query(cgroup, attach_type, BPF_F_QUERY_EFFECTIVE).map(|(ids, _)| ids)
}

fn query(cgroup: BorrowedFd<'_>, attach_type: u32, how: u32) -> io::Result<(Vec<u32>, u32)> {
    let mut room = 64;
    loop {
        let mut ids = vec![0_u32; room];
        let mut attr = Attr::default();
        attr.0[0] = cgroup.as_raw_fd() as u32;
        attr.0[1] = attach_type;
        attr.0[2] = how;
        attr.wide(4, ids.as_mut_ptr() as u64);
        attr.0[6] = ids.len() as u32;
        match bpf(BPF_PROG_QUERY, &mut attr) {
            Ok(_) => {
                ids.truncate(attr.0[6] as usize);
                return Ok((ids, attr.0[3]));
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < 65_536 => room *= 2,
            Err(error) => return Err(error),
        }
    }
}

/// A number that nobody can tell: hash keys of the standard library are random.
pub fn random() -> u64 {
    RandomState::new().hash_one(0_u8)
}
