//! DestinationRule and its traffic policies.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::Labels;
use crate::proxy_header::Version;

/// `networking.istio.io` DestinationRule.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct DestinationRule {
    /// As written, not yet completed to a full name.
    pub host: String,
    /// The rule-level policy.
    pub traffic_policy: Option<Box<TrafficPolicy>>,
    /// The subsets in their written order.
    pub subsets: Vec<Subset>,
    /// As written; empty means `["*"]`.
    pub export_to: Vec<String>,
    /// `workloadSelector.matchLabels`: the clients that the rule is for.
    pub workload_selector: Option<Labels>,
}

/// A named part of a host's endpoints.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Subset {
    /// Its name.
    pub name: String,
    /// An endpoint belongs to it when it carries all of these.
    pub labels: Labels,
    /// Goes over the rule-level policy field by field.
    pub traffic_policy: Option<TrafficPolicy>,
}

/// `trafficPolicy`, with its port-level settings.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(from = "WrittenPolicy")]
pub struct TrafficPolicy {
    /// The fields that port-level settings also have.
    #[serde(flatten)]
    pub settings: PolicySettings,
    /// By service port; replaces its own level as a whole, what ports cannot have included.
    pub port_level: BTreeMap<u16, PolicySettings>,
    /// `tunnel` is set: it would change bytes on the wire.
    pub tunnel: bool,
    /// `proxyProtocol`: endpoints are told the client first, which only a gateway does.
    pub proxy_protocol: Option<Version>,
}

impl TrafficPolicy {
    /// The same, where what asks for ISTIO_MUTUAL asks for nothing.
    pub fn without_istio_mutual(&self) -> Self {
        let mut plain = self.clone();
        for settings in plain.port_level.values_mut().chain([&mut plain.settings]) {
            if settings.tls == Some(TlsMode::IstioMutual) {
                settings.tls = Some(TlsMode::Disable);
            }
        }
        plain
    }
}

/// A traffic policy as it is written, read without a detour: see [`crate::stored`].
#[derive(Deserialize)]
struct WrittenPolicy {
    load_balancer: Option<LoadBalancer>,
    tcp_pool: Option<TcpPool>,
    outlier: Option<OutlierDetection>,
    tls: Option<TlsMode>,
    port_level: BTreeMap<u16, PolicySettings>,
    tunnel: bool,
    #[serde(deserialize_with = "version")]
    proxy_protocol: Option<Version>,
}

/// Once only whether it was set was written, as JSON.
fn version<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Version>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Whether(bool),
        Which(Option<Version>),
    }
    if !from.is_human_readable() {
        return Option::deserialize(from);
    }
    Ok(match Written::deserialize(from)? {
        Written::Whether(set) => set.then_some(Version::V1),
        Written::Which(version) => version,
    })
}

impl From<WrittenPolicy> for TrafficPolicy {
    fn from(written: WrittenPolicy) -> Self {
        Self {
            settings: PolicySettings {
                load_balancer: written.load_balancer,
                tcp_pool: written.tcp_pool,
                outlier: written.outlier,
                tls: written.tls,
            },
            port_level: written.port_level,
            tunnel: written.tunnel,
            proxy_protocol: written.proxy_protocol,
        }
    }
}

/// The part of a traffic policy that exists for the whole and per port.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct PolicySettings {
    /// `loadBalancer`.
    pub load_balancer: Option<LoadBalancer>,
    /// `connectionPool.tcp`.
    pub tcp_pool: Option<TcpPool>,
    /// `outlierDetection`.
    pub outlier: Option<OutlierDetection>,
    /// `tls.mode`.
    pub tls: Option<TlsMode>,
}

/// `tls.mode` of a traffic policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named as in the API")]
pub enum TlsMode {
    Disable,
    Simple,
    Mutual,
    IstioMutual,
}

/// `loadBalancer`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct LoadBalancer {
    /// `simple` or `consistentHash`; `None` when neither is set.
    pub algorithm: Option<LbAlgorithm>,
    /// `localityLbSetting`.
    pub locality: Option<LocalitySetting>,
}

/// How an endpoint is chosen.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum LbAlgorithm {
    /// `UNSPECIFIED`: the default.
    Unspecified,
    /// `RANDOM`.
    Random,
    /// `ROUND_ROBIN`.
    RoundRobin,
    /// `LEAST_REQUEST`, or its old name `LEAST_CONN`.
    LeastRequest,
    /// `PASSTHROUGH`: the original destination.
    Passthrough,
    /// `consistentHash.useSourceIp: true`.
    SourceIp {
        /// `maglev.tableSize`, when the Maglev hash is asked for.
        maglev: Option<u64>,
        /// `ringHash.minimumRingSize`.
        ring: Option<u64>,
    },
    /// `consistentHash` on something that only exists at L7; its field name.
    L7Hash(String),
}

/// `localityLbSetting`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct LocalitySetting {
    /// `enabled`.
    pub enabled: Option<bool>,
    /// `distribute`: from a locality, to localities with their percentages.
    pub distribute: Vec<(String, BTreeMap<String, u32>)>,
    /// `failover`: from a region to a region.
    pub failover: Vec<(String, String)>,
    /// `failoverPriority`.
    pub failover_priority: Vec<String>,
}

/// `connectionPool.tcp`. Durations are in milliseconds.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TcpPool {
    /// `maxConnections`; 0 means the default, which is no limit.
    pub max_connections: Option<u32>,
    /// `connectTimeout`.
    pub connect_timeout_ms: Option<u64>,
    /// `maxConnectionDuration`.
    pub max_duration_ms: Option<u64>,
    /// `idleTimeout`; 0 switches it off.
    pub idle_timeout_ms: Option<u64>,
    /// `tcpKeepalive`.
    pub keepalive: Option<Keepalive>,
}

/// `tcpKeepalive`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Keepalive {
    /// Unanswered probes before the connection is given up.
    pub probes: Option<u32>,
    /// Idle time before the first probe, in milliseconds.
    pub time_ms: Option<u64>,
    /// Time between probes, in milliseconds.
    pub interval_ms: Option<u64>,
}

/// `outlierDetection`. Durations are in milliseconds.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct OutlierDetection {
    /// `consecutive5xxErrors`; connect failures count.
    pub consecutive_5xx: Option<u32>,
    /// `consecutiveGatewayErrors`; connect failures count.
    pub consecutive_gateway: Option<u32>,
    /// `splitExternalLocalOriginErrors`.
    pub split_local_origin: bool,
    /// `consecutiveLocalOriginFailures`.
    pub consecutive_local_origin: Option<u32>,
    /// `interval`.
    pub interval_ms: Option<u64>,
    /// `baseEjectionTime`.
    pub base_ejection_ms: Option<u64>,
    /// `maxEjectionPercent`.
    pub max_ejection_percent: Option<u32>,
    /// `minHealthPercent`.
    pub min_health_percent: Option<u32>,
}
