//! When to look at the files: when the kernel says that something happened, once nothing
//! more does, so that files that are written one after the other are read together; and
//! in a slow round anyway. Only what it happened to is looked at then, and everything in
//! the slow round, or when that may concern more: a directory, a link. After a look nothing is looked at for as long as it took,
//! so that a tree of many files that is written all the time takes half of a processor
//! at most; what happens meanwhile gathers.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::files::{Files, Look, Scope};
use super::{Batch, QUIET};
use crate::following::{Following, Wanted, following};
use crate::inotify::Watches;

/// What goes on without a pause is looked at after this time.
const GATHERED: Duration = Duration::from_millis(100);

/// When to look.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long a file that vanished is waited for.
    pub absence: Duration,
    /// Time between looks that nothing caused.
    pub rescan: Duration,
}

/// Asks the watcher to read everything again; it ends when this is dropped.
#[derive(Debug)]
pub struct Reread {
    readings: Arc<Readings>,
    _following: Following,
}

#[derive(Debug)]
struct Readings {
    wake: OwnedFd,
    /// How often it was asked for.
    asked: AtomicU64,
    /// The last of these that is over.
    over: AtomicU64,
}

impl Reread {
    /// Asks for it, and says which reading it is, from 1.
    pub fn ask(&self) -> u64 {
        let reading = self.readings.asked.fetch_add(1, SeqCst) + 1;
        // The counter of an eventfd cannot overflow by ones.
        let _ = rustix::io::write(&self.readings.wake, &1u64.to_ne_bytes());
        reading
    }

    /// The last reading that is over: its changes were sent.
    pub fn over(&self) -> u64 {
        self.readings.over.load(SeqCst)
    }
}

/// Follows the files in a thread of its own. The first batch, which may be
/// empty, is what is there now; an empty one follows when a reading that was asked for
/// is over. `send` returns `false` to end the thread.
pub fn follow(
    mut files: Files,
    rescan: Duration,
    mut send: impl FnMut(Batch) -> bool + Send + 'static,
) -> io::Result<Reread> {
    let mut watches = Watches::new()?;
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let (asked, over) = (AtomicU64::new(0), AtomicU64::new(0));
    let readings = Arc::new(Readings { wake, asked, over });
    let (following, wanted) = following()?;
    let reread = Reread { readings: Arc::clone(&readings), _following: following };
    thread::Builder::new().name("files".into()).spawn(move || {
        let (mut scope, mut since) = (Scope::All, Instant::now());
        let mut whole = None;
        // The last reading that was asked for and is not over, and since when.
        let mut pending: Option<(u64, Instant)> = None;
        loop {
            let begun = Instant::now();
            let reading = readings.asked.load(SeqCst);
            let is_asked = scope == Scope::Asked;
            let look = look(&mut files, &mut watches, scope);
            let rest = Instant::now() + begun.elapsed();
            let is_news = whole.is_none() || !look.changes.is_empty();
            if is_news && !send(Batch::of_files(look.changes, since)) {
                return;
            }
            if is_asked {
                pending = Some((reading, pending.map_or(begun, |(_, since)| since)));
            }
            // A file that has vanished may come back, until it is gone; one that is written all
            // the time is not waited for longer.
            let is_over = |(_, since): &mut (u64, Instant)| {
                look.again.is_none() || since.elapsed() > files.absence()
            };
            if let Some((reading, _)) = pending.take_if(is_over) {
                readings.over.store(reading, SeqCst);
                if !send(Batch::of_files(Vec::new(), since)) {
                    return;
                }
            }
            // The first look is whole.
            let before = whole.filter(|_| !look.is_whole).unwrap_or(begun);
            whole = Some(before);
            let most = rescan.saturating_sub(before.elapsed());
            let most = look.again.map_or(most, |again| again.min(most));
            let Some(next) = self::wait(&watches, &readings.wake, &wanted, most, rest) else {
                return;
            };
            (scope, since) = next;
            if let Scope::Entries(paths) = &mut scope
                && before.elapsed() >= rescan
            {
                scope = Scope::Tree(std::mem::take(paths));
            }
        }
    })?;
    Ok(reread)
}

/// Looks, and looks again while there are directories that were not watched
/// during the look: what happened there in between caused no event.
fn look(files: &mut Files, watches: &mut Watches, scope: Scope) -> Look {
    let mut look = files.look(scope);
    for _ in 0..8 {
        if !look.is_whole || !watches.set(files.directories()) {
            break;
        }
        let again = files.look(Scope::Tree(BTreeSet::new()));
        look.changes.extend(again.changes);
        look.again = again.again;
    }
    look
}

/// Waits for something to happen and to have an end, or for the time to pass, and not
/// before `rest`. Returns what to look at, and since when it may be another; nothing
/// when nobody wants it any more.
fn wait(
    watches: &Watches,
    asked: &OwnedFd,
    wanted: &Wanted,
    most: Duration,
    rest: Instant,
) -> Option<(Scope, Instant)> {
    let inotify = watches.fd();
    let mut paths = BTreeSet::new();
    let (mut all, mut tree, mut is_asked) = (false, false, false);
    let mut until = (Instant::now() + most).max(rest);
    let mut since = None;
    loop {
        let now = Instant::now();
        let mut fds = [
            PollFd::new(wanted, PollFlags::empty()),
            PollFd::new(&inotify, PollFlags::IN),
            PollFd::new(asked, PollFlags::IN),
        ];
        // What happens while it rests gathers in the kernel.
        let rests = since.is_some() && now < rest;
        let (fds, end) = if rests { (&mut fds[..1], rest) } else { (&mut fds[..], until) };
        let left = end.saturating_duration_since(now);
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        // An interruption is a wait of no length.
        let _ = poll(fds, Some(&timeout));
        if !fds[0].revents().is_empty() {
            return None;
        }
        let mut counter = [0; 8];
        let reread = rustix::io::read(asked, &mut counter).is_ok();
        let happened = watches.drain();
        paths.extend(happened.paths);
        tree |= happened.to_directories;
        all |= happened.overflow;
        is_asked |= reread;
        let now = Instant::now();
        if happened.anything || reread {
            let first = *since.get_or_insert(now);
            until = (now + QUIET).min(first + GATHERED).max(rest);
        }
        if now >= until {
            let scope = match (all, tree) {
                _ if is_asked => Scope::Asked,
                (true, _) => Scope::All,
                (false, true) => Scope::Tree(paths),
                (false, false) => Scope::Entries(paths),
            };
            return Some((scope, since.unwrap_or(now)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Change;
    use redirector_core::documents::Memory;
    use redirector_core::store::Content;
    use std::fs;
    use std::path::PathBuf;
    use std::sync::mpsc::{Receiver, channel};

    fn parse(_: &Arc<str>, _: &[u8], _: &mut Memory) -> Content {
        Content::Whole(Vec::new())
    }

    fn followed(path: PathBuf) -> (Receiver<Batch>, Reread) {
        let (sender, receiver) = channel();
        // So slow that only events can be the reason of a look.
        let rescan = Duration::from_secs(3600);
        let absence = Duration::from_millis(5);
        let files = Files::new(vec![path], parse, absence, std::iter::empty());
        let reread = follow(files, rescan, move |batch| sender.send(batch).is_ok()).unwrap();
        (receiver, reread)
    }

    /// Waits for a change of the file that `wanted` accepts.
    fn wait_for(receiver: &Receiver<Batch>, wanted: impl Fn(&Change) -> bool) {
        loop {
            let batch = receiver.recv_timeout(Duration::from_secs(60)).expect("the change is seen");
            if batch.arrivals.iter().any(|arrival| wanted(&arrival.change)) {
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
        assert!(receiver.recv().unwrap().arrivals.is_empty(), "the first look finds nothing");
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
    fn a_change_is_seen_while_others_go_on_without_a_pause() {
        let root = tempfile::tempdir().unwrap();
        let (receiver, _reread) = followed(root.path().to_owned());
        assert!(receiver.recv().unwrap().arrivals.is_empty(), "the first look finds nothing");
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
    fn nobody_watches_files_that_nobody_wants() {
        let root = tempfile::tempdir().unwrap();
        let (receiver, reread) = followed(root.path().to_owned());
        drop(reread);
        crate::following::assert_ends(&receiver);
    }

    #[test]
    fn everything_is_read_again_when_asked() {
        let root = tempfile::tempdir().unwrap();
        let (receiver, reread) = followed(root.path().to_owned());
        assert!(receiver.recv().unwrap().arrivals.is_empty());
        assert_eq!((reread.ask(), reread.ask()), (1, 2));
        // Nothing changed; that it is over is said, however often it was asked for.
        while reread.over() < 2 {
            assert!(receiver.recv().unwrap().arrivals.is_empty());
        }
        fs::write(root.path().join("a.yaml"), "1").unwrap();
        wait_for(&receiver, put("a.yaml"));
    }

    #[test]
    fn what_has_vanished_is_gone_before_a_reading_that_was_asked_for_is_over() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a.yaml"), "1").unwrap();
        let (sender, receiver) = channel();
        let absence = Duration::from_secs(1);
        let files = Files::new(vec![root.path().to_owned()], parse, absence, std::iter::empty());
        let rescan = Duration::from_secs(3600);
        let reread = follow(files, rescan, move |batch| sender.send(batch).is_ok()).unwrap();
        wait_for(&receiver, put("a.yaml"));
        fs::remove_file(root.path().join("a.yaml")).unwrap();
        assert_eq!(reread.ask(), 1);
        let mut is_gone = false;
        while reread.over() < 1 {
            let batch = receiver.recv().unwrap();
            is_gone |= batch.arrivals.iter().any(|one| matches!(one.change, Change::Removed(_)));
        }
        assert!(is_gone);
    }
}
