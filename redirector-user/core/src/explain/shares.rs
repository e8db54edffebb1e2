//! The shares of a route.

use std::net::SocketAddr;

use super::{DestinationView, Explanation, HandledBy, VerdictWord};
use crate::compile::destinations::Destinations;
use crate::plan::{RouteId, Verdict};

/// Six decimals; the whole only of the whole.
pub(super) fn rounded(share: f64) -> f64 {
    let rounded = (share * 1e6).round() / 1e6;
    // What is left is little, and is.
    if rounded == 1.0 && share < 1.0 - 1e-12 { 0.999_999 } else { rounded }
}

/// Fills in verdict, destinations, endpoints and the share that is refused.
pub(super) fn fill(
    explanation: &mut Explanation,
    destinations: &Destinations<'_>,
    route: &RouteId,
    verdict: &Verdict,
    dialled: SocketAddr,
) {
    let gateway = explanation.handled_by == HandledBy::Proxy;
    let legs = destinations.legs(route);
    let sum: u128 = legs.iter().map(|leg| u128::from(leg.weight)).sum();
    let (mut refused, mut undecided) = (0.0, 0.0);
    for (id, leg) in route.destinations.iter().zip(legs) {
        let share = if sum == 0 { 0.0 } else { leg.weight as f64 / sum as f64 };
        let destination = destinations.destination(id);
        let endpoints = destination.map_or(&[][..], |one| one.endpoints_at(gateway));
        let because = destination
            .filter(|_| endpoints.is_empty())
            .and_then(|destination| destination.empty_because.clone());
        let unresolved = destination.map_or(&[][..], |destination| &destination.unresolved);
        if share > 0.0 {
            explanation.undecided_names.extend(unresolved.iter().map(ToString::to_string));
        }
        explanation.destinations.push(DestinationView {
            host: id.host.to_string(),
            subset: id.subset.as_ref().map(ToString::to_string),
            port: id.port,
            share: rounded(share),
            because,
            names: Vec::new(),
        });
        let total: u128 = endpoints.iter().map(|endpoint| u128::from(endpoint.weight)).sum();
        if total == 0 {
            refused += share;
            undecided += if unresolved.is_empty() { 0.0 } else { share };
            continue;
        }
        let standing_by = endpoints.iter().filter(|endpoint| endpoint.weight == 0).count();
        if standing_by > 0 {
            explanation.notes.push(format!(
                "{}:{}: the nearest endpoints go first; further away {standing_by} stand by until \
                 all of these are ejected",
                id.host, id.port
            ));
        }
        for endpoint in endpoints {
            let mut address = endpoint.address;
            if address.ip().is_unspecified() {
                address.set_ip(dialled.ip());
                if address.port() == 0 {
                    address.set_port(dialled.port());
                }
            }
            let part = share * endpoint.weight as f64 / total as f64;
            if part > 0.0 {
                *explanation.endpoints.entry(address.to_string()).or_default() += part;
            }
        }
    }
    for share in explanation.endpoints.values_mut() {
        *share = rounded(*share);
    }
    explanation.undecided_names.sort_unstable();
    explanation.undecided_names.dedup();
    (explanation.refused_share, explanation.undecided_share) =
        (rounded(refused), rounded(undecided));
    explanation.verdict = match verdict {
        Verdict::Pass => VerdictWord::Passthrough,
        Verdict::Refuse => VerdictWord::Refuse,
        Verdict::Route(_) if explanation.endpoints.is_empty() && undecided > 0.0 => {
            VerdictWord::Undecided
        }
        Verdict::Route(_) if explanation.endpoints.is_empty() => VerdictWord::Refuse,
        Verdict::Route(_) => VerdictWord::Route,
    };
    match explanation.verdict {
        VerdictWord::Passthrough => explanation.endpoints.clear(),
        VerdictWord::Refuse => explanation.refused_share = 1.0,
        VerdictWord::Route | VerdictWord::Undecided => {}
    }
}
