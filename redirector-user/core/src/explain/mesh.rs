//! Connections of local workloads.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::{
    Caller, Considered, Explanation, FrontendView, HandledBy, Query, Reasons, VerdictWord,
    rule_view, shares, unanswered,
};
use crate::client::Asker;
use crate::compile::destinations::Destinations;
use crate::model::ObjectRef;
use crate::names::MESH;
use crate::registry::Registry;
use crate::rules::{Arrival, Claim, ClaimKind, Claims, Dial, RuleBook, ServerName, Walk, Witness};
use crate::world::World;

pub(super) fn explain(
    world: &World,
    registry: &Registry,
    source: &Caller,
    query: &Query,
) -> Explanation {
    let book = RuleBook::new(world, registry);
    let mut destinations = Destinations::new(registry);
    let who = Asker::new(source.client());
    let mut answer = unanswered(source, query, HandledBy::Kernel);
    let dialled = query.destination.ip().to_canonical();
    let port = query.destination.port();
    let dial =
        Dial { address: IpNet::from(dialled), port, gateway: MESH, sni: ServerName::Unknown };

    let all = Claims::new(registry);
    let mut walk = Walk::new(registry, &book);
    let claimed = all.to(port, &dial.address);
    for claim in claimed.iter().flat_map(|(_, claims)| claims) {
        walk.rules(&claim.service.host);
    }
    let mut reasons = Reasons::new(&who, dialled);
    let narrowest_first = claimed.iter().map(|(prefix, claims)| (prefix, &claims[..]));
    let arrival = walk.arrive(narrowest_first, &dial, &who, &mut reasons);
    let unresolved = by_name(world, registry, &who, query.destination, &mut answer);
    let (prefix, claim) = match &arrival {
        Arrival::Unclaimed => {
            reasons.tell(&mut answer);
            answer.notes.push(format!("no service that the source sees has {}", query.destination));
            if !registry.is_never_taken(dialled) {
                decided_by(unresolved, &mut answer);
            }
            return answer;
        }
        Arrival::Rule(prefix, claim, ..)
        | Arrival::Service(prefix, claim)
        | Arrival::Elsewhere(prefix, claim) => (prefix, claim),
    };
    the_rest(&mut reasons, &mut walk, claim, &who);
    behind(&claimed, (prefix, claim), &mut walk, &who, &mut answer);
    reasons.tell(&mut answer);
    answer.frontend = Some(FrontendView {
        prefix: prefix.to_string(),
        port,
        service: Some(format!("{}/{}", claim.service.object.namespace, claim.service.object.name)),
        name: claim.kind.is_by_host().then(|| claim.service.host.to_string()),
    });
    let resolves = match claim.kind {
        ClaimKind::Learned => Some("resolves to it"),
        ClaimKind::Former => Some("resolved to it until lately"),
        _ => None,
    };
    if let Some(resolves) = resolves {
        answer.notes.push(format!("{dialled} is {}'s, which {resolves}", claim.service.host));
    }
    if let Arrival::Rule(_, _, set, rule) = &arrival {
        answer.rule = Some(rule_view(set, rule));
    }
    if claim.kind == ClaimKind::Anywhere && registry.settings.node_addresses.is_empty() {
        answer.notes.push(format!(
            "{} has the port of every address but those of the node, which documents do not say",
            claim.service.object
        ));
    }
    let v6 = matches!(dialled, IpAddr::V6(_));
    let Some((route, verdict)) = destinations.arrival(&who, &arrival, port, v6) else {
        if answer.rule.take().is_some() && claim.kind == ClaimKind::Anywhere {
            answer.notes.push(format!(
                "the rule has no endpoint of the address family dialled, which is not {}'s but \
                 for its port: the connection is left alone",
                claim.service.object
            ));
        }
        if claim.decided_by_names() {
            answer.verdict = VerdictWord::Undecided;
            answer.undecided_share = 1.0;
            answer.undecided_names =
                claim.port.unresolved.iter().map(|one| one.name.to_string()).collect();
            answer.notes.push(format!(
                "decided when its names are resolved: {}; until then it is left as it is",
                answer.undecided_names.join(", ")
            ));
        }
        return answer;
    };
    shares::fill(&mut answer, &destinations, &route, &verdict, query.destination);
    if let (Some(rule), true) = (&answer.rule, answer.destinations.len() > 1) {
        answer.notes.push(format!(
            "weights are for new connections: pools of open ones stay where they are, until \
             `redirector connections close --route {}` has them dial again",
            rule.object
        ));
    }
    if answer.verdict == VerdictWord::Passthrough {
        answer.notes.push("the rule leads to the address dialled itself".to_owned());
    }
    answer
}

/// The hosts that may lead to an address once they are resolved. Of those that do and have not
/// got it by that it is noted.
fn by_name<'q>(
    world: &World,
    registry: &'q Registry,
    who: &Asker<'_, 'q>,
    to: SocketAddr,
    answer: &mut Explanation,
) -> Vec<String> {
    let dialled = to.ip().to_canonical();
    let mut unresolved = Vec::new();
    for service in registry.by_precedence() {
        let may = service.by_name && service.rejected.is_none() && service.export.visible(who);
        if !may || service.port(to.port()).is_none() {
            continue;
        }
        let judged = registry.judged(world, &service.host);
        if judged.is_empty() {
            unresolved.push(service.host.to_string());
        }
        let why = judged.iter().find(|(ip, _)| *ip == dialled).and_then(|(_, why)| why.as_ref());
        answer.notes.extend(why.map(|why| format!("{} resolves to it, {why}", service.host)));
    }
    unresolved
}

/// What these hosts resolve to decides whether an address that nobody else has is theirs.
fn decided_by(unresolved: Vec<String>, answer: &mut Explanation) {
    if unresolved.is_empty() {
        return;
    }
    answer.verdict = VerdictWord::Undecided;
    answer.undecided_share = 1.0;
    answer.undecided_names = unresolved;
    answer.notes.push(format!(
        "decided when its names are resolved: {}; until then nothing is taken for them, and \
         it is left as it is",
        answer.undecided_names.join(", ")
    ));
}

/// Hosts that have the address, too, behind the one that is dialled, and have rules of their own.
fn behind<'q>(
    claimed: &[(IpNet, Vec<Claim<'q>>)],
    (prefix, claim): (&IpNet, &Claim<'q>),
    walk: &mut Walk<'q>,
    who: &Asker<'_, 'q>,
    answer: &mut Explanation,
) {
    let all = claimed.iter().flat_map(|(at, claims)| claims.iter().map(move |one| (at, one)));
    let is_same = |(at, one): &(&IpNet, &Claim<'q>)| {
        *at == prefix && one.service.host == claim.service.host && one.kind == claim.kind
    };
    let own: Vec<&ObjectRef> =
        walk.rules(&claim.service.host).sets.iter().map(|set| &set.reference).collect();
    for (at, other) in all.skip_while(|one| !is_same(one)) {
        let told = at == prefix && claim.is_told_by_name(other);
        if !other.kind.is_said() || told || !other.service.export.visible(who) {
            continue;
        }
        let sets = walk.rules(&other.service.host).sets.iter();
        let sets = sets.filter(|set| set.export.visible(who) && !own.contains(&&set.reference));
        answer.notes.extend(sets.map(|set| {
            format!(
                "{} is not compared: it is for {}, which has {at}, and the address is {}",
                set.reference,
                other.service.host,
                claim.has(prefix),
            )
        }));
    }
}

/// Rules for the same host that cannot apply whatever they match: hidden ones,
/// and those that only mean something at L7.
fn the_rest<'q>(
    reasons: &mut Reasons<'_, 'q>,
    walk: &mut Walk<'q>,
    claim: &Claim<'q>,
    who: &Asker<'_, 'q>,
) {
    for &set in &walk.rules(&claim.service.host).sets {
        if !set.export.visible(who) {
            for rule in set.tcp.iter().chain(&set.tls) {
                let because = || Err(format!("exportTo: it is {}", set.export.describe()));
                reasons.compared(set, rule, because);
            }
            continue;
        }
        for index in set.http_at_l7_only() {
            reasons.considered.push(Considered {
                object: set.reference.to_string(),
                list: "http".to_owned(),
                index: u32::try_from(index).unwrap_or(u32::MAX),
                matched: false,
                because: "http: has a meaning at L7 only".to_owned(),
            });
        }
    }
}
