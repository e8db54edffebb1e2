//! A page in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use super::families::{PREFIX, family};
use crate::identity::Histogram;

/// Names and values of one sample.
pub type Labels = BTreeMap<&'static str, String>;

/// The labels of these names and values.
pub fn labels<const N: usize>(pairs: [(&'static str, String); N]) -> Labels {
    pairs.into_iter().collect()
}

/// A page that grows family by family.
#[derive(Debug, Default)]
pub struct Page {
    /// What it says.
    pub text: String,
}

impl Page {
    /// Begins a family; its samples follow.
    pub fn family(&mut self, name: &str) {
        let Some(family) = family(name) else {
            debug_assert!(false, "{name} is not in the list of families");
            return;
        };
        let _ = writeln!(self.text, "# HELP {PREFIX}{name} {}", family.help);
        let _ = writeln!(self.text, "# TYPE {PREFIX}{name} {}", family.kind.name());
    }

    /// A sample of the family that was begun last, or with a suffix of one of its
    /// parts.
    pub fn sample(&mut self, name: &str, labels: &Labels, value: impl Display) {
        let _ = write!(self.text, "{PREFIX}{name}");
        if !labels.is_empty() {
            let pairs = labels.iter().map(|(name, value)| {
                let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                format!("{name}=\"{value}\"")
            });
            let _ = write!(self.text, "{{{}}}", pairs.collect::<Vec<_>>().join(","));
        }
        let _ = writeln!(self.text, " {value}");
    }

    /// A family with one sample that has no labels.
    pub fn single(&mut self, name: &str, value: impl Display) {
        self.family(name);
        self.sample(name, &Labels::new(), value);
    }

    /// The samples of one histogram of times.
    pub fn times<const N: usize>(
        &mut self,
        name: &str,
        pairs: [(&'static str, String); N],
        times: &Histogram,
    ) {
        let buckets = times.cumulative();
        let buckets = buckets.map(|(bound, count)| (bound.map(|bound| bound.as_secs_f64()), count));
        self.histogram(name, &labels(pairs), buckets, times.sum().as_secs_f64());
    }

    /// The samples of one histogram: upper bounds with cumulative counts, the last
    /// without a bound.
    pub fn histogram(
        &mut self,
        name: &str,
        labels: &Labels,
        buckets: impl Iterator<Item = (Option<f64>, u64)>,
        sum: f64,
    ) {
        let mut count = 0;
        for (bound, cumulative) in buckets {
            let mut labels = labels.clone();
            labels.insert("le", bound.map_or("+Inf".to_owned(), |bound| bound.to_string()));
            self.sample(&format!("{name}_bucket"), &labels, cumulative);
            count = cumulative;
        }
        self.sample(&format!("{name}_sum"), labels, sum);
        self.sample(&format!("{name}_count"), labels, count);
    }
}
