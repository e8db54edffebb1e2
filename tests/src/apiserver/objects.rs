//! Objects that many tests need, as the API server has them.

use std::fmt::Display;

use serde_json::{Value, json};

/// A Service of the namespace `default` that takes connections on port 19000,
/// for pods of its name as `app`, which listen on 9000.
pub fn service(name: &str, cluster_ip: impl Display) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": "default" },
        "spec": {
            "clusterIP": cluster_ip.to_string(), "selector": { "app": name },
            "ports": [{ "name": "tcp", "port": 19000, "targetPort": 9000 }],
        },
    })
}

/// Endpoints of such a Service.
pub fn endpoint_slice(service: &str, name: &str, endpoints: &[Value]) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-{name}"), "namespace": "default",
            "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "tcp", "port": 9000, "protocol": "TCP" }],
        "endpoints": endpoints,
    })
}

/// An endpoint that is ready, of no pod.
pub fn endpoint(address: impl Display) -> Value {
    json!({ "addresses": [address.to_string()], "conditions": { "ready": true } })
}

/// A pod of the namespace `default` that is bound to a node.
pub fn pod(name: &str, node: &str, uid: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "default", "uid": uid, "labels": labels },
        "spec": { "nodeName": node, "containers": [{ "name": "c", "image": "i" }] },
    })
}
