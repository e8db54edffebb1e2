//! How things that have numbers in the kernel are called.

use redirector_core::model::{RuleId, SourceId, SourceSelector};
use redirector_core::plan::{DestinationId, RouteId};

/// `VirtualService/default/echo tcp[0]`, as `explain` shows a rule.
pub fn rule_name(rule: &RuleId) -> String {
    format!("{} {}[{}]", rule.object, rule.list, rule.index)
}

/// The rule of a route, or the service whose own endpoints it is.
pub fn route_name(route: &RouteId) -> String {
    match &route.rule {
        Some(rule) => rule_name(rule),
        None => match route.destinations.first() {
            Some(destination) => format!("the endpoints of {}", destination.host),
            None => "no endpoints".to_owned(),
        },
    }
}

/// `host:port`, with `/subset` where there is one.
pub fn destination_name(destination: &DestinationId) -> String {
    match &destination.subset {
        Some(subset) => format!("{}:{}/{subset}", destination.host, destination.port),
        None => format!("{}:{}", destination.host, destination.port),
    }
}

/// `namespace/name`.
pub fn source_name(source: &SourceId) -> String {
    format!("{}/{}", source.namespace, source.name)
}

/// Where the processes of a workload are found.
pub fn place_name(selector: &SourceSelector) -> String {
    match selector {
        SourceSelector::Cgroup(path) => format!("cgroup {path}"),
        SourceSelector::Netns(path) => format!("network namespace {path}"),
        SourceSelector::PodUid(uid) => format!("pod {uid}"),
    }
}
