//! Everything that is exported: names, kinds, labels. What is made of them (a
//! dashboard, alerts, the page in docs/) is held to this list by tests.

/// What a family's values are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only grows, but for a restart.
    Counter,
    /// Counts by size: `_bucket` (with the label `le`), `_sum` and `_count`.
    Histogram,
}

impl Kind {
    /// As the text format calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
        }
    }
}

/// A family of series.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Its name, behind [`PREFIX`].
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// The labels that each of its series has.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

/// What every name begins with.
pub const PREFIX: &str = "redirector_";

/// The family of this name.
pub fn family(name: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.name == name)
}

const NONE: &[&str] = &[];
const LEG: &[&str] = &["route", "destination", "subset"];
const DESTINATION: &[&str] = &["destination", "subset", "family"];
const LEG_REASON: &[&str] = &["route", "destination", "subset", "reason"];
const LISTENER_REASON: &[&str] = &["gateway", "address", "reason"];
const LISTENER: &[&str] = &["gateway", "address"];

macro_rules! families {
    ($($kind:ident $name:literal $labels:expr, $help:literal;)*) => {
        /// All families, in the order in which they are exported.
        pub static FAMILIES: &[Family] = &[
            $(Family { name: $name, kind: Kind::$kind, labels: $labels, help: $help },)*
        ];
    };
}

families! {
    Gauge "build_info" &["version"], "1, and the daemon's version";
    Gauge "config_generation" NONE, "Generation of the configuration in force";
    Gauge "config_age_seconds" NONE, "Time since the configuration came in force";
    Gauge "rejected_documents" NONE, "Documents that are not in force";
    Gauge "refused_object" &["object", "in_force"],
        "1 for each object whose newest version is refused; in_force: a digest of the version that \
         is, or none";
    Gauge "config_warnings" NONE, "Warnings about what is in force";
    Gauge "emptied_shares" NONE, "Shares in force that had an endpoint and have none now";
    Gauge "names" NONE, "Names of ServiceEntries that are resolved, or that should be";
    Gauge "unresolved_names" NONE, "Names that do not resolve, where endpoints or addresses depend on it";
    Counter "name_failures_total" NONE, "Lookups of names that have failed";
    Gauge "oldest_kept_answer_seconds" NONE,
        "Age of the oldest answer that stays in force since its name does not resolve any more";
    Gauge "name_addresses" &["name"],
        "Addresses that a name resolves to, by its last good answer";
    Gauge "name_unresolved" &["name"], "1 while a name does not resolve";
    Gauge "name_answer_age_seconds" &["name"],
        "Time since a name was answered for, or since it has failed where it never was";
    Gauge "identity_gaps" NONE, "Workloads whose processes cannot be told";
    Histogram "pod_known_seconds" &["expected"],
        "Time from seeing a pod's new cgroup to its entry in the kernel's table; expected: the API \
         server had told of the pod before";
    Counter "pods_foreseen_total" NONE,
        "Pods that were known by what the rules ask of them, before they were compiled";
    Gauge "waiting_changes" NONE, "Changes that were seen and are not in force";
    Gauge "oldest_waiting_change_seconds" NONE, "For how long the oldest of them has waited";
    Histogram "change_seconds" &["kind"],
        "Time from seeing a change to its being in force, by kind of object; File where files are read";
    Gauge "rollback_held" NONE, "1 while an earlier configuration is held";
    Gauge "bypassed" NONE, "Workloads and rules that are left alone";
    Gauge "self_test_failures" NONE, "Self-tests that found programs not effective";
    Gauge "apply_failed" NONE, "1 while the newest configuration could not be put in force";
    Gauge "state_failed" NONE, "1 while the state directory cannot be written";
    Counter "drift_total" NONE, "Times that the kernel differed and was mended";
    Counter "compile_drift_total" NONE,
        "Times that what is kept from change to change differed from the same compiled anew, and was mended";
    Gauge "draining_endpoints" NONE, "Endpoints that have gone and drain";
    Counter "connections_reset_total" NONE,
        "Connections to endpoints that have gone, reset when their time was over";
    Gauge "drain_failed" NONE, "1 while connections to endpoints that have gone cannot be reset";
    Gauge "watch_up" &["resource"], "1 while a watch of the API server works";
    Counter "watch_drift_total" NONE, "Objects that differed from a fresh list";
    Gauge "map_fill_ratio" &["map"], "Entries of a table in relation to its size";
    Gauge "tables_fixed" NONE, "1 when the tables may not grow (--fixed-sizes)";
    Counter "decisions_total" &["outcome"],
        "Connections to addresses that are served here; among the refused are the self-test's own";
    Counter "unknown_source_total" NONE,
        "Decisions that asked for the source of a caller in no known workload";
    Counter "memory_full_total" NONE,
        "Connections routed and not remembered: getpeername shows the endpoint";
    Gauge "remembered_connections" NONE,
        "Connections whose dialled address is remembered, also by earlier versions";
    Gauge "metrics_in_other" NONE,
        "Label sets that are counted together as \"other\" (--metrics-limit)";
    Counter "connections_total" LEG, "Connections sent to a destination";
    Counter "refused_total" LEG,
        "Connections refused: the destination has no endpoint, or its most connections";
    Counter "established_total" LEG, "Handshakes completed (with --accounting)";
    Counter "failures_total" LEG, "Connections that ended without a handshake (with --accounting)";
    Counter "sent_bytes_total" LEG, "Bytes sent by connections that have ended (with --accounting)";
    Counter "received_bytes_total" LEG,
        "Bytes received by connections that have ended (with --accounting)";
    Gauge "active_connections" LEG, "Connections established and not ended (with --accounting)";
    Histogram "handshake_seconds" LEG,
        "Time from connect to the end of the handshake (with --accounting)";
    Gauge "endpoints" DESTINATION, "Endpoints of a destination";
    Gauge "policy_connections" DESTINATION,
        "Open connections that count towards maxConnections or LEAST_REQUEST";
    Counter "limited_total" DESTINATION, "Connections refused because of maxConnections";
    Gauge "ejected_endpoints" DESTINATION, "Endpoints left out by outlierDetection";
    Counter "withheld_ejections_total" DESTINATION,
        "Failures that would have had an endpoint left out, were they not all of one caller";
    Counter "gateway_relay_restarts_total" NONE,
        "Processes that relay that took the place of one that had ended or did not answer";
    Counter "gateway_relay_cut_total" NONE, "Connections that were cut by that";
    Counter "gateway_access_log_dropped_total" NONE,
        "Lines of the access log that were dropped, because nobody took them";
    Gauge "gateway_servers_unserved" NONE, "Servers of Gateways that are not served";
    Gauge "gateway_listening" LISTENER, "Whether a gateway's address is listened on";
    Counter "gateway_accepted_total" LISTENER, "Connections accepted";
    Gauge "gateway_active_connections" LISTENER, "Connections open now";
    Counter "gateway_refused_total" LISTENER_REASON, "Connections refused";
    Counter "gateway_failed_total" LISTENER,
        "Connections for which no endpoint was reached";
    Counter "gateway_looped_total" LISTENER, "Connections whose route led back";
    Counter "gateway_starved_total" LISTENER,
        "Times that accepting paused for want of descriptors or memory";
    Counter "gateway_connections_total" LEG, "Connections given to a destination";
    Gauge "gateway_destination_active" LEG, "Connections to a destination open now";
    Counter "gateway_retries_total" LEG, "Attempts at another endpoint after one had failed";
    Counter "gateway_sent_bytes_total" LEG, "Bytes from clients to a destination";
    Counter "gateway_received_bytes_total" LEG, "Bytes from a destination to clients";
    Counter "gateway_failures_total" LEG_REASON, "Connections to a destination that failed";
    Counter "gateway_attempt_failures_total" LEG_REASON,
        "Attempts at an endpoint of a destination that failed, also where another was reached";
}
