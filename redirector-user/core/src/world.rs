//! The World: all objects that are in force, and the settings that decide what
//! they mean here. Whatever is compiled or explained is a function of it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::budget::Budgets;
use crate::join;
use crate::model::bypass::{Bypass, Target};
use crate::model::{
    DestinationRule, EndpointSlice, Gateway, IstioMutual, Kind, Object, ObjectRef, Pod, Service,
    ServiceEntry, SourceId, VirtualService, WorkloadEntry,
};
use crate::names::MESH;
use crate::registry::HostOf;
use crate::store::Replaced;

/// What is the same for all objects.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// What full service names end with; `cluster.local`.
    pub cluster_domain: String,
    /// The namespace whose DestinationRules are looked up last; `istio-system`.
    pub root_namespace: String,
    /// The node that connections come from: decides which Pods are sources,
    /// which endpoints `internalTrafficPolicy: Local` leaves, and the locality
    /// of the sources. `None` when unknown.
    pub node_name: Option<String>,
    /// Who serves the addresses of Services when no rule matches.
    pub services: ServiceAddresses,
    /// What is left alone for a while.
    #[serde(default)]
    pub bypass: Bypass,
    /// How much objects and namespaces may ask for.
    #[serde(default)]
    pub budgets: Budgets,
    /// For whom objects decide that are of another namespace than the host.
    #[serde(default)]
    pub cross_namespace: CrossNamespace,
    /// What becomes of connections for which ISTIO_MUTUAL is asked.
    #[serde(default)]
    pub istio_mutual: IstioMutual,
    /// The addresses of the node's interfaces, as far as known: no claim to every
    /// address takes them.
    #[serde(default)]
    pub node_addresses: BTreeSet<IpAddr>,
    /// Hosts of ServiceEntries that have no addresses are given some.
    #[serde(default)]
    pub allocates: bool,
}

/// For whom objects decide that are of another namespace than the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CrossNamespace {
    /// For whom `exportTo` says.
    #[default]
    Istio,
    /// For clients of their own namespace. Those of the root namespace are for all.
    Owner,
}

/// Addresses of every machine itself, and of its link.
pub(crate) const OF_ALL_MACHINES: [IpNet; 6] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 32)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128)),
];

impl Settings {
    /// Whether objects of a namespace decide about hosts of another one for its own
    /// clients only.
    pub fn keeps_home(&self, namespace: &str, owner: &str) -> bool {
        self.cross_namespace == CrossNamespace::Owner
            && namespace != owner
            && namespace != self.root_namespace
    }

    /// What a claim to every address leaves out: the machine itself, its link, and the
    /// addresses that it is known to have.
    pub fn never_claimed(&self) -> impl Iterator<Item = IpNet> + '_ {
        let known = self.node_addresses.iter().copied().map(IpNet::from);
        OF_ALL_MACHINES.into_iter().chain(known)
    }

    /// Notes which addresses the node has. Returns whether that is news.
    pub fn set_node_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) -> bool {
        let of_all = |one: &IpAddr| OF_ALL_MACHINES.iter().any(|all| all.contains(one));
        let known = addresses.into_iter().filter(|one| !of_all(one)).collect();
        std::mem::replace(&mut self.node_addresses, known) != self.node_addresses
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cluster_domain: "cluster.local".to_owned(),
            root_namespace: "istio-system".to_owned(),
            node_name: None,
            services: ServiceAddresses::Leave,
            bypass: Bypass::default(),
            budgets: Budgets::default(),
            istio_mutual: IstioMutual::default(),
            cross_namespace: CrossNamespace::default(),
            node_addresses: BTreeSet::new(),
            allocates: false,
        }
    }
}

/// Who serves the addresses of Services when no rule matches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceAddresses {
    /// We do: nothing else is behind them (a plain machine).
    Own,
    /// Somebody else, such as kube-proxy: such connections are left alone.
    #[default]
    Leave,
}

/// All objects in force. A copy costs next to nothing: it shares what does not change,
/// and the objects of a kind are copied when the first of them does.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct World {
    /// The settings.
    pub settings: Settings,
    /// In the order of the kinds.
    objects: [Arc<BTreeMap<ObjectRef, Arc<Object>>>; Kind::ALL.len()],
    resolved: Arc<BTreeMap<Arc<str>, Answer>>,
    /// Where names without an answer count as resolved, to addresses that stand for theirs:
    /// the hosts whose own addresses are such ones, with their namespaces.
    pub(crate) stand_ins: Option<Arc<BTreeSet<HostOf>>>,
}

/// What is known of a name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Answer {
    /// What it resolves to, in the resolver's order.
    pub addresses: Vec<IpAddr>,
    /// What it resolved to until lately, and who asked then may still dial. None is among
    /// the others.
    pub former: Vec<IpAddr>,
}

impl From<Vec<IpAddr>> for Answer {
    fn from(addresses: Vec<IpAddr>) -> Self {
        Self { addresses, former: Vec::new() }
    }
}

impl Answer {
    /// All of them, those that it resolves to first.
    pub fn all(&self) -> impl Iterator<Item = &IpAddr> {
        self.addresses.iter().chain(&self.former)
    }
}

/// What makes one World another: each thing that changed, as it is from now on.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Changes {
    /// Objects that came, went or are others.
    pub objects: BTreeMap<ObjectRef, Replaced>,
    /// Names that resolve to something else; `None` of those of which nothing is
    /// known any more.
    pub names: BTreeMap<Arc<str>, Option<Answer>>,
    /// The settings, when they are others.
    pub settings: Option<Settings>,
}

impl Changes {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.names.is_empty() && self.settings.is_none()
    }

    /// Adds what comes after these: both are one change then.
    pub fn then(&mut self, later: Self) {
        for (reference, Replaced { before, after }) in later.objects {
            match self.objects.entry(reference) {
                Entry::Vacant(entry) => _ = entry.insert(Replaced { before, after }),
                Entry::Occupied(mut entry) if entry.get().before != after => {
                    entry.get_mut().after = after;
                }
                Entry::Occupied(entry) => _ = entry.remove(),
            }
        }
        self.names.extend(later.names);
        self.settings = later.settings.or(self.settings.take());
    }
}

/// One iterator per kind with a body.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident: $one:ident $kind:ident),* $(,)?) => {$(
        $(#[$doc])*
        pub fn $name(&self) -> impl Iterator<Item = (&Arc<Object>, &$kind)> {
            self.of_kind(Kind::$kind).filter_map(|object| Some((object, object.spec.$one()?)))
        }
    )*};
}

impl World {
    /// A World without objects.
    pub fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// A World of these objects, each by what it is.
    pub fn of(settings: Settings, objects: BTreeMap<ObjectRef, Arc<Object>>) -> Self {
        let mut world = Self::new(settings);
        for (reference, object) in objects {
            world.of_kind_mut(reference.kind).insert(reference, object);
        }
        world
    }

    fn of_kind_mut(&mut self, kind: Kind) -> &mut BTreeMap<ObjectRef, Arc<Object>> {
        Arc::make_mut(&mut self.objects[kind as usize])
    }

    /// Puts an object in force, and returns the one that it replaces.
    pub fn insert(&mut self, object: impl Into<Arc<Object>>) -> Option<Arc<Object>> {
        let object = object.into();
        let reference = object.reference();
        self.of_kind_mut(reference.kind).insert(reference, object)
    }

    /// Takes an object out of force.
    pub fn remove(&mut self, object: &ObjectRef) -> Option<Arc<Object>> {
        self.get(object)?;
        self.of_kind_mut(object.kind).remove(object)
    }

    /// What makes this World be `to`. Objects are compared where they are not the very same.
    pub fn difference(&self, to: &Self) -> Changes {
        let differing = self.objects.iter().zip(&to.objects);
        let differing = differing.filter(|(from, to)| !Arc::ptr_eq(from, to));
        let objects = differing.flat_map(|(from, to)| join::outer(from, to));
        let objects = objects.filter(|(_, from, to)| {
            !from.zip(*to).is_some_and(|(from, to)| Object::is_same(from, to))
        });
        let names = join::outer(&self.resolved, &to.resolved).filter(|(_, from, to)| from != to);
        Changes {
            objects: objects
                .map(|(reference, before, after)| {
                    let (before, after) = (before.cloned(), after.cloned());
                    (reference.clone(), Replaced { before, after })
                })
                .collect(),
            names: names.map(|(name, _, to)| (name.clone(), to.cloned())).collect(),
            settings: (self.settings != to.settings).then(|| to.settings.clone()),
        }
    }

    /// Makes it the World that these changes lead to.
    pub fn apply(&mut self, changes: &Changes) {
        for (reference, Replaced { after, .. }) in &changes.objects {
            match after {
                Some(object) => _ = self.insert(object.clone()),
                None => _ = self.remove(reference),
            }
        }
        for (name, answer) in &changes.names {
            let resolved = Arc::make_mut(&mut self.resolved);
            match answer {
                Some(answer) => _ = resolved.insert(name.clone(), answer.clone()),
                None => _ = resolved.remove(name),
            }
        }
        if let Some(settings) = &changes.settings {
            self.settings.clone_from(settings);
        }
    }

    /// An object.
    pub fn get(&self, object: &ObjectRef) -> Option<&Arc<Object>> {
        self.objects[object.kind as usize].get(object)
    }

    /// Whether both are the same. Cheap where most of them is shared.
    pub fn is_same(&self, other: &Self) -> bool {
        let mut kinds = self.objects.iter().zip(&other.objects);
        self.settings == other.settings
            && self.stand_ins == other.stand_ins
            && (Arc::ptr_eq(&self.resolved, &other.resolved) || self.resolved == other.resolved)
            && kinds.all(|(one, other)| {
                let mut pairs = one.iter().zip(other.iter());
                Arc::ptr_eq(one, other)
                    || one.len() == other.len()
                        && pairs
                            .all(|(one, other)| one.0 == other.0 && Object::is_same(one.1, other.1))
            })
    }

    /// An object by its parts.
    pub fn find(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        self.get(&ObjectRef { kind, namespace: namespace.into(), name: name.into() })
    }

    /// All objects, ordered by kind, namespace, name.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.iter().flat_map(|of_kind| of_kind.values())
    }

    /// The same, each with what it is.
    pub fn by_reference(&self) -> impl Iterator<Item = (&ObjectRef, &Arc<Object>)> {
        self.objects.iter().flat_map(|of_kind| of_kind.iter())
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.iter().map(|of_kind| of_kind.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects of a kind, ordered by namespace and name.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        self.objects[kind as usize].values()
    }

    /// The objects of a kind in a namespace, ordered by name.
    pub fn of_namespace<'w>(
        &'w self,
        kind: Kind,
        namespace: &Arc<str>,
    ) -> impl Iterator<Item = (&'w ObjectRef, &'w Arc<Object>)> {
        let first = ObjectRef { kind, namespace: namespace.clone(), name: "".into() };
        let those = self.objects[kind as usize].range(&first..);
        those.take_while(move |(reference, _)| reference.namespace == first.namespace)
    }

    kinds! {
        /// The VirtualServices.
        virtual_services: virtual_service VirtualService,
        /// The DestinationRules.
        destination_rules: destination_rule DestinationRule,
        /// The Gateways.
        gateways: gateway Gateway,
        /// The ServiceEntries.
        service_entries: service_entry ServiceEntry,
        /// The WorkloadEntries.
        workload_entries: workload_entry WorkloadEntry,
        /// The Services.
        services: service Service,
        /// The EndpointSlices.
        endpoint_slices: endpoint_slice EndpointSlice,
        /// The Pods.
        pods: pod Pod,
    }

    /// Says what a name resolves to; asked for the
    /// names that [`Registry::names_to_resolve`](crate::registry::Registry::names_to_resolve)
    /// lists. Returns whether that is news.
    pub fn set_resolved(&mut self, name: &str, answer: impl Into<Answer>) -> bool {
        let answer = answer.into();
        if self.resolved.get(name) == Some(&answer) {
            return false;
        }
        Arc::make_mut(&mut self.resolved).insert(name.into(), answer);
        true
    }

    /// What a name resolves to; `None` when it was never resolved.
    pub fn resolved(&self, name: &str) -> Option<&[IpAddr]> {
        self.answer(name).map(|answer| &*answer.addresses)
    }

    /// What is known of it, what it resolved to before included.
    pub fn answer(&self, name: &str) -> Option<&Answer> {
        self.resolved.get(name)
    }
}

/// Whether there is something to leave alone, among the objects that `get` finds.
///
/// # Errors
///
/// Why there is not.
pub fn can_leave_alone<'w>(
    target: &Target,
    get: impl Fn(&ObjectRef) -> Option<&'w Arc<Object>>,
) -> Result<(), String> {
    match target {
        Target::Workload(SourceId { namespace, name }) => {
            let of_kind = |kind| {
                let (namespace, name) = (namespace.clone(), name.clone());
                get(&ObjectRef { kind, namespace, name })
            };
            if [Kind::WorkloadEntry, Kind::Pod].into_iter().any(|kind| of_kind(kind).is_some()) {
                return Ok(());
            }
            Err(format!("there is no Pod or WorkloadEntry {namespace}/{name} in force"))
        }
        Target::Rule(object) => {
            let spec = get(object).and_then(|found| found.spec.virtual_service());
            let spec = spec.ok_or_else(|| format!("there is no {object} in force"))?;
            if spec.gateways.is_empty() || spec.gateways.iter().any(|name| name == MESH) {
                return Ok(());
            }
            Err(format!(
                "{object} is for gateways only, and a connection that has arrived at a gateway \
                 cannot be left alone"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_copy_shares_all_but_the_kinds_that_change_since() {
        let text = "
apiVersion: v1
kind: Namespace
metadata: {name: a}
---
apiVersion: v1
kind: Node
metadata: {name: node-1}
";
        let world = testing::world(Settings::default(), text);
        let mut copy = world.clone();
        assert!(copy.is_same(&world));
        let node = copy.of_kind(Kind::Node).next().map(|node| node.reference()).unwrap();
        copy.remove(&node);
        assert!(world.get(&node).is_some() && copy.get(&node).is_none());
        assert!(!copy.is_same(&world));
        let changes = world.difference(&copy);
        assert_eq!(changes.objects.keys().collect::<Vec<_>>(), [&node]);
        let shared =
            |kind: Kind| Arc::ptr_eq(&world.objects[kind as usize], &copy.objects[kind as usize]);
        assert!(shared(Kind::Namespace) && !shared(Kind::Node));
        let mut back = copy.clone();
        back.apply(&copy.difference(&world));
        assert!(back.is_same(&world) && back == world);
    }

    #[test]
    fn all_kinds_have_a_place() {
        assert!(Kind::ALL.iter().enumerate().all(|(at, kind)| at == *kind as usize));
    }
}
