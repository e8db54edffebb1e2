//! The objects of the configuration, typed: what the documents say, before
//! anything is resolved or decided.
//!
//! The types follow the Kubernetes and Istio APIs field by field, as far as L4
//! routing reads them. What is optional there is optional here, so that
//! "absent" and "zero" stay apart; defaults belong to the code that gives them
//! a meaning.

pub mod annotations;
pub mod bypass;
mod destination_rule;
mod gateway;
mod identity;
mod kube;
mod labels;
mod policy;
mod service_entry;
mod virtual_service;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use destination_rule::*;
pub use gateway::*;
pub use identity::*;
pub use kube::*;
pub use labels::Labels;
pub use policy::{ISTIO_MUTUAL, IstioMutual, Policy};
pub use service_entry::*;
pub use virtual_service::*;

/// The kinds of objects that are read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// `networking.istio.io` VirtualService.
    VirtualService,
    /// `networking.istio.io` DestinationRule.
    DestinationRule,
    /// `networking.istio.io` Gateway.
    Gateway,
    /// `networking.istio.io` ServiceEntry.
    ServiceEntry,
    /// `networking.istio.io` WorkloadEntry.
    WorkloadEntry,
    /// Core Service.
    Service,
    /// `discovery.k8s.io` EndpointSlice.
    EndpointSlice,
    /// Core Pod.
    Pod,
    /// Core Namespace.
    Namespace,
    /// Core Node, read for its topology labels.
    Node,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::VirtualService,
        Self::DestinationRule,
        Self::Gateway,
        Self::ServiceEntry,
        Self::WorkloadEntry,
        Self::Service,
        Self::EndpointSlice,
        Self::Pod,
        Self::Namespace,
        Self::Node,
    ];

    /// Whether objects of it are what people write, and not what comes and goes by itself.
    pub const fn is_written(self) -> bool {
        !matches!(self, Self::Pod | Self::EndpointSlice | Self::Node | Self::WorkloadEntry)
    }

    /// The name in `kind:`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::Gateway => "Gateway",
            Self::ServiceEntry => "ServiceEntry",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
        }
    }

    /// The kind that is so named.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Whether objects of this kind live in no namespace.
    pub const fn is_cluster_scoped(self) -> bool {
        matches!(self, Self::Namespace | Self::Node)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which object: kind, namespace, name. Ordered and printed as
/// `VirtualService/default/echo`; cluster-scoped kinds have an empty namespace
/// and print as `Node/worker-1`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}/{}", self.kind, self.name)
        } else {
            write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// Where an object was read from. Two of which only the writer differs are equal: who
/// wrote what is the same again changes nothing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Origin {
    /// The file, as the user named it; `None` for the Kubernetes API.
    pub file: Option<Arc<str>>,
    /// Line of the document's first key, counted from 1; 0 when unknown.
    pub line: u32,
    /// Who wrote it last, in the Kubernetes API: the newest manager of its
    /// `metadata.managedFields`, but for those of its status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manager: Option<Arc<str>>,
}

impl PartialEq for Origin {
    fn eq(&self, other: &Self) -> bool {
        (&self.file, self.line) == (&other.file, other.line)
    }
}

impl Eq for Origin {}

/// `metadata`, as far as anything here depends on it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Meta {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.namespace`; `default` where a namespaced object has none.
    pub namespace: Arc<str>,
    /// `metadata.uid`, empty when absent.
    pub uid: String,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `metadata.annotations`.
    pub annotations: Labels,
    /// `metadata.creationTimestamp` in seconds since 1970; `None` (absent)
    /// counts as the oldest.
    pub created: Option<i64>,
    /// Where it was read.
    pub origin: Origin,
}

impl Meta {
    /// Of an object of which nothing is known but these.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            namespace: namespace.into(),
            uid: String::new(),
            labels: Labels::new(),
            annotations: Labels::new(),
            created: None,
            origin: Origin::default(),
        }
    }

    /// Whether an annotation that switches something on does so.
    pub fn switches_on(&self, annotation: &str) -> bool {
        self.annotations.get(annotation).is_some_and(|value| value == annotations::ON)
    }
}

/// An object of one of the kinds that are read.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(tag = "kind", content = "spec")]
#[expect(missing_docs, reason = "each variant is the kind of that name")]
pub enum Spec {
    VirtualService(VirtualService),
    DestinationRule(DestinationRule),
    Gateway(Gateway),
    ServiceEntry(ServiceEntry),
    WorkloadEntry(WorkloadEntry),
    Service(Service),
    EndpointSlice(EndpointSlice),
    Pod(Pod),
    Namespace,
    Node,
}

impl Spec {
    /// The kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::VirtualService(_) => Kind::VirtualService,
            Self::DestinationRule(_) => Kind::DestinationRule,
            Self::Gateway(_) => Kind::Gateway,
            Self::ServiceEntry(_) => Kind::ServiceEntry,
            Self::WorkloadEntry(_) => Kind::WorkloadEntry,
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Pod(_) => Kind::Pod,
            Self::Namespace => Kind::Namespace,
            Self::Node => Kind::Node,
        }
    }
}

/// One accessor per kind with a body.
macro_rules! bodies {
    ($($name:ident: $kind:ident),* $(,)?) => {
        impl Spec {$(
            /// What it says, when it is of this kind.
            pub const fn $name(&self) -> Option<&$kind> {
                match self {
                    Self::$kind(body) => Some(body),
                    _ => None,
                }
            }
        )*}
    };
}

bodies! {
    virtual_service: VirtualService,
    destination_rule: DestinationRule,
    gateway: Gateway,
    service_entry: ServiceEntry,
    workload_entry: WorkloadEntry,
    service: Service,
    endpoint_slice: EndpointSlice,
    pod: Pod,
}

/// An object: its metadata and what it says. What was written of it is read by
/// [`crate::stored::object`].
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Object {
    /// Its metadata.
    pub meta: Meta,
    /// What it says.
    #[serde(flatten)]
    pub spec: Spec,
}

impl Object {
    /// Whether both are one version; mostly they are the very same object.
    pub fn is_same(one: &Arc<Self>, other: &Arc<Self>) -> bool {
        Arc::ptr_eq(one, other) || one == other
    }

    /// Which object this is.
    pub fn reference(&self) -> ObjectRef {
        ObjectRef {
            kind: self.spec.kind(),
            namespace: self.meta.namespace.clone(),
            name: self.meta.name.clone(),
        }
    }
}
