//! The answer of the tables themselves: what the next connection gets, whatever
//! the documents say.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use redirector_common::abi::{
    Destination, FrontendKey, Live, PrefixKey, Side, Verdict, VerdictKind, policy,
};
use redirector_common::addr::{Addr, V4_MAPPED_BITS};
use redirector_common::decide::shares::{At, ByWeight, Known, Part, of_route};
use redirector_common::decide::{ChosenEndpoint, verdict};

use super::shares::rounded;
use super::{
    Caller, DestinationView, ExplainError, Explanation, FrontendView, NowView, QuerySource,
    RuleView, VerdictWord,
};
use crate::compile::classify;
use crate::image::Prefixes;
use crate::layout::{Layout, Names};
use crate::model::{RuleId, RuleList};
use crate::plan::FrontendId;
use crate::registry::Registry;
use crate::world::World;

/// What the tables have for a connection, by number.
#[derive(Clone, Debug)]
pub struct TableVerdict {
    /// No shorter than this is the prefix of the frontend; see [`len_of`].
    len: u8,
    verdict: Verdict,
    /// The destinations of the route, when there is one, with the shares of their
    /// weights.
    parts: Vec<Part>,
    /// The same, as it stands now.
    now: Vec<Standing>,
}

impl TableVerdict {
    /// How many slots the endpoints of a destination share, where the source decides which
    /// is taken; the fewest of all such destinations.
    fn slots(&self) -> Option<u32> {
        let hashed =
            self.parts.iter().filter_map(|part| part.destination).filter(|one| {
                one.count > 1 && one.policy & policy::ALGORITHM == policy::SOURCE_HASH
            });
        hashed.map(|destination| destination.count).min()
    }
}

/// How it stands with a destination of a route.
#[derive(Clone, Debug)]
struct Standing {
    part: Part,
    /// Which of its endpoints are left out, and for how many nanoseconds more.
    ejected: BTreeMap<(Addr, u16), u64>,
    /// How many connections it has, when it may have no more.
    full: Option<u64>,
    /// One of two endpoints is taken, and not all have as many connections.
    uneven: bool,
    /// The source keeps to one of several endpoints.
    kept: bool,
}

/// Looks up what a caller of this class gets who dials this address: by the decision's own
/// code, and with the shares that are beside it. `None` when no frontend has it.
pub fn look_up<T: Prefixes, F: Fn(u32) -> Live, G: Fn(u32) -> u64>(
    tables: &T,
    side: Side,
    dialled: SocketAddr,
    class: u32,
    at: &At<F, G>,
) -> Option<TableVerdict> {
    let (addr, port) = (Addr::from(dialled.ip()), dialled.port().to_be());
    let verdict = verdict(tables, side, &addr, port, || class)?;
    let mut found = TableVerdict {
        len: len_of(tables, side, addr, port),
        verdict,
        parts: Vec::new(),
        now: Vec::new(),
    };
    if let VerdictKind::Route(route) = verdict.kind() {
        found.parts = of_route(tables, side, route, &ByWeight);
        let now = of_route(tables, side, route, at);
        found.now = now
            .into_iter()
            .zip(&found.parts)
            .map(|(part, by_weight)| standing(part, by_weight, at))
            .collect();
    }
    Some(found)
}

fn standing<F: Fn(u32) -> Live, G: Fn(u32) -> u64>(
    part: Part,
    by_weight: &Part,
    at: &At<F, G>,
) -> Standing {
    let mut standing =
        Standing { part, ejected: BTreeMap::new(), full: None, uneven: false, kept: false };
    let Some(destination) = standing.part.destination else { return standing };
    let Destination { policy, live, .. } = destination;
    if policy & policy::EJECTING != 0 {
        let out = by_weight.endpoints.iter().filter_map(|(to, backend, _)| {
            Some(((to.addr, to.port), at.ejected_for(backend.live)?))
        });
        standing.ejected = out.collect();
    }
    if policy & policy::LIMITED != 0 && at.is_full(&destination) {
        standing.full = Some(at.active(live));
    }
    standing.kept = policy & policy::ALGORITHM == policy::SOURCE_HASH
        && at.affinity.is_some()
        && by_weight.endpoints.len() > 1;
    if policy & policy::ALGORITHM == policy::LEAST_REQUEST {
        let mut active = by_weight.endpoints.iter().map(|(_, one, _)| at.active(one.live));
        let first = active.next();
        standing.uneven = active.any(|other| Some(other) != first);
    }
    standing
}

/// How long the prefix is, in an [`Addr`], that an address is found by: no shorter than
/// this, and this where it says something else than what encloses it.
fn len_of(tables: &impl Prefixes, side: Side, addr: Addr, port: u16) -> u8 {
    let side = side.index() as u16;
    if tables.frontend(&FrontendKey { addr, port, side }).is_some() {
        return 128;
    }
    let key = PrefixKey { side, port, addr };
    let found = tables.prefix_within(&key, 128);
    (0..128).rev().find(|len| tables.prefix_within(&key, *len) != found).map_or(0, |len| len + 1)
}

/// Replaces everything in an explanation that the tables decide by what the
/// tables say. Where that is not what the documents
/// say, a note tells so; who asks without documents has nothing to compare.
pub fn answer(
    explanation: &mut Explanation,
    found: Option<&TableVerdict>,
    names: &Names<'_>,
    documents: Option<&World>,
    dialled: SocketAddr,
) {
    let said = explanation.clone();
    explanation.verdict = VerdictWord::Passthrough;
    (explanation.frontend, explanation.rule, explanation.now) = (None, None, None);
    explanation.destinations.clear();
    explanation.endpoints.clear();
    explanation.refused_share = 0.0;
    if let Some(found) = found {
        explanation.frontend = frontend(found, names, dialled);
        if let (Some(own), Some(said)) = (&mut explanation.frontend, &said.frontend)
            && own.prefix == said.prefix
        {
            own.name.clone_from(&said.name);
        }
        match found.verdict.kind() {
            VerdictKind::Pass => {}
            VerdictKind::Refuse | VerdictKind::Classes(_) => refuse(explanation),
            VerdictKind::Route(route) => {
                let rule = names.routes.get(&route).and_then(|route| route.rule.as_ref());
                explanation.rule = rule.map(|rule| rule_view(rule, documents));
                take(explanation, found, names, dialled);
            }
        }
    }
    // Why a share is refused is known by the documents alone, and so are names.
    for destination in &mut explanation.destinations {
        let same = |other: &&DestinationView| {
            (&other.host, &other.subset, other.port)
                == (&destination.host, &destination.subset, destination.port)
        };
        if let Some(said) = said.destinations.iter().find(same) {
            destination.because.clone_from(&said.because);
            destination.names.clone_from(&said.names);
        }
    }
    let differs = said.verdict != explanation.verdict
        || said.rule.as_ref().map(|rule| (&rule.object, rule.index))
            != explanation.rule.as_ref().map(|rule| (&rule.object, rule.index))
        || !same_shares(&said, explanation, found.and_then(TableVerdict::slots));
    if documents.is_some() && differs {
        explanation.notes.push(
            "the tables in the kernel say otherwise than the documents that they were made of: \
             somebody else has changed them (the daemon mends that), or a change is being made"
                .to_owned(),
        );
    }
}

/// The class in the tables that a source is in, or would be if it had processes here.
/// `None` when no workload is like it.
pub fn class_of(
    world: &World,
    registry: &Registry,
    layout: &Layout,
    source: &QuerySource,
) -> Result<Option<u32>, ExplainError> {
    let source = Caller::of(registry, source)?;
    let (classes, classifier) = classify(world, registry);
    let class = classifier.class(&source.client());
    Ok(class.and_then(|class| layout.class_of(classes.get(&class)?)))
}

/// The frontend as people know it. Among nested prefixes that say the same, the names
/// tell which it is.
fn frontend(found: &TableVerdict, names: &Names<'_>, dialled: SocketAddr) -> Option<FrontendView> {
    let (ip, port) = (dialled.ip().to_canonical(), dialled.port());
    let whole = IpNet::from(ip);
    let shortest = prefix_of(Addr::from(ip), found.len)?;
    let known = (shortest.prefix_len()..=whole.prefix_len()).rev().find_map(|len| {
        let prefix = IpNet::new(ip, len).ok()?.trunc();
        Some((prefix, names.frontends.get(&FrontendId { prefix, port })?))
    });
    let service = known.map(|(_, owner)| format!("{}/{}", owner.namespace, owner.name));
    let prefix = known.map_or_else(|| shortest.trunc(), |(prefix, _)| prefix);
    Some(FrontendView { prefix: prefix.to_string(), port, service, name: None })
}

/// A prefix of the tables as people write it.
pub fn prefix_of(addr: Addr, len: u8) -> Option<IpNet> {
    let len = if addr.is_v4() { len.checked_sub(V4_MAPPED_BITS as u8)? } else { len };
    IpNet::new(addr.into(), len).ok()
}

fn refuse(explanation: &mut Explanation) {
    explanation.verdict = VerdictWord::Refuse;
    explanation.endpoints.clear();
    explanation.refused_share = 1.0;
}

fn take(
    explanation: &mut Explanation,
    found: &TableVerdict,
    names: &Names<'_>,
    dialled: SocketAddr,
) {
    let mut why = Vec::new();
    for (part, standing) in found.parts.iter().zip(&found.now) {
        let leg = part.choice.leg;
        let name = names.legs.get(&leg);
        let view = DestinationView {
            host: name.map_or_else(|| format!("leg {leg}"), |(_, _, d)| d.host.to_string()),
            subset: name.and_then(|(_, _, d)| d.subset.as_ref().map(ToString::to_string)),
            port: name.map_or(0, |(_, _, d)| d.port),
            share: rounded(part.share),
            because: None,
            names: Vec::new(),
        };
        if part.share > 0.0 {
            reasons(&view, part, standing, dialled, &mut why);
        }
        explanation.destinations.push(view);
    }
    let (endpoints, refused_share) = summed(&found.parts, dialled);
    (explanation.endpoints, explanation.refused_share) = (endpoints, refused_share);
    if explanation.endpoints.is_empty() {
        refuse(explanation);
        return;
    }
    explanation.verdict = VerdictWord::Route;
    let parts = found.now.iter().map(|standing| &standing.part);
    let (endpoints, refused_share) = summed(parts, dialled);
    explanation.now = Some(NowView { endpoints, refused_share, why });
}

/// What a destination gets otherwise than by its weights, in words.
fn reasons(
    view: &DestinationView,
    by_weight: &Part,
    standing: &Standing,
    dialled: SocketAddr,
    why: &mut Vec<String>,
) {
    let subset = view.subset.as_ref().map(|subset| format!("/{subset}")).unwrap_or_default();
    let name = format!("{}:{}{subset}", view.host, view.port);
    for ((addr, port), left) in &standing.ejected {
        let to = address(&ChosenEndpoint { backend: 0, addr: *addr, port: *port }, dialled);
        let seconds = left.div_ceil(1_000_000_000);
        why.push(format!(
            "{name}: {to} is ejected for {seconds} s more, after connects that failed"
        ));
    }
    if !standing.ejected.is_empty() {
        let weighted = |to: &ChosenEndpoint| {
            by_weight
                .endpoints
                .iter()
                .any(|(other, _, _)| (other.addr, other.port) == (to.addr, to.port))
        };
        for (to, _, _) in standing.part.endpoints.iter().filter(|(to, _, _)| !weighted(to)) {
            let to = address(to, dialled);
            why.push(format!("{name}: {to} stood by, and is used while all before it are ejected"));
        }
    }
    if let (Some(has), Some(destination)) = (standing.full, &standing.part.destination) {
        why.push(format!(
            "{name} has {has} connections from this node, and may have {} (maxConnections)",
            destination.max_connections
        ));
    }
    if standing.kept
        && let [(to, _, _)] = standing.part.endpoints.as_slice()
    {
        let to = address(to, dialled);
        why.push(format!("{name}: the source keeps to {to} (consistentHash)"));
    }
    if standing.uneven {
        why.push(format!("{name}: of two endpoints the one with fewer connections is taken"));
    }
}

/// The shares of endpoints, and what is refused: six decimals.
fn summed<'p>(
    parts: impl IntoIterator<Item = &'p Part>,
    dialled: SocketAddr,
) -> (BTreeMap<String, f64>, f64) {
    let (mut endpoints, mut refused) = (BTreeMap::<String, f64>::new(), 0.0);
    for part in parts {
        for (to, _, share) in &part.endpoints {
            *endpoints.entry(address(to, dialled).to_string()).or_default() += share;
        }
        refused += part.refused + part.limited;
    }
    for share in endpoints.values_mut() {
        *share = rounded(*share);
    }
    (endpoints, rounded(refused))
}

fn address(endpoint: &ChosenEndpoint, dialled: SocketAddr) -> SocketAddr {
    let mut endpoint = *endpoint;
    endpoint.fill_in(&Addr::from(dialled.ip()), dialled.port().to_be());
    SocketAddr::new(IpAddr::from(endpoint.addr), u16::from_be(endpoint.port))
}

fn rule_view(rule: &RuleId, documents: Option<&World>) -> RuleView {
    let object = documents.and_then(|world| world.get(&rule.object));
    let at = rule.index as usize;
    let spec = object.and_then(|object| object.spec.virtual_service());
    let line = spec.and_then(|spec| match rule.list {
        RuleList::Tcp => spec.tcp.get(at).map(|rule| rule.line),
        RuleList::Tls => spec.tls.get(at).map(|rule| rule.line),
        RuleList::Http => spec.http.get(at).map(|rule| rule.line),
    });
    let origin = object.map(|object| object.meta.origin.clone()).unwrap_or_default();
    RuleView {
        object: rule.object.to_string(),
        list: rule.list.to_string(),
        index: rule.index,
        file: origin.file,
        line: line.filter(|line| *line != 0).unwrap_or(origin.line),
    }
}

/// Whether two explanations give the same shares. Where the source decides, they are those
/// of slots, which come as near to the weights as chance has it.
fn same_shares(one: &Explanation, other: &Explanation, slots: Option<u32>) -> bool {
    let near = |one: f64, other: f64| {
        let chance = slots.map_or(0.0, |slots| 5.0 * (one * (1.0 - one) / f64::from(slots)).sqrt());
        (one - other).abs() < 5e-6 + chance
    };
    one.endpoints.len() == other.endpoints.len()
        && near(one.refused_share, other.refused_share)
        && one.endpoints.iter().all(|(endpoint, share)| {
            other.endpoints.get(endpoint).is_some_and(|other| near(*share, *other))
        })
}

#[cfg(test)]
mod tests;
