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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::{Around, analyze as all};
    use crate::documents;
    use crate::registry::Registry;
    use crate::world::{Settings, World};

    #[test]
    fn a_drain_time_that_is_none_or_elsewhere_is_told() {
        let found = |kind: &str, time: &str| {
            let text = format!(
                "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: a, \
                 annotations: {{redirector.io/drain: '{time}'}}}}\nspec: {{host: a, address: 10.0.0.1}}\n"
            );
            let mut world = World::new(Settings::default());
            for read in documents::read(None, &text).objects {
                world.insert(read.object.expect("the documents are good"));
            }
            let found = all(&world, &mut Registry::new(&world), &Around::default()).0;
            let of = |one: &&Finding| one.diagnostic.code == differences::DRAIN_TIME.id;
            found.iter().find(of).map(|one| one.diagnostic.message.clone())
        };
        assert_eq!(found("DestinationRule", "30s"), None);
        assert_eq!(found("DestinationRule", "0s"), None);
        assert!(found("DestinationRule", "30").is_some_and(|text| text.contains("not a duration")));
        assert!(found("WorkloadEntry", "30s").is_some_and(|text| text.contains("no meaning")));
    }
}
