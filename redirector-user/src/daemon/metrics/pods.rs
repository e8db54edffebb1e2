//! How soon pods are known.

use super::page::Page;
use crate::identity::Arrivals;

/// The family of arrivals.
pub fn family(arrivals: &Arrivals, page: &mut Page) {
    page.family("pod_known_seconds");
    for (expected, times) in
        [("true", arrivals.expected_times()), ("false", arrivals.other_times())]
    {
        page.times("pod_known_seconds", [("expected", expected.to_owned())], times);
    }
    page.single("pods_foreseen_total", arrivals.foreseen_pods());
}
