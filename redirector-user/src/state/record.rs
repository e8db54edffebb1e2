//! Records: what changed from one generation to the next, as it is written down.
//!
//! A record lies behind the objects that stand in it for the first time, and what
//! is different in the numbers of the tables, each in frames of its own, so that
//! who looks for one thing reads no other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use redirector_core::in_force::is_to_go_back_over;
use redirector_core::layout::{self, Layout};
use redirector_core::model::bypass::Bypass;
use redirector_core::model::{Object, ObjectRef};
use redirector_core::store::{Accepted, KeptChange, KeptMention, Replaced};
use redirector_core::stored::Raw;
use redirector_core::world::Settings;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;

use super::digest;
use super::frame::{self, Kind};
use super::snapshot::{Contents, Head, Resolved, Snapshot, Whole};

/// How often what people write became another: endpoints come, go and move by
/// themselves, but for those in files, and names resolve to what they do. A load in several generations is one
/// time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Written {
    /// In so many generations, those that are forgotten included.
    pub count: u64,
    /// In this one last, or in a load of which this one is a part.
    pub last: u64,
}

/// What a journal begins with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begin {
    pub generation: u64,
    /// In how many generations what people write had become another.
    pub written: u64,
}

/// What changes with a generation.
#[derive(Debug)]
pub struct GenerationChange {
    /// Which.
    pub head: Head,
    /// The settings from now on.
    pub settings: Settings,
    /// What names resolve to from now on, where that may be something else. Of those that
    /// did already, only the addresses count.
    pub resolved: Option<BTreeMap<Arc<str>, Resolved>>,
    /// The objects in force that are others.
    pub objects: BTreeMap<ObjectRef, Replaced>,
    /// What makes the numbers others.
    pub layout: layout::Difference,
    /// What makes that which is good another.
    pub store: KeptChange,
}

impl GenerationChange {
    /// What makes one generation another.
    pub(super) fn between(before: &Snapshot, after: &Snapshot) -> Self {
        Self {
            head: after.head(),
            settings: after.settings.clone(),
            resolved: Some(after.resolved.clone()),
            objects: before.world().difference(&after.world()).objects,
            layout: before.contents.layout.difference(&after.contents.layout),
            store: KeptChange::default(),
        }
    }
}

/// A record, as it is written.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// Counts records, those that were compacted included.
    pub number: u64,
    /// It is no change of what there was: it says everything.
    pub whole: bool,
    pub head: Head,
    #[serde(default)]
    pub written: Written,
    pub settings: Option<Raw>,
    /// [`Resolved`], or nothing for a name that is forgotten.
    pub resolved: Vec<(Arc<str>, Option<Raw>)>,
    pub objects: Vec<Changed>,
    pub good: Vec<(ObjectRef, Version)>,
    pub files: Vec<(Arc<str>, Option<Mentions>)>,
}

/// A change of an object in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Changed {
    pub object: ObjectRef,
    /// Where in the contents; it is gone where it is nowhere.
    pub content: Option<usize>,
    /// The digests of both versions. One that says everything has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Who wrote the newer version: the file, or a manager in the Kubernetes API. Of one
    /// that is gone, the file where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Arc<str>>,
}

/// Which version of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Version {
    /// None any more.
    None,
    /// The one that is good.
    Good,
    /// The one at this place in the contents.
    Content(usize),
}

/// What a file mentions.
pub(super) type Mentions = Vec<(ObjectRef, Version)>;

/// Objects that a record refers to.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Objects<O> {
    /// The number of the record.
    pub of: u64,
    /// The place of the first one.
    pub first: usize,
    pub objects: Vec<O>,
}

/// What makes the numbers those of a record.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Numbers<L> {
    /// The number of the record.
    pub of: u64,
    /// Everything has a number anew.
    pub anew: bool,
    pub difference: L,
}

/// So many objects lie in one frame.
const AT_ONCE: usize = 256;

/// The objects that a record refers to, each once.
#[derive(Default)]
struct Pool<'a> {
    objects: Vec<&'a Arc<Object>>,
    places: FxHashMap<*const Object, usize>,
}

impl<'a> Pool<'a> {
    fn place(&mut self, object: &'a Arc<Object>) -> usize {
        *self.places.entry(Arc::as_ptr(object)).or_insert_with(|| {
            self.objects.push(object);
            self.objects.len() - 1
        })
    }

    fn mention(&mut self, mention: &'a KeptMention) -> (ObjectRef, Version) {
        let version = match &mention.accepted {
            Accepted::Never => Version::None,
            Accepted::Good => Version::Good,
            Accepted::Other(object) => Version::Content(self.place(object)),
        };
        (mention.object.clone(), version)
    }
}

/// Where frames go: memory, or a file.
struct Out<'f> {
    frames: Vec<u8>,
    file: Option<&'f mut File>,
}

impl Out<'_> {
    fn put(&mut self, kind: Kind, value: &impl Serialize) -> io::Result<()> {
        frame::put(&mut self.frames, kind, value)?;
        if let Some(file) = &mut self.file {
            file.write_all(&self.frames)?;
            self.frames.clear();
        }
        Ok(())
    }

    fn record(
        &mut self,
        objects: &[&Arc<Object>],
        (anew, difference): (bool, &layout::Difference),
        record: &Record,
    ) -> io::Result<()> {
        let of = record.number;
        for (chunk, objects) in objects.chunks(AT_ONCE).enumerate() {
            self.put(
                Kind::Contents,
                &Objects { of, first: chunk * AT_ONCE, objects: objects.to_vec() },
            )?;
        }
        self.put(Kind::Layout, &Numbers { of, anew, difference })?;
        self.put(Kind::Record, record)
    }
}

/// What was written down last, as far as the next record is made by it.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Told {
    /// The number of the record.
    pub number: u64,
    pub head: Head,
    pub written: Written,
    pub settings: Settings,
    pub resolved: BTreeMap<Arc<str>, Resolved>,
    pub files: BTreeMap<Arc<str>, Vec<KeptMention>>,
}

/// What makes that what is written down next, and back.
#[derive(Debug)]
pub(super) struct Append {
    number: u64,
    head: Head,
    written: Written,
    settings: Settings,
    resolved: Option<BTreeMap<Arc<str>, Resolved>>,
    /// What files mention that mention something else.
    files: Vec<(Arc<str>, Option<Vec<KeptMention>>)>,
}

/// Settings as the daemon's options say: without what is left alone, and without the
/// addresses that the node happens to have.
pub(super) fn of_options(settings: &Settings) -> Settings {
    Settings { bypass: Bypass::default(), node_addresses: BTreeSet::new(), ..settings.clone() }
}

impl Told {
    /// What a journal begins with that says it.
    pub fn begin(&self) -> Begin {
        Begin { generation: self.head.generation, written: self.written.count }
    }

    /// How often what people write became another, with this change.
    fn written(&self, change: &GenerationChange) -> Written {
        let Head { generation, .. } = change.head;
        let is_written = is_to_go_back_over(&change.objects)
            || self.settings != change.settings
                && of_options(&self.settings) != of_options(&change.settings);
        let Written { count, last } = self.written;
        let goes_on = self.head.partial && last == self.head.generation;
        match last == generation || goes_on {
            true => Written { count, last: generation },
            false if is_written => Written { count: count + 1, last: generation },
            false => self.written,
        }
    }

    /// What is told next.
    pub fn next(&self, change: &mut GenerationChange) -> Append {
        let as_known = |(name, new): (Arc<str>, Resolved)| {
            let known = self.resolved.get(&name).filter(|known| known.is_same(&new));
            let known = known.cloned().unwrap_or(new);
            (name, known)
        };
        let resolved = change.resolved.take().map(|all| all.into_iter().map(as_known).collect());
        let files = std::mem::take(&mut change.store.files).into_iter();
        Append {
            number: self.number + 1,
            head: change.head,
            written: self.written(change),
            settings: change.settings.clone(),
            resolved,
            files: files.filter(|(name, now)| self.files.get(name) != now.as_ref()).collect(),
        }
    }

    /// Makes it that; returns the way back.
    pub fn go(&mut self, step: Append) -> Append {
        let Append { number, head, written, settings, resolved, files } = step;
        let files = files.into_iter().map(|(name, mentions)| {
            let before = match mentions {
                Some(mentions) => self.files.insert(name.clone(), mentions),
                None => self.files.remove(&name),
            };
            (name, before)
        });
        Append {
            files: files.collect(),
            number: std::mem::replace(&mut self.number, number),
            head: std::mem::replace(&mut self.head, head),
            written: std::mem::replace(&mut self.written, written),
            settings: std::mem::replace(&mut self.settings, settings),
            resolved: resolved.map(|resolved| std::mem::replace(&mut self.resolved, resolved)),
        }
    }

    /// The frames of a change; none when nothing is different. `anew` says that the
    /// numbers in it are all that there are.
    pub fn frames(
        &self,
        next: &Append,
        change: &GenerationChange,
        anew: bool,
    ) -> io::Result<Vec<u8>> {
        let mut pool = Pool::default();
        let objects = change.objects.iter().map(|(object, Replaced { before, after })| Changed {
            object: object.clone(),
            content: after.as_ref().map(|after| pool.place(after)),
            before: before.as_deref().map(digest),
            after: after.as_deref().map(digest),
            by: by(before.as_deref(), after.as_deref()),
        });
        let objects: Vec<_> = objects.collect();
        let good = change.store.good.iter().map(|(object, version)| {
            let version =
                version.as_ref().map_or(Version::None, |one| Version::Content(pool.place(one)));
            (object.clone(), version)
        });
        let good: Vec<_> = good.collect();
        let files = next.files.iter().map(|(name, mentions)| {
            let mentions = mentions.as_ref();
            let mentions = mentions.map(|all| all.iter().map(|one| pool.mention(one)).collect());
            (name.clone(), mentions)
        });
        let files: Vec<_> = files.collect();
        let resolved = (next.resolved.iter())
            .flat_map(|resolved| different(&self.resolved, resolved))
            .map(|(name, one)| Ok((name.clone(), one.map(to_raw_value).transpose()?)));
        let resolved = resolved.collect::<io::Result<Vec<_>>>()?;
        let settings = (self.settings != next.settings).then(|| to_raw_value(&next.settings));
        let settings = settings.transpose()?;
        let same_head = Head { made: self.head.made, ..next.head } == self.head;
        let nothing = objects.is_empty() && good.is_empty() && files.is_empty();
        let nothing = nothing && resolved.is_empty() && settings.is_none();
        if same_head && nothing && change.layout.is_empty() && !anew {
            return Ok(Vec::new());
        }
        let Append { number, head, written, .. } = *next;
        let record = Record {
            number,
            whole: false,
            head,
            written,
            settings,
            resolved,
            objects,
            good,
            files,
        };
        let mut out = Out { frames: Vec::new(), file: None };
        out.record(&pool.objects, (anew, &change.layout), &record)?;
        Ok(out.frames)
    }

    /// Writes everything to a file.
    pub fn write_whole(&self, whole: &Whole, file: &mut File) -> io::Result<()> {
        let Whole { contents: Contents { objects, layout }, good } = whole;
        let mut pool = Pool::default();
        let objects = objects.iter().map(|object| Changed {
            object: object.reference(),
            content: Some(pool.place(object)),
            before: None,
            after: None,
            by: None,
        });
        let objects: Vec<_> = objects.collect();
        let good = good.iter();
        let good = good.map(|one| (one.reference(), Version::Content(pool.place(one))));
        let good = good.collect();
        let files = self.files.iter().map(|(name, mentions)| {
            let mentions = mentions.iter().map(|one| pool.mention(one)).collect();
            (name.clone(), Some(mentions))
        });
        let files = files.collect();
        let resolved = self.resolved.iter();
        let resolved = resolved.map(|(name, one)| Ok((name.clone(), Some(to_raw_value(one)?))));
        let record = Record {
            number: self.number,
            whole: true,
            head: self.head,
            written: self.written,
            settings: Some(to_raw_value(&self.settings)?),
            resolved: resolved.collect::<io::Result<_>>()?,
            objects,
            good,
            files,
        };
        let mut out = Out { frames: Vec::new(), file: Some(file) };
        out.record(&pool.objects, (true, &Layout::default().difference(layout)), &record)
    }
}

/// Who made an object another.
fn by(before: Option<&Object>, after: Option<&Object>) -> Option<Arc<str>> {
    let file = after.or(before).and_then(|one| one.meta.origin.file.as_ref());
    // Who removes something from the Kubernetes API is not told.
    let manager = || after.and_then(|one| one.meta.origin.manager.as_ref());
    file.or_else(manager).cloned()
}

/// What stands in the second map and not in the first: `None` where nothing does any
/// more.
fn different<'m, K: Ord, V: PartialEq>(
    from: &'m BTreeMap<K, V>,
    to: &'m BTreeMap<K, V>,
) -> impl Iterator<Item = (&'m K, Option<&'m V>)> {
    let gone = from.keys().filter(|key| !to.contains_key(key)).map(|key| (key, None));
    let put = to.iter().filter(|(key, value)| from.get(key) != Some(value));
    gone.chain(put.map(|(key, value)| (key, Some(value))))
}
