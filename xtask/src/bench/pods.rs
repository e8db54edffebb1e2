//! `cargo xtask bench pods`: how long a pod takes from the mkdir of its cgroup to
//! its entry in the kernel's table. The measurement itself is an example of the
//! tests' package, which has the API server and the pods.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use serde::Deserialize;

use super::{machine, page};

/// Options of `cargo xtask bench pods`.
#[derive(clap::Args)]
pub struct Args {
    /// How many pods come in each row
    #[arg(long, default_value_t = 200)]
    pods: usize,
    /// How many pods of other nodes are known
    #[arg(long, default_value_t = 5_000)]
    others: usize,
    /// How many pods run on this node already
    #[arg(long, default_value_t = 250)]
    running: usize,
    /// How many Services there are, each with a VirtualService; in the last row
    /// a tenth of these changes over and over
    #[arg(long, default_value_t = 1_000)]
    services: usize,
    /// Puts the table into docs/performance.md
    #[arg(long)]
    write: bool,
}

/// A row, times in microseconds.
#[derive(Deserialize)]
struct Row {
    name: String,
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
    note: String,
}

/// What the agent's cgroup uses, in bytes: at the end, and at most.
#[derive(Deserialize)]
struct Memory {
    memory: u64,
    most: u64,
}

/// A line of the measurement.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Row(Row),
    Memory(Memory),
}

/// Measures.
pub fn run(args: &Args) -> Result<ExitCode> {
    let lines: Vec<Line> = super::example(
        "pods_latency",
        "soak",
        &[args.pods, args.others, args.running, args.services],
    )?;
    let table = markdown(&lines);
    println!("{table}");
    if args.write {
        let text = format!("{}\n\n{table}", made_by(args));
        page::write(page::PERFORMANCE, "pods", "Pods: from the cgroup to the kernel", &text)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn made_by(args: &Args) -> String {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{}, {processors} processors, which the agent shares with the API server and the pods of \
         the measurement. {} pods in each row, beside {} that run on the node and {} of other \
         nodes, and {} Services with a VirtualService each, or fewer where the row says so. From \
         before the `mkdir` of the pod's cgroup until its entry is read from the kernel's table.",
        machine::made_by(),
        args.pods,
        args.running,
        args.others,
        args.services
    )
}

fn markdown(lines: &[Line]) -> String {
    let mut text = "| | p50 | p90 | p99 | longest |\n|---|---|---|---|---|".to_owned();
    let mut after = String::new();
    for line in lines {
        match line {
            Line::Row(Row { name, p50, p90, p99, max, note }) => {
                let [p50, p90, p99, max] =
                    [p50, p90, p99, max].map(|time| format!("{:.2} ms", time / 1e3));
                let note = if note.is_empty() { String::new() } else { format!(" ({note})") };
                let _ = write!(text, "\n| {name}{note} | {p50} | {p90} | {p99} | {max} |");
            }
            Line::Memory(Memory { memory, most }) => {
                let [memory, most] = [memory, most].map(|bytes| bytes.div_ceil(1 << 20));
                let _ = write!(
                    after,
                    "\n\nThe agent's cgroup, with the tables of the usual sizes on both sides, has \
                     {memory} MiB at the end, and had {most} MiB at most."
                );
            }
        }
    }
    text + &after
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_milliseconds() {
        let line =
            r#"{"name":"idle","pods":2,"p50":250,"p90":300,"p99":4999,"max":12350,"note":"n"}"#;
        let table = markdown(&[serde_json::from_str(line).unwrap()]);
        assert!(
            table.ends_with("\n| idle (n) | 0.25 ms | 0.30 ms | 5.00 ms | 12.35 ms |"),
            "{table}"
        );
    }

    #[test]
    fn memory_is_told_below_the_table() {
        let table =
            markdown(&[serde_json::from_str(r#"{"memory":1048577,"most":2097152}"#).unwrap()]);
        assert!(table.ends_with("has 2 MiB at the end, and had 2 MiB at most."), "{table}");
    }
}
