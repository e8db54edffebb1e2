//! VirtualService.

use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Labels, RuleList};
use crate::intern;

/// `networking.istio.io` VirtualService (v1, v1beta1 and v1alpha3 are alike).
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct VirtualService {
    /// As written, not yet completed to full names.
    pub hosts: Vec<String>,
    /// As written; empty means `[mesh]`.
    pub gateways: Vec<String>,
    /// As written; empty means `["*"]`.
    pub export_to: Vec<String>,
    /// The TCP rules in their written order.
    pub tcp: Box<[TcpRule]>,
    /// The TLS (SNI) rules in their written order.
    pub tls: Box<[TlsRule]>,
    /// What can be known of the HTTP rules at L4, in their written order.
    pub http: Box<[HttpRule]>,
}

impl VirtualService {
    /// The weighted destinations of a rule; empty where there is none.
    pub fn route(&self, list: RuleList, index: usize) -> &[RouteDestination] {
        let route = match list {
            RuleList::Tcp => self.tcp.get(index).map(|rule| &rule.route),
            RuleList::Tls => self.tls.get(index).map(|rule| &rule.route),
            RuleList::Http => self.http.get(index).map(|rule| &rule.route),
        };
        route.map_or(&[], |route| route)
    }

    /// The weighted destinations of each rule, list by list in their written order.
    pub fn routes(&self) -> impl Iterator<Item = (RuleList, usize, &[RouteDestination])> {
        let lists = [
            (RuleList::Tcp, self.tcp.len()),
            (RuleList::Tls, self.tls.len()),
            (RuleList::Http, self.http.len()),
        ];
        let rules =
            lists.into_iter().flat_map(|(list, len)| (0..len).map(move |index| (list, index)));
        rules.map(|(list, index)| (list, index, self.route(list, index)))
    }
}

/// An entry of `tcp`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct TcpRule {
    /// Any of these must match; empty matches everything.
    pub matches: Box<[L4Match]>,
    /// The weighted destinations.
    pub route: Box<[RouteDestination]>,
    /// The line in the object's file, counted from 1; 0 when unknown.
    pub line: u32,
}

/// A match block: all set fields must hold.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct L4Match {
    /// Any of these must contain the address dialled; empty matches any
    /// address. Host bits are already masked.
    pub destination_subnets: Vec<IpNet>,
    /// The service port dialled; `None` (also written 0) matches any.
    pub port: Option<u16>,
    /// Each must be equal on the source workload.
    pub source_labels: Labels,
    /// As written, names of gateways or `mesh`; empty matches any.
    pub gateways: Vec<String>,
    /// The source workload's namespace; empty matches any.
    pub source_namespace: String,
    /// Must contain an address of the source workload. Istio ignores it.
    pub source_subnet: Option<IpNet>,
}

/// A weighted destination.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct RouteDestination {
    /// As written, not yet completed to a full name.
    #[serde(deserialize_with = "intern::read")]
    pub host: Arc<str>,
    /// The subset, if one is named.
    pub subset: Option<String>,
    /// `destination.port.number`.
    pub port: Option<u16>,
    /// Absent is zero; a sole destination gets everything whatever it says.
    pub weight: u32,
}

/// An entry of `tls`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct TlsRule {
    /// Any of these must match; validation asks for at least one.
    pub matches: Box<[TlsMatch]>,
    /// The weighted destinations.
    pub route: Box<[RouteDestination]>,
    /// The line in the object's file, counted from 1; 0 when unknown.
    pub line: u32,
}

/// A match block of a TLS rule.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct TlsMatch {
    /// Any of these must cover the server name of the ClientHello.
    pub sni_hosts: Vec<String>,
    /// The conditions that it shares with TCP rules.
    pub l4: L4Match,
}

/// What can be known of an HTTP rule at L4.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct HttpRule {
    /// Whether it has a non-empty `match`.
    pub has_match: bool,
    /// The ports that its matches ask for; none where one of them does not ask, or there is
    /// no match.
    #[serde(default)]
    pub ports: Box<[u16]>,
    /// Names of the fields, other than `match`, `route` and `name`, that only
    /// mean something at L7 (`retries`, `fault`, `headers` of a destination
    /// and so on).
    pub l7_fields: Vec<String>,
    /// The weighted destinations.
    pub route: Box<[RouteDestination]>,
    /// The line in the object's file, counted from 1; 0 when unknown.
    pub line: u32,
}
