//! What an entry of a route names: a service and a port.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::book::{Rule, RuleSet};
use crate::client::Asker;
use crate::model::{Labels, Policy, RouteDestination};
use crate::names::complete_host;
use crate::registry::{NoService, Registry, Service};

/// What a destination without endpoints lacks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Lacks {
    /// No service has its host.
    Service,
    /// A service has its host, and the client does not see it.
    Export,
    /// Its host is another name for one that no service has.
    Alias,
    /// The service is left out, beyond a limit.
    Limit,
    /// The service has no such port.
    Port,
    /// No DestinationRule that counts for the client defines its subset.
    Subset,
    /// Its policy would change bytes on the wire.
    Bytes,
    /// The service has no endpoint at all.
    Endpoints,
    /// Its endpoints are names, which are not resolved.
    Resolution,
    /// Endpoints, with the labels of the subset, are known and cannot be used: not ready, or
    /// without address.
    Usable,
    /// The endpoints are of the other address family.
    Family,
    /// No endpoint is on the client's node.
    Node,
    /// No endpoint has the labels of the subset.
    Labels,
    /// No endpoint is in a locality that the policy distributes to.
    Locality,
    /// It leads on to the address dialled, which is the gateway itself.
    Way,
    /// This part is for endpoints that are unix sockets: it stands behind the
    /// destination that it was cut from.
    Sockets,
}

/// What is named.
pub(crate) struct Named<'q> {
    /// The full host name.
    pub host: Arc<str>,
    /// The service that the client means by it, or why there is none.
    pub service: Result<&'q Service, (Lacks, String)>,
    /// The service port.
    pub port: u16,
}

/// Which service and port an entry of a route means to a client that has dialled
/// the port `dialled`; its host is completed with `namespace`.
pub(crate) fn named<'q>(
    registry: &'q Registry,
    who: &Asker<'_, 'q>,
    namespace: &str,
    entry: &RouteDestination,
    dialled: u16,
) -> Named<'q> {
    let host = complete_host(&entry.host, namespace, &registry.settings.cluster_domain);
    let host: Arc<str> = host.as_ref().into();
    who.looks_up(&host);
    let named = registry.visible(who, &host);
    // The port is that of the service named, not of what it is another name for.
    let port = entry.port.unwrap_or_else(|| match &named {
        Ok(Service { ports, .. }) if ports.len() == 1 => ports[0].number,
        _ => dialled,
    });
    let service = named.and_then(|service| registry.follow(who, service));
    let service = service.map_err(|why| no_service(&host, why));
    Named { host, service, port }
}

/// Whether the subsets that a rule names are all defined.
pub(crate) fn subsets_resolve<'q>(
    registry: &'q Registry,
    who: &Asker<'_, 'q>,
    set: &RuleSet,
    rule: &Rule,
) -> Result<(), String> {
    for entry in set.route(rule) {
        let Some(subset) = &entry.subset else { continue };
        let Named { host, service, .. } = named(registry, who, set.namespace(), entry, 0);
        let defined = service.is_ok_and(|service| {
            let rule = registry.rules.find(who, service);
            rule.is_some_and(|rule| rule.subset(subset).is_some())
        });
        if !defined {
            return Err(format!("subset {subset} of {host} is not defined"));
        }
    }
    Ok(())
}

/// Whether a client's connections go to the same by two rules, and as many of them, whatever
/// they call it; `dialled` is the port.
pub(crate) fn lead_alike<'q>(
    registry: &'q Registry,
    who: &Asker<'_, 'q>,
    dialled: u16,
    (one, other): ((&RuleSet, &Rule), (&RuleSet, &Rule)),
) -> bool {
    let parts = |(set, rule): (&RuleSet, &Rule)| {
        let mut parts: Vec<(Option<There<'q>>, u128)> = Vec::new();
        for (entry, weight) in set.weighted(rule).filter(|(_, weight)| *weight > 0) {
            let there = There::of(registry, who, set.namespace(), entry, dialled);
            match parts.iter_mut().find(|(known, _)| *known == there) {
                Some((_, sum)) => *sum += u128::from(weight),
                None => parts.push((there, weight.into())),
            }
        }
        parts
    };
    let (one, other) = (parts(one), parts(other));
    let [all, of_all] =
        [&one, &other].map(|parts| parts.iter().map(|(_, part)| part).sum::<u128>());
    one.len() == other.len()
        && one.iter().all(|(there, part)| {
            let same = other.iter().find(|(other, _)| other == there);
            same.is_some_and(|(_, of)| part * of_all == of * all)
        })
}

/// Where connections of a destination go, for one client: the endpoints of this service with
/// these labels, by this policy.
#[derive(PartialEq)]
struct There<'q> {
    host: &'q str,
    port: u16,
    labels: Option<&'q Labels>,
    policy: Policy,
}

impl<'q> There<'q> {
    /// Of an entry of a route; `None` where there is no such destination.
    fn of(
        registry: &'q Registry,
        who: &Asker<'_, 'q>,
        namespace: &str,
        entry: &RouteDestination,
        dialled: u16,
    ) -> Option<Self> {
        let Named { service, port, .. } = named(registry, who, namespace, entry, dialled);
        let service = service.ok()?;
        let port = service.port(port)?.number;
        let rule = registry.rules.find(who, service);
        let name = entry.subset.as_deref().filter(|name| !name.is_empty());
        let subset = match name {
            Some(name) => Some(rule?.subset(name)?),
            None => None,
        };
        Some(Self {
            host: &service.host,
            port,
            labels: subset.map(|subset| &subset.labels).filter(|labels| !labels.is_empty()),
            policy: rule.map_or_else(Policy::default, |rule| rule.policy(name, port)),
        })
    }
}

fn no_service(host: &str, why: NoService) -> (Lacks, String) {
    match why {
        NoService::Unknown => (Lacks::Service, format!("no service has the host {host}")),
        NoService::Hidden { service, export } => {
            (Lacks::Export, format!("{service} has the host {host}, and is {export}"))
        }
        NoService::Alias { host: target, again: true } => (
            Lacks::Alias,
            format!(
                "{host} is another name for {target}, which is another name itself, and only one \
                 step is followed"
            ),
        ),
        NoService::Alias { host: target, again: false } => (
            Lacks::Alias,
            format!("{host} is another name for {target}, which is no known service here"),
        ),
        NoService::Rejected(reason) => (Lacks::Limit, format!("{host} is left out: {reason}")),
    }
}
