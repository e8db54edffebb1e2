//! The layers that run on this machine.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::libtest::{self, Binary, Case, Outcome, Suite};
use super::table::Layer;
use super::{aarch64, purity};
use crate::command;
use crate::workspace::{cargo, is_root, root, target};

/// Longer than any test binary takes on a slow machine.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// The package of the black-box tests.
pub const BLACK_BOX: &str = "redirector-tests";
/// Its program of the tests that need privilege.
pub const KERNEL: &str = "kernel";
/// Those of them that need the container image.
pub const OF_IMAGE: &str = "kubernetes::image::";

/// Formatting, clippy, and the purity of the core.
pub fn lint() -> Result<Layer> {
    let mut fmt = cargo();
    fmt.args(["fmt", "--all", "--check"]);
    let mut host = cargo();
    host.args(["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"]);
    let suites = vec![
        check("rustfmt", &mut fmt)?,
        check("clippy on host code", &mut host)?,
        bpf_clippy(),
        pure(),
        aarch64::check()?,
    ];
    Ok(Layer { name: "lint".into(), suites })
}

fn pure() -> Suite {
    let started = Instant::now();
    let outcome = match purity::findings() {
        Ok(findings) if findings.is_empty() => Outcome::Passed,
        Ok(findings) => Outcome::Failed(findings.join("\n")),
        Err(error) => Outcome::Failed(format!("{error:#}")),
    };
    Suite::single("the core is pure", outcome, started.elapsed().as_secs_f64())
}

/// Clippy of the toolchain that builds the programs, on both of their builds.
fn bpf_clippy() -> Suite {
    let started = Instant::now();
    let lint = |builder: &redirector_toolchain::Builder| {
        let target = target().join("bpf-clippy");
        builder.lint(root(), &target, &[])?;
        builder.lint(root(), &target, &["record"])
    };
    let outcome = match redirector_toolchain::find() {
        Ok(builder) => lint(&builder).map_or_else(Outcome::Failed, |()| Outcome::Passed),
        Err(missing) => {
            let missing: Vec<_> = missing.iter().map(ToString::to_string).collect();
            Outcome::Failed(missing.join("\n"))
        }
    };
    Suite::single("clippy on BPF code", outcome, started.elapsed().as_secs_f64())
}

fn check(name: &str, command: &mut Command) -> Result<Suite> {
    let started = Instant::now();
    let output = command::output(command)?;
    let outcome = if output.status.success() {
        Outcome::Passed
    } else {
        let text = [output.stdout, output.stderr].concat();
        Outcome::Failed(libtest::tail(&String::from_utf8_lossy(&text), 200))
    };
    Ok(Suite::single(name, outcome, started.elapsed().as_secs_f64()))
}

/// All tests of the crates themselves, and the examples in their docs.
pub fn unit() -> Result<Layer> {
    let binaries = libtest::build(cargo().args(["test"]))?;
    let mut suites = Vec::new();
    for binary in binaries.iter().filter(|one| !is_kernel(one) && !is_conformance(one)) {
        // What plain `cargo test` leaves out needs programs that are here: see
        // `setup`.
        suites.push(run(binary, "unit", &["--include-ignored"], &[])?);
    }
    let log = target().join("xtask/logs/unit-doc.log");
    let mut doc = cargo();
    doc.args(["test", "--doc"]);
    let mut suite = libtest::run("doc tests", &mut doc, &log, LIMIT)?;
    // Workspaces without a single example print no result at all.
    suite.cases.retain(|case| !is_empty_run(case, &log));
    suites.push(suite);
    Ok(Layer { name: "unit".into(), suites })
}

fn is_empty_run(case: &Case, log: &Path) -> bool {
    case.name == "doc tests"
        && std::fs::read_to_string(log).is_ok_and(|text| !text.contains("error"))
        && matches!(&case.outcome, Outcome::Failed(why) if why.starts_with("ended without a result (exit status: 0)"))
}

/// The samples of documents and decisions.
pub fn conformance() -> Result<Layer> {
    let binaries =
        libtest::build(cargo().args(["test", "--package", BLACK_BOX, "--test", "conformance"]))?;
    let mut suites = Vec::new();
    for binary in &binaries {
        suites.push(run(binary, "conformance", &[], &[])?);
    }
    Ok(Layer { name: "conformance".into(), suites })
}

/// The programs in this kernel. A test that skips itself here has failed.
pub fn kernel() -> Result<Layer> {
    let binaries =
        libtest::build(cargo().args(["test", "--package", BLACK_BOX, "--test", KERNEL]))?;
    let mut suites = Vec::new();
    for binary in &binaries {
        if is_root() {
            suites.push(run(
                binary,
                "kernel",
                &["--include-ignored", "--skip", OF_IMAGE],
                &[("REDIRECTOR_TESTS", "kernel")],
            )?);
        } else {
            let why = Outcome::Skipped("needs root".to_owned());
            suites.push(Suite::single(binary.name.clone(), why, 0.0));
        }
    }
    Ok(Layer { name: "kernel".into(), suites })
}

/// The demo: each of its rows is a test.
pub fn demo() -> Result<Layer> {
    let suite = if is_root() {
        crate::demo::suite()?
    } else {
        Suite::single("demo", Outcome::Skipped("needs root".to_owned()), 0.0)
    };
    Ok(Layer { name: "demo".into(), suites: vec![suite] })
}

/// Tests of the programs in a kernel: they need privilege.
pub fn is_kernel(binary: &Binary) -> bool {
    binary.target == KERNEL
}

fn is_conformance(binary: &Binary) -> bool {
    binary.target == "conformance"
}

/// Runs a test binary where cargo would run it.
pub fn run(binary: &Binary, layer: &str, args: &[&str], env: &[(&str, &str)]) -> Result<Suite> {
    let log =
        target().join("xtask/logs").join(format!("{layer}-{}.log", binary.name.replace("::", "-")));
    let mut command = Command::new(&binary.path);
    command
        .current_dir(&binary.directory)
        .env("CARGO_MANIFEST_DIR", &binary.directory)
        .envs(env.iter().copied())
        .args(args);
    libtest::run(&binary.name, &mut command, &log, LIMIT)
}
