//! The pin directory: what lies where, and who may write.
//!
//! ```text
//! PINS/                    locked by the daemon in charge
//!   current                a link to the tables in force
//!   tables-VERSION-HASH/   the lookup tables, by map name
//!     programs-HASH/       the programs that use them
//!       memory             a link to the memory that they use
//!   memory-VERSION-SIZE/   connection memory
//!   counts-VERSION/        what is counted of destinations and endpoints
//!   flows-VERSION/         what is told of connections
//!   links/CGROUP/PROGRAM   what is attached; with the version of its memory
//!                          where that is all that it deals with
//! ```
//!
//! Everything is made under a name that starts with `new-` and renamed when it
//! is whole; whatever has such a name is left over from a crash.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Error;
use super::layout::{Part, TABLES};
use crate::shell::quoted;

/// Of `statfs(2)`.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// As [`file_system`] says it.
const BPFFS: Option<i64> = Some(BPF_FS_MAGIC);

const CURRENT: &str = "current";
const LINKS: &str = "links";
const USED_MEMORY: &str = "memory";

/// How names of unfinished directories start.
pub const UNFINISHED: &str = "new-";

/// How directories of programs start.
pub const PROGRAMS: &str = "programs-";

/// The type of the file system that an open file lies in.
pub fn file_system(file: &File) -> Option<i64> {
    // SAFETY: all zeroes are a value of the structure.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open and the structure writable.
    let result = unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut stat) };
    #[allow(clippy::unnecessary_cast, reason = "the field's type differs between libcs")]
    (result == 0).then_some(stat.f_type as i64)
}

/// A pin directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// The pin directory at a path, which is made when it is absent.
    pub fn create(root: &Path) -> Result<Self, Error> {
        // What exists must lie in a bpffs, before anything is made in it.
        let mut existing = root;
        while !existing.exists() {
            existing = existing.parent().unwrap_or(Path::new("/"));
        }
        check_file_system(root, existing)?;
        let pins = Self { root: root.to_owned() };
        pins.make(&pins.links())?;
        pins.check_owners()?;
        Ok(pins)
    }

    /// The pin directory at a path; `NotLoaded` when it is absent.
    pub fn open(root: &Path) -> Result<Self, Error> {
        match root.try_exists() {
            Ok(true) => {}
            Ok(false) => return Err(Error::NotLoaded { pins: root.to_owned() }),
            Err(source) => return Err(hidden(root, source)),
        }
        check_file_system(root, root)?;
        let pins = Self { root: root.to_owned() };
        // A mount point of its own is there whatever is in it.
        if pins.own_names()?.is_empty() {
            return Err(Error::NotLoaded { pins: root.to_owned() });
        }
        pins.check_owners()?;
        Ok(pins)
    }

    /// Refuses what others have made, or could put in place of what is made here: who
    /// owns a directory removes the pins in it, and so detaches everything.
    fn check_owners(&self) -> Result<(), Error> {
        // What others have pinned around ours is none of what may be removed.
        let wrong = |path: &Path, problem: String, mend: &str| {
            let remedy = match path == self.root || !self.root.starts_with(path) {
                true => format!("Remove it as root (rm -r {})", quoted(path)),
                false => format!("Mend that as root ({mend} {})", quoted(path)),
            };
            Error::Path {
                path: path.to_owned(),
                problem,
                help: format!(
                    "{remedy} and start again, or name another pin directory with --bpffs, on a \
                     bpffs that is mounted with mode=0700"
                ),
            }
        };
        let own = rustix::process::geteuid().as_raw();
        let is_bpffs = |path: &&Path| File::open(path).is_ok_and(|f| file_system(&f) == BPFFS);
        let directories = self.root.ancestors().take_while(is_bpffs).map(Path::to_owned);
        let made = self.own_names()?.into_iter().map(|name| self.join(&name));
        for path in directories.chain(made) {
            let meta = match fs::symlink_metadata(&path) {
                // Whoever is in charge has removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                meta => meta.map_err(|error| {
                    Error::from_io(format!("reading {}", path.display()), error)
                })?,
            };
            if ![0, own].contains(&meta.uid()) {
                let user = meta.uid();
                let problem = format!("it belongs to user {user}, who could undo it");
                return Err(wrong(&path, problem, "chown 0:0"));
            }
            // In one that is sticky, nobody removes what is another's.
            let open_to_all = meta.mode() & libc::S_IWOTH != 0 && meta.mode() & libc::S_ISVTX == 0;
            if meta.is_dir() && open_to_all {
                let problem = "everybody may remove what is in it".to_owned();
                return Err(wrong(&path, problem, "chmod go-w"));
            }
        }
        Ok(())
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A directory in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The directory of the links.
    pub fn links(&self) -> PathBuf {
        self.root.join(LINKS)
    }

    /// Makes a directory and those above it.
    pub fn make(&self, directory: &Path) -> Result<(), Error> {
        fs::create_dir_all(directory)
            .map_err(|error| Error::from_io(format!("making {}", directory.display()), error))
    }

    /// The names in a directory; none when it does not exist.
    pub fn names(&self, directory: &Path) -> Result<Vec<String>, Error> {
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries,
        };
        let names = entries.and_then(|entries| {
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        });
        names.map_err(|error| Error::from_io(format!("reading {}", directory.display()), error))
    }

    /// The names in it that are made here: what else lies there is somebody else's,
    /// as in the directory where a bpffs is mounted.
    fn own_names(&self) -> Result<Vec<String>, Error> {
        let mut names = self.names(&self.root)?;
        names.retain(|name| {
            [CURRENT, LINKS].contains(&name.as_str())
                || name.starts_with(UNFINISHED)
                || Part::ALL.iter().any(|part| name.starts_with(part.prefix()))
        });
        Ok(names)
    }

    /// Removes everything that is made here, and the directory when nothing else is
    /// in it and nothing is mounted on it.
    pub fn remove_all(&self) -> Result<(), Error> {
        for name in self.own_names()? {
            let path = self.join(&name);
            if path.is_symlink() { self.unpin(&path)? } else { self.remove(&path)? }
        }
        let kept = [io::ErrorKind::DirectoryNotEmpty, io::ErrorKind::ResourceBusy];
        match fs::remove_dir(&self.root) {
            Err(error) if !kept.contains(&error.kind()) => {
                Err(Error::from_io(format!("removing {}", self.root.display()), error))
            }
            _ => Ok(()),
        }
    }

    /// Removes a directory with all that is pinned in it.
    pub fn remove(&self, directory: &Path) -> Result<(), Error> {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::from_io(format!("removing {}", directory.display()), error))
            }
            _ => Ok(()),
        }
    }

    /// Gives a finished directory its name.
    pub fn publish(&self, unfinished: &Path, finished: &Path) -> Result<(), Error> {
        fs::rename(unfinished, finished)
            .map_err(|error| Error::from_io(format!("making {}", finished.display()), error))
    }

    /// The directory of the tables in force.
    pub fn current(&self) -> Result<Option<PathBuf>, Error> {
        match fs::read_link(self.join(CURRENT)) {
            Ok(name) => Ok(Some(self.root.join(name))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                Err(Error::from_io(format!("reading {}", self.join(CURRENT).display()), error))
            }
        }
    }

    /// Removes a pin; fine when it is not there. What only it held ends.
    pub fn unpin(&self, pin: &Path) -> Result<(), Error> {
        match fs::remove_file(pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::from_io(format!("removing {}", pin.display()), error))
            }
            _ => Ok(()),
        }
    }

    /// Says which connection memory the programs of a directory use.
    pub fn set_memory(&self, programs: &Path, memory: &Path) -> Result<(), Error> {
        self.link(Path::new(memory.file_name().unwrap_or_default()), &programs.join(USED_MEMORY))
    }

    /// Makes a symbolic link; fine when there is one.
    pub fn link(&self, to: &Path, link: &Path) -> Result<(), Error> {
        match symlink(to, link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(Error::from_io(format!("writing {}", link.display()), error))
            }
            _ => Ok(()),
        }
    }

    /// The connection memory that the programs of a directory use.
    pub fn memory(&self, programs: &Path) -> Option<PathBuf> {
        Some(self.root.join(fs::read_link(programs.join(USED_MEMORY)).ok()?))
    }

    /// The directories whose names start so, but for this one.
    pub fn others(&self, prefix: &str, but: &Path) -> Result<Vec<String>, Error> {
        let mut names = self.names(&self.root)?;
        names.retain(|name| name.starts_with(prefix) && self.join(name) != but);
        Ok(names)
    }

    /// Names the directory of the tables in force, and removes all others.
    pub fn set_current(&self, tables: &Path) -> Result<(), Error> {
        let what = || format!("writing {}", self.join(CURRENT).display());
        let name = tables.file_name().unwrap_or_default();
        if self.current()?.as_deref() != Some(tables) {
            let unfinished = self.join(&format!("{UNFINISHED}{CURRENT}"));
            let _ = fs::remove_file(&unfinished);
            symlink(name, &unfinished)
                .and_then(|()| fs::rename(&unfinished, self.join(CURRENT)))
                .map_err(|error| Error::from_io(what(), error))?;
        }
        for other in self.others(TABLES, tables)? {
            self.remove(&self.join(&other))?;
        }
        Ok(())
    }

    /// Removes what a crash left unfinished, and says what that was. Only for who
    /// holds the lock.
    pub fn sweep(&self) -> Result<Vec<String>, Error> {
        let mut found = Vec::new();
        for name in self.names(&self.root)? {
            if name.starts_with(UNFINISHED) {
                let path = self.join(&name);
                if path.is_symlink() {
                    let _ = fs::remove_file(&path);
                } else {
                    self.remove(&path)?;
                }
                found.push(format!("{}: it was left half made", path.display()));
            }
        }
        Ok(found)
    }

    /// Takes the lock of the one writer.
    pub fn lock(&self) -> Result<Lock, Error> {
        let file = File::open(&self.root)
            .map_err(|error| Error::from_io(format!("opening {}", self.root.display()), error))?;
        let begun = Instant::now();
        let error = loop {
            // SAFETY: the descriptor is open.
            if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
                return Ok(Lock(file));
            }
            let error = io::Error::last_os_error();
            // A probe of one that was killed may live a moment longer; the lock of
            // a process that is gone is in no list.
            let is_left_over = error.raw_os_error() == Some(libc::EWOULDBLOCK)
                && holder_pid(&file).is_none_or(|pid| !Path::new("/proc").join(pid).exists());
            if !is_left_over || begun.elapsed() > LEFTOVERS {
                break error;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        if error.raw_os_error() == Some(libc::EWOULDBLOCK) {
            return Err(Error::Busy { pins: self.root.clone(), holder: holder(&file) });
        }
        Err(Error::from_io(format!("locking {}", self.root.display()), error))
    }
}

/// The right to write, until it is dropped or its process ends.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Whether it is of the directory that is at this path now: not when that was
    /// removed, or something was mounted or unmounted there.
    pub fn is_of(&self, root: &Path) -> bool {
        let key = |meta: fs::Metadata| (meta.dev(), meta.ino());
        let there = fs::metadata(root).map(key).ok();
        there.is_some() && self.0.metadata().map(key).ok() == there
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing would not do while a child process has a copy of the
        // descriptor.
        // SAFETY: the descriptor is open.
        unsafe { libc::flock(self.0.as_raw_fd(), libc::LOCK_UN) };
    }
}

/// Why it is not known what lies there.
fn hidden(path: &Path, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::PermissionDenied => Error::Hidden { pins: path.to_owned(), source },
        _ => Error::from_io(format!("opening {}", path.display()), source),
    }
}

fn check_file_system(root: &Path, existing: &Path) -> Result<(), Error> {
    let file = File::open(existing).map_err(|error| hidden(existing, error))?;
    if file_system(&file) == BPFFS {
        return Ok(());
    }
    Err(Error::Path {
        path: root.to_owned(),
        problem: "no BPF file system is mounted there".into(),
        help: "Mount one (`mount -t bpf -o mode=0700 bpf /sys/fs/bpf`), or name a pin directory below one"
            .into(),
    })
}

/// How long what a killed process leaves behind may live.
const LEFTOVERS: Duration = Duration::from_secs(2);

/// The process that took the lock of a file, as far as /proc tells.
fn holder_pid(file: &File) -> Option<String> {
    let meta = file.metadata().ok()?;
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let inode =
        format!("{:02x}:{:02x}:{}", libc::major(meta.dev()), libc::minor(meta.dev()), meta.ino());
    // "1: FLOCK  ADVISORY  WRITE 4242 00:2d:17 0 EOF"
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(4);
        let pid = fields.next()?;
        (fields.next()? == inode).then(|| pid.to_owned())
    })
}

/// Who holds the lock of a file, as far as /proc tells.
fn holder(file: &File) -> String {
    let Some(pid) = holder_pid(file) else {
        return "a process that /proc does not show".to_owned();
    };
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("process {pid} ({})", name.trim()),
        Err(_) => format!("process {pid}"),
    }
}
