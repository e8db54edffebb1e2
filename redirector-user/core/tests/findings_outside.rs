//! What was found from outside to be told wrongly, or not at all.

use std::net::IpAddr;

use redirector_core::check::check;
use redirector_core::compile::compile;
use redirector_core::documents;
use redirector_core::plan::Verdict;
use redirector_core::world::{ServiceAddresses, Settings, World};

use crate::findings::{object, places, report, report_with, service, slice, told, virtual_service};
use crate::support::written_out;

fn own() -> Settings {
    Settings { services: ServiceAddresses::Own, ..Settings::default() }
}

/// The codes and messages of several files together.
fn of_files(files: &[(&str, &str)], settings: &Settings) -> Vec<String> {
    let readings: Vec<_> = files
        .iter()
        .map(|(name, text)| documents::read(Some((*name).into()), &written_out(text)))
        .collect();
    let report = check(&readings, &[], &[], settings);
    report.diagnostics.iter().map(|one| format!("{} {}", one.code, one.message)).collect()
}

const EDGE: &str = "
Gateway a/edge:
  selector: {istio: edge}
  servers: [{port: {number: 80, name: tcp, protocol: TCP}, hosts: ['*']}]
WorkloadEntry a/edge {annotations: {redirector.io/gateway: 'true'}}: {address: 192.0.2.200, labels: {istio: edge}}
";

#[test]
fn a_port_that_only_others_have_than_the_gateways_of_the_match_never_holds() {
    let shop = service("a/shop", "10.96.0.1", "").replace(
        "ports: [{name: tcp, port: 80}]",
        "ports: [{name: tcp, port: 80}, {name: tcp-b, port: 81}]",
    );
    let rules = "{hosts: [shop], gateways: [mesh, edge], tcp: [
        {match: [{gateways: [edge], port: 81}], route: [{destination: {host: shop, port: {number: 80}}}]},
        {match: [{gateways: [mesh], port: 81}], route: [{destination: {host: shop, port: {number: 80}}}]},
        {match: [{port: 82}], route: [{destination: {host: shop, port: {number: 80}}}]}]}";
    let report = report(&(EDGE.to_owned() + &shop + &virtual_service("a/shop", rules)));
    let told = told(&report, &["RD4009"]);
    let paths: Vec<&str> = told.iter().map(|(place, _)| place.as_str()).collect();
    let at = |rule: u8| format!("RD4009 VirtualService/a/shop spec.tcp[{rule}].match[0].port");
    assert_eq!(paths, [at(0), at(2)]);
    assert!(told[0].1.contains("no server of its Gateways has port 81, only 80"), "{told:?}");

    // Of a Gateway that is not among the documents nothing is known.
    let unknown = "{hosts: [shop], gateways: [mesh, other/edge], tcp: [{match: [{port: 82}], \
                   route: [{destination: {host: shop, port: {number: 80}}}]}]}";
    let text = shop + &virtual_service("a/shop", unknown);
    assert_eq!(places(&super::findings::report(&text), &["RD4009"]), [""; 0]);
}

#[test]
fn conditions_of_tls_rules_that_never_hold_at_a_gateway_are_told() {
    let edge = EDGE.replace(
        "protocol: TCP}, hosts: ['*']",
        "protocol: TLS}, tls: {mode: PASSTHROUGH}, hosts: ['*']",
    );
    let rules = "{hosts: [shop], gateways: [edge], tls: [{match: [{sniHosts: [shop], port: 443, \
                 gateways: [edge, mesh]}], route: [{destination: {host: shop}}]}]}";
    let text = edge + &service("a/shop", "10.96.0.1", "") + &virtual_service("a/shop", rules);
    assert_eq!(
        places(&report(&text), &["RD4008", "RD4009"]),
        [
            "RD4009 VirtualService/a/shop spec.tls[0].match[0].port",
            "RD4008 VirtualService/a/shop spec.tls[0].match[0].gateways[1]",
        ]
    );
}

fn entry(name: &str, spec: &str) -> String {
    object("ServiceEntry", name, spec)
}

#[test]
fn one_host_in_two_namespaces_with_a_port_each_needs_no_port_named() {
    let one = |namespace: &str, address: &str, port: u16| {
        let spec = format!(
            "{{hosts: [db.example.com], addresses: [{address}], resolution: STATIC, ports: \
             [{{number: {port}, name: tcp, protocol: TCP}}], endpoints: [{{address: 10.0.0.1}}]}}"
        );
        entry(&format!("{namespace}/db"), &spec)
    };
    let rules =
        "{hosts: [db.example.com], tcp: [{route: [{destination: {host: db.example.com}}]}]}";
    let text = one("a", "192.0.2.1", 5432)
        + &one("b", "192.0.2.2", 5433)
        + &virtual_service("a/db", rules);
    assert_eq!(places(&report(&text), &["RD3007"]), [""; 0]);
    let together = text.replace("ServiceEntry b/db", "ServiceEntry a/db2");
    assert_eq!(places(&report(&together), &["RD3007"]).len(), 1);
}

#[test]
fn what_may_be_in_a_document_that_cannot_be_read_is_said_to_be() {
    let rules = "{hosts: [shop], tcp: [{route: [{destination: {host: shop, subset: v1}}]}]}";
    let good = service("a/shop", "10.96.0.1", "") + &virtual_service("a/shop", rules);
    let other = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: \
                 shop, namespace: a}\nspec: {host: shop, subsets: [{name: v1}\n";
    let all = of_files(&[("good.yaml", &good), ("bad.yaml", other)], &own());
    let missing = all.iter().find(|one| one.starts_with("RD3008")).expect("it is missing");
    assert!(
        missing.ends_with("; it may be in what could not be read: bad.yaml, line 5"),
        "{missing}"
    );
    let alone = of_files(&[("good.yaml", &good)], &own());
    assert!(alone.iter().all(|one| !one.contains("could not be read")), "{alone:?}");
}

#[test]
fn items_of_a_list_that_is_named_after_them_need_no_kind() {
    let text = "apiVersion: networking.istio.io/v1\nkind: VirtualServiceList\nitems:\n- metadata: \
                {name: shop}\n  spec: {hosts: [shop], tcp: [{route: [{destination: {host: \
                shop}}]}]}\n- apiVersion: networking.istio.io/v1\n  kind: DestinationRule\n  \
                metadata: {name: shop}\n  spec: {host: shop}\n---\napiVersion: v1\nkind: \
                ServiceList\nitems: [{metadata: {name: shop}, spec: {clusterIP: 10.96.0.1, ports: \
                [{name: tcp, port: 80}]}}]\n";
    let reading = documents::read(Some("a.yaml".into()), text);
    assert!(reading.complete && reading.diagnostics.is_empty(), "{:?}", reading.diagnostics);
    let objects = reading.objects.iter().filter_map(|one| one.object.as_ref());
    let names: Vec<_> = objects.map(|one| one.reference().to_string()).collect();
    assert_eq!(
        names,
        ["VirtualService/default/shop", "DestinationRule/default/shop", "Service/default/shop"]
    );
}

#[test]
fn a_document_behind_an_end_that_has_no_beginning_is_told_as_that() {
    let text = service("a/shop", "10.96.0.1", "") + "...\napiVersion: v1\nkind: Service\n";
    let all = of_files(&[("a.yaml", &text)], &own());
    assert!(all[0].contains("a document begins here that has no --- before it"), "{all:?}");
}

#[test]
fn json_of_other_tools_is_something_else_and_objects_with_a_slip_are_not() {
    let one = |text: &str| of_files(&[("package.json", text)], &own());
    for text in [r#"{"name": "x", "version": "1"}"#, r#"[1, 2]"#, r#"{"compilerOptions": {}}"#] {
        assert_eq!(one(text), ["RD1024 this JSON has nothing that an object has: skipped"]);
    }
    for text in [r#"{"kind": "Service"}"#, r#"{"spec": {}}"#, r#"{"metadata": {"name": "x"}}"#] {
        assert!(one(text)[0].starts_with("RD1005"), "{:?}", one(text));
    }
}

#[test]
fn a_kind_of_ours_in_another_group_of_istio_is_a_slip() {
    let text = "apiVersion: security.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\n";
    let all = of_files(&[("a.yaml", text)], &own());
    assert!(all[0].starts_with("RD1006"), "{all:?}");
}

#[test]
fn a_route_beside_its_rule_is_told_once() {
    let text = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: \
                a}\nspec:\n  hosts: [a]\n  tcp:\n  - match:\n    - port: 80\n  route:\n  - \
                destination: {host: a}\n";
    let reading = documents::read(Some("a.yaml".into()), text);
    let found: Vec<_> =
        reading.diagnostics.iter().map(|one| (one.line, one.message.as_str())).collect();
    let [(9, message)] = found[..] else { panic!("{found:?}") };
    assert!(message.contains("\"route\" stands outside of the rule"), "{message}");
}

#[test]
fn a_condition_without_a_value_is_told_to_decide_nothing() {
    let rules = "{hosts: [shop], tcp: [{match: [{port: , sourceLabels: null}], route: \
                 [{destination: {host: shop}}]}]}";
    let text = service("a/shop", "10.96.0.1", "") + &virtual_service("a/shop", rules);
    assert_eq!(
        places(&report(&text), &["RD1030"]),
        [
            "RD1030 VirtualService/a/shop spec.tcp[0].match[0].port",
            "RD1030 VirtualService/a/shop spec.tcp[0].match[0].sourceLabels",
        ]
    );
}

#[test]
fn subnets_that_only_together_take_all_of_a_later_one_shadow_it() {
    let net = entry(
        "a/net",
        "{hosts: [net.example.com], addresses: [172.16.0.0/16], resolution: STATIC, ports: \
         [{number: 80, name: tcp, protocol: TCP}], endpoints: [{address: 10.0.0.1}]}",
    );
    let rules = |second: &str| {
        let route = "route: [{destination: {host: net.example.com}}]";
        let spec = format!(
            "{{hosts: [net.example.com], tcp: [{{match: [{{destinationSubnets: [172.16.0.0/17, \
             {second}]}}], {route}}}, {{match: [{{destinationSubnets: [172.16.0.0/16]}}], \
             {route}}}]}}"
        );
        net.clone() + &virtual_service("a/net", &spec)
    };
    let at = ["RD4048 VirtualService/a/net spec.tcp[1]"];
    assert_eq!(places(&report(&rules("172.16.128.0/17")), &["RD4048"]), at);
    assert_eq!(places(&report(&rules("172.16.128.0/18")), &["RD4048"]), [""; 0]);
    // Of another object, too, Istio would choose by the length.
    let apart = ["172.16.0.0/17", "172.16.1.0/24"].map(|subnet| {
        let rule = "route: [{destination: {host: net.example.com}}]";
        let spec = format!(
            "{{hosts: [net.example.com], tcp: [{{match: [{{destinationSubnets: [{subnet}]}}], {rule}}}]}}"
        );
        virtual_service(&format!("a/{}", if subnet.ends_with('7') { "one" } else { "two" }), &spec)
    });
    let report = report(&(net.clone() + &apart.concat()));
    let found = told(&report, &["RD4048"]);
    let [(place, message)] = &found[..] else { panic!("{found:#?}") };
    assert_eq!(place, "RD4048 VirtualService/a/two spec.tcp[0]");
    assert!(message.ends_with("; Istio would use the longer prefix"), "{message}");
}

#[test]
fn a_service_that_uses_its_own_node_only_and_has_nobody_there_is_told_to_refuse() {
    let settings = Settings { node_name: Some("here".to_owned()), ..own() };
    let text = |node: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {node}}}\nService a/db: {{clusterIP: \
             10.96.0.1, internalTrafficPolicy: Local, ports: [{{name: tcp, port: 80}}]}}\n{}",
            slice("a/db", "tcp", "addresses: [10.1.0.1], nodeName: there")
        )
    };
    let refused = |node| {
        let all = of_files(&[("a.yaml", &text(node))], &settings);
        all.into_iter().filter(|one| one.starts_with("RD4015")).collect::<Vec<_>>()
    };
    let told = refused("here");
    assert!(told[0].contains("no endpoint on node here"), "{told:?}");
    // The name of a machine that only judges documents says nothing.
    assert_eq!(refused("there"), [""; 0]);
}

#[test]
fn a_service_that_is_distributed_to_where_nobody_is_is_told_to_refuse() {
    let settings = Settings { node_name: Some("here".to_owned()), ..own() };
    let told = |to: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: here, labels: \
             {{topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: a}}}}\n---\n\
             apiVersion: v1\nkind: Pod\nmetadata: {{name: db-1, namespace: a, uid: u-1}}\nspec: {{nodeName: here, containers: []}}\nstatus: \
             {{podIPs: [{{ip: 10.1.0.1}}]}}\n---\nService a/db: \
             {{clusterIP: 10.96.0.1, ports: [{{name: tcp, port: 80}}]}}\nDestinationRule a/db: \
             {{host: db, trafficPolicy: {{loadBalancer: {{localityLbSetting: {{distribute: [{{from: \
             eu/*, to: {{{to}: 100}}}}]}}}}, outlierDetection: {{consecutive5xxErrors: \
             2}}}}}}\n{}",
            slice(
                "a/db",
                "tcp",
                "addresses: [10.1.0.1], nodeName: here, targetRef: {kind: Pod, name: db-1, \
                 namespace: a}"
            )
        );
        let all = of_files(&[("a.yaml", &text)], &settings);
        all.into_iter().filter(|one| one.starts_with("RD4015")).collect::<Vec<_>>()
    };
    let refused = told("us/*");
    let words = "distributes to: connections to 10.96.0.1:80 are refused";
    assert!(refused.len() == 1 && refused[0].contains(words), "{refused:?}");
    assert_eq!(told("eu/*"), [""; 0]);
}

#[test]
fn a_subset_that_is_on_other_nodes_alone_is_told_to_be_that() {
    let settings = Settings { node_name: Some("here".to_owned()), ..own() };
    let slice = slice(
        "a/db",
        "tcp",
        "addresses: [10.1.0.1], nodeName: there, targetRef: {kind: \
                                      Pod, name: db-1, namespace: a}",
    );
    let text = format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: here}}\n---\napiVersion: v1\nkind: Pod\n\
         metadata: {{name: db-1, namespace: a, uid: u-1, labels: {{version: v1}}}}\nspec: \
         {{nodeName: there, containers: []}}\nstatus: {{podIPs: [{{ip: 10.1.0.1}}]}}\n---\n\
         Service a/db: {{clusterIP: 10.96.0.1, internalTrafficPolicy: Local, ports: [{{name: tcp, \
         port: 80}}]}}\nDestinationRule a/db: {{host: db, subsets: [{{name: v1, labels: {{version: \
         v1}}}}]}}\nVirtualService a/db: {{hosts: [db], tcp: [{{route: [{{destination: {{host: db, \
         subset: v1}}}}]}}]}}\n{slice}"
    );
    let told = of_files(&[("a.yaml", &text)], &settings);
    let words = "with the labels of subset v1 (DestinationRule/a/db) is on node here";
    assert!(told.iter().any(|one| one.starts_with("RD4015") && one.contains(words)), "{told:?}");
    assert!(!told.iter().any(|one| one.starts_with("RD4016")), "{told:?}");
}

#[test]
fn ports_of_slices_that_are_named_otherwise_are_told() {
    let db = "Service a/db: {clusterIP: 10.96.0.1, ports: [{name: tcp, port: 80}]}\n".to_owned();
    let text = |port: &str| db.clone() + &slice("a/db", port, "addresses: [10.1.0.1]");
    let told = |name| places(&report(&text(name)), &["RD4015"]);
    assert_eq!(told("sql"), ["RD4015 EndpointSlice/a/db-x ports"]);
    assert_eq!(told("tcp"), [""; 0]);
}

#[test]
fn a_gateway_that_leads_to_its_own_address_is_told() {
    let spec = |port: u16| {
        format!(
            "{{hosts: [self.example.com], addresses: [192.0.2.9], resolution: STATIC, ports: \
             [{{number: {port}, name: tcp, protocol: TCP}}], endpoints: [{{address: \
             192.0.2.200}}]}}"
        )
    };
    let rules = "{hosts: ['*'], gateways: [edge], tcp: [{route: [{destination: {host: \
                 self.example.com}}]}]}";
    let text =
        |port| EDGE.to_owned() + &entry("a/self", &spec(port)) + &virtual_service("a/r", rules);
    let told = |port| places(&report(&text(port)), &["RD4051"]);
    assert_eq!(told(80), ["RD4051 VirtualService/a/r spec.tcp[0].route[0].destination.host"]);
    assert_eq!(told(81), [""; 0]);
}

#[test]
fn gateways_that_lead_to_one_another_are_told() {
    let to = |name: &str, address: &str| {
        let spec = format!(
            "{{hosts: [{name}.example.com], addresses: [192.0.2.9], resolution: STATIC, ports: \
             [{{number: 80, name: tcp, protocol: TCP}}], endpoints: [{{address: {address}}}]}}"
        );
        entry(&format!("a/{name}"), &spec)
    };
    let rules = |name: &str, gateway: &str, conditions: &str, to: &str| {
        let route = format!("route: [{{destination: {{host: {to}.example.com}}}}]");
        let spec =
            format!("{{hosts: ['*'], gateways: [{gateway}], tcp: [{{{conditions}{route}}}]}}");
        virtual_service(&format!("a/{name}"), &spec)
    };
    let inner = EDGE.replace("edge", "inner").replace("192.0.2.200", "192.0.2.201");
    let both = EDGE.to_owned() + &inner + &to("edge", "192.0.2.200") + &to("inner", "192.0.2.201");
    let text = |conditions: &str, back: &str| {
        both.clone()
            + &to("db", "192.0.2.5")
            + &rules("in", "edge", "", "inner")
            + &rules("back", "inner", conditions, back)
    };
    let code = ["RD4051"];
    let found = report(&text("", "edge"));
    let found = told(&found, &code);
    let place =
        |name| format!("RD4051 VirtualService/a/{name} spec.tcp[0].route[0].destination.host");
    let at: Vec<&String> = found.iter().map(|(place, _)| place).collect();
    assert_eq!(at, [&place("in"), &place("back")]);
    let way = "leads to 192.0.2.201:80 where Gateway/a/inner listens, and on from there to \
               192.0.2.200:80, where Gateway/a/edge itself listens";
    assert!(found[0].1.contains(way), "{found:#?}");
    assert_eq!(places(&report(&text("", "db")), &code), [""; 0]);
    // What comes from the other gateway meets none of its rules.
    let away = "match: [{sourceSubnet: 198.51.100.0/24}], ";
    assert_eq!(places(&report(&text(away, "edge")), &code), [""; 0]);
    let from = "match: [{sourceSubnet: 192.0.2.0/24}], ";
    assert_eq!(places(&report(&text(from, "edge")), &code).len(), 2);
}

#[test]
fn gateways_that_hand_a_server_name_round_are_told() {
    let tls = |text: &str| {
        text.replace(
            "number: 80, name: tcp, protocol: TCP}",
            "number: 443, name: tls, protocol: TLS}, tls: {mode: PASSTHROUGH}",
        )
    };
    let inner = EDGE.replace("edge", "inner").replace("192.0.2.200", "192.0.2.201");
    let to = |name: &str, address: &str| {
        let spec = format!(
            "{{hosts: [{name}.example.com], addresses: [192.0.2.9], resolution: STATIC, ports: \
             [{{number: 443, name: tls, protocol: TLS}}], endpoints: [{{address: {address}}}]}}"
        );
        entry(&format!("a/{name}"), &spec)
    };
    let rules = |gateway: &str, sni: &str, to: &str| {
        let rule = format!(
            "{{match: [{{sniHosts: ['{sni}']}}], route: [{{destination: {{host: {to}.example.com}}}}]}}"
        );
        let spec = format!("{{hosts: ['*'], gateways: [{gateway}], tls: [{rule}]}}");
        virtual_service(&format!("a/at-{gateway}"), &spec)
    };
    let told = |sni: &str| {
        let text = tls(EDGE)
            + &tls(&inner)
            + &to("edge", "192.0.2.200")
            + &to("inner", "192.0.2.201")
            + &rules("edge", "*.shop.example.com", "inner")
            + &rules("inner", sni, "edge");
        places(&report(&text), &["RD4051"]).len()
    };
    assert_eq!(told("*.example.com"), 2);
    assert_eq!(told("*.bank.example.com"), 0);
}

#[test]
fn rules_for_hosts_without_ports_are_told() {
    let entry = |ports: &str| {
        let spec = format!(
            "{{hosts: [db.example.com], addresses: [192.0.2.1], resolution: STATIC, {ports}\
             endpoints: [{{address: 192.0.2.2}}]}}"
        );
        entry("a/db", &spec)
    };
    let headless = object("Service", "a/all", "{clusterIP: None, selector: {app: all}}");
    let rule = |host: &str| {
        let rules = "tcp: [{route: [{destination: {host: db.example.com, port: {number: 80}}}]}]";
        virtual_service("a/v", &format!("{{hosts: [{host}], {rules}}}"))
    };
    let told = |text: &str| places(&report(text), &["RD5010"]);
    let place = ["RD5010 VirtualService/a/v spec.tcp"];
    assert_eq!(told(&(entry("") + &rule("db.example.com"))), place);
    assert_eq!(told(&(headless + &rule("all"))), place);
    let with = "ports: [{number: 80, name: tcp, protocol: TCP}], ";
    assert_eq!(told(&(entry(with) + &rule("db.example.com"))), [""; 0]);
    assert_eq!(told(&(entry(with) + &rule("not-there"))), [""; 0]);

    // One that is left out has ports, and it is said why it is.
    let older = entry(with).replace("a/db", "a/an-older").replace("db.", "older.");
    let mut settings = Settings::default();
    settings.budgets.namespace.endpoints = 1;
    let report = report_with(&(older + &entry(with) + &rule("db.example.com")), &settings);
    let place = "RD1026 ServiceEntry/a/db ";
    assert_eq!(places(&report, &["RD1026", "RD5010"]), [place]);
}

#[test]
fn what_only_follows_from_a_slice_or_a_pod_that_is_not_used_is_not_told() {
    let db = object(
        "Service",
        "a/db",
        "{clusterIP: 10.96.0.11, selector: {app: db}, ports: [{name: tcp, port: 80}]}",
    );
    let slice = |port: &str, address: &str| slice("a/db", port, &format!("addresses: [{address}]"));
    let pod = |ip: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: db-0, namespace: a, labels: {{app: \
             db}}}}\nspec: {{nodeName: one}}\nstatus: {{podIP: {ip}}}\n"
        )
    };
    let rule =
        virtual_service("a/v", "{hosts: [shop], tcp: [{route: [{destination: {host: db}}]}]}");
    let text = service("a/shop", "10.96.0.1", "") + &db + &rule;
    let told = |more: &str| {
        let report = report(&(text.clone() + more));
        let codes = report.diagnostics.iter().map(|one| one.code);
        codes.filter(|code| !["RD4049"].contains(code)).collect::<Vec<_>>()
    };
    assert_eq!(told(""), ["RD4042"; 2], "the service, and the share");
    assert_eq!(told(&slice("sql", "10.0.0.1")), ["RD4015"]);
    assert_eq!(told(&slice("tcp", "10.0.0.x")), ["RD1014"]);
    assert_eq!(told(&pod("10.0.0.x")), ["RD1014"]);
    let named = slice("tcp", "10.0.0.1").replace("]}]", "], targetRef: {kind: Pod, name: x}}]");
    assert_eq!(told(&named), ["RD3024"], "Pods are not among the documents");
}

#[test]
fn an_entry_whose_host_has_an_address_elsewhere_is_not_told_to_have_none() {
    let one = |name: &str, addresses: &str, port: u16| {
        let spec = format!(
            "{{hosts: [db.example.com], {addresses}resolution: STATIC, ports: [{{number: {port}, \
             name: tcp, protocol: TCP}}], endpoints: [{{address: 10.0.0.1}}]}}"
        );
        entry(&format!("a/{name}"), &spec)
    };
    let without = one("one", "", 5432);
    let with = one("two", "addresses: [192.0.2.1], ", 5433);
    assert_eq!(places(&report(&(without.clone() + &with)), &["RD2109"]), [""; 0]);
    assert_eq!(places(&report(&(with.replace("two", "a") + &without)), &["RD2109"]), [""; 0]);
    assert_eq!(places(&report(&without), &["RD2109"]).len(), 1);
}

#[test]
fn addresses_with_a_port_are_written_as_they_are_dialled() {
    let six = |name: &str| {
        let spec = "{hosts: [NAME.example.com], addresses: ['2001:db8::1'], resolution: STATIC, \
                    ports: [{number: 80, name: tcp, protocol: TCP}], endpoints: [{address: \
                    '2001:db8::2'}]}";
        entry(&format!("a/{name}"), &spec.replace("NAME", name))
    };
    let report = report(&(six("one") + &six("two")));
    let told = told(&report, &["RD4019"]);
    assert!(told[0].1.starts_with("[2001:db8::1]:80 belongs to"), "{told:?}");
}

#[test]
fn what_has_every_address_never_has_what_stays_on_the_machine() {
    let of = |addresses: &str| {
        let spec = format!(
            "{{hosts: [all.example.com], addresses: [{addresses}], resolution: STATIC, ports: \
             [{{number: 80, name: tcp, protocol: TCP}}], endpoints: [{{address: 10.0.0.1}}]}}"
        );
        let mut world = World::new(own());
        for read in documents::read(None, &written_out(&entry("a/all", &spec))).objects {
            world.insert(read.object.expect("it is good"));
        }
        let plan = compile(&world).plan;
        move |dialled: &str| {
            let dialled: IpAddr = dialled.parse().expect("an address");
            let having = plan.frontends.iter().filter(|(id, _)| id.prefix.contains(&dialled));
            let narrowest = having.max_by_key(|(id, _)| id.prefix.prefix_len());
            narrowest.is_some_and(|(_, frontend)| frontend.default != Verdict::Pass)
        }
    };
    let all = of("0.0.0.0/0");
    assert!(all("192.0.2.1") && all("128.0.0.1"));
    assert!(!all("127.0.0.1") && !all("169.254.1.1") && !all("0.0.0.0"));
    let six = of("'::/0'");
    assert!(!six("::1") && !six("fe80::1"));
    // What is asked for by itself is given.
    assert!(of("127.0.0.0/8")("127.0.0.1") && of("127.0.0.1")("127.0.0.1"));
}

#[test]
fn what_is_said_of_hosts_gateways_and_owners_says_for_whom() {
    let messages = |text: &str, code: &str| {
        let report = report(text);
        let of = report.diagnostics.into_iter().filter(|one| one.code == code);
        of.map(|one| (one.message, one.help.unwrap_or_default())).collect::<Vec<_>>()
    };
    let gateway = "Gateway a/edge: {selector: {app: edge}, servers: [{port: {number: 80, name: tcp, \
                   protocol: TCP}, hosts: ['*']}]}\n";
    let echo = service("a/echo", "10.96.0.1", "");
    let rules = |gateways: &str| {
        format!(
            "{echo}{gateway}VirtualService a/vs: {{hosts: [away.example.com], gateways: [{gateways}], \
             tcp: [{{route: [{{destination: {{host: echo.a.svc.cluster.local}}}}]}}]}}\n"
        )
    };
    let told = messages(&rules("edge, mesh"), "RD3020");
    assert!(told[0].0.ends_with("in the mesh"), "at the gateway they do: {told:?}");
    let told = messages(&rules("Mesh"), "RD3002");
    assert!(told[0].1.contains("mesh"), "{told:?}");
    let entry = |name: &str, more: &str| {
        let spec = format!(
            "{{hosts: [{name}.example.com], addresses: [192.0.2.1], resolution: STATIC, ports: \
             [{{number: 80, name: tcp, protocol: TCP}}], endpoints: [{{address: 10.0.0.1}}]{more}}}"
        );
        entry(&format!("b/{name}"), &spec)
    };
    let shared = |more: &str| messages(&(entry("one", more) + &entry("two", "")), "RD4019");
    assert!(shared("")[0].0.ends_with("keeps it"), "{:?}", shared(""));
    assert!(shared(", exportTo: [.]")[0].0.ends_with("for clients that see it"));
}
