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
//! * [`waiting`]: what was read and is not in force yet, and what of it is next.

pub mod files;
pub mod read;
pub mod waiting;
pub mod walk;
pub mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use redirector_core::diag::Diagnostic;
use redirector_core::documents::Memory;
use redirector_core::model::ObjectRef;
use redirector_core::store::{Content, Store};
use redirector_core::{documents, yaml};

/// What changes so soon after another change is read with it. Whoever writes several
/// things one after the other, as `kubectl apply` and `git` do, needs less for each, and
/// what the API server tells of on two watches is not in order: this is more than they
/// are apart, and less than anybody waits for.
pub const QUIET: Duration = Duration::from_millis(5);

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

/// Whether a change may go before others that came earlier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// A pod of this node, which waits to be known: it does.
    Awaited,
    /// Something comes into being, or goes: it does not.
    New,
    /// What is there is another by now: it does where it concerns nothing that waits.
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

impl Arrival {
    /// Whether people write what is put or removed; endpoints come and go by themselves.
    pub fn is_written(&self) -> bool {
        self.of.as_ref().is_none_or(|object| object.kind.is_written())
    }
}

/// Changes that were read at once: they come in force at one instant, but for what may
/// go first.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The changes.
    pub arrivals: Vec<Arrival>,
}

impl Batch {
    /// What one look at files found.
    pub fn of_files(changes: Vec<Change>, since: Instant) -> Self {
        let arrival = |change| Arrival { change, of: None, turn: Turn::New, since };
        Self { arrivals: changes.into_iter().map(arrival).collect() }
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
pub type Parse = fn(&Arc<str>, &[u8], &mut Memory) -> Content;

/// Reads the documents of a file's bytes.
pub fn parse(name: &Arc<str>, bytes: &[u8]) -> Content {
    parse_again(name, bytes, &mut Memory::default())
}

/// The same, but for documents that are known from before: they are not decoded again.
pub fn parse_again(name: &Arc<str>, bytes: &[u8], memory: &mut Memory) -> Content {
    match yaml::decode_bytes(bytes) {
        Ok(text) => documents::read_again(Some(name.clone()), &text, memory).into(),
        Err(error) => Content::Broken(vec![documents::not_text(Some(name.clone()), error)]),
    }
}
