//! Outcomes as JUnit XML, which CI systems show.

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use redirector_core::expect::Outcome;

use super::{explain, told};
use crate::output::Style;

/// A suite for each file.
///
/// # Errors
///
/// The writer's, in words.
pub fn report(outcomes: &[Outcome]) -> Result<String, String> {
    let mut report = Report::new("redirector");
    for outcomes in outcomes.chunk_by(|one, next| one.file == next.file) {
        let file = outcomes.first().map_or("", |outcome| &*outcome.file);
        let mut suite = TestSuite::new(file);
        suite.add_test_cases(outcomes.iter().map(case));
        report.add_test_suite(suite);
    }
    report.to_string().map(|text| text + "\n").map_err(|error| error.to_string())
}

fn case(outcome: &Outcome) -> TestCase {
    let mut status = TestCaseStatus::success();
    if !outcome.passed {
        let told: Vec<String> =
            outcome.differences.iter().map(|difference| told(difference, outcome)).collect();
        let texts = outcome.explanations.iter().map(|one| explain::text(one, Style::PLAIN));
        let description = format!("{}\n\n{}", told.join("\n"), texts.collect::<String>());
        status = TestCaseStatus::non_success(NonSuccessKind::Failure);
        status.set_message(told.join("; ")).set_description(description);
    }
    let mut case = TestCase::new(outcome.name.as_str(), status);
    case.set_classname(&*outcome.file);
    case.extra.insert("file".into(), (&*outcome.file).into());
    case.extra.insert("line".into(), outcome.line.to_string().into());
    case
}
