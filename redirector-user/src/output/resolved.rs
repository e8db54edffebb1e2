//! What is known of names, as people read it.

use std::net::IpAddr;
use std::time::Duration;

use super::{Align, Table};
use crate::state::KnownName;

/// So many addresses of a name are shown.
const ADDRESSES: usize = 4;

/// A table of names: what each resolves to, for how long it has, and why it was not answered
/// for last time. `now` is in seconds since 1970.
pub fn known_names<'n>(names: impl IntoIterator<Item = &'n KnownName>, now: u64) -> Table {
    let columns = ["ADDRESSES", "SINCE", "TTL", "UNTIL LATELY", "LAST ERROR"];
    let mut table = Table::grouped("NAME", &columns.map(|name| (name, Align::Left)));
    for one in names {
        table.group(one.name.clone());
        let ttl = one.ttl.map(|ttl| duration(ttl.into()));
        table.row([
            some_addresses(&one.addresses),
            one.since.map_or_else(|| "never".to_owned(), |since| age(since, now)),
            ttl.unwrap_or_default(),
            some_addresses(&one.former),
            one.because.clone().unwrap_or_default(),
        ]);
    }
    table
}

/// The same of one name, in a sentence.
pub fn known_name(one: &KnownName, now: u64) -> String {
    let resolves = match one.since {
        Some(since) => {
            format!("resolves to {} for {}", some_addresses(&one.addresses), age(since, now))
        }
        None => "was never resolved".to_owned(),
    };
    let failed = one.because.as_ref().map(|why| format!("; the last lookup failed: {why}"));
    format!("{} {resolves}{}", one.name, failed.unwrap_or_default())
}

/// The first of them, and how many more there are.
pub fn some_addresses(addresses: &[IpAddr]) -> String {
    let mut shown: Vec<String> = addresses.iter().take(ADDRESSES).map(IpAddr::to_string).collect();
    let more = addresses.len().saturating_sub(ADDRESSES);
    shown.extend((more > 0).then(|| format!("and {more} more")));
    shown.join(", ")
}

fn age(since: u64, now: u64) -> String {
    duration(now.saturating_sub(since))
}

fn duration(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::UNLIMITED;

    #[test]
    fn a_name_is_shown_with_its_age_and_why_it_was_not_answered_for() {
        let mut name = KnownName {
            name: "db.example.com".to_owned(),
            addresses: vec![IpAddr::from([192, 0, 2, 1])],
            former: Vec::new(),
            since: Some(1_000),
            answered: None,
            ttl: Some(60),
            because: Some("no answer".to_owned()),
        };
        let table = known_names([&name], 1_125).render(UNLIMITED);
        for part in ["db.example.com", "192.0.2.1", "2m 5s", "1m", "no answer"] {
            assert!(table.contains(part), "{part}: {table}");
        }
        assert_eq!(
            known_name(&name, 1_125),
            "db.example.com resolves to 192.0.2.1 for 2m 5s; the last lookup failed: no answer"
        );
        (name.since, name.because) = (None, None);
        assert_eq!(known_name(&name, 1_125), "db.example.com was never resolved");
    }
}
