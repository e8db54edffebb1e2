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

impl TlsMode {
    /// How it is called where it would change bytes on the wire.
    pub const fn changes_bytes(self) -> Option<&'static str> {
        match self {
            Self::Disable => None,
            Self::Simple => Some("tls mode SIMPLE"),
            Self::Mutual => Some("tls mode MUTUAL"),
            Self::IstioMutual => Some(ISTIO_MUTUAL),
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
    /// The policy of service port `port`: the subset's over the rule's, field by field. On
    /// either level, the settings of the port replace the level as a whole; a subset's replace
    /// those of the rule as well, also where they say nothing.
    pub fn effective(
        rule: Option<&TrafficPolicy>,
        subset: Option<&TrafficPolicy>,
        port: u16,
    ) -> Self {
        let of_port = |policy: &TrafficPolicy| policy.port_level.get(&port).cloned();
        let level = |policy: &TrafficPolicy| match of_port(policy) {
            Some(settings) => Self { settings, ..Self::default() },
            None => Self {
                settings: policy.settings.clone(),
                tunnel: policy.tunnel,
                proxy_protocol: policy.proxy_protocol,
            },
        };
        let base = rule.map(level).unwrap_or_default();
        let over = subset.map(level).unwrap_or_default();
        Self {
            settings: subset.and_then(of_port).unwrap_or(PolicySettings {
                load_balancer: over.settings.load_balancer.or(base.settings.load_balancer),
                tcp_pool: over.settings.tcp_pool.or(base.settings.tcp_pool),
                outlier: over.settings.outlier.or(base.settings.outlier),
                tls: over.settings.tls.or(base.settings.tls),
            }),
            tunnel: over.tunnel || base.tunnel,
            proxy_protocol: over.proxy_protocol.or(base.proxy_protocol),
        }
    }

    /// What it asks for that would change bytes on the wire, which nothing
    /// does in the mesh: connections under such a policy are refused.
    pub fn changes_bytes(&self) -> Option<&'static str> {
        self.changes_bytes_at_gateways().or(self.proxy_protocol.map(|_| "proxyProtocol"))
    }

    /// The same at gateways, which write what goes before the client's bytes.
    pub fn changes_bytes_at_gateways(&self) -> Option<&'static str> {
        let tls = self.settings.tls.and_then(TlsMode::changes_bytes);
        tls.or_else(|| self.tunnel.then_some("tunnel"))
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
    fn settings_of_a_port_replace_their_level_and_the_subset_goes_over_field_by_field() {
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
        subset.port_level.insert(81, PolicySettings::default());
        let effective = Policy::effective(Some(&rule), Some(&subset), 81);
        assert_eq!(effective.settings, PolicySettings::default(), "nor is the rule's");
    }

    #[test]
    fn what_goes_before_the_bytes_is_not_asked_for_by_a_port_and_a_subsets_port_leaves_the_rules() {
        let all = TrafficPolicy {
            tunnel: true,
            proxy_protocol: Some(Version::V2),
            ..TrafficPolicy::default()
        };
        let mut but_one = all.clone();
        but_one.port_level.insert(80, PolicySettings::default());
        let asks = |rule: Option<&_>, subset: Option<&_>, port| {
            let policy = Policy::effective(rule, subset, port);
            (policy.tunnel, policy.proxy_protocol.is_some())
        };
        assert_eq!(asks(Some(&but_one), None, 81), (true, true));
        assert_eq!(asks(Some(&but_one), None, 80), (false, false));
        assert_eq!(asks(None, Some(&but_one), 80), (false, false));
        assert_eq!(asks(Some(&all), Some(&but_one), 80), (true, true));
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
