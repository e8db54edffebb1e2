//! What `check` says of this project's own annotations.

use crate::findings::{report, told};

/// The findings in these documents: object and path, and message.
fn found(text: &str) -> Vec<String> {
    let report = report(text);
    let found = told(&report, &["RD4038"]).into_iter();
    let ours = found.map(|(place, message)| format!("{} {message}", &place["RD4038 ".len()..]));
    ours.collect()
}

/// A Gateway with a server, and an annotation with this value.
fn gateway(name: &str, value: Option<&str>, server: &str) -> String {
    let annotation = value.map(|value| format!("redirector.io/proxy-protocol: {value}"));
    format!(
        "Gateway {name} {{annotations: {{{}}}}}: {{selector: {{istio: edge}}, servers: [{{hosts: ['*'], {server}}}]}}
---
",
        annotation.unwrap_or_default()
    )
}

const TLS: &str = "port: {name: tls, number: 443, protocol: TLS}, tls: {mode: PASSTHROUGH}";
const TCP: &str = "port: {name: tcp, number: 443, protocol: TCP}";
const OTHER: &str = "port: {name: tls, number: 444, protocol: TLS}, tls: {mode: PASSTHROUGH}";

fn rules(gateways: &str) -> String {
    format!(
        "VirtualService rules:
  hosts: ['*']
  gateways: [{gateways}]
  tls: [{{match: [{{sniHosts: ['*']}}], route: [{{destination: {{host: a}}}}]}}]
"
    )
}

#[test]
fn another_version_or_another_kind_is_told() {
    assert_eq!(found(&gateway("one", Some("v2"), TCP)), Vec::<String>::new());
    let wrong = found(&gateway("one", Some("v1"), TCP));
    assert!(matches!(&wrong[..], [one] if one.contains("\"v1\" is not v2")), "{wrong:?}");
    let elsewhere =
        rules("one").replace("rules:", "rules {annotations: {redirector.io/proxy-protocol: v2}}:");
    let wrong = found(&elsewhere);
    assert!(
        matches!(&wrong[..], [one] if one.contains("no meaning for a VirtualService")),
        "{wrong:?}"
    );
}

#[test]
fn an_annotation_at_a_kind_that_it_is_not_for_or_with_a_value_that_says_nothing_is_told() {
    let entry = |annotations: &str| {
        let text = format!(
            "WorkloadEntry w {{annotations: {{{annotations}}}}}: {{address: 192.0.2.1}}
"
        );
        let report = report(&text);
        let found = told(&report, &["RD1028"]).into_iter();
        found.map(|(_, message)| message.to_owned()).collect::<Vec<_>>()
    };
    let none: [&str; 0] = [];
    assert_eq!(entry("redirector.io/gateway: 'true', redirector.io/cgroup: a.slice"), none);
    assert_eq!(entry("redirector.io/gateway: 'false'"), none);
    assert_eq!(
        entry("redirector.io/gateway: 'True'"),
        ["redirector.io/gateway: \"True\" is not \"true\""]
    );
    assert_eq!(
        entry("redirector.io/claim-port: 'true'"),
        ["redirector.io/claim-port has no meaning for a WorkloadEntry"]
    );
    let service = |annotation: &str| {
        let text =
            format!("Service s {{annotations: {{{annotation}}}}}: {{ports: [{{port: 80}}]}}\n");
        let report = report(&text);
        let found = told(&report, &["RD1028"]).into_iter();
        found.map(|(_, message)| message.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        service("networking.istio.io/exportto: ."),
        ["there is no annotation networking.istio.io/exportto: it has no effect"]
    );
    assert_eq!(service("networking.istio.io/exportTo: ., networking.istio.io/other: x"), none);
}

#[test]
fn gateways_of_two_minds_about_a_rule_that_both_have_at_one_port_are_told() {
    let of = |first: &str, second: Option<&str>, server: &str, bound: &str| {
        found(&(gateway("one", Some(first), TLS) + &gateway("two", second, server) + &rules(bound)))
    };
    let told = of("v2", None, TLS, "one, two");
    assert!(
        matches!(&told[..], [one] if one.starts_with("VirtualService/default/rules spec.gateways[1]")
            && one.contains("Gateway/default/one asks") && one.contains("Gateway/default/two does not")),
        "{told:?}"
    );
    let nothing = Vec::<String>::new();
    assert_eq!(of("v2", Some("v2"), TLS, "one, two"), nothing, "they agree");
    assert_eq!(of("v2", None, OTHER, "one, two"), nothing, "another port");
    assert_eq!(of("v2", None, TCP, "one, two"), nothing, "a TCP server shares no port");
    assert_eq!(of("v2", None, TLS, "one"), nothing, "rules of one of them");
}

#[test]
fn a_gateway_whose_words_about_clients_are_those_of_an_older_one_is_told() {
    let of = |values: &[&str], server: &str| {
        let one = |(i, value): (usize, &&str)| {
            let name = format!("g{i}");
            gateway(&name, Some("x"), server).replace("redirector.io/proxy-protocol: x", value)
        };
        let text: String = values.iter().enumerate().map(one).collect();
        let report = report(&text);
        let found = told(&report, &["RD4052"]).into_iter();
        found.map(|(place, message)| format!("{place} {message}")).collect::<Vec<_>>()
    };
    let trusting = "redirector.io/accept-proxy-protocol: 10.0.0.0/8";
    let bounded = "redirector.io/max-connections: '10', redirector.io/client-keepalive: 'off'";
    let told = of(&["", trusting], TLS);
    assert!(
        matches!(&told[..], [one] if one.contains("Gateway/default/g1 spec.servers[0]")
            && one.contains("Gateway/default/g0 is older")
            && one.contains("redirector.io/accept-proxy-protocol")),
        "{told:?}"
    );
    let told = of(&[trusting, &format!("{trusting}, {bounded}"), trusting], TLS);
    assert!(
        matches!(&told[..], [one] if one.contains("g1") && !one.contains("accept-proxy")
            && one.contains("redirector.io/max-connections, redirector.io/client-keepalive")),
        "{told:?}"
    );
    let nothing = Vec::<String>::new();
    assert_eq!(of(&[trusting, trusting], TLS), nothing, "they agree");
    assert_eq!(of(&["", trusting], TCP), nothing, "a TCP server shares no port");
    let apart = format!("{TLS}, bind: 192.0.2.1");
    let both = gateway("a", None, &apart)
        + &gateway("b", Some("x"), &apart.replace("2.1", "2.2"))
            .replace("redirector.io/proxy-protocol: x", trusting);
    assert_eq!(told_in(&both), nothing, "each has an address of its own");
}

#[test]
fn a_service_whose_words_on_whom_to_believe_are_not_all_that_is_in_force_is_told() {
    let service = |name: &str, net: &str, port: u16| {
        format!(
            "Service {name} {{annotations: {{redirector.io/accept-proxy-protocol: {net}}}}}:              {{clusterIP: 10.96.0.9, selector: {{istio: edge}}, ports: [{{name: tls, port:              {port}}}]}}
---
"
        )
    };
    let edge = "WorkloadEntry edge {annotations: {redirector.io/gateway: 'true'}}: {address:                 192.0.2.1, labels: {istio: edge}}
---
";
    let plain = gateway("g", None, TLS) + edge;
    let trusting = gateway("g", Some("x"), TLS).replace(
        "redirector.io/proxy-protocol: x",
        "redirector.io/accept-proxy-protocol: 10.0.0.0/8",
    ) + edge;
    let [one, two] =
        [("one", "10.1.0.0/16"), ("two", "0.0.0.0/0")].map(|(name, net)| service(name, net, 443));
    let at = |name: &str| {
        format!(
            "RD4052 Service/default/{name} metadata.annotations.redirector.io/accept-proxy-protocol"
        )
    };
    assert_eq!(told_in(&(plain.clone() + &one)), [""; 0]);
    assert_eq!(told_in(&(plain.clone() + &one + &two)), [at("one"), at("two")]);
    assert_eq!(told_in(&(trusting + &one)), [at("one")]);
    let elsewhere = service("two", "0.0.0.0/0", 444);
    assert_eq!(told_in(&(plain + &one + &elsewhere)), [""; 0], "it leads to another port");
}

fn told_in(text: &str) -> Vec<String> {
    told(&report(text), &["RD4052"]).into_iter().map(|(place, _)| place.to_owned()).collect()
}

#[test]
fn a_drain_time_that_is_none_or_elsewhere_is_told() {
    let found = |kind: &str, time: &str| {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: a, \
             annotations: {{redirector.io/drain: '{time}'}}}}\nspec: {{host: a, address: 10.0.0.1}}\n"
        );
        told(&report(&text), &["RD4034"]).first().map(|(_, message)| (*message).to_owned())
    };
    assert_eq!(found("DestinationRule", "30s"), None);
    assert_eq!(found("DestinationRule", "0s"), None);
    assert!(found("DestinationRule", "30").is_some_and(|text| text.contains("not a duration")));
    assert!(found("WorkloadEntry", "30s").is_some_and(|text| text.contains("no meaning")));
}

#[test]
fn what_a_gateway_says_of_its_clients_must_be_readable_or_the_object_is_refused() {
    let found = |annotation: &str| {
        let text =
            gateway("one", Some("v2"), TCP).replace("redirector.io/proxy-protocol: v2", annotation);
        let report = report(&text);
        told(&report, &["RD1029"])
            .into_iter()
            .map(|(place, _)| place.to_owned())
            .collect::<Vec<_>>()
    };
    let none: [&str; 0] = [];
    for good in [
        "accept-proxy-protocol: '10.0.0.0/8, ::1'",
        "max-connections: '10'",
        "client-keepalive: 'off'",
    ] {
        assert_eq!(found(&format!("redirector.io/{good}")), none, "{good}");
    }
    for bad in [
        "accept-proxy-protocol: 10.0.0.0/33",
        "max-connections-per-client: '0'",
        "client-keepalive: '1'",
    ] {
        assert_eq!(found(&format!("redirector.io/{bad}")).len(), 1, "{bad}");
    }
}
