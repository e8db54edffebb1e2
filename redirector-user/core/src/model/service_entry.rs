//! ServiceEntry and WorkloadEntry.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Labels;

/// `networking.istio.io` ServiceEntry.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ServiceEntry {
    /// Its host names.
    pub hosts: Vec<String>,
    /// Its addresses; a bare address is a prefix of full length.
    pub addresses: Vec<IpNet>,
    /// Its ports.
    pub ports: Vec<EntryPort>,
    /// How endpoints are found.
    pub resolution: Resolution,
    /// Endpoints given in place.
    pub endpoints: Vec<WorkloadEntry>,
    /// `workloadSelector.labels`: WorkloadEntries and Pods of its namespace.
    pub workload_selector: Option<Labels>,
    /// As written; empty means `["*"]`.
    pub export_to: Vec<String>,
    /// `status.addresses`: what a cluster allocated to its hosts; no host stands for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allocated: Vec<(Option<String>, IpAddr)>,
    /// It leads those who dial the address of a Service to the gateway that this node
    /// serves for it. No document says so: an agent makes such entries itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leads_to_gateway: bool,
}

impl ServiceEntry {
    /// Whether it says what its endpoints are: some are written down, or selected.
    pub fn has_own_endpoints(&self) -> bool {
        !self.endpoints.is_empty() || self.workload_selector.is_some()
    }

    /// What a cluster allocated to one of its hosts.
    pub fn allocated_to<'e>(&'e self, host: &'e str) -> impl Iterator<Item = &'e IpAddr> {
        let those = self.allocated.iter();
        let those = those.filter(move |(of, _)| of.as_deref().is_none_or(|of| of == host));
        those.map(|(_, ip)| ip)
    }
}

/// A port of a ServiceEntry.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct EntryPort {
    /// `number`.
    pub number: u16,
    /// `name`.
    pub name: String,
    /// `protocol`, in upper case; empty when absent.
    pub protocol: String,
    /// `targetPort`.
    pub target_port: Option<u16>,
}

/// `resolution` of a ServiceEntry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Resolution {
    /// The original destination.
    #[default]
    None,
    /// Endpoints are addresses.
    Static,
    /// All addresses that the endpoints' names (or the host) resolve to.
    Dns,
    /// The first address that the name resolves to.
    DnsRoundRobin,
    /// By SNI or Host header: nothing for plain TCP.
    DynamicDns,
}

/// `networking.istio.io` WorkloadEntry, and the endpoints of a ServiceEntry.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WorkloadEntry {
    /// An address, a name, or `unix://` and a path.
    pub address: String,
    /// Port numbers by the name of a service port.
    pub ports: BTreeMap<String, u16>,
    /// Labels of the workload.
    pub labels: Labels,
    /// `network`.
    pub network: String,
    /// `locality`.
    pub locality: String,
    /// `weight`; absent or 0 counts as 1.
    pub weight: u32,
}
