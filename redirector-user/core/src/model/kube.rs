//! The Kubernetes kinds.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Kind, Labels, ObjectRef};

/// Core Service.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Service {
    /// `spec.type`; `ClusterIP` when absent.
    pub service_type: ServiceType,
    /// `spec.clusterIPs`, or `spec.clusterIP` alone; empty when it has none.
    pub cluster_ips: Vec<IpAddr>,
    /// `clusterIP: None`.
    pub headless: bool,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip`.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// `spec.selector`.
    pub selector: Labels,
    /// `spec.externalName`.
    pub external_name: String,
    /// `spec.internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// `spec.trafficDistribution`: see [`Service::distribution`].
    #[serde(default)]
    pub traffic_distribution: Option<TrafficDistribution>,
}

impl Service {
    /// Where clients may dial it.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let lists = [&self.cluster_ips, &self.external_ips, &self.load_balancer_ips];
        lists.into_iter().flatten().copied()
    }

    /// Which endpoints go first: by the field, or else by the annotation of
    /// clusters in which the field is not served yet.
    pub fn distribution(&self, annotations: &Labels) -> Option<TrafficDistribution> {
        self.traffic_distribution.or_else(|| {
            let word = annotations.get(super::annotations::TRAFFIC_DISTRIBUTION)?;
            match word.to_ascii_lowercase().as_str() {
                "preferclose" => Some(TrafficDistribution::Close),
                "prefersamezone" => Some(TrafficDistribution::SameZone),
                "prefersamenode" => Some(TrafficDistribution::SameNode),
                _ => None,
            }
        })
    }
}

/// `spec.trafficDistribution` of a Service: which endpoints go first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TrafficDistribution {
    /// `PreferClose`: the nearest there are.
    Close,
    /// `PreferSameZone`.
    SameZone,
    /// `PreferSameNode`.
    SameNode,
}

/// `spec.type` of a Service.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named as in the API")]
pub enum ServiceType {
    #[default]
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

/// A port of a Service.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ServicePort {
    /// `name`; empty when absent.
    pub name: String,
    /// `port`.
    pub port: u16,
    /// `protocol`, in upper case; `TCP` when absent.
    pub protocol: String,
    /// `appProtocol`, as written.
    pub app_protocol: Option<String>,
    /// `targetPort`; the port itself when absent.
    pub target_port: TargetPort,
    /// `nodePort`.
    pub node_port: Option<u16>,
}

/// `targetPort` of a Service port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// The name of a container port, or of a WorkloadEntry's port.
    Name(String),
}

impl Default for TargetPort {
    fn default() -> Self {
        Self::Number(0)
    }
}

/// `discovery.k8s.io` EndpointSlice.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// The label `kubernetes.io/service-name`; empty when absent.
    pub service: Arc<str>,
    /// `addressType`, as written.
    pub address_type: String,
    /// Its ports: name (empty when absent), number, protocol in upper case.
    pub ports: Vec<SlicePort>,
    /// Its endpoints.
    pub endpoints: Vec<SliceEndpoint>,
}

impl EndpointSlice {
    /// The Service that it belongs to, of the namespace that it is in; `None` when it names none.
    pub fn of(&self, namespace: &Arc<str>) -> Option<ObjectRef> {
        let (namespace, name) = (namespace.clone(), self.service.clone());
        (!name.is_empty()).then_some(ObjectRef { kind: Kind::Service, namespace, name })
    }
}

/// A port of an EndpointSlice.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SlicePort {
    /// `name`; empty when absent.
    pub name: String,
    /// `port`; `None` means "all ports", which has no use here.
    pub port: Option<u16>,
    /// `protocol`, in upper case; `TCP` when absent.
    pub protocol: String,
}

/// An endpoint of an EndpointSlice.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SliceEndpoint {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// `conditions.ready`; absent counts as true.
    pub ready: bool,
    /// `conditions.serving`; absent is the same as ready.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// `targetRef`, when it names a Pod: namespace (the slice's own when
    /// absent) and name.
    pub pod: Option<(Arc<str>, Arc<str>)>,
    /// `nodeName`.
    pub node: Option<Arc<str>>,
    /// `zone`.
    pub zone: Option<Arc<str>>,
}

/// Core Pod.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Pod {
    /// `status.podIPs`, or `status.podIP` alone.
    pub ips: Vec<IpAddr>,
    /// `spec.nodeName`.
    pub node: Arc<str>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// The `Ready` condition.
    pub ready: bool,
    /// Whether `status.phase` is `Succeeded` or `Failed`.
    pub finished: bool,
    /// Whether `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// Named container ports.
    pub ports: Vec<(String, u16)>,
}
