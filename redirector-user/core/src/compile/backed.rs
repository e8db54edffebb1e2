//! What is behind a destination: how an endpoint is chosen, and out of which.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::localities::{Home, weigh};
use super::readers::Reason;
use crate::client::contains;
use crate::model::{Labels, LbAlgorithm, ObjectRef, Policy, Resolution};
use crate::plan::{Algorithm, Destination, DestinationId, Endpoint, Lacks, Lost};
use crate::registry::{self, MergedRule, Port, Service, ServiceKind};
use crate::world::Settings;

/// What was found for a destination.
pub(super) struct Backed<'q> {
    pub service: &'q Service,
    pub port: &'q Port,
    /// The DestinationRules in force.
    pub rule: Option<&'q MergedRule>,
}

impl Backed<'_> {
    /// The destination that it is.
    pub fn destination(&self, id: &DestinationId, settings: &Settings, home: &Home) -> Destination {
        let Self { service, port, rule } = self;
        let policy = rule
            .map_or_else(Policy::default, |rule| rule.policy(id.subset.as_deref(), port.number));
        let Some(what) = policy.changes_bytes() else {
            return self.behind(id, policy, settings, home);
        };
        let (algorithm, original) = algorithm(service, &policy);
        // From a gateway, which has the address dialled, there is no way on to it.
        let mut destination = match policy.changes_bytes_at_gateways() {
            None if !original => self.behind(id, policy, settings, home),
            _ => Destination { algorithm, policy, ..Destination::default() },
        };
        let at_gateways = std::mem::take(&mut destination.endpoints);
        if destination.lacks.is_none() {
            destination.lacks = Some(Lacks::Bytes);
            destination.empty_because = Some(format!(
                "{} asks for {what}, which would change bytes on the wire",
                rule.map(|rule| list(&rule.objects)).unwrap_or_default()
            ));
        }
        Destination { at_gateways, ..destination }
    }

    /// The same, whoever can do what the policy asks for.
    fn behind(
        &self,
        id: &DestinationId,
        policy: Policy,
        settings: &Settings,
        home: &Home,
    ) -> Destination {
        let Self { service, port, .. } = self;
        let (algorithm, original) = algorithm(service, &policy);
        let mut destination = Destination { algorithm, policy, ..Destination::default() };
        if original {
            let any: IpAddr =
                if id.v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            let address = SocketAddr::new(any, port.target.unwrap_or(0));
            destination.endpoints.push(Endpoint { address, weight: 1 });
            return destination;
        }
        let rule = self.rule.as_ref();
        let wanted = id.subset.as_deref().and_then(|subset| rule?.subset(subset));
        let wanted = wanted.map(|subset| &subset.labels).filter(|labels| !labels.is_empty());
        let unresolved = port.unresolved.iter().filter(|one| has(Some(&one.labels), wanted));
        destination.unresolved = unresolved.map(|one| one.name.clone()).collect();
        let node = settings.node_name.as_deref();
        let mut usable: Vec<&registry::ServiceEndpoint> = port
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.ip.is_ipv6() == id.v6)
            .filter(|endpoint| !service.local_only || endpoint.node.as_deref() == node)
            .filter(|endpoint| has(endpoint.labels.as_ref(), wanted))
            .collect();
        usable.dedup_by_key(|endpoint| (endpoint.ip, endpoint.port));
        if usable.is_empty() {
            let (lacks, why) = match destination.unresolved.as_slice() {
                [] => self.why_empty(id, wanted, settings),
                names => (
                    Lacks::Resolution,
                    format!("decided when its names are resolved: {}", names.join(", ")),
                ),
            };
            (destination.lacks, destination.empty_because) = (Some(lacks), Some(why));
            return destination;
        }
        let weights = weigh(&usable, &destination.policy, service.distribution, home);
        destination.endpoints = (usable.iter().zip(weights))
            .filter_map(|(endpoint, weight)| {
                let address = SocketAddr::new(endpoint.ip, endpoint.port);
                Some(Endpoint { address, weight: weight? })
            })
            .collect();
        if destination.endpoints.is_empty() {
            destination.lacks = Some(Lacks::Locality);
            destination.empty_because = Some(format!(
                "{} has no endpoint in the localities that its DestinationRule distributes to",
                service.host
            ));
            return destination;
        }
        let lost: u64 = (port.sockets.iter())
            .filter(|socket| has(Some(&socket.labels), wanted))
            .map(|socket| u64::from(socket.weight))
            .sum();
        let usable: u64 = usable.iter().map(|endpoint| u64::from(endpoint.weight)).sum();
        destination.lost = Lost { weight: lost, of: usable + lost };
        destination
    }

    fn why_empty(
        &self,
        id: &DestinationId,
        wanted: Option<&Labels>,
        settings: &Settings,
    ) -> Reason {
        let Self { service, port, rule } = self;
        let host = &service.host;
        let family = if id.v6 { "IPv6" } else { "IPv4" };
        if !port.has_somebody() {
            return match port.unusable.len() {
                0 => (Lacks::Endpoints, format!("{host} has no endpoint on port {}", port.number)),
                count => (
                    Lacks::Usable,
                    format!(
                        "{host} has no endpoint on port {} that is ready and reachable, of {count}",
                        port.number
                    ),
                ),
            };
        }
        let mut of_family =
            port.endpoints.iter().filter(|one| one.ip.is_ipv6() == id.v6).peekable();
        if port.unresolved.is_empty() && of_family.peek().is_none() {
            return (
                Lacks::Family,
                format!("{host} has no {family} endpoint, and the address dialled is {family}"),
            );
        }
        let rule = rule.map(|rule| list(&rule.objects)).unwrap_or_default();
        let subset = id.subset.as_deref().unwrap_or_default();
        if service.local_only && of_family.any(|one| has(one.labels.as_ref(), wanted)) {
            let why = match (settings.node_name.as_deref(), wanted) {
                (None, _) => format!(
                    "{host} has internalTrafficPolicy Local, and the node's name is not known"
                ),
                (Some(node), None) => format!(
                    "{host} has no endpoint on node {node}, and its internalTrafficPolicy is Local"
                ),
                (Some(node), Some(_)) => format!(
                    "no endpoint of {host} with the labels of subset {subset} ({rule}) is on node \
                     {node}, and its internalTrafficPolicy is Local"
                ),
            };
            return (Lacks::Node, why);
        }
        let elsewhere = (port.endpoints.iter()).any(|one| has(one.labels.as_ref(), wanted));
        let unusable = port.unusable.iter().filter(|labels| has(labels.as_ref(), wanted)).count();
        if !elsewhere && unusable > 0 {
            let why = format!(
                "{host} has no endpoint with the labels of subset {subset} ({rule}) that is ready \
                 and reachable, of {unusable}"
            );
            return (Lacks::Usable, why);
        }
        (
            if elsewhere { Lacks::Family } else { Lacks::Labels },
            format!("no {family} endpoint of {host} has the labels of subset {subset} ({rule})"),
        )
    }
}

/// Whether a subset that wants labels has an endpoint with these.
pub(crate) fn has(labels: Option<&Labels>, wanted: Option<&Labels>) -> bool {
    wanted.is_none_or(|wanted| labels.is_some_and(|labels| contains(labels, wanted)))
}

/// How an endpoint is chosen, and whether it is the original destination.
fn algorithm(service: &Service, policy: &Policy) -> (Algorithm, bool) {
    if service.kind == ServiceKind::Entry(Resolution::None) {
        return (Algorithm::Original, true);
    }
    match policy.algorithm() {
        Some(LbAlgorithm::Passthrough) => (Algorithm::Original, true),
        Some(LbAlgorithm::RoundRobin) => (Algorithm::RoundRobin, false),
        Some(LbAlgorithm::LeastRequest) => (Algorithm::LeastRequest, false),
        Some(LbAlgorithm::SourceIp { .. }) => (Algorithm::SourceHash, false),
        Some(LbAlgorithm::Random | LbAlgorithm::Unspecified | LbAlgorithm::L7Hash(_)) | None => {
            (Algorithm::Random, false)
        }
    }
}

/// Objects, one behind the other.
pub(super) fn list(objects: &[ObjectRef]) -> String {
    objects.iter().map(ObjectRef::to_string).collect::<Vec<_>>().join(", ")
}
