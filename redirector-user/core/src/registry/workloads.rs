//! Workloads: Pods and WorkloadEntries, as clients and as gateways.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use super::topology::Locality;
use crate::model::{Labels, Meta, Object, ObjectRef, Pod, WorkloadEntry};
use crate::plan::SourceSelector;
use crate::world::World;

/// Annotation of a WorkloadEntry: the cgroup of its processes, as a path below
/// the cgroup2 mount.
pub const CGROUP_ANNOTATION: &str = "redirector.io/cgroup";

/// Annotation of a WorkloadEntry: a file that holds the network namespace of
/// its processes.
pub const NETNS_ANNOTATION: &str = "redirector.io/netns";

/// Annotation of a WorkloadEntry (or Pod of this node), `"true"`: this node
/// serves it as a gateway.
pub const GATEWAY_ANNOTATION: &str = "redirector.io/gateway";

/// The annotation of a gateway's WorkloadEntry at whose address connections to
/// another address arrive: a [`StandsFor`].
pub const GATEWAY_FOR_ANNOTATION: &str = "redirector.io/gateway-for";

/// What names a static pod's cgroup instead of its uid.
const CONFIG_HASH_ANNOTATION: &str = "kubernetes.io/config.hash";

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
        let local = node.is_some_and(|node| !node.is_empty() && node == pod.node);
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

/// All workloads that are alive.
#[derive(Debug, Default)]
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
        for (object, pod) in world.pods() {
            if !pod.finished {
                workloads.add(Workload::of_pod(object, pod, world.settings.node_name.as_deref()));
            }
        }
        workloads
    }

    fn add(&mut self, workload: Workload) {
        let key = (workload.object.namespace.clone(), workload.object.name.clone());
        // A WorkloadEntry goes before a Pod of the same name: it was written by
        // hand for this machine.
        self.by_name.entry(key).or_insert(self.all.len());
        self.all.push(workload);
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
    let cgroup = annotation(CGROUP_ANNOTATION)
        .map(|path| SourceSelector::Cgroup(path.trim_matches('/').into()));
    let netns =
        annotation(NETNS_ANNOTATION).map(|path| SourceSelector::Netns(path.as_str().into()));
    let labels = entry_labels(meta, entry);
    Workload {
        object: object.reference(),
        addresses: entry.address.parse().into_iter().collect(),
        locality: entry_locality(&labels, &entry.locality),
        source: cgroup.or(netns),
        gateway: is_gateway(meta),
        stands_for: annotation(GATEWAY_FOR_ANNOTATION).and_then(|text| text.parse().ok()),
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
    meta.annotations.get(CONFIG_HASH_ANNOTATION).unwrap_or(&meta.uid)
}

fn is_gateway(meta: &Meta) -> bool {
    meta.annotations.get(GATEWAY_ANNOTATION).is_some_and(|value| value == "true")
}
