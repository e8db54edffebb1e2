//! The startup taint: it keeps pods off a node until their connections are
//! decided, and is removed by the agent that decides them.
//!
//! It is the only cure for pods that are older than the agent; the agent's own
//! DaemonSet tolerates it.

use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::time::sleep;
use tracing::{info, warn};

use super::backoff::{Backoff, Timing};
use super::trouble::Trouble;

/// Removes the taints with this key from the node, and comes back until that is
/// done.
pub async fn remove(client: Client, node: String, key: String, timing: Timing) {
    let nodes: Api<Node> = Api::all(client);
    let mut backoff = Backoff::new(timing);
    loop {
        match attempt(&nodes, &node, &key).await {
            Ok(true) => {
                info!(node, taint = key, "the startup taint is removed: pods may start");
                return;
            }
            Ok(false) => return,
            // Somebody else changed the node meanwhile.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => {
                let trouble = Trouble::of(&error);
                let help = match trouble {
                    Trouble::Forbidden(_) => Some(
                        "the ClusterRole needs apiGroups: [\"\"], resources: [\"nodes\"], verbs: \
                         [\"get\", \"patch\"]",
                    ),
                    _ => None,
                };
                warn!(node, taint = key, help, "the startup taint stays for now: {trouble}");
            }
        }
        sleep(backoff.wait()).await;
    }
}

/// Whether there was one.
async fn attempt(nodes: &Api<Node>, name: &str, key: &str) -> kube::Result<bool> {
    let node = nodes.get(name).await?;
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    let kept: Vec<_> = taints.iter().filter(|taint| taint.key != key).collect();
    if kept.len() == taints.len() {
        return Ok(false);
    }
    // The whole list goes back, so it must be the list that was read.
    let patch = json!({
        "metadata": { "resourceVersion": node.metadata.resource_version },
        "spec": { "taints": kept },
    });
    nodes.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(true)
}
