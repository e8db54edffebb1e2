//! Analysis: what is wrong between objects that are each admitted.
//!
//! Every finding names an object and a path in it; where that stands is looked
//! up in the object's tree by whoever has it. Findings with an Istio code follow
//! Istio's own analyzers to the letter, so that a
//! configuration which they find clean is clean here; all others have codes of
//! ours alone (sections 14, 19, 20).

mod by_name;
mod conflicts;
pub mod deployments;
mod destination_rules;
mod destinations;
mod drain;
mod entries;
pub mod examine;
mod exports;
mod facts;
mod foreign;
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
mod server_names;
mod services;
mod shadows;
mod unreached;
mod virtual_services;
mod workload_entries;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use ipnet::IpNet;

use crate::decode::templates::{PodTemplate, pod};
use crate::diag::Diagnostic;
use crate::model::annotations::SERVICE_NAME;
use crate::model::{EndpointSlice, Kind, ObjectRef};
use crate::names::{complete_gateway, complete_host, service_host};
use crate::registry::{Registry, with_stand_ins};
use crate::world::World;
use crate::yaml::{Node, Value};
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

/// What stands around the objects of a World and is none of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Around {
    /// Promises of Pods.
    pub templates: Vec<PodTemplate>,
    /// Objects that were refused.
    pub refused: Refused,
    /// The objects are all that is in force, and no documents to which others are still to come.
    pub is_all: bool,
}

/// What others say of objects that were refused. Why is told of these, and not
/// that they are missing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Refused {
    /// Full hosts of Services and ServiceEntries.
    pub services: BTreeSet<String>,
    /// Full hosts of DestinationRules.
    pub rules: BTreeSet<String>,
    /// Full names of Gateways.
    pub gateways: BTreeSet<String>,
    /// Full names of Gateways that VirtualServices are bound to.
    pub bound: BTreeSet<String>,
    /// The Services of EndpointSlices.
    pub endpoints: BTreeSet<ObjectRef>,
    /// Pods.
    pub pods: Vec<PodTemplate>,
}

impl Refused {
    /// Adds an object, as far as it can be read.
    pub fn add(&mut self, object: &ObjectRef, tree: &Node, cluster_domain: &str) {
        let full = |host: &str| complete_host(host, &object.namespace, cluster_domain).into_owned();
        // One is written for the other, and may be what is wrong.
        let spec = tree.get("spec");
        let said = ["host", "hosts"].into_iter().filter_map(|name| spec?.get(name));
        let hosts = said.flat_map(|node| match &node.value {
            Value::List(hosts) => hosts.iter().filter_map(Node::as_str).collect(),
            _ => Vec::from_iter(node.as_str()),
        });
        match object.kind {
            Kind::Service => {
                let host = service_host(&object.name, &object.namespace, cluster_domain);
                self.services.insert(host);
            }
            Kind::ServiceEntry => self.services.extend(hosts.map(full)),
            Kind::DestinationRule => self.rules.extend(hosts.map(full)),
            Kind::Gateway => {
                self.gateways.insert(format!("{}/{}", object.namespace, object.name));
            }
            Kind::VirtualService => {
                let gateways = spec.and_then(|spec| spec.get("gateways"));
                if let Some(Value::List(names)) = gateways.map(|node| &node.value) {
                    let full = |name| complete_gateway(name, &object.namespace).into_owned();
                    self.bound.extend(names.iter().filter_map(Node::as_str).map(full));
                }
            }
            Kind::EndpointSlice => {
                let labels = tree.get("metadata").and_then(|metadata| metadata.get("labels"));
                let service = labels.and_then(|labels| labels.get(SERVICE_NAME)?.as_str());
                let slice = |service: &str| {
                    EndpointSlice { service: service.into(), ..Default::default() }
                        .of(&object.namespace)
                };
                self.endpoints.extend(service.and_then(slice));
            }
            Kind::Pod => self.pods.extend(pod(tree)),
            _ => {}
        }
    }
}

/// Everything that is wrong between the objects of a World, and will be once each host is
/// resolved. The registry is as before afterwards.
pub fn analyze(
    world: &World,
    registry: &mut Registry,
    around: &Around,
) -> (Vec<Finding>, Examined) {
    match with_stand_ins(world) {
        Some(standing) => between(&standing, &mut Registry::new(&standing), around),
        None => between(world, registry, around),
    }
}

/// The same where the addresses of all hosts are known.
fn between(world: &World, registry: &mut Registry, around: &Around) -> (Vec<Finding>, Examined) {
    let mut examined = examine::examine(world, registry);
    let registry = &*registry;
    let facts = Facts::new(world, registry, around, &examined);
    let mut findings = Vec::new();
    let unfit = virtual_services::analyze(&facts, &mut findings);
    conflicts::analyze(&facts, &mut findings);
    hosts::analyze(&facts, &mut findings);
    foreign::analyze(&facts, &mut findings);
    rules::analyze(&facts, &mut findings);
    destinations::analyze(&facts, &mut findings);
    http::analyze(&facts, &mut findings);
    server_names::analyze(&facts, &mut findings);
    gateways::analyze(&facts, &unfit, &mut findings);
    destination_rules::analyze(&facts, &mut findings);
    policies::analyze(&facts, &mut findings);
    services::analyze(&facts, &mut findings);
    entries::analyze(&facts, &mut findings);
    workload_entries::analyze(&facts, &mut findings);
    by_name::analyze(&facts, &mut findings);
    drain::analyze(&facts, &mut findings);
    exports::analyze(&facts, &mut findings);
    proxy_protocol::analyze(&facts, &mut findings);
    refused::analyze(&facts, &mut findings);
    served::analyze(&facts, &mut findings);
    unreached::analyze(&facts, &mut findings);
    let not_compared = facts.not_compared();
    examined.not_compared = not_compared;
    (findings, examined)
}

/// Takes out what was said of documents one by one, and is not so where all of them are known;
/// `findings` are those about all of them.
pub fn retain_still_true(
    diagnostics: &mut Vec<Diagnostic>,
    world: &World,
    registry: &Registry,
    findings: &[Finding],
) {
    entries::retain_lacking(diagnostics, world, registry);
    policies::retain_in_force(diagnostics, findings, world);
}

/// What is dialled: an address with its port, or a port of a network.
fn dialled(prefix: &IpNet, port: u16) -> String {
    match prefix.prefix_len() == prefix.max_prefix_len() {
        true => SocketAddr::new(prefix.addr(), port).to_string(),
        false => format!("port {port} of {prefix}"),
    }
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
