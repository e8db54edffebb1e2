//! The `http` rules of a VirtualService: what Istio's admission asks of them,
//! and what of them can be known at L4: their destinations, and the names of
//! everything that only means something at L7.

mod action;
mod headers;
mod matching;

use super::common;
use super::cursor::{At, Fields};
use super::misplaced::outside_match;
use super::route::weighted;
use crate::diag::Diagnostic;
use crate::diag::codes::admission;
use crate::model::HttpRule;

const FIELDS: &[&str] = &[
    "name",
    "match",
    "route",
    "redirect",
    "directResponse",
    "delegate",
    "rewrite",
    "timeout",
    "retries",
    "fault",
    "mirror",
    "mirrors",
    "mirrorPercent",
    "mirror_percent",
    "mirrorPercentage",
    "corsPolicy",
    "headers",
];

/// A rule of an object that is a delegate (it has no hosts) or not, and that is
/// bound to the mesh or not.
pub(super) fn http_rule(at: &At<'_>, delegate: bool, in_mesh: bool) -> Option<HttpRule> {
    let fields = at.fields_or(FIELDS, |name| outside_match(name, FIELDS))?;
    let route = fields.items("route");
    conflicts(&fields, delegate, !fields.is_empty("route"));
    let rooted = delegate || fields.get("delegate").is_some();
    let matches = fields.items("match");
    let ports: Vec<Option<u16>> =
        matches.iter().map(|block| matching::block(block, rooted, in_mesh)).collect();
    action::check(&fields);
    headers::check(&fields);
    headers::one_authority(&fields);
    for at in &route {
        if let Some(destination) = at.any_fields() {
            headers::check(&destination);
        }
    }
    common::duration(&fields, "timeout", false);
    let mut l7_fields: Vec<String> = fields
        .entries()
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| !matches!(*name, "name" | "match" | "route"))
        .filter(|name| FIELDS.contains(name) && fields.get(name).is_some())
        .map(str::to_owned)
        .collect();
    if route.iter().any(|at| at.node.get("headers").is_some()) {
        l7_fields.push("route.headers".to_owned());
    }
    Some(HttpRule {
        has_match: !matches.is_empty(),
        ports: ports.into_iter().collect::<Option<_>>().unwrap_or_default(),
        l7_fields,
        route: weighted(&fields, &route, &["destination", "weight", "headers"]),
        line: at.line(),
    })
}

/// Parts that exclude each other, and the one that must be there.
fn conflicts(fields: &Fields<'_>, delegate: bool, routed: bool) {
    let has = |name: &str| fields.get(name).is_some();
    let conflict = |name: &str, other: &str| {
        fields.place(name).complain(
            &admission::HTTP_CONFLICT,
            format!("an http rule cannot have both {name} and {other}"),
        );
    };
    if has("mirror") && has("mirrors") {
        conflict("mirrors", "mirror");
    }
    if has("delegate") {
        if delegate {
            fields.place("delegate").complain(
                &admission::HTTP_CONFLICT,
                "a VirtualService without hosts is a delegate and cannot delegate further",
            );
            return;
        }
        for name in ["redirect", "directResponse", "route"] {
            if has(name) {
                conflict(name, "delegate");
            }
        }
        return;
    }
    for action in ["redirect", "directResponse"] {
        if !has(action) {
            continue;
        }
        if routed {
            conflict("route", action);
        }
        for other in ["fault", "rewrite"] {
            if has(other) {
                conflict(other, action);
            }
        }
    }
    if has("redirect") && has("directResponse") {
        conflict("directResponse", "redirect");
    }
    if !has("redirect") && !has("directResponse") && !routed {
        fields.place("route").report(
            Diagnostic::new(
                &admission::REQUIRED,
                "the http rule has no route (and no redirect or directResponse)",
            )
            .help("add route:"),
        );
    }
}

/// Reports a value that is not legal.
fn illegal(at: &At<'_>, message: impl Into<String>) {
    at.complain(&admission::BAD_HTTP_VALUE, message);
}
