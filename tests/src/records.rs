//! What the recording build of the programs noted.

use std::path::Path;

use aya::maps::{HashMap, Map, MapData};
use aya::programs::ProgramInfo;
use redirector_common::abi::Record;

/// The table of records, by socket cookie.
pub struct Records(HashMap<MapData, u64, Record>);

impl Records {
    /// Of the programs below a pin directory.
    ///
    /// # Panics
    ///
    /// When these programs do not record.
    pub fn open(pins: &Path) -> Self {
        let programs = std::fs::read_dir(pins.join("current"))
            .expect("the tables in force")
            .flatten()
            .find(|entry| entry.file_name().to_string_lossy().starts_with("programs-"))
            .expect("the programs")
            .path();
        let info = ProgramInfo::from_pin(programs.join("rd_connect4")).expect("a program");
        let ids = info.map_ids().expect("maps").expect("known");
        let map = ids
            .into_iter()
            .filter_map(|id| MapData::from_id(id).ok())
            .find(|map| map.info().is_ok_and(|info| info.name() == b"RECORDS"))
            .expect("the recording build");
        let map = Map::from_map_data(map).expect("a known type");
        Self(HashMap::try_from(map).expect("a hash table"))
    }

    /// The record of a socket's last connect.
    pub fn get(&self, cookie: u64) -> Option<Record> {
        self.0.get(&cookie, 0).ok()
    }
}
