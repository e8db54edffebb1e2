//! Reading a journal: what it comes to, and what happened.
//!
//! A journal is a file that begins with a record that says everything, and goes on
//! with what changed. When it has grown, a new one is begun by another such record;
//! older ones stay as long as `rollback` may want what is in them. Whoever reads
//! takes no lock: a file only grows at its end, and one that takes the place of
//! others is there as a whole or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use redirector_core::layout::{self, Layout};
use redirector_core::model::{Object, ObjectRef};
use redirector_core::store::{Accepted, Kept, KeptMention};
use redirector_core::stored::{self, Lost, Raw};
use redirector_core::world::Settings;

use super::frame::{Frame, Frames, Kind, Scanned};
use super::keeper::Unread;
use super::record::{Begin, Numbers, Objects, Record, Told, Version, Written};
use super::snapshot::{self, Head, Resolved, Snapshot};
use super::{StateDir, StateError, io_error};

/// Where the journals lie, numbered as they were begun.
pub(super) const DIRECTORY: &str = "journal";

/// What is read again when it seems to be damaged: the writer may have taken a record
/// back, or put a file in the place of others, in the middle of the reading.
pub(super) const ATTEMPTS: u32 = 3;

/// What is lost where the numbers of the tables are.
pub(super) const LAYOUT: &str = "which numbers of the tables are what";

/// A record, with what lies before it.
pub(super) struct Group<'a> {
    contents: Vec<Frame<'a>>,
    layout: Option<Frame<'a>>,
    pub record: Record,
    end: u64,
}

/// What stands at some place of a journal.
pub(super) enum Part<'a> {
    Group(Box<Group<'a>>),
    Damage(Range<usize>, String),
}

/// The parts of a journal, one after the other. What is at its end and belongs to no
/// record counts as damage.
pub(super) fn parts(bytes: &[u8]) -> impl Iterator<Item = Part<'_>> {
    let mut frames = Frames::of(bytes);
    let (mut contents, mut layout, mut begin) = (Vec::new(), None, 0);
    std::iter::from_fn(move || {
        loop {
            let Some((found, at)) = frames.next() else {
                let rest = begin..bytes.len();
                begin = bytes.len();
                let why = "nothing comes of it";
                return (!rest.is_empty()).then(|| Part::Damage(rest, why.to_owned()));
            };
            let frame = match found {
                Scanned::Frame(frame) => frame,
                Scanned::Damage => {
                    if begin == at.start {
                        begin = at.end;
                    }
                    return Some(Part::Damage(at, "its checksum is another".to_owned()));
                }
            };
            match frame.kind {
                Kind::Contents => contents.push(frame),
                Kind::Layout => layout = Some(frame),
                Kind::Record => {
                    begin = at.end;
                    let (contents, layout) = (std::mem::take(&mut contents), layout.take());
                    let end = at.end as u64;
                    return Some(match frame.read() {
                        Ok(record) => {
                            Part::Group(Box::new(Group { contents, layout, record, end }))
                        }
                        Err(why) => Part::Damage(at, why),
                    });
                }
            }
        }
    })
}

/// An object, or that it cannot be read.
type Read = Result<Arc<Object>, Lost>;

/// What a mention says, as it is read.
enum Mentioned {
    Never,
    Good,
    Other(Read),
}

/// What a journal comes to.
pub(super) struct Known {
    /// The number of the last record.
    number: u64,
    head: Head,
    written: Written,
    settings: Result<Settings, Lost>,
    resolved: BTreeMap<Arc<str>, Result<Resolved, Lost>>,
    objects: BTreeMap<ObjectRef, Read>,
    good: BTreeMap<ObjectRef, Read>,
    /// Objects of which a younger version was good, and cannot be read.
    outdated: BTreeMap<ObjectRef, Lost>,
    files: BTreeMap<Arc<str>, Vec<(ObjectRef, Mentioned)>>,
    layout: Result<Layout, Lost>,
    /// Records that are missing.
    gaps: Vec<Lost>,
}

impl Known {
    /// Takes a record that says everything.
    fn begin(group: Group<'_>) -> Self {
        let mut known = Self {
            number: group.record.number.wrapping_sub(1),
            head: Head::default(),
            written: Written::default(),
            settings: Ok(Settings::default()),
            resolved: BTreeMap::new(),
            objects: BTreeMap::new(),
            good: BTreeMap::new(),
            outdated: BTreeMap::new(),
            files: BTreeMap::new(),
            layout: Ok(Layout::default()),
            gaps: Vec::new(),
        };
        known.take(group);
        known
    }

    /// Takes what changed.
    fn take(&mut self, group: Group<'_>) {
        let Group { contents, layout, record, .. } = group;
        let of = record.number;
        if of != self.number.wrapping_add(1) {
            let generation = record.head.generation;
            self.gaps.push(Lost {
                what: format!("a change that came in force before generation {generation}"),
                why: "a record of the journal is damaged".to_owned(),
            });
            self.layout = Err(lost(LAYOUT));
        }
        (self.number, self.head, self.written) = (of, record.head, record.written);
        if let Some(settings) = &record.settings {
            self.settings = stored::part(settings, "which settings it was made with");
        }
        for (name, one) in record.resolved {
            match one {
                Some(one) => {
                    let what = format!("what {name} resolved to");
                    self.resolved.insert(name, stored::part(&one, what));
                }
                None => drop(self.resolved.remove(&name)),
            }
        }
        let contents = read_contents(of, &contents);
        let content = |object: &ObjectRef, place: usize| -> Read {
            match contents.get(&place) {
                Some(Err(why)) => Err(why.clone()),
                // No object is put in the place of another.
                Some(Ok(one)) if one.reference() == *object => Ok(one.clone()),
                _ => Err(lost(object)),
            }
        };
        for changed in record.objects {
            match changed.content {
                Some(place) => {
                    let one = content(&changed.object, place);
                    self.objects.insert(changed.object, one);
                }
                None => drop(self.objects.remove(&changed.object)),
            }
        }
        for (object, version) in record.good {
            self.outdated.remove(&object);
            match version {
                Version::Content(place) => match content(&object, place) {
                    // An older version is better than none.
                    Err(why) if self.good.get(&object).is_some_and(Result::is_ok) => {
                        self.outdated.insert(object, why);
                    }
                    one => drop(self.good.insert(object, one)),
                },
                Version::None | Version::Good => drop(self.good.remove(&object)),
            }
        }
        for (name, mentions) in record.files {
            let Some(mentions) = mentions else {
                self.files.remove(&name);
                continue;
            };
            let mentions = mentions.into_iter().map(|(object, version)| {
                let mentioned = match version {
                    Version::None => Mentioned::Never,
                    Version::Good => Mentioned::Good,
                    Version::Content(place) => Mentioned::Other(content(&object, place)),
                };
                (object, mentioned)
            });
            self.files.insert(name, mentions.collect());
        }
        let read = |numbers: Numbers<Raw>| {
            let difference = stored::part::<layout::Difference>(&numbers.difference, LAYOUT)?;
            Ok((numbers.anew, difference))
        };
        let numbers = match layout.map(|frame| frame.read::<Numbers<Raw>>()) {
            Some(Ok(numbers)) if numbers.of == of => read(numbers),
            Some(Err(why)) => Err(Lost { what: LAYOUT.to_owned(), why }),
            _ => Err(lost(LAYOUT)),
        };
        match (&mut self.layout, numbers) {
            (layout, Ok((true, difference))) => {
                *layout = Ok(Layout::default().with(difference));
            }
            (Ok(layout), Ok((false, difference))) => {
                *layout = std::mem::take(layout).with(difference);
            }
            (Ok(_), Err(why)) => self.layout = Err(why),
            (Err(_), _) => {}
        }
    }

    /// The generation.
    fn snapshot(&self) -> Snapshot {
        let mut lost = self.gaps.clone();
        let mut or_default = |one: &Result<Settings, Lost>| {
            one.clone().map_err(|why| lost.push(why)).unwrap_or_default()
        };
        let settings = or_default(&self.settings);
        let mut resolved = BTreeMap::new();
        for (name, one) in &self.resolved {
            match one {
                Ok(one) => drop(resolved.insert(name.clone(), one.clone())),
                Err(why) => lost.push(why.clone()),
            }
        }
        let objects = whole(&self.objects, &mut lost).into_values().collect();
        let layout = self.layout.clone().map_err(|why| lost.push(why)).unwrap_or_default();
        let Head { generation, of_generation, repeats, made, partial } = self.head;
        let contents = snapshot::Contents { objects, layout };
        Snapshot {
            generation,
            of_generation,
            repeats,
            made,
            partial,
            settings,
            resolved,
            contents,
            lost,
        }
    }

    /// What is good, and what of it is lost.
    fn kept(&self) -> (Kept, Vec<Lost>) {
        let mut lost = self.gaps.clone();
        let good = whole(&self.good, &mut lost);
        lost.extend(self.outdated.values().cloned());
        let mut mention = |(object, mentioned): &(ObjectRef, Mentioned)| {
            let accepted = match mentioned {
                Mentioned::Never => Accepted::Never,
                Mentioned::Good => Accepted::Good,
                Mentioned::Other(Ok(other)) => Accepted::Other(other.clone()),
                Mentioned::Other(Err(why)) => {
                    lost.push(why.clone());
                    Accepted::Never
                }
            };
            KeptMention { object: object.clone(), accepted }
        };
        let files = self.files.iter();
        let files = files.map(|(name, all)| (name.clone(), all.iter().map(&mut mention).collect()));
        let kept = Kept { files: files.collect(), good };
        (kept, lost)
    }
}

/// That something cannot be read because of the file.
fn lost(what: impl ToString) -> Lost {
    Lost { what: what.to_string(), why: "a part of the journal is damaged".to_owned() }
}

/// Those that can be read.
fn whole(
    objects: &BTreeMap<ObjectRef, Read>,
    lost: &mut Vec<Lost>,
) -> BTreeMap<ObjectRef, Arc<Object>> {
    let mut whole = BTreeMap::new();
    for (reference, object) in objects {
        match object {
            Ok(object) => drop(whole.insert(reference.clone(), object.clone())),
            Err(why) => lost.push(why.clone()),
        }
    }
    whole
}

/// The objects that a record refers to, by their places.
fn read_contents(of: u64, frames: &[Frame<'_>]) -> BTreeMap<usize, Read> {
    let mut contents = BTreeMap::new();
    // Those that cannot be read at all are missed by whoever refers to them.
    for frame in frames.iter().filter_map(|frame| frame.read::<Objects<Raw>>().ok()) {
        if frame.of == of {
            let objects =
                frame.objects.iter().map(|raw| stored::object(raw).map_err(|(_, why)| why));
            contents.extend((frame.first..).zip(objects));
        }
    }
    contents
}

/// What was read of a journal.
pub(super) struct Journal {
    /// Which journal.
    pub file: u64,
    /// What it comes to up to the generation that was asked for.
    pub known: Known,
    /// Where the next record belongs, and how much of it the first one takes.
    pub end: u64,
    pub checkpoint: u64,
    /// What it begins with.
    pub begin: Begin,
    /// What of it cannot be read.
    pub damage: Vec<StateError>,
    /// A record at its end that was not written to its own end.
    pub cut: Option<StateError>,
}

impl Journal {
    /// The last generation of it.
    pub fn snapshot(&self) -> Snapshot {
        self.known.snapshot()
    }

    /// What was good then, and what of it is lost.
    pub fn kept(&self) -> (Kept, Vec<Lost>) {
        self.known.kept()
    }

    /// The objects that came in force then, or were good, in a version that cannot be read.
    pub fn unread(&self) -> Unread {
        let Known { gaps, objects, outdated, .. } = &self.known;
        let lost = objects.iter().filter(|(_, object)| object.is_err()).map(|(object, _)| object);
        Unread { all: !gaps.is_empty(), objects: lost.chain(outdated.keys()).cloned().collect() }
    }

    /// What the next record goes on from.
    pub fn told(&self, snapshot: &Snapshot, kept: &Kept) -> Told {
        Told {
            number: self.known.number,
            head: self.known.head,
            written: self.known.written,
            settings: snapshot.settings.clone(),
            resolved: snapshot.resolved.clone(),
            files: kept.files.clone(),
        }
    }
}

/// The journals that there are, the oldest first.
pub(super) fn numbers(state: &StateDir) -> Result<Vec<u64>, StateError> {
    let directory = state.path().join(DIRECTORY);
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("cannot read the directory", &directory, error)),
    };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Journals that were never put in their place.
pub(super) fn leftovers(state: &StateDir) -> Vec<String> {
    let entries = fs::read_dir(state.path().join(DIRECTORY)).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.ends_with(".new")).map(|name| format!("{DIRECTORY}/{name}")).collect()
}

/// The file of a journal, below the state directory.
pub(super) fn name(number: u64) -> String {
    format!("{DIRECTORY}/{number}")
}

/// The file of a journal.
pub(super) fn path(state: &StateDir, number: u64) -> PathBuf {
    state.path().join(name(number))
}

pub(super) fn load(state: &StateDir, number: u64) -> Result<Option<Vec<u8>>, StateError> {
    let path = path(state, number);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("cannot read", &path, error)),
    }
}

fn damaged(state: &StateDir, number: u64, at: &Range<usize>, why: &str) -> StateError {
    let why = format!("{} bytes from byte {} on: {why}", at.len(), at.start);
    StateError::Damaged { path: path(state, number), why }
}

/// Reads a journal up to a generation; of one that has nothing of it, what is damaged.
pub(super) fn read_one(
    state: &StateDir,
    number: u64,
    bytes: &[u8],
    to: u64,
) -> Result<Journal, Vec<StateError>> {
    let (mut damage, mut cut) = (Vec::new(), None);
    let mut journal: Option<Journal> = None;
    for part in parts(bytes) {
        let group = match part {
            Part::Group(group) => *group,
            Part::Damage(at, why) => {
                let error = damaged(state, number, &at, &why);
                match at.end == bytes.len() {
                    true => cut = cut.or(Some(error)),
                    false => damage.push(error),
                }
                continue;
            }
        };
        let (generation, end) = (group.record.head.generation, group.end);
        let begin = Begin { generation, written: group.record.written.count };
        if generation > to {
            break;
        }
        let journal = match &mut journal {
            Some(journal) => {
                journal.known.take(group);
                journal
            }
            // Of what came before it nothing is known.
            None if !group.record.whole => continue,
            None => journal.insert(Journal {
                file: number,
                known: Known::begin(group),
                end,
                checkpoint: end,
                begin,
                damage: Vec::new(),
                cut: None,
            }),
        };
        journal.end = end;
    }
    match journal {
        Some(journal) => Ok(Journal { damage, cut, ..journal }),
        None => {
            damage.extend(cut);
            Err(damage)
        }
    }
}

/// The youngest journal that knows something of a generation or of earlier ones, read
/// up to it; and what of younger ones cannot be read.
pub(super) fn read(
    state: &StateDir,
    to: u64,
) -> Result<(Option<Journal>, Vec<StateError>), StateError> {
    let mut attempt = 1;
    loop {
        let mut damage = Vec::new();
        let mut found = None;
        let mut numbers = numbers(state)?;
        let there_is_one = !numbers.is_empty();
        while let Some(number) = numbers.pop() {
            let Some(bytes) = load(state, number)? else { continue };
            match read_one(state, number, &bytes, to) {
                Ok(journal) => {
                    found = Some(journal);
                    break;
                }
                Err(why) => damage.extend(why),
            }
        }
        let is_whole = |one: &Journal| one.damage.is_empty() && one.cut.is_none();
        let is_whole = damage.is_empty() && found.as_ref().is_some_and(is_whole);
        if is_whole || attempt == ATTEMPTS || !there_is_one {
            return Ok((found, damage));
        }
        attempt += 1;
    }
}

/// The files that were read last.
pub(super) fn files(state: &StateDir) -> Result<Vec<Arc<str>>, StateError> {
    let mut files = BTreeMap::new();
    if let Some(number) = numbers(state)?.pop()
        && let Some(bytes) = load(state, number)?
    {
        for part in parts(&bytes) {
            let Part::Group(group) = part else { continue };
            for (name, mentions) in group.record.files {
                match mentions {
                    Some(_) => files.insert(name, ()),
                    None => files.remove(&name),
                };
            }
        }
    }
    Ok(files.into_keys().collect())
}
