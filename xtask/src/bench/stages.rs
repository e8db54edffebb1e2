//! `cargo xtask bench memory` and `cargo xtask bench instructions`: what each stage holds of
//! a large configuration, and how many instructions a change of it takes, without disk and
//! kernel. Neither depends on how much else a machine does. The measurement itself is an
//! example of the core's package.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{machine, page};
use crate::command;
use crate::workspace::{cargo, target, which};

/// The page that the tables are put into.
const PAGE: &str = "docs/scaling.md";

/// What callgrind tells the changes apart by: a function that makes all of one kind.
const COUNTED: &str = "change_cost::changes::counted";

/// The kinds of changes, in the order in which they are made.
const KINDS: [&str; 3] =
    ["the weights of a rule", "an endpoint comes", "a rule comes, to a VirtualService of others"];

/// Options of `cargo xtask bench memory`.
#[derive(clap::Args)]
pub struct Memory {
    /// How many Services there are, of two endpoints each
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// How many rules each of them has
    #[arg(long, default_value_t = 10)]
    rules: usize,
    /// Puts the table into docs/scaling.md
    #[arg(long)]
    write: bool,
}

/// Options of `cargo xtask bench instructions`.
#[derive(clap::Args)]
pub struct Instructions {
    /// How many Services there are in the smaller and in the larger configuration
    #[arg(long, num_args = 2, default_values_t = [100, 10_000])]
    services: Vec<usize>,
    /// How many rules each of them has
    #[arg(long, default_value_t = 10)]
    rules: usize,
    /// Puts the table into docs/scaling.md
    #[arg(long)]
    write: bool,
}

/// What a stage holds.
#[derive(Deserialize)]
struct Held {
    stage: String,
    bytes: usize,
    blocks: usize,
}

/// What was changed.
#[derive(Deserialize)]
struct Changed {
    /// So many of each kind.
    changes: u64,
}

/// The measurement, built.
fn built() -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--profile", "soak", "--package", "redirector-core"]);
    command::run(build.args(["--example", "change_cost"]))?;
    Ok(target().join("soak/examples/change_cost"))
}

/// `cargo xtask bench memory`.
pub fn memory(args: &Memory) -> Result<ExitCode> {
    let mut measure = Command::new(built()?);
    measure.args(["memory", &args.services.to_string(), &args.rules.to_string()]);
    let lines = command::stdout(&mut measure)?;
    let rows: Vec<Held> = lines.lines().map(row).collect::<Result<_>>()?;
    let table = table_of_memory(&rows, args.services * args.rules);
    println!("{table}");
    if args.write {
        let text = format!(
            "{}. {} Services of two endpoints each, {} rules for each of them, in files of 100 \
             objects. What is held is counted as the allocator of glibc takes it.\n\n{table}",
            machine::made_by(),
            args.services,
            args.rules
        );
        page::write(PAGE, "memory", "Memory", &text)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `cargo xtask bench instructions`.
pub fn instructions(args: &Instructions) -> Result<ExitCode> {
    if which("valgrind").is_none() {
        bail!(
            "instructions are counted by valgrind's callgrind: install valgrind (Debian: apt-get \
             install valgrind)"
        );
    }
    let program = built()?;
    let mut columns = Vec::new();
    for services in &args.services {
        columns.push((services * args.rules, counted(&program, *services, args.rules)?));
    }
    let table = table_of_instructions(&columns);
    println!("{table}");
    if args.write {
        let text = format!(
            "{}. Instructions of one change, from its text to the entries of the tables, without \
             disk and kernel; objects as an API server tells of them, one by one, {} rules for \
             each Service.\n\n{table}",
            machine::made_by(),
            args.rules
        );
        page::write(PAGE, "instructions", "Instructions", &text)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The instructions of a change of each kind.
fn counted(program: &Path, services: usize, rules: usize) -> Result<Vec<u64>> {
    let directory = target().join("xtask/callgrind");
    // Of an earlier run, or nothing.
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory)?;
    let out = directory.join("out");
    let mut measure = Command::new("valgrind");
    measure.args(["--quiet", "--tool=callgrind", "--collect-atstart=no"]);
    measure.arg(format!("--toggle-collect={COUNTED}")).arg(format!("--dump-after={COUNTED}"));
    measure.arg(format!("--callgrind-out-file={}", out.display())).arg(program);
    measure.args(["changes", &services.to_string(), &rules.to_string()]);
    let lines = command::stdout(&mut measure)?;
    let Changed { changes } = row(lines.lines().next().unwrap_or_default())?;
    let of_kind = |part: usize| {
        let path = out.with_extension(part.to_string());
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("callgrind has not written {}", path.display()))?;
        let all = total(&text).filter(|all| *all > 0);
        Ok(all.with_context(|| format!("{} counts nothing", path.display()))? / changes)
    };
    (1..=KINDS.len()).map(of_kind).collect()
}

/// All that a part of callgrind's output counts.
fn total(part: &str) -> Option<u64> {
    let line = part.lines().find_map(|line| line.strip_prefix("totals:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn row<'l, Row: Deserialize<'l>>(line: &'l str) -> Result<Row> {
    serde_json::from_str(line).with_context(|| format!("not a row of the measurement: {line}"))
}

fn table_of_memory(rows: &[Held], rules: usize) -> String {
    let mut text = "| stage | MiB | bytes a rule | blocks a rule |\n|---|---|---|---|".to_owned();
    for Held { stage, bytes, blocks } in rows {
        let a_rule = |count: usize| count as f64 / rules.max(1) as f64;
        let mebibytes = *bytes as f64 / f64::from(1 << 20);
        let (bytes, blocks) = (a_rule(*bytes), a_rule(*blocks));
        let _ = write!(text, "\n| {stage} | {mebibytes:.1} | {bytes:.0} | {blocks:.1} |");
    }
    text
}

fn table_of_instructions(columns: &[(usize, Vec<u64>)]) -> String {
    let heads = columns.iter().map(|(rules, _)| format!(" {rules} rules |"));
    let mut text = format!("| change |{} growth |\n|---|", heads.collect::<String>());
    text.push_str(&"---|".repeat(columns.len() + 1));
    for (at, kind) in KINDS.iter().enumerate() {
        let counts: Vec<u64> =
            columns.iter().filter_map(|(_, counts)| counts.get(at).copied()).collect();
        let _ = write!(text, "\n| {kind} |");
        for count in &counts {
            let _ = write!(text, " {:.0} k |", *count as f64 / 1e3);
        }
        let (first, last) = (counts.first().copied(), counts.last().copied());
        let growth = last.unwrap_or_default() as f64 / first.unwrap_or_default().max(1) as f64;
        let _ = write!(text, " {growth:.2} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_shown_for_each_rule() {
        let line = r#"{"stage":"all","bytes":2097152,"blocks":4000}"#;
        let table = table_of_memory(&[row(line).unwrap()], 2000);
        assert!(table.ends_with("\n| all | 2.0 | 1049 | 2.0 |"), "{table}");
    }

    #[test]
    fn a_change_is_shown_by_its_growth() {
        let table = table_of_instructions(&[(10, vec![2000, 1, 1]), (1000, vec![3000, 1, 1])]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "| change | 10 rules | 1000 rules | growth |");
        assert_eq!(lines[2], "| the weights of a rule | 2 k | 3 k | 1.50 |");
        assert_eq!(total("version: 1\nevents: Ir\n\ntotals: 42\n"), Some(42));
    }
}
