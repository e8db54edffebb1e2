//! From the store to what the kernel is to hold. Pure but for its caller's
//! writing things down.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;

use redirector_core::compile::{Classifier, Stages};
use redirector_core::drain::{self, Endpoints};
use redirector_core::image::{Delta, Image};
use redirector_core::layout::{self, Emptied, Full, Layout, Placement};
use redirector_core::model::{Object, ObjectRef, SourceId};
use redirector_core::plan::{self, DestinationId, Plan};
use redirector_core::registry::{Changed, Registry};
use redirector_core::store::{KeptChange, Rejected, Replaced, Store};
use redirector_core::work::Work;
use redirector_core::world::{self, Answer, Settings, World};

use super::audit::{Anew, Given};
use super::grow;
use super::kept::Kept;
use super::left_out::Crowded;
use super::resolving::Known;
use crate::datapath::Sizes;
use crate::identity::{View, Wanted};
use crate::state::{Contents, GenerationChange, Head, Keeper, Resolved, Snapshot, Whole};

/// What is in force, and what it was made of.
#[derive(Debug)]
pub struct Engine {
    /// What documents mean here.
    pub settings: Settings,
    /// What the sources said.
    pub store: Store,
    /// What names resolve to.
    pub(super) resolved: Known,
    /// When the first of what names resolved to before is let go, in seconds since 1970.
    pub(super) lets_go: u64,
    /// How large the tables are.
    pub sizes: Sizes,
    /// Whether they may become larger.
    pub grows: bool,
    /// Why they cannot for now.
    cannot_grow: Option<String>,
    /// The endpoints in force, as far as they concern draining.
    pub endpoints: Endpoints,
    /// Some endpoint drains: whether it comes back has to be seen.
    pub follow_endpoints: bool,
    /// How many identity numbers each class keeps for pods that come.
    pub spares: usize,
    /// The numbers of everything in force, and what the kernel holds, if nobody else wrote
    /// there; from a step on until it is adopted or given up, what that makes of it.
    placement: Placement,
    /// What the kernel was found to hold, until something of ours is in force.
    found: Option<Image>,
    /// Names whose addresses are others since the last step.
    pub(super) told: BTreeSet<Arc<str>>,
    /// How long what a name resolved to before is still taken for it.
    pub grace: Duration,
    /// What the store and the names came to in the last step; `None` before the first.
    kept: Option<Kept>,
    /// What was compiled last.
    stages: Stages,
    /// What makes what is in force its Plan.
    pending: plan::Delta,
    /// Which class a pod is in, as it was last told.
    classifier: Classifier,
    /// What was compiled last, where that is not what is kept: an earlier configuration; and
    /// nothing before the first step.
    aside: Option<World>,
    /// What makes what is in force what was compiled last.
    made_of: world::Changes,
    /// The names that have to be resolved for it, and whether they are others than for what
    /// is in force.
    names: BTreeSet<Arc<str>>,
    other_names: bool,
    /// The objects of it that say how long connections may go on.
    drains: BTreeSet<ObjectRef>,
    /// What the tables have no room for.
    crowded: Crowded,
    /// What the store says and is left out, as of the last step.
    left_out: Vec<Rejected>,
    /// What was placed since what is kept was given to be audited; `None` when it was not.
    since: Option<Since>,
    /// How often what was kept differed from the same made anew.
    pub drifts: u64,
}

/// What an audit has not seen.
#[derive(Debug)]
struct Since {
    changes: plan::Delta,
    steps: u64,
}

/// What may be another than after the step before.
#[derive(Clone, Copy, Debug, Default)]
struct News {
    /// The names that have to be resolved.
    names: bool,
    /// What it took.
    work: Work,
}

impl AddAssign<&Changed> for News {
    fn add_assign(&mut self, changed: &Changed) {
        self.names |= changed.names;
        self.work += changed.work;
    }
}

/// Pods that have a number already, and are not in the store yet.
#[derive(Debug, Default)]
pub struct PendingPods {
    /// The pods.
    pub pods: Vec<Arc<Object>>,
    /// Their numbers, and those that are left.
    pub numbers: layout::Newcomers,
}

/// A change that is ready to come in force.
#[derive(Debug)]
pub struct PreparedChange {
    /// What it changes about what is in force: objects, names and settings.
    pub made_of: world::Changes,
    /// What it changes about what is in force, by name.
    pub changes: plan::Delta,
    /// What has to change in the kernel for it.
    pub delta: Delta,
    /// How large the tables have to be for it.
    pub sizes: Sizes,
    /// The local workloads, when they are others.
    pub sources: Option<BTreeMap<SourceId, Wanted>>,
    /// The names that DNS knows, when they are others.
    pub names: Option<BTreeSet<Arc<str>>>,
    /// The endpoints, as far as they concern draining, when they may be others.
    pub endpoints: Option<Endpoints>,
    /// What the tables say of pods that are not in them, when that is something else.
    pub view: Option<View>,
    /// Nothing of this daemon was in force before.
    pub is_first: bool,
    /// What it took.
    pub work: Work,
}

impl Engine {
    /// With tables that were found to hold this, and the numbers of what is in them.
    pub fn new(settings: Settings, sizes: Sizes, layout: Layout, found: Image) -> Self {
        Self {
            stages: Stages::new(&settings),
            store: Store::default(),
            resolved: Known::new(),
            lets_go: u64::MAX,
            grace: Duration::ZERO,
            sizes,
            grows: false,
            cannot_grow: None,
            endpoints: Endpoints::default(),
            follow_endpoints: false,
            spares: 0,
            pending: layout.removal(),
            placement: Placement::of(layout),
            found: Some(found),
            told: BTreeSet::new(),
            kept: None,
            classifier: Classifier::default(),
            aside: Some(World::new(settings.clone())),
            made_of: world::Changes::default(),
            names: BTreeSet::new(),
            other_names: false,
            drains: BTreeSet::new(),
            crowded: Crowded::default(),
            left_out: Vec::new(),
            since: None,
            drifts: 0,
            settings,
        }
    }

    /// What is to be in force, by name.
    pub fn plan(&self) -> &Plan {
        self.stages.plan()
    }

    /// The numbers of everything in force.
    pub fn layout(&self) -> &Layout {
        self.placement.layout()
    }

    /// The same, entry by entry: what the kernel holds, if nobody else wrote there.
    pub fn image(&self) -> &Image {
        self.found.as_ref().unwrap_or_else(|| self.placement.image())
    }

    /// What the kernel is to hold once a step that was made is in force.
    pub fn next_image(&self) -> &Image {
        self.placement.image()
    }

    /// Whether connections have to be followed until they end for the image.
    pub fn follows_connections(&self) -> bool {
        match &self.found {
            Some(found) => found.follows_connections(),
            None => self.placement.follows_connections(),
        }
    }

    /// Whether they have to be once a step that was made is in force.
    pub fn next_follows_connections(&self) -> bool {
        self.placement.follows_connections()
    }

    /// What a step that was made changes about what is emptied.
    pub fn emptied(
        &self,
        before: &Emptied,
        step: &PreparedChange,
        generation: u64,
    ) -> BTreeMap<DestinationId, Option<u64>> {
        self.placement.emptied(before, &step.changes, generation)
    }

    /// What was compiled last.
    pub fn world(&self) -> Option<&World> {
        self.aside.as_ref().or(self.kept.as_ref().map(|kept| &kept.world))
    }

    /// Whether what was compiled last is made of something else than what is in force.
    pub fn is_ahead(&self) -> bool {
        !self.made_of.is_empty()
    }

    /// The version of an object that is in force.
    pub fn in_force(&self, object: &ObjectRef) -> Option<&Arc<Object>> {
        match self.made_of.objects.get(object) {
            Some(replaced) => replaced.before.as_ref(),
            None => self.world()?.get(object),
        }
    }

    /// What names resolve to.
    pub fn resolved(&self) -> &Known {
        &self.resolved
    }

    /// What the store says, compiled. What the compiler refuses is given back
    /// to the store until nothing more changes; what makes it more than the tables hold is
    /// left out, and the rest comes in force.
    pub fn step(&mut self, newcomers: PendingPods) -> Result<PreparedChange, Full> {
        let kept = self.kept.take();
        let mut kept =
            kept.unwrap_or_else(|| Kept::new(&self.settings, &self.store, &self.resolved));
        // What was compiled last may have nothing to do with what is kept.
        let mut whole = self.aside.is_some() || self.stages.is_empty();
        let mut news = News { names: whole, ..News::default() };
        self.crowded.retry(&self.store, &self.stages, &self.placement);
        self.store.resume(self.settings != kept.world.settings);
        let step = loop {
            let names = (&self.resolved, std::mem::take(&mut self.told));
            let out = self.crowded.objects();
            let (changes, changed) =
                kept.follow(&self.settings, &self.store, names, &newcomers.pods, out);
            news += &changed;
            let Kept { world, registry, .. } = &kept;
            let replaced = std::mem::take(&mut whole);
            if replaced {
                news.work += self.compile(|stages| stages.replace(world, registry));
            } else if !changes.is_empty() {
                news.work +=
                    self.compile(|stages| stages.update(world, registry, &changes, &changed));
            }
            if self.aside.is_none() {
                self.is_made_of(changes);
            }
            if self.give_back(&kept) {
                continue;
            }
            // What was not made is not known, and may be much less than it seemed.
            whole = self.stages.is_cut() && !replaced;
            if whole || self.leave_out_endpoints(&kept.world) {
                whole |= self.stages.is_cut();
                continue;
            }
            if let Some(aside) = self.aside.take() {
                self.is_made_of(aside.difference(&kept.world));
            }
            let (world, registry) = (&kept.world, &kept.registry);
            match self.finish((world, registry), newcomers.numbers.clone(), news) {
                Err(full) => {
                    let made = (self.stages.plan(), world);
                    let why = self.cannot_grow.as_deref();
                    if !self.crowded.leave_out(&mut self.store, made, &full, why) {
                        break Err(full);
                    }
                }
                step => break step,
            }
        };
        let beyond = self.stages.rejected();
        self.left_out = self.crowded.all(&kept.world, &kept.registry, beyond);
        self.kept = Some(kept);
        step
    }

    /// What is to be in force is made of something else.
    fn is_made_of(&mut self, changes: world::Changes) {
        for (object, Replaced { after, .. }) in &changes.objects {
            match after.as_ref().is_some_and(|after| drain::says(after)) {
                true => _ = self.drains.insert(object.clone()),
                false => _ = self.drains.remove(object),
            }
        }
        self.made_of.then(changes);
    }

    /// Compiles; what that changes is to come in force.
    fn compile(&mut self, step: impl FnOnce(&mut Stages) -> (plan::Delta, Work)) -> Work {
        let (delta, work) = step(&mut self.stages);
        if let Some(since) = &mut self.since {
            since.changes.then(delta.clone());
        }
        self.pending.then(delta);
        work
    }

    /// Whether endpoints have to be found by a name, and not addresses that are dialled only.
    pub fn is_endpoint(&self, name: &str) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.registry.is_endpoint(&kept.world, name))
    }

    /// Whether a name is a host whose rules are for those alone who dial what it resolves to.
    pub fn is_dialled(&self, name: &str) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.registry.is_dialled(name))
    }

    /// An earlier configuration, compiled, but with what is left alone now.
    pub fn step_back_to(
        &mut self,
        snapshot: &Snapshot,
        newcomers: PendingPods,
    ) -> Result<PreparedChange, Full> {
        let mut world = snapshot.world();
        for pod in newcomers.pods {
            world.insert(pod);
        }
        world.settings.bypass.clone_from(&self.settings.bypass);
        world.settings.node_addresses.clone_from(&self.settings.node_addresses);
        let before = self.world().map(|before| before.difference(&world));
        self.is_made_of(before.unwrap_or_default());
        let registry = Registry::new(&world);
        let work = self.compile(|stages| stages.replace(&world, &registry));
        let everything = News { names: true, work };
        let step = self.finish((&world, &registry), newcomers.numbers, everything);
        self.aside = Some(world);
        step
    }

    fn finish(
        &mut self,
        (world, registry): (&World, &Registry),
        newcomers: layout::Newcomers,
        news: News,
    ) -> Result<PreparedChange, Full> {
        if let Some(since) = &mut self.since {
            since.steps += 1;
        }
        // Also when it does not fit: what brings them is compiled but once.
        if news.names {
            self.names = registry.names_to_resolve().cloned().collect();
            self.other_names = true;
        }
        let newcomers = layout::Newcomers { spares: self.spares, ..newcomers };
        let mut sizes = self.sizes;
        let (delta, mut work) = loop {
            match self.placement.place(&self.pending, &sizes.limits(), &newcomers) {
                Ok(placed) => break placed,
                Err(full) if !self.may_grow() => return Err(full),
                Err(full) => sizes = grow::larger(&sizes, &full).ok_or(full)?,
            }
        };
        let fits = grow::with_room(&sizes, self.placement.image(), self.may_grow());
        let sizes = fits.inspect_err(|_| self.placement.take_back())?;
        let delta = match &self.found {
            Some(found) => found.diff(self.placement.image()),
            None => delta,
        };
        work.written = delta.len();
        let of_pods = !self.pending.sources.is_empty() || self.found.is_some();
        let sources = of_pods.then(|| self.wanted());
        let of_classes = of_pods
            || !self.pending.classes.is_empty()
            || self.placement.changes_spares()
            || *self.stages.classifier() != self.classifier;
        self.classifier = self.stages.classifier().clone();
        let view = of_classes
            .then(|| View::new(self.classifier.clone(), self.plan(), self.placement.layout()));
        let follows_endpoints =
            self.follow_endpoints || !self.endpoints.is_empty() || !self.drains.is_empty();
        work += news.work;
        Ok(PreparedChange {
            endpoints: follows_endpoints.then(|| drain::endpoints(world, registry)),
            made_of: std::mem::take(&mut self.made_of),
            changes: std::mem::take(&mut self.pending),
            delta,
            sizes,
            sources,
            names: self.other_names.then(|| self.names.clone()),
            view,
            is_first: self.found.is_some(),
            work,
        })
    }

    /// The local workloads with their numbers.
    fn wanted(&self) -> BTreeMap<SourceId, Wanted> {
        let sources = self.plan().sources.iter().filter_map(|(id, source)| {
            let identity = self.placement.layout().identity(id)?;
            Some((id.clone(), Wanted { identity, selector: source.selector.clone() }))
        });
        sources.collect()
    }

    /// A step that was made is in force.
    pub fn adopt(&mut self, step: PreparedChange) {
        self.placement.settle();
        self.found = None;
        self.other_names = false;
        if let Some(endpoints) = step.endpoints {
            self.endpoints = endpoints;
        }
        self.sizes = step.sizes;
        for id in self.placement.lacking() {
            let destination = self.stages.plan().destinations.get(id).cloned();
            self.pending.destinations.insert(id.clone(), destination);
        }
    }

    /// Whether another step is needed for what is in force to be all that it is to be.
    pub fn is_unfinished(&self) -> bool {
        !self.pending.is_empty()
    }

    /// A step that was made does not come in force: what it is made of comes with the next
    /// one.
    pub fn give_up(&mut self, step: PreparedChange) {
        self.placement.take_back();
        (self.made_of, self.pending) = (step.made_of, step.changes);
        self.classifier = Classifier::default();
    }

    /// What is in force, to be made anew; `None` while that is something else than what was
    /// compiled.
    pub fn begin_audit(&mut self) -> Option<Given> {
        if self.found.is_some() || !self.pending.is_empty() {
            return None;
        }
        let world = self.world()?.clone();
        let Plan { sources, classes, .. } = self.plan();
        let (sources, classes) = (sources.clone(), classes.clone());
        let numbers = Plan { sources, classes, ..Plan::default() };
        self.since = Some(Since { changes: plan::Delta::default(), steps: 0 });
        let (layout, limits) = (self.placement.layout().clone(), self.sizes.limits());
        Some(Given { world, layout, limits, numbers })
    }

    /// Compares a piece of what is kept with what was made anew, but for what has changed
    /// meanwhile; after the last one, returns which parts of it differ. If there are any, the
    /// next step takes nothing for granted, but for what the kernel holds.
    pub fn audit(&mut self, anew: &mut Anew, mut most: usize) -> Option<Vec<&'static str>> {
        let Anew { plan, image, compared } = anew;
        if !compared.plan.go_on(self.plan(), plan, &mut most) {
            return None;
        }
        let has_image = image.is_some();
        if let Some(image) = image
            && !compared.image.go_on(self.placement.image(), image, &mut most)
        {
            return None;
        }
        let Some(since) = self.since.take() else { return Some(Vec::new()) };
        let drift = &mut compared.plan.differing;
        drift.leave_out(&since.changes);
        let mut parts = drift.parts();
        let is_of_now = since.steps == 0 && self.found.is_none() && self.pending.is_empty();
        if parts.is_empty() && is_of_now && (!has_image || compared.image.differs) {
            parts.push("tables");
        }
        if parts.is_empty() {
            return Some(parts);
        }
        self.drifts += 1;
        let nothing = Placement::of(Layout::default());
        let (layout, image) = std::mem::replace(&mut self.placement, nothing).into_parts();
        self.found.get_or_insert(image);
        self.pending = layout.removal();
        self.placement = Placement::of(layout);
        self.stages = Stages::new(&self.settings);
        if let Some(kept) = &mut self.kept {
            kept.registry = Registry::new(&kept.world);
        }
        Some(parts)
    }

    /// What is to be written down of a step that was made. `accepts` says that it is what
    /// the store says, which is good by that.
    pub fn change(
        &mut self,
        step: &PreparedChange,
        keeper: &Keeper,
        head: Head,
        accepts: bool,
    ) -> GenerationChange {
        let layout = keeper.numbers(&mut self.placement);
        let world = self.world();
        let until = head.made.saturating_add(self.grace.as_secs());
        // Of an earlier configuration it is not known any more since when.
        let since = |answer: &Answer| Resolved {
            addresses: answer.addresses.clone(),
            at: head.made,
            ttl: None,
            former: answer.former.iter().map(|ip| (*ip, until)).collect(),
        };
        let resolved = || {
            let names = self.names.iter().filter_map(|name| {
                let answer = world.and_then(|world| world.answer(name))?;
                let known = self.resolved.get(name).filter(|known| known.answer() == *answer);
                Some((name.clone(), known.cloned().unwrap_or_else(|| since(answer))))
            });
            names.collect()
        };
        let may_differ = step.names.is_some() || !step.made_of.names.is_empty();
        GenerationChange {
            head,
            settings: world.map_or_else(Settings::default, |world| world.settings.clone()),
            resolved: may_differ.then(resolved),
            objects: step.made_of.objects.clone(),
            layout,
            store: if accepts { self.store.kept_since() } else { KeptChange::default() },
        }
    }

    /// All that is in force and good once a step that was made is; `accepts` as there.
    pub fn whole(&self, accepts: bool) -> Whole {
        let good = match accepts {
            true => self.store.effective().into_values().collect(),
            false => self.store.good().cloned().collect(),
        };
        let layout = self.placement.layout().clone();
        let objects = self.world().into_iter().flat_map(World::objects).cloned().collect();
        Whole { contents: Contents { objects, layout }, good }
    }

    /// Forgets what names resolve to that nobody names any more.
    pub fn forget_names(&mut self) {
        let (names, told) = (&self.names, &mut self.told);
        self.resolved.retain(|name, _| {
            let is_named = names.contains(name);
            told.extend((!is_named).then(|| name.clone()));
            is_named
        });
    }

    /// This was found to be in force.
    pub fn begin_with(&mut self, world: World) {
        let drain = world.objects().filter(|object| drain::says(object));
        self.drains = drain.map(|object| object.reference()).collect();
        self.aside = Some(world);
    }
}

impl PreparedChange {
    /// Whether it is a change for connections.
    pub fn changes_something(&self) -> bool {
        !self.delta.is_empty() || self.changes.gateways.is_some()
    }
}

mod refusing;
#[cfg(test)]
mod tests;
