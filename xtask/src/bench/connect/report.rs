//! The table.

use std::fmt::Write as _;

use super::load::Outcome;
use crate::bench::ratios::Ratios;

/// Everything measured.
#[derive(Default)]
pub struct Report {
    direct: [Ratios; 3],
    rows: Vec<(String, [Ratios; 3])>,
}

fn figures(outcome: Outcome) -> [f64; 3] {
    [outcome.connect, outcome.close, outcome.rate]
}

impl Report {
    /// Adds a direct measurement, that the next ones are compared with.
    pub fn direct(&mut self, outcome: Outcome) {
        for (ratios, value) in self.direct.iter_mut().zip(figures(outcome)) {
            ratios.0.push(value);
        }
    }

    /// Adds a measurement of a round.
    pub fn add(&mut self, name: &str, direct: Outcome, outcome: Outcome) {
        let at = self.rows.iter().position(|(row, _)| row == name).unwrap_or_else(|| {
            self.rows.push((name.to_owned(), Default::default()));
            self.rows.len() - 1
        });
        let values = figures(outcome).into_iter().zip(figures(direct));
        for (ratios, (value, direct)) in self.rows[at].1.iter_mut().zip(values) {
            ratios.0.push(value / direct);
        }
    }

    /// The whole table: ratios to the direct measurement just before.
    pub fn markdown(&self) -> String {
        let [connect, close, rate] = self.direct.each_ref().map(Ratios::median);
        let mut text = format!(
            "| {} rounds | `connect()`, median | `close()`, median | connections a second |\n\
             |---|---|---|---|\n\
             | direct | {connect:.0} ns | {close:.0} ns | {rate:.0} |",
            self.rows.iter().map(|(_, ratios)| ratios[0].0.len()).max().unwrap_or(0)
        );
        for (name, ratios) in &self.rows {
            let [connect, close, rate] = ratios.each_ref().map(Ratios::shown);
            let _ = write!(text, "\n| {name} | {connect} | {close} | {rate} |");
        }
        text
    }
}
