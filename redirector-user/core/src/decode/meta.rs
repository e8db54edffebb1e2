//! `apiVersion`, `kind` and `metadata`.

use std::sync::Arc;

use super::cursor::{Fields, ROOT, Unknown};
use super::misplaced::outside_match;
use crate::diag::codes::syntax;
use crate::diag::{Diagnostic, nearest};
use crate::model::IstioMutual;
use crate::model::annotations::{self, OURS};
use crate::model::{Accepting, Kind, Meta, Origin, is_name};
use crate::yaml::Value;

/// The fields of an ObjectMeta.
const METADATA: &[&str] = &[
    "name",
    "namespace",
    "labels",
    "annotations",
    "generateName",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "ownerReferences",
    "finalizers",
    "managedFields",
    "selfLink",
];

/// Reads `metadata`. `None` when there is no usable name.
pub(super) fn meta(root: &Fields<'_>, kind: Kind, file: Option<&Arc<str>>) -> Option<Meta> {
    let nameless = || {
        let message = format!("this {kind} has no name");
        let (at, message, help) = match root.has("name") {
            true => (
                root.key_place("name"),
                format!("{message}: it stands beside metadata"),
                "indent it so that it is below metadata:",
            ),
            false => (root.place("metadata"), message, "add metadata.name"),
        };
        at.report(Diagnostic::new(&syntax::MISSING_NAME, message).help(help));
    };
    // What a spec that is none of its own should hold is told there.
    let of_metadata = |name: &str| if name == "spec" { Unknown::Told } else { Unknown::Idle };
    let metadata = root.get("metadata").and_then(|at| at.fields_or(METADATA, of_metadata));
    let Some(fields) = metadata else {
        nameless();
        return None;
    };
    let Some(name_at) = fields.get("name") else {
        nameless();
        return None;
    };
    let name = name_at.string()?;
    // Nodes, Pods and Istio's kinds are subdomains; the API server asks a
    // little more of Services and Namespaces.
    let dots = !matches!(kind, Kind::Service | Kind::Namespace);
    if !is_name(name, dots) {
        name_at.report(
            Diagnostic::new(
                &syntax::MISSING_NAME,
                format!("\"{name}\" is not a name that Kubernetes takes"),
            )
            .help(if dots {
                "use lower-case letters, digits, '-' and '.', beginning and ending with a letter \
                 or digit"
            } else {
                "use lower-case letters, digits and '-', beginning and ending with a letter or \
                 digit, at most 63 characters"
            }),
        );
        return None;
    }
    beside_metadata(root, kind);
    let mut namespace = "";
    if !kind.is_cluster_scoped() {
        namespace = "default";
        if let Some(at) = fields.get("namespace") {
            match at.string()? {
                "" => {}
                text if is_name(text, false) => namespace = text,
                text => {
                    at.report(
                        Diagnostic::new(
                            &syntax::MISSING_NAME,
                            format!("\"{text}\" is not a name that a namespace can have"),
                        )
                        .help("use lower-case letters, digits and '-', at most 63 characters"),
                    );
                    return None;
                }
            }
        }
    }
    let created = fields.get("creationTimestamp").and_then(|at| {
        let text = at.string()?;
        let seconds = seconds_since_1970(text);
        if seconds.is_none() {
            at.report(
                Diagnostic::new(&syntax::WRONG_TYPE, format!("\"{text}\" is not a time"))
                    .help("write it like 2026-01-31T12:00:00Z"),
            );
        }
        seconds
    });
    if let Some(at) = fields.get("annotations").filter(|at| matches!(at.node.value, Value::Map(_)))
    {
        at.fields_or(&[], |name| unknown_annotation(name).map_or(Unknown::Told, Unknown::Found));
        let all = at.any_fields();
        for (name, at) in all.iter().flat_map(Fields::entries) {
            // These two have codes of their own.
            let own = matches!(name, annotations::DRAIN | annotations::PROXY_PROTOCOL);
            let value = at.node.as_str().filter(|_| !own);
            if let Some((problem, help)) =
                value.and_then(|value| annotations::idle(name, value, kind))
            {
                let finding = Diagnostic::new(&syntax::IDLE_ANNOTATION, problem);
                at.report(Diagnostic { help, ..finding });
            }
            let cgroup = || all.as_ref()?.get(annotations::CGROUP)?.node.as_str();
            if name == annotations::NETNS && cgroup().and_then(annotations::cgroup).is_some() {
                let message = format!("{name} has no effect beside {}", annotations::CGROUP);
                at.report(
                    Diagnostic::new(&syntax::IDLE_ANNOTATION, message)
                        .help("remove one of the two"),
                );
            }
            let read = |value| match (kind, name) {
                (Kind::Gateway, _) | (Kind::Service, annotations::ACCEPT_PROXY_PROTOCOL) => {
                    Accepting::default().read(name, value)
                }
                (Kind::DestinationRule, annotations::ISTIO_MUTUAL) => {
                    let named = IstioMutual::named(value).map(drop);
                    named.ok_or_else(|| format!("\"{value}\" is neither refuse nor plain"))
                }
                _ => Ok(()),
            };
            if let Some(Err(why)) = at.node.as_str().map(read) {
                at.complain(&syntax::BAD_ANNOTATION, format!("{name}: {why}"));
            }
        }
    }
    Some(Meta {
        name: name.into(),
        namespace: namespace.into(),
        uid: fields.text("uid"),
        labels: fields.labels("labels"),
        annotations: fields.labels("annotations"),
        created,
        origin: Origin { file: file.cloned(), line: root.at.line(), manager: None },
    })
}

/// What who has read of it may ask for, without our prefix.
const NOT_ANSWERED: &str = "original-destination";

/// What is wrong with an annotation that begins as ours do and is none of them.
fn unknown_annotation(name: &str) -> Option<Diagnostic> {
    let word = name
        .strip_prefix(OURS)
        .filter(|_| annotations::ALL.iter().all(|(known, _)| *known != name))?;
    let known = || annotations::ALL.iter().filter_map(|(name, _)| name.strip_prefix(OURS));
    let message = format!("there is no annotation {name}");
    Some(
        Diagnostic::new(&syntax::UNKNOWN_ANNOTATION, message).help(match nearest(word, known()) {
            _ if word == NOT_ANSWERED => "SO_ORIGINAL_DST is not answered: \
             docs/decisions/0034-original-destination.md says why, and what to do instead"
                .to_owned(),
            Some(near) => format!("did you mean {OURS}{near}?"),
            None => format!("known are: {OURS}{{{}}}", known().collect::<Vec<_>>().join(", ")),
        }),
    )
}

/// Fields of the root that nobody reads: without them the object may be another one, or
/// be seen by more.
fn beside_metadata(root: &Fields<'_>, kind: Kind) {
    let known: &'static [&'static str] = match kind {
        Kind::EndpointSlice => {
            &["apiVersion", "kind", "metadata", "addressType", "endpoints", "ports"]
        }
        _ => ROOT,
    };
    let is_told_as_missing = known.contains(&"spec") && root.get("spec").is_none();
    let outside = |name: &str| match kind {
        Kind::VirtualService => outside_match(name, known),
        _ => Unknown::Idle,
    };
    root.at.fields_or(known, |name| match name {
        _ if is_told_as_missing => Unknown::Told,
        "name" | "namespace" | "labels" | "annotations" => Unknown::Found(
            Diagnostic::new(
                &syntax::UNKNOWN_FIELD,
                format!("\"{name}\" stands beside metadata, where it has no effect"),
            )
            .help("indent it, so that it is below metadata:"),
        ),
        // That its lists of rules are missing is told at these.
        "tcp" | "tls" | "http" if kind == Kind::VirtualService => Unknown::Told,
        _ => match outside(name) {
            Unknown::Idle if nearest(name, known.iter().copied()).is_none() => Unknown::Found(
                Diagnostic::new(
                    &syntax::UNKNOWN_FIELD,
                    format!("there is no field \"{name}\" beside metadata: it has no effect"),
                )
                .help("indent it, if it belongs to spec:"),
            ),
            other => other,
        },
    });
}

/// RFC 3339 to seconds since 1970; fractions are cut off.
fn seconds_since_1970(text: &str) -> Option<i64> {
    // Seconds may not be left out, nor may a zone have a name, as in other forms.
    let has_seconds = text.as_bytes().get(16) == Some(&b':');
    let time = text.parse::<jiff::Timestamp>().ok().filter(|_| has_seconds);
    time.filter(|_| !text.contains('[')).map(jiff::Timestamp::as_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_counted_from_1970() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:34:56Z", 951_827_696),
            ("2026-11-23T10:54:03.123Z", 1_795_431_243),
            ("2026-11-23T12:54:03+02:00", 1_795_431_243),
        ] {
            assert_eq!(seconds_since_1970(text), Some(seconds), "{text}");
        }
        for text in [
            "",
            "2026",
            "2026-13-01T00:00:00Z",
            "2026-02-30T00:00:00Z",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00Z",
            "20260101T00:00:00Z",
            "2026-01-01T00:00:00Z[UTC]",
        ] {
            assert_eq!(seconds_since_1970(text), None, "{text}");
        }
    }
}
