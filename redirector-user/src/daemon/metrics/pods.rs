//! How soon pods are known.

use super::page::{Page, labels};
use crate::identity::Arrivals;

/// The family of arrivals.
pub fn family(arrivals: &Arrivals, page: &mut Page) {
    page.family("pod_known_seconds");
    for (expected, times) in
        [("true", arrivals.expected_times()), ("false", arrivals.other_times())]
    {
        let labels = labels([("expected", expected.to_owned())]);
        let buckets = times.cumulative();
        let buckets = buckets.map(|(bound, count)| (bound.map(|bound| bound.as_secs_f64()), count));
        page.histogram("pod_known_seconds", &labels, buckets, times.sum().as_secs_f64());
    }
    page.single("pods_foreseen_total", arrivals.foreseen_pods());
}
