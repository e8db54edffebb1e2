//! `cargo xtask bench config`: what a configuration costs in time and memory. The
//! measurement itself is an example of the tests' package.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use serde::Deserialize;

use super::{machine, page};

/// Options of `cargo xtask bench config`.
#[derive(clap::Args)]
pub struct Args {
    /// How many Services there are, of two endpoints each
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// How many rules each of them has
    #[arg(long, default_value_t = 10)]
    rules: usize,
    /// How often a weight is changed
    #[arg(long, default_value_t = 50)]
    changes: usize,
    /// Puts the table into docs/performance.md
    #[arg(long)]
    write: bool,
}

/// A row: times in microseconds, sizes in bytes.
#[derive(Deserialize)]
struct Row {
    services: usize,
    rules: usize,
    ready: f64,
    p50: Option<f64>,
    p99: Option<f64>,
    memory: u64,
    state: u64,
}

/// Measures.
pub fn run(args: &Args) -> Result<ExitCode> {
    let lines: Vec<Row> =
        super::example("config_cost", &[args.services, args.rules, args.changes])?;
    let table = markdown(&lines);
    println!("{table}");
    if args.write {
        let text = format!(
            "{}. Documents in files, 20 local workloads that half of the rules are about. *Ready* \
             is from the daemon's start, reading everything included. A *change* is one weight in \
             a file of 100 VirtualServices: from its being renamed into place until the kernel's \
             tables have it, with the 5 ms that the file has to be quiet. *Memory* is the daemon's \
             own, without its program and the kernel's tables; *state* what lies in the state \
             directory, after {} changes where there are any.\n\n{table}",
            machine::made_by(),
            args.changes
        );
        page::write("config", "Configuration: time and memory", &text)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn markdown(rows: &[Row]) -> String {
    let mut text = "| Services | rules | ready | a change, p50 | p99 | memory | state |\n\
                    |---|---|---|---|---|---|---|"
        .to_owned();
    for Row { services, rules, ready, p50, p99, memory, state } in rows {
        let time = |time: &Option<f64>| {
            time.map_or_else(String::new, |micros| format!("{:.1} ms", micros / 1e3))
        };
        let [memory, state] = [memory, state].map(|bytes| *bytes as f64 / f64::from(1 << 20));
        let _ = write!(
            text,
            "\n| {services} | {rules} | {:.2} s | {} | {} | {memory:.1} MiB | {state:.1} MiB |",
            ready / 1e6,
            time(p50),
            time(p99),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_without_changes_has_no_times_of_them() {
        let line = r#"{"services":2,"rules":0,"ready":1250000,"p50":null,"p99":null,
            "memory":1048576,"state":524288}"#;
        let table = markdown(&[serde_json::from_str(line).unwrap()]);
        assert!(table.ends_with("\n| 2 | 0 | 1.25 s |  |  | 1.0 MiB | 0.5 MiB |"), "{table}");
    }
}
