//! What is watched, and the permissions that it takes.

use redirector_core::model::Kind;

/// One watch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Resource {
    /// `networking.istio.io` VirtualServices.
    VirtualServices,
    /// `networking.istio.io` DestinationRules.
    DestinationRules,
    /// `networking.istio.io` Gateways.
    Gateways,
    /// `networking.istio.io` ServiceEntries.
    ServiceEntries,
    /// `networking.istio.io` WorkloadEntries.
    WorkloadEntries,
    /// Services.
    Services,
    /// EndpointSlices.
    EndpointSlices,
    /// Namespaces, their metadata only.
    Namespaces,
    /// This node, its metadata only.
    OwnNode,
    /// The pods of this node, with everything.
    OwnPods,
    /// The pods elsewhere: their labels decide which subset an endpoint is in,
    /// so their metadata is enough, unless [`Needs::pod_addresses`] says more.
    OtherPods,
}

/// How much of an object is fetched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detail {
    /// `metadata` only.
    Metadata,
    /// Everything.
    Full,
}

/// What the objects at hand make necessary.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Needs {
    /// Addresses of pods on other nodes: a ServiceEntry selects pods, or a
    /// gateway on this node has to know clients by their address.
    pub pod_addresses: bool,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::VirtualServices,
        Self::DestinationRules,
        Self::Gateways,
        Self::ServiceEntries,
        Self::WorkloadEntries,
        Self::Services,
        Self::EndpointSlices,
        Self::Namespaces,
        Self::OwnNode,
        Self::OwnPods,
        Self::OtherPods,
    ];

    /// The kind of its objects.
    pub const fn kind(self) -> Kind {
        match self {
            Self::VirtualServices => Kind::VirtualService,
            Self::DestinationRules => Kind::DestinationRule,
            Self::Gateways => Kind::Gateway,
            Self::ServiceEntries => Kind::ServiceEntry,
            Self::WorkloadEntries => Kind::WorkloadEntry,
            Self::Services => Kind::Service,
            Self::EndpointSlices => Kind::EndpointSlice,
            Self::Namespaces => Kind::Namespace,
            Self::OwnNode => Kind::Node,
            Self::OwnPods | Self::OtherPods => Kind::Pod,
        }
    }

    /// The name in paths and in roles.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::VirtualServices => "virtualservices",
            Self::DestinationRules => "destinationrules",
            Self::Gateways => "gateways",
            Self::ServiceEntries => "serviceentries",
            Self::WorkloadEntries => "workloadentries",
            Self::Services => "services",
            Self::EndpointSlices => "endpointslices",
            Self::Namespaces => "namespaces",
            Self::OwnNode => "nodes",
            Self::OwnPods | Self::OtherPods => "pods",
        }
    }

    /// The API group; empty for core.
    pub const fn group(self) -> &'static str {
        match self {
            Self::VirtualServices
            | Self::DestinationRules
            | Self::Gateways
            | Self::ServiceEntries
            | Self::WorkloadEntries => "networking.istio.io",
            Self::EndpointSlices => "discovery.k8s.io",
            _ => "",
        }
    }

    /// The versions that are understood, the best first.
    pub const fn versions(self) -> &'static [&'static str] {
        match self {
            Self::VirtualServices
            | Self::DestinationRules
            | Self::Gateways
            | Self::ServiceEntries
            | Self::WorkloadEntries => &["v1", "v1beta1", "v1alpha3"],
            _ => &["v1"],
        }
    }

    /// Whether a cluster may be without it: Istio's kinds are defined by CRDs.
    pub const fn is_optional(self) -> bool {
        matches!(
            self,
            Self::VirtualServices
                | Self::DestinationRules
                | Self::Gateways
                | Self::ServiceEntries
                | Self::WorkloadEntries
        )
    }

    /// Whether Events are written about its objects.
    pub const fn has_events(self) -> bool {
        self.is_optional() || matches!(self, Self::Services)
    }

    /// How much of its objects is fetched.
    pub const fn detail(self, needs: Needs) -> Detail {
        match self {
            Self::Namespaces | Self::OwnNode => Detail::Metadata,
            Self::OtherPods if !needs.pod_addresses => Detail::Metadata,
            _ => Detail::Full,
        }
    }

    /// The field selector, on this node.
    pub fn fields(self, node: &str) -> Option<String> {
        match self {
            Self::OwnNode => Some(format!("metadata.name={node}")),
            Self::OwnPods => Some(format!("spec.nodeName={node}")),
            Self::OtherPods => Some(format!("spec.nodeName!={node}")),
            _ => None,
        }
    }

    /// What it is called in messages: `pods of this node`,
    /// `virtualservices.networking.istio.io`.
    pub fn describe(self) -> String {
        match self {
            Self::OwnNode => "this node".to_owned(),
            Self::OwnPods => "pods of this node".to_owned(),
            Self::OtherPods => "pods of other nodes".to_owned(),
            _ if self.group().is_empty() => self.plural().to_owned(),
            _ => format!("{}.{}", self.plural(), self.group()),
        }
    }
}
