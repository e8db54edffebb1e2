//! The maps that this version makes: their shapes, and whether pinned ones have
//! them.

use std::hash::{Hash, Hasher};
use std::path::Path;

use aya::maps::MapType;
use redirector_common::abi::{
    Backend, CONNECTION_LAYOUT, ClassKey, Connection, Control, Destination, FLOW_LAYOUT, FLOWS,
    Flow, FlowCounters, FlowHead, FrontendKey, LAYOUT, LIVE_LAYOUT, LIVES, LIVES_EACH, Leg,
    LegCounters, Limits, OVERFLOW_SHARES, OverflowState, PrefixKey, Readers, Route, SHARES, Source,
    Totals, Verdict,
};
use redirector_common::hash::Fnv;

use super::{Error, Sizes, btf, names, opened};

/// `BPF_F_NO_PREALLOC`.
const NO_PREALLOC: u32 = 1;

/// `BPF_F_MMAPABLE`.
pub const MMAPABLE: u32 = 1 << 10;

/// No table is larger: a mistyped size must not take the machine's memory.
const MOST: u32 = 1 << 24;

/// The most copies of each counter.
const MOST_STRIPES: u32 = 16;

/// What a map belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The tables, made anew for every layout.
    Tables,
    /// Connection memory, kept while its own layout is unchanged.
    Memory,
    /// What is counted of destinations and endpoints, likewise; whatever the sizes
    /// and versions of tables and memory, they share it.
    Counts,
    /// What is told of connections, likewise.
    Flows,
}

impl Part {
    /// All of them, what is needed by others first.
    pub const ALL: [Self; 4] = [Self::Counts, Self::Flows, Self::Memory, Self::Tables];

    /// Those that all memory shares.
    pub const SHARED: [Self; 2] = [Self::Counts, Self::Flows];

    /// How names of its directories start; the version follows.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Tables => TABLES,
            Self::Memory => MEMORY,
            Self::Counts => "counts-",
            Self::Flows => "flows-",
        }
    }

    /// The version of its layout.
    const fn version(self) -> u32 {
        match self {
            Self::Tables => LAYOUT,
            Self::Memory => CONNECTION_LAYOUT,
            Self::Counts => LIVE_LAYOUT,
            Self::Flows => FLOW_LAYOUT,
        }
    }

    /// How names of its directories of this version start: the whole name of what
    /// all sizes share, or else the size or shape follows.
    pub fn of_version(self) -> String {
        let dash = if Self::SHARED.contains(&self) { "" } else { "-" };
        format!("{}{}{dash}", self.prefix(), self.version())
    }
}

/// The shape of a map.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Shape {
    /// Its name in the object, and of its pin.
    pub name: &'static str,
    /// What it belongs to.
    pub part: Part,
    kind: MapType,
    key: usize,
    value: usize,
    /// How many entries it has.
    pub entries: u32,
    flags: u32,
}

/// All maps, and what follows from their sizes.
#[derive(Clone, PartialEq, Debug)]
pub struct Layout {
    /// The maps.
    pub maps: Vec<Shape>,
    /// The sizes that the programs are told.
    pub limits: Limits,
    /// The sizes that the layout was made for.
    pub sizes: Sizes,
}

impl Layout {
    /// The layout for these sizes on this machine.
    pub fn new(sizes: &Sizes) -> Result<Self, Error> {
        check(sizes)?;
        let cpus = possible_cpus()?;
        let (mut sizes, types) = (*sizes, btf::types()?);
        sizes.connections = sizes.connections.next_power_of_two();
        let limits = Limits {
            stripes: cpus.next_power_of_two().min(MOST_STRIPES),
            kernel_socket: types.kernel_socket,
            btf: types.are_there.into(),
            socket_error: types.socket_error,
            md5_keys: types.md5_keys,
            ao_keys: types.ao_keys,
            ..sizes.limits()
        };
        let array = |name, value, entries| Shape {
            name,
            part: Part::Tables,
            kind: MapType::Array,
            key: 4,
            value,
            entries,
            flags: MMAPABLE,
        };
        let hash = |name, key, value, entries| Shape {
            name,
            part: Part::Tables,
            kind: MapType::Hash,
            key,
            value,
            entries,
            flags: NO_PREALLOC,
        };
        let of = |part, shape: Shape| Shape { part, ..shape };
        let memory = |shape| of(Part::Memory, shape);
        let maps = vec![
            array(names::CONTROL, size_of::<Control>(), 1),
            array(names::READERS, size_of::<Readers>(), cpus),
            // One more on each side for the self-test.
            hash(names::FRONTENDS, size_of::<FrontendKey>(), 4, 2 * (sizes.frontends + 1)),
            Shape {
                name: names::PREFIXES,
                part: Part::Tables,
                kind: MapType::LpmTrie,
                key: 4 + size_of::<PrefixKey>(),
                value: size_of::<Verdict>(),
                entries: 2 * sizes.prefixes,
                flags: NO_PREALLOC,
            },
            hash(names::CLASS_VERDICTS, size_of::<ClassKey>(), 4, 2 * sizes.class_verdicts),
            array(names::CLASS_DEFAULTS, size_of::<Verdict>(), 2 * sizes.class_tables),
            array(names::CLASS_OF, size_of::<u32>(), 2 * sizes.identities),
            array(names::ROUTES, size_of::<Route>(), 2 * sizes.routes),
            array(names::LEGS, size_of::<Leg>(), 2 * sizes.legs),
            array(names::DESTINATIONS, size_of::<Destination>(), 2 * sizes.destinations),
            array(names::BACKENDS, size_of::<Backend>(), 2 * sizes.backends),
            // A workload may have several cgroups.
            hash(names::CGROUP_SOURCES, 8, size_of::<Source>(), 2 * sizes.identities),
            hash(names::NETNS_SOURCES, 8, size_of::<Source>(), 2 * sizes.identities),
            array(names::TOTALS, size_of::<Totals>(), limits.stripes),
            array(names::LEG_COUNTERS, size_of::<LegCounters>(), limits.stripes * sizes.legs),
            array(names::FLOW_COUNTERS, size_of::<FlowCounters>(), sizes.legs),
            memory(array(names::CONNECTIONS, size_of::<Connection>(), sizes.connections)),
            memory(Shape {
                flags: 0,
                ..hash(names::OVERFLOW, 8, size_of::<Connection>(), sizes.overflow)
            }),
            memory(array(names::OVERFLOW_STATE, size_of::<OverflowState>(), 1)),
            memory(array(names::OVERFLOW_SHARES, 8, OVERFLOW_SHARES)),
            Shape {
                part: Part::Counts,
                kind: MapType::ArrayOfMaps,
                flags: 0,
                ..array(names::LIVE, 4, LIVES / LIVES_EACH)
            },
            of(Part::Counts, array(names::SHARES, 8, SHARES)),
            of(Part::Flows, array(names::FLOW_HEAD, size_of::<FlowHead>(), 1)),
            of(Part::Flows, array(names::FLOWS, size_of::<Flow>(), FLOWS)),
        ];
        Ok(Self { maps, limits, sizes })
    }

    /// The shape of the map of this name.
    pub fn shape(&self, name: &str) -> Result<&Shape, Error> {
        self.maps.iter().find(|map| map.name == name).ok_or_else(|| Error::Library {
            what: format!("opening the map {name}"),
            problem: "there is none of this name".into(),
        })
    }

    /// The maps of a part.
    pub fn part(&self, part: Part) -> impl Iterator<Item = &Shape> {
        self.maps.iter().filter(move |map| map.part == part)
    }

    /// The name of the directory that this layout's maps of a part lie in.
    pub fn directory(&self, part: Part) -> String {
        let name = part.of_version();
        match part {
            Part::Tables => {
                let mut hash = Fnv::default();
                for map in self.part(part) {
                    (map.name, map.kind as u32, map.key, map.value, map.entries, map.flags)
                        .hash(&mut hash);
                }
                format!("{name}{:016x}", hash.finish())
            }
            Part::Memory => format!("{name}{}", self.sizes.connections),
            Part::Counts | Part::Flows => name,
        }
    }

    /// Every way in which pinned maps of a part differ from this layout.
    ///
    /// # Errors
    ///
    /// Missing privilege: then nothing is known about them.
    pub fn differences(&self, part: Part, directory: &Path) -> Result<Vec<String>, Error> {
        let mut differences = Vec::new();
        for map in self.part(part) {
            let pin = directory.join(map.name);
            let info = match opened::info(&pin) {
                Ok(info) => info,
                Err(error @ (Error::Privilege { .. } | Error::Hidden { .. })) => return Err(error),
                Err(error) => {
                    differences.push(format!("{}: cannot be opened: {error}", map.name));
                    continue;
                }
            };
            let mut compare = |what: &str, found: u64, wanted: u64| {
                if found != wanted {
                    differences.push(format!("{}: {what} is {found}, not {wanted}", map.name));
                }
            };
            let kind = info.map_type().map_or(u64::MAX, |kind| kind as u64);
            compare("its type", kind, map.kind as u64);
            compare("the size of a key", info.key_size().into(), map.key as u64);
            compare("the size of a value", info.value_size().into(), map.value as u64);
            compare("the number of entries", info.max_entries().into(), map.entries.into());
            compare("its flags", info.map_flags().into(), map.flags.into());
        }
        Ok(differences)
    }
}

/// How the directory of the tables starts; the version follows.
pub const TABLES: &str = "tables-";

/// How the directory of connection memory starts; its version and size follow.
pub const MEMORY: &str = "memory-";

fn check(sizes: &Sizes) -> Result<(), Error> {
    let all = [
        ("frontends", sizes.frontends),
        ("prefixes", sizes.prefixes),
        ("class tables", sizes.class_tables),
        ("class verdicts", sizes.class_verdicts),
        ("identities", sizes.identities),
        ("routes", sizes.routes),
        ("legs", sizes.legs),
        ("destinations", sizes.destinations),
        ("backends", sizes.backends),
        ("connections", sizes.connections),
        ("overflow", sizes.overflow),
    ];
    let wrong: Vec<String> = all
        .into_iter()
        .filter(|(_, size)| *size == 0 || *size > MOST)
        .map(|(name, size)| {
            format!("the table size for {name} is {size}, it must be between 1 and {MOST}")
        })
        .collect();
    if wrong.is_empty() { Ok(()) } else { Err(Error::Capacity(wrong)) }
}

/// How many CPUs there can be: one more than the highest number.
fn possible_cpus() -> Result<u32, Error> {
    const FILE: &str = "/sys/devices/system/cpu/possible";
    let text = std::fs::read_to_string(FILE).map_err(|error| Error::from_io(FILE, error))?;
    text.trim()
        .rsplit([',', '-'])
        .next()
        .and_then(|last| last.parse::<u32>().ok())
        .and_then(|last| last.checked_add(1))
        .ok_or_else(|| Error::Library {
            what: FILE.into(),
            problem: format!("a list of CPUs was expected, not {text:?}"),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_size_is_another_directory() {
        let sizes = Sizes::default();
        let layout = Layout::new(&sizes).expect("a layout");
        let other = Layout::new(&Sizes { routes: 7, ..sizes }).expect("a layout");
        assert_ne!(layout.directory(Part::Tables), other.directory(Part::Tables));
        assert_eq!(layout.directory(Part::Memory), other.directory(Part::Memory));
        let larger = Layout::new(&Sizes { connections: 1 << 20, ..sizes }).expect("a layout");
        assert_eq!(layout.directory(Part::Tables), larger.directory(Part::Tables));
        assert_ne!(layout.directory(Part::Memory), larger.directory(Part::Memory));
        for part in Part::SHARED {
            assert_eq!(layout.directory(part), larger.directory(part));
            assert_eq!(layout.directory(part), other.directory(part));
        }
    }

    #[test]
    fn every_directory_says_what_it_is_and_the_version_of_that() {
        let layout = Layout::new(&Sizes::default()).expect("a layout");
        let names = Part::ALL.map(|part| layout.directory(part));
        for (part, name) in Part::ALL.into_iter().zip(&names) {
            assert!(name.starts_with(part.prefix()) && name.starts_with(&part.of_version()));
            let others = Part::ALL.into_iter().filter(|other| *other != part);
            assert!(others.clone().all(|other| !name.starts_with(other.prefix())), "{name}");
            assert!(layout.part(part).count() > 0, "{name} holds something");
        }
    }

    #[test]
    fn every_impossible_size_is_named() {
        let sizes = Sizes { routes: 0, backends: u32::MAX, ..Sizes::default() };
        let error = Layout::new(&sizes).expect_err("sizes out of range").to_string();
        assert!(error.contains("routes") && error.contains("backends"), "{error}");
    }

    #[test]
    fn connection_memory_has_a_power_of_two_of_places() {
        let sizes = Sizes { connections: 1000, ..Sizes::default() };
        assert_eq!(Layout::new(&sizes).expect("a layout").limits.connections, 1024);
    }
}
