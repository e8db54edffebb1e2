//! Network namespaces by path.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};

use rustix::fs::{FileType, FsWord, Mode, OFlags, fstat, fstatfs, open, openat, readlinkat};

use super::Error;

/// Of `statfs(2)`: what a namespace's file lies in.
const NSFS_MAGIC: FsWord = 0x6e73_6673;

/// Of `statfs(2)`.
const PROC_SUPER_MAGIC: FsWord = 0x9fa0;

/// Most links on the way to a file, as the kernel has it.
const LINKS: usize = 40;

/// `SO_NETNS_COOKIE`, minimum kernel 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The cookie of the calling thread's network namespace; `ENOPROTOOPT` on a
/// kernel that does not tell it.
pub fn own_cookie() -> io::Result<u64> {
    cookie_of(&std::net::UdpSocket::bind("0.0.0.0:0")?)
}

/// Lets go of the sockets of other network namespaces than the calling thread's: their
/// addresses are others, however alike they look.
///
/// # Errors
///
/// The namespace cannot be told: then none is let go of.
pub fn keep_own(sockets: &mut Vec<OwnedFd>) -> io::Result<()> {
    if sockets.is_empty() {
        return Ok(());
    }
    let own = own_cookie()?;
    sockets.retain(|socket| cookie_of(socket).is_ok_and(|cookie| cookie == own));
    Ok(())
}

/// The cookie of the network namespace that a socket is of.
fn cookie_of(socket: &impl AsRawFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut size = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the buffer is as large as `size` says.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut size,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Why a file that is to hold a network namespace was not opened.
#[derive(Debug)]
pub enum NotOpened {
    /// There is none.
    Gone,
    /// It is something else, or somebody else has a hand in what it is.
    Refused(String),
    /// The system does not tell, at the moment.
    Unknown(io::Error),
}

impl From<rustix::io::Errno> for NotOpened {
    fn from(error: rustix::io::Errno) -> Self {
        use rustix::io::Errno;
        match error {
            Errno::NOENT | Errno::NOTDIR => Self::Gone,
            error => Self::Unknown(error.into()),
        }
    }
}

/// An open network namespace.
#[derive(Debug)]
pub struct Netns(File);

impl Netns {
    /// Opens the namespace that a document names. Nobody but root has a hand in which
    /// one that is, and nothing on the way can make the caller wait: each directory is
    /// root's, links are followed only where root has made them, and the file is
    /// opened only when it is known to be a namespace's.
    ///
    /// # Errors
    ///
    /// Whether it is gone, is not to be trusted, or cannot be told.
    pub fn trusted(path: &Path) -> Result<Self, NotOpened> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = || open("/", flags | OFlags::DIRECTORY, Mode::empty());
        let refused = |why: String| Err(NotOpened::Refused(why));
        if !path.is_absolute() {
            return refused("its path does not begin with /".to_owned());
        }
        let mut at = root()?;
        let mut rest = names(path);
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            let next = openat(&at, &name, flags, Mode::empty())?;
            let stat = fstat(&next)?;
            let in_proc = fstatfs(&next)?.f_type == PROC_SUPER_MAGIC;
            match FileType::from_raw_mode(stat.st_mode) {
                // Processes and their owners come and go; the kernel says what is there.
                FileType::Directory if in_proc || stat.st_uid == 0 => at = next,
                FileType::Directory => {
                    let (name, user) = (name.display(), stat.st_uid);
                    return refused(format!("its directory {name} belongs to user {user}"));
                }
                // /proc/PID/ns/net names what it leads to, and has no path.
                FileType::Symlink if in_proc && rest.is_empty() => {
                    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                    return Self::checked(openat(&at, &name, flags, Mode::empty())?);
                }
                FileType::Symlink if in_proc && name != "self" && name != "thread-self" => {
                    return refused("it lies where another process says".to_owned());
                }
                FileType::Symlink if stat.st_uid != 0 => {
                    let (name, user) = (name.display(), stat.st_uid);
                    return refused(format!("{name} is a link of user {user}"));
                }
                FileType::Symlink => {
                    links += 1;
                    if links > LINKS {
                        return refused("too many links lead to each other".to_owned());
                    }
                    let to = readlinkat(&next, "", Vec::new())?;
                    let to = OsString::from_vec(to.into_bytes());
                    if Path::new(&to).is_absolute() {
                        at = root()?;
                    }
                    for name in names(Path::new(&to)).into_iter().rev() {
                        rest.push_front(name);
                    }
                }
                _ if !rest.is_empty() => return Err(NotOpened::Gone),
                _ if fstatfs(&next)?.f_type != NSFS_MAGIC => {
                    return refused("no namespace is mounted there".to_owned());
                }
                _ => {
                    let again = format!("/proc/self/fd/{}", next.as_raw_fd());
                    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                    return Self::checked(open(again, flags, Mode::empty())?);
                }
            }
        }
        refused("it is a directory".to_owned())
    }

    fn checked(file: OwnedFd) -> Result<Self, NotOpened> {
        match fstatfs(&file)?.f_type {
            NSFS_MAGIC => Ok(Self(file.into())),
            _ => Err(NotOpened::Refused("it is no namespace".to_owned())),
        }
    }

    /// What tells it from another one, earlier or later: device, inode, and when it was
    /// made.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn key(&self) -> io::Result<(u64, u64, i64, i64)> {
        let metadata = self.0.metadata()?;
        Ok((metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
    }

    /// Its cookie: what the programs see.
    ///
    /// A thread of its own enters the namespace, so that no other notices. Needs
    /// CAP_SYS_ADMIN.
    ///
    /// # Errors
    ///
    /// `EINVAL` when it is a namespace of another kind; `ENOPROTOOPT` on a kernel that
    /// does not tell it; else what has run out.
    pub fn cookie(self) -> io::Result<u64> {
        let enter = move || -> io::Result<u64> {
            // SAFETY: the descriptor is open; only this thread changes its namespace.
            if unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            own_cookie()
        };
        let entered = std::thread::Builder::new().spawn(enter)?.join();
        entered.unwrap_or_else(|_| Err(io::Error::other("the thread that entered it died")))
    }
}

/// The names on the way to a file.
fn names(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    names.collect()
}

/// The cookie of the network namespace that a file holds, such as
/// `/run/netns/NAME` or `/proc/PID/ns/net`: what the programs see. For a path that the
/// caller has made up himself.
///
/// # Errors
///
/// When there is none, or it may not be entered.
pub fn netns_cookie(path: &Path) -> Result<u64, Error> {
    let what = || format!("reading the network namespace {}", path.display());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::empty()).map_err(|error| match error {
        rustix::io::Errno::NOENT => Error::Path {
            path: path.to_owned(),
            problem: "there is no such network namespace".into(),
            help: "Name a file that holds one, such as /run/netns/NAME (`ip netns list`) or \
                   /proc/PID/ns/net"
                .into(),
        },
        _ => Error::from_io(what(), error.into()),
    })?;
    Netns(file.into()).cookie().map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => Error::Path {
            path: path.to_owned(),
            problem: "this file holds no network namespace".into(),
            help: "Name a file such as /run/netns/NAME or /proc/PID/ns/net".into(),
        },
        Some(libc::ENOPROTOOPT) => Error::Kernel {
            what: what(),
            missing: "this kernel does not tell a network namespace's cookie".into(),
            help: "It takes a kernel of at least 5.14; 6.1 is the oldest that is supported".into(),
        },
        _ => Error::from_io(what(), error),
    })
}
