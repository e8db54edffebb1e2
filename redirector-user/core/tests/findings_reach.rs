//! What `check` says of rules that connections do not reach, and of
//! destinations that they cannot go on from.

use redirector_core::diag::Severity;

use crate::findings::{
    entry, object, places, report, routed, service, slice, told, virtual_service,
};

fn gateway(name: &str) -> String {
    let servers = "[{port: {number: 80, name: tcp, protocol: TCP}, hosts: ['*']}]";
    object("Gateway", name, &format!("{{selector: {{istio: edge}}, servers: {servers}}}"))
}

fn edge(name: &str) -> String {
    object("WorkloadEntry", name, "{address: 192.0.2.200, labels: {istio: edge}}")
}

#[test]
fn rules_that_the_workloads_of_their_gateway_do_not_see_are_told() {
    let rule = |export: &str| {
        let route = "tcp: [{route: [{destination: {host: shop}}]}]";
        let spec = format!("{{hosts: ['*'], gateways: [edge], exportTo: [{export}], {route}}}");
        service("a/shop", "10.96.0.1", "") + &gateway("a/edge") + &virtual_service("a/v", &spec)
    };
    let code = ["RD4047"];
    let away = report(&(rule("'.'") + &edge("system/edge-1")));
    let found = told(&away, &code);
    let [(place, message)] = &found[..] else { panic!("{found:#?}") };
    assert_eq!(place, "RD4047 VirtualService/a/v spec.exportTo");
    assert!(message.contains("the namespace system"), "{message}");
    for text in [
        rule("'.'") + &edge("a/edge-1"),
        rule("system") + &edge("system/edge-1"),
        rule("'*'") + &edge("system/edge-1"),
    ] {
        assert_eq!(places(&report(&text), &code), [""; 0], "{text}");
    }
}

/// With more matches above it than may be compared one by one.
#[test]
fn a_dead_rule_is_told_whatever_the_number_of_rules_above_it() {
    let rule = |conditions: &str| {
        format!("{{match: [{{{conditions}}}], route: [{{destination: {{host: shop}}}}]}}")
    };
    let mut rules: Vec<String> = (1..=7000).map(|port| rule(&format!("port: {port}"))).collect();
    rules.push(rule("port: 6543, sourceNamespace: web"));
    let rules = rules.join(", ");
    let spec = format!("{{hosts: [shop], gateways: [edge], tcp: [{rules}]}}");
    let text = service("a/shop", "10.96.0.1", "") + &virtual_service("a/v", &spec);
    assert_eq!(
        places(&report(&text), &["RD4004"]),
        ["RD4004 VirtualService/a/v spec.tcp[7000].match[0]"]
    );
}

#[test]
fn namespaces_that_do_not_exist_are_told_where_something_is_exported_to_them() {
    let namespace = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    let text = |name: &str| {
        let rest = "tcp: [{route: [{destination: {host: db}}]}]";
        let spec = format!("{{hosts: [db], exportTo: ['.', {name}, b], {rest}}}");
        let annotations = format!("{{networking.istio.io/exportTo: 'data,{name}'}}");
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: db, namespace: data, \
             annotations: {annotations}}}\nspec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}\n\
             ---\n"
        ) + &virtual_service("data/v", &spec)
            + &service("b/other", "10.96.0.2", "")
    };
    let codes = ["RD4069"];
    let found = report(&(text("shpo") + namespace));
    assert_eq!(
        places(&found, &codes),
        [
            "RD4069 Service/data/db metadata.annotations[\"networking.istio.io/exportTo\"]",
            "RD4069 VirtualService/data/v spec.exportTo[1]",
        ]
    );
    let mut helps = found.diagnostics.iter().filter(|one| one.code == codes[0]);
    assert!(helps.all(|one| one.help.as_deref() == Some("did you mean shop?")), "{found:#?}");
    // In another namespace there is something, and without any Namespace none is known.
    assert_eq!(places(&report(&(text("shop") + namespace)), &codes), [""; 0]);
    assert_eq!(places(&report(&text("shpo")), &codes), [""; 0]);
}

#[test]
fn a_served_service_whose_endpoints_are_all_unready_is_a_warning() {
    let db = object(
        "Service",
        "a/db",
        "{clusterIP: 10.96.0.11, selector: {app: db}, ports: [{name: tcp, port: 5432}]}",
    );
    let slice = |ready: bool| {
        slice("a/db", "tcp", &format!("addresses: [192.0.2.3], conditions: {{ready: {ready}}}"))
    };
    let unready = report(&(db.clone() + &slice(false)));
    assert_eq!(places(&unready, &["RD4015", "RD4042"]), ["RD4015 Service/a/db spec"]);
    assert_eq!(unready.warnings, 1, "{:#?}", unready.diagnostics);
    assert_eq!(places(&report(&(db + &slice(true))), &["RD4015", "RD4042"]), [""; 0]);
}

#[test]
fn a_static_entry_that_nothing_can_add_endpoints_to_is_a_warning() {
    let bare = entry("a/st", "240.0.0.1", "").replace(", endpoints: [{address: 192.0.2.100}]", "");
    let text = |entry: &str| {
        service("a/shop", "10.96.0.1", "")
            + entry
            + &routed("a/v", "shop", "{host: a.st.example.com}")
    };
    let codes = ["RD4015", "RD4042"];
    assert_eq!(
        places(&report(&text(&bare)), &codes),
        [
            "RD4015 ServiceEntry/a/st spec",
            "RD4015 VirtualService/a/v spec.tcp[0].route[0].destination.host"
        ]
    );
    assert_eq!(places(&report(&bare), &codes), ["RD4015 ServiceEntry/a/st spec"], "a part, too");
    let selecting =
        bare.replace("resolution", "workloadSelector: {labels: {app: none}}, resolution");
    let selecting = report(&text(&selecting));
    assert!(places(&selecting, &codes).iter().all(|place| place.starts_with("RD4042")));
    assert_eq!(places(&selecting, &codes).len(), 2, "another document may add one");
}

#[test]
fn a_share_without_the_port_dialled_is_said_to_be_refused_where_it_always_is() {
    let two = |name: &str, address: &str, port: u16| {
        service(name, address, "")
            .replace("port: 80}", &format!("port: {port}}}, {{name: tcp-b, port: 91}}"))
    };
    let found = |ports: u16| {
        let text = two("a/shop", "10.96.0.1", 80)
            + &two("a/other", "10.96.0.2", ports)
            + &virtual_service(
                "a/v",
                "{hosts: [shop], tcp: [{match: [{port: 80}], route: [{destination: {host: other}}]}]}",
            );
        let report = report(&text);
        let found = told(&report, &["RD3007", "RD3006"]);
        let [(place, message)] = &found[..] else { panic!("{found:#?}") };
        assert_eq!(place, "RD3007 VirtualService/a/v spec.tcp[0].route[0].destination.host");
        (*message).to_owned()
    };
    assert!(found(90).ends_with("its share of the connections is refused"), "{}", found(90));
    assert!(found(80).ends_with("where it does not exist the share is refused"), "{}", found(80));
}

#[test]
fn the_order_of_several_virtual_services_is_that_of_the_clients_who_see_them() {
    let host = "shop.a.svc.cluster.local";
    let rules = |export: &str| {
        let rule = |name: &str, export: &str| {
            let route = "tcp: [{route: [{destination: {host: shop.a.svc.cluster.local}}]}]";
            virtual_service(name, &format!("{{hosts: [{host}], exportTo: [{export}], {route}}}"))
        };
        let namespace =
            |name| format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n");
        let text = service("a/shop", "10.96.0.1", "")
            + &namespace("a")
            + &namespace("b")
            + &rule("a/a-public", "'*'")
            + &rule("b/b-private", export);
        report(&text)
    };
    let private = rules("'.'");
    let found = told(&private, &["RD3009"]);
    let [(_, first), (_, second)] = &found[..] else { panic!("{found:#?}") };
    assert_eq!(first, second);
    assert!(
        first.ends_with(
            "in this order for clients in the namespace b: VirtualService/b/b-private, \
             VirtualService/a/a-public"
        ),
        "{first}"
    );
    let helps = private.diagnostics.iter().filter(|d| d.code == "RD3009");
    for help in helps.filter_map(|d| d.help.as_deref()) {
        assert!(!help.contains("join"), "an override is no list in pieces: {help}");
    }
    assert_eq!(places(&rules("nowhere"), &["RD3009"]), [""; 0], "nobody sees both");
    let public = rules("'*'");
    let found = told(&public, &["RD3009"]);
    let [(_, message), _] = &found[..] else { panic!("{found:#?}") };
    assert!(
        message.ends_with("in this order: VirtualService/a/a-public, VirtualService/b/b-private"),
        "{message}"
    );
}

#[test]
fn each_of_many_virtual_services_is_told_once_that_others_claim_its_host_however_the_orders_differ()
{
    let host = "shop.n0.svc.cluster.local";
    let rules = |name: &str, export: &str| {
        let route = format!("tcp: [{{route: [{{destination: {{host: {host}}}}}]}}]");
        virtual_service(name, &format!("{{hosts: [{host}], exportTo: ['{export}'], {route}}}"))
    };
    let text = (0..6).map(|i| {
        let namespace = format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: n{i}}}\n");
        namespace + &rules(&format!("n{i}/public"), "*") + &rules(&format!("n{i}/private"), ".")
    });
    let report = report(&(service("n0/shop", "10.96.0.1", "") + &text.collect::<String>()));
    let found = told(&report, &["RD3009"]);
    let each = (0..6).flat_map(|i| ["private", "public"].map(|name| format!("n{i}/{name}")));
    let each = each.map(|name| format!("RD3009 VirtualService/{name} spec.hosts[0]"));
    let mut places: Vec<_> = found.iter().map(|(place, _)| place.clone()).collect();
    places.sort();
    assert_eq!(places, each.collect::<Vec<_>>());
    for (place, message) in found {
        let (first, last) = match place.contains("public") {
            true => (
                "in this order: VirtualService/n0/public, ",
                "; and otherwise for clients in the namespaces n0, n1, n2, n3, n4 and 1 more",
            ),
            false => ("in this order for clients in the namespace n", "and 2 more"),
        };
        assert!(message.contains(first) && message.ends_with(last), "{place}: {message}");
    }
}

#[test]
fn a_subset_without_any_destination_rule_is_told_where_the_service_is_known() {
    let rule = routed("a/v", "shop", "{host: other, subset: one}");
    let shop = service("a/shop", "10.96.0.1", "");
    let known = report(&(shop.clone() + &service("a/other", "10.96.0.2", "") + &rule));
    assert_eq!(
        places(&known, &["RD3008", "RD3019", "RD3024"]),
        ["RD3008 VirtualService/a/v spec.tcp[0].route[0].destination.subset"]
    );
    let alone = report(&rule);
    assert_eq!(places(&alone, &["RD3008", "RD3024"]).len(), 1, "rules alone are a part");
    assert_eq!(alone.warnings, 0, "{:#?}", alone.diagnostics);
}

#[test]
fn a_destination_that_passes_on_to_an_address_with_nothing_behind_it_is_told() {
    let any = object(
        "ServiceEntry",
        "a/any",
        "{hosts: [any.example.com], addresses: [198.51.100.0/24], resolution: NONE, ports: \
         [{number: 80, name: tcp, protocol: TCP}]}",
    );
    let text = |host: &str| {
        service("a/shop", "10.96.0.1", "") + &any + &routed("a/v", host, "{host: any.example.com}")
    };
    assert_eq!(
        places(&report(&text("shop")), &["RD4033"]),
        ["RD4033 VirtualService/a/v spec.tcp[0].route[0].destination.host"]
    );
    assert_eq!(places(&report(&text("any.example.com")), &["RD4033"]), [""; 0]);
}

#[test]
fn names_for_one_another_are_said_to_be_names() {
    let name = |name: &str, target: &str| {
        let spec = format!("{{type: ExternalName, externalName: {target}.a.svc.cluster.local}}");
        object("Service", name, &spec)
    };
    let text = service("a/shop", "10.96.0.1", "")
        + &name("a/one", "two")
        + &name("a/two", "one")
        + &routed("a/v", "shop", "{host: one}");
    let report = report(&text);
    let found = told(&report, &["RD4030"]);
    let [(_, message)] = &found[..] else { panic!("{found:#?}") };
    assert!(message.contains("two.a.svc.cluster.local, which is another name itself"), "{message}");
}

#[test]
fn a_source_namespace_that_the_object_is_not_exported_to_never_holds() {
    let rules = |export: &str| {
        let spec = format!(
            "{{hosts: [shop.a.svc.cluster.local], exportTo: [{export}], tcp: [{{match: \
             [{{sourceNamespace: a}}], route: [{{destination: {{host: shop.a.svc.cluster.local}}}}]}}]}}"
        );
        service("a/shop", "10.96.0.1", "") + &virtual_service("b/v", &spec)
    };
    let found = report(&rules("'.'"));
    let place = "RD4011 VirtualService/b/v spec.tcp[0].match[0].sourceNamespace";
    assert_eq!(places(&found, &["RD4011"]), [place]);
    assert!(
        found.diagnostics.iter().all(|d| d.code != "RD4011" || d.severity == Severity::Warning)
    );
    assert_eq!(places(&report(&rules("'*'")), &["RD4011"]), [""; 0]);
}

/// A rule that leads to the shop, with these matches.
fn rule(matches: &str) -> String {
    format!("{{match: [{matches}], route: [{{destination: {{host: shop.a.svc.cluster.local}}}}]}}")
}

/// The rules that are said to be never reached, with who takes what they match.
fn unreached(text: &str) -> Vec<(String, String)> {
    let report = report(text);
    let found = told(&report, &["RD4048"]).into_iter();
    let by = |message: &str| {
        let from = message.find(": ").expect("by whom") + 2;
        message[from..message.find(" is compared").expect("by whom")].to_owned()
    };
    found.map(|(place, message)| (place, by(message))).collect()
}

#[test]
fn a_rule_that_an_older_object_at_the_gateway_takes_everything_from_is_told() {
    let rules = |name: &str, rule: &str| {
        virtual_service(
            &format!("a/{name}"),
            &format!("{{hosts: ['*'], gateways: [edge], tcp: [{rule}]}}"),
        )
    };
    let text = |first: &str, second: &str| {
        service("a/shop", "10.96.0.1", "")
            + &gateway("a/edge")
            + &rules("one", &rule(first))
            + &rules("two", &rule(second))
    };
    let told = [(
        "RD4048 VirtualService/a/two spec.tcp[0]".to_owned(),
        "spec.tcp[0] of VirtualService/a/one".to_owned(),
    )];
    assert_eq!(unreached(&text("{port: 80}", "{}")), told);
    assert_eq!(unreached(&text("{sourceNamespace: b}", "{sourceNamespace: b, port: 80}")), told);
    assert_eq!(unreached(&text("{sourceNamespace: b}", "{port: 80}")), []);
    assert_eq!(unreached(&text("{port: 81}", "{port: 80}")), []);
}

#[test]
fn a_rule_that_others_in_the_mesh_take_everything_from_is_told() {
    let rules = |name: &str, export: &str, rules: &str| {
        let host = "shop.a.svc.cluster.local";
        let spec = format!("{{hosts: [{host}], exportTo: [{export}], tcp: [{rules}]}}");
        virtual_service(name, &spec)
    };
    let text = |first: (&str, &str), second: (&str, &str)| {
        service("a/shop", "10.96.0.1", "")
            + &rules("b/one", first.0, first.1)
            + &rules("b/two", second.0, second.1)
    };
    let all = "{}";
    let told = [(
        "RD4048 VirtualService/b/two spec.tcp[0]".to_owned(),
        "spec.tcp[0] of VirtualService/b/one".to_owned(),
    )];
    assert_eq!(unreached(&text(("'*'", &rule(all)), ("'*'", &rule("{port: 80}")))), told);
    // What is private comes first, and the public rule is for all others.
    assert_eq!(unreached(&text(("'.'", &rule(all)), ("'*'", &rule(all)))), []);
    // In c the younger one is alone.
    assert_eq!(unreached(&text(("b", &rule(all)), ("'b', 'c'", &rule(all)))), []);
    let only_b = rule("{sourceNamespace: b}");
    assert_eq!(unreached(&text(("'.'", &rule(all)), ("'*'", &only_b))), told);
    assert_eq!(unreached(&text(("'*'", &rule("{port: 81}")), ("'*'", &rule(all)))), []);
    // What its own object takes is told once, at the match.
    let twice = format!("{}, {}", rule("{port: 80}"), rule("{port: 80, sourceNamespace: c}"));
    let report = report(&text(("'*'", &twice), ("c", &rule(all))));
    assert_eq!(
        places(&report, &["RD4004", "RD4048"]),
        ["RD4004 VirtualService/b/one spec.tcp[1].match[0]"]
    );
}

#[test]
fn a_rule_that_several_rules_above_it_take_everything_from_is_told() {
    let two = service("a/shop", "10.96.0.1", "")
        .replace("port: 80}", "port: 80}, {name: tcp-b, port: 81}");
    let rules = |last: &str| {
        let rules = [rule("{port: 80}"), rule("{port: 81}"), rule(last)].join(", ");
        two.clone() + &virtual_service("a/v", &format!("{{hosts: [shop], tcp: [{rules}]}}"))
    };
    let found = unreached(&rules("{sourceLabels: {app: shop}}"));
    let [(place, by)] = &found[..] else { panic!("{found:#?}") };
    assert_eq!(place, "RD4048 VirtualService/a/v spec.tcp[2]");
    assert_eq!(by, "spec.tcp[0]");
}

#[test]
fn a_rule_that_is_reached_elsewhere_is_told_of_the_gateway_that_another_object_has_it_all_at() {
    let rules = |name: &str, gateways: &str, rules: &str| {
        let spec = format!("{{hosts: ['*'], gateways: [{gateways}], tcp: [{rules}]}}");
        virtual_service(&format!("a/{name}"), &spec)
    };
    let gateways = service("a/shop", "10.96.0.1", "")
        + &gateway("a/edge")
        + &gateway("a/inner").replace("istio: edge", "istio: inner");
    let own = [rule("{gateways: [edge]}"), rule("{}")].join(", ");
    let text = gateways.clone() + &rules("one", "edge", &rule("{}"));
    let found = report(&(text + &rules("two", "'edge', 'inner'", &own)));
    let found = told(&found, &["RD4048"]);
    let at = ["spec.tcp[0]", "spec.tcp[1]"];
    assert_eq!(
        found.iter().map(|(place, _)| place.clone()).collect::<Vec<_>>(),
        at.map(|path| format!("RD4048 VirtualService/a/two {path}"))
    );
    // One is for the first gateway alone, the other comes to the second, too.
    assert!(found[0].1.starts_with("no connection reaches"), "{found:#?}");
    assert!(found[1].1.starts_with("no connection that comes to the Gateway a/edge reaches"));
    // Within one object that is how it is meant.
    let own = report(&(gateways + &rules("two", "'edge', 'inner'", &own)));
    assert_eq!(places(&own, &["RD4048"]), [""; 0]);
}

#[test]
fn a_server_that_is_refused_at_the_gateway_is_told_with_the_same_reason() {
    let gateway = |server: &str| {
        let spec = format!("{{selector: {{istio: edge}}, servers: [{{{server}, hosts: ['*']}}]}}");
        object("Gateway", "a/edge", &spec) + &edge("a/edge-1")
    };
    let tls = "tls: {mode: SIMPLE, credentialName: cert}";
    let of = |protocol: &str, tls: &str| {
        let port = format!("port: {{number: 443, name: db, protocol: {protocol}}}");
        let found = report(&gateway(&format!("{port}{tls}")));
        told(&found, &["RD5004"]).first().map(|(_, message)| (*message).to_owned())
    };
    let ends = of("TLS", &format!(", {tls}")).expect("it is told");
    assert!(ends.contains("a TLS server with tls mode SIMPLE would have to end TLS itself"));
    assert!(of("HTTP", "").is_some_and(|told| told.contains("would have to speak HTTP")));
    assert_eq!(of("MONGO", ""), None);
    assert_eq!(of("TLS", ", tls: {mode: PASSTHROUGH}"), None);
}

#[test]
fn a_rule_behind_one_that_passes_everything_on_is_told() {
    let host = "shop.a.svc.cluster.local";
    let entry = "{hosts: [out.example.com], resolution: NONE, ports: [{number: 80, name: tcp, protocol: TCP}]}";
    let on = "{route: [{destination: {host: out.example.com}}]}";
    let spec = |rule: &str| format!("{{hosts: [{host}], tcp: [{rule}]}}");
    let text = service("a/shop", "10.96.0.1", "")
        + &object("ServiceEntry", "a/out", entry)
        + &virtual_service("a/one", &spec(on))
        + &virtual_service("a/two", &spec(&rule("{port: 80}")));
    let by = "spec.tcp[0] of VirtualService/a/one".to_owned();
    assert_eq!(unreached(&text), [("RD4048 VirtualService/a/two spec.tcp[0]".to_owned(), by)]);
}

#[test]
fn a_server_name_that_an_older_object_has_is_never_reached_by_the_younger_one() {
    let port = "port: {number: 443, name: tls, protocol: TLS}, tls: {mode: PASSTHROUGH}";
    let spec = format!("{{selector: {{istio: edge}}, servers: [{{{port}, hosts: ['*']}}]}}");
    let rules = |name: &str, sni: &str| {
        let route = "route: [{destination: {host: shop}}]";
        let tls = format!("tls: [{{match: [{{sniHosts: [{sni}]}}], {route}}}]");
        virtual_service(name, &format!("{{hosts: [{sni}], gateways: [edge], {tls}}}"))
    };
    let text = |second: &str| {
        service("a/shop", "10.96.0.1", "")
            + &object("Gateway", "a/edge", &spec)
            + &rules("a/one", "'*.example.com'")
            + &rules("a/two", second)
    };
    let found = unreached(&text("x.example.com"));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].0, "RD4048 VirtualService/a/two spec.tls[0]");
    assert_eq!(unreached(&text("x.example.org")), []);
}

#[test]
fn a_subset_whose_endpoints_are_not_ready_does_not_lack_their_labels() {
    let at = |name: &str, last: u8| {
        let ready = if name == "old" { "True" } else { "False" };
        format!(
            "Pod a/{name} {{labels: {{app: db, version: {name}}}}}:\n  {{nodeName: node-1}}\nstatus: \
             {{phase: Running, podIP: 10.0.0.{last}, conditions: [{{type: Ready, status: \
             '{ready}'}}]}}\n"
        )
    };
    let slice = |name: &str, ready: bool, last: u8| {
        let endpoint = format!(
            "addresses: [10.0.0.{last}], conditions: {{ready: {ready}}}, targetRef: {{kind: Pod, \
             name: {name}, namespace: a}}"
        );
        slice("a/db", "tcp", &endpoint).replace("name: db-x", &format!("name: db-{name}"))
    };
    let text = service("a/db", "10.96.0.1", "").replace("app: db}", "app: other}")
        + &at("old", 1)
        + &at("new", 2)
        + &slice("old", true, 1)
        + &slice("new", false, 2)
        + &object(
            "DestinationRule",
            "a/db",
            "{host: db, subsets: [{name: new, labels: {version: new}}]}",
        )
        + &virtual_service(
            "a/db",
            "{hosts: [db], tcp: [{route: [{destination: {host: db, subset: new}}]}]}",
        );
    let report = report(&text);
    let found = told(&report, &["RD3011", "RD3021", "RD4015"]);
    let [(place, message)] = &found[..] else { panic!("{found:#?}") };
    assert_eq!(place, "RD4015 VirtualService/a/db spec.tcp[0].route[0].destination.subset");
    assert!(message.contains("no usable endpoint"), "{message}");
}

#[test]
fn what_is_dropped_when_destination_rules_are_merged_is_told_and_nothing_else_of_it() {
    let rule = |name: &str, month: u8, rest: &str| {
        format!(
            "DestinationRule a/{name} {{creationTimestamp: '2024-0{month}-01T00:00:00Z'}}: {{host: \
             db, {rest}}}\n"
        )
    };
    let tls = "trafficPolicy: {tls: {mode: SIMPLE}}";
    let merged = |first: &str| {
        let text = service("a/db", "10.96.0.1", ", version: v1")
            + &rule("one", 1, &format!("{first}, subsets: [{{name: v, labels: {{app: db}}}}]"))
            + &rule(
                "two",
                2,
                &format!("{tls}, subsets: [{{name: v, labels: {{version: v1}}, {tls}}}]"),
            );
        let report = report(&text);
        places(&report, &["RD4070", "RD5006"])
    };
    assert_eq!(
        merged("trafficPolicy: {loadBalancer: {simple: RANDOM}}"),
        [
            "RD4070 DestinationRule/a/two spec.trafficPolicy",
            "RD4070 DestinationRule/a/two spec.subsets[0]",
        ]
    );
    // What says the same is in force, whose it is.
    assert_eq!(
        merged(tls),
        [
            "RD5006 DestinationRule/a/one spec.trafficPolicy.tls",
            "RD5006 DestinationRule/a/two spec.trafficPolicy.tls",
            "RD4070 DestinationRule/a/two spec.subsets[0]",
        ]
    );
}

#[test]
fn a_match_for_a_port_that_takes_no_such_rules_is_told() {
    let ports =
        "[{name: tcp-a, port: 7001}, {name: http-b, port: 7002}, {name: tls-c, port: 7003}]";
    let text = |of: &str| {
        object("Service", "a/mix", &format!("{{clusterIP: 10.96.0.1, ports: {ports}}}"))
            + &service("a/db", "10.96.0.2", "")
            + &virtual_service(
                "a/v",
                &format!(
                    "{{hosts: [mix], tcp: [{{match: [{{port: 7001}}, {{port: {of}}}], route: \
                     [{{destination: {{host: db}}}}]}}]}}"
                ),
            )
    };
    for (port, protocol) in [("7002", "HTTP"), ("7003", "TLS")] {
        let report = report(&text(port));
        let found = told(&report, &["RD5010"]);
        let [(place, message)] = &found[..] else { panic!("{found:#?}") };
        assert_eq!(place, "RD5010 VirtualService/a/v spec.tcp[0].match[1].port");
        assert!(message.contains(&format!("port {port} of the hosts is {protocol}")), "{message}");
    }
    let fits = text("7001, sourceNamespace: a");
    assert_eq!(places(&report(&fits), &["RD5010"]), [""; 0]);
}

#[test]
fn rules_whose_clients_do_not_see_the_service_of_their_host_are_told() {
    let text = |seen: &str, rules: &str| {
        object(
            "ServiceEntry",
            "data/pg",
            &format!(
                "{{hosts: [pg.example.com], addresses: [198.51.100.70], ports: [{{number: 5432, \
                 name: tcp, protocol: TCP}}], exportTo: ['{seen}'], resolution: STATIC, \
                 endpoints: [{{address: 192.0.2.1}}]}}"
            ),
        ) + &virtual_service(
            "shop/pg",
            &format!(
                "{{hosts: [pg.example.com], exportTo: ['{rules}'], tcp: [{{route: [{{destination: \
                 {{host: db}}}}]}}]}}"
            ),
        ) + &service("shop/db", "10.96.0.2", "")
    };
    for (seen, rules, says) in [
        (".", ".", Some("no client sees both")),
        ("~", "*", Some("no client sees both")),
        (".", "*", Some("clients in shop")),
        ("shop", ".", None),
        (".", "data", None),
        ("*", ".", None),
    ] {
        let report = report(&text(seen, rules));
        let found = told(&report, &["RD4072"]);
        match (&found[..], says) {
            ([], None) => {}
            ([(place, message)], Some(says)) => {
                assert_eq!(place, "RD4072 VirtualService/shop/pg spec.hosts[0]");
                assert!(message.contains(says), "{message}");
            }
            _ => panic!("{seen} {rules}: {found:#?}"),
        }
    }
}

#[test]
fn workload_entries_that_what_selects_them_cannot_use_are_told() {
    let entry = |spec: &str| {
        object("WorkloadEntry", "a/w", &format!("{{labels: {{app: pg}}, address: {spec}}}"))
    };
    let static_entry = |resolution: &str| {
        object(
            "ServiceEntry",
            "a/pg",
            &format!(
                "{{hosts: [pg.example.com], addresses: [198.51.100.70], ports: [{{number: 5432, \
                 name: tcp, protocol: TCP}}], resolution: {resolution}, workloadSelector: \
                 {{labels: {{app: pg}}}}}}"
            ),
        )
    };
    let named = object(
        "Service",
        "a/pg",
        "{clusterIP: 10.96.0.1, selector: {app: pg}, ports: [{name: tcp, port: 80, targetPort: web}]}",
    );
    let found = |text: String| {
        let report = report(&text);
        places(&report, &["RD4071"]).join(", ").replace("RD4071 WorkloadEntry/a/w spec.", "")
    };
    assert_eq!(found(static_entry("STATIC") + &entry("pg.example.org")), "address");
    assert_eq!(found(static_entry("DNS") + &entry("pg.example.org")), "");
    let ports = |name: &str| entry(&format!("192.0.2.1, ports: {{{name}: 5433}}"));
    assert_eq!(found(static_entry("STATIC") + &ports("tcp-pg")), "ports");
    assert_eq!(found(static_entry("STATIC") + &ports("tcp")), "");
    assert_eq!(found(named.clone() + &entry("192.0.2.1")), "ports");
    assert_eq!(found(named.clone() + &ports("web")), "");
    // It is used where another one that selects it has the port.
    assert_eq!(found(named + &static_entry("STATIC") + &ports("web")), "");
    assert_eq!(found(ports("web")), "");
}
