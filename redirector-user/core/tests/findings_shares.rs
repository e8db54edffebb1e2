//! What `check` says of shares that are refused, and of whom.

use redirector_core::check::Report;

use crate::findings::{entry, object, places, report, routed, service, told, virtual_service};

#[test]
fn a_destination_that_some_do_not_see_is_told_with_those() {
    let text = service("a/front", "10.96.0.1", "")
        + &entry("a/ledger", "240.0.0.1", ", exportTo: [b]")
        + &routed("a/front", "front", "{host: a.ledger.example.com}");
    let report = report(&text);
    let found = told(&report, &["RD3005", "RD3018"]);
    let [(place, message)] = &found[..] else { panic!("{found:#?}") };
    assert_eq!(place, "RD3018 VirtualService/a/front spec.tcp[0].route[0].destination.host");
    // A client of the service's own namespace reaches it, too.
    assert!(
        message.ends_with("is refused for all clients but those in the namespaces a, b"),
        "{message}"
    );
    let istio = report.diagnostics.iter().find(|d| d.code == "RD3018").and_then(|d| d.istio);
    assert_eq!(istio, Some("IST0101"), "Istio's analysis does not find the host from namespace a");
}

#[test]
fn a_subset_that_is_defined_where_it_does_not_count_is_told_with_whom_it_refuses() {
    let rule = |namespace: &str| {
        let spec = "{host: db.data.svc.cluster.local, subsets: [{name: one, labels: {v: '1'}}]}";
        object("DestinationRule", &format!("{namespace}/db"), spec)
    };
    let host = "db.data.svc.cluster.local";
    let text = |namespace: &str| {
        service("data/db", "10.96.0.1", ", v: '1'")
            + &rule(namespace)
            + &routed("ops/db", host, &format!("{{host: {host}, subset: one}}"))
    };
    let hidden = report(&text("ops"));
    let found = told(&hidden, &["RD3008", "RD3019"]);
    let [(place, message)] = &found[..] else { panic!("{found:#?}") };
    assert_eq!(place, "RD3019 VirtualService/ops/db spec.tcp[0].route[0].destination.subset");
    assert!(
        message.ends_with("refused for all clients but those in the namespace ops"),
        "{message}"
    );
    let at_home = report(&text("data"));
    assert_eq!(places(&at_home, &["RD3008", "RD3019"]), [""; 0]);
}

#[test]
fn a_share_that_is_refused_to_clients_with_some_labels_only_names_them() {
    let rules = "{hosts: [shop], tcp: [{match: [{sourceLabels: {app: web}}], route: [{destination: \
                 {host: other, subset: one}}]}, {route: [{destination: {host: other}}]}]}";
    let subsets =
        "{host: other, workloadSelector: {matchLabels: {tier: gold}}, subsets: [{name: one}]}";
    let gold = "{address: 192.0.2.50, labels: {app: web, tier: gold}}";
    let plain = "{address: 192.0.2.51, labels: {app: web}}";
    let text = service("a/shop", "10.96.0.1", "")
        + &service("a/other", "10.96.0.2", "")
        + &object("DestinationRule", "a/other", subsets)
        + &object("WorkloadEntry", "a/gold", gold)
        + &object("WorkloadEntry", "a/plain", plain)
        + &virtual_service("a/shop", rules);
    let report = report(&text);
    let found = told(&report, &["RD3019"]);
    let [(_, message)] = &found[..] else { panic!("{found:#?}") };
    assert!(message.contains("for the workload a/plain"), "{message}");
    assert!(!message.contains("a/gold"), "{message}");
}

#[test]
fn a_family_without_endpoints_is_told_where_clients_dial_it_and_where_rules_lead_there() {
    let dual = object(
        "Service",
        "a/dual",
        "{clusterIP: 'fd00::5', clusterIPs: ['fd00::5', 10.96.4.5], selector: {app: dual}, ports: \
         [{name: tcp, port: 80}]}",
    ) + &object("WorkloadEntry", "a/dual", "{address: 192.0.2.5, labels: {app: dual}}");
    let one = report(&dual);
    assert_eq!(places(&one, &["RD4016"]), ["RD4016 Service/a/dual spec.clusterIP"]);
    let rule = service("a/four", "10.96.0.4", "") + &routed("a/v", "dual", "{host: four}");
    let both = report(&(dual + &rule));
    assert_eq!(
        places(&both, &["RD4016"]),
        ["RD4016 VirtualService/a/v spec.tcp[0].route[0].destination.host"]
    );
}

#[test]
fn a_policy_that_refuses_everything_says_how_much() {
    let policy = object(
        "DestinationRule",
        "istio-system/default",
        "{host: '*.local', trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}",
    );
    let text = service("a/shop", "10.96.0.1", "")
        + &service("a/other", "10.96.0.2", "")
        + &service("a/third", "10.96.0.3", "")
        + &routed("a/third", "third", "{host: shop}")
        + &policy;
    let report = report(&text);
    let found = told(&report, &["RD4044"]);
    let [(place, message)] = &found[..] else { panic!("{found:#?}") };
    assert_eq!(place, "RD4044 DestinationRule/istio-system/default spec.trafficPolicy");
    assert!(message.contains("all connections to 2 services"), "{message}");
    assert!(message.contains("a share of VirtualService/a/third"), "{message}");
}

#[test]
fn a_rule_hides_the_subsets_of_others_where_the_lookup_finds_it_instead() {
    let of_service = service("shop/web", "10.96.0.1", ", version: v1")
        + &object(
            "DestinationRule",
            "shop/web",
            "{host: web, subsets: [{name: v1, labels: {version: v1}}]}",
        );
    let hiding = |rules: &[(&str, &str)]| {
        let rules: String = (rules.iter())
            .map(|(name, spec)| object("DestinationRule", name, &format!("{{{spec}}}")))
            .collect();
        places(&report(&(of_service.clone() + &rules)), &["RD4021"])
    };
    let all = "host: '*.local', trafficPolicy: {loadBalancer: {simple: RANDOM}}";
    let found = |name: &str| vec![format!("RD4021 DestinationRule/{name} spec.host")];
    assert_eq!(hiding(&[("other/default", all)]), found("other/default"));
    // Clients in the root namespace look at the private rules there alone.
    assert_eq!(hiding(&[("istio-system/default", all)]), [""; 0]);
    let private = format!("{all}, exportTo: ['.']");
    assert_eq!(hiding(&[("istio-system/default", &private)]), found("istio-system/default"));
    // One for a host that is nearer is found before it.
    let nearer = "host: web.shop.svc.cluster.local, subsets: [{name: v1}]";
    assert_eq!(hiding(&[("other/default", all), ("other/web", nearer)]), [""; 0]);
}

#[test]
fn the_policy_of_a_subset_that_refuses_is_told_where_it_stands() {
    let rule = object(
        "DestinationRule",
        "a/shop",
        "{host: shop, subsets: [{name: v1}, {name: v2, trafficPolicy: {tls: {mode: SIMPLE}}}]}",
    );
    let text = service("a/shop", "10.96.0.1", "")
        + &routed("a/shop", "shop", "{host: shop, subset: v2}")
        + &rule;
    let report = report(&text);
    let found = told(&report, &["RD4044"]);
    let [(place, message)] = &found[..] else { panic!("{found:#?}") };
    assert_eq!(place, "RD4044 DestinationRule/a/shop spec.subsets[1].trafficPolicy");
    assert!(message.ends_with(": a share of VirtualService/a/shop is refused here"), "{message}");
}

#[test]
fn what_has_no_weight_gets_no_connections_whatever_is_wrong_with_it() {
    let text = service("a/shop", "10.96.0.1", "")
        + &object("DestinationRule", "a/shop", "{host: shop, subsets: [{name: v1}]}")
        + &virtual_service(
            "a/shop",
            "{hosts: [shop], tcp: [{route: [{destination: {host: shop}, weight: 100}, {destination: \
             {host: nix}, weight: 0}, {destination: {host: shop, subset: v9}, weight: 0}]}]}",
        );
    let report = report(&text);
    let found = told(&report, &["RD3005", "RD3008", "RD3019"]);
    let of = |code: &str, place: &str, message: &str| {
        let message = format!("{message}: it gets no connections (weight 0)");
        let path = format!("spec.tcp[0].route{place}");
        (format!("{code} VirtualService/a/shop {path}"), message)
    };
    let no_rule = "no DestinationRule for shop.a.svc.cluster.local defines the subset \"v9\"";
    let wanted = [
        of("RD3005", "[1].destination.host", "no service has the host nix.a.svc.cluster.local"),
        of("RD3008", "[2].destination.subset", no_rule),
    ];
    let found: Vec<_> = found.into_iter().map(|(place, text)| (place, text.to_owned())).collect();
    assert_eq!(found, wanted);
}

#[test]
fn a_subset_that_is_not_defined_is_told_once_and_no_rule_of_another_host_is_blamed() {
    let two = service("a/two", "10.96.0.2", "")
        .replace("[{name: tcp, port: 80}]", "[{name: tcp, port: 80}, {name: tcp-b, port: 81}]");
    let rule = |host: &str| {
        object("DestinationRule", "a/db", &format!("{{host: {host}, subsets: [{{name: v1}}]}}"))
    };
    let codes = ["RD3005", "RD3007", "RD3008", "RD3019"];
    let base = service("a/db", "10.96.0.1", "")
        + &two
        + &routed("a/two", "two", "{host: two, subset: v1}");
    let of = |code: &str, field: &str| {
        format!("{code} VirtualService/a/two spec.tcp[0].route[0].destination.{field}")
    };
    let help = |report: &Report| {
        let found = report.diagnostics.iter().find(|d| d.code == "RD3008");
        found.and_then(|d| d.help.clone()).unwrap_or_default()
    };
    let fine = report(&(base.clone() + &rule("db")));
    assert_eq!(places(&fine, &codes), [of("RD3007", "host"), of("RD3008", "subset")]);
    assert!(help(&fine).starts_with("add a DestinationRule with host: two.a."), "{fine:#?}");
    let lost = report(&(base + &rule("tow")));
    assert!(help(&lost).contains("its host must be two.a.svc.cluster.local"), "{lost:#?}");
    // Of a host that is not there no subset can be.
    let text = service("a/two", "10.96.0.2", "")
        + &rule("two")
        + &routed("a/two", "two", "{host: nix, subset: v1}");
    assert_eq!(places(&report(&text), &codes), [of("RD3005", "host")]);
}

#[test]
fn shares_at_gateways_are_examined_whether_or_not_something_serves_them() {
    let gateway = object(
        "Gateway",
        "a/edge",
        "{selector: {istio: edge}, servers: [{port: {number: 80, name: tcp, protocol: TCP}, hosts: ['*']}]}",
    );
    let rule = virtual_service(
        "a/v",
        "{hosts: ['*'], gateways: [edge], tcp: [{route: [{destination: {host: shop, subset: one}}]}]}",
    );
    // Its subset is defined for clients in b alone; the gateway runs in a.
    let subset = "{host: shop.a.svc.cluster.local, subsets: [{name: one}]}";
    let text = service("a/shop", "10.96.0.1", "")
        + &gateway
        + &rule
        + &object("DestinationRule", "b/shop", subset);
    let served = object("WorkloadEntry", "a/edge", "{address: 192.0.2.200, labels: {istio: edge}}");
    for text in [text.clone(), text + &served] {
        assert_eq!(
            places(&report(&text), &["RD3019"]),
            ["RD3019 VirtualService/a/v spec.tcp[0].route[0].destination.subset"]
        );
    }
}

#[test]
fn what_a_mesh_wide_istio_mutual_refuses_goes_plain_where_that_is_said() {
    let policy = |annotation: &str| {
        let spec = "{host: '*.local', trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}";
        object("DestinationRule", &format!("istio-system/default{annotation}"), spec)
    };
    let found = |annotation: &str| {
        let text = service("a/shop", "10.96.0.1", "") + &policy(annotation);
        let report = report(&text);
        let finding = report.diagnostics.iter().find(|one| one.code == "RD4044");
        finding.map(|finding| finding.help.clone().unwrap_or_default())
    };
    let help = found("").expect("it is refused");
    assert!(help.contains("--istio-mutual=plain"), "{help}");
    let plain = " {annotations: {redirector.io/istio-mutual: plain}}";
    assert_eq!(found(plain), None);
    assert!(found(" {annotations: {redirector.io/istio-mutual: refuse}}").is_some());
    // Nor is it said of the policy by itself.
    let bytes = |text: &str| told(&report(text), &["RD5006"]).len();
    assert_eq!([bytes(&policy("")), bytes(&policy(plain))], [1, 0]);
    assert_eq!(bytes(&policy(plain).replace("ISTIO_MUTUAL", "SIMPLE")), 1);
}

#[test]
fn the_proxy_protocol_of_a_rule_refuses_in_the_mesh_and_not_at_gateways() {
    let policy = object(
        "DestinationRule",
        "a/shop",
        "{host: shop, trafficPolicy: {proxyProtocol: {version: V2}}}",
    );
    let edge = object(
        "Gateway",
        "a/edge",
        "{selector: {istio: edge}, servers: [{port: {number: 80, name: tcp, protocol: TCP}, hosts: ['*']}]}",
    ) + &object(
        "WorkloadEntry",
        "a/edge {annotations: {redirector.io/gateway: 'true'}}",
        "{address: 192.0.2.9, labels: {istio: edge}}",
    ) + &object(
        "VirtualService",
        "a/edge",
        "{hosts: ['*'], gateways: [edge], tcp: [{route: [{destination: {host: inner}}]}]}",
    );
    let inner = service("a/inner", "10.96.0.2", "")
        + &object(
            "DestinationRule",
            "a/inner",
            "{host: inner, trafficPolicy: {proxyProtocol: {}}}",
        );
    let found = |text: &str| told(&report(text), &["RD4044"]).len();
    assert_eq!(found(&(service("a/shop", "10.96.0.1", "") + &policy)), 1);
    // Of the two the share of the rule at the gateway is served.
    let report = report(&(edge + &inner));
    let found = told(&report, &["RD4044"]);
    let [(_, message)] = &found[..] else { panic!("{found:#?}") };
    let of_inner = "all connections to inner.a.svc.cluster.local that do not come by a gateway";
    assert!(message.contains(of_inner) && !message.contains("share"), "{message}");
}

#[test]
fn hosts_of_one_tcp_server_with_a_rule_each_are_told_to_share_its_port() {
    let gateway = |hosts: &str| {
        object(
            "Gateway",
            "a/out",
            &format!(
                "{{selector: {{istio: out}}, servers: [{{port: {{number: 15432, name: tcp, protocol: \
                 TCP}}, hosts: [{hosts}]}}]}}"
            ),
        ) + &object(
            "WorkloadEntry",
            "a/out {annotations: {redirector.io/gateway: 'true'}}",
            "{address: 192.0.2.9, labels: {istio: out}}",
        )
    };
    let rule = |name: &str, host: &str, conditions: &str| {
        let spec = format!(
            "{{hosts: [{host}], gateways: [out], tcp: [{{match: [{{port: 15432{conditions}}}], route: \
             [{{destination: {{host: {name}}}}}]}}]}}"
        );
        service(&format!("a/{name}"), "10.96.0.7", "")
            + &object("VirtualService", &format!("a/{name}"), &spec)
    };
    let of = |text: &str| {
        let report = report(text);
        let told = told(&report, &["RD4064"]).into_iter();
        told.map(|(place, message)| format!("{place}: {message}")).collect::<Vec<_>>()
    };
    let both = rule("one", "one.example.com", "") + &rule("two", "two.example.com", "");
    for hosts in ["one.example.com, two.example.com", "'*'"] {
        let told = of(&(gateway(hosts) + &both));
        let [only] = &told[..] else { panic!("{told:#?}") };
        let words = "RD4064 Gateway/a/out spec.servers[0].port.number: one.example.com and \
                     two.example.com share port 15432";
        assert!(only.starts_with(words), "{only}");
    }
    // Clients tell what the port does not, and one host may have its rules in two places.
    let apart = rule("one", "one.example.com", ", sourceNamespace: x")
        + &rule("two", "two.example.com", ", sourceNamespace: y");
    assert_eq!(of(&(gateway("'*'") + &apart)), [""; 0]);
    let one = rule("one", "one.example.com", "") + &rule("two", "one.example.com", "");
    assert_eq!(of(&(gateway("'*'") + &one)), [""; 0]);
}
