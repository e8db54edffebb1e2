//! What `check` says of configurations that admission takes: each finding
//! where it belongs, and none where nothing is wrong.

use redirector_core::check::{Report, check};
use redirector_core::diag::{Diagnostic, Severity};
use redirector_core::documents;
use redirector_core::world::{ServiceAddresses, Settings};

use crate::support::written_out;

pub(crate) fn report_with(text: &str, settings: &Settings) -> Report {
    let readings = [documents::read(Some("a.yaml".into()), &written_out(text))];
    let report = check(&readings, &[], &[], settings);
    let placed = |d: &Diagnostic| d.line > 0 && d.file.is_some() || d.code == "RD3024";
    assert!(report.diagnostics.iter().all(placed), "{:#?}", report.diagnostics);
    report
}

/// On a plain machine, where the daemon serves the addresses of Services.
pub(crate) fn report(text: &str) -> Report {
    report_with(text, &Settings { services: ServiceAddresses::Own, ..Settings::default() })
}

/// The findings of these codes: code, object and path, with the message.
pub(crate) fn told<'r>(report: &'r Report, codes: &[&str]) -> Vec<(String, &'r str)> {
    let ours = report.diagnostics.iter().filter(|d| codes.contains(&d.code));
    ours.map(|d| {
        let object = d.object_name().unwrap_or_default();
        (format!("{} {object} {}", d.code, d.path), d.message.as_str())
    })
    .collect()
}

/// Without messages.
pub(crate) fn places(report: &Report, codes: &[&str]) -> Vec<String> {
    told(report, codes).into_iter().map(|(place, _)| place).collect()
}

/// An object, by namespace and name, its spec in flow style.
pub(crate) fn object(kind: &str, name: &str, spec: &str) -> String {
    format!("{kind} {name}: {spec}\n")
}

/// An EndpointSlice of a Service, with one port, 80, and one endpoint.
pub(crate) fn slice(service: &str, port: &str, endpoint: &str) -> String {
    let (namespace, service) = service.split_once('/').expect("namespace/name");
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {service}-x, \
         namespace: {namespace}, labels: {{kubernetes.io/service-name: {service}}}}}\naddressType: \
         IPv4\nports: [{{name: {port}, port: 80, protocol: TCP}}]\nendpoints: [{{{endpoint}}}]\n"
    )
}

/// A Service with one TCP port, 80, and its endpoint.
pub(crate) fn service(name: &str, address: &str, labels: &str) -> String {
    let app = name.split('/').nth(1).expect("namespace/name");
    let spec = format!(
        "{{clusterIP: {address}, selector: {{app: {app}}}, ports: [{{name: tcp, port: 80}}]}}"
    );
    let last = address.rsplit('.').next().expect("an IPv4 address");
    let entry = format!("{{address: 192.0.2.{last}, labels: {{app: {app}{labels}}}}}");
    object("Service", name, &spec) + &object("WorkloadEntry", &format!("{name}-1"), &entry)
}

pub(crate) fn virtual_service(name: &str, spec: &str) -> String {
    object("VirtualService", name, spec)
}

#[test]
fn one_object_with_the_short_and_the_full_name_of_a_host_is_in_no_conflict() {
    let rules =
        "{hosts: [shop, shop.a.svc.cluster.local], tcp: [{route: [{destination: {host: shop}}]}]}";
    let one = service("a/shop", "10.96.0.1", "") + &virtual_service("a/shop", rules);
    assert_eq!(places(&report(&one), &["RD3009"]), [""; 0]);
    let two = one + &virtual_service("a/other", rules);
    let both =
        ["shop", "other"].map(|name| format!("RD3009 VirtualService/a/{name} spec.hosts[0]"));
    assert_eq!(
        places(&report(&two), &["RD3009"]),
        both,
        "the conflict is still told where there are two"
    );
}

#[test]
fn gateways_that_listen_at_different_addresses_do_not_take_each_others_port() {
    let gateway = |name: &str, bind: &str, hosts: &str| {
        let port = "port: {number: 8100, name: tcp, protocol: TCP}";
        let spec =
            format!("{{selector: {{istio: in}}, servers: [{{{bind}hosts: ['{hosts}'], {port}}}]}}");
        object("Gateway", &format!("a/{name}"), &spec)
    };
    let codes = ["RD3013", "RD4026"];
    let found = |first: &str, second: &str, hosts: &str| {
        let text = gateway("one", first, hosts) + &gateway("two", second, "a.example.com");
        let mut codes: Vec<String> =
            told(&report(&text), &codes).into_iter().map(|(place, _)| place[..6].into()).collect();
        codes.dedup();
        codes
    };
    let none: [&str; 0] = [];
    assert_eq!(found("bind: 192.0.2.1, ", "bind: 192.0.2.2, ", "*"), none);
    assert_eq!(found("bind: 192.0.2.1, ", "bind: 192.0.2.2, ", "b.example.com"), none);
    assert_eq!(found("bind: 192.0.2.1, ", "bind: 192.0.2.1, ", "*"), ["RD3013"]);
    assert_eq!(found("", "", "*"), ["RD3013"]);
    // Istio's analysis sees no conflict; the address is taken all the same.
    assert_eq!(found("bind: 0.0.0.0, ", "bind: 192.0.2.1, ", "*"), ["RD4026"]);
}

#[test]
fn only_names_are_said_to_be_resolved() {
    let entry = |endpoints: &str| {
        let spec = format!(
            "{{hosts: [db.example.com], addresses: [240.0.0.1], resolution: DNS, ports: [{{number: \
             80, name: tcp, protocol: TCP}}]{endpoints}}}"
        );
        let report = report(&object("ServiceEntry", "a/db", &spec));
        told(&report, &["RD5007"]).into_iter().map(|(_, message)| message.to_owned()).collect()
    };
    let addresses: Vec<String> = entry(", endpoints: [{address: 192.0.2.1}]");
    assert_eq!(addresses, [""; 0]);
    let host: Vec<String> = entry("");
    assert!(host[0].contains("resolves db.example.com;"), "{host:?}");
    let mixed: Vec<String> =
        entry(", endpoints: [{address: 192.0.2.1}, {address: replica.example.com}]");
    assert!(mixed[0].contains("resolves replica.example.com;"), "{mixed:?}");
}

#[test]
fn a_subset_of_workload_entries_or_of_endpoints_in_place_is_not_empty() {
    let rule = |host: &str, version: &str| {
        let spec =
            format!("{{host: {host}, subsets: [{{name: v, labels: {{version: {version}}}}}]}}");
        object("DestinationRule", "a/rule", &spec)
    };
    let entry = object(
        "ServiceEntry",
        "a/db",
        "{hosts: [db.example.com], addresses: [240.0.0.1], resolution: STATIC, ports: [{number: 80, \
         name: tcp, protocol: TCP}], endpoints: [{address: 192.0.2.1, labels: {version: one}}]}",
    );
    let codes = ["RD3011", "RD3021"];
    let shop = service("a/shop", "10.96.0.1", ", version: one");
    for (text, host) in [(&shop, "shop"), (&entry, "db.example.com")] {
        let found = |version: &str| {
            places(&report(&[text.as_str(), &rule(host, version)].concat()), &codes)
        };
        assert_eq!(found("one"), [""; 0], "{host}");
        assert_eq!(found("two"), ["RD3011 DestinationRule/a/rule spec.subsets[0]"], "{host}");
    }
}

#[test]
fn rules_that_no_server_of_the_gateway_uses_are_told() {
    let route = "route: [{destination: {host: shop}}]";
    let gateway = |servers: &str| {
        object("Gateway", "a/edge", &format!("{{selector: {{istio: in}}, servers: [{servers}]}}"))
    };
    let tcp = "{port: {number: 81, name: tcp, protocol: TCP}, hosts: ['*']}";
    let tls =
        "{port: {number: 443, name: tls, protocol: TLS}, tls: {mode: PASSTHROUGH}, hosts: ['*']}";
    let http = "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}";
    let bound_to = |gateways: &str, servers: &str, rules: &str| {
        let spec = format!("{{hosts: [a.example.com], gateways: [{gateways}], {rules}}}");
        let text =
            service("a/shop", "10.96.0.1", "") + &gateway(servers) + &virtual_service("a/v", &spec);
        let report = report(&text);
        let found = places(&report, &["RD4041", "RD5003"]);
        found.iter().map(|place| place.rsplit(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let found = |servers: &str, rules: &str| bound_to("edge", servers, rules);
    let tcp_rules = format!("tcp: [{{{route}}}]");
    let tls_rules = format!("tls: [{{match: [{{sniHosts: [a.example.com]}}], {route}}}]");
    let http_rules = format!("http: [{{{route}}}]");
    assert_eq!(found(tcp, &http_rules), ["spec.http"]);
    assert_eq!(found(tcp, &tls_rules), ["spec.tls"]);
    assert_eq!(found(tls, &tcp_rules), ["spec.tcp"]);
    let none: [&str; 0] = [];
    assert_eq!(found(tcp, &tcp_rules), none);
    assert_eq!(found(tls, &tls_rules), none);
    assert_eq!(found(&format!("{tcp}, {tls}"), &format!("{tcp_rules}, {tls_rules}")), none);
    assert_eq!(found(http, &http_rules), none, "the server is not served, which is told of it");

    // Two hops in one object: by address from the mesh, by server name at the gateway.
    let hop = |tcp: &str, tls: &str| {
        format!(
            "tcp: [{{match: [{{gateways: [{tcp}]}}], {route}}}], \
             tls: [{{match: [{{gateways: [{tls}], sniHosts: [a.example.com]}}], {route}}}]"
        )
    };
    assert_eq!(bound_to("edge, mesh", tls, &hop("mesh", "edge")), none);
    assert_eq!(bound_to("edge, mesh", tls, &hop("mesh", "mesh")), none);
    assert_eq!(bound_to("edge, mesh", tls, &hop("edge", "edge")), ["spec.tcp"]);
}

#[test]
fn addresses_that_a_cluster_allocated_are_addresses() {
    let entry = object(
        "ServiceEntry",
        "a/db",
        "{hosts: [db.example.com], resolution: DNS, ports: [{number: 80, name: tcp, protocol: TCP}]}",
    );
    assert_eq!(places(&report(&entry), &["RD2109"]), ["RD2109 ServiceEntry/a/db spec.ports[0]"]);
    let allocated = entry + "status: {addresses: [{host: db.example.com, value: 240.240.0.1}]}\n";
    assert_eq!(places(&report(&allocated), &["RD2109"]), [""; 0]);
}

#[test]
fn a_name_for_another_host_has_that_ones_ports() {
    let text = object("Service", "a/db", "{type: ExternalName, externalName: db.example.com}")
        + &object(
            "ServiceEntry",
            "a/db",
            "{hosts: [db.example.com], addresses: [240.0.0.1], resolution: STATIC, ports: [{number: \
             3306, name: tcp, protocol: TCP}], endpoints: [{address: 192.0.2.9}]}",
        )
        + &service("a/shop", "10.96.0.1", "");
    let rule = |port: u16| {
        let route = format!("[{{destination: {{host: db, port: {{number: {port}}}}}}}]");
        virtual_service("a/shop", &format!("{{hosts: [shop], tcp: [{{route: {route}}}]}}"))
    };
    let warnings = |text: &str| {
        let report = report(text);
        let warnings = report.diagnostics.iter().filter(|d| d.severity == Severity::Warning);
        warnings.map(|d| format!("{} {}", d.code, d.path)).collect::<Vec<_>>()
    };
    assert_eq!(warnings(&(text.clone() + &rule(3306))), [""; 0]);
    assert_eq!(
        warnings(&(text + &rule(3307))),
        ["RD3006 spec.tcp[0].route[0].destination.port.number"],
        "that one has no such port"
    );
}

#[test]
fn what_no_document_is_of_is_said_once() {
    let rule = |n: u32| {
        let route = "route: [{destination: {host: shop, subset: one}}]";
        let spec = format!("{{hosts: [shop], gateways: [mesh, edge], tcp: [{{{route}}}]}}");
        virtual_service(&format!("a/v{n}"), &spec)
    };
    let rules: String = (0..9).map(rule).collect();
    let report = report(&rules);
    let found: Vec<_> = report.diagnostics.iter().filter(|d| d.code != "RD3009").collect();
    let [only] = found[..] else { panic!("{found:#?}") };
    for what in ["Services and ServiceEntries (named in 18 places)", "Gateways", "DestinationRules"]
    {
        assert!(only.message.contains(what), "{}", only.message);
    }
    assert_eq!(only.severity, Severity::Info);
}

/// An entry with an address, 80 and one endpoint.
pub(crate) fn entry(name: &str, address: &str, more: &str) -> String {
    let host = name.replace('/', ".");
    let spec = format!(
        "{{hosts: [{host}.example.com], addresses: [{address}], resolution: STATIC, ports: [{{number: \
         80, name: tcp, protocol: TCP}}], endpoints: [{{address: 192.0.2.100}}]{more}}}"
    );
    object("ServiceEntry", name, &spec)
}

pub(crate) fn routed(name: &str, host: &str, destination: &str) -> String {
    let spec = format!("{{hosts: [{host}], tcp: [{{route: [{{destination: {destination}}}]}}]}}");
    virtual_service(name, &spec)
}

#[test]
fn a_service_without_endpoints_in_the_documents_is_worth_knowing_and_no_warning() {
    let empty = object(
        "Service",
        "a/empty",
        "{clusterIP: 10.96.0.9, selector: {app: empty}, ports: [{name: tcp, port: 80}]}",
    );
    let text =
        service("a/shop", "10.96.0.1", "") + &empty + &routed("a/v", "shop", "{host: empty}");
    let report = report(&text);
    let found: Vec<_> = report.diagnostics.iter().filter(|d| d.code == "RD4042").collect();
    assert_eq!(found.len(), 2, "the service, and the share that goes there: {found:#?}");
    assert!(found.iter().all(|d| d.severity == Severity::Info));
    assert_eq!(report.warnings, 0, "{:#?}", report.diagnostics);
}

#[test]
fn an_address_that_is_served_for_everybody_is_told_where_rules_are_for_some() {
    let spec = |resolution: &str, endpoints: &str| {
        format!(
            "{{hosts: [db.example.com], addresses: [192.0.2.1], resolution: {resolution}, ports: \
             [{{number: 80, name: tcp, protocol: TCP}}]{endpoints}}}"
        )
    };
    let rule = virtual_service(
        "a/db",
        "{hosts: [db.example.com], tcp: [{match: [{sourceLabels: {app: web}}], route: [{destination: \
         {host: a.new.example.com}}]}]}",
    );
    let web = object("WorkloadEntry", "a/web", "{address: 192.0.2.9, labels: {app: web}}");
    let found = |spec: &str| {
        let text =
            object("ServiceEntry", "a/db", spec) + &entry("a/new", "240.0.0.2", "") + &rule + &web;
        places(&report(&text), &["RD4043"])
    };
    let two = ", endpoints: [{address: 192.0.2.1}, {address: 192.0.2.2}]";
    assert_eq!(found(&spec("STATIC", two)), ["RD4043 ServiceEntry/a/db spec.addresses"]);
    assert_eq!(found(&spec("STATIC", ", endpoints: [{address: 192.0.2.1}]")), [""; 0]);
    assert_eq!(found(&spec("NONE", "")), [""; 0], "others are left alone");
}

#[test]
fn a_port_that_is_claimed_at_every_address_is_told_with_its_effect() {
    let spec = |resolution: &str| {
        format!(
            "{{hosts: [db.example.com], resolution: {resolution}, ports: [{{number: 5432, name: tcp, \
             protocol: TCP}}]}}"
        )
    };
    let text = |resolution: &str| {
        object("ServiceEntry", "a/db", &spec(resolution))
            + &entry("a/new", "240.0.0.2", "")
            + &routed("a/db", "db.example.com", "{host: a.new.example.com, port: {number: 80}}")
    };
    let claimed = report(&text("NONE"));
    let found = told(&claimed, &["RD4045"]);
    let [(place, message)] = &found[..] else { panic!("{found:#?}") };
    assert_eq!(place, "RD4045 ServiceEntry/a/db spec.addresses");
    assert!(message.contains("5432") && message.contains("VirtualService/a/db"), "{message}");
    assert_eq!(places(&report(&text("DNS")), &["RD4045"]), [""; 0], "its names say where it is");
}

#[test]
fn a_gateway_is_examined_at_each_address_that_its_servers_ask_for() {
    let servers = "[{port: {number: 80, name: one, protocol: TCP}, hosts: ['*'], bind: 192.0.2.200}, \
                   {port: {number: 81, name: two, protocol: TCP}, hosts: ['*']}]";
    let gateway =
        object("Gateway", "a/edge", &format!("{{selector: {{istio: edge}}, servers: {servers}}}"));
    // Only workloads in a see the rule, and what is bound is in b.
    let rule = virtual_service(
        "a/v",
        "{hosts: ['*'], gateways: [edge], exportTo: [.], tcp: [{route: [{destination: {host: \
         shop, subset: one}}]}]}",
    );
    let served = |name, address| {
        let spec = format!("{{address: {address}, labels: {{istio: edge}}}}");
        object("WorkloadEntry", name, &spec)
    };
    let text = service("a/shop", "10.96.0.1", "")
        + &gateway
        + &rule
        + &object(
            "DestinationRule",
            "b/shop",
            "{host: shop.a.svc.cluster.local, subsets: [{name: one}]}",
        )
        + &served("b/bound", "192.0.2.200")
        + &served("a/other", "192.0.2.201");
    assert_eq!(
        places(&report(&text), &["RD3019"]),
        ["RD3019 VirtualService/a/v spec.tcp[0].route[0].destination.subset"]
    );
}

#[test]
fn that_an_object_was_refused_is_told_and_not_that_it_is_missing() {
    let text = |port: &str| {
        entry("a/db", "240.0.0.1", "").replace("number: 80", &format!("number: {port}"))
            + &service("a/shop", "10.96.0.1", "")
            + &routed("a/v", "a.db.example.com", "{host: a.db.example.com}")
            + &routed("a/shop", "shop", "{host: a.db.example.com}")
            + &object("DestinationRule", "a/db", "{host: a.db.example.com, subsets: [{name: one}]}")
    };
    assert_eq!(report(&text("80")).diagnostics, []);
    let codes: Vec<_> = report(&text("'80'")).diagnostics.iter().map(|d| d.code).collect();
    assert_eq!(codes, ["RD1009"], "the port is no number, and that is all");
}

#[test]
fn the_ports_of_a_host_are_those_of_all_its_entries() {
    let half = |name: &str, port: u16| {
        let spec = format!(
            "{{hosts: [mq.example.com], addresses: [10.90.0.1], resolution: STATIC, ports: \
             [{{number: {port}, name: tcp, protocol: TCP}}], endpoints: [{{address: 192.0.2.1}}]}}"
        );
        object("ServiceEntry", &format!("a/{name}"), &spec)
    };
    let rule = |port: u16| {
        let to = format!("{{host: mq.example.com, port: {{number: {port}}}}}");
        format!("{{match: [{{port: {port}}}], route: [{{destination: {to}}}]}}")
    };
    let rules = format!("{{hosts: [mq.example.com], tcp: [{}, {}]}}", rule(446), rule(448));
    let rules = virtual_service("a/v", &rules);
    let whole = half("one", 446) + &half("two", 448) + &rules;
    assert_eq!(report(&whole).warnings, 0, "{:#?}", report(&whole).diagnostics);
}

#[test]
fn what_is_wrong_with_allocated_addresses_is_told_where_they_stand() {
    let entry = |name: &str, status: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, \
             namespace: a}}\nspec: {{hosts: [{name}.test], resolution: DNS, ports: [{{number: 9000, \
             name: tcp, protocol: TCP}}], endpoints: [{{address: 192.0.2.9}}]}}\nstatus: \
             {{addresses: [{status}]}}\n"
        )
    };
    let text = entry(
        "one",
        "{value: no-address, host: one.test}, {value: 10.0.0.0/8, host: one.test}, {value: \
         127.0.0.1, host: one.test}, {value: 192.0.2.25, host: one.test}",
    ) + &entry(
        "two",
        "{value: 192.0.2.25, host: two.test}, {value: 192.0.2.26, host: one.test}",
    );
    let report = report(&text);
    assert_eq!(
        places(&report, &["RD4073", "RD4043", "RD4019"]),
        [
            "RD4043 ServiceEntry/a/one status.addresses",
            "RD4073 ServiceEntry/a/one status.addresses[0].value",
            "RD4073 ServiceEntry/a/one status.addresses[1].value",
            "RD4019 ServiceEntry/a/two status.addresses",
            "RD4073 ServiceEntry/a/two status.addresses[1].host",
        ],
        "{:#?}",
        report.diagnostics
    );
}

#[test]
fn a_host_that_is_allocated_addresses_for_two_namespaces_is_told_with_both_entries() {
    let spec = "{hosts: [db.example.com], resolution: DNS, ports: [{number: 80, name: tcp, \
                protocol: TCP}]}";
    let settings = Settings { allocates: true, ..Settings::default() };
    let told = |entries: &[&str]| {
        let all: String = entries.iter().map(|one| object("ServiceEntry", one, spec)).collect();
        let all = report_with(&all, &settings).diagnostics;
        let all = all.into_iter().filter(|one| one.code == "RD4074");
        all.map(|one| (one.object_name(), one.message)).collect::<Vec<_>>()
    };
    assert_eq!(told(&["a/db", "a/again"]), []);
    let [(whose, message)] = &told(&["b/db", "a/db"])[..] else { panic!("it is told once") };
    assert_eq!(whose.as_deref(), Some("ServiceEntry/b/db"));
    assert!(message.contains("the host of ServiceEntry/a/db"), "{message}");
}
