//! Entries of `LIVE` that get another owner.
//!
//! The programs count in them at the same time; connections of an earlier owner
//! know it by its stamp.

use std::mem::offset_of;
use std::sync::atomic::Ordering::SeqCst;

use redirector_common::abi::{Control, Live};
use redirector_core::image::Delta;

use super::maps::Maps;

impl Maps {
    /// Renews the entries that a change gives to another owner: before it comes
    /// in force, and while nobody reads tables that give them to the earlier one.
    pub fn renew_lives(&self, delta: &Delta) {
        // Destinations first: endpoints are linked to the new stamps.
        for new in delta.destinations.iter().filter_map(|change| change.new) {
            self.renew(new.live, new.owner);
        }
        for new in delta.backends.iter().filter_map(|change| change.new) {
            self.renew(new.live.into(), new.owner);
        }
    }

    fn renew(&self, number: u32, owner: u32) {
        let lives = &self.lives;
        let index = number as usize;
        if number == 0 || index >= lives.len() {
            return;
        }
        let half = |offset| lives.half(index, offset);
        if half(offset_of!(Live, owner)).load(SeqCst) == owner {
            return;
        }
        self.pardon(number);
        let word = lives.word(index, offset_of!(Live, word));
        let stamp = match half(offset_of!(Live, owner)).load(SeqCst) {
            // Connections may know an array that was before this one, and lost.
            0 => fastrand::u16(..),
            _ => Live::stamp(word.load(SeqCst)).wrapping_add(1),
        };
        let before = word.swap(stamp.into(), SeqCst);
        // Connections of the earlier owner that are still there are not counted
        // any more, also not on its destination.
        let connections = Live::connections(before);
        if connections > 0
            && let Some(parent) = self.parent(number)
        {
            let word = lives.word(parent, offset_of!(Live, word));
            word.fetch_sub(connections * Live::ONE, SeqCst);
        }
        // The first turn is anybody's, so that not all nodes begin with the same
        // endpoint.
        let turn = u64::from(fastrand::u32(..));
        for (offset, value) in [
            (offset_of!(Live, turn), turn),
            (offset_of!(Live, ejected_until), 0),
            (offset_of!(Live, returned), 0),
            (offset_of!(Live, limited), 0),
            (offset_of!(Live, ejected), 0),
        ] {
            lives.word(index, offset).store(value, SeqCst);
        }
        for offset in
            [offset_of!(Live, parent), offset_of!(Live, failures), offset_of!(Live, ejections)]
        {
            half(offset).store(0, SeqCst);
        }
        half(offset_of!(Live, owner)).store(owner, SeqCst);
    }

    /// The entry of an endpoint's destination, while that has the same owner.
    fn parent(&self, number: u32) -> Option<usize> {
        let link = self.lives.half(number as usize, offset_of!(Live, parent)).load(SeqCst);
        let (parent, stamp) = ((link & 0xffff) as usize, (link >> 16) as u16);
        let word = self.lives.word(parent, offset_of!(Live, word)).load(SeqCst);
        (parent != 0 && Live::stamp(word) == stamp).then_some(parent)
    }

    /// Endpoints that a change has removed are not ejected any more: they must
    /// not count among those that may be.
    pub fn pardon_the_gone(&self, delta: &Delta) {
        let used: std::collections::HashSet<u16> =
            delta.backends.iter().filter_map(|change| Some(change.new?.live)).collect();
        for old in delta.backends.iter().filter_map(|change| change.old) {
            if old.live != 0 && !used.contains(&old.live) {
                self.pardon(old.live.into());
            }
        }
    }

    fn pardon(&self, number: u32) {
        let until = self.lives.word(number as usize, offset_of!(Live, ejected_until));
        if until.swap(0, SeqCst) != 0
            && let Some(parent) = self.parent(number)
        {
            self.lives.word(parent, offset_of!(Live, ejected)).fetch_sub(1, SeqCst);
        }
    }

    /// Entries that belong to somebody.
    pub fn lives_in_use(&self) -> Vec<(u32, Live)> {
        let entries = (1..self.lives.len()).filter_map(|index| {
            let live = self.lives.get(index)?;
            (live.owner != 0).then_some((index as u32, live))
        });
        entries.collect()
    }

    /// Sets the seed of affinities.
    pub fn set_seed(&self, seed: u32) {
        self.control.half(0, offset_of!(Control, seed)).store(seed, SeqCst);
    }
}
