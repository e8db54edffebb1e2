//! Hosts of ServiceEntries that are dialled by what they resolve to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use redirector_core::analysis::{Around, analyze};
use redirector_core::compile::compile;
use redirector_core::explain::{Dialled, QuerySource, VerdictWord};
use redirector_core::model::Kind;
use redirector_core::plan::FrontendId;
use redirector_core::registry::Registry;
use redirector_core::world::{Answer, World};

use crate::service_entries::{addresses, ask, goes, told, without_addresses};
use crate::support::reference::{Connection, Reference};
use crate::support::{unknown_shares, world};

#[test]
fn what_a_host_resolves_to_is_its_own_where_it_has_no_addresses() {
    let mut world = without_addresses("DNS", "{}");
    let before = ask(&world, "198.51.100.1:5432");
    assert_eq!((before.verdict, before.frontend.is_some()), (VerdictWord::Undecided, false));
    assert_eq!(before.undecided_names, ["db.example.com"]);
    assert!(unknown_shares(&world, "198.51.100.1:5432").passed, "nothing is taken before");
    assert_eq!(goes(&world, "127.0.0.1:5432"), "passed", "no name decides about that");
    assert_eq!(goes(&world, "198.51.100.1:80"), "passed", "it is another port");

    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: own}\nspec: {clusterIP: \
                   198.51.100.4, ports: [{port: 80}]}\n";
    let of_service = self::world(service);
    world.insert(of_service.of_kind(Kind::Service).next().expect("it is there").clone());
    world.set_resolved(
        "db.example.com",
        Answer {
            addresses: addresses(&["198.51.100.1", "127.0.0.1", "224.0.0.9", "198.51.100.4"]),
            former: addresses(&["198.51.100.2", "0.0.0.0", "169.254.169.254"]),
        },
    );
    for taken in ["198.51.100.1", "198.51.100.2"] {
        assert_eq!(goes(&world, &format!("{taken}:5432")), "192.0.2.10:7777", "{taken}");
    }
    for (left, why) in [
        ("127.0.0.1", "of every machine"),
        ("224.0.0.9", "many machines"),
        ("198.51.100.4", "allocated to Service"),
        ("169.254.169.254", "its link"),
        ("198.51.100.3", ""),
    ] {
        let to = format!("{left}:5432");
        assert_eq!(goes(&world, &to), "passed", "{left}");
        let notes = ask(&world, &to).notes.join("\n");
        assert!(notes.contains(why), "{left}: {notes}");
    }
    let notes = ask(&world, "198.51.100.2:5432").notes;
    assert!(notes.iter().any(|note| note.contains("resolved to it until lately")), "{notes:?}");

    // Only of what it resolves to now that is told.
    let not_taken = told(&world, "RD4062").join("\n");
    assert!(not_taken.contains("224.0.0.9") && !not_taken.contains("169.254"), "{not_taken}");

    // Who dials the name dials what it resolves to now, whether that is taken for it or not.
    let dialled = |world: &World| {
        let to: Dialled = "db.example.com:5432".parse().expect("a name");
        to.addresses(world, &Registry::new(world), &QuerySource::Unknown).map_err(|_| ())
    };
    let at = |ip: &str| SocketAddr::new(ip.parse().expect("an address"), 5432);
    let all = ["198.51.100.1", "127.0.0.1", "224.0.0.9", "198.51.100.4", "198.51.100.2"];
    assert_eq!(dialled(&world), Ok(all.map(at).to_vec()));
    world.set_resolved("db.example.com", addresses(&["127.0.0.1"]));
    assert_eq!(dialled(&world), Ok(vec![at("127.0.0.1")]));
    world.set_resolved("db.example.com", addresses(&[]));
    assert_eq!(dialled(&world), Err(()), "it is not resolved");
}

#[test]
fn what_a_host_resolves_to_is_left_alone_without_a_rule_unless_the_entry_says_where_to_go() {
    let entry = |endpoints: &str| {
        let mut world = world(&format!(
            "
ServiceEntry db:
  hosts: [db.example.com]
  ports: [{{number: 5432, name: tcp, protocol: TCP}}]
  resolution: DNS
{endpoints}"
        ));
        world.set_resolved("db.example.com", addresses(&["198.51.100.1", "198.51.100.2"]));
        let of_endpoints = ask(&world, "198.51.100.1:5432").destinations.pop().map(|one| one.names);
        (goes(&world, "198.51.100.1:5432"), of_endpoints)
    };
    assert_eq!(entry(""), ("passed".to_owned(), None));
    // Where it goes then has nothing to do with what the host resolves to.
    let there = ("192.0.2.7:5432".to_owned(), Some(Vec::new()));
    assert_eq!(entry("  endpoints: [{address: 192.0.2.7}]"), there);
}

#[test]
fn in_turn_by_dns_is_the_first_address_of_each_family() {
    let mut world = world(
        "
ServiceEntry pool:
  hosts: [pool.example.com]
  addresses: [198.51.100.1, 'fd00:99::1']
  ports: [{number: 5432, name: tcp, protocol: TCP}]
  resolution: DNS_ROUND_ROBIN
",
    );
    let all = ["192.0.2.2", "192.0.2.1", "fd00::2", "fd00::1"];
    for turned in [[0, 1, 2, 3], [2, 0, 3, 1]] {
        world.set_resolved("pool.example.com", addresses(&turned.map(|at| all[at])));
        assert_eq!(goes(&world, "198.51.100.1:5432"), "192.0.2.2:5432");
        assert_eq!(goes(&world, "[fd00:99::1]:5432"), "[fd00::2]:5432");
    }
}

#[test]
fn an_address_of_two_hosts_is_taken_where_both_are_routed_alike() {
    let entries = ["one", "two"].map(|name| {
        format!(
            "
ServiceEntry {name}:
  hosts: [{name}.example.com]
  ports: [{{number: 443, name: tcp, protocol: TCP}}]
  resolution: DNS
"
        )
    });
    let rule = |name: &str, hosts: &str| {
        format!(
            "
VirtualService {name}: {{hosts: [{hosts}], tcp: [{{route: [{{destination: {{host: one.example.com}}}}]}}]}}
"
        )
    };
    let of = |rules: &str| {
        let mut world = world(&(entries.concat() + rules));
        world.set_resolved("one.example.com", addresses(&["198.51.100.1", "198.51.100.3"]));
        world.set_resolved("two.example.com", addresses(&["198.51.100.2", "198.51.100.3"]));
        world
    };
    let both = "198.51.100.1:443 198.51.100.3:443";
    let alike = of(&rule("both", "one.example.com, two.example.com"));
    assert_eq!(goes(&alike, "198.51.100.3:443"), both);
    let (findings, _) = analyze(&alike, &mut Registry::new(&alike), &Around::default());
    assert!(findings.iter().all(|one| one.diagnostic.code != "RD4061"), "{findings:?}");

    let apart = of(&rule("one", "one.example.com"));
    assert_eq!(goes(&apart, "198.51.100.1:443"), both, "this one is of one host");
    assert_eq!(goes(&apart, "198.51.100.3:443"), "passed");
    let notes = ask(&apart, "198.51.100.3:443").notes.join("\n");
    assert!(notes.contains("one.example.com") && notes.contains("two.example.com"), "{notes}");
    let (findings, _) = analyze(&apart, &mut Registry::new(&apart), &Around::default());
    let told: Vec<_> = findings.iter().filter(|one| one.diagnostic.code == "RD4061").collect();
    let objects: Vec<_> = told.iter().map(|one| &*one.object.name).collect();
    assert_eq!(objects, ["one", "two"], "whoever looks at either entry is told");
    for (told, first) in told.iter().zip(["one.example.com and two", "two.example.com and one"]) {
        let message = &told.diagnostic.message;
        for part in [first, "198.51.100.3", "443"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert!(!message.contains("198.51.100.1"), "{message}");
    }
}

#[test]
fn an_address_of_two_hosts_of_one_entry_is_taken_unless_a_policy_tells_them_apart() {
    let entry = |name: &str, hosts: &str| {
        format!(
            "
ServiceEntry {name}:
  hosts: [{hosts}]
  ports: [{{number: 443, name: tls, protocol: TLS}}]
  resolution: DNS
  endpoints: [{{address: 192.0.2.7}}]
"
        )
    };
    let of = |documents: &str| {
        let mut world = world(documents);
        for host in ["a.example.com", "b.example.com"] {
            world.set_resolved(host, addresses(&["198.51.100.1"]));
        }
        goes(&world, "198.51.100.1:443")
    };
    let both = entry("both", "a.example.com, b.example.com");
    assert_eq!(of(&both), "192.0.2.7:443");
    for host in ["a", "b"] {
        let policy = format!("DestinationRule {host}: {{host: {host}.example.com}}\n");
        assert_eq!(of(&(both.clone() + &policy)), "passed", "{host}");
    }
    let apart = entry("one", "a.example.com") + &entry("two", "b.example.com");
    assert_eq!(of(&apart), "passed");
}

#[test]
fn alike_is_where_connections_go_whoever_says_it() {
    let base = "
ServiceEntry one:
  hosts: [one.example.com]
  ports: [{number: 443, name: tcp, protocol: TCP}]
  resolution: DNS
ServiceEntry two:
  hosts: [two.example.com]
  ports: [{number: 443, name: tcp, protocol: TCP}]
  resolution: DNS
ServiceEntry egress:
  hosts: [egress.example.com]
  addresses: [192.0.2.9]
  ports: [{number: 443, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints:
  - {address: 192.0.2.10, labels: {zone: a}}
  - {address: 192.0.2.11, labels: {zone: b}}
Service alias: {type: ExternalName, externalName: egress.example.com, ports: [{port: 443}]}
DestinationRule egress:
  host: egress.example.com
  subsets:
  - {name: for-one}
  - {name: for-two}
  - {name: limited, trafficPolicy: {connectionPool: {tcp: {maxConnections: 7}}}}
  - {name: a, labels: {zone: a}}
  - {name: also-a, labels: {zone: a}}
  - {name: b, labels: {zone: b}}
";
    let of = |routes: [&str; 2]| {
        let rules = [("one", routes[0]), ("two", routes[1])].map(|(host, route)| {
            let route: Vec<String> = route
                .split(", ")
                .map(|one| {
                    let (subset, weight) = one.split_once(' ').unwrap_or((one, "1"));
                    let (host, subset) = match subset.split_once(':') {
                        Some((host, subset)) => (host, format!(", subset: {subset}")),
                        None => (subset, String::new()),
                    };
                    format!("{{destination: {{host: {host}{subset}}}, weight: {weight}}}")
                })
                .collect();
            let route = route.join(", ");
            format!(
                "VirtualService {host}: {{hosts: [{host}.example.com], tcp: [{{route: [{route}]}}]}}\n"
            )
        });
        let mut world = world(&(base.to_owned() + &rules.concat()));
        world.set_resolved("one.example.com", addresses(&["198.51.100.3"]));
        world.set_resolved("two.example.com", addresses(&["198.51.100.3"]));
        world
    };
    let e = "egress.example.com";
    let both = "192.0.2.10:443 192.0.2.11:443";
    let [one, two] = ["egress.example.com:for-one", "egress.example.com:for-two"];
    let [a, also_a] = ["egress.example.com:a", "egress.example.com:also-a"];
    let b = "egress.example.com:b";
    for (routes, wanted) in [
        ([e, e], both),
        ([one, two], both),
        ([one, e], both),
        ([e, "alias"], both),
        ([a, also_a], "192.0.2.10:443"),
        ([&format!("{a} 80, {b} 20"), &format!("{b} 1, {also_a} 4")], both),
        ([&format!("{a} 40, {also_a} 40, {b} 20, {e} 0"), &format!("{a} 80, {b} 20")], both),
        (["nowhere.example.com", "egress.example.com:unknown"], "refused"),
        ([a, b], "passed"),
        ([a, e], "passed"),
        ([one, "egress.example.com:limited"], "passed"),
        ([&format!("{a} 80, {b} 20"), &format!("{a} 20, {b} 80")], "passed"),
        ([e, "one.example.com"], "passed"),
        ([e, "nowhere.example.com"], "passed"),
    ] {
        let world = of(routes);
        assert_eq!(goes(&world, "198.51.100.3:443"), wanted, "{routes:?}");
        let is_told = !told(&world, "RD4061").is_empty();
        assert_eq!(is_told, wanted == "passed", "{routes:?}");
        let notes = ask(&world, "198.51.100.3:443").notes.join("\n");
        let note = "two.example.com resolves to 198.51.100.3, too, and \
                    VirtualService/default/two leads its connections to the same";
        assert_eq!(notes.contains(note), !is_told, "{routes:?}: {notes}");
        let reference = Reference::new(&world);
        let outcome =
            reference.decide(&Connection::default(), "198.51.100.3:443".parse().expect("one"));
        assert_eq!(outcome.passed, is_told, "{routes:?}: {outcome:?}");
    }
}

#[test]
fn an_address_in_a_block_that_another_entry_writes_is_that_ones_whatever_resolves_to_it() {
    let block = |namespace: &str, prefix: &str| {
        format!(
            "
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: block, namespace: {namespace}}}
spec:
  hosts: [block.example.com]
  addresses: [{prefix}]
  exportTo: [{}]
  ports: [{{number: 5432, name: tcp, protocol: TCP}}]
  resolution: STATIC
  endpoints: [{{address: 192.0.2.77}}]
",
            if namespace == "default" { "'*'" } else { "." }
        )
    };
    // Whose the frontend of the very address is, if there is one, is of those who see the block.
    for (namespace, prefix, wanted, owner) in [
        ("default", "198.51.100.0/24", "192.0.2.77:5432", None),
        ("default", "198.51.100.1/32", "192.0.2.77:5432", Some("block")),
        ("default", "0.0.0.0/0", "192.0.2.77:5432", None),
        ("elsewhere", "198.51.100.0/24", "192.0.2.10:7777", Some("db")),
    ] {
        let mut world = without_addresses("DNS", "{}");
        for object in self::world(&block(namespace, prefix)).objects() {
            world.insert(object.clone());
        }
        world.set_resolved("db.example.com", addresses(&["198.51.100.1"]));
        assert_eq!(goes(&world, "198.51.100.1:5432"), wanted, "{namespace} {prefix}");
        let prefix_of_one = "198.51.100.1/32".parse().expect("a prefix");
        let plan = compile(&world).plan;
        let frontend = plan.frontends.get(&FrontendId { prefix: prefix_of_one, port: 5432 });
        let of = frontend.map(|frontend| &*frontend.service.name);
        assert_eq!(of, owner, "{namespace} {prefix}");
        let is_said = told(&world, "RD4062").iter().any(|one| one.contains("what is written goes"));
        let notes = ask(&world, "198.51.100.1:5432").notes.join("\n");
        let notes = notes.contains("what is written goes");
        assert_eq!((is_said, notes), (true, namespace == "default"), "{namespace} {prefix}");
        assert_eq!(goes(&world, "203.0.113.7:5432") == "passed", prefix != "0.0.0.0/0");
    }
}

#[test]
fn addresses_of_the_node_and_of_the_api_server_are_taken_for_no_name() {
    let mut world = without_addresses("DNS", "{}");
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: kubernetes, \
                 labels: {kubernetes.io/service-name: kubernetes}}\naddressType: IPv4\nports: \
                 [{port: 6443}]\nendpoints: [{addresses: [198.51.100.2]}]\n";
    world.set_resolved(
        "db.example.com",
        addresses(&["198.51.100.1", "198.51.100.2", "198.51.100.3"]),
    );
    let mut registry = Registry::new(&world);
    let taken = |registry: &Registry| registry.named("db.example.com")[0].learned.clone();
    assert_eq!(taken(&registry), addresses(&["198.51.100.1", "198.51.100.2", "198.51.100.3"]));

    // Each comes as a change, and goes.
    let mut with = world.clone();
    for object in self::world(slice).objects() {
        with.insert(object.clone());
    }
    registry.update(&with, &world.difference(&with));
    assert_eq!(taken(&registry), addresses(&["198.51.100.1", "198.51.100.3"]));
    let before = with.clone();
    with.settings.set_node_addresses(addresses(&["198.51.100.1"]));
    registry.update(&with, &before.difference(&with));
    assert_eq!(taken(&registry), addresses(&["198.51.100.3"]));
    assert_eq!(registry, Registry::new(&with));
    for (left, why) in
        [("198.51.100.1", "an address of this node"), ("198.51.100.2", "the API server is")]
    {
        assert_eq!(goes(&with, &format!("{left}:5432")), "passed", "{left}");
        let notes = ask(&with, &format!("{left}:5432")).notes.join("\n");
        assert!(notes.contains(why), "{notes}");
        assert!(told(&with, "RD4062").iter().any(|one| one.contains(why)), "{why}");
    }
    registry.update(&world, &with.difference(&world));
    assert_eq!(registry, Registry::new(&world));
}

#[test]
fn of_a_name_with_very_many_addresses_the_first_are_taken_and_others_names_are_left_alone() {
    let mut world = without_addresses("DNS", "{}");
    let many: Vec<IpAddr> =
        (0..10_000_u32).map(|n| Ipv4Addr::from(0xC612_0000 + n).into()).collect();
    world.set_resolved("db.example.com", many);
    let first = |n: u32| Ipv4Addr::from(0xC612_0000 + n);
    assert_eq!(goes(&world, &format!("{}:5432", first(1023))), "192.0.2.10:7777");
    assert_eq!(goes(&world, &format!("{}:5432", first(1024))), "passed");
    assert_eq!(goes(&world, "192.0.2.9:5432"), "192.0.2.10:7777", "another host");
    let told = told(&world, "RD4062");
    let [only] = &told[..] else { panic!("{told:?}") };
    assert!(only.contains("1024") && only.len() < 500, "{only}");
}

#[test]
fn hosts_that_change_places_are_routed_by_what_they_resolve_to_now() {
    let of = |name: &str, to: &str| {
        format!(
            "
ServiceEntry {name}:
  hosts: [{name}.example.com]
  ports: [{{number: 5432, name: tcp, protocol: TCP}}]
  resolution: DNS
ServiceEntry {name}-pool:
  hosts: [{name}-pool.example.com]
  ports: [{{number: 5432, name: tcp, protocol: TCP}}]
  resolution: STATIC
  endpoints: [{{address: {to}}}]
VirtualService {name}:
  hosts: [{name}.example.com]
  tcp: [{{route: [{{destination: {{host: {name}-pool.example.com}}}}]}}]
"
        )
    };
    let mut world = world(&(of("reader", "192.0.2.10") + &of("writer", "192.0.2.20")));
    let answer = |now: &str, before: &str| Answer {
        addresses: addresses(&[now]),
        former: addresses(&[before, "198.51.100.3"]),
    };
    let [a, b] = ["198.51.100.1", "198.51.100.2"];
    world.set_resolved("reader.example.com", answer(a, b));
    world.set_resolved("writer.example.com", answer(b, a));
    assert_eq!(goes(&world, "198.51.100.1:5432"), "192.0.2.10:5432");
    assert_eq!(goes(&world, "198.51.100.2:5432"), "192.0.2.20:5432");
    assert_eq!(goes(&world, "198.51.100.3:5432"), "passed", "both resolved to it");
    let notes = ask(&world, "198.51.100.2:5432").notes;
    let note = "198.51.100.2 is writer.example.com's, which resolves to it";
    assert!(notes.iter().any(|one| one == note), "{notes:?}");
    let told = told(&world, "RD4061");
    assert_eq!(told.len(), 2, "one of each entry: {told:?}");
    assert!(told.iter().all(|one| one.contains("both resolved to 198.51.100.3 until lately,")));
    let notes = ask(&world, "198.51.100.3:5432").notes.join("\n");
    assert!(notes.contains(" resolved to 198.51.100.3 until lately both,"), "{notes}");

    // Once only one of them did, who asked it then is served.
    world.set_resolved("reader.example.com", addresses(&[a]));
    assert_eq!(goes(&world, "198.51.100.3:5432"), "192.0.2.20:5432");
}

#[test]
fn whose_connections_to_an_address_of_two_hosts_are_left_alone_is_told() {
    let entry = |name: &str| {
        format!(
            "ServiceEntry {name}: {{hosts: [{name}.example.com], resolution: DNS, ports: [{{number: \
             5432, name: tcp, protocol: TCP}}]}}\n"
        )
    };
    let rule = |at: &str, name: &str, more: &str, matches: &str| {
        format!(
            "VirtualService {at}{name}: {{hosts: [{name}.example.com], {more} tcp: [{{{matches} route: \
             [{{destination: {{host: to.example.com}}}}]}}]}}\n"
        )
    };
    let text = entry("one")
        + &entry("two")
        + "ServiceEntry to: {hosts: [to.example.com], addresses: [192.0.2.77], resolution: STATIC, \
           endpoints: [{address: 192.0.2.1}], ports: [{number: 5432, name: tcp, protocol: TCP}]}\n\
           WorkloadEntry reports/web: {address: 192.0.2.5, labels: {app: web}}\n\
           WorkloadEntry reports/app: {address: 192.0.2.6, labels: {app: app}}\n"
        + &rule("reports/", "one", "exportTo: [.],", "")
        + &rule("", "two", "", "match: [{sourceLabels: {app: web}, sourceNamespace: reports}],");
    let mut world = world(&text);
    for host in ["one.example.com", "two.example.com"] {
        world.set_resolved(host, addresses(&["198.51.100.1"]));
    }
    let told = told(&world, "RD4061");
    assert_eq!(told.len(), 2, "{told:?}");
    for one in told {
        let of_some = one.contains("connections of the workload reports/app");
        assert!(of_some && !one.contains("reports/web"), "{one}");
    }
}

#[test]
fn what_rules_for_a_host_refuse_is_told_before_the_host_is_resolved() {
    let text = "
ServiceEntry db: {hosts: [db.example.com], resolution: DNS, ports: [{number: 5432, name: tcp, protocol: TCP}]}
ServiceEntry private:
  hosts: [private.example.com]
  addresses: [192.0.2.77]
  exportTo: [.]
  ports: [{number: 5432, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.1}]
VirtualService one:
  hosts: [db.example.com]
  tcp: [{route: [{destination: {host: private.example.com}}]}]
VirtualService two:
  hosts: [db.example.com]
  tcp: [{match: [{sourceNamespace: data}], route: [{destination: {host: db.example.com}}]}]
";
    let mut world = world(text);
    let all = |world: &World| ["RD3018", "RD4048"].map(|code| told(world, code).len());
    assert_eq!(all(&world), [1, 1]);
    let at = format!("{:?}", told(&world, "RD4048"));
    assert!(!at.contains("240.240."), "nobody has such an address: {at}");
    world.set_resolved("db.example.com", addresses(&["198.51.100.1"]));
    assert_eq!(all(&world), [1, 1], "it is the same afterwards");
}

#[test]
fn of_a_subset_only_the_names_are_shown_that_its_endpoints_are_resolved_from() {
    let mut world = world(
        "
ServiceEntry db:
  hosts: [db.example.com]
  addresses: [198.51.100.1]
  resolution: DNS
  ports: [{number: 5432, name: one, protocol: TCP}, {number: 5433, name: two, protocol: TCP}]
  endpoints: [{address: 192.0.2.21, labels: {v: one}}, {address: two.example.com, labels: {v: two}}]
DestinationRule db:
  host: db.example.com
  subsets: [{name: one, labels: {v: one}}, {name: two, labels: {v: two}}]
VirtualService db:
  hosts: [db.example.com]
  tcp:
  - {match: [{port: 5432}], route: [{destination: {host: db.example.com, subset: one}}]}
  - {match: [{port: 5433}], route: [{destination: {host: db.example.com, subset: two}}]}
",
    );
    let names = |world: &World, to: &str| {
        let destinations = ask(world, to).destinations.into_iter();
        destinations.flat_map(|one| one.names).map(|one| one.name).collect::<Vec<_>>()
    };
    for answer in [&[][..], &["192.0.2.22"]] {
        world.set_resolved("two.example.com", addresses(answer));
        assert_eq!(names(&world, "198.51.100.1:5432"), [""; 0], "{answer:?}");
        assert_eq!(names(&world, "198.51.100.1:5433"), ["two.example.com"], "{answer:?}");
    }
}

#[test]
fn no_name_decides_about_an_address_that_is_never_taken_for_one() {
    let mut world = without_addresses("DNS", "{}");
    let service = "Service own: {clusterIP: 198.51.100.4, ports: [{port: 80}]}";
    world.insert(self::world(service).of_kind(Kind::Service).next().expect("it is there").clone());
    world.settings.node_addresses.extend(addresses(&["198.51.100.5"]));
    for (to, wanted) in [
        ("198.51.100.3:5432", VerdictWord::Undecided),
        ("198.51.100.4:5432", VerdictWord::Passthrough),
        ("198.51.100.5:5432", VerdictWord::Passthrough),
    ] {
        let answer = ask(&world, to);
        assert_eq!(answer.verdict, wanted, "{to}");
        assert_eq!(answer.undecided_names.is_empty(), wanted == VerdictWord::Passthrough, "{to}");
    }
}
