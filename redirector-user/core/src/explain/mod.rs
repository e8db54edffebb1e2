//! Why a connection goes where it goes, rule by rule.
//!
//! The answer is found by the walk that compiles the tables
//! ([`rules`](crate::rules)), for one client and one address, with a witness that
//! keeps the reason of every rule that does not match.

mod dialled;
mod gateway;
mod mesh;
mod reasons;
mod shares;
pub mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub use dialled::Dialled;
use serde::{Deserialize, Serialize};

use crate::client::{Asker, Client};
use crate::compile::backed::has;
use crate::model::{Kind, Labels, ObjectRef};
use crate::registry::Registry;
use crate::rules::{Rule, RuleSet};
use crate::world::World;
use reasons::Reasons;

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Query {
    /// Who connects.
    pub source: QuerySource,
    /// Where to.
    pub destination: SocketAddr,
    /// The Gateway that the connection arrives at, by namespace and name;
    /// without it the connection is made by a local workload.
    pub gateway: Option<(String, String)>,
    /// The server name of its ClientHello, for a gateway that routes by it.
    pub sni: Option<String>,
}

/// Who connects.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum QuerySource {
    /// A caller in no known workload.
    #[default]
    Unknown,
    /// A workload with this namespace, these labels, these addresses.
    Described {
        /// The namespace.
        namespace: String,
        /// The labels.
        labels: Labels,
        /// The addresses, as far as known.
        addresses: Vec<IpAddr>,
    },
    /// A workload of the World.
    Workload {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExplainError {
    /// There is no Pod or WorkloadEntry of this namespace and name.
    NoWorkload(String, String),
    /// There is no Gateway of this namespace and name.
    NoGateway(String, String),
    /// No service of this name has an address; one in another namespace may be meant.
    NoAddress(String, Option<String>),
    /// The addresses of the service are those that its name resolves to, and it is not
    /// resolved.
    NotResolved(String),
    /// What is to be dialled has no address in the World.
    WithoutAddress(ObjectRef),
}

impl fmt::Display for ExplainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoWorkload(namespace, name) => write!(
                f,
                "there is no Pod or WorkloadEntry {namespace}/{name} that could connect (a Pod that \
                 has ended is none); a source that is in no document is described by its namespace \
                 and labels"
            ),
            Self::NoGateway(namespace, name) => write!(f, "there is no Gateway {namespace}/{name}"),
            Self::NotResolved(host) => write!(
                f,
                "the addresses of {host} are decided when its name is resolved, and it is not: \
                 until then nothing that is dialled is taken for it (with --config, --resolve \
                 asks the resolver)"
            ),
            Self::WithoutAddress(service) => write!(
                f,
                "{service} has no address in the documents: nothing that is dialled is known to be \
                 it; write its {}",
                match service.kind {
                    Kind::ServiceEntry => "addresses",
                    _ => "clusterIP, or the EndpointSlices where that is None",
                }
            ),
            Self::NoAddress(host, near) => {
                let what =
                    format!("no service is called {host} and has an address in the documents");
                match near {
                    Some(near) => write!(f, "{what}; did you mean {near}?"),
                    None => write!(f, "{what}; an IP:PORT can be dialled without a name"),
                }
            }
        }
    }
}

impl std::error::Error for ExplainError {}

/// The answer; its fields are those of `explain --output json`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// What happens to the connection.
    pub verdict: VerdictWord,
    /// Who does it.
    pub handled_by: HandledBy,
    /// Who connects.
    pub source: SourceView,
    /// The address dialled.
    pub destination: String,
    /// The frontend that owns it, for this client.
    pub frontend: Option<FrontendView>,
    /// The rule that matches.
    pub rule: Option<RuleView>,
    /// Every rule that was looked at, in order.
    pub considered: Vec<Considered>,
    /// The destinations that can be drawn.
    pub destinations: Vec<DestinationView>,
    /// The share of all connections that each endpoint gets, six decimals.
    pub endpoints: BTreeMap<String, f64>,
    /// The share of all connections that is refused, also where only until names are resolved.
    pub refused_share: f64,
    /// The share of all connections that is decided when names are resolved. Until then a
    /// rule's connections are refused, and all others left as they are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub undecided_share: f64,
    /// These names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undecided_names: Vec<String>,
    /// What the next connection gets, as it stands now: from the kernel's tables, for
    /// what is routed. From documents it cannot be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<NowView>,
    /// What else there is to say: who else claims the address, why nothing is
    /// there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Explanation {
    /// Makes it say what happens for as long as its names are not resolved.
    pub fn until_names_are_resolved(&mut self) {
        self.undecided_share = 0.0;
        self.verdict = match self.verdict {
            VerdictWord::Undecided if self.refused_share > 0.0 => VerdictWord::Refuse,
            VerdictWord::Undecided => VerdictWord::Passthrough,
            verdict => verdict,
        };
    }

    /// The share of all connections that is refused whatever names resolve to.
    pub fn refused_for_good(&self) -> f64 {
        shares::rounded((self.refused_share - self.undecided_share).max(0.0))
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks for it")]
fn is_zero(share: &f64) -> bool {
    *share == 0.0
}

/// How it stands now: with endpoints that are ejected or stand by, and limits.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NowView {
    /// The share of all connections that each endpoint gets, six decimals.
    pub endpoints: BTreeMap<String, f64>,
    /// The share of all connections that is refused.
    pub refused_share: f64,
    /// Why that is otherwise than by the weights; nothing when it is not.
    pub why: Vec<String>,
}

/// What happens to a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerdictWord {
    /// It is sent to an endpoint.
    Route,
    /// It is left as it is.
    Passthrough,
    /// It is refused.
    Refuse,
    /// All of it is decided when names are resolved. Until then a rule's connections are
    /// refused, and all others left as they are.
    Undecided,
}

/// Who handles a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HandledBy {
    /// The programs at `connect`.
    Kernel,
    /// The gateway proxy.
    Proxy,
}

/// Who connects.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SourceView {
    /// Its namespace; `null` for an unknown caller.
    pub namespace: Option<String>,
    /// Its labels.
    pub labels: Labels,
    /// `namespace/name`, when it is a workload of the documents.
    pub workload: Option<String>,
}

/// A frontend.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FrontendView {
    /// Its prefix.
    pub prefix: String,
    /// Its port.
    pub port: u16,
    /// The service that owns it, `namespace/name`; `None` where the tables are
    /// known by number only.
    pub service: Option<String>,
    /// The host that leads there, or did until lately, where that makes it the service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A rule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RuleView {
    /// `VirtualService/namespace/name`.
    pub object: String,
    /// Which of its lists: `tcp`, `tls` or `http`.
    pub list: String,
    /// Its place in the list.
    pub index: u32,
    /// The file it is written in.
    pub file: Option<Arc<str>>,
    /// The line it begins on.
    pub line: u32,
}

/// A rule that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Considered {
    /// `VirtualService/namespace/name`.
    pub object: String,
    /// Which of its lists.
    pub list: String,
    /// Its place in the list.
    pub index: u32,
    /// Whether it matches.
    pub matched: bool,
    /// Why, or why not.
    pub because: String,
}

/// A destination.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DestinationView {
    /// Its full host name.
    pub host: String,
    /// Its subset.
    pub subset: Option<String>,
    /// Its service port.
    pub port: u16,
    /// Its share of all connections.
    pub share: f64,
    /// Why it has no endpoints, when it has none: its share is refused, or decided
    /// when names are resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// The names that its endpoints are resolved from, when they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<NameView>,
}

/// A name that decides endpoints.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NameView {
    /// The name.
    pub name: String,
    /// What it resolves to; `None` when it was not resolved yet.
    pub addresses: Option<Vec<IpAddr>>,
}

impl fmt::Display for RuleView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}[{}]", self.object, self.list, self.index)
    }
}

impl fmt::Display for DestinationView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)?;
        self.subset.iter().try_for_each(|subset| write!(f, "/{subset}"))
    }
}

impl DestinationView {
    /// Whether its share is decided when names are resolved.
    pub fn is_undecided(&self) -> bool {
        let unresolved = |name: &NameView| name.addresses.as_ref().is_none_or(Vec::is_empty);
        self.because.is_some() && self.names.iter().any(unresolved)
    }
}

/// Explains what a World does with a connection.
pub fn explain(world: &World, query: &Query) -> Result<Explanation, ExplainError> {
    explain_with(world, &Registry::new(world), query)
}

/// As [`explain`], with the World's registry at hand.
pub fn explain_with(
    world: &World,
    registry: &Registry,
    query: &Query,
) -> Result<Explanation, ExplainError> {
    let source = Caller::of(registry, &query.source)?;
    let mut explanation = match &query.gateway {
        None => mesh::explain(world, registry, &source, query),
        Some((namespace, name)) => {
            gateway::explain(world, registry, &source, query, namespace, name)?
        }
    };
    for destination in &mut explanation.destinations {
        destination.names = names(world, registry, &source, destination);
    }
    Ok(explanation)
}

impl Explanation {
    /// Nobody decides about the connection: it is left as it is, whatever the rules say.
    pub fn leave_alone(&mut self) {
        self.verdict = VerdictWord::Passthrough;
        (self.frontend, self.rule, self.now) = (None, None, None);
        self.refused_share = 0.0;
        self.considered.clear();
        self.destinations.clear();
        self.endpoints.clear();
        self.notes.clear();
    }
}

/// What is said where nothing is known by name.
pub fn without_names(query: &Query) -> Explanation {
    unanswered(&Caller::unknown(), query, HandledBy::Kernel)
}

/// The names that the endpoints of a destination are resolved from.
fn names(
    world: &World,
    registry: &Registry,
    source: &Caller,
    destination: &DestinationView,
) -> Vec<NameView> {
    let who = Asker::new(source.client());
    let Ok(service) = registry.destination(&who, &destination.host) else {
        return Vec::new();
    };
    let subset = destination.subset.as_deref();
    let rule = registry.rules.find(&who, service);
    let wanted = subset.and_then(|subset| rule?.subset(subset)).map(|subset| &subset.labels);
    let wanted = wanted.filter(|labels| !labels.is_empty());
    let has_part = |name: &Arc<str>| {
        let Some(port) = service.port(destination.port).filter(|_| wanted.is_some()) else {
            return true;
        };
        let resolved = world.resolved(name).unwrap_or_default();
        let is_one = |ip: &IpAddr| resolved.iter().any(|one| one.to_canonical() == *ip);
        port.endpoints.iter().any(|one| has(one.labels.as_ref(), wanted) && is_one(&one.ip))
            || port.unresolved.iter().any(|one| one.name == *name && has(Some(&one.labels), wanted))
    };
    let pooled = registry.pooled().into_iter();
    let pooled = pooled
        .filter(|with| !with.separate && with.older == service.object && with.host == service.host);
    let entries = std::iter::once(&service.object).chain(pooled.map(|with| &with.younger));
    let names: BTreeSet<&Arc<str>> = entries.flat_map(|entry| registry.names_of(entry)).collect();
    // Not those that other hosts of the same entry are resolved by, nor what only its addresses
    // come from.
    let is_other = |name: &Arc<str>| {
        let mut named = registry.named(name).iter();
        *name != service.host && named.any(|other| other.object == service.object)
            || !registry.is_endpoint(world, name)
    };
    let of = |name: &Arc<str>| NameView {
        name: name.to_string(),
        addresses: world.resolved(name).map(<[IpAddr]>::to_vec),
    };
    names.into_iter().filter(|name| has_part(name) && !is_other(name)).map(of).collect()
}

/// Who connects, looked up.
struct Caller {
    view: SourceView,
    addresses: Vec<IpAddr>,
    bypassed: bool,
}

impl Caller {
    fn unknown() -> Self {
        Self {
            view: SourceView { namespace: None, labels: Labels::new(), workload: None },
            addresses: Vec::new(),
            bypassed: false,
        }
    }

    fn of(registry: &Registry, source: &QuerySource) -> Result<Self, ExplainError> {
        Ok(match source {
            QuerySource::Unknown => Self::unknown(),
            QuerySource::Described { namespace, labels, addresses } => Self {
                view: SourceView {
                    namespace: Some(namespace.clone()),
                    labels: labels.clone(),
                    workload: None,
                },
                addresses: addresses.clone(),
                bypassed: false,
            },
            QuerySource::Workload { namespace, name } => {
                let workload = registry
                    .workloads
                    .named(namespace, name)
                    .ok_or_else(|| ExplainError::NoWorkload(namespace.clone(), name.clone()))?;
                Self {
                    view: SourceView {
                        namespace: Some(namespace.clone()),
                        labels: workload.labels.clone(),
                        workload: Some(format!("{namespace}/{name}")),
                    },
                    addresses: workload.addresses.clone(),
                    bypassed: registry.settings.bypass.has_workload(namespace, name),
                }
            }
        })
    }

    fn client(&self) -> Client<'_> {
        match &self.view.namespace {
            None => Client::default(),
            Some(namespace) => Client {
                namespace: Some(namespace),
                labels: Some(&self.view.labels),
                addresses: &self.addresses,
                bypassed: self.bypassed,
            },
        }
    }
}

/// An answer that is not found yet.
fn unanswered(source: &Caller, query: &Query, handled_by: HandledBy) -> Explanation {
    Explanation {
        verdict: VerdictWord::Passthrough,
        handled_by,
        source: source.view.clone(),
        destination: query.destination.to_string(),
        frontend: None,
        rule: None,
        considered: Vec::new(),
        destinations: Vec::new(),
        endpoints: BTreeMap::new(),
        refused_share: 0.0,
        undecided_share: 0.0,
        undecided_names: Vec::new(),
        now: None,
        notes: Vec::new(),
    }
}

fn rule_view(set: &RuleSet, rule: &Rule) -> RuleView {
    let origin = &set.object.meta.origin;
    RuleView {
        object: set.reference.to_string(),
        list: rule.id.list.to_string(),
        index: rule.id.index,
        file: origin.file.clone(),
        line: if rule.line == 0 { origin.line } else { rule.line },
    }
}
