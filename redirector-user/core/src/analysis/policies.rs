//! DestinationRules against one another, and against what is routed at all.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::facts::Facts;
use super::hosts::named_alone;
use super::{Finding, Report};
use crate::client::{Asker, Client};
use crate::diag::Diagnostic;
use crate::diag::codes::{differences, l7};
use crate::model::{ISTIO_MUTUAL, Kind, ObjectRef};
use crate::names::HostIndex;
use crate::registry::{MergedRule, Service, goes_plain};
use crate::rules::{Claim, claimed};
use crate::world::World;

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let mut routed: HostIndex<()> = HostIndex::default();
    for set in facts.book.sets() {
        let Some(spec) = set.spec() else { continue };
        let http = spec.http.first().into_iter().flat_map(|rule| &rule.route);
        let tcp = spec.tcp.iter().flat_map(|rule| &rule.route);
        let tls = spec.tls.iter().flat_map(|rule| &rule.route);
        for destination in tcp.chain(tls).chain(http) {
            routed.insert(&facts.full_host(&destination.host, set.namespace()), ());
        }
    }
    for (object, rule) in facts.world.destination_rules() {
        if rule.traffic_policy.is_none() {
            continue;
        }
        let full = facts.full_host(&rule.host, &object.meta.namespace);
        let services = facts.services_of(&full);
        if services.is_empty()
            || named_alone(&services).is_some()
            || !routed.matching(&full).is_empty()
            || services.iter().any(|service| served(facts, service))
        {
            continue;
        }
        Report::new(object.reference(), findings).add(
            "spec.trafficPolicy",
            Diagnostic::new(
                &differences::POLICY_WITHOUT_EFFECT,
                format!("no connection to {full} is routed here: the policy concerns none"),
            ),
        );
    }
    unknown_ports(facts, findings);
    dropped(facts, findings);
    nearest_first(facts, findings);
    lookups(facts, findings);
}

/// Settings of ports that no service of the host has.
fn unknown_ports(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    for (object, rule) in facts.world.destination_rules() {
        let of_rule = rule.traffic_policy.iter().map(|policy| ("spec".to_owned(), &**policy));
        let of_subsets = rule.subsets.iter().enumerate().filter_map(|(i, subset)| {
            Some((format!("spec.subsets[{i}]"), subset.traffic_policy.as_ref()?))
        });
        let policies =
            of_rule.chain(of_subsets).filter(|(_, policy)| !policy.port_level.is_empty());
        let mut policies = policies.peekable();
        if policies.peek().is_none() {
            continue;
        }
        let full = facts.full_host(&rule.host, &object.meta.namespace);
        let services = facts.services_of(&full);
        let known = services.iter().flat_map(|service| &service.ports).map(|port| port.number);
        let known: BTreeSet<u16> = known.collect();
        if known.is_empty() || named_alone(&services).is_some() {
            continue;
        }
        for (at, policy) in policies {
            let lacking = policy.port_level.keys().filter(|port| !known.contains(port));
            let lacking: BTreeSet<u16> = lacking.copied().collect();
            if lacking.is_empty() {
                continue;
            }
            let finding = Diagnostic::new(
                &differences::POLICY_WITHOUT_EFFECT,
                format!(
                    "{full} has no port {}, only {}: what is set for it concerns no connection",
                    list(&lacking),
                    list(&known)
                ),
            );
            Report::new(object.reference(), findings).add(
                format!("{at}.trafficPolicy.portLevelSettings"),
                finding.help("write the port of the Service, not its targetPort"),
            );
        }
    }
}

/// The first of some ports.
fn list(ports: &BTreeSet<u16>) -> String {
    let shown: Vec<String> = ports.iter().take(8).map(u16::to_string).collect();
    shown.join(", ")
}

/// Policies and subsets in the place of which an older rule's are in force.
fn dropped(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    for one in facts.registry.rules.all().into_iter().flat_map(|rule| &rule.dropped) {
        let what = if one.subset.is_some() { "subset" } else { "trafficPolicy" };
        let finding = Diagnostic::new(
            &differences::DROPPED_BY_MERGE,
            format!(
                "{} is older, is for the same host, and has such a {what} that differs: that one is \
                 in force, this one is not",
                one.by
            ),
        );
        Report::new(one.object.clone(), findings).add(one.path(), finding);
    }
}

/// Takes out where a policy is said by itself to change bytes, and is found to be in force for
/// nobody: an older rule's is, the host is another name, or it is said that the connections go
/// as they are.
pub(super) fn retain_in_force(
    diagnostics: &mut Vec<Diagnostic>,
    findings: &[Finding],
    world: &World,
) {
    let idle = findings.iter().filter_map(|one| {
        let is_rule = one.object.kind == Kind::DestinationRule;
        let path = match one.diagnostic.code {
            code if code == differences::DROPPED_BY_MERGE.id => &*one.path,
            code if code == differences::ALIAS_HOST.id && is_rule => "spec",
            _ => return None,
        };
        Some((&one.object, path))
    });
    let idle: HashSet<(&ObjectRef, &str)> = idle.collect();
    diagnostics.retain(|one| {
        let Some(object) = one.reference().filter(|_| one.code == l7::CHANGES_BYTES.id) else {
            return true;
        };
        if one.message.starts_with(ISTIO_MUTUAL)
            && let Some(rule) = world.get(object)
            && goes_plain(&rule.meta, world.settings.istio_mutual)
        {
            return false;
        }
        let mut starts = one.path.match_indices('.').map(|(at, _)| &one.path[..at]);
        !starts.any(|start| idle.contains(&(object, start)))
    });
}

/// Policies that prefer the nearest endpoints without saying so.
fn nearest_first(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    for (object, rule) in facts.world.destination_rules() {
        let Some(policy) = &rule.traffic_policy else { continue };
        let said = policy.settings.load_balancer.as_ref().is_some_and(|lb| lb.locality.is_some());
        if policy.settings.outlier.is_none() || said {
            continue;
        }
        let full = facts.full_host(&rule.host, &object.meta.namespace);
        let services = facts.services_of(&full);
        let spread = services
            .iter()
            .flat_map(|service| &service.ports)
            .any(|port| port.endpoints.windows(2).any(|pair| pair[0].locality != pair[1].locality));
        if spread {
            Report::new(object.reference(), findings).add(
                "spec.trafficPolicy.outlierDetection",
                Diagnostic::new(
                    &differences::NEAREST_FIRST,
                    "the endpoints lie in several localities: those nearest to the client go first",
                )
                .help("write loadBalancer: {localityLbSetting: {enabled: false}} if all are to have their share"),
            );
        }
    }
}

/// Whether connections to the service's own addresses are routed here even
/// when no rule matches, or will be once its names are resolved.
pub(super) fn served(facts: &Facts<'_>, service: &Service) -> bool {
    let services = facts.world.settings.services;
    claimed(service).into_iter().any(|(place, _, kind)| {
        let port = service.ports.get(place);
        port.is_some_and(|port| Claim { service, port, kind }.serves(services))
    })
}

/// Rules that hide others in the lookup of a client's DestinationRule.
fn lookups(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let rules = &facts.registry.rules;
    let mut at_home: HashMap<&str, HostIndex<&MergedRule>> = HashMap::new();
    for rule in rules.all() {
        let Some(object) = rule.objects.first() else { continue };
        at_home.entry(&object.namespace).or_default().insert(&rule.host, rule);
    }
    for rule in rules.all() {
        let Some(object) = rule.objects.first() else { continue };
        let mut hidden: BTreeSet<&str> = BTreeSet::new();
        let mut falls_through = false;
        let here = Client { namespace: Some(&object.namespace), ..Client::default() };
        let who = Asker::new(here);
        for service in facts.services_of(&rule.host) {
            if *service.namespace() == object.namespace {
                continue;
            }
            let Some(others) = at_home.get(&**service.namespace()) else { continue };
            let in_force = rules.find(&who, service);
            let replaces = in_force.is_some_and(|found| std::ptr::eq(found, rule));
            for other in others.matching(&service.host) {
                if !other.export.leaves_home() || !other.export.visible(&who) {
                    continue;
                }
                if rule.selector.is_some() {
                    falls_through = true;
                    continue;
                }
                if !replaces {
                    continue;
                }
                let missing = other.subsets.iter().map(|merged| merged.subset.name.as_str());
                hidden.extend(missing.filter(|name| rule.subset(name).is_none()));
            }
        }
        let mut report = Report::new(object.clone(), findings);
        if falls_through {
            report.add(
                "spec.workloadSelector",
                Diagnostic::new(
                    &differences::SELECTOR_FALLS_THROUGH,
                    "clients that the selector does not match use the rule of the service's \
                     namespace here; in Istio they have none",
                ),
            );
        }
        if !hidden.is_empty() {
            let names: Vec<&str> = hidden.into_iter().take(8).collect();
            report.add(
                "spec.host",
                Diagnostic::new(
                    &differences::RULE_HIDES_SUBSETS,
                    format!(
                        "for clients in {} this rule replaces the one in the service's namespace: \
                         the subsets {} do not exist for them",
                        object.namespace,
                        names.join(", ")
                    ),
                ),
            );
        }
    }
}
