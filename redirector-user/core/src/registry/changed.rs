//! What makes one registry another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::ObjectRef;
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
    /// Other names have to be resolved.
    pub names: bool,
    /// The settings are others, or where the node is: everything may mean something
    /// else. The rest of this is exact nevertheless.
    pub whole: bool,
    /// What it took.
    pub work: Work,
}

/// What is different about a host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum HostChange {
    /// Only the endpoints of ports: [`endpoints`](super::Port::endpoints),
    /// `unusable`, `unresolved` and `sockets`. A headless service owns the addresses
    /// of its endpoints, and a ServiceEntry whose names resolve to nothing serves none
    /// of its own: so what claims an address may differ also by these.
    Endpoints,
    /// Anything else of its services, or of the DestinationRules for it.
    Everything,
}
