//! Objects that decide about hosts of other namespaces.

use std::collections::BTreeSet;

use super::examine::listed;
use super::facts::Facts;
use super::{Finding, Report};
use crate::diag::Diagnostic;
use crate::diag::codes::differences;
use crate::model::ObjectRef;
use crate::names::namespace_of;
use crate::registry::ExportTo;
use crate::world::CrossNamespace;

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    for set in facts.book.sets().filter(|set| set.is_for_mesh()) {
        for (at, host) in set.hosts.iter().enumerate() {
            let services = facts.services_of(host);
            let owners = services.iter().map(|service| &**service.namespace()).collect();
            let path = format!("spec.hosts[{at}]");
            tell(facts, findings, &set.reference, path, (host, &set.export, owners));
        }
    }
    for (object, entry) in facts.world.service_entries() {
        let export =
            ExportTo::new(entry.export_to.iter().map(String::as_str), &object.meta.namespace);
        for (at, host) in entry.hosts.iter().enumerate() {
            let owners = namespace_of(host, &facts.world.settings.cluster_domain);
            let owners = owners.into_iter().collect();
            let path = format!("spec.hosts[{at}]");
            tell(facts, findings, &object.reference(), path, (host, &export, owners));
        }
    }
}

fn tell(
    facts: &Facts<'_>,
    findings: &mut Vec<Finding>,
    object: &ObjectRef,
    path: String,
    (host, export, mut owners): (&str, &ExportTo, BTreeSet<&str>),
) {
    let settings = &facts.world.settings;
    // A host may be of several namespaces, and of its own is its own.
    let shared = owners.remove(&*object.namespace);
    if owners.is_empty() || !export.leaves_home() || *object.namespace == *settings.root_namespace {
        return;
    }
    let owners = Vec::from_iter(owners);
    let theirs = listed("namespace", &owners);
    let (code, outcome) = match (settings.cross_namespace, shared) {
        (CrossNamespace::Istio, _) => (
            &differences::OF_ANOTHER_NAMESPACE,
            "decides for clients of every namespace that sees it",
        ),
        (CrossNamespace::Owner, false) => {
            (&differences::KEPT_AT_HOME, "is left out for clients of other namespaces than its own")
        }
        (CrossNamespace::Owner, true) => (
            &differences::KEPT_AT_HOME,
            "is left out for clients of other namespaces than its own where they dial what is \
             theirs",
        ),
    };
    let too = if shared { ", too" } else { "" };
    let message = format!("{host} belongs to {theirs}{too}, and {object} {outcome}");
    Report::new(object.clone(), findings).add(path, Diagnostic::new(code, message));
}
