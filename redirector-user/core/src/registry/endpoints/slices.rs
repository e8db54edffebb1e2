//! EndpointSlices: those of each Service, and which pods are named by which.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::model::{EndpointSlice, Kind, Object, ObjectRef};
use crate::registry::edit::Edit;

/// The slices that belong to a Service.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Slices {
    /// By Service, in the order of their names.
    by_service: FxHashMap<ObjectRef, Vec<Arc<Object>>>,
    /// What is named, and the Service for which.
    named: BTreeSet<(Named, ObjectRef)>,
}

/// What an endpoint of a slice names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Named {
    /// A pod.
    Pod(Arc<str>, Arc<str>),
    /// Whichever pod of the namespace has the address.
    Address(Arc<str>, IpAddr),
}

/// The Service that a slice belongs to.
fn service(slice: &Object) -> Option<ObjectRef> {
    slice.spec.endpoint_slice()?.of(&slice.meta.namespace)
}

fn named(slice: &Object) -> impl Iterator<Item = Named> {
    let endpoints = slice.spec.endpoint_slice().into_iter().flat_map(|slice| &slice.endpoints);
    endpoints.flat_map(|endpoint| {
        let pod = endpoint.pod.iter();
        let pod = pod.map(|(namespace, name)| Named::Pod(namespace.clone(), name.clone()));
        let unnamed = endpoint.addresses.iter().filter(|_| endpoint.pod.is_none());
        pod.chain(unnamed.map(|ip| Named::Address(slice.meta.namespace.clone(), *ip)))
    })
}

impl Slices {
    /// A slice is another; the Services that it belonged or belongs to are `found`.
    pub fn change(&mut self, edit: &Edit<'_>, found: &mut BTreeSet<ObjectRef>) {
        let [from, to] = [edit.before, edit.after].map(|slice| slice.and_then(|one| service(one)));
        let none = BTreeSet::new();
        let of = |slice: Option<&Arc<Object>>| {
            slice.map_or_else(BTreeSet::new, |slice| named(slice).collect())
        };
        let (before, after) = (of(edit.before), of(edit.after));
        if let Some(from) = &from {
            let same = to.as_ref() == Some(from);
            self.take(from, &edit.reference.name);
            self.forget(from, &before, if same { &after } else { &none });
        }
        if let (Some(to), Some(slice)) = (&to, edit.after) {
            let slices = self.by_service.entry(to.clone()).or_insert_with(|| Vec::with_capacity(1));
            let at = slices.partition_point(|other| other.meta.name < slice.meta.name);
            slices.insert(at, slice.clone());
            let known = if from.as_ref() == Some(to) { &before } else { &none };
            self.named.extend(after.difference(known).map(|one| (one.clone(), to.clone())));
        }
        found.extend(from.into_iter().chain(to));
    }

    fn take(&mut self, service: &ObjectRef, name: &Arc<str>) {
        let Some(slices) = self.by_service.get_mut(service) else { return };
        slices.retain(|slice| slice.meta.name != *name);
        if slices.is_empty() {
            self.by_service.remove(service);
        }
    }

    /// What one slice of a Service no longer names; another one still may.
    fn forget(&mut self, service: &ObjectRef, before: &BTreeSet<Named>, after: &BTreeSet<Named>) {
        let others = self.by_service.get(service).into_iter().flatten();
        let mut gone: BTreeSet<&Named> = before.difference(after).collect();
        if !gone.is_empty() {
            others.flat_map(|slice| named(slice)).for_each(|one| _ = gone.remove(&one));
        }
        for one in gone {
            self.named.remove(&(one.clone(), service.clone()));
        }
    }

    /// The slices of a Service.
    pub fn of(&self, service: &ObjectRef) -> impl Iterator<Item = &EndpointSlice> {
        let slices = self.by_service.get(service).into_iter().flatten();
        slices.filter_map(|slice| slice.spec.endpoint_slice())
    }

    /// The Services for which a pod, or one of its addresses, is named.
    pub fn naming(&self, pod: &ObjectRef, ips: &[IpAddr]) -> Vec<ObjectRef> {
        let ObjectRef { namespace, name, .. } = pod;
        let as_pod = Named::Pod(namespace.clone(), name.clone());
        let as_address = ips.iter().map(|ip| Named::Address(namespace.clone(), *ip));
        let first = ObjectRef { kind: Kind::VirtualService, namespace: "".into(), name: "".into() };
        let mut services = Vec::new();
        for named in std::iter::once(as_pod).chain(as_address) {
            let from = (named, first.clone());
            let those = self.named.range(&from..).take_while(|(one, _)| *one == from.0);
            services.extend(those.map(|(_, service)| service.clone()));
        }
        services
    }
}
