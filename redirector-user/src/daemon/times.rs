//! How long changes take from being seen to being in force.

use std::collections::BTreeMap;
use std::time::Instant;

use super::metrics::Page;
use crate::identity::Histogram;
use crate::source::Batch;

/// What is counted where no single object is told.
const FILE: &str = "File";

/// The times, by kind of object.
#[derive(Debug, Default)]
pub struct Times {
    /// What was taken and is not in force, by since when.
    in_hand: BTreeMap<&'static str, Vec<Instant>>,
    taken: BTreeMap<&'static str, Histogram>,
}

impl Times {
    /// These are to be put in force.
    pub fn taken(&mut self, batch: &Batch) {
        for arrival in &batch.arrivals {
            let kind = arrival.of.as_ref().map_or(FILE, |object| object.kind.as_str());
            self.in_hand.entry(kind).or_default().push(arrival.since);
        }
    }

    /// All that was taken is in force.
    pub fn in_force(&mut self) {
        for (kind, all) in std::mem::take(&mut self.in_hand) {
            let times = self.taken.entry(kind).or_default();
            all.iter().for_each(|since| times.add(since.elapsed()));
        }
    }

    /// It could not be put in force: it waits on, of each kind the oldest.
    pub fn refused(&mut self) {
        for all in self.in_hand.values_mut() {
            let oldest = all.iter().min().copied();
            all.clear();
            all.extend(oldest);
        }
    }

    /// What was there when the daemon started is no change.
    pub fn forget(&mut self) {
        self.in_hand.clear();
    }

    /// How many were taken and are not in force, and since when the oldest waits.
    pub fn oldest(&self) -> Option<(usize, Instant)> {
        let all = || self.in_hand.values().flatten();
        Some((all().count(), *all().min()?))
    }

    /// The family of these times.
    pub fn family(&self, page: &mut Page) {
        page.family("change_seconds");
        for (kind, times) in &self.taken {
            page.times("change_seconds", [("kind", (*kind).to_owned())], times);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use redirector_core::model::{Kind, ObjectRef};

    use super::*;
    use crate::source::{Arrival, Change, Turn};

    fn batch(of: Option<Kind>, since: Instant) -> Batch {
        let of = of.map(|kind| ObjectRef { kind, namespace: "n".into(), name: "a".into() });
        let change = Change::Removed("a".into());
        Batch { arrivals: vec![Arrival { change, of, turn: Turn::New, since }] }
    }

    #[test]
    fn a_change_is_counted_when_it_is_in_force_and_waits_until_then() {
        let mut times = Times::default();
        let since = Instant::now() - Duration::from_secs(60);
        times.taken(&batch(Some(Kind::Pod), since));
        times.taken(&batch(Some(Kind::Pod), Instant::now()));
        times.taken(&batch(None, Instant::now()));
        assert_eq!(times.oldest(), Some((3, since)));
        times.refused();
        assert_eq!(times.oldest(), Some((2, since)));
        times.in_force();
        assert_eq!(times.oldest(), None);
        let mut page = Page::default();
        times.family(&mut page);
        for line in ["count{kind=\"Pod\"} 1", "count{kind=\"File\"} 1", "le=\"5\"} 0"] {
            assert!(page.text.contains(line), "{line} in {}", page.text);
        }
    }
}
