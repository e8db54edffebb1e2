//! What a generation was made of.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use redirector_core::difference::Difference;
use redirector_core::layout::{self, Layout};
use redirector_core::model::bypass::Bypass;
use redirector_core::model::{Object, ObjectRef};
use redirector_core::stored::{self, Lost, Raw};
use redirector_core::world::{Settings, World};
use serde::{Deserialize, Serialize};

use super::bases::{Basis, Written};

/// What a generation was made of: enough to make it again, and to give the
/// numbers in its tables their names.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Snapshot {
    /// Its number, as the kernel's tables carry it.
    pub generation: u64,
    /// The generation that it repeats, when `rollback` made it.
    pub of_generation: Option<u64>,
    /// The generation that differs from it by what is left alone and by nothing
    /// else, when `bypass` made it: no change to roll back.
    pub repeats: Option<u64>,
    /// When it was made, in seconds since 1970.
    pub made: u64,
    /// The settings.
    pub settings: Settings,
    /// What names resolved to.
    pub resolved: BTreeMap<Arc<str>, Vec<IpAddr>>,
    /// What grows with the configuration.
    pub contents: Contents,
    /// What of it was written and cannot be read.
    pub lost: Vec<Lost>,
}

/// What a generation was made of, as far as it grows with the configuration.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Contents {
    /// The objects in force, ordered by what they are.
    pub objects: Vec<Arc<Object>>,
    /// The numbers of everything in the tables.
    pub layout: Layout,
}

/// What makes one another.
#[derive(Debug, Serialize)]
pub(super) struct ContentsDifference {
    objects: Difference<ObjectRef, Arc<Object>>,
    layout: layout::Difference,
}

/// [`Contents`] as they were written down.
#[derive(Deserialize)]
pub(super) struct StoredContents {
    objects: Vec<Raw>,
    layout: Raw,
}

/// A [`ContentsDifference`] as it was written down.
#[derive(Deserialize)]
pub(super) struct StoredContentsDifference {
    objects: Difference<ObjectRef, Raw>,
    layout: Raw,
}

impl Basis for Contents {
    type Difference = ContentsDifference;
    type Stored = StoredContents;
    type StoredDifference = StoredContentsDifference;
    const DIRECTORY: &'static str = "generations/bases";

    fn difference(&self, to: &Self) -> Self::Difference {
        ContentsDifference {
            objects: Difference::of_objects(self.objects.iter(), to.objects.iter()),
            layout: self.layout.difference(&to.layout),
        }
    }

    fn read(base: Self::Stored, difference: Self::StoredDifference, lost: &mut Vec<Lost>) -> Self {
        let objects = stored::objects(base.objects, difference.objects, lost).into_values();
        let layout = |lost: &mut Vec<Lost>| {
            let what = "which numbers of the tables are what";
            let layout = stored::part::<Layout>(&base.layout, what);
            let difference = stored::part(&difference.layout, what);
            let layout = layout.and_then(|layout| Ok(layout.with(difference?)));
            layout.map_err(|why| lost.push(why)).unwrap_or_default()
        };
        Self { objects: objects.collect(), layout: layout(lost) }
    }
}

/// A snapshot, as it is written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Kept<'a> {
    generation: u64,
    of_generation: Option<u64>,
    repeats: Option<u64>,
    made: u64,
    settings: &'a Settings,
    resolved: &'a BTreeMap<Arc<str>, Vec<IpAddr>>,
    contents: Written<ContentsDifference>,
}

/// A snapshot, as it was written down.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StoredSnapshot {
    generation: u64,
    of_generation: Option<u64>,
    repeats: Option<u64>,
    made: u64,
    settings: Raw,
    resolved: Raw,
    contents: Written<StoredContentsDifference>,
}

impl Snapshot {
    /// The World that it describes.
    pub fn world(&self) -> World {
        let mut world = World::new(self.settings.clone());
        for object in &self.contents.objects {
            world.insert(object.clone());
        }
        for (name, addresses) in &self.resolved {
            world.set_resolved(name, addresses.clone());
        }
        world
    }

    /// Whether it is the same configuration, under any number, whatever is left alone
    /// in one of them.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let settings = |one: &Self| Settings { bypass: Bypass::default(), ..one.settings.clone() };
        self.contents.objects == other.contents.objects
            && self.resolved == other.resolved
            && settings(self) == settings(other)
    }

    pub(super) fn keep(&self, contents: Written<ContentsDifference>) -> Kept<'_> {
        Kept {
            generation: self.generation,
            of_generation: self.of_generation,
            repeats: self.repeats,
            made: self.made,
            settings: &self.settings,
            resolved: &self.resolved,
            contents,
        }
    }

    /// What was written down; `contents` reads what lies apart.
    pub(super) fn read<E>(
        stored: StoredSnapshot,
        contents: impl FnOnce(Written<StoredContentsDifference>, &mut Vec<Lost>) -> Result<Contents, E>,
    ) -> Result<Self, E> {
        let mut lost = Vec::new();
        let settings = stored::part(&stored.settings, "which settings it was made with");
        let resolved = stored::part(&stored.resolved, "what names resolved to");
        Ok(Self {
            generation: stored.generation,
            of_generation: stored.of_generation,
            repeats: stored.repeats,
            made: stored.made,
            settings: settings.map_err(|why| lost.push(why)).unwrap_or_default(),
            resolved: resolved.map_err(|why| lost.push(why)).unwrap_or_default(),
            contents: contents(stored.contents, &mut lost)?,
            lost,
        })
    }
}
