//! ServiceEntries without addresses, with names, and several with one host.

use std::net::{IpAddr, Ipv4Addr};

use redirector_core::analysis::{Around, analyze};
use redirector_core::diag::Severity;
use redirector_core::documents;
use redirector_core::explain::{Explanation, Query, QuerySource, VerdictWord, explain};
use redirector_core::in_force::InForce;
use redirector_core::model::Kind;
use redirector_core::registry::Registry;
use redirector_core::world::{ServiceAddresses, Settings, World};

use crate::support::{Shares, unknown_shares, world, world_with};

pub(crate) fn ask(world: &World, to: &str) -> Explanation {
    let destination = to.parse().expect("an address and a port");
    let query = Query { source: QuerySource::Unknown, destination, gateway: None, sni: None };
    explain(world, &query).expect("nobody is looked for")
}

/// What `explain` says, and that the tables say the same: an endpoint, or a word.
pub(crate) fn goes(world: &World, to: &str) -> String {
    let answer = ask(world, to);
    let tables = unknown_shares(world, to);
    let endpoints = answer.endpoints.keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(tables.endpoints.keys().cloned().collect::<Vec<_>>().join(" "), endpoints, "{to}");
    assert_eq!(tables.passed, answer.verdict == VerdictWord::Passthrough, "{to}: {answer:?}");
    match answer.verdict {
        VerdictWord::Undecided => "undecided".to_owned(),
        VerdictWord::Passthrough => "passed".to_owned(),
        VerdictWord::Refuse => "refused".to_owned(),
        VerdictWord::Route => endpoints,
    }
}

/// An entry without addresses, and a rule for its host.
pub(crate) fn without_addresses(resolution: &str, annotations: &str) -> World {
    world(&format!(
        "
ServiceEntry db {{annotations: {annotations}}}:
  hosts: [db.example.com]
  ports: [{{number: 5432, name: tcp, protocol: TCP}}]
  resolution: {resolution}
ServiceEntry pool:
  hosts: [pool.example.com]
  addresses: [192.0.2.9]
  ports: [{{number: 5432, name: tcp, protocol: TCP}}]
  resolution: STATIC
  endpoints: [{{address: 192.0.2.10, ports: {{tcp: 7777}}}}]
VirtualService db:
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
        let mut world = without_addresses(resolution, annotations);
        world.set_resolved("db.example.com", vec!["198.51.100.1".parse().expect("an address")]);
        let wanted = if takes { "192.0.2.10:7777" } else { "passed" };
        assert_eq!(goes(&world, "203.0.113.7:5432"), wanted, "{resolution} {annotations}");
        assert_eq!(goes(&world, "203.0.113.7:5433"), "passed");
        assert_eq!(goes(&world, "192.0.2.9:5432"), "192.0.2.10:7777", "its own address is another");
    }
}

#[test]
fn workloads_at_one_address_are_told_apart_by_port_and_label() {
    let endpoint = |more: &str, version: &str| {
        format!("{{address: 127.0.0.1, {more}labels: {{app: db, version: {version}}}}}")
    };
    let (one, other) =
        (endpoint("ports: {tcp: 5001}, ", "v1"), endpoint("ports: {tcp: 5002}, ", "v2"));
    let entry = |source: &str| {
        format!(
            "ServiceEntry db: {{hosts: [db.example.com], addresses: [240.0.0.1], ports: [{{number: \
             5432, name: tcp, protocol: TCP}}], resolution: STATIC, {source}}}\n"
        )
    };
    let service = "Service db: {clusterIP: 240.0.0.1, selector: {app: db}, ports: [{name: tcp, port: 5432}]}\n";
    let selected = |one: &str, other: &str| {
        format!("WorkloadEntry one: {one}\nWorkloadEntry other: {other}\n")
    };
    let selecting = entry("workloadSelector: {labels: {app: db}}");
    let rule = |host: &str| {
        format!(
            "DestinationRule db: {{host: {host}, subsets: [{{name: v1, labels: {{version: v1}}}}, \
             {{name: v2, labels: {{version: v2}}}}]}}\n\
             VirtualService db: {{hosts: [{host}], tcp: [{{route: [{{destination: {{host: {host}, \
             subset: v1}}, weight: 90}}, {{destination: {{host: {host}, subset: v2}}, weight: 10}}]}}]}}\n"
        )
    };
    let apart = [("127.0.0.1:5001", 0.9), ("127.0.0.1:5002", 0.1)];
    // Of one port, too, either may be meant by its labels; as a whole it is there once.
    let (same, again) = (endpoint("", "v1"), endpoint("weight: 3, ", "v2"));
    let together = [("127.0.0.1:5432", 1.0)];
    for (text, host, wanted) in [
        (entry(&format!("endpoints: [{one}, {other}]")), "db.example.com", &apart[..]),
        (selecting.clone() + &selected(&one, &other), "db.example.com", &apart),
        (service.to_owned() + &selected(&one, &other), "db", &apart),
        (entry(&format!("endpoints: [{same}, {again}]")), "db.example.com", &together),
        (selecting + &selected(&same, &again), "db.example.com", &together),
        (service.to_owned() + &selected(&same, &again), "db", &together),
    ] {
        let whole: Vec<(String, f64)> =
            wanted.iter().map(|(at, _)| ((*at).to_owned(), 1.0 / wanted.len() as f64)).collect();
        let parts = wanted.iter().map(|(at, share)| ((*at).to_owned(), *share)).collect::<Vec<_>>();
        for (text, wanted) in [(text.clone(), whole), (text + &rule(host), parts)] {
            let settings = Settings { services: ServiceAddresses::Own, ..Settings::default() };
            let world = world_with(&text, settings);
            goes(&world, "240.0.0.1:5432");
            let shares = unknown_shares(&world, "240.0.0.1:5432");
            let wanted = Shares { endpoints: wanted.into_iter().collect(), ..Shares::default() };
            assert!(shares.near(&wanted), "{text}: {shares:?}");
            let (findings, _) = analyze(&world, &mut Registry::new(&world), &Around::default());
            let told = findings.iter().find(|one| one.diagnostic.severity != Severity::Info);
            assert!(told.is_none(), "{text}: {told:?}");
        }
    }
}

pub(crate) fn addresses(all: &[&str]) -> Vec<IpAddr> {
    all.iter().map(|one| one.parse().expect("an address")).collect()
}

/// What is told of a World by a code.
pub(crate) fn told(world: &World, code: &str) -> Vec<String> {
    let (findings, _) = analyze(world, &mut Registry::new(world), &Around::default());
    let of_code = findings.into_iter().filter(|one| one.diagnostic.code == code);
    of_code.map(|one| one.diagnostic.message).collect()
}

#[test]
fn addresses_that_were_allocated_to_a_host_are_its_own() {
    let status = "status: {addresses: [{host: db.example.com, value: 240.240.0.9}, {host: \
                  other.example.com, value: 240.240.0.8}]}\n";
    let entry = "
ServiceEntry db:
  hosts: [db.example.com]
  ports: [{number: 5432, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.7}]
";
    let allocated = world(&format!("{entry}{status}"));
    assert_eq!(goes(&allocated, "240.240.0.9:5432"), "192.0.2.7:5432");
    assert_eq!(goes(&allocated, "240.240.0.8:5432"), "passed", "it is another host's");

    // Who asks for the port of every address has it beside what was allocated.
    let asked = entry.replace("db:", "db {annotations: {redirector.io/claim-port: 'true'}}:");
    let asked = world(&format!("{asked}{status}"));
    let rule = &without_addresses("STATIC", "{}");
    let mut ruled = asked.clone();
    for object in rule
        .objects()
        .filter(|one| one.reference().kind != Kind::ServiceEntry || &*one.meta.name == "pool")
    {
        ruled.insert(object.clone());
    }
    assert_eq!(goes(&asked, "240.240.0.9:5432"), "192.0.2.7:5432");
    assert_eq!(goes(&ruled, "203.0.113.7:5432"), "192.0.2.10:7777");

    let mut given = world(entry);
    given.settings.allocates = true;
    let registry = Registry::new(&given);
    let answers = registry.named("db.example.com")[0].answers();
    assert_eq!(answers.len(), 2, "one of each family: {answers:?}");
    assert_eq!(goes(&given, &format!("{}:5432", answers[0])), "192.0.2.7:5432");

    // What is written anywhere is given to nobody.
    let own = format!("{}/32", answers[0]);
    let other = format!("ServiceEntry other:\n  addresses: [{own}]\n");
    let other = entry.replace("ServiceEntry db:\n", &other).replace("db.example", "other.example");
    let mut written = given.clone();
    for object in world(&other).objects() {
        written.insert(object.clone());
    }
    let mut updated = registry;
    updated.update(&written, &given.difference(&written));
    assert_eq!(updated, Registry::new(&written));
    let now = updated.named("db.example.com")[0].answers();
    assert!(now.len() == 2 && now.iter().all(|ip| !answers.contains(ip)), "{now:?} {answers:?}");
    assert!(told(&written, "RD4063").iter().any(|one| one.contains("written in another document")));
    updated.update(&given, &written.difference(&given));
    assert_eq!(updated, Registry::new(&given));

    // By name, where /etc/hosts says what was given.
    let mut named = world(&entry.replace("STATIC", "DNS").replace("endpoints", "# endpoints"));
    named.settings.allocates = true;
    named.set_resolved("db.example.com", answers.clone());
    let answer = ask(&named, &format!("{}:5432", answers[0]));
    assert_eq!(answer.verdict, VerdictWord::Undecided, "never to itself: {answer:?}");
    named.set_resolved("db.example.com", [answers.clone(), addresses(&["192.0.2.8"])].concat());
    assert_eq!(goes(&named, &format!("{}:5432", answers[0])), "192.0.2.8:5432");
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
ServiceEntry {}:
  hosts: [{host}]
  addresses: [{address}]
  ports: [{{number: 80, name: tcp, protocol: TCP}}]
  resolution: {resolution}
",
            host.replace('.', "-")
        )
    };
    let rule = "
VirtualService split:
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
    assert_eq!((answer.verdict, answer.refused_share), (VerdictWord::Undecided, 0.0));
    assert_eq!(answer.undecided_names, ["named.example"]);
    let mut now = answer;
    now.until_names_are_resolved();
    assert_eq!(now.verdict, VerdictWord::Passthrough, "without a rule");
    let answer = ask(&world, "192.0.2.3:80");
    assert_eq!((answer.verdict, answer.refused_share), (VerdictWord::Route, 0.75));
    assert_eq!((answer.undecided_share, answer.refused_for_good()), (0.75, 0.0));
    assert!(answer.destinations[0].is_undecided());

    world.set_resolved("named.example", vec!["192.0.2.11".parse().expect("an address")]);
    assert_eq!(goes(&world, "192.0.2.1:80"), "192.0.2.11:80");
    assert_eq!(goes(&world, "192.0.2.3:80"), "192.0.2.11:80 192.0.2.12:80");
}

/// Two entries of one host.
fn two(older: &str, younger: &str) -> World {
    world(&format!(
        "
ServiceEntry older {{creationTimestamp: 2026-01-01T00:00:00Z}}: {{hosts: [mq.example], {older}}}
ServiceEntry a-younger {{creationTimestamp: 2026-01-02T00:00:00Z}}: {{hosts: [mq.example], {younger}}}
VirtualService mq: {{hosts: [mq.example], tcp: [{{route: [{{destination: {{host: mq.example}}}}]}}]}}
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
Service default/new {creationTimestamp: '2026-06-01T00:00:00Z'}:
  clusterIP: 10.96.7.7
  selector: {app: new}
  ports: [{name: tcp, port: 443, protocol: TCP, targetPort: 6443}]
WorkloadEntry default/new: {address: 192.0.2.5, labels: {app: new}}
VirtualService default/new: {hosts: [new], tcp: [{route: [{destination: {host: new}}]}]}
ServiceEntry other/grab {creationTimestamp: '2026-01-01T00:00:00Z'}:
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

#[test]
fn what_a_younger_entry_of_a_host_loses_is_told_at_that_one() {
    let of = |older: &str, younger: &str| {
        let text = [("one", older, 10), ("two", younger, 11)].map(|(name, more, last)| {
            format!(
                "ServiceEntry {name}: {{hosts: [db.example.com], addresses: [192.0.2.9], {more}, \
                 endpoints: [{{address: 192.0.2.{last}}}]}}\n"
            )
        });
        let world = world(&text.concat());
        let (findings, _) = analyze(&world, &mut Registry::new(&world), &Around::default());
        let told = findings.into_iter().filter(|one| one.diagnostic.code == "RD4046");
        told.map(|one| (one.object.name.to_string(), one.diagnostic.message)).collect::<Vec<_>>()
    };
    let ports = |number: u16| {
        format!("ports: [{{number: {number}, name: tcp, protocol: TCP}}], resolution: STATIC")
    };
    assert_eq!(of(&ports(80), &ports(81)), [], "each has its own");
    let same = of(&ports(80), &ports(80));
    let [(name, why)] = &same[..] else { panic!("{same:?}") };
    assert!(name == "two" && why.contains("the older one's counts"), "{same:?}");
    let apart = of(&ports(80), &format!("{}, exportTo: ['.']", ports(81)));
    let [(name, why)] = &apart[..] else { panic!("{apart:?}") };
    assert!(name == "two" && why.contains("differ in resolution, exportTo"), "{apart:?}");
}

#[test]
fn that_weights_move_no_pools_is_said_with_the_command_that_does() {
    let of = |weights: [u32; 2]| {
        let text = format!(
            "
ServiceEntry db: {{hosts: [db.example.com], addresses: [192.0.2.9], ports: [{{number: 80, name: tcp, protocol: TCP}}], resolution: STATIC, endpoints: [{{address: 192.0.2.10}}]}}
ServiceEntry new: {{hosts: [new.example.com], addresses: [192.0.2.8], ports: [{{number: 80, name: tcp, protocol: TCP}}], resolution: STATIC, endpoints: [{{address: 192.0.2.11}}]}}
VirtualService db:
  hosts: [db.example.com]
  tcp: [{{route: [{{destination: {{host: db.example.com}}, weight: {}}}, {{destination: {{host: new.example.com}}, weight: {}}}]}}]
",
            weights[0], weights[1]
        );
        ask(&world(&text), "192.0.2.9:80").notes.join("\n")
    };
    let command = "redirector connections close --route VirtualService/default/db";
    for weights in [[90, 10], [100, 0]] {
        assert!(of(weights).contains(command), "{weights:?}: {}", of(weights));
    }
}

#[test]
fn an_allocated_address_of_a_family_without_endpoints_is_no_warning_and_a_resolved_one_is() {
    let text = "
ServiceEntry writer: {hosts: [writer.example.com], ports: [{number: 5432, name: tcp, protocol: TCP}], resolution: DNS}
ServiceEntry reader: {hosts: [reader.example.com], ports: [{number: 5432, name: tcp, protocol: TCP}], resolution: DNS}
VirtualService writer: {hosts: [writer.example.com], tcp: [{route: [{destination: {host: reader.example.com}}]}]}
";
    let mut world = world_with(text, Settings { allocates: true, ..Settings::default() });
    world.set_resolved("writer.example.com", addresses(&["198.51.100.1"]));
    world.set_resolved("reader.example.com", addresses(&["198.51.100.2"]));
    let registry = Registry::new(&world);
    let [six] = [&registry.named("writer.example.com")[0].addresses]
        .map(|all| all.iter().find(|one| one.addr().is_ipv6()).expect("one of each").addr());
    assert_eq!(goes(&world, &format!("[{six}]:5432")), "refused");
    assert_eq!(told(&world, "RD4016"), [""; 0]);
    world.set_resolved("writer.example.com", addresses(&["198.51.100.1", "fd00::1"]));
    assert_eq!(told(&world, "RD4016").len(), 1, "what a resolver says is dialled by itself");
}

#[test]
fn in_force_an_entry_by_name_lacks_addresses_until_its_name_is_resolved() {
    let text = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db}
spec:
  hosts: [db.example.com]
  ports: [{number: 5432, name: tcp, protocol: TCP}]
  resolution: DNS
";
    let warnings = documents::read(None, text).diagnostics;
    let mut world = world(text);
    let told = |world: &World| {
        let (world, warnings) = (world.clone(), warnings.clone());
        let all = InForce { world, rejected: Vec::new(), warnings }.findings();
        all.iter().filter(|one| one.code == "RD2109").count()
    };
    assert_eq!(told(&world), 1);
    world.set_resolved("db.example.com", addresses(&["198.51.100.1"]));
    assert_eq!(told(&world), 0, "no rule is needed for that");
}
