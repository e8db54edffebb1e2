//! The annotation of ours that says how long connections to endpoints that have
//! gone may go on.

use super::facts::Facts;
use super::{Finding, Report};
use crate::diag::Diagnostic;
use crate::diag::codes::differences;
use crate::drain::time;
use crate::model::annotations::{DRAIN, idle};

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    for object in facts.world.objects() {
        let Some(value) = object.meta.annotations.get(DRAIN) else { continue };
        let problem = match (idle(DRAIN, value, object.reference().kind), time(object)) {
            (Some((problem, _)), _) => problem,
            (None, Err(why)) => format!("{DRAIN}: {why}"),
            (None, Ok(_)) => continue,
        };
        Report::new(object.reference(), findings).add(
            format!("metadata.annotations.{DRAIN}"),
            Diagnostic::new(&differences::DRAIN_TIME, problem),
        );
    }
}
