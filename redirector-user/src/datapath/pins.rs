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

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Error;
use super::error::says_gone;
use super::layout::{MEMORY, Part, TABLES};
use crate::mounts;
use crate::readers::{May, Readers, admit};
use crate::shell::quoted;

/// Of `statfs(2)`.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

const CURRENT: &str = "current";
const LINKS: &str = "links";
const USED_MEMORY: &str = "memory";

/// How names of unfinished directories start.
pub const UNFINISHED: &str = "new-";

/// How directories of programs start.
pub const PROGRAMS: &str = "programs-";

/// The type of the file system that an open file lies in.
///
/// # Errors
///
/// When the system does not tell.
pub fn file_system(file: &File) -> io::Result<i64> {
    // SAFETY: all zeroes are a value of the structure.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open and the structure writable.
    let result = unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut stat) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    #[allow(clippy::unnecessary_cast, reason = "the field's type differs between libcs")]
    Ok(stat.f_type as i64)
}

/// A pin directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pins {
    root: PathBuf,
    /// Who else may look, as far as that is this process's to say.
    readers: Option<Readers>,
}

impl Pins {
    /// The pin directory at a path, which is made when it is absent. These readers see
    /// what is made in it, and with [`admit_readers`](Self::admit_readers) what is there.
    pub fn create(root: &Path, readers: Option<Readers>) -> Result<Self, Error> {
        // What exists must lie in a bpffs, before anything is made in it.
        let mut existing = root;
        while !existing.exists() {
            existing = existing.parent().unwrap_or(Path::new("/"));
        }
        check_file_system(root, existing)?;
        let pins = Self { root: root.to_owned(), readers };
        let links = pins.links();
        fs::create_dir_all(&links)
            .map_err(|error| Error::from_io(format!("making {}", links.display()), error))?;
        pins.check_owners()?;
        Ok(pins)
    }

    /// The pin directory at a path; `NotLoaded` when it is absent.
    pub fn open(root: &Path) -> Result<Self, Error> {
        match root.try_exists() {
            Ok(true) => {}
            Ok(false) => return Err(Error::NotLoaded { pins: root.to_owned() }),
            Err(source) => return Err(unseen(root, source)),
        }
        check_file_system(root, root)?;
        let pins = Self { root: root.to_owned(), readers: None };
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
        let directories = self.on_bpffs().map(Path::to_owned);
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

    /// The directory, and those above it on its file system.
    fn on_bpffs(&self) -> impl Iterator<Item = &Path> {
        let is_bpffs = |path: &&Path| {
            let found = look_at(path).and_then(|file| file_system(&file));
            found.is_ok_and(|found| found == BPF_FS_MAGIC)
        };
        self.root.ancestors().take_while(is_bpffs)
    }

    /// Has the readers see all that is made here, and pass through the directories above;
    /// those that were let in before and are none now see nothing. Only for who holds the
    /// lock.
    pub fn admit_readers(&self) -> Result<(), Error> {
        if Readers::of(&self.root) != self.readers {
            self.shut_out()?;
        }
        for name in self.own_names()? {
            self.admit(&self.join(&name))?;
        }
        // Who could open it could hold its lock.
        let mut directories = self.on_bpffs();
        directories.next().map_or(Ok(()), |root| self.let_pass(root))?;
        if self.readers.is_some() {
            directories.try_for_each(|above| self.let_pass_above(above))?;
        }
        Ok(())
    }

    fn let_pass(&self, directory: &Path) -> Result<(), Error> {
        admit(directory, self.readers, May::Pass).map_err(|error| not_given(directory, &error))
    }

    /// Has the readers pass through a directory that is not made here. One whose owner lets
    /// others in, or has given it to a group, stays as it is.
    fn let_pass_above(&self, above: &Path) -> Result<(), Error> {
        let failed = |error: io::Error| not_given(above, &error);
        let meta = fs::metadata(above).map_err(failed)?;
        let passes = meta.mode() & libc::S_IXGRP != 0 && Readers::of(above) == self.readers;
        if passes || meta.mode() & libc::S_IXOTH != 0 {
            return Ok(());
        }
        let own = rustix::process::getegid().as_raw();
        if meta.gid() == own && meta.mode() & (libc::S_IRWXG | libc::S_ISVTX) == 0 {
            return self.let_pass(above);
        }
        let (group, mode) = (meta.gid(), meta.mode() & 0o7777);
        let directory = quoted(above);
        Err(Error::Path {
            path: above.to_owned(),
            problem: format!(
                "the group of --read-group cannot pass through it, and it is given to others \
                 already (group {group}, mode {mode:04o})"
            ),
            help: format!(
                "Let everybody pass through it (chmod o+x {directory}), which shows nothing of \
                 what is in it, or give it to that group (chgrp GROUP {directory} && chmod g+x \
                 {directory}), or name another pin directory with --bpffs"
            ),
        })
    }

    /// Has the readers see something that is made here, with all that is in it.
    pub fn admit(&self, path: &Path) -> Result<(), Error> {
        let failed = |error: io::Error| not_given(path, &error);
        let is_directory = fs::symlink_metadata(path).map_err(failed)?.is_dir();
        // Of what is pinned, only maps can be opened for reading alone: whoever can open a
        // link can detach it, and whoever can open a program can attach it.
        let may = match is_directory || holds_maps(path.parent()) {
            true => May::Read,
            false => May::Nothing,
        };
        if is_directory {
            for name in self.names(path)? {
                self.admit(&path.join(name))?;
            }
        }
        admit(path, self.readers, may).map_err(failed)
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
            .map_err(|error| Error::from_io(format!("making {}", directory.display()), error))?;
        let below = directory.ancestors().take_while(|path| *path != self.root);
        below.filter(|path| path.starts_with(&self.root)).try_for_each(|path| {
            admit(path, self.readers, May::Read).map_err(|error| not_given(path, &error))
        })
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

    /// All names in it; for a reader, who may not list it, those that can be known.
    fn all_names(&self) -> Result<Vec<String>, Error> {
        match self.names(&self.root) {
            Err(Error::Privilege { source, .. }) => self.known_names(source),
            names => names,
        }
    }

    /// What lies in it, by what leads there: the tables in force, and the memory of links,
    /// which every memory with connections has.
    fn known_names(&self, refused: io::Error) -> Result<Vec<String>, Error> {
        let links = match fs::read_dir(self.links()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::hidden(&self.root, refused));
            }
            links => links.into_iter().flatten().flatten(),
        };
        let mut names: BTreeSet<String> = links
            .flat_map(|place| self.names(&place.path()).unwrap_or_default())
            .filter_map(|name| Some(format!("{MEMORY}{}", name.split_once('-')?.1)))
            .collect();
        names.extend([CURRENT, LINKS].map(str::to_owned));
        names.extend(Part::SHARED.map(Part::of_version));
        let current = self.current()?;
        names.extend(current.iter().filter_map(|path| file_name(path)));
        for name in current.iter().flat_map(|tables| self.names(tables).unwrap_or_default()) {
            let Some(tables) = &current else { continue };
            let memory = self.memory(&tables.join(name))?;
            names.extend(memory.as_deref().and_then(file_name));
        }
        names.retain(|name| fs::symlink_metadata(self.join(name)).is_ok());
        Ok(names.into_iter().collect())
    }

    /// The names in it that are made here: what else lies there is somebody else's,
    /// as in the directory where a bpffs is mounted.
    fn own_names(&self) -> Result<Vec<String>, Error> {
        let mut names = self.all_names()?;
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
        self.shut_out()?;
        let kept = [io::ErrorKind::DirectoryNotEmpty, io::ErrorKind::ResourceBusy];
        match fs::remove_dir(&self.root) {
            Err(error) if !kept.contains(&error.kind()) => {
                Err(Error::from_io(format!("removing {}", self.root.display()), error))
            }
            _ => Ok(()),
        }
    }

    /// Takes back that readers may pass through the directories above.
    fn shut_out(&self) -> Result<(), Error> {
        let Some(readers) = Readers::of(&self.root) else { return Ok(()) };
        let is_needed = |above: &Path| {
            let entries = fs::read_dir(above).into_iter().flatten().flatten();
            let mut others = entries.map(|entry| entry.path());
            others.any(|path| !self.root.starts_with(&path) && Readers::of(&path) == Some(readers))
        };
        let is_let_pass = |above: &&Path| Readers::let_pass(above) == Some(readers);
        for above in self.on_bpffs().skip(1).filter(is_let_pass) {
            // Another pin directory of ours lies there, with the same readers.
            if is_needed(above) {
                break;
            }
            admit(above, None, May::Pass).map_err(|error| not_given(above, &error))?;
        }
        Ok(())
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
        self.admit(unfinished)?;
        fs::rename(unfinished, finished)
            .map_err(|error| Error::from_io(format!("making {}", finished.display()), error))
    }

    /// The directory of the tables in force.
    pub fn current(&self) -> Result<Option<PathBuf>, Error> {
        Ok(leads_to(&self.join(CURRENT))?.map(|name| self.root.join(name)))
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
    pub fn memory(&self, programs: &Path) -> Result<Option<PathBuf>, Error> {
        Ok(leads_to(&programs.join(USED_MEMORY))?.map(|name| self.root.join(name)))
    }

    /// The directories whose names start so, but for this one.
    pub fn others(&self, prefix: &str, but: &Path) -> Result<Vec<String>, Error> {
        let mut names = self.all_names()?;
        names.retain(|name| name.starts_with(prefix) && self.join(name) != but);
        Ok(names)
    }

    /// Names the directory of the tables in force.
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
        Ok(())
    }

    /// Removes all tables but these.
    pub fn remove_other_tables(&self, tables: &Path) -> Result<(), Error> {
        self.others(TABLES, tables)?.iter().try_for_each(|other| self.remove(&self.join(other)))
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

/// Where a symbolic link leads to; nowhere when there is none.
pub fn leads_to(link: &Path) -> Result<Option<PathBuf>, Error> {
    match fs::read_link(link) {
        Ok(to) => Ok(Some(to)),
        Err(error) if says_gone(&error) => Ok(None),
        Err(error) => Err(Error::from_io(format!("reading {}", link.display()), error)),
    }
}

fn file_name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_string_lossy().into_owned())
}

/// Whether only maps are pinned in a directory, be it finished or not.
fn holds_maps(directory: Option<&Path>) -> bool {
    let name = directory.and_then(file_name).unwrap_or_default();
    let name = name.strip_prefix(UNFINISHED).unwrap_or(&name);
    Part::ALL.iter().any(|part| name.starts_with(part.prefix()))
}

/// Why readers are not let in.
fn not_given(path: &Path, error: &io::Error) -> Error {
    Error::Path {
        path: path.to_owned(),
        problem: format!("it cannot be given to the group of --read-group: {error}"),
        help: "That takes CAP_CHOWN, or a daemon that is a member of that group".into(),
    }
}

/// Why it is not known what lies there.
fn unseen(path: &Path, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::PermissionDenied => Error::hidden(path, source),
        _ => Error::from_io(format!("opening {}", path.display()), source),
    }
}

/// Opens a directory only to ask where it lies, which takes no permission of its own.
fn look_at(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_PATH).open(path)
}

fn check_file_system(root: &Path, existing: &Path) -> Result<(), Error> {
    let found = look_at(existing).and_then(|file| file_system(&file));
    if found.map_err(|error| unseen(existing, error))? == BPF_FS_MAGIC {
        return Ok(());
    }
    Err(Error::Path {
        path: root.to_owned(),
        problem: "no BPF file system is mounted there".into(),
        help: format!("To mend it, {}", mounts::bpffs_remedy(root)),
    })
}

/// How long what a killed process leaves behind may live.
const LEFTOVERS: Duration = Duration::from_secs(2);

/// The process that is in charge of what is pinned there, as far as that can be told.
pub fn in_charge(root: &Path) -> Option<u32> {
    holder_pid(&File::open(root).ok()?)?.parse().ok()
}

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
