//! `cargo xtask pictures`: the pictures of the README that are not of a measurement.

mod terminal;
mod way;

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::workspace::{root, target};

/// Draws them into `docs`.
pub fn run() -> Result<ExitCode> {
    let transcript = target().join("xtask/packages/page.json");
    let text = std::fs::read_to_string(&transcript).with_context(|| {
        format!(
            "{} is missing, what the commands of docs/install.md answered: `cargo xtask test \
             package` writes it",
            transcript.display()
        )
    })?;
    let steps: Vec<(String, String)> = serde_json::from_str(&text)?;
    for (name, picture) in [("way.svg", way::draw()), ("terminal.svg", terminal::draw(&steps))] {
        let path = root().join("docs").join(name);
        std::fs::write(&path, picture)
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Text as XML has it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
