//! What can be an endpoint: Pods by name, address and label, WorkloadEntries by
//! label, and the endpoints of Services out of their slices; and of which services
//! each may be one.

mod slices;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use rustc_hash::FxHashMap;

use super::edit::Edit;
use super::selection::Selection;
use super::service::{Port, ServiceEndpoint, ServiceKind};
use super::topology::{self, Locality};
use super::workloads::{entry_labels, entry_locality};
use crate::client::contains;
use crate::model::annotations;
use crate::model::{
    Labels, Object, ObjectRef, Pod, Service, ServicePort, SliceEndpoint, Spec, TargetPort,
    WorkloadEntry,
};
use crate::world::World;
use slices::Slices;

/// A workload's labels with those of its place, and its locality.
pub(super) type LabelsAndLocality = (Labels, Arc<str>);

/// A Pod, as an endpoint.
#[derive(Debug)]
pub(super) struct KnownPod {
    pub object: Arc<Object>,
    place: OnceLock<LabelsAndLocality>,
}

/// Where it is follows from the rest, and is only worked out when somebody asks.
impl PartialEq for KnownPod {
    fn eq(&self, other: &Self) -> bool {
        self.object == other.object
    }
}

/// A WorkloadEntry, as an endpoint.
#[derive(Debug, PartialEq)]
pub(super) struct KnownEntry {
    pub object: Arc<Object>,
    labels: Labels,
    pub place: LabelsAndLocality,
}

/// Workloads by namespace and name.
type Named<T> = FxHashMap<Arc<str>, FxHashMap<Arc<str>, T>>;

fn put<T>(named: &mut Named<T>, object: &ObjectRef, one: T) {
    named.entry(object.namespace.clone()).or_default().insert(object.name.clone(), one);
}

fn take<T>(named: &mut Named<T>, object: &ObjectRef) -> Option<T> {
    let of_namespace = named.get_mut(&object.namespace)?;
    let taken = of_namespace.remove(&object.name);
    if of_namespace.is_empty() {
        named.remove(&object.namespace);
    }
    taken
}

/// Everything that can be an endpoint.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Backing {
    nodes: FxHashMap<Arc<str>, Locality>,
    pods: Named<KnownPod>,
    /// Namespace, address and name of each pod.
    addresses: BTreeSet<(Arc<str>, IpAddr, Arc<str>)>,
    /// For the selectors of ServiceEntries.
    pod_selection: Selection,
    entries: Named<KnownEntry>,
    /// For the selectors of Services and ServiceEntries.
    entry_selection: Selection,
    slices: Slices,
}

/// A pod that can be an endpoint.
fn endpoint_pod(object: &Arc<Object>) -> Option<&Pod> {
    object.spec.pod().filter(|pod| !pod.finished)
}

/// A WorkloadEntry that can be one: what listens for another address is nobody's
/// endpoint.
fn endpoint_entry(object: &Arc<Object>) -> Option<&WorkloadEntry> {
    let entry = object.spec.workload_entry()?;
    (!object.meta.annotations.contains_key(annotations::GATEWAY_FOR)).then_some(entry)
}

/// The selector of an object, over WorkloadEntries, and, when `pods`, over Pods.
fn selector(object: &Object, pods: bool) -> Option<&Labels> {
    match &object.spec {
        Spec::Service(service) if !pods => Some(&service.selector),
        Spec::ServiceEntry(entry) => entry.workload_selector.as_ref(),
        _ => None,
    }
}

/// Whether an object has another one, of its namespace, as an endpoint because of its
/// labels.
pub fn selects(by: &Object, workload: &Arc<Object>) -> bool {
    match endpoint_entry(workload) {
        Some(entry) => selects_labels(by, false, &entry_labels(&workload.meta, entry)),
        None => endpoint_pod(workload).is_some() && selects_labels(by, true, &workload.meta.labels),
    }
}

impl Backing {
    /// Nodes are others: those that are elsewhere now are returned.
    pub(super) fn change_nodes(&mut self, edits: &[Edit<'_>]) -> BTreeSet<Arc<str>> {
        let mut moved = BTreeSet::new();
        for edit in edits {
            let name = &edit.reference.name;
            let after = edit.after.map(|node| Locality::of_node(&node.meta.labels));
            if self.nodes.get(name) != after.as_ref() {
                moved.insert(name.clone());
            }
            match after {
                Some(locality) => _ = self.nodes.insert(name.clone(), locality),
                None => _ = self.nodes.remove(name),
            }
        }
        moved
    }

    /// A Service or ServiceEntry selects otherwise.
    pub(super) fn change_selector(&mut self, edit: &Edit<'_>) {
        let Edit { reference, before, after } = *edit;
        let namespace = &reference.namespace;
        for pods in [false, true] {
            let of = |object: Option<&'_ Arc<Object>>| {
                object.and_then(|object| selector(object, pods)).cloned()
            };
            let (before, after) = (of(before), of(after));
            if before == after {
                continue;
            }
            let selection = if pods { &mut self.pod_selection } else { &mut self.entry_selection };
            if let Some(selector) = &before {
                selection.forget(reference, selector);
            }
            let Some(selector) = &after else { continue };
            if pods {
                let known = self.pods.get(namespace).into_iter().flatten();
                let known = known.map(|(name, pod)| (name, &pod.object.meta.labels));
                selection.ask(reference, selector, known);
            } else {
                let known = self.entries.get(namespace).into_iter().flatten();
                let known = known.map(|(name, entry)| (name, &entry.labels));
                selection.ask(reference, selector, known);
            }
        }
    }

    /// A pod is another. Those of which it may be an endpoint are `found`.
    pub(super) fn change_pod(
        &mut self,
        world: &World,
        edit: &Edit<'_>,
        found: &mut BTreeSet<ObjectRef>,
    ) {
        let Edit { reference, before, after } = *edit;
        let [before, after] =
            [before, after].map(|pod| pod.and_then(|pod| Some((pod, endpoint_pod(pod)?))));
        let ObjectRef { namespace, name, .. } = reference;
        if let Some((object, pod)) = before {
            self.find_users(world, true, (namespace, &object.meta.labels), found);
            take(&mut self.pods, reference);
            for ip in &pod.ips {
                self.addresses.remove(&(namespace.clone(), *ip, name.clone()));
            }
            self.pod_selection.remove(namespace, name, &object.meta.labels);
        }
        if let Some((object, pod)) = after {
            for ip in &pod.ips {
                self.addresses.insert((namespace.clone(), *ip, name.clone()));
            }
            self.pod_selection.add(namespace, name, &object.meta.labels);
            let known = KnownPod { object: object.clone(), place: OnceLock::new() };
            put(&mut self.pods, reference, known);
            self.find_users(world, true, (namespace, &object.meta.labels), found);
        }
        // A pod that becomes ready is told of by its slices.
        let as_named = |(object, pod): (&Arc<Object>, &Pod)| {
            (object.meta.labels.clone(), pod.ips.clone(), pod.node.clone())
        };
        if before.map(as_named) != after.map(as_named) {
            for (_, pod) in before.into_iter().chain(after) {
                found.extend(self.slices.naming(reference, &pod.ips));
            }
        }
    }

    /// Those that have a WorkloadEntry as an endpoint because of its labels.
    pub(super) fn users(&self, world: &World, entry: &ObjectRef) -> BTreeSet<ObjectRef> {
        let mut found = BTreeSet::new();
        let known = self.entries.get(&entry.namespace).and_then(|all| all.get(&entry.name));
        if let Some(known) = known {
            self.find_users(world, false, (&entry.namespace, &known.labels), &mut found);
        }
        found
    }

    /// Those that select a pod, or a WorkloadEntry, of a namespace with these labels.
    fn find_users(
        &self,
        world: &World,
        pods: bool,
        (namespace, labels): (&str, &Labels),
        found: &mut BTreeSet<ObjectRef>,
    ) {
        let selection = if pods { &self.pod_selection } else { &self.entry_selection };
        let users = selection.selecting(namespace, labels);
        found.extend(
            users
                .filter(|user| world.get(user).is_some_and(|by| selects_labels(by, pods, labels)))
                .cloned(),
        );
    }

    /// Nodes are elsewhere: so are the pods on them.
    pub(super) fn move_pods(
        &mut self,
        world: &World,
        nodes: &BTreeSet<Arc<str>>,
        found: &mut BTreeSet<ObjectRef>,
    ) {
        let mut moved = Vec::new();
        for known in self.pods.values_mut().flat_map(FxHashMap::values_mut) {
            let Some(pod) = known.object.spec.pod() else { continue };
            if nodes.contains(&pod.node) {
                known.place = OnceLock::new();
                moved.push(known.object.clone());
            }
        }
        for object in moved {
            let meta = &object.meta;
            self.find_users(world, true, (&meta.namespace, &meta.labels), found);
            let ips = object.spec.pod().map_or(&[][..], |pod| &pod.ips);
            found.extend(self.slices.naming(&object.reference(), ips));
        }
    }

    /// A WorkloadEntry is another. Those of which it may be an endpoint are `found`.
    pub(super) fn change_entry(
        &mut self,
        world: &World,
        edit: &Edit<'_>,
        found: &mut BTreeSet<ObjectRef>,
    ) {
        let Edit { reference, before, after } = *edit;
        let ObjectRef { namespace, name, .. } = reference;
        if before.and_then(endpoint_entry).is_some()
            && let Some(known) = take(&mut self.entries, reference)
        {
            self.find_users(world, false, (namespace, &known.labels), found);
            self.entry_selection.remove(namespace, name, &known.labels);
        }
        if let Some(object) = after
            && let Some(entry) = endpoint_entry(object)
        {
            let labels = entry_labels(&object.meta, entry);
            self.find_users(world, false, (namespace, &labels), found);
            self.entry_selection.add(namespace, name, &labels);
            let place = entry_place(&labels, entry);
            put(&mut self.entries, reference, KnownEntry { object: object.clone(), labels, place });
        }
    }

    /// A slice is another. Its services are `found`.
    pub(super) fn change_slice(&mut self, edit: &Edit<'_>, found: &mut BTreeSet<ObjectRef>) {
        self.slices.change(edit, found);
    }

    /// The WorkloadEntries of a namespace that carry all labels of a selector;
    /// an empty selector selects nothing.
    pub(super) fn entries(
        &self,
        namespace: &str,
        selector: &Labels,
    ) -> impl Iterator<Item = &KnownEntry> {
        let known = self.entries.get(namespace);
        (self.entry_selection.candidates(namespace, selector).iter())
            .filter_map(move |name| known?.get(name))
            .filter(|entry| contains(&entry.labels, selector))
    }

    /// The Pods, likewise.
    pub(super) fn pods(
        &self,
        namespace: &str,
        selector: &Labels,
    ) -> impl Iterator<Item = &KnownPod> {
        let known = self.pods.get(namespace);
        (self.pod_selection.candidates(namespace, selector).iter())
            .filter_map(move |name| known?.get(name))
            .filter(|pod| contains(&pod.object.meta.labels, selector))
    }

    /// The labels and the locality of a Pod. `zone` is what an EndpointSlice
    /// says, for a node that is not known.
    pub(super) fn place(&self, known: &KnownPod, zone: Option<&str>) -> LabelsAndLocality {
        let labels = &known.object.meta.labels;
        let node = known.object.spec.pod().map_or("", |pod| &pod.node);
        let make = |locality: Locality| {
            (topology::labels(labels, &locality, Some(node), None), locality.text())
        };
        let locality = Locality::of_workload(labels)
            .or_else(|| self.nodes.get(node).cloned())
            .filter(|locality| !locality.is_unknown());
        match (locality, zone) {
            (None, Some(zone)) => make(Locality { zone: zone.to_owned(), ..Locality::default() }),
            (locality, _) => known.place.get_or_init(|| make(locality.unwrap_or_default())).clone(),
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
        object: &Object,
        service: &Service,
        kind: &ServiceKind,
        ports: &mut [Port],
    ) {
        if matches!(kind, ServiceKind::ExternalName(_)) {
            return;
        }
        let namespace = &object.meta.namespace;
        for (port, declared) in ports.iter_mut().zip(&service.ports) {
            let mut of_slices = BTreeMap::new();
            for slice in self.slices.of(&object.reference()) {
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
                        &mut of_slices,
                        &mut port.unusable,
                    );
                }
            }
            let mut all: Vec<ServiceEndpoint> = of_slices.into_values().collect();
            for known in self.entries(namespace, &service.selector) {
                let Some(entry) = known.object.spec.workload_entry() else { continue };
                let Some(number) = entry_port(declared, entry) else { continue };
                match entry.address.parse() {
                    Ok(ip) => all.push(entry_endpoint(entry, &known.place, ip, number)),
                    Err(_) => port.unusable.push(Some(known.place.0.clone())),
                }
            }
            port.endpoints = in_order(all);
        }
    }

    /// How many endpoints a Service has for each of its ports, at most.
    pub(super) fn count(&self, object: &Object, service: &Service) -> usize {
        let reference = object.reference();
        let slices = self.slices.of(&reference).flat_map(|slice| &slice.endpoints);
        let of_slices: usize = slices.map(|endpoint| endpoint.addresses.len()).sum();
        of_slices + self.entries(&object.meta.namespace, &service.selector).count()
    }

    fn add_slice_endpoint(
        &self,
        namespace: &Arc<str>,
        service: &Service,
        endpoint: &SliceEndpoint,
        number: u16,
        found: &mut BTreeMap<IpAddr, ServiceEndpoint>,
        unusable: &mut Vec<Option<Labels>>,
    ) {
        // A pod that is named must be known; without a name it may be.
        let named = endpoint.pod.as_ref().map(|(namespace, name)| {
            self.pods.get(namespace).and_then(|of_namespace| of_namespace.get(name))
        });
        let usable = if endpoint.terminating {
            // Ready and terminating at once are only the endpoints of services
            // that publish whatever state they are in.
            service.publish_not_ready && endpoint.ready
        } else {
            endpoint.ready || service.publish_not_ready
        };
        if !usable || matches!(named, Some(None)) {
            for &ip in &endpoint.addresses {
                let known = named.unwrap_or_else(|| self.pod_with_address(namespace, ip));
                let place = known.map(|known| self.place(known, endpoint.zone.as_deref()));
                unusable.push(place.map(|(labels, _)| labels));
            }
            return;
        }
        for &ip in &endpoint.addresses {
            let known = named.flatten().or_else(|| self.pod_with_address(namespace, ip));
            let place = known.map(|known| self.place(known, endpoint.zone.as_deref()));
            let pod = known.and_then(|known| known.object.spec.pod());
            let node = endpoint.node.as_ref().or(pod.map(|pod| &pod.node));
            let (labels, locality) = match place {
                Some((labels, locality)) => (Some(labels), locality),
                None => (None, "".into()),
            };
            found.entry(ip).or_insert_with(|| ServiceEndpoint {
                ip,
                port: number,
                labels,
                node: node.filter(|node| !node.is_empty()).cloned(),
                locality,
                weight: 1,
            });
        }
    }

    /// The first by name of the pods of a namespace that have an address.
    fn pod_with_address(&self, namespace: &Arc<str>, ip: IpAddr) -> Option<&KnownPod> {
        let from = (namespace.clone(), ip, "".into());
        let (there, at, name) = self.addresses.range(from..).next()?;
        if (there, *at) != (namespace, ip) {
            return None;
        }
        self.pods.get(namespace)?.get(name)
    }
}

/// The endpoints of a port as [`Port::endpoints`] has them. An address says nothing of who
/// listens there: on one machine each port is somebody else.
pub(super) fn in_order(mut all: Vec<ServiceEndpoint>) -> Vec<ServiceEndpoint> {
    let what = |one: &ServiceEndpoint| (one.ip, one.port);
    all.sort_by_key(what);
    all.dedup_by(|next, kept| what(next) == what(kept) && next.labels == kept.labels);
    all
}

/// Whether an object selects a workload with these labels.
fn selects_labels(by: &Object, pods: bool, labels: &Labels) -> bool {
    let selector = selector(by, pods).filter(|selector| !selector.is_empty());
    selector.is_some_and(|selector| contains(labels, selector))
}

/// A WorkloadEntry (or an endpoint of a ServiceEntry) at an address.
pub(super) fn entry_endpoint(
    entry: &WorkloadEntry,
    place: &LabelsAndLocality,
    ip: IpAddr,
    port: u16,
) -> ServiceEndpoint {
    ServiceEndpoint {
        ip,
        port,
        labels: Some(place.0.clone()),
        node: None,
        locality: place.1.clone(),
        weight: entry.weight.max(1),
    }
}

/// The labels with those of its place, and the locality.
pub(super) fn entry_place(labels: &Labels, entry: &WorkloadEntry) -> LabelsAndLocality {
    let locality = entry_locality(labels, &entry.locality);
    if locality.is_unknown() && entry.network.is_empty() {
        return (labels.clone(), locality.text());
    }
    let labels = topology::labels(labels, &locality, None, Some(&entry.network));
    (labels, locality.text())
}

/// The port of a WorkloadEntry that a Service port leads to; `None` when the
/// Service names one that it does not have.
pub(crate) fn entry_port(declared: &ServicePort, entry: &WorkloadEntry) -> Option<u16> {
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
