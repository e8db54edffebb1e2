//! `cargo xtask`: everything that is done to this project apart from using it.
//!
//! `setup` installs what is needed, `demo` plays the reference document
//! against the running kernel, `test` runs every layer of tests, `vm` runs
//! demo and kernel tests on other kernels, `image` builds the container image and
//! `package` the packages.

mod bench;
mod command;
mod cross;
mod demo;
mod fuzz;
mod image;
mod mutants;
mod package;
mod pictures;
mod play;
mod setup;
mod soak;
mod static_binary;
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
    /// Runs the tests: all that this kernel can run, everything, or the named layers
    Test(test::Args),
    /// The layer `lint` of the tests: formatting, clippy, purity of the core, aarch64
    Lint,
    /// Runs demo and kernel tests on Debian's 6.1 and 6.12 kernels, in QEMU
    Vm(vm::Args),
    /// Fuzzes what reads documents and what compiles them
    Fuzz(fuzz::Args),
    /// Keeps the long forms of tests up for a while, and prints their figures
    Soak(soak::Args),
    /// Changes the code in one place after the other, and says what no test notices
    Mutants(mutants::Args),
    /// Measures, and writes the tables and plots of docs/performance.md and docs/scaling.md
    Bench(bench::Args),
    /// Builds the container image: a static binary and nothing else
    Image(image::Args),
    /// Builds packages: .deb, .rpm, an archive and the image, with checksums and bills of materials
    Package(package::Args),
    /// Prints what the changelog says of a version, for the page of its release
    Notes(package::notes::Args),
    /// Draws the pictures of the README
    Pictures,
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
        Task::Mutants(args) => mutants::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Image(args) => image::build(&args),
        Task::Package(args) => package::run(&args),
        Task::Notes(args) => package::notes::run(&args),
        Task::Pictures => pictures::run(),
        Task::Guest => Ok(vm::guest::main()),
        Task::Play(part) => play::run(part),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    /// What continuous integration and releases call is there.
    #[test]
    fn what_the_release_workflow_calls_is_understood() {
        let workflow = include_str!("../../.github/workflows/release.yml");
        let mut calls = 0;
        for (_, call) in workflow.lines().filter_map(|line| line.split_once("cargo xtask ")) {
            let words = call.split([')', '>']).next().unwrap_or_default().split_whitespace();
            let words: Vec<_> = words.map(|word| word.trim_matches('"')).collect();
            if words == ["--version"] {
                continue;
            }
            if let Err(error) = super::Cli::try_parse_from(["cargo xtask"].into_iter().chain(words))
            {
                panic!("{call}: {error}");
            }
            calls += 1;
        }
        assert!(calls >= 2, "{calls}");
    }
}
