//! `cargo xtask vm`: demo and kernel tests on other kernels.
//!
//! Each run is a machine of its own in QEMU, emulated, so that it works
//! everywhere and without privilege. Its disk is an initramfs made of this
//! build; what it finds comes back as JSON over a serial port of its own.

pub mod guest;
pub mod initramfs;
mod kernel;
mod machine;
mod newc;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::setup::{self, Purpose};
use crate::test::libtest::Suite;
use crate::test::table::Layer;
use kernel::Kernel;
use machine::Boot;

/// Options of `cargo xtask vm`.
#[derive(clap::Args)]
pub struct Args {
    /// Gives a prompt in the machine instead of running anything
    #[arg(long)]
    shell: bool,
    /// Boots this kernel image instead of Debian's kernels
    #[arg(long, value_name = "PATH")]
    kernel: Vec<PathBuf>,
    /// Plays the demo only, and shows it
    #[arg(long, conflicts_with = "shell")]
    demo: bool,
    /// Runs only the kernel tests whose module's name contains this
    #[arg(long, value_name = "WORD", conflicts_with_all = ["shell", "demo"])]
    only: Option<String>,
}

/// `cargo xtask vm`.
pub fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(Purpose::Test)?;
    let kernels = match args.kernel.as_slice() {
        [] => Kernel::of_debian()?,
        images => images.iter().map(|image| Kernel::of_file(image)).collect::<Result<_>>()?,
    };
    let archive = initramfs::build(!args.shell && !args.demo)?;
    if args.shell {
        let Some(kernel) = kernels.into_iter().last() else { return Ok(ExitCode::SUCCESS) };
        let boot = Boot { kernel, cpus: 2, extra: "", orders: "shell".into() };
        machine::shell(&boot, &archive)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = Vec::new();
    for mut boot in boots(&kernels, args.demo) {
        if let Some(word) = &args.only {
            boot.orders = format!("kernel:{word}");
        }
        let suites = run_one(&boot, &archive, args.demo)?;
        rows.push((boot.name(), suites));
    }
    println!("\n{}", matrix(&rows));
    let failed = rows.iter().flat_map(|row| &row.1).any(|(_, suite)| suite.failed() > 0);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// All runs as one layer of `cargo xtask test`.
pub fn layer() -> Result<Layer> {
    let kernels = Kernel::of_debian()?;
    let archive = initramfs::build(true)?;
    let mut layer = Layer { name: "vm".into(), suites: Vec::new() };
    let mut rows = Vec::new();
    for boot in boots(&kernels, false) {
        let suites = run_one(&boot, &archive, false)?;
        layer.suites.extend(suites.iter().map(|(_, suite)| Suite {
            name: format!("{}: {}", boot.name(), suite.name),
            ..suite.clone()
        }));
        rows.push((boot.name(), suites));
    }
    println!("\n{}", matrix(&rows));
    Ok(layer)
}

fn boots(kernels: &[Kernel], demo_only: bool) -> Vec<Boot> {
    let orders = if demo_only { "demo" } else { "kernel,demo" };
    let all = |kernel: &Kernel| {
        let orders = orders.to_owned();
        Boot { kernel: kernel.clone(), cpus: 2, extra: "", orders }
    };
    let mut boots: Vec<_> = kernels.iter().map(all).collect();
    if let (Some(newest), false) = (kernels.last(), demo_only) {
        // With one CPU and full preemption a program is interrupted in places
        // where on two CPUs it would run beside the other.
        boots.push(Boot {
            kernel: newest.clone(),
            cpus: 1,
            extra: "preempt=full",
            orders: "kernel:decide,memory,takeover".into(),
        });
    }
    boots
}

fn run_one(boot: &Boot, archive: &std::path::Path, show: bool) -> Result<Vec<(String, Suite)>> {
    println!("--> {}", boot.name());
    let suites = machine::run(boot, archive, show)?;
    let suites_of = |layer: &str| {
        let suites = suites.iter().filter(|one| one.0 == layer).map(|one| one.1.clone()).collect();
        Layer { name: layer.to_owned(), suites }
    };
    for layer in ["kernel", "demo"].map(suites_of) {
        if !layer.suites.is_empty() {
            print!("{}", layer.text(false));
        }
    }
    Ok(suites)
}

/// Kernels down, layers across.
fn matrix(rows: &[(String, Vec<(String, Suite)>)]) -> String {
    let layers = ["kernel", "demo"];
    let mut text = format!("{:<36}", "");
    for layer in layers {
        text += &format!(" {layer:>22}");
    }
    for (name, suites) in rows {
        text += &format!("\n{name:<36}");
        for layer in layers {
            let of_layer = || suites.iter().filter(|one| one.0 == layer).map(|one| &one.1);
            let passed: usize = of_layer().map(Suite::passed).sum();
            let failed: usize = of_layer().map(Suite::failed).sum();
            let cell = match (of_layer().count(), failed) {
                (0, _) => "-".to_owned(),
                (_, 0) => format!("{passed} passed"),
                _ => format!("{failed} FAILED, {passed} passed"),
            };
            text += &format!(" {cell:>22}");
        }
    }
    text
}
