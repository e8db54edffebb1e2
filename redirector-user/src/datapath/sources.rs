//! Which processes are which workload.

use std::mem::offset_of;
use std::sync::atomic::Ordering;

use aya::maps::{HashMap, MapData, MapError};
use redirector_common::abi::{Control, Source, control_flags};

use super::mapped::{Access, Mapped};
use super::maps::Maps;
use super::opened::{hash, open};
use super::places::Places;
use super::{Error, SourceKey, names};

/// Levels that the programs' bit mask has room for.
const LEVELS: usize = 32;

/// How many sources there are, by the level of their cgroup.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Levels {
    cgroups: [u32; LEVELS],
    netns: u32,
}

impl Levels {
    /// Of all sources that there are.
    pub fn of(sources: &[(SourceKey, u32)]) -> Self {
        let mut levels = Self::default();
        for (key, _) in sources {
            if let Some(count) = levels.count(*key) {
                *count += 1;
            }
        }
        levels
    }

    fn count(&mut self, key: SourceKey) -> Option<&mut u32> {
        match key {
            SourceKey::Cgroup { level, .. } => self.cgroups.get_mut(level as usize),
            SourceKey::Netns { .. } => Some(&mut self.netns),
        }
    }

    fn mask(&self) -> u32 {
        (0..LEVELS)
            .filter(|level| self.cgroups[*level] > 0)
            .fold(0, |mask, level| mask | 1 << level)
    }
}

impl Maps {
    /// Adds or changes a source.
    pub fn insert_source(
        &mut self,
        levels: &mut Levels,
        key: SourceKey,
        identity: u32,
    ) -> Result<(), Error> {
        if identity == 0 || identity >= self.class_of.capacity {
            return Err(Error::Capacity(vec![format!(
                "identity number {identity}: numbers from 1 to {} can be given",
                self.class_of.capacity - 1
            )]));
        }
        let table = match key {
            SourceKey::Cgroup { level, .. } if level as usize >= LEVELS => {
                return Err(Error::Capacity(vec![format!(
                    "the cgroup of a workload lies {level} levels deep, at most {} are looked at",
                    LEVELS - 1
                )]));
            }
            SourceKey::Cgroup { .. } => &mut self.cgroup_sources,
            SourceKey::Netns { .. } => &mut self.netns_sources,
        };
        let (key_word, _) = parts(key);
        let known = match table.get(&key_word, 0) {
            Ok(_) => true,
            Err(MapError::KeyNotFound) => false,
            Err(error) => return Err(Error::from_library("reading the sources", &error)),
        };
        write(table, key, identity)?;
        if !known && let Some(count) = levels.count(key) {
            *count += 1;
        }
        self.tell(levels);
        Ok(())
    }

    /// Counts a source that a [`SourceWriter`] has inserted.
    pub fn adopt_source(&self, levels: &mut Levels, key: SourceKey) {
        if let Some(count) = levels.count(key) {
            *count += 1;
        }
        self.tell(levels);
    }

    /// Removes a source, if it is there.
    pub fn remove_source(&mut self, levels: &mut Levels, key: SourceKey) -> Result<(), Error> {
        let table = match key {
            SourceKey::Cgroup { .. } => &mut self.cgroup_sources,
            SourceKey::Netns { .. } => &mut self.netns_sources,
        };
        match table.remove(&parts(key).0) {
            Ok(()) => {}
            Err(MapError::KeyNotFound) => return Ok(()),
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
            {
                return Ok(());
            }
            Err(error) => return Err(Error::from_library("writing the sources", &error)),
        }
        if let Some(count) = levels.count(key) {
            *count = count.saturating_sub(1);
        }
        self.tell(levels);
        Ok(())
    }

    /// All sources.
    pub fn sources(&self) -> Result<Vec<(SourceKey, u32)>, Error> {
        let mut sources = Vec::new();
        for entry in self.cgroup_sources.iter() {
            let (id, source) =
                entry.map_err(|error| Error::from_library("reading the sources", &error))?;
            sources.push((SourceKey::Cgroup { id, level: source.level }, source.identity));
        }
        for entry in self.netns_sources.iter() {
            let (cookie, source) =
                entry.map_err(|error| Error::from_library("reading the sources", &error))?;
            sources.push((SourceKey::Netns { cookie }, source.identity));
        }
        Ok(sources)
    }

    /// Tells the programs where to look. Before this they do not find what was
    /// added, and after it in vain what was removed: neither is wrong.
    fn tell(&self, levels: &Levels) {
        self.control.half(0, offset_of!(Control, levels)).store(levels.mask(), Ordering::SeqCst);
        self.set_flag(control_flags::NETNS_SOURCES, levels.netns > 0);
    }

    /// Sets or clears a bit of the flags.
    pub fn set_flag(&self, flag: u64, on: bool) {
        let flags = self.control.word(0, offset_of!(Control, flags));
        if on {
            flags.fetch_or(flag, Ordering::SeqCst);
        } else {
            flags.fetch_and(!flag, Ordering::SeqCst);
        }
    }

    /// Says which cgroup is the daemon's, and how deep it lies; zero: not known.
    pub fn set_daemon_cgroup(&self, id: u64, level: u32) {
        let flags = self.control.word(0, offset_of!(Control, flags));
        let level = u64::from(level) << control_flags::DAEMON_LEVEL_SHIFT;
        let known = flags.load(Ordering::SeqCst) & !control_flags::DAEMON_LEVEL;
        flags.store(known | level & control_flags::DAEMON_LEVEL, Ordering::SeqCst);
        self.control.word(0, offset_of!(Control, daemon_cgroup)).store(id, Ordering::SeqCst);
    }

    /// Which cgroup is the daemon's, and how deep it lies, as
    /// [`set_daemon_cgroup`](Self::set_daemon_cgroup) takes them.
    pub fn daemon_cgroup(&self) -> (u64, u32) {
        let word = |offset| self.control.word(0, offset).load(Ordering::SeqCst);
        let level = word(offset_of!(Control, flags)) & control_flags::DAEMON_LEVEL;
        let level = (level >> control_flags::DAEMON_LEVEL_SHIFT) as u32;
        (word(offset_of!(Control, daemon_cgroup)), level)
    }

    /// Says how deep the cgroups lie by which callers are told apart.
    pub fn set_caller_level(&self, level: u32) {
        let level = u64::from(level) << control_flags::CALLER_LEVEL_SHIFT;
        let level = level & control_flags::CALLER_LEVEL;
        self.set_flag(control_flags::CALLER_LEVEL & !level, false);
        self.set_flag(level, true);
    }

    /// Whether a bit of the flags is set.
    pub fn flag(&self, flag: u64) -> bool {
        self.control.word(0, offset_of!(Control, flags)).load(Ordering::SeqCst) & flag != 0
    }
}

/// A second way into the table of cgroups, for another thread. What it has
/// inserted is to be [adopted](super::Datapath::adopt_source) by the one in
/// charge: until then a change of that one's may hide it again.
pub struct SourceWriter {
    table: HashMap<MapData, u64, Source>,
    control: Mapped<Control>,
    identities: u32,
}

impl SourceWriter {
    /// Opens the table of cgroups once more, and the control words, for identity
    /// numbers below `identities`.
    pub(super) fn open(places: &Places, identities: u32) -> Result<Self, Error> {
        let table = hash(open(&places.tables.join(names::CGROUP_SOURCES), Access::Write)?)?;
        let control = open(&places.tables.join(names::CONTROL), Access::Write)?;
        let control = Mapped::new(names::CONTROL, &control, 1, Access::Write)?;
        Ok(Self { table, control, identities })
    }

    /// Makes the processes of a cgroup known, at once.
    ///
    /// # Errors
    ///
    /// What is no cgroup, a number that is none, or the kernel's refusal.
    pub fn insert(&mut self, key: SourceKey, identity: u32) -> Result<(), Error> {
        let level = match key {
            SourceKey::Cgroup { level, .. } if (level as usize) < LEVELS => level,
            _ => return Err(Error::Capacity(vec![format!("{key:?} is not looked at")])),
        };
        if !(1..self.identities).contains(&identity) {
            return Err(Error::Capacity(vec![format!("there is no identity number {identity}")]));
        }
        write(&mut self.table, key, identity)?;
        let levels = self.control.half(0, offset_of!(Control, levels));
        levels.fetch_or(1 << level, Ordering::SeqCst);
        Ok(())
    }
}

fn write(
    table: &mut HashMap<MapData, u64, Source>,
    key: SourceKey,
    identity: u32,
) -> Result<(), Error> {
    let (key, level) = parts(key);
    table.insert(key, Source { key, identity, level }, 0).map_err(|error| match &error {
        MapError::SyscallError(inner) if inner.io_error.raw_os_error() == Some(libc::E2BIG) => {
            Error::Capacity(vec!["there is no room for another source".into()])
        }
        _ => Error::from_library("writing the sources", &error),
    })
}

/// The word that the kernel knows a source by, and its level.
fn parts(key: SourceKey) -> (u64, u32) {
    match key {
        SourceKey::Cgroup { id, level } => (id, level),
        SourceKey::Netns { cookie } => (cookie, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_names_every_level_with_a_source() {
        let at = |level| (SourceKey::Cgroup { id: 7, level }, 1);
        let levels = Levels::of(&[at(2), at(2), at(31), (SourceKey::Netns { cookie: 1 }, 1)]);
        assert_eq!(levels.mask(), 1 << 2 | 1 << 31);
        assert_eq!(levels.netns, 1);
    }
}
