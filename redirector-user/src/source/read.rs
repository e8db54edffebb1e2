//! The text of one file, read while nobody writes it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use redirector_core::yaml::MAX_FILE_BYTES;

/// A file of which the system does not say whether somebody writes it is read when it
/// has been the same for this long.
pub const UNSETTLED: Duration = Duration::from_millis(100);

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system's answer.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Too large.
    #[error("the file has {bytes} bytes, the limit is {MAX_FILE_BYTES} (128 MiB)")]
    TooLarge {
        /// How large it is, or more than it may be when that is not known.
        bytes: u64,
    },
    /// Somebody is writing it: it is read when it is closed.
    #[error("it is being written")]
    BeingWritten,
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    /// Of what a `stat` said.
    pub fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// When the contents or the inode changed last, in nanoseconds since 1970.
    pub fn changed_at(&self) -> i128 {
        i128::from(self.changed.0) * 1_000_000_000 + i128::from(self.changed.1)
    }
}

/// Reads a file that may be anything that can be read: also a pipe.
pub fn read_any(path: &Path) -> Result<Vec<u8>, ReadError> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory).into());
    }
    read_limited(file, metadata.len())
}

/// Reads to the end, and not beyond the limit.
pub fn read_limited(from: impl Read, expected: u64) -> Result<Vec<u8>, ReadError> {
    if expected > MAX_FILE_BYTES {
        return Err(ReadError::TooLarge { bytes: expected });
    }
    let mut text = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
    from.take(MAX_FILE_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(ReadError::TooLarge { bytes: text.len() as u64 });
    }
    Ok(text)
}

/// Reads a regular file if nobody has it open for writing. With `patient`
/// unset that is not asked: for a file that is held open for ever.
///
/// The process must ignore `SIGIO`: a writer that arrives while the file is
/// being read waits for its end, and the kernel says so by that signal.
pub fn read_settled(path: &Path, patient: bool) -> Result<(Vec<u8>, Fingerprint), ReadError> {
    read_leased(path, patient, Lease::take)
}

fn read_leased(
    path: &Path,
    patient: bool,
    take: impl FnOnce(RawFd) -> Result<Option<Lease>, ReadError>,
) -> Result<(Vec<u8>, Fingerprint), ReadError> {
    // Not to hang on a pipe that took the file's place.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let before = file.metadata()?;
    if !before.is_file() {
        let what = "it is neither a file nor a directory";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what).into());
    }
    let lease = if patient { take(file.as_raw_fd())? } else { None };
    if patient && lease.is_none() && changed_just_now(&before) {
        return Err(ReadError::BeingWritten);
    }
    let text = read_limited(&file, before.len())?;
    let after = file.metadata()?;
    drop(lease);
    let fingerprint = Fingerprint::of(&after);
    if patient && (Fingerprint::of(&before) != fingerprint || text.len() as u64 != after.len()) {
        return Err(ReadError::BeingWritten);
    }
    Ok((text, fingerprint))
}

/// Whether somebody may be in the middle of writing it; of a time to come, too.
fn changed_just_now(metadata: &std::fs::Metadata) -> bool {
    let is_young = |at: SystemTime| at.elapsed().map_or(true, |age| age < UNSETTLED);
    metadata.modified().is_ok_and(is_young)
}

/// A read lease: there is no writer while it is held.
struct Lease(RawFd);

impl Lease {
    fn take(fd: RawFd) -> Result<Option<Self>, ReadError> {
        // SAFETY: `fcntl` with an integer argument touches no memory.
        if unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) } == 0 {
            return Ok(Some(Self(fd)));
        }
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::EAGAIN) => Err(ReadError::BeingWritten),
            // Not on this file system, or not our file and no CAP_LEASE: then its age,
            // and the comparison of before and after, have to do.
            _ => Ok(None),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { libc::fcntl(self.0, libc::F_SETLEASE, libc::F_UNLCK) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_is_read_when_its_writer_has_closed_it() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.yaml");
        let mut writer = File::create(&path).unwrap();
        writer.write_all(b"half").unwrap();
        match read_settled(&path, true) {
            Err(ReadError::BeingWritten) => {}
            // A file system without leases sees a file like any other.
            Ok((text, _)) => assert_eq!(text, b"half"),
            other => panic!("{other:?}"),
        }
        assert_eq!(read_settled(&path, false).unwrap().0, b"half");
        writer.write_all(b" and half").unwrap();
        drop(writer);
        assert_eq!(read_settled(&path, true).unwrap().0, b"half and half");
    }

    #[test]
    fn without_a_lease_a_file_is_read_when_it_has_been_the_same_for_a_while() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.yaml");
        std::fs::write(&path, "half").unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        let hour = Duration::from_secs(3600);
        file.set_modified(SystemTime::now() + hour).unwrap();
        let read = |patient| read_leased(&path, patient, |_| Ok(None));
        assert!(matches!(read(true), Err(ReadError::BeingWritten)));
        assert_eq!(read(false).unwrap().0, b"half", "held open for ever");
        file.set_modified(SystemTime::now() - hour).unwrap();
        assert_eq!(read(true).unwrap().0, b"half");
    }

    #[test]
    fn a_file_beyond_the_limit_is_refused_without_being_read() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("large.yaml");
        File::create(&path).unwrap().set_len(200 << 20).unwrap();
        let error = read_settled(&path, true).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the file has 209715200 bytes, the limit is 134217728 (128 MiB)"
        );
        assert!(matches!(read_any(&path), Err(ReadError::TooLarge { .. })));
    }
}
