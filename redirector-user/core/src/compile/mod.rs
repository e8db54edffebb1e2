//! From the World to the Plan: what every local workload's connections meet.
//!
//! Two levels, not to be mixed up. *Frontends* are chosen by the longest prefix
//! among those that the client can see; *rules* inside a frontend by their
//! written order. A rule's destinationSubnets only splits a frontend.
//!
//! * [`classes`]: workloads that answer all questions alike.
//! * [`clients`]: which classes answer a question with yes.
//! * [`destinations`]: what a rule's destinations mean to a client.
//! * [`localities`]: which of its endpoints go first, and how often.
//! * [`gateways`]: what gateway workloads listen on, with which rules.
//! * [`mesh`]: which verdict every prefix and port has for every class.
//!
//! Everything is compiled per service and per frontend from indexes: no step
//! looks at all rules for each service, or at all services for each rule.

mod classes;
mod clients;
pub(crate) mod destinations;
mod gateways;
mod localities;
mod mesh;

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{ObjectRef, RuleId};
use crate::plan::{Class, ClassId, Plan};
use crate::registry::Registry;
use crate::rules::RuleBook;
use crate::world::World;

pub use classes::{Classifier, Probe};
use destinations::Destinations;

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
    let (classes, _, classifier) = classes::group(registry, &RuleBook::new(world), &[]);
    ((0..).zip(classes).collect(), classifier)
}

/// Compiles a World whose registry is at hand.
pub fn compile_with(world: &World, registry: &Registry) -> Compiled {
    compile_all(world, registry, &[], None)
}

/// Compiles also what these would meet. Each makes a class of its own, the last
/// ones of the Plan, in their order.
pub fn compile_for(world: &World, registry: &Registry, probes: &[Probe]) -> (Plan, Seen) {
    let mut seen = Seen::default();
    let plan = compile_all(world, registry, probes, Some(&mut seen)).plan;
    (plan, seen)
}

fn compile_all(
    world: &World,
    registry: &Registry,
    probes: &[Probe],
    mut seen: Option<&mut Seen>,
) -> Compiled {
    let book = RuleBook::new(world);
    let (classes, sources, classifier) = classes::group(registry, &book, probes);
    let mut destinations = Destinations::new(registry);
    let frontends = mesh::compile(registry, &book, &classes, &sources, probes, &mut destinations);
    let behind = seen.as_deref_mut().map(|seen| &mut seen.behind);
    let gateways = gateways::compile(world, registry, &book, &mut destinations, behind);
    if let Some(seen) = seen {
        seen.met = destinations.rules().cloned().collect();
    }
    let (routes, destinations) = destinations.finish();
    let mut rejected: Vec<Rejected> =
        registry
            .services()
            .filter_map(|service| {
                let reason = service.rejected.clone()?;
                Some(Rejected { object: service.object.clone(), reason })
            })
            .chain(book.rejected.iter().map(|(object, reason)| Rejected {
                object: object.clone(),
                reason: reason.clone(),
            }))
            .collect();
    rejected.sort_unstable();
    rejected.dedup();
    Compiled {
        plan: Plan {
            frontends,
            routes,
            destinations,
            classes: (0..).zip(classes).collect(),
            sources,
            gateways,
        },
        rejected,
        classifier,
    }
}
