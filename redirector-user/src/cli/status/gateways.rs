//! What `status` tells of gateways, and of the process that relays their connections.

use crate::cli::kernel::{KernelArgs, Known};
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
    let (mut gateways, mut relay) = (report.gateways.clone(), report.relay.clone());
    if pid.is_none() {
        gateways = without_daemon(state, report, gateways, problems, warnings);
        relay.take_if(|_| gateways.is_empty());
    }
    problems.extend(gateways.iter().filter_map(cannot_listen));
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
    (gateways, relay)
}

fn cannot_listen(listener: &GatewayListener) -> Option<String> {
    let GatewayListener { gateway, address, error, .. } = listener;
    error.as_ref().map(|error| format!("{gateway} cannot listen at {address}: {error}"))
}

/// Why clients of this Gateway are not served now, whatever its rules say.
pub(in crate::cli) fn not_served(kernel: &KernelArgs, namespace: &str, name: &str) -> Vec<String> {
    let Known { pid, report, .. } = kernel.report();
    let (mut problems, mut listeners) = (Vec::new(), report.gateways.clone());
    if pid.is_none() {
        listeners =
            without_daemon(&kernel.state(), &report, listeners, &mut problems, &mut Vec::new());
    }
    let object = format!("Gateway/{namespace}/{name}");
    let own = listeners.iter().filter(|one| one.gateway.split(' ').next() == Some(&object));
    problems.extend(own.filter_map(cannot_listen));
    problems
}

/// Where gateways are served that a daemon has left: what relays may go on, and says it itself.
fn without_daemon(
    state: &StateDir,
    report: &Report,
    mut left: Vec<GatewayListener>,
    problems: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> Vec<GatewayListener> {
    left.retain(|listener| !listener.draining);
    let mut served: Vec<_> = match proxy::status_at(&state.relay_socket()) {
        Ok(Some(status)) => status.listeners.into_iter().map(GatewayListener::from).collect(),
        Ok(None) => {
            if !left.is_empty() {
                problems.push("no daemon runs, so the gateways of this node are not served".into());
            }
            return Vec::new();
        }
        Err(error) => {
            if !left.is_empty() {
                let pid = report.relay.as_ref().map_or(0, |relay| relay.process.pid);
                problems.push(format!(
                    "whether the gateways of this node are served cannot be told: no daemon runs, \
                     and process {pid}, which relays for them, does not answer: {error}"
                ));
            }
            return Vec::new();
        }
    };
    if served.iter().any(|listener| !listener.draining) {
        warnings.push("the gateways of this node are served as they were, without a daemon".into());
    }
    for mut listener in left {
        let at = served.iter().position(|one| one.address == listener.address);
        if at.is_some() && listener.error.is_none() {
            continue;
        }
        // Which sockets could not be opened only the daemon knew.
        listener.error.get_or_insert_with(|| "what relays does not know of it".to_owned());
        at.map(|at| served.swap_remove(at));
        served.push(listener);
    }
    served.sort_by_key(|listener| listener.address);
    served
}
