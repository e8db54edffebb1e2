//! DestinationRules, plainly.

use std::collections::BTreeMap;

use redirector_core::model::{
    DestinationRule, Labels, LbAlgorithm, LocalitySetting, Object, PolicySettings, Subset, TlsMode,
    TrafficPolicy,
};
use redirector_core::names::complete_host;
use redirector_core::world::World;

use super::services::Service;
use super::{Connection, age, is_public, sees};

/// What of a traffic policy decides where a connection goes.
pub(super) struct Policy {
    pub(super) changes_bytes: bool,
    /// Only who relays can do that.
    pub(super) announces: bool,
    pub(super) passthrough: bool,
    pub(super) detects_outliers: bool,
    pub(super) locality: Option<LocalitySetting>,
}

impl Policy {
    pub(super) fn of(rule: Option<&Merged<'_>>, subset: Option<&Subset>, port: u16) -> Self {
        let TrafficPolicy { settings, tunnel, proxy_protocol, .. } = in_force(rule, subset, port);
        let PolicySettings { load_balancer, outlier, tls, .. } = settings;
        Self {
            changes_bytes: tls.is_some_and(|mode| mode != TlsMode::Disable) || tunnel,
            announces: proxy_protocol.is_some(),
            passthrough: load_balancer
                .as_ref()
                .is_some_and(|balancer| balancer.algorithm == Some(LbAlgorithm::Passthrough)),
            detects_outliers: outlier.is_some(),
            locality: load_balancer.and_then(|balancer| balancer.locality),
        }
    }
}

/// All that a subset's policy, over its rule's, says of a port. What is written for the port
/// stands for all of its level; in a subset, for the rule's as well.
pub(super) fn in_force(
    rule: Option<&Merged<'_>>,
    subset: Option<&Subset>,
    port: u16,
) -> TrafficPolicy {
    let rule = rule.and_then(|rule| rule.policy.clone()).unwrap_or_default();
    let subset = subset.and_then(|subset| subset.traffic_policy.clone()).unwrap_or_default();
    let alone = subset.port_level.contains_key(&port);
    let here = |mut policy: TrafficPolicy| match policy.port_level.remove(&port) {
        Some(settings) => TrafficPolicy { settings, ..TrafficPolicy::default() },
        None => TrafficPolicy { port_level: BTreeMap::new(), ..policy },
    };
    let (mut here, over) = (here(rule), here(subset));
    let (below, above) = (here.settings, over.settings);
    here.settings = if alone {
        above
    } else {
        PolicySettings {
            load_balancer: above.load_balancer.or(below.load_balancer),
            tcp_pool: above.tcp_pool.or(below.tcp_pool),
            outlier: above.outlier.or(below.outlier),
            tls: above.tls.or(below.tls),
        }
    };
    here.tunnel |= over.tunnel;
    here.proxy_protocol = over.proxy_protocol.or(here.proxy_protocol);
    here
}

/// DestinationRules that count as one.
pub(super) struct Merged<'w> {
    pub(super) subsets: Vec<Subset>,
    policy: Option<TrafficPolicy>,
    first: &'w Object,
    selector: Option<&'w Labels>,
    export_to: Vec<String>,
    host: String,
}

pub(super) fn destination_rule<'w>(
    world: &'w World,
    from: &Connection,
    service: &Service<'_>,
) -> Option<Merged<'w>> {
    let root = world.settings.root_namespace.as_str();
    let client = from.namespace.as_deref();
    let home = &*service.object.meta.namespace;
    let leaves = |object: &Object, rule: &DestinationRule| {
        rule.workload_selector.is_none()
            && (is_public(&rule.export_to)
                || rule.export_to.iter().any(|entry| {
                    !matches!(entry.as_str(), "." | "~") && *entry != *object.meta.namespace
                }))
    };
    let exported = |object: &Object, rule: &DestinationRule| {
        leaves(object, rule) && sees(from, &rule.export_to, &object.meta.namespace)
    };
    if let Some(client) = client {
        let own = step(world, client, service, |object, rule| match &rule.workload_selector {
            Some(selector) => {
                selector.iter().all(|(key, value)| from.labels.get(key) == Some(value))
            }
            None if client == root => !leaves(object, rule) && sees(from, &rule.export_to, client),
            None => sees(from, &rule.export_to, client),
        });
        if own.is_some() {
            return own;
        }
    }
    step(world, home, service, exported).or_else(|| step(world, root, service, exported))
}

/// The DestinationRule of one namespace: for the exact host, else for the
/// longest wildcard.
fn step<'w>(
    world: &'w World,
    namespace: &str,
    service: &Service<'_>,
    accept: impl Fn(&Object, &DestinationRule) -> bool,
) -> Option<Merged<'w>> {
    let domain = &world.settings.cluster_domain;
    let mut rules: Vec<_> = world
        .destination_rules()
        .filter(|(object, rule)| {
            let host = complete_host(&rule.host, namespace, domain);
            let covers = *host == *service.host
                || host.strip_prefix('*').is_some_and(|suffix| {
                    service.host.strip_prefix('*').unwrap_or(&service.host).ends_with(suffix)
                });
            &*object.meta.namespace == namespace && covers && accept(object, rule)
        })
        .collect();
    rules.sort_by_key(|(object, _)| age(object));
    let specific = |rule: &DestinationRule| {
        let host = complete_host(&rule.host, namespace, domain);
        (*host == *service.host, host.len())
    };
    let best = rules.iter().map(|(_, rule)| specific(rule)).max()?;
    let mut groups: Vec<Merged<'w>> = Vec::new();
    for (object, rule) in rules.into_iter().filter(|(_, rule)| specific(rule) == best) {
        let host = complete_host(&rule.host, namespace, domain).into_owned();
        let mut export_to: Vec<String> = rule
            .export_to
            .iter()
            .map(|entry| if entry == "." { namespace.to_owned() } else { entry.clone() })
            .collect();
        export_to.sort_unstable();
        export_to.dedup();
        if is_public(&rule.export_to) || rule.workload_selector.is_some() {
            export_to.clear();
        }
        let selector = rule.workload_selector.as_ref();
        let same = groups.iter().position(|group| {
            group.selector == selector && group.export_to == export_to && group.host == host
        });
        let index = same.unwrap_or_else(|| {
            groups.push(Merged {
                subsets: Vec::new(),
                policy: None,
                first: object,
                selector,
                export_to,
                host,
            });
            groups.len() - 1
        });
        let Some(group) = groups.get_mut(index) else { continue };
        for subset in &rule.subsets {
            if !group.subsets.iter().any(|one| one.name == subset.name) {
                group.subsets.push(subset.clone());
            }
        }
        if group.policy.is_none() {
            group.policy = rule.traffic_policy.as_deref().cloned();
        }
    }
    groups.sort_by(|one, other| age(one.first).cmp(&age(other.first)));
    let with = groups.iter().position(|group| group.selector.is_some());
    let which = with.unwrap_or(groups.len().checked_sub(1)?);
    Some(groups.swap_remove(which))
}
