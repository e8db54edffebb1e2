//! `apiVersion`, `kind` and `metadata`.

use std::sync::Arc;

use super::cursor::Fields;
use super::misplaced::Unknown;
use crate::diag::Diagnostic;
use crate::diag::codes::syntax;
use crate::model::{Kind, Meta, Origin, annotations};
use crate::yaml::Value;

/// Reads `metadata`. `None` when there is no usable name.
pub(super) fn meta(root: &Fields<'_>, kind: Kind, file: Option<&Arc<str>>) -> Option<Meta> {
    let nameless = || {
        root.place("metadata").report(
            Diagnostic::new(&syntax::MISSING_NAME, format!("this {kind} has no name"))
                .help("add metadata.name"),
        );
    };
    let Some(fields) = root.get("metadata").and_then(|at| at.any_fields()) else {
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
    // Beside metadata nobody reads them, and the object would be another one.
    root.at.fields_or(&[], |name| match name {
        "name" | "namespace" | "labels" | "annotations" => Unknown::Found(
            Diagnostic::new(
                &syntax::UNKNOWN_FIELD,
                format!("\"{name}\" stands beside metadata, where it has no effect"),
            )
            .help("indent it, so that it is below metadata:"),
        ),
        _ => Unknown::Told,
    });
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
        at.fields_or(&[], |name| match annotations::unknown(name) {
            Some((message, help)) => {
                Unknown::Found(Diagnostic::new(&syntax::UNKNOWN_ANNOTATION, message).help(help))
            }
            None => Unknown::Told,
        });
    }
    Some(Meta {
        name: name.into(),
        namespace: namespace.into(),
        uid: fields.text("uid"),
        labels: fields.labels("labels"),
        annotations: fields.labels("annotations"),
        created,
        origin: Origin { file: file.cloned(), line: root.at.line() },
    })
}

/// Whether a string is a DNS-1123 label, or with `dots` a subdomain, in lower
/// case.
fn is_name(name: &str, dots: bool) -> bool {
    let label = |label: &str| {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        edge(label.bytes().next())
            && edge(label.bytes().next_back())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if dots {
        name.len() <= 253 && name.split('.').all(label)
    } else {
        name.len() <= 63 && label(name)
    }
}

/// RFC 3339 to seconds since 1970; fractions are cut off.
fn seconds_since_1970(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let part = text.get(range)?;
        part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())?
    };
    let is = |at: usize, allowed: &str| text.get(at..=at).is_some_and(|c| allowed.contains(c));
    if !(is(4, "-") && is(7, "-") && is(10, "Tt ") && is(13, ":") && is(16, ":")) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let rest = text.get(19..)?;
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => rest,
    };
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let sign = match zone.get(0..1)? {
                "+" => 1,
                "-" => -1,
                _ => return None,
            };
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            sign * (hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60)
        }
    };
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days from the civil calendar, years counted from March.
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let year_of_era = y.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second - offset)
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
        for text in ["", "2026", "2026-13-01T00:00:00Z", "2026-01-01", "2026-01-01T00:00:00"] {
            assert_eq!(seconds_since_1970(text), None, "{text}");
        }
    }

    #[test]
    fn names_are_those_that_kubernetes_takes() {
        assert!(is_name("a-1.b", true));
        assert!(!is_name("a-1.b", false));
        for bad in ["", "A", "-a", "a-", "a_b", "a..b", "ä"] {
            assert!(!is_name(bad, true), "{bad}");
        }
    }
}
