//! The `http` rules of a VirtualService, as far as L4 knows them: their
//! destinations, and the names of everything that only means something at L7.

use super::cursor::At;
use super::virtual_service::weighted;
use crate::model::HttpRule;

pub(super) fn http_rule(at: &At<'_>, _delegate: bool, _in_mesh: bool) -> Option<HttpRule> {
    let fields = at.fields(&[
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
        "mirrorPercentage",
        "corsPolicy",
        "headers",
    ])?;
    let route = fields.items("route");
    let mut l7_fields: Vec<String> = fields
        .entries()
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| !matches!(*name, "name" | "match" | "route"))
        .filter(|name| fields.get(name).is_some())
        .map(str::to_owned)
        .collect();
    if route.iter().any(|at| at.node.get("headers").is_some()) {
        l7_fields.push("route.headers".to_owned());
    }
    Some(HttpRule {
        has_match: !fields.items("match").is_empty(),
        l7_fields,
        route: weighted(&fields, &route, &["destination", "weight", "headers"]),
        line: at.line(),
    })
}
