//! An explanation for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use redirector_core::explain::{Explanation, HandledBy, NameView, VerdictWord};

use crate::output::{Style, plain, some_addresses};

/// The answer for people.
pub fn text(explanation: &Explanation, style: Style) -> String {
    let mut text = String::new();
    let source = match (&explanation.source.workload, &explanation.source.namespace) {
        (Some(workload), _) => workload.clone(),
        (None, Some(namespace)) => {
            let labels = &explanation.source.labels;
            let labels = labels.iter().map(|(key, value)| format!(" {key}={value}"));
            format!("a workload in {namespace}{}", labels.collect::<String>())
        }
        (None, None) => "a caller in no known workload".to_owned(),
    };
    let _ = writeln!(text, "{source} -> {}", style.strong(&explanation.destination));
    let handled = match explanation.handled_by {
        HandledBy::Kernel => "",
        HandledBy::Proxy => " (by the gateway proxy)",
    };
    let verdict = match explanation.verdict {
        VerdictWord::Undecided => style.help("decided when names are resolved"),
        VerdictWord::Route => style.good("routed"),
        VerdictWord::Passthrough => style.help("passed through: left as it is"),
        VerdictWord::Refuse => style.error("refused"),
    };
    let _ = writeln!(text, "  {verdict}{handled}");
    if let Some(frontend) = &explanation.frontend {
        let service = frontend.service.as_ref().map(|name| format!(" of {name}"));
        let _ = writeln!(
            text,
            "  frontend {} port {}{}",
            frontend.prefix,
            frontend.port,
            service.unwrap_or_default()
        );
    }
    match &explanation.rule {
        Some(rule) => {
            let place = match &rule.file {
                Some(file) => format!(" ({}:{})", plain(file), rule.line),
                None => String::new(),
            };
            let _ = writeln!(text, "  rule {rule}{place}");
        }
        None if explanation.verdict == VerdictWord::Route => {
            // Where the names of what is in force are lost, the service's is, too.
            let is_named = explanation.frontend.as_ref().is_none_or(|one| one.service.is_some());
            let _ = writeln!(
                text,
                "  {}",
                match is_named {
                    true => "no rule: the service's own endpoints",
                    false => "by which rule, if any, is not known by name",
                }
            );
        }
        None => {}
    }
    if !explanation.considered.is_empty() {
        let _ = writeln!(text, "{}", style.strong("rules, in order"));
        for considered in &explanation.considered {
            let mark = if considered.matched { style.good("match") } else { style.faint("no   ") };
            let _ = writeln!(
                text,
                "  {mark} {} {}[{}]: {}",
                considered.object,
                considered.list,
                considered.index,
                plain(&considered.because)
            );
        }
    }
    if !explanation.destinations.is_empty() {
        let _ = writeln!(text, "{}", style.strong("destinations"));
        for destination in &explanation.destinations {
            let undecided = destination.is_undecided() && explanation.undecided_share > 0.0;
            let because = destination.because.as_ref().map(|because| match undecided {
                true => format!("  {because}"),
                false => format!("  refused: {because}"),
            });
            let _ = writeln!(
                text,
                "  {:>7} {destination}{}",
                percent(destination.share),
                because.unwrap_or_default()
            );
            for name in &destination.names {
                let _ = writeln!(text, "          {}", resolved(name));
            }
        }
    }
    if !explanation.endpoints.is_empty() {
        let _ = writeln!(text, "{}", style.strong("endpoints"));
        let refused = match explanation.verdict {
            VerdictWord::Route => explanation.refused_for_good(),
            VerdictWord::Passthrough | VerdictWord::Refuse | VerdictWord::Undecided => 0.0,
        };
        shares(&mut text, &explanation.endpoints, refused);
    }
    if let Some(now) = explanation.now.as_ref().filter(|now| !now.why.is_empty()) {
        let _ = writeln!(text, "{}", style.strong("now"));
        shares(&mut text, &now.endpoints, now.refused_share);
        for why in &now.why {
            let _ = writeln!(text, "  {}", plain(why));
        }
    }
    for note in &explanation.notes {
        let _ = writeln!(text, "{}: {}", style.help("note"), plain(note));
    }
    text
}

fn percent(share: f64) -> String {
    format!("{:.2}%", share * 100.0)
}

fn shares(text: &mut String, endpoints: &BTreeMap<String, f64>, refused: f64) {
    for (endpoint, share) in endpoints {
        let _ = writeln!(text, "  {:>7} {endpoint}", percent(*share));
    }
    if refused > 0.0 {
        let _ = writeln!(text, "  {:>7} refused", percent(refused));
    }
}

fn resolved(name: &NameView) -> String {
    let what = match name.addresses.as_deref() {
        None => "is not resolved yet".to_owned(),
        Some([]) => "has no address".to_owned(),
        Some(addresses) => format!("is {}", some_addresses(addresses)),
    };
    format!("by name: {} {what}", plain(&name.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn of_a_name_with_thousands_of_addresses_some_are_shown_and_how_many_more_there_are() {
        let addresses: Vec<_> =
            (0..5_000_u16).map(|i| IpAddr::from([10, 9, (i >> 8) as u8, i as u8])).collect();
        let name = NameView { name: "db.example.com".to_owned(), addresses: Some(addresses) };
        assert_eq!(
            resolved(&name),
            "by name: db.example.com is 10.9.0.0, 10.9.0.1, 10.9.0.2, 10.9.0.3, and 4996 more"
        );
    }
}
