//! Debian's package manager.

use std::process::Command;

use anyhow::{Context, Result};

use crate::command;
use crate::workspace::which;

/// Whether this system installs software with apt.
pub fn present() -> bool {
    which("apt-get").is_some()
}

/// Fetches the package lists.
pub fn update() -> Result<()> {
    command::run(Command::new("apt-get").args(["update", "--quiet"]))
        .context("cannot fetch Debian's package lists")
}

/// The command that installs these packages.
pub fn install(packages: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "--yes", "--quiet", "--no-install-recommends"])
        .args(packages);
    command
}
