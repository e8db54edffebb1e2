//! DestinationRules: merging those that belong together, and finding the one
//! in force for a client and a service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::edit::Edit;
use super::service::Service;
use super::visibility::ExportTo;
use crate::client::Asker;
use crate::model::annotations::ISTIO_MUTUAL;
use crate::model::{
    DestinationRule, IstioMutual, Labels, Meta, Object, ObjectRef, Policy, Subset, TrafficPolicy,
};
use crate::names::{HostIndex, complete_host};
use crate::world::{Settings, World};

/// All DestinationRules, merged.
#[derive(Debug, Default, PartialEq)]
pub struct DestinationRules {
    /// Per namespace, by host; those of one host with the oldest first.
    by_namespace: BTreeMap<Arc<str>, HostIndex<Arc<MergedRule>>>,
    /// Over all namespaces, by host, likewise.
    by_host: HostIndex<Arc<MergedRule>>,
    root: Arc<str>,
}

/// DestinationRules of one namespace for one host, with the same exportTo and
/// the same workloadSelector: they count as one.
#[derive(Debug, PartialEq)]
pub struct MergedRule {
    /// The objects, the oldest first.
    pub objects: Vec<ObjectRef>,
    /// When the oldest was made.
    created: Option<i64>,
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
    /// What of younger objects is not in force.
    pub dropped: Vec<Dropped>,
}

/// A policy, or a subset, in the place of which an older object's is in force, which is another.
#[derive(Debug, PartialEq)]
pub struct Dropped {
    /// The object that it is of.
    pub object: ObjectRef,
    /// The place of the subset in it; `None` is its policy for all.
    pub subset: Option<usize>,
    /// The object whose is in force.
    pub by: ObjectRef,
}

impl Dropped {
    /// Where it stands in its object.
    pub fn path(&self) -> String {
        match self.subset {
            Some(place) => format!("spec.subsets[{place}]"),
            None => "spec.trafficPolicy".to_owned(),
        }
    }
}

/// A subset, and the object that defines it.
#[derive(Debug, PartialEq)]
pub struct MergedSubset {
    /// The subset.
    pub subset: Subset,
    /// The DestinationRule.
    pub object: ObjectRef,
}

impl MergedRule {
    /// By this they are ordered: that of the oldest object.
    fn age(&self) -> (Option<i64>, Option<(&str, &str)>) {
        let oldest = self.objects.first().map(|object| (&*object.name, &*object.namespace));
        (self.created, oldest)
    }

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

/// Who sees a DestinationRule.
pub(crate) fn export_of(object: &Object, rule: &DestinationRule) -> ExportTo {
    let namespace = &object.meta.namespace;
    match rule.workload_selector {
        Some(_) => ExportTo::private(namespace),
        None => ExportTo::new(rule.export_to.iter().map(String::as_str), namespace),
    }
}

/// What DestinationRules of a namespace have in common that are merged.
#[derive(PartialEq)]
struct Key {
    host: String,
    export: ExportTo,
    selector: Option<Labels>,
}

impl Key {
    fn of(object: &Object, cluster_domain: &str) -> Option<Self> {
        let rule = object.spec.destination_rule()?;
        let namespace = &object.meta.namespace;
        Some(Self {
            host: complete_host(&rule.host, namespace, cluster_domain).into_owned(),
            export: export_of(object, rule),
            selector: rule.workload_selector.clone(),
        })
    }

    fn is_of(&self, rule: &MergedRule) -> bool {
        self.export == rule.export && self.selector == rule.selector
    }

    /// Of objects of one namespace; `None` when there is none.
    fn merge(self, mut objects: Vec<&Arc<Object>>, mutual: IstioMutual) -> Option<MergedRule> {
        objects.sort_by_cached_key(|object| age(&object.meta));
        let mut merged = MergedRule {
            objects: Vec::with_capacity(objects.len()),
            created: objects.first()?.meta.created,
            host: self.host,
            export: self.export,
            selector: self.selector,
            policy: None,
            subsets: Vec::new(),
            dropped: Vec::new(),
        };
        let mut policy_of = None;
        for object in objects {
            let Some(rule) = object.spec.destination_rule() else { continue };
            let is_plain = goes_plain(&object.meta, mutual);
            let taken = |policy: &TrafficPolicy| match is_plain {
                true => policy.without_istio_mutual(),
                false => policy.clone(),
            };
            let object = object.reference();
            if let Some(policy) = rule.traffic_policy.as_deref().map(taken) {
                match (&merged.policy, &policy_of) {
                    (Some(other), Some(by)) if *other != policy => merged.dropped.push(Dropped {
                        object: object.clone(),
                        subset: None,
                        by: ObjectRef::clone(by),
                    }),
                    (Some(_), _) => {}
                    (None, _) => {
                        merged.policy = Some(policy);
                        policy_of = Some(object.clone());
                    }
                }
            }
            for (place, subset) in rule.subsets.iter().enumerate() {
                let mut subset = subset.clone();
                subset.traffic_policy = subset.traffic_policy.as_ref().map(taken);
                match merged.subsets.iter().find(|one| one.subset.name == subset.name) {
                    None => merged.subsets.push(MergedSubset { subset, object: object.clone() }),
                    Some(other) if other.subset != subset => merged.dropped.push(Dropped {
                        object: object.clone(),
                        subset: Some(place),
                        by: other.object.clone(),
                    }),
                    Some(_) => {}
                }
            }
            merged.objects.push(object);
        }
        Some(merged)
    }
}

/// Whether connections for which a DestinationRule asks for ISTIO_MUTUAL go as they are: where
/// it does not say it itself, `mutual` does.
pub(crate) fn goes_plain(meta: &Meta, mutual: IstioMutual) -> bool {
    let own = meta.annotations.get(ISTIO_MUTUAL);
    own.and_then(IstioMutual::named).unwrap_or(mutual) == IstioMutual::Plain
}

impl DestinationRules {
    pub(super) fn new(settings: &Settings) -> Self {
        Self { root: settings.root_namespace.as_str().into(), ..Self::default() }
    }

    /// Objects are others in this World. Returns the hosts, wildcards among them, for
    /// which the rules differ.
    pub(super) fn update(&mut self, world: &World, edits: &[Edit<'_>]) -> BTreeSet<String> {
        let domain = &world.settings.cluster_domain;
        let mut changed = BTreeSet::new();
        for edit in edits {
            let key = |object: Option<&Arc<Object>>| object.and_then(|one| Key::of(one, domain));
            let (from, to) = (key(edit.before), key(edit.after));
            if from != to
                && let Some(from) = from
            {
                self.merge_again(world, from, edit.reference, false, &mut changed);
            }
            if let Some(to) = to {
                self.merge_again(world, to, edit.reference, true, &mut changed);
            }
        }
        changed
    }

    /// Makes the rule of a key again, which an object is in or not.
    fn merge_again(
        &mut self,
        world: &World,
        key: Key,
        object: &ObjectRef,
        within: bool,
        changed: &mut BTreeSet<String>,
    ) {
        let (namespace, host) = (&object.namespace, key.host.clone());
        let known = self.by_namespace.get(namespace).map_or(&[][..], |rules| rules.literal(&host));
        let before = known.iter().find(|rule| key.is_of(rule)).cloned();
        let others = before.iter().flat_map(|rule| &rule.objects).filter(|other| *other != object);
        let objects = others.chain(within.then_some(object));
        // Of several that are others at once, each is as it is in the end.
        let domain = &world.settings.cluster_domain;
        let still = |one: &&Arc<Object>| Key::of(one, domain).as_ref() == Some(&key);
        let objects = objects.filter_map(|object| world.get(object)).filter(still).collect();
        let after = key.merge(objects, world.settings.istio_mutual).map(Arc::new);
        if before == after {
            return;
        }
        let edit = |rules: &mut Vec<Arc<MergedRule>>| {
            rules.retain(|rule| before.as_ref().is_none_or(|before| !Arc::ptr_eq(rule, before)));
            if let Some(after) = &after {
                let at = rules.partition_point(|rule| rule.age() < after.age());
                rules.insert(at, after.clone());
            }
        };
        let of_namespace = self.by_namespace.entry(namespace.clone()).or_default();
        of_namespace.edit(&host, edit);
        if of_namespace.is_empty() {
            self.by_namespace.remove(namespace);
        }
        self.by_host.edit(&host, edit);
        changed.insert(host);
    }

    /// All of them, merged, the oldest first.
    pub fn all(&self) -> Vec<&MergedRule> {
        let mut all: Vec<&MergedRule> = self.by_host.all().map(|rule| &**rule).collect();
        all.sort_unstable_by_key(|rule| rule.age());
        all
    }

    /// Those that may be in force for a service with this host; of those for one host
    /// the oldest first.
    pub fn for_host(&self, host: &str) -> impl Iterator<Item = &MergedRule> {
        self.by_host.matching(host).into_iter().map(|rule| &**rule)
    }

    /// The one in force for a client and a service: the client's namespace is
    /// looked at first, then the service's, then the root namespace; the first
    /// that has any wins whole.
    pub fn find<'q>(&'q self, who: &Asker<'_, 'q>, service: &'q Service) -> Option<&'q MergedRule> {
        let namespaces: BTreeSet<&Arc<str>> = (self.for_host(&service.host))
            .filter_map(|rule| rule.objects.first())
            .map(|object| &object.namespace)
            .collect();
        if namespaces.is_empty() {
            return None;
        }
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
            .most_specific(&service.host, |rule| accept(rule))
            .into_iter()
            .map(|rule| &**rule)
            .collect();
        found.iter().find(|rule| rule.selector.is_some()).or(found.last()).copied()
    }
}
