//! The Services and Gateways that a node serves.

use std::path::Path;

use redirector_tests::agent::Agent;
use redirector_tests::kernel::privileged;
use redirector_tests::node::Node;
use serde_json::json;

use super::{Cluster, answered, node};

/// Two Gateways on one port number, and one that somebody else serves.
pub(super) fn make_gateways(cluster: &Cluster) {
    for (name, last, asks, to) in [
        ("gw-one", 31, "true", "one"),
        ("gw-two", 32, "true", "two"),
        ("theirs", 33, "false", "one"),
    ] {
        cluster.server.apply(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": name, "namespace": "edge",
                "annotations": { "redirector.io/gateway": asks },
            },
            "spec": {
                "clusterIP": format!("{}.{last}", cluster.net),
                "externalIPs": [format!("{}.{}", cluster.net, last + 10)],
                "selector": { "gateway": name },
                "ports": [{ "name": "tcp", "port": 19000 }],
            },
        }));
        cluster.server.apply(json!({
            "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
            "metadata": { "name": name, "namespace": "edge" },
            "spec": {
                "selector": { "gateway": name },
                "servers": [{
                    "port": { "number": 19000, "name": "tcp", "protocol": "TCP" }, "hosts": ["*"],
                }],
            },
        }));
        cluster.server.apply(json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": { "name": name, "namespace": "edge" },
            "spec": {
                "hosts": ["*"], "gateways": [name],
                "tcp": [{ "route": [{ "destination": {
                    "host": format!("{to}.default.svc.cluster.local"), "port": { "number": 19000 },
                } }] }],
            },
        }));
    }
}

/// Each of them leads where it should, from everywhere on the node, and that of
/// somebody else does not exist here.
pub(super) fn gateways_are_served(cluster: &Cluster, node: &Node, agent: &mut Agent) {
    for cgroup in ["outside", "kubepods/burstable/podx/ab"] {
        let dial = |last| dial_gateway(cluster, &node.cgroup(cgroup), last);
        for (last, expected) in [(31, "one"), (41, "one"), (32, "two"), (42, "two")] {
            agent.wait("the gateway", |_| dial(last) == expected);
        }
        assert!(dial(33).contains("refused"), "{}", dial(33));
    }
}

fn dial_gateway(cluster: &Cluster, from: &Path, last: u32) -> String {
    answered(from, format!("{}.{last}:19000", cluster.net).parse().expect("an address"))
}

#[test]
fn services_that_ask_are_gateways_of_the_node() {
    if !privileged() {
        return;
    }
    let cluster = Cluster::new();
    let node = node(&cluster, "node-a");
    make_gateways(&cluster);
    let mut agent = node.start_with(&["--gateways"]);
    agent.wait_ready();
    gateways_are_served(&cluster, &node, &mut agent);
    let outside = node.cgroup("outside");
    let dial = |last| dial_gateway(&cluster, &outside, last);
    // It is taken back, and is no gateway any more.
    let mut service = cluster.server.get("Service", "edge", "gw-one").expect("it is there");
    service["metadata"]["annotations"] = json!({});
    cluster.server.apply(service);
    agent.wait("its end", |_| dial(31).contains("refused"));
    assert_eq!(dial(32), "two");
}
