//! The store: the last good version of every object, and which of them are in
//! force.
//!
//! Sources (files now, an API server elsewhere) put what they read; the store
//! judges per object. An object that is refused stays at its last good version,
//! one that never was good is absent; a file that cannot be parsed leaves all
//! of its objects where they were. What the compiler refuses later goes back
//! through [`Store::reject`], so that "good" means "was in force".
//!
//! ```text
//! put / unreadable / remove  ->  effective()  ->  compile  ->  accept()
//!                                     ^              |
//!                                     +-- reject() <-+
//! ```
//!
//! A version that is good by itself, and has no room beside others, is
//! [withheld](Store::withhold): it waits, and the one before stays.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::diag::codes::syntax;
use crate::diag::{Diagnostic, Severity};
use crate::documents::{Read, Reading};
use crate::model::{Object, ObjectRef};

mod change;
mod kept;

pub(crate) use change::stands_again;

use change::Index;
pub use change::Replaced;
pub use kept::{Accepted, Kept, KeptChange, KeptMention, StoredDifference, StoredStore};

/// A document as it was read: what object it is, as far as that could be told,
/// the object if it is acceptable, and everything that was said about it.
#[derive(Clone, Debug, Default)]
pub struct Document {
    /// Which object; `None` when kind or name could not be made out.
    pub reference: Option<ObjectRef>,
    /// The object; `None` when it is refused.
    pub object: Option<Arc<Object>>,
    /// What is wrong or suspicious.
    pub diagnostics: Vec<Diagnostic>,
}

/// What a source says that one of its files (or objects) now holds.
#[derive(Clone, Debug)]
pub enum Content {
    /// It could be read to its end.
    Whole(Vec<Document>),
    /// It could not: everything in it stays as it was.
    Broken(Vec<Diagnostic>),
    /// There is nothing in it any more, which nobody does on purpose: what was in it stays as
    /// well, but for what is new in another file, to where it was moved.
    Emptied(Diagnostic),
}

impl From<Reading> for Content {
    fn from(reading: Reading) -> Self {
        // The rest of a text that is not YAML may have been cut off or taken
        // for something else: it is not trusted where something is in force.
        let unparsed = [syntax::NOT_YAML.id, syntax::TOO_LARGE.id];
        if reading.diagnostics.iter().any(|d| d.object.is_none() && unparsed.contains(&d.code)) {
            return Self::Broken(reading.diagnostics);
        }
        let mut by_object: BTreeMap<Option<ObjectRef>, Vec<Diagnostic>> = BTreeMap::new();
        for diagnostic in reading.diagnostics {
            by_object.entry(diagnostic.reference().cloned()).or_default().push(diagnostic);
        }
        let mut documents = Vec::with_capacity(reading.objects.len() + 1);
        for read in reading.objects {
            let Read { reference: reference @ Some(_), object, .. } = read else { continue };
            let diagnostics = by_object.remove(&reference).unwrap_or_default();
            documents.push(Document { reference, object, diagnostics });
        }
        let diagnostics: Vec<_> = by_object.into_values().flatten().collect();
        if !diagnostics.is_empty() {
            documents.push(Document { reference: None, object: None, diagnostics });
        }
        Self::Whole(documents)
    }
}

/// One place where an object is written.
#[derive(Clone, Debug)]
struct Mention {
    reference: ObjectRef,
    /// The last version that was in force, or was good and outdone by another
    /// mention of the same object.
    accepted: Option<Arc<Object>>,
    /// The version that was read last, until it is accepted or refused.
    candidate: Option<Arc<Object>>,
    diagnostics: Vec<Diagnostic>,
    /// Why the candidate waits, though it is good by itself.
    withheld: Option<Diagnostic>,
}

impl Mention {
    fn of(reference: ObjectRef, accepted: Option<Arc<Object>>) -> Self {
        Self { reference, accepted, candidate: None, diagnostics: Vec::new(), withheld: None }
    }

    fn current(&self) -> Option<&Arc<Object>> {
        self.new_version().or(self.accepted.as_ref())
    }

    /// The version that was not in force yet, unless it waits.
    fn new_version(&self) -> Option<&Arc<Object>> {
        self.candidate.as_ref().filter(|_| self.withheld.is_none())
    }

    /// Whether the object was not written in this place before, and is good there.
    fn is_new_here(&self) -> bool {
        self.candidate.is_some() && self.accepted.is_none()
    }

    /// Everything that was said about what was read.
    fn diagnostics(&self) -> impl Iterator<Item = &Diagnostic> {
        self.diagnostics.iter().chain(&self.withheld)
    }

    fn is_refused(&self) -> bool {
        self.diagnostics().any(|d| d.severity == Severity::Error)
    }
}

/// A file and what is written in it, in its order.
#[derive(Clone, Debug, Default)]
struct File {
    mentions: Vec<Mention>,
    /// What concerns the file as a whole: why it could not be read, and
    /// documents whose object could not be made out.
    diagnostics: Vec<Diagnostic>,
}

/// Something that was read and is not in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Rejected {
    /// The file (or other place) that it was read from.
    pub file: Arc<str>,
    /// The object; `None` when the whole file is concerned, or when it could
    /// not be made out which object was meant.
    pub object: Option<ObjectRef>,
    /// Whether an earlier version stays in force. For a whole file, or a directory: whether
    /// any of its objects do.
    pub kept: bool,
    /// Why.
    pub diagnostics: Vec<Diagnostic>,
}

/// The last good version of every object. Keyed by file, in path order.
#[derive(Clone, Debug, Default)]
pub struct Store {
    files: BTreeMap<Arc<str>, File>,
    /// What was accepted last, for objects that moved to a file in which they
    /// are wrong.
    in_force: BTreeMap<ObjectRef, Arc<Object>>,
    index: Index,
    /// Files with nothing in them, whose objects stay.
    emptied: BTreeSet<Arc<str>>,
    /// It was written down, and nothing was accepted since.
    is_restored: bool,
}

impl Store {
    fn of(files: BTreeMap<Arc<str>, File>, in_force: BTreeMap<ObjectRef, Arc<Object>>) -> Self {
        let mut index = Index::default();
        for (name, file) in &files {
            index.place(name, &[], &file.mentions);
            index.note(name, file);
        }
        let all = files.values().flat_map(|file| &file.mentions);
        let all = all.map(|mention| &mention.reference).chain(in_force.keys());
        index.touched.extend(all.cloned());
        Self { files, in_force, index, emptied: BTreeSet::new(), is_restored: true }
    }

    /// What a file holds now.
    pub fn put(&mut self, name: &Arc<str>, content: Content) {
        let file = self.files.entry(name.clone()).or_default();
        self.emptied.remove(name);
        let documents = match content {
            Content::Broken(diagnostics) => {
                file.diagnostics = diagnostics;
                self.index.files.insert(name.clone());
                self.index.note(name, file);
                return;
            }
            Content::Emptied(why) => {
                self.put(name, Content::Broken(vec![why]));
                self.emptied.insert(name.clone());
                return self.let_go(name);
            }
            Content::Whole(documents) => documents,
        };
        let before = std::mem::take(&mut file.mentions);
        let mut left: Vec<Option<&Mention>> = before.iter().map(Some).collect();
        let mut first = 0;
        file.diagnostics.clear();
        let mut unknown = false;
        for document in documents {
            let Some(reference) = document.reference else {
                unknown |= document.diagnostics.iter().any(|d| d.severity == Severity::Error);
                file.diagnostics.extend(document.diagnostics);
                continue;
            };
            // The versions before stand in the same order, so that an object
            // written twice in one file keeps both histories.
            while left.get(first).is_some_and(Option::is_none) {
                first += 1;
            }
            let known = left
                .iter_mut()
                .skip(first)
                .find_map(|mention| mention.take_if(|mention| mention.reference == reference));
            let mut accepted = known.and_then(|mention| mention.accepted.clone());
            if self.is_restored
                && let (Some(known), Some(object)) = (&mut accepted, &document.object)
                && Object::is_same(known, object)
            {
                // Whoever has read it keeps it, too: it is held once by that.
                let in_force = self.in_force.get_mut(&reference);
                if let Some(one) = in_force.filter(|one| Arc::ptr_eq(one, known)) {
                    one.clone_from(object);
                }
                known.clone_from(object);
            }
            // What is accepted already is not judged again.
            let candidate = document.object.filter(|object| {
                !accepted.as_ref().is_some_and(|known| Object::is_same(known, object))
            });
            let diagnostics = document.diagnostics;
            let mention = Mention { candidate, diagnostics, ..Mention::of(reference, accepted) };
            if known.is_none() || mention.candidate.is_some() || mention.is_refused() {
                self.index.touched.insert(mention.reference.clone());
            }
            file.mentions.push(mention);
        }
        file.mentions.shrink_to_fit();
        let gone = left.into_iter().flatten();
        self.index.touched.extend(gone.clone().map(|mention| mention.reference.clone()));
        if unknown {
            // A document that cannot be told may be any of those that are no
            // longer seen: they stay.
            let seen: BTreeSet<_> = file.mentions.iter().map(|m| m.reference.clone()).collect();
            let stays = |mention: &&Mention| !seen.contains(&mention.reference);
            let stay = |one: &Mention| Mention::of(one.reference.clone(), one.accepted.clone());
            file.mentions.extend(gone.filter(stays).map(stay));
        }
        self.index.place(name, &before, &file.mentions);
        self.index.note(name, file);
        if !self.emptied.is_empty() {
            let new = file.mentions.iter().filter(|mention| mention.is_new_here());
            let files = new.flat_map(|mention| self.index.files_of(&mention.reference));
            let left: BTreeSet<_> =
                files.filter(|one| self.emptied.contains(*one)).cloned().collect();
            left.iter().for_each(|one| self.let_go(one));
        }
    }

    /// A file with nothing in it no longer has what is new in another one.
    fn let_go(&mut self, name: &Arc<str>) {
        let Some(mut file) = self.files.remove(name) else { return };
        let before = std::mem::take(&mut file.mentions);
        // Its own are not among those, as it is not.
        let is_moved = |one: &&Mention| self.mentions_of(&one.reference).any(Mention::is_new_here);
        let moved: BTreeSet<_> =
            before.iter().filter(is_moved).map(|one| one.reference.clone()).collect();
        let stays = before.iter().filter(|one| !moved.contains(&one.reference));
        file.mentions = stays.cloned().collect();
        self.index.place(name, &before, &file.mentions);
        self.index.note(name, &file);
        self.index.touched.extend(moved);
        self.files.insert(name.clone(), file);
    }

    /// A file cannot be read at the moment: all of its objects stay.
    pub fn unreadable(&mut self, file: &Arc<str>, why: Diagnostic) {
        self.put(file, Content::Broken(vec![why]));
    }

    /// A file is gone, and its objects with it.
    pub fn remove(&mut self, name: &str) {
        let Some((name, File { mentions, .. })) = self.files.remove_entry(name) else { return };
        self.index.place(&name, &mentions, &[]);
        self.index.noted.remove(&name);
        self.emptied.remove(&name);
        self.index.touched.extend(mentions.into_iter().map(|mention| mention.reference));
    }

    /// The files that are known, in path order.
    pub fn files(&self) -> impl Iterator<Item = &Arc<str>> {
        self.files.keys()
    }

    /// The objects that should be in force, sorted by what they are. Where an
    /// object is written more than once the last in path order counts, and
    /// where that one is refused, its last good version.
    pub fn effective(&self) -> BTreeMap<ObjectRef, Arc<Object>> {
        let mut all: Vec<(&ObjectRef, Option<&Arc<Object>>)> =
            self.mentions().map(|mention| (&mention.reference, mention.current())).collect();
        // Those of one object stay in path order.
        all.sort_by_key(|(reference, _)| *reference);
        let each = all.chunk_by(|(one, _), (other, _)| one == other);
        each.filter_map(|mentions| {
            let (reference, _) = *mentions.first()?;
            let last = mentions.iter().rev().find_map(|(_, object)| *object);
            let object = last.or_else(|| self.in_force.get(reference))?;
            Some((reference.clone(), object.clone()))
        })
        .collect()
    }

    /// A store of objects of which nothing more is known than that they were in
    /// force.
    pub fn of_objects(objects: impl IntoIterator<Item = Arc<Object>>) -> Self {
        let mut files: BTreeMap<Arc<str>, File> = BTreeMap::new();
        let mut in_force = BTreeMap::new();
        for object in objects {
            let reference = object.reference();
            if let Some(file) = &object.meta.origin.file {
                let mention = Mention::of(reference.clone(), Some(object.clone()));
                files.entry(file.clone()).or_default().mentions.push(mention);
            }
            in_force.insert(reference, object);
        }
        Self::of(files, in_force)
    }

    /// These are in force; what is known of them already stays.
    pub fn remember(&mut self, objects: impl IntoIterator<Item = Arc<Object>>) {
        for object in objects {
            let reference = object.reference();
            self.index.touched.insert(reference.clone());
            self.in_force.entry(reference).or_insert(object);
        }
    }

    /// What was read and is not in force, and why.
    pub fn rejected(&self) -> Vec<Rejected> {
        let mut rejected = Vec::new();
        for (name, file) in self.noted() {
            if file.diagnostics.iter().any(|d| d.severity == Severity::Error) {
                rejected.push(Rejected {
                    file: name.clone(),
                    object: None,
                    kept: self.below(name).any(|mention| mention.current().is_some()),
                    diagnostics: errors(&file.diagnostics),
                });
            }
            rejected.extend(file.mentions.iter().filter(|m| m.is_refused()).map(|mention| {
                Rejected {
                    file: name.clone(),
                    object: Some(mention.reference.clone()),
                    kept: mention.current().is_some()
                        || self.in_force.contains_key(&mention.reference),
                    diagnostics: errors(mention.diagnostics()),
                }
            }));
        }
        rejected
    }

    /// Everything that was said about what was read, warnings included.
    pub fn diagnostics(&self) -> impl Iterator<Item = &Diagnostic> {
        self.noted().flat_map(|(_, file)| {
            file.diagnostics.iter().chain(file.mentions.iter().flat_map(Mention::diagnostics))
        })
    }

    fn mentions(&self) -> impl Iterator<Item = &Mention> {
        self.files.values().flat_map(|file| &file.mentions)
    }

    /// What is written in this file, or in those of this directory.
    fn below<'s>(&'s self, name: &'s Arc<str>) -> impl Iterator<Item = &'s Mention> {
        let files = self.files.range(name.clone()..);
        let files = files.take_while(|(file, _)| file.starts_with(&**name));
        let files = files.filter(|(file, _)| Path::new(&***file).starts_with(&**name));
        files.flat_map(|(_, file)| &file.mentions)
    }

    /// The files of which anything was said.
    fn noted(&self) -> impl Iterator<Item = (&Arc<str>, &File)> {
        self.index.noted.iter().filter_map(|name| self.files.get_key_value(name))
    }
}

fn errors<'d>(diagnostics: impl IntoIterator<Item = &'d Diagnostic>) -> Vec<Diagnostic> {
    diagnostics.into_iter().filter(|d| d.severity == Severity::Error).cloned().collect()
}

#[cfg(test)]
mod tests;
