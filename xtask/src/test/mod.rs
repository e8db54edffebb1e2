//! `cargo xtask test`: every layer of tests, a table of them, one summary line.

mod aarch64;
pub mod build;
pub mod edits;
mod image;
pub mod layers;
pub mod libtest;
mod package;
pub mod pool;
mod purity;
mod supply;
pub mod table;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::setup::{self, Purpose};
use crate::workspace::is_ci;
use libtest::{Case, Outcome};
use pool::Test;
use table::{Layer, Report};

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Args {
    /// The layers to run, in the order given [default: all but edits, supply, image,
    /// package, arm and vm]
    #[arg(value_enum)]
    layers: Vec<Name>,
    /// Everything, as continuous integration does: long lives of edits, the libraries' licences and
    /// known faults, the image, the packages, ARM and the virtual machines, and minutes of fuzzing
    /// instead of seconds
    #[arg(long)]
    all: bool,
    /// Runs only the tests whose path contains this; it takes a layer
    #[arg(long, value_name = "WORD", requires = "layers")]
    only: Option<String>,
    /// Prints every test, not only those that failed
    #[arg(long)]
    verbose: bool,
}

/// A layer of tests.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Formatting, clippy on host and BPF code, purity of the core, reasons for libraries, aarch64
    Lint,
    /// What needs neither privilege nor a kernel of a certain kind
    Unit,
    /// Samples of documents and routing decisions, each printed
    Conformance,
    /// The programs in this machine's kernel, in cgroups and namespaces of their own
    Kernel,
    /// The reference document, played against this machine's kernel
    Demo,
    /// Coverage-guided fuzzing of the core at once: seconds, or minutes with --all
    Fuzz,
    /// What is computed step by step against the whole: 100,000 edits, and those of 100,000 rules,
    /// optimised
    Edits,
    /// Licences, sources, versions and known faults of libraries, by cargo-deny
    Supply,
    /// The container image, run by podman as the DaemonSet would have it
    Image,
    /// The packages, installed on a fresh Debian with systemd
    Package,
    /// Package, image and kernel tests on 64-bit ARM, in a virtual machine
    Arm,
    /// Kernel tests and demo on other kernels, in virtual machines
    Vm,
}

/// The layers that only `--all` has.
const LONG: [Name; 6] =
    [Name::Edits, Name::Supply, Name::Image, Name::Package, Name::Arm, Name::Vm];

/// How long each target is fuzzed, in seconds: with `--all`, and without.
const FUZZING: [u64; 2] = [90, 10];

impl Name {
    fn run(self, selection: &Selection, layer: &mut Layer) -> Result<()> {
        match self {
            Self::Lint => layers::lint(selection, layer),
            Self::Unit => layers::unit(selection, layer),
            Self::Conformance => layers::conformance(selection, layer),
            Self::Kernel => layers::kernel(selection, layer),
            Self::Demo => layers::demo(selection, layer),
            Self::Fuzz => {
                let [long, short] = FUZZING;
                crate::fuzz::layer(selection, if selection.all { long } else { short }, layer)
            }
            Self::Edits => edits::layer(selection, layer),
            Self::Supply => supply::layer(selection, layer),
            Self::Image => image::layer(selection, layer),
            Self::Package => package::layer(selection, layer),
            Self::Arm => aarch64::layer(selection, layer),
            Self::Vm => crate::vm::layer(selection, layer),
        }
    }

    /// Whether it takes what is built for this machine.
    fn takes_build(self, selection: &Selection) -> bool {
        match self {
            Self::Lint => selection.has(layers::HOST_CLIPPY),
            Self::Fuzz | Self::Edits | Self::Supply | Self::Vm => false,
            _ => true,
        }
    }

    fn title(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// Which tests of a layer are wanted.
#[derive(Default)]
pub struct Selection {
    /// Also what takes minutes.
    pub all: bool,
    /// What their names contain.
    pub only: Option<String>,
}

impl Selection {
    /// Whether a test of that name is wanted.
    pub fn has(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|word| name.contains(word.as_str()))
    }

    /// Those of these tests that are wanted.
    pub fn of<'a>(&self, tests: Vec<Test<'a>>) -> Vec<Test<'a>> {
        tests.into_iter().filter(|test| self.has(&test.name) || self.has(&test.suite)).collect()
    }

    /// For what is run as a whole or not at all.
    pub fn is_whole(&self, what: &str) -> Result<()> {
        if self.only.is_some() {
            bail!("{what} is run as a whole: --only does not go with it");
        }
        Ok(())
    }
}

/// `cargo xtask test [LAYER...]`.
pub fn run(args: &Args) -> Result<ExitCode> {
    let chosen: Vec<Name> = match args.layers.as_slice() {
        [] => {
            let all = Name::value_variants().iter().copied();
            all.filter(|name| args.all || !LONG.contains(name)).collect()
        }
        some => some.to_vec(),
    };
    let purposes = chosen.iter().map(|name| match name {
        Name::Image | Name::Package | Name::Arm | Name::Vm => Purpose::All,
        Name::Supply => Purpose::Supply,
        _ => Purpose::Test,
    });
    setup::ensure(purposes.max().unwrap_or(Purpose::Test))?;
    if chosen.contains(&Name::Package) || chosen.contains(&Name::Arm) {
        setup::ensure(Purpose::Package)?;
    }
    let selection = Selection { all: args.all, only: args.only.clone() };
    let mut report = Report::default();
    if chosen.iter().any(|name| name.takes_build(&selection)) {
        let mut layer = Layer::begin("build", false);
        let begun = Instant::now();
        if let Err(error) = build::all() {
            let why = Outcome::Failed(format!("{error:#}"));
            layer.single(Case::since(begun, "it compiles", why));
        }
        layer.end();
        report.layers.push(layer);
    }
    for name in &chosen {
        // Conformance is asked for to see every sample.
        let every = args.verbose || (*name == Name::Conformance && chosen.len() == 1);
        let mut layer = Layer::begin(&name.title(), every);
        let begun = Instant::now();
        if let Err(error) = name.run(&selection, &mut layer) {
            let why = Outcome::Failed(format!("{error:#}"));
            layer.single(Case::since(begun, format!("{} can be run", name.title()), why));
        }
        layer.end();
        report.layers.push(layer);
    }
    let [passed, failed, skipped] = report.counts();
    if let Some(word) = args.only.as_ref().filter(|_| passed + failed + skipped == 0) {
        bail!("no test has `{word}` in its path");
    }
    println!("\n{}\n{}", report.table(), report.slowest());
    if args.layers.is_empty() && !args.all {
        let [long, short] = FUZZING;
        println!(
            "--all adds: {} times the random worlds and connections in this kernel, 100,000 edits \
             and those of 100,000 rules, licences and known faults of libraries, the container \
             image under podman, the packages on a fresh Debian, package and kernel tests on \
             64-bit ARM, kernel tests and demo on Debian's 6.1 and 6.12 kernels, {long} s of \
             fuzzing each target instead of {short} s",
            layers::SCALE
        );
    }
    println!("{}", report.summary());
    // In CI nothing may be left out: what is skipped there runs nowhere.
    let good = failed == 0 && (skipped == 0 || !is_ci());
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `cargo xtask lint`.
pub fn lint() -> Result<ExitCode> {
    run(&Args { layers: vec![Name::Lint], all: false, only: None, verbose: false })
}
