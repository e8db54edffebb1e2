//! What is to change, found among what was touched since the last change came in
//! force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{File, Mention, Store};
use crate::diag::Diagnostic;
use crate::diag::codes::references;
use crate::model::{Object, ObjectRef};

/// An object that came, went or is another.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Replaced {
    /// As it was; `None` when it was not there.
    pub before: Option<Arc<Object>>,
    /// As it is; `None` when it is gone.
    pub after: Option<Arc<Object>>,
}

/// Where things are in the files.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Index {
    /// Where objects are written, in the order of [`Store::files`].
    places: FxHashMap<ObjectRef, Vec<MentionPlace>>,
    /// Those of them that are written more than once.
    repeated: BTreeSet<ObjectRef>,
    /// Objects of which something was read, or taken back, since the last change
    /// came in force. Of all others there is nothing to accept.
    pub touched: BTreeSet<ObjectRef>,
    /// Files that mention other things since then, or are gone.
    pub files: BTreeSet<Arc<str>>,
    /// Files of which anything was said.
    pub noted: BTreeSet<Arc<str>>,
    /// Objects of which a version waits.
    pub withheld: BTreeSet<ObjectRef>,
}

/// Which mention of which file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct MentionPlace {
    file: Arc<str>,
    at: usize,
}

impl Index {
    /// A file has other mentions.
    pub fn place(&mut self, file: &Arc<str>, before: &[Mention], after: &[Mention]) {
        self.files.insert(file.clone());
        let reference = |of: &[Mention], at: usize| of.get(at).map(|one| one.reference.clone());
        for at in 0..before.len().max(after.len()) {
            let (before, after) = (reference(before, at), reference(after, at));
            if before == after {
                continue;
            }
            let place = MentionPlace { file: file.clone(), at };
            if let Some(before) = before
                && let Some(places) = self.places.get_mut(&before)
            {
                places.retain(|other| *other != place);
                if places.len() < 2 {
                    self.repeated.remove(&before);
                }
                if places.is_empty() {
                    self.places.remove(&before);
                }
            }
            if let Some(after) = after {
                // Nearly all are written once.
                let places = self.places.entry(after.clone());
                let places = places.or_insert_with(|| Vec::with_capacity(1));
                places.insert(places.partition_point(|other| *other < place), place);
                if places.len() > 1 {
                    self.repeated.insert(after);
                }
            }
        }
    }

    /// The files in which an object is written.
    pub fn files_of(&self, object: &ObjectRef) -> impl Iterator<Item = &Arc<str>> {
        self.places.get(object).into_iter().flatten().map(|place| &place.file)
    }

    /// Something was said of a file, or is no longer.
    pub fn note(&mut self, name: &Arc<str>, file: &File) {
        let mut all = file.mentions.iter();
        if file.diagnostics.is_empty() && all.all(|one| one.diagnostics().next().is_none()) {
            self.noted.remove(name);
        } else {
            self.noted.insert(name.clone());
        }
    }
}

impl Store {
    /// All mentions of an object, the last one first: the first of these that has a
    /// version counts.
    pub(super) fn mentions_of(&self, object: &ObjectRef) -> impl Iterator<Item = &Mention> {
        let places = self.index.places.get(object).into_iter().flatten().rev();
        places.filter_map(|place| self.files.get(&place.file)?.mentions.get(place.at))
    }

    /// The version of an object that should be in force: what
    /// [`effective`](Self::effective) gives.
    pub fn effective_of(&self, object: &ObjectRef) -> Option<&Arc<Object>> {
        let mut mentions = self.mentions_of(object).peekable();
        mentions.peek()?;
        mentions.find_map(Mention::current).or_else(|| self.in_force.get(object))
    }

    /// Objects that may have to be put in force: of all others, what
    /// [`effective`](Self::effective) gives was accepted last.
    pub fn touched(&self) -> &BTreeSet<ObjectRef> {
        &self.index.touched
    }

    /// Those of them that people write: endpoints come and go all the time.
    pub fn written(&self) -> impl Iterator<Item = &ObjectRef> {
        self.index.touched.iter().filter(|one| one.kind.is_written())
    }

    /// What [`effective`](Self::effective) gives against what was accepted last.
    pub fn changes(&self) -> BTreeMap<ObjectRef, Replaced> {
        let replaced = self.index.touched.iter().filter_map(|object| {
            let (before, after) = (self.in_force.get(object), self.effective_of(object));
            let replaced = || Replaced { before: before.cloned(), after: after.cloned() };
            (before != after).then(|| (object.clone(), replaced()))
        });
        replaced.collect()
    }

    /// Whether what [`effective`](Self::effective) gives is what was accepted
    /// last.
    pub fn is_unchanged(&self) -> bool {
        self.changes().is_empty()
    }

    /// Whether the version of an object that [`effective`](Self::effective)
    /// gives was not in force yet.
    pub fn is_new(&self, object: &ObjectRef) -> bool {
        self.mentions_of(object).any(|mention| mention.new_version().is_some())
    }

    /// What is written and does not count, as the object is written again.
    pub(crate) fn repeated(&self) -> Vec<Diagnostic> {
        let line = |place: &MentionPlace| {
            let mention = self.files.get(&place.file)?.mentions.get(place.at)?;
            Some(mention.current()?.meta.origin.line)
        };
        let mut repeated = Vec::new();
        for object in &self.index.repeated {
            let places = self.index.places.get(object).map_or(&[][..], Vec::as_slice);
            for (earlier, later) in places.iter().zip(places.iter().skip(1)) {
                let Some(again) = line(later) else { continue };
                let mut finding =
                    stands_again(object, Some(&earlier.file), (Some(&later.file), again));
                finding.file = Some(earlier.file.clone());
                finding.line = line(earlier).unwrap_or_default();
                repeated.push(finding);
            }
        }
        repeated
    }

    /// Has the new version of an object wait, if another was good before: that one stays
    /// in force. Returns whether there was one. [`resume`](Self::resume) ends it.
    pub fn withhold(&mut self, object: &ObjectRef, why: Diagnostic) -> bool {
        if !self.is_new(object) {
            return false;
        }
        let earlier = self.mentions_of(object).any(|one| one.accepted.is_some());
        if !earlier && !self.in_force.contains_key(object) {
            return false;
        }
        for MentionPlace { file: name, at } in self.index.places.get(object).into_iter().flatten() {
            let Some(file) = self.files.get_mut(name) else { continue };
            let Some(mention) = file.mentions.get_mut(*at) else { continue };
            if mention.candidate.is_some() {
                mention.withheld = Some(why.clone());
                self.index.noted.insert(name.clone());
            }
        }
        self.index.touched.insert(object.clone());
        self.index.withheld.insert(object.clone());
        true
    }

    /// What waits of the namespaces in which something was [written](Self::written), or of
    /// all, is new again.
    pub fn resume(&mut self, of_all: bool) {
        let touched: BTreeSet<_> = match self.index.withheld.is_empty() {
            true => return,
            false => self.written().map(|one| one.namespace.clone()).collect(),
        };
        let is_concerned = |one: &ObjectRef| of_all || touched.contains(&one.namespace);
        let withheld = std::mem::take(&mut self.index.withheld).into_iter();
        let (resumed, still): (BTreeSet<_>, _) = withheld.partition(is_concerned);
        self.index.withheld = still;
        for object in resumed {
            let places = self.index.places.get(&object).cloned().unwrap_or_default();
            for MentionPlace { file: name, at } in places {
                let Some(file) = self.files.get_mut(&name) else { continue };
                if let Some(mention) = file.mentions.get_mut(at) {
                    mention.withheld = None;
                }
                self.index.note(&name, file);
            }
            self.index.touched.insert(object);
        }
    }

    /// Refuses the version of an object that [`effective`](Self::effective)
    /// gives. Returns whether that changed anything: `false` when that version
    /// was in force before, or does not exist.
    pub fn reject(&mut self, object: &ObjectRef, why: Vec<Diagnostic>) -> bool {
        for MentionPlace { file: name, at } in
            self.index.places.get(object).into_iter().flatten().rev()
        {
            let Some(file) = self.files.get_mut(name) else { continue };
            let Some(mention) = file.mentions.get_mut(*at) else { continue };
            if mention.current().is_none() {
                continue;
            }
            let changed = mention.candidate.take().is_some();
            for diagnostic in why {
                if !mention.diagnostics.contains(&diagnostic) {
                    mention.diagnostics.push(diagnostic);
                }
            }
            if changed {
                self.index.touched.insert(object.clone());
            }
            self.index.noted.insert(name.clone());
            return changed;
        }
        false
    }

    /// What [`effective`](Self::effective) gave is in force now.
    pub fn accept(&mut self) {
        self.index.files.clear();
        self.is_restored = false;
        for object in std::mem::take(&mut self.index.touched) {
            let in_force = self.effective_of(&object).cloned();
            for MentionPlace { file, at } in self.index.places.get(&object).into_iter().flatten() {
                let Some(file) = self.files.get_mut(file) else { continue };
                let Some(mention) = file.mentions.get_mut(*at) else { continue };
                mention.accepted = mention.to_accept(in_force.as_ref()).cloned();
                mention.candidate.take_if(|_| mention.withheld.is_none());
            }
            match in_force {
                Some(version) => _ = self.in_force.insert(object, version),
                None => _ = self.in_force.remove(&object),
            }
        }
    }
}

/// What is said of an object where it is written and does not count: it stands again there, on
/// that line.
pub(crate) fn stands_again(
    object: &ObjectRef,
    here: Option<&Arc<str>>,
    (there, line): (Option<&Arc<str>>, u32),
) -> Diagnostic {
    let whereabouts = match there {
        Some(name) if here != there => format!("in {name}, line {line}"),
        _ => format!("on line {line}"),
    };
    let mut finding = Diagnostic::new(
        &references::REPEATED_OBJECT,
        format!("{object} stands again {whereabouts}: only the last one counts"),
    )
    .help("remove one of the two, or give it another name");
    finding.object = Some(object.clone().into());
    finding.path = "metadata.name".to_owned();
    finding
}
