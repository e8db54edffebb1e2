//! `headers` of an http rule and of its destinations.

use super::super::cursor::{At, Fields};
use super::illegal;
use crate::diag::codes::admission;

/// Whether it is the name of a header.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

/// Checks what `headers` adds, sets and removes.
pub(super) fn check(fields: &Fields<'_>) {
    let Some(headers) = fields.get("headers").and_then(|at| at.fields(&["request", "response"]))
    else {
        return;
    };
    for side in ["request", "response"] {
        let Some(operations) =
            headers.get(side).and_then(|at| at.fields(&["set", "add", "remove"]))
        else {
            continue;
        };
        for operation in ["set", "add"] {
            let Some(map) = operations.get(operation) else { continue };
            for (name, value, at) in map.string_map() {
                name_allowed(&at, name, side == "request");
                value_allowed(&at, value);
            }
        }
        for at in operations.items("remove") {
            if let Some(name) = at.string() {
                name_allowed(&at, name, false);
            }
        }
    }
}

fn name_allowed(at: &At<'_>, name: &str, authority: bool) {
    if name.is_empty() {
        illegal(at, "the name of a header cannot be empty");
    } else if authority && is_authority(name) {
        // May be set once; see one_authority.
    } else if name.eq_ignore_ascii_case("host") {
        illegal(at, "the Host header cannot be changed here");
    } else if name.starts_with(':') {
        illegal(at, format!("\"{name}\": names with ':' are internal"));
    }
}

/// A value without control characters, whose percent signs come in pairs.
fn value_allowed(at: &At<'_>, value: &str) {
    if value.bytes().any(|b| b < 0x20 && b != b'\t' || b == 0x7f) {
        illegal(at, "the value has a control character");
    } else if !value.matches('%').count().is_multiple_of(2) {
        illegal(at, format!("\"{value}\": a percent sign is written twice, or around a variable"));
    }
}

/// The authority may be set in one place only.
pub(super) fn one_authority(fields: &Fields<'_>) {
    let mut count = 0;
    let node = fields.at.node;
    if node.nearest("rewrite.authority").as_str().is_some_and(|text| !text.is_empty())
        && node.get("rewrite").is_some_and(|rewrite| rewrite.get("authority").is_some())
    {
        count += 1;
    }
    let request = node.get("headers").and_then(|headers| headers.get("request"));
    for operation in ["set", "add"] {
        let map = request.and_then(|request| request.get(operation));
        if let Some(crate::yaml::Value::Map(entries)) = map.map(|map| &map.value) {
            count += entries.iter().filter(|entry| is_authority(&entry.key)).count();
        }
    }
    if count > 1 {
        fields.at.complain(
            &admission::HTTP_CONFLICT,
            "the authority is set more than once, by rewrite and headers",
        );
    }
}
