//! What is written down of a store, and what is made of that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;

use super::{File, Mention, Store};
use crate::difference;
use crate::model::{Object, ObjectRef};
use crate::stored::{self, Lost, Raw};

/// What is written down of a store: enough to make it again.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Kept {
    /// What each file mentions, in its order.
    pub files: BTreeMap<Arc<str>, Vec<KeptMention>>,
    /// The good version of every object: the one that was in force last.
    pub good: BTreeMap<ObjectRef, Arc<Object>>,
}

/// One place where an object is written.
#[derive(Clone, PartialEq, Debug)]
pub struct KeptMention {
    /// Which object.
    pub object: ObjectRef,
    /// Its last good version there.
    pub accepted: Accepted,
}

/// The last good version of an object in one place.
#[derive(Clone, PartialEq, Debug)]
pub enum Accepted {
    /// It never had one.
    Never,
    /// The one that is good altogether.
    Good,
    /// Another, outdone by a mention elsewhere.
    Other(Arc<Object>),
}

/// What makes what is written down of a store another.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct KeptChange {
    /// What files mention that may mention something else; `None` of those that are
    /// gone.
    pub files: BTreeMap<Arc<str>, Option<Vec<KeptMention>>>,
    /// What is good that was not; `None` of objects of which nothing is any more.
    pub good: BTreeMap<ObjectRef, Option<Arc<Object>>>,
}

impl Mention {
    /// Its last good version, once this one of the object is in force.
    pub(super) fn to_accept<'a>(
        &'a self,
        good: Option<&'a Arc<Object>>,
    ) -> Option<&'a Arc<Object>> {
        // One that came here from another file and was wrong on arrival.
        self.current().or_else(|| good.filter(|_| self.is_refused()))
    }

    fn kept(&self, good: Option<&Arc<Object>>) -> KeptMention {
        let accepted = match (self.to_accept(good), good) {
            (None, _) => Accepted::Never,
            (Some(one), Some(good)) if Object::is_same(one, good) => Accepted::Good,
            (Some(one), _) => Accepted::Other(one.clone()),
        };
        KeptMention { object: self.reference.clone(), accepted }
    }
}

impl Kept {
    /// Makes it what it is from now on.
    pub fn apply(&mut self, change: KeptChange) {
        for (name, mentions) in change.files {
            match mentions {
                Some(mentions) => _ = self.files.insert(name, mentions),
                None => _ = self.files.remove(&name),
            }
        }
        for (object, version) in change.good {
            match version {
                Some(version) => _ = self.good.insert(object, version),
                None => _ = self.good.remove(&object),
            }
        }
    }
}

impl Store {
    /// What is to be written down once that which [`effective`](Self::effective)
    /// gives is in force. [`accept`](Self::accept) makes no difference to it.
    pub fn kept(&self) -> Kept {
        let good = self.effective();
        let mention = |mention: &Mention| mention.kept(good.get(&mention.reference));
        let file = |file: &File| file.mentions.iter().map(mention).collect();
        let files = self.files.iter().map(|(name, one)| (name.clone(), file(one))).collect();
        Kept { files, good }
    }

    /// What makes that which was to be written down when something was accepted last
    /// be what is to be now. Looks at no more than what was touched since.
    pub fn kept_since(&self) -> KeptChange {
        let touched = self.index.touched.iter();
        let of_touched = touched.flat_map(|object| self.index.files_of(object));
        let file = |file: &File| {
            let mentions = file.mentions.iter();
            mentions.map(|one| one.kept(self.effective_of(&one.reference))).collect()
        };
        // A file with many objects that were touched is looked at once.
        let files: BTreeSet<_> = of_touched.chain(&self.index.files).collect();
        let files = files.into_iter().map(|name| (name.clone(), self.files.get(name).map(file)));
        let good = self.changes().into_iter().map(|(object, change)| (object, change.after));
        KeptChange { files: files.collect(), good: good.collect() }
    }

    /// The good version of every object: what was in force last.
    pub fn good(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.in_force.values()
    }

    /// The store of which this was written down.
    pub fn of_kept(kept: &Kept) -> Self {
        let mention = |one: &KeptMention| {
            let accepted = match &one.accepted {
                Accepted::Never => None,
                Accepted::Good => kept.good.get(&one.object).cloned(),
                Accepted::Other(object) => Some(object.clone()),
            };
            Mention::of(one.object.clone(), accepted)
        };
        let files = kept.files.iter().map(|(name, mentions)| {
            let mentions = mentions.iter().map(mention).collect();
            (name.clone(), File { mentions, diagnostics: Vec::new() })
        });
        Self::of(files.collect(), kept.good.clone())
    }

    /// The store that an earlier version wrote as this and what is different since.
    /// What of it cannot be read is left out, and told.
    pub fn read(written: StoredStore, difference: StoredDifference, lost: &mut Vec<Lost>) -> Self {
        let mut files = written.files;
        difference.files.apply(&mut files);
        let files = files.into_iter().filter_map(|(name, raw)| {
            let file = stored::part(&raw, format_args!("what is known of the file {name}"));
            let file = file.map_err(|why| lost.push(why)).ok()?;
            Some((name, File::read(file, lost)))
        });
        let files = files.collect();
        let in_force = stored::objects(written.in_force, difference.in_force, lost);
        // An object is written in its file and as in force: one loss, said once.
        lost.sort_by(|a, b| a.what.cmp(&b.what));
        lost.dedup();
        Self::of(files, in_force)
    }
}

/// A [`Store`] as an earlier version wrote it down.
#[derive(Debug, Deserialize)]
pub struct StoredStore {
    files: BTreeMap<Arc<str>, Raw>,
    in_force: Vec<Raw>,
}

/// What makes one another, as that was written down.
#[derive(Debug, Deserialize)]
pub struct StoredDifference {
    files: difference::Difference<Arc<str>, Raw>,
    in_force: difference::Difference<ObjectRef, Raw>,
}

/// A [`File`] as it was written down.
#[derive(Deserialize)]
struct StoredFile {
    mentions: Vec<StoredMention>,
}

/// A [`Mention`] as it was written down.
#[derive(Deserialize)]
struct StoredMention {
    reference: ObjectRef,
    accepted: Option<Raw>,
}

impl File {
    /// What was written down; what of it cannot be read is left out.
    fn read(stored: StoredFile, lost: &mut Vec<Lost>) -> Self {
        let mut read = |raw: Raw| stored::object(&raw).map_err(|(_, why)| lost.push(why)).ok();
        let mentions = stored.mentions.into_iter();
        let mentions =
            mentions.map(|one| Mention::of(one.reference, one.accepted.and_then(&mut read)));
        Self { mentions: mentions.collect(), diagnostics: Vec::new() }
    }
}
