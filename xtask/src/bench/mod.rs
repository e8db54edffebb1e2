//! `cargo xtask bench`: measurements, and the tables and plots made of them.

pub mod config;
pub mod connect;
pub mod gateway;
mod machine;
pub mod nodes;
mod page;
pub mod pods;
mod ratios;
pub mod stages;

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

use crate::command;
use crate::workspace::{cargo, is_root, target};

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
    /// The instructions of a change, in a small configuration and a large one
    Instructions(stages::Instructions),
    /// What each stage holds of a large configuration
    Memory(stages::Memory),
    /// The gateway proxy beside direct connections, HAProxy, nginx and Envoy
    Gateway(gateway::Args),
    /// What a large cluster costs each of its nodes, and the API server
    Nodes(nodes::Args),
    /// How soon a pod's new cgroup is known in the kernel
    Pods(pods::Args),
    /// Parts of a measurement, in processes of their own
    #[command(hide = true, subcommand)]
    Part(gateway::Part),
}

/// The lines of a measurement that is an example of the tests' package, built with
/// the program that it measures, and given these numbers.
fn example<Line: DeserializeOwned>(
    name: &str,
    profile: &str,
    numbers: &[usize],
) -> Result<Vec<Line>> {
    if !is_root() {
        bail!("attaching programs and making cgroups need root");
    }
    command::run(
        cargo().args(["build", "--profile", profile, "--package", "redirector-tests"]).args([
            "--bin",
            "redirector-under-test",
            "--example",
            name,
        ]),
    )?;
    let directory = if profile == "dev" { "debug" } else { profile };
    let mut measure = Command::new(target().join(directory).join("examples").join(name));
    measure.args(numbers.iter().map(usize::to_string));
    let lines = command::stdout(&mut measure)?;
    let line = |line: &str| {
        serde_json::from_str(line).with_context(|| format!("not a row of the measurement: {line}"))
    };
    lines.lines().map(line).collect()
}

/// `cargo xtask bench`.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.what {
        What::Config(args) => config::run(args),
        What::Connect(args) => connect::run(args),
        What::ConnectPart(part) => connect::part(part),
        What::Gateway(args) => gateway::run(args),
        What::Instructions(args) => stages::instructions(args),
        What::Memory(args) => stages::memory(args),
        What::Nodes(args) => nodes::run(args),
        What::Pods(args) => pods::run(args),
        What::Part(part) => gateway::part(part),
    }
}
