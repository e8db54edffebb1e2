//! The annotation of ours that says how long connections to endpoints that have
//! gone may go on.

use super::facts::Facts;
use super::{Finding, Report};
use crate::diag::Diagnostic;
use crate::diag::codes::differences;
use crate::drain::time;
use crate::model::Kind;
use crate::model::annotations::DRAIN;

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    for object in facts.world.objects() {
        if !object.meta.annotations.contains_key(DRAIN) {
            continue;
        }
        let kind = object.reference().kind;
        let takes_it = matches!(kind, Kind::Service | Kind::ServiceEntry | Kind::DestinationRule);
        let problem = match time(object) {
            _ if !takes_it => format!("{DRAIN} has no meaning for a {kind}"),
            Err(why) => format!("{DRAIN}: {why}"),
            Ok(_) => continue,
        };
        Report::new(object.reference(), findings).add(
            format!("metadata.annotations.{DRAIN}"),
            Diagnostic::new(&differences::DRAIN_TIME, problem),
        );
    }
}
