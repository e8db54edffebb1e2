//! What the tests share: Worlds out of YAML, and the shares of a decision.
#![allow(dead_code, reason = "each test uses its part")]

pub mod random;
pub mod reference;
pub mod worlds;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use redirector_common::abi::{Limits, Side, VerdictKind};
use redirector_common::addr::Addr;
use redirector_common::decide::{Caller, Decision, Tables, decide};
use redirector_core::compile::compile;
use redirector_core::image::Image;
use redirector_core::layout::Layout;
use redirector_core::model::{Meta, Object, Origin, SourceId, Spec, WorkloadEntry};
use redirector_core::world::{Settings, World};

pub const LIMITS: Limits = Limits {
    class_tables: 1 << 16,
    identities: 1 << 16,
    routes: 1 << 20,
    legs: 1 << 22,
    destinations: 1 << 20,
    backends: 1 << 22,
    connections: 1 << 16,
    overflow_share: 1 << 10,
    stripes: 1,
};

/// A World out of YAML; nothing in it may be refused.
pub fn world(yaml: &str) -> World {
    world_with(yaml, Settings::default())
}

pub fn world_with(yaml: &str, settings: Settings) -> World {
    let reading = redirector_core::documents::read(None, yaml);
    let mut world = World::new(settings);
    for read in &reading.objects {
        let Some(object) = &read.object else {
            panic!("{:?} is refused: {:#?}", read.reference, reading.diagnostics)
        };
        world.insert(object.clone());
    }
    world
}

/// Where connections go: shares of all.
#[derive(Debug, PartialEq, Default, Clone)]
pub struct Shares {
    pub endpoints: BTreeMap<String, f64>,
    pub refused: f64,
    pub passed: bool,
}

/// The shares that the compiled tables give a client with this namespace and
/// these labels.
pub fn compiled_shares(
    world: &mut World,
    namespace: &str,
    labels: &BTreeMap<String, String>,
    destination: &str,
) -> Shares {
    let name = "the-client-under-test";
    world.insert(client(namespace, name, labels, ""));
    let plan = compile(world).plan;
    let (layout, image) = Layout::default().place(&plan, &LIMITS).expect("room");
    let id = SourceId { namespace: namespace.into(), name: name.into() };
    let identity = layout.identity(&id).expect("the client is a source");
    let class = image.class_of.get(&identity).copied().unwrap_or(0);
    shares(&image, class, destination.parse().expect("an address"))
}

/// The shares of a caller in no known workload.
pub fn unknown_shares(world: &World, destination: &str) -> Shares {
    let (_, image) = Layout::default().place(&compile(world).plan, &LIMITS).expect("room");
    shares(&image, 0, destination.parse().expect("an address"))
}

impl Shares {
    /// Whether these are the same, but for the bias of a draw and six decimals.
    pub fn near(&self, other: &Self) -> bool {
        let near = |a: f64, b: f64| (a - b).abs() < 2e-6;
        self.passed == other.passed
            && near(self.refused, other.refused)
            && self.endpoints.len() == other.endpoints.len()
            && self.endpoints.iter().all(|(to, share)| {
                other.endpoints.get(to).is_some_and(|other| near(*share, *other))
            })
    }
}

/// A source, as a WorkloadEntry.
pub fn client(
    namespace: &str,
    name: &str,
    labels: &BTreeMap<String, String>,
    address: &str,
) -> Object {
    let annotations =
        BTreeMap::from([("redirector.io/cgroup".to_owned(), format!("test/{namespace}/{name}"))]);
    Object {
        meta: Meta {
            name: name.into(),
            namespace: namespace.into(),
            uid: String::new(),
            labels: BTreeMap::new(),
            annotations,
            created: None,
            origin: Origin::default(),
        },
        spec: Spec::WorkloadEntry(WorkloadEntry {
            address: address.to_owned(),
            labels: labels.clone(),
            ..WorkloadEntry::default()
        }),
    }
}

struct Fixed(u32);

impl Caller for Fixed {
    fn class(&mut self, _: Side) -> u32 {
        self.0
    }
    fn draw(&mut self) -> u32 {
        0
    }
}

/// The shares of a decision: which verdict, by the decision itself; then every
/// leg and backend with the probability that a draw takes it.
pub fn shares(image: &Image, class: u32, to: SocketAddr) -> Shares {
    let side = Side::of_epoch(0);
    let port = to.port().to_be();
    let decision = decide(image, side, &Addr::from(to.ip()), port, &mut Fixed(class));
    let route = match decision {
        Decision::Miss | Decision::Pass => return Shares { passed: true, ..Shares::default() },
        Decision::Refuse => return Shares { refused: 1.0, ..Shares::default() },
        Decision::RefuseLeg(choice) | Decision::Limited(choice) | Decision::Route(choice, _) => {
            choice.route
        }
    };
    let mut shares = Shares::default();
    let route = image.route(side, route).expect("the route is there");
    let legs: Vec<_> = (route.first..route.first + route.count)
        .map(|index| image.leg(side, index).expect("the leg is there"))
        .collect();
    let slots: Vec<_> = legs.iter().map(|leg| (leg.threshold, leg.alias)).collect();
    for (leg, share) in legs.iter().zip(probabilities(&slots)) {
        let destination = image.destination(side, leg.destination).expect("it is there");
        if destination.count == 0 {
            shares.refused += share;
            continue;
        }
        let backends: Vec<_> = (destination.first..destination.first + destination.count)
            .map(|index| image.backend(side, index).expect("the backend is there"))
            .collect();
        let slots: Vec<_> = backends.iter().map(|one| (one.threshold, one.alias)).collect();
        for (backend, part) in backends.iter().zip(probabilities(&slots)) {
            let mut address = SocketAddr::new(backend.addr.into(), u16::from_be(backend.port));
            if address.ip().is_unspecified() {
                address.set_ip(to.ip());
                if address.port() == 0 {
                    address.set_port(to.port());
                }
            }
            if share * part > 0.0 {
                *shares.endpoints.entry(address.to_string()).or_default() += share * part;
            }
        }
    }
    shares
}

/// What each thing of an alias table has, out of thresholds and aliases.
fn probabilities(slots: &[(u32, u32)]) -> Vec<f64> {
    let mut parts = vec![0.0; slots.len()];
    for (index, (threshold, alias)) in slots.iter().enumerate() {
        let own = f64::from(*threshold) / 2f64.powi(32);
        parts[index] += own / slots.len() as f64;
        parts[*alias as usize] += (1.0 - own) / slots.len() as f64;
    }
    parts
}

/// Unused kinds of verdict must not stand in a class table.
pub fn is_classes(verdict: redirector_common::abi::Verdict) -> bool {
    matches!(verdict.kind(), VerdictKind::Classes(_))
}
