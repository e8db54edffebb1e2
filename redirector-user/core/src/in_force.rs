//! What is said of a configuration in force: the same as [`crate::check`] says of
//! documents, worked out from the objects alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::analysis::{self, Around};
use crate::diag::{Diagnostic, Severity};
use crate::model::{Kind, Object, ObjectRef, ServiceEntry};
use crate::registry::Registry;
use crate::store::{Rejected, Replaced, Store};
use crate::world::World;

/// A configuration in force, and what was said of its documents one by one.
#[derive(Clone, Debug)]
pub struct InForce {
    /// The objects, and what they mean here.
    pub world: World,
    /// What was read and is not in force.
    pub rejected: Vec<Rejected>,
    /// The warnings about each document by itself.
    pub warnings: Vec<Diagnostic>,
}

impl InForce {
    /// What a store comes to, and what of it is in force.
    pub fn new(store: &Store, world: World) -> Self {
        let warnings = store.diagnostics().filter(|one| one.severity == Severity::Warning);
        let warnings = warnings.cloned().chain(store.repeated()).collect();
        Self { world, rejected: store.rejected(), warnings }
    }

    /// Whether there is nothing else to be said of it. Cheap where most objects are
    /// the very same.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.world.is_same(&other.world)
            && self.rejected == other.rejected
            && self.warnings == other.warnings
    }

    /// The warnings: those about single documents, and those about what lies between
    /// objects. Takes time that grows with the configuration.
    pub fn findings(&self) -> Vec<Diagnostic> {
        let world = &self.world;
        let mut registry = Registry::new(world);
        let mut findings = self.warnings.clone();
        let around = Around { is_all: true, ..Around::default() };
        let (of_all, examined) = analysis::analyze(world, &mut registry, &around);
        let not_examined = examined.not_examined().into_iter();
        // Here nobody can look at fewer at once.
        findings.extend(not_examined.map(|one| Diagnostic { severity: Severity::Warning, ..one }));
        analysis::retain_still_true(&mut findings, world, &registry, &of_all);
        for finding in of_all {
            if finding.diagnostic.severity == Severity::Info {
                continue;
            }
            let mut diagnostic = finding.diagnostic;
            if let Some(object) = world.get(&finding.object) {
                diagnostic.file.clone_from(&object.meta.origin.file);
                diagnostic.line = object.meta.origin.line;
            }
            diagnostic.object = Some(finding.object.into());
            diagnostic.path = finding.path;
            findings.push(diagnostic);
        }
        findings
    }
}

/// Whether any of these changes is one of what people write: other than of endpoints,
/// which come, go and move by themselves.
pub fn is_written(changes: &BTreeMap<ObjectRef, Replaced>) -> bool {
    let entry = |object: &Option<Arc<Object>>| {
        let entry = object.as_ref()?.spec.service_entry()?;
        Some(ServiceEntry { endpoints: Vec::new(), ..entry.clone() })
    };
    changes.iter().any(|(object, Replaced { before, after })| match object.kind {
        Kind::ServiceEntry => before.is_none() || entry(before) != entry(after),
        kind => kind.is_written(),
    })
}

/// Whether any of these changes is one to go back over: of what [people write](is_written); and
/// of endpoints in files, which move there because somebody has written it.
pub fn is_to_go_back_over(changes: &BTreeMap<ObjectRef, Replaced>) -> bool {
    let is_of_file = |Replaced { before, after }: &Replaced| {
        let object = after.as_ref().or(before.as_ref());
        object.is_some_and(|object| object.meta.origin.file.is_some())
    };
    is_written(changes)
        || changes.iter().any(|(object, replaced)| match object.kind {
            Kind::ServiceEntry | Kind::WorkloadEntry => is_of_file(replaced),
            _ => false,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use crate::world::Settings;

    const WORKLOAD: &str = "WorkloadEntry w: {address: 192.0.2.1}\n";
    const ENTRY: &str = "ServiceEntry e:
  hosts: [db.example]
  addresses: [192.0.2.9]
  ports: [{number: 80, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.1}]
";

    /// What makes the one text the other, in this file.
    fn changes(file: Option<&str>, before: &str, after: &str) -> BTreeMap<ObjectRef, Replaced> {
        let objects = |text: &str| -> BTreeMap<ObjectRef, Arc<Object>> {
            let world = testing::world(Settings::default(), text);
            let objects = world.objects().map(|one| {
                let mut object = Object::clone(one);
                object.meta.origin.file = file.map(Into::into);
                (one.reference(), Arc::new(object))
            });
            objects.collect()
        };
        let (before, after) = (objects(before), objects(after));
        let all: Vec<_> = before.keys().chain(after.keys()).cloned().collect();
        let replaced = |object: &ObjectRef| Replaced {
            before: before.get(object).cloned(),
            after: after.get(object).cloned(),
        };
        all.into_iter().map(|one| (one.clone(), replaced(&one))).collect()
    }

    #[test]
    fn endpoints_that_move_are_not_what_people_write() {
        let written = |before: &str, after: &str| is_written(&changes(None, before, after));
        assert!(!written(WORKLOAD, ""));
        assert!(!written(WORKLOAD, &WORKLOAD.replace("2.1", "2.2")));
        assert!(!written(ENTRY, &ENTRY.replace("2.1", "2.2")));
        assert!(written(ENTRY, &ENTRY.replace("number: 80", "number: 81")));
        assert!(written(ENTRY, ""));
        assert!(written("", ENTRY));
    }

    #[test]
    fn endpoints_are_gone_back_over_where_a_file_says_them() {
        for text in [WORKLOAD, ENTRY] {
            let moved = text.replace("2.1", "2.2");
            assert!(is_to_go_back_over(&changes(Some("a.yaml"), text, &moved)), "{text}");
            assert!(is_to_go_back_over(&changes(Some("a.yaml"), text, "")), "{text}");
            assert!(!is_to_go_back_over(&changes(None, text, &moved)), "{text}");
        }
        assert!(is_to_go_back_over(&changes(None, "", ENTRY)));
    }
}
