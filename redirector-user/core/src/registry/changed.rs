//! What makes one registry another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Registry;
use super::hosts::{HostChange, change};
use crate::model::{Kind, ObjectRef};
use crate::work::Work;

/// What is different in a [`Registry`](super::Registry) that was updated, and nothing
/// else.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changed {
    /// Hosts of services that are there, or were: those whose services differ, or the
    /// DestinationRules for which. A rule for a host without service is not here.
    pub hosts: BTreeMap<Arc<str>, HostChange>,
    /// Pods and WorkloadEntries that came, went or are others as workloads.
    pub workloads: BTreeSet<ObjectRef>,
    /// VirtualServices that are [left out](Registry::over) and were not, or not for this, and
    /// those that were.
    pub rules: BTreeSet<ObjectRef>,
    /// Other names have to be resolved.
    pub names: bool,
    /// The settings are others, or where the node is: everything may mean something
    /// else. The rest of this is exact nevertheless.
    pub whole: bool,
    /// What it took.
    pub work: Work,
}

impl Changed {
    /// What is different between two registries, found by looking at everything.
    pub fn between(before: &Registry, after: &Registry) -> Self {
        let (mut hosts, mut workloads) = (BTreeMap::new(), BTreeSet::new());
        for host in before.hosts.keys().chain(after.hosts.keys()) {
            let rules = before.rules.for_host(host).eq(after.rules.for_host(host));
            let services = change(before.named(host), after.named(host));
            if let Some(change) = if rules { services } else { Some(HostChange::Everything) } {
                hosts.insert(host.clone(), change);
            }
        }
        for (one, other) in [(before, after), (after, before)] {
            let others: BTreeMap<_, _> =
                other.workloads.all().map(|workload| (&workload.object, workload)).collect();
            let differ = one.workloads.all().filter(|one| others.get(&one.object) != Some(one));
            workloads.extend(differ.map(|workload| workload.object.clone()));
        }
        let mut rules = BTreeSet::new();
        for (one, other) in [(before, after), (after, before)] {
            let differ = one.all_over().filter(|(object, over)| other.over(object) != Some(over));
            let differ = differ.filter(|(object, _)| object.kind == Kind::VirtualService);
            rules.extend(differ.map(|(object, _)| object.clone()));
        }
        Self {
            hosts,
            workloads,
            rules,
            names: !before.names_to_resolve().eq(after.names_to_resolve()),
            whole: after.means_else(&before.settings) || before.locality != after.locality,
            work: Work::default(),
        }
    }
}
