//! `tls` rules in the mesh, where the address stands for the server name.

use redirector_core::analysis::{Around, analyze};
use redirector_core::explain::{Explanation, Query, QuerySource, explain};
use redirector_core::registry::Registry;
use redirector_core::world::World;

use crate::support::{unknown_shares, world};

fn entry(name: &str, host: &str, addresses: &str, more: &str) -> String {
    let (resolution, endpoints) = match more {
        "" => ("NONE", ""),
        more => ("STATIC", more),
    };
    format!(
        "
ServiceEntry {name}:
  hosts: [{host}]
  addresses: [{addresses}]
  ports: [{{number: 443, name: tls, protocol: TLS}}]
  resolution: {resolution}
{endpoints}"
    )
}

fn egress() -> String {
    entry("egress", "egress.example.com", "10.9.9.9", "  endpoints: [{address: 192.0.2.9}]\n")
}

fn rules(hosts: &str, matches: &[&str]) -> String {
    let rules = matches.iter().map(|one| {
        format!("{{match: [{one}], route: [{{destination: {{host: egress.example.com}}}}]}}")
    });
    let rules = rules.collect::<Vec<_>>().join(", ");
    format!("\nVirtualService out:\n  hosts: [{hosts}]\n  tls: [{rules}]\n")
}

fn ask(world: &World, to: &str) -> Explanation {
    let destination = to.parse().expect("an address and a port");
    let query = Query { source: QuerySource::Unknown, destination, gateway: None, sni: None };
    explain(world, &query).expect("nobody is looked for")
}

/// The place of the rule that `explain` says is taken, and that the tables say the same; and
/// where `check` says that rules are left alone.
fn taken(text: &str, to: &str) -> (Option<u32>, Vec<String>) {
    let world = world(&(egress() + text));
    let answer = ask(&world, to);
    let endpoints: Vec<_> = unknown_shares(&world, to).endpoints.into_keys().collect();
    assert_eq!(endpoints, answer.endpoints.keys().cloned().collect::<Vec<_>>(), "{to}");
    assert_eq!(answer.rule.is_some(), endpoints == ["192.0.2.9:443"], "{to}: {answer:?}");
    let (findings, _) = analyze(&world, &mut Registry::new(&world), &Around::default());
    let told = findings.into_iter().filter(|one| one.diagnostic.code == "RD5003");
    (answer.rule.map(|rule| rule.index), told.map(|one| one.path).collect())
}

const A: &str = "{sniHosts: [a.example.org]}";
const B: &str = "{sniHosts: [b.example.org]}";

#[test]
fn an_address_decides_for_the_host_that_has_it() {
    let a = entry("a", "a.example.org", "10.1.1.1", "");
    let b = entry("b", "b.example.org", "10.1.1.2", "");
    let both = a + &b + &rules("a.example.org, b.example.org", &[B, A]);
    assert_eq!(taken(&both, "10.1.1.1:443"), (Some(1), vec![]));
    assert_eq!(taken(&both, "10.1.1.2:443"), (Some(0), vec![]));
    assert_eq!(taken(&both, "10.1.1.3:443"), (None, vec![]));
}

#[test]
fn other_conditions_of_the_match_hold_as_everywhere() {
    let of = |more: &str| {
        let matches = format!("{{sniHosts: [a.example.org], {more}}}");
        entry("a", "a.example.org", "10.1.0.0/16", "") + &rules("a.example.org", &[&matches])
    };
    assert_eq!(taken(&of("port: 443"), "10.1.1.1:443").0, Some(0));
    assert_eq!(taken(&of("port: 444"), "10.1.1.1:443").0, None);
    assert_eq!(taken(&of("gateways: [default/edge]"), "10.1.1.1:443").0, None);
    assert_eq!(taken(&of("destinationSubnets: [10.1.2.0/24]"), "10.1.2.1:443").0, Some(0));
    assert_eq!(taken(&of("destinationSubnets: [10.1.2.0/24]"), "10.1.1.1:443").0, None);
    assert_eq!(taken(&of("sourceNamespace: shop"), "10.1.1.1:443").0, None);
}

#[test]
fn a_part_of_what_an_address_stands_for_is_decided_by_nobody() {
    let wild = entry("wild", "'*.example.org'", "10.1.0.0/16", "");
    let all = "{sniHosts: ['*.example.org']}";
    assert_eq!(
        taken(&(wild.clone() + &rules("'*.example.org'", &[all])), "10.1.1.1:443"),
        (Some(0), vec![])
    );
    assert_eq!(
        taken(&(wild.clone() + &rules("'*.example.org'", &[A, all])), "10.1.1.1:443"),
        (None, vec!["spec.tls[0]".to_owned()]),
        "the second one would take what is the first one's"
    );
    assert_eq!(
        taken(&(wild + &rules("'*.example.org'", &[all, A])), "10.1.1.1:443"),
        (Some(0), vec![]),
        "what stands below is not asked"
    );
}

#[test]
fn a_host_without_addresses_has_none_that_stands_for_it() {
    let wild = entry("wild", "'*.example.org'", "", "");
    let text = wild + &rules("'*.example.org'", &["{sniHosts: ['*.example.org']}"]);
    assert_eq!(taken(&text, "198.51.100.1:443"), (None, vec!["spec.tls[0]".to_owned()]));
    let world = world(&(egress() + &text));
    let answer = ask(&world, "198.51.100.1:443");
    let [considered] = &answer.considered[..] else { panic!("{answer:?}") };
    assert!(considered.because.contains("nobody can tell"), "{}", considered.because);
}

#[test]
fn hosts_of_one_namespace_with_one_address_are_decided_together() {
    let [a, b] = ["a", "b"].map(|name| {
        let endpoints = "  endpoints: [{address: 192.0.2.1, ports: {tls: 444}}]\n";
        entry(name, &format!("{name}.example.org"), "10.1.1.1", endpoints)
    });
    let of = |matches: &[&str]| {
        let text = a.clone() + &b + &rules("a.example.org, b.example.org", matches);
        taken(&text, "10.1.1.1:443")
    };
    assert_eq!(of(&["{sniHosts: [a.example.org, b.example.org]}"]), (Some(0), vec![]));
    assert_eq!(of(&[A]), (None, vec!["spec.tls[0]".to_owned()]));
    assert_eq!(of(&[B]), (None, vec!["spec.tls[0]".to_owned()]));
    assert_eq!(of(&[A, B]), (Some(0), vec![]), "both lead to the same");
}

#[test]
fn rules_are_for_ports_that_are_declared_for_them() {
    for (protocol, tls) in [("TLS", true), ("HTTPS", true), ("TCP", false)] {
        let entry = entry("a", "a.example.org", "10.1.1.1", "").replace("TLS", protocol);
        assert_eq!(
            taken(&(entry.clone() + &rules("a.example.org", &[A])), "10.1.1.1:443").0,
            tls.then_some(0),
            "{protocol}"
        );
        let tcp = rules("a.example.org", &["{port: 443}"]).replace("tls:", "tcp:");
        assert_eq!(taken(&(entry + &tcp), "10.1.1.1:443").0, (!tls).then_some(0), "{protocol}");
    }
}

#[test]
fn what_a_host_resolves_to_stands_for_it() {
    let text = "
ServiceEntry wiki:
  hosts: [www.example.org, de.example.org, other.example.com]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: DNS
";
    let mut world =
        world(&(egress() + text + &rules("'*.example.org'", &["{sniHosts: ['*.example.org']}"])));
    for (host, address) in [
        ("www.example.org", "198.51.100.1"),
        ("de.example.org", "198.51.100.1"),
        ("other.example.com", "198.51.100.2"),
    ] {
        world.set_resolved(host, vec![address.parse().expect("an address")]);
    }
    for (to, index) in [("198.51.100.1:443", Some(0)), ("198.51.100.2:443", None)] {
        let answer = ask(&world, to);
        assert_eq!(answer.rule.as_ref().map(|rule| rule.index), index, "{to}: {answer:?}");
        assert_eq!(unknown_shares(&world, to).passed, index.is_none(), "{to}");
    }
}

#[test]
fn rules_whose_hosts_have_no_address_at_all_are_told() {
    let told = |spec: &str| {
        let entry = format!(
            "
ServiceEntry a:
  hosts: ['*.example.org']
  ports: [{{number: 443, name: tls, protocol: TLS}}]
{spec}"
        );
        let text = entry + &rules("'*.example.org'", &["{sniHosts: ['*.example.org']}"]);
        taken(&text, "10.1.1.1:443").1
    };
    let first = ["spec.tls[0]"];
    let endpoints = "  endpoints: [{address: 192.0.2.1}]\n";
    assert_eq!(told(&format!("  resolution: STATIC\n{endpoints}")), first);
    assert_eq!(told(&format!("  resolution: DNS\n{endpoints}")), first);
    let given = format!("  resolution: STATIC\n  addresses: [10.1.1.1]\n{endpoints}");
    assert_eq!(told(&given), [""; 0], "it has one");
    let text = entry("b", "b.example.org", "", "").replace("resolution: NONE", "resolution: DNS");
    let text = text + &rules("b.example.org", &[B]);
    assert_eq!(taken(&text, "10.1.1.1:443").1, [""; 0], "the daemon resolves the name");
}

#[test]
fn pods_of_two_headless_services_are_the_older_ones_with_its_rules() {
    let text = "
Service one: {clusterIP: None, selector: {app: web}, ports: [{name: tls, port: 443}]}
Service two: {clusterIP: None, selector: {app: web}, ports: [{name: tls, port: 443}]}
WorkloadEntry web: {address: 10.0.0.7, labels: {app: web}}
";
    for (host, index) in [("one", Some(0)), ("two", None)] {
        let host = format!("{host}.default.svc.cluster.local");
        let rules = rules(&host, &[&format!("{{sniHosts: [{host}]}}")]);
        assert_eq!(taken(&(text.to_owned() + &rules), "10.0.0.7:443"), (index, vec![]), "{host}");
    }
}

#[test]
fn a_name_that_leads_to_an_address_that_two_hosts_write_is_told_to_lead_there() {
    let endpoints = "  endpoints: [{address: 192.0.2.1}]\n";
    let [a, b] = ["a", "b"]
        .map(|name| entry(name, &format!("{name}.example.org"), "10.1.1.0/24", endpoints));
    let name = "
ServiceEntry name:
  hosts: [name.example.com]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: DNS
";
    let mut world = world(&(egress() + &a + &b + name + &rules("a.example.org", &[A])));
    world.set_resolved("name.example.com", vec!["10.1.1.1".parse().expect("an address")]);
    let (findings, _) = analyze(&world, &mut Registry::new(&world), &Around::default());
    let told = |code: &str| {
        let found = findings.iter().filter(|one| one.diagnostic.code == code);
        found.map(|one| one.object.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(told("RD4061"), [""; 0], "neither resolves to it");
    assert_eq!(told("RD4062"), ["name"]);
    assert_eq!(told("RD5003"), ["out"]);
}

#[test]
fn a_name_that_a_wider_one_above_takes_is_told_because_istio_would_use_it() {
    let told = |text: &str| {
        let hosts = entry("a", "a.example.org", "10.1.1.1", "")
            + &entry("b", "b.example.org", "10.1.1.2", "");
        let world = world(&(egress() + &hosts + text));
        let (findings, _) = analyze(&world, &mut Registry::new(&world), &Around::default());
        let shadowed =
            findings.into_iter().filter(|one| ["RD4068", "RD4048"].contains(&one.diagnostic.code));
        let told = shadowed.map(|one| {
            let istio = one.diagnostic.message.contains("Istio would use the more specific");
            (one.diagnostic.code, one.path, istio)
        });
        told.collect::<Vec<_>>()
    };
    let all = "{sniHosts: ['*.example.org']}";
    let of = |matches: &[&str]| told(&rules("'*.example.org', www.example.net", matches));
    let name = |path: &str| ("RD4068", path.to_owned(), true);
    assert_eq!(of(&[all, A]), [name("spec.tls[1].match[0].sniHosts[0]")]);
    assert_eq!(
        of(&[all, "{sniHosts: [www.example.net, b.example.org]}"]),
        [name("spec.tls[1].match[0].sniHosts[1]")]
    );
    assert_eq!(of(&[A, all]), [], "the narrower one stands first");
    assert_eq!(of(&["{sniHosts: ['*.example.org'], port: 444}", A]), [], "of another port");
    assert_eq!(
        of(&["{sniHosts: ['*.example.org', a.example.org]}", A]),
        [("RD4048", "spec.tls[1]".to_owned(), false)],
        "both have the name: Envoy takes the first, too"
    );
    let two = rules("'*.example.org'", &[all])
        + &rules("a.example.org", &[A]).replace("Service out", "Service younger");
    assert_eq!(told(&two), [("RD4048", "spec.tls[0]".to_owned(), true)]);
}
