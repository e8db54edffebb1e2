//! Random Plans: configurations as `compile` could make them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use redirector_core::model::{Kind, ObjectRef};
use redirector_core::plan::{
    Algorithm, Class, Destination, DestinationId, Endpoint, Frontend, FrontendId, Leg, Plan,
    RouteId, RuleId, RuleList, Source, SourceId, SourceSelector, Verdict,
};

use crate::random::Random;

/// The ports that clients dial.
pub const PORTS: [u16; 3] = [80, 443, 19000];

/// What a Plan is made from.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The local workloads.
    pub sources: Vec<SourceId>,
    /// The ports that endpoints listen on.
    pub endpoint_ports: Vec<u16>,
}

fn object(kind: Kind, name: String) -> ObjectRef {
    ObjectRef { kind, namespace: "default".into(), name: name.into() }
}

/// An address that clients dial: in a small range, so that prefixes nest.
pub fn dialled(random: &mut Random) -> SocketAddr {
    let port = *random.pick(&PORTS);
    let host = random.below(64) as u8;
    let address: IpAddr = if random.below(3) == 0 {
        Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, u16::from(host)).into()
    } else {
        Ipv4Addr::new(10, 96, 0, host).into()
    };
    SocketAddr::new(address, port)
}

fn endpoint(random: &mut Random, shape: &Shape, v6: bool) -> SocketAddr {
    let host = 1 + random.below(250) as u8;
    let address: IpAddr = if v6 {
        Ipv6Addr::new(0xfd97, 0, 0, 0, 0, 0, 0, u16::from(host)).into()
    } else {
        Ipv4Addr::new(127, 97, 0, host).into()
    };
    SocketAddr::new(address, *random.pick(&shape.endpoint_ports))
}

/// A random Plan.
pub fn random(random: &mut Random, shape: &Shape) -> Plan {
    let mut plan = Plan::default();
    // Classes, each with its example, and every source in one.
    let classes = 1 + random.below(shape.sources.len() as u64 + 1) as usize;
    plan.classes.push(Class { example: None });
    for source in shape.sources.iter().take(classes - 1) {
        plan.classes.push(Class { example: Some(source.clone()) });
    }
    for (index, id) in shape.sources.iter().enumerate() {
        let class = if index + 1 < classes {
            index as u32 + 1
        } else {
            random.below(classes as u64) as u32
        };
        let selector = SourceSelector::Cgroup(Arc::from(&*id.name));
        let source = Source { labels: BTreeMap::new(), addresses: Vec::new(), selector, class };
        plan.sources.insert(id.clone(), source);
    }
    // Destinations and routes of either family.
    let mut routes: [Vec<Arc<RouteId>>; 2] = [Vec::new(), Vec::new()];
    for index in 0..8_u32 {
        let v6 = index % 3 == 2;
        let mut destinations = Vec::new();
        let mut legs = Vec::new();
        for leg in 0..=random.below(4) {
            let id = DestinationId {
                host: format!("host-{index}-{leg}.default.svc.cluster.local").into(),
                subset: None,
                port: 80,
                v6,
                view: Vec::new(),
            };
            let count = *random.pick(&[0, 1, 1, 2, 3, 7, 20]);
            let mut endpoints: Vec<Endpoint> = (0..count)
                .map(|_| Endpoint {
                    address: endpoint(random, shape, v6),
                    weight: 1 + random.below(9),
                })
                .collect();
            endpoints.sort();
            endpoints.dedup_by_key(|endpoint| endpoint.address);
            let destination =
                Destination { algorithm: Algorithm::Random, endpoints, ..Destination::default() };
            plan.destinations.insert(id.clone(), destination);
            destinations.push(id);
            // A weight of zero is never drawn; at least one is not zero.
            let weight = if leg == 0 { 1 + random.below(99) } else { random.below(100) };
            legs.push(Leg { weight });
        }
        let rule = RuleId {
            object: object(Kind::VirtualService, format!("rule-{index}")),
            list: RuleList::Tcp,
            index,
        };
        let route = Arc::new(RouteId { rule: Some(rule), destinations });
        plan.routes.insert(route.clone(), legs);
        routes[usize::from(v6)].push(route);
    }
    // Frontends: addresses and nested prefixes.
    for index in 0..40 {
        let address = dialled(random);
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let length = if random.below(4) == 0 { bits - random.below(7) as u8 } else { bits };
        let prefix = IpNet::new(address.ip(), length).expect("a length in range").trunc();
        let routes = &routes[usize::from(address.is_ipv6())];
        let verdict = |random: &mut Random| match random.below(8) {
            0 => Verdict::Pass,
            1 => Verdict::Refuse,
            _ => Verdict::Route(random.pick(routes).clone()),
        };
        let default = verdict(random);
        let exceptions = (0..classes as u32)
            .flat_map(|class| match random.below(3) {
                0 => Some((class, verdict(random))),
                _ => None,
            })
            .filter(|(_, verdict)| *verdict != default)
            .collect();
        let frontend = Frontend {
            service: object(Kind::Service, format!("service-{index}")),
            default,
            exceptions,
        };
        plan.frontends.insert(FrontendId { prefix, port: address.port() }, frontend);
    }
    plan
}
