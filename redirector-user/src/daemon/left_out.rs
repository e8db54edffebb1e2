//! What the store says and is not in force, though nothing is wrong with it by itself: it
//! asks for more than its budget, or the tables have no room for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use redirector_core::compile::Rejected as Beyond;
use redirector_core::diag::Diagnostic;
use redirector_core::diag::codes::{Code, syntax};
use redirector_core::layout::{Full, Placement, Table, because, heaviest};
use redirector_core::model::ObjectRef;
use redirector_core::plan::Plan;
use redirector_core::registry::Registry;
use redirector_core::store::{Rejected, Store};
use redirector_core::world::World;

/// Objects that the tables have no room for.
#[derive(Debug, Default)]
pub(super) struct Crowded {
    objects: BTreeMap<ObjectRef, Lack>,
}

/// The room that an object lacks.
#[derive(Debug)]
struct Lack {
    table: Table,
    /// So many entries.
    count: u64,
    /// As many as the table has.
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
    pub fn retry(&mut self, store: &Store, placement: &Placement) {
        let mut used: Vec<(Table, u64)> = Vec::new();
        self.objects.retain(|object, lack| {
            if store.touched().contains(object) {
                return false;
            }
            let of_table = used.iter_mut().find(|(table, _)| *table == lack.table);
            let mut first = (lack.table, placement.used(lack.table));
            let is_first = of_table.is_none();
            let (_, used_now) = of_table.unwrap_or(&mut first);
            let fits = *used_now + lack.count <= lack.capacity;
            *used_now += if fits { lack.count } else { 0 };
            if is_first {
                used.push(first);
            }
            !fits
        });
    }

    /// Leaves out what makes a Plan not fit. Returns whether there is any.
    pub fn leave_out(&mut self, plan: &Plan, world: &World, full: &Full) -> bool {
        let mut full = *full;
        let heaviest = heaviest(plan, world, &mut full);
        for (object, count) in &heaviest {
            let reason = because(&full, object, *count);
            let finding = finding(world, object, &syntax::NO_ROOM, &reason);
            let file = finding.file.clone().unwrap_or_default();
            let table = full.table;
            // Number 0 is nobody's there.
            let nobodys = matches!(table, Table::Lives | Table::Workloads | Table::Classes);
            let capacity = u64::from(full.capacity) - u64::from(nobodys && full.capacity > 0);
            let lack = Lack { table, count: *count, capacity, finding, file };
            self.objects.insert(object.clone(), lack);
        }
        !heaviest.is_empty()
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
