//! Pinned maps, opened one by one.

use std::io;
use std::path::Path;

use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapInfo};

use super::mapped::Access;
use super::{Error, sys};

/// Opens a pinned map, for reading by whoever may do no more.
pub fn open(pin: &Path, access: Access) -> Result<MapData, Error> {
    let opened = match (access, sys::open_pin(pin)) {
        // Whoever may write reads from a mapping.
        (Access::Read, Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
            sys::open_pin_for_reading(pin)
        }
        (_, opened) => opened,
    };
    let fd = opened.map_err(|error| match access {
        Access::Read if error.kind() == io::ErrorKind::PermissionDenied => {
            Error::hidden(pin, error)
        }
        _ => Error::from_io(format!("opening {}", pin.display()), error),
    })?;
    MapData::from_fd(fd)
        .map_err(|error| Error::from_library(format!("opening {}", pin.display()), &error))
}

/// What a pinned map is like.
pub fn info(pin: &Path) -> Result<MapInfo, Error> {
    let map = open(pin, Access::Read)?;
    map.info().map_err(|error| Error::from_library(format!("reading {}", pin.display()), &error))
}

/// A hash table.
pub fn hash<K: Pod, V: Pod>(data: MapData) -> Result<HashMap<MapData, K, V>, Error> {
    map(data).and_then(|map| HashMap::try_from(map).map_err(|error| typed(&error)))
}

/// A map, by its type.
pub fn map(data: MapData) -> Result<Map, Error> {
    Map::from_map_data(data).map_err(|error| typed(&error))
}

/// It is of another type.
pub fn typed(error: &(dyn std::error::Error + 'static)) -> Error {
    Error::from_library("opening a pinned map", error)
}
