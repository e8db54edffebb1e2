//! Changes: from what the store says, or an earlier snapshot, to the kernel.

use std::collections::HashMap;

use redirector_core::in_force;
use redirector_core::layout::Full;
use redirector_core::model::ObjectRef;
use redirector_core::store::{Rejected, Replaced};
use redirector_core::work::Work;
use redirector_core::world::Changes;

use super::control_loop::Daemon;
use super::engine::{PendingPods, PreparedChange};
use super::grow::differences;
use super::now;
use crate::datapath::{Datapath, Error};
use crate::identity::Tracker;
use crate::state::{Head, Hold, Refused, Snapshot, UnknownWorkload, Unread, digest, steps_back};

/// Why something is put in force.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cause {
    /// It repeats this generation, which `rollback` holds.
    pub of_generation: Option<u64>,
    /// It differs from this generation by what is left alone.
    pub repeats: Option<u64>,
    /// Make it a generation of its own, also when it changes nothing.
    pub always: bool,
    /// It is what the store says, and good once it is in force.
    pub accepts: bool,
    /// It is a part of a load, of which more waits.
    pub partial: bool,
}

/// Makes ready for a step to come in force: what the kernel has to know of its
/// workloads before.
pub(super) fn prepare(
    tracker: &mut Tracker,
    step: &PreparedChange,
    datapath: &mut Datapath,
) -> Result<(), Error> {
    if let Some(view) = &step.view {
        tracker.foresee(view.clone(), datapath)?;
    }
    match &step.sources {
        Some(sources) => tracker.prepare(sources.clone(), datapath),
        None => Ok(()),
    }
}

/// So many of what changed are named in the log.
const NAMED: usize = 5;

/// What a change is of, for the log: the objects that came (+), went (-) or are others,
/// names that resolve to something else, and settings.
fn named(changes: &Changes) -> String {
    let object = |(object, replaced): (&ObjectRef, &Replaced)| {
        let sign = match (&replaced.before, &replaced.after) {
            (None, _) => "+",
            (_, None) => "-",
            _ => "",
        };
        format!("{sign}{object}")
    };
    let objects = changes.objects.iter().map(object);
    let names = changes.names.keys().map(|name| format!("name {name}"));
    let settings = changes.settings.iter().map(|_| "settings".to_owned());
    let mut all = objects.chain(names).chain(settings);
    let first: Vec<String> = all.by_ref().take(NAMED).collect();
    match all.count() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

impl Daemon {
    /// Goes on holding an earlier configuration, when one is held.
    pub(super) fn hold_on(&mut self) -> bool {
        let Some(hold) = &self.report.hold else { return false };
        let of_generation = hold.of_generation;
        let held = [of_generation, self.generation]
            .into_iter()
            .filter_map(|generation| self.state.snapshot(generation).ok().flatten());
        // One of which nothing is lost, if there is.
        let Some(held) = held.min_by_key(|snapshot| snapshot.lost.len()) else {
            return self.hold_is_lost(of_generation);
        };
        let cause = Cause { of_generation: Some(of_generation), ..Cause::default() };
        let holds = self.put_back(&held, cause);
        if holds {
            tracing::info!("an earlier configuration is held (redirector rollback --release)");
        }
        holds
    }

    /// Puts in force again what was when its pins were removed: sources may take
    /// their time, and until then nothing would be redirected.
    pub(super) fn restore(&mut self) {
        let last = self.keeper.head().generation;
        let Some(last) = self.state.snapshot(last).ok().flatten() else { return };
        let (of_generation, repeats) = (last.of_generation, last.repeats);
        if !self.put_back(&last, Cause { of_generation, repeats, ..Cause::default() }) {
            return;
        }
        match self.datapath.attach() {
            Ok(()) => {
                tracing::info!(generation = self.generation, "what was in force is again");
                self.self_test();
            }
            Err(error) => tracing::error!("what was in force cannot be attached: {error}"),
        }
    }

    /// Has what is in force as this daemon's own, with its workloads and gateways, when
    /// what is to be in force instead is not. That is still to be said, and tried again.
    pub(super) fn stay(&mut self) -> bool {
        let last = self.state.snapshot(self.generation).ok().flatten();
        let Some(last) = last.filter(|last| last.insist().is_ok()) else { return false };
        let (of_generation, repeats) = (last.of_generation, last.repeats.or(Some(last.generation)));
        let (why, again) = (self.report.apply_error.clone(), self.apply_again);
        let stays = self.put_back(&last, Cause { of_generation, repeats, ..Cause::default() });
        if stays {
            (self.report.apply_error, self.apply_again) = (why, again);
        }
        stays
    }

    /// Puts an earlier configuration in force, with what is left alone now. Where something is
    /// in force, it does not give way to less than was written down.
    pub(super) fn put_back(&mut self, snapshot: &Snapshot, cause: Cause) -> bool {
        if self.generation != 0
            && let Err(lost) = snapshot.insist()
        {
            self.not_applied(&lost);
            return false;
        }
        let newcomers = self.newcomers();
        let step = self.engine.step_back_to(snapshot, newcomers);
        self.apply_if_it_fits(step, cause)
    }

    /// What is held cannot be put in force again. Returns that it is not.
    pub(super) fn hold_is_lost(&mut self, held: u64) -> bool {
        self.not_applied(&format!("generation {held}, which is held, is not kept"));
        false
    }

    /// Puts in force what has a place in the tables; of all else is said that it has not.
    pub(super) fn apply_if_it_fits(
        &mut self,
        step: Result<PreparedChange, Full>,
        cause: Cause,
    ) -> bool {
        match step {
            Ok(step) => self.apply(step, cause),
            Err(full) => {
                self.not_applied(&full.to_string());
                false
            }
        }
    }

    /// Puts what the store says in force.
    pub(super) fn step(&mut self) -> bool {
        let newcomers = self.newcomers();
        let may_grow = self.engine.may_grow();
        let step = self.engine.step(newcomers);
        let mut fits = step.is_ok();
        let partial = self.waiting.is_cut();
        let cause = Cause { accepts: true, partial, ..Cause::default() };
        let mut applied = self.apply_if_it_fits(step, cause);
        if !applied && may_grow && !self.engine.may_grow() {
            // Who needs larger tables waits for them, and nobody else does.
            let newcomers = self.newcomers();
            let step = self.engine.step(newcomers);
            fits = step.is_ok();
            applied = self.apply_if_it_fits(step, cause);
        }
        if !fits {
            // The same would come of it, until something changes.
            self.apply_again.over();
        }
        if applied {
            self.engine.forget_names();
        }
        let mut rejected = self.engine.rejected();
        for one in &mut rejected {
            one.kept |= self.unread.concerns(one.object.as_ref());
        }
        let refused = rejected
            .iter()
            .map(|one| Refused { in_force: self.version_in_force(one), ..one.into() });
        let refused: Vec<Refused> = refused.collect();
        let key = |one: &Refused| (one.file.clone(), one.object.clone());
        let mut known: HashMap<_, Vec<&Refused>> = HashMap::new();
        for one in &self.report.rejected {
            known.entry(key(one)).or_default().push(one);
        }
        let is_known = |one: &Refused| known.get(&key(one)).is_some_and(|all| all.contains(&one));
        for one in refused.iter().filter(|one| !is_known(one)) {
            let ((why, line), outcome) = (one.why(), one.outcome());
            tracing::warn!(
                file = one.file,
                line,
                object = one.object.as_deref(),
                "refused: {why}; {outcome}"
            );
        }
        self.looker.want(self.report.rejected != refused);
        self.report.rejected = refused;
        applied
    }

    /// Which version of an object is in force whose newest one is not.
    fn version_in_force(&self, rejected: &Rejected) -> Option<String> {
        let reference = rejected.object.as_ref().filter(|_| rejected.kept)?;
        self.engine.in_force(reference).map(|object| digest(object))
    }

    /// Puts a step in force, as a new generation when it changes anything.
    /// What could not be is said and changes nothing.
    pub(super) fn apply(&mut self, step: PreparedChange, cause: Cause) -> bool {
        let written = in_force::is_written(&step.made_of.objects);
        match self.try_to_apply(&step, cause) {
            Ok(()) => {
                self.tracker.settle(true);
                self.engine.adopt(step);
            }
            Err(why) => {
                self.tracker.settle(false);
                self.keeper.take_back();
                self.engine.give_up(step);
                self.not_applied(&why);
                return false;
            }
        }
        match written || cause.of_generation.is_some() || cause.repeats.is_some() {
            true => self.looker.want_written(self.generation),
            false => self.looker.want(false),
        }
        if cause.accepts {
            self.engine.store.accept();
        }
        // What came free by it is given out by another one.
        self.changed |= self.engine.is_unfinished();
        let needed = self.report.hold.as_ref().map(|hold| hold.of_generation);
        let engine = &self.engine;
        self.keeper.tend(self.options.history, needed, || engine.whole(false));
        true
    }

    fn try_to_apply(&mut self, step: &PreparedChange, cause: Cause) -> Result<(), String> {
        // A daemon that has just started serves the gateways of the generation
        // that it found; that is no change.
        let first = step.is_first && self.generation != 0;
        let changed = if first { !step.delta.is_empty() } else { step.changes_something() };
        let fresh = self.generation == 0 || changed || cause.always;
        let generation = match (fresh, self.generation) {
            // New tables go on counting where the older ones were.
            (true, 0) => self.keeper.head().generation + 1,
            (true, known) => known + 1,
            (false, known) => known,
        };
        let (of_generation, repeats) = (cause.of_generation, cause.repeats);
        if fresh && of_generation.is_none() {
            self.insist_on_what_is_refused()?;
        }
        // What is whole stays so, though a load begins that changes nothing at first.
        let partial = cause.partial && (fresh || self.keeper.head().partial);
        let head = Head { generation, of_generation, repeats, made: now(), partial };
        let mut change = self.engine.change(step, &self.keeper, head, cause.accepts);
        if !fresh {
            change.head.repeats = self.keeper.still_repeats(&change, repeats);
            // Since when it is in force, and not when something was read.
            let known = self.keeper.head();
            if known.generation == generation {
                change.head.made = known.made;
            }
        }
        // Before the flip, so that whoever sees the generation finds its names.
        let whole = || self.engine.whole(cause.accepts);
        let journal = self.keeper.append(change, whole).map_err(|error| error.to_string())?;
        self.note_gone(step).map_err(|error| error.to_string())?;
        if fresh {
            if let Err(error) = self.put_in_force(step, generation) {
                self.direct.settle(false);
                return Err(error);
            }
            let work = Work { journal, ..step.work };
            let Work { services, islands, placed, written, journal, .. } = work;
            let changes = written;
            let objects = named(&step.made_of);
            tracing::info!(
                generation, objects, services, islands, placed, changes, journal, "applied"
            );
            self.report.applied = now();
        } else if let Err(error) = prepare(&mut self.tracker, step, &mut self.datapath) {
            tracing::error!("{error}");
        }
        self.direct.settle(true);
        self.generation = generation;
        self.unread = Unread::default();
        self.report.apply_error = None;
        self.apply_again.over();
        self.note_emptied(step, generation);
        self.gateways.follow(step, self.engine.plan());
        if step.is_first || step.changes.gateways.is_some() {
            self.note_unserved();
        }
        if let Some(names) = &step.names {
            self.names.want(names);
            self.asked.is_news = true;
        }
        self.judge_names_after(&step.changes, step.is_first);
        if step.sources.is_some() || step.view.is_some() {
            self.look();
        }
        Ok(())
    }

    /// Of what is refused the last good version stays: where that cannot be read, what is in force
    /// does, for an older one, or none, would take its place.
    fn insist_on_what_is_refused(&self) -> Result<(), String> {
        if self.unread == Unread::default() {
            return Ok(());
        }
        let rejected = self.engine.store.rejected();
        let Some(one) = rejected.iter().find(|one| self.unread.concerns(one.object.as_ref()))
        else {
            return Ok(());
        };
        let what = one.object.as_ref().map_or_else(|| one.file.to_string(), ToString::to_string);
        Err(format!(
            "{what} is refused, and its last good version cannot be read, as a part of the journal \
             is damaged: nothing is changed until it is right, or is removed"
        ))
    }

    fn note_unserved(&mut self) {
        let unserved = self.engine.plan().gateways.dropped.iter().map(|one| {
            format!("{} servers[{}] is not served: {}", one.gateway, one.server, one.reason)
        });
        let unserved: Vec<String> = unserved.collect();
        for new in unserved.iter().filter(|one| !self.report.unserved.contains(one)) {
            tracing::warn!("{new}");
        }
        self.report.unserved = unserved;
    }

    /// Has the kernel do it. On an error nothing has changed.
    fn put_in_force(&mut self, step: &PreparedChange, generation: u64) -> Result<(), String> {
        // Followed from before the first connection that has to be, until
        // after the last.
        let follow = self.follows(self.engine.next_follows_connections());
        if follow {
            self.datapath.set_accounting(true).map_err(|error| error.to_string())?;
        }
        if step.sizes != self.datapath.sizes() {
            let what = differences(&step.sizes, &self.datapath.sizes());
            self.grow(step, generation).map_err(|error| {
                format!("the kernel's tables would have to grow ({what}), and cannot: {error}")
            })?;
        } else {
            let prepared = prepare(&mut self.tracker, step, &mut self.datapath);
            prepared.map_err(|error| error.to_string())?;
            self.datapath.apply(&step.delta, generation).map_err(|error| error.to_string())?;
        }
        self.note_behind();
        if !follow && let Err(error) = self.datapath.set_accounting(false) {
            tracing::error!("connections are followed though nothing needs it: {error}");
        }
        Ok(())
    }

    /// Has the idle side of the tables written again, soon, if it lies behind.
    pub(super) fn note_behind(&mut self) {
        match self.datapath.behind() {
            Some(error) => {
                tracing::warn!("in force, and the other side of the tables is not: {error}");
                self.step_again.failed();
            }
            None => self.step_again.over(),
        }
    }

    /// The pods that were given a number and are not in the store yet.
    pub(super) fn newcomers(&self) -> PendingPods {
        let (pods, numbers) = self.direct.newcomers();
        PendingPods { pods, numbers }
    }

    pub(super) fn not_applied(&mut self, why: &str) {
        if self.report.apply_error.as_deref() != Some(why) {
            tracing::error!("not applied, what was in force stays: {why}");
        }
        self.report.apply_error = Some(why.to_owned());
        self.apply_again.failed();
    }

    /// Looks which workloads are there.
    pub(super) fn look(&mut self) {
        for _ in 0..4 {
            if let Err(error) = self.tracker.look(&mut self.datapath) {
                tracing::error!("{error}");
            }
            // What came before its directory was watched is seen by another look.
            if !self.watch.set(self.tracker.places()) {
                break;
            }
        }
        self.gateways.know(self.tracker.locals());
        let gaps = self.tracker.gaps().iter().map(|gap| UnknownWorkload {
            workload: format!("{}/{}", gap.source.namespace, gap.source.name),
            because: gap.why.to_string(),
        });
        self.report.gaps = gaps.collect();
    }

    /// Returns to what the sources say.
    pub(super) fn release(&mut self) -> Result<(), String> {
        let before = self.report.hold.take();
        if self.step() {
            return Ok(());
        }
        self.report.hold = before;
        Err(self.report.apply_error.clone().unwrap_or_default())
    }

    /// Returns to the configuration `steps` changes before the one in force.
    pub(super) fn roll_back(&mut self, steps: usize) -> Result<u64, String> {
        let current = self.keeper.head().repeats.unwrap_or(self.generation);
        let from = self.report.hold.as_ref().map_or(current, |hold| hold.of_generation);
        // What counts is what people changed: endpoints come and go by themselves.
        let history = self.state.history().map_err(|error| error.to_string())?;
        let earlier = steps_back(&history, from);
        let Some(&earlier) = steps.checked_sub(1).and_then(|step| earlier.get(step)) else {
            let kept = earlier.len();
            return Err(format!(
                "there is no configuration {steps} changes ago: {kept} earlier ones are kept (see \
                 --history, and `redirector rollback --list`)"
            ));
        };
        let snapshot = self.state.whole(earlier).map_err(|why| {
            format!("{why} (`redirector rollback --list` says where it can return to)")
        })?;
        let newcomers = self.newcomers();
        let step =
            self.engine.step_back_to(&snapshot, newcomers).map_err(|full| full.to_string())?;
        let original = snapshot.of_generation.or(snapshot.repeats);
        let of_generation = original.unwrap_or(snapshot.generation);
        let cause = Cause { of_generation: Some(of_generation), always: true, ..Cause::default() };
        let before = self.report.hold.replace(Hold { of_generation, since: now() });
        if !self.apply(step, cause) {
            self.report.hold = before;
            return Err(self.report.apply_error.clone().unwrap_or_default());
        }
        tracing::info!(of_generation, "rolled back, and held until the sources change");
        Ok(of_generation)
    }
}
