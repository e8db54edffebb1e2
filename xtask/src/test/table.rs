//! What the layers brought, as people read it.

use std::fmt::Write;

use super::libtest::{Outcome, Suite};

/// The results of one layer.
#[derive(Default)]
pub struct Layer {
    /// Its name.
    pub name: String,
    /// Its suites.
    pub suites: Vec<Suite>,
}

impl Layer {
    /// A layer that could not be run, which is a failure.
    pub fn broken(name: &str, why: String) -> Self {
        let suite = Suite::single(format!("{name} can be run"), Outcome::Failed(why), 0.0);
        Self { name: name.to_owned(), suites: vec![suite] }
    }

    /// What failed and what was skipped, or every test.
    pub fn text(&self, every: bool) -> String {
        let mut text = String::new();
        for suite in &self.suites {
            for case in &suite.cases {
                let name = if suite.name == case.name {
                    case.name.clone()
                } else {
                    format!("{}: {}", suite.name, case.name)
                };
                // Writing to a String cannot fail.
                let _ = match &case.outcome {
                    Outcome::Passed if every => writeln!(text, "  ok      {name}"),
                    Outcome::Passed => Ok(()),
                    Outcome::Skipped(why) if why.is_empty() => writeln!(text, "  skipped {name}"),
                    Outcome::Skipped(why) => writeln!(text, "  skipped {name}: {why}"),
                    Outcome::Failed(why) => writeln!(text, "  FAILED  {name}\n{}", indented(why)),
                };
            }
        }
        let [passed, failed, skipped] = self.counts();
        let _ = writeln!(
            text,
            "    {passed} passed, {failed} failed, {skipped} skipped in {:.0} s",
            self.seconds()
        );
        text
    }

    fn counts(&self) -> [usize; 3] {
        self.suites.iter().fold([0; 3], |sum, suite| {
            [sum[0] + suite.passed(), sum[1] + suite.failed(), sum[2] + suite.skipped()]
        })
    }

    fn seconds(&self) -> f64 {
        self.suites.iter().map(|suite| suite.seconds).sum()
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("          {line}")).collect::<Vec<_>>().join("\n")
}

/// The results of all layers.
#[derive(Default)]
pub struct Report {
    /// In the order in which they ran.
    pub layers: Vec<Layer>,
}

impl Report {
    /// One line for each layer.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<24} {:>7} {:>7} {:>8} {:>9}\n",
            "layer", "passed", "failed", "skipped", "seconds"
        );
        for layer in &self.layers {
            let [passed, failed, skipped] = layer.counts();
            let _ = writeln!(
                text,
                "{:<24} {passed:>7} {failed:>7} {skipped:>8} {:>9.0}",
                layer.name,
                layer.seconds()
            );
        }
        text
    }

    /// The closing line, which scripts read.
    pub fn summary(&self) -> String {
        let [passed, failed, skipped] = self.counts();
        format!("{passed} passed, {failed} failed, {skipped} skipped")
    }

    /// Tests that did not hold.
    pub fn failed(&self) -> usize {
        self.counts()[1]
    }

    /// Tests that did not run.
    pub fn skipped(&self) -> usize {
        self.counts()[2]
    }

    fn counts(&self) -> [usize; 3] {
        self.layers
            .iter()
            .map(Layer::counts)
            .fold([0; 3], |sum, layer| [sum[0] + layer[0], sum[1] + layer[1], sum[2] + layer[2]])
    }
}

#[cfg(test)]
mod tests {
    use super::super::libtest::Case;
    use super::*;

    #[test]
    fn a_skipped_test_is_never_counted_as_passed() {
        let cases = vec![
            Case { name: "a".into(), outcome: Outcome::Passed },
            Case { name: "b".into(), outcome: Outcome::Skipped("needs root".into()) },
        ];
        let suite = Suite { name: "s".into(), cases, seconds: 1.0 };
        let layer = Layer { name: "unit".into(), suites: vec![suite] };
        assert!(layer.text(false).contains("skipped s: b: needs root"));
        let report = Report { layers: vec![layer, Layer::broken("vm", "no qemu".into())] };
        assert_eq!(report.summary(), "1 passed, 1 failed, 1 skipped");
    }
}
