//! ServiceEntries without addresses, with names, and several with one host.

use std::net::{IpAddr, Ipv4Addr};

use redirector_core::explain::{Explanation, Query, QuerySource, VerdictWord, explain};
use redirector_core::world::World;

use crate::support::{unknown_shares, world};

fn ask(world: &World, to: &str) -> Explanation {
    let destination = to.parse().expect("an address and a port");
    let query = Query { source: QuerySource::Unknown, destination, gateway: None, sni: None };
    explain(world, &query).expect("nobody is looked for")
}

/// What `explain` says, and that the tables say the same: an endpoint, or a word.
fn goes(world: &World, to: &str) -> String {
    let answer = ask(world, to);
    let tables = unknown_shares(world, to);
    let endpoints = answer.endpoints.keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(tables.endpoints.keys().cloned().collect::<Vec<_>>().join(" "), endpoints, "{to}");
    assert_eq!(tables.passed, answer.verdict == VerdictWord::Passthrough, "{to}: {answer:?}");
    match answer.verdict {
        VerdictWord::Passthrough => "passed".to_owned(),
        VerdictWord::Refuse => "refused".to_owned(),
        VerdictWord::Undecided => "undecided".to_owned(),
        VerdictWord::Route => endpoints,
    }
}

/// An entry without addresses, and a rule for its host.
fn without_addresses(resolution: &str, annotations: &str) -> World {
    world(&format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: db, annotations: {annotations}}}
spec:
  hosts: [db.example.com]
  ports: [{{number: 5432, name: tcp, protocol: TCP}}]
  resolution: {resolution}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: pool}}
spec:
  hosts: [pool.example.com]
  addresses: [192.0.2.9]
  ports: [{{number: 5432, name: tcp, protocol: TCP}}]
  resolution: STATIC
  endpoints: [{{address: 192.0.2.10, ports: {{tcp: 7777}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: db}}
spec:
  hosts: [db.example.com]
  tcp: [{{route: [{{destination: {{host: pool.example.com}}}}]}}]
"
    ))
}

#[test]
fn an_entry_without_addresses_takes_its_port_everywhere_only_without_names_or_when_asked_to() {
    let asked = "{redirector.io/claim-port: 'true'}";
    for (resolution, annotations, takes) in [
        ("NONE", "{}", true),
        ("DNS", "{}", false),
        ("STATIC", "{}", false),
        ("DNS", asked, true),
        ("DNS", "{redirector.io/claim-port: 'false'}", false),
        ("STATIC", asked, true),
    ] {
        let world = without_addresses(resolution, annotations);
        let wanted = if takes { "192.0.2.10:7777" } else { "passed" };
        assert_eq!(goes(&world, "203.0.113.7:5432"), wanted, "{resolution} {annotations}");
        assert_eq!(goes(&world, "203.0.113.7:5433"), "passed");
        assert_eq!(goes(&world, "192.0.2.9:5432"), "192.0.2.10:7777", "its own address is another");
    }
}

#[test]
fn a_port_taken_everywhere_leaves_the_machine_itself_its_link_and_the_other_family_alone() {
    let world = without_addresses("NONE", "{}");
    for to in ["127.0.0.1", "127.9.9.9", "169.254.169.254", "0.0.0.0", "[::1]", "[fe80::1]"] {
        assert_eq!(goes(&world, &format!("{to}:5432")), "passed", "{to}");
    }
    let answer = ask(&world, "[2001:db8::1]:5432");
    assert_eq!(answer.verdict, VerdictWord::Passthrough);
    assert!(answer.notes.iter().any(|note| note.contains("address family")), "{answer:?}");
    assert_eq!(goes(&world, "[2001:db8::1]:5432"), "passed");
}

#[test]
fn a_port_taken_everywhere_leaves_the_addresses_of_the_node_alone() {
    let mut world = without_addresses("NONE", "{}");
    let note = |answer: &Explanation| {
        answer.notes.iter().any(|note| note.contains("those of the node, which documents do not"))
    };
    let theirs = "198.51.100.7:5432";
    assert!(note(&ask(&world, theirs)));
    let own: IpAddr = "198.51.100.7".parse().unwrap();
    assert!(world.settings.set_node_addresses([own, Ipv4Addr::LOCALHOST.into()]));
    assert!(!world.settings.set_node_addresses([own]), "every machine has the other one");
    assert_eq!(goes(&world, theirs), "passed");
    let answer = ask(&world, theirs);
    assert_eq!(answer.verdict, VerdictWord::Passthrough);
    assert!(!note(&answer));
    assert_eq!(goes(&world, "198.51.100.8:5432"), "192.0.2.10:7777");
    assert_eq!(goes(&world, "192.0.2.9:5432"), "192.0.2.10:7777", "an address of the entry");
    assert!(world.settings.set_node_addresses(["192.0.2.9".parse().unwrap()]));
    assert_eq!(goes(&world, "192.0.2.9:5432"), "192.0.2.10:7777", "whoever has it");
}

#[test]
fn what_names_decide_is_undecided_until_they_are_resolved() {
    let entry = |host: &str, address: &str, resolution: &str| {
        format!(
            "
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {}}}
spec:
  hosts: [{host}]
  addresses: [{address}]
  ports: [{{number: 80, name: tcp, protocol: TCP}}]
  resolution: {resolution}
",
            host.replace('.', "-")
        )
    };
    let rule = "
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: split}
spec:
  hosts: [split.example]
  tcp:
    - route:
        - {destination: {host: named.example}, weight: 75}
        - {destination: {host: known.example}, weight: 25}
";
    let text = [
        entry("named.example", "192.0.2.1", "DNS"),
        entry("known.example", "192.0.2.2", "STATIC\n  endpoints: [{address: 192.0.2.12}]"),
        entry("split.example", "192.0.2.3", "STATIC"),
        rule.to_owned(),
    ]
    .concat();
    let mut world = world(&text);
    let answer = ask(&world, "192.0.2.1:80");
    assert_eq!(answer.verdict, VerdictWord::Undecided);
    assert_eq!(answer.undecided_names, ["named.example"]);
    let answer = ask(&world, "192.0.2.3:80");
    assert_eq!((answer.verdict, answer.refused_share), (VerdictWord::Route, 0.0));
    assert!((answer.undecided_share - 0.75).abs() < 1e-9, "{answer:?}");
    assert!(answer.destinations[0].is_undecided());
    let mut now = answer;
    now.until_names_are_resolved();
    assert!((now.refused_share - 0.75).abs() < 1e-9, "{now:?}");

    world.set_resolved("named.example", vec!["192.0.2.11".parse().expect("an address")]);
    assert_eq!(goes(&world, "192.0.2.1:80"), "192.0.2.11:80");
    assert_eq!(goes(&world, "192.0.2.3:80"), "192.0.2.11:80 192.0.2.12:80");
}

/// Two entries of one host.
fn two(older: &str, younger: &str) -> World {
    world(&format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: older, creationTimestamp: 2026-01-01T00:00:00Z}}
spec: {{hosts: [mq.example], {older}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: a-younger, creationTimestamp: 2026-01-02T00:00:00Z}}
spec: {{hosts: [mq.example], {younger}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: mq}}
spec: {{hosts: [mq.example], tcp: [{{route: [{{destination: {{host: mq.example}}}}]}}]}}
"
    ))
}

#[test]
fn entries_of_one_host_are_one_service_with_the_ports_and_addresses_of_all() {
    let entry = |address: &str, port: u16, endpoint: &str| {
        format!(
            "addresses: [{address}], ports: [{{number: {port}, name: tcp, protocol: TCP}}], \
             resolution: STATIC, endpoints: [{{address: {endpoint}}}]"
        )
    };
    let world = two(&entry("192.0.2.1", 446, "192.0.2.11"), &entry("192.0.2.2", 448, "192.0.2.12"));
    for address in ["192.0.2.1", "192.0.2.2"] {
        assert_eq!(goes(&world, &format!("{address}:446")), "192.0.2.11:446");
        assert_eq!(goes(&world, &format!("{address}:448")), "192.0.2.12:448");
    }
    let world = two(&entry("192.0.2.1", 446, "192.0.2.11"), &entry("192.0.2.1", 446, "192.0.2.12"));
    assert_eq!(goes(&world, "192.0.2.1:446"), "192.0.2.11:446", "the older one's port counts");
}

#[test]
fn an_address_that_a_service_was_given_is_not_an_older_entrys_that_names_it() {
    let text = "
apiVersion: v1
kind: Service
metadata: {name: new, namespace: default, creationTimestamp: '2026-06-01T00:00:00Z'}
spec:
  clusterIP: 10.96.7.7
  selector: {app: new}
  ports: [{name: tcp, port: 443, protocol: TCP, targetPort: 6443}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: new, namespace: default}
spec: {address: 192.0.2.5, labels: {app: new}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: new, namespace: default}
spec: {hosts: [new], tcp: [{route: [{destination: {host: new}}]}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: grab, namespace: other, creationTimestamp: '2026-01-01T00:00:00Z'}
spec:
  hosts: [grab.other.example]
  addresses: [10.96.7.7]
  ports: [{number: 443, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.66}]
";
    assert_eq!(goes(&world(text), "10.96.7.7:443"), "192.0.2.5:6443");
    // Nor is it, written in another way.
    let mapped = text.replace("[10.96.7.7]", "['::ffff:10.96.7.7']");
    assert_eq!(goes(&world(&mapped), "10.96.7.7:443"), "192.0.2.5:6443");
}
