//! Ports that are not what they are taken for: another server's, of another protocol, or of
//! another transport.

use crate::findings::{places, report, told};

/// A gateway's Pod and Service, which leads two of its ports to one.
const EDGE: &str = "
Service istio-system/edge:
  clusterIP: 10.96.0.9
  selector: {istio: edge}
  ports: [{name: tcp, port: 5432, targetPort: 15432}, {name: tcp-b, port: 15432}]
apiVersion: v1
kind: Pod
metadata: {name: edge-1, namespace: istio-system, labels: {istio: edge}, uid: u-1}
spec: {nodeName: n1, containers: []}
status: {podIPs: [{ip: 10.244.0.8}], conditions: [{type: Ready, status: 'True'}]}
";

/// A Gateway of these servers beside [`EDGE`], and a rule for each of two ports.
fn gateway(servers: &str) -> String {
    let edge = EDGE.replace("apiVersion: v1\nkind: Pod", "---\napiVersion: v1\nkind: Pod");
    format!(
        "{edge}---\nGateway istio-system/g: {{selector: {{istio: edge}}, servers: [{servers}]}}\n\
         VirtualService istio-system/v: {{hosts: ['*'], gateways: [g], tcp: [{{match: [{{port: \
         5432}}], route: [{{destination: {{host: edge, port: {{number: 5432}}}}}}]}}]}}\n"
    )
}

fn server(number: u16, more: &str) -> String {
    format!("{{port: {{number: {number}, name: tcp-{number}, protocol: TCP}}, hosts: ['*']{more}}}")
}

#[test]
fn servers_that_a_service_leads_to_one_port_are_told_to_be_one_too_many() {
    let both = report(&gateway(&format!("{}, {}", server(5432, ""), server(15432, ""))));
    let at = "RD4026 Gateway/istio-system/g spec.servers[1].port.number";
    assert_eq!(places(&both, &["RD4026"]), [at]);
    let [(_, message)] = &told(&both, &["RD4026"])[..] else { panic!("{both:?}") };
    assert!(message.contains("port 15432 of Pod/istio-system/edge-1 belongs to servers[0]"));
    let one = report(&gateway(&server(5432, "")));
    assert_eq!(places(&one, &["RD4026"]), [""; 0]);
}

#[test]
fn a_server_bound_to_an_address_that_its_pods_do_not_have_is_told() {
    let of = |bind: &str| places(&report(&gateway(&server(5432, bind))), &["RD4039"]);
    let at = "RD4039 Gateway/istio-system/g spec.servers[0].bind";
    assert_eq!(of(", bind: 192.0.2.7"), [at]);
    assert_eq!(of(", bind: 127.0.0.1"), [at]);
    assert_eq!(of(", bind: 10.244.0.8"), [""; 0]);
    assert_eq!(of(", bind: 0.0.0.0"), [""; 0]);
}

/// A Service with a port of each protocol, and a rule's `http` and `tcp`.
fn mixed(http: &str, tcp: &str) -> Vec<String> {
    let route = "route: [{destination: {host: mix, port: {number: 7001}}}]";
    let text = format!(
        "Service shop/mix: {{clusterIP: 10.96.0.10, selector: {{app: mix}}, ports: [{{name: http, \
         port: 7002}}, {{name: tcp, port: 7001}}]}}\nVirtualService shop/mix: {{hosts: [mix], http: \
         [{{{http}{route}}}]{}}}\n",
        match tcp {
            "" => String::new(),
            tcp => format!(", tcp: [{{{tcp}{route}}}]"),
        }
    );
    let report = report(&text);
    let codes = ["RD5001", "RD5002", "RD4029"];
    let told = told(&report, &codes).into_iter();
    told.map(|(place, message)| format!("{} {message}", &place[..6])).collect()
}

#[test]
fn http_rules_are_judged_by_the_ports_that_they_may_be_for() {
    let port = |number| format!("match: [{{port: {number}}}], ");
    let left = "are left alone";
    // As Istio has it written: each port has its rule.
    let each = mixed(&port(7002), &port(7001));
    assert!(
        matches!(&each[..], [one] if one.starts_with("RD5002") && one.ends_with(left)),
        "{each:?}"
    );
    let all = mixed("", "");
    let [tcp, http] = &all[..] else { panic!("{all:?}") };
    assert!(http.starts_with("RD5002") && http.contains("on port 7002 of mix."), "{http}");
    assert!(tcp.starts_with("RD4029") && tcp.contains("port 7001 of mix."), "{tcp}");
    let on_tcp = mixed(&port(7001), "");
    assert!(matches!(&on_tcp[..], [one] if one.starts_with("RD5001")), "{on_tcp:?}");
}

#[test]
fn ports_of_another_transport_are_neither_advised_nor_told_to_be_renamed() {
    let dns = "Service shop/dns: {clusterIP: 10.96.0.10, selector: {app: dns}, ports: [{name: dns, \
               port: 53, protocol: UDP}, {name: tcp, port: 5353}, {name: tcp-b, port: 5354}]}\n";
    let rule = |host: &str, block: &str| {
        format!(
            "{dns}ServiceEntry shop/db: {{hosts: [db.example.com], addresses: [192.0.2.1], ports: \
             [{{number: 7000, name: tcp, protocol: TCP}}], resolution: STATIC, endpoints: \
             [{{address: 192.0.2.9}}]}}\nVirtualService shop/v: {{hosts: [{host}], tcp: [{{{block}\
             route: [{{destination: {{host: dns}}}}]}}]}}\n"
        )
    };
    let help = |text: &str, code: &str| {
        let report = report(text);
        let one = report.diagnostics.iter().find(|one| one.code == code).cloned();
        one.and_then(|one| one.help).unwrap_or_default()
    };
    let port = help(&rule("db.example.com", ""), "RD3007");
    assert!(port.contains("5353, 5354") && !port.contains(" 53,"), "{port}");
    let udp = help(&rule("dns", "match: [{port: 53}], "), "RD5010");
    assert!(udp.contains("whose protocol is TCP"), "{udp}");
}

#[test]
fn pods_without_slices_are_not_said_to_be_missing() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: db-1, namespace: shop, labels: {app: db}, \
               uid: u-1}\nspec: {nodeName: n1, containers: []}\nstatus: {podIPs: [{ip: 10.1.0.1}], \
               conditions: [{type: Ready, status: 'True'}]}\n";
    let text = format!(
        "Service shop/db: {{clusterIP: 10.96.0.10, selector: {{app: db}}, ports: [{{name: tcp, \
         port: 80}}]}}\nVirtualService shop/db: {{hosts: [db], tcp: [{{route: [{{destination: \
         {{host: db}}}}]}}]}}\n---\n{pod}"
    );
    let report = report(&text);
    assert_eq!(places(&report, &["RD4042"]), [""; 0]);
    let [(_, message)] = &told(&report, &["RD3024"])[..] else { panic!("{report:?}") };
    assert!(message.contains("not among the documents: EndpointSlices"), "{message}");
}

#[test]
fn endpoints_within_a_service_entry_say_nothing_of_pods() {
    let text = "
Service shop/db: {clusterIP: 10.96.0.10, selector: {app: db}, ports: [{name: tcp, port: 80}]}
DestinationRule shop/db: {host: db, subsets: [{name: v1, labels: {version: v1}}]}
ServiceEntry shop/out: {hosts: [out.example.com], addresses: [192.0.2.1], ports: [{number: 80, name: tcp, protocol: TCP}], resolution: STATIC, endpoints: [{address: 192.0.2.9}]}
";
    let alone = report(text);
    assert_eq!(places(&alone, &["RD3011", "RD4042"]), [""; 0], "no Pod is there to judge by");
    let of_entry = "DestinationRule shop/out: {host: out.example.com, subsets: [{name: v1, labels: \
                    {version: v1}}]}\n";
    let own = report(&format!("{text}{of_entry}"));
    let at = "RD3011 DestinationRule/shop/out spec.subsets[0]";
    assert_eq!(places(&own, &["RD3011"]), [at], "what the entry has is all that there is");
}
