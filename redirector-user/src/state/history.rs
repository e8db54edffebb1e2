//! What happened, as a journal tells it.

use std::collections::BTreeMap;
use std::sync::Arc;

use redirector_core::model::ObjectRef;
use redirector_core::stored::{self, Raw};
use redirector_core::world::Settings;
use serde::Serialize;

use super::journal::{ATTEMPTS, Part, load, numbers, parts};
use super::record::{Record, Written, of_options};
use super::snapshot::Head;
use super::{StateDir, StateError};

/// A generation, and what it changed.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// Which, and when it was made.
    #[serde(flatten)]
    pub head: Head,
    /// The objects that came, went or are others since the generation before.
    pub objects: Vec<Replacement>,
    /// The names that resolve to something else.
    pub names: Vec<Arc<str>>,
    /// Whether the settings are others, as the daemon's options say.
    pub settings: bool,
    /// The generation before is not known, as there is none or it cannot be read.
    pub is_first: bool,
    /// What people write is another than in the entry before, whatever else is: left
    /// alone, resolved, or an endpoint. Of a load in several generations, it is so of the
    /// first one.
    pub is_change: bool,
}

/// An object that came, went or is another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replacement {
    /// Which, as `VirtualService/default/echo`.
    pub object: String,
    /// The digest of what it was; nothing when it was not there.
    pub before: Option<String>,
    /// The digest of what it is; nothing when it is gone.
    pub after: Option<String>,
    /// Who wrote it: the file, and of one that is gone, where it was; of an object of the
    /// Kubernetes API the newest manager of its fields, and nothing of one that is gone.
    pub by: Option<Arc<str>>,
}

/// The generations that `rollback` returns to from `from`, of a history with the oldest
/// first: those before the last change, before the last but one, and so on.
pub fn steps_back(history: &[HistoryEntry], from: u64) -> Vec<u64> {
    let known = history.iter().rev().skip_while(|entry| entry.head.generation > from);
    let mut earlier = Vec::new();
    let mut changed = false;
    for (after, before) in known.clone().zip(known.skip(1)) {
        changed |= after.is_change;
        // Nobody wrote what a part of a load is.
        if changed && !before.head.partial {
            earlier.push(before.head.generation);
            changed = false;
        }
    }
    earlier
}

/// A generation that is being put together.
#[derive(Default)]
struct Gathered {
    head: Head,
    written: Written,
    /// In how many generations what people write had become another before.
    before: Option<u64>,
    objects: BTreeMap<ObjectRef, Replacement>,
    names: Vec<Arc<str>>,
    settings: bool,
    is_first: bool,
}

impl Gathered {
    fn take(&mut self, record: Record) {
        (self.head, self.written) = (record.head, record.written);
        for changed in record.objects {
            let object = changed.object.to_string();
            let (before, after, by) = (changed.before, changed.after, changed.by);
            match self.objects.get_mut(&changed.object) {
                // It was told several times of one generation.
                Some(known) => (known.after, known.by) = (after, by),
                None => {
                    let one = Replacement { object, before, after, by };
                    self.objects.insert(changed.object, one);
                    continue;
                }
            }
            self.objects.retain(|_, one| one.before != one.after);
        }
        let names = record.resolved.into_iter().map(|(name, _)| name);
        self.names.extend(names.filter(|_| !record.whole));
        self.names.sort();
        self.names.dedup();
    }

    fn entry(self) -> HistoryEntry {
        let Self { head, written, before, objects, names, settings, is_first } = self;
        let is_change = before != Some(written.count);
        let objects = objects.into_values().collect();
        HistoryEntry { head, objects, names, settings, is_first, is_change }
    }
}

/// All records that there are, the oldest first, and whether nothing but them is there.
fn records(state: &StateDir) -> Result<(Vec<Record>, bool), StateError> {
    let mut records: Vec<Record> = Vec::new();
    let mut is_whole = true;
    for number in numbers(state)? {
        let Some(bytes) = load(state, number)? else { continue };
        for part in parts(&bytes) {
            let Part::Group(group) = part else {
                is_whole = false;
                continue;
            };
            let mut record = group.record;
            if record.whole {
                // A younger journal begins with what an older one says up to there; what
                // that has beyond it stands in the younger one, or was taken back.
                while records.last().is_some_and(|last| last.number > record.number) {
                    records.pop();
                }
                if records.last().is_some_and(|last| last.number == record.number) {
                    continue;
                }
                record.objects.clear();
            }
            records.push(record);
        }
    }
    Ok((records, is_whole))
}

/// Whether anything in the journals cannot be read.
pub(super) fn is_damaged(state: &StateDir) -> bool {
    records(state).map_or(true, |(_, is_whole)| !is_whole)
}

/// What happened, the oldest first.
pub(super) fn history(state: &StateDir) -> Result<Vec<HistoryEntry>, StateError> {
    let mut attempt = 1;
    let records = loop {
        let (records, is_whole) = records(state)?;
        if is_whole || attempt == ATTEMPTS {
            break records;
        }
        attempt += 1;
    };
    let mut entries = Vec::new();
    let mut gathered: Option<Gathered> = None;
    // The number of the last record, and the settings then.
    let mut last: Option<u64> = None;
    let mut settings: Option<Settings> = None;
    for record in records {
        let follows = !record.whole && last.is_some_and(|last| record.number == last + 1);
        last = Some(record.number);
        let now = record.settings.as_ref().and_then(settings_of);
        let settings_differ = now.is_some() && settings.is_some() && now != settings;
        settings = now.or(settings);
        let generation = record.head.generation;
        let mut next = match gathered.take() {
            Some(known) if follows && known.head.generation == generation => known,
            known => {
                let before = known.as_ref().map(|one| one.written.count);
                entries.extend(known.map(Gathered::entry));
                Gathered { before, is_first: !follows, ..Gathered::default() }
            }
        };
        next.settings |= settings_differ && follows;
        next.take(record);
        gathered = Some(next);
    }
    entries.extend(gathered.map(Gathered::entry));
    Ok(entries)
}

/// The settings, as the daemon's options said.
fn settings_of(raw: &Raw) -> Option<Settings> {
    stored::part(raw, "").ok().map(|settings| of_options(&settings))
}
