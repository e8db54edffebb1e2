//! Tables of other sizes, made beside those in force and filled before any
//! program uses them.

use std::collections::HashSet;
use std::mem::offset_of;
use std::sync::atomic::Ordering::SeqCst;

use redirector_common::abi::{Control, control_flags};

use super::held::Held;
use super::layout::{Layout, Part};
use super::load;
use super::mapped::Access;
use super::maps::Maps;
use super::sources::Levels;
use super::tables::Counts;
use super::{Datapath, Error, Options, Sizes};

impl Datapath {
    /// Tables of these sizes beside the ones in force, with the programs for
    /// them, the workloads of the ones in force, and no configuration. Fill
    /// them with [`apply`](Self::apply); [`attach`](Self::attach) then moves
    /// everything over and removes the old ones. Until then nothing is in force
    /// of it, and [`give_up`](Self::give_up) takes it back. What is counted of destinations and
    /// endpoints is one for both, so that nobody may read any more what was before that which
    /// is in force: both sides are in step when this returns.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, as a rule for want of memory; nothing is left of
    /// it then. `GracePeriod` while somebody reads that.
    pub fn beside(&mut self, sizes: &Sizes) -> Result<Self, Error> {
        self.writing()?;
        self.bring_in_step()?;
        let sizes = load::with_memory(&self.pins, sizes)?;
        let layout = Layout::new(&sizes)?;
        let directory = self.pins.join(&layout.directory(Part::Tables));
        if directory == self.places.tables {
            return Err(Error::Library {
                what: "making larger tables".into(),
                problem: "they would be the ones that are in force".into(),
            });
        }
        // Left by one that died before it moved over.
        self.pins.remove(&directory)?;
        let beside = self.make(&layout, &Options { sizes, ..self.options.clone() });
        if beside.is_err() {
            // What was made so far takes the memory that is short.
            self.pins.sweep()?;
            self.pins.remove(&directory)?;
        }
        beside
    }

    /// Makes connection memory with so many places: what is remembered already
    /// stays where it is, with the programs that know it, until the last of it has
    /// gone; what is counted of destinations and endpoints goes on.
    ///
    /// # Errors
    ///
    /// The kernel's refusal: everything is as before then.
    pub fn grow_memory(&mut self, connections: u32, overflow: u32) -> Result<(), Error> {
        self.writing()?;
        let sizes = Sizes { connections, overflow, ..self.layout.sizes };
        let layout = Layout::new(&sizes)?;
        let options = Options { sizes, ..self.options.clone() };
        let opened = load::ensure(&self.pins, &layout, &options).and_then(|(places, _)| {
            let held = Held::open(&places, &layout)?;
            Ok((Maps::open(&places, &layout, Access::Write)?, places, held))
        });
        let (maps, places, held) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.pins.sweep()?;
                return Err(error);
            }
        };
        let before = (
            std::mem::replace(&mut self.maps, maps),
            std::mem::replace(&mut self.places, places),
            self.held.replace(held),
            std::mem::replace(&mut self.layout, layout),
            std::mem::replace(&mut self.options, options),
        );
        let attached = self.attach();
        if attached.is_err() {
            (self.maps, self.places, self.held, self.layout, self.options) = before;
            // Some links may have moved already. What was remembered meanwhile in
            // the new memory stays there until it has gone, as ever.
            self.attach()?;
        }
        attached
    }

    fn make(&self, layout: &Layout, options: &Options) -> Result<Self, Error> {
        let (places, _) = load::ensure(&self.pins, layout, options)?;
        let held = Held::open(&places, layout)?;
        let mut maps = Maps::open(&places, layout, Access::Write)?;
        maps.make_self_test()?;
        maps.take_seed();
        maps.bring_in_step()?;
        let until = offset_of!(Control, flows_until);
        let until = (until, self.maps.control.word(0, until).load(SeqCst));
        maps.control.word(0, until.0).store(until.1, SeqCst);
        let (daemon, level) = self.maps.daemon_cgroup();
        maps.set_daemon_cgroup(daemon, level);
        let accounting = self.maps.flag(control_flags::ACCOUNTING);
        maps.set_flag(control_flags::ACCOUNTING, accounting);
        let mut levels = Levels::default();
        for (key, identity) in self.maps.sources()? {
            maps.insert_source(&mut levels, key, identity)?;
        }
        Ok(Self {
            pins: self.pins.clone(),
            places,
            layout: layout.clone(),
            maps,
            cgroups: self.cgroups.clone(),
            counts: Counts::default(),
            levels,
            behind: None,
            left: HashSet::new(),
            options: options.clone(),
            lock: self.lock.clone(),
            held: Some(held),
            is_fresh: false,
            found: Vec::new(),
            is_settled: true,
        })
    }

    /// Removes tables that were made [`beside`](Self::beside) others, and are
    /// not in force.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn give_up(self) -> Result<(), Error> {
        self.pins.remove(&self.places.tables)
    }
}
