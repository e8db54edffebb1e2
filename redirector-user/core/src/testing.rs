//! Worlds out of YAML, for the tests of modules.

use short::written_out;

use crate::documents;
use crate::world::{Settings, World};

#[path = "../tests/support/short.rs"]
mod short;

/// A World of these documents, which may be [written short](written_out) and of which none may
/// be refused.
pub(crate) fn world(settings: Settings, text: &str) -> World {
    let mut world = World::new(settings);
    add(&mut world, text);
    world
}

/// Adds documents.
pub(crate) fn add(world: &mut World, text: &str) {
    for read in documents::read(Some("rules.yaml".into()), &written_out(text)).objects {
        world.insert(read.object.expect("the documents are good"));
    }
}
