//! What is expected, against what is said.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::{Answers, Case, Difference, Expected, Of, Refused, RuleName, Within};
use crate::explain::{DestinationView, ExplainError, Explanation, VerdictWord};

/// Why there is nothing to compare with.
pub(super) fn no_answer(case: &Case, error: &ExplainError) -> Difference {
    let (expectation, expected) = match error {
        ExplainError::NoWorkload(namespace, name) => ("from", format!("{namespace}/{name}")),
        ExplainError::NoGateway(namespace, name) => ("gateway", format!("{namespace}/{name}")),
        ExplainError::NoAddress(..)
        | ExplainError::WithoutAddress(_)
        | ExplainError::NotResolved(_) => ("to", case.to.to_string()),
    };
    Difference { expectation, destination: None, expected, got: error.to_string() }
}

/// What of an answer is not as expected. `same` is the test that it is to be the
/// same as, and the answers to that.
pub(super) fn compare(
    expected: &Expected,
    same: Option<(&str, &Answers)>,
    got: &Explanation,
) -> Vec<Difference> {
    let mut found = Comparison { destination: &got.destination, differences: Vec::new() };
    if let Some(rule) = &expected.rule
        && !is_rule(rule, got)
    {
        found.differs("rule", rule, rule_of(got));
    }
    if let Some(passthrough) = expected.passthrough
        && (got.verdict == VerdictWord::Undecided
            || passthrough != (got.verdict == VerdictWord::Passthrough))
    {
        let what = if passthrough { "passed through" } else { "not passed through" };
        found.differs("passthrough", what, verdict_of(got));
    }
    if let Some(shares) = &expected.shares {
        compare_shares(shares, expected.within, got, &mut found);
    }
    if let Some(endpoints) = &expected.endpoints {
        let wanted: BTreeSet<SocketAddr> = endpoints.iter().copied().collect();
        let there: BTreeSet<SocketAddr> = endpoints_of(got).into_keys().collect();
        if wanted != there {
            found.differs("endpoints", listed(wanted), listed(there));
        }
    }
    if let Refused::Share(share) = expected.refused
        && !expected.within.equal(share, got.refused_for_good())
    {
        let mut what = format!("{} refused", percent(share));
        if share == 0.0 {
            what = "nothing refused".to_owned();
        }
        found.differs("refused", what, refusal_of(got));
    }
    if let Some((name, answers)) = same {
        compare_same(name, answers, expected.within, got, &mut found);
    }
    found.differences
}

/// The differences found so far.
struct Comparison<'f> {
    destination: &'f str,
    differences: Vec<Difference>,
}

impl Comparison<'_> {
    fn differs(
        &mut self,
        expectation: &'static str,
        expected: impl ToString,
        got: impl Into<String>,
    ) {
        self.differences.push(Difference {
            expectation,
            destination: Some(self.destination.to_owned()),
            expected: expected.to_string(),
            got: got.into(),
        });
    }
}

fn is_rule(wanted: &RuleName, got: &Explanation) -> bool {
    match (wanted, &got.rule) {
        (RuleName::None, None) => true,
        (RuleName::OfObject(object), Some(rule)) => rule.object == *object,
        (RuleName::Rule(object, list, index), Some(rule)) => {
            (&rule.object, &rule.list, rule.index) == (object, list, *index)
        }
        (RuleName::None, Some(_)) | (_, None) => false,
    }
}

fn rule_of(got: &Explanation) -> String {
    match &got.rule {
        Some(rule) => rule.to_string(),
        None => "no rule".to_owned(),
    }
}

fn verdict_of(got: &Explanation) -> &'static str {
    match got.verdict {
        VerdictWord::Undecided => "undecided until names are resolved",
        VerdictWord::Route => "routed",
        VerdictWord::Passthrough => "passed through",
        VerdictWord::Refuse => "refused",
    }
}

/// The refused share, and of which destinations it is.
fn refusal_of(got: &Explanation) -> String {
    let refused = got.destinations.iter().filter_map(|destination| {
        Some(format!("{destination}: {}", destination.because.as_ref()?))
    });
    let refused: Vec<String> = refused.collect();
    match refused.as_slice() {
        [] => format!("{} refused", percent(got.refused_for_good())),
        _ => format!("{} refused ({})", percent(got.refused_for_good()), refused.join("; ")),
    }
}

fn compare_shares(
    shares: &[(Of, f64)],
    within: Within,
    got: &Explanation,
    found: &mut Comparison<'_>,
) {
    // What is left as it is has no shares; a rule may have led there all the same.
    if got.verdict == VerdictWord::Passthrough {
        let all: Vec<String> =
            shares.iter().map(|(of, share)| format!("{of} {}", percent(*share))).collect();
        return found.differs("shares", all.join(", "), "passed through");
    }
    let endpoints = endpoints_of(got);
    for (of, wanted) in shares {
        let share = match of {
            Of::Endpoint(address) => endpoints.get(address).copied().unwrap_or(0.0),
            Of::Destination { .. } => {
                let those = got.destinations.iter().filter(|one| is_of(of, one));
                let hosts: BTreeSet<&str> = those.clone().map(|one| one.host.as_str()).collect();
                if hosts.len() > 1 {
                    let hosts: Vec<&str> = hosts.into_iter().collect();
                    let got = format!("several are called so: {}", hosts.join(", "));
                    found.differs("shares", format!("{of} is one destination"), got);
                    continue;
                }
                those.fold(0.0, |sum, one| sum + one.share)
            }
        };
        if !within.equal(share, *wanted) {
            found.differs("shares", format!("{of} {}", percent(*wanted)), percent(share));
        }
    }
    let other = |what: String, share: f64, found: &mut Comparison<'_>| {
        if !within.equal(share, 0.0) {
            found.differs("shares", "nothing else", format!("{what} {}", percent(share)));
        }
    };
    if shares.iter().any(|(of, _)| matches!(of, Of::Destination { .. })) {
        for one in &got.destinations {
            if !shares.iter().any(|(of, _)| is_of(of, one)) {
                other(one.to_string(), one.share, found);
            }
        }
    }
    if shares.iter().any(|(of, _)| matches!(of, Of::Endpoint(_))) {
        for (address, share) in endpoints {
            if !shares.iter().any(|(of, _)| *of == Of::Endpoint(address)) {
                other(address.to_string(), share, found);
            }
        }
    }
}

/// Whether a destination is what is meant: `web`, `web.shop` and the like mean
/// every host that they are the beginning of, label by label.
fn is_of(of: &Of, one: &DestinationView) -> bool {
    let Of::Destination { host, port, subset } = of else { return false };
    let rest = one.host.strip_prefix(host.as_str());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        && port.is_none_or(|port| port == one.port)
        && (subset.is_none() || *subset == one.subset)
}

/// The other test's connection gets the same: by whatever rule, the same
/// destinations and endpoints as often, and as much is refused.
fn compare_same(
    name: &str,
    answers: &Answers,
    within: Within,
    got: &Explanation,
    found: &mut Comparison<'_>,
) {
    let answers = match answers {
        Ok(answers) => answers,
        Err(error) => {
            let expected = format!("the same as \"{name}\"");
            return found.differs("sameAs", expected, format!("that has no answer: {error}"));
        }
    };
    for other in answers {
        let (one, two) = (outcome_of(got), outcome_of(other));
        let differs = |key: &&String| {
            let share = |of: &BTreeMap<String, f64>| of.get(*key).copied().unwrap_or(0.0);
            !within.equal(share(&one), share(&two))
        };
        let keys: BTreeSet<&String> = one.keys().chain(two.keys()).collect();
        let keys: Vec<&String> = keys.into_iter().filter(differs).collect();
        let told = |of: &BTreeMap<String, f64>| {
            let share = |key: &&String| percent(of.get(*key).copied().unwrap_or(0.0));
            let parts = keys.iter().map(|key| format!("{key} {}", share(key)));
            parts.collect::<Vec<_>>().join(", ")
        };
        if !keys.is_empty() {
            found.differs("sameAs", format!("as \"{name}\": {}", told(&two)), told(&one));
        }
    }
}

/// Everything that can become of a connection, and how often it does.
fn outcome_of(got: &Explanation) -> BTreeMap<String, f64> {
    let mut outcome = BTreeMap::new();
    if got.verdict == VerdictWord::Passthrough {
        outcome.insert("passed through".to_owned(), 1.0);
        return outcome;
    }
    for one in &got.destinations {
        *outcome.entry(format!("to {one}")).or_default() += one.share;
    }
    outcome.extend(endpoints_of(got).iter().map(|(address, share)| (address.to_string(), *share)));
    outcome.insert("refused".to_owned(), got.refused_for_good());
    outcome.insert("undecided".to_owned(), got.undecided_share);
    outcome
}

fn endpoints_of(got: &Explanation) -> BTreeMap<SocketAddr, f64> {
    let shares = got.endpoints.iter().filter(|(_, share)| **share > 0.0);
    shares.filter_map(|(address, share)| Some((address.parse().ok()?, *share))).collect()
}

fn listed(addresses: BTreeSet<SocketAddr>) -> String {
    if addresses.is_empty() {
        return "none".to_owned();
    }
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn percent(share: f64) -> String {
    let text = format!("{:.4}", share * 100.0);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}
