//! What `check` says of DestinationRules that are in force otherwise than they are written.

use crate::findings::{object, places, report, routed, service, told};

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
