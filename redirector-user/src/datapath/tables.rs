//! Changing and reading the two sides.

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use aya::maps::MapError;
use aya::maps::lpm_trie;
use redirector_common::abi::{
    ClassKey, Control, FrontendKey, GENERATION_DIRTY, PrefixKey, SELF_TEST_ADDR, Side, Verdict,
};
use redirector_core::image::{Delta, Image, Prefix};

use super::maps::Maps;
use super::starved::{STARVES, Starved};
use super::{Active, Error, Sizes, names, sys};

/// How long a program may take over its lookups, and over what it counts by their
/// numbers, before the daemon goes on with other things; that takes less than a
/// microsecond, unless its task is preempted, which may be for seconds. The other side
/// lies behind then, and nothing is written to it until the program has come to its end.
const PATIENCE: Duration = Duration::from_millis(200);

const PREFIX_BITS: u8 = 128;

/// How many entries a side's hash tables have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    frontends: usize,
    prefixes: usize,
    class_verdicts: usize,
}

impl Counts {
    /// Of an image.
    pub fn of(image: &Image) -> Self {
        Self {
            frontends: image.frontends.len(),
            prefixes: image.prefixes.len(),
            class_verdicts: image.class_verdicts.len(),
        }
    }

    /// After a change; or everything about it that does not fit.
    pub fn after(self, delta: &Delta, sizes: &Sizes) -> Result<Self, Error> {
        fn grown<K, V>(
            count: usize,
            changes: &[redirector_core::image::EntryChange<K, V>],
        ) -> usize {
            let come = changes.iter().filter(|c| c.old.is_none() && c.new.is_some()).count();
            let gone = changes.iter().filter(|c| c.old.is_some() && c.new.is_none()).count();
            (count + come).saturating_sub(gone)
        }
        fn highest<V>(changes: &[redirector_core::image::EntryChange<u32, V>]) -> usize {
            changes
                .iter()
                .filter(|change| change.new.is_some())
                .map(|change| change.key as usize + 1)
                .max()
                .unwrap_or(0)
        }
        let after = Self {
            frontends: grown(self.frontends, &delta.frontends),
            prefixes: grown(self.prefixes, &delta.prefixes),
            class_verdicts: grown(self.class_verdicts, &delta.class_verdicts),
        };
        let mut problems = Vec::new();
        let mut fits = |what: &str, needed: usize, size: u32| {
            if needed > size as usize {
                problems.push(format!("it needs {needed} {what}, the table has {size}"));
            }
        };
        fits("frontends", after.frontends, sizes.frontends);
        fits("prefixes", after.prefixes, sizes.prefixes);
        fits("class verdicts", after.class_verdicts, sizes.class_verdicts);
        fits("class tables", highest(&delta.class_defaults), sizes.class_tables);
        fits("identities", highest(&delta.class_of), sizes.identities);
        fits("routes", highest(&delta.routes), sizes.routes);
        fits("legs", highest(&delta.legs), sizes.legs);
        fits("destinations", highest(&delta.destinations), sizes.destinations);
        fits("backends", highest(&delta.backends), sizes.backends);
        for change in &delta.frontends {
            if change.key.0 == SELF_TEST_ADDR {
                problems.push(format!("{} is reserved for the self-test", change.key.0));
            }
        }
        for change in &delta.prefixes {
            if change.key.len > PREFIX_BITS {
                problems.push(format!("a prefix of {} bits", change.key.len));
            }
        }
        if problems.is_empty() { Ok(after) } else { Err(Error::Capacity(problems)) }
    }
}

/// Where the control words say whether the prefix table has an entry of a side.
fn prefixes_word(side: u32) -> usize {
    offset_of!(Control, has_prefixes) + 2 * (side as usize & 1)
}

fn frontend_key(side: Side, (addr, port): (redirector_common::addr::Addr, u16)) -> FrontendKey {
    FrontendKey { addr, port: port.to_be(), side: side.index() as u16 }
}

fn prefix_key(side: Side, prefix: &Prefix) -> lpm_trie::Key<PrefixKey> {
    let data =
        PrefixKey { side: side.index() as u16, port: prefix.port.to_be(), addr: prefix.addr };
    lpm_trie::Key::new(PrefixKey::FIXED_BITS + u32::from(prefix.len), data)
}

fn class_key(side: Side, (table, class): (u32, u32)) -> ClassKey {
    ClassKey { table, class, side: side.index() }
}

/// Being absent is what a removal is for.
fn removed(result: Result<(), MapError>, what: &str) -> Result<(), Error> {
    match result {
        Err(MapError::KeyNotFound) | Ok(()) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        Err(error) => Err(Error::from_library(format!("writing the table {what}"), &error)),
    }
}

fn written(result: Result<(), MapError>, what: &str) -> Result<(), Error> {
    result.map_err(|error| Error::from_library(format!("writing the table {what}"), &error))
}

impl Maps {
    /// What is in force.
    pub fn active(&self) -> Active {
        let epoch = self.control.word(0, offset_of!(Control, epoch)).load(Ordering::SeqCst);
        let side = Side::of_epoch(epoch);
        let generation = self.generation(side);
        Active {
            side,
            epoch,
            generation,
            in_step: generation == self.generation(side.other()) && generation != GENERATION_DIRTY,
        }
    }

    /// Whether the prefix table has an entry of a side, by its index.
    pub fn has_prefixes(&self, side: u32) -> bool {
        self.control.quarter(prefixes_word(side)).load(Ordering::SeqCst) != 0
    }

    fn generation_word(&self, side: Side) -> &std::sync::atomic::AtomicU64 {
        let offset = offset_of!(Control, generation) + 8 * side.index() as usize;
        self.control.word(0, offset)
    }

    fn generation(&self, side: Side) -> u64 {
        self.generation_word(side).load(Ordering::SeqCst)
    }

    /// Writes a change to a side that nobody reads. What goes, goes first, so
    /// that there is room for what comes.
    fn write(&mut self, side: Side, delta: &Delta) -> Result<(), Error> {
        for change in delta.frontends.iter().filter(|change| change.new.is_none()) {
            removed(self.frontends.remove(&frontend_key(side, change.key)), names::FRONTENDS)?;
        }
        for change in delta.prefixes.iter().filter(|change| change.new.is_none()) {
            removed(self.prefixes.remove(&prefix_key(side, &change.key)), names::PREFIXES)?;
        }
        for change in delta.class_verdicts.iter().filter(|change| change.new.is_none()) {
            removed(
                self.class_verdicts.remove(&class_key(side, change.key)),
                names::CLASS_VERDICTS,
            )?;
        }
        for change in &delta.frontends {
            if let Some(verdict) = change.new {
                let key = frontend_key(side, change.key);
                written(self.frontends.insert(key, verdict, 0), names::FRONTENDS)?;
            }
        }
        for change in &delta.prefixes {
            if let Some(verdict) = change.new {
                let key = prefix_key(side, &change.key);
                written(self.prefixes.insert(&key, verdict, 0), names::PREFIXES)?;
            }
        }
        for change in &delta.class_verdicts {
            if let Some(verdict) = change.new {
                let key = class_key(side, change.key);
                written(self.class_verdicts.insert(key, verdict, 0), names::CLASS_VERDICTS)?;
            }
        }
        macro_rules! array {
            ($name:ident) => {
                self.$name
                    .write(side, delta.$name.iter().map(|change| (change.key, change.new)))?;
            };
        }
        array!(class_defaults);
        array!(class_of);
        array!(routes);
        array!(legs);
        array!(destinations);
        array!(backends);
        Ok(())
    }

    /// Writes a change to the idle side, and says on the side which generation
    /// it holds now. A side that could not be written whole stays marked.
    fn bring(
        &mut self,
        side: Side,
        delta: &Delta,
        generation: u64,
        has_prefixes: bool,
    ) -> Result<(), Error> {
        self.generation_word(side).store(GENERATION_DIRTY, Ordering::SeqCst);
        self.write(side, delta)?;
        self.control
            .quarter(prefixes_word(side.index()))
            .store(has_prefixes.into(), Ordering::SeqCst);
        self.generation_word(side).store(generation, Ordering::SeqCst);
        Ok(())
    }

    /// Applies a change to both sides, which are in step. Errors mean that nothing is in force of
    /// it; what keeps the second side behind is returned apart.
    pub fn apply(
        &mut self,
        delta: &Delta,
        generation: u64,
        counts: Counts,
    ) -> Result<Option<Error>, Error> {
        let Active { side, epoch, .. } = self.active();
        let (idle, has_prefixes) = (side.other(), counts.prefixes > 0);
        self.bring(idle, delta, generation, has_prefixes)?;
        fence(Ordering::SeqCst);
        self.control
            .word(0, offset_of!(Control, epoch))
            .store(epoch.wrapping_add(1), Ordering::SeqCst);
        fence(Ordering::SeqCst);
        // From here on the change is in force. One of the same generation mends what differs
        // from it: the words must not say that both sides hold the same before they do.
        if self.generation(side) == generation {
            self.generation_word(side).store(GENERATION_DIRTY, Ordering::SeqCst);
        }
        let behind = self
            .wait_for_readers()
            .and_then(|()| self.bring(side, delta, generation, has_prefixes));
        Ok(behind.err())
    }

    /// Waits until every program that may have read the old epoch has left its lookups: until
    /// each CPU's count was zero once. Where there are always some, which have read the new
    /// one, as a workload with hundreds of threads can do to a kernel that preempts programs:
    /// until those that ran when that was found have come to their end.
    pub fn wait_for_readers(&mut self) -> Result<(), Error> {
        let left = self.readers_leave();
        let epoch = self.active().epoch;
        match (&left, &self.starved) {
            (Ok(()), _) => self.starved = None,
            (Err(_), Some(starved)) if starved.counts_for(epoch) => {
                if starved.is_over() {
                    return Ok(());
                }
            }
            (Err(_), _) => self.starved = Starved::begin(epoch),
        }
        left
    }

    fn readers_leave(&self) -> Result<(), Error> {
        let start = Instant::now();
        for cpu in 0..self.readers.len() {
            let readers = self.readers.word(cpu, 0);
            let mut tries = 0_u32;
            while readers.load(Ordering::SeqCst) != 0 {
                tries += 1;
                match tries {
                    0..100 => std::hint::spin_loop(),
                    100..200 => std::thread::yield_now(),
                    _ => std::thread::sleep(Duration::from_micros(100)),
                }
                if start.elapsed() > PATIENCE {
                    return Err(Error::GracePeriod { cpu, waited: PATIENCE });
                }
            }
        }
        Ok(())
    }

    /// Makes the idle side hold what the active one holds, if its word says that it does
    /// not.
    pub fn bring_in_step(&mut self) -> Result<(), Error> {
        if self.active().in_step {
            return Ok(());
        }
        self.wait_for_readers()?;
        self.compare_sides().map(drop)
    }

    /// Makes the idle side hold what the active one holds, whatever their words say: what
    /// mends has the generation of what it mends, so that a daemon that ended in the middle
    /// of it may have left them alike. Gives what is in force.
    pub fn compare_sides(&mut self) -> Result<Image, Error> {
        let active = self.active();
        let image = self.dump(active.side)?;
        let idle = active.side.other();
        let delta = self.dump(idle)?.diff(&image);
        if !active.in_step || !delta.is_empty() {
            self.wait_for_readers()?;
            self.bring(idle, &delta, active.generation, !image.prefixes.is_empty())?;
        }
        Ok(image)
    }

    /// As [`compare_sides`](Self::compare_sides), of who begins: for as long as programs are
    /// given until only those from before are waited for, and some more.
    pub fn compare_sides_patiently(&mut self) -> Result<Image, Error> {
        let begun = Instant::now();
        loop {
            match self.compare_sides() {
                Err(Error::GracePeriod { .. }) if begun.elapsed() < STARVES * 2 => {}
                result => return result,
            }
        }
    }

    /// Everything that a side holds, but for the self-test's frontend.
    pub fn dump(&self, side: Side) -> Result<Image, Error> {
        let reading = |what: &str, error: MapError| {
            Error::from_library(format!("reading the table {what}"), &error)
        };
        let mut image = Image::default();
        for entry in self.frontends.iter() {
            let (key, verdict) = entry.map_err(|error| reading(names::FRONTENDS, error))?;
            if u32::from(key.side) == side.index() && key.addr != SELF_TEST_ADDR {
                image.frontends.insert((key.addr, u16::from_be(key.port)), verdict);
            }
        }
        for entry in self.prefixes.iter() {
            let (key, verdict) = entry.map_err(|error| reading(names::PREFIXES, error))?;
            let data = key.data();
            if u32::from(data.side) == side.index() {
                let len = key.prefix_len().saturating_sub(PrefixKey::FIXED_BITS);
                let prefix = Prefix {
                    addr: data.addr,
                    len: u8::try_from(len).unwrap_or(PREFIX_BITS),
                    port: u16::from_be(data.port),
                };
                image.prefixes.insert(prefix, verdict);
            }
        }
        for entry in self.class_verdicts.iter() {
            let (key, verdict) = entry.map_err(|error| reading(names::CLASS_VERDICTS, error))?;
            if key.side == side.index() {
                image.class_verdicts.insert((key.table, key.class), verdict);
            }
        }
        fn all<V>(entries: Vec<(u32, V)>) -> BTreeMap<u32, V> {
            entries.into_iter().collect()
        }
        image.class_defaults = all(self.class_defaults.dump(side)?);
        image.class_of = all(self.class_of.dump(side)?);
        image.routes = all(self.routes.dump(side)?);
        image.legs = all(self.legs.dump(side)?);
        image.destinations = all(self.destinations.dump(side)?);
        image.backends = all(self.backends.dump(side)?);
        Ok(image)
    }

    /// The port of the self-test's frontend; zero while there is none.
    pub fn self_test_port(&self) -> u16 {
        let port = self.control.half(0, offset_of!(Control, self_test_port)).load(Ordering::SeqCst);
        u16::try_from(port).unwrap_or(0)
    }

    /// Puts the self-test's frontend on both sides of new tables.
    pub fn make_self_test(&mut self) -> Result<(), Error> {
        if self.self_test_port() != 0 {
            return Ok(());
        }
        let port = 1 + (sys::random() % 65_535) as u16;
        for side in [Side::of_epoch(0), Side::of_epoch(1)] {
            let key = frontend_key(side, (SELF_TEST_ADDR, port));
            written(self.frontends.insert(key, Verdict::REFUSE, 0), names::FRONTENDS)?;
        }
        self.control
            .half(0, offset_of!(Control, self_test_port))
            .store(port.into(), Ordering::SeqCst);
        Ok(())
    }
}
