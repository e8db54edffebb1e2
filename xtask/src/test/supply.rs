//! What other people's code is built in: whether each library has its reason, and, by
//! cargo-deny and its `deny.toml`, under which licences it is, where it comes from, how often
//! it is there, and which faults of it are known.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Selection;
use super::libtest::{Case, Outcome, tail};
use super::table::Layer;
use crate::command;
use crate::workspace::{cargo, root};

/// Says why each library is used.
const REASONS: &str = "docs/decisions/0024-libraries.md";

/// What cargo-deny says.
pub fn layer(selection: &Selection, layer: &mut Layer) -> Result<()> {
    let mut single = |name: &str, check: &dyn Fn() -> Outcome| {
        if selection.has(name) {
            let begun = Instant::now();
            layer.single(Case::since(begun, name, check()));
        }
    };
    single("licences, sources and versions of libraries", &|| {
        says(deny(&["check", "licenses", "bans", "sources"]))
    });
    const FAULTS: &str = "known faults of libraries";
    if !selection.has(FAULTS) {
        return Ok(());
    }
    // They lie on the internet: where that is out of reach there is nothing to compare with.
    match says(deny(&["fetch", "db"])) {
        Outcome::Passed => single(FAULTS, &|| says(deny(&["--offline", "check", "advisories"]))),
        Outcome::Skipped(why) | Outcome::Failed(why) => {
            let why = why.lines().last().unwrap_or_default();
            println!("    left out: {FAULTS}, which cannot be fetched: {why}");
        }
    }
    Ok(())
}

fn deny(arguments: &[&str]) -> Command {
    let mut deny = cargo();
    deny.args(["deny", "--workspace", "--locked", "--log-level", "warn"]).args(arguments);
    deny
}

/// What comes of a command.
fn says(mut command: Command) -> Outcome {
    match command::output(&mut command) {
        Ok(output) if output.status.success() => Outcome::Passed,
        Ok(output) => Outcome::Failed(tail(&String::from_utf8_lossy(&output.stderr), 200)),
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}

/// Libraries that are used and have no reason, and those that have one and are not used.
pub fn without_reason() -> Result<Vec<String>> {
    let mut metadata = cargo();
    metadata.args(["metadata", "--no-deps", "--format-version", "1"]);
    let page = std::fs::read_to_string(root().join(REASONS)).context(REASONS)?;
    Ok(differing(&serde_json::from_str(&command::stdout(&mut metadata)?)?, &page))
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// Where it is one of the workspace's own.
    path: Option<String>,
}

/// What the rows of the page's table do not say as it is. They begin with names in backticks.
fn differing(metadata: &Metadata, page: &str) -> Vec<String> {
    let all = metadata.packages.iter().flat_map(|package| &package.dependencies);
    let used: BTreeSet<&str> =
        all.filter(|one| one.path.is_none()).map(|one| one.name.as_str()).collect();
    let table = page.lines().skip_while(|line| *line != "| library | for |").skip(2);
    let rows = table.take_while(|line| line.starts_with('|'));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    let named: BTreeSet<&str> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    let lacking = used.difference(&named).map(|name| format!("{name}: no reason in {REASONS}"));
    let unused = named.difference(&used).map(|name| format!("{name}: in {REASONS}, and not used"));
    lacking.chain(unused).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_library_has_its_reason_and_nothing_else_has() {
        let metadata = r#"{"packages": [
            {"dependencies": [{"name": "a"}, {"name": "own", "path": "/own"}]},
            {"dependencies": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}
        ]}"#;
        let metadata = serde_json::from_str(metadata).unwrap();
        let page = "of `z`:\n\n| library | for |\n|---|---|\n| `a`, `c` | `b` |\n| `d` | x |\n";
        let reason = |name| format!("{name}: no reason in {REASONS}");
        assert_eq!(
            differing(&metadata, page),
            [reason("b"), format!("d: in {REASONS}, and not used")]
        );
        let page = page.replace("`c`", "`c`, `b`").replace("`d`", "");
        assert_eq!(differing(&metadata, &page), [""; 0]);
    }
}
