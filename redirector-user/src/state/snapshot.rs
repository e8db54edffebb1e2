//! What a generation was made of.

use std::collections::BTreeMap;
use std::sync::Arc;

use redirector_core::layout::Layout;
use redirector_core::model::Object;
use redirector_core::stored::Lost;
use redirector_core::world::{Settings, World};

use super::record::{Head, Resolved};

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
    /// It is a part of a load that goes on with the next generation.
    pub partial: bool,
    /// The settings.
    pub settings: Settings,
    /// What names resolved to.
    pub resolved: BTreeMap<Arc<str>, Resolved>,
    /// What grows with the configuration.
    pub contents: Contents,
    /// What of it was written and cannot be read.
    pub lost: Vec<Lost>,
}

/// What a generation was made of, as far as it grows with the configuration.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Contents {
    /// The objects in force, ordered by what they are.
    pub objects: Vec<Arc<Object>>,
    /// The numbers of everything in the tables.
    pub layout: Layout,
}

/// All that is written down of what is in force and grows with the configuration.
#[derive(Clone, Debug, Default)]
pub struct Whole {
    /// What it is made of.
    pub contents: Contents,
    /// The good version of every object.
    pub good: Vec<Arc<Object>>,
}

impl Snapshot {
    /// What tells it from other generations.
    pub fn head(&self) -> Head {
        let Self { generation, of_generation, repeats, made, partial, .. } = *self;
        Head { generation, of_generation, repeats, made, partial }
    }

    /// The World that it describes.
    pub fn world(&self) -> World {
        let mut world = World::new(self.settings.clone());
        for object in &self.contents.objects {
            world.insert(object.clone());
        }
        for (name, one) in &self.resolved {
            world.set_resolved(name, one.answer());
        }
        world
    }
}
