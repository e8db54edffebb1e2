//! A tree to an object: types and values checked, every complaint collected.
//!
//! What Istio's admission refuses is an error here, at the very field; what it
//! warns of is a warning.

mod common;
mod cursor;
mod destination_rule;
mod gateway;
mod http;
mod kube;
mod load_balancer;
mod meta;
mod misplaced;
mod route;
mod service_entry;
pub mod templates;
mod virtual_service;

use std::sync::Arc;

use crate::diag::Diagnostic;
use crate::diag::codes::admission;
use crate::model::annotations;
use crate::model::{Kind, Object, ObjectRef, Spec};
use crate::yaml::Node;
use cursor::{At, Sink};

/// What became of a document.
pub struct Decoded {
    /// Which object it is; `None` when it has no usable name.
    pub reference: Option<ObjectRef>,
    /// The object, when nothing about it is refused.
    pub object: Option<Object>,
    /// Everything that was found, with paths and positions.
    pub findings: Vec<Diagnostic>,
}

/// Reads an object of a known kind.
pub fn decode(node: &Node, kind: Kind, file: Option<&Arc<str>>) -> Decoded {
    let sink = Sink::default();
    let (reference, object) = read(node, kind, file, &sink);
    let object = object.filter(|_| !sink.failed());
    Decoded { reference, object, findings: sink.into_findings() }
}

fn read(
    node: &Node,
    kind: Kind,
    file: Option<&Arc<str>>,
    sink: &Sink,
) -> (Option<ObjectRef>, Option<Object>) {
    let Some(root) = At::root(node, sink).any_fields() else { return (None, None) };
    let Some(meta) = meta::meta(&root, kind, file) else { return (None, None) };
    let reference = ObjectRef { kind, namespace: meta.namespace.clone(), name: meta.name.clone() };
    sink.name(&reference);
    let spec = match kind {
        Kind::VirtualService => {
            Spec::VirtualService(virtual_service::virtual_service(&root, &meta.namespace))
        }
        Kind::DestinationRule => {
            Spec::DestinationRule(destination_rule::destination_rule(&root, &meta.namespace))
        }
        Kind::Gateway => Spec::Gateway(gateway::gateway(&root, &meta.name)),
        Kind::ServiceEntry => {
            Spec::ServiceEntry(service_entry::service_entry(&root, &meta.namespace))
        }
        Kind::WorkloadEntry => Spec::WorkloadEntry(service_entry::workload_entry(&root)),
        Kind::Service => Spec::Service(kube::service(&root)),
        Kind::EndpointSlice => {
            let service = meta.labels.get(annotations::SERVICE_NAME);
            Spec::EndpointSlice(kube::endpoint_slice(&root, service, &meta.namespace))
        }
        Kind::Pod => {
            let terminating =
                node.get("metadata").is_some_and(|m| m.get("deletionTimestamp").is_some());
            Spec::Pod(kube::pod(&root, terminating))
        }
        Kind::Namespace => Spec::Namespace,
        Kind::Node => Spec::Node,
    };
    if is_istio(kind) {
        for name in ["istio.io/dry-run", "internal.istio.io/webhook-always-reject"] {
            if meta.annotations.contains_key(name) {
                root.place("metadata").complain(
                    &admission::REJECTED_BY_ANNOTATION,
                    format!("the annotation {name} has Istio reject the object"),
                );
            }
        }
    }
    (Some(reference), Some(Object { meta, spec }))
}

/// Whether every object may have a field of this name.
pub fn is_of_root(name: &str) -> bool {
    cursor::ROOT.contains(&name)
}

const fn is_istio(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::VirtualService
            | Kind::DestinationRule
            | Kind::Gateway
            | Kind::ServiceEntry
            | Kind::WorkloadEntry
    )
}
