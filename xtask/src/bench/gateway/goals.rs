//! What we mean to reach, and whether we do.

use std::fmt::Write as _;

use super::report::Report;
use super::subjects::Subject;

/// A bound of a ratio to a direct connection.
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn holds(&self, value: f64) -> bool {
        match *self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }

    /// The better of two.
    fn better(&self, one: f64, other: f64) -> f64 {
        match self {
            Self::AtLeast(_) => one.max(other),
            Self::AtMost(_) => one.min(other),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::AtLeast(least) => format!("at least {least:.2}"),
            Self::AtMost(most) => format!("at most {most:.2}"),
        }
    }
}

/// The figures of a workload: rate, processor time, median time.
const RATE: usize = 0;
const CPU: usize = 1;
const TIME: usize = 2;

/// What of which workload, its figure, and its bound.
const GOALS: [(&str, &str, usize, Bound); 7] = [
    ("connections a second", "CRR, 1 at a time", RATE, Bound::AtLeast(0.50)),
    ("processor time", "CRR, 1 at a time", CPU, Bound::AtMost(2.0)),
    ("response time", "RR 64 B", TIME, Bound::AtMost(2.3)),
    ("bytes a second", "bulk 64 KiB, 1 stream", RATE, Bound::AtLeast(0.70)),
    ("processor time", "bulk 64 KiB, 1 stream", CPU, Bound::AtMost(1.5)),
    ("bytes a second", "bulk 4 KiB, 1 stream", RATE, Bound::AtLeast(0.90)),
    ("processor time", "bulk 4 KiB, 1 stream", CPU, Bound::AtMost(1.5)),
];

/// Most memory of its own for an idle connection, in bytes.
const MEMORY: f64 = 4096.0;

impl Report {
    /// The goals of what was measured, with the best of the others.
    pub(super) fn goals(&self) -> String {
        let mut text = String::new();
        for (what, workload, which, bound) in &GOALS {
            let Some(ours) = self.of(workload, Subject::Redirector) else { continue };
            let value = ours[*which].median();
            let others = self.subjects.iter().filter(|subject| **subject != Subject::Redirector);
            let best = others
                .filter_map(|subject| Some((subject.name(), self.of(workload, *subject)?)))
                .map(|(name, columns)| (columns[*which].median(), name))
                .reduce(
                    |one, other| {
                        if bound.better(one.0, other.0) == one.0 { one } else { other }
                    },
                );
            let best = best.map_or(String::new(), |(value, name)| format!("{value:.2} ({name})"));
            let _ = writeln!(
                text,
                "| {workload}: {what} | {} | {value:.2} | {} | {best} |",
                bound.shown(),
                verdict(bound.holds(value))
            );
        }
        let ours = self.memory.iter().find(|(subject, ..)| *subject == Subject::Redirector);
        if let Some((_, _, bytes)) = ours {
            let _ = writeln!(
                text,
                "| memory of an idle connection | under {:.1} KiB | {:.1} KiB | {} | |",
                MEMORY / 1024.0,
                bytes / 1024.0,
                verdict(*bytes < MEMORY)
            );
        }
        if text.is_empty() {
            return text;
        }
        format!("| ratio to direct | goal | measured | | best of the others |\n|---|---|---|---|---|\n{text}")
            .trim_end()
            .to_owned()
    }
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "**missed**" }
}
