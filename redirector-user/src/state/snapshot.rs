//! What a generation was made of.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use redirector_core::layout::Layout;
use redirector_core::model::Object;
use redirector_core::stored::Lost;
use redirector_core::world::{Answer, Settings, World};
use serde::{Deserialize, Serialize};

use super::journal::LAYOUT;

/// What tells generations apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// Its number, as the kernel's tables carry it.
    pub generation: u64,
    /// The generation that it repeats, when `rollback` made it.
    pub of_generation: Option<u64>,
    /// The generation that differs from it by what is left alone and by nothing
    /// else, when `bypass` made it: no change to roll back.
    pub repeats: Option<u64>,
    /// When it was made, in seconds since 1970.
    pub made: u64,
    /// It is a part of a load that goes on with the next generation: nobody wrote it as
    /// it is, and `rollback` does not return to it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub partial: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// What a name resolved to.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Resolved {
    /// The addresses, in the resolver's order.
    pub addresses: Vec<IpAddr>,
    /// Since when it is known to resolve to these, in seconds since 1970.
    pub at: u64,
    /// For how many seconds that holds, where the resolver says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
    /// What it resolved to before, which counts as an address of it until then, in seconds
    /// since 1970.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub former: BTreeMap<IpAddr, u64>,
}

impl Resolved {
    /// What the World is told of it.
    pub fn answer(&self) -> Answer {
        Answer { addresses: self.addresses.clone(), former: self.former.keys().copied().collect() }
    }

    /// Whether both say the same of where the name leads.
    pub fn is_same(&self, other: &Self) -> bool {
        self.addresses == other.addresses && self.former.keys().eq(other.former.keys())
    }
}

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

    /// Whether all of it is known: of less than that no tables are made in the place of those
    /// that are in force.
    ///
    /// # Errors
    ///
    /// What is lost of it.
    pub fn insist(&self) -> Result<(), String> {
        let Some(first) = self.lost.first() else { return Ok(()) };
        let more = match self.lost.len() - 1 {
            0 => String::new(),
            more => format!("; and so it is with {more} more parts"),
        };
        Err(format!("generation {} cannot be made again: {first}{more}", self.generation))
    }

    /// Whether it is known which numbers of the tables are what.
    pub fn knows_numbers(&self) -> bool {
        self.lost.iter().all(|lost| lost.what != LAYOUT)
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
