//! What `check` says of DestinationRules that are in force otherwise than they are written.

use redirector_core::analysis::{Around, analyze};
use redirector_core::registry::Registry;

use crate::findings::{object, places, report, routed, service, told};
use crate::support::{world, written_out};

#[test]
fn a_destination_rule_for_another_name_is_told_to_be_for_nobody() {
    let text = service("a/db", "10.96.0.1", ", version: v1")
        + &object(
            "Service",
            "a/name",
            "{type: ExternalName, externalName: db.a.svc.cluster.local}",
        )
        + &object(
            "DestinationRule",
            "a/name",
            "{host: name, trafficPolicy: {tls: {mode: SIMPLE}}, subsets: [{name: v1, labels: \
             {version: v1}, trafficPolicy: {tls: {mode: SIMPLE}}}]}",
        )
        + &routed("a/v", "db", "{host: name}");
    let codes = ["RD3010", "RD4022", "RD4030", "RD5006"];
    let (found, at) = (report(&text), "RD4030 DestinationRule/a/name spec.host");
    assert_eq!(places(&found, &codes), [at]);
    let told = found.diagnostics.iter().find(|one| one.code == "RD4030");
    let help = told.and_then(|one| one.help.as_deref());
    assert_eq!(help, Some("write host: db.a.svc.cluster.local"));
    // A wildcard that covers nothing but that is no better; one that covers the service is in force.
    let wild = |host: &str| {
        report(&text.replace("{host: name, traffic", &format!("{{host: '{host}', traffic")))
    };
    assert_eq!(places(&wild("*me.a.svc.cluster.local"), &codes), [at]);
    assert_eq!(
        places(&wild("*.a.svc.cluster.local"), &codes),
        [
            "RD3010 DestinationRule/a/name spec.host",
            "RD5006 DestinationRule/a/name spec.trafficPolicy.tls",
            "RD5006 DestinationRule/a/name spec.subsets[0].trafficPolicy.tls",
        ]
    );
}

#[test]
fn a_setting_of_a_port_that_the_host_does_not_have_is_told_to_concern_nothing() {
    let setting = |port: u16| {
        format!(
            "trafficPolicy: {{portLevelSettings: [{{port: {{number: {port}}}, tls: {{mode: SIMPLE}}}}]}}"
        )
    };
    let text = |rule: u16, subset: u16| {
        let spec = format!(
            "{{host: db, {}, subsets: [{{name: all, labels: {{}}, {}}}]}}",
            setting(rule),
            setting(subset)
        );
        service("a/db", "10.96.0.1", "")
            + &object("DestinationRule", "a/db", &spec)
            + &routed("a/v", "db", "{host: db}")
    };
    assert_eq!(places(&report(&text(80, 80)), &["RD4022"]), [""; 0]);
    let found = report(&text(8080, 80));
    let found = told(&found, &["RD4022"]);
    let [(place, message)] = &found[..] else { panic!("{found:#?}") };
    assert_eq!(place, "RD4022 DestinationRule/a/db spec.trafficPolicy.portLevelSettings");
    assert!(message.contains("no port 8080, only 80"), "{message}");
    assert_eq!(
        places(&report(&text(80, 8080)), &["RD4022"]),
        ["RD4022 DestinationRule/a/db spec.subsets[0].trafficPolicy.portLevelSettings"]
    );
    // Of what is set for one port no more is refused than is for that.
    let report = report(&text(8080, 80));
    let bytes = told(&report, &["RD5006"]);
    let of_port = |port: &str| bytes.iter().any(|(_, message)| message.contains(port));
    assert!(of_port("shares to port 8080 ") && of_port("shares to port 80 "), "{bytes:#?}");
}

#[test]
fn a_misspelt_field_of_a_subset_that_leaves_it_without_labels_is_told_to_make_it_all() {
    let said = |subset: &str| {
        let spec = format!("{{host: db, subsets: [{subset}]}}");
        let report =
            report(&(service("a/db", "10.96.0.1", "") + &object("DestinationRule", "a/db", &spec)));
        told(&report, &["RD1010"])
            .into_iter()
            .map(|(_, message)| message.to_owned())
            .collect::<String>()
    };
    let all = "without labels the subset is all endpoints of the host";
    assert!(said("{name: v1, label: {version: v1}}").ends_with(all));
    assert!(!said("{name: v1, label: {version: v1}, labels: {app: db}}").contains(all));
}

#[test]
fn a_policy_of_an_entry_with_addresses_is_told_of_alike_whether_its_endpoint_is_a_name() {
    let codes = ["RD4022", "RD4044"];
    for (policy, wanted) in [
        ("proxyProtocol: {version: V2}", "RD4044"),
        ("tls: {mode: ISTIO_MUTUAL}", "RD4044"),
        ("tls: {mode: SIMPLE}", "RD4044"),
        ("connectionPool: {tcp: {maxConnections: 2}}", ""),
    ] {
        let said = |entry: &str, resolved: bool| {
            let spec = format!(
                "{{hosts: [db.test], {entry}, ports: [{{number: 5432, name: tcp, protocol: TCP}}]}}"
            );
            let policy = format!("{{host: db.test, trafficPolicy: {{{policy}}}}}");
            let text =
                object("ServiceEntry", "a/db", &spec) + &object("DestinationRule", "a/db", &policy);
            let mut world = world(&written_out(&text));
            if resolved {
                for name in ["db.test", "one.test"] {
                    world.set_resolved(name, vec!["192.0.2.1".parse().expect("an address")]);
                }
            }
            let mut registry = Registry::new(&world);
            let (findings, _) = analyze(&world, &mut registry, &Around::default());
            let findings = findings.into_iter().map(|one| one.diagnostic);
            let of_policy = findings.filter(|one| codes.contains(&one.code));
            of_policy.map(|one| (one.code, one.message)).collect::<Vec<_>>()
        };
        let with_address = "addresses: [198.51.100.70], resolution:";
        let as_static =
            said(&format!("{with_address} STATIC, endpoints: [{{address: 192.0.2.1}}]"), false);
        assert_eq!(as_static.iter().map(|one| one.0).collect::<String>(), wanted);
        for resolved in [false, true] {
            for dns in ["DNS, endpoints: [{address: one.test}]", "DNS", "DNS_ROUND_ROBIN"] {
                let found = said(&format!("{with_address} {dns}"), resolved);
                assert_eq!(found, as_static, "{policy}, {dns}, resolved: {resolved}");
            }
            // Who dials what the host resolves to is left alone.
            let found = said("resolution: DNS", resolved);
            assert_eq!(found.iter().map(|one| one.0).collect::<String>(), "RD4022");
            let found = said("resolution: DNS, endpoints: [{address: one.test}]", resolved);
            assert_eq!(found, as_static, "{policy}, by name, resolved: {resolved}");
        }
    }
}
