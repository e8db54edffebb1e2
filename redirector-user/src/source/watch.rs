//! When to look at the files: the kernel says where something happened, looks
//! wait until it has been quiet for a moment, and a slow round goes on anyway.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::Batch;
use super::files::{Dirty, Files};
use crate::inotify::Watches;

/// How often to look while a file is being written.
const UNSETTLED: Duration = Duration::from_millis(100);

/// Changes that come without a pause are put off for no longer than this many
/// times the debounce; so are those of an API server.
pub const MOST_WAITS: u32 = 4;

/// When to look.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Quiet time before a look.
    pub debounce: Duration,
    /// Time between looks that nothing caused.
    pub rescan: Duration,
}

/// Asks the watcher to read everything again.
#[derive(Clone, Debug)]
pub struct Reread(Arc<OwnedFd>);

impl Reread {
    /// Asks for it.
    pub fn ask(&self) {
        // The counter of an eventfd cannot overflow by ones.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

/// Follows the files in a thread of its own. The first batch, which may be
/// empty, is what is there now; `send` returns `false` to end the thread.
pub fn follow(
    mut files: Files,
    timing: Timing,
    mut send: impl FnMut(Batch) -> bool + Send + 'static,
) -> io::Result<Reread> {
    let mut watches = Watches::new()?;
    let reread = Reread(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?));
    let asked = reread.clone();
    thread::Builder::new().name("files".into()).spawn(move || {
        let mut dirty = Dirty::All;
        let mut first = true;
        loop {
            let (batch, unsettled) = look(&mut files, &mut watches, &dirty);
            if (first || !batch.changes.is_empty()) && !send(batch) {
                return;
            }
            first = false;
            let wait = if unsettled { UNSETTLED.min(timing.rescan) } else { timing.rescan };
            dirty = self::wait(&watches, &asked.0, wait, timing.debounce);
        }
    })?;
    Ok(reread)
}

/// Looks, and looks again while there are directories that were not watched
/// during the look: what happened there in between caused no event.
fn look(files: &mut Files, watches: &mut Watches, dirty: &Dirty) -> (Batch, bool) {
    let mut look = files.look(dirty);
    for _ in 0..8 {
        if !watches.set(&look.directories) {
            break;
        }
        let again = files.look(&Dirty::Paths(BTreeSet::new()));
        look.batch.changes.extend(again.batch.changes);
        look.directories = again.directories;
        look.unsettled = again.unsettled;
    }
    (look.batch, look.unsettled)
}

/// When to look, once something happened.
struct Due {
    debounce: Duration,
    /// At the latest, from the first event on.
    latest: Option<Instant>,
}

impl Due {
    /// After an event at this time.
    fn after(&mut self, now: Instant) -> Instant {
        let latest = *self.latest.get_or_insert(now + self.debounce * MOST_WAITS);
        (now + self.debounce).min(latest)
    }
}

/// Waits for something to happen and then for quiet, or for the time to pass.
/// Returns what to read again.
fn wait(watches: &Watches, asked: &OwnedFd, most: Duration, debounce: Duration) -> Dirty {
    let inotify = watches.fd();
    let mut paths = BTreeSet::new();
    let mut all = false;
    let mut until = Instant::now() + most;
    let mut due = Due { debounce, latest: None };
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&inotify, PollFlags::IN), PollFd::new(asked, PollFlags::IN)];
        // An interruption is a wait of no length.
        let _ = poll(&mut fds, Some(&timeout));
        let mut counter = [0; 8];
        if rustix::io::read(asked, &mut counter).is_ok() {
            all = true;
            until = Instant::now();
        }
        let happened = watches.drain();
        paths.extend(happened.paths);
        all |= happened.overflow;
        let now = Instant::now();
        if happened.anything {
            until = due.after(now);
        }
        if now >= until {
            return if all { Dirty::All } else { Dirty::Paths(paths) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Change;
    use redirector_core::store::Content;
    use std::fs;
    use std::path::PathBuf;
    use std::sync::mpsc::{Receiver, channel};

    fn parse(_: &Arc<str>, _: &[u8]) -> Content {
        Content::Whole(Vec::new())
    }

    fn followed(path: PathBuf) -> (Receiver<Batch>, Reread) {
        followed_after(Duration::from_millis(5), path)
    }

    fn followed_after(debounce: Duration, path: PathBuf) -> (Receiver<Batch>, Reread) {
        let (sender, receiver) = channel();
        // So slow that only events can be the reason of a look.
        let timing = Timing { debounce, rescan: Duration::from_secs(3600) };
        let files = Files::new(vec![path], parse, std::iter::empty());
        let reread = follow(files, timing, move |batch| sender.send(batch).is_ok()).unwrap();
        (receiver, reread)
    }

    /// Waits for a change of the file that `wanted` accepts.
    fn wait_for(receiver: &Receiver<Batch>, wanted: impl Fn(&Change) -> bool) {
        loop {
            let batch = receiver.recv_timeout(Duration::from_secs(60)).expect("the change is seen");
            if batch.changes.iter().any(&wanted) {
                return;
            }
        }
    }

    fn put(end: &'static str) -> impl Fn(&Change) -> bool {
        move |change| matches!(change, Change::Put(name, _) if name.ends_with(end))
    }

    #[test]
    fn files_that_appear_change_and_vanish_are_seen() {
        let root = tempfile::tempdir().unwrap();
        let (receiver, _reread) = followed(root.path().to_owned());
        assert!(receiver.recv().unwrap().changes.is_empty(), "the first look finds nothing");
        fs::write(root.path().join("a.yaml"), "1").unwrap();
        wait_for(&receiver, put("a.yaml"));
        fs::create_dir(root.path().join("deep")).unwrap();
        fs::write(root.path().join("deep/b.yaml"), "1").unwrap();
        wait_for(&receiver, put("deep/b.yaml"));
        fs::write(root.path().join("deep/c.yaml"), "1").unwrap();
        wait_for(&receiver, put("deep/c.yaml"));
        fs::remove_file(root.path().join("a.yaml")).unwrap();
        wait_for(
            &receiver,
            |change| matches!(change, Change::Removed(name) if name.ends_with("a.yaml")),
        );
    }

    #[test]
    fn the_swap_of_a_link_further_up_is_seen() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::create_dir_all(root.join("store/one")).unwrap();
        fs::create_dir_all(root.join("store/two")).unwrap();
        fs::write(root.join("store/one/a.yaml"), "1").unwrap();
        fs::write(root.join("store/two/a.yaml"), "2").unwrap();
        fs::create_dir(root.join("rules")).unwrap();
        symlink("../store/one", root.join("rules/..data")).unwrap();
        symlink("..data/a.yaml", root.join("rules/a.yaml")).unwrap();
        let (receiver, _reread) = followed(root.join("rules/a.yaml"));
        wait_for(&receiver, put("a.yaml"));
        symlink("../store/two", root.join("rules/..data_tmp")).unwrap();
        fs::rename(root.join("rules/..data_tmp"), root.join("rules/..data")).unwrap();
        wait_for(&receiver, put("a.yaml"));
    }

    #[test]
    fn a_directory_that_is_made_later_is_seen() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("not/yet");
        let (receiver, _reread) = followed(path.clone());
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("a.yaml"), "1").unwrap();
        wait_for(&receiver, put("a.yaml"));
    }

    #[test]
    fn events_without_a_pause_put_off_a_look_for_four_times_the_debounce() {
        let (begin, debounce) = (Instant::now(), Duration::from_millis(50));
        let at = |milliseconds: u64| begin + Duration::from_millis(milliseconds);
        let mut due = Due { debounce, latest: None };
        assert_eq!(due.after(at(0)), at(50));
        for quiet in (40..=150).step_by(10) {
            assert_eq!(due.after(at(quiet)), at(quiet + 50));
        }
        for late in (160..=190).step_by(10) {
            assert_eq!(due.after(at(late)), at(200));
        }
    }

    #[test]
    fn a_change_is_seen_while_others_go_on_without_a_pause() {
        let root = tempfile::tempdir().unwrap();
        // Longer than any pause between two writes.
        let (receiver, _reread) = followed_after(Duration::from_secs(1), root.path().to_owned());
        assert!(receiver.recv().unwrap().changes.is_empty(), "the first look finds nothing");
        let path = root.path().to_owned();
        let (stop, stopped) = channel::<()>();
        let writer = std::thread::spawn(move || {
            let mut number = 0;
            // Until the test has what it wants, or has failed.
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                fs::write(path.join("new"), number.to_string()).unwrap();
                fs::rename(path.join("new"), path.join("b.yaml")).unwrap();
                number += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        fs::write(root.path().join("a.yaml"), "1").unwrap();
        wait_for(&receiver, put("a.yaml"));
        assert!(!writer.is_finished(), "it was seen meanwhile");
        drop(stop);
        writer.join().unwrap();
    }

    #[test]
    fn everything_is_read_again_when_asked() {
        let root = tempfile::tempdir().unwrap();
        let (receiver, reread) = followed(root.path().to_owned());
        assert!(receiver.recv().unwrap().changes.is_empty());
        reread.ask();
        // Nothing changed, so nothing is sent; a change after it still is.
        fs::write(root.path().join("a.yaml"), "1").unwrap();
        wait_for(&receiver, put("a.yaml"));
    }
}
