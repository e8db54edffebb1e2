//! The Plan: what the kernel is to hold, with names instead of numbers.
//!
//! `compile` makes it out of a World; [`crate::image`] gives every part of it
//! its place in the tables. Parts are keyed by what they are, never by the
//! order in which they were met, so that a small change of the documents is a
//! small change of the Plan.

mod delta;
pub mod gateway;
mod renumber;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::intern::Pool;
use crate::model::{Kind, Labels, ObjectRef, Policy, RuleId, SourceId, SourceSelector};
use crate::pairs;
pub use crate::rules::Lacks;
pub use delta::{Changes, Comparison, Delta};
use gateway::GatewayPlan;

/// Everything that the kernel is to hold.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    /// Prefix and port to verdict. Exact addresses are prefixes of full length.
    /// A prefix stands here with its final verdict: rules of wider subnets are
    /// already folded in, in written order.
    #[serde(with = "pairs")]
    pub frontends: BTreeMap<FrontendId, Frontend>,
    /// Weighted destinations of a rule (or of a service without one).
    #[serde(with = "pairs")]
    pub routes: BTreeMap<Arc<RouteId>, Vec<Leg>>,
    /// Endpoints of a destination; empty means that its share is refused.
    #[serde(with = "pairs")]
    pub destinations: BTreeMap<DestinationId, Destination>,
    /// The source classes. That of unknown callers, 0, is among them.
    pub classes: BTreeMap<ClassId, Class>,
    /// The local workloads that connections can come from.
    #[serde(with = "pairs")]
    pub sources: BTreeMap<SourceId, LocalWorkload>,
    /// What the proxy serves. Its routes are among the routes above.
    pub gateways: GatewayPlan,
}

/// Which frontend: a prefix and a port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct FrontendId {
    /// The prefix; full length for one address. Never v4-mapped.
    pub prefix: IpNet,
    /// The port, in host byte order.
    pub port: u16,
}

/// A frontend's verdicts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Frontend {
    /// The service (or ServiceEntry) that owns the address.
    pub service: ObjectRef,
    /// The verdict for every class that `exceptions` does not name.
    pub default: Verdict,
    /// The classes with another verdict.
    pub exceptions: BTreeMap<ClassId, Verdict>,
}

impl Frontend {
    /// Who is sent along which route; `None` is everybody whom the exceptions do not name.
    pub fn routes(&self) -> impl Iterator<Item = (Option<ClassId>, &Arc<RouteId>)> {
        let exceptions = self.exceptions.iter().map(|(class, verdict)| (Some(*class), verdict));
        let verdicts = std::iter::once((None, &self.default)).chain(exceptions);
        verdicts.filter_map(|(class, verdict)| match verdict {
            Verdict::Route(route) => Some((class, route)),
            Verdict::Pass | Verdict::Refuse => None,
        })
    }
}

/// What happens to a connection.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Verdict {
    /// Left as it is.
    Pass,
    /// Sent along a route.
    Route(Arc<RouteId>),
    /// Refused.
    Refuse,
}

/// A source class, in [`Plan::classes`]; 0 is the unknown caller. A class keeps its
/// number as long as it lives; there may be gaps.
pub type ClassId = u32;

/// Which route: the rule, or the service itself where none matched, and the
/// destinations in their written order. Weights are no part of it: changing a
/// weight changes the route, it does not make another.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RouteId {
    /// The rule; `None` for a service's own endpoints.
    pub rule: Option<RuleId>,
    /// Its destinations.
    pub destinations: Vec<DestinationId>,
}

/// A weighted destination of a route, in the order of [`RouteId::destinations`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Leg {
    /// Relative to the other legs. A sole leg has 1.
    pub weight: u64,
}

/// Which destination: what the rule names, completed, and what decides its
/// endpoints.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct DestinationId {
    /// The full host name.
    pub host: Arc<str>,
    /// The subset.
    pub subset: Option<Arc<str>>,
    /// The service port.
    pub port: u16,
    /// IPv6 endpoints, for an IPv6 frontend.
    pub v6: bool,
    /// Tells apart destinations that clients of several namespaces see
    /// differently: the object that owns the host, and the DestinationRules in
    /// force (merged rules in their order).
    pub view: Arc<[ObjectRef]>,
}

impl DestinationId {
    /// Who it is for: the DestinationRule that makes it another one, but for those of the
    /// root namespace, which are for all; or else who the host belongs to.
    pub fn owner(&self, root: &str) -> Option<&ObjectRef> {
        let own = |one: &&ObjectRef| one.kind == Kind::DestinationRule && *one.namespace != *root;
        self.view.iter().skip(1).find(own).or_else(|| self.view.first())
    }
}

/// The views that there are: nearly all destinations of a service have the same.
static VIEWS: Pool<[ObjectRef]> = Pool::new();

/// A [`DestinationId::view`] of these.
pub(crate) fn view<'o>(objects: impl Iterator<Item = &'o ObjectRef>) -> Arc<[ObjectRef]> {
    let objects: Vec<ObjectRef> = objects.cloned().collect();
    VIEWS.get(&objects[..], || objects.as_slice().into())
}

/// A destination's endpoints.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Destination {
    /// How an endpoint is chosen.
    pub algorithm: Algorithm,
    /// The endpoints, sorted by address; at most 65,536. An
    /// endpoint of weight zero stands by for those that are ejected.
    pub endpoints: Vec<Endpoint>,
    /// Those at gateways, where only they can do what the policy asks for; there are none
    /// in `endpoints` then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub at_gateways: Vec<Endpoint>,
    /// The traffic policy in force, for what is done in user space.
    pub policy: Policy,
    /// The part of its connections that is refused, because it is meant for
    /// endpoints that nothing here can reach.
    #[serde(default)]
    pub lost: Lost,
    /// Names of endpoints that are not resolved to any address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unresolved: Vec<Arc<str>>,
    /// Why there are none, when there are none: for `explain`.
    pub empty_because: Option<String>,
    /// What is missing, when there are none. A Plan that was written by an older
    /// version does not say it.
    #[serde(default)]
    pub lacks: Option<Lacks>,
}

impl Destination {
    /// The endpoints, for connections at a gateway or elsewhere.
    pub fn endpoints_at(&self, gateway: bool) -> &[Endpoint] {
        if gateway && !self.at_gateways.is_empty() { &self.at_gateways } else { &self.endpoints }
    }
}

/// A part of a whole: `weight` out of `of`; of nothing, nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Lost {
    /// The part.
    pub weight: u64,
    /// The whole.
    pub of: u64,
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Algorithm {
    /// By weight, independently for each connection.
    #[default]
    Random,
    /// In turn.
    RoundRobin,
    /// The one of two random choices with fewer active connections.
    LeastRequest,
    /// The same source keeps its endpoint.
    SourceHash,
    /// None is chosen: the connection goes on to the address that it dialled.
    /// The sole endpoint is the unspecified address, which stands for it, with
    /// the port, or 0 for the port dialled.
    Original,
}

/// An endpoint.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    /// Where the connection goes. The unspecified address stands for the one
    /// that was dialled, and port 0 for the port; see [`Algorithm::Original`].
    pub address: SocketAddr,
    /// Relative to the other endpoints; zero stands by.
    pub weight: u64,
}

/// A source class: workloads for which every condition in force gives the same
/// answers. One of them stands for all.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Class {
    /// `None` only for class 0, the unknown caller.
    pub example: Option<SourceId>,
}

/// A local workload.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LocalWorkload {
    /// Its labels.
    pub labels: Labels,
    /// Its own addresses, as far as known.
    pub addresses: Vec<IpAddr>,
    /// How its processes are found.
    pub selector: SourceSelector,
    /// Its class.
    pub class: ClassId,
}
