//! The datapath: the programs and tables in the kernel, as the daemon and the
//! read-only commands handle them.
//!
//! A daemon calls [`Datapath::take_over`], fills the tables with
//! [`apply`](Datapath::apply) and [`insert_source`](Datapath::insert_source),
//! and then [`attach`](Datapath::attach)es: no connection ever meets half a
//! configuration. Everything stays in force when the process ends.
//! Read-only commands use [`Datapath::open_read_only`].

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::programs::ProgramInfo;
use aya_log::EbpfLogger;
use redirector_common::abi::{Live, Side, control_flags};
use redirector_core::image::{Delta, Image};

mod attach;
mod btf;
pub mod cgroup;
mod depth;
mod diag;
mod error;
pub mod features;
mod flows;
mod grow;
mod held;
mod layout;
mod lives;
mod load;
mod lookup;
mod mapped;
mod maps;
mod mending;
mod names;
mod netns;
mod observe;
mod opened;
mod peer;
mod pins;
mod places;
mod renewal;
pub mod reset;
mod selftest;
mod sockets;
mod sources;
mod standing;
mod starved;
mod staying;
mod sys;
mod tables;
mod types;

pub use error::Error;
pub(crate) use error::says_gone;
pub use flows::{Flows, now};
pub use lookup::Lookup;
pub use netns::{Netns, NotOpened, keep_own, netns_cookie, own_cookie};
pub use peer::{canonical, cgroup_of_socket};
pub use pins::in_charge;
pub use sockets::{Open, Socket};
pub use types::*;

use held::Held;
use layout::{Layout, Part};
use mapped::Access;
use maps::Maps;
use pins::{Lock, PROGRAMS, Pins};
use places::Places;
use sources::Levels;
pub use sources::SourceWriter;
use tables::Counts;

/// How often a reader tries to read in one piece while the tables change.
const READ_TRIES: usize = 20;

/// The tables and programs in the kernel.
#[derive(Debug)]
pub struct Datapath {
    pins: Pins,
    places: Places,
    layout: Layout,
    maps: Maps,
    /// Where to attach.
    cgroups: Vec<PathBuf>,
    /// How full the active side is.
    counts: Counts,
    levels: Levels,
    /// Why the other side lies behind, when it does.
    behind: Option<Error>,
    /// Entries of endpoints that may have left, and may be ejected.
    left: HashSet<u32>,
    /// What it was set up with; nothing of it counts when it is open for reading.
    options: Options,
    /// Held by the one that may write, and by tables that it makes beside its
    /// own.
    lock: Option<Arc<Lock>>,
    /// What is pinned, held by the one that may write.
    held: Option<Held>,
    /// Nothing was pinned before.
    is_fresh: bool,
    /// What was found amiss then.
    found: Vec<String>,
    /// Nothing is left that the last attachment has made superfluous.
    is_settled: bool,
}

/// As [`sys::wait_for_programs`].
fn wait_for_programs() -> Result<(), Error> {
    sys::wait_for_programs().map_err(|error| Error::from_io("waiting for programs that run", error))
}

impl Datapath {
    /// Takes charge: locks the pin directory, loads the programs and makes the
    /// tables, or takes over those that are there. Nothing is attached by it,
    /// and what is attached stays so.
    ///
    /// # Errors
    ///
    /// Missing privilege, kernel feature or programs; a pin directory outside
    /// a bpffs, of another writer or with foreign content; impossible sizes.
    pub fn take_over(options: &Options) -> Result<Self, Error> {
        // Errors of the cgroups come before anything is made.
        attach::outermost(&options.cgroups)?;
        let pins = Pins::create(&options.pins, options.readers)?;
        let lock = pins.lock()?;
        pins.admit_readers()?;
        let is_fresh = pins.current()?.is_none();
        let mut found = pins.sweep()?;
        found.extend(mending::mend(&pins, &Layout::new(&options.sizes)?)?);
        let layout = Layout::new(&load::with_memory(&pins, &options.sizes)?)?;
        let (places, is_new) = load::ensure(&pins, &layout, options)?;
        let mut maps = Maps::open(&places, &layout, Access::Write)?;
        // The maps may have made arrays of `LIVE`.
        pins.admit(&places.counts)?;
        let held = Held::open(&places, &layout)?;
        maps.make_self_test()?;
        let in_force = maps.compare_sides_patiently()?;
        if is_new && let Some(before) = pins.current()? {
            flows::take_lease(&maps, &before);
            // Programs may read what was before that which is in force in the tables of
            // before, and count by its numbers.
            wait_for_programs()?;
        }
        maps.take_seed();
        let counts = Counts::of(&in_force);
        let levels = Levels::of(&maps.sources()?);
        Ok(Self {
            pins,
            places,
            layout,
            maps,
            cgroups: options.cgroups.clone(),
            counts,
            levels,
            behind: None,
            left: HashSet::new(),
            options: options.clone(),
            lock: Some(Arc::new(lock)),
            held: Some(held),
            is_fresh,
            found,
            is_settled: true,
        })
    }

    /// Whether nothing was in force here when it was taken over.
    pub fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// What was amiss with the pins when it was taken over, and has been mended.
    pub fn found(&self) -> &[String] {
        &self.found
    }

    /// Opens what is loaded, for reading. The methods that change something
    /// answer with an error.
    ///
    /// # Errors
    ///
    /// `NotLoaded`, missing privilege, or tables of another version.
    pub fn open_read_only(pins: &Path) -> Result<Self, Error> {
        let mut tries = 0;
        loop {
            let pins = Pins::open(pins)?;
            let before = pins.current()?;
            match Self::open_loaded(pins.clone(), Access::Read) {
                // Other tables took their place while they were opened.
                Err(_) if tries < READ_TRIES && pins.current()? != before => tries += 1,
                result => return result,
            }
        }
    }

    /// Opens what is loaded, for a change of its tables: nothing is loaded or
    /// attached by it.
    ///
    /// # Errors
    ///
    /// As [`open_read_only`](Self::open_read_only), and `Busy` while a daemon
    /// is in charge.
    pub fn open(pins: &Path) -> Result<Self, Error> {
        let pins = Pins::open(pins)?;
        let lock = pins.lock()?;
        let mut this = Self::open_loaded(pins, Access::Write)?;
        this.lock = Some(Arc::new(lock));
        this.counts = Counts::of(&this.maps.compare_sides_patiently()?);
        this.levels = Levels::of(&this.maps.sources()?);
        Ok(this)
    }

    fn open_loaded(pins: Pins, access: Access) -> Result<Self, Error> {
        let not_loaded = || Error::NotLoaded { pins: pins.root().to_owned() };
        let tables = pins.current()?.ok_or_else(not_loaded)?;
        if !tables.exists() {
            return Err(not_loaded());
        }
        let name = tables.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let ours = Part::Tables.of_version();
        if !name.starts_with(&ours) {
            return Err(Error::Incompatible {
                pins: tables,
                differences: vec![format!(
                    "they were made by another version of redirector, this one makes {ours}"
                )],
            });
        }
        let programs = pins
            .names(&tables)?
            .into_iter()
            .find(|name| name.starts_with(PROGRAMS))
            .ok_or_else(not_loaded)?;
        let programs = tables.join(programs);
        let memory = pins.memory(&programs)?.ok_or_else(not_loaded)?;
        let [counts, flows] = Part::SHARED.map(|part| pins.join(&part.of_version()));
        let places = Places { tables, memory, counts, flows, programs };
        let layout = Layout::new(&maps::sizes(&places)?)?;
        Part::ALL.into_iter().try_for_each(|part| places.check(part, &layout))?;
        let maps = Maps::open(&places, &layout, access)?;
        Ok(Self {
            cgroups: attach::places(&pins)?.into_iter().map(|place| place.path).collect(),
            pins,
            places,
            layout,
            maps,
            counts: Counts::default(),
            levels: Levels::default(),
            behind: None,
            left: HashSet::new(),
            options: Options::default(),
            lock: None,
            held: None,
            is_fresh: false,
            found: Vec::new(),
            is_settled: true,
        })
    }

    /// Puts a change in force: at one instant for all connections, on both
    /// sides when it returns. Nothing is changed when it does not fit, or on
    /// any other error. The generation must be neither 0 nor `u64::MAX`.
    ///
    /// When it could not be written to the second side, it is in force all the
    /// same; [`active`](Self::active) then says that the sides are not in step,
    /// [`behind`](Self::behind) why; [`bring_in_step`](Self::bring_in_step) or the next
    /// change mends it.
    ///
    /// # Errors
    ///
    /// `Capacity`, with everything that does not fit; or the kernel's refusal.
    pub fn apply(&mut self, delta: &Delta, generation: u64) -> Result<(), Error> {
        self.writing()?;
        let after = self.counts.after(delta, &self.layout.sizes)?;
        // Whoever reads the tables of before counts by their numbers, too.
        self.maps.bring_in_step()?;
        if self.maps.renew_lives(delta)?
            && let Some(held) = &mut self.held
        {
            self.pins.admit(&self.places.counts)?;
            held.hold_lives(&self.places)?;
        }
        self.behind = self.maps.apply(delta, generation, after)?;
        self.counts = after;
        self.left.extend(delta.backends.iter().filter_map(|change| {
            let before = change.old?.live;
            (change.new.map(|new| new.live) != Some(before)).then_some(before)
        }));
        self.pardon_the_gone();
        Ok(())
    }

    /// What is in force.
    pub fn active(&self) -> Active {
        self.maps.active()
    }

    /// Why the idle side could not be brought in step by the last change.
    pub fn behind(&self) -> Option<&Error> {
        self.behind.as_ref()
    }

    /// Brings the idle side in step, when a change could not.
    ///
    /// # Errors
    ///
    /// The kernel's refusal; the side then still lies behind, and nobody reads it.
    pub fn bring_in_step(&mut self) -> Result<(), Error> {
        self.maps.bring_in_step()?;
        self.behind = None;
        self.pardon_the_gone();
        Ok(())
    }

    /// Everything that a side holds. Entries of arrays that are all zeroes are
    /// left out.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn dump(&self, side: Side) -> Result<Image, Error> {
        self.maps.dump(side)
    }

    /// Everything that is in force, in one consistent piece.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or tables that change all the time.
    pub fn dump_active(&self) -> Result<(Active, Image), Error> {
        self.read(|tables| Ok((tables.active(), self.dump(tables.side())?)))
    }

    /// Reads of what is in force, in one consistent piece: all again when it changed
    /// meanwhile, so that `read` must do nothing else.
    ///
    /// # Errors
    ///
    /// Those of `read`, the kernel's refusal, or tables that change all the time.
    pub fn read<T, E: From<Error>>(
        &self,
        mut read: impl FnMut(&Lookup<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        for _ in 0..READ_TRIES {
            let before = self.active();
            let tables = Lookup::new(&self.maps, before);
            let answer = read(&tables);
            if self.active().epoch == before.epoch {
                return match tables.refusal() {
                    Some(refusal) => Err(refusal.into()),
                    None => answer,
                };
            }
        }
        Err(E::from(Error::Library {
            what: "reading the tables".into(),
            problem: format!("they changed {READ_TRIES} times while they were read; try again"),
        }))
    }

    /// Makes processes known as a workload. Takes effect at once.
    ///
    /// # Errors
    ///
    /// `Capacity`, or the kernel's refusal.
    pub fn insert_source(&mut self, key: SourceKey, identity: u32) -> Result<(), Error> {
        self.writing()?;
        self.maps.insert_source(&mut self.levels, key, identity)
    }

    /// Forgets one; fine when it is not there.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn remove_source(&mut self, key: SourceKey) -> Result<(), Error> {
        self.writing()?;
        self.maps.remove_source(&mut self.levels, key)
    }

    /// A second way to make cgroups known, for another thread.
    ///
    /// # Errors
    ///
    /// When this is open for reading only, or the kernel's refusal.
    pub fn source_writer(&self) -> Result<SourceWriter, Error> {
        self.writing()?;
        SourceWriter::open(&self.places, self.maps.class_of.capacity)
    }

    /// Takes over a source that a [`SourceWriter`] has made known.
    pub fn adopt_source(&mut self, key: SourceKey) {
        self.maps.adopt_source(&mut self.levels, key);
    }

    /// All sources: key and identity number.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn sources(&self) -> Result<Vec<(SourceKey, u32)>, Error> {
        self.maps.sources()
    }

    /// The cgroup whose connects are never redirected, with those of all below it where
    /// its level is known.
    ///
    /// # Errors
    ///
    /// When this is open for reading only.
    pub fn set_daemon_cgroup(&mut self, cgroup: Option<&cgroup::Cgroup>) -> Result<(), Error> {
        self.writing()?;
        let id = cgroup.map_or(0, |cgroup| cgroup.id);
        let level = cgroup.and_then(|cgroup| match cgroup.level {
            // That of a container, which cannot see above it.
            0 => depth::of_own_ancestor(cgroup.id).ok().flatten(),
            level => Some(level),
        });
        self.maps.set_daemon_cgroup(id, level.unwrap_or(0));
        Ok(())
    }

    /// Switches accounting on or off: the sockops program, which costs every
    /// connection below the cgroups.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn set_accounting(&mut self, on: bool) -> Result<(), Error> {
        self.writing()?;
        if !on {
            if !self.maps.flag(control_flags::ACCOUNTING) {
                return Ok(());
            }
            self.maps.set_flag(control_flags::ACCOUNTING, false);
            // Whoever saw that there was accounting has said of its connection that it is
            // followed after this: none is that nobody finds now.
            wait_for_programs().inspect_err(|_| {
                self.maps.set_flag(control_flags::ACCOUNTING, true);
            })?;
            return self.tidy();
        }
        for (cgroup, file) in &attach::outermost(&self.cgroups)? {
            attach::attach(&self.pins, &self.places, cgroup, file, Hook::Sockops)?;
        }
        self.maps.set_flag(control_flags::ACCOUNTING, true);
        Ok(())
    }

    /// What was counted.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn counters(&self) -> Result<Counters, Error> {
        Ok(observe::counters(&self.maps, &self.layout))
    }

    /// What is remembered, also in memory from before it has grown. Of what another
    /// version remembers in a layout of its own there are only
    /// [`cookies`](Self::cookies_of_others).
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn connections(&self) -> Result<Vec<Remembered>, Error> {
        let all = self.in_memory(&Part::Memory.of_version(), observe::connections)?;
        Ok(all.into_iter().flatten().map(|(connection, _)| connection).collect())
    }

    /// The cookies of sockets whose connections another version remembers, in a form
    /// that this one cannot read.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn cookies_of_others(&self) -> Result<BTreeSet<u64>, Error> {
        let ours = Part::Memory.of_version();
        let mut cookies = BTreeSet::new();
        for name in self.pins.others(Part::Memory.prefix(), &self.places.memory)? {
            let directory = self.pins.join(&name);
            match observe::cookies(&directory) {
                _ if name.starts_with(&ours) => {}
                Err(_) if !directory.exists() => {}
                read => cookies.extend(read?),
            }
        }
        Ok(cookies)
    }

    /// How many connections are remembered: in all memory that there is.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn remembered(&self) -> Result<u64, Error> {
        Ok(self.in_memory(Part::Memory.prefix(), observe::count)?.into_iter().sum())
    }

    /// Reads all memory whose name starts so. The oldest go with the last of
    /// their connections, also while they are read.
    fn in_memory<T>(
        &self,
        prefix: &str,
        read: impl Fn(&Path) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let mut all = vec![read(&self.places.memory)?];
        for name in self.pins.others(prefix, &self.places.memory)? {
            let directory = self.pins.join(&name);
            match read(&directory) {
                Err(_) if !directory.exists() => {}
                result => all.push(result?),
            }
        }
        Ok(all)
    }

    /// What is known of destinations and endpoints whose policy needs it, by
    /// number.
    pub fn lives(&self) -> Vec<(u32, Live)> {
        self.maps.lives_in_use()
    }

    /// The kernel's id of the program of `connect4`.
    ///
    /// # Errors
    ///
    /// When it is not pinned any more, or the kernel's refusal.
    pub fn program_id(&self) -> Result<u32, Error> {
        let pin = self.places.programs.join(Hook::Connect4.program());
        ProgramInfo::from_pin(&pin)
            .map(|info| info.id())
            .map_err(|error| Error::from_library(format!("opening {}", pin.display()), &error))
    }

    /// What the programs log, told to `to`; there is nothing with a
    /// [`log_level`](Options::log_level) of 0. One reader only: each record is
    /// read once.
    ///
    /// # Errors
    ///
    /// As for [`program_id`](Self::program_id).
    pub fn program_log<T: log::Log>(&self, to: T) -> Result<EbpfLogger<T>, Error> {
        EbpfLogger::init_from_id_with_logger(self.program_id()?, to)
            .map_err(|error| Error::from_library("opening the programs' log", &error))
    }

    /// The sizes of the tables in force.
    pub fn sizes(&self) -> Sizes {
        self.layout.sizes
    }

    /// Detaches and removes everything below the pin directory.
    ///
    /// # Errors
    ///
    /// `NotLoaded`, `Busy` while a daemon is in charge, or the kernel's refusal.
    pub fn unload(pins: &Path) -> Result<(), Error> {
        let pins = Pins::open(pins)?;
        let _lock = pins.lock()?;
        remove_all(&pins)
    }

    /// As [`unload`](Self::unload), by the daemon in charge itself.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn remove(&self) -> Result<(), Error> {
        self.writing()?;
        remove_all(&self.pins)
    }

    fn writing(&self) -> Result<(), Error> {
        match self.lock {
            Some(_) => Ok(()),
            None => Err(Error::Library {
                what: format!("writing to {}", self.pins.root().display()),
                problem: "it was opened for reading only".into(),
            }),
        }
    }
}

/// Removes every pin: links first, so that no program runs on tables that are
/// half gone.
fn remove_all(pins: &Pins) -> Result<(), Error> {
    attach::detach_everywhere(pins)?;
    pins.remove_all()
}
