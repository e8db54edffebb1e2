//! Entries of `LIVE` that get another owner, and those of endpoints that have left.
//!
//! The programs count in them at the same time; connections of an earlier owner
//! know it by its stamp.

use std::collections::HashSet;
use std::mem::offset_of;
use std::sync::atomic::Ordering::SeqCst;

use redirector_common::abi::{Control, Live};
use redirector_core::image::Delta;

use super::maps::Maps;
use super::{Error, sys};

impl Maps {
    /// Renews the entries that a change gives to another owner: before it comes
    /// in force, and while nobody reads tables that give them to the earlier one. Says
    /// whether there had to be more of them than there were.
    pub fn renew_lives(&mut self, delta: &Delta) -> Result<bool, Error> {
        let destinations = delta.destinations.iter().filter_map(|change| change.new);
        let destinations = destinations.map(|new| (new.live, new.owner));
        let backends = delta.backends.iter().filter_map(|change| change.new);
        let backends = backends.map(|new| (new.live, new.owner));
        // Destinations first: endpoints are linked to the new stamps.
        let all = || destinations.clone().chain(backends.clone()).filter(|(live, _)| *live != 0);
        let most = all().map(|(live, _)| live as usize + 1).max().unwrap_or(0);
        let more = self.lives.make_room(most)?;
        for (live, owner) in all() {
            self.renew(live, owner);
        }
        Ok(more)
    }

    fn renew(&self, number: u32, owner: u32) -> Option<()> {
        let lives = &self.lives;
        let owners = lives.half(number, offset_of!(Live, owner))?;
        if owners.load(SeqCst) == owner {
            return None;
        }
        self.pardon(number);
        let word = lives.word(number, offset_of!(Live, word))?;
        let stamp = match owners.load(SeqCst) {
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
            let word = lives.word(parent, offset_of!(Live, word))?;
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
            (offset_of!(Live, parent), 0),
            (offset_of!(Live, succeeded_at), 0),
            (offset_of!(Live, other_at), 0),
            (offset_of!(Live, withheld), 0),
            (offset_of!(Live, unfair), 0),
        ] {
            lives.word(number, offset)?.store(value, SeqCst);
        }
        for offset in [
            offset_of!(Live, failures),
            offset_of!(Live, ejections),
            offset_of!(Live, failed_by),
            offset_of!(Live, succeeded_by),
            offset_of!(Live, left),
        ] {
            lives.half(number, offset)?.store(0, SeqCst);
        }
        owners.store(owner, SeqCst);
        Some(())
    }

    /// The entry of an endpoint's destination, while that has the same owner.
    fn parent(&self, number: u32) -> Option<u32> {
        let link = self.lives.word(number, offset_of!(Live, parent))?.load(SeqCst);
        let parent = link as u32;
        let word = self.lives.word(parent, offset_of!(Live, word))?.load(SeqCst);
        (parent != 0 && Live::link(parent, Live::stamp(word)) == link).then_some(parent)
    }

    /// Endpoints that have left are not ejected any more, nor will they be by connections
    /// from before that fail yet: they must not count among those that may be. `maybe` are
    /// those that may have left; both sides are in step.
    pub fn pardon_the_gone(&mut self, maybe: &HashSet<u32>) -> Result<(), Error> {
        let concerns = |number: &u32| {
            let live = self.lives.get(*number).filter(|live| live.parent != 0);
            live.is_some_and(|live| {
                live.ejected_until != 0 || live.left != 0 || Live::connections(live.word) > 0
            })
        };
        let mut gone: HashSet<u32> = maybe.iter().copied().filter(concerns).collect();
        if gone.is_empty() {
            return Ok(());
        }
        // One that has several places may have left some of them only.
        for (_, backend) in self.backends.dump(self.active().side)? {
            gone.remove(&backend.live);
        }
        for number in &gone {
            if let Some(left) = self.lives.half(*number, offset_of!(Live, left))
                && left.swap(1, SeqCst) == 0
            {
                // A wait that has begun before knows nothing of it.
                self.starved = None;
            }
        }
        // A program that has not seen it may eject one yet.
        let waited = self.wait_for_readers();
        gone.into_iter().for_each(|number| self.pardon(number));
        waited
    }

    fn pardon(&self, number: u32) {
        let until = self.lives.word(number, offset_of!(Live, ejected_until));
        if until.is_some_and(|until| until.swap(0, SeqCst) != 0)
            && let Some(parent) = self.parent(number)
            && let Some(ejected) = self.lives.word(parent, offset_of!(Live, ejected))
        {
            ejected.fetch_sub(1, SeqCst);
        }
    }

    /// Entries that belong to somebody.
    pub fn lives_in_use(&self) -> Vec<(u32, Live)> {
        let entries = (1..self.lives.len() as u32).filter_map(|number| {
            let live = self.lives.get(number)?;
            (live.owner != 0).then_some((number, live))
        });
        entries.collect()
    }

    /// The seed of affinities and shares; zero where there is none yet.
    pub fn seed(&self) -> u32 {
        self.control.half(0, offset_of!(Control, seed)).load(SeqCst)
    }

    /// Takes the seed that lies with the shares, and outlives tables of any layout as they do;
    /// draws it where there is none. Nobody who may not read it can tell whose connections
    /// are counted where.
    pub fn take_seed(&self) {
        let kept = self.shares.word(0, 0);
        if kept.load(SeqCst) == 0 {
            kept.store((sys::random() as u32 | 1).into(), SeqCst);
        }
        let seed = kept.load(SeqCst) as u32;
        self.control.half(0, offset_of!(Control, seed)).store(seed, SeqCst);
    }
}
