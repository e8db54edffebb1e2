//! Where the configuration comes from.
//!
//! A source reads and parses; it sends [`Batch`]es of changes to the control
//! loop, which puts them into the store and brings them in force together.
//! Files are one source; another only has to send batches.
//!
//! * [`walk`]: which files a PATH stands for, and what of it cannot be read.
//! * [`read`]: the text of one file, once nobody is writing it.
//! * [`files`]: what changed since the last look.
//! * [`watch`]: when to look.
//! * [`waiting`]: what was read and is not in force yet, and whose turn comes when.

pub mod files;
pub mod read;
pub mod waiting;
pub mod walk;
pub mod watch;

use std::sync::Arc;
use std::time::Instant;

use redirector_core::diag::Diagnostic;
use redirector_core::model::ObjectRef;
use redirector_core::store::{Content, Store};
use redirector_core::{documents, yaml};

/// One thing that changed.
#[derive(Clone, Debug)]
pub enum Change {
    /// It was read, whole or broken.
    Put(Arc<str>, Content),
    /// It cannot be read at the moment: what it held stays.
    Unreadable(Arc<str>, Diagnostic),
    /// It is gone, and everything in it.
    Removed(Arc<str>),
}

impl Change {
    /// What changed, as the store names it.
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Put(name, _) | Self::Unreadable(name, _) | Self::Removed(name) => name,
        }
    }
}

/// When a change has its turn, where others wait: the first goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Turn {
    /// A pod of this node: it waits to be known.
    Awaited,
    /// Something comes into being, or goes.
    New,
    /// What is there is another by now.
    Changed,
}

/// A change that was read.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// What changed.
    pub change: Change,
    /// The object that it is; `None` for a file of any number of them.
    pub of: Option<ObjectRef>,
    /// When it has its turn.
    pub turn: Turn,
    /// When it was seen.
    pub since: Instant,
}

/// Changes that were read at once.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The changes.
    pub arrivals: Vec<Arrival>,
    /// They belong together and come in force at one instant; others do so one by one
    /// where that is sooner.
    pub together: bool,
}

impl Batch {
    /// What one look at files found.
    pub fn of_files(changes: Vec<Change>, since: Instant) -> Self {
        let arrival = |change| Arrival { change, of: None, turn: Turn::Changed, since };
        Self { arrivals: changes.into_iter().map(arrival).collect(), together: true }
    }

    /// Puts the changes into the store.
    pub fn put_into(self, store: &mut Store) {
        for arrival in self.arrivals {
            match arrival.change {
                Change::Put(name, content) => store.put(&name, content),
                Change::Unreadable(name, why) => store.unreadable(&name, why),
                Change::Removed(name) => store.remove(&name),
            }
        }
    }
}

/// Turns the text of a file into documents.
pub type Parse = fn(&Arc<str>, &[u8]) -> Content;

/// Reads the documents of a file's bytes.
pub fn parse(name: &Arc<str>, bytes: &[u8]) -> Content {
    match yaml::decode_bytes(bytes) {
        Ok(text) => documents::read(Some(name.clone()), &text).into(),
        Err(error) => Content::Broken(vec![documents::not_text(Some(name.clone()), error)]),
    }
}
