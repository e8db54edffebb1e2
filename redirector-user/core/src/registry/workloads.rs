//! Workloads: Pods and WorkloadEntries, as clients and as gateways.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::sync::Arc;

use super::edit::Edit;
use super::topology::Locality;
use crate::client::contains;
use crate::model::annotations;
use crate::model::{
    Gateway, Kind, Labels, Meta, Object, ObjectRef, Pod, Server, SourceId, SourceSelector, Spec,
    WorkloadEntry,
};
use crate::validate::subnets;
use crate::world::World;

/// A Pod or a WorkloadEntry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Workload {
    /// Which.
    pub object: ObjectRef,
    /// Its own labels; of a WorkloadEntry, those of its metadata over those of
    /// its spec.
    pub labels: Labels,
    /// Its addresses, as far as known.
    pub addresses: Vec<IpAddr>,
    /// Where it is, as far as it says so itself.
    pub locality: Locality,
    /// How its processes are found, when they are local.
    pub source: Option<SourceSelector>,
    /// Whether this node serves it as a gateway.
    pub gateway: bool,
    /// As a gateway: whose connections arrive here.
    pub stands_for: Option<StandsFor>,
    /// Whether it shares its addresses with its node.
    pub host_network: bool,
}

/// What a gateway's own address stands for: the address that its clients dial,
/// and by each port of that one the port where the gateway listens for it.
/// Written as `10.96.1.1 19000=15400 19443=15401`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StandsFor {
    /// What clients dial.
    pub address: IpAddr,
    /// By port dialled.
    pub ports: BTreeMap<u16, u16>,
}

impl FromStr for StandsFor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split_whitespace();
        let address = words.next().and_then(|word| word.parse().ok()).ok_or(())?;
        let port = |word: &str| {
            let (dialled, listen) = word.split_once('=')?;
            Some((dialled.parse().ok()?, listen.parse().ok()?))
        };
        let ports = words.map(port).collect::<Option<_>>().ok_or(())?;
        Ok(Self { address, ports })
    }
}

impl fmt::Display for StandsFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        self.ports.iter().try_for_each(|(dialled, listen)| write!(f, " {dialled}={listen}"))
    }
}

impl Workload {
    /// A pod, seen from this node.
    pub(crate) fn of_pod(object: &Object, pod: &Pod, node: Option<&str>) -> Self {
        let meta = &object.meta;
        let local = is_local(pod, node);
        let uid = pod_uid(meta);
        Self {
            object: object.reference(),
            labels: meta.labels.clone(),
            addresses: pod.ips.clone(),
            locality: Locality::of_workload(&meta.labels).unwrap_or_default(),
            source: (local && !uid.is_empty()).then(|| SourceSelector::PodUid(uid.into())),
            gateway: local && is_gateway(meta),
            stands_for: None,
            host_network: pod.host_network,
        }
    }
}

/// What a pod's cgroup is claimed by; less goes before more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Precedence {
    by_hash: bool,
    created: Option<i64>,
}

/// All workloads that are alive.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Workloads {
    /// WorkloadEntries are ordered before Pods.
    all: BTreeMap<ObjectRef, Arc<Workload>>,
    /// Those whose processes are local: one for each name.
    sources: BTreeMap<SourceId, Arc<Workload>>,
    /// Where they say that they are, and how many do.
    localities: BTreeMap<Locality, usize>,
    /// The local pods that claim a cgroup, under the name that it has there.
    claims: BTreeMap<String, BTreeSet<(Precedence, ObjectRef)>>,
}

impl Workloads {
    /// Objects are others in this World. Returns the workloads that differ.
    pub(super) fn update<'e>(
        &mut self,
        world: &World,
        edits: impl Iterator<Item = &'e Edit<'e>> + Clone,
    ) -> BTreeSet<ObjectRef> {
        let node = world.settings.node_name.as_deref();
        // Besides those that are others, pods whose claim is now or no longer outdone.
        let mut concerned = BTreeSet::new();
        for edit in edits {
            let mut stand = |object: Option<&Arc<Object>>, stands: bool| {
                let Some((name, claim)) = object.and_then(|pod| claim(pod, node)) else { return };
                let claims = self.claims.entry(name.clone()).or_default();
                concerned.extend(claims.first().map(|(_, winner)| winner.clone()));
                if stands {
                    claims.insert((claim, edit.reference.clone()));
                } else {
                    claims.remove(&(claim, edit.reference.clone()));
                }
                concerned.extend(claims.first().map(|(_, winner)| winner.clone()));
                if claims.is_empty() {
                    self.claims.remove(&name);
                }
            };
            stand(edit.before, false);
            stand(edit.after, true);
            concerned.insert(edit.reference.clone());
        }
        concerned.retain(|reference| {
            let workload = world.get(reference).and_then(|object| self.make(object, node));
            if self.all.get(reference).map(|known| &**known) == workload.as_ref() {
                return false;
            }
            match workload {
                Some(workload) => _ = self.all.insert(reference.clone(), workload.into()),
                None => _ = self.all.remove(reference),
            }
            true
        });
        for ObjectRef { namespace, name, .. } in &concerned {
            let id = SourceId { namespace: namespace.clone(), name: name.clone() };
            let source = self.find(namespace, name).filter(|workload| workload.source.is_some());
            let source = source.cloned();
            if let Some(source) = &source {
                *self.localities.entry(source.locality.clone()).or_default() += 1;
            }
            let before = match source {
                Some(source) => self.sources.insert(id, source),
                None => self.sources.remove(&id),
            };
            if let Some(before) = before
                && let Some(count) = self.localities.get_mut(&before.locality)
            {
                *count -= 1;
                if *count == 0 {
                    self.localities.remove(&before.locality);
                }
            }
        }
        concerned
    }

    /// The workload that an object is. A uid is given by the API server, but whoever
    /// writes a pod can have it name the uid of another as its hash: so the pod that
    /// has the uid goes before those that name it, and of these the oldest. The others
    /// get nothing.
    fn make(&self, object: &Arc<Object>, node: Option<&str>) -> Option<Workload> {
        match &object.spec {
            Spec::WorkloadEntry(entry) => Some(of_entry(object, entry)),
            Spec::Pod(pod) if !pod.finished => {
                let mut workload = Workload::of_pod(object, pod, node);
                if let Some((name, claim)) = claim(object, node) {
                    let first = self.claims.get(&name).and_then(BTreeSet::first);
                    if first.is_some_and(|first| (first.0, &first.1) != (claim, &workload.object)) {
                        workload.source = None;
                    }
                }
                Some(workload)
            }
            _ => None,
        }
    }

    /// A WorkloadEntry that says which processes it is goes before a Pod of the same
    /// name: it was written by hand for this machine.
    fn find(&self, namespace: &Arc<str>, name: &Arc<str>) -> Option<&Arc<Workload>> {
        let of_kind = |kind| {
            let reference = ObjectRef { kind, namespace: namespace.clone(), name: name.clone() };
            self.all.get(&reference)
        };
        let entry = of_kind(Kind::WorkloadEntry);
        entry.filter(|entry| entry.source.is_some()).or_else(|| of_kind(Kind::Pod)).or(entry)
    }

    /// The same, as if all of them were here, and each Gateway were served, of the
    /// workloads that it selects, by one of each kind (namespace, labels, and addresses
    /// that servers ask for: what decides which Gateway has a port), or else by one at an
    /// address that was made up.
    pub fn examined<'w>(
        &self,
        gateways: impl Iterator<Item = (&'w Arc<Object>, &'w Gateway)>,
    ) -> Self {
        let mut examined = self.clone();
        for workload in examined.all.values_mut().map(Arc::make_mut) {
            workload.gateway = false;
            if workload.source.is_none() && workload.stands_for.is_none() {
                workload.source = Some(SourceSelector::PodUid("".into()));
            }
        }
        let mut done: BTreeSet<(&Labels, Option<IpAddr>)> = BTreeSet::new();
        let gateways = gateways.flat_map(|(object, gateway)| {
            let asked = |server: &Server| {
                let bind = server.bind.as_deref()?.parse().ok();
                bind.filter(|bind: &IpAddr| !bind.is_unspecified())
            };
            let binds: BTreeSet<Option<IpAddr>> = gateway.servers.iter().map(asked).collect();
            binds.into_iter().map(move |bound| (object, gateway, bound))
        });
        let gateways: Vec<_> = gateways.collect();
        let asked_for: BTreeSet<IpAddr> =
            gateways.iter().filter_map(|(.., bound)| *bound).collect();
        for (object, gateway, bound) in gateways {
            let none = Labels::new();
            let selector = gateway.selector.as_ref().unwrap_or(&none);
            let of_all = selector.is_empty();
            if let Some(selector) = &gateway.selector
                && !done.insert((selector, bound))
            {
                continue;
            }
            let mut kinds = BTreeSet::new();
            let kind = |own: &Workload| {
                let asked_for: Vec<IpAddr> =
                    own.addresses.iter().filter(|ip| asked_for.contains(ip)).copied().collect();
                (own.object.namespace.clone(), own.labels.clone(), asked_for)
            };
            for (reference, own) in &self.all {
                let selected = if of_all { own.gateway } else { contains(&own.labels, selector) };
                let there = bound.is_none_or(|bind| own.addresses.contains(&bind));
                if selected
                    && there
                    && !own.addresses.is_empty()
                    && kinds.insert(kind(own))
                    && let Some(workload) = examined.all.get_mut(reference)
                {
                    Arc::make_mut(workload).gateway = true;
                }
            }
            if kinds.is_empty() {
                let number = u32::try_from(examined.all.len()).unwrap_or(u32::MAX);
                let object = ObjectRef {
                    kind: Kind::Pod,
                    namespace: object.meta.namespace.clone(),
                    name: format!("?{number}").into(),
                };
                let workload = Workload {
                    object: object.clone(),
                    labels: selector.clone(),
                    // None that a machine could have.
                    addresses: vec![
                        bound.unwrap_or(IpAddr::V4(Ipv4Addr::from(number % (1 << 24)))),
                    ],
                    locality: Locality::default(),
                    source: None,
                    gateway: true,
                    stands_for: None,
                    host_network: false,
                };
                examined.all.insert(object, workload.into());
            }
        }
        for ObjectRef { namespace, name, .. } in self.all.keys() {
            let meant = self.find(namespace, name);
            let source = meant.and_then(|workload| examined.all.get(&workload.object));
            if let Some(source) = source.filter(|workload| workload.source.is_some()) {
                let id = SourceId { namespace: namespace.clone(), name: name.clone() };
                examined.sources.insert(id, source.clone());
            }
        }
        examined
    }

    /// All of them: WorkloadEntries first, each kind by namespace and name.
    pub fn all(&self) -> impl Iterator<Item = &Workload> + Clone {
        self.all.values().map(|workload| &**workload)
    }

    /// The workload of an object.
    pub fn of(&self, object: &ObjectRef) -> Option<&Workload> {
        self.all.get(object).map(|workload| &**workload)
    }

    /// A workload by namespace and name.
    pub fn named(&self, namespace: &str, name: &str) -> Option<&Workload> {
        self.find(&namespace.into(), &name.into()).map(|workload| &**workload)
    }

    /// Where those are whose processes are local, when they all say the same.
    pub(super) fn locality(&self) -> Option<&Locality> {
        let mut said = self.localities.keys();
        said.next().filter(|_| said.next().is_none())
    }

    /// Those whose processes are local: one for each name.
    pub fn sources(&self) -> impl Iterator<Item = &Workload> {
        self.sources.values().map(|workload| &**workload)
    }
}

/// The cgroup that a pod of this node claims, and by what.
fn claim(object: &Object, node: Option<&str>) -> Option<(String, Precedence)> {
    let pod = object.spec.pod().filter(|pod| !pod.finished)?;
    let meta = &object.meta;
    let uid = is_local(pod, node).then(|| pod_uid(meta)).filter(|uid| !uid.is_empty())?;
    let claim = Precedence { by_hash: is_known_by_hash(meta), created: meta.created };
    Some((uid.replace('_', "-"), claim))
}

fn is_local(pod: &Pod, node: Option<&str>) -> bool {
    node.is_some_and(|node| !node.is_empty() && *node == *pod.node)
}

/// The labels of a WorkloadEntry: those of its metadata over those of its spec.
pub(crate) fn entry_labels(meta: &Meta, entry: &WorkloadEntry) -> Labels {
    let mut labels = entry.labels.clone();
    labels.extend(&meta.labels);
    labels
}

fn of_entry(object: &Object, entry: &WorkloadEntry) -> Workload {
    let meta = &object.meta;
    let annotation = |name: &str| meta.annotations.get(name).filter(|value| !value.is_empty());
    let cgroup = annotation(annotations::CGROUP).and_then(annotations::cgroup);
    let cgroup = cgroup.map(|path| SourceSelector::Cgroup(path.into()));
    let netns = annotation(annotations::NETNS).and_then(annotations::netns);
    let netns = netns.map(|path| SourceSelector::Netns(path.into()));
    let labels = entry_labels(meta, entry);
    Workload {
        object: object.reference(),
        addresses: subnets::address(&entry.address).into_iter().collect(),
        locality: entry_locality(&labels, &entry.locality),
        source: cgroup.or(netns),
        gateway: is_gateway(meta),
        stands_for: annotation(annotations::GATEWAY_FOR).and_then(|text| text.parse().ok()),
        host_network: false,
        labels,
    }
}

/// Where a WorkloadEntry says that it is.
pub(crate) fn entry_locality(labels: &Labels, locality: &str) -> Locality {
    if locality.is_empty() {
        Locality::of_workload(labels).unwrap_or_default()
    } else {
        Locality::parse(locality)
    }
}

/// What names a pod's cgroup: its uid, or the hash of a static pod's
/// configuration, whose mirror has another uid.
pub fn pod_uid(meta: &Meta) -> &str {
    meta.annotations.get(annotations::CONFIG_HASH).unwrap_or(&meta.uid)
}

/// Whether that is the hash: what the pod says of itself, and not its uid.
pub fn is_known_by_hash(meta: &Meta) -> bool {
    meta.annotations.contains_key(annotations::CONFIG_HASH)
}

fn is_gateway(meta: &Meta) -> bool {
    meta.switches_on(annotations::GATEWAY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents;
    use crate::registry::Registry;
    use crate::world::Settings;

    /// The sources of a node, as `name uid`.
    fn sources(text: &str) -> Vec<String> {
        let settings = Settings { node_name: Some("worker".to_owned()), ..Settings::default() };
        let mut world = World::new(settings);
        for read in documents::read(None, text).objects {
            world.insert(read.object.unwrap_or_else(|| panic!("{text}")));
        }
        let workloads = Registry::new(&world).workloads;
        let source = |workload: &Workload| match &workload.source {
            Some(SourceSelector::PodUid(uid)) => format!("{} {uid}", workload.object.name),
            other => format!("{} {other:?}", workload.object.name),
        };
        workloads.sources().map(source).collect()
    }

    fn pod(name: &str, created: u32, uid: &str, hash: Option<&str>) -> String {
        let annotations = hash.map_or_else(String::new, |hash| {
            format!("annotations: {{kubernetes.io/config.hash: {hash}}}")
        });
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  uid: {uid}\n  \
             creationTimestamp: 2026-01-{created:02}T00:00:00Z\n  {annotations}\nspec: \
             {{nodeName: worker, containers: []}}\n"
        )
    }

    #[test]
    fn a_pod_that_names_the_uid_of_another_as_its_hash_gets_nothing() {
        let victim = pod("victim", 9, "0f1e-2d3c", None);
        for hash in ["0f1e-2d3c", "0f1e_2d3c"] {
            for name in ["a-thief", "z-thief"] {
                let thief = pod(name, 1, "aaaa-bbbb", Some(hash));
                assert_eq!(sources(&[thief, victim.clone()].concat()), ["victim 0f1e-2d3c"]);
            }
        }
    }

    #[test]
    fn of_pods_that_name_one_hash_the_oldest_is_meant() {
        let mirror = pod("mirror", 1, "1111-2222", Some("16d7"));
        for name in ["a-thief", "z-thief"] {
            let thief = pod(name, 2, "aaaa-bbbb", Some("16d7"));
            assert_eq!(sources(&[thief, mirror.clone()].concat()), ["mirror 16d7"]);
        }
    }

    #[test]
    fn a_workload_entry_without_processes_does_not_hide_the_pod_of_its_name() {
        let entry = "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: \
                     {name: shop}\nspec: {address: 10.0.0.1}\n";
        let pod = pod("shop", 1, "1111-2222", None);
        assert_eq!(sources(&[pod, entry.to_owned()].concat()), ["shop 1111-2222"]);
    }
}
