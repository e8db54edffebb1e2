//! The gateways of this node: Services that ask for it become what the core
//! knows as gateways of a machine.
//!
//! The core's gateway is a WorkloadEntry: labels that a Gateway's `selector`
//! selects, and an address where the proxy listens. Here, a Service with the
//! annotation `redirector.io/gateway: "true"` stands for one such entry per
//! address of it. Its labels are what the Service selects, and what all pods
//! that it selects have in common. Services without the annotation are left to
//! whoever serves them.

use std::net::IpAddr;
use std::sync::Arc;

use redirector_core::model::{Labels, Meta, Object, Origin, Service, Spec, WorkloadEntry};
use redirector_core::store::{Content, Document};

/// On a Service: this node's proxy serves its gateway.
pub const GATEWAY: &str = "redirector.io/gateway";

/// The entries that the Services ask for, in their order.
pub fn served<'a>(
    services: impl Iterator<Item = &'a Arc<Object>>,
    pods: &[&Arc<Object>],
) -> Vec<Object> {
    let mut entries = Vec::new();
    for object in services {
        let Spec::Service(service) = &object.spec else { continue };
        let asks = object.meta.annotations.get(GATEWAY).is_some_and(|value| value == "true");
        // A Service without selector says nothing of a workload.
        if !asks || service.selector.is_empty() {
            continue;
        }
        let labels = labels(object, service, pods);
        let entry = |address: IpAddr| entry(object, labels.clone(), address);
        entries.extend(addresses(service).map(entry));
    }
    entries
}

/// Where clients may dial it.
fn addresses(service: &Service) -> impl Iterator<Item = IpAddr> {
    let lists = [&service.cluster_ips, &service.external_ips, &service.load_balancer_ips];
    lists.into_iter().flatten().copied()
}

/// What the Service selects, and what all pods that it selects have in common.
fn labels(object: &Object, service: &Service, pods: &[&Arc<Object>]) -> Labels {
    let mut common: Option<Labels> = None;
    for pod in pods {
        let has = |(name, value): (&String, &String)| pod.meta.labels.get(name) == Some(value);
        if pod.meta.namespace != object.meta.namespace || !service.selector.iter().all(has) {
            continue;
        }
        match &mut common {
            None => common = Some(pod.meta.labels.clone()),
            Some(common) => {
                common.retain(|name, value| pod.meta.labels.get(name) == Some(value));
            }
        }
    }
    let mut labels = common.unwrap_or_default();
    labels.extend(service.selector.clone());
    labels
}

/// A WorkloadEntry with a name that no other object can have: those of the API
/// have no colon.
fn entry(service: &Object, labels: Labels, address: IpAddr) -> Object {
    let meta = Meta {
        name: format!("{}:{address}", service.meta.name).into(),
        namespace: service.meta.namespace.clone(),
        uid: String::new(),
        labels: Labels::new(),
        annotations: [(GATEWAY.to_owned(), "true".to_owned())].into(),
        created: service.meta.created,
        origin: Origin::default(),
    };
    let entry = WorkloadEntry {
        address: address.to_string(),
        labels,
        weight: 1,
        ..WorkloadEntry::default()
    };
    Object { meta, spec: Spec::WorkloadEntry(entry) }
}

/// One such entry as the store takes it.
pub fn content(object: Arc<Object>) -> Content {
    Content::Whole(vec![Document {
        reference: Some(object.reference()),
        object: Some(object),
        diagnostics: Vec::new(),
    }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use redirector_core::documents;
    use serde_json::{Value, json};

    fn object(value: &Value) -> Arc<Object> {
        let reading = documents::read_json(value);
        reading.objects[0].object.clone().unwrap_or_else(|| panic!("{:?}", reading.diagnostics))
    }

    fn service(annotations: &Value, selector: &Value) -> Arc<Object> {
        object(&json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": "ingress", "namespace": "edge", "annotations": annotations },
            "spec": {
                "clusterIP": "10.96.0.20", "externalIPs": ["192.0.2.7"], "selector": selector,
                "ports": [{ "port": 19000 }],
            },
            "status": { "loadBalancer": { "ingress": [{ "ip": "203.0.113.9" }] } },
        }))
    }

    fn pod(name: &str, namespace: &str, labels: &Value) -> Arc<Object> {
        object(&json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "namespace": namespace, "labels": labels },
            "spec": { "nodeName": "n", "containers": [{ "name": "c", "image": "i" }] },
        }))
    }

    fn entries(services: &[Arc<Object>], pods: &[Arc<Object>]) -> Vec<(String, Labels)> {
        let pods: Vec<_> = pods.iter().collect();
        let served = served(services.iter(), &pods);
        served
            .into_iter()
            .map(|object| match object.spec {
                Spec::WorkloadEntry(entry) => (entry.address, entry.labels),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_service_that_asks_is_a_gateway_at_each_of_its_addresses() {
        let asks = json!({ "redirector.io/gateway": "true" });
        let found = entries(&[service(&asks, &json!({ "istio": "ingress" }))], &[]);
        let addresses: Vec<&str> = found.iter().map(|(address, _)| address.as_str()).collect();
        assert_eq!(addresses, ["10.96.0.20", "192.0.2.7", "203.0.113.9"]);
        assert!(found.iter().all(|(_, labels)| labels["istio"] == "ingress"));
    }

    #[test]
    fn others_are_left_to_whoever_serves_them() {
        let selector = json!({ "istio": "ingress" });
        let no = json!({ "redirector.io/gateway": "false" });
        let yes = json!({ "redirector.io/gateway": "true" });
        for service in
            [service(&json!({}), &selector), service(&no, &selector), service(&yes, &json!({}))]
        {
            assert_eq!(entries(&[service], &[]), []);
        }
    }

    #[test]
    fn labels_that_all_selected_pods_share_count_as_well() {
        let asks = json!({ "redirector.io/gateway": "true" });
        let service = service(&asks, &json!({ "app": "gw" }));
        let pods = [
            pod("a", "edge", &json!({ "app": "gw", "istio": "ingress", "hash": "1" })),
            pod("b", "edge", &json!({ "app": "gw", "istio": "ingress", "hash": "2" })),
            pod("c", "other", &json!({ "app": "gw" })),
        ];
        let (_, labels) = entries(&[service], &pods).remove(0);
        let labels: Vec<&str> = labels.keys().map(String::as_str).collect();
        assert_eq!(labels, ["app", "istio"]);
    }
}
