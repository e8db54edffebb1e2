//! `match` of an http rule.

use super::super::common;
use super::super::cursor::{At, Fields};
use super::super::route::match_port;
use super::{headers, illegal};
use crate::validate::names;

/// The beginning of a header name that stands for a claim of a token.
const CLAIMS: &str = "@request.auth.claims";

/// The longest regular expression, in bytes.
const MAX_REGEX: usize = 1024;

/// A match block, and the port that it asks for. Rules that delegate, and delegates, take no
/// expressions.
pub(super) fn block(at: &At<'_>, rooted: bool, in_mesh: bool) -> Option<u16> {
    let fields = at.fields(&[
        "name",
        "uri",
        "scheme",
        "method",
        "authority",
        "headers",
        "port",
        "sourceLabels",
        "gateways",
        "queryParams",
        "ignoreUriCase",
        "withoutHeaders",
        "sourceNamespace",
        "statPrefix",
    ])?;
    for name in ["uri", "scheme", "method", "authority"] {
        if let Some(at) = fields.get(name) {
            string_match(&at, rooted);
        }
    }
    for name in ["headers", "withoutHeaders", "queryParams"] {
        let Some(map) = fields.get(name).and_then(|at| at.any_fields()) else { continue };
        for (key, at) in map.entries() {
            if name != "queryParams" {
                header(&at, key, in_mesh);
            }
            string_match(&at, rooted);
        }
    }
    common::legal_labels(&fields, "sourceLabels");
    common::gateway_names(&fields);
    source_namespace(&fields);
    match_port(&fields)
}

fn header(at: &At<'_>, name: &str, in_mesh: bool) {
    let claim = name.get(..CLAIMS.len()).is_some_and(|start| start.eq_ignore_ascii_case(CLAIMS))
        && name.len() > CLAIMS.len();
    if claim {
        if in_mesh {
            illegal(at, format!("\"{name}\": claims of a token can only be matched at gateways"));
        }
    } else if !headers::is_name(name) {
        illegal(at, format!("\"{name}\" is not the name of a header"));
    }
}

fn source_namespace(fields: &Fields<'_>) {
    if let Some(at) = fields.get("sourceNamespace")
        && let Some(namespace) = at.string()
        && !namespace.is_empty()
        && !names::is_dns_label(namespace)
    {
        illegal(&at, format!("\"{namespace}\" is not the name of a namespace"));
    }
}

/// `exact`, `prefix` or `regex`.
pub(super) fn string_match(at: &At<'_>, rooted: bool) {
    let Some(fields) = at.fields(&["exact", "prefix", "regex"]) else { return };
    let set: Vec<&str> = ["exact", "prefix", "regex"]
        .into_iter()
        .filter(|name| fields.get(name).is_some())
        .collect();
    if set.len() > 1 {
        illegal(at, format!("{} exclude each other", set.join(" and ")));
    }
    fields.string("exact");
    if let Some(at) = fields.get("prefix")
        && at.string() == Some("")
    {
        illegal(&at, "a prefix cannot be empty");
    }
    if let Some(at) = fields.get("regex") {
        if rooted {
            illegal(&at, "a rule that delegates, or is delegated to, takes no regular expression");
        } else if let Some(text) = at.string() {
            regex(&at, text);
        }
    }
}

/// A regular expression in the notation of RE2.
pub(super) fn regex(at: &At<'_>, text: &str) {
    if text.is_empty() {
        illegal(at, "a regular expression cannot be empty");
    } else if text.len() > MAX_REGEX {
        illegal(at, format!("the regular expression is longer than {MAX_REGEX} bytes"));
    } else if regex_syntax::Parser::new().parse(text).is_err() {
        illegal(at, format!("\"{text}\" is not a regular expression"));
    }
}
