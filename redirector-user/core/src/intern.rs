//! Values that many hold are kept once: whoever asks for an equal one gets the same.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Deserializer};

/// Where it is not worth looking for what nobody holds.
const FEW: usize = 1024;

/// Equal values, once each. What nobody else holds goes, when there may be as much of it
/// as of what is held.
#[derive(Debug)]
pub(crate) struct Pool<T: ?Sized>(Mutex<Known<T>>);

#[derive(Debug)]
struct Known<T: ?Sized> {
    all: BTreeSet<Arc<T>>,
    /// How many there are when it is looked again who holds them.
    until: usize,
}

/// Longer texts are nobody else's, and not worth being held for a while when nobody holds
/// them any more: names and labels are shorter.
pub(crate) const LONGEST: usize = 256;

/// Names, and parts of them.
static TEXTS: Pool<str> = Pool::new();

/// A text that others may hold.
pub fn text(text: &str) -> Arc<str> {
    let make = || text.into();
    if text.len() > LONGEST { make() } else { TEXTS.get(text, make) }
}

/// A text as it was written down, which others may hold.
pub(crate) fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    String::deserialize(deserializer).map(|read| text(&read))
}

impl<T: ?Sized + Ord> Pool<T> {
    pub const fn new() -> Self {
        Self(Mutex::new(Known { all: BTreeSet::new(), until: FEW }))
    }

    /// The one that equals this.
    pub fn get<Q: ?Sized + Ord>(&self, value: &Q, make: impl FnOnce() -> Arc<T>) -> Arc<T>
    where
        Arc<T>: Borrow<Q>,
    {
        // There is nothing between two states of it that a panic could leave.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(one) = known.all.get(value) {
            return one.clone();
        }
        if known.all.len() >= known.until {
            known.all.retain(|one| Arc::strong_count(one) > 1);
            known.until = FEW.max(known.all.len() * 2);
        }
        let one = make();
        known.all.insert(one.clone());
        one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_ones_are_one_and_what_nobody_holds_goes() {
        let pool: Pool<str> = Pool::new();
        let get = |number: usize| {
            let text = number.to_string();
            pool.get(text.as_str(), || text.as_str().into())
        };
        let held: Vec<_> = (0..10).map(get).collect();
        assert!((0..10).map(get).zip(&held).all(|(again, one)| Arc::ptr_eq(&again, one)));
        (0..100 * FEW).for_each(|number| drop(get(number)));
        assert!(pool.0.lock().unwrap().all.len() <= FEW);
        assert!((0..10).map(get).zip(&held).all(|(again, one)| Arc::ptr_eq(&again, one)));
    }
}
