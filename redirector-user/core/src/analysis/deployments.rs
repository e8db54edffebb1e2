//! Deployments whose Pods are behind several Services that do not agree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::client::contains;
use crate::decode::templates::Deployment;
use crate::diag::codes::{Code, references};
use crate::diag::{Diagnostic, Subject};
use crate::model::{Kind, TargetPort};
use crate::world::World;

/// Of Deployments with a sidecar: Services that disagree on a port's protocol,
/// or lead different ports to one targetPort. Each comes with its file, and the
/// findings have their place.
pub fn analyze<'d>(
    world: &World,
    deployments: impl Iterator<Item = (Option<&'d Arc<str>>, &'d Deployment)>,
) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut deployments = deployments.peekable();
    if deployments.peek().is_none() {
        return found;
    }
    let mut services: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for (object, service) in world.services().filter(|(_, service)| !service.selector.is_empty()) {
        services.entry(&object.meta.namespace).or_default().push((object, service));
    }
    let injected: BTreeSet<Arc<str>> = (world.of_kind(Kind::Namespace))
        .filter(|object| object.meta.labels.get("istio-injection").is_some_and(|v| v == "enabled"))
        .map(|object| object.meta.name.clone())
        .collect();
    for (file, deployment) in deployments {
        if !deployment.sidecar.unwrap_or_else(|| injected.contains(&deployment.namespace)) {
            continue;
        }
        let mut protocols: BTreeMap<u16, BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
        let mut targets: BTreeMap<String, BTreeMap<u16, &str>> = BTreeMap::new();
        let here = services.get(&*deployment.namespace).into_iter().flatten();
        for (object, service) in
            here.filter(|(_, service)| contains(&deployment.labels, &service.selector))
        {
            for port in &service.ports {
                let by_protocol = protocols.entry(port.port).or_default();
                by_protocol.entry(&port.protocol).or_default().insert(&object.meta.name);
                let target = match &port.target_port {
                    TargetPort::Number(0) => port.port.to_string(),
                    TargetPort::Number(number) => number.to_string(),
                    TargetPort::Name(name) => name.clone(),
                };
                targets.entry(target).or_default().insert(port.port, &object.meta.name);
            }
        }
        let mut add = |code: &'static Code, message: String| {
            let mut finding = Diagnostic::new(code, message);
            let name = format!("Deployment/{}/{}", deployment.namespace, deployment.name);
            finding.object = Some(Subject::Other(name.into()));
            finding.path = "metadata.name".to_owned();
            (finding.line, finding.column) = (deployment.position.line, deployment.position.column);
            finding.file = file.cloned();
            found.push(finding);
        };
        for (port, by_protocol) in protocols.iter().filter(|(_, all)| all.len() > 1) {
            let names: BTreeSet<&str> = by_protocol.values().flatten().copied().collect();
            add(
                &references::PORT_PROTOCOLS,
                format!(
                    "its Pods have port {port} as {}, by {}",
                    by_protocol.keys().copied().collect::<Vec<_>>().join(" and "),
                    services_of(names)
                ),
            );
        }
        for (target, by_port) in targets.iter().filter(|(_, all)| all.len() > 1) {
            let ports: Vec<String> = by_port.keys().map(u16::to_string).collect();
            add(
                &references::TARGET_PORTS,
                format!(
                    "the ports {} lead to targetPort {target} of its Pods, by {}",
                    ports.join(" and "),
                    services_of(by_port.values().copied().collect())
                ),
            );
        }
    }
    found
}

fn services_of(names: BTreeSet<&str>) -> String {
    let word = if names.len() == 1 { "Service" } else { "Services" };
    format!("{word} {}", names.into_iter().collect::<Vec<_>>().join(" and "))
}
