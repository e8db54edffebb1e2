//! Directories whose entries are followed: a thin layer over inotify.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

/// The directories that are watched.
#[derive(Debug)]
pub struct Watches {
    inotify: Arc<OwnedFd>,
    /// Which directories each watch stands for: one may have several names.
    names: BTreeMap<i32, BTreeSet<PathBuf>>,
    complained: bool,
}

/// What happened since the last time.
#[derive(Debug, Default)]
pub struct Happened {
    /// Whether anything did.
    pub anything: bool,
    /// The entries that it happened to, as far as they were named.
    pub paths: BTreeSet<PathBuf>,
    /// It happened to directories, too, or to what was not named or is not there any more.
    pub to_directories: bool,
    /// Events were lost: anything may have happened anywhere.
    pub overflow: bool,
}

impl Watches {
    /// Watches nothing yet.
    pub fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { inotify: Arc::new(inotify), names: BTreeMap::new(), complained: false })
    }

    /// To be polled: readable when something happened.
    pub fn fd(&self) -> Arc<OwnedFd> {
        self.inotify.clone()
    }

    /// Watches these directories and no others. Returns whether any is new:
    /// what happened there before caused no event.
    pub fn set<'d>(&mut self, directories: impl IntoIterator<Item = &'d PathBuf>) -> bool {
        let flags = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVE
            | WatchFlags::DELETE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let mut names: BTreeMap<i32, BTreeSet<PathBuf>> = BTreeMap::new();
        for directory in directories {
            match inotify::add_watch(&self.inotify, directory, flags) {
                Ok(watch) => {
                    names.entry(watch).or_default().insert(directory.clone());
                }
                // Whoever wants to look into it finds out.
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {}
                Err(error) => {
                    if !std::mem::replace(&mut self.complained, true) {
                        tracing::warn!(
                            directory = %directory.display(), %error,
                            "cannot watch it; changes are seen by the periodic look only \
                             (see fs.inotify.max_user_watches)"
                        );
                    }
                }
            }
        }
        let new = names.keys().any(|watch| !self.names.contains_key(watch));
        for watch in self.names.keys().filter(|watch| !names.contains_key(watch)) {
            // Fails when the directory is gone, and its watch with it.
            let _ = inotify::remove_watch(&self.inotify, *watch);
        }
        self.names = names;
        new
    }

    /// Takes all events that are there.
    pub fn drain(&self) -> Happened {
        let mut buffer = [MaybeUninit::uninit(); 8 << 10];
        let mut happened = Happened::default();
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = reader.next() {
            happened.anything = true;
            happened.overflow |= event.events().contains(ReadFlags::QUEUE_OVERFLOW);
            let names = self.names.get(&event.wd());
            let flags = event.events();
            // That a watch has ended is news where it was not ended here.
            let is_news = names.is_some() || !flags.contains(ReadFlags::IGNORED);
            let (Some(names), Some(name)) = (names, event.file_name()) else {
                happened.to_directories |= is_news;
                continue;
            };
            // What was written by a name that is gone may have other names.
            happened.to_directories |= flags.intersects(ReadFlags::ISDIR | ReadFlags::DELETE);
            let name = OsStr::from_bytes(name.to_bytes());
            happened.paths.extend(names.iter().map(|directory| directory.join(name)));
        }
        happened
    }
}
