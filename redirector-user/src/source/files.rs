//! What changed below the PATHs since the last look.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use redirector_core::diag::Diagnostic;
use redirector_core::diag::codes::syntax;
use redirector_core::documents::{self, Memory};
use redirector_core::store::Content;

use super::read::{Fingerprint, ReadError, UNSETTLED, read_any, read_limited, read_settled};
use super::walk::{FileEntry, FoundFile, Listed, Unreadable, Walk, WatchedPlaces, name_of, walk};
use super::{Change, Parse};

/// How long a file that is held open for writing, and does not change, is
/// waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why what was in a directory is not taken for removed.
const EMPTIED: &str = "no file is in it any more, and it is not the directory that they were in, as \
                       when a volume is not mounted; `redirector reload` takes them for removed";

/// Why what files of another place held is not taken for removed.
const ELSEWHERE: &str = "it is in force by a daemon that was started with another configuration, and \
                         nothing of this one's can be read yet; `redirector reload` takes it for \
                         removed";

/// A change within this time of a look may have the same time stamp as what the
/// look saw, so the next look reads the file again.
const CLOCK_GRAIN: Duration = Duration::from_millis(100);

/// So many files are read at once at most: a start does not take a whole large machine.
const MOST_THREADS: usize = 4;

/// The files below the PATHs, as they were at the last look.
#[derive(Debug)]
pub struct Files {
    paths: Vec<PathBuf>,
    parse: Parse,
    /// How long a file that vanished is waited for. Editors, and `git`, move or remove
    /// a file and then write the new one under its name: in between nothing is gone.
    absence: Duration,
    known: BTreeMap<Arc<str>, Known>,
    /// Where they were found.
    places: WatchedPlaces,
    /// The directories that are taken for what was meant, by device and inode: where one of
    /// these holds nothing, everything in it was removed.
    trusted: BTreeMap<PathBuf, (u64, u64)>,
    /// What is to be looked at again in any case: it is being written, or has vanished.
    unsettled: BTreeSet<PathBuf>,
}

/// What is known of a file.
#[derive(Debug, Default)]
struct Known {
    /// Of the text that was read last; `None` when it has to be read again.
    fingerprint: Option<Fingerprint>,
    /// Of the same text.
    hash: Option<u64>,
    /// It has been read without fault.
    is_read: bool,
    /// Its documents.
    memory: Memory,
    /// Why it could not be read, as it was reported.
    unreadable: Option<String>,
    /// Since when it is being written without a change.
    writing: Option<(Fingerprint, Instant)>,
    /// Since when it is not there.
    missing: Option<Instant>,
}

/// What to look at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scope {
    /// These entries, to which something happened, and all else where that may be news of it.
    Entries(BTreeSet<PathBuf>),
    /// Everything; of what looks the same as before only these are read.
    Tree(BTreeSet<PathBuf>),
    /// Everything, and all is read.
    All,
    /// The same, for who says that what is there is meant.
    Asked,
}

/// What a look saw.
#[derive(Debug)]
pub struct Look {
    /// What changed.
    pub changes: Vec<Change>,
    /// Everything was looked at.
    pub is_whole: bool,
    /// When to look again without being told: some file is being written, or has
    /// vanished a moment ago.
    pub again: Option<Duration>,
}

impl Look {
    fn again_in(&mut self, time: Duration) {
        self.again = Some(self.again.map_or(time, |again| again.min(time)));
    }
}

impl Files {
    /// The files below `paths`, which count as removed when they are away for longer
    /// than `absence`. `known` are those of an earlier run whose objects are in force:
    /// what of them is not there at the first look is reported as removed.
    pub fn new(
        paths: Vec<PathBuf>,
        parse: Parse,
        absence: Duration,
        known: impl Iterator<Item = Arc<str>>,
    ) -> Self {
        let begin = Instant::now().checked_sub(absence);
        let known = known.map(|name| (name, Known { missing: begin, ..Known::default() }));
        Self {
            paths,
            parse,
            absence,
            known: known.collect(),
            places: WatchedPlaces::default(),
            trusted: BTreeMap::new(),
            unsettled: BTreeSet::new(),
        }
    }

    /// How long a file that has vanished is waited for.
    pub fn absence(&self) -> Duration {
        self.absence
    }

    /// The directories in which something can change.
    pub fn directories(&self) -> &BTreeSet<PathBuf> {
        &self.places.directories
    }

    /// Looks, and reads what changed.
    pub fn look(&mut self, scope: Scope) -> Look {
        match scope {
            Scope::Entries(paths) => {
                self.look_at(&paths).unwrap_or_else(|| self.look_through(Some(&paths), false))
            }
            Scope::Tree(paths) => self.look_through(Some(&paths), false),
            Scope::All => self.look_through(None, false),
            Scope::Asked => self.look_through(None, true),
        }
    }

    /// Looks at these entries and what is unsettled; `None` where that is not enough.
    fn look_at(&mut self, paths: &BTreeSet<PathBuf>) -> Option<Look> {
        // Whether a directory is trusted again takes a look at all of it.
        if self.trusted.len() < self.places.listed.len() {
            return None;
        }
        let entries: Vec<_> =
            paths.union(&self.unsettled).map(|path| (path, self.places.entry(path))).collect();
        let mut found = BTreeMap::new();
        let mut look = Look { changes: Vec::new(), is_whole: false, again: None };
        let mut unsettled = BTreeSet::new();
        for (path, entry) in entries {
            match entry {
                FileEntry::File(name, file) => _ = found.insert(name, file),
                FileEntry::Gone(name) => {
                    let Some(known) = self.known.get_mut(&name) else { continue };
                    // Whether it is gone, or cannot be seen, takes a look at all above it.
                    look.again_in(known.is_missing_for(self.absence)?);
                    unsettled.insert(path.clone());
                }
                FileEntry::Unclear => return None,
            }
        }
        self.unsettled = unsettled;
        for (name, file) in found {
            let known = self.known.entry(name.clone()).or_default();
            known.missing = None;
            let seen = known.look_into(self.parse, &name, &file);
            self.take(seen, &file, &mut look);
        }
        Some(look)
    }

    /// Looks at all of them, and reads what looks different from before, and these; `None`:
    /// all. `trust`: however empty a directory is.
    fn look_through(&mut self, read: Option<&BTreeSet<PathBuf>>, trust: bool) -> Look {
        let mut found = walk(&self.paths);
        self.places = std::mem::take(&mut found.places);
        found.unreadable.extend(self.emptied(trust));
        self.unsettled.clear();
        let mut look = Look { changes: Vec::new(), is_whole: true, again: None };
        for name in found.files.keys() {
            self.known.entry(name.clone()).or_default().missing = None;
        }
        let is_read = |file: &FoundFile| read.is_none_or(|paths| paths.contains(&file.path));
        let due = self.known.iter_mut().filter_map(|(name, known)| {
            let file = found.files.get(name)?;
            (is_read(file) || known.looks_different(file)).then_some((name, file, known))
        });
        let parse = self.parse;
        let due = due.collect();
        for (seen, file) in in_parallel(due, |(name, file, known): (_, _, &mut Known)| {
            (known.look_into(parse, name, file), file)
        }) {
            self.take(seen, file, &mut look);
        }
        self.missing(&found, trust, &mut look);
        look
    }

    /// Takes what looking into a file came to.
    fn take(&mut self, seen: Seen, file: &FoundFile, look: &mut Look) {
        match seen {
            Seen::Same => {}
            Seen::Changed(change) => look.changes.push(change),
            Seen::Unsettled => {
                self.unsettled.insert(file.path.clone());
                look.again_in(UNSETTLED);
            }
        }
    }

    /// Directories that hold nothing, in which there were files, and which are others than
    /// those were in: as when a volume is not mounted.
    fn emptied(&mut self, trust: bool) -> Vec<Unreadable> {
        let before = std::mem::take(&mut self.trusted);
        let held = |directory: &Path| {
            let below = |name: &&Arc<str>| Path::new(&***name).starts_with(directory);
            self.known.keys().filter(below).any(|name| Path::new(&**name) != directory)
        };
        let mut emptied = Vec::new();
        for (path, Listed { identity, holds }) in &self.places.listed {
            if trust || *holds || before.get(path) == Some(identity) || !held(path) {
                self.trusted.insert(path.clone(), *identity);
            } else {
                emptied.push(Unreadable { path: path.clone(), error: io::Error::other(EMPTIED) });
            }
        }
        emptied
    }

    /// What was there and is no longer seen: removed, or merely out of sight.
    fn missing(&mut self, found: &Walk, trust: bool, look: &mut Look) {
        let is_read = trust || self.known.values().any(|known| known.is_read);
        let paths = &self.paths;
        let is_elsewhere = |name: &str| !paths.iter().any(|path| Path::new(name).starts_with(path));

        // What cannot be looked into is itself worth a word, also when nothing
        // is known of what lies below it.
        for place in &found.unreadable {
            let name = name_of(&place.path);
            let why = place.error.to_string();
            let known = self.known.entry(name.clone()).or_default();
            look.changes.extend(known.report(&name, &why, || unreadable(&name, &why)));
        }
        self.known.retain(|name, known| {
            if found.files.contains_key(name) {
                return true;
            }
            if let Some(place) = found.unreadable.iter().find(|place| place.covers(name)) {
                let why = place.error.to_string();
                look.changes.extend(known.report(name, &why, || unreadable(name, &why)));
                return true;
            }
            if !is_read && is_elsewhere(name) {
                look.changes.extend(known.report(name, ELSEWHERE, || unreadable(name, ELSEWHERE)));
                return true;
            }
            if let Some(left) = known.is_missing_for(self.absence) {
                look.again_in(left);
                self.unsettled.insert((&**name).into());
                return true;
            }
            look.changes.push(Change::Removed(name.clone()));
            false
        });
    }
}

/// What looking into a file came to.
enum Seen {
    Same,
    Changed(Change),
    /// It is being written, or has vanished.
    Unsettled,
}

impl Known {
    /// Whether a file may hold something else than what is known.
    fn looks_different(&self, file: &FoundFile) -> bool {
        self.fingerprint != Some(Fingerprint::of(&file.metadata)) || self.unreadable.is_some()
    }

    /// Reads a file.
    fn look_into(&mut self, parse: Parse, name: &Arc<str>, file: &FoundFile) -> Seen {
        let now = Fingerprint::of(&file.metadata);
        let patient = match self.writing {
            Some((before, since)) if before == now => since.elapsed() < PATIENCE,
            _ => true,
        };
        // A pipe that the user names can be read once.
        let result = if file.metadata.is_file() {
            read_settled(&file.path, patient)
        } else if self.hash.is_some() {
            return Seen::Same;
        } else {
            read_any(&file.path).map(|text| (text, now))
        };
        match result {
            Ok((text, fingerprint)) => {
                self.writing = None;
                self.fingerprint = settled(fingerprint).then_some(fingerprint);
                let hash = hash(&text);
                if self.hash == Some(hash) && self.unreadable.is_none() {
                    return Seen::Same;
                }
                self.hash = Some(hash);
                self.unreadable = None;
                let content = content(parse, name, &text, &mut self.memory);
                self.is_read |= matches!(content, Content::Whole(_));
                Seen::Changed(Change::Put(name.clone(), content))
            }
            Err(ReadError::BeingWritten) => {
                if self.writing.is_none_or(|(before, _)| before != now) {
                    self.writing = Some((now, Instant::now()));
                }
                Seen::Unsettled
            }
            // It vanished since it was listed.
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Seen::Unsettled,
            Err(error) => {
                self.fingerprint = Some(now);
                let report = self.report(name, &error.to_string(), || refused(name, &error));
                report.map_or(Seen::Same, Seen::Changed)
            }
        }
    }

    /// It is not there. How long that is waited for yet, if it may be back.
    fn is_missing_for(&mut self, absence: Duration) -> Option<Duration> {
        let since = self.missing.get_or_insert_with(Instant::now).elapsed();
        absence.checked_sub(since).filter(|left| !left.is_zero())
    }

    /// Reports once that it cannot be read.
    fn report(
        &mut self,
        name: &Arc<str>,
        why: &str,
        diagnostic: impl FnOnce() -> Diagnostic,
    ) -> Option<Change> {
        if self.unreadable.as_deref() == Some(why) {
            return None;
        }
        self.unreadable = Some(why.to_owned());
        self.hash = None;
        Some(Change::Unreadable(name.clone(), diagnostic()))
    }
}

/// Does the same with each of these, on as many processors as there are, and gives what comes of
/// it in their order.
fn in_parallel<Job: Send, Made: Send>(
    jobs: Vec<Job>,
    make: impl Fn(Job) -> Made + Sync,
) -> Vec<Made> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let others = processors.min(jobs.len()).min(MOST_THREADS).saturating_sub(1);
    let jobs = Mutex::new(jobs.into_iter().enumerate());
    let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        let mut made = Vec::new();
        while let Some((place, job)) = next() {
            made.push((place, make(job)));
        }
        made
    };
    let mut made = thread::scope(|scope| {
        let start = |_| thread::Builder::new().name("files".into()).spawn_scoped(scope, work).ok();
        let others: Vec<_> = (0..others).filter_map(start).collect();
        let mut made = work();
        for other in others {
            made.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        made
    });
    made.sort_unstable_by_key(|(place, _)| *place);
    made.into_iter().map(|(_, made)| made).collect()
}

/// A file by its name, and what is in it.
pub type Text = (Arc<str>, Vec<u8>);

/// The text of all files below the PATHs, once; `-` is `stdin`. For commands
/// that look and do not watch.
pub fn read_all(paths: &[PathBuf], stdin: impl io::Read) -> (Vec<Text>, Vec<Diagnostic>) {
    let (mut texts, mut diagnostics) = (Vec::new(), Vec::new());
    let (dashes, paths): (Vec<_>, Vec<_>) =
        paths.iter().cloned().partition(|path| path.as_os_str() == "-");
    if !dashes.is_empty() {
        let name: Arc<str> = "<stdin>".into();
        match read_limited(stdin, 0) {
            Ok(text) => texts.push((name, text)),
            Err(error) => diagnostics.push(refused(&name, &error)),
        }
    }
    let found = walk(&paths);
    for (name, file) in &found.files {
        match read_any(&file.path) {
            Ok(text) => texts.push((name.clone(), text)),
            Err(error) => diagnostics.push(refused(name, &error)),
        }
    }
    for place in &found.unreadable {
        let name: Arc<str> = name_of(&place.path);
        diagnostics.push(unreadable(&name, &place.error));
    }
    (texts, diagnostics)
}

/// A file that was emptied, or whose contents were lost in a crash, is half
/// written: nobody removes rules that way on purpose.
fn content(parse: Parse, name: &Arc<str>, text: &[u8], memory: &mut Memory) -> Content {
    if text.iter().all(|byte| *byte == 0) {
        let mut why = unreadable(name, "it is empty, so it is taken for half written");
        why.help = Some(
            "its objects stay at their last good version; remove the file to remove them, or \
             leave a comment in it"
                .to_owned(),
        );
        return Content::Emptied(why);
    }
    parse(name, text, memory)
}

/// Whether a later change must show in the fingerprint.
fn settled(fingerprint: Fingerprint) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i128::try_from(now.as_nanos()).unwrap_or(i128::MAX);
    fingerprint.changed_at() + CLOCK_GRAIN.as_nanos() as i128 <= now
}

fn hash(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// What is said about a file that cannot be read.
fn unreadable(name: &Arc<str>, why: impl std::fmt::Display) -> Diagnostic {
    let mut finding = Diagnostic::new(&syntax::UNREADABLE, format!("{name} cannot be read: {why}"));
    finding.file = Some(name.clone());
    finding
}

/// The same for an error that may be the limit of size.
fn refused(name: &Arc<str>, error: &ReadError) -> Diagnostic {
    match error {
        ReadError::TooLarge { bytes } => documents::too_large(Some(name.clone()), *bytes),
        error => unreadable(name, error),
    }
}

#[cfg(test)]
mod tests;
