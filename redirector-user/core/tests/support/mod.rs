//! What the tests share: Worlds out of YAML, and the shares of a decision.
#![allow(dead_code, reason = "each test uses its part")]

pub mod edits;
pub mod judged;
pub mod placed;
pub mod random;
pub mod reference;
mod short;
pub mod worlds;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use redirector_common::abi::{Limits, Side, VerdictKind};
use redirector_common::addr::Addr;
use redirector_common::decide;
use redirector_common::decide::shares::{ByWeight, of_route};
use redirector_core::compile::compile;
use redirector_core::image::Image;
use redirector_core::layout::Layout;
use redirector_core::model::{Labels, Meta, Object, SourceId, Spec, WorkloadEntry};
use redirector_core::world::{Settings, World};
pub use short::written_out;

pub const LIMITS: Limits = Limits {
    class_tables: 1 << 20,
    identities: 1 << 16,
    routes: 1 << 20,
    legs: 1 << 22,
    destinations: 1 << 20,
    backends: 1 << 22,
    connections: 1 << 16,
    overflow: 1 << 10,
    kernel_socket: 0,
    btf: 0,
    socket_error: 0,
    md5_keys: 0,
    ao_keys: 0,
    stripes: 1,
};

/// A number that the environment may set: how much, or where to begin.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// A World out of YAML, which may be [written short](written_out); nothing in it may be refused.
pub fn world(yaml: &str) -> World {
    world_with(yaml, Settings::default())
}

pub fn world_with(yaml: &str, settings: Settings) -> World {
    let reading = redirector_core::documents::read(None, &written_out(yaml));
    let mut world = World::new(settings);
    for read in &reading.objects {
        let Some(object) = &read.object else {
            panic!("{:?} is refused: {:#?}", read.reference, reading.diagnostics)
        };
        world.insert(object.clone());
    }
    world
}

/// By how much shares may differ: the bias of a draw, and six decimals.
pub const PRECISE: f64 = 2e-6;

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
    labels: &Labels,
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
        self.near_by(other, PRECISE)
    }

    /// Whether these are the same, but for so much of each share.
    pub fn near_by(&self, other: &Self, by: f64) -> bool {
        let near = |a: f64, b: f64| (a - b).abs() < by;
        self.passed == other.passed
            && near(self.refused, other.refused)
            && self.endpoints.len() == other.endpoints.len()
            && self.endpoints.iter().all(|(to, share)| {
                other.endpoints.get(to).is_some_and(|other| near(*share, *other))
            })
    }
}

/// A source, as a WorkloadEntry.
pub fn client(namespace: &str, name: &str, labels: &Labels, address: &str) -> Object {
    let annotations = Labels::from([("redirector.io/cgroup", format!("test/{namespace}/{name}"))]);
    Object {
        meta: Meta { annotations, ..Meta::new(namespace, name) },
        spec: Spec::WorkloadEntry(WorkloadEntry {
            address: address.to_owned(),
            labels: labels.clone(),
            ..WorkloadEntry::default()
        }),
    }
}

/// What the tables say to a class that dials an address; `Pass` also where no
/// frontend has it.
pub fn verdict(image: &Image, class: u32, to: SocketAddr) -> VerdictKind {
    let (addr, port) = (Addr::from(to.ip()), to.port().to_be());
    let found = decide::verdict(image, Side::of_epoch(0), &addr, port, || class);
    found.map_or(VerdictKind::Pass, |verdict| verdict.kind())
}

/// The shares that this comes to.
pub fn shares(image: &Image, class: u32, to: SocketAddr) -> Shares {
    let mut shares = Shares::default();
    let route = match verdict(image, class, to) {
        VerdictKind::Pass => return Shares { passed: true, ..shares },
        VerdictKind::Refuse | VerdictKind::Classes(_) => return Shares { refused: 1.0, ..shares },
        VerdictKind::Route(route) => route,
    };
    for part in of_route(image, Side::of_epoch(0), route, &ByWeight) {
        shares.refused += part.refused;
        for (mut endpoint, _, share) in part.endpoints {
            endpoint.fill_in(&Addr::from(to.ip()), to.port().to_be());
            let address = SocketAddr::new(endpoint.addr.into(), u16::from_be(endpoint.port));
            *shares.endpoints.entry(address.to_string()).or_default() += share;
        }
    }
    shares
}

/// Unused kinds of verdict must not stand in a class table.
pub fn is_classes(verdict: redirector_common::abi::Verdict) -> bool {
    matches!(verdict.kind(), VerdictKind::Classes(_))
}
