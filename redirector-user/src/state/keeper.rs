//! Writing a journal.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use redirector_core::layout::{self, Layout, Placement};
use redirector_core::model::ObjectRef;
use redirector_core::store::Store;

use super::journal::{self, Journal};
use super::record::{Append, Begin, GenerationChange, Told};
use super::snapshot::{Head, Snapshot, Whole};
use super::{StateDir, StateError, io_error, is_at, old};
use crate::readers::May;
use crate::scheduling::give_way;

/// A journal is begun anew when what was appended has come to as much as its first
/// record takes, and to no less than this.
const SMALL: u64 = 64 * 1024;

/// Where a journal is to begin anew that ends there, and whose first record takes so
/// much.
fn until(end: u64, checkpoint: u64) -> u64 {
    end + checkpoint.max(SMALL)
}

/// Who writes down each generation. Nobody else does so while it lives.
#[derive(Debug)]
pub struct Keeper {
    state: StateDir,
    told: Told,
    /// Nothing in the tables has the number that was told.
    anew: bool,
    /// The way back to both before the last change, as long as that may be taken back.
    before: Option<Box<(Append, bool)>>,
    files: Arc<Mutex<Files>>,
    compacting: Option<JoinHandle<()>>,
}

/// The journals.
#[derive(Debug, Default)]
struct Files {
    /// The one that is written to.
    current: Option<Current>,
    /// Those before it, the oldest first.
    older: Vec<Older>,
    /// Nothing is to be put in the place of anything any more.
    is_over: bool,
}

/// A journal that another one goes on from.
#[derive(Debug)]
struct Older {
    number: u64,
    /// What it begins with; nothing where that was not looked at.
    begin: Option<Begin>,
}

/// The journal that is written to.
#[derive(Debug)]
struct Current {
    number: u64,
    file: File,
    /// Where the next record belongs.
    end: u64,
    /// Where the last one begins.
    last: u64,
    /// What the first record takes, and when to begin anew.
    checkpoint: u64,
    until: u64,
    begin: Begin,
}

/// What an earlier daemon has left.
#[derive(Debug, Default)]
pub struct Left {
    /// The generation in force; `None` where it is not known.
    pub snapshot: Option<Snapshot>,
    /// What was good; `None` where nothing is known of that.
    pub store: Option<Store>,
    /// What cannot be read.
    pub not_read: Vec<String>,
    /// Of what is in force, where something is, which objects not: what is good may be older.
    pub unread: Unread,
}

/// Of which objects it is not known what is in force, as a part of the journal is damaged.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Unread {
    /// Of none it is known.
    pub all: bool,
    /// Of these it is not.
    pub objects: BTreeSet<ObjectRef>,
}

impl Unread {
    /// Whether an object may be one of them; without one, whether any object is.
    pub fn concerns(&self, object: Option<&ObjectRef>) -> bool {
        self.all || object.map_or(!self.objects.is_empty(), |one| self.objects.contains(one))
    }
}

impl Keeper {
    /// For this directory, of which the caller has the lock, and the generation in
    /// force: what was written of later ones never was. 0 where nothing is in force:
    /// what was written last counts then. Also says what was left.
    ///
    /// # Errors
    ///
    /// The system's refusal to have what an earlier version wrote carried over. What
    /// cannot be read is no error.
    pub fn open(state: &StateDir, active: u64) -> Result<(Self, Left), StateError> {
        state.create()?;
        let mut left = Left::default();
        old::carry_over(state, &mut left.not_read)?;
        let mut keeper = Self::new(state.clone());
        if let Err(error) = keeper.find(active, &mut left) {
            left.not_read.push(error.to_string());
        }
        left.unread.all |= left.snapshot.is_none() && !left.not_read.is_empty();
        if active == 0 {
            left.unread = Unread::default();
        }
        Ok((keeper, left))
    }

    pub(super) fn new(state: StateDir) -> Self {
        let (told, files) = (Told::default(), Arc::default());
        Self { state, told, anew: true, before: None, files, compacting: None }
    }

    fn find(&mut self, active: u64, left: &mut Left) -> Result<(), StateError> {
        for name in journal::leftovers(&self.state) {
            self.state.remove_file(&name)?;
        }
        let to = if active == 0 { u64::MAX } else { active };
        let (mut found, damage) = journal::read(&self.state, to)?;
        left.not_read.extend(damage.iter().map(ToString::to_string));
        if found.is_none() {
            // What was good is good, also where all that is known is younger.
            found = journal::read(&self.state, u64::MAX)?.0;
        }
        match found {
            Some(journal) => self.go_on(journal, active, left),
            None => Ok(()),
        }
    }

    /// Goes on with a journal, if it is whole.
    fn go_on(&mut self, journal: Journal, active: u64, left: &mut Left) -> Result<(), StateError> {
        let snapshot = journal.snapshot();
        let (kept, lost) = journal.kept();
        self.told = journal.told(&snapshot, &kept);
        let is_active = active == 0 || snapshot.generation == active;
        left.not_read.extend(journal.damage.iter().map(ToString::to_string));
        left.not_read.extend(lost.iter().map(|lost| format!("of what was good, {lost}")));
        left.unread = journal.unread();
        match &journal.cut {
            Some(cut) if is_active => {
                tracing::warn!("{cut}: what was being written there never came in force");
            }
            cut => left.not_read.extend(cut.iter().map(ToString::to_string)),
        }
        let mut store = Store::of_kept(&kept);
        if !lost.is_empty() {
            store.remember(snapshot.contents.objects.iter().cloned());
        }
        left.store = Some(store);
        let is_whole = snapshot.lost.is_empty() && lost.is_empty() && journal.damage.is_empty();
        let goes_on = is_active && is_whole;
        let mut files = lock(&self.files);
        for number in journal::numbers(&self.state)? {
            if is_active && number > journal.file {
                // It was begun by a generation that never came in force.
                self.state.remove_file(&journal::name(number))?;
            } else if !goes_on || number != journal.file {
                files.older.push(Older { number, begin: None });
            }
        }
        if goes_on {
            self.anew = active == 0;
            files.current = Some(Current::go_on(&self.state, journal)?);
        }
        drop(files);
        left.snapshot = Some(snapshot).filter(|one| is_active && one.generation != 0);
        Ok(())
    }

    /// What was told last.
    pub fn head(&self) -> Head {
        self.told.head
    }

    /// What to tell of the numbers in the tables, once the last step is in force.
    pub fn numbers(&self, placement: &mut Placement) -> layout::Difference {
        match self.anew {
            true => Layout::default().difference(placement.layout()),
            false => placement.difference(),
        }
    }

    /// What a generation `repeats` that is told of anew: what it did, unless its
    /// documents change without changing the tables. `otherwise` where that generation
    /// was not told of.
    pub fn still_repeats(&self, change: &GenerationChange, otherwise: Option<u64>) -> Option<u64> {
        if self.told.head.generation != change.head.generation {
            return otherwise;
        }
        let are_known = change.resolved.as_ref().is_none_or(|resolved| {
            let known = &self.told.resolved;
            let pairs = known.iter().zip(resolved);
            known.len() == resolved.len()
                && pairs
                    .into_iter()
                    .all(|((one, known), (other, new))| one == other && known.is_same(new))
        });
        self.told.head.repeats.filter(|_| change.objects.is_empty() && are_known)
    }

    /// Keeps a change; it has reached the disk when this returns, where anything comes in force
    /// by it or gets another number. The disk is not waited for with what does neither: only
    /// when the machine fails it may be lost, and it is read again then. `whole` says what is
    /// in force and good then, for a journal that begins with it. What is written is
    /// proportional to what is different, and nothing when nothing is. Returns how many
    /// bytes that was.
    ///
    /// # Errors
    ///
    /// The system's refusal, as of a full disk. Nothing is kept then.
    pub fn append(
        &mut self,
        mut change: GenerationChange,
        whole: impl FnOnce() -> Whole,
    ) -> Result<usize, StateError> {
        self.before = None;
        let counts = change.head.generation != self.told.head.generation;
        let counts = counts || !change.layout.is_empty();
        let next = self.told.next(&mut change);
        let mut files = lock(&self.files);
        let (written, back) = match &mut files.current {
            Some(current) => {
                let path = journal::path(&self.state, current.number);
                let failed = |source| io_error("cannot write", &path, source);
                let frames = self.told.frames(&next, &change, self.anew).map_err(failed)?;
                if frames.is_empty() {
                    return Ok(0);
                }
                current.append(&frames, counts).map_err(failed)?;
                (frames.len(), self.told.go(next))
            }
            none => {
                let number = journal::numbers(&self.state)?.last().map_or(1, |last| last + 1);
                let back = self.told.go(next);
                match Current::begin(&self.state, number, &self.told, &whole()) {
                    Ok(current) => {
                        (usize::try_from(none.insert(current).end).unwrap_or(usize::MAX), back)
                    }
                    Err(error) => {
                        self.told.go(back);
                        return Err(error);
                    }
                }
            }
        };
        drop(files);
        self.before = Some(Box::new((back, std::mem::replace(&mut self.anew, false))));
        Ok(written)
    }

    /// Whether the journal that is written to is where it belongs: nobody has removed it.
    pub fn is_there(&self) -> bool {
        let files = lock(&self.files);
        let is_there = |one: &Current| is_at(&one.file, &journal::path(&self.state, one.number));
        files.current.as_ref().is_none_or(is_there)
    }

    /// Begins a journal in the place of one that was removed, with what is in force and good.
    ///
    /// # Errors
    ///
    /// The system's refusal.
    pub fn begin_anew(&mut self, whole: impl FnOnce() -> Whole) -> Result<(), StateError> {
        if self.is_there() {
            return Ok(());
        }
        let mut files = lock(&self.files);
        let Some(current) = &mut files.current else { return Ok(()) };
        // No compaction that goes on takes it for the one that it began with.
        *current = Current::begin(&self.state, current.number + 1, &self.told, &whole())?;
        Ok(())
    }

    /// Takes the last change back: it did not come in force.
    pub fn take_back(&mut self) {
        let Some(before) = self.before.take() else { return };
        let (back, anew) = *before;
        self.told.go(back);
        self.anew = anew;
        let mut files = lock(&self.files);
        let Some(current) = &mut files.current else { return };
        if current.last > 0 {
            current.take_back();
            return;
        }
        let name = journal::name(current.number);
        files.current = None;
        if let Err(error) = self.state.remove_file(&name) {
            tracing::warn!("{error}");
        }
    }

    /// What was kept is in force. Begins a journal anew, in a thread of its own, when it
    /// has grown, and forgets those in which nothing is that may be wanted: the last
    /// changes of what people write, so many of them, and the generation that is `needed`.
    /// `whole` says what is in force and good.
    pub fn tend(&mut self, changes: usize, needed: Option<u64>, whole: impl FnOnce() -> Whole) {
        self.before = None;
        let mut files = lock(&self.files);
        files.prune(&self.state, self.told.written.count, changes as u64, needed);
        let Some(current) = &mut files.current else { return };
        let runs = self.compacting.as_ref().is_some_and(|thread| !thread.is_finished());
        if current.end < current.until || runs {
            return;
        }
        let compaction = Compaction {
            state: self.state.clone(),
            told: self.told.clone(),
            whole: whole(),
            files: self.files.clone(),
            number: current.number,
            from: current.end,
        };
        let thread = thread::Builder::new().name("journal".into());
        let started = thread.spawn(move || {
            give_way();
            if let Err(error) = compaction.run() {
                tracing::warn!("a journal cannot be begun anew, and goes on: {error}");
            }
        });
        match started {
            Ok(thread) => self.compacting = Some(thread),
            Err(error) => tracing::warn!("a journal cannot be begun anew: {error}"),
        }
        current.put_off();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Who has the lock next writes alone.
        lock(&self.files).is_over = true;
    }
}

/// A journal that is begun anew while another one goes on.
struct Compaction {
    state: StateDir,
    told: Told,
    whole: Whole,
    files: Arc<Mutex<Files>>,
    /// The other one, and where it ended.
    number: u64,
    from: u64,
}

impl Compaction {
    fn run(self) -> Result<(), StateError> {
        let number = self.number + 1;
        let new = New::create(&self.state, number, &self.told, &self.whole)?;
        drop(self.whole);
        let mut files = lock(&self.files);
        let Files { current, older, is_over } = &mut *files;
        let Some(current) = current.as_mut().filter(|one| one.number == self.number && !*is_over)
        else {
            return Ok(());
        };
        let (file, checkpoint) = new.put_in_place(|file| current.copy(self.from, file))?;
        let moved = |at: u64| at - self.from + checkpoint;
        let next = Current {
            number,
            file,
            end: moved(current.end),
            // It may still be taken back, if it was written meanwhile.
            last: moved(current.last.max(self.from)),
            checkpoint,
            until: until(checkpoint, checkpoint),
            begin: self.told.begin(),
        };
        older.push(Older { number: self.number, begin: Some(current.begin) });
        *current = next;
        Ok(())
    }
}

impl Files {
    /// Forgets journals that nobody wants any more, of which some may lie between others:
    /// in those nothing changed but what comes and goes by itself. `until_now`: how many
    /// changes there were.
    fn prune(&mut self, state: &StateDir, until_now: u64, changes: u64, needed: Option<u64>) {
        let Some(current) = &self.current else { return };
        let mut next = current.begin;
        let mut is_wanted = |older: &Older| {
            let lacks = until_now.saturating_sub(next.written) < changes;
            let Some(begin) = older.begin else {
                return lacks || needed.is_some_and(|one| one < next.generation);
            };
            let holds = begin.generation..next.generation;
            let is_needed = needed.is_some_and(|one| holds.contains(&one));
            let is_wanted = is_needed || lacks && begin.written < next.written;
            next = begin;
            is_wanted
        };
        let mut kept: Vec<Older> = Vec::new();
        for older in std::mem::take(&mut self.older).into_iter().rev() {
            if is_wanted(&older) {
                kept.push(older);
            } else {
                // It is tried again by the next daemon.
                let _ = state.remove_file(&journal::name(older.number));
            }
        }
        kept.reverse();
        self.older = kept;
    }
}

impl Current {
    /// Goes on with one that is there.
    fn go_on(state: &StateDir, journal: Journal) -> Result<Self, StateError> {
        let Journal { file: number, end, checkpoint, begin, .. } = journal;
        let path = journal::path(state, number);
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(|source| io_error("cannot open", &path, source))?;
        let until = until(checkpoint, checkpoint);
        Ok(Self { number, file, end, last: end, checkpoint, until, begin })
    }

    /// Begins one.
    fn begin(
        state: &StateDir,
        number: u64,
        told: &Told,
        whole: &Whole,
    ) -> Result<Self, StateError> {
        let new = New::create(state, number, told, whole)?;
        let (file, end) = new.put_in_place(|_| Ok(()))?;
        Ok(Self {
            number,
            file,
            end,
            last: 0,
            checkpoint: end,
            until: until(end, end),
            begin: told.begin(),
        })
    }

    /// Appends these; `counts`: they have reached the disk when this returns, with all before.
    fn append(&mut self, frames: &[u8], counts: bool) -> io::Result<()> {
        // What was taken back, or could not be written as a whole, is to go.
        if self.file.metadata()?.len() != self.end {
            self.file.set_len(self.end)?;
        }
        let written = self.file.write_all_at(frames, self.end);
        let sync = || if counts { self.file.sync_data() } else { Ok(()) };
        if let Err(error) = written.and_then(|()| sync()) {
            let _ = self.file.set_len(self.end);
            return Err(error);
        }
        (self.last, self.end) = (self.end, self.end + frames.len() as u64);
        Ok(())
    }

    fn take_back(&mut self) {
        self.end = self.last;
        // Where that fails, the next record stands in its place.
        let _ = self.file.set_len(self.end);
    }

    /// Copies what was appended since.
    fn copy(&self, from: u64, to: &mut File) -> io::Result<()> {
        let mut frames = vec![0; usize::try_from(self.end - from).unwrap_or_default()];
        self.file.read_exact_at(&mut frames, from)?;
        to.write_all(&frames)
    }

    /// Another attempt to begin anew is due after as much again.
    fn put_off(&mut self) {
        self.until = until(self.end, self.checkpoint);
    }
}

/// A journal that is not in its place yet.
struct New {
    state: StateDir,
    beside: Beside,
    path: PathBuf,
    file: File,
    /// How much its first record takes.
    checkpoint: u64,
}

/// A file that goes, unless it gets another name.
struct Beside(PathBuf);

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl New {
    /// Writes one with everything; it has reached the disk when this returns.
    fn create(
        state: &StateDir,
        number: u64,
        told: &Told,
        whole: &Whole,
    ) -> Result<Self, StateError> {
        let path = journal::path(state, number);
        let failed = |source| io_error("cannot write", &path, source);
        // A name of its own: a daemon that has handed over may be writing one still, and
        // may be a process of the same number in another container.
        let at = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos());
        let beside = path.with_extension(format!("{}-{at}.new", std::process::id()));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let mut file = options.open(&beside).map_err(failed)?;
        let beside = Beside(beside);
        state.admit(&beside.0, May::Read)?;
        told.write_whole(whole, &mut file).and_then(|()| file.sync_all()).map_err(failed)?;
        let checkpoint = file.metadata().map_err(failed)?.len();
        Ok(Self { state: state.clone(), beside, path, file, checkpoint })
    }

    /// Puts it in its place, with what `more` adds to it.
    fn put_in_place(
        mut self,
        more: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(File, u64), StateError> {
        let failed = |source| io_error("cannot write", &self.path, source);
        more(&mut self.file).and_then(|()| self.file.sync_all()).map_err(failed)?;
        self.state.put_in_place(&self.beside.0, &self.path)?;
        Ok((self.file, self.checkpoint))
    }
}

fn lock(files: &Mutex<Files>) -> MutexGuard<'_, Files> {
    files.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
