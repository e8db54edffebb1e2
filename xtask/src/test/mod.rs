//! `cargo xtask test`: every layer of tests, a table of them, one summary line.

mod aarch64;
mod image;
pub mod layers;
pub mod libtest;
mod purity;
pub mod table;

use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;

use crate::setup::{self, Purpose};
use crate::workspace::is_ci;
use table::{Layer, Report};

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Args {
    /// The layers to run, in the order given [default: all]
    #[arg(value_enum)]
    layers: Vec<Name>,
    /// Prints every test, not only those that failed
    #[arg(long)]
    verbose: bool,
}

/// A layer of tests.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Formatting, clippy on host and BPF code, purity of the core
    Lint,
    /// What needs neither privilege nor a kernel of a certain kind
    Unit,
    /// Samples of documents and routing decisions, each printed
    Conformance,
    /// A minute of coverage-guided fuzzing of each target
    Fuzz,
    /// The programs in this machine's kernel, in cgroups and namespaces of their own
    Kernel,
    /// The reference document, played against this machine's kernel
    Demo,
    /// The container image, run by podman as the DaemonSet would have it
    Image,
    /// Kernel tests and demo on other kernels, in virtual machines
    Vm,
}

impl Name {
    fn run(self) -> Result<Layer> {
        match self {
            Self::Lint => layers::lint(),
            Self::Unit => layers::unit(),
            Self::Conformance => layers::conformance(),
            Self::Fuzz => crate::fuzz::layer(60),
            Self::Kernel => layers::kernel(),
            Self::Demo => layers::demo(),
            Self::Image => image::layer(),
            Self::Vm => crate::vm::layer(),
        }
    }

    fn title(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// `cargo xtask test [LAYER...]`.
pub fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(Purpose::Test)?;
    let names = match args.layers.as_slice() {
        [] => Name::value_variants(),
        some => some,
    };
    let mut report = Report::default();
    for name in names {
        println!("==> {}", name.title());
        let layer =
            name.run().unwrap_or_else(|error| Layer::broken(&name.title(), format!("{error:#}")));
        // Conformance is asked for to see every sample.
        let every = args.verbose || (*name == Name::Conformance && names.len() == 1);
        print!("{}", layer.text(every));
        report.layers.push(layer);
    }
    println!("\n{}", report.table());
    println!("{}", report.summary());
    // In CI nothing may be left out: what is skipped there runs nowhere.
    let good = report.failed() == 0 && (report.skipped() == 0 || !is_ci());
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
