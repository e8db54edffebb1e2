//! What a generation was made of.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use redirector_core::layout::Layout;
use redirector_core::model::Object;
use redirector_core::world::{Settings, World};
use serde::{Deserialize, Serialize};

/// What a generation was made of: enough to make it again, and to give the
/// numbers in its tables their names.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Its number, as the kernel's tables carry it.
    pub generation: u64,
    /// The generation that it repeats, when `rollback` made it.
    pub of_generation: Option<u64>,
    /// The generation that differs from it by what is left alone and by nothing
    /// else, when `bypass` made it: no change to roll back.
    #[serde(default)]
    pub repeats: Option<u64>,
    /// When it was made, in seconds since 1970.
    pub made: u64,
    /// The settings.
    pub settings: Settings,
    /// The objects in force.
    pub objects: Vec<Arc<Object>>,
    /// What names resolved to.
    pub resolved: BTreeMap<Arc<str>, Vec<IpAddr>>,
    /// The numbers of everything in the tables.
    pub layout: Layout,
}

impl Snapshot {
    /// The World that it describes.
    pub fn world(&self) -> World {
        let mut world = World::new(self.settings.clone());
        for object in &self.objects {
            world.insert(object.clone());
        }
        for (name, addresses) in &self.resolved {
            world.set_resolved(name, addresses.clone());
        }
        world
    }
}
