//! What is known of each name that is resolved.

use std::collections::BTreeMap;

use super::kept::Kept;
use super::page::{Labels, Page, labels};
use crate::daemon::resolving::Asked;
use crate::state::Report;

/// How they are counted together.
const GROUP: &str = "names";

/// The families of names. Of those that are counted together the sums, and the age of the
/// oldest answer.
pub fn families(report: &Report, asked: &Asked, kept: &mut Kept, page: &mut Page) {
    let known = report.names.iter().map(|one| (labels([("name", one.name.clone())]), one));
    let known: BTreeMap<_, _> = known.collect();
    kept.give(GROUP, &known.keys().cloned().collect());
    let mut family = |family: &str, values: BTreeMap<Labels, u64>, add: fn(&mut u64, u64)| {
        page.family(family);
        for (labels, value) in kept.bounded(GROUP, values, add) {
            page.sample(family, &labels, value);
        }
    };
    let addresses = known.iter().map(|(name, one)| (name.clone(), one.addresses.len() as u64));
    family("name_addresses", addresses.collect(), |sum, one| *sum += one);
    let unresolved =
        known.iter().map(|(name, one)| (name.clone(), u64::from(one.because.is_some())));
    family("name_unresolved", unresolved.collect(), |sum, one| *sum += one);
    let ages = known.iter().filter_map(|(name, one)| {
        let failing = report.unresolved.binary_search_by(|other| other.name.cmp(&one.name));
        let failing = failing.ok().map(|at| &report.unresolved[at]);
        Some((name.clone(), asked.age(&one.name, failing)?))
    });
    family("name_answer_age_seconds", ages.collect(), |most, one| *most = one.max(*most));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{KnownName, UnresolvedName};

    fn name(name: &str, because: Option<&str>) -> KnownName {
        KnownName {
            name: name.to_owned(),
            addresses: vec![[192, 0, 2, 1].into(), [192, 0, 2, 2].into()],
            former: Vec::new(),
            since: Some(1),
            answered: None,
            ttl: None,
            because: because.map(str::to_owned),
        }
    }

    #[test]
    fn each_name_has_series_and_those_beyond_the_limit_are_told_together() {
        let failing = UnresolvedName {
            name: "c".to_owned(),
            because: "no".to_owned(),
            since: crate::daemon::now(),
            kept: Vec::new(),
            answered: Some(crate::daemon::now() - 3_600),
            or_later: false,
            refuses: false,
            to_others: false,
            is_endpoint: false,
            is_dialled: true,
        };
        let names = vec![name("a", None), name("b", None), name("c", Some("no"))];
        let report = Report { names, unresolved: vec![failing], ..Report::default() };
        let mut kept = Kept::default();
        kept.most = 1;
        let mut page = Page::default();
        families(&report, &Asked::default(), &mut kept, &mut page);
        for line in [
            "redirector_name_addresses{name=\"a\"} 2\n",
            "redirector_name_addresses{name=\"other\"} 4\n",
            "redirector_name_unresolved{name=\"a\"} 0\n",
            "redirector_name_unresolved{name=\"other\"} 1\n",
            "redirector_name_answer_age_seconds{name=\"other\"} 360",
        ] {
            assert!(page.text.contains(line), "{line} in {}", page.text);
        }
        assert!(!page.text.contains("age_seconds{name=\"a\"}"), "not asked for yet: {}", page.text);
    }
}
