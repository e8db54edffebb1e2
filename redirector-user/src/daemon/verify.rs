//! The kernel against what it should be: tables, sources, programs. What
//! differs is counted, said and mended.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::{Duration, Instant};

use redirector_core::image::Delta;

use super::control_loop::Daemon;
use super::startup;
use crate::again::Again;
use crate::datapath::{Error, Hook};
use crate::proxy;
use crate::scheduling::worked;
use crate::state::{FailingEndpoint, StarvedGateway};

/// How long what has happened at a gateway is told of.
const LATELY: Duration = Duration::from_secs(60);

/// What has happened lately, of what is counted.
pub(super) struct Lately<K>(BTreeMap<K, (u64, Instant)>);

impl<K> Default for Lately<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone + Display> Lately<K> {
    /// Takes the counts as they are now, each of what has happened at least once. Those that
    /// have grown lately are in `told` then; what was not there before is warned of.
    fn note(&mut self, counts: impl IntoIterator<Item = (K, u64)>, told: &mut Vec<K>) {
        let dated = counts.into_iter().map(|(what, count)| {
            let since = match self.0.get(&what) {
                Some((before, since)) if *before == count => *since,
                _ => Instant::now(),
            };
            (what, (count, since))
        });
        self.0 = dated.collect();
        let lately = self.0.iter().filter(|(_, (_, since))| since.elapsed() < LATELY);
        let lately: Vec<K> = lately.map(|(what, _)| what.clone()).collect();
        for one in lately.iter().filter(|one| !told.contains(one)) {
            tracing::warn!("{one}");
        }
        *told = lately;
    }
}

/// Comparing the tables takes at most this share of a processor.
const SHARE: u32 = 50;

impl Daemon {
    /// How long the loop may sleep.
    pub(super) fn until_next_check(&self) -> Duration {
        let check = self.options.verify.saturating_sub(self.verified.elapsed());
        let again = [self.apply_again, self.step_again].iter().filter_map(Again::until).min();
        let again = again.into_iter().chain(self.gateways.until_start()).min();
        let check = again.map_or(check, |again| check.min(again));
        let check = self.until_bypass_over().map_or(check, |over| check.min(over));
        self.until_drained().map_or(check, |over| check.min(Duration::from_millis(over)))
    }

    /// Compares and mends when it is time to: programs and pins every time, and
    /// tables less often where they are so large that it takes long.
    pub(super) fn check(&mut self) {
        if self.apply_again.is_due() {
            self.changed = true;
        }
        self.gateways.start_when_it_is_time(self.engine.plan());
        self.bring_in_step_when_it_is_time();
        if self.verified.elapsed() < self.options.verify {
            return;
        }
        self.grow_when_it_is_time();
        self.note_failing();
        self.stop_following();
        if self.options.flows {
            // Nothing is taken by it.
            let _ = self.gateways.told(u64::MAX, self.options.verify * 4);
        }
        let (before, mended) = (worked(), self.report.drift_repaired);
        let mut checked = self.verify_programs();
        self.note_pins(checked.as_ref().err());
        if checked.is_ok() && self.compared.elapsed() >= self.compare_took * SHARE {
            checked = self.compare();
            self.report.compare_error = checked.as_ref().err().map(ToString::to_string);
            // Mending takes long and is rare: what has been mended is looked at again
            // soon.
            if self.report.drift_repaired == mended {
                self.compare_took = worked().saturating_sub(before);
            }
            self.compared = Instant::now();
            // All that the tables hold was read.
            self.spare.note();
        }
        if let Err(error) = checked {
            tracing::error!("the kernel cannot be compared with what it should be: {error}");
        }
        self.grow_memory();
        self.verified = Instant::now();
        if self.tested.is_none_or(|tested| tested.elapsed() >= self.options.self_test) {
            self.self_test();
        }
    }

    /// Notes what has gone wrong at gateways in the last time.
    pub(super) fn note_failing(&mut self) {
        let proxy::Status { failing, listeners, .. } = self.gateways.status().unwrap_or_default();
        let failing = failing.into_iter().map(|one| {
            let (destination, endpoint) = (one.destination.to_string(), one.endpoint);
            (FailingEndpoint { destination, endpoint }, one.missed)
        });
        let starved = listeners.into_iter().filter(|one| one.counts.starved != 0).map(|one| {
            let (gateway, address) = (one.name.to_string(), one.address);
            (StarvedGateway { gateway, address }, one.counts.starved)
        });
        self.missed.note(failing, &mut self.report.failing);
        self.starved.note(starved, &mut self.report.starved);
    }

    /// Writes to the idle side, too, what a change could write to one side only.
    fn bring_in_step_when_it_is_time(&mut self) {
        if !self.step_again.is_due() {
            return;
        }
        self.bring_in_step();
    }

    /// Writes to the idle side, if it lies behind; says whether both are in step.
    fn bring_in_step(&mut self) -> bool {
        if self.datapath.behind().is_none() {
            self.step_again.over();
            return true;
        }
        match self.datapath.bring_in_step() {
            Ok(()) => {
                tracing::info!("both sides of the tables hold what is in force again");
                self.step_again.over();
                true
            }
            Err(error) => {
                tracing::warn!("the other side of the tables still lies behind: {error}");
                self.step_again.failed();
                false
            }
        }
    }

    fn compare(&mut self) -> Result<(), Error> {
        self.verify_tables()?;
        let sources = self.datapath.sources()?;
        if self.tracker.correct(sources) {
            tracing::warn!("the kernel's workloads differed from what they should be: mending");
            self.report.drift_repaired += 1;
        }
        self.look();
        self.datapath.tidy()
    }

    fn verify_tables(&mut self) -> Result<(), Error> {
        // A side that is known to lie behind is no drift.
        let in_step = self.bring_in_step();
        let active = self.datapath.active().side;
        for side in [active, active.other()].into_iter().take(1 + usize::from(in_step)) {
            let delta: Delta = self.datapath.dump(side)?.diff(self.engine.image());
            if delta.is_empty() {
                continue;
            }
            let (entries, generation) = (delta.len(), self.generation);
            tracing::warn!(
                entries,
                generation,
                "the kernel's tables differed from what they should be: mending"
            );
            self.report.drift_repaired += 1;
            self.datapath.apply(&delta, generation)?;
            self.note_behind();
        }
        Ok(())
    }

    /// Without pins everything ends with this process.
    fn note_pins(&mut self, error: Option<&Error>) {
        let error = error.map(ToString::to_string);
        if error.is_some() && self.report.pin_error != error {
            tracing::error!(
                "what is in force is not pinned, or cannot be looked at: it may end with this \
                 process"
            );
        }
        self.report.pin_error = error;
    }

    fn verify_programs(&mut self) -> Result<(), Error> {
        // The usual place is mounted again; another one is its owner's to mount.
        if let Err(failure) = startup::bpffs(&self.options.bpffs, self.options.bpffs_is_default) {
            tracing::debug!("{failure}");
        }
        let pinned = self.datapath.pin_again()?;
        if pinned > 0 {
            tracing::warn!(pinned, "pins were removed: they are made again");
            self.report.drift_repaired += 1;
        }
        let attached = self.datapath.attachments()?;
        let missing = self.report.cgroups.iter().any(|cgroup| {
            Hook::ALWAYS.iter().any(|hook| {
                !attached.iter().any(|one| one.ours && one.hook == *hook && one.cgroup == *cgroup)
            })
        });
        if missing {
            tracing::warn!("a program was detached: attaching it again");
            self.report.drift_repaired += 1;
            self.datapath.attach()?;
            self.follow_program_log();
            self.self_test();
        }
        Ok(())
    }
}
