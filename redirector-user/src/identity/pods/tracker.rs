//! What pods' cgroups there are, and which come and go.
//!
//! inotify on a cgroup2 directory reports what is made and removed in it, also
//! through another mount or another cgroup namespace. A directory is watched
//! before it is read, so that nothing made in between is missed; what comes
//! twice that way is dropped. When the kernel's queue overflows everything is
//! read again.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::layout::{Directory, PodUid, classify};
use super::trees::subdirectories;
use crate::datapath::says_gone;

/// How far below a root other directories than the kubelet's are followed.
const MAX_DEPTH: usize = 6;

/// A pod's cgroup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodCgroup {
    /// Whose it is.
    pub uid: PodUid,
    /// Its directory.
    pub path: PathBuf,
    /// Its id: the inode number of the directory, unique while the machine is
    /// up.
    pub id: u64,
    /// Levels below the root of the hierarchy.
    pub level: u32,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PodEvent {
    /// A cgroup is there. Its pod may have several (one for each container,
    /// with containerd's odd layout).
    Appeared(PodCgroup),
    /// A cgroup is gone.
    Gone(PodCgroup),
}

/// The cgroups of pods below some roots.
#[derive(Debug)]
pub struct PodCgroups {
    mount: PathBuf,
    /// The level of the mount's directory in the hierarchy.
    base: u32,
    roots: Vec<PathBuf>,
    inotify: OwnedFd,
    watched: HashMap<i32, PathBuf>,
    known: BTreeMap<PathBuf, PodCgroup>,
}

impl PodCgroups {
    /// Starts to watch the directories `roots` below the cgroup2 mount `mount`,
    /// whose directory is at the level `base`: zero where the whole hierarchy is
    /// mounted.
    /// What is there already is what the first [`rescan`](Self::rescan) gives.
    ///
    /// # Errors
    /// When the kernel gives no inotify instance
    /// (`fs.inotify.max_user_instances`).
    pub fn new(mount: &Path, base: u32, roots: &[PathBuf]) -> io::Result<Self> {
        let inotify =
            inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(|errno| {
                let hint = match errno {
                    Errno::MFILE => ": raise the sysctl fs.inotify.max_user_instances",
                    _ => "",
                };
                io::Error::new(io::Error::from(errno).kind(), format!("inotify: {errno}{hint}"))
            })?;
        Ok(Self {
            mount: mount.to_owned(),
            base,
            roots: roots.to_vec(),
            inotify,
            watched: HashMap::new(),
            known: BTreeMap::new(),
        })
    }

    /// The cgroups that are known.
    pub fn known(&self) -> impl Iterator<Item = &PodCgroup> {
        self.known.values()
    }

    /// Reads everything anew and says what differs from what was known.
    ///
    /// # Errors
    /// When a directory cannot be watched; `fs.inotify.max_user_watches` is
    /// named where that is why. It is the first of several; all else was read.
    pub fn rescan(&mut self, events: &mut Vec<PodEvent>) -> io::Result<()> {
        let gone: Vec<PathBuf> = (self.known.iter())
            .filter(|(path, pod)| is_gone(path, pod.id))
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            self.forget(&path, events);
        }
        let mut result = Ok(());
        for root in self.roots.clone() {
            result = result.and(self.enter(&root, 0, events));
        }
        result
    }

    /// What happened since the last call, without waiting: call it when
    /// [`as_fd`](AsFd::as_fd) is readable.
    ///
    /// # Errors
    /// As [`rescan`](Self::rescan), which finds what could not be looked at.
    pub fn read(&mut self, events: &mut Vec<PodEvent>) -> io::Result<()> {
        let mut seen = Vec::new();
        let mut result = Ok(());
        let mut overflow = false;
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    overflow |= event.events().contains(ReadFlags::QUEUE_OVERFLOW);
                    let name = event.file_name().map(|name| {
                        use std::os::unix::ffi::OsStrExt;
                        std::ffi::OsStr::from_bytes(name.to_bytes()).to_owned()
                    });
                    seen.push((event.wd(), event.events(), name));
                }
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => break,
                Err(errno) => {
                    result = Err(errno.into());
                    break;
                }
            }
        }
        for (watch, flags, name) in seen {
            if flags.contains(ReadFlags::IGNORED) {
                self.watched.remove(&watch);
                continue;
            }
            let (Some(directory), Some(name)) = (self.watched.get(&watch), name) else { continue };
            let path = directory.join(name);
            if flags.contains(ReadFlags::CREATE) {
                let depth = self.depth(&path);
                result = result.and(self.found(&path, depth, events));
            } else if flags.contains(ReadFlags::DELETE) {
                match inode(&path) {
                    Ok(None) => self.forget(&path, events),
                    Ok(Some(_)) => {}
                    Err(error) => result = result.and(Err(error)),
                }
            }
        }
        if overflow {
            result = result.and(self.rescan(events));
        }
        result
    }

    /// Levels below the nearest root.
    fn depth(&self, path: &Path) -> usize {
        let below = |root: &PathBuf| Some(path.strip_prefix(root).ok()?.components().count());
        self.roots.iter().filter_map(below).min().unwrap_or_default()
    }

    /// Watches a directory, then looks at what is in it.
    fn enter(&mut self, path: &Path, depth: usize, events: &mut Vec<PodEvent>) -> io::Result<()> {
        let flags = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::ONLYDIR;
        match inotify::add_watch(&self.inotify, path, flags) {
            // The same number again for the same directory.
            Ok(watch) => self.watched.insert(watch, path.to_owned()),
            // Gone already, or not there yet.
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(errno) => {
                let hint = match errno {
                    Errno::NOSPC => ": raise the sysctl fs.inotify.max_user_watches",
                    _ => "",
                };
                let message = format!("cannot watch {}: {errno}{hint}", path.display());
                return Err(io::Error::new(io::Error::from(errno).kind(), message));
            }
        };
        let mut result = Ok(());
        for name in subdirectories(path)? {
            result = result.and(self.found(&path.join(name), depth + 1, events));
        }
        result
    }

    /// A directory that is there.
    fn found(&mut self, path: &Path, depth: usize, events: &mut Vec<PodEvent>) -> io::Result<()> {
        let below = path.strip_prefix(&self.mount).unwrap_or(path);
        match classify(below) {
            Directory::Pod(uid) => {
                // Gone again before it was looked at: nobody was ever in it.
                let Some(id) = inode(path)? else { return Ok(()) };
                let below = u32::try_from(below.components().count()).unwrap_or(u32::MAX);
                let level = self.base.saturating_add(below);
                let pod = PodCgroup { uid, path: path.to_owned(), id, level };
                if self.known.get(path) == Some(&pod) {
                    return Ok(());
                }
                self.forget(path, events);
                self.known.insert(path.to_owned(), pod.clone());
                events.push(PodEvent::Appeared(pod));
                Ok(())
            }
            Directory::Pods => self.enter(path, depth, events),
            Directory::Other if depth < MAX_DEPTH => self.enter(path, depth, events),
            Directory::Other => Ok(()),
        }
    }

    /// A directory that is gone, with everything below it.
    fn forget(&mut self, path: &Path, events: &mut Vec<PodEvent>) {
        let below: Vec<PathBuf> = (self.known.range(path.to_owned()..))
            .map(|(known, _)| known.clone())
            .take_while(|known| known.starts_with(path))
            .collect();
        for known in below {
            events.extend(self.known.remove(&known).map(PodEvent::Gone));
        }
    }
}

impl AsFd for PodCgroups {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// Whether a directory, or the one that it was, is known not to be there.
fn is_gone(path: &Path, id: u64) -> bool {
    match std::fs::symlink_metadata(path) {
        Ok(data) => !data.is_dir() || data.ino() != id,
        Err(error) => says_gone(&error),
    }
}

/// The inode number of a directory; `None` when it is not there.
fn inode(path: &Path) -> io::Result<Option<u64>> {
    match std::fs::symlink_metadata(path) {
        Ok(data) => Ok(data.is_dir().then(|| data.ino())),
        Err(error) if says_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir, create_dir_all, remove_dir, remove_dir_all};

    /// A mount with one kubepods tree.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> (Self, PodCgroups) {
            let tree = Self(tempfile::tempdir().unwrap());
            create_dir_all(tree.path("kubepods/burstable")).unwrap();
            let pods = PodCgroups::new(tree.0.path(), 1, &[tree.path("kubepods")]).unwrap();
            (tree, pods)
        }

        fn path(&self, below: &str) -> PathBuf {
            self.0.path().join(below)
        }
    }

    /// `+uid` and `-uid`.
    fn brief(events: &[PodEvent]) -> Vec<String> {
        events
            .iter()
            .map(|event| match event {
                PodEvent::Appeared(pod) => format!("+{}", pod.uid),
                PodEvent::Gone(pod) => format!("-{}", pod.uid),
            })
            .collect()
    }

    /// What a look at everything finds.
    fn all(pods: &mut PodCgroups) -> Vec<PodEvent> {
        let mut events = Vec::new();
        pods.rescan(&mut events).unwrap();
        events
    }

    /// What has happened since.
    fn news(pods: &mut PodCgroups) -> Vec<PodEvent> {
        let mut events = Vec::new();
        pods.read(&mut events).unwrap();
        events
    }

    #[test]
    fn what_is_there_at_the_start_is_found_by_the_scan() {
        let (tree, mut pods) = Tree::new();
        create_dir(tree.path("kubepods/poda")).unwrap();
        create_dir(tree.path("kubepods/burstable/podb")).unwrap();
        let mut found = brief(&all(&mut pods));
        found.sort();
        assert_eq!(found, ["+a", "+b"]);
        assert_eq!(all(&mut pods), [], "nothing new");
        let b = pods.known().find(|pod| pod.uid.as_str() == "b").unwrap();
        assert_eq!(b.level, 4, "below a mount at level 1");
        assert_eq!(Some(b.id), inode(&tree.path("kubepods/burstable/podb")).unwrap());
    }

    #[test]
    fn what_cannot_be_looked_into_keeps_nothing_else_from_being_found() {
        let (tree, _) = Tree::new();
        create_dir(tree.path("kubepods/poda")).unwrap();
        let (first, second) = (tree.path("kubelet"), tree.path("kubepods"));
        // What leads to itself cannot be looked into.
        std::os::unix::fs::symlink(&first, &first).unwrap();
        let first = first.join("kubepods");
        let mut pods = PodCgroups::new(tree.0.path(), 1, &[first.clone(), second]).unwrap();
        let mut events = Vec::new();
        pods.rescan(&mut events).unwrap_err();
        assert!(subdirectories(&first).is_err(), "nothing is known of it");
        assert_eq!(brief(&events), ["+a"]);
    }

    #[test]
    fn pods_that_come_and_go_are_reported_in_order() {
        let (tree, mut pods) = Tree::new();
        assert_eq!(all(&mut pods), []);
        create_dir(tree.path("kubepods/poda")).unwrap();
        assert_eq!(brief(&news(&mut pods)), ["+a"]);
        create_dir(tree.path("kubepods/burstable/podb")).unwrap();
        create_dir(tree.path("kubepods/burstable/podb/container")).unwrap();
        remove_dir(tree.path("kubepods/poda")).unwrap();
        assert_eq!(brief(&news(&mut pods)), ["+b", "-a"]);
        remove_dir_all(tree.path("kubepods/burstable/podb")).unwrap();
        assert_eq!(brief(&news(&mut pods)), ["-b"]);
        assert_eq!(news(&mut pods), [], "nothing happened");
        assert_eq!(pods.known().count(), 0);
    }

    #[test]
    fn a_class_that_comes_later_is_watched_with_what_is_in_it_already() {
        let (tree, mut pods) = Tree::new();
        all(&mut pods);
        create_dir_all(tree.path("kubepods/besteffort/poda")).unwrap();
        assert_eq!(brief(&news(&mut pods)), ["+a"]);
        create_dir(tree.path("kubepods/besteffort/podb")).unwrap();
        assert_eq!(brief(&news(&mut pods)), ["+b"]);
    }

    #[test]
    fn a_directory_made_again_is_another_cgroup() {
        let (tree, mut pods) = Tree::new();
        all(&mut pods);
        create_dir(tree.path("kubepods/poda")).unwrap();
        let first = news(&mut pods);
        // Held open, so that its inode number is not given out again.
        let held = std::fs::File::open(tree.path("kubepods/poda")).unwrap();
        remove_dir(tree.path("kubepods/poda")).unwrap();
        create_dir(tree.path("kubepods/poda")).unwrap();
        let second = news(&mut pods);
        drop(held);
        assert_eq!(brief(&second), ["-a", "+a"]);
        let PodEvent::Appeared(first) = &first[0] else { panic!("{first:?}") };
        assert_ne!(pods.known().next().unwrap().id, first.id);
    }

    #[test]
    fn a_pod_gone_before_it_is_looked_at_is_never_mentioned() {
        let (tree, mut pods) = Tree::new();
        all(&mut pods);
        create_dir(tree.path("kubepods/poda")).unwrap();
        remove_dir(tree.path("kubepods/poda")).unwrap();
        assert_eq!(news(&mut pods), []);
    }

    #[test]
    fn a_queue_that_overflows_loses_nothing() {
        let (tree, mut pods) = Tree::new();
        all(&mut pods);
        let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let limit: usize = limit.trim().parse().unwrap();
        // A directory with nothing to tell us fills the queue.
        for _ in 0..limit / 2 + 1 {
            create_dir(tree.path("kubepods/noise")).unwrap();
            remove_dir(tree.path("kubepods/noise")).unwrap();
        }
        create_dir(tree.path("kubepods/poda")).unwrap();
        assert_eq!(brief(&news(&mut pods)), ["+a"]);
    }

    #[test]
    fn a_root_that_is_not_there_yet_is_found_when_it_is() {
        let mount = tempfile::tempdir().unwrap();
        let root = mount.path().join("kubepods.slice");
        let mut pods = PodCgroups::new(mount.path(), 0, std::slice::from_ref(&root)).unwrap();
        assert_eq!(all(&mut pods), []);
        create_dir_all(root.join("kubepods-podx.slice")).unwrap();
        assert_eq!(brief(&all(&mut pods)), ["+x"]);
    }
}
