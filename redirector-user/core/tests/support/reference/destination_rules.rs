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
        let level = |policy: &TrafficPolicy| {
            policy.port_level.get(&port).unwrap_or(&policy.settings).clone()
        };
        let rule_policy = rule.and_then(|rule| rule.policy.as_ref());
        let subset_policy = subset.and_then(|subset| subset.traffic_policy.as_ref());
        let (base, over) = (rule_policy.map(level), subset_policy.map(level));
        let tls = over
            .as_ref()
            .and_then(|level| level.tls)
            .or_else(|| base.as_ref().and_then(|level| level.tls));
        let detects_outliers = [&over, &base]
            .into_iter()
            .any(|level| level.as_ref().is_some_and(|level| level.outlier.is_some()));
        let balancer = over
            .and_then(|level| level.load_balancer)
            .or_else(|| base.and_then(|level| level.load_balancer));
        let both = [rule_policy, subset_policy];
        let any = |field: fn(&TrafficPolicy) -> bool| both.into_iter().flatten().any(field);
        Self {
            changes_bytes: tls.is_some_and(|mode| mode != TlsMode::Disable)
                || any(|policy| policy.tunnel),
            announces: any(|policy| policy.proxy_protocol.is_some()),
            passthrough: balancer
                .as_ref()
                .is_some_and(|balancer| balancer.algorithm == Some(LbAlgorithm::Passthrough)),
            detects_outliers,
            locality: balancer.and_then(|balancer| balancer.locality),
        }
    }
}

/// All that a subset's policy, over its rule's, says of a port.
pub(super) fn in_force(
    rule: Option<&Merged<'_>>,
    subset: Option<&Subset>,
    port: u16,
) -> TrafficPolicy {
    let rule = rule.and_then(|rule| rule.policy.clone()).unwrap_or_default();
    let subset = subset.and_then(|subset| subset.traffic_policy.clone()).unwrap_or_default();
    let level =
        |policy: &TrafficPolicy| policy.port_level.get(&port).unwrap_or(&policy.settings).clone();
    let (base, over) = (level(&rule), level(&subset));
    TrafficPolicy {
        settings: PolicySettings {
            load_balancer: over.load_balancer.or(base.load_balancer),
            tcp_pool: over.tcp_pool.or(base.tcp_pool),
            outlier: over.outlier.or(base.outlier),
            tls: over.tls.or(base.tls),
        },
        port_level: BTreeMap::new(),
        tunnel: rule.tunnel || subset.tunnel,
        proxy_protocol: subset.proxy_protocol.or(rule.proxy_protocol),
    }
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
