//! Workloads: Pods and WorkloadEntries, as clients and as gateways.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::sync::Arc;

use super::topology::Locality;
use crate::client::contains;
use crate::model::annotations;
use crate::model::{
    Gateway, Kind, Labels, Meta, Object, ObjectRef, Pod, Server, SourceSelector, WorkloadEntry,
};
use crate::world::World;

/// A Pod or a WorkloadEntry.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Which.
    pub object: ObjectRef,
    /// Its own labels; of a WorkloadEntry, those of its metadata over those of
    /// its spec.
    pub labels: Arc<Labels>,
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
        let local = node.is_some_and(|node| !node.is_empty() && *node == *pod.node);
        let uid = pod_uid(meta);
        Self {
            object: object.reference(),
            labels: meta.labels.clone().into(),
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
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Precedence {
    by_hash: bool,
    created: Option<i64>,
}

/// All workloads that are alive.
#[derive(Clone, Debug, Default)]
pub struct Workloads {
    all: Vec<Workload>,
    by_name: BTreeMap<(Arc<str>, Arc<str>), usize>,
}

impl Workloads {
    /// The workloads of a World.
    pub fn new(world: &World) -> Self {
        let mut workloads = Self::default();
        for (object, entry) in world.workload_entries() {
            workloads.add(of_entry(object, entry));
        }
        let mut claims = BTreeMap::new();
        for (object, pod) in world.pods() {
            if !pod.finished {
                let node = world.settings.node_name.as_deref();
                workloads.add(Workload::of_pod(object, pod, node));
                workloads.claim(&mut claims, &object.meta);
            }
        }
        workloads
    }

    fn add(&mut self, workload: Workload) {
        let key = (workload.object.namespace.clone(), workload.object.name.clone());
        match self.by_name.entry(key) {
            Entry::Vacant(place) => _ = place.insert(self.all.len()),
            // A WorkloadEntry that says which processes it is goes before a Pod of
            // the same name: it was written by hand for this machine.
            Entry::Occupied(mut place) => {
                if self.all.get(*place.get()).is_none_or(|before| before.source.is_none()) {
                    place.insert(self.all.len());
                }
            }
        }
        self.all.push(workload);
    }

    /// Leaves the cgroup that the last workload, a pod, claims to one pod. A uid
    /// is given by the API server, but whoever writes a pod can have it name the
    /// uid of another as its hash: so the pod that has the uid goes before those
    /// that name it, and of these the oldest.
    fn claim(&mut self, claims: &mut BTreeMap<String, (Precedence, usize)>, meta: &Meta) {
        let index = self.all.len() - 1;
        let Some(SourceSelector::PodUid(uid)) = self.all.get(index).and_then(|w| w.source.as_ref())
        else {
            return;
        };
        let claim = Precedence { by_hash: is_known_by_hash(meta), created: meta.created };
        let loser = match claims.entry(uid.replace('_', "-")) {
            Entry::Vacant(place) => {
                place.insert((claim, index));
                return;
            }
            Entry::Occupied(place) if place.get().0 <= claim => index,
            Entry::Occupied(mut place) => place.insert((claim, index)).1,
        };
        if let Some(loser) = self.all.get_mut(loser) {
            loser.source = None;
        }
    }

    /// The same, as if all of them were here, and each Gateway were served by one
    /// workload of each namespace that it selects, at each address that its servers
    /// ask for, or else by one at an address that was made up.
    pub fn examined<'w>(
        &self,
        gateways: impl Iterator<Item = (&'w Arc<Object>, &'w Gateway)>,
    ) -> Self {
        let mut examined = self.clone();
        for workload in &mut examined.all {
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
        for (object, gateway, bound) in gateways {
            let none = Labels::new();
            let selector = gateway.selector.as_ref().unwrap_or(&none);
            let of_all = selector.is_empty();
            if let Some(selector) = &gateway.selector
                && !done.insert((selector, bound))
            {
                continue;
            }
            let mut namespaces = BTreeSet::new();
            for (workload, own) in examined.all.iter_mut().zip(&self.all) {
                let selected = if of_all { own.gateway } else { contains(&own.labels, selector) };
                let there = bound.is_none_or(|bind| own.addresses.contains(&bind));
                if selected
                    && there
                    && !own.addresses.is_empty()
                    && namespaces.insert(own.object.namespace.clone())
                {
                    workload.gateway = true;
                }
            }
            if namespaces.is_empty() {
                let number = u32::try_from(examined.all.len()).unwrap_or(u32::MAX);
                let object = ObjectRef {
                    kind: Kind::Pod,
                    namespace: object.meta.namespace.clone(),
                    name: format!("?{number}").into(),
                };
                examined.all.push(Workload {
                    object,
                    labels: Arc::new(selector.clone()),
                    // None that a machine could have.
                    addresses: vec![
                        bound.unwrap_or(IpAddr::V4(Ipv4Addr::from(number % (1 << 24)))),
                    ],
                    locality: Locality::default(),
                    source: None,
                    gateway: true,
                    stands_for: None,
                    host_network: false,
                });
            }
        }
        examined
    }

    /// All of them: WorkloadEntries first, each kind by namespace and name.
    pub fn all(&self) -> &[Workload] {
        &self.all
    }

    /// A workload by namespace and name.
    pub fn named(&self, namespace: &str, name: &str) -> Option<&Workload> {
        self.by_name.get(&(namespace.into(), name.into())).and_then(|&index| self.all.get(index))
    }

    /// The one workload that has this address; `None` when several have it.
    pub fn with_address(&self, address: IpAddr) -> Option<&Workload> {
        let mut having = self.all.iter().filter(|workload| workload.addresses.contains(&address));
        having.next().filter(|_| having.next().is_none())
    }

    /// Those whose processes are local: one for each name.
    pub fn sources(&self) -> impl Iterator<Item = &Workload> {
        self.by_name
            .values()
            .filter_map(|&index| self.all.get(index))
            .filter(|workload| workload.source.is_some())
    }
}

/// The labels of a WorkloadEntry: those of its metadata over those of its spec.
pub(crate) fn entry_labels(meta: &Meta, entry: &WorkloadEntry) -> Labels {
    let mut labels = entry.labels.clone();
    labels.extend(meta.labels.clone());
    labels
}

fn of_entry(object: &Object, entry: &WorkloadEntry) -> Workload {
    let meta = &object.meta;
    let annotation = |name: &str| meta.annotations.get(name).filter(|value| !value.is_empty());
    let cgroup = annotation(annotations::CGROUP)
        .map(|path| SourceSelector::Cgroup(path.trim_matches('/').into()));
    let netns =
        annotation(annotations::NETNS).map(|path| SourceSelector::Netns(path.as_str().into()));
    let labels = entry_labels(meta, entry);
    Workload {
        object: object.reference(),
        addresses: entry.address.parse().into_iter().collect(),
        locality: entry_locality(&labels, &entry.locality),
        source: cgroup.or(netns),
        gateway: is_gateway(meta),
        stands_for: annotation(annotations::GATEWAY_FOR).and_then(|text| text.parse().ok()),
        host_network: false,
        labels: labels.into(),
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
    meta.annotations.get(annotations::GATEWAY).is_some_and(|value| value == "true")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents;
    use crate::world::Settings;

    /// The sources of a node, as `name uid`.
    fn sources(text: &str) -> Vec<String> {
        let settings = Settings { node_name: Some("worker".to_owned()), ..Settings::default() };
        let mut world = World::new(settings);
        for read in documents::read(None, text).objects {
            world.insert(read.object.unwrap_or_else(|| panic!("{text}")));
        }
        let workloads = Workloads::new(&world);
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
