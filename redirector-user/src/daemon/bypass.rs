//! What is left alone for a while: by the daemon, and without one.

use std::fmt::Display;
use std::time::Duration;

use redirector_core::world::can_leave_alone;

use super::change::Cause;
use super::control_loop::Daemon;
use super::engine::{Engine, PendingPods};
use super::now;
use crate::datapath::Datapath;
use crate::failure::{Exit, Failure};
use crate::state::{BypassChange, Bypassed, Head, Keeper, StateDir, bypass};

impl Daemon {
    /// Changes what is left alone. On an error nothing is changed.
    pub(super) fn bypass(&mut self, change: &BypassChange) -> Result<(), String> {
        if let BypassChange::Begin(target, _) = change {
            can_leave_alone(target, |object| self.engine.in_force(object))?;
        }
        let after = change.apply(&self.bypassed, now())?;
        let before = self.bypassed.clone();
        self.leave_alone(after).map_err(unchanged)?;
        for one in before.iter().filter(|one| !self.bypassed.contains(one)) {
            tracing::info!("no longer bypassed: {}", one.target);
        }
        for one in self.bypassed.iter().filter(|one| !before.contains(one)) {
            let seconds = one.until.saturating_sub(one.since);
            tracing::warn!(seconds, "bypassed: {}", one.target);
        }
        Ok(())
    }

    /// Ends what has been left alone for long enough.
    pub(super) fn end_bypasses(&mut self) {
        if self.until_bypass_over() != Some(Duration::ZERO) {
            return;
        }
        let now = now();
        let (over, left): (Vec<_>, Vec<_>) =
            self.bypassed.iter().cloned().partition(|one| one.until <= now);
        match self.leave_alone(left) {
            Ok(()) => {
                self.end_again.over();
                for one in over {
                    tracing::info!("no longer bypassed, its time is over: {}", one.target);
                }
            }
            Err(error) => {
                tracing::error!("a bypass that is over cannot be ended: {error}");
                self.end_again.failed();
            }
        }
    }

    /// How long until one is to be ended.
    pub(super) fn until_bypass_over(&self) -> Option<Duration> {
        let over = self.bypassed.iter().map(|one| one.until).min()?;
        let over = Duration::from_secs(over.saturating_sub(now()));
        Some(over.max(self.end_again.until().unwrap_or_default()))
    }

    fn leave_alone(&mut self, after: Vec<Bypassed>) -> Result<(), String> {
        // Written down first: after a crash it is either in force or not, and
        // not in force without an end.
        self.state.save_bypassed(&after).map_err(|error| error.to_string())?;
        let before = std::mem::replace(&mut self.bypassed, after);
        self.engine.settings.bypass = bypass(&self.bypassed);
        if self.reapply() {
            return Ok(());
        }
        self.bypassed = before;
        self.engine.settings.bypass = bypass(&self.bypassed);
        if let Err(error) = self.state.save_bypassed(&self.bypassed) {
            tracing::error!("{error}");
        }
        Err(self.report.apply_error.clone().unwrap_or_default())
    }

    /// The same configuration again, with what is left alone now.
    pub(super) fn reapply(&mut self) -> bool {
        let head = self.keeper.head();
        let is_known = head.generation == self.generation && self.generation != 0;
        let repeats = is_known.then(|| head.repeats.unwrap_or(self.generation));
        let held = self.report.hold.as_ref().map(|hold| hold.of_generation);
        let cause = Cause { of_generation: held, repeats, ..Cause::default() };
        if let Some(held) = held {
            let current = self.state.snapshot(self.generation).ok().flatten();
            return match current {
                Some(snapshot) => self.put_back(&snapshot, cause),
                None => self.hold_is_lost(held),
            };
        }
        // What does not come in force keeps nothing from being left alone.
        if self.report.apply_error.is_some() {
            return self.stay();
        }
        // What was read meanwhile comes in force with it, as a change.
        if self.changed {
            self.changed = false;
            return self.step();
        }
        let newcomers = self.newcomers();
        let step = self.engine.step(newcomers);
        self.apply_if_it_fits(step, cause)
    }
}

/// Why what is left alone is as it was, and what helps.
fn unchanged(why: impl Display) -> String {
    format!(
        "{why}; nothing is changed: what is left alone is written down first, so that it ends. Where \
         a disk is full, make room on it and ask again"
    )
}

/// The same with no daemon alive: on the tables that are in force. Returns the
/// generation then in force, and all that is left alone.
///
/// # Errors
///
/// When a daemon has begun meanwhile, not all that is in force is known by name, or
/// the kernel refuses.
pub fn without_daemon(
    pins: &std::path::Path,
    state: &StateDir,
    change: &BypassChange,
) -> Result<(u64, Vec<Bypassed>), Failure> {
    let mut datapath = Datapath::open(pins)?;
    let unnamed = |why: String| {
        Failure::input(format!("{why}; nothing is changed")).help(
            "start `redirector run`, which reads its sources and writes everything anew; where the \
             daemon had another --state-dir, name that",
        )
    };
    if !state.path().is_dir() {
        return Err(unnamed(format!(
            "there is no state directory {}: what is in force is not known by name",
            state.path().display()
        )));
    }
    let _lock = state.lock()?;
    let (active, image) = datapath.dump_active()?;
    let (mut keeper, left) = Keeper::open(state, active.generation)?;
    let Some(snapshot) = left.snapshot else {
        // Why, where something is damaged.
        state.snapshot(active.generation).map_err(|error| unnamed(error.to_string()))?;
        return Err(unnamed(format!(
            "the state directory {} does not know generation {}, which is in force, by name",
            state.path().display(),
            active.generation
        )));
    };
    snapshot.insist().map_err(unnamed)?;
    if let BypassChange::Begin(target, _) = change {
        let world = snapshot.world();
        can_leave_alone(target, |object| world.get(object)).map_err(Failure::input)?;
    }
    let before = state.bypassed()?;
    let after = change.apply(&before, now()).map_err(Failure::input)?;
    let failed = |why: String| Failure::new(Exit::No, unchanged(why));
    if bypass(&after) == snapshot.settings.bypass {
        // Nothing but how long it lasts is another.
        state.save_bypassed(&after).map_err(|error| failed(error.to_string()))?;
        return Ok((active.generation, after));
    }
    // Tables that grow take a daemon.
    let mut settings = snapshot.settings.clone();
    settings.bypass = bypass(&after);
    let layout = snapshot.contents.layout.clone();
    let mut engine = Engine::new(settings, datapath.sizes(), layout, image);
    engine.begin_with(snapshot.world());
    engine.store = left.store.unwrap_or_default();
    // Pods may have been given some of the spare numbers: they stay as they are.
    let step = engine.step_back_to(&snapshot, PendingPods::default()).map_err(|full| {
        Failure::new(Exit::No, format!("not applied, what was in force stays: {full}"))
    })?;
    state.save_bypassed(&after).map_err(|error| failed(error.to_string()))?;
    if step.delta.is_empty() {
        return Ok((active.generation, after));
    }
    let generation = active.generation + 1;
    let repeats = Some(snapshot.repeats.unwrap_or(active.generation));
    let head = Head { generation, repeats, made: now(), partial: false, ..snapshot.head() };
    let change = engine.change(&step, &keeper, head, false);
    let kept = keeper.append(change, || engine.whole(false)).map_err(|error| error.to_string());
    let applied = kept.and_then(|_| {
        let applied = datapath.apply(&step.delta, generation);
        applied.inspect_err(|_| keeper.take_back()).map_err(|error| error.to_string())
    });
    applied.map_err(|why| match state.save_bypassed(&before) {
        Ok(()) => failed(why),
        Err(error) => failed(format!("{why}; and that is not written down: {error}")),
    })?;
    Ok((generation, after))
}
