//! `LIVE`: an array of arrays, which are made as they are needed.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64};

use aya::maps::{ArrayOfMaps, Map, MapData};
use redirector_common::abi::{LIVES_EACH, LIVES_EACH_BITS, Live};

use super::layout::{Layout, MMAPABLE};
use super::mapped::{Access, Mapped};
use super::opened::{info, open};
use super::pins::Pins;
use super::places::Places;
use super::{Error, names, sys};

/// Where an array of `LIVE` is pinned.
pub fn pin(counts: &Path, index: usize) -> PathBuf {
    counts.join(format!("{}-{index}", names::LIVE))
}

/// All entries that there are.
pub struct Lives {
    all: ArrayOfMaps<MapData>,
    arrays: Vec<Mapped<Live>>,
    directory: PathBuf,
    access: Access,
}

impl Lives {
    /// Opens what there is; for writing, at least one array.
    pub fn open(places: &Places, layout: &Layout, access: Access) -> Result<Self, Error> {
        let pin = places.map(layout.shape(names::LIVE)?);
        let typed = |error| Error::from_library("opening the table LIVE", &error);
        let all = Map::from_map_data(open(&pin, access)?)
            .and_then(ArrayOfMaps::try_from)
            .map_err(typed)?;
        let directory = places.counts.clone();
        let mut lives = Self { all, arrays: Vec::new(), directory, access };
        match access {
            Access::Read => lives.follow()?,
            Access::Write => _ = lives.make_room(1)?,
        }
        Ok(lives)
    }

    fn pin(&self, index: usize) -> PathBuf {
        pin(&self.directory, index)
    }

    /// Takes the arrays that are pinned. One that the programs do not have, since its maker
    /// was killed, they get.
    fn follow(&mut self) -> Result<(), Error> {
        loop {
            let index = self.arrays.len();
            let pin = self.pin(index);
            if !pin.exists() {
                return Ok(());
            }
            let map = open(&pin, self.access)?;
            check(&map, &pin)?;
            if self.access == Access::Write {
                let set = self.all.set(index as u32, &map, 0);
                set.map_err(|error| Error::from_library("writing the table LIVE", &error))?;
            }
            self.arrays.push(Mapped::new(names::LIVE, &map, LIVES_EACH, self.access)?);
        }
    }

    /// Makes arrays until there are so many entries. Says whether any was made.
    pub fn make_room(&mut self, entries: usize) -> Result<bool, Error> {
        let before = self.arrays.len();
        if self.len() >= entries {
            // Nobody else makes any while this is open for writing.
            return Ok(false);
        }
        loop {
            self.follow()?;
            let (index, pin) = (self.arrays.len(), self.pin(self.arrays.len()));
            // The programs may have one whose pin was removed: to open it takes
            // CAP_SYS_ADMIN. Without, another one takes its place.
            match self.all.get(&(index as u32), 0) {
                Ok(map) => map.pin(&pin).map_err(|error| {
                    Error::from_library(format!("pinning {}", pin.display()), &error)
                })?,
                Err(_) if self.len() >= entries => return Ok(index > before),
                Err(_) => pinned(one(), &pin)?,
            }
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.arrays.len() << LIVES_EACH_BITS
    }

    fn at(&self, number: u32) -> Option<(&Mapped<Live>, usize)> {
        let array = self.arrays.get((number >> LIVES_EACH_BITS) as usize)?;
        Some((array, (number % LIVES_EACH) as usize))
    }

    /// Reads an entry.
    pub fn get(&self, number: u32) -> Option<Live> {
        self.at(number).and_then(|(array, at)| array.get(at))
    }

    pub fn word(&self, number: u32, offset: usize) -> Option<&AtomicU64> {
        self.at(number).map(|(array, at)| array.word(at, offset))
    }

    pub fn half(&self, number: u32, offset: usize) -> Option<&AtomicU32> {
        self.at(number).map(|(array, at)| array.half(at, offset))
    }
}

/// Takes pins of arrays away that are not the programs', which somebody has put in the place
/// of theirs: those are pinned there again, or follow, when they are opened. Says what was
/// found.
pub fn mend(pins: &Pins, counts: &Path, found: &mut Vec<String>) -> Result<(), Error> {
    let all = counts.join(names::LIVE);
    if !all.exists() {
        return Ok(());
    }
    let map = open(&all, Access::Write)?;
    for index in 0.. {
        let reading = |error| Error::from_io(format!("reading {}", all.display()), error);
        let Some(used) = sys::inner_map(map.fd().as_fd(), index).map_err(reading)? else { break };
        let pin = pin(counts, index as usize);
        if pin.exists() && info(&pin)?.id() != used {
            pins.unpin(&pin)?;
            found.push(format!("{}: another map was pinned there", pin.display()));
        }
    }
    Ok(())
}

/// Makes the array of arrays, with none in it, and pins it.
pub fn make(pin: &Path, entries: u32) -> Result<(), Error> {
    let template = one().map_err(|error| Error::from_io("making an array of LIVE", error))?;
    pinned(sys::create_array(names::LIVE, 4, entries, 0, Some(template.as_fd())), pin)
}

fn one() -> io::Result<OwnedFd> {
    sys::create_array(names::LIVE, size_of::<Live>() as u32, LIVES_EACH, MMAPABLE, None)
}

fn pinned(made: io::Result<OwnedFd>, pin: &Path) -> Result<(), Error> {
    made.and_then(|map| sys::pin(map.as_fd(), pin))
        .map_err(|error| Error::from_io(format!("making {}", pin.display()), error))
}

/// An error when a pinned array is none of `LIVE`.
fn check(map: &MapData, pin: &Path) -> Result<(), Error> {
    let info = map.info().map_err(|error| Error::from_library("reading a map", &error))?;
    let found = (info.value_size() as usize, info.max_entries());
    if found == (size_of::<Live>(), LIVES_EACH) {
        return Ok(());
    }
    Err(Error::Incompatible {
        pins: pin.to_owned(),
        differences: vec![format!(
            "it has {} entries of {} bytes, not {LIVES_EACH} of {}",
            found.1,
            found.0,
            size_of::<Live>()
        )],
    })
}
