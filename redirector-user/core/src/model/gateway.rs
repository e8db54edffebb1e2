//! Gateway.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Labels, annotations};
use crate::validate::{durations, subnets};

/// The only version of the PROXY protocol that is spoken.
pub const PROXY_PROTOCOL_V2: &str = "v2";

/// Whether a Gateway's annotations ask for the PROXY protocol.
pub fn speaks_proxy_protocol(annotations: &Labels) -> bool {
    annotations.get(annotations::PROXY_PROTOCOL).is_some_and(|value| value == PROXY_PROTOCOL_V2)
}

/// Longest idle time before a keepalive probe, in seconds, that the kernel takes.
const MAX_KEEPALIVE: u64 = 32_767;

/// What a Gateway's annotations say of those who connect to its servers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Accepting {
    /// Who connects for others, and says so by a PROXY protocol header.
    pub announced_by: Vec<IpNet>,
    /// Most connections of a server at a time.
    pub most: Option<u32>,
    /// Most of them that have one client address.
    pub most_of_client: Option<u32>,
    /// Idle seconds before the first keepalive probe to a client; 0: none are sent.
    pub keepalive: Option<u32>,
}

impl Accepting {
    /// What these annotations say. Where one cannot be read, which decoding refuses, it is
    /// as if it were not there.
    pub fn of(annotations: &Labels) -> Self {
        let mut accepting = Self::default();
        for (name, value) in annotations {
            let _ = accepting.read(name, value);
        }
        accepting
    }

    /// Takes one annotation into account, if it is of those.
    ///
    /// # Errors
    ///
    /// What is wrong with its value.
    pub fn read(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            annotations::ACCEPT_PROXY_PROTOCOL => {
                let words = value.split([',', ' ']).filter(|word| !word.is_empty());
                let subnets = words.map(subnets::parse).collect::<Result<Vec<_>, _>>()?;
                if subnets.is_empty() {
                    return Err("it names nobody".to_owned());
                }
                self.announced_by = subnets;
            }
            annotations::MAX_CONNECTIONS => self.most = Some(count(value)?),
            annotations::MAX_CONNECTIONS_PER_CLIENT => self.most_of_client = Some(count(value)?),
            annotations::CLIENT_KEEPALIVE if value == "off" => self.keepalive = Some(0),
            annotations::CLIENT_KEEPALIVE => {
                let seconds = durations::milliseconds(value, true)? / 1000;
                if !(1..=MAX_KEEPALIVE).contains(&seconds) {
                    return Err(format!("it must be 1s to {MAX_KEEPALIVE}s, or off"));
                }
                self.keepalive = u32::try_from(seconds).ok();
            }
            _ => {}
        }
        Ok(())
    }

    /// The annotations that say something else here than there.
    pub fn differing(&self, other: &Self) -> Vec<&'static str> {
        let differs = [
            (annotations::ACCEPT_PROXY_PROTOCOL, self.announced_by != other.announced_by),
            (annotations::MAX_CONNECTIONS, self.most != other.most),
            (annotations::MAX_CONNECTIONS_PER_CLIENT, self.most_of_client != other.most_of_client),
            (annotations::CLIENT_KEEPALIVE, self.keepalive != other.keepalive),
        ];
        differs.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
    }

    /// Whether this peer says by a PROXY protocol header for whom it connects.
    pub fn is_announced_by(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.announced_by.iter().any(|subnet| subnet.contains(&peer))
    }
}

fn count(value: &str) -> Result<u32, String> {
    let count = value.parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| format!("\"{value}\" is not a whole number from 1 to {}", u32::MAX))
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

impl ServerTls {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passthrough => "PASSTHROUGH",
            Self::Simple => "SIMPLE",
            Self::Mutual => "MUTUAL",
            Self::OptionalMutual => "OPTIONAL_MUTUAL",
            Self::AutoPassthrough => "AUTO_PASSTHROUGH",
            Self::IstioMutual => "ISTIO_MUTUAL",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_annotations_say_of_clients_is_read_and_what_cannot_be_is_told() {
        let read = |name: &str, value: &str| {
            let mut accepting = Accepting::default();
            accepting.read(name, value).map(|()| accepting)
        };
        let trusting = read(annotations::ACCEPT_PROXY_PROTOCOL, "10.0.0.0/8, fd00::/8,192.0.2.1");
        let trusting = trusting.expect("three");
        let trusts = |ip: &str| trusting.is_announced_by(ip.parse().expect("an address"));
        for (ip, expected) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("fd00::1", true),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("11.0.0.0", false),
            ("::1", false),
        ] {
            assert_eq!(trusts(ip), expected, "{ip}");
        }
        assert!(!Accepting::default().is_announced_by([127, 0, 0, 1].into()), "nobody by default");
        let seconds = |value| read(annotations::CLIENT_KEEPALIVE, value).map(|it| it.keepalive);
        assert_eq!(seconds("5m"), Ok(Some(300)));
        assert_eq!(seconds("off"), Ok(Some(0)));
        assert_eq!(read(annotations::MAX_CONNECTIONS, "7").map(|it| it.most), Ok(Some(7)));
        for (name, value) in [
            (annotations::ACCEPT_PROXY_PROTOCOL, ""),
            (annotations::ACCEPT_PROXY_PROTOCOL, "10.0.0.0/8, everybody"),
            (annotations::ACCEPT_PROXY_PROTOCOL, "10.0.0.0/33"),
            (annotations::MAX_CONNECTIONS, "0"),
            (annotations::MAX_CONNECTIONS, "many"),
            (annotations::MAX_CONNECTIONS_PER_CLIENT, "-1"),
            (annotations::CLIENT_KEEPALIVE, "500ms"),
            (annotations::CLIENT_KEEPALIVE, "10h"),
            (annotations::CLIENT_KEEPALIVE, "on"),
        ] {
            assert!(read(name, value).is_err(), "{name}: {value}");
        }
    }
}
