//! Staying attached: links that are moved over to new programs, pins that are made
//! again, and what goes once nothing needs it any more.

use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;

use redirector_common::abi::{connection_state, control_flags};

use super::cgroup::Cgroup;
use super::layout::{MEMORY, Part};
use super::pins::{PROGRAMS, Pins};
use super::{Datapath, Error, Hook, attach, observe, wait_for_programs};

/// So many levels below those that are served lie the cgroups by which callers are told
/// apart: see [`Control::caller_level`](redirector_common::abi::Control::caller_level).
const BELOW: u32 = 2;

impl Datapath {
    /// Attaches to the cgroups of the options, or moves existing links over to
    /// these programs and tables; detaches from cgroups no longer named, and
    /// removes tables no longer used.
    ///
    /// # Errors
    ///
    /// A cgroup that is none, or the kernel's refusal.
    pub fn attach(&mut self) -> Result<(), Error> {
        self.writing()?;
        let accounting = self.maps.flag(control_flags::ACCOUNTING);
        let cgroups = attach::outermost(&self.cgroups)?;
        let uppermost = cgroups.iter().map(|(cgroup, _)| cgroup.level).min().unwrap_or(0);
        self.maps.set_caller_level(uppermost + BELOW);
        for (cgroup, file) in &cgroups {
            for hook in Hook::ALL {
                let wanted =
                    hook != Hook::Sockops || accounting || self.pin(cgroup.id, hook).exists();
                if wanted {
                    attach::attach(&self.pins, &self.places, cgroup, file, hook)?;
                }
            }
        }
        for place in self.surplus(&cgroups)? {
            for hook in [Hook::Connect6, Hook::Connect4] {
                attach::detach(&self.pins, place.id, hook)?;
            }
            for hook in [Hook::Sockops, Hook::Release, Hook::Getpeername4, Hook::Getpeername6] {
                let pin = self.pin(place.id, hook);
                let program = attach::program(&self.places, hook)?;
                attach::update(&pin, program.as_fd(), &place, hook).map_err(|error| {
                    Error::from_io(format!("updating {}", pin.display()), error)
                })?;
            }
        }
        self.pins.set_current(&self.places.tables)?;
        // It is in force: what is left of before is no reason to say that it is not.
        self.is_settled = false;
        if let Err(error) = self.settle() {
            tracing::warn!("in force, and what was before is not all gone yet: {error}");
        }
        Ok(())
    }

    /// Detaches from everywhere; tables and memory stay.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn detach(&self) -> Result<(), Error> {
        self.writing()?;
        attach::detach_everywhere(&self.pins)
    }

    /// What follows on an attachment; where it fails, [`tidy`](Self::tidy) tries it again.
    fn settle(&mut self) -> Result<(), Error> {
        // First, as what follows may fail: who removes a pin then finds it made again.
        self.hold_links()?;
        // Programs from before may count by the numbers of other tables: nobody else gets an
        // entry of those before they have come to their end.
        wait_for_programs()?;
        self.left.extend(self.maps.lives_in_use().into_iter().map(|(number, _)| number));
        self.pardon_the_gone();
        self.pins.remove_other_tables(&self.places.tables)?;
        self.remove_old_programs()?;
        self.tidy_links(&self.pins.others(MEMORY, &self.places.memory)?)?;
        self.is_settled = true;
        Ok(())
    }

    /// Makes pins again that somebody has removed, as they were: tables,
    /// connection memory, programs and links are still held, so that nothing was
    /// detached by it. Says how many. What somebody has detached comes back by
    /// [`attach`](Self::attach).
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or another writer that came in between.
    pub fn pin_again(&mut self) -> Result<usize, Error> {
        self.writing()?;
        let Some(held) = &self.held else { return Ok(0) };
        if !self.lock.as_ref().is_some_and(|lock| lock.is_of(self.pins.root())) {
            // It was that of a directory that is gone, or on a bpffs that is.
            self.pins = Pins::create(self.pins.root(), self.options.readers)?;
            self.lock = Some(Arc::new(self.pins.lock()?));
            self.pins.admit_readers()?;
        }
        let made = held.pin_again(&self.pins)?;
        self.pins.set_memory(&self.places.programs, &self.places.memory)?;
        if held.is_attached() {
            self.pins.set_current(&self.places.tables)?;
        }
        Ok(made)
    }

    /// Where a link with the memory in use is pinned.
    fn pin(&self, cgroup: u64, hook: Hook) -> PathBuf {
        attach::pin(&self.pins, &self.places.memory, cgroup, hook)
    }

    /// Links to cgroups that are not named any more.
    fn surplus(
        &self,
        wanted: &[(Cgroup, std::fs::File)],
    ) -> Result<Vec<attach::LinkedCgroup>, Error> {
        let mut places = attach::places(&self.pins)?;
        places.retain(|place| !wanted.iter().any(|(cgroup, _)| cgroup.id == place.id));
        Ok(places)
    }

    /// Removes programs that were replaced.
    fn remove_old_programs(&self) -> Result<(), Error> {
        for name in self.pins.names(&self.places.tables)? {
            let path = self.places.tables.join(&name);
            if name.starts_with(PROGRAMS) && path != self.places.programs {
                self.pins.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Removes what was only kept for connections that have ended since: the
    /// programs that free their memory, in cgroups no longer attached to, that of
    /// accounting, after it was switched off, and other connection memory: of
    /// another version, or from before it has grown; and lets endpoints count no more that
    /// have left, where programs had not come to their end. To be called now and then.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn tidy(&mut self) -> Result<(), Error> {
        self.writing()?;
        if !self.is_settled {
            self.settle()?;
        }
        self.pardon_the_gone();
        let mut kept = Vec::new();
        for name in self.pins.others(MEMORY, &self.places.memory)? {
            let directory = self.pins.join(&name);
            match observe::count(&directory) {
                Ok(0) => self.pins.remove(&directory)?,
                // What is not whole, nobody uses.
                Err(error) if error.is_not_found() => self.pins.remove(&directory)?,
                // What cannot be read now may be in use.
                Ok(_) | Err(_) => kept.push(name),
            }
        }
        // Another version that counts in another way finds its counts when it
        // comes back, for as long as its connections are there.
        if kept.is_empty() {
            for part in Part::SHARED {
                for name in self.pins.others(part.prefix(), self.places.of(part))? {
                    self.pins.remove(&self.pins.join(&name))?;
                }
            }
        }
        self.tidy_links(&kept)
    }

    /// Lets endpoints that have left count no more among those that are ejected, once nobody
    /// reads that they are there.
    pub(super) fn pardon_the_gone(&mut self) {
        if self.behind.is_some() {
            return;
        }
        match self.maps.pardon_the_gone(&self.left) {
            Ok(()) => self.left.clear(),
            Err(error) => {
                tracing::warn!("endpoints that are gone may still count as ejected: {error}");
            }
        }
    }

    /// Holds the links that are there now.
    fn hold_links(&mut self) -> Result<(), Error> {
        self.held.as_mut().map_or(Ok(()), |held| held.hold_links(&self.pins))
    }

    /// As [`tidy`](Self::tidy); `kept` is the other memory that is in use. Right after
    /// programs were swapped, one of theirs may still run.
    fn tidy_links(&mut self, kept: &[String]) -> Result<(), Error> {
        let removed = self.remove_links(kept);
        // No pin of what has gone is made again.
        removed.and(self.hold_links())
    }

    fn remove_links(&self, kept: &[String]) -> Result<(), Error> {
        for place in attach::places(&self.pins)? {
            attach::detach_other_memory(&self.pins, &self.places.memory, place.id, kept)?;
        }
        let cgroups = attach::outermost(&self.cgroups)?;
        let surplus = self.surplus(&cgroups)?;
        let follows = !self.maps.flag(control_flags::ACCOUNTING)
            && attach::places(&self.pins)?
                .iter()
                .any(|place| self.pin(place.id, Hook::Sockops).exists());
        if surplus.is_empty() && !follows {
            return Ok(());
        }
        let connections = observe::connections(&self.places.memory)?;
        let is_followed = |one: &(_, u32)| one.1 & connection_state::FOLLOWED != 0;
        if follows && !connections.iter().any(is_followed) {
            for place in attach::places(&self.pins)? {
                attach::detach_link(&self.pins, &self.pin(place.id, Hook::Sockops))?;
            }
        }
        for place in surplus {
            if (connections.is_empty() && kept.is_empty()) || !attach::is_at(&place)? {
                attach::detach_all(&self.pins, place.id)?;
            }
        }
        Ok(())
    }
}
