//! File systems of a test's own: for pins, and small ones that are full soon.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::kernel::unique;

/// A mounted bpffs; unmounted, with everything pinned in it, when dropped.
#[derive(Debug)]
pub struct BpfFs {
    path: PathBuf,
}

fn text(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path without zero bytes")
}

impl BpfFs {
    /// Mounts one in a fresh directory.
    ///
    /// # Panics
    ///
    /// When it cannot.
    pub fn new(what: &str) -> Self {
        let path = std::env::temp_dir().join(unique(what));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let target = text(&path);
        // SAFETY: all strings end in zero bytes.
        let result = unsafe {
            libc::mount(c"bpf".as_ptr(), target.as_ptr(), c"bpf".as_ptr(), 0, std::ptr::null())
        };
        assert_eq!(result, 0, "mounting {}: {}", path.display(), io::Error::last_os_error());
        Self { path }
    }

    /// Has nothing pinned or removed below it, or again.
    ///
    /// # Panics
    ///
    /// When it cannot.
    pub fn set_read_only(&self, on: bool) {
        let flags = libc::MS_BIND | libc::MS_REMOUNT | if on { libc::MS_RDONLY } else { 0 };
        let none = std::ptr::null();
        // SAFETY: the string ends in a zero byte.
        let result =
            unsafe { libc::mount(none, text(&self.path).as_ptr(), none, flags, none.cast()) };
        assert_eq!(result, 0, "remounting: {}", io::Error::last_os_error());
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        // Pins hold what is pinned also in a mount that is gone from sight: they
        // go first.
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let _ = fs::remove_dir_all(entry.path());
        }
        let target = text(&self.path);
        // SAFETY: the string ends in a zero byte.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
        let _ = fs::remove_dir(&self.path);
    }
}

/// A file system of a few pages, mounted on a directory; unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one of a megabyte on a directory, which is made.
    ///
    /// # Panics
    ///
    /// When it cannot.
    pub fn new(path: &Path) -> Self {
        fs::create_dir_all(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (target, kind) = (text(path), c"tmpfs".as_ptr());
        // SAFETY: all strings end in zero bytes.
        let result = unsafe {
            libc::mount(kind, target.as_ptr(), kind, 0, c"size=1m,mode=700".as_ptr().cast())
        };
        assert_eq!(result, 0, "mounting {}: {}", path.display(), io::Error::last_os_error());
        Self { path: path.to_owned() }
    }

    /// Leaves no room on it.
    ///
    /// # Panics
    ///
    /// When there is room after all.
    pub fn fill(&self) {
        use std::io::Write;
        let mut file = fs::File::create(self.path.join("fill")).expect("a file");
        let full = loop {
            if let Err(error) = file.write_all(&[b'x'; 4096]) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::StorageFull, "{full}");
    }

    /// Makes room again.
    ///
    /// # Panics
    ///
    /// When it was not filled.
    pub fn empty(&self) {
        fs::remove_file(self.path.join("fill")).expect("it was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // SAFETY: the string ends in a zero byte.
        unsafe { libc::umount2(text(&self.path).as_ptr(), libc::MNT_DETACH) };
    }
}
