//! What the store says and is not to come in force: taken back, withheld or left out.

use std::sync::Arc;

use redirector_core::diag::codes::syntax;
use redirector_core::model::{Kind, Object, ObjectRef, Spec};
use redirector_core::registry;
use redirector_core::store::Rejected;
use redirector_core::world::World;

use super::super::kept::Kept;
use super::super::left_out;
use super::Engine;

impl Engine {
    /// Leaves out what makes the destinations of a namespace have more endpoints than they
    /// may. Returns whether there is any.
    pub(super) fn leave_out_endpoints(&mut self, world: &World) -> bool {
        let most = world.settings.budgets.namespace.endpoints;
        let made = (self.stages.plan(), world);
        self.stages.most_endpoints() > most
            && self.crowded.leave_out_endpoints(&mut self.store, made)
    }

    /// Gives back to the store what is beyond a limit by itself, and has it withhold what is
    /// beyond what its namespace has left. Returns whether anything is different by that.
    pub(super) fn give_back(&mut self, kept: &Kept) -> bool {
        let Kept { world, registry, .. } = kept;
        let over = registry.all_over().filter(|(_, over)| !over.of_namespace);
        let mut all: Vec<_> =
            over.map(|(object, over)| (object.clone(), over.to_string())).collect();
        let beyond = self.stages.rejected().into_iter();
        let beyond = beyond.filter(|one| registry.over(&one.object).is_none());
        all.extend(beyond.map(|one| (one.object, one.reason)));
        let mut changed = false;
        for (object, reason) in all {
            changed |= self.refuse(world, &object, &reason);
        }
        for (object, over) in registry.all_over().filter(|(_, over)| over.of_namespace) {
            let finding = left_out::finding(world, object, over.code(), &over.to_string());
            changed |= self.store.withhold(object, finding);
        }
        changed
    }

    /// Larger tables cannot be made, for this reason: until that is over, what would need
    /// them is left out.
    pub fn cannot_grow(&mut self, why: String) {
        self.cannot_grow = Some(why);
    }

    /// Whether larger tables are tried.
    pub fn may_grow(&self) -> bool {
        self.grows && self.cannot_grow.is_none()
    }

    /// Larger tables are tried again.
    pub fn grow_again(&mut self) {
        if self.cannot_grow.take().is_some() {
            self.crowded.forget_tables();
            self.store.resume(true);
        }
    }

    /// What was read and is not in force: what was refused, and what is left out.
    pub fn rejected(&self) -> Vec<Rejected> {
        let mut all = self.store.rejected();
        for one in &self.left_out {
            // Of one whose newest version waits, the earlier one may be left out, too.
            match all.iter_mut().find(|other| one.object.is_some() && other.object == one.object) {
                Some(known) => known.kept = false,
                None => all.push(one.clone()),
            }
        }
        all
    }

    /// Takes the new version of an object back; or, of one that was within its limits before,
    /// that of what its endpoints are written in. Returns whether anything is different by
    /// that.
    fn refuse(&mut self, world: &World, object: &ObjectRef, reason: &str) -> bool {
        let finding = left_out::finding(world, object, &syntax::OVER_LIMIT, reason);
        if self.store.is_new(object) {
            return self.store.reject(object, vec![finding]);
        }
        // What was beyond before stays so, whatever others are: they pay for nothing.
        let was_out = self.left_out.iter().any(|one| one.object.as_ref() == Some(object));
        let Some(of) = world.get(object).filter(|_| !was_out) else { return false };
        // What is new was touched.
        let is_near = |one: &&ObjectRef| one.namespace == object.namespace;
        let near: Vec<ObjectRef> = self.store.touched().iter().filter(is_near).cloned().collect();
        let mut reject = |is_its_own: &dyn Fn(&Arc<Object>) -> bool| {
            let mut changed = false;
            for reference in &near {
                let is_its_own = world.get(reference).is_some_and(is_its_own);
                if is_its_own && self.store.is_new(reference) {
                    changed |= self.store.reject(reference, vec![finding.clone()]);
                }
            }
            changed
        };
        let slices = reject(&|one| match &one.spec {
            Spec::EndpointSlice(slice) => {
                object.kind == Kind::Service && *slice.service == *object.name
            }
            _ => false,
        });
        slices || reject(&|one| registry::selects(of, one))
    }
}
