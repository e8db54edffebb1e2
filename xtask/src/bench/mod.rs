//! `cargo xtask bench`: measurements, and the tables and plots made of them.

pub mod config;
pub mod connect;
pub mod gateway;
mod machine;
mod page;
pub mod pods;
mod ratios;

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::command;
use crate::workspace::{cargo, target};

/// What to measure.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// A large configuration: until it is in force, one change of it, and memory
    Config(config::Args),
    /// connect() through the programs beside direct connections and nftables
    Connect(connect::Args),
    /// Parts of `connect`, in processes of their own
    #[command(hide = true, subcommand)]
    ConnectPart(connect::Part),
    /// The gateway proxy beside direct connections, HAProxy, nginx and Envoy
    Gateway(gateway::Args),
    /// How soon a pod's new cgroup is known in the kernel
    Pods(pods::Args),
    /// Parts of a measurement, in processes of their own
    #[command(hide = true, subcommand)]
    Part(gateway::Part),
}

/// A measurement that is an example of the tests' package, built with the program
/// that it measures.
fn example(name: &str) -> Result<Command> {
    command::run(
        cargo().args(["build", "--profile", "soak", "--package", "redirector-tests"]).args([
            "--bin",
            "redirector-under-test",
            "--example",
            name,
        ]),
    )?;
    Ok(Command::new(target().join("soak/examples").join(name)))
}

/// `cargo xtask bench`.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.what {
        What::Config(args) => config::run(args),
        What::Connect(args) => connect::run(args),
        What::ConnectPart(part) => connect::part(part),
        What::Gateway(args) => gateway::run(args),
        What::Pods(args) => pods::run(args),
        What::Part(part) => gateway::part(part),
    }
}
