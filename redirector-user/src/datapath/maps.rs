//! The pinned maps, opened.

use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;

use aya::Pod;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, HashMap, MapData};
use redirector_common::abi::{
    Backend, ClassKey, Control, Destination, FlowCounters, FrontendKey, Leg, LegCounters,
    PrefixKey, Readers, Route, Source, Totals, Verdict,
};

use super::layout::Layout;
use super::lives::Lives;
use super::mapped::{Access, Mapped};
use super::opened::{hash, info, map, open, typed};
use super::places::Places;
use super::starved::Starved;
use super::{Error, Sizes, names};

/// Everything that user space reads or writes.
pub struct Maps {
    pub control: Mapped<Control>,
    pub readers: Mapped<Readers>,
    pub frontends: HashMap<MapData, FrontendKey, Verdict>,
    pub prefixes: LpmTrie<MapData, PrefixKey, Verdict>,
    pub class_verdicts: HashMap<MapData, ClassKey, Verdict>,
    pub class_defaults: Table<Verdict>,
    pub class_of: Table<u32>,
    pub routes: Table<Route>,
    pub legs: Table<Leg>,
    pub destinations: Table<Destination>,
    pub backends: Table<Backend>,
    pub cgroup_sources: HashMap<MapData, u64, Source>,
    pub netns_sources: HashMap<MapData, u64, Source>,
    pub lives: Lives,
    pub shares: Mapped<u64>,
    pub totals: Mapped<Totals>,
    pub leg_counters: Mapped<LegCounters>,
    pub flow_counters: Mapped<FlowCounters>,
    /// While programs are always counted as readers.
    pub starved: Option<Starved>,
}

impl Maps {
    /// Opens the maps of these places.
    pub fn open(places: &Places, layout: &Layout, access: Access) -> Result<Self, Error> {
        let at = |name| layout.shape(name).and_then(|shape| open(&places.map(shape), access));
        fn trie<K: Pod, V: Pod>(data: MapData) -> Result<LpmTrie<MapData, K, V>, Error> {
            map(data).and_then(|map| LpmTrie::try_from(map).map_err(|error| typed(&error)))
        }
        macro_rules! table {
            ($name:expr) => {
                Table::new($name, &at($name)?, layout.shape($name)?.entries, access)?
            };
        }
        Ok(Self {
            control: mapped(places, layout, names::CONTROL, access)?,
            readers: mapped(places, layout, names::READERS, Access::Read)?,
            frontends: hash(at(names::FRONTENDS)?)?,
            prefixes: trie(at(names::PREFIXES)?)?,
            class_verdicts: hash(at(names::CLASS_VERDICTS)?)?,
            class_defaults: table!(names::CLASS_DEFAULTS),
            class_of: table!(names::CLASS_OF),
            routes: table!(names::ROUTES),
            legs: table!(names::LEGS),
            destinations: table!(names::DESTINATIONS),
            backends: table!(names::BACKENDS),
            cgroup_sources: hash(at(names::CGROUP_SOURCES)?)?,
            netns_sources: hash(at(names::NETNS_SOURCES)?)?,
            totals: mapped(places, layout, names::TOTALS, Access::Read)?,
            leg_counters: mapped(places, layout, names::LEG_COUNTERS, Access::Read)?,
            flow_counters: mapped(places, layout, names::FLOW_COUNTERS, Access::Read)?,
            lives: Lives::open(places, layout, access)?,
            shares: mapped(places, layout, names::SHARES, access)?,
            starved: None,
        })
    }
}

/// Maps an array for as long as it is held.
pub fn mapped<T: Pod>(
    places: &Places,
    layout: &Layout,
    name: &'static str,
    access: Access,
) -> Result<Mapped<T>, Error> {
    let shape = layout.shape(name)?;
    Mapped::new(name, &open(&places.map(shape), access)?, shape.entries, access)
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maps").field("control", &self.control.get(0)).finish_non_exhaustive()
    }
}

/// An array with two sides. It is mapped only while much of it is read or
/// written: mapped memory counts as the process's own.
pub struct Table<T: Pod> {
    name: &'static str,
    data: MapData,
    array: Array<MapData, T>,
    /// Entries of one side.
    pub capacity: u32,
    access: Access,
}

/// From so many entries on, writing through a mapping is cheaper.
const MANY: usize = 64;

impl<T: Pod> Table<T> {
    fn new(
        name: &'static str,
        data: &MapData,
        entries: u32,
        access: Access,
    ) -> Result<Self, Error> {
        let again = || {
            data.fd()
                .as_fd()
                .try_clone_to_owned()
                .map_err(|error| Error::from_io(format!("opening the table {name}"), error))
                .and_then(|fd| MapData::from_fd(fd).map_err(|error| typed(&error)))
        };
        let array = Array::try_from(map(again()?)?).map_err(|error| typed(&error))?;
        Ok(Self { name, data: again()?, array, capacity: entries / 2, access })
    }

    /// All entries of a side that are not zero, by index.
    pub fn dump(&self, side: redirector_common::abi::Side) -> Result<Vec<(u32, T)>, Error> {
        let mapped = Mapped::<T>::new(self.name, &self.data, 2 * self.capacity, Access::Read)?;
        let mut entries = Vec::new();
        for index in 0..self.capacity {
            let Some(slot) = side.slot(index, self.capacity) else { break };
            if let Some(value) = mapped.get(slot as usize)
                && !is_zero(&value)
            {
                entries.push((index, value));
            }
        }
        Ok(entries)
    }

    /// An entry of a side; `None` beyond its capacity.
    pub fn get(&self, side: redirector_common::abi::Side, index: u32) -> Result<Option<T>, Error> {
        let Some(slot) = side.slot(index, self.capacity) else { return Ok(None) };
        self.array.get(&slot, 0).map(Some).map_err(|error| {
            Error::from_library(format!("reading the table {}", self.name), &error)
        })
    }

    /// Writes entries of a side; `None` is zero.
    pub fn write(
        &mut self,
        side: redirector_common::abi::Side,
        changes: impl ExactSizeIterator<Item = (u32, Option<T>)>,
    ) -> Result<(), Error> {
        debug_assert_eq!(self.access, Access::Write);
        let beyond = |index| Error::Capacity(vec![format!("{} has no entry {index}", self.name)]);
        // SAFETY: all zeroes are a value of a `Pod` of the tables.
        let zero: T = unsafe { std::mem::zeroed() };
        if changes.len() < MANY {
            for (index, value) in changes {
                let slot = side.slot(index, self.capacity).ok_or_else(|| beyond(index))?;
                self.array.set(slot, value.unwrap_or(zero), 0).map_err(|error| {
                    Error::from_library(format!("writing the table {}", self.name), &error)
                })?;
            }
            return Ok(());
        }
        let mut mapped = Mapped::new(self.name, &self.data, 2 * self.capacity, Access::Write)?;
        for (index, value) in changes {
            let slot = side.slot(index, self.capacity).ok_or_else(|| beyond(index))?;
            mapped.set(slot as usize, value.unwrap_or(zero))?;
        }
        Ok(())
    }
}

/// Whether all bytes of an entry are zero.
fn is_zero<T: Pod>(value: &T) -> bool {
    // SAFETY: entries of the tables have no padding (`redirector_common::abi`),
    // so all their bytes are initialised.
    let bytes = unsafe {
        std::slice::from_raw_parts(std::ptr::from_ref(value).cast::<u8>(), size_of::<T>())
    };
    bytes.iter().all(|byte| *byte == 0)
}

/// The sizes of pinned maps.
pub fn sizes(places: &Places) -> Result<Sizes, Error> {
    let entries =
        |directory: &Path, name: &str| info(&directory.join(name)).map(|info| info.max_entries());
    let table = |name| entries(&places.tables, name);
    Ok(Sizes {
        frontends: (table(names::FRONTENDS)? / 2).saturating_sub(1),
        prefixes: table(names::PREFIXES)? / 2,
        class_tables: table(names::CLASS_DEFAULTS)? / 2,
        class_verdicts: table(names::CLASS_VERDICTS)? / 2,
        identities: table(names::CLASS_OF)? / 2,
        routes: table(names::ROUTES)? / 2,
        legs: table(names::LEGS)? / 2,
        destinations: table(names::DESTINATIONS)? / 2,
        backends: table(names::BACKENDS)? / 2,
        connections: entries(&places.memory, names::CONNECTIONS)?,
        overflow: entries(&places.memory, names::OVERFLOW)?,
    })
}
