//! Advice that may be followed: what findings say of whom they concern, and what they
//! tell to do about it.

use redirector_core::explain::{Query, QuerySource, VerdictWord, explain};
use redirector_core::world::{ServiceAddresses, Settings};

use crate::findings::report;
use crate::support::{unknown_shares, world, world_with};

/// A Service with two ports, two workloads behind it, and another one.
const SHOP: &str = "
Service shop/web: {clusterIP: 10.96.0.10, selector: {app: web}, ports: [{name: tcp, port: 80}, {name: tcp-b, port: 81}]}
Service shop/other: {clusterIP: 10.96.0.11, selector: {app: other}, ports: [{name: tcp, port: 80}]}
WorkloadEntry shop/web-1: {address: 192.0.2.1, labels: {app: web, version: v1}}
WorkloadEntry shop/web-2: {address: 192.0.2.2, labels: {app: web, version: v2}}
WorkloadEntry shop/other-1: {address: 192.0.2.3, labels: {app: other}}
";

/// What is said beside [`SHOP`] under a code: `path: message | help`.
fn said(text: &str, code: &str) -> Vec<String> {
    let report = report(&format!("{SHOP}{text}"));
    let found = report.diagnostics.iter().filter(|one| one.code == code);
    found
        .map(|one| {
            let help = one.help.as_deref().unwrap_or("no help");
            format!("{}: {} | {help}", one.path, one.message)
        })
        .collect()
}

/// Each time one finding of this code, which has these words.
fn each(rows: &[(&str, &str, &[&str])]) {
    for (text, code, words) in rows {
        let told = said(text, code);
        let [one] = &told[..] else { panic!("{code} {text}: {told:#?}") };
        for word in *words {
            assert!(one.contains(word), "{text}: {word} is not in {one}");
        }
    }
}

#[test]
fn a_port_that_is_advised_sends_nobody_elsewhere_than_now() {
    let rule = |matches: &str| {
        format!(
            "VirtualService shop/web: {{hosts: [web], tcp: [{{{matches}route: [{{destination: {{host: \
             web}}}}]}}]}}\n"
        )
    };
    each(&[
        (&rule(""), "RD3007", &["| write a rule for each port"]),
        (&rule("match: [{port: 81}], "), "RD3007", &["| add port: {number: 81}"]),
        (&rule("match: [{port: 80}, {port: 81}], "), "RD3007", &["| write a rule for each port"]),
        (&rule("match: [{port: 80}, {}], "), "RD3007", &["| write a rule for each port"]),
    ]);
    let elsewhere = "
ServiceEntry shop/db:
  {hosts: [db.example.com], addresses: [240.0.0.1], resolution: STATIC, endpoints: [{address: 192.0.2.9}], ports: [{number: 5004, name: tcp, protocol: TCP}]}
VirtualService shop/db: {hosts: [db.example.com], tcp: [{route: [{destination: {host: web}}]}]}
";
    each(&[(elsewhere, "RD3007", &["| add port: with the number that is meant, of 80, 81"])]);
}

#[test]
fn a_policy_that_refuses_one_port_says_which() {
    let policy = |more: &str| {
        format!(
            "DestinationRule shop/web: {{host: web, trafficPolicy: {{tls: {{mode: SIMPLE}}{more}}}}}\n"
        )
    };
    let but_80 =
        policy(", portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]");
    each(&[
        (
            &but_80,
            "RD4044",
            &["all connections to web.shop.svc.cluster.local, port 81 are refused"],
        ),
        (&policy(""), "RD4044", &["all connections to web.shop.svc.cluster.local are refused"]),
    ]);
    let settings = Settings { services: ServiceAddresses::Own, ..Settings::default() };
    let world = world_with(&format!("{SHOP}{but_80}"), settings);
    for (port, refused) in [(80, false), (81, true)] {
        let destination = format!("10.96.0.10:{port}").parse().expect("an address");
        let query = Query { source: QuerySource::Unknown, destination, gateway: None, sni: None };
        let verdict = explain(&world, &query).expect("nobody is looked for").verdict;
        assert_eq!(verdict == VerdictWord::Refuse, refused, "{port}");
    }
}

#[test]
fn a_delegate_is_not_told_to_have_tcp_rules_nor_who_delegates_to_write_the_same() {
    let text = "
VirtualService shop/web: {hosts: [web], http: [{delegate: {name: to, namespace: foo}}]}
VirtualService foo/to: {http: [{route: [{destination: {host: other.shop.svc.cluster.local}}]}]}
";
    each(&[
        (text, "RD5001", &["tcp rules have neither delegates nor redirects"]),
        (text, "RD5002", &["tcp: of the VirtualService that has the hosts"]),
    ]);
}

#[test]
fn a_subnet_of_no_address_is_compared_here_and_dropped_in_istio() {
    let rule = |subnets: &str| {
        format!(
            "ServiceEntry shop/net: {{hosts: [net.example.com], addresses: [10.200.0.0/16], ports: \
             [{{number: 80, name: tcp, protocol: TCP}}], resolution: NONE}}\n\
             VirtualService shop/net: {{hosts: [net.example.com], tcp: [{{match: \
             [{{destinationSubnets: [{subnets}]}}], route: [{{destination: {{host: other}}}}]}}]}}\n"
        )
    };
    each(&[
        (&rule("0.0.0.0/1"), "RD4005", &["0.0.0.0/1 is compared here", "every address there"]),
        (&rule("0.0.0.0/2, 10.0.0.0/8"), "RD4005", &["Subnets[0]", "and keeps the others"]),
        (&rule("0.0.0.0/0, 10.0.0.0/8"), "RD4005", &["0.0.0.0/0 takes every address here"]),
    ]);
    for plain in ["0.0.0.0/0", "10.0.0.0/8, 11.0.0.0/8"] {
        assert_eq!(said(&rule(plain), "RD4005"), [""; 0]);
    }
    let two = rule("0.0.0.0/1")
        + "VirtualService shop/net: {hosts: [net.example.com], tcp: [{match: [{destinationSubnets: \
           [0.0.0.0/1]}], route: [{destination: {host: other}}]}, {match: [{destinationSubnets: \
           [0.0.0.0/2]}], route: [{destination: {host: other}}]}]}\n";
    let shadowed = said(&two, "RD4002");
    assert!(matches!(&shadowed[..], [one] if !one.contains("Istio")), "{shadowed:?}");
    let unshadowed =
        unknown_shares(&world(&format!("{SHOP}{}", rule("0.0.0.0/1"))), "10.200.0.1:80");
    assert_eq!(unshadowed.endpoints.len(), 1, "{unshadowed:?}");
}

/// Rules, each with its match, for a host that has a network and the port 80.
fn of_network(matches: &[&str]) -> String {
    let route = "route: [{destination: {host: other}}]";
    let rules: Vec<_> =
        matches.iter().map(|one| format!("{{match: [{{{one}}}], {route}}}")).collect();
    format!(
        "ServiceEntry shop/net: {{hosts: [net.example.com], addresses: [10.200.0.0/16], ports: \
         [{{number: 80, name: tcp, protocol: TCP}}], resolution: NONE}}\nVirtualService shop/net: \
         {{hosts: [net.example.com], tcp: [{}]}}\n",
        rules.join(", ")
    )
}

#[test]
fn a_narrower_subnet_below_is_told_what_istio_does_whatever_else_the_wider_one_asks() {
    let rules = |first: &str, second: &str| {
        let subnets = |one: &str| format!("destinationSubnets: [{one}]");
        of_network(&[&(subnets(first) + ", port: 80"), &subnets(second)])
    };
    let at = "spec.tcp[1].match[0].destinationSubnets";
    let narrower = rules("10.200.0.0/17", "10.200.1.0/24, 10.200.2.0/24");
    let found = said(&narrower, "RD4002");
    let is_told = |n: usize| {
        found[n].starts_with(&format!("{at}[{n}]: ")) && found[n].contains("the longer prefix")
    };
    assert!(found.len() == 2 && is_told(0) && is_told(1), "{found:#?}");
    assert_eq!(said(&narrower, "RD4048"), [""; 0]);
    // Where Istio agrees, or the one that stands above is of another object.
    assert_eq!(said(&rules("10.200.0.0/17", "10.200.0.0/17"), "RD4002"), [""; 0]);
    assert_eq!(said(&rules("10.200.0.0/17", "10.200.0.0/17"), "RD4048").len(), 1);
}

#[test]
fn a_subnet_outside_of_a_network_beside_one_inside_is_told_to_differ_from_istio() {
    let rule = |subnets: &str| of_network(&[&format!("destinationSubnets: [{subnets}]")]);
    each(&[(
        &rule("10.200.1.0/24, 10.201.0.0/16"),
        "RD4012",
        &[
            "destinationSubnets[1]: 10.201.0.0/16 lies outside",
            "(10.200.0.0/16)",
            "Istio would take",
        ],
    )]);
    for inside in ["10.200.1.0/24, 10.0.0.0/8", "10.200.1.0/24, fd00::/8"] {
        assert_eq!(said(&rule(inside), "RD4012"), [""; 0]);
    }
    // At single addresses Istio listens at those alone.
    let single = rule("10.200.0.1/32, 10.201.0.0/16").replace("[10.200.0.0/16]", "[10.200.0.1]");
    assert_eq!(said(&single, "RD4012"), [""; 0]);
}

#[test]
fn a_server_at_which_no_rule_can_match_is_told_to_refuse() {
    let gateway = "
WorkloadEntry shop/edge {annotations: {redirector.io/gateway: 'true'}}: {address: 192.0.2.31, labels: {istio: edge}}
Gateway shop/edge:
  selector: {istio: edge}
  servers:
  - {port: {number: 5432, name: tcp, protocol: TCP}, hosts: ['*']}
  - {port: {number: 5433, name: tcp2, protocol: TCP}, hosts: ['*']}
  - {port: {number: 444, name: tls, protocol: TLS}, hosts: ['*'], tls: {mode: PASSTHROUGH}}
";
    let rule = |rules: &str| {
        format!("{gateway}VirtualService shop/v: {{hosts: ['*'], gateways: [edge], {rules}}}\n")
    };
    let of = |text: &str, code: &str| {
        let told = said(text, code).into_iter();
        told.map(|one| one.split(": ").next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let servers = [0, 1, 2].map(|server| format!("spec.servers[{server}].port.number"));
    let route = "route: [{destination: {host: other}}]";
    assert_eq!(of(gateway, "RD4066"), servers, "nothing is bound to it");
    let one = rule(&format!("tcp: [{{match: [{{port: 5432}}], {route}}}]"));
    assert_eq!(of(&one, "RD4065"), servers[1..]);
    assert!(
        said(&one, "RD4065")[1].ends_with("| add a tls rule for the port, or remove the server")
    );
    let all = format!("tcp: [{{{route}}}], tls: [{{match: [{{sniHosts: ['*']}}], {route}}}]");
    assert_eq!(of(&rule(&all), "RD4065"), [""; 0]);
    let http = rule(&format!("http: [{{{route}}}]"));
    assert_eq!(of(&http, "RD4065"), [""; 0], "it is told that no server uses the rules");
    assert_eq!(of(&http, "RD4041").len(), 1);
    // What it is told of another Gateway says nothing of this one.
    let inner = "Gateway shop/inner: {selector: {istio: other}, servers: [{port: {number: 80, name: \
                 tcp, protocol: TCP}, hosts: [b.example.com]}]}\n";
    let both = one.replace("['*'], gateways: [edge]", "[a.example.com], gateways: [edge, inner]");
    assert_eq!(of(&(both + inner), "RD4065"), servers[1..]);
    // Nor what is told of rules that could not match there, if they were seen.
    let hidden = "WorkloadEntry system/edge: {address: 192.0.2.32, labels: {istio: edge}}\n\
                  VirtualService shop/hidden: {hosts: [b.example.com], gateways: [edge], exportTo: \
                  ['.'], tcp: [{match: [{port: 5433}], route: [{destination: {host: other}}]}]}\n";
    let told = of(&(one.clone() + hidden), "RD4065");
    assert_eq!(said(&(one.clone() + hidden), "RD4047").len(), 1);
    assert_eq!(told, servers[2..]);
    // A host that is written short is one of the Gateway's, whose other servers are told of.
    let short = one
        .replace("hosts: ['*'], gateways", "hosts: [db], gateways")
        .replace("hosts: ['*']", "hosts: [shop/db.shop.svc.cluster.local]");
    assert_eq!(of(&short, "RD4065"), servers[1..]);
    let known = &said(&short, "RD3003")[0];
    assert!(known.contains("it is served | write db.shop.svc.cluster.local"), "{known}");
    // Of rules that were refused it is told why.
    let refused = rule(&format!("tcp: [{{match: [{{port: -1}}], {route}}}]"));
    assert_eq!(of(&refused, "RD4066"), [""; 0]);
}

#[test]
fn what_is_near_to_a_subset_is_always_the_same_and_none_that_the_route_has() {
    let rule = |route: &str| {
        format!(
            "DestinationRule shop/web: {{host: web, subsets: [{{name: v2, labels: {{version: v2}}}}, \
             {{name: v1, labels: {{version: v1}}}}]}}\n\
             VirtualService shop/web: {{hosts: [other], tcp: [{{route: [{route}]}}]}}\n"
        )
    };
    let to = |subset: &str, weight: u32| {
        format!(
            "{{destination: {{host: web, port: {{number: 80}}, subset: {subset}}}, weight: {weight}}}"
        )
    };
    for _ in 0..8 {
        each(&[
            (&rule(&to("v7", 1)), "RD3008", &["did you mean \"v1\"?"]),
            (&rule(&[to("v1", 90), to("v3", 10)].join(", ")), "RD3008", &["mean \"v2\"?"]),
            (
                &rule(&to("blue", 1)),
                "RD3008",
                &["define it under subsets: of DestinationRule/shop/web"],
            ),
        ]);
    }
}

#[test]
fn a_rule_whose_host_is_misspelt_is_not_told_to_be_missing() {
    let text = "
DestinationRule shop/web: {hosts: [web], subsets: [{name: v1, labels: {version: v1}}]}
VirtualService shop/web: {hosts: [web], tcp: [{match: [{port: 80}], route: [{destination: {host: web, subset: v1, port: {number: 80}}}]}]}
";
    assert_eq!(said(text, "RD2001").len(), 1);
    for follows in ["RD3008", "RD3019"] {
        assert_eq!(said(text, follows), [""; 0]);
    }
}

#[test]
fn where_a_workload_is_known_by_a_place_that_is_none_is_told() {
    let entry = |annotations: &str| {
        format!("WorkloadEntry shop/w {{annotations: {{{annotations}}}}}: {{address: 192.0.2.7}}\n")
    };
    let cgroup = |path: &str| entry(&format!("redirector.io/cgroup: {path}"));
    let below = "| write the path below the cgroup2 mount, such as system.slice/x.service";
    each(&[
        (&cgroup("/sys/fs/cgroup/system.slice/x.service"), "RD1028", &["names no cgroup", below]),
        (&cgroup("../x"), "RD1028", &["names no cgroup", "such as system.slice/shop.service"]),
        (&cgroup("a//b"), "RD1028", &["names no cgroup"]),
        (&entry("redirector.io/netns: web"), "RD1028", &["| write the path of its file, such as"]),
        (
            &entry("redirector.io/cgroup: a, redirector.io/netns: /run/netns/a"),
            "RD1028",
            &["redirector.io/netns has no effect beside redirector.io/cgroup"],
        ),
        (
            &entry("redirector.io/gateway: 'yes'"),
            "RD1028",
            &["| write redirector.io/gateway: \"true\""],
        ),
        (
            &entry("redirector.io/original-destination: 'true'"),
            "RD1022",
            &["| SO_ORIGINAL_DST is not answered: docs/decisions/0034-original-destination.md"],
        ),
    ]);
    let both = cgroup("a.slice") + &cgroup("/a.slice").replace("shop/w ", "shop/v ");
    each(&[(&both, "RD4067", &["WorkloadEntry/shop/v names it too"])]);
    for good in ["a.slice/x.service", "/a.slice/x.service/", "/"] {
        assert_eq!(said(&cgroup(good), "RD1028"), [""; 0]);
    }
}

#[test]
fn addresses_and_workloads_are_all_named() {
    let empty = "Service shop/none: {clusterIP: 10.96.0.50, selector: {app: none}, ports: [{name: \
                 tcp-a, port: 80}, {name: tcp-b, port: 81}, {name: tcp-c, port: 82}]}\n";
    let headless = "
Service shop/hl: {clusterIP: None, selector: {app: web}, ports: [{name: tcp, port: 80}]}
VirtualService shop/hl: {hosts: [hl], tcp: [{match: [{destinationSubnets: [10.0.0.0/8]}], route: [{destination: {host: other}}]}]}
";
    let address = |endpoints: &str| {
        format!(
            "ServiceEntry shop/db: {{hosts: [db.example.com], addresses: [240.0.0.1], ports: \
             [{{number: 80, name: tcp, protocol: TCP}}], {endpoints}}}\n"
        )
    };
    let local =
        address("resolution: STATIC, endpoints: [{address: 127.0.0.2}, {address: 127.0.0.3}]")
            .replace("240.0.0.1", "127.0.0.1");
    each(&[
        (&local, "RD4043", &["127.0.0.1:80 is served here for everybody"]),
        (empty, "RD4042", &["to 10.96.0.50:80, 10.96.0.50:81, 10.96.0.50:82 are refused"]),
        (headless, "RD4012", &["| a headless Service has the addresses of its Pods"]),
        (
            &address("resolution: STATIC, endpoints: [{address: '192.0.2.1:5432'}]"),
            "RD2041",
            &["| an address carries no port: ports go under ports:"],
        ),
        (
            &address("endpoints: [{address: 192.0.2.1}]"),
            "RD2040",
            &["NONE, which is the default,", "| write resolution: STATIC"],
        ),
        (&address("endpoints: [{address: a.example.com}]"), "RD2040", &["| write resolution: DNS"]),
    ]);
}

#[test]
fn who_is_told_to_write_a_port_is_told_which_the_destination_lacks() {
    let text = "
Service shop/pg: {clusterIP: 10.96.0.12, selector: {app: other}, ports: [{name: tcp, port: 5432}]}
VirtualService shop/v: {hosts: [web, pg], tcp: [{route: [{destination: {host: web}}]}]}
";
    each(&[(text, "RD3007", &["| write a rule for each port", "web has no port 5432"])]);
}

#[test]
fn a_server_to_which_tls_rules_are_bound_is_told_to_pass_tls_through() {
    let gateway = |protocol: &str| {
        format!(
            "Gateway shop/g: {{selector: {{app: other}}, servers: [{{port: {{number: 443, name: x, \
             protocol: {protocol}, hosts: [a.example.com]}}]}}\n"
        )
    };
    let mutual = gateway("TLS}, tls: {mode: ISTIO_MUTUAL}");
    let rule = "VirtualService shop/v: {hosts: [a.example.com], gateways: [g], tls: [{match: \
                [{sniHosts: [a.example.com]}], route: [{destination: {host: other}}]}]}\n";
    let passes = "tls: {mode: PASSTHROUGH} at the server";
    each(&[
        (&mutual, "RD5004", &["tls mode ISTIO_MUTUAL", "| declare the port TCP, without tls:"]),
        (&(mutual.clone() + rule), "RD5004", &[passes]),
        (&(gateway("TCP}") + rule), "RD4041", &[passes]),
    ]);
}
