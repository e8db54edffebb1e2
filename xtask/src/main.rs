//! `cargo xtask`: everything that is done to this project apart from using it.
//!
//! `setup` installs what is needed, `demo` plays the reference document
//! against the running kernel, `test` runs every layer of tests, `vm` runs
//! demo and kernel tests on other kernels, `image` builds the container image.

mod bench;
mod command;
mod demo;
mod fuzz;
mod image;
mod play;
mod setup;
mod soak;
mod test;
mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, about)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Installs what building, demo and tests need; doing it twice changes nothing
    Setup(setup::Args),
    /// Plays the reference document, section by section, against this kernel
    Demo(demo::Args),
    /// Runs the tests: all layers that take no virtual machine, all, or the named ones
    Test(test::Args),
    /// The layer `lint` of the tests: formatting, clippy, purity of the core, aarch64
    Lint,
    /// Runs demo and kernel tests on Debian's 6.1 and 6.12 kernels, in QEMU
    Vm(vm::Args),
    /// Fuzzes what reads documents and what compiles them
    Fuzz(fuzz::Args),
    /// Keeps the long forms of tests up for a while, and prints their figures
    Soak(soak::Args),
    /// Measures, and writes the tables and plots of docs/performance.md
    Bench(bench::Args),
    /// Builds the container image: a static binary and nothing else
    Image(image::Args),
    /// Runs inside the virtual machine, as its first process
    #[command(hide = true)]
    Guest,
    /// Parts that the demo gives to processes of their own
    #[command(hide = true, subcommand)]
    Play(play::Part),
}

fn main() -> ExitCode {
    if vm::guest::is_init() {
        return vm::guest::main();
    }
    match run(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup(args) => setup::run(&args),
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Lint => test::lint(),
        Task::Vm(args) => vm::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Soak(args) => soak::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Image(args) => image::build(&args),
        Task::Guest => Ok(vm::guest::main()),
        Task::Play(part) => play::run(part),
    }
}
