//! The layers that run on this machine.

use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow};

use super::build::{self, Build};
use super::edits::RULES;
use super::libtest::{Binary, Case, Outcome, tail};
use super::pool::{Event, Pool, Test};
use super::table::Layer;
use super::{Selection, aarch64, purity, supply};
use crate::command;
use crate::workspace::{cargo, is_root, root, target};

/// The tests that need privilege.
pub const KERNEL: &str = "kernel";
/// Those of them that need the container image.
pub const OF_IMAGE: &str = "kubernetes::image::";
/// Those of them that need a module which only the other kernels' machines have.
const OF_MODULES: &str = "policies::kernel_sockets::";
/// Those of them that need the packages.
pub const OF_PACKAGES: &str = "package::";
/// Those of them that take a whole machine, and not only namespaces.
pub const OF_LIFE: &str = "package::life::";
/// The suite of those that need a second version of the daemon, and no other kernel.
pub const UPGRADE: &str = "upgrade";
/// The suite of those that need a tracer, which no other kernel's machine has.
pub const FAULTS: &str = "faults";
/// The suite of those that need servers, which no other kernel's machine has.
pub const COOKBOOK: &str = "cookbook";
/// The check that takes the build.
pub const HOST_CLIPPY: &str = "clippy on host code";
/// Tests of the crates themselves that need a network namespace.
const OF_ROOT: [&str; 3] = ["cookbook::", "connect::ports_below_1024_", "near::a_bulky_direction_"];
/// By what random worlds and connections are divided without `--all`.
pub const SCALE: u32 = 5;
/// The samples.
const CONFORMANCE: &str = "conformance";

/// Formatting, the purity of the core, clippy on host and BPF code.
pub fn lint(selection: &Selection, layer: &mut Layer) -> Result<()> {
    type Check<'a> = &'a dyn Fn() -> Outcome;
    let aarch64 = || aarch64::compiles(selection.all);
    let checks: [(&str, Check<'_>); 6] = [
        ("rustfmt", &rustfmt),
        ("the core is pure", &pure),
        ("each library has its reason", &reasons),
        (HOST_CLIPPY, &host_clippy),
        ("clippy on BPF code", &bpf_clippy),
        ("the daemon compiles for aarch64", &aarch64),
    ];
    for (name, check) in checks {
        if selection.has(name) {
            let begun = Instant::now();
            let outcome = check();
            layer.single(Case::since(begun, name, outcome));
        }
    }
    Ok(())
}

/// Findings in words, or none.
pub fn outcome(findings: Result<Vec<String>>) -> Outcome {
    match findings {
        Ok(findings) if findings.is_empty() => Outcome::Passed,
        Ok(findings) => Outcome::Failed(findings.join("\n")),
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}

fn rustfmt() -> Outcome {
    let mut fmt = cargo();
    fmt.args(["fmt", "--all", "--check"]);
    match command::output(&mut fmt) {
        Ok(output) if output.status.success() => Outcome::Passed,
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            Outcome::Failed(tail(&String::from_utf8_lossy(&text), 200))
        }
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}

fn pure() -> Outcome {
    outcome(purity::findings())
}

fn reasons() -> Outcome {
    outcome(supply::without_reason())
}

/// What clippy's driver has said of the programs that the other layers test.
fn host_clippy() -> Outcome {
    outcome(build::all().map(|build| build.complaints.clone()))
}

/// Clippy of the toolchain that builds the programs, on both of their builds.
fn bpf_clippy() -> Outcome {
    let lint = |builder: redirector_toolchain::Builder| {
        let variants: [&[&str]; 2] = [&[], &["record"]];
        variants.iter().try_for_each(|features| builder.lint(root(), &bpf(), features))
    };
    bpf_builder()
        .and_then(|builder| lint(builder).map_err(|error| anyhow!(error)))
        .map_or_else(|error| Outcome::Failed(format!("{error:#}")), |()| Outcome::Passed)
}

/// Where the programs are built, for all that need them.
fn bpf() -> PathBuf {
    target().join("bpf")
}

fn bpf_builder() -> Result<redirector_toolchain::Builder> {
    redirector_toolchain::find().map_err(|missing| {
        let missing: Vec<_> = missing.iter().map(ToString::to_string).collect();
        anyhow!(missing.join("\n"))
    })
}

/// The programs as the differential tests want them.
pub fn recording_object() -> Result<PathBuf> {
    bpf_builder()?.build(root(), &bpf(), &["record"]).map_err(|error| anyhow!(error))
}

/// All tests of the crates themselves, and of the programs as a stranger uses them.
pub fn unit(selection: &Selection, layer: &mut Layer) -> Result<()> {
    let build = build::all()?;
    let binaries = build.tests.iter().filter(|one| one.name != KERNEL && one.name != CONFORMANCE);
    let mut tests = Vec::new();
    for binary in binaries {
        let of_binary = binary.tests()?.into_iter().filter(|name| name != RULES);
        tests.extend(of_binary.map(|name| Test { binary, suite: binary.name.clone(), name }));
    }
    let mut tests = selection.of(tests);
    if !is_root() {
        let of_root = |test: &mut Test<'_>| OF_ROOT.iter().any(|of| test.name.starts_with(of));
        for test in tests.extract_if(.., of_root) {
            let outcome = Outcome::Skipped("needs root".to_owned());
            layer.ended(&test.suite, Case { name: test.name, outcome, seconds: 0.0 });
        }
    }
    // Some of them wait.
    run(&pool(cores() + 1, "unit", Vec::new()), &tests, layer)
}

/// The samples of documents and decisions.
pub fn conformance(selection: &Selection, layer: &mut Layer) -> Result<()> {
    let binary = build::all()?.test(CONFORMANCE)?;
    let tests = binary.tests()?.into_iter();
    let tests = tests.map(|name| Test { binary, suite: CONFORMANCE.to_owned(), name }).collect();
    run(&pool(cores(), CONFORMANCE, Vec::new()), &selection.of(tests), layer)
}

/// The programs in this kernel. A test that skips itself here has failed.
pub fn kernel(selection: &Selection, layer: &mut Layer) -> Result<()> {
    let tests = kernel_tests(build::all()?)?;
    let here = |test: &Test<'_>| !is_made_for(test) && !test.name.starts_with(OF_MODULES);
    let tests = selection.of(tests.into_iter().filter(here).collect());
    if !is_root() {
        for test in tests {
            let outcome = Outcome::Skipped("needs root".to_owned());
            layer.ended(&test.suite, Case { name: test.name, outcome, seconds: 0.0 });
        }
        return Ok(());
    }
    let recording = recording_object()?.to_string_lossy().into_owned();
    let mut environment = vec![("REDIRECTOR_RECORDING_OBJECT".to_owned(), recording)];
    if !selection.all {
        environment.push(("REDIRECTOR_SCALE".to_owned(), SCALE.to_string()));
    }
    // They wait more than they work.
    let mut pool = kernel_pool(2 * cores() + 1, KERNEL, environment);
    let is_upgrade = |test: &Test<'_>| test.suite == UPGRADE;
    let (upgrades, others): (Vec<_>, Vec<_>) = tests.into_iter().partition(is_upgrade);
    if upgrades.is_empty() {
        return run(&pool, &others, layer);
    }
    thread::scope(|scope| {
        // Beside the tests that do not need it.
        let other = scope.spawn(of_other_layout);
        run(&pool, &others, layer)?;
        let other = other.join().map_err(|_| anyhow!("building another version panicked"))??;
        let other = other.to_string_lossy().into_owned();
        pool.environment.push(("REDIRECTOR_OF_OTHER_LAYOUT".to_owned(), other));
        run(&pool, &upgrades, layer)
    })
}

/// A version of the program whose tables have another layout; a test that is run by
/// hand builds it for itself.
fn of_other_layout() -> Result<PathBuf> {
    const NAME: &str = "redirector-of-other-layout";
    let features = ["--features", "redirector-tests/other-layout"];
    command::stdout(cargo().args(["build", "--quiet", "--bin", NAME]).args(features))?;
    Ok(target().join("debug").join(NAME))
}

/// The tests of the image.
pub fn of_image(environment: Vec<(String, String)>, layer: &mut Layer) -> Result<()> {
    let tests = kernel_tests(build::all()?)?;
    let tests: Vec<_> = tests.into_iter().filter(|test| test.name.starts_with(OF_IMAGE)).collect();
    run(&kernel_pool(cores(), "image", environment), &tests, layer)
}

/// The tests of the packages: those of a whole machine are run by `whole`.
pub fn of_packages(
    environment: Vec<(String, String)>,
    selection: &Selection,
    layer: &mut Layer,
    whole: impl FnOnce(&mut Layer) -> Result<()>,
) -> Result<()> {
    let tests = kernel_tests(build::all()?)?;
    let tests = tests.into_iter().filter(|test| test.name.starts_with(OF_PACKAGES)).collect();
    let (of_life, others): (Vec<_>, Vec<_>) =
        selection.of(tests).into_iter().partition(|test| test.name.starts_with(OF_LIFE));
    run(&kernel_pool(cores(), "package", environment), &others, layer)?;
    if of_life.is_empty() { Ok(()) } else { whole(layer) }
}

/// Whether a test is of something that is made for it alone: the image, or the packages.
pub fn is_made_for(test: &Test<'_>) -> bool {
    test.name.starts_with(OF_IMAGE) || test.name.starts_with(OF_PACKAGES)
}

/// The kernel tests, all of them.
pub fn kernel_tests(build: &Build) -> Result<Vec<Test<'_>>> {
    of_modules(build.test(KERNEL)?)
}

/// The tests of a program, its modules being their suites.
pub fn of_modules(binary: &Binary) -> Result<Vec<Test<'_>>> {
    let tests = binary.tests()?.into_iter().map(|name| {
        let suite = name.split("::").next().unwrap_or_default().to_owned();
        Test { binary, suite, name }
    });
    Ok(tests.collect())
}

/// The demo: each of its rows is a test.
pub fn demo(selection: &Selection, layer: &mut Layer) -> Result<()> {
    selection.is_whole("the demo")?;
    if !is_root() {
        let outcome = Outcome::Skipped("needs root".to_owned());
        layer.single(Case { name: "demo".into(), outcome, seconds: 0.0 });
        return Ok(());
    }
    let program = build::all()?.program("redirector")?;
    crate::demo::play(&crate::demo::Args::of_program(program), &mut |case| {
        layer.ended("demo", case);
        Ok(())
    })
}

/// How many tests that do nothing but work are best run at a time.
fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// The directory of what a layer's tests print.
pub fn logs(layer: &str) -> PathBuf {
    target().join("xtask/logs").join(layer)
}

fn pool(workers: usize, layer: &str, environment: Vec<(String, String)>) -> Pool {
    Pool { workers, environment, logs: logs(layer) }
}

fn kernel_pool(workers: usize, layer: &str, mut environment: Vec<(String, String)>) -> Pool {
    environment.push(("REDIRECTOR_TESTS".to_owned(), "kernel".to_owned()));
    pool(workers, layer, environment)
}

fn run(pool: &Pool, tests: &[Test<'_>], layer: &mut Layer) -> Result<()> {
    pool.run(tests, |event| {
        match event {
            Event::Begins(_) => {}
            Event::Ended(suite, case) => layer.ended(&suite, case),
            Event::SuiteEnded(suite) => layer.suite_ended(&suite),
        }
        Ok(())
    })
}
