//! How soon pods are known.

use super::{Page, labels};
use crate::identity::Arrivals;

/// The family of arrivals.
pub(super) fn family(arrivals: &Arrivals, page: &mut Page) {
    let name = "pod_known_seconds";
    page.family(
        name,
        "histogram",
        "Time from seeing a pod's new cgroup to its entry in the kernel's table; expected: the API \
         server had told of the pod before",
    );
    for (expected, times) in
        [("true", arrivals.expected_times()), ("false", arrivals.other_times())]
    {
        let labels = |le: Option<String>| {
            let mut labels = labels([("expected", expected.to_owned())]);
            labels.extend(le.map(|le| ("le", le)));
            labels
        };
        for (bound, count) in times.cumulative() {
            let bound = bound.map_or("+Inf".to_owned(), |bound| bound.as_secs_f64().to_string());
            page.sample("pod_known_seconds_bucket", &labels(Some(bound)), count);
        }
        page.sample("pod_known_seconds_sum", &labels(None), times.sum().as_secs_f64());
        page.sample("pod_known_seconds_count", &labels(None), times.count());
    }
    page.counter(
        "pods_foreseen_total",
        "Pods that were known by what the rules ask of them, before they were compiled",
        arrivals.foreseen_pods(),
    );
}
