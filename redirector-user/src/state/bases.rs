//! What is written down again and again: whole now and then, and in between only
//! what is different since.
//!
//! Whatever is written names a *base*, a file with everything, and says what
//! makes it of that: reading takes two files, however many changes there were. A
//! base is made anew when what was written beside it has come to as much as it
//! is, so that all writing together stays proportional to the changes.

use std::io;
use std::path::Path;

use redirector_core::stored::Lost;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{StateDir, StateError};

/// What is written like that.
pub(super) trait Basis: Clone + Serialize {
    /// What makes one another.
    type Difference: Serialize;
    /// It, as it was written down.
    type Stored: DeserializeOwned;
    /// What makes one another, as that was written down.
    type StoredDifference: DeserializeOwned;
    /// The directory of its bases.
    const DIRECTORY: &'static str;

    fn difference(&self, to: &Self) -> Self::Difference;

    /// What was written as these. What of it cannot be read is left out, and told.
    fn read(base: Self::Stored, difference: Self::StoredDifference, lost: &mut Vec<Lost>) -> Self;
}

/// Something, as it is written: the number of its base, and what is different.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Written<D> {
    pub base: u64,
    pub difference: D,
}

/// The base that the last one was written by.
#[derive(Debug)]
struct Base<T> {
    number: u64,
    whole: T,
    /// Its size, and that of all that was written beside it.
    bytes: u64,
    beside: u64,
}

/// Bases that are smaller than this are not worth the trouble.
const SMALL: u64 = 64 * 1024;

/// Writes.
#[derive(Debug)]
pub(super) struct Bases<T>(Option<Base<T>>);

impl<T> Default for Bases<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Basis> Bases<T> {
    /// What is to be written for this; its base has reached the disk.
    pub fn write(
        &mut self,
        state: &StateDir,
        now: &T,
    ) -> Result<Written<T::Difference>, StateError> {
        if let Some(base) = self.0.as_ref().filter(|base| base.beside <= base.bytes.max(SMALL)) {
            return Ok(Written { base: base.number, difference: base.whole.difference(now) });
        }
        let number = numbers::<T>(state)?.last().map_or(1, |last| last + 1);
        let bytes = state.save(&file::<T>(number), now)?;
        let base = self.0.insert(Base { number, whole: now.clone(), bytes, beside: 0 });
        Ok(Written { base: number, difference: base.whole.difference(now) })
    }

    /// It took so many bytes.
    pub fn written(&mut self, bytes: u64) {
        if let Some(base) = &mut self.0 {
            base.beside += bytes;
        }
    }
}

/// What was written. What of it cannot be read is left out, and told.
pub(super) fn read<T: Basis>(
    state: &StateDir,
    written: Written<T::StoredDifference>,
    lost: &mut Vec<Lost>,
) -> Result<T, StateError> {
    let name = file::<T>(written.base);
    let base: Option<T::Stored> = state.load(&name)?;
    let base = base.ok_or_else(|| StateError::Damaged {
        path: state.path().join(&name),
        why: "it is not there, and what is different from it is".to_owned(),
    })?;
    Ok(T::read(base, written.difference, lost))
}

/// Forgets all bases but the newest and those that are `used`.
pub(super) fn prune<T: Basis>(state: &StateDir, used: impl FnOnce() -> Vec<u64>) {
    let Ok(numbers) = numbers::<T>(state) else { return };
    let Some((_, older @ [_, ..])) = numbers.split_last() else { return };
    let used = used();
    for number in older.iter().filter(|number| !used.contains(number)) {
        let _ = std::fs::remove_file(state.path().join(file::<T>(*number)));
    }
}

/// Removes all of them.
pub(super) fn remove<T: Basis>(state: &StateDir) -> Result<(), StateError> {
    for number in numbers::<T>(state)? {
        state.remove_file(&file::<T>(number))?;
    }
    // What somebody else put there is theirs.
    let _ = std::fs::remove_dir(state.path().join(T::DIRECTORY));
    Ok(())
}

fn file<T: Basis>(number: u64) -> String {
    format!("{}/{number}.json", T::DIRECTORY)
}

/// The bases that there are, in their order.
fn numbers<T: Basis>(state: &StateDir) -> Result<Vec<u64>, StateError> {
    let directory = state.path().join(T::DIRECTORY);
    match numbers_in(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(super::io_error("cannot read the directory", &directory, error)),
        Ok(numbers) => Ok(numbers),
    }
}

/// The `N` of all files `N.json`, in their order.
pub(super) fn numbers_in(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers: Vec<u64> = std::fs::read_dir(directory)?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".json")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}
