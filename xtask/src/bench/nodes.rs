//! `cargo xtask bench nodes`: what a cluster costs each of its nodes, and the API
//! server. The measurement itself is an example of the tests' package, which has the
//! API server.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use serde::Deserialize;

use super::{machine, page};

/// Options of `cargo xtask bench nodes`.
#[derive(clap::Args)]
pub struct Args {
    /// How many Services there are; every tenth has a VirtualService
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// How many nodes
    #[arg(long, default_value_t = 5_000)]
    nodes: usize,
    /// How many pods, on all nodes together
    #[arg(long, default_value_t = 100_000)]
    pods: usize,
    /// How many seconds each row takes
    #[arg(long, default_value_t = 60)]
    seconds: usize,
    /// Puts the table into docs/scaling.md
    #[arg(long)]
    write: bool,
}

/// A row.
#[derive(Deserialize)]
struct Row {
    name: String,
    /// How many changes were made.
    changes: u32,
    seconds: f64,
    /// The agent's time on a processor, in seconds.
    cpu: f64,
    /// Its resident memory in the end, in bytes.
    resident: u64,
    /// What the server answered.
    bytes: u64,
    requests: u64,
    /// How many generations came in force.
    generations: f64,
}

/// Measures.
pub fn run(args: &Args) -> Result<ExitCode> {
    let numbers = [args.services, args.nodes, args.pods, args.seconds];
    let rows: Vec<Row> = super::example("nodes_cost", "soak", &numbers)?;
    let table = markdown(&rows);
    println!("{table}");
    if args.write {
        let text = format!("{}\n\n{table}", made_by(args));
        page::write("docs/scaling.md", "nodes", "A node of a large cluster", &text)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn made_by(args: &Args) -> String {
    let Args { services, nodes, pods, seconds, .. } = args;
    format!(
        "{}. The agent of one of {nodes} nodes, which have {pods} pods together, and {services} \
         Services, every tenth with a VirtualService; {seconds} s each row. Processor: the agent's \
         time on one, in percent of the row's time. Bytes and requests: what the API server \
         answered to this agent, before TLS.",
        machine::made_by(),
    )
}

fn markdown(rows: &[Row]) -> String {
    let heads =
        "| | changes a second | processor | resident | bytes a second | requests | in force |";
    let mut text = format!("{heads}\n|---|---|---|---|---|---|---|");
    for row in rows {
        let each = f64::from(row.changes) / row.seconds;
        let _ = write!(
            text,
            "\n| {} | {each:.0} | {:.2} % ({:.2} s) | {} MiB | {:.0} | {} | {:.0} |",
            row.name,
            100.0 * row.cpu / row.seconds,
            row.cpu,
            row.resident.div_ceil(1 << 20),
            row.bytes as f64 / row.seconds,
            row.requests,
            row.generations,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_time_of_a_row() {
        let row = r#"{"name":"n","changes":6000,"seconds":60.0,"cpu":1.5,"resident":1048577,
            "bytes":120000,"requests":3,"generations":5990.0}"#;
        let table = markdown(&[serde_json::from_str(row).unwrap()]);
        assert!(
            table.ends_with("\n| n | 100 | 2.50 % (1.50 s) | 2 MiB | 2000 | 3 | 5990 |"),
            "{table}"
        );
    }
}
