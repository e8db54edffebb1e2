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

pub mod files;
pub mod read;
pub mod walk;
pub mod watch;

use std::sync::Arc;

use redirector_core::diag::Diagnostic;
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

/// Changes that belong together: they come in force at one instant.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The changes.
    pub changes: Vec<Change>,
}

impl Batch {
    /// Puts the changes into the store.
    pub fn put_into(self, store: &mut Store) {
        for change in self.changes {
            match change {
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
