//! What `check` and `explain` say of rules for addresses that another service has.

use redirector_core::explain::{Query, QuerySource, explain};
use redirector_core::world::Settings;

use crate::findings::{object, places, report, service, slice, told, virtual_service};
use crate::support::world_with;

/// An entry with addresses, at port 80, that leads to what was dialled.
fn network(name: &str, addresses: &str, more: &str) -> String {
    let ports = "ports: [{number: 80, name: tcp, protocol: TCP}]";
    object(
        "ServiceEntry",
        &format!("a/{name}"),
        &format!(
            "{{hosts: [{name}.example.com], addresses: [{addresses}], resolution: NONE, {ports}{more}}}"
        ),
    )
}

/// A rule for some subnets of one of these.
fn rule(name: &str, subnets: &str) -> String {
    let matches = format!("match: [{{destinationSubnets: [{subnets}]}}]");
    let route = "route: [{destination: {host: db.a.svc.cluster.local}}]";
    virtual_service(
        &format!("a/{name}"),
        &format!("{{hosts: [{name}.example.com], tcp: [{{{matches}, {route}}}]}}"),
    )
}

const CODES: [&str; 3] = ["RD4012", "RD4019", "RD4048"];

#[test]
fn a_subnet_that_is_a_narrower_address_of_another_service_is_told() {
    let db = service("a/db", "10.96.0.10", "");
    let text = |subnets: &str, export: &str| {
        let wide = network("wide", "10.0.0.0/8", "");
        let narrow = network("narrow", "10.2.0.0/16", export);
        db.clone() + &wide + &narrow + &rule("wide", subnets)
    };
    let at = |n: u8| {
        let path = format!("spec.tcp[0].match[0].destinationSubnets[{n}]");
        format!("RD4012 VirtualService/a/wide {path}")
    };
    for (subnets, n, owner) in [
        (
            "10.2.0.0/16",
            0,
            "10.2.0.0/16 belongs to ServiceEntry/a/narrow, whose address is narrower",
        ),
        ("10.3.0.0/16, 10.2.7.0/24", 1, "10.2.7.0/24 lies in 10.2.0.0/16, which belongs to"),
        ("10.96.0.10", 0, "10.96.0.10/32 belongs to Service/a/db, whose address is narrower"),
    ] {
        let found = report(&text(subnets, ""));
        let found = told(&found, &CODES);
        let [(place, message)] = &found[..] else { panic!("{subnets}: {found:#?}") };
        assert_eq!(*place, at(n));
        assert!(message.starts_with(owner), "{message}");
    }
    // Some of it is left, the other port's is, or the other is not there for everybody.
    assert_eq!(places(&report(&text("10.2.0.0/15", "")), &CODES), [""; 0]);
    assert_eq!(places(&report(&text("10.2.0.0/16", ", exportTo: [b]")), &CODES), [""; 0]);
    let other = text("10.2.0.0/16", "").replacen("number: 80", "number: 81", 1);
    assert_eq!(places(&report(&other), &CODES), [""; 0]);
}

#[test]
fn a_network_that_two_entries_have_is_named_and_the_rules_of_the_younger_are_told() {
    let text = service("a/db", "10.96.0.10", "")
        + &network("one", "10.0.0.0/8", "")
        + &network("two", "10.0.0.0/8", "");
    let found = report(&(text.clone() + &rule("two", "10.2.0.0/16")));
    let found = told(&found, &CODES);
    let [(entry, shared), (rules, lies)] = &found[..] else { panic!("{found:#?}") };
    assert_eq!(entry, "RD4019 ServiceEntry/a/two spec.addresses");
    assert!(shared.starts_with("port 80 of 10.0.0.0/8 belongs to ServiceEntry/a/one"), "{shared}");
    assert_eq!(rules, "RD4012 VirtualService/a/two spec.tcp[0].match[0].destinationSubnets[0]");
    let lies_in =
        "10.2.0.0/16 lies in 10.0.0.0/8, which belongs to ServiceEntry/a/one, which keeps it";
    assert!(lies.starts_with(lies_in), "{lies}");
    let of_older = text.clone() + &rule("one", "10.2.0.0/16");
    assert_eq!(places(&report(&of_older), &CODES), [entry.as_str()]);
    // Connections of other protocols are nobody's here.
    let udp = text.replace("protocol: TCP", "protocol: UDP");
    assert_eq!(places(&report(&udp), &CODES), [""; 0]);
}

/// Two headless Services over one Pod, with rules.
fn headless(rules: &[&str]) -> String {
    let one = |name: &str| {
        object(
            "Service",
            &format!("a/{name}"),
            "{clusterIP: None, selector: {app: pods}, ports: [{name: tcp, port: 80}]}",
        ) + &slice(&format!("a/{name}"), "tcp", "addresses: [10.1.0.1]")
            + &slice(&format!("a/{name}"), "tcp", "addresses: [10.1.0.2]").replace("-x", "-y")
    };
    let rules = rules.iter().map(|hosts| {
        let route = "route: [{destination: {host: db.a.svc.cluster.local}}]";
        let name = hosts.split(',').next().unwrap_or_default();
        virtual_service(&format!("a/{name}"), &format!("{{hosts: [{hosts}], tcp: [{{{route}}}]}}"))
    });
    service("a/db", "10.96.0.10", "") + &one("h1") + &one("h2") + &rules.collect::<String>()
}

#[test]
fn rules_of_a_headless_service_whose_pods_an_older_one_has_are_told() {
    let found = report(&headless(&["h1", "h2"]));
    let found = told(&found, &CODES);
    let [(shared, owner), (rules, why)] = &found[..] else { panic!("{found:#?}") };
    assert_eq!(shared, "RD4019 Service/a/h2 spec.clusterIP");
    assert!(owner.starts_with("10.1.0.1:80 and 1 more belong to Service/a/h1 too"), "{owner}");
    assert_eq!(rules, "RD4048 VirtualService/a/h2 spec.tcp[0]");
    assert!(why.contains(": 10.1.0.1:80 belongs to Service/a/h1, which keeps it"), "{why}");
    // Who dials the younger one goes by the rules of the older one.
    assert_eq!(places(&report(&headless(&["h1"])), &CODES), [shared.as_str()]);
    // Nothing is decided about either, or the same about both.
    assert_eq!(places(&report(&headless(&[])), &CODES), [""; 0]);
    assert_eq!(places(&report(&headless(&["h1, h2"])), &CODES), [""; 0]);
}

#[test]
fn explain_names_who_would_have_the_address_if_another_had_not() {
    let wide = network("wide", "10.0.0.0/8", "") + &network("narrow", "10.2.0.0/16", "");
    let wide = service("a/db", "10.96.0.10", "") + &wide;
    let notes = |text: &str, to: &str| {
        let world = world_with(text, Settings::default());
        let destination = to.parse().expect("an address");
        let query = Query { source: QuerySource::Unknown, destination, gateway: None, sni: None };
        explain(&world, &query).expect("it is known").notes
    };
    assert_eq!(
        notes(&(wide.clone() + &rule("wide", "10.2.0.0/16")), "10.2.0.1:80"),
        [
            "VirtualService/a/wide is not compared: it is for wide.example.com, which has 10.0.0.0/8, \
          and the address is in 10.2.0.0/16 of ServiceEntry/a/narrow"
        ]
    );
    assert_eq!(notes(&wide, "10.2.0.1:80"), [""; 0]);
    let found = notes(&headless(&["h1", "h2"]), "10.1.0.1:80");
    assert_eq!(
        found,
        ["VirtualService/a/h2 is not compared: it is for h2.a.svc.cluster.local, which has \
          10.1.0.1/32, and the address is an endpoint of Service/a/h1"]
    );
}
