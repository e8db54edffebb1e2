//! The state directory: what the kernel's tables cannot say.
//!
//! The tables hold numbers; names, files and lines lie here, and so does what
//! must outlive the daemon. What grows with the configuration lies in a journal,
//! which is appended to and synced; all else is JSON, written beside its place,
//! synced and then renamed. A reader never sees half of anything.
//!
//! | file | what |
//! |---|---|
//! | `journal/N` | what each generation was made of, and what was good: [`Keeper`], [`Snapshot`], [`HistoryEntry`] |
//! | `bypass.json` | what is left alone, and until when |
//! | `draining.json` | endpoints that have gone, and when connections to them are reset |
//! | `grown.json` | the sizes that the tables have grown to |
//! | `report.json` | [`Report`]: what the daemon knows beyond the tables |
//! | `report-stale.json` | the same, when what it knows since could not be written |
//! | `daemon.lock` | locked while a daemon lives; holds its process id and host |
//! | `succession.lock` | locked while somebody who has handed over is not followed yet |
//! | `control.sock` | where a living daemon takes requests |
//!
//! A journal consists of frames ([`frame`]), which make up records ([`record`]); the
//! files that earlier versions wrote in its place are told in [`old`].

mod bypass;
mod frame;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod history;
mod journal;
mod keeper;
mod locks;
mod old;
mod record;
mod report;
mod snapshot;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::datapath::Sizes;
use crate::readers::{May, Readers, admit};
use redirector_core::drain::Draining;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use bypass::{BypassChange, Bypassed, bypass};
pub use history::{HistoryEntry, Replacement, steps_back};
pub use keeper::{Keeper, Left, Unread};
use locks::{LOCK, SUCCESSION, is_at};
pub use locks::{Lingering, Lock};
pub use record::GenerationChange;
pub use report::{
    EmptiedShare, FailingEndpoint, Finding, GatewayListener, Hold, KnownName, Pinned, Refused,
    Report, StarvedGateway, Tested, Unexamined, UnknownWorkload, UnresolvedName, WaitingChanges,
    Watching, digest,
};
pub use snapshot::{Contents, Head, Resolved, Snapshot, Whole};

/// The file of what is left alone.
const BYPASS: &str = "bypass.json";

/// Where a daemon takes requests.
const CONTROL_SOCKET: &str = "control.sock";

/// Where a relay takes daemons.
const RELAY_SOCKET: &str = "relay.sock";

/// The file of the sizes that tables have grown to.
const GROWN: &str = "grown.json";

/// The file of what the daemon knows.
const REPORT: &str = "report.json";

/// The same, when what it knows since could not be written.
const STALE_REPORT: &str = "report-stale.json";

/// The file of endpoints that have gone.
const DRAINING: &str = "draining.json";

/// What can go wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The system refused something.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A file is there and is not what it has to be.
    #[error("{} is damaged or of another version: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Another daemon has it.
    #[error("another redirector (process {holder}) uses the state directory {}", path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
        /// The other one, as far as it said: its process id, and the host's name
        /// where it is another. A pod is a host by that.
        holder: String,
    },
}

/// The state directory.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Who may look beside the owner, where this process writes.
    readers: Option<Readers>,
}

impl StateDir {
    /// The directory at `path`, which may not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), readers: None }
    }

    /// The same, where these may read what this process writes.
    #[must_use]
    pub fn with_readers(self, readers: Option<Readers>) -> Self {
        Self { readers, ..self }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes what is missing of it, for its owner and those readers only: it names every
    /// service and workload of the node.
    pub fn create(&self) -> Result<(), StateError> {
        let path = self.path.join(journal::DIRECTORY);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|source| io_error("cannot make the directory", &path, source))
    }

    /// Lets the readers read what is there, and nobody whom a daemon before has let in.
    /// Only for who holds the lock.
    ///
    /// # Errors
    ///
    /// The system's refusal.
    pub fn admit_readers(&self) -> Result<(), StateError> {
        // Who could open the lock could hold it, and who relays is root's to ask.
        let files =
            [BYPASS, DRAINING, GROWN, REPORT, STALE_REPORT].map(|name| self.path.join(name));
        for file in &files {
            // Half written by one that was killed, for the readers it had.
            let _ = fs::remove_file(beside(file));
            self.admit(file, May::Read)?;
        }
        let journal = self.path.join(journal::DIRECTORY);
        for entry in fs::read_dir(&journal).into_iter().flatten().flatten() {
            self.admit(&entry.path(), May::Read)?;
        }
        self.admit(&journal, May::Read)?;
        self.admit(&self.path, May::Read)
    }

    /// Lets the readers do this with something that lies here.
    fn admit(&self, path: &Path, may: May) -> Result<(), StateError> {
        match admit(path, self.readers, may) {
            // Another process has put something else in its place.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io_error("cannot give to the group of --read-group", path, error)),
            Ok(()) => Ok(()),
        }
    }

    /// Lets the readers ask: to be called when a daemon listens there.
    ///
    /// # Errors
    ///
    /// The system's refusal.
    pub fn admit_to_control(&self) -> Result<(), StateError> {
        self.admit(&self.control_socket(), May::Connect)
    }

    /// Where a living daemon takes requests.
    pub fn control_socket(&self) -> PathBuf {
        self.path.join(CONTROL_SOCKET)
    }

    /// Where a relay of gateways takes daemons.
    pub fn relay_socket(&self) -> PathBuf {
        self.path.join(RELAY_SOCKET)
    }

    /// What a generation was made of; `None` when it is not kept.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or may be in what cannot be read.
    pub fn snapshot(&self, generation: u64) -> Result<Option<Snapshot>, StateError> {
        let (found, mut damage) = journal::read(self, generation)?;
        let Some(mut found) = found else {
            return match damage.pop() {
                Some(error) => Err(error),
                None => old::snapshot(self, generation),
            };
        };
        let snapshot = found.snapshot();
        if snapshot.generation == generation {
            return Ok(Some(snapshot));
        }
        damage.append(&mut found.damage);
        damage.extend(found.cut);
        damage.pop().map_or(Ok(None), Err)
    }

    /// The same, all of it.
    ///
    /// # Errors
    ///
    /// Why it cannot be made again.
    pub fn whole(&self, generation: u64) -> Result<Snapshot, String> {
        let found = self.snapshot(generation).map_err(|error| error.to_string())?;
        let found = found.ok_or_else(|| format!("generation {generation} is not kept"))?;
        found.insist()?;
        Ok(found)
    }

    /// Those of the generations that cannot be made again because a journal is damaged, and why.
    pub fn damaged(&self, generations: &[u64]) -> BTreeMap<u64, String> {
        // What each is made of is read where that can make a difference: it may be much.
        if !history::is_damaged(self) {
            return BTreeMap::new();
        }
        generations.iter().filter_map(|one| Some((*one, self.whole(*one).err()?))).collect()
    }

    /// The generations that are kept, the oldest first, and what each changed. Those
    /// that an earlier version wrote are not told before a daemon has carried them over.
    ///
    /// # Errors
    ///
    /// When the journal cannot be read. What is damaged in it is left out.
    pub fn history(&self) -> Result<Vec<HistoryEntry>, StateError> {
        history::history(self)
    }

    /// The generations that are kept, oldest first.
    pub fn generations(&self) -> Vec<u64> {
        let entries = self.history().unwrap_or_default();
        if entries.is_empty() {
            return old::generations(self);
        }
        entries.iter().map(|entry| entry.head.generation).filter(|one| *one != 0).collect()
    }

    /// The files that were read last, those that are gone since included.
    pub fn files(&self) -> Vec<Arc<str>> {
        let files = journal::files(self).unwrap_or_default();
        if !files.is_empty() {
            return files;
        }
        let store = old::last_good(self).ok().flatten();
        store.iter().flat_map(|(store, _)| store.files().cloned()).collect()
    }

    /// Keeps what is left alone. That nothing is has room on a full disk, too.
    pub fn save_bypassed(&self, bypassed: &[Bypassed]) -> Result<(), StateError> {
        if bypassed.is_empty() {
            return self.remove_file(BYPASS);
        }
        self.save(BYPASS, &bypassed)
    }

    /// What is left alone; what is over, too, until somebody ends it.
    pub fn bypassed(&self) -> Result<Vec<Bypassed>, StateError> {
        Ok(self.load(BYPASS)?.unwrap_or_default())
    }

    /// Keeps which endpoints drain.
    pub fn save_draining(&self, draining: &Draining) -> Result<(), StateError> {
        self.save(DRAINING, draining)
    }

    /// Which endpoints drain.
    pub fn draining(&self) -> Result<Draining, StateError> {
        Ok(self.load(DRAINING)?.unwrap_or_default())
    }

    /// Keeps the sizes that the tables have grown to, and those that were asked
    /// for.
    pub fn save_grown(&self, asked: &Sizes, grown: &Sizes) -> Result<(), StateError> {
        self.save(GROWN, &(asked, grown))
    }

    /// The sizes that the tables have grown to, if these were asked for then.
    pub fn grown(&self, asked: &Sizes) -> Result<Option<Sizes>, StateError> {
        let kept: Option<(Sizes, Sizes)> = self.load(GROWN)?;
        Ok(kept.filter(|(then, _)| then == asked).map(|(_, grown)| grown))
    }

    /// Publishes what the daemon knows. Where that cannot be written, what was
    /// published before is marked as stale.
    pub fn save_report(&self, report: &Report) -> Result<(), StateError> {
        let saved = self.save(REPORT, report);
        let (fresh, stale) = (self.path.join(REPORT), self.path.join(STALE_REPORT));
        // A name takes no room on a full disk. Neither is there as a rule.
        let _ = match saved {
            Ok(()) => fs::remove_file(stale),
            Err(_) => fs::rename(fresh, stale),
        };
        saved
    }

    /// Whether a daemon has pinned something in this directory, in this boot of the
    /// machine, that was not unloaded since: where there is nothing now, somebody has
    /// removed it, and so detached everything.
    pub fn had_pinned(&self, directory: &Path) -> bool {
        let report = self.report().ok().flatten();
        report.is_some_and(|report| report.pinned == Some(Pinned::now(directory)))
    }

    /// Whether it is known that no daemon has left anything here, as after `unload`.
    pub fn is_removed(&self) -> bool {
        matches!(self.report(), Ok(None))
    }

    /// What the daemon, or the last one, knew.
    pub fn report(&self) -> Result<Option<Report>, StateError> {
        if let Some(report) = self.load(REPORT)? {
            return Ok(Some(report));
        }
        let stale: Option<Report> = self.load(STALE_REPORT)?;
        Ok(stale.map(|report| Report { is_stale: true, ..report }))
    }

    /// Removes everything that belongs here, and the directory when nothing
    /// else is in it.
    pub fn remove(&self) -> Result<(), StateError> {
        for number in journal::numbers(self)? {
            self.remove_file(&journal::name(number))?;
        }
        for name in journal::leftovers(self) {
            self.remove_file(&name)?;
        }
        old::remove(self)?;
        let files = [BYPASS, DRAINING, GROWN, REPORT, STALE_REPORT];
        for name in files.into_iter().chain([CONTROL_SOCKET, RELAY_SOCKET, SUCCESSION, LOCK]) {
            self.remove_file(name)?;
        }
        // What somebody else put here is theirs.
        let _ = fs::remove_dir(self.path.join(journal::DIRECTORY));
        let _ = fs::remove_dir(&self.path);
        Ok(())
    }

    fn remove_file(&self, name: &str) -> Result<(), StateError> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("cannot remove", &path, error))
            }
            _ => Ok(()),
        }
    }

    fn save(&self, name: &str, value: &impl Serialize) -> Result<(), StateError> {
        let path = self.path.join(name);
        let beside = beside(&path);
        let failed = |source| io_error("cannot write", &path, source);
        let json = serde_json::to_vec(value)
            .map_err(|error| StateError::Damaged { path: path.clone(), why: error.to_string() })?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)
            .map_err(failed)?;
        file.write_all(&json).and_then(|()| file.sync_all()).map_err(failed)?;
        self.admit(&beside, May::Read)?;
        self.put_in_place(&beside, &path)
    }

    /// Gives what was written beside it the place of something. That has reached the
    /// disk when this returns, or a warning says that it has not; an error says that the
    /// place is as it was.
    fn put_in_place(&self, beside: &Path, path: &Path) -> Result<(), StateError> {
        let failed = |source| io_error("cannot write", path, source);
        let directory = File::open(path.parent().unwrap_or(&self.path)).map_err(failed)?;
        fs::rename(beside, path).map_err(failed)?;
        // The rename, too, has to reach the disk; it is done in any case.
        if let Err(error) = directory.sync_all() {
            let path = path.display();
            tracing::warn!("{path}: a crash of the machine may take back what is written: {error}");
        }
        Ok(())
    }

    fn load<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let path = self.path.join(name);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("cannot read", &path, error)),
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| StateError::Damaged { path, why: error.to_string() })
    }
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> StateError {
    StateError::Io { what, path: path.to_owned(), source }
}

/// Where a file is written before it gets its place.
fn beside(path: &Path) -> PathBuf {
    path.with_extension("json.new")
}

#[cfg(test)]
mod round_trip;
#[cfg(test)]
mod tests;
