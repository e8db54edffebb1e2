//! Documents that are only a part of what will be in force: a repository of
//! rules without the Services that they name.
//!
//! Where nothing of a kind is among the documents, no name of it can be judged,
//! and that is said once. Where something is, a name that is missing may be
//! misspelt, and each is told.

use std::collections::HashSet;
use std::sync::Arc;

use super::virtual_services::targets;
use super::{Around, Finding};
use crate::client::contains;
use crate::diag::Diagnostic;
use crate::diag::codes::{Code, differences, references};
use crate::model::{Kind, ObjectRef, Spec};
use crate::names::{complete_host, service_host};
use crate::registry::{Port, Registry, Service};
use crate::world::World;

/// What may be missing as a whole.
struct Missing {
    /// How a sentence calls it.
    what: &'static str,
    /// What is an object of it.
    kinds: &'static [Kind],
    /// What is found where nothing of it is there.
    codes: &'static [&'static Code],
}

const ALL: [Missing; 5] = [
    Missing {
        what: "Services and ServiceEntries",
        kinds: &[Kind::Service, Kind::ServiceEntry],
        codes: &[
            &references::UNKNOWN_HOST,
            &references::UNKNOWN_RULE_HOST,
            &references::UNKNOWN_VIRTUAL_HOST,
            &differences::UNKNOWN_SLICE_SERVICE,
        ],
    },
    Missing { what: "Gateways", kinds: &[Kind::Gateway], codes: &[&references::UNKNOWN_GATEWAY] },
    Missing {
        what: "DestinationRules",
        kinds: &[Kind::DestinationRule],
        codes: &[&references::UNKNOWN_SUBSET],
    },
    Missing {
        what: "Pods, WorkloadEntries and EndpointSlices",
        kinds: &[Kind::Pod, Kind::WorkloadEntry, Kind::EndpointSlice],
        codes: &[
            &references::EMPTY_SUBSET,
            &differences::NO_KNOWN_ENDPOINT,
            &references::UNKNOWN_SELECTOR,
            &differences::UNKNOWN_POD,
        ],
    },
    // Of Services that select Pods: these do not say that they are behind one.
    Missing {
        what: "EndpointSlices",
        kinds: &[Kind::EndpointSlice],
        codes: &[&differences::NO_KNOWN_ENDPOINT],
    },
];

/// What is only said of something that is missing.
pub fn says_missing(code: &str) -> bool {
    ALL.iter().flat_map(|missing| missing.codes).any(|one| one.id == code)
}

/// The services of the destination that a finding is at. Where there are some, its
/// DestinationRule is likelier forgotten than elsewhere.
fn services_at<'r>(
    world: &World,
    registry: &'r Registry,
    finding: &Finding,
) -> impl Iterator<Item = &'r Arc<Service>> {
    let rule = world.get(&finding.object).and_then(|object| object.spec.virtual_service());
    let targets = rule.map(|rule| targets(&finding.object, rule)).unwrap_or_default();
    targets.into_iter().filter(|target| finding.path.starts_with(&target.path)).flat_map(|target| {
        let domain = &world.settings.cluster_domain;
        let host = complete_host(&target.destination.host, &finding.object.namespace, domain);
        registry.named(&host)
    })
}

/// The services that a finding is about.
fn services_of<'r>(
    world: &World,
    registry: &'r Registry,
    finding: &Finding,
) -> impl Iterator<Item = &'r Arc<Service>> {
    let object = &finding.object;
    let domain = &world.settings.cluster_domain;
    let hosts = match world.get(object).map(|object| &object.spec) {
        Some(Spec::DestinationRule(rule)) => {
            vec![complete_host(&rule.host, &object.namespace, domain).into_owned()]
        }
        Some(Spec::Service(_)) => vec![service_host(&object.name, &object.namespace, domain)],
        Some(Spec::ServiceEntry(entry)) => entry.hosts.clone(),
        _ => Vec::new(),
    };
    let own = hosts.into_iter().flat_map(move |host| registry.named(&host).iter());
    own.chain(services_at(world, registry, finding))
}

/// Whether a Pod has the labels that a Service asks for.
fn selects_pods(world: &World, service: &ObjectRef) -> bool {
    let selector = world.get(service).and_then(|object| Some(&object.spec.service()?.selector));
    let Some(selector) = selector.filter(|selector| !selector.is_empty()) else { return false };
    let pods = world.of_namespace(Kind::Pod, &service.namespace);
    pods.into_iter().any(|(_, pod)| contains(&pod.meta.labels, selector))
}

/// Where slices have endpoints that are Pods, and no Pod is among the documents: takes out
/// what follows from that, and says so.
fn pods(world: &World, registry: &Registry, findings: &mut Vec<Finding>) -> Option<String> {
    if world.pods().next().is_some() {
        return None;
    }
    let unknown = |finding: &&Finding| finding.diagnostic.code == differences::UNKNOWN_POD.id;
    let places = findings.iter().filter(unknown).count();
    let slices = findings.iter().filter(unknown);
    let services: HashSet<ObjectRef> = slices
        .filter_map(|finding| {
            world.get(&finding.object)?.spec.endpoint_slice()?.of(&finding.object.namespace)
        })
        .collect();
    let follows = [differences::NO_ENDPOINTS.id, references::EMPTY_SUBSET.id];
    findings.retain(|finding| {
        let mut those = services_of(world, registry, finding);
        let follows = follows.contains(&finding.diagnostic.code)
            && those.any(|service| services.contains(&service.object));
        !follows && !unknown(&finding)
    });
    named("Pods", places)
}

/// What is missing, and in how many places it is named; nothing where in none.
fn named(what: &str, places: usize) -> Option<String> {
    match places {
        0 => None,
        1 => Some(format!("{what} (named in 1 place)")),
        places => Some(format!("{what} (named in {places} places)")),
    }
}

/// Takes out the findings that only say that something is not among the
/// documents, and says what in one sentence.
pub fn only_a_part(
    world: &World,
    registry: &Registry,
    around: &Around,
    findings: &mut Vec<Finding>,
) -> Option<Diagnostic> {
    let mut missing = Vec::new();
    for Missing { what, kinds, codes } in &ALL {
        let templates = kinds.contains(&Kind::Pod) && !around.templates.is_empty();
        if templates || kinds.iter().any(|kind| world.of_kind(*kind).next().is_some()) {
            continue;
        }
        let before = findings.len();
        findings.retain(|finding| {
            let mut services = services_of(world, registry, finding);
            !codes.iter().any(|code| code.id == finding.diagnostic.code)
                || match kinds {
                    [Kind::DestinationRule] => services.next().is_some(),
                    [Kind::EndpointSlice] => !services.any(|one| selects_pods(world, &one.object)),
                    // What a ServiceEntry has within itself is all that there is of it.
                    [Kind::Pod, ..] => services.any(|one| one.ports.iter().any(Port::has_somebody)),
                    _ => false,
                }
        });
        missing.extend(named(what, before - findings.len()));
    }
    missing.extend(pods(world, registry, findings));
    let (last, others) = missing.split_last()?;
    let list = match others {
        [] => last.clone(),
        others => format!("{} and {last}", others.join(", ")),
    };
    Some(
        Diagnostic::new(
            &references::ONLY_A_PART,
            format!("not among the documents: {list}; what is said of them is not judged"),
        )
        .help("--with-cluster FILE names documents that complete these"),
    )
}
