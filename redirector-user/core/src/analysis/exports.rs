//! `exportTo`: namespaces that do not exist.

use super::facts::Facts;
use super::{Finding, Report};
use crate::diag::Diagnostic;
use crate::diag::codes::differences;
use crate::model::Spec;
use crate::model::annotations::EXPORT_TO;

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    for object in facts.world.objects() {
        let export = match &object.spec {
            Spec::VirtualService(spec) => &spec.export_to,
            Spec::DestinationRule(spec) => &spec.export_to,
            Spec::ServiceEntry(spec) => &spec.export_to,
            Spec::Service(_) => {
                let names = object.meta.annotations.get(EXPORT_TO).unwrap_or_default().split(',');
                let path = format!("metadata.annotations[\"{EXPORT_TO}\"]");
                let mut report = Report::new(object.reference(), findings);
                names.for_each(|name| namespace(facts, name.trim(), &path, &mut report));
                continue;
            }
            _ => continue,
        };
        let mut report = Report::new(object.reference(), findings);
        for (n, name) in export.iter().enumerate() {
            namespace(facts, name, &format!("spec.exportTo[{n}]"), &mut report);
        }
    }
}

fn namespace(facts: &Facts<'_>, name: &str, path: &str, report: &mut Report<'_>) {
    if matches!(name, "" | "*" | "." | "~") {
        return;
    }
    let Some(nobody) = facts.nobody_in(name) else { return };
    let finding = Diagnostic::new(
        &differences::UNKNOWN_EXPORT,
        format!("{nobody}: nobody there sees the object"),
    );
    report.add(path, finding.meant(facts.suggest_namespace(name)));
}
