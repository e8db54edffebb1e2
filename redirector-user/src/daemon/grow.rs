//! Tables that grow: what a configuration needs, and moving over to it.

use std::time::Duration;

use redirector_core::image::Image;
use redirector_core::layout::{Full, Table};

use super::change::prepare;
use super::control_loop::Daemon;
use super::engine::PreparedChange;
use crate::again::Again;
use crate::datapath::{Error, Sizes};

/// No table grows beyond this many entries.
const MOST: u32 = 1 << 24;

/// Connection memory does not grow by itself beyond this many places: 64 MiB.
const MOST_CONNECTIONS: u32 = 1 << 20;

/// When larger tables are tried again, for which there was no memory: that costs more, and
/// is of less hope, than what else is.
pub(super) const AGAIN: Again = Again::between(Duration::from_secs(5), Duration::from_secs(600));

/// A table that has at least `needed` entries, and twice as many as before, so
/// that growing is rare.
fn grown(size: u32, needed: u64) -> Option<u32> {
    let wanted = needed.max(u64::from(size) * 2).checked_next_power_of_two()?;
    u32::try_from(wanted).ok().filter(|wanted| *wanted <= MOST)
}

/// Sizes in which what did not fit has room; `None` when there are none.
pub(super) fn larger(sizes: &Sizes, full: &Full) -> Option<Sizes> {
    let mut larger = *sizes;
    let size = match full.table {
        Table::Routes => &mut larger.routes,
        Table::Legs => &mut larger.legs,
        Table::Destinations => &mut larger.destinations,
        Table::Endpoints => &mut larger.backends,
        Table::Workloads => &mut larger.identities,
        Table::ClassTables => &mut larger.class_tables,
        Table::Frontends => &mut larger.frontends,
        Table::Prefixes => &mut larger.prefixes,
        Table::ClassVerdicts => &mut larger.class_verdicts,
        // Numbers without a table that has a size of its own.
        Table::Classes | Table::Lives => return None,
    };
    *size = grown(*size, full.needed)?;
    Some(larger)
}

/// Sizes in which an image's hash tables have room, too.
///
/// # Errors
///
/// A table that cannot be as large as that, or may not grow.
pub(super) fn with_room(sizes: &Sizes, image: &Image, grows: bool) -> Result<Sizes, Full> {
    let mut larger = *sizes;
    for (table, size, needed) in [
        (Table::Frontends, &mut larger.frontends, image.frontends.len()),
        (Table::Prefixes, &mut larger.prefixes, image.prefixes.len()),
        (Table::ClassVerdicts, &mut larger.class_verdicts, image.class_verdicts.len()),
    ] {
        let (needed, capacity) = (needed as u64, *size);
        if needed > capacity.into() {
            let grown = grown(capacity, needed).filter(|_| grows);
            *size = grown.ok_or(Full { table, needed, capacity })?;
        }
    }
    Ok(larger)
}

impl Daemon {
    /// Puts a step in force that the tables have no room for: larger ones are
    /// made, filled and swapped. On an error the old ones stay.
    pub(super) fn grow(&mut self, step: &PreparedChange, generation: u64) -> Result<(), Error> {
        let result = self.move_over(step, generation);
        match &result {
            Ok(()) => self.grow_again.over(),
            Err(error) => {
                self.grow_again.failed();
                self.engine.cannot_grow(error.to_string());
            }
        }
        result
    }

    fn move_over(&mut self, step: &PreparedChange, generation: u64) -> Result<(), Error> {
        // Before the first attachment there is nothing to swap.
        let is_attached = !self.datapath.attachments()?.is_empty();
        let mut larger = self.datapath.beside(&step.sizes)?;
        let whole = Image::default().diff(self.engine.next_image());
        let filled = larger
            .source_writer()
            .and_then(|writer| self.direct.beside(writer))
            .and_then(|()| prepare(&mut self.tracker, step, &mut larger))
            .and_then(|()| larger.apply(&whole, generation))
            .and_then(|()| if is_attached { larger.attach() } else { Ok(()) });
        if let Err(error) = filled {
            // Some links may have moved already; what they moved to is whole.
            self.direct.moved(false);
            if is_attached {
                self.datapath.attach()?;
            }
            larger.give_up()?;
            return Err(error);
        }
        self.datapath = larger;
        self.direct.moved(true);
        self.follow_program_log();
        if is_attached {
            self.self_test();
        }
        let sizes = self.datapath.sizes();
        if let Err(error) = self.state.save_grown(&self.options.sizes, &sizes) {
            tracing::error!("{error}; after a restart the tables have to grow again");
        }
        tracing::info!(
            generation,
            "the tables have grown: {}",
            differences(&sizes, &self.options.sizes)
        );
        Ok(())
    }

    /// Makes larger connection memory when some connection had no place in it.
    pub(super) fn grow_memory(&mut self) {
        /// So many times as many places as there are in the overflow table.
        const OVERFLOW: u32 = 8;
        let Ok(counters) = self.datapath.counters() else { return };
        let full = counters.totals.memory_full;
        // Tables that were made anew count from zero.
        let had_no_place = full > std::mem::replace(&mut self.memory_full, full);
        let sizes = self.datapath.sizes();
        let larger = sizes.connections * 2;
        if !had_no_place || self.options.fixed_sizes || larger > MOST_CONNECTIONS {
            return;
        }
        match self.datapath.grow_memory(larger, sizes.overflow.max(larger / OVERFLOW)) {
            Ok(()) => {
                tracing::info!("the memory of connections has grown: {larger} places");
                self.self_test();
                // Who found no place meanwhile says nothing about the larger one.
                if let Ok(counters) = self.datapath.counters() {
                    self.memory_full = counters.totals.memory_full;
                }
            }
            Err(error) => {
                tracing::warn!("the memory of connections is full and cannot grow: {error}");
            }
        }
        self.follow_program_log();
    }

    /// Tries again what there was no memory for.
    pub(super) fn grow_when_it_is_time(&mut self) {
        if self.grow_again.is_due() && !self.engine.may_grow() {
            self.engine.grow_again();
            self.changed = true;
        }
    }
}

/// What is larger than it was asked for.
pub(super) fn differences(now: &Sizes, asked: &Sizes) -> String {
    let all = [
        ("frontends", now.frontends, asked.frontends),
        ("prefixes", now.prefixes, asked.prefixes),
        ("class tables", now.class_tables, asked.class_tables),
        ("class verdicts", now.class_verdicts, asked.class_verdicts),
        ("workloads", now.identities, asked.identities),
        ("routes", now.routes, asked.routes),
        ("legs", now.legs, asked.legs),
        ("destinations", now.destinations, asked.destinations),
        ("endpoints", now.backends, asked.backends),
    ];
    let larger = all.iter().filter(|(_, now, asked)| now > asked);
    larger.map(|(name, now, _)| format!("{now} {name}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_doubles_until_there_is_room_and_has_an_end() {
        assert_eq!(grown(1024, 1025), Some(2048));
        assert_eq!(grown(1000, 9000), Some(16_384));
        // There is room, but not in one piece.
        assert_eq!(grown(4096, 300), Some(8192));
        assert_eq!(grown(MOST, 1), None);
        assert_eq!(grown(64, u64::MAX), None);
    }

    #[test]
    fn every_table_that_can_be_full_has_a_larger_one() {
        let sizes = Sizes::default();
        for table in [
            Table::Routes,
            Table::Legs,
            Table::Destinations,
            Table::Endpoints,
            Table::Workloads,
            Table::ClassTables,
        ] {
            let full = Full { table, needed: 1 << 20, capacity: 0 };
            let larger = larger(&sizes, &full).unwrap_or_else(|| panic!("{table}"));
            assert!(!differences(&larger, &sizes).is_empty(), "{table}");
        }
    }
}
