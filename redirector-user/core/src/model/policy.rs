//! Which traffic policy is in force for a port of a subset.

use serde::{Deserialize, Serialize};

use super::{LbAlgorithm, PolicySettings, TlsMode, TrafficPolicy};
use crate::proxy_header::Version;

/// What is asked for by [`TlsMode::IstioMutual`].
pub const ISTIO_MUTUAL: &str = "tls mode ISTIO_MUTUAL";

/// What becomes of connections for which a DestinationRule asks for `ISTIO_MUTUAL`, which
/// the proxies of both sides would speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IstioMutual {
    /// They are refused.
    #[default]
    Refuse,
    /// They go as they are.
    Plain,
}

impl IstioMutual {
    /// What the word says; `None` for one that says nothing.
    pub fn named(word: &str) -> Option<Self> {
        match word {
            "refuse" => Some(Self::Refuse),
            "plain" => Some(Self::Plain),
            _ => None,
        }
    }
}

/// The traffic policy in force for a destination.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Policy {
    /// The settings, field by field from the level that counts.
    pub settings: PolicySettings,
    /// `tunnel` is set.
    pub tunnel: bool,
    /// `proxyProtocol`.
    #[serde(default)]
    pub proxy_protocol: Option<Version>,
}

impl Policy {
    /// The policy of service port `port`: the subset's settings over the
    /// rule's, field by field. On either level, the settings of the port
    /// replace those of the level wholesale.
    pub fn effective(
        rule: Option<&TrafficPolicy>,
        subset: Option<&TrafficPolicy>,
        port: u16,
    ) -> Self {
        let level = |policy: &TrafficPolicy| {
            policy.port_level.get(&port).unwrap_or(&policy.settings).clone()
        };
        let base = rule.map(level).unwrap_or_default();
        let over = subset.map(level).unwrap_or_default();
        let any = |field: fn(&TrafficPolicy) -> bool| {
            rule.is_some_and(field) || subset.is_some_and(field)
        };
        Self {
            settings: PolicySettings {
                load_balancer: over.load_balancer.or(base.load_balancer),
                tcp_pool: over.tcp_pool.or(base.tcp_pool),
                outlier: over.outlier.or(base.outlier),
                tls: over.tls.or(base.tls),
            },
            tunnel: any(|policy| policy.tunnel),
            proxy_protocol: subset
                .and_then(|policy| policy.proxy_protocol)
                .or(rule.and_then(|policy| policy.proxy_protocol)),
        }
    }

    /// What it asks for that would change bytes on the wire, which nothing
    /// does in the mesh: connections under such a policy are refused.
    pub fn changes_bytes(&self) -> Option<&'static str> {
        self.changes_bytes_at_gateways().or(self.proxy_protocol.map(|_| "proxyProtocol"))
    }

    /// The same at gateways, which write what goes before the client's bytes.
    pub fn changes_bytes_at_gateways(&self) -> Option<&'static str> {
        match self.settings.tls {
            Some(TlsMode::Simple) => return Some("tls mode SIMPLE"),
            Some(TlsMode::Mutual) => return Some("tls mode MUTUAL"),
            Some(TlsMode::IstioMutual) => return Some(ISTIO_MUTUAL),
            Some(TlsMode::Disable) | None => {}
        }
        self.tunnel.then_some("tunnel")
    }

    /// The algorithm that is asked for, if any is.
    pub fn algorithm(&self) -> Option<&LbAlgorithm> {
        self.settings.load_balancer.as_ref()?.algorithm.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LoadBalancer, TcpPool};

    fn balance(algorithm: LbAlgorithm) -> Option<LoadBalancer> {
        Some(LoadBalancer { algorithm: Some(algorithm), locality: None })
    }

    #[test]
    fn a_port_level_setting_replaces_its_level_and_the_subset_goes_over_field_by_field() {
        let mut rule = TrafficPolicy::default();
        rule.settings.load_balancer = balance(LbAlgorithm::RoundRobin);
        rule.settings.tcp_pool = Some(TcpPool { max_connections: Some(1), ..TcpPool::default() });
        let port = PolicySettings {
            load_balancer: balance(LbAlgorithm::LeastRequest),
            ..PolicySettings::default()
        };
        rule.port_level.insert(80, port);
        let effective = Policy::effective(Some(&rule), None, 80);
        assert_eq!(effective.algorithm(), Some(&LbAlgorithm::LeastRequest));
        assert_eq!(effective.settings.tcp_pool, None, "nothing is inherited by a port");
        let mut subset = TrafficPolicy::default();
        subset.settings.load_balancer = balance(LbAlgorithm::Random);
        let effective = Policy::effective(Some(&rule), Some(&subset), 81);
        assert_eq!(effective.algorithm(), Some(&LbAlgorithm::Random));
        assert!(effective.settings.tcp_pool.is_some(), "fields of the rule show through");
    }

    #[test]
    fn whatever_would_change_bytes_is_named() {
        let mut policy = TrafficPolicy::default();
        assert_eq!(Policy::effective(Some(&policy), None, 1).changes_bytes(), None);
        policy.settings.tls = Some(TlsMode::Disable);
        assert_eq!(Policy::effective(Some(&policy), None, 1).changes_bytes(), None);
        policy.settings.tls = Some(TlsMode::Mutual);
        assert_eq!(
            Policy::effective(Some(&policy), None, 1).changes_bytes(),
            Some("tls mode MUTUAL")
        );
        let announced =
            |version| TrafficPolicy { proxy_protocol: Some(version), ..TrafficPolicy::default() };
        let (one, two) = (announced(Version::V1), announced(Version::V2));
        let effective = Policy::effective(Some(&one), Some(&two), 1);
        assert_eq!(effective.changes_bytes(), Some("proxyProtocol"));
        assert_eq!(effective.changes_bytes_at_gateways(), None);
        assert_eq!(effective.proxy_protocol, Some(Version::V2), "the subset's goes over");
        assert_eq!(Policy::effective(Some(&one), None, 1).proxy_protocol, Some(Version::V1));
    }
}
