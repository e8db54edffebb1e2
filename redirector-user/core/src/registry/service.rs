//! A service: a host name with ports, addresses and endpoints, whichever kind
//! of object it comes from.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::visibility::ExportTo;
use crate::model::{Kind, Labels, Object, ObjectRef, Resolution, RuleList, TrafficDistribution};

/// A service, as rules and clients know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// The Service or ServiceEntry.
    pub object: ObjectRef,
    /// Which of its hosts this is, counted from 0.
    pub place: usize,
    /// Its full host name; a ServiceEntry with several hosts is several
    /// services.
    pub host: Arc<str>,
    /// `metadata.creationTimestamp` in seconds; `None` counts as the oldest.
    pub created: Option<i64>,
    /// Who sees it.
    pub export: ExportTo,
    /// What it is.
    pub kind: ServiceKind,
    /// Its ports in their written order.
    pub ports: Vec<Port>,
    /// The addresses that it owns: cluster IPs, or the addresses and CIDRs of
    /// a ServiceEntry. A headless service owns those of its endpoints.
    pub addresses: Vec<IpNet>,
    /// Its host has to be resolved for its addresses: a ServiceEntry that has none in its
    /// spec.
    pub by_name: bool,
    /// The addresses that its host resolves to by that. Sorted.
    pub learned: Vec<IpAddr>,
    /// Those that it resolved to until lately: another host's that resolves to one now goes
    /// first. None is among the others. Sorted.
    pub former: Vec<IpAddr>,
    /// A ServiceEntry that says by an annotation that its ports are its own at
    /// every address, and has none in its spec.
    pub claims_port: bool,
    /// A ServiceEntry that leads to this node's gateway what dials a Service's address.
    pub leads_to_gateway: bool,
    /// Only endpoints on the client's node may be used.
    pub local_only: bool,
    /// Which endpoints go first, when no DestinationRule says it.
    pub distribution: Option<TrafficDistribution>,
    /// Why the whole service is left out, when it is: a limit exceeded.
    pub rejected: Option<String>,
}

/// What a service is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ServiceKind {
    /// A Service with (or, in its document, without) cluster addresses.
    Cluster,
    /// A Service with `clusterIP: None`.
    Headless,
    /// Another name for this host.
    ExternalName(Arc<str>),
    /// A ServiceEntry.
    Entry(Resolution),
}

/// A port of a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// The port that clients dial.
    pub number: u16,
    /// Its name; empty when it has none.
    pub name: String,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// A ServiceEntry's `targetPort`, which also overrides the port of its
    /// original destination.
    pub target: Option<u16>,
    /// The endpoints that may be used, sorted by address and port. Two workloads may say one
    /// address and port; a destination has only the first of those that it wants.
    pub endpoints: Vec<ServiceEndpoint>,
    /// The labels, where they are known, of each endpoint that is known but may not be used:
    /// not ready, without address, of a kind that cannot be reached from here.
    pub unusable: Vec<Option<Labels>>,
    /// Endpoints whose names are not resolved to any address: what they will be
    /// resolved to decides.
    pub unresolved: Vec<Unresolved>,
    /// Endpoints that are unix sockets: they have their share of the
    /// connections, which is refused.
    pub sockets: Vec<Socket>,
    /// Its endpoints are what the host resolves to: who dials one of them needs no other.
    pub are_the_host: bool,
}

impl Port {
    /// Whether an endpoint is known that may be used, now or once its name is resolved.
    pub fn has_somebody(&self) -> bool {
        !self.endpoints.is_empty() || !self.unresolved.is_empty()
    }
}

/// An endpoint whose name is not resolved to any address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unresolved {
    /// That name.
    pub name: Arc<str>,
    /// The endpoint's labels, whatever the name will be resolved to.
    pub labels: Labels,
}

/// An endpoint that is a unix socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Socket {
    /// Its labels.
    pub labels: Labels,
    /// Relative to the other endpoints; positive.
    pub weight: u32,
}

/// What is spoken on a port, as far as it decides which rules apply.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Protocol {
    /// Declared as TCP or a protocol that is routed as TCP.
    Tcp,
    /// Not declared: `tcp` rules apply.
    Auto,
    /// HTTP and its kin: only `http` rules would apply.
    Http,
    /// TLS or HTTPS: only `tls` rules apply, by the host that the address stands for.
    Tls,
    /// Not TCP at all.
    Other,
}

impl Protocol {
    /// Which rules apply to the port at connect().
    pub const fn takes(self) -> Option<RuleList> {
        match self {
            Self::Tcp | Self::Auto => Some(RuleList::Tcp),
            Self::Tls => Some(RuleList::Tls),
            Self::Http | Self::Other => None,
        }
    }

    /// How messages call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Auto => "undeclared",
            Self::Http => "HTTP",
            Self::Tls => "TLS",
            Self::Other => "not TCP",
        }
    }
}

/// An endpoint of a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceEndpoint {
    /// Its address.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its labels with those of its topology; `None` when it is no known
    /// workload, so that no labelled subset has it.
    pub labels: Option<Labels>,
    /// The node that it runs on.
    pub node: Option<Arc<str>>,
    /// `region/zone/subzone`, as far as known.
    pub locality: Arc<str>,
    /// Relative to the other endpoints; positive.
    pub weight: u32,
}

impl Service {
    /// One that has nothing yet.
    pub(super) fn new(
        object: &Object,
        (place, host): (usize, Arc<str>),
        export: ExportTo,
        kind: ServiceKind,
    ) -> Self {
        Self {
            object: object.reference(),
            place,
            host,
            created: object.meta.created,
            export,
            kind,
            ports: Vec::new(),
            addresses: Vec::new(),
            by_name: false,
            learned: Vec::new(),
            former: Vec::new(),
            claims_port: false,
            leads_to_gateway: false,
            local_only: false,
            distribution: None,
            rejected: None,
        }
    }

    /// The namespace that it lives in.
    pub fn namespace(&self) -> &Arc<str> {
        &self.object.namespace
    }

    /// Whether its addresses were given to it, rather than named by whoever wrote it.
    pub fn is_allocated(&self) -> bool {
        self.kind == ServiceKind::Cluster
    }

    /// By this services are ordered, the oldest first, then by name and namespace. No two
    /// have the same.
    pub fn age(&self) -> (Option<i64>, &str, &str, Kind, usize) {
        let ObjectRef { kind, namespace, name } = &self.object;
        (self.created, name, namespace, *kind, self.place)
    }

    /// The order in which two of them own one address: first the way to this node's
    /// gateway, which stands before the Service that asks for it; then those that the API
    /// server has given theirs, which nobody takes from them by naming it; then by age.
    pub fn precedence(&self) -> impl Ord + '_ {
        (!self.leads_to_gateway, !self.is_allocated(), self.age())
    }

    /// Whether another one is the same but for its endpoints.
    pub(super) fn is_but_for_endpoints(&self, other: &Self) -> bool {
        let Self {
            object,
            place,
            host,
            created,
            export,
            kind,
            ports,
            addresses,
            // They come and go as endpoints do.
            learned: _,
            former: _,
            by_name,
            claims_port,
            leads_to_gateway,
            local_only,
            distribution,
            rejected,
        } = self;
        let alike = |(one, other): (&Port, &Port)| {
            let Port {
                number,
                name,
                protocol,
                target,
                endpoints: _,
                unusable: _,
                unresolved: _,
                sockets: _,
                are_the_host,
            } = one;
            *number == other.number
                && *name == other.name
                && *protocol == other.protocol
                && *target == other.target
                && *are_the_host == other.are_the_host
        };
        *object == other.object
            && *place == other.place
            && *host == other.host
            && *created == other.created
            && *export == other.export
            && *kind == other.kind
            && ports.len() == other.ports.len()
            && ports.iter().zip(&other.ports).all(alike)
            && *addresses == other.addresses
            && *by_name == other.by_name
            && *claims_port == other.claims_port
            && *leads_to_gateway == other.leads_to_gateway
            && *local_only == other.local_only
            && *distribution == other.distribution
            && *rejected == other.rejected
    }

    /// The TCP port of this number.
    pub fn port(&self, number: u16) -> Option<&Port> {
        self.tcp_ports().find(|port| port.number == number)
    }

    /// Its TCP ports; one of another protocol may have the number of one of them.
    pub fn tcp_ports(&self) -> impl Iterator<Item = &Port> {
        self.ports.iter().filter(|port| port.protocol != Protocol::Other)
    }

    /// The addresses that its name resolves to: its own, or, of a headless one,
    /// those of its endpoints. Those of networks are none.
    pub fn answers(&self) -> Vec<IpAddr> {
        if self.kind == ServiceKind::Headless {
            let endpoints = self.ports.iter().flat_map(|port| &port.endpoints);
            let mut addresses: Vec<IpAddr> = endpoints.map(|endpoint| endpoint.ip).collect();
            addresses.sort_unstable();
            addresses.dedup();
            return addresses;
        }
        self.whole_addresses().chain(self.by_host()).collect()
    }

    /// Those of its addresses that are no networks.
    pub fn whole_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let whole = self.addresses.iter().filter(|net| net.prefix_len() == net.max_prefix_len());
        whole.map(IpNet::addr)
    }

    /// The addresses that its host resolves to, or did until lately, where they are its own.
    pub fn by_host(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.learned.iter().chain(&self.former).copied()
    }

    /// Whether it has its ports at every address: because it has no address of its own, or
    /// because it is asked for; then beside those that were allocated to it.
    pub fn claims_everywhere(&self) -> bool {
        match self.kind {
            // There is nothing else to know its connections by.
            ServiceKind::Entry(Resolution::None) => self.addresses.is_empty(),
            ServiceKind::Entry(Resolution::DynamicDns) => false,
            ServiceKind::Entry(_) => self.claims_port,
            _ => false,
        }
    }

    /// What ServiceEntries of one host have in common that can be one service.
    pub(super) fn pools_by(&self) -> (&Arc<str>, &ServiceKind, &ExportTo, bool) {
        (self.namespace(), &self.kind, &self.export, self.claims_everywhere())
    }

    /// Whether it comes from a ServiceEntry.
    pub fn is_entry(&self) -> bool {
        matches!(self.kind, ServiceKind::Entry(_))
    }
}
