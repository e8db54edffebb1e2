//! What is computed step by step against the whole, in lives too long for code that is
//! not optimised.

use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::libtest::{Case, Outcome};
use super::table::Layer;
use super::{Selection, build};
use crate::workspace::{cargo, target};

/// Worlds that are edited.
pub const EDITS: &str = "edits::what_follows_edits_is_what_the_whole_gives_and_remembers_no_more";
/// One with a hundred thousand rules, which only optimised code is fast enough for.
pub const RULES: &str =
    "edits::what_follows_edits_of_a_hundred_thousand_rules_is_what_the_whole_gives";

/// A test of the core, and how much of it.
struct Run {
    name: &'static str,
    test: &'static str,
    environment: &'static [(&'static str, &'static str)],
}

/// As many edits as one processor makes beside the others.
const RUNS: [Run; 3] = [
    Run {
        name: "50,000 edits of worlds of up to 200 objects",
        test: EDITS,
        environment: &[
            ("REDIRECTOR_EDITS", "50000"),
            ("REDIRECTOR_OBJECTS", "200"),
            ("REDIRECTOR_SEED", "1000000"),
        ],
    },
    Run {
        name: "50,000 edits of others",
        test: EDITS,
        environment: &[
            ("REDIRECTOR_EDITS", "50000"),
            ("REDIRECTOR_OBJECTS", "200"),
            ("REDIRECTOR_SEED", "2000000"),
        ],
    },
    Run {
        name: "1,000 edits of 100,000 rules",
        test: RULES,
        environment: &[("REDIRECTOR_EDITS", "1000")],
    },
];

/// Longer than any of them takes on a slow machine.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// Builds the tests of the core optimised, and runs them side by side.
pub fn layer(selection: &Selection, layer: &mut Layer) -> Result<()> {
    let mut optimised = cargo();
    optimised.args(["test", "--profile", "soak", "--package", "redirector-core", "--test", "core"]);
    let build = build::tests(&mut optimised)?;
    let binary = build.test("core")?;
    let logs = target().join("xtask/logs/edits");
    let run = |run: &Run| -> Result<Case> {
        let environment = run.environment.iter();
        let environment: Vec<(String, String)> =
            environment.map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let log = logs.join(format!("{}.log", run.name));
        let mut case = binary.run(run.test, &environment, &log, LIMIT)?;
        if let Outcome::Failed(why) = &mut case.outcome {
            why.insert_str(0, &format!("{} with {:?}\n", run.test, run.environment));
        }
        Ok(Case { name: run.name.to_owned(), ..case })
    };
    thread::scope(|scope| {
        let wanted = RUNS.iter().filter(|one| selection.has(one.name) || selection.has(one.test));
        let running: Vec<_> = wanted.map(|one| scope.spawn(|| run(one))).collect();
        for one in running {
            layer.single(one.join().map_err(|_| anyhow!("a thread panicked"))??);
        }
        Ok(())
    })
}
