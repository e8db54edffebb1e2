//! Where the parts of the tables and the programs are pinned.

use std::path::{Path, PathBuf};

use super::Error;
use super::layout::{Layout, Part, Shape};

/// Where the parts lie.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Places {
    /// The directory of the tables.
    pub tables: PathBuf,
    /// The directory of connection memory.
    pub memory: PathBuf,
    /// The directory of what is counted.
    pub counts: PathBuf,
    /// The directory of what is told of connections.
    pub flows: PathBuf,
    /// The directory of the programs.
    pub programs: PathBuf,
}

impl Places {
    /// The directory of a part.
    pub fn of(&self, part: Part) -> &Path {
        match part {
            Part::Tables => &self.tables,
            Part::Memory => &self.memory,
            Part::Counts => &self.counts,
            Part::Flows => &self.flows,
        }
    }

    /// The same, to be changed.
    pub fn of_mut(&mut self, part: Part) -> &mut PathBuf {
        match part {
            Part::Tables => &mut self.tables,
            Part::Memory => &mut self.memory,
            Part::Counts => &mut self.counts,
            Part::Flows => &mut self.flows,
        }
    }

    /// Where a map is pinned.
    pub fn map(&self, shape: &Shape) -> PathBuf {
        self.of(shape.part).join(shape.name)
    }

    /// An error when pinned maps of a part do not have the shapes of a layout.
    pub fn check(&self, part: Part, layout: &Layout) -> Result<(), Error> {
        let directory = self.of(part);
        let differences = layout.differences(part, directory)?;
        if differences.is_empty() {
            return Ok(());
        }
        Err(Error::Incompatible { pins: directory.to_owned(), differences })
    }
}
