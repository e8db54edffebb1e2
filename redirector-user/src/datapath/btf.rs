//! What the kernel says of its own types: where in a socket it is written that it is one
//! of the kernel's own, which error it has met, and whether it has keys. No helper tells that to
//! programs.

use std::path::Path;
use std::sync::OnceLock;
use std::{fs, io};

use super::Error;

/// The kernel's types.
const FILE: &str = "/sys/kernel/btf/vmlinux";

/// `struct btf_header`, up to where the text lies and how long it is.
const HEADER: usize = 24;

/// What is known from the kernel's types.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Types {
    /// Whether there are any.
    pub are_there: bool,
    /// `Limits::kernel_socket`.
    pub kernel_socket: u32,
    /// `Limits::socket_error`.
    pub socket_error: u32,
    /// `Limits::md5_keys`.
    pub md5_keys: u32,
    /// `Limits::ao_keys`.
    pub ao_keys: u32,
}

/// Of the kernel that runs.
pub fn types() -> Result<Types, Error> {
    static TYPES: OnceLock<Types> = OnceLock::new();
    match TYPES.get() {
        Some(types) => Ok(*types),
        None => read(Path::new(FILE)).map(|types| *TYPES.get_or_init(|| types)),
    }
}

/// A kernel without types has no such file; what cannot be read is no such kernel's.
fn read(file: &Path) -> Result<Types, Error> {
    match fs::read(file) {
        Ok(bytes) => Ok(Types {
            are_there: true,
            kernel_socket: bit(&bytes, b"sock", b"sk_kern_sock").and_then(packed).unwrap_or(0),
            socket_error: byte(&bytes, b"sock", b"sk_err").unwrap_or(0),
            md5_keys: byte(&bytes, b"tcp_sock", b"md5sig_info").unwrap_or(0),
            ao_keys: byte(&bytes, b"tcp_sock", b"ao_info").unwrap_or(0),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Types::default()),
        Err(error) => Err(Error::from_io(
            format!("reading {}, which says how sockets of the kernel's own look", file.display()),
            error,
        )),
    }
}

/// The byte that a bit lies in, and which of that it is.
fn packed(bit: u32) -> Option<u32> {
    (bit / 8 < 1 << 24).then(|| ((bit / 8) << 8) | (1 << (bit % 8)))
}

/// Which bit of a structure is this field, of one bit.
fn bit(btf: &[u8], structure: &[u8], field: &[u8]) -> Option<u32> {
    place(btf, structure, field).and_then(|(bit, size)| (size == 1).then_some(bit))
}

/// At which byte of a structure this field begins, of whole bytes.
fn byte(btf: &[u8], structure: &[u8], field: &[u8]) -> Option<u32> {
    let is_whole = |(bit, size)| size == 0 && bit % 8 == 0;
    place(btf, structure, field).filter(|place| is_whole(*place)).map(|(bit, _)| bit / 8)
}

/// At which bit of a structure this field begins; and of how many it is, if of some only.
fn place(btf: &[u8], structure: &[u8], field: &[u8]) -> Option<(u32, u32)> {
    let word = |at: usize| Some(u32::from_le_bytes(btf.get(at..at + 4)?.try_into().ok()?));
    let own = word(4)? as usize;
    let part = |at: usize| Some((own + word(at)? as usize, word(at + 4)? as usize));
    let ((types, length), (text, _)) = (part(8)?, part(HEADER - 8)?);
    let is = |name: u32, wanted: &[u8]| {
        let at = text + name as usize;
        btf.get(at..at + wanted.len()) == Some(wanted) && btf.get(at + wanted.len()) == Some(&0)
    };
    let mut at = types;
    while at < types + length {
        let (name, info) = (word(at)?, word(at + 4)?);
        let (kind, count) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
        let begin = at + 12;
        let is_structure = kind == 4;
        // What follows a type: include/uapi/linux/btf.h.
        at = begin
            + match kind {
                1 | 14 | 17 => 4,
                3 => 12,
                4 | 5 | 15 | 19 => 12 * count,
                6 | 13 => 8 * count,
                2 | 7..=12 | 16 | 18 => 0,
                _ => return None,
            };
        if !is_structure || !is(name, structure) {
            continue;
        }
        for member in (0..count).map(|member| begin + 12 * member) {
            if is(word(member)?, field) {
                let place = word(member + 8)?;
                // Sizes of fields in bits, and where they lie, where any has a size.
                let sized = info >> 31 == 1;
                return Some(if sized { (place & 0xff_ffff, place >> 24) } else { (place, 0) });
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_says_where_a_socket_is_said_to_be_its_own() {
        let types = types().expect("read");
        assert_eq!(types.are_there, fs::exists(FILE).unwrap_or(false));
        assert!(!types.are_there || types.kernel_socket & 0xff != 0, "{types:?}");
        assert!((types.kernel_socket & 0xff).count_ones() <= 1);
        assert!(!types.are_there || types.socket_error != 0, "{types:?}");
        // What is only there with CONFIG_TCP_MD5SIG, or CONFIG_TCP_AO.
        let symbols = fs::read_to_string("/proc/kallsyms").expect("the kernel's symbols");
        let has = |name| symbols.lines().any(|line| line.split(' ').nth(2) == Some(name));
        for (name, keys) in
            [("tcp_md5_do_add", types.md5_keys), ("tcp_ao_destroy_sock", types.ao_keys)]
        {
            assert_eq!(keys != 0, types.are_there && has(name), "{name}: {types:?}");
        }
    }

    #[test]
    fn types_that_cannot_be_read_are_not_taken_for_none() {
        let directory = std::env::temp_dir();
        let told = read(&directory).expect_err("it is a directory").to_string();
        assert!(told.starts_with(&format!("reading {}", directory.display())), "{told}");
        assert_eq!(read(Path::new("/proc/no-such-file")).ok(), Some(Types::default()));
    }

    #[test]
    fn what_is_cut_off_or_noise_says_nothing() {
        let Ok(bytes) = fs::read(FILE) else { return };
        assert_eq!(bit(&bytes, b"sock", b"no_such_field"), None);
        assert_eq!(byte(&bytes, b"sock", b"sk_kern_sock"), None, "it is a bit");
        for length in [0, 3, 23, 24, 1000] {
            assert_eq!(bit(&bytes[..length], b"sock", b"sk_kern_sock"), None);
        }
    }
}
