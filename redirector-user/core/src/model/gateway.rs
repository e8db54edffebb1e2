//! Gateway.

use serde::{Deserialize, Serialize};

use super::{Labels, annotations};

/// The only version of the PROXY protocol that is spoken.
pub const PROXY_PROTOCOL_V2: &str = "v2";

/// Whether a Gateway's annotations ask for the PROXY protocol.
pub fn speaks_proxy_protocol(annotations: &Labels) -> bool {
    annotations.get(annotations::PROXY_PROTOCOL).is_some_and(|value| value == PROXY_PROTOCOL_V2)
}

/// `networking.istio.io` Gateway.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Gateway {
    /// The workloads, in all namespaces, that serve it; `None` or empty: every
    /// gateway workload.
    pub selector: Option<Labels>,
    /// Its servers in their written order.
    pub servers: Vec<Server>,
}

/// A server of a Gateway.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Server {
    /// `port.number`; 0 only for a unix socket.
    pub port: u16,
    /// `port.name`.
    pub port_name: String,
    /// `port.protocol`, in upper case.
    pub protocol: String,
    /// `bind`: an address, or the path of a unix socket.
    pub bind: Option<String>,
    /// As written: names with an optional `namespace/` before them.
    pub hosts: Vec<String>,
    /// `tls.mode`, when `tls` is set.
    pub tls: Option<ServerTls>,
    /// The line in the object's file, counted from 1; 0 when unknown.
    pub line: u32,
}

/// `tls.mode` of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named as in the API")]
pub enum ServerTls {
    Passthrough,
    Simple,
    Mutual,
    OptionalMutual,
    AutoPassthrough,
    IstioMutual,
}
