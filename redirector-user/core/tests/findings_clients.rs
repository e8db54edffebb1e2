//! What `check` says where only some clients are concerned, and where endpoints are names:
//! what `explain` says of the same connections.

use redirector_core::explain::{Explanation, Query, QuerySource, VerdictWord, explain};
use redirector_core::model::Labels;
use redirector_core::world::{ServiceAddresses, World};

use crate::findings::{object, places, report, service, told};
use crate::support::world;

/// What is said of a client of a namespace.
fn ask(world: &World, namespace: &str, to: &str) -> Explanation {
    let source = QuerySource::Described {
        namespace: namespace.to_owned(),
        labels: Labels::default(),
        addresses: Vec::new(),
    };
    let destination = to.parse().expect("an address and a port");
    let query = Query { source, destination, gateway: None, sni: None };
    explain(world, &query).expect("nobody is looked for")
}

/// What it gets.
fn verdict(text: &str, namespace: &str, to: &str) -> VerdictWord {
    let mut world = world(text);
    world.settings.services = ServiceAddresses::Own;
    ask(&world, namespace, to).verdict
}

fn entry(name: &str, spec: &str) -> String {
    object("ServiceEntry", name, &format!("{{ports: [{{number: 80, name: tcp}}], {spec}}}"))
}

#[test]
fn what_is_refused_to_a_service_of_some_namespaces_is_told_as_that_of_a_public_one() {
    let both = "hosts: [s.example], addresses: [10.5.5.6, 'fd00:5::6'], resolution: STATIC, \
                endpoints: [{address: 192.0.2.1}]";
    let place = ["RD4016 ServiceEntry/a/s spec.addresses"];
    assert_eq!(places(&report(&entry("a/s", both)), &["RD4016"]), place);
    let text = entry("a/s", &format!("{both}, exportTo: ['.']"));
    assert_eq!(verdict(&text, "a", "[fd00:5::6]:80"), VerdictWord::Refuse);
    let private = report(&text);
    let found = told(&private, &["RD4016"]);
    let [(at, message)] = &found[..] else { panic!("{found:#?}") };
    assert_eq!(at, place[0]);
    assert!(message.ends_with("are refused for clients in namespace a"), "{message}");
}

#[test]
fn a_policy_of_a_clients_own_namespace_is_told_with_those_whom_it_refuses() {
    let rule = |spec: &str| {
        object("DestinationRule", "z/m", &format!("{{host: front.a.svc.cluster.local, {spec}}}"))
    };
    let policy = "trafficPolicy: {tls: {mode: SIMPLE}}";
    let text = service("a/front", "10.96.0.1", "") + &rule(policy);
    assert_eq!(verdict(&text, "z", "10.96.0.1:80"), VerdictWord::Refuse);
    assert_eq!(verdict(&text, "b", "10.96.0.1:80"), VerdictWord::Route);
    let all = report(&text);
    let found = told(&all, &["RD4044"]);
    let [(_, message)] = &found[..] else { panic!("{found:#?}") };
    assert!(message.contains("of clients in namespace z to front.a"), "{message}");
    // Of some of its workloads, these.
    let some = rule(&format!("workloadSelector: {{matchLabels: {{app: cli}}}}, {policy}"));
    let some = report(&(service("a/front", "10.96.0.1", "") + &some));
    let found = told(&some, &["RD4044"]);
    let [(_, message)] = &found[..] else { panic!("{found:#?}") };
    assert!(message.contains("of clients in namespace z with app=cli to front.a"), "{message}");
}

#[test]
fn a_subset_has_the_endpoints_whose_names_have_its_labels_and_no_others() {
    let by_name = entry(
        "a/d",
        "hosts: [x.example], addresses: [10.5.5.5], resolution: DNS, endpoints: [{address: \
         one.example, labels: {v: '1'}}, {address: 192.0.2.1, labels: {v: '2'}}]",
    );
    let subset = |v: &str| {
        let spec = format!("{{host: x.example, subsets: [{{name: one, labels: {{v: '{v}'}}}}]}}");
        let routed = "{hosts: [x.example], tcp: [{route: [{destination: {host: x.example, \
                      subset: one}}]}]}";
        by_name.clone()
            + &object("DestinationRule", "a/d", &spec)
            + &object("VirtualService", "a/v", routed)
    };
    let codes = ["RD3011", "RD3021", "RD4015"];
    assert_eq!(verdict(&subset("1"), "a", "10.5.5.5:80"), VerdictWord::Undecided);
    assert_eq!(places(&report(&subset("1")), &codes), [""; 0]);
    assert_eq!(verdict(&subset("3"), "a", "10.5.5.5:80"), VerdictWord::Refuse);
    let place = ["RD3011 DestinationRule/a/d spec.subsets[0]"];
    assert_eq!(places(&report(&subset("3")), &codes), place);
    // Whatever they resolve to, a policy that would change bytes refuses them.
    let tls = subset("1").replace(
        "{host: x.example, subsets",
        "{host: x.example, trafficPolicy: {tls: {mode: SIMPLE}}, subsets",
    );
    assert_eq!(verdict(&tls, "a", "10.5.5.5:80"), VerdictWord::Refuse);
}

#[test]
fn an_empty_subset_does_not_hide_that_another_one_of_its_rule_refuses() {
    let subsets = "{host: s.example, subsets: [{name: zed, labels: {v: '9'}}, {name: two, labels: {v: '2'}}]}";
    let routed =
        "{hosts: [s.example], tcp: [{route: [{destination: {host: s.example, subset: two}}]}]}";
    let text = entry(
        "a/s",
        "hosts: [s.example], addresses: [10.5.5.6], resolution: STATIC, endpoints: [{address: \
         'fd00::2', labels: {v: '2'}}, {address: 192.0.2.1}]",
    ) + &object("DestinationRule", "a/d", subsets)
        + &object("VirtualService", "a/v", routed);
    assert_eq!(verdict(&text, "a", "10.5.5.6:80"), VerdictWord::Refuse);
    let found = places(&report(&text), &["RD3011", "RD4015", "RD4016"]);
    assert_eq!(found.len(), 2, "{found:#?}");
}

#[test]
fn an_address_that_is_somebodys_is_told_to_be_served_for_everybody() {
    let web = object("WorkloadEntry", "shop/web", "{address: 10.9.9.9, labels: {app: web}}");
    let at = |address: &str, endpoint: &str| {
        entry(
            "shop/db",
            &format!(
                "hosts: [db.example], addresses: [{address}], resolution: STATIC, endpoints: \
                 [{{address: {endpoint}}}]"
            ),
        )
    };
    let found = |address: &str, endpoint: &str| {
        places(&report(&(web.clone() + &at(address, endpoint))), &["RD4043"])
    };
    let told = ["RD4043 ServiceEntry/shop/db spec.addresses"];
    assert_eq!(found("10.9.9.9", "10.0.0.6"), told, "to one endpoint elsewhere");
    assert_eq!(found("10.9.9.0/24", "10.0.0.6"), told, "within a network");
    assert_eq!(found("10.9.9.9", "10.9.9.9"), [""; 0], "to itself");
    assert_eq!(found("240.0.0.1", "10.0.0.6"), [""; 0], "at an address of its own");
}

#[test]
fn slices_without_the_pods_that_they_name_are_one_sentence() {
    let text = "
Service a/h: {clusterIP: 10.96.1.1, selector: {app: h}, ports: [{name: tcp, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: h, namespace: a, labels: {kubernetes.io/service-name: h}}
addressType: IPv4
ports: [{name: tcp, port: 80}]
endpoints: [{addresses: [10.1.1.5], targetRef: {kind: Pod, name: p, namespace: a}}]
DestinationRule a/h: {host: h, subsets: [{name: one, labels: {v: '1'}}]}
";
    let alone = report(text);
    let found: Vec<_> = alone.diagnostics.iter().map(|one| one.code).collect();
    assert_eq!(found, ["RD3024"]);
    let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: q, namespace: a}\n";
    let with = report(&format!("{text}{pod}"));
    assert!(with.diagnostics.iter().any(|one| one.code == "RD4032"), "a Pod may be misspelt");
}

#[test]
fn a_host_is_that_of_the_service_before_that_of_an_older_entry_of_its_namespace() {
    let entry = "
ServiceEntry a/mq {creationTimestamp: '2020-01-01T00:00:00Z'}:
  hosts: [mq.a.svc.cluster.local]
  addresses: [240.0.0.7]
  ports: [{number: 80, name: tcp}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.77}]
";
    let rule = object(
        "VirtualService",
        "a/v",
        "{hosts: [mq], tcp: [{route: [{destination: {host: mq}}]}]}",
    );
    let world = world(&(service("a/mq", "10.96.0.9", "") + entry + &rule));
    for namespace in ["a", "b"] {
        let answer = ask(&world, namespace, "10.96.0.9:80");
        assert_eq!(answer.endpoints.keys().collect::<Vec<_>>(), ["192.0.2.9:80"], "{namespace}");
    }
}

#[test]
fn a_share_that_is_refused_only_to_who_comes_by_way_of_a_gateway_is_told_with_that_gateway() {
    let gateway = "{selector: {istio: edge}, servers: [{port: {number: 80, name: tcp, protocol: \
                   TCP}, hosts: ['*']}]}";
    let edge = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: edge, \
                namespace: a, annotations: {redirector.io/gateway: 'true'}}\nspec: {address: \
                192.0.2.9, labels: {istio: edge}}\n---\n";
    let out = "hosts: [out.example.com], addresses: [10.5.5.6], resolution: NONE";
    let rule = "{hosts: [out.example.com], gateways: [mesh, edge], tcp: [{route: [{destination: \
                {host: out.example.com}}]}]}";
    let text = edge.to_owned()
        + &object("Gateway", "a/edge", gateway)
        + &entry("a/out", out)
        + &object("VirtualService", "a/out", rule);
    assert_eq!(verdict(&text, "a", "10.5.5.6:80"), VerdictWord::Passthrough);
    let report = report(&text);
    let found = told(&report, &["RD4015"]);
    let [(_, message)] = &found[..] else { panic!("{found:#?} {report:#?}") };
    let end = "is refused for connections that come by way of the Gateway a/edge";
    assert!(message.ends_with(end), "{message}");
}
