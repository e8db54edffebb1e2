//! What the layers brought, told as it comes and once more at the end.

use std::fmt::Write;
use std::time::Instant;

use anyhow::{Context, Result};

use super::layers::logs;
use super::libtest::{Case, Outcome, Suite};

/// How many of the slowest tests are named at the end.
const SLOWEST: usize = 10;

/// A layer of tests: what of it has ended is printed at once.
pub struct Layer {
    name: String,
    suites: Vec<Suite>,
    /// Prints also what passed.
    every: bool,
    begun: Instant,
    seconds: f64,
}

impl Layer {
    /// A layer begins; with `every`, each of its tests is printed, not only those
    /// that did not pass.
    pub fn begin(name: &str, every: bool) -> Self {
        println!("==> {name}");
        Self {
            name: name.to_owned(),
            suites: Vec::new(),
            every,
            begun: Instant::now(),
            seconds: 0.0,
        }
    }

    /// A test that was run elsewhere has printed this: its figures are shown.
    pub fn printed(&self, file: &str, text: &str) -> Result<()> {
        // The first one stands behind the test's name.
        for (_, figure) in text.lines().filter_map(|line| line.split_once("figure: ")) {
            println!("    {figure}");
        }
        let logs = logs(&self.name);
        std::fs::create_dir_all(&logs)?;
        std::fs::write(logs.join(file), text).with_context(|| format!("cannot write {file}"))
    }

    /// A test of a suite has ended.
    pub fn ended(&mut self, suite: &str, case: Case) {
        print!("{}", line(suite, &case, self.every));
        match self.suites.iter_mut().find(|known| known.name == suite) {
            Some(suite) => suite.cases.push(case),
            None => self.suites.push(Suite { name: suite.to_owned(), cases: vec![case] }),
        }
    }

    /// All tests of a suite have ended.
    pub fn suite_ended(&self, name: &str) {
        if let Some(suite) = self.suites.iter().find(|suite| suite.name == name) {
            let count = suite.cases.len();
            let tests = if count == 1 { "test " } else { "tests" };
            println!("    {name:<40} {count:>4} {tests} {:>7.1} s", suite.seconds());
        }
    }

    /// A check that is a suite of its own has ended.
    pub fn single(&mut self, case: Case) {
        let name = case.name.clone();
        self.ended(&name, case);
        self.suite_ended(&name);
    }

    /// The whole layer has ended.
    pub fn end(&mut self) {
        self.seconds = self.begun.elapsed().as_secs_f64();
        let [passed, failed, skipped] = self.counts();
        println!(
            "    {passed} passed, {failed} failed, {skipped} skipped in {:.0} s",
            self.seconds
        );
    }

    /// How many passed, failed and were skipped.
    pub fn counts(&self) -> [usize; 3] {
        self.suites.iter().map(Suite::counts).fold([0; 3], add)
    }
}

fn add(one: [usize; 3], other: [usize; 3]) -> [usize; 3] {
    std::array::from_fn(|at| one[at] + other[at])
}

/// A test's line, and below it why it failed; nothing for one that passed, unless
/// every one is wanted.
fn line(suite: &str, case: &Case, every: bool) -> String {
    let name = full_name(suite, &case.name);
    match &case.outcome {
        Outcome::Passed if every => format!("  ok      {name}\n"),
        Outcome::Passed => String::new(),
        Outcome::Skipped(why) => format!("  skipped {name}: {why}\n"),
        Outcome::Failed(why) => {
            let why: String = why.lines().map(|line| format!("          {line}\n")).collect();
            format!("  FAILED  {name}\n{why}")
        }
    }
}

fn full_name(suite: &str, name: &str) -> String {
    // A test's path begins with its module, which may be its suite.
    if name == suite || name.starts_with(&format!("{suite}::")) {
        name.to_owned()
    } else {
        format!("{suite}: {name}")
    }
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
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{:<24} {passed:>7} {failed:>7} {skipped:>8} {:>9.0}",
                layer.name, layer.seconds
            );
        }
        text
    }

    /// The tests that took longest, the longest first.
    pub fn slowest(&self) -> String {
        let mut all: Vec<_> = self
            .layers
            .iter()
            .flat_map(|layer| layer.suites.iter().map(move |suite| (layer, suite)))
            .flat_map(|(layer, suite)| suite.cases.iter().map(move |case| (layer, suite, case)))
            .collect();
        all.sort_by(|one, other| other.2.seconds.total_cmp(&one.2.seconds));
        let mut text = "what took longest\n".to_owned();
        for (layer, suite, case) in all.into_iter().take(SLOWEST) {
            let name = full_name(&suite.name, &case.name);
            let _ = writeln!(text, "{:>7.1} s  {}: {name}", case.seconds, layer.name);
        }
        text
    }

    /// The closing line, which scripts read.
    pub fn summary(&self) -> String {
        let [passed, failed, skipped] = self.counts();
        format!("{passed} passed, {failed} failed, {skipped} skipped")
    }

    /// How many passed, failed and were skipped.
    pub fn counts(&self) -> [usize; 3] {
        self.layers.iter().map(Layer::counts).fold([0; 3], add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str, outcome: Outcome, seconds: f64) -> Case {
        Case { name: name.into(), outcome, seconds }
    }

    #[test]
    fn a_skipped_test_is_never_counted_as_passed() {
        let mut unit = Layer::begin("unit", false);
        unit.ended("s", case("a", Outcome::Passed, 1.0));
        unit.ended("s", case("b", Outcome::Skipped("needs root".into()), 0.0));
        let mut vm = Layer::begin("vm", false);
        vm.single(case("vm can be run", Outcome::Failed("no qemu".into()), 0.0));
        let report = Report { layers: vec![unit, vm] };
        assert_eq!(report.summary(), "1 passed, 1 failed, 1 skipped");
    }

    #[test]
    fn what_did_not_pass_is_told_with_its_reason() {
        let skipped = case("b", Outcome::Skipped("needs root".into()), 0.0);
        assert_eq!(line("s", &skipped, false), "  skipped s: b: needs root\n");
        let failed = case("s::c", Outcome::Failed("left\nright".into()), 0.0);
        assert_eq!(line("s", &failed, false), "  FAILED  s::c\n          left\n          right\n");
        assert_eq!(line("s", &case("a", Outcome::Passed, 0.0), false), "");
    }

    #[test]
    fn the_slowest_come_first() {
        let mut layer = Layer::begin("kernel", false);
        for (name, seconds) in [("a", 1.0), ("b", 3.0), ("c", 2.0)] {
            layer.ended("s", case(name, Outcome::Passed, seconds));
        }
        let text = Report { layers: vec![layer] }.slowest();
        assert_eq!(
            text,
            "what took longest\n    3.0 s  kernel: s: b\n    2.0 s  kernel: s: c\n    1.0 s  kernel: s: a\n"
        );
    }
}
