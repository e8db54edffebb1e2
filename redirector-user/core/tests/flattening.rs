//! Nested frontends and nested destinationSubnets, flattened into one table by
//! longest prefix, against a naive interpreter: the longest frontend, then its
//! first rule, in written order, that contains the address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::support::random::Random;
use crate::support::{LIMITS, shares};
use ipnet::IpNet;
use redirector_core::compile::compile;
use redirector_core::layout::Layout;
use redirector_core::model::{
    EntryPort, L4Match, Meta, Object, Resolution, RouteDestination, ServiceEntry, Spec, TcpRule,
    VirtualService, WorkloadEntry,
};
use redirector_core::world::{Settings, World};

const PORT: u16 = 80;

/// A frontend with its rules, each a list of subnets; none is a rule for all.
struct Frontend {
    prefix: IpNet,
    rules: Vec<Vec<IpNet>>,
}

/// Addresses out of a small part of each family, so that prefixes nest.
fn address(random: &mut Random, v6: bool) -> IpAddr {
    let low = random.number() as u8;
    if v6 {
        Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(low)).into()
    } else {
        Ipv4Addr::new(10, 0, 0, low).into()
    }
}

fn prefix(random: &mut Random, v6: bool) -> IpNet {
    let shorter = random.below(10) as u8;
    let address = address(random, v6);
    let whole = if v6 { 128 } else { 32 };
    IpNet::new(address, whole - shorter).expect("a length").trunc()
}

fn object(name: String, spec: Spec) -> Object {
    let meta = Meta::new("default", name);
    Object { meta, spec }
}

/// The endpoint that shows which rule was taken: 192.0.2.0 for frontend's own.
fn marker(frontend: usize, rule: usize, v6: bool) -> IpAddr {
    let (frontend, rule) = (frontend as u8, rule as u8);
    if v6 {
        Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, frontend.into(), rule.into()).into()
    } else {
        Ipv4Addr::new(192, 0, frontend, rule).into()
    }
}

fn entry(host: String, addresses: Vec<IpNet>, marker: IpAddr) -> ServiceEntry {
    ServiceEntry {
        hosts: vec![host],
        addresses,
        ports: vec![EntryPort {
            number: PORT,
            name: "tcp".to_owned(),
            protocol: "TCP".to_owned(),
            target_port: None,
        }],
        resolution: Resolution::Static,
        endpoints: vec![WorkloadEntry { address: marker.to_string(), ..WorkloadEntry::default() }],
        ..ServiceEntry::default()
    }
}

fn build(frontends: &[Frontend], v6: bool) -> World {
    let mut world = World::new(Settings::default());
    for (index, frontend) in frontends.iter().enumerate() {
        let host = format!("f{index}.test");
        let spec = entry(host.clone(), vec![frontend.prefix], marker(index, 0, v6));
        world.insert(object(format!("f{index}"), Spec::ServiceEntry(spec)));
        let mut rules = Vec::new();
        for (rule, subnets) in frontend.rules.iter().enumerate() {
            let target = format!("f{index}-r{rule}.test");
            let unreachable = "198.51.100.1/32".parse().expect("a prefix");
            let mut spec = entry(target.clone(), vec![unreachable], marker(index, rule + 1, v6));
            // A port of its own, so that it owns nothing that is dialled.
            spec.ports[0].number = 81;
            spec.endpoints[0].ports.insert("tcp".to_owned(), PORT);
            world.insert(object(format!("f{index}-r{rule}"), Spec::ServiceEntry(spec)));
            let block = L4Match { destination_subnets: subnets.clone(), ..L4Match::default() };
            rules.push(TcpRule {
                matches: [block].into(),
                route: [RouteDestination { host: target.into(), ..RouteDestination::default() }]
                    .into(),
                line: 0,
            });
        }
        let spec =
            VirtualService { hosts: vec![host], tcp: rules.into(), ..VirtualService::default() };
        world.insert(object(format!("f{index}"), Spec::VirtualService(spec)));
    }
    world
}

/// Which rule takes an address: the plain reading.
fn naive(frontends: &[Frontend], to: IpAddr, v6: bool) -> Option<IpAddr> {
    // Of two with one prefix the first counts: they are equally old, and it
    // has the smaller name.
    let (index, frontend) = frontends
        .iter()
        .enumerate()
        .filter(|(_, frontend)| frontend.prefix.contains(&to))
        .rev()
        .max_by_key(|(_, frontend)| frontend.prefix.prefix_len())?;
    let rule = frontend
        .rules
        .iter()
        .position(|rule| rule.is_empty() || rule.iter().any(|subnet| subnet.contains(&to)));
    Some(marker(index, rule.map_or(0, |rule| rule + 1), v6))
}

/// Compiles these and looks where each address is sent; says how many were in a frontend.
fn agree(frontends: &[Frontend], v6: bool, addresses: impl Iterator<Item = IpAddr>) -> u64 {
    let plan = compile(&build(frontends, v6)).plan;
    let (_, image) = Layout::default().place(&plan, &LIMITS).expect("there is room");
    let all = || frontends.iter().map(|one| (one.prefix, &one.rules)).collect::<Vec<_>>();
    let mut taken = 0;
    for to in addresses {
        let got = shares(&image, 0, SocketAddr::new(to, PORT));
        let Some(marker) = naive(frontends, to, v6) else {
            assert!(got.passed, "{to} is in no frontend of {:?}: {got:?}", all());
            continue;
        };
        taken += 1;
        let marker = SocketAddr::new(marker, PORT).to_string();
        assert_eq!(got.endpoints.keys().collect::<Vec<_>>(), [&marker], "{to}: {:?}", all());
    }
    taken
}

#[test]
fn the_flattened_table_says_what_the_first_matching_rule_of_the_longest_frontend_says() {
    let sets: u64 = std::env::var("REDIRECTOR_RULE_SETS")
        .map_or(1_000, |value| value.parse().expect("a number"));
    let mut taken = 0_u64;
    for set in 0..sets {
        let mut random = Random::new(set);
        let v6 = set % 2 == 1;
        let frontends: Vec<Frontend> = (0..1 + random.below(4))
            .map(|_| Frontend {
                prefix: prefix(&mut random, v6),
                rules: (0..random.below(6))
                    .map(|_| (0..random.below(3)).map(|_| prefix(&mut random, v6)).collect())
                    .collect(),
            })
            .collect();
        let addresses: Vec<_> = (0..100).map(|_| address(&mut random, v6)).collect();
        taken += agree(&frontends, v6, addresses.into_iter());
    }
    assert!(taken > sets * 10, "only {taken} addresses were in a frontend");
}

#[test]
fn so_it_does_for_each_nesting_of_two_frontends_and_three_rules_over_four_addresses() {
    let at = |low: u8, length| IpNet::new(Ipv4Addr::new(10, 0, 0, low).into(), length);
    let lengths = [(0, 30), (0, 31), (2, 31), (0, 32), (1, 32), (2, 32), (3, 32)];
    let prefixes = lengths.map(|(low, length)| at(low, length).expect("a length"));
    // Each of them, and the rule for all.
    let subnets: Vec<Vec<IpNet>> =
        std::iter::once(Vec::new()).chain(prefixes.map(|one| vec![one])).collect();
    let (mut worlds, mut taken) = (0, 0);
    for number in 0..subnets.len().pow(3) {
        let rule = |at| subnets[number / subnets.len().pow(at) % subnets.len()].clone();
        for inner in prefixes {
            let frontends = [
                Frontend { prefix: prefixes[0], rules: vec![rule(0), rule(1)] },
                Frontend { prefix: inner, rules: vec![rule(2)] },
            ];
            let addresses = (0..4).map(|low| Ipv4Addr::new(10, 0, 0, low).into());
            taken += agree(&frontends, false, addresses);
            worlds += 1;
        }
    }
    assert_eq!(taken, worlds * 4);
    println!("figure: {worlds} nestings of frontends and rules, {taken} decisions");
}
