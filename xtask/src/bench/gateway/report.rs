//! The table and the plot.

use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::load::{Kind, Load};
use super::subjects::Subject;
use crate::bench::page;
use crate::bench::ratios::Ratios;
use crate::workspace::root;

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// Operations (or bytes) a second.
    pub rate: f64,
    /// Processor time of all processes for one operation (or byte), in seconds.
    pub cpu: f64,
    /// Half of the operations took less, in microseconds.
    pub median: f64,
}

impl Cell {
    /// Rate, processor time, median time.
    fn figures(self) -> [f64; 3] {
        [self.rate, self.cpu, self.median]
    }
}

/// One workload with all its rounds.
pub(super) struct Workload {
    pub name: &'static str,
    pub kind: Kind,
    /// Of a round's direct measurements, the means: rate, processor time,
    /// median time.
    direct: [Ratios; 3],
    /// The ratios to them, first of direct itself, then of the subjects.
    pub columns: Vec<[Ratios; 3]>,
}

/// Everything measured.
pub struct Report {
    pub(super) subjects: Vec<Subject>,
    pub(super) workloads: Vec<Workload>,
    pub(super) memory: Vec<(Subject, usize, f64)>,
}

impl Report {
    pub fn new(subjects: &[Subject]) -> Self {
        Self { subjects: subjects.to_vec(), workloads: Vec::new(), memory: Vec::new() }
    }

    /// Adds a round: direct at its beginning, in its middle and at its end,
    /// and the subjects in between. They are compared with the mean of the
    /// three; direct itself, the middle one, with that of the two others.
    pub fn add(&mut self, name: &'static str, load: Load, direct: [Cell; 3], rest: &[Cell]) {
        if self.workloads.last().is_none_or(|workload| workload.name != name) {
            self.workloads.push(Workload {
                name,
                kind: load.kind,
                direct: Default::default(),
                columns: vec![Default::default(); rest.len() + 1],
            });
        }
        let Some(workload) = self.workloads.last_mut() else { return };
        let [first, middle, last] = direct.map(Cell::figures);
        for which in 0..3 {
            let around = (first[which] + last[which]) / 2.0;
            let mean = (2.0 * around + middle[which]) / 3.0;
            workload.direct[which].0.push(mean);
            workload.columns[0][which].0.push(middle[which] / around);
            for (column, cell) in workload.columns[1..].iter_mut().zip(rest) {
                column[which].0.push(cell.figures()[which] / mean);
            }
        }
    }

    /// What a subject came to in a workload, if both were measured.
    pub(super) fn of(&self, workload: &str, subject: Subject) -> Option<&[Ratios; 3]> {
        let place = self.subjects.iter().position(|one| *one == subject)?;
        self.workloads.iter().find(|one| one.name == workload)?.columns.get(place + 1)
    }

    /// The workloads for which direct is not equal to direct: what differs by
    /// no more than that says nothing. With the ratio, in the middle.
    fn unsteady(&self) -> Vec<(&'static str, f64)> {
        self.workloads
            .iter()
            .filter_map(|workload| {
                let which = *figures(workload.kind).first()?;
                Some((workload.name, workload.columns.first()?[which].median()))
            })
            .filter(|(_, median)| !(0.95..=1.05).contains(median))
            .collect()
    }

    /// Adds what one idle connection costs.
    pub fn memory(&mut self, subject: Subject, (count, bytes): (usize, f64)) {
        self.memory.push((subject, count, bytes));
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        ["direct, against itself"]
            .into_iter()
            .chain(self.subjects.iter().map(|subject| subject.name()))
    }

    /// One workload, for the terminal.
    pub fn text_of(&self, name: &str) -> String {
        let mut text = String::new();
        for workload in self.workloads.iter().filter(|workload| workload.name == name) {
            let _ = writeln!(text, "  {:<22}  {}", "direct", workload.absolute());
            for (name, column) in self.names().zip(&workload.columns) {
                let _ = write!(text, "  {name:<22}");
                for &which in figures(workload.kind) {
                    let figure = ["rate", "CPU", "p50"][which];
                    let _ = write!(text, "  {figure} {}", column[which].shown_by_quarters());
                }
                text.push('\n');
            }
        }
        text
    }

    /// The whole table.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for (title, kind, which) in [
            ("Connections a second (connect, a byte each way, close)", Kind::Crr, 0),
            ("Processor time for a connection", Kind::Crr, 1),
            ("Time of a request and its response, median", Kind::Rr, 2),
            ("Bytes a second", Kind::Bulk, 0),
            ("Processor time for a byte", Kind::Bulk, 1),
        ] {
            let workloads: Vec<_> = self.workloads.iter().filter(|w| w.kind == kind).collect();
            if workloads.is_empty() {
                continue;
            }
            let _ = write!(text, "| {title} |");
            for workload in &workloads {
                let _ = write!(text, " {} |", workload.name);
            }
            let _ = write!(text, "\n|---|{}\n| direct |", "---|".repeat(workloads.len()));
            for workload in &workloads {
                let _ = write!(text, " {} |", workload.absolute_of(which));
            }
            for (place, name) in self.names().enumerate() {
                let _ = write!(text, "\n| {name} |");
                for workload in &workloads {
                    let _ =
                        write!(text, " {} |", workload.columns[place][which].shown_by_quarters());
                }
            }
            text.push_str("\n\n");
        }
        if let Some((_, count, _)) = self.memory.first() {
            let _ = write!(
                text,
                "| Memory of its own | for each of {count} idle connections |\n|---|---|\n"
            );
            for (subject, _, bytes) in &self.memory {
                let _ = writeln!(text, "| {} | {:.1} KiB |", subject.name(), bytes / 1024.0);
            }
        }
        for (name, ratio) in self.unsteady() {
            let _ = write!(
                text,
                "\n{name}: direct was {ratio:.2} of itself, so nothing that differs by less \
                 counts.\n"
            );
        }
        text.trim_end().to_owned()
    }

    /// Puts the table into docs/performance.md, with the command that made it,
    /// and the plot beside it.
    pub fn write(&self, made_by: &str) -> Result<()> {
        let plot = root().join("docs/performance-gateway.svg");
        std::fs::write(&plot, self.plot())
            .with_context(|| format!("cannot write {}", plot.display()))?;
        let text = format!(
            "{made_by}\n\n![The gateway proxy and its peers, as ratios to a direct \
             connection](performance-gateway.svg)\n\n{}\n\n{}",
            self.goals(),
            self.markdown()
        );
        page::write(page::PERFORMANCE, "gateway", "Gateway proxy", text.trim_end())
    }
}

/// Which figures of a workload mean something: bulk has no response time.
fn figures(kind: Kind) -> &'static [usize] {
    match kind {
        Kind::Crr => &[0, 1, 2],
        Kind::Rr => &[2, 1],
        Kind::Bulk => &[0, 1],
    }
}

impl Workload {
    fn absolute(&self) -> String {
        let shown = figures(self.kind).iter().map(|&which| self.absolute_of(which));
        shown.collect::<Vec<_>>().join(", ")
    }

    /// What a direct connection reaches.
    fn absolute_of(&self, which: usize) -> String {
        let value = self.direct[which].median();
        match (which, self.kind) {
            (0, Kind::Bulk) => format!("{:.2} GB/s", value / 1e9),
            (0, _) => format!("{value:.0} /s"),
            (1, Kind::Bulk) => format!("{:.2} s/GB", value * 1e9),
            (1, _) => format!("{:.1} us", value * 1e6),
            _ => format!("{value:.1} us"),
        }
    }
}
