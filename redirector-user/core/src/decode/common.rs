//! What several of Istio's kinds have in common.

use std::collections::BTreeMap;

use super::cursor::{At, Fields, Unknown};
use crate::diag::codes::admission;
use crate::diag::{Code, Diagnostic, nearest};
use crate::model::Labels;
use crate::validate::{durations, names};
use crate::yaml::Value;

/// `spec`, with its known fields; complains when there is none.
pub(super) fn spec<'a>(
    root: &Fields<'a>,
    kind: &str,
    known: &'static [&'static str],
) -> Option<Fields<'a>> {
    spec_or(root, kind, known, |_| Unknown::Idle)
}

/// The same, where `other` says what unknown fields are.
pub(super) fn spec_or<'a>(
    root: &Fields<'a>,
    kind: &str,
    known: &'static [&'static str],
    other: impl Fn(&str) -> Unknown,
) -> Option<Fields<'a>> {
    match root.get("spec") {
        Some(at) => at.fields_or(known, other),
        None => {
            no_spec(root, kind, known);
            None
        }
    }
}

/// Reports that there is no spec, at what should be it or be below it.
fn no_spec(root: &Fields<'_>, kind: &str, known: &[&str]) {
    let what = format!("the spec of the {kind}");
    let metadata = root.get("metadata").and_then(|at| at.any_fields());
    if let Some(metadata) = metadata.filter(|metadata| metadata.has("spec")) {
        let message = format!("{what} stands below metadata");
        let finding = Diagnostic::new(&admission::REQUIRED, message);
        return metadata.place("spec").report(finding.help("indent it by as much as metadata:"));
    }
    let beside = root.entries().into_iter().find(|(name, _)| known.contains(name));
    let Some((name, _)) = beside.filter(|_| root.has("spec")) else {
        return required(root, "spec", &what);
    };
    let message = format!("{what} is missing: \"{name}\" stands beside it");
    let finding = Diagnostic::new(&admission::REQUIRED, message)
        .help("indent it, and what follows it, so that it is below spec:");
    root.key_place(name).report(finding);
}

/// Reports a part that Istio's admission asks for.
pub(super) fn required(fields: &Fields<'_>, name: &'static str, what: &str) {
    let message = format!("{what} is missing");
    let help = format!("add {name}:");
    missing(
        fields,
        &[name],
        Diagnostic::new(&admission::REQUIRED, message).help(help),
        &fields.place(name),
    );
}

/// Reports that one of these fields is missing: at the field that may be meant as it,
/// or else at `place`.
pub(super) fn missing(
    fields: &Fields<'_>,
    names: &[&'static str],
    mut finding: Diagnostic,
    place: &At<'_>,
) {
    let Some((name, written, at)) = fields.misspelt(names) else { return place.report(finding) };
    finding.message = format!("{}: there is no field \"{written}\"", finding.message);
    at.report(finding.help(format!("did you mean \"{name}\"?")));
}

/// Reports the error of a check.
pub(super) fn check(at: &At<'_>, code: &'static Code, result: Result<(), String>) -> bool {
    match result {
        Ok(()) => true,
        Err(message) => {
            at.complain(code, message);
            false
        }
    }
}

/// Labels that must be legal.
pub(super) fn legal_labels(fields: &Fields<'_>, name: &str) -> Labels {
    let Some(at) = fields.get(name) else { return Labels::new() };
    at.string_map()
        .into_iter()
        .map(|(key, value, at)| {
            check(&at, &admission::BAD_LABEL, names::label_key(key));
            check(&at, &admission::BAD_LABEL, names::label_value(value));
            (key.to_owned(), value.to_owned())
        })
        .collect()
}

/// The labels of a selector: no wildcards, no empty keys, and a warning when
/// there are none.
pub(super) fn selector(at: &At<'_>, field: &'static str, consequence: &str) -> Labels {
    let known: &'static [&'static str] =
        if field == "labels" { &["labels"] } else { &["matchLabels"] };
    let Some(fields) = at.fields(known) else { return Labels::new() };
    let mut labels = Labels::new();
    if let Some(map) = fields.get(field) {
        for (key, value, at) in map.string_map() {
            if key.is_empty() {
                at.complain(&admission::BAD_SELECTOR, "a selector's label has an empty key");
            }
            if key.contains('*') || value.contains('*') {
                at.complain(
                    &admission::BAD_SELECTOR,
                    format!("\"{key}: {value}\": a selector has no wildcards"),
                );
            }
            labels.insert(key, value);
        }
    }
    if labels.is_empty() {
        at.complain(
            &admission::EMPTY_SELECTOR,
            format!("the workload selector has no labels: {consequence}"),
        );
    }
    labels
}

/// Which kind of object an `exportTo` belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Exporter {
    /// `~` is refused.
    Rule,
    /// `~` alone is allowed.
    Entry,
    /// Only the own namespace is allowed.
    RuleWithSelector,
}

/// `exportTo`, checked.
pub(super) fn export_to(spec: &Fields<'_>, namespace: &str, exporter: Exporter) -> Vec<String> {
    let Some(list) = spec.get("exportTo") else { return Vec::new() };
    let mut seen: BTreeMap<String, ()> = BTreeMap::new();
    let mut written = Vec::new();
    let items = list.items();
    for at in &items {
        let Some(text) = at.string() else { continue };
        written.push(text.to_owned());
        let key = if text == "." { namespace } else { text };
        if seen.contains_key(key) {
            let message = if key == text {
                format!("\"{text}\" stands twice in exportTo")
            } else {
                format!("\".\" and \"{namespace}\" in exportTo are the same namespace")
            };
            at.complain(&admission::BAD_EXPORT, message);
            continue;
        }
        let legal = match key {
            "*" => true,
            "~" => exporter == Exporter::Entry,
            name => names::is_dns_label(name),
        };
        if legal {
            seen.insert(key.to_owned(), ());
        } else if key == "~" {
            at.complain(
                &admission::BAD_EXPORT,
                "exportTo \"~\" is for ServiceEntries only: it would hide the rule from everybody",
            );
        } else {
            at.complain(
                &admission::BAD_EXPORT,
                format!("\"{text}\" is not a namespace: expected a DNS label, '.' or '*'"),
            );
        }
    }
    if exporter == Exporter::RuleWithSelector
        && !seen.is_empty()
        && (seen.len() > 1 || !seen.contains_key(namespace))
    {
        list.report(
            Diagnostic::new(
                &admission::SELECTOR_EXPORT,
                "a DestinationRule with a workloadSelector is for its own namespace only",
            )
            .help("write exportTo: ['.'], or remove it and keep the selector"),
        );
    }
    for (alone, what) in [("*", "everybody"), ("~", "nobody")] {
        if seen.contains_key(alone) && items.len() > 1 {
            list.complain(
                &admission::BAD_EXPORT,
                format!("exportTo \"{alone}\" means {what} and stands alone"),
            );
        }
    }
    written
}

/// A list of gateway names, checked as Istio does: its check ends after the
/// first name without a slash.
pub(super) fn gateway_names(fields: &Fields<'_>) -> Vec<String> {
    let mut written = Vec::new();
    let mut checking = true;
    for at in fields.items("gateways") {
        let Some(text) = at.string() else { continue };
        written.push(text.to_owned());
        if !checking {
            continue;
        }
        let Some((namespace, name)) = text.split_once('/') else {
            checking = false;
            if check(&at, &admission::BAD_GATEWAY_NAME, names::fqdn(text)) && text.contains('.') {
                let mut parts = text.split('.');
                let name = parts.next().unwrap_or_default();
                let namespace = parts.next().unwrap_or_default();
                at.report(
                    Diagnostic::new(
                        &admission::LEGACY_GATEWAY_NAME,
                        format!("\"{text}\" is the old form of a gateway's name"),
                    )
                    .help(format!("write {namespace}/{name}")),
                );
            }
            continue;
        };
        for (part, what) in [(namespace, "namespace"), (name, "name")] {
            if part.is_empty() {
                at.complain(
                    &admission::BAD_GATEWAY_NAME,
                    format!("\"{text}\" is not namespace/name: the {what} is empty"),
                );
            } else if !names::is_dns_label(part) {
                at.complain(
                    &admission::BAD_GATEWAY_NAME,
                    format!("\"{text}\" is not namespace/name: the {what} is not a DNS label"),
                );
            }
        }
    }
    written
}

/// A duration of at least 1 ms, in milliseconds. With `zero`, 0 is taken too.
pub(super) fn duration(fields: &Fields<'_>, name: &str, zero: bool) -> Option<u64> {
    let at = fields.get(name)?;
    if let Value::Int(_, text) | Value::Float(_, text) = &at.node.value {
        at.report(at.mistyped("a duration").help(format!("write a unit: {text}s")));
        return None;
    }
    match durations::milliseconds(at.string()?, zero) {
        Ok(milliseconds) => Some(milliseconds),
        Err(message) => {
            at.complain(&admission::BAD_DURATION, message);
            None
        }
    }
}

/// A whole number from 0 to the largest of an int32.
pub(super) fn count(fields: &Fields<'_>, name: &str) -> Option<u32> {
    number(fields, name, i64::from(i32::MAX))
}

/// A percentage.
pub(super) fn percent(fields: &Fields<'_>, name: &str) -> Option<u32> {
    number(fields, name, 100)
}

/// A whole number from 0 to the largest of a uint32.
pub(super) fn unsigned(fields: &Fields<'_>, name: &str) -> Option<u32> {
    number(fields, name, i64::from(u32::MAX))
}

fn number(fields: &Fields<'_>, name: &str, most: i64) -> Option<u32> {
    let at = fields.get(name)?;
    let value = at.integer()?;
    if !(0..=most).contains(&value) {
        at.complain(
            &admission::BAD_NUMBER,
            format!("{name} {value} is out of range: expected 0 to {most}"),
        );
        return None;
    }
    u32::try_from(value).ok()
}

/// Which protocols a port may name, and what they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Protocol {
    /// Plain TCP: TCP, MONGO, REDIS, MYSQL.
    Tcp,
    /// TLS or HTTPS.
    Tls,
    /// The HTTP family without TLS.
    Http,
    /// UDP, HBONE and whatever else is known.
    Other,
}

/// What a protocol's name means; `None` when it is not known.
pub(super) fn protocol(name: &str) -> Option<Protocol> {
    match name.to_ascii_lowercase().as_str() {
        "tcp" | "mongo" | "redis" | "mysql" => Some(Protocol::Tcp),
        "tls" | "https" => Some(Protocol::Tls),
        "http" | "http2" | "grpc" | "grpc-web" | "http_proxy" => Some(Protocol::Http),
        "udp" | "hbone" | "doublehbone" => Some(Protocol::Other),
        _ => None,
    }
}

/// Complains of an unknown protocol.
pub(super) fn unknown_protocol(at: &At<'_>, name: &str) {
    let known = [
        "TCP", "TLS", "HTTP", "HTTPS", "HTTP2", "GRPC", "GRPC-WEB", "MONGO", "REDIS", "MYSQL",
        "UDP",
    ];
    let finding = Diagnostic::new(
        &admission::BAD_PROTOCOL,
        format!("\"{name}\" is not a protocol: known are {}", known.join(", ")),
    );
    at.report(finding.meant(nearest(name, known)));
}

/// Why a path is none for a unix socket. Abstract names begin with '@'.
pub(super) fn unix_path(path: &str) -> Result<(), String> {
    if path.starts_with('@') || (path.starts_with('/') && !path.ends_with('/')) {
        return Ok(());
    }
    Err(format!("\"{path}\" is not the absolute path of a unix socket"))
}
