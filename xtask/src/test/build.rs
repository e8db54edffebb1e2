//! One compilation for all that is checked on this machine: clippy's driver compiles
//! the crates of the workspace, so that the programs that it has linted are those
//! that are tested.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;

use super::libtest::Binary;
use crate::command;
use crate::workspace::{cargo, which};

/// What cargo has built.
#[derive(Default)]
pub struct Build {
    /// The test programs, in cargo's order.
    pub tests: Vec<Binary>,
    /// The other programs, by name.
    programs: Vec<(String, PathBuf)>,
    /// What the compiler and clippy complain of, as they would show it.
    pub complaints: Vec<String>,
}

/// All tests of the workspace and all programs, built once in the life of this process.
pub fn all() -> Result<&'static Build> {
    static ALL: OnceLock<Result<Build, String>> = OnceLock::new();
    let build = ALL.get_or_init(|| {
        let driver = clippy_driver().map_err(|error| format!("{error:#}"))?;
        let mut build = cargo();
        build.arg("test").env("RUSTC_WORKSPACE_WRAPPER", driver);
        tests(&mut build).map_err(|error| format!("{error:#}"))
    });
    build.as_ref().map_err(|error| anyhow!("{error}"))
}

/// The driver that belongs to the compiler which cargo runs.
fn clippy_driver() -> Result<PathBuf> {
    const NAME: &str = "clippy-driver";
    let beside = Path::new(cargo().get_program()).with_file_name(NAME);
    if beside.is_file() { Ok(beside) } else { which(NAME).context("clippy is missing") }
}

/// Compiles tests with this `cargo test` command; it shows its progress.
pub fn tests(cargo: &mut Command) -> Result<Build> {
    by(cargo.arg("--no-run"))
}

/// Compiles with this command of cargo, which runs nothing; it shows its progress.
pub fn by(cargo: &mut Command) -> Result<Build> {
    cargo.arg("--message-format=json").stdin(Stdio::null()).stdout(Stdio::piped());
    let shown = command::shown(cargo);
    let mut child = cargo.spawn().with_context(|| format!("cannot run `{shown}`"))?;
    let mut build = Build::default();
    let messages = child.stdout.take().map(BufReader::new);
    for line in messages.into_iter().flat_map(BufRead::lines) {
        if let Ok(message) = serde_json::from_str(&line?) {
            build.take(message);
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{shown}` failed, as shown above: {status}");
    }
    Ok(build)
}

impl Build {
    fn take(&mut self, message: Message) {
        if let Some(complaint) = message.message
            && matches!(complaint.level.as_str(), "warning" | "error")
        {
            let text = complaint.rendered.unwrap_or(complaint.message);
            // Seen by the library and by its tests, it is one.
            if !self.complaints.contains(&text) {
                eprintln!("{text}");
                self.complaints.push(text);
            }
        }
        let (Some(path), Some(target)) = (message.executable, message.target) else { return };
        if !message.profile.is_some_and(|profile| profile.test) {
            self.programs.push((target.name, path));
            return;
        }
        let manifest = message.manifest_path.unwrap_or_default();
        let directory = manifest.parent().unwrap_or(Path::new(".")).to_owned();
        let name = match target.kind.first().map(String::as_str) {
            Some("test") => target.name,
            Some("bin") => format!("{} (program)", target.name),
            _ => target.name.replace('_', "-"),
        };
        self.tests.push(Binary { name, path, directory });
    }

    /// A test program.
    pub fn test(&self, name: &str) -> Result<&Binary> {
        let found = self.tests.iter().find(|test| test.name == name);
        found.with_context(|| format!("cargo has built no tests {name}"))
    }

    /// A program that is no test.
    pub fn program(&self, name: &str) -> Result<&Path> {
        let found = self.programs.iter().find(|(known, _)| known == name);
        let (_, path) = found.with_context(|| format!("cargo has built no {name}"))?;
        Ok(path)
    }
}

/// What is read of cargo's messages.
#[derive(Deserialize)]
struct Message {
    /// What the compiler says.
    message: Option<Complaint>,
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Complaint {
    level: String,
    message: String,
    rendered: Option<String>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> Build {
        let mut build = Build::default();
        for line in lines {
            build.take(serde_json::from_str(line).expect("a message"));
        }
        build
    }

    #[test]
    fn a_warning_is_a_complaint_once_and_a_note_is_none() {
        let warning = r#"{"reason":"compiler-message","target":{"kind":["lib"],"name":"x"},
            "message":{"level":"warning","message":"m","rendered":"warning: m"}}"#;
        let note = warning.replace("warning", "note");
        assert_eq!(of(&[warning, warning, &note]).complaints, ["warning: m"]);
    }

    #[test]
    fn tests_and_programs_are_told_apart() {
        let line = |kind: &str, test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/w/pack/Cargo.toml",
                "target":{{"kind":["{kind}"],"name":"my_{kind}"}},"profile":{{"test":{test}}},
                "executable":"/t/{kind}-{test}"}}"#
            )
        };
        let build =
            of(&[&line("lib", true), &line("test", true), &line("bin", true), &line("bin", false)]);
        let names: Vec<&str> = build.tests.iter().map(|test| test.name.as_str()).collect();
        assert_eq!(names, ["my-lib", "my_test", "my_bin (program)"]);
        assert_eq!(build.program("my_bin").expect("it is there"), Path::new("/t/bin-false"));
        assert!(build.test("other").is_err());
    }
}
