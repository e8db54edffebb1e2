//! What `status` tells of gateways, and of the process that relays their connections.

use crate::daemon::leaf;
use crate::proxy::{self, RelayStatus};
use crate::state::{GatewayListener, Report, StateDir};

/// Where gateways are served, and by which process.
pub(super) fn told(
    state: &StateDir,
    report: &Report,
    pid: Option<u32>,
    problems: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> (Vec<GatewayListener>, Option<RelayStatus>) {
    // Without its daemon what relays may go on.
    let relays = pid.is_some() || proxy::is_at(&state.relay_socket());
    let gateways = if relays { report.gateways.clone() } else { Vec::new() };
    for listener in &gateways {
        if let Some(error) = &listener.error {
            problems.push(format!(
                "{} cannot listen at {}: {error}",
                listener.gateway, listener.address
            ));
        }
    }
    let relay = report.relay.clone().filter(|_| relays);
    if let Some(relay) = relay.as_ref().filter(|relay| relay.restarts > 0) {
        let (times, cut) = (relay.restarts, relay.cut);
        warnings.push(format!(
            "the process that relays connections of gateways had to be started again: {times} \
             times since the daemon started, and {cut} connections were cut"
        ));
    }
    if let Some(why) = relay.as_ref().and_then(|relay| relay.not_exempt.as_ref()) {
        problems.push(format!(
            "connections of the process that relays for gateways are redirected, as it cannot be \
             moved below the daemon's cgroup: {why}"
        ));
    }
    for name in report.exempt.iter().flat_map(|exempt| leaf::strangers(exempt)) {
        warnings.push(format!(
            "connects of {name} are not redirected: it is in redirector.slice, beside the daemon"
        ));
    }
    if pid.is_none() && relays && !report.gateways.is_empty() {
        warnings.push("the gateways of this node are served as they were, without a daemon".into());
    } else if !relays && !report.gateways.is_empty() {
        problems.push("no daemon runs, so the gateways of this node are not served".to_owned());
    }
    (gateways, relay)
}
