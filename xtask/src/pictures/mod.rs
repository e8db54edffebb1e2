//! `cargo xtask pictures`: the pictures of the README that are not of a measurement.

mod terminal;
mod way;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::test::layers::logs;
use crate::workspace::root;

/// Draws them into `docs`.
pub fn run() -> Result<ExitCode> {
    let text = transcript(&logs("package")).context(
        "it is not known what the commands of docs/install.md answered: `cargo xtask test package` \
         says it",
    )?;
    let steps: Vec<(String, String)> = serde_json::from_str(&text)?;
    for (name, picture) in [("way.svg", way::draw()), ("terminal.svg", terminal::draw(&steps))] {
        let path = root().join("docs").join(name);
        std::fs::write(&path, picture)
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// What a test has printed of what it typed.
fn transcript(logs: &Path) -> Option<String> {
    logs.read_dir().ok()?.flatten().find_map(|entry| {
        let log = std::fs::read_to_string(entry.path()).ok()?;
        log.lines().find_map(|line| Some(line.split_once("transcript: ")?.1.to_owned()))
    })
}

/// Text as XML has it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
