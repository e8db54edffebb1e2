//! Analysis: what is wrong between objects that are each admitted.
//!
//! Every finding names an object and a path in it; where that stands is looked
//! up in the object's tree by whoever has it. Findings with an Istio code follow
//! Istio's own analyzers to the letter (semantics.md, section 16), so that a
//! configuration which they find clean is clean here; all others have codes of
//! ours alone (sections 14, 19, 20).

pub mod deployments;
mod destination_rules;
mod destinations;
mod drain;
mod entries;
pub mod examine;
mod facts;
mod gateways;
mod hosts;
mod http;
pub mod part;
mod policies;
mod proxy_protocol;
pub mod refusals;
mod refused;
mod rules;
mod served;
mod services;
mod virtual_services;

use std::sync::Arc;

use crate::diag::Diagnostic;
use crate::model::{Labels, ObjectRef};
use crate::plan::Plan;
use crate::registry::Registry;
use crate::world::World;
use examine::Examined;
use facts::Facts;

/// Something that was found, and the field that it concerns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The object.
    pub object: ObjectRef,
    /// The field, `spec.tcp[0].route[1].destination.host`.
    pub path: String,
    /// What it is; without object, path and place.
    pub diagnostic: Diagnostic,
}

/// A pod template of a Deployment or the like: a promise of Pods.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodTemplate {
    /// The namespace of the Pods.
    pub namespace: Arc<str>,
    /// Their labels.
    pub labels: Labels,
}

/// Everything that is wrong between the objects of a World. The registry is as
/// before afterwards.
pub fn analyze(
    world: &World,
    registry: &mut Registry,
    templates: &[PodTemplate],
) -> (Vec<Finding>, Examined) {
    let examined = examine::examine(world, registry);
    let registry = &*registry;
    let facts = Facts::new(world, registry, templates, &examined);
    let mut findings = Vec::new();
    virtual_services::analyze(&facts, &mut findings);
    hosts::analyze(&facts, &mut findings);
    rules::analyze(&facts, &mut findings);
    destinations::analyze(&facts, &mut findings);
    http::analyze(&facts, &mut findings);
    gateways::analyze(&facts, &mut findings);
    destination_rules::analyze(&facts, &mut findings);
    policies::analyze(&facts, &mut findings);
    services::analyze(&facts, &mut findings);
    entries::analyze(&facts, &mut findings);
    drain::analyze(&facts, &mut findings);
    proxy_protocol::analyze(&facts, &mut findings);
    refused::analyze(&facts, &mut findings);
    served::analyze(&facts, &mut findings);
    (findings, examined)
}

/// What the rules of a Plan that is in force refuse, and for whom of the
/// workloads here: without the shares that only wait for a name.
pub fn in_force(world: &World, plan: &Plan) -> Vec<Finding> {
    refused::in_force(world, plan)
}

/// Where the findings of one object go.
struct Report<'f> {
    object: ObjectRef,
    findings: &'f mut Vec<Finding>,
}

impl<'f> Report<'f> {
    fn new(object: ObjectRef, findings: &'f mut Vec<Finding>) -> Self {
        Self { object, findings }
    }

    fn add(&mut self, path: impl Into<String>, diagnostic: Diagnostic) {
        let object = self.object.clone();
        self.findings.push(Finding { object, path: path.into(), diagnostic });
    }
}
