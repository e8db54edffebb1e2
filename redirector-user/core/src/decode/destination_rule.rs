//! DestinationRule.

use std::collections::{BTreeMap, BTreeSet};

use super::common::{self, Exporter, check, required};
use super::cursor::{At, Fields};
use super::load_balancer::load_balancer;
use super::route::subset_name;
use crate::diag::codes::{admission, differences, l7};
use crate::diag::{Code, Diagnostic};
use crate::model::{
    DestinationRule, Keepalive, LbAlgorithm, OutlierDetection, PolicySettings, Subset, TcpPool,
    TlsMode, TrafficPolicy,
};
use crate::proxy_header::Version;
use crate::validate::names;
use crate::yaml::Value;

pub(super) fn destination_rule(root: &Fields<'_>, namespace: &str) -> DestinationRule {
    let known = &["host", "trafficPolicy", "subsets", "exportTo", "workloadSelector"];
    let Some(spec) = common::spec(root, "DestinationRule", known) else {
        return DestinationRule::default();
    };
    let mut rule = DestinationRule { host: spec.text("host"), ..DestinationRule::default() };
    match spec.get("host") {
        None => required(&spec, "host", "the host of the DestinationRule"),
        Some(at) if at.node.as_str().is_some() => {
            check(&at, &admission::BAD_HOST, names::wildcard_domain(&rule.host));
        }
        Some(_) => {}
    }
    rule.traffic_policy =
        spec.get("trafficPolicy").and_then(|at| traffic_policy(&at)).map(Box::new);
    let mut seen = BTreeSet::new();
    for at in spec.items("subsets") {
        let Some(fields) = at.fields(&["name", "labels", "trafficPolicy"]) else { continue };
        let name = fields.text("name");
        match fields.get("name") {
            Some(at) if !name.is_empty() => subset_name(&at, &name),
            Some(at) if at.node.as_str().is_none() => {}
            _ => required(&fields, "name", "the name of the subset"),
        }
        if !name.is_empty() && !seen.insert(name.clone()) {
            fields.place("name").complain(
                &admission::DUPLICATE_SUBSET,
                format!("the subset \"{name}\" stands twice"),
            );
        }
        rule.subsets.push(Subset {
            name,
            labels: common::legal_labels(&fields, "labels"),
            traffic_policy: fields.get("trafficPolicy").and_then(|at| traffic_policy(&at)),
        });
    }
    rule.workload_selector = spec.get("workloadSelector").map(|at| {
        common::selector(&at, "matchLabels", "the rule is for every workload of the namespace")
    });
    let exporter = match rule.workload_selector {
        Some(_) => Exporter::RuleWithSelector,
        None => Exporter::Rule,
    };
    rule.export_to = common::export_to(&spec, namespace, exporter);
    rule
}

fn traffic_policy(at: &At<'_>) -> Option<TrafficPolicy> {
    let fields = at.fields(&[
        "loadBalancer",
        "connectionPool",
        "outlierDetection",
        "tls",
        "portLevelSettings",
        "tunnel",
        "proxyProtocol",
        "retryBudget",
    ])?;
    // retryBudget alone does not count, in Istio either.
    let counted = ["loadBalancer", "connectionPool", "outlierDetection", "tls", "tunnel"];
    let rest = ["portLevelSettings", "proxyProtocol"];
    let absent = |name: &str| match fields.get(name) {
        None => true,
        // An empty list is no setting.
        Some(at) => matches!(&at.node.value, Value::List(items) if items.is_empty()),
    };
    if counted.iter().chain(&rest).all(|name| absent(name)) {
        at.complain(&admission::EMPTY_POLICY, "the traffic policy sets nothing");
        return None;
    }
    let mut policy = TrafficPolicy {
        settings: settings(&fields, None),
        port_level: BTreeMap::new(),
        tunnel: fields.get("tunnel").is_some(),
        proxy_protocol: fields.get("proxyProtocol").map(|at| version(&at)),
    };
    if policy.tunnel && policy.proxy_protocol.is_some() {
        at.complain(&admission::CLIENT_TLS, "tunnel and proxyProtocol exclude each other");
    }
    tunnel(&fields);
    if let Some(at) = fields.get("tunnel") {
        changes_bytes(&at, "tunnel", None);
    }
    if let Some(at) = fields.get("retryBudget") {
        ignored(&at, "retryBudget");
    }
    for at in fields.items("portLevelSettings") {
        let Some(fields) =
            at.fields(&["port", "loadBalancer", "connectionPool", "outlierDetection", "tls"])
        else {
            continue;
        };
        let Some(selector) = fields.get("port") else {
            required(&fields, "port", "the port of the setting");
            continue;
        };
        if ["loadBalancer", "connectionPool", "outlierDetection", "tls"]
            .iter()
            .all(|name| fields.get(name).is_none())
        {
            at.complain(&admission::EMPTY_POLICY, "the setting of the port sets nothing");
        }
        // Istio does not look at the number; what is no port concerns none.
        let number = selector.fields(&["number"]).and_then(|port| port.get("number")?.integer());
        let port = number.and_then(|number| u16::try_from(number).ok());
        let settings = settings(&fields, port);
        let balancer = settings.load_balancer.as_ref();
        if balancer.is_some_and(|one| matches!(one.algorithm, Some(LbAlgorithm::SourceIp { .. }))) {
            fields.place("loadBalancer").complain(
                &differences::PORT_HASH,
                "here useSourceIp holds for the port; Istio chooses at random",
            );
        }
        if let Some(port) = port {
            policy.port_level.insert(port, settings);
        }
    }
    Some(policy)
}

/// The version of a `proxyProtocol`; the first where none is written, as in Istio.
fn version(at: &At<'_>) -> Version {
    let written =
        at.fields(&["version"]).and_then(|proxy| proxy.get("version")?.one_of(&["V1", "V2"]));
    if written == Some(1) { Version::V2 } else { Version::V1 }
}

/// Warns of a setting that would change bytes on the wire, of all ports or of one.
fn changes_bytes(at: &At<'_>, what: &str, port: Option<u16>) {
    let port = port.map(|port| format!(" to port {port}")).unwrap_or_default();
    at.report(
        Diagnostic::new(
            &l7::CHANGES_BYTES,
            format!(
                "{what} would change bytes on the wire: shares{port} under this policy are refused"
            ),
        )
        .help("remove it, or let a proxy serve the destination"),
    );
}

/// Warns of a setting that only means something at L7.
fn ignored(at: &At<'_>, what: &str) {
    at.complain(&l7::IGNORED_POLICY, format!("{what} only means something at L7: it is ignored"));
}

fn tunnel(fields: &Fields<'_>) {
    let Some(tunnel) =
        fields.get("tunnel").and_then(|at| at.fields(&["protocol", "targetHost", "targetPort"]))
    else {
        return;
    };
    let complain =
        |name: &str, message: String| tunnel.place(name).complain(&admission::CLIENT_TLS, message);
    let protocol = tunnel.text("protocol");
    if !matches!(protocol.as_str(), "" | "CONNECT" | "POST") {
        complain("protocol", format!("\"{protocol}\" is neither CONNECT nor POST"));
    }
    let host = tunnel.text("targetHost");
    if names::fqdn(&host).is_err() && !names::is_ip(&host) {
        complain("targetHost", format!("\"{host}\" is neither a host name nor an IP address"));
    }
    let port = tunnel.get("targetPort").and_then(|at| at.integer()).unwrap_or(0);
    if !(1..=65535).contains(&port) {
        complain("targetPort", format!("port {port} is not in the range 1 to 65535"));
    }
}

fn settings(fields: &Fields<'_>, port: Option<u16>) -> PolicySettings {
    let outlier = fields.get("outlierDetection").and_then(|at| outlier(&at));
    PolicySettings {
        load_balancer: fields
            .get("loadBalancer")
            .and_then(|at| load_balancer(&at, fields.get("outlierDetection").is_some())),
        tcp_pool: fields.get("connectionPool").and_then(|at| pool(&at)),
        outlier,
        tls: fields.get("tls").and_then(|at| tls(&at, port)),
    }
}

fn pool(at: &At<'_>) -> Option<TcpPool> {
    let fields = at.fields(&["tcp", "http"])?;
    if fields.get("tcp").is_none() && fields.get("http").is_none() {
        at.complain(&admission::EMPTY_POLICY, "the connection pool sets nothing");
    }
    http_pool(&fields);
    if let Some(at) = fields.get("http") {
        ignored(&at, "connectionPool.http");
    }
    let tcp = fields.get("tcp")?.fields(&[
        "maxConnections",
        "connectTimeout",
        "tcpKeepalive",
        "maxConnectionDuration",
        "idleTimeout",
    ])?;
    for name in ["connectTimeout", "idleTimeout", "maxConnectionDuration"] {
        if let Some(at) = tcp.get(name) {
            at.complain(
                &differences::GATEWAY_ONLY_TIMEOUT,
                format!("{name} takes effect at gateways only"),
            );
        }
    }
    Some(TcpPool {
        max_connections: common::count(&tcp, "maxConnections"),
        connect_timeout_ms: common::duration(&tcp, "connectTimeout", false),
        max_duration_ms: common::duration(&tcp, "maxConnectionDuration", false),
        idle_timeout_ms: common::duration(&tcp, "idleTimeout", true),
        keepalive: tcp.get("tcpKeepalive").and_then(|at| {
            let fields = at.fields(&["probes", "time", "interval"])?;
            Some(Keepalive {
                probes: common::unsigned(&fields, "probes"),
                time_ms: common::duration(&fields, "time", false),
                interval_ms: common::duration(&fields, "interval", false),
            })
        }),
    })
}

fn http_pool(fields: &Fields<'_>) {
    let Some(http) = fields.get("http").and_then(|at| {
        at.fields(&[
            "http1MaxPendingRequests",
            "http2MaxRequests",
            "maxRequestsPerConnection",
            "maxRetries",
            "idleTimeout",
            "h2UpgradePolicy",
            "useClientProtocol",
            "maxConcurrentStreams",
        ])
    }) else {
        return;
    };
    for name in [
        "http1MaxPendingRequests",
        "http2MaxRequests",
        "maxRequestsPerConnection",
        "maxRetries",
        "maxConcurrentStreams",
    ] {
        common::count(&http, name);
    }
    common::duration(&http, "idleTimeout", true);
    let upgrade = http
        .get("h2UpgradePolicy")
        .and_then(|at| at.one_of(&["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"]));
    if upgrade == Some(2) && http.flag("useClientProtocol") {
        http.place("useClientProtocol").complain(
            &admission::BAD_NUMBER,
            "useClientProtocol and h2UpgradePolicy UPGRADE exclude each other",
        );
    }
}

fn outlier(at: &At<'_>) -> Option<OutlierDetection> {
    let fields = at.fields(&[
        "consecutiveErrors",
        "splitExternalLocalOriginErrors",
        "consecutiveLocalOriginFailures",
        "consecutiveGatewayErrors",
        "consecutive5xxErrors",
        "outlierDetectionHttpErrorCodes",
        "interval",
        "baseEjectionTime",
        "maxEjectionPercent",
        "minHealthPercent",
    ])?;
    let detection = OutlierDetection {
        consecutive_5xx: common::unsigned(&fields, "consecutive5xxErrors"),
        consecutive_gateway: common::unsigned(&fields, "consecutiveGatewayErrors"),
        split_local_origin: fields.flag("splitExternalLocalOriginErrors"),
        consecutive_local_origin: common::unsigned(&fields, "consecutiveLocalOriginFailures"),
        interval_ms: common::duration(&fields, "interval", false),
        base_ejection_ms: common::duration(&fields, "baseEjectionTime", false),
        max_ejection_percent: common::percent(&fields, "maxEjectionPercent"),
        min_health_percent: common::percent(&fields, "minHealthPercent"),
    };
    if let Some(at) = fields.get("outlierDetectionHttpErrorCodes") {
        ignored(&at, "outlierDetectionHttpErrorCodes");
    }
    if let Some(at) = fields.get("consecutiveErrors")
        && at.integer().is_some_and(|value| value != 0)
    {
        at.report(
            Diagnostic::new(&admission::DEPRECATED, "consecutiveErrors is deprecated")
                .help("write consecutive5xxErrors or consecutiveGatewayErrors"),
        );
    }
    if !detection.split_local_origin
        && detection.consecutive_local_origin.is_some_and(|failures| failures > 0)
    {
        fields.place("consecutiveLocalOriginFailures").report(
            Diagnostic::new(
                &admission::BAD_OUTLIER,
                "consecutiveLocalOriginFailures needs splitExternalLocalOriginErrors",
            )
            .help("add splitExternalLocalOriginErrors: true"),
        );
    }
    Some(detection)
}

fn tls(at: &At<'_>, port: Option<u16>) -> Option<TlsMode> {
    let fields = at.fields(&[
        "mode",
        "clientCertificate",
        "privateKey",
        "caCertificates",
        "credentialName",
        "subjectAltNames",
        "sni",
        "insecureSkipVerify",
        "caCrl",
    ])?;
    let modes = ["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"];
    let mode = match fields.get("mode").and_then(|at| at.one_of(&modes)) {
        Some(1) => TlsMode::Simple,
        Some(2) => TlsMode::Mutual,
        Some(3) => TlsMode::IstioMutual,
        _ => TlsMode::Disable,
    };
    if let Some(what) = mode.changes_bytes() {
        changes_bytes(at, what, port);
    }
    let code: &'static Code = &admission::CLIENT_TLS;
    let set = |name: &str| fields.string(name).is_some_and(|text| !text.is_empty());
    let names = fields.get("subjectAltNames").is_some();
    if fields.flag("insecureSkipVerify") {
        let excluded = match mode {
            TlsMode::Simple => set("caCertificates") || set("credentialName") || names,
            TlsMode::Mutual => set("caCertificates") || names,
            TlsMode::Disable | TlsMode::IstioMutual => false,
        };
        if excluded {
            at.complain(code, "insecureSkipVerify excludes certificates and names to verify");
        }
    }
    let with_files = matches!(mode, TlsMode::Simple | TlsMode::Mutual);
    if with_files && set("credentialName") {
        for name in ["clientCertificate", "caCertificates", "privateKey", "caCrl"] {
            if set(name) {
                fields.place(name).complain(code, format!("credentialName excludes {name}"));
            }
        }
    } else if mode == TlsMode::Mutual {
        for name in ["clientCertificate", "privateKey"] {
            if !set(name) {
                at.complain(code, format!("mode MUTUAL needs {name} or credentialName"));
            }
        }
    }
    Some(mode)
}
