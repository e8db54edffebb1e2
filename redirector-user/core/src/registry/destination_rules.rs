//! DestinationRules: merging those that belong together, and finding the one
//! in force for a client and a service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::service::Service;
use super::visibility::ExportTo;
use crate::client::Asker;
use crate::model::{Labels, Meta, ObjectRef, Policy, Subset, TrafficPolicy};
use crate::names::{HostIndex, complete_host};
use crate::world::World;

/// All DestinationRules, merged.
#[derive(Debug, Default)]
pub struct DestinationRules {
    merged: Vec<MergedRule>,
    /// Per namespace, by host; indices into `merged`, the oldest first.
    by_namespace: BTreeMap<Arc<str>, HostIndex<usize>>,
    /// Over all namespaces, by host.
    by_host: HostIndex<usize>,
    root: Arc<str>,
}

/// DestinationRules of one namespace for one host, with the same exportTo and
/// the same workloadSelector: they count as one.
#[derive(Debug)]
pub struct MergedRule {
    /// The objects, the oldest first.
    pub objects: Vec<ObjectRef>,
    /// The full host, or wildcard.
    pub host: String,
    /// Who sees it.
    pub export: ExportTo,
    /// The clients that it is for, when it does not speak to all.
    pub selector: Option<Labels>,
    /// The first policy that is set.
    pub policy: Option<TrafficPolicy>,
    /// The subsets of all, of two with one name the older.
    pub subsets: Vec<MergedSubset>,
}

/// A subset, and the object that defines it.
#[derive(Debug)]
pub struct MergedSubset {
    /// The subset.
    pub subset: Subset,
    /// The DestinationRule.
    pub object: ObjectRef,
}

impl MergedRule {
    /// A subset.
    pub fn subset(&self, name: &str) -> Option<&Subset> {
        self.subsets.iter().map(|merged| &merged.subset).find(|subset| subset.name == name)
    }

    /// The policy in force for a subset (or for none) and a service port.
    pub fn policy(&self, subset: Option<&str>, port: u16) -> Policy {
        let subset = subset.and_then(|name| self.subset(name));
        Policy::effective(
            self.policy.as_ref(),
            subset.and_then(|subset| subset.traffic_policy.as_ref()),
            port,
        )
    }
}

/// Orders objects by age, then name, then namespace.
pub(crate) fn age(meta: &Meta) -> (Option<i64>, Arc<str>, Arc<str>) {
    (meta.created, meta.name.clone(), meta.namespace.clone())
}

impl DestinationRules {
    /// Merges the DestinationRules of a World.
    pub fn new(world: &World) -> Self {
        let mut rules: Vec<_> = world.destination_rules().collect();
        rules.sort_by_cached_key(|(object, _)| age(&object.meta));
        let mut all =
            Self { root: world.settings.root_namespace.as_str().into(), ..Self::default() };
        let mut known = BTreeMap::new();
        for (object, rule) in rules {
            let namespace = &object.meta.namespace;
            let host =
                complete_host(&rule.host, namespace, &world.settings.cluster_domain).into_owned();
            let export = match rule.workload_selector {
                Some(_) => ExportTo::private(namespace),
                None => ExportTo::new(rule.export_to.iter().map(String::as_str), namespace),
            };
            let key =
                (namespace.clone(), host.clone(), export.clone(), rule.workload_selector.clone());
            let index = *known.entry(key).or_insert_with(|| {
                let index = all.merged.len();
                all.by_namespace.entry(namespace.clone()).or_default().insert(&host, index);
                all.by_host.insert(&host, index);
                all.merged.push(MergedRule {
                    objects: Vec::new(),
                    host,
                    export,
                    selector: rule.workload_selector.clone(),
                    policy: None,
                    subsets: Vec::new(),
                });
                index
            });
            let Some(merged) = all.merged.get_mut(index) else { continue };
            if merged.policy.is_none() {
                merged.policy = rule.traffic_policy.clone();
            }
            let object = object.reference();
            for subset in &rule.subsets {
                if merged.subset(&subset.name).is_none() {
                    merged
                        .subsets
                        .push(MergedSubset { subset: subset.clone(), object: object.clone() });
                }
            }
            merged.objects.push(object);
        }
        all
    }

    /// All of them, merged, the oldest first.
    pub fn all(&self) -> &[MergedRule] {
        &self.merged
    }

    /// Those that may be in force for a service with this host.
    pub fn for_host(&self, host: &str) -> impl Iterator<Item = &MergedRule> {
        self.by_host.matching(host).into_iter().filter_map(|&index| self.merged.get(index))
    }

    /// The one in force for a client and a service: the client's namespace is
    /// looked at first, then the service's, then the root namespace; the first
    /// that has any wins whole.
    pub fn find<'q>(&'q self, who: &Asker<'_, 'q>, service: &'q Service) -> Option<&'q MergedRule> {
        if self.merged.is_empty() {
            return None;
        }
        let matching = self.by_host.matching(&service.host);
        if matching.is_empty() {
            return None;
        }
        let namespaces: BTreeSet<&Arc<str>> = matching
            .iter()
            .filter_map(|&&index| self.merged.get(index)?.objects.first())
            .map(|object| &object.namespace)
            .collect();
        let from_root = namespaces.contains(&self.root) && who.in_namespace(&self.root);
        let own = if from_root {
            self.step(&self.root, service, |rule| {
                !rule.export.leaves_home() && self.selects(rule, who)
            })
        } else {
            namespaces.iter().find(|namespace| who.in_namespace(namespace)).and_then(|namespace| {
                self.step(namespace, service, |rule| {
                    rule.export.visible(who) && self.selects(rule, who)
                })
            })
        };
        let exported = |rule: &'q MergedRule| rule.export.leaves_home() && rule.export.visible(who);
        own.or_else(|| self.step(service.namespace(), service, exported))
            .or_else(|| self.step(&self.root, service, exported))
    }

    fn selects<'q>(&self, rule: &'q MergedRule, who: &Asker<'_, 'q>) -> bool {
        rule.selector.as_ref().is_none_or(|selector| who.has_labels(selector))
    }

    /// Among the rules of a namespace that `accept` takes, those for the most
    /// specific host: one that selects its clients goes before those that do
    /// not, of which the youngest counts.
    fn step<'q>(
        &'q self,
        namespace: &str,
        service: &Service,
        accept: impl Fn(&'q MergedRule) -> bool,
    ) -> Option<&'q MergedRule> {
        let found: Vec<&'q MergedRule> = self
            .by_namespace
            .get(namespace)?
            .most_specific(&service.host, |&index| self.merged.get(index).is_some_and(&accept))
            .into_iter()
            .filter_map(|&index| self.merged.get(index))
            .collect();
        found.iter().find(|rule| rule.selector.is_some()).or(found.last()).copied()
    }
}
