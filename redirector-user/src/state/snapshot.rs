//! What a generation was made of.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use redirector_core::difference::Difference;
use redirector_core::layout::{self, Layout};
use redirector_core::model::{Object, ObjectRef};
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
}

/// What a generation was made of, as far as it grows with the configuration.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Contents {
    /// The objects in force, ordered by what they are.
    pub objects: Vec<Arc<Object>>,
    /// The numbers of everything in the tables.
    pub layout: Layout,
}

/// What makes one another.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ContentsDifference {
    objects: Difference<ObjectRef, Arc<Object>>,
    layout: layout::Difference,
}

impl Basis for Contents {
    type Difference = ContentsDifference;
    const DIRECTORY: &'static str = "generations/bases";

    fn difference(&self, to: &Self) -> Self::Difference {
        ContentsDifference {
            objects: Difference::of_objects(self.objects.iter(), to.objects.iter()),
            layout: self.layout.difference(&to.layout),
        }
    }

    fn with(self, difference: Self::Difference) -> Self {
        let objects = self.objects.into_iter().map(|object| (object.reference(), object));
        let mut objects: BTreeMap<_, _> = objects.collect();
        difference.objects.apply(&mut objects);
        Self {
            objects: objects.into_values().collect(),
            layout: self.layout.with(difference.layout),
        }
    }
}

/// A snapshot, as it is written.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    #[serde(flatten)]
    rest: Rest,
    contents: Written<ContentsDifference>,
}

/// All but the contents.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rest {
    generation: u64,
    of_generation: Option<u64>,
    repeats: Option<u64>,
    made: u64,
    settings: Settings,
    resolved: BTreeMap<Arc<str>, Vec<IpAddr>>,
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

    pub(super) fn keep(&self, contents: Written<ContentsDifference>) -> Kept {
        let rest = Rest {
            generation: self.generation,
            of_generation: self.of_generation,
            repeats: self.repeats,
            made: self.made,
            settings: self.settings.clone(),
            resolved: self.resolved.clone(),
        };
        Kept { rest, contents }
    }
}

impl Kept {
    pub(super) fn split(self) -> (Written<ContentsDifference>, Rest) {
        (self.contents, self.rest)
    }
}

impl Rest {
    /// The snapshot, with what was written apart.
    pub(super) fn with(self, contents: Contents) -> Snapshot {
        Snapshot {
            generation: self.generation,
            of_generation: self.of_generation,
            repeats: self.repeats,
            made: self.made,
            settings: self.settings,
            resolved: self.resolved,
            contents,
        }
    }
}
