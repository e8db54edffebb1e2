//! The plot.

use std::fmt::Write as _;

use super::load::Kind;
use super::report::Report;

impl Report {
    /// Rates as bars: one group for each workload.
    pub(super) fn plot(&self) -> String {
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
            // The first column is direct against itself: not a bar.
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
