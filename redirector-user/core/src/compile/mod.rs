//! From the World to the Plan: what every local workload's connections meet.
//!
//! Two levels, not to be mixed up. *Frontends* are chosen by the longest prefix
//! among those that the client can see; *rules* inside a frontend by their
//! written order. A rule's destinationSubnets only splits a frontend.
//!
//! * [`stages`]: what changed, and what is to be made again because of it.
//! * [`make`]: makes that again.
//! * [`questions`]: everything that is ever asked about a source, counted.
//! * [`classes`]: workloads that answer all questions alike.
//! * [`clients`]: which classes answer a question with yes.
//! * [`destinations`]: what a rule's destinations mean to a client.
//! * [`backed`]: out of which endpoints one of a destination is chosen, and how.
//! * [`met`]: which routes and destinations are met, and how often.
//! * [`readers`]: what each part of the Plan was made from.
//! * [`localities`]: which of its endpoints go first, and how often.
//! * [`gateways`]: what gateway workloads listen on, with which rules.
//! * [`mesh`]: which verdict every prefix and port has for every class.
//!
//! Everything is compiled per service and per frontend from indexes: no step
//! looks at all rules for each service, or at all services for each rule.

pub(crate) mod backed;
mod classes;
mod clients;
pub(crate) mod destinations;
mod gateways;
mod localities;
mod make;
mod mesh;
mod met;
mod questions;
mod readers;
mod stages;

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{ObjectRef, RuleId};
use crate::plan::{Class, ClassId, Plan};
use crate::registry::Registry;
use crate::world::World;

pub use classes::{Classifier, Probe};
pub use stages::Stages;

/// What came out of compiling.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Compiled {
    /// What the kernel is to hold.
    pub plan: Plan,
    /// Objects that could not be honoured, and are treated as absent.
    pub rejected: Vec<Rejected>,
    /// Which class a workload is in that comes from now on.
    pub classifier: Classifier,
}

/// What was seen of rules, beyond what the Plan holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// Those that decide about a connection, be it that it is passed on.
    pub met: BTreeSet<RuleId>,
    /// Of those at a Gateway, named in full: one that is asked before and takes all
    /// that they match there; `None` where they decide.
    pub behind: BTreeMap<(RuleId, String), Option<RuleId>>,
}

/// An object that was left out.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rejected {
    /// Which.
    pub object: ObjectRef,
    /// Why, with the number of the limit.
    pub reason: String,
}

/// Compiles a World.
pub fn compile(world: &World) -> Compiled {
    compile_with(world, &Registry::new(world))
}

/// The source classes of a World, as in its Plan, and which one anybody is in.
pub fn classify(world: &World, registry: &Registry) -> (BTreeMap<ClassId, Class>, Classifier) {
    let stages = Stages::classified(world, registry);
    (stages.plan.classes, stages.classes.classifier().clone())
}

/// Compiles a World whose registry is at hand.
pub fn compile_with(world: &World, registry: &Registry) -> Compiled {
    Stages::of(world, registry).into_compiled()
}

/// Compiles also what these would meet. Each makes a class of its own, the last
/// ones of the Plan, in their order.
pub fn compile_for(world: &World, registry: &Registry, probes: &[Probe]) -> (Plan, Seen) {
    let mut stages = Stages::new(&registry.settings);
    stages.probes = probes.to_vec();
    stages.behind = Some(BTreeMap::new());
    stages.add_all(world, registry);
    let seen = Seen { met: stages.rules_met(), behind: stages.behind.unwrap_or_default() };
    (stages.plan, seen)
}
