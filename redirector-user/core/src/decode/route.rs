//! What rules of all kinds have: weighted destinations, ports, names of subsets.

use super::common::{check, required};
use super::cursor::{At, Fields};
use super::misplaced::{
    self, OF_DESTINATIONS, belongs_below_destination, below_destination, in_destination,
    outside_match,
};
use crate::diag::Diagnostic;
use crate::diag::codes::{admission, syntax};
use crate::intern;
use crate::model::RouteDestination;
use crate::validate::names;

/// The most destinations of a route.
const MAX_DESTINATIONS: usize = 64;

/// `port` of a match: 0 is the same as none.
pub(super) fn match_port(fields: &Fields<'_>) -> Option<u16> {
    let at = fields.get("port")?;
    match at.integer()? {
        0 => None,
        value => port(&at, value),
    }
}

fn port(at: &At<'_>, value: i64) -> Option<u16> {
    let port = u16::try_from(value).ok().filter(|port| *port != 0);
    if port.is_none() {
        at.complain(&admission::BAD_PORT, format!("port {value} is not in the range 1 to 65535"));
    }
    port
}

/// `route` of a rule: at least one destination, weights that sum to more than
/// zero. That it is missing may be told elsewhere.
pub(super) fn route(fields: &Fields<'_>, whose: &str, told: bool) -> Box<[RouteDestination]> {
    let items = fields.items("route");
    if fields.is_empty("route") && !told && !misplaced::has_no_route_of_its_own(fields) {
        required(fields, "route", &format!("the route of {whose}"));
    }
    weighted(fields, &items, &["destination", "weight"])
}

/// Weighted destinations.
pub(super) fn weighted(
    fields: &Fields<'_>,
    items: &[At<'_>],
    known: &'static [&'static str],
) -> Box<[RouteDestination]> {
    let mut total: i64 = 0;
    let mut whole = true;
    let destinations = items
        .iter()
        .filter_map(|at| {
            let beside = misplaced::beside_destination(at);
            let fields = at.fields_or(known, |name| match beside {
                Some(first) if OF_DESTINATIONS.contains(&name) => {
                    below_destination(name, first, at)
                }
                None if OF_DESTINATIONS.contains(&name) => belongs_below_destination(name),
                _ => outside_match(name, known),
            })?;
            let weight = match fields.get("weight").map(|at| (at.integer(), at)) {
                None => 0,
                Some((Some(weight), at)) => match u32::try_from(weight) {
                    Ok(fits) if weight <= i64::from(i32::MAX) => fits,
                    _ => {
                        at.complain(
                            &admission::NEGATIVE_WEIGHT,
                            format!("weight {weight} is out of range: expected 0 to {}", i32::MAX),
                        );
                        whole = false;
                        0
                    }
                },
                Some((None, _)) => {
                    whole = false;
                    0
                }
            };
            total += i64::from(weight);
            let Some(target) = fields.get("destination") else {
                if beside.is_none() {
                    required(&fields, "destination", "the destination");
                }
                return None;
            };
            Some(RouteDestination { weight, ..destination(&target)? })
        })
        .collect();
    let place = fields.place("route");
    if items.len() > 1 && total == 0 && whole {
        let message = format!("the weights of {} destinations sum to zero", items.len());
        let below = items.iter().find_map(|item| {
            let destination = item.any_fields()?.get("destination")?;
            destination.any_fields().filter(|fields| fields.has("weight"))
        });
        let (at, help) = match below {
            Some(destination) => {
                (destination.place("weight"), "indent weight: by as much as destination:")
            }
            None => (place.clone(), "give them weights: an absent weight is 0"),
        };
        at.report(Diagnostic::new(&admission::ZERO_WEIGHTS, message).help(help));
    }
    if items.len() > MAX_DESTINATIONS {
        place.complain(
            &syntax::OVER_LIMIT,
            format!("{} destinations: a route has at most {MAX_DESTINATIONS}", items.len()),
        );
    }
    destinations
}

/// `destination`: host, subset, port.
pub(super) fn destination(at: &At<'_>) -> Option<RouteDestination> {
    let fields = at.fields_or(OF_DESTINATIONS, in_destination)?;
    let host = fields.text("host");
    match fields.get("host") {
        None => required(&fields, "host", "the host of the destination"),
        Some(at) if at.node.as_str() == Some("*") => {
            at.complain(&admission::BAD_HOST, "a destination cannot be the host *");
        }
        Some(at) if at.node.as_str().is_some() => {
            check(&at, &admission::BAD_HOST, names::wildcard_domain(&host));
        }
        Some(_) => {}
    }
    let subset = fields.get("subset").and_then(|at| {
        let name = at.string()?;
        if name.is_empty() {
            return None;
        }
        subset_name(&at, name);
        Some(name.to_owned())
    });
    let number = fields.get("port").and_then(|at| {
        let fields = at.fields(&["number"])?;
        let Some(number) = fields.get("number") else {
            fields.place("number").report(
                Diagnostic::new(
                    &admission::BAD_PORT,
                    "a port selector without number reads as port 0, which is out of range",
                )
                .help("write number: and the service's port, or remove port:"),
            );
            return None;
        };
        port(&number, number.integer()?)
    });
    Some(RouteDestination { host: intern::text(&host), subset, port: number, weight: 0 })
}

/// Complains of a name that is none for a subset.
pub(super) fn subset_name(at: &At<'_>, name: &str) {
    if !names::is_dns_label(name) {
        at.complain(
            &admission::BAD_SUBSET_NAME,
            format!("\"{name}\" is not a subset's name: it takes letters, digits and '-'"),
        );
    }
}
