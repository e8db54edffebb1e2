//! Fields that stand where they mean nothing, and would decide who a rule is for.
//!
//! An unknown field has no effect, which is a warning. A condition without effect
//! makes its rule match more than was meant, so that is an error: a misspelt one, and
//! one that stands outside of a match block.

use super::cursor::{At, Fields, Unknown};
use crate::diag::codes::{admission, syntax};
use crate::diag::{Diagnostic, nearest};
use crate::yaml::Value;

/// The conditions of a match block of a tcp rule.
pub(super) const TCP: &[&str] =
    &["destinationSubnets", "port", "sourceSubnet", "sourceLabels", "gateways", "sourceNamespace"];

/// The conditions of a match block of a tls rule.
pub(super) const TLS: &[&str] =
    &["sniHosts", "destinationSubnets", "port", "sourceLabels", "gateways", "sourceNamespace"];

/// What stands in an item of a rule's route, or below it.
const OF_ROUTES: [&str; 4] = ["destination", "weight", "host", "subset"];

/// What stands below the destination of an item of a route.
pub(super) const OF_DESTINATIONS: &[&str] = &["host", "subset", "port"];

/// Of a match block: a condition that is none. `rule` is told already when part of
/// it stands in its match.
pub(super) fn in_match(name: &str, known: &[&str], rule_is_told: bool) -> Unknown {
    if name == "route" {
        return Unknown::Found(
            Diagnostic::new(
                &syntax::UNKNOWN_CONDITION,
                "\"route\" stands inside of the match block: it belongs to the rule, beside match",
            )
            .help("indent route: by as much as match:"),
        );
    }
    if rule_is_told && OF_ROUTES.contains(&name) {
        return Unknown::Told;
    }
    let finding = Diagnostic::new(
        &syntax::UNKNOWN_CONDITION,
        format!("there is no condition \"{name}\": without it the rule would match more"),
    );
    Unknown::Found(finding.help(match nearest(name, known.iter().copied()) {
        // In braces, `{port:80}` is a key without a value.
        Some(near) if name.starts_with(&format!("{near}:")) => {
            "a colon needs a space behind it".to_owned()
        }
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("known are: {}", known.join(", ")),
    }))
}

/// Of whatever is around match blocks and has these `known` fields: a condition outside
/// of them, or a match that is none.
pub(super) fn outside_match(name: &str, known: &[&str]) -> Unknown {
    let conditions = || TCP.iter().chain(TLS).copied();
    let condition = match conditions().find(|condition| *condition == name) {
        Some(condition) => Some(condition),
        // It may as well be a slip of what belongs here, and a word of four letters is
        // near to many.
        None => nearest(name, conditions().chain(known.iter().copied()))
            .filter(|near| !known.contains(near) && near.len() > 4),
    };
    if let Some(condition) = condition {
        let meant = if condition == name { String::new() } else { format!(", as {condition}") };
        return Unknown::Found(
            Diagnostic::new(
                &syntax::UNKNOWN_CONDITION,
                format!(
                    "\"{name}\" stands outside of a match block, where it decides nothing: the \
                     rule would match more"
                ),
            )
            .help(format!("indent it so that it is below match:{meant}")),
        );
    }
    if name == "match" || nearest(name, ["match"]).is_some() {
        return Unknown::Found(
            Diagnostic::new(
                &syntax::UNKNOWN_CONDITION,
                format!("\"{name}\" decides nothing here: the rule would match everything"),
            )
            .help("write it as match: of a rule, beside its route:"),
        );
    }
    Unknown::Idle
}

/// Whether a rule of a VirtualService that stands in this document has no route, and one
/// stands beside the lists of rules: that is told, and not that the rule has none.
pub(super) fn route_is_outdented(root: &At<'_>) -> bool {
    let Some(spec) = root.node.get("spec").filter(|spec| spec.get("route").is_some()) else {
        return false;
    };
    ["tcp", "tls"].into_iter().any(|list| match spec.get(list).map(|list| &list.value) {
        Some(Value::List(rules)) => rules.iter().any(|rule| rule.get("route").is_none()),
        _ => false,
    })
}

/// A route that stands beside the lists of rules.
pub(super) fn outdented_route() -> Unknown {
    Unknown::Sure(
        Diagnostic::new(
            &admission::REQUIRED,
            "the route of a rule is missing: \"route\" stands outside of the rule",
        )
        .help("indent route: by as much as the fields of the rule, such as match:"),
    )
}

/// Those of the `known` fields that have no value and decide who a rule is for: as if they
/// were not there. What stands below one that is not indented is told as that.
pub(super) fn without_value(fields: &Fields<'_>, known: &[&str]) {
    let Value::Map(entries) = &fields.at.node.value else { return };
    if entries.iter().any(|entry| !known.contains(&&*entry.key)) {
        return;
    }
    let empty = entries.iter().filter(|entry| entry.value.value == Value::Null);
    for name in empty.map(|entry| &*entry.key).filter(|name| *name != "route") {
        let message = format!(
            "\"{name}\" has no value: it decides nothing, as if it were not there, and the rule \
             matches more"
        );
        let finding = Diagnostic::new(&syntax::NO_VALUE, message);
        fields.key_place(name).report(finding.help("write a value, or remove it"));
    }
}

/// Of an item of a route that says nothing below its destination: the first field that
/// belongs there, and stands beside it.
pub(super) fn beside_destination<'a>(item: &At<'a>) -> Option<&'a str> {
    let Value::Map(entries) = &item.node.value else { return None };
    if item.node.get("destination").is_some() {
        return None;
    }
    entries.iter().map(|entry| &*entry.key).find(|name| OF_DESTINATIONS.contains(name))
}

/// A field of an item of a route that has a destination, and should stand below it.
pub(super) fn belongs_below_destination(name: &str) -> Unknown {
    let message = format!("\"{name}\" stands beside the destination, where it has no effect");
    Unknown::Sure(
        Diagnostic::new(&syntax::UNKNOWN_FIELD, message)
            .help("indent it so that it is below destination:"),
    )
}

/// A field of a destination: a weight that should stand beside it, or a condition.
pub(super) fn in_destination(name: &str) -> Unknown {
    if name != "weight" {
        return outside_match(name, OF_DESTINATIONS);
    }
    Unknown::Sure(
        Diagnostic::new(
            &syntax::UNKNOWN_FIELD,
            "\"weight\" stands below the destination, where it has no effect",
        )
        .help("indent it by as much as destination:"),
    )
}

/// The same field `name` of an item, told once for all of them: `first` is the first.
pub(super) fn below_destination(name: &str, first: &str, item: &At<'_>) -> Unknown {
    if name != first {
        return Unknown::Told;
    }
    let message = format!("the destination is missing: \"{name}\" belongs below it");
    let help = match item.node.entry("destination") {
        Some(_) => "indent it further than destination:",
        None => "write destination: above it, and indent it further than that",
    };
    Unknown::Sure(Diagnostic::new(&admission::REQUIRED, message).help(help))
}

/// Whether a rule's route is missing because what belongs to it stands elsewhere.
pub(super) fn has_no_route_of_its_own(rule: &Fields<'_>) -> bool {
    let blocks = match rule.get("match").map(|at| &at.node.value) {
        Some(Value::List(blocks)) => &**blocks,
        _ => &[],
    };
    let misplaced = |name: &str| rule.at.node.entry(name).is_some();
    blocks.iter().any(|block| block.entry("route").is_some())
        || OF_ROUTES.iter().any(|name| misplaced(name))
}
