//! Pins that are not what the programs use: somebody removed or replaced them while
//! no daemon ran. The programs still hold their maps, so that nothing is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use aya::maps::{MapData, MapInfo};
use aya::programs::ProgramInfo;

use super::layout::{Layout, Part};
use super::pins::{PROGRAMS, Pins};
use super::places::Places;
use super::{Error, Hook, lives};

/// Pins the maps again that programs of this version use and that are not pinned in
/// their places. Says what was found. Which maps belong where is the layout's to say,
/// whatever its sizes.
pub fn mend(pins: &Pins, layout: &Layout) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    let [counts, flows] = Part::SHARED.map(|part| pins.join(&part.of_version()));
    for tables in pins.names(pins.root())? {
        if !tables.starts_with(&Part::Tables.of_version()) {
            continue;
        }
        let tables = pins.join(&tables);
        for programs in pins.names(&tables)?.iter().filter(|name| name.starts_with(PROGRAMS)) {
            let programs = tables.join(programs);
            let Some(memory) = pins.memory(&programs)? else { continue };
            let (tables, counts, flows) = (tables.clone(), counts.clone(), flows.clone());
            let places = Places { tables, memory, counts, flows, programs };
            mend_one(pins, layout, &places, &mut found)?;
        }
    }
    lives::mend(pins, &counts, &mut found)?;
    Ok(found)
}

fn mend_one(
    pins: &Pins,
    layout: &Layout,
    places: &Places,
    found: &mut Vec<String>,
) -> Result<(), Error> {
    let used = used(places);
    let is_used = |pin: &Path| MapInfo::from_pin(pin).is_ok_and(|info| used.contains(&info.id()));
    let all = layout.maps.iter().map(|map| (map.name, places.map(map)));
    let wrong: Vec<(&str, PathBuf)> = all.filter(|(_, pin)| !is_used(pin)).collect();
    if used.is_empty() || wrong.is_empty() {
        return Ok(());
    }
    // This takes CAP_SYS_ADMIN. Without it what is missing is made anew, or refused.
    let maps: BTreeMap<String, MapData> = used
        .iter()
        .filter_map(|id| {
            let map = MapData::from_id(*id).ok()?;
            Some((map.info().ok()?.name_as_str()?.to_owned(), map))
        })
        .collect();
    for (name, pin) in wrong {
        let Some(map) = maps.get(name) else { continue };
        let what = if pin.exists() { "another map was pinned there" } else { "it was removed" };
        pins.unpin(&pin)?;
        pins.make(pin.parent().unwrap_or(Path::new("/")))?;
        map.pin(&pin)
            .map_err(|error| Error::from_library(format!("pinning {}", pin.display()), &error))?;
        pins.admit(&pin)?;
        found.push(format!("{}: {what}", pin.display()));
    }
    Ok(())
}

/// The ids of the maps that the pinned programs use.
fn used(places: &Places) -> BTreeSet<u32> {
    let maps = |hook: Hook| {
        let program = ProgramInfo::from_pin(places.programs.join(hook.program())).ok()?;
        program.map_ids().ok()?
    };
    Hook::ALL.into_iter().filter_map(maps).flatten().collect()
}
