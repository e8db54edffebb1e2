//! What the store says and is not in force, though nothing is wrong with it by itself: it
//! asks for more than its budget, or there is no room for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use redirector_core::compile::{Rejected as Beyond, Stages};
use redirector_core::diag::Diagnostic;
use redirector_core::diag::codes::{Code, syntax};
use redirector_core::layout::{Full, Placement, Table, because, beyond_endpoints, heaviest};
use redirector_core::model::ObjectRef;
use redirector_core::plan::Plan;
use redirector_core::registry::Registry;
use redirector_core::store::{Rejected, Store};
use redirector_core::world::World;

/// Objects that there is no room for.
#[derive(Debug, Default)]
pub(super) struct Crowded {
    objects: BTreeMap<ObjectRef, Lack>,
}

/// Where there is no room.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Lacking {
    /// In a table.
    Table(Table),
    /// Among the endpoints of this namespace.
    Namespace(Arc<str>),
}

/// The room that an object lacks.
#[derive(Debug)]
struct Lack {
    place: Lacking,
    /// So many entries.
    count: u64,
    /// As many as there may be.
    capacity: u64,
    finding: Diagnostic,
    file: Arc<str>,
}

impl Crowded {
    /// Which objects.
    pub fn objects(&self) -> BTreeSet<ObjectRef> {
        self.objects.keys().cloned().collect()
    }

    /// Those that are others now, or for which there is room again, are tried again.
    pub fn retry(&mut self, store: &Store, stages: &Stages, placement: &Placement) {
        let mut used: Vec<(Lacking, u64)> = Vec::new();
        self.objects.retain(|object, lack| {
            let may_be_less = match &lack.place {
                Lacking::Table(_) => store.touched().contains(object),
                // How many it would have has other reasons, too.
                Lacking::Namespace(namespace) => {
                    store.written().any(|one| one.namespace == *namespace)
                }
            };
            if may_be_less {
                return false;
            }
            let known = used.iter_mut().find(|(place, _)| *place == lack.place);
            let used_before = || match &lack.place {
                Lacking::Table(table) => placement.used(*table),
                Lacking::Namespace(namespace) => stages.endpoints_of(namespace),
            };
            let used_now = known.as_ref().map_or_else(used_before, |(_, used)| *used);
            let fits = used_now + lack.count <= lack.capacity;
            let used_now = used_now + if fits { lack.count } else { 0 };
            match known {
                Some((_, used)) => *used = used_now,
                None => used.push((lack.place.clone(), used_now)),
            }
            !fits
        });
    }

    /// What tables had no room for is tried again: they may be larger.
    pub fn forget_tables(&mut self) {
        self.objects.retain(|_, lack| !matches!(lack.place, Lacking::Table(_)));
    }

    /// Leaves out what makes a Plan not fit into the tables, and of what was good before the
    /// new version. Returns whether there is any. `cannot_grow` says why they are no larger.
    pub fn leave_out(
        &mut self,
        store: &mut Store,
        (plan, world): (&Plan, &World),
        full: &Full,
        cannot_grow: Option<&str>,
    ) -> bool {
        let mut full = *full;
        let heaviest = heaviest(plan, world, &mut full);
        let table = full.table;
        // Number 0 is nobody's there.
        let nobodys = matches!(table, Table::Lives | Table::Workloads | Table::Classes);
        let capacity = u64::from(full.capacity) - u64::from(nobodys && full.capacity > 0);
        for (object, count) in &heaviest {
            let mut reason = because(&full, object, *count);
            if let Some(why) = cannot_grow {
                reason += &format!("; larger tables cannot be made, and are tried again: {why}");
            }
            let finding = finding(world, object, &syntax::NO_ROOM, &reason);
            self.leave(store, object, (Lacking::Table(table), *count, capacity), finding);
        }
        !heaviest.is_empty()
    }

    /// Leaves out what makes the destinations of a namespace have more endpoints than they
    /// may, likewise.
    pub fn leave_out_endpoints(
        &mut self,
        store: &mut Store,
        (plan, world): (&Plan, &World),
    ) -> bool {
        let most = world.settings.budgets.namespace.endpoints;
        let newest = beyond_endpoints(plan, world);
        for (object, count, why) in &newest {
            let finding = finding(world, object, &syntax::OVER_BUDGET, why);
            let place = Lacking::Namespace(object.namespace.clone());
            self.leave(store, object, (place, *count, most), finding);
        }
        !newest.is_empty()
    }

    fn leave(
        &mut self,
        store: &mut Store,
        object: &ObjectRef,
        (place, count, capacity): (Lacking, u64, u64),
        finding: Diagnostic,
    ) {
        if store.withhold(object, finding.clone()) {
            return;
        }
        let file = finding.file.clone().unwrap_or_default();
        self.objects.insert(object.clone(), Lack { place, count, capacity, finding, file });
    }

    /// All that is left out: these, and what a registry leaves out, or what is beyond a
    /// limit and no earlier version is there.
    pub fn all(&self, world: &World, registry: &Registry, beyond: Vec<Beyond>) -> Vec<Rejected> {
        let is_other = |one: &Beyond| registry.over(&one.object).is_none();
        let beyond = beyond.into_iter().filter(is_other).map(|Beyond { object, reason }| {
            let finding = finding(world, &object, &syntax::OVER_LIMIT, &reason);
            rejected(object, finding)
        });
        let over = registry.all_over().map(|(object, over)| {
            rejected(object.clone(), finding(world, object, over.code(), &over.to_string()))
        });
        let crowded = self.objects.iter().map(|(object, lack)| Rejected {
            file: lack.file.clone(),
            object: Some(object.clone()),
            kept: false,
            diagnostics: vec![lack.finding.clone()],
        });
        over.chain(beyond).chain(crowded).collect()
    }
}

fn rejected(object: ObjectRef, finding: Diagnostic) -> Rejected {
    let file = finding.file.clone().unwrap_or_default();
    Rejected { file, object: Some(object), kept: false, diagnostics: vec![finding] }
}

/// That an object of a World is refused, and why.
pub(super) fn finding(
    world: &World,
    object: &ObjectRef,
    code: &'static Code,
    reason: &str,
) -> Diagnostic {
    let mut finding = Diagnostic::new(code, format!("{object}: {reason}")).about(object);
    if let Some(origin) = world.get(object).map(|object| &object.meta.origin) {
        finding.file.clone_from(&origin.file);
        finding.line = origin.line;
    }
    finding
}
