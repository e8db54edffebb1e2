//! What is said of connections to gateways.

use redirector_core::explain::{Query, QuerySource, explain};

use crate::support::world;

const DOCUMENTS: &str = "
Gateway edge:
  selector: {istio: edge}
  servers: [{port: {number: 8100, name: tcp, protocol: TCP}, hosts: ['*']}]
WorkloadEntry edge {annotations: {redirector.io/gateway: 'true'}}: {address: 192.0.2.1, labels: {istio: edge}}
WorkloadEntry other: {address: 192.0.2.2, labels: {app: other}}
VirtualService edge: {hosts: ['*'], gateways: [edge], tcp: [{route: [{destination: {host: nowhere.example}}]}]}
Service web: {clusterIP: 10.96.0.1, selector: {app: other}, ports: [{name: tcp, port: 80}]}
VirtualService both: {hosts: [web], gateways: [edge], tcp: [{route: [{destination: {host: web}}]}]}
";

#[test]
fn an_address_that_no_gateway_workload_has_is_told_to_be_none() {
    let world = world(DOCUMENTS);
    let notes = |to: &str| {
        let destination = to.parse().expect("an address and a port");
        let gateway = Some(("default".to_owned(), "edge".to_owned()));
        let query = Query { source: QuerySource::Unknown, destination, gateway, sni: None };
        explain(&world, &query).expect("there is such a Gateway").notes.join("; ")
    };
    assert!(!notes("192.0.2.1:8100").contains("other means"));
    assert!(notes("203.0.113.1:8100").contains("by other means at 192.0.2.1"));
    assert!(notes("192.0.2.2:8100").contains("does not select"));
}

#[test]
fn rules_that_are_for_gateways_only_are_no_rules_of_the_mesh() {
    let destination = "10.96.0.1:80".parse().expect("an address and a port");
    let query = Query { source: QuerySource::Unknown, destination, gateway: None, sni: None };
    let answer = explain(&world(DOCUMENTS), &query).expect("nobody is looked for");
    assert!(answer.considered.is_empty(), "{:?}", answer.considered);
}
