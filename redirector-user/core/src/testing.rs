//! Worlds out of YAML, for the tests of modules.

use crate::documents;
use crate::world::{Settings, World};

/// A World of these documents, of which none may be refused.
pub(crate) fn world(settings: Settings, text: &str) -> World {
    let mut world = World::new(settings);
    add(&mut world, text);
    world
}

/// Adds documents.
pub(crate) fn add(world: &mut World, text: &str) {
    for read in documents::read(Some("rules.yaml".into()), text).objects {
        world.insert(read.object.expect("the documents are good"));
    }
}
