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

/// One workload with all its rounds. The first column is direct again.
struct Workload {
    name: &'static str,
    kind: Kind,
    /// Of the first direct measurement: rate, processor time, median time.
    direct: [Ratios; 3],
    columns: Vec<[Ratios; 3]>,
}

/// Everything measured.
pub struct Report {
    subjects: Vec<Subject>,
    workloads: Vec<Workload>,
    memory: Vec<(Subject, usize, f64)>,
}

impl Report {
    pub fn new(subjects: &[Subject]) -> Self {
        Self { subjects: subjects.to_vec(), workloads: Vec::new(), memory: Vec::new() }
    }

    /// Adds a round.
    pub fn add(
        &mut self,
        name: &'static str,
        load: Load,
        direct: Cell,
        again: Cell,
        rest: &[Cell],
    ) {
        if self.workloads.last().is_none_or(|workload| workload.name != name) {
            self.workloads.push(Workload {
                name,
                kind: load.kind,
                direct: Default::default(),
                columns: vec![Default::default(); rest.len() + 1],
            });
        }
        let Some(workload) = self.workloads.last_mut() else { return };
        for (ratios, value) in
            workload.direct.iter_mut().zip([direct.rate, direct.cpu, direct.median])
        {
            ratios.0.push(value);
        }
        for (column, cell) in workload.columns.iter_mut().zip([&again].into_iter().chain(rest)) {
            column[0].0.push(cell.rate / direct.rate);
            column[1].0.push(cell.cpu / direct.cpu);
            column[2].0.push(cell.median / direct.median);
        }
    }

    /// The workloads for which direct was not even equal to direct: their other
    /// figures say nothing either.
    pub fn unsteady(&self) -> Vec<&'static str> {
        let steady = |ratios: &Ratios| (0.95..=1.05).contains(&ratios.median());
        // Bulk has no response time, the others no bytes worth counting.
        let which = |kind| if kind == Kind::Rr { 2 } else { 0 };
        self.workloads
            .iter()
            .filter(|workload| {
                workload.columns.first().is_some_and(|again| !steady(&again[which(workload.kind)]))
            })
            .map(|workload| workload.name)
            .collect()
    }

    /// Adds what one idle connection costs.
    pub fn memory(&mut self, subject: Subject, (count, bytes): (usize, f64)) {
        self.memory.push((subject, count, bytes));
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        ["direct again"].into_iter().chain(self.subjects.iter().map(|subject| subject.name()))
    }

    /// One workload, for the terminal.
    pub fn text_of(&self, name: &str) -> String {
        let mut text = String::new();
        for workload in self.workloads.iter().filter(|workload| workload.name == name) {
            let _ = writeln!(text, "  {:<18} {}", "direct", workload.absolute());
            for (name, column) in self.names().zip(&workload.columns) {
                let [rate, cpu, median] = column.each_ref().map(Ratios::shown);
                let _ = writeln!(text, "  {name:<18} rate {rate}  CPU {cpu}  p50 {median}");
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
                    let _ = write!(text, " {} |", workload.columns[place][which].shown());
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
        text.trim_end().to_owned()
    }

    /// Puts the table into docs/performance.md, and the plot beside it.
    pub fn write(&self, table: &str) -> Result<()> {
        let plot = root().join("docs/performance-gateway.svg");
        std::fs::write(&plot, self.plot())
            .with_context(|| format!("cannot write {}", plot.display()))?;
        let text = format!(
            "![The gateway proxy and its peers, as ratios to a direct \
             connection](performance-gateway.svg)\n\n{table}"
        );
        page::write("gateway", "Gateway proxy", &text)
    }

    /// Rates as bars: one group for each workload.
    fn plot(&self) -> String {
        const COLORS: [&str; 6] =
            ["#1f6feb", "#8c959f", "#57606a", "#2da44e", "#bf3989", "#d4a72c"];
        const WIDTH: f64 = 960.0;
        const HEIGHT: f64 = 300.0;
        const LEFT: f64 = 50.0;
        const TOP: f64 = 50.0;
        let group = WIDTH / self.workloads.len().max(1) as f64;
        let bar = group * 0.84 / self.subjects.len().max(1) as f64;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" \
             font-family=\"sans-serif\" font-size=\"11\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
            WIDTH + LEFT + 10.0,
            HEIGHT + TOP + 50.0
        );
        for tenth in (0..=10).step_by(2) {
            let y = TOP + HEIGHT * (1.0 - f64::from(tenth) / 10.0);
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\" stroke=\"#d0d7de\"/>\
                 <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{:.1}</text>",
                LEFT + WIDTH,
                LEFT - 6.0,
                y + 4.0,
                f64::from(tenth) / 10.0
            );
        }
        for (place, (subject, color)) in self.subjects.iter().zip(COLORS).enumerate() {
            let x = LEFT + place as f64 * 150.0;
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"14\" width=\"12\" height=\"12\" fill=\"{color}\"/>\
                 <text x=\"{}\" y=\"24\">{}</text>",
                x + 17.0,
                subject.name()
            );
        }
        for (place, workload) in self.workloads.iter().enumerate() {
            let start = LEFT + place as f64 * group + group * 0.08;
            // The first column is direct again: not a bar.
            for (n, (column, color)) in workload.columns.iter().skip(1).zip(COLORS).enumerate() {
                // A response time is a rate upside down.
                let rate = match workload.kind {
                    Kind::Rr => 1.0 / column[2].median(),
                    Kind::Crr | Kind::Bulk => column[0].median(),
                };
                let height = HEIGHT * rate.clamp(0.0, 1.05);
                let (x, y) = (start + n as f64 * bar, TOP + HEIGHT - height);
                let _ = writeln!(
                    svg,
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" \
                     fill=\"{color}\"/><text x=\"{:.1}\" y=\"{:.1}\" font-size=\"8\" \
                     text-anchor=\"middle\">{rate:.2}</text>",
                    bar - 1.0,
                    x + bar / 2.0,
                    y - 3.0
                );
            }
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                LEFT + (place as f64 + 0.5) * group,
                TOP + HEIGHT + 18.0,
                workload.name
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"{}\">Speed as a share of a direct connection's \
             (1.0): higher is better. Everything on one processor.</text>\n</svg>",
            TOP + HEIGHT + 40.0
        );
        svg
    }
}

impl Workload {
    fn absolute(&self) -> String {
        (0..3).map(|which| self.absolute_of(which)).collect::<Vec<_>>().join(", ")
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
