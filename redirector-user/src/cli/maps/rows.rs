//! What `maps --output json` answers.

use std::net::SocketAddr;

use serde::Serialize;

use crate::state::KnownName;

/// The answer; parts that were not asked for are absent.
#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    pub(super) epoch: u64,
    pub(super) side: u32,
    pub(super) generation: u64,
    pub(super) in_step: bool,
    /// Whether the names belong to the generation in the kernel.
    pub(super) named: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sources: Option<Vec<SourceRow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) frontends: Option<Vec<FrontendRow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) classes: Option<Vec<ClassRow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) class_tables: Option<Vec<ClassTableRow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) routes: Option<Vec<RouteRow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) slots: Option<Vec<SlotRow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) destinations: Option<Vec<DestinationRow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) backends: Option<Vec<BackendRow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) counters: Option<CountersRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) gateways: Option<Vec<GatewayRow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) names: Option<Vec<KnownName>>,
}

#[derive(Serialize)]
pub(super) struct SourceRow {
    pub(super) kind: &'static str,
    /// Cgroup id or namespace cookie.
    pub(super) id: u64,
    pub(super) level: Option<u32>,
    /// Where the configuration says that it is.
    pub(super) place: Option<String>,
    pub(super) identity: u32,
    pub(super) workload: Option<String>,
    pub(super) class: u32,
}

#[derive(Serialize)]
pub(super) struct FrontendRow {
    pub(super) prefix: String,
    pub(super) port: u16,
    pub(super) service: Option<String>,
    pub(super) verdict: VerdictRow,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VerdictRow {
    pub(super) verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) route: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) class_table: Option<u32>,
}

#[derive(Serialize)]
pub(super) struct ClassRow {
    pub(super) class: u32,
    pub(super) workloads: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct ClassTableRow {
    pub(super) table: u32,
    pub(super) default: VerdictRow,
    pub(super) exceptions: Vec<ExceptionRow>,
}

#[derive(Serialize)]
pub(super) struct ExceptionRow {
    pub(super) class: u32,
    #[serde(flatten)]
    pub(super) verdict: VerdictRow,
}

#[derive(Serialize)]
pub(super) struct RouteRow {
    pub(super) route: u32,
    pub(super) rule: Option<String>,
    pub(super) legs: Vec<LegRow>,
}

#[derive(Serialize)]
pub(super) struct LegRow {
    pub(super) leg: u32,
    pub(super) destination: u32,
    pub(super) name: Option<String>,
    pub(super) share: f64,
}

#[derive(Serialize)]
pub(super) struct SlotRow {
    pub(super) slot: u32,
    pub(super) route: Option<u32>,
    pub(super) threshold: u32,
    pub(super) alias: u32,
    pub(super) destination: u32,
    pub(super) name: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BackendRow {
    pub(super) destination: u32,
    pub(super) name: Option<String>,
    pub(super) backend: u32,
    pub(super) address: String,
    pub(super) share: f64,
    /// Open connections of this node, where the policy has them counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) connections: Option<u64>,
    /// How much longer it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ejected_seconds: Option<f64>,
    /// Failures that would have had it left out, were they not all of one caller while
    /// others reach it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) withheld: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DestinationRow {
    pub(super) destination: u32,
    pub(super) name: Option<String>,
    pub(super) algorithm: &'static str,
    /// Open connections of this node, where the policy has them counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) connections: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_connections: Option<u32>,
    /// Connections refused because there were as many as may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) limited: Option<u64>,
    /// Of these, the ones whose caller had his share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) limited_by_share: Option<u64>,
    /// Endpoints left out now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ejected: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_ejected: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CountersRow {
    pub(super) routed: u64,
    pub(super) passed: u64,
    pub(super) refused: u64,
    pub(super) unknown_source: u64,
    pub(super) own: u64,
    pub(super) memory_full: u64,
    pub(super) overflowed: u64,
    pub(super) mptcp: u64,
    pub(super) remembered: u64,
    pub(super) legs: Vec<LegCounterRow>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LegCounterRow {
    pub(super) leg: u32,
    pub(super) rule: Option<String>,
    pub(super) destination: Option<String>,
    pub(super) chosen: u64,
    pub(super) refused: u64,
    pub(super) established: u64,
    pub(super) failed: u64,
    pub(super) closed: u64,
    pub(super) handshake_seconds: f64,
}

#[derive(Serialize)]
pub(super) struct GatewayRow {
    pub(super) address: SocketAddr,
    pub(super) gateway: String,
    pub(super) server: u32,
    pub(super) mode: String,
    pub(super) rules: Vec<String>,
}
