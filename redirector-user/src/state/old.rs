//! What earlier versions wrote, in the place of a journal: it is read where there is
//! no journal yet, and carried over by the first daemon.
//!
//! Whatever they wrote names a *base*, a file with everything, and says what makes it
//! of that.
//!
//! | file | what |
//! |---|---|
//! | `generations/N.json` | what generation N was made of, ... |
//! | `generations/bases/N.json` | ... but for what is the same as in one of these |
//! | `last-good.json` | the store: the last good version of every object, ... |
//! | `last-good/N.json` | ... but for what is the same as in one of these |

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use redirector_core::difference::Difference;
use redirector_core::layout::{self, Layout};
use redirector_core::model::ObjectRef;
use redirector_core::store::{Store, StoredDifference, StoredStore};
use redirector_core::stored::{self, Lost, Raw};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::record::GenerationChange;
use super::snapshot::Resolved;
use super::snapshot::{Contents, Snapshot, Whole};
use super::{Keeper, StateDir, StateError, io_error, journal};

/// Where the snapshots lie, and their bases.
const GENERATIONS: &str = "generations";
const BASES: &str = "generations/bases";

/// The file of the store, and where its bases lie.
const LAST_GOOD: &str = "last-good.json";
const STORES: &str = "last-good";

/// Where a journal is made of it.
const CARRIED: &str = "carried";

/// Something, as it was written: the number of its base, and what is different.
#[derive(Deserialize)]
struct Written<D> {
    base: u64,
    difference: D,
}

/// A snapshot, as it was written down.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredSnapshot {
    generation: u64,
    of_generation: Option<u64>,
    repeats: Option<u64>,
    made: u64,
    settings: Raw,
    resolved: Raw,
    contents: Written<ContentsDifference>,
}

/// The base of a snapshot.
#[derive(Deserialize)]
struct StoredContents {
    objects: Vec<Raw>,
    layout: Raw,
}

/// What makes it that of a snapshot.
#[derive(Deserialize)]
struct ContentsDifference {
    objects: Difference<ObjectRef, Raw>,
    layout: Raw,
}

/// What a base and what is different come to.
fn contents(
    base: StoredContents,
    difference: ContentsDifference,
    lost: &mut Vec<Lost>,
) -> Contents {
    let objects = stored::objects(base.objects, difference.objects, lost).into_values().collect();
    let layout = stored::part(&base.layout, journal::LAYOUT).and_then(|layout: Layout| {
        let difference: layout::Difference = stored::part(&difference.layout, journal::LAYOUT)?;
        Ok(layout.with(difference))
    });
    Contents { objects, layout: layout.map_err(|why| lost.push(why)).unwrap_or_default() }
}

/// The base that something names.
fn base<T: DeserializeOwned>(
    state: &StateDir,
    directory: &str,
    number: u64,
) -> Result<T, StateError> {
    let name = format!("{directory}/{number}.json");
    state.load(&name)?.ok_or_else(|| StateError::Damaged {
        path: state.path().join(&name),
        why: "it is not there, and what is different from it is".to_owned(),
    })
}

/// What a generation was made of; `None` when it is not kept.
pub(super) fn snapshot(state: &StateDir, generation: u64) -> Result<Option<Snapshot>, StateError> {
    let name = format!("{GENERATIONS}/{generation}.json");
    let Some(stored) = state.load::<StoredSnapshot>(&name)? else { return Ok(None) };
    let StoredSnapshot { generation, of_generation, repeats, made, .. } = stored;
    let mut lost = Vec::new();
    let Written { base: number, difference } = stored.contents;
    let contents = contents(base(state, BASES, number)?, difference, &mut lost);
    let settings = stored::part(&stored.settings, "which settings it was made with");
    let settings = settings.map_err(|why| lost.push(why)).unwrap_or_default();
    let resolved = stored::part(&stored.resolved, "what names resolved to");
    let resolved: BTreeMap<Arc<str>, Vec<IpAddr>> =
        resolved.map_err(|why| lost.push(why)).unwrap_or_default();
    let since = |addresses| Resolved { addresses, at: made, ..Resolved::default() };
    let resolved = resolved.into_iter().map(|(name, all)| (name, since(all))).collect();
    Ok(Some(Snapshot {
        generation,
        of_generation,
        repeats,
        made,
        partial: false,
        settings,
        resolved,
        contents,
        lost,
    }))
}

/// What was good, and what of it cannot be read.
pub(super) fn last_good(state: &StateDir) -> Result<Option<(Store, Vec<Lost>)>, StateError> {
    let Some(written) = state.load::<Written<StoredDifference>>(LAST_GOOD)? else {
        return Ok(None);
    };
    let base: StoredStore = base(state, STORES, written.base)?;
    let mut lost = Vec::new();
    let store = Store::read(base, written.difference, &mut lost);
    Ok(Some((store, lost)))
}

/// The generations that are kept, the oldest first.
pub(super) fn generations(state: &StateDir) -> Vec<u64> {
    numbers_in(&state.path().join(GENERATIONS))
}

/// The `N` of all files `N.json`, in their order.
fn numbers_in(directory: &Path) -> Vec<u64> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let number = |name: &str| name.strip_suffix(".json")?.parse().ok();
    let mut numbers: Vec<u64> =
        entries.filter_map(|entry| number(entry.file_name().to_str()?)).collect();
    numbers.sort_unstable();
    numbers
}

/// When one of these was written last.
fn written_last(files: impl Iterator<Item = String>, state: &StateDir) -> Option<SystemTime> {
    files.filter_map(|name| fs::metadata(state.path().join(name)).ok()?.modified().ok()).max()
}

/// Whether an earlier version has been in force again since the journals were written.
fn is_younger(state: &StateDir, journals: &[u64]) -> bool {
    let snapshots = generations(state).into_iter().map(|one| format!("{GENERATIONS}/{one}.json"));
    let ours = written_last(snapshots.chain([LAST_GOOD.to_owned()]), state);
    ours > written_last(journals.iter().copied().map(journal::name), state)
}

/// Makes a journal of what is there, where there is none or one that is older, and
/// removes it. What cannot be read is told.
pub(super) fn carry_over(state: &StateDir, not_read: &mut Vec<String>) -> Result<(), StateError> {
    let failed = |path: &Path, source| io_error("cannot carry over what is in", path, source);
    let carried = StateDir::new(state.path().join(CARRIED));
    let is_there = state.path().join(GENERATIONS).exists() || state.path().join(LAST_GOOD).exists();
    let journals = journal::numbers(state)?;
    if is_there && (journals.is_empty() || is_younger(state, &journals)) {
        // What an attempt that was broken off has left.
        carried.remove()?;
        carried.create()?;
        append_all(state, &carried, not_read)?;
        for number in journals {
            state.remove_file(&journal::name(number))?;
        }
        for name in journal::leftovers(state) {
            state.remove_file(&name)?;
        }
        // As a whole or not at all.
        let [from, to] = [&carried, state].map(|one| one.path().join(journal::DIRECTORY));
        state.put_in_place(&from, &to).map_err(|error| match error {
            StateError::Io { source, .. } => failed(&to, source),
            other => other,
        })?;
    }
    if is_there {
        remove(state)?;
    }
    carried.remove()
}

/// Writes one generation after the other into a new directory.
fn append_all(
    from: &StateDir,
    to: &StateDir,
    not_read: &mut Vec<String>,
) -> Result<(), StateError> {
    let mut store = last_good(from).unwrap_or_else(|error| {
        not_read.push(format!("{error}; the last good versions are those in force"));
        None
    });
    not_read.extend(
        store.iter().flat_map(|(_, lost)| lost).map(|lost| format!("of what was good, {lost}")),
    );
    let mut keeper = Keeper::new(to.clone());
    let mut before = Snapshot::default();
    for generation in generations(from) {
        let after = match snapshot(from, generation) {
            Ok(Some(after)) => after,
            Ok(None) => continue,
            Err(error) => {
                not_read.push(error.to_string());
                continue;
            }
        };
        not_read
            .extend(after.lost.iter().map(|lost| format!("of generation {generation}, {lost}")));
        let mut change = GenerationChange::between(&before, &after);
        // The only one that there is counts for all of them.
        let good = store.take().map(|(mut store, lost)| {
            if !lost.is_empty() {
                store.remember(after.contents.objects.iter().cloned());
            }
            change.store = store.kept_since();
            store.good().cloned().collect()
        });
        let contents = || after.contents.clone();
        keeper.append(change, || Whole { contents: contents(), good: good.unwrap_or_default() })?;
        before = after;
    }
    // Good, though nothing is known of what was in force.
    if let Some((store, _)) = store {
        let change = GenerationChange {
            store: store.kept_since(),
            ..GenerationChange::between(&before, &before)
        };
        let good = store.good().cloned().collect();
        keeper.append(change, || Whole { good, ..Whole::default() })?;
    }
    Ok(())
}

/// Removes it.
pub(super) fn remove(state: &StateDir) -> Result<(), StateError> {
    state.remove_file(LAST_GOOD)?;
    for directory in [BASES, GENERATIONS, STORES] {
        for number in numbers_in(&state.path().join(directory)) {
            state.remove_file(&format!("{directory}/{number}.json"))?;
        }
        // What somebody else put there is theirs.
        let _ = fs::remove_dir(state.path().join(directory));
    }
    Ok(())
}
