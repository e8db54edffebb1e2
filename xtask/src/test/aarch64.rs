//! The daemon compiles for aarch64. Only `cargo check`: nothing here can run it.

use super::libtest::{Outcome, tail};
use crate::command;
use crate::cross::{TRIPLE, Toolchain};
use crate::workspace::target;

/// Checks it, or says why it cannot.
pub fn check() -> Outcome {
    let mut command = match Toolchain::find() {
        Ok(Some(toolchain)) => toolchain.with_flags(""),
        Ok(None) => {
            return Outcome::Skipped(format!(
                "no standard library for it; try `rustup target add {TRIPLE}`"
            ));
        }
        Err(error) => return Outcome::Failed(format!("{error:#}")),
    };
    command
        .args(["check", "--quiet", "--package", "redirector-user", "--target", TRIPLE])
        .arg("--target-dir")
        .arg(target().join("aarch64"));
    match command::output(&mut command) {
        Ok(output) if output.status.success() => Outcome::Passed,
        Ok(output) => Outcome::Failed(tail(&String::from_utf8_lossy(&output.stderr), 100)),
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}
