//! What is said of connections to gateways.

use redirector_core::compile::compile;
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
fn a_gateway_that_nobody_serves_is_answered_for_with_whom_it_lacks() {
    let world = world(&DOCUMENTS.replace("labels: {istio: edge}", "labels: {istio: other}"));
    let answer = |port: u16| {
        let destination = ([203, 0, 113, 1], port).into();
        let gateway = Some(("default".to_owned(), "edge".to_owned()));
        let query = Query { source: QuerySource::Unknown, destination, gateway, sni: None };
        explain(&world, &query).expect("there is such a Gateway").notes.join("; ")
    };
    let notes = answer(8100);
    let told = "no workload with the labels istio: edge is known: this is what one in namespace \
                default would do";
    assert!(notes.starts_with(told) && !notes.contains("Pod/"), "{notes}");
    let elsewhere = answer(8101);
    assert!(elsewhere.contains("no server of a workload of Gateway/default/edge"), "{elsewhere}");
}

#[test]
fn rules_that_are_for_gateways_only_are_no_rules_of_the_mesh() {
    let destination = "10.96.0.1:80".parse().expect("an address and a port");
    let query = Query { source: QuerySource::Unknown, destination, gateway: None, sni: None };
    let answer = explain(&world(DOCUMENTS), &query).expect("nobody is looked for");
    assert!(answer.considered.is_empty(), "{:?}", answer.considered);
}

#[test]
fn who_is_believed_is_what_the_gateway_says_or_else_the_services_that_lead_there() {
    let believed = |on_gateway: &str, services: &str| {
        let text = DOCUMENTS.replace("Gateway edge:", &format!("Gateway edge {on_gateway}:"));
        let compiled = compile(&world(&(text + services)));
        let gateways = compiled.plan.gateways.listeners.into_values();
        let said = gateways.flat_map(|one| one.accepting.announced_by).map(|net| net.to_string());
        said.collect::<Vec<_>>()
    };
    let says =
        |net: &str| format!("{{annotations: {{redirector.io/accept-proxy-protocol: {net}}}}}");
    let service = |name: &str, net: &str, port: u16, app: &str| {
        format!(
            "Service {name} {}: {{clusterIP: 10.96.0.9, selector: {{istio: {app}}}, ports: [{{name: \
             tcp, port: {port}}}]}}\n",
            says(net)
        )
    };
    let one = service("one", "10.1.0.0/16", 8100, "edge");
    let both = one.clone() + &service("two", "10.2.0.0/16", 8100, "edge");
    let others = service("port", "10.3.0.0/16", 8101, "edge")
        + &service("workload", "10.4.0.0/16", 8100, "other")
        + &service("elsewhere/namespace", "10.5.0.0/16", 8100, "edge")
        + &service("nobody", "10.6.0.0/16", 8100, "edge").replace("selector: {istio: edge}, ", "");
    let none: [&str; 0] = [];
    assert_eq!(believed("", ""), none);
    assert_eq!(believed("", &others), none, "another port, and not this workload");
    assert_eq!(believed("", &(one.clone() + &others)), ["10.1.0.0/16"]);
    assert_eq!(believed("", &both), ["10.1.0.0/16", "10.2.0.0/16"]);
    assert_eq!(believed(&says("10.9.0.0/16"), &both), ["10.9.0.0/16"]);
}

#[test]
fn a_listener_believes_whom_the_services_that_lead_to_it_name() {
    let believed = |numbers: &[u16], services: &str| {
        let servers = numbers.iter().map(|number| {
            format!(
                "{{port: {{number: {number}, name: tcp-{number}, protocol: TCP}}, hosts: ['*']}}"
            )
        });
        let servers = servers.collect::<Vec<_>>().join(", ");
        let one = "{port: {number: 8100, name: tcp, protocol: TCP}, hosts: ['*']}";
        let compiled = compile(&world(&(DOCUMENTS.replace(one, &servers) + services)));
        let listeners = compiled.plan.gateways.listeners.into_iter();
        let said = listeners.map(|(at, one)| {
            let nets = one.accepting.announced_by.iter().map(ToString::to_string);
            (at.port(), nets.collect::<Vec<_>>().join(", "))
        });
        said.collect::<Vec<_>>()
    };
    let service = |name: &str, annotations: &str, ports: &str| {
        format!(
            "Service {name} {{annotations: {{{annotations}}}}}: {{clusterIP: 10.96.0.9, selector: \
             {{istio: edge}}, ports: [{ports}]}}\n"
        )
    };
    let trusts = "redirector.io/accept-proxy-protocol: 10.1.0.0/16";
    let port = |port: u16, target: u16| {
        format!("{{name: tcp-{port}, port: {port}, targetPort: {target}}}")
    };
    let balancer = service("lb", trusts, &port(443, 8443));
    let internal = service("internal", "", &port(443, 9443));
    let told = |all: &[(u16, &str)]| -> Vec<(u16, String)> {
        all.iter().map(|(port, nets)| (*port, (*nets).to_owned())).collect()
    };
    assert_eq!(
        believed(&[443], &(balancer.clone() + &internal)),
        told(&[(8443, "10.1.0.0/16"), (9443, "")]),
        "who comes by the other Service is not believed"
    );
    assert_eq!(
        believed(&[8443], &balancer),
        told(&[(8443, "10.1.0.0/16")]),
        "a server with the number of the port that the Service leads to"
    );
}

#[test]
fn a_port_that_a_service_names_is_the_one_of_that_name() {
    let server = "{port: {number: 8100, name: tcp, protocol: TCP}, hosts: ['*']}";
    let listens = |target: &str| {
        let entry = "labels: {istio: edge}, ports: {http: 8080, tls: 8443}";
        let text = DOCUMENTS.replace("labels: {istio: edge}", entry)
            + &format!(
                "Service lb: {{clusterIP: 10.96.0.9, selector: {{istio: edge}}, ports: [{{name: tcp, \
                 port: 443, targetPort: {target}}}]}}\n"
            );
        let text = text.replace(server, &server.replace("8100", "443"));
        let listeners = compile(&world(&text)).plan.gateways.listeners;
        listeners.into_keys().map(|at| at.port()).collect::<Vec<_>>()
    };
    assert_eq!(listens("tls"), [8443]);
    assert_eq!(listens("http"), [8080]);
    assert_eq!(listens("9443"), [9443]);
    assert_eq!(listens("none"), [443], "nothing has that name: it is as if no Service led there");
}

#[test]
fn only_servers_that_pass_tls_through_share_a_port() {
    let tcp = "port: {number: 8100, name: tcp, protocol: TCP}";
    let tls = "port: {number: 8100, name: tls, protocol: TLS}, tls: {mode: PASSTHROUGH}";
    for (first, second, dropped) in [(tcp, tcp, 1), (tcp, tls, 1), (tls, tcp, 1), (tls, tls, 0)] {
        let text = DOCUMENTS.replace(tcp, first)
            + &format!(
                "Gateway later: {{selector: {{istio: edge}}, servers: [{{{second}, hosts: ['*']}}]}}\n"
            );
        let gateways = compile(&world(&text)).plan.gateways;
        assert_eq!(gateways.dropped.len(), dropped, "{first} {second} {:?}", gateways.dropped);
    }
}
