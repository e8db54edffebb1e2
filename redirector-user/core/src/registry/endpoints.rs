//! What can be an endpoint: Pods by name, address and label, WorkloadEntries by
//! label, and the endpoints of Services out of their slices.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::service::{Endpoint, Port, ServiceKind};
use super::topology::{self, Locality};
use super::workloads::{entry_labels, entry_locality};
use crate::client::contains;
use crate::model::annotations;
use crate::model::{
    EndpointSlice, Kind, Labels, Object, Pod, Service, ServicePort, SliceEndpoint, TargetPort,
    WorkloadEntry,
};
use crate::world::World;

/// A Pod, as an endpoint.
pub(super) struct KnownPod<'w> {
    pub object: &'w Arc<Object>,
    pub pod: &'w Pod,
    place: OnceCell<(Arc<Labels>, Arc<str>)>,
}

/// A WorkloadEntry, as an endpoint.
pub(super) struct KnownEntry<'w> {
    pub entry: &'w WorkloadEntry,
    pub labels: Labels,
    pub place: (Arc<Labels>, Arc<str>),
}

/// Everything that can be an endpoint.
pub(super) struct Backing<'w> {
    pods: Vec<KnownPod<'w>>,
    entries: Vec<KnownEntry<'w>>,
    pods_by_name: HashMap<(&'w str, &'w str), usize>,
    pods_by_address: HashMap<(&'w str, IpAddr), usize>,
    pods_by_label: ByLabel<'w>,
    entries_by_label: ByLabel<'w>,
    slices: HashMap<(&'w str, &'w str), Vec<&'w EndpointSlice>>,
    nodes: HashMap<&'w str, Locality>,
}

/// By namespace, then by the key and the value of one of the labels.
type ByLabel<'w> = HashMap<&'w str, HashMap<String, HashMap<String, Vec<usize>>>>;

fn add_label<'w>(index: &mut ByLabel<'w>, namespace: &'w str, label: (&str, &str), which: usize) {
    let keys = index.entry(namespace).or_default();
    let values = keys.entry(label.0.to_owned()).or_default();
    values.entry(label.1.to_owned()).or_default().push(which);
}

impl<'w> Backing<'w> {
    pub(super) fn new(world: &'w World) -> Self {
        let mut backing = Self {
            pods: Vec::new(),
            entries: Vec::new(),
            pods_by_name: HashMap::new(),
            pods_by_address: HashMap::new(),
            pods_by_label: HashMap::new(),
            entries_by_label: HashMap::new(),
            slices: HashMap::new(),
            nodes: world
                .of_kind(Kind::Node)
                .map(|node| (&*node.meta.name, Locality::of_node(&node.meta.labels)))
                .collect(),
        };
        for (object, pod) in world.pods() {
            backing.add_pod(object, pod);
        }
        // What listens for another address is nobody's endpoint.
        let stands_in =
            |object: &Object| object.meta.annotations.contains_key(annotations::GATEWAY_FOR);
        for (object, entry) in world.workload_entries() {
            if !stands_in(object) {
                backing.add_entry(object, entry);
            }
        }
        for (object, slice) in world.endpoint_slices() {
            if !slice.service.is_empty() {
                let key = (&*object.meta.namespace, &*slice.service);
                backing.slices.entry(key).or_default().push(slice);
            }
        }
        backing
    }

    fn add_pod(&mut self, object: &'w Arc<Object>, pod: &'w Pod) {
        if pod.finished {
            return;
        }
        let (index, meta) = (self.pods.len(), &object.meta);
        self.pods_by_name.insert((&meta.namespace, &meta.name), index);
        for ip in &pod.ips {
            self.pods_by_address.entry((&meta.namespace, *ip)).or_insert(index);
        }
        for (key, value) in &meta.labels {
            add_label(&mut self.pods_by_label, &meta.namespace, (key, value), index);
        }
        self.pods.push(KnownPod { object, pod, place: OnceCell::new() });
    }

    fn add_entry(&mut self, object: &'w Arc<Object>, entry: &'w WorkloadEntry) {
        let meta = &object.meta;
        let labels = entry_labels(meta, entry);
        for (key, value) in &labels {
            let index = self.entries.len();
            add_label(&mut self.entries_by_label, &meta.namespace, (key, value), index);
        }
        let place = entry_place(&labels, entry);
        self.entries.push(KnownEntry { entry, labels, place });
    }

    /// The WorkloadEntries of a namespace that carry all labels of a selector;
    /// an empty selector selects nothing.
    pub(super) fn entries(
        &self,
        namespace: &str,
        selector: &Labels,
    ) -> impl Iterator<Item = &KnownEntry<'w>> {
        candidates(&self.entries_by_label, namespace, selector)
            .iter()
            .filter_map(|&index| self.entries.get(index))
            .filter(|entry| contains(&entry.labels, selector))
    }

    /// The Pods, likewise.
    pub(super) fn pods(
        &self,
        namespace: &str,
        selector: &Labels,
    ) -> impl Iterator<Item = &KnownPod<'w>> {
        candidates(&self.pods_by_label, namespace, selector)
            .iter()
            .filter_map(|&index| self.pods.get(index))
            .filter(|pod| contains(&pod.object.meta.labels, selector))
    }

    /// The labels and the locality of a Pod. `zone` is what an EndpointSlice
    /// says, for a node that is not known.
    pub(super) fn place(&self, pod: &KnownPod<'w>, zone: Option<&str>) -> (Arc<Labels>, Arc<str>) {
        let make = |locality: Locality| {
            let labels =
                topology::labels(&pod.object.meta.labels, &locality, Some(&pod.pod.node), None);
            (labels.into(), locality.text())
        };
        let known = Locality::of_workload(&pod.object.meta.labels)
            .or_else(|| self.nodes.get(&*pod.pod.node).cloned())
            .filter(|locality| !locality.is_unknown());
        match (known, zone) {
            (None, Some(zone)) => make(Locality { zone: zone.to_owned(), ..Locality::default() }),
            (known, _) => pod.place.get_or_init(|| make(known.unwrap_or_default())).clone(),
        }
    }

    /// The locality of a node.
    pub(super) fn node(&self, name: &str) -> Option<&Locality> {
        self.nodes.get(name)
    }

    /// Fills in the endpoints of a Service's ports: those of its slices, and
    /// the WorkloadEntries that it selects.
    pub(super) fn fill(
        &self,
        namespace: &'w str,
        name: &'w str,
        service: &Service,
        kind: &ServiceKind,
        ports: &mut [Port],
    ) {
        if matches!(kind, ServiceKind::ExternalName(_)) {
            return;
        }
        let slices = self.slices.get(&(namespace, name)).map_or(&[][..], Vec::as_slice);
        for (port, declared) in ports.iter_mut().zip(&service.ports) {
            let mut found = BTreeMap::new();
            for slice in slices {
                let number = slice.ports.iter().find_map(|slice_port| {
                    (slice_port.name == declared.name).then_some(slice_port.port).flatten()
                });
                let Some(number) = number else { continue };
                for endpoint in &slice.endpoints {
                    self.add_slice_endpoint(
                        namespace,
                        service,
                        endpoint,
                        number,
                        &mut found,
                        &mut port.unusable,
                    );
                }
            }
            for entry in self.entries(namespace, &service.selector) {
                let Some(number) = entry_port(declared, entry.entry) else { continue };
                match entry.entry.address.parse() {
                    Ok(ip) => {
                        found.entry(ip).or_insert_with(|| entry.endpoint(ip, number));
                    }
                    Err(_) => port.unusable += 1,
                }
            }
            port.endpoints = found.into_values().collect();
        }
    }

    fn add_slice_endpoint(
        &self,
        namespace: &'w str,
        service: &Service,
        endpoint: &'w SliceEndpoint,
        number: u16,
        found: &mut BTreeMap<IpAddr, Endpoint>,
        unusable: &mut usize,
    ) {
        // A pod that is named must be known; without a name it may be.
        let named = endpoint
            .pod
            .as_ref()
            .map(|(namespace, name)| self.pods_by_name.get(&(&**namespace, &**name)).copied());
        let usable = if endpoint.terminating {
            // Ready and terminating at once are only the endpoints of services
            // that publish whatever state they are in.
            service.publish_not_ready && endpoint.ready
        } else {
            endpoint.ready || service.publish_not_ready
        };
        if !usable || named == Some(None) {
            *unusable += endpoint.addresses.len();
            return;
        }
        for &ip in &endpoint.addresses {
            let index =
                named.flatten().or_else(|| self.pods_by_address.get(&(namespace, ip)).copied());
            let pod = index.and_then(|index| self.pods.get(index));
            let place = pod.map(|pod| self.place(pod, endpoint.zone.as_deref()));
            let node = endpoint.node.as_deref().or(pod.map(|pod| &*pod.pod.node));
            let (labels, locality) = match place {
                Some((labels, locality)) => (Some(labels), locality),
                None => (None, "".into()),
            };
            found.entry(ip).or_insert_with(|| Endpoint {
                ip,
                port: number,
                labels,
                node: node.filter(|node| !node.is_empty()).map(Arc::from),
                locality,
                weight: 1,
            });
        }
    }
}

impl KnownEntry<'_> {
    pub(super) fn endpoint(&self, ip: IpAddr, port: u16) -> Endpoint {
        entry_endpoint(self.entry, &self.place, ip, port)
    }
}

/// A WorkloadEntry (or an endpoint of a ServiceEntry) at an address.
pub(super) fn entry_endpoint(
    entry: &WorkloadEntry,
    place: &(Arc<Labels>, Arc<str>),
    ip: IpAddr,
    port: u16,
) -> Endpoint {
    Endpoint {
        ip,
        port,
        labels: Some(place.0.clone()),
        node: None,
        locality: place.1.clone(),
        weight: entry.weight.max(1),
    }
}

/// The labels with those of its place, and the locality.
pub(super) fn entry_place(labels: &Labels, entry: &WorkloadEntry) -> (Arc<Labels>, Arc<str>) {
    let locality = entry_locality(labels, &entry.locality);
    let labels = topology::labels(labels, &locality, None, Some(&entry.network));
    (labels.into(), locality.text())
}

/// The port of a WorkloadEntry that a Service port leads to; `None` when the
/// Service names one that it does not have.
fn entry_port(declared: &ServicePort, entry: &WorkloadEntry) -> Option<u16> {
    match &declared.target_port {
        TargetPort::Name(name) => entry.ports.get(name).copied(),
        TargetPort::Number(number) => {
            Some(entry.ports.get(&declared.name).copied().unwrap_or(match number {
                0 => declared.port,
                number => *number,
            }))
        }
    }
}

fn candidates<'a>(index: &'a ByLabel<'_>, namespace: &str, selector: &Labels) -> &'a [usize] {
    let keys = index.get(namespace);
    selector
        .iter()
        .map(|(key, value)| {
            let found = keys.and_then(|keys| keys.get(key)).and_then(|values| values.get(value));
            found.map_or(&[][..], Vec::as_slice)
        })
        .min_by_key(|found| found.len())
        .unwrap_or_default()
}
