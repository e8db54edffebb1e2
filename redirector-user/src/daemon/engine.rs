//! From the store to what the kernel is to hold. Pure but for its caller's
//! writing things down.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use redirector_core::compile::{Classifier, Compiled, compile_with};
use redirector_core::diag::Diagnostic;
use redirector_core::diag::codes::syntax;
use redirector_core::drain::{self, Endpoints};
use redirector_core::image::{Delta, Image};
use redirector_core::layout::{self, Emptied, Full, Layout, Placement};
use redirector_core::model::{Kind, Object, ObjectRef, SourceId, Spec};
use redirector_core::plan::{self, DestinationId, Plan};
use redirector_core::registry::Registry;
use redirector_core::store::Store;
use redirector_core::work::Work;
use redirector_core::world::{Settings, World};

use super::audit::{Anew, Given};
use super::grow;
use super::kept::Kept;
use super::names::Answers;
use crate::datapath::Sizes;
use crate::identity::{View, Wanted};
use crate::state::{Contents, Snapshot};

/// What is in force, and what it was made of.
#[derive(Debug)]
pub struct Engine {
    /// What documents mean here.
    pub settings: Settings,
    /// What the sources said.
    pub store: Store,
    /// What names resolve to.
    pub resolved: Answers,
    /// The objects in force.
    pub objects: Vec<Arc<Object>>,
    /// How large the tables are.
    pub sizes: Sizes,
    /// Whether they may become larger.
    pub grows: bool,
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
    told: BTreeSet<Arc<str>>,
    /// What the store and the names came to in the last step; `None` before the first.
    kept: Option<Kept>,
    /// What was compiled last.
    plan: Plan,
    /// What makes what is in force that Plan.
    pending: plan::Delta,
    /// Which class a pod is in by that Plan.
    classifier: Classifier,
    /// What the objects in force mean, and what names resolve to there.
    under: (Settings, Answers),
    /// What was placed since what is kept was given to be audited; `None` when it was not.
    since: Option<Since>,
    /// How often what was kept differed from the same made anew.
    pub drifts: u64,
}

/// What an audit has not seen.
#[derive(Debug, Default)]
struct Since {
    changes: plan::Delta,
    steps: u64,
}

/// Pods that have a number already, and are not in the store yet.
#[derive(Debug, Default)]
pub struct Newcomers {
    /// The pods.
    pub pods: Vec<Arc<Object>>,
    /// Their numbers, and those that are left.
    pub numbers: layout::Newcomers,
}

/// A change that is ready to come in force.
#[derive(Debug)]
pub struct Step {
    /// What it is made of.
    pub objects: Vec<Arc<Object>>,
    /// Under these settings.
    pub settings: Settings,
    /// With names resolved to this.
    pub resolved: Answers,
    /// What it changes about what is in force, by name.
    pub changes: plan::Delta,
    /// What has to change in the kernel for it.
    pub delta: Delta,
    /// How large the tables have to be for it.
    pub sizes: Sizes,
    /// The local workloads, when they are others.
    pub sources: Option<BTreeMap<SourceId, Wanted>>,
    /// The names that DNS knows.
    pub names: BTreeSet<Arc<str>>,
    /// The endpoints, as far as they concern draining.
    pub endpoints: Endpoints,
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
            store: Store::default(),
            resolved: Answers::new(),
            objects: Vec::new(),
            sizes,
            grows: false,
            endpoints: Endpoints::new(),
            follow_endpoints: false,
            spares: 0,
            pending: layout.removal(),
            placement: Placement::of(layout),
            found: Some(found),
            told: BTreeSet::new(),
            kept: None,
            plan: Plan::default(),
            classifier: Classifier::default(),
            under: (settings.clone(), Answers::new()),
            since: None,
            drifts: 0,
            settings,
        }
    }

    /// What is to be in force, by name.
    pub fn plan(&self) -> &Plan {
        &self.plan
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
        step: &Step,
        generation: u64,
    ) -> BTreeMap<DestinationId, Option<u64>> {
        self.placement.emptied(before, &step.changes, generation)
    }

    /// What the store says, compiled. What the compiler refuses is given back
    /// to the store until nothing more changes.
    pub fn step(&mut self, newcomers: Newcomers) -> Result<Step, Full> {
        let kept = self.kept.take();
        let mut kept =
            kept.unwrap_or_else(|| Kept::new(&self.settings, &self.store, &self.resolved));
        let mut work = Work::default();
        let compiled = loop {
            let names = (&self.resolved, std::mem::take(&mut self.told));
            work += kept.follow(&self.settings, &self.store, names, &newcomers.pods);
            let compiled = compile_with(&kept.world, &kept.registry);
            let mut changed = false;
            for rejected in &compiled.rejected {
                changed |= self.refuse(&kept.world, &rejected.object, &rejected.reason);
            }
            if !changed {
                break compiled;
            }
        };
        let step = self.finish(&kept.world, &kept.registry, compiled, newcomers.numbers);
        self.kept = Some(kept);
        step.map(|mut step| {
            step.work += work;
            step
        })
    }

    /// A name resolves to this. Returns whether that is news.
    pub fn resolve(&mut self, name: Arc<str>, addresses: Vec<IpAddr>) -> bool {
        if self.resolved.get(&name) == Some(&addresses) {
            return false;
        }
        self.resolved.insert(name.clone(), addresses);
        self.told.insert(name);
        true
    }

    /// An earlier configuration, compiled, but with what is left alone now.
    pub fn step_back_to(
        &mut self,
        snapshot: &Snapshot,
        newcomers: Newcomers,
    ) -> Result<Step, Full> {
        let mut world = snapshot.world();
        for pod in newcomers.pods {
            world.insert(pod);
        }
        world.settings.bypass.clone_from(&self.settings.bypass);
        let registry = Registry::new(&world);
        let compiled = compile_with(&world, &registry);
        self.finish(&world, &registry, compiled, newcomers.numbers)
    }

    fn finish(
        &mut self,
        world: &World,
        registry: &Registry,
        compiled: Compiled,
        newcomers: layout::Newcomers,
    ) -> Result<Step, Full> {
        let Compiled { mut plan, mut classifier, .. } = compiled;
        classifier.renumber(&plan.renumber_as(&self.plan));
        let changes = self.plan.difference(&plan);
        if let Some(since) = &mut self.since {
            since.changes.then(changes.clone());
            since.steps += 1;
        }
        self.pending.then(changes);
        self.plan = plan;
        let newcomers = layout::Newcomers { spares: self.spares, ..newcomers };
        let mut sizes = self.sizes;
        let (delta, mut work) = loop {
            match self.placement.place(&self.pending, &sizes.limits(), &newcomers) {
                Ok(placed) => break placed,
                Err(full) if !self.grows => return Err(full),
                Err(full) => sizes = grow::larger(&sizes, &full).ok_or(full)?,
            }
        };
        if self.grows {
            sizes = grow::with_room(&sizes, self.placement.image());
        }
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
            || classifier != self.classifier;
        let view =
            of_classes.then(|| View::new(classifier.clone(), &self.plan, self.placement.layout()));
        self.classifier = classifier;
        let names: BTreeSet<Arc<str>> = registry.names_to_resolve().cloned().collect();
        let resolved = names
            .iter()
            .filter_map(|name| Some((name.clone(), world.resolved(name)?.to_vec())))
            .collect();
        let follow = self.follow_endpoints || !self.endpoints.is_empty();
        Ok(Step {
            endpoints: drain::endpoints(world, registry, follow),
            objects: world.objects().cloned().collect(),
            settings: world.settings.clone(),
            resolved,
            changes: self.pending.clone(),
            delta,
            sizes,
            sources,
            names,
            view,
            is_first: self.found.is_some(),
            work,
        })
    }

    /// The local workloads with their numbers.
    fn wanted(&self) -> BTreeMap<SourceId, Wanted> {
        let sources = self.plan.sources.iter().filter_map(|(id, source)| {
            let identity = self.placement.layout().identity(id)?;
            Some((id.clone(), Wanted { identity, selector: source.selector.clone() }))
        });
        sources.collect()
    }

    /// Takes the new version of an object back, and that of others that make it
    /// exceed a limit. Returns whether anything is different by that.
    fn refuse(&mut self, world: &World, object: &ObjectRef, reason: &str) -> bool {
        let mut finding = Diagnostic::new(&syntax::OVER_LIMIT, format!("{object}: {reason}"));
        finding.object = Some(object.to_string());
        if let Some(origin) = world.get(object).map(|object| &object.meta.origin) {
            finding.file.clone_from(&origin.file);
            finding.line = origin.line;
        }
        let mut changed = self.store.reject(object, vec![finding.clone()]);
        if object.kind == Kind::Service {
            // Its endpoints are written in other objects.
            for (slice, spec) in world.endpoint_slices() {
                let own = slice.meta.namespace == object.namespace && *spec.service == *object.name;
                if own && self.store.is_new(&slice.reference()) {
                    changed |= self.store.reject(&slice.reference(), vec![finding.clone()]);
                }
            }
        }
        if !changed && matches!(object.kind, Kind::Service | Kind::ServiceEntry) {
            for one in world.objects() {
                let endpoint = matches!(one.spec, Spec::Pod(_) | Spec::WorkloadEntry(_));
                let reference = one.reference();
                if endpoint
                    && one.meta.namespace == object.namespace
                    && self.store.is_new(&reference)
                {
                    changed |= self.store.reject(&reference, vec![finding.clone()]);
                }
            }
        }
        changed
    }

    /// A step that was made is in force.
    pub fn adopt(&mut self, step: Step) {
        self.placement.settle();
        self.found = None;
        self.pending = plan::Delta::default();
        self.objects = step.objects;
        self.under = (step.settings, step.resolved);
        self.endpoints = step.endpoints;
        self.sizes = step.sizes;
    }

    /// A step that was made does not come in force: what it is made of comes with the next
    /// one.
    pub fn give_up(&mut self) {
        self.placement.take_back();
        self.classifier = Classifier::default();
    }

    /// What is in force, to be made anew; `None` while that is something else than what was
    /// compiled.
    pub fn to_audit(&mut self) -> Option<Given> {
        if self.found.is_some() || !self.pending.is_empty() {
            return None;
        }
        self.since = Some(Since::default());
        let (settings, resolved) = self.under.clone();
        Some(Given {
            objects: self.objects.clone(),
            settings,
            resolved,
            layout: self.placement.layout().clone(),
            limits: self.sizes.limits(),
        })
    }

    /// Compares what is kept with what was made anew, but for what has changed meanwhile, and
    /// returns which parts of it differ. If there are any, the next step takes nothing for
    /// granted, but for what the kernel holds.
    pub fn audit(&mut self, anew: Anew) -> Vec<&'static str> {
        let Some(since) = self.since.take() else { return Vec::new() };
        let Anew { mut plan, image } = anew;
        plan.renumber_as(&self.plan);
        let mut drift = self.plan.difference(&plan);
        drift.leave_out(&since.changes);
        let mut parts = drift.parts();
        let is_of_now = since.steps == 0 && self.found.is_none() && self.pending.is_empty();
        if parts.is_empty() && is_of_now && image.as_ref() != Some(self.placement.image()) {
            parts.push("tables");
        }
        if parts.is_empty() {
            return parts;
        }
        self.drifts += 1;
        let nothing = Placement::of(Layout::default());
        let (layout, image) = std::mem::replace(&mut self.placement, nothing).into_parts();
        self.found.get_or_insert(image);
        self.pending = layout.removal();
        self.placement = Placement::of(layout);
        self.plan = Plan::default();
        parts
    }

    /// What the state directory is to keep of a step that was made.
    pub fn snapshot(
        &self,
        step: &Step,
        generation: u64,
        of_generation: Option<u64>,
        made: u64,
    ) -> Snapshot {
        let layout = self.placement.layout().clone();
        Snapshot {
            generation,
            of_generation,
            repeats: None,
            made,
            settings: step.settings.clone(),
            resolved: step.resolved.clone(),
            contents: Contents { objects: step.objects.clone(), layout },
            lost: Vec::new(),
        }
    }
}

impl Step {
    /// Whether it is a change for connections.
    pub fn changes_something(&self) -> bool {
        !self.delta.is_empty() || self.changes.gateways.is_some()
    }
}

#[cfg(test)]
mod tests;
