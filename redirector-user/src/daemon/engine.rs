//! From the store to what the kernel is to hold. Pure but for its caller's
//! writing things down.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use redirector_core::compile::{Compiled, compile_with};
use redirector_core::diag::Diagnostic;
use redirector_core::diag::codes::syntax;
use redirector_core::drain::{self, Endpoints};
use redirector_core::image::{Delta, Image};
use redirector_core::layout::{self, Full, Layout};
use redirector_core::model::{Kind, Object, ObjectRef, SourceId, Spec};
use redirector_core::plan::Plan;
use redirector_core::plan::gateway::GatewayPlan;
use redirector_core::registry::Registry;
use redirector_core::store::Store;
use redirector_core::world::{Settings, World};

use super::grow;
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
    /// The numbers of everything in force.
    pub layout: Layout,
    /// What the kernel holds, if nobody else wrote there.
    pub image: Image,
    /// What the gateway proxy serves.
    pub gateways: GatewayPlan,
    /// The endpoints in force, as far as they concern draining.
    pub endpoints: Endpoints,
    /// Some endpoint drains: whether it comes back has to be seen.
    pub follow_endpoints: bool,
    /// How many identity numbers each class keeps for pods that come.
    pub spares: usize,
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
    /// The numbers of everything.
    pub layout: Layout,
    /// What the kernel is to hold.
    pub image: Image,
    /// What has to change for it.
    pub delta: Delta,
    /// How large the tables have to be for it.
    pub sizes: Sizes,
    /// The local workloads.
    pub sources: BTreeMap<SourceId, Wanted>,
    /// The names that DNS knows.
    pub names: BTreeSet<Arc<str>>,
    /// The same by name, gateways included.
    pub plan: Plan,
    /// The endpoints, as far as they concern draining.
    pub endpoints: Endpoints,
    /// What the tables say of pods that are not in them.
    pub view: View,
}

impl Engine {
    /// What the store says, compiled. What the compiler refuses is given back
    /// to the store until nothing more changes.
    pub fn step(&mut self, newcomers: Newcomers) -> Result<Step, Full> {
        loop {
            let mut world = World::of(self.settings.clone(), self.store.effective());
            for pod in &newcomers.pods {
                world.insert(pod.clone());
            }
            for (name, addresses) in &self.resolved {
                world.set_resolved(name, addresses.clone());
            }
            let registry = Registry::new(&world);
            let compiled = compile_with(&world, &registry);
            let mut changed = false;
            for rejected in &compiled.rejected {
                changed |= self.refuse(&world, &rejected.object, &rejected.reason);
            }
            if !changed {
                return self.finish(&world, &registry, compiled, newcomers.numbers);
            }
        }
    }

    /// An earlier configuration, compiled, but with what is left alone now.
    pub fn step_back_to(&self, snapshot: &Snapshot, newcomers: Newcomers) -> Result<Step, Full> {
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
        &self,
        world: &World,
        registry: &Registry,
        compiled: Compiled,
        newcomers: layout::Newcomers,
    ) -> Result<Step, Full> {
        let Compiled { plan, classifier, .. } = compiled;
        let newcomers = layout::Newcomers { spares: self.spares, ..newcomers };
        let mut sizes = self.sizes;
        let (layout, image) = loop {
            match self.layout.place_with(&plan, &sizes.limits(), &newcomers) {
                Ok(placed) => break placed,
                Err(full) if !self.grows => return Err(full),
                Err(full) => sizes = grow::larger(&sizes, &full).ok_or(full)?,
            }
        };
        // As a dump has it, so that a restart finds no difference.
        let image = image.without_zeroes();
        if self.grows {
            sizes = grow::with_room(&sizes, &image);
        }
        let sources = plan.sources.iter().filter_map(|(id, source)| {
            let identity = layout.identity(id)?;
            Some((id.clone(), Wanted { identity, selector: source.selector.clone() }))
        });
        let sources = sources.collect();
        let view = View::new(classifier, &plan, &layout);
        let names = registry.names_to_resolve().clone();
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
            delta: self.image.diff(&image),
            sizes,
            layout,
            image,
            sources,
            names,
            plan,
            view,
        })
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

    /// The change is in force.
    pub fn adopt(&mut self, step: &Step) {
        self.objects.clone_from(&step.objects);
        self.layout.clone_from(&step.layout);
        self.image.clone_from(&step.image);
        self.gateways.clone_from(&step.plan.gateways);
        self.endpoints.clone_from(&step.endpoints);
        self.sizes = step.sizes;
    }

    /// Whether a change is one for connections.
    pub fn is_changed_by(&self, step: &Step) -> bool {
        !step.delta.is_empty() || self.gateways != step.plan.gateways
    }
}

impl Step {
    /// What the state directory is to keep of it.
    pub fn snapshot(&self, generation: u64, of_generation: Option<u64>, made: u64) -> Snapshot {
        Snapshot {
            generation,
            of_generation,
            repeats: None,
            made,
            settings: self.settings.clone(),
            resolved: self.resolved.clone(),
            contents: Contents { objects: self.objects.clone(), layout: self.layout.clone() },
            lost: Vec::new(),
        }
    }
}
