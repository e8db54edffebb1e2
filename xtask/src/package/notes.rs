//! `cargo xtask notes`: what the changelog says of a version, for the page of its
//! release.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::workspace::root;

/// Of which version.
#[derive(clap::Args)]
pub struct Args {
    /// The version, or a tag that names it with a v before [default: that of this checkout]
    version: Option<String>,
}

/// Prints them.
pub fn run(args: &Args) -> Result<ExitCode> {
    let changelog = std::fs::read_to_string(root().join("CHANGELOG.md"))?;
    let version = args.version.as_deref().unwrap_or(super::version());
    let version = version.strip_prefix('v').unwrap_or(version);
    let notes = of_version(&changelog, version).with_context(|| {
        format!("CHANGELOG.md has no section `## [{version}]`: name the version there")
    })?;
    println!("{notes}");
    Ok(ExitCode::SUCCESS)
}

/// The section of that version, without its heading.
fn of_version<'a>(changelog: &'a str, version: &str) -> Option<&'a str> {
    let mut sections = changelog.split("\n## [").skip(1);
    let section = sections.find_map(|section| {
        let (name, rest) = section.split_once(']')?;
        (name == version).then_some(rest)
    })?;
    let (_, text) = section.split_once('\n')?;
    Some(text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_notes_of_a_version_are_its_section() {
        let changelog = "# Changelog\n\n## [0.2.0] - 2026-12-01\n\n### Added\n\n- b\n\n\
                         ## [0.1.0]\n\n- a\n";
        assert_eq!(of_version(changelog, "0.2.0"), Some("### Added\n\n- b"));
        assert_eq!(of_version(changelog, "0.1.0"), Some("- a"));
        assert_eq!(of_version(changelog, "0.1"), None);
    }

    #[test]
    fn this_version_has_notes() {
        let changelog = include_str!("../../../CHANGELOG.md");
        let notes = of_version(changelog, super::super::version()).expect("a section");
        assert!(!notes.is_empty());
    }
}
